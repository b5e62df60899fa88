//! What a worker says of itself: to whoever would kill it, to whoever counts on it, and to Prometheus.

use anyhow::{Result, ensure};
use eve_host::dev::postgres::PrivatePostgres;
use eve_tests::{Platform, free_address, http_client, wait_for};
use serde_json::json;

use crate::outage::crash;

#[tokio::test]
async fn a_worker_says_that_it_lives_and_whether_it_can_claim() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let mut postgres = PrivatePostgres::start(folder.path()).await?;
    let platform = Platform::on(&postgres.url(), &["hostile-wasi", "noop"]).await?;
    let address = free_address()?;
    let worker = ["worker", "--type", "general", "--slots", "2", "--health-listen", &address];
    let mut worker = platform.eve().start(worker)?;
    let http = http_client()?;
    let ask = async |what: &str| {
        let answer = http.get(format!("http://{address}/{what}")).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    };
    let is = async |what: &str, status: u16, says: &str| {
        wait_for(&format!("{what} to be {status}: {says}"), async || {
            ask(what).await.filter(|(code, text)| *code == status && text.contains(says))
        })
        .await;
    };
    is("readyz", 200, "ready").await;
    is("healthz", 200, "ok").await;
    let registered = "SELECT count(*) FROM eve.workers WHERE NOT draining";
    assert_eq!(platform.count(registered).await, 1, "it says so once others know of it");

    let id = platform.create(json!({ "skill": "noop" })).await?;
    assert_eq!(platform.end_of(id).await.status, "completed");
    is("metrics", 200, "eve_runs_total{worker_type=\"general\",outcome=\"completed\"} 1").await;

    // Without a database nobody can count on it, and nobody has a reason to kill it.
    crash(postgres).await?;
    is("readyz", 503, "no heartbeat has been written for").await;
    is("healthz", 200, "ok").await;
    postgres = PrivatePostgres::start(folder.path()).await?;
    is("readyz", 200, "ready").await;
    wait_for("a connection that works", async || {
        sqlx::query("SELECT 1").execute(platform.pool()).await.ok()
    })
    .await;

    let sleeping = json!({ "skill": "hostile-wasi", "context": { "do": "sleep", "ms": 3_000 } });
    let id = platform.create(sleeping).await?;
    platform.claimed(id).await;
    worker.terminate();
    is("readyz", 503, "draining").await;
    is("healthz", 200, "ok").await;
    let status = worker.wait().await;
    ensure!(status.success(), "{status}: {}", worker.log());
    ensure!(ask("healthz").await.is_none(), "somebody answers for a worker that has ended");
    let end = platform.end_of(id).await;
    assert_eq!((end.status.as_str(), end.attempt), ("completed", 1));
    drop(platform);
    postgres.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_is_said() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let platform = Platform::start(&[]).await?;
    let worker = ["worker", "--type", "general", "--health-listen", &address];
    let output = platform.eve().run(worker).await?;
    ensure!(!output.status.success(), "{output}");
    let said = format!("listening on {address}, as EVE_HEALTH_LISTEN says");
    ensure!(output.stderr.contains(&said), "{output}");
    Ok(())
}
