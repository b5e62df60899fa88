//! Organisations share workers.

use anyhow::Result;
use eve_tests::Platform;
use serde_json::json;

const FLOODING: &str =
    "SELECT count(*) FROM eve.queue q JOIN eve.organizations o ON o.id = q.org_id
                         WHERE o.slug = 'flood'";

#[tokio::test]
async fn fifty_requests_do_not_wait_for_twenty_thousand() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    platform.flood("flood", 20_000, "hostile", json!({ "spin_ms": 3 })).await?;
    let _worker = platform.worker(4)?;
    platform
        .until("the flood to be worked on", "SELECT count(*) > 100 FROM eve.orchestration_results")
        .await;
    let before = platform.count(FLOODING).await;
    let ids = platform.create_all((0..50).map(|_| json!({ "skill": "noop" })).collect()).await?;
    for id in ids {
        assert_eq!(platform.end_of(id).await.status, "completed");
    }
    let after = platform.count(FLOODING).await;
    assert!(after > 10_000, "{before} waited before, {after} after");
    Ok(())
}

/// The last slot is for whoever holds none, also when the rotation has just passed them.
#[tokio::test]
async fn the_last_slot_is_found_by_whoever_has_none() -> Result<()> {
    let platform = Platform::start(&["hostile-wasi", "noop"]).await?;
    let long = json!({ "skill": "hostile-wasi", "context": { "do": "sleep" } });
    let _worker = platform.worker(2)?;
    // One organisation holds a slot and wants more.
    let ids = platform.create_all(vec![long.clone(), long.clone(), long.clone(), long]).await?;
    platform.claimed(ids[0]).await;
    // Again and again: each time the rotation stands at the one that has just been served.
    for _ in 0..5 {
        for id in platform.flood("other", 1, "noop", json!({})).await? {
            assert_eq!(platform.end_of(id).await.status, "completed");
        }
    }
    Ok(())
}
