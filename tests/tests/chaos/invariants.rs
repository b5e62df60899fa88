//! What holds at any time, whatever has been killed.

use eve_tests::Platform;

/// Checks, in one snapshot, what no crash may break.
pub async fn hold(platform: &Platform) {
    let broken: Vec<(String, i64)> = sqlx::query_as(
        "SELECT rule, broken FROM (
            SELECT 'a request is either open or ended' AS rule, count(*) AS broken
              FROM eve.requests r
             WHERE (EXISTS (SELECT FROM eve.queue q WHERE q.id = r.id))
                 = (EXISTS (SELECT FROM eve.orchestration_results x WHERE x.request_id = r.id))
             UNION ALL
            SELECT 'nothing is blocked but by the edges that hold it', count(*)
              FROM eve.queue q
             WHERE q.open_blockers <> (SELECT count(*) FROM eve.dependencies d
                                        WHERE d.dependent_id = q.id AND d.state IN ('open', 'held'))
             UNION ALL
            SELECT 'an open edge has an open blocker', count(*)
              FROM eve.queue q
              JOIN eve.dependencies d ON d.dependent_id = q.id AND d.state = 'open'
             WHERE NOT EXISTS (SELECT FROM eve.queue b WHERE b.id = d.blocker_id)
             UNION ALL
            SELECT 'a blocker knows that it has dependents', count(*)
              FROM eve.queue b
             WHERE NOT b.has_dependents
               AND EXISTS (SELECT FROM eve.dependencies d WHERE d.blocker_id = b.id AND d.state = 'open')
             UNION ALL
            SELECT 'children belong to a parent that completed', count(*)
              FROM eve.requests c
             WHERE c.parent_request_id IS NOT NULL
               AND NOT EXISTS (SELECT FROM eve.orchestration_results x
                                WHERE x.request_id = c.parent_request_id AND x.status = 'completed')
        ) rules WHERE broken > 0",
    )
    .fetch_all(platform.pool())
    .await
    .expect("the invariants can be checked");
    assert!(broken.is_empty(), "{broken:?}");
}
