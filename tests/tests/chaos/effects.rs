//! What a run asks of the platform commits with its result, or not at all.

use anyhow::Result;
use eve_tests::Platform;
use serde_json::json;
use uuid::Uuid;

use crate::invariants;

async fn children(platform: &Platform, parent: Uuid) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar("SELECT id FROM eve.requests WHERE parent_request_id = $1 ORDER BY id")
        .bind(parent)
        .fetch_all(platform.pool())
        .await?)
}

#[tokio::test]
async fn children_commit_with_their_parent_or_not_at_all() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    platform.set_limits(json!({ "cpu_ms": 500 })).await?;
    let _worker = platform.worker(4)?;
    let created = platform.order(json!({ "do": "create", "create": 25, "skill": "noop" })).await?;
    let mut broken = Vec::new();
    for (how, code) in [
        ("create-then-trap", "trapped"),
        ("create-then-fail", "failed"),
        ("create-then-loop", "cpu_exhausted"),
    ] {
        let orders = json!({ "do": how, "create": 25, "skill": "noop" });
        broken.push((platform.order(orders).await?, code));
    }
    let end = platform.end_of(created).await;
    assert_eq!(end.status, "completed");
    let born = children(&platform, created).await?;
    let told: Vec<Uuid> = serde_json::from_value(end.data.unwrap_or_default()["ids"].clone())?;
    assert_eq!(born, told, "the guest knew the ids of what it created");
    for child in born {
        assert_eq!(platform.end_of(child).await.status, "completed");
    }
    for (id, code) in broken {
        assert_eq!(platform.end_of(id).await.code(), code);
        assert_eq!(children(&platform, id).await?, Vec::<Uuid>::new());
    }
    invariants::hold(&platform).await;
    Ok(())
}

/// Keys are taken before anything commits: whoever comes second must find the first one's request,
/// also when both were on their way at the same time.
#[tokio::test]
async fn a_key_that_two_runs_use_at_once_creates_one_request() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    let orders =
        json!({ "do": "create", "create": 3, "skill": "noop", "key": "same", "spin_ms": 200 });
    let request = json!({ "skill": "hostile", "context": orders, "max_attempts": 1 });
    let ids = platform.create_all(vec![request; 4]).await?;
    let _worker = platform.worker(8)?;
    let mut answers = Vec::new();
    for id in ids {
        let end = platform.end_of(id).await;
        assert_eq!(end.code(), "completed");
        answers.push(end.data);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let children = "SELECT count(*) FROM eve.requests WHERE parent_request_id IS NOT NULL";
    assert_eq!(platform.count(children).await, 3);
    Ok(())
}

#[tokio::test]
async fn a_run_can_cancel_others() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    platform.set_limits(json!({ "cpu_ms": 3_600_000, "wall_ms": 3_600_000 })).await?;
    let later = platform.create(json!({ "skill": "noop", "delay_ms": 3_600_000 })).await?;
    let below = platform.create(json!({ "skill": "noop", "blocked_by": [later] })).await?;
    let looping = platform.order(json!({ "do": "loop" })).await?;
    let _worker = platform.worker(4)?;
    platform.claimed(looping).await;
    for target in [later, looping] {
        let run = platform.order(json!({ "do": "cancel", "cancel": target })).await?;
        let end = platform.end_of(run).await;
        assert_eq!(end.status, "completed");
        assert_eq!(end.data, Some(json!({ "error": null })));
        assert_eq!(platform.end_of(target).await.code(), "cancelled");
    }
    assert_eq!(platform.end_of(below).await.code(), "blocker_failed");
    // What has ended cannot be cancelled, and the guest is told.
    let again = platform.order(json!({ "do": "cancel", "cancel": later })).await?;
    let end = platform.end_of(again).await;
    assert_ne!(end.data, Some(json!({ "error": null })));
    invariants::hold(&platform).await;
    Ok(())
}
