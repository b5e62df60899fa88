//! An orchestrator starts others, returns, and is woken by what happens.

use anyhow::Result;
use eve_tests::Platform;
use serde_json::json;

#[tokio::test]
async fn an_orchestrator_sees_every_child_end_and_completes() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    let _worker = platform.worker(4)?;
    let id = platform.order(json!({ "do": "waiting", "create": 40, "skill": "noop" })).await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed");
    assert_eq!(end.data, Some(json!({ "children": 40, "completed": 40 })));
    let (delivered, discarded): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE wakeup_id IS NOT NULL), count(*) FILTER (WHERE discarded IS NOT NULL)
           FROM eve.inbox WHERE orchestration_id = $1",
    )
    .bind(id)
    .fetch_one(platform.pool())
    .await?;
    // What ends between a wake-up's claim and its look at the children is seen there, and may come too
    // late to be delivered.
    assert_eq!(delivered + discarded, 40);
    assert!(delivered > 0);
    Ok(())
}

#[tokio::test]
async fn waiting_for_nothing_fails_at_once() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    let _worker = platform.worker(4)?;
    let id = platform.order(json!({ "do": "waiting" })).await?;
    assert_eq!(platform.end_of(id).await.code(), "nothing_to_wait_for");
    Ok(())
}
