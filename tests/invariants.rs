//! What no crash may break, as queries that find what is broken.
//!
//! Flow: [`broken`] runs rules in one snapshot, so that they can be asked while everything moves.
//!
//! A rule is a query of the ids, as text, of the rows that break it. [`ALWAYS`] holds at any moment;
//! [`SETTLED`] once nothing is left to do, and [`PLANS`] then too, of what the guest `orchestrator` does.

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, PgPool};

/// Something that holds, and a query of what breaks it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What holds.
    pub name: &'static str,
    /// A query of one column: the ids of the offenders.
    pub offenders: &'static str,
}

/// A rule that does not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which.
    pub rule: &'static str,
    /// How many rows break it.
    pub count: i64,
    /// Some of them.
    pub examples: Vec<String>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} times; {})", self.rule, self.count, self.examples.join(", "))
    }
}

/// The rules that do not hold, all seen in one snapshot.
pub async fn broken(pool: &PgPool, rules: &[Rule]) -> Result<Vec<Broken>> {
    let mut tx = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *tx)
        .await?;
    let mut broken = Vec::new();
    for rule in rules {
        let query = format!(
            "SELECT count(*), coalesce((array_agg(id ORDER BY id))[1:5], '{{}}') FROM ({}) AS offenders (id)",
            rule.offenders
        );
        let (count, examples): (i64, Vec<String>) = sqlx::query_as(AssertSqlSafe(query))
            .fetch_one(&mut *tx)
            .await
            .with_context(|| format!("checking: {}", rule.name))?;
        if count > 0 {
            broken.push(Broken { rule: rule.name, count, examples });
        }
    }
    tx.commit().await?;
    Ok(broken)
}

/// What holds at any time, whatever has been killed.
pub const ALWAYS: &[Rule] = &[
    Rule {
        name: "a request is either open or ended",
        offenders: "
            SELECT r.id::text
              FROM eve.requests r
              LEFT JOIN eve.queue q ON q.id = r.id
              LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
             WHERE (q.id IS NULL) = (x.request_id IS NULL)",
    },
    Rule {
        name: "nothing is open or ended that was not asked for",
        offenders: "
            SELECT id::text
              FROM (SELECT id FROM eve.queue UNION ALL SELECT request_id FROM eve.orchestration_results) l (id)
             WHERE NOT EXISTS (SELECT FROM eve.requests r WHERE r.id = l.id)",
    },
    Rule {
        name: "nothing is blocked but by the edges that hold it",
        offenders: "
            SELECT q.id::text
              FROM eve.queue q
             WHERE q.open_blockers <> (SELECT count(*) FROM eve.dependencies d
                                        WHERE d.dependent_id = q.id AND d.state IN ('open', 'held'))",
    },
    Rule {
        name: "an open edge has an open blocker",
        offenders: "
            SELECT d.blocker_id || ' before ' || d.dependent_id
              FROM eve.queue q
              JOIN eve.dependencies d ON d.dependent_id = q.id AND d.state = 'open'
             WHERE NOT EXISTS (SELECT FROM eve.queue b WHERE b.id = d.blocker_id)",
    },
    Rule {
        name: "a blocker knows that it has dependents",
        offenders: "
            SELECT b.id::text
              FROM eve.queue b
             WHERE NOT b.has_dependents
               AND EXISTS (SELECT FROM eve.dependencies d WHERE d.blocker_id = b.id AND d.state = 'open')",
    },
    Rule {
        name: "what a run created belongs to a run that was committed",
        offenders: "
            SELECT c.id::text
              FROM eve.requests c
             WHERE c.created_by ->> 'via' = 'run' AND c.id = c.orchestration_id
               AND NOT EXISTS (SELECT FROM eve.orchestration_results x
                                WHERE x.request_id = c.parent_request_id AND x.status = 'completed'
                                  AND x.generation = c.parent_generation)
               AND NOT EXISTS (SELECT FROM eve.attempts a
                                WHERE a.request_id = c.parent_request_id AND a.kind = 'waited'
                                  AND a.generation = c.parent_generation)",
    },
    Rule {
        name: "a wake-up that is open wakes an orchestration that waits",
        offenders: "
            SELECT w.id::text
              FROM eve.queue w
             WHERE w.wakes IS NOT NULL
               AND NOT EXISTS (SELECT FROM eve.queue o WHERE o.id = w.wakes AND o.status = 'waiting')",
    },
    Rule {
        name: "what arrived for an orchestration that waits has a wake-up",
        offenders: "
            SELECT i.orchestration_id::text
              FROM eve.inbox i
              JOIN eve.queue o ON o.id = i.orchestration_id AND o.status = 'waiting'
             WHERE i.wakeup_id IS NULL AND i.discarded IS NULL
               AND NOT EXISTS (SELECT FROM eve.queue w WHERE w.wakes = o.id)",
    },
    Rule {
        name: "nothing is kept for an orchestration that has ended",
        offenders: "
            SELECT i.orchestration_id::text
              FROM eve.inbox i
             WHERE i.wakeup_id IS NULL AND i.discarded IS NULL
               AND NOT EXISTS (SELECT FROM eve.queue o WHERE o.id = i.orchestration_id)",
    },
    Rule {
        name: "an event is delivered or discarded, not both",
        offenders: "
            SELECT i.orchestration_id::text
              FROM eve.inbox i
              JOIN eve.orchestration_results w ON w.request_id = i.wakeup_id AND w.status = 'completed'
             WHERE i.discarded IS NOT NULL",
    },
    Rule {
        name: "an event is bound to a wake-up of its own orchestration",
        offenders: "
            SELECT i.orchestration_id || ' by ' || i.wakeup_id
              FROM eve.inbox i
             WHERE i.wakeup_id IS NOT NULL
               AND NOT EXISTS (SELECT FROM eve.requests w
                                WHERE w.id = i.wakeup_id AND w.orchestration_id = i.orchestration_id
                                  AND w.id <> w.orchestration_id)",
    },
    Rule {
        name: "an orchestration waits for something",
        offenders: "
            SELECT o.id::text
              FROM eve.queue o
             WHERE o.status = 'waiting'
               AND NOT EXISTS (SELECT FROM eve.queue c WHERE c.reply_to = o.id)
               AND NOT EXISTS (SELECT FROM eve.queue w WHERE w.wakes = o.id)
               AND NOT EXISTS (SELECT FROM eve.timers t WHERE t.orchestration_id = o.id)
               AND NOT EXISTS (SELECT FROM eve.hitl_requests h
                                WHERE h.request_id = o.id AND h.status = 'open')",
    },
    Rule {
        name: "timers belong to orchestrations that are open",
        offenders: "
            SELECT t.orchestration_id || ' ' || t.name
              FROM eve.timers t
             WHERE NOT EXISTS (SELECT FROM eve.queue o WHERE o.id = t.orchestration_id)",
    },
    Rule {
        name: "questions of an orchestration are open only while it is",
        offenders: "
            SELECT h.id::text
              FROM eve.hitl_requests h
             WHERE h.status = 'open' AND h.request_id IS NOT NULL
               AND NOT EXISTS (SELECT FROM eve.queue o WHERE o.id = h.request_id)",
    },
];

/// What holds once nothing is left to do, beside [`ALWAYS`].
pub const SETTLED: &[Rule] = &[
    Rule {
        name: "every request has ended; no lease, no wake-up, nothing that waits is left",
        offenders: "SELECT id || ' ' || status FROM eve.queue",
    },
    Rule { name: "no timer is left", offenders: "SELECT orchestration_id || ' ' || name FROM eve.timers" },
    Rule {
        name: "every question is settled",
        offenders: "SELECT id::text FROM eve.hitl_requests WHERE status = 'open'",
    },
    Rule {
        name: "every event was delivered or discarded with a reason",
        offenders: "
            SELECT orchestration_id || ' ' || source_kind || ' ' || source_id
              FROM eve.inbox
             WHERE wakeup_id IS NULL AND discarded IS NULL",
    },
    Rule {
        name: "every end of a replying child was told, unless its orchestration had ended",
        offenders: "
            WITH ends AS (
                SELECT request_id, generation, finished_at FROM eve.orchestration_results
                 UNION ALL
                SELECT request_id, generation, ended_at FROM eve.attempts WHERE kind = 'retried'
            )
            SELECT c.id || ' generation ' || e.generation
              FROM eve.requests c
              JOIN ends e ON e.request_id = c.id
              JOIN eve.orchestration_results o
                ON o.request_id = coalesce((c.reply_to ->> 'request_id')::uuid, c.parent_request_id)
             WHERE c.reply_to ->> 'type' = 'orchestrator' AND c.orchestration_id = c.id
               AND e.finished_at < o.finished_at
               AND NOT EXISTS (SELECT FROM eve.orchestration_results x
                                WHERE x.request_id = c.id AND x.error_code = 'orchestration_ended')
               AND NOT EXISTS (SELECT FROM eve.inbox i
                                WHERE i.orchestration_id = o.request_id AND i.source_kind = 'child'
                                  AND i.source_id = c.id AND i.generation = e.generation)",
    },
    Rule {
        name: "what a child is said to have ended as is what it ended as",
        offenders: "
            SELECT i.source_id::text
              FROM eve.inbox i
              JOIN eve.orchestration_results x ON x.request_id = i.source_id AND x.generation = i.generation
             WHERE i.source_kind = 'child' AND i.payload ->> 'status' IS DISTINCT FROM x.status",
    },
    Rule {
        name: "every question of an orchestration that was answered or expired was told",
        offenders: "
            SELECT h.id::text
              FROM eve.hitl_requests h
             WHERE h.request_id IS NOT NULL AND h.status IN ('answered', 'expired')
               AND NOT EXISTS (SELECT FROM eve.inbox i
                                WHERE i.orchestration_id = h.request_id AND i.source_kind = 'answer'
                                  AND i.source_id = h.id)",
    },
    Rule {
        name: "a wake-up that completed had something to tell",
        offenders: "
            SELECT w.id::text
              FROM eve.requests w
              JOIN eve.orchestration_results x ON x.request_id = w.id AND x.status = 'completed'
             WHERE w.orchestration_id <> w.id
               AND NOT EXISTS (SELECT FROM eve.inbox i WHERE i.wakeup_id = w.id)",
    },
    Rule {
        name: "what completed had waited for what it could not do without",
        offenders: "
            SELECT d.dependent_id || ' without ' || d.blocker_id
              FROM eve.dependencies d
              JOIN eve.orchestration_results x ON x.request_id = d.dependent_id AND x.status = 'completed'
              JOIN eve.orchestration_results b ON b.request_id = d.blocker_id
             WHERE d.on_failure IN ('cancel', 'hold')
               AND (b.status <> 'completed' OR x.started_at < b.finished_at)",
    },
    Rule {
        name: "what was cancelled because of a blocker had one that did not complete",
        offenders: "
            SELECT x.request_id::text
              FROM eve.orchestration_results x
             WHERE x.error_code = 'blocker_failed'
               AND NOT EXISTS (SELECT FROM eve.dependencies d
                                 JOIN eve.orchestration_results b
                                   ON b.request_id = d.blocker_id AND b.status <> 'completed'
                                WHERE d.dependent_id = x.request_id AND d.blocker_id = x.cancelled_by
                                  AND d.on_failure = 'cancel' AND b.generation = x.cancelled_by_generation)",
    },
    Rule {
        name: "a failed run leaves nothing behind",
        offenders: "
            SELECT r.id::text
              FROM eve.requests r
             WHERE r.context ->> 'do' IN ('create-then-fail', 'create-then-trap', 'create-then-loop')
               AND EXISTS (SELECT FROM eve.requests c WHERE c.parent_request_id = r.id)",
    },
    Rule {
        name: "what a run created is what it said that it created",
        offenders: "
            SELECT r.id::text
              FROM eve.requests r
              JOIN eve.orchestration_results x ON x.request_id = r.id
             WHERE r.context ->> 'do' = 'create' AND r.context ->> 'key' IS NULL
               AND ARRAY (SELECT jsonb_array_elements_text(x.data -> 'ids') ORDER BY 1)
                   IS DISTINCT FROM
                   ARRAY (SELECT c.id::text FROM eve.requests c WHERE c.parent_request_id = r.id ORDER BY 1)
               AND (x.status = 'completed'
                    OR EXISTS (SELECT FROM eve.requests c WHERE c.parent_request_id = r.id))",
    },
    Rule {
        name: "a run that completed says what it used",
        offenders: "
            SELECT x.request_id::text
              FROM eve.orchestration_results x
             WHERE x.status = 'completed'
               AND (x.started_at IS NULL OR x.worker_id IS NULL OR x.duration_us IS NULL
                    OR x.cpu_us IS NULL OR x.memory_peak_bytes IS NULL)
               AND NOT EXISTS (SELECT FROM eve.requests w
                                WHERE w.orchestration_id = x.request_id AND w.id <> x.request_id)",
    },
    Rule {
        name: "a run that ended in waiting says what it used",
        offenders: "
            SELECT request_id::text
              FROM eve.attempts
             WHERE kind = 'waited'
               AND (duration_us IS NULL OR cpu_us IS NULL OR memory_peak_bytes IS NULL)",
    },
    Rule {
        name: "who is given up was rescued before",
        offenders: "
            SELECT x.request_id::text
              FROM eve.orchestration_results x
             WHERE x.error_code = 'worker_lost' AND x.error_message LIKE '%workers died%'
               AND (SELECT count(*) FROM eve.attempts a
                     WHERE a.request_id = x.request_id AND a.generation = x.generation
                       AND a.kind = 'rescued') <> 2",
    },
];

/// What the guest `orchestrator` promises, once nothing is left to do; see its SKILL.md.
pub const PLANS: &[Rule] = &[
    Rule {
        name: "every wave has each of its children once",
        offenders: "
            SELECT o.id || ' generation ' || c.parent_generation || ' wave ' || (c.context ->> 'wave')
              FROM eve.requests o
              JOIN eve.requests c ON c.parent_request_id = o.id AND c.id = c.orchestration_id
             WHERE o.skill = 'orchestrator' AND o.context ->> 'role' = 'orchestrator'
               AND c.skill = 'orchestrator' AND c.context ->> 'wave' <> '0'
               AND c.context ->> 'role' <> 'marker'
             GROUP BY o.id, o.context, c.parent_generation, c.context ->> 'wave'
            HAVING count(*) <> (o.context ->> 'children')::integer
                OR count(DISTINCT c.context ->> 'n') <> (o.context ->> 'children')::integer
                OR (c.context ->> 'wave')::integer > (o.context ->> 'waves')::integer",
    },
    Rule {
        name: "no wave begins before the one before it",
        offenders: "
            SELECT o.id || ' generation ' || c.parent_generation
              FROM eve.requests o
              JOIN eve.requests c ON c.parent_request_id = o.id AND c.id = c.orchestration_id
             WHERE o.skill = 'orchestrator' AND o.context ->> 'role' = 'orchestrator'
               AND c.skill = 'orchestrator' AND c.context ->> 'wave' <> '0'
               AND c.context ->> 'role' <> 'marker'
             GROUP BY o.id, c.parent_generation
            HAVING count(DISTINCT c.context ->> 'wave') <> max((c.context ->> 'wave')::integer)",
    },
    Rule {
        name: "what an orchestration has seen is marked once",
        offenders: "
            SELECT c.parent_request_id || ' ' || (c.context ->> 'source')
              FROM eve.requests c
             WHERE c.skill = 'orchestrator' AND c.context ->> 'role' = 'marker'
             GROUP BY c.parent_request_id, c.parent_generation, c.context ->> 'of', c.context ->> 'source'
            HAVING count(*) > 1",
    },
    Rule {
        name: "an orchestration that completed has run its plan, and knows what came of it",
        offenders: "
            SELECT o.id::text
              FROM eve.requests o
              JOIN eve.orchestration_results x ON x.request_id = o.id AND x.status = 'completed'
              LEFT JOIN LATERAL (
                    SELECT count(*) FILTER (WHERE c.context ->> 'role' <> 'marker') AS children,
                           count(*) FILTER (WHERE c.context ->> 'role' <> 'marker' AND e.status = 'completed') AS completed,
                           count(*) FILTER (WHERE c.context ->> 'role' <> 'marker' AND e.status = 'failed') AS failed,
                           count(*) FILTER (WHERE c.context ->> 'of' = 'answer') AS answers,
                           count(*) FILTER (WHERE c.context ->> 'of' = 'timer') AS timers
                      FROM eve.requests c
                      LEFT JOIN eve.orchestration_results e ON e.request_id = c.id
                     WHERE c.parent_request_id = o.id AND c.parent_generation = x.generation
                       AND c.id = c.orchestration_id
                       AND (c.context ->> 'role' = 'marker' OR c.context ->> 'wave' <> '0')
                   ) c ON true
             WHERE o.skill = 'orchestrator' AND o.context ->> 'role' = 'orchestrator'
               AND o.id = o.orchestration_id
               AND (c.children <> (o.context ->> 'children')::integer * (o.context ->> 'waves')::integer
                    OR c.children <> (x.data ->> 'children')::integer
                    -- The loser of a race may end by itself before the run that cancels it commits.
                    OR NOT (o.context ->> 'race')::boolean
                       AND (c.completed <> (x.data ->> 'completed')::integer
                            OR c.failed <> (x.data ->> 'failed')::integer)
                    OR c.answers <> (x.data ->> 'answers')::integer
                    OR c.timers <> (x.data ->> 'timers')::integer
                    OR c.answers <> (o.context ->> 'ask')::boolean::integer
                    OR c.timers <> (o.context ? 'timer_ms')::integer)",
    },
    Rule {
        name: "what wake-ups saw is what was delivered to them, each once",
        offenders: "
            WITH seen AS (
                SELECT w.orchestration_id AS orchestration, child.id, count(*) AS times
                  FROM eve.run_logs l
                  JOIN eve.requests w ON w.id = l.request_id AND w.skill = 'orchestrator'
                 CROSS JOIN jsonb_array_elements(l.lines) AS line
                 CROSS JOIN jsonb_array_elements(line -> 'fields') AS field
                 CROSS JOIN unnest(string_to_array(field ->> 1, ',')) AS child (id)
                 WHERE line ->> 'message' = 'seen' AND field ->> 0 = 'children'
                 GROUP BY 1, 2
            ), delivered AS (
                SELECT i.orchestration_id AS orchestration, i.source_id::text AS id, count(*) AS times
                  FROM eve.inbox i
                  JOIN eve.orchestration_results w ON w.request_id = i.wakeup_id AND w.status = 'completed'
                 WHERE i.source_kind = 'child'
                 GROUP BY 1, 2
            )
            SELECT orchestration || ' child ' || id || ': seen ' || coalesce(s.times, 0)
                   || ', delivered ' || coalesce(d.times, 0)
              FROM seen s
              FULL JOIN delivered d USING (orchestration, id)
             WHERE s.times IS DISTINCT FROM d.times",
    },
];
