//! Organisations share workers.

use anyhow::Result;
use eve_tests::Platform;
use serde_json::json;

/// An organisation with 20,000 requests that each take a few milliseconds.
async fn flood(platform: &Platform) -> Result<()> {
    sqlx::raw_sql(
        "INSERT INTO eve.organizations (slug, name) VALUES ('flood', 'Flood');
         INSERT INTO eve.requests
                (id, org_id, worker_type, skill, context, root_request_id, orchestration_id, created_by)
         SELECT n.id, o.id, 'general', 'hostile', '{\"spin_ms\": 3}', n.id, n.id, '{\"via\": \"platform\"}'
           FROM eve.organizations o,
                (SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')
                         || '7000' || '8' || lpad(to_hex(n), 15, '0'))::uuid AS id
                   FROM generate_series(1, 20000) n) n
          WHERE o.slug = 'flood';
         INSERT INTO eve.queue (id, org_id, worker_type, status, priority)
         SELECT id, org_id, worker_type, 'pending', 0 FROM eve.requests;",
    )
    .execute(platform.pool())
    .await?;
    Ok(())
}

const FLOODING: &str =
    "SELECT count(*) FROM eve.queue q JOIN eve.organizations o ON o.id = q.org_id
                         WHERE o.slug = 'flood'";

#[tokio::test]
async fn fifty_requests_do_not_wait_for_twenty_thousand() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    flood(&platform).await?;
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
    sqlx::raw_sql("INSERT INTO eve.organizations (id, slug, name) VALUES (gen_random_uuid(), 'other', 'Other')")
        .execute(platform.pool())
        .await?;
    // Again and again: each time the cursor stands behind the one that has just been served.
    for _ in 0..5 {
        let id: uuid::Uuid = sqlx::query_scalar(
            "WITH asked AS (
                INSERT INTO eve.requests
                       (id, org_id, worker_type, skill, root_request_id, orchestration_id, created_by)
                SELECT n.id, o.id, 'general', 'noop', n.id, n.id, '{\"via\": \"platform\"}'
                  FROM eve.organizations o, (SELECT gen_random_uuid() AS id) n
                 WHERE o.slug = 'other'
                RETURNING id, org_id)
             INSERT INTO eve.queue (id, org_id, worker_type, status, priority)
             SELECT id, org_id, 'general', 'pending', 0 FROM asked
             RETURNING id",
        )
        .fetch_one(platform.pool())
        .await?;
        assert_eq!(platform.end_of(id).await.status, "completed");
    }
    Ok(())
}
