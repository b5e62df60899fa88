//! Very large graphs: their size alone breaks nothing. The full sizes run in `eve-chaos --scale`.

use std::ops::Range;

use anyhow::Result;
use eve_tests::Platform;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::invariants;

const EMPTY: &str = "SELECT NOT EXISTS (SELECT FROM eve.queue)";

fn noop(blockers: Range<usize>) -> Value {
    let blockers: Value = blockers.map(|index| json!(format!("#{index}"))).collect();
    json!({ "skill": "noop", "blocked_by": blockers })
}

/// How often a request has run so far that it wrote to its log.
async fn runs(platform: &Platform, id: Uuid) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM eve.run_logs WHERE request_id = $1")
        .bind(id)
        .fetch_one(platform.pool())
        .await?)
}

#[tokio::test]
async fn a_large_diamond_finishes() -> Result<()> {
    let platform = Platform::start(&["noop"]).await?;
    let _workers = [platform.worker(8)?, platform.worker(8)?];
    let width = 2_000;
    let mut requests = vec![noop(0..0)];
    requests.extend((0..width).map(|_| noop(0..1)));
    requests.push(noop(1..width + 1));
    let ids = platform.create_all(requests).await?;
    platform.until("the end of the diamond", EMPTY).await;
    let completed =
        "SELECT count(*) FROM eve.orchestration_results WHERE status = 'completed' AND attempt = 1";
    assert_eq!(platform.count(completed).await, ids.len() as i64);
    invariants::settled(&platform).await;
    Ok(())
}

#[tokio::test]
async fn a_large_fan_out_unblocks_its_collector_once() -> Result<()> {
    let platform = Platform::start(&["noop", "hostile"]).await?;
    let _workers = [platform.worker(8)?, platform.worker(8)?];
    let width = 2_000;
    let mut requests: Vec<Value> = (0..width).map(|_| noop(0..0)).collect();
    let mut collector = noop(0..width);
    collector["skill"] = json!("hostile");
    collector["context"] = json!({ "do": "log", "lines": 1 });
    requests.push(collector);
    let ids = platform.create_all(requests).await?;
    let end = platform.end_of(ids[width]).await;
    assert_eq!((end.status.as_str(), end.attempt), ("completed", 1));
    platform.until("an empty queue", EMPTY).await;
    assert_eq!(runs(&platform, ids[width]).await?, 1, "it ran once");
    assert_eq!(platform.count("SELECT count(*) FROM eve.attempts").await, 0);
    // In one snapshot: nobody had to be waited for when it began.
    invariants::settled(&platform).await;
    Ok(())
}

#[tokio::test]
async fn an_orchestrator_sees_each_of_many_children_once() -> Result<()> {
    let platform = Platform::start(&["orchestrator"]).await?;
    let _workers = [platform.worker(8)?, platform.worker(8)?];
    let children = 2_000;
    let plan = json!({ "role": "orchestrator", "children": children, "waves": 1, "ask": false, "race": false });
    let id = platform.create(json!({ "skill": "orchestrator", "context": plan })).await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed");
    let data = end.data.unwrap_or_default();
    assert_eq!(
        (&data["children"], &data["completed"]),
        (&json!(children), &json!(children)),
        "{data}"
    );
    // It completes as soon as it finds all of them ended; what it was not told by then is discarded.
    let told = "SELECT count(*) FROM eve.inbox
                 WHERE source_kind = 'child' AND (wakeup_id IS NULL) = (discarded IS NOT NULL)";
    assert_eq!(platform.count(told).await, children);
    // Among the rules: what wake-ups saw is what was delivered to them, each once.
    invariants::settled(&platform).await;
    Ok(())
}
