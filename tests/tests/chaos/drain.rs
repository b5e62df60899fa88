//! SIGTERM: what runs may finish, the rest goes back.

use anyhow::Result;
use eve_tests::{Platform, wait_for};
use serde_json::json;

#[tokio::test]
async fn what_runs_finishes_and_the_rest_goes_back() -> Result<()> {
    let platform = Platform::start(&["hostile-wasi", "noop"]).await?;
    let sleeping = json!({ "skill": "hostile-wasi", "context": { "do": "sleep", "ms": 2_000 }, "priority": -1 });
    let mut requests = vec![sleeping];
    requests.extend((0..20).map(|_| json!({ "skill": "noop", "max_attempts": 1 })));
    let ids = platform.create_all(requests).await?;
    let mut worker = platform.worker(1)?;
    platform.claimed(ids[0]).await;
    worker.terminate();
    let status = worker.wait().await;
    assert!(status.success(), "{status}: {}", worker.log());

    // Whether the signal came before the run began or after, nothing of it is lost.
    match platform.ended(ids[0]).await {
        Some(end) => assert_eq!((end.status.as_str(), end.attempt), ("completed", 1)),
        None => assert_eq!(platform.live(ids[0]).await, Some(("pending".into(), 0, 0))),
    }
    let held =
        "SELECT count(*) FROM eve.queue WHERE status <> 'pending' OR attempt > 0 OR drains > 0";
    assert_eq!(platform.count(held).await, 0, "the rest is as if it had never been claimed");
    assert_eq!(platform.count("SELECT count(*) FROM eve.workers").await, 0, "it has signed off");

    let _next = platform.worker(1)?;
    for id in ids {
        let end = platform.end_of(id).await;
        assert_eq!((end.status.as_str(), end.attempt), ("completed", 1));
    }
    assert_eq!(platform.count("SELECT count(*) FROM eve.attempts").await, 0);
    Ok(())
}

#[tokio::test]
async fn the_third_drain_counts() -> Result<()> {
    let platform = Platform::start(&["hostile-wasi", "noop"]).await?;
    // Two attempts: it ends with the sixth time that it is cut short.
    let id = platform
        .create(json!({ "skill": "hostile-wasi", "context": { "do": "sleep" }, "max_attempts": 2 }))
        .await?;
    let dependent = platform
        .create(json!({ "skill": "noop", "blocked_by": [{ "id": id, "on_failure": "run" }] }))
        .await?;
    for expected in [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let expected = ("pending".to_owned(), expected.0, expected.1);
        cut_short(&platform, id).await?;
        assert_eq!(platform.live(id).await, Some(expected));
    }
    cut_short(&platform, id).await?;
    let end = platform.end_of(id).await;
    assert_eq!((end.code(), end.attempt), ("worker_lost", 2));
    let drained = "SELECT count(*) FROM eve.attempts WHERE kind = 'drained'";
    assert_eq!(platform.count(drained).await, 1);

    let _worker = platform.worker(1)?;
    assert_eq!(platform.end_of(dependent).await.status, "completed");
    Ok(())
}

/// Starts a worker, has it run the request, and stops it without giving it time.
async fn cut_short(platform: &Platform, id: uuid::Uuid) -> Result<()> {
    let before = platform.live(id).await;
    // A worker that is stopped before the run begins gives it back unharmed: then once more.
    wait_for("a drain that counts", async || {
        let mut worker = platform.worker_with_grace(1, 0).ok()?;
        platform.claimed(id).await;
        worker.terminate();
        assert!(worker.wait().await.success(), "{}", worker.log());
        (platform.live(id).await != before).then_some(())
    })
    .await;
    Ok(())
}
