//! Postgres goes away in the middle of work and comes back.

use anyhow::{Context, Result};
use eve_host::dev::postgres::PrivatePostgres;
use eve_tests::{Platform, Process, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::invariants;

/// `pg_ctl stop -m immediate`: no session is told, nothing is written.
pub async fn crash(postgres: PrivatePostgres) -> Result<()> {
    let pid =
        i32::try_from(postgres.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, Signal::QUIT)?;
    postgres.ended().await;
    Ok(())
}

#[tokio::test]
async fn everything_recovers_from_an_outage_of_postgres() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let mut postgres = PrivatePostgres::start(folder.path()).await?;
    let platform = Platform::on(&postgres.url(), &["hostile", "noop"]).await?;
    let mut workers: Vec<Process> = Vec::new();
    for _ in 0..2 {
        workers.push(platform.worker(4)?);
    }
    let mut requests = Vec::new();
    for index in 0..600 {
        let orders = match index % 3 {
            0 => json!({ "spin_ms": 10 }),
            // Asks the database while it runs, and may not be tried a second time.
            1 => json!({ "do": "create", "create": 1, "skill": "noop", "spin_ms": 10 }),
            _ => json!({ "spin_ms": 2 }),
        };
        let mut request = json!({ "skill": "hostile", "context": orders, "max_attempts": 1 });
        if index % 3 == 2 {
            request["blocked_by"] = json!([format!("#{}", index - 1)]);
        }
        requests.push(request);
    }
    platform.create_all(requests).await?;

    for ended in [50i64, 300] {
        wait_for(&format!("{ended} requests that have ended"), async || {
            let count = platform.count("SELECT count(*) FROM eve.orchestration_results").await;
            (count >= ended).then_some(())
        })
        .await;
        crash(postgres).await?;
        // Everybody has noticed before it comes back.
        for worker in &workers {
            let complaints = worker.log().matches("Postgres failed").count();
            wait_for("a worker that misses Postgres", async || {
                (worker.log().matches("Postgres failed").count() > complaints + 1).then_some(())
            })
            .await;
        }
        postgres = PrivatePostgres::start(folder.path()).await?;
        wait_for("a connection that works", async || {
            sqlx::query("SELECT 1").execute(platform.pool()).await.ok()
        })
        .await;
    }
    platform.until("an empty queue", "SELECT NOT EXISTS (SELECT FROM eve.queue)").await;

    let completed =
        "SELECT count(*) FROM eve.orchestration_results WHERE status = 'completed' AND attempt = 1";
    assert_eq!(platform.count("SELECT count(*) FROM eve.requests").await, 800);
    let failed: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT error_code, error_message FROM eve.orchestration_results WHERE status <> 'completed'",
    )
    .fetch_all(platform.pool())
    .await?;
    assert_eq!(platform.count(completed).await, 800, "{failed:?}");
    let lost = "SELECT count(*) FROM eve.attempts";
    assert_eq!(platform.count(lost).await, 0, "nobody was given up for dead, no attempt was lost");
    for worker in &mut workers {
        assert_eq!(worker.ended()?, None, "{}", worker.log());
    }
    invariants::hold(&platform).await;

    // The control plane serves again at the first call.
    let id = platform.create(json!({ "skill": "noop" })).await?;
    assert_eq!(platform.end_of(id).await.status, "completed");
    drop((workers, platform));
    postgres.stop().await?;
    Ok(())
}
