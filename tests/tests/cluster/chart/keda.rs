//! KEDA scales a pool from nothing to what the queue asks for, and back to nothing.
//!
//! `scripts/cluster keda` runs KEDA and names in `EVE_TEST_KEDA` the namespace that it watches.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eve_tests::{skill, wait_for, wait_long_for};
use serde_json::json;

use super::{Ground, TIMEOUT, ask, chart, merge};

/// What three workers are asked for by, where each is to have five in front of it: also when the first has
/// already taken some.
const REQUESTS: i64 = 15;
/// How long each runs. The autoscaler looks every few seconds, and is to find most of them still waiting.
const RUN_MS: u64 = 5_000;
/// How long pods may take to come and to work.
const ROLLOUT: Duration = Duration::from_secs(180);
/// Runs at one time in a worker. One organisation has all but the last of them.
const SLOTS: usize = 2;
/// What a worker holds of one organisation when it has just begun, and does not know yet how long runs are.
/// It is no reason for another worker here.
const HELD: usize = 3;

#[tokio::test]
async fn keda_scales_a_pool_from_nothing_and_back() -> Result<()> {
    let test = "scaling by KEDA";
    let namespace = std::env::var("EVE_TEST_KEDA").unwrap_or_default();
    if namespace.is_empty() {
        eprintln!("SKIPPED: {test} needs KEDA, which `just test-keda` builds and runs");
        return Ok(());
    }
    let Some(ground) = Ground::lay_in(&namespace, test).await? else { return Ok(()) };
    let mut values = ground.values();
    merge(
        &mut values,
        json!({
            "controlPlane": { "replicas": 1 },
            // A worker that is to end finishes what it runs.
            "workerDefaults": { "slots": SLOTS, "graceSeconds": 40 },
            "workers": { "deployment": null, "devops-orchestrator": null },
            "autoscaling": {
                "mode": "keda",
                "pendingRequests": 5,
                "busySlots": HELD,
                // Soon, so that some are told to end while there is work.
                "scaleDown": { "stabilizationWindowSeconds": 10, "pods": 1, "periodSeconds": 5 },
                // More than are asked for: it is the queue that says three, not the limit.
                "keda": { "minReplicas": 0, "maxReplicas": 5, "pollingInterval": 1, "cooldownPeriod": 10 },
            },
        }),
    );
    let install = ["install", "eve", &chart(), "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    let eve = ground.client().await?;
    eve.push(&skill("hostile-wasi")?).await?;

    // The Deployment begins with one; nobody needs it.
    pool_is_gone(&ground).await;
    ask(&ground.door().await?, usize::try_from(REQUESTS)?, RUN_MS).await?;
    wait_long_for(ROLLOUT, "three workers", async || {
        let pool = ground.deployment("eve-worker-general").await.ok()?;
        (pool["spec"]["replicas"] == 3).then_some(())
    })
    .await;
    let mut fewer = false;
    wait_long_for(ROLLOUT, "every request to end", async || {
        let pool = ground.deployment("eve-worker-general").await.ok()?;
        let ended = ground.count("SELECT count(*) FROM eve.orchestration_results").await.ok()?;
        fewer |= ended < REQUESTS && pool["spec"]["replicas"].as_u64() < Some(3);
        (ended == REQUESTS).then_some(())
    })
    .await;
    ensure!(fewer, "no worker was taken away while there was work");
    pool_is_gone(&ground).await;

    // Each has been run once, though workers came and went under them.
    let once = ground.count(
        "SELECT count(*) FROM eve.orchestration_results
          WHERE status = 'completed' AND attempt = 1 AND generation = 1",
    );
    assert_eq!(once.await?, REQUESTS);
    let again = sqlx::query_scalar("SELECT kind || ': ' || message FROM eve.attempts");
    let again: Vec<String> = again.fetch_all(&ground.pool).await?;
    assert!(again.is_empty(), "handed back, rescued or failed: {again:?}");
    let workers = ground.count(
        "SELECT count(DISTINCT worker_id) FROM eve.orchestration_results WHERE status = 'completed'",
    );
    assert_eq!(workers.await?, 3);

    who_scaled(&ground).await?;
    ground.uninstall().await
}

/// Waits until the pool has no replicas, and no pod that is still ending.
async fn pool_is_gone(ground: &Ground) {
    wait_for("the pool to be gone", async || {
        let pool = ground.deployment("eve-worker-general").await.ok()?;
        let pods = ground.list("api/v1", "pods").await.ok()?;
        let workers = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "eve-worker");
        (pool["spec"]["replicas"] == 0 && workers.count() == 0).then_some(())
    })
    .await;
}

/// KEDA starts and ends the pool; in between Kubernetes' own autoscaler counts, by what KEDA tells it.
async fn who_scaled(ground: &Ground) -> Result<()> {
    let scalers = ground.list("apis/autoscaling/v2", "horizontalpodautoscalers").await?;
    let [scaler] = &scalers[..] else { anyhow::bail!("not one autoscaler: {scalers:#?}") };
    assert_eq!(scaler["metadata"]["name"], "eve-worker-general-hpa");
    // It goes no further down than this: the last worker is KEDA's to end.
    assert_eq!(scaler["spec"]["minReplicas"], 1, "{scaler:#}");
    assert_eq!(scaler["metadata"]["ownerReferences"][0]["kind"], "ScaledObject", "{scaler:#}");

    let said = async |kind: &str, reason: &str| -> Result<Vec<String>> {
        let events = ground.list("api/v1", "events").await?;
        let events = events
            .iter()
            .filter(|event| event["involvedObject"]["kind"] == kind && event["reason"] == reason);
        Ok(events.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect())
    };
    let activated = said("ScaledObject", "KEDAScaleTargetActivated").await?;
    assert!(activated.iter().any(|message| message.contains("from 0 to 1")), "{activated:?}");

    // The first of KEDA's triggers is the one that counts what is pending.
    let rescaled = said("HorizontalPodAutoscaler", "SuccessfulRescale").await?;
    let grown = |message: &String| {
        message.starts_with("New size: 3; reason: external metric s0-postgresql(")
            && message.ends_with(" above target")
    };
    assert!(rescaled.iter().any(grown), "{rescaled:?}");
    for message in &rescaled {
        let size = message.strip_prefix("New size: ").and_then(|rest| rest.split(';').next());
        let size: u32 = size.context("a size")?.parse()?;
        assert!(size <= 3, "{rescaled:?}");
    }
    Ok(())
}
