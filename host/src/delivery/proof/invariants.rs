//! What holds at any moment, whatever happens at the same time: section 2 of the design, as statements
//! over the whole database.

use crate::db::Db;

/// Each rule with the rows that break it.
const RULES: [(&str, &str); 13] = [
    (
        "a request is either open or ended",
        "SELECT r.id
           FROM eve.requests r
          WHERE EXISTS (SELECT FROM eve.queue q WHERE q.id = r.id)
              = EXISTS (SELECT FROM eve.orchestration_results x WHERE x.request_id = r.id)",
    ),
    (
        "nothing is blocked but by the edges that hold it",
        "SELECT q.id
           FROM eve.queue q
          WHERE q.open_blockers <> (SELECT count(*) FROM eve.dependencies d
                                     WHERE d.dependent_id = q.id AND d.state IN ('open', 'held'))",
    ),
    (
        "who has open blockers is blocked, and nobody else",
        "SELECT id FROM eve.queue WHERE (status = 'blocked') <> (open_blockers > 0)",
    ),
    (
        "an open edge has an open blocker",
        "SELECT q.id
           FROM eve.queue q
           JOIN eve.dependencies d ON d.dependent_id = q.id AND d.state = 'open'
          WHERE NOT EXISTS (SELECT FROM eve.queue b WHERE b.id = d.blocker_id)",
    ),
    (
        "a held edge has a blocker that ended badly",
        "SELECT q.id
           FROM eve.queue q
           JOIN eve.dependencies d ON d.dependent_id = q.id AND d.state = 'held'
          WHERE NOT EXISTS (SELECT FROM eve.orchestration_results x
                             WHERE x.request_id = d.blocker_id AND x.status <> 'completed')",
    ),
    (
        "a blocker knows that it has dependents",
        "SELECT b.id
           FROM eve.queue b
          WHERE NOT b.has_dependents
            AND EXISTS (SELECT FROM eve.dependencies d
                          JOIN eve.queue q ON q.id = d.dependent_id
                         WHERE d.blocker_id = b.id AND d.state = 'open')",
    ),
    (
        "at most one wake-up of an orchestration is open",
        "SELECT wakes AS id FROM eve.queue WHERE wakes IS NOT NULL GROUP BY wakes HAVING count(*) > 1",
    ),
    (
        "a wake-up is open only while its orchestration waits",
        "SELECT w.id
           FROM eve.queue w
          WHERE w.wakes IS NOT NULL
            AND NOT EXISTS (SELECT FROM eve.queue o WHERE o.id = w.wakes AND o.status = 'waiting')",
    ),
    (
        "nothing waits for nothing",
        "SELECT o.id
           FROM eve.queue o
          WHERE o.status = 'waiting'
            AND NOT EXISTS (SELECT FROM eve.queue w WHERE w.wakes = o.id)
            AND NOT EXISTS (SELECT FROM eve.queue c WHERE c.reply_to = o.id)
            AND NOT EXISTS (SELECT FROM eve.timers t WHERE t.orchestration_id = o.id)
            AND NOT EXISTS (SELECT FROM eve.hitl_requests h
                             WHERE h.request_id = o.id AND h.status = 'open')",
    ),
    (
        "what a waiting orchestration has not heard yet has a wake-up that will tell it",
        "SELECT o.id
           FROM eve.queue o
          WHERE o.status = 'waiting'
            AND EXISTS (SELECT FROM eve.inbox i
                         WHERE i.orchestration_id = o.id AND i.wakeup_id IS NULL
                           AND i.discarded IS NULL)
            AND NOT EXISTS (SELECT FROM eve.queue w WHERE w.wakes = o.id)",
    ),
    (
        "an orchestration that has ended hears nothing any more",
        "SELECT x.request_id AS id
           FROM eve.orchestration_results x
          WHERE EXISTS (SELECT FROM eve.inbox i
                         WHERE i.orchestration_id = x.request_id AND i.wakeup_id IS NULL
                           AND i.discarded IS NULL)
             OR EXISTS (SELECT FROM eve.timers t WHERE t.orchestration_id = x.request_id)
             OR EXISTS (SELECT FROM eve.hitl_requests h
                         WHERE h.request_id = x.request_id AND h.status = 'open')",
    ),
    (
        "every end of a child that replies was told once, unless both ended together",
        "SELECT x.request_id AS id
           FROM eve.orchestration_results x
           JOIN eve.requests r ON r.id = x.request_id
          WHERE r.reply_to IS NOT NULL
            AND x.error_code IS DISTINCT FROM 'orchestration_ended'
            AND EXISTS (SELECT FROM eve.queue o
                         WHERE o.id = r.parent_request_id AND o.generation = r.parent_generation)
            AND NOT EXISTS (SELECT FROM eve.inbox i
                             WHERE i.orchestration_id = r.parent_request_id
                               AND i.source_kind = 'child' AND i.source_id = x.request_id
                               AND i.generation = x.generation)",
    ),
    (
        "what an orchestration has started ends when it fails or is cancelled",
        "SELECT q.id
           FROM eve.queue q
           JOIN eve.requests r ON r.id = q.id
           JOIN eve.orchestration_results p ON p.request_id = r.parent_request_id
          WHERE p.status <> 'completed' AND q.generation = 1",
    ),
];

/// Every rule that is broken, with how many rows break it.
pub async fn broken(db: &Db) -> Vec<(&'static str, i64)> {
    let arms: Vec<String> = RULES
        .iter()
        .enumerate()
        .map(|(rule, (_, rows))| format!("SELECT {rule} AS rule, count(*) AS rows FROM ({rows}) _"))
        .collect();
    let counted: Vec<(i32, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(arms.join("\nUNION ALL\n")))
        .fetch_all(db.pool())
        .await
        .expect("the invariants can be looked at");
    let broken = counted.into_iter().filter(|(_, rows)| *rows > 0);
    broken.map(|(rule, rows)| (RULES[rule as usize].0, rows)).collect()
}

/// Fails if a rule is broken.
pub async fn hold(db: &Db) {
    let broken = broken(db).await;
    assert!(broken.is_empty(), "{broken:?}");
}
