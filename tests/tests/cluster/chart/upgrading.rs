//! An upgrade under load: clients ask all the time, workers are busy all the time, and nobody notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eve_tests::{http_client, skill, wait_for};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Ground, TIMEOUT, chart};

/// Each has one request under way at all times.
const CLIENTS: usize = 6;
/// How long a run takes, in milliseconds: a good part of what an upgrade does.
const RUN: u64 = 4_000;

/// A client that asks for the next thing when the last one is done. Returns what was accepted.
async fn client(url: &str, token: &str, pool: &PgPool, over: &AtomicBool) -> Result<Vec<Uuid>> {
    let http = http_client()?;
    let mut accepted = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let body = json!({
            "worker_type": "general",
            "skill": "hostile-wasi",
            "context": { "do": "sleep", "ms": RUN },
        });
        let place = format!("{url}/v1/requests");
        let answer = http.post(place).bearer_auth(token).json(&body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        let request: Value = serde_json::from_str(&text)?;
        let id: Uuid = request["id"].as_str().context("no id")?.parse()?;
        accepted.push(id);
        wait_for("a request to end", async || {
            let query = "SELECT status FROM eve.orchestration_results WHERE request_id = $1";
            sqlx::query_scalar::<_, String>(query).bind(id).fetch_optional(pool).await.ok()?
        })
        .await;
        // Reading is asking too.
        let place = format!("{url}/v1/requests/{id}");
        let answer = http.get(place).bearer_auth(token).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
    }
    Ok(accepted)
}

#[tokio::test]
async fn an_upgrade_under_load_loses_nothing_and_doubles_nothing() -> Result<()> {
    let Some(ground) = Ground::lay("upgrading under load").await? else { return Ok(()) };
    let mut values = ground.values();
    values["workers"] =
        json!({ "general": { "replicas": 2 }, "deployment": null, "devops-orchestrator": null });
    let chart = chart();
    let wait = ["--wait", "--timeout", TIMEOUT];
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    let eve = ground.client().await?;
    eve.push(&skill("hostile-wasi")?).await?;
    let (url, token) = ground.door().await?;

    let over = AtomicBool::new(false);
    let pool = &ground.pool;
    let clients = (0..CLIENTS).map(|_| client(&url, &token, pool, &over));
    let clients = futures::future::try_join_all(clients);
    // Every pod of control planes and workers is made anew.
    values["workerDefaults"]["slots"] = json!(5);
    values["controlPlane"]["retention"] = json!("31d");
    let upgrade = async {
        let busy = "SELECT count(*) = 6 FROM eve.queue WHERE status = 'processing'";
        wait_for("workers to be busy", async || {
            sqlx::query_scalar::<_, bool>(busy).fetch_one(pool).await.ok()?.then_some(())
        })
        .await;
        let before = workers(pool).await?;
        ground.helm(&[&["upgrade", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
        // Those of before end after the new ones are there, busy to the last.
        wait_for("the workers of before to leave", async || {
            let now = workers(pool).await.ok()?;
            (!now.is_empty() && now.iter().all(|id| !before.contains(id))).then_some(())
        })
        .await;
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(before)
    };
    let caught = caught_draining(&ground, &over);
    let (accepted, before, caught) = futures::try_join!(clients, upgrade, caught)?;
    let accepted = accepted.concat();
    ensure!(accepted.len() >= 2 * CLIENTS, "{} requests are no load", accepted.len());
    ensure!(caught, "no worker had anything to run while it drained");

    let good: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM eve.orchestration_results
          WHERE request_id = ANY ($1) AND status = 'completed' AND attempt = 1",
    )
    .bind(&accepted)
    .fetch_one(pool)
    .await?;
    assert_eq!(usize::try_from(good)?, accepted.len(), "each completed, the first time");
    // What a client was told has not been made twice, and what it was not told not at all.
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM eve.requests").fetch_one(pool).await?;
    assert_eq!(usize::try_from(made)?, accepted.len());
    let lost: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT kind, message FROM eve.attempts").fetch_all(pool).await?;
    assert_eq!(lost, [], "nothing was rescued, cut short or tried again");
    let ran: Vec<Uuid> =
        sqlx::query_scalar("SELECT DISTINCT worker_id FROM eve.orchestration_results")
            .fetch_all(pool)
            .await?;
    for (which, some) in [
        ("before", ran.iter().any(|id| before.contains(id))),
        ("after", ran.iter().any(|id| !before.contains(id))),
    ] {
        ensure!(some, "nothing ran in workers of {which} the upgrade");
    }
    for pod in ground.list("api/v1", "pods").await? {
        let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        ensure!(containers.iter().all(|it| it["restartCount"] == 0), "{pod:#}");
    }
    ground.uninstall().await
}

async fn workers(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM eve.workers").fetch_all(pool).await
}

/// Whether a worker was seen that had been told to end and still had runs.
async fn caught_draining(ground: &Ground, over: &AtomicBool) -> Result<bool> {
    while !over.load(Ordering::Relaxed) {
        if !ground.working_while_they_end().await?.is_empty() {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}
