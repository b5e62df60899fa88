//! Apps that follow their load: the cluster's own autoscaler, with what pods really use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eve_tests::http_client;
use serde_json::Value;

use crate::stage::Stage;

/// Clients that ask one after the other: for pods of five thousandths of a core a load by far.
const CLIENTS: usize = 4;

/// Asks an app until it is told to stop.
async fn busy(address: String, over: Arc<AtomicBool>) -> Result<()> {
    let http = http_client()?;
    while !over.load(Ordering::Relaxed) {
        // Whatever is answered: pods come and go.
        let asked = http.get(&address).timeout(Duration::from_secs(2)).send().await;
        if asked.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn has(found: &Value, replicas: i64) -> bool {
    found["status"] == "running"
        && found["replicas"]["desired"] == replicas
        && found["replicas"]["ready"] == replicas
}

/// Up with the load and down without it; a new version begins with as many as the load wants, and what the
/// autoscaler does is no drift.
#[tokio::test]
async fn an_app_follows_its_load_and_nobody_fights_over_it() -> Result<()> {
    let Some(stage) = Stage::set("an app that follows its load").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    let deploy = "eve deploy create --app api --env dev --cpu 5m --autoscale 1..3 --wait";
    stage.run(&format!("{deploy} --image acme/api:v1.2.2")).await?;
    ensure!(has(&stage.status("api").await?, 1), "it begins with one");

    let service = stage.object("api/v1", "services/api").await?;
    let address = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(busy(format!("http://{address}/"), over.clone())))
        .collect();
    stage.until("api", "three", |found| has(found, 3)).await?;

    // Another version, meanwhile: three of it.
    stage.run(&format!("{deploy} --image acme/api:v1.2.3")).await?;
    let found = stage.status("api").await?;
    ensure!(has(&found, 3) && found["revision"] == 2, "{found:#}");
    let refused = stage.bash("eve deploy scale --app api --env dev --replicas 1").await?;
    ensure!(!refused.status.success() && refused.stderr.contains("as its load wants"), "{refused}");

    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    stage.until("api", "one again", |found| has(found, 1)).await?;

    let events = stage.platform.get("/v1/envs/dev/deployments/api/events?limit=200").await?;
    let events = events["items"].as_array().context("events")?;
    let drifted: Vec<_> = events.iter().filter(|it| it["event_type"] == "drifted").collect();
    ensure!(drifted.is_empty(), "{drifted:#?}");
    let failed = events.iter().filter(|it| it["event_type"] == "failed").count();
    assert_eq!(failed, 0, "{events:#?}");
    stage.strike().await
}
