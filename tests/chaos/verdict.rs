//! Whether everything that was asked for happened, once, and nothing else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eve_tests::invariants::{ALWAYS, PLANS, SETTLED, broken};
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

/// Checks what always holds, until the end.
pub async fn watch(tally: Arc<Tally>, pool: PgPool, ends: watch::Receiver<bool>) -> Result<()> {
    let mut seen = Instant::now();
    let mut next = Instant::now() + CHECK / 2;
    while !*ends.borrow() {
        if Instant::now() >= next {
            let began = Instant::now();
            match broken(&pool, ALWAYS).await {
                Ok(broken) => {
                    seen = Instant::now();
                    // They read everything that there is: a long run must not be spent on them.
                    next = seen + CHECK.max(began.elapsed() * 8);
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
    for rules in [ALWAYS, SETTLED, PLANS] {
        findings.extend(broken(pool, rules).await?.iter().map(ToString::to_string));
    }
    findings.extend(batches(pool, works).await?);
    findings.extend(kinds(pool).await?);
    findings.extend(cancelled(pool, works, given_up).await?);
    Ok(findings)
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
            findings
                .push(format!("{count} of kind {kind} ended as {end}: {}", examples.join(", ")));
        }
        if kind == "second-time" && end == "completed" && attempt < 2 {
            findings
                .push(format!("a first attempt that must fail completed: {}", examples.join(", ")));
        }
    }
    Ok(findings)
}

/// Nobody was cancelled whom nobody asked to cancel.
async fn cancelled(pool: &PgPool, works: &[Work], given_up: &HashSet<Uuid>) -> Result<Vec<String>> {
    let cancelled: Vec<Uuid> = sqlx::query_scalar(
        "SELECT request_id FROM eve.orchestration_results
          WHERE error_code = 'cancelled' AND error_message <> 'the race is won'",
    )
    .fetch_all(pool)
    .await?;
    let asked =
        |id: &Uuid| given_up.contains(id) || works.iter().any(|work| work.cancelled.contains(id));
    Ok(cancelled
        .iter()
        .filter(|id| !asked(id))
        .map(|id| format!("nobody asked to cancel {id}"))
        .collect())
}
