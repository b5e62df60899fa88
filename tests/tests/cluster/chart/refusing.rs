//! What goes wrong for whoever installs it: what they are told, and that it mends itself where it can.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eve_tests::wait_long_for;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::{BRIDGE, Ground, OWNER, TIMEOUT, chart, kubectl, relay, socket};

/// How long what is installed may take to do something: as long as helm would wait.
const PATIENCE: Duration = Duration::from_secs(300);

/// What helm says to values that it must refuse.
async fn refused(ground: &Ground, release: &str, values: &Value) -> Result<String> {
    let error = match ground.helm(&["install", release, &chart()], Some(values)).await {
        Ok(_) => anyhow::bail!("it was installed"),
        Err(error) => error.to_string(),
    };
    let left = ground.list("apis/apps/v1", "deployments").await?;
    let theirs = |it: &Value| it["metadata"]["annotations"]["meta.helm.sh/release-name"] == release;
    ensure!(!left.iter().any(theirs), "something of it was installed: {error}");
    Ok(error)
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_changed() -> Result<()> {
    let Some(ground) = Ground::lay("refusing values").await? else { return Ok(()) };

    let mut values = ground.values();
    values["workers"] = json!({ "general": { "replica": 2 } });
    let said = refused(&ground, "eve", &values).await?;
    ensure!(said.contains("additional properties 'replica' not allowed"), "{said}");

    let mut values = ground.values();
    values["database"] = json!({ "external": true });
    values["secrets"] = json!({ "existingSecret": "mine" });
    let said = refused(&ground, "eve", &values).await?;
    let missing = format!("there is no Secret mine in the namespace {}", ground.namespace);
    ensure!(said.contains(&missing), "{said}");

    let secret = json!({ "metadata": { "name": "mine" }, "stringData": { "database-url": "x" } });
    let place = format!("api/v1/namespaces/{}/secrets", ground.namespace);
    let made = ground.admin.create(&place, &secret).await?;
    ensure!(made.is_success(), "{made}");
    let said = refused(&ground, "eve", &values).await?;
    let keys = "lacks control-plane-database-url, signing-key, verify-keys, owner-database-url";
    ensure!(said.contains(keys), "{said}");

    let mut values = ground.values();
    values["controlPlane"]["replicas"] = json!(0);
    values["workers"] = json!({ "general": null, "deployment": null, "devops-orchestrator": null });
    ground.helm(&["install", "eve", &chart()], Some(&values)).await?;
    let said = refused(&ground, "other", &values).await?;
    let already = format!("in the namespace {} already, as the release eve", ground.namespace);
    ensure!(said.contains(&already), "{said}");
    ground.uninstall().await
}

#[tokio::test]
async fn a_database_that_comes_late_is_waited_for_and_nothing_is_started_again() -> Result<()> {
    let Some(ground) = Ground::lay("installing before the database").await? else { return Ok(()) };
    // Bound, so that nobody else has it, and not listening yet.
    let late = TcpSocket::new_v4()?;
    late.bind((BRIDGE.parse::<std::net::IpAddr>()?, 0).into())?;
    let port = late.local_addr()?.port();
    let mut values = ground.values();
    values["database"]["url"] = json!(format!("postgres://{OWNER}:owner%27s@{BRIDGE}:{port}/eve"));
    values["workers"] = json!({ "deployment": null, "devops-orchestrator": null });
    ground.helm(&["install", "eve", &chart()], Some(&values)).await?;
    let said = format!("the database at {BRIDGE}:{port}/eve cannot be reached");
    for (selector, container) in
        [("app=eve-control-plane", "migrate"), ("app=eve-worker", "worker")]
    {
        wait_long_for(PATIENCE, &format!("{container} to say what it waits for"), async || {
            logs(&ground, selector, container).await.ok()?.contains(&said).then_some(())
        })
        .await;
    }
    for pod in ground.list("api/v1", "pods").await? {
        ensure!(!ready(&pod), "{pod:#}");
    }

    let socket = socket(ground.postgres.socket_dir())?;
    tokio::spawn(relay(late.listen(64)?, socket));
    for name in ["eve-control-plane", "eve-worker-general"] {
        wait_long_for(PATIENCE, &format!("{name} to be there"), async || {
            let found = ground.deployment(name).await.ok()?;
            (found["status"]["readyReplicas"] == found["spec"]["replicas"]).then_some(())
        })
        .await;
    }
    for pod in ground.list("api/v1", "pods").await? {
        let status = |of: &str| pod["status"][of].as_array().cloned().unwrap_or_default();
        for container in status("containerStatuses").iter().chain(&status("initContainerStatuses"))
        {
            assert_eq!(container["restartCount"], 0, "{pod:#}");
        }
    }
    // Two workers, which do not say it all the time.
    let worker = logs(&ground, "app=eve-worker", "worker").await?;
    ensure!((2..=4).contains(&worker.matches(&said).count()), "{worker}");
    ground.helm(&["uninstall", "eve", "--wait", "--timeout", TIMEOUT], None).await?;
    Ok(())
}

async fn logs(ground: &Ground, selector: &str, container: &str) -> Result<String> {
    let mut command = tokio::process::Command::from(kubectl());
    command.args(["--namespace", &ground.namespace, "logs", "--tail=-1", "--selector", selector]);
    let output = command.args(["--container", container]).output().await?;
    String::from_utf8(output.stdout).context("a log")
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
}
