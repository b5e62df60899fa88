//! Whether everything that was asked for happened, once, and nothing else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eve_tests::invariants::{ALWAYS, Rule, SETTLED, broken};
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::authors::Work;
use crate::progress::Tally;

/// How often the rules that always hold are checked while the enemies attack.
const CHECK: Duration = Duration::from_secs(15);
/// How long they cannot be checked because Postgres is away.
const BLIND: Duration = Duration::from_secs(120);

/// What may become of anything under attack.
const ANYTHING: [&str; 3] = ["worker_lost", "cancelled", "blocker_failed"];

/// What the guest `orchestrator` promises; see its SKILL.md.
const PLANS: &[Rule] = &[
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
                    OR c.completed <> (x.data ->> 'completed')::integer
                    OR c.failed <> (x.data ->> 'failed')::integer
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

/// Checks what always holds, until the end.
pub async fn watch(tally: Arc<Tally>, pool: PgPool, ends: watch::Receiver<bool>) -> Result<()> {
    let mut seen = Instant::now();
    let mut next = Instant::now() + CHECK / 2;
    while !*ends.borrow() {
        if Instant::now() >= next {
            match broken(&pool, ALWAYS).await {
                Ok(broken) => {
                    seen = Instant::now();
                    next = seen + CHECK;
                    broken.iter().for_each(|rule| tally.found(rule.to_string()));
                }
                // Postgres is away, or our connection died with it.
                Err(error) if seen.elapsed() < BLIND => {
                    println!("{:>5} s: not checked: {error}", tally.elapsed().as_secs());
                }
                Err(error) => return Err(error).context("the rules cannot be checked"),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Everything that is wrong in the end.
pub async fn check(
    pool: &PgPool,
    works: &[Work],
    given_up: &HashSet<Uuid>,
    tally: &Tally,
) -> Result<Vec<String>> {
    let mut findings = tally.findings();
    for rules in [ALWAYS, SETTLED] {
        findings.extend(broken(pool, rules).await?.iter().map(ToString::to_string));
    }
    findings.extend(plans(pool).await?);
    findings.extend(batches(pool, works).await?);
    findings.extend(kinds(pool).await?);
    findings.extend(cancelled(pool, works, given_up).await?);
    Ok(findings)
}

/// Where orchestrations did otherwise than planned.
pub async fn plans(pool: &PgPool) -> Result<Vec<String>> {
    Ok(broken(pool, PLANS).await?.iter().map(ToString::to_string).collect())
}

/// Every batch that was acknowledged is there, whole and once.
async fn batches(pool: &PgPool, works: &[Work]) -> Result<Vec<String>> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT metadata ->> 'batch', count(*), count(DISTINCT metadata ->> 'index')
           FROM eve.requests
          WHERE metadata ? 'batch' AND id = orchestration_id
          GROUP BY 1",
    )
    .fetch_all(pool)
    .await?;
    let mut there: BTreeMap<String, (i64, i64)> =
        rows.into_iter().map(|(key, all, distinct)| (key, (all, distinct))).collect();
    let mut findings = Vec::new();
    for (key, count) in works.iter().flat_map(|work| &work.batches) {
        let found = there.remove(key).unwrap_or_default();
        // What was refused may have been created by a call whose answer was lost.
        let expected = if *count == 0 { found.0.min(1) } else { *count as i64 };
        if found != (expected, expected) {
            findings.push(format!("batch {key} of {count} was created as {found:?}"));
        }
    }
    findings.extend(there.keys().map(|key| format!("nobody knows of batch {key}")));
    Ok(findings)
}

/// How everything ended, by what it was meant to do.
async fn kinds(pool: &PgPool) -> Result<Vec<String>> {
    let rows: Vec<(String, String, i64, i16, bool, Vec<String>)> = sqlx::query_as(
        "SELECT CASE WHEN r.id <> r.orchestration_id THEN 'wakes'
                     WHEN r.metadata ? 'kind' THEN r.metadata ->> 'kind'
                     WHEN r.context ? 'role' THEN r.context ->> 'role'
                     ELSE 'child' END,
                coalesce(x.error_code, x.status), count(*), min(x.attempt),
                bool_and(r.parent_request_id IS NOT NULL), (array_agg(r.id::text))[1:3]
           FROM eve.requests r
           JOIN eve.orchestration_results x ON x.request_id = r.id
          GROUP BY 1, 2
          ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await?;
    let mut findings = Vec::new();
    for (kind, end, count, attempt, children, examples) in rows {
        let meant: &[&str] = match kind.as_str() {
            "completes" | "creates" | "second-time" | "child" | "marker" => &["completed"],
            "orchestrates" | "orchestrator" | "wakes" => &["completed"],
            "fails" => &["failed"],
            "traps" => &["trapped"],
            "leaf" => &["completed", "failed"],
            _ => &[],
        };
        println!("        {kind}: {count} {end}");
        let as_meant = meant.contains(&end.as_str())
            || ANYTHING.contains(&end.as_str())
            || (end == "orchestration_ended" && children);
        if !as_meant {
            findings.push(format!("{count} of kind {kind} ended as {end}: {}", examples.join(", ")));
        }
        if kind == "second-time" && end == "completed" && attempt < 2 {
            findings.push(format!("a first attempt that must fail completed: {}", examples.join(", ")));
        }
    }
    Ok(findings)
}

/// Nobody was cancelled whom nobody asked to cancel.
async fn cancelled(
    pool: &PgPool,
    works: &[Work],
    given_up: &HashSet<Uuid>,
) -> Result<Vec<String>> {
    let cancelled: Vec<Uuid> = sqlx::query_scalar(
        "SELECT request_id FROM eve.orchestration_results
          WHERE error_code = 'cancelled' AND error_message <> 'the race is won'",
    )
    .fetch_all(pool)
    .await?;
    let asked = |id: &Uuid| {
        given_up.contains(id) || works.iter().any(|work| work.cancelled.contains(id))
    };
    Ok(cancelled
        .iter()
        .filter(|id| !asked(id))
        .map(|id| format!("nobody asked to cancel {id}"))
        .collect())
}
