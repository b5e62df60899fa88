//! Many deployments at once, on nodes that are simulated.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eve_tests::Platform;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::stage::Stage;

/// How many, unless `EVE_TEST_DEPLOYMENTS` says otherwise: 1000 take minutes on two cores.
const DEPLOYMENTS: usize = 60;
/// Of one environment: its quota has room for 50.
const APPS: usize = 45;
/// What the control plane may have resident at most.
const MEMORY: u64 = 200 << 20;
/// How long nothing may come to be before they are stuck.
const STALLED: Duration = Duration::from_secs(60);

/// All of them come to be, one by one and by watching, in a control plane that stays small.
#[tokio::test]
async fn many_deployments_are_reconciled_in_little_memory() -> Result<()> {
    let Some(mut stage) = Stage::bare("many deployments").await? else { return Ok(()) };
    let many: usize = match std::env::var("EVE_TEST_DEPLOYMENTS") {
        Ok(many) => many.parse()?,
        Err(_) => DEPLOYMENTS,
    };
    let namespace = stage.namespace.clone();
    let apps: Vec<String> = (0..APPS.min(many)).map(|app| format!("app-{app}")).collect();
    stage.apps(&apps.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut wanted = Vec::new();
    let environments = many.div_ceil(APPS);
    for index in 0..environments {
        let (env, place) = (format!("e{index}"), format!("{namespace}-{index}"));
        let quota = r#"{"quota": {"pods": 200, "cpu": 100, "memory_gib": 100}}"#;
        let create = ["env", "create", "--name", &env, "--cluster", "local", "--namespace", &place];
        let made = stage.eve().json(create.iter().chain(&["--config", quota])).await?;
        ensure!(made["status"] == "ready", "{made}");
        // Simulated nodes; said before there are any pods.
        let annotation = json!({ "metadata": { "annotations": {
            "scheduler.alpha.kubernetes.io/node-selector": "topology.kubernetes.io/zone=kwok",
        } } });
        let path = format!("api/v1/namespaces/{place}");
        let kind = "application/merge-patch+json";
        let answer = stage.admin.send(http::Method::PATCH, &path, kind, Some(&annotation)).await?;
        ensure!(answer.is_success(), "{answer}");
        let left = many - index * APPS;
        wanted.extend(apps.iter().take(left).map(|app| (env.clone(), app.clone())));
    }
    let platform = &stage.platform;
    futures::stream::iter(wanted)
        .map(async |(env, app)| {
            let body = json!({ "app": app, "image": "acme/api:v1.2.3" });
            platform.post(&format!("/v1/envs/{env}/deployments"), &body).await
        })
        .buffer_unordered(4)
        .try_collect::<Vec<_>>()
        .await?;
    let begun = Instant::now();
    let running = "SELECT count(*) FROM eve.deployments WHERE status = 'running'";
    steadily(platform, "running", running, i64::try_from(many)?).await?;
    let took = begun.elapsed().as_secs();
    let twice = platform
        .count(
            "SELECT count(*) FROM (SELECT FROM eve.deployment_events WHERE event_type = 'running'
                                    GROUP BY deployment_id HAVING count(*) > 1) twice",
        )
        .await;
    assert_eq!(twice, 0, "something was told twice");
    let server = stage.platform.servers().first_mut().context("a server")?;
    let memory = server.process().peak_memory()?;
    println!("{many} deployments in {environments} environments: {} MiB, {took} s", memory >> 20);
    assert!(memory < MEMORY, "{} MiB", memory >> 20);
    for index in 0..environments {
        stage.run(&format!("eve env delete e{index} --force --no-wait")).await?;
    }
    let gone = "SELECT -count(*) FROM eve.environments";
    steadily(&stage.platform, "gone", gone, 0).await
}

/// Waits until a count has come up to what it should be, as long as it goes on growing.
async fn steadily(platform: &Platform, what: &str, count: &'static str, most: i64) -> Result<()> {
    let (mut last, mut progress) = (i64::MIN, Instant::now());
    while last < most {
        let now = platform.count(count).await;
        if now > last {
            (last, progress) = (now, Instant::now());
        }
        ensure!(progress.elapsed() < STALLED, "{what}: {now} of {most}, and none for a minute");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
