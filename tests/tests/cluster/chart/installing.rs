//! Installed, upgraded, rolled back and taken away; and what is rendered is admitted.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eve_tests::{Eve, skill, wait_for};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use super::{
    BRIDGE, Ground, PLATFORM, TIMEOUT, chart, examples, helm_of_environment, kubectl, merge,
    rendered,
};
use crate::api::{Caller, Cluster, path};
use crate::wall;

#[tokio::test]
async fn the_chart_brings_what_eve_cluster_manifest_prints() -> Result<()> {
    let Some(helm) = helm_of_environment("the chart's walls") else { return Ok(()) };
    let values = format!("{}/ci/external-values.yaml", chart());
    let text = rendered(&helm, "eve-horizon", &values).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let same = |one: &Value, other: &Value| {
        path(one, "", true) == path(other, "", true)
            && one["metadata"]["namespace"] == other["metadata"]["namespace"]
    };
    let printed = Eve::without_database()?.run(["cluster", "manifest", "--in-cluster"]).await?;
    ensure!(printed.status.success(), "{printed}");
    let printed: Vec<Value> = serde_saphyr::from_multiple(&printed.stdout)?;
    for wanted in printed {
        if wanted["kind"] == "Namespace" && wanted["metadata"]["name"] == "eve-horizon" {
            continue;
        }
        let mut found = objects
            .iter()
            .find(|object| same(object, &wanted))
            .cloned()
            .with_context(|| format!("the chart lacks {}", path(&wanted, "", true)))?;
        // What the chart adds: whose it is, and that it stays.
        let labels = wanted["metadata"]["labels"].clone();
        found["metadata"]["labels"] = labels.clone();
        if let Some(metadata) = found["metadata"].as_object_mut() {
            metadata.remove("annotations");
            if labels.is_null() {
                metadata.remove("labels");
            }
        }
        assert_eq!(found, wanted);
    }
    Ok(())
}

#[tokio::test]
async fn every_object_is_admitted() -> Result<()> {
    let Some(cluster) = Cluster::of_environment("admitting the chart").await? else {
        return Ok(());
    };
    let Some(helm) = helm_of_environment("admitting the chart") else { return Ok(()) };
    let admin = cluster.admin()?;
    let id = Uuid::new_v4().simple().to_string();
    let namespace = format!("chart-{}", &id[..12]);
    wall::stand(&admin, &namespace).await?;
    define_missing_kinds(&admin).await?;
    // Templates of pods are not refused, but warned about.
    let made = admin
        .create(
            "api/v1/namespaces",
            &json!({ "metadata": {
                "name": namespace, "labels": { "pod-security.kubernetes.io/warn": "restricted" },
            }}),
        )
        .await?;
    ensure!(made.is_success(), "{made}");
    let mut outcome = Ok(());
    for (name, values) in examples()? {
        let text = rendered(&helm, &namespace, &values).await?;
        if let Err(error) = dry_run(&text).await {
            outcome = Err(error.context(name));
            break;
        }
    }
    admin.delete(&format!("api/v1/namespaces/{namespace}")).await?;
    outcome
}

/// Applies objects without anything coming of it, and takes warnings for errors.
async fn dry_run(text: &str) -> Result<()> {
    let mut command = tokio::process::Command::from(kubectl());
    command.args(["apply", "--server-side", "--dry-run=server", "--force-conflicts"]);
    command.args(["--field-manager=eve-tests-chart", "--validate=strict", "--filename=-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}");
    Ok(())
}

/// The operators' kinds that the chart makes objects of, where the cluster does not have them.
async fn define_missing_kinds(admin: &Caller) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/chart");
    let output = tokio::process::Command::new(script).arg("definitions").output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in String::from_utf8(output.stdout)?.lines() {
        let definitions: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(file)?)?;
        for definition in definitions.into_iter().filter(|object| object.is_object()) {
            let place = path(&definition, "", true);
            if admin.get(&place).await?.status == 404 {
                let made = admin.apply(&place, &definition).await?;
                ensure!(made.is_success(), "{made}");
            }
            wait_for(&format!("{place} to be served"), async || {
                let found = admin.get(&place).await.ok()?.json().ok()?;
                let conditions = found["status"]["conditions"].as_array()?.clone();
                conditions
                    .iter()
                    .any(|c| c["type"] == "Established" && c["status"] == "True")
                    .then_some(())
            })
            .await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn skills_run_in_pods_of_the_chart() -> Result<()> {
    let Some(ground) = Ground::lay("installing the chart").await? else { return Ok(()) };
    let chart = chart();
    let values = ground.values();
    let wait = ["--wait", "--timeout", TIMEOUT];
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    let secret = ground.secret().await?;

    // Everybody runs as who they should, and the database knows them apart.
    let pods = ground.list("api/v1", "pods").await?;
    ensure!(
        pods.len() == 6,
        "two control planes, two workers, and one of each other type: {pods:#?}"
    );
    for pod in &pods {
        let worker = pod["metadata"]["labels"]["app"] == "eve-worker";
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let tokens = volumes.filter(|volume| volume["projected"].is_object()).count();
        ensure!(tokens == usize::from(!worker), "{pod:#}");
    }
    let logins: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE usename LIKE 'eve%' ORDER BY 1",
    )
    .fetch_all(&ground.pool)
    .await?;
    assert_eq!(logins, ["eve_cp", "eve_pool"]);

    let eve = ground.client().await?;
    eve.push(&skill("echo")?).await?;
    let create = "eve request create --worker-type general --skill echo --prompt hello";
    let request = eve.bash(&format!("{create} --wait")).await?.json()?;
    let pod = ground.pod_of(&request).await?;
    ensure!(pod.starts_with("eve-worker-general-"), "it ran in {pod}");
    let request = eve
        .bash("eve request create --worker-type deployment --skill echo --prompt hello --wait")
        .await?
        .json()?;
    let pod = ground.pod_of(&request).await?;
    ensure!(pod.starts_with("eve-worker-deployment-"), "it ran in {pod}");

    // An upgrade makes every pod anew, and nobody who asks in the meantime notices.
    let mut other = values.clone();
    other["workers"] = json!({ "general": { "replicas": 1 } });
    other["workerDefaults"]["slots"] = json!(5);
    other["controlPlane"]["retention"] = json!("31d");
    let arguments = [&["upgrade", "eve", &chart], &wait[..]].concat();
    let upgraded = ground.helm(&arguments, Some(&other));
    let mut asked: Vec<Value> = Vec::new();
    {
        tokio::pin!(upgraded);
        loop {
            tokio::select! {
                done = &mut upgraded => { done?; break }
                request = eve.bash(create) => asked.push(request?.json()?),
            }
        }
    }
    ensure!(!asked.is_empty(), "nothing was asked during the upgrade");
    for request in &asked {
        assert_eq!(ground.status_of(request).await?, "completed", "{request}");
    }
    assert_eq!(ground.secret().await?, secret, "keys and passwords stay");
    let general = ground.deployment("eve-worker-general").await?;
    assert_eq!(general["spec"]["replicas"], 1);
    assert_eq!(general["status"]["updatedReplicas"], 1, "{general:#}");

    ground.helm(&[&["rollback", "eve", "1"], &wait[..]].concat(), None).await?;
    let general = ground.deployment("eve-worker-general").await?;
    assert_eq!(general["spec"]["replicas"], 2);
    // Exit code 0 says that it has completed.
    eve.bash(&format!("{create} --wait")).await?.json()?;

    // Whoever comes back finds their keys: what was signed and sealed with them still holds.
    ground.uninstall().await?;
    assert_eq!(ground.secret().await?, secret);
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    assert_eq!(ground.secret().await?, secret);
    let eve = ground.client().await?;
    // Exit code 0 says that it has completed.
    eve.bash(&format!("{create} --wait")).await?.json()?;
    ground.uninstall().await
}

#[tokio::test]
async fn everything_can_be_switched_on() -> Result<()> {
    let Some(ground) = Ground::lay("installing all of the chart").await? else { return Ok(()) };
    define_missing_kinds(&ground.admin).await?;
    let text = std::fs::read_to_string(format!("{}/ci/all-on-values.yaml", chart()))?;
    let mut values: Value = serde_saphyr::from_str(&text)?;
    merge(&mut values, ground.values());
    values["controlPlane"]["replicas"] = json!(1);
    // It is no worker type of a new installation.
    values["workers"]["reports"] = Value::Null;
    values["skillsDatabase"]["url"] =
        json!(format!("postgres://postgres@{BRIDGE}:{}/postgres", ground.port));
    let chart = chart();
    let wait = ["--wait", "--timeout", TIMEOUT];
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    for (api, kind, count) in [
        ("apis/keda.sh/v1alpha1", "scaledobjects", 3),
        ("apis/keda.sh/v1alpha1", "triggerauthentications", 1),
        ("apis/monitoring.coreos.com/v1", "servicemonitors", 1),
        ("apis/monitoring.coreos.com/v1", "podmonitors", 1),
        ("apis/monitoring.coreos.com/v1", "prometheusrules", 1),
        ("apis/gateway.networking.k8s.io/v1", "httproutes", 1),
        ("apis/networking.k8s.io/v1", "ingresses", 1),
        ("apis/networking.k8s.io/v1", "networkpolicies", 2),
    ] {
        let found = ground.list(api, kind).await?;
        ensure!(found.len() == count, "{kind}: {found:#?}");
    }
    let eve = ground.client().await?;
    eve.push(&skill("echo")?).await?;
    let create = "eve request create --worker-type general --skill echo --prompt hello --wait";
    let request = eve.bash(create).await?.json()?;
    ground.pod_of(&request).await?;

    // What KEDA is given can count, and do nothing else.
    let secret = ground.secret().await?;
    let url = secret["metrics-database-url"].as_str().context("a URL for KEDA")?;
    let url = String::from_utf8(base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        url,
    )?)?;
    let scaler = ground.list("apis/keda.sh/v1alpha1", "scaledobjects").await?;
    let keda = PgPool::connect(&url).await?;
    for trigger in scaler.iter().flat_map(|scaler| scaler["spec"]["triggers"].as_array()).flatten()
    {
        let query = trigger["metadata"]["query"].as_str().context("a query")?.to_owned();
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&keda).await?;
        assert_eq!(count, 0);
    }
    let refused =
        sqlx::query("SELECT prompt FROM eve.orchestration_requests").fetch_optional(&keda).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("permission denied")));
    keda.close().await;

    // Whoever scales has the last word: an upgrade leaves the number of replicas alone.
    let place =
        format!("apis/apps/v1/namespaces/{}/deployments/eve-worker-general", ground.namespace);
    let scaled = ground
        .admin
        .send(
            http::Method::PATCH,
            &place,
            "application/merge-patch+json",
            Some(&json!({ "spec": { "replicas": 2 } })),
        )
        .await?;
    ensure!(scaled.is_success(), "{scaled}");
    values["controlPlane"]["retention"] = json!("31d");
    ground.helm(&[&["upgrade", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    assert_eq!(ground.deployment("eve-worker-general").await?["spec"]["replicas"], 2);
    ground.helm(&[&["rollback", "eve"], &wait[..]].concat(), None).await?;
    ground.uninstall().await
}

#[tokio::test]
async fn apps_are_deployed_in_the_cluster_that_the_chart_is_in() -> Result<()> {
    let test = "deploying from a pod";
    let Some(ground) = Ground::lay_in(PLATFORM, test).await? else { return Ok(()) };
    let values = ground.values_of_one_pool();
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    let eve = ground.client().await?;
    let added = eve.json(["cluster", "add", "--id", "local", "--provider", "local"]).await?;
    assert_eq!(added["status"], "ready", "{added}");
    assert_eq!(added["message"], Value::Null, "{added}");
    let id = Uuid::new_v4().simple().to_string();
    let namespace = format!("test-{}", &id[..12]);
    let environment =
        ["env", "create", "--name", "dev", "--cluster", "local", "--namespace", &namespace];
    let made = eve.json(environment).await?;
    assert_eq!(made["status"], "ready", "{made}");
    let deployed = eve
        .bash_for(
            Duration::from_secs(180),
            "eve app create --name api-service
             eve deploy create --app api-service --env dev --image acme/api:v1.2.3 --cpu 5m --wait
             eve deploy delete --app api-service --env dev
             eve env delete dev --force",
        )
        .await?;
    if !deployed.status.success() {
        kubectl().args(["delete", "namespace", &namespace, "--wait=false"]).output()?;
        bail!("{deployed}");
    }
    ground.uninstall().await?;
    Ok(ground.cleared()?)
}
