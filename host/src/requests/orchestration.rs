//! Orchestrations: requests that have returned `waiting` and are woken by what happens next.
//!
//! Flow: whoever has something to tell an orchestration (a child that ended, an answer, a timer)
//! [`deliver`]s it: a row of `eve.inbox`, and a wake-up unless one is open. A worker claims the wake-up
//! like any request, and its claim binds the rows; what comes in after that is for the next one, which
//! whoever ends the wake-up makes (`wake`).
//!
//! Invariants:
//! - Whoever inserts into the inbox, ends a wake-up or an orchestration holds the lock of the
//!   orchestration's row of `eve.queue`: nothing is lost between the last look and the next wake-up.
//! - An event is unique by its source, and bound to one wake-up: nothing is seen twice.
//! - An orchestration has at most one open wake-up (a unique index says so too).
//! - Nothing waits for nothing, and nothing waits for ever ([`WAIT`]).

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::graph::{Graph, Ripple};
use crate::db::Tx;

/// How long an orchestration waits for the next event, if it does not say.
pub const WAIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest that it may say.
pub const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Events that one wake-up is given: the rest is for the next.
pub const EVENTS_PER_WAKEUP: i64 = 1_000;

/// What kind of thing has happened to an orchestration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EventKind {
    /// A child that replies to it ended. Payload: `{"status": …}`.
    Child,
    /// A question was answered or expired. Payload: `{"response": …, "answered_by": …}`, neither of
    /// which is there when it expired.
    Answer,
    /// A deployment settled. Payload: `{"status": …, "reason": …, "message": …, "env": …, "app": …,
    /// "revision": …}`, the reason and what follows it null where there is none.
    Deployment,
    /// A timer went off. Payload: `{"name": …}`.
    Timer,
    /// A schedule ticked.
    Cron,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            EventKind::Child => "child",
            EventKind::Answer => "answer",
            EventKind::Deployment => "deployment",
            EventKind::Timer => "timer",
            EventKind::Cron => "cron",
        }
    }
}

/// Something that has happened to an orchestration. Unique by kind, source and generation.
#[derive(Clone, Debug)]
pub struct Event {
    /// To which.
    pub orchestration: Uuid,
    /// Its organisation.
    pub org: Uuid,
    /// What.
    pub kind: EventKind,
    /// The child, the question, the timer.
    pub source: Uuid,
    /// The source's generation; 1 for what has none.
    pub generation: i32,
    /// What to say about it.
    pub payload: Value,
}

/// Delivers events, in the transaction of what has caused them. `graph` holds the locks of the
/// orchestrations that are open; what arrives at one that has ended is kept as discarded.
pub(crate) async fn deliver(
    tx: &mut Tx,
    graph: &Graph,
    events: &[Event],
) -> Result<Ripple, sqlx::Error> {
    if events.is_empty() {
        return Ok(Ripple::default());
    }
    let orchestrations: Vec<Uuid> = events.iter().map(|event| event.orchestration).collect();
    let orgs: Vec<Uuid> = events.iter().map(|event| event.org).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let sources: Vec<Uuid> = events.iter().map(|event| event.source).collect();
    let generations: Vec<i32> = events.iter().map(|event| event.generation).collect();
    let payloads: Vec<&Value> = events.iter().map(|event| &event.payload).collect();
    let open: Vec<bool> =
        events.iter().map(|event| graph.live.contains_key(&event.orchestration)).collect();
    sqlx::query!(
        r#"
        INSERT INTO eve.inbox
               (orchestration_id, org_id, source_kind, source_id, generation, payload, discarded)
        SELECT e.orchestration, e.org, e.kind, e.source, e.generation, e.payload,
               CASE WHEN NOT e.open THEN 'the orchestration had ended' END
          FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::integer[], $6::jsonb[],
                      $7::boolean[])
            AS e (orchestration, org, kind, source, generation, payload, open)
        ON CONFLICT DO NOTHING
        "#,
        &orchestrations,
        &orgs,
        &kinds as &[&str],
        &sources,
        &generations,
        &payloads as &[&Value],
        &open
    )
    .execute(&mut **tx)
    .await?;
    let mut open: Vec<Uuid> = orchestrations
        .into_iter()
        .zip(open)
        .filter_map(|(orchestration, open)| open.then_some(orchestration))
        .collect();
    open.sort_unstable();
    open.dedup();
    wake(tx, &open).await
}

/// Makes a wake-up for each of these orchestrations, whose locks the caller holds, that waits, has
/// something undelivered and no open wake-up.
pub(crate) async fn wake(tx: &mut Tx, orchestrations: &[Uuid]) -> Result<Ripple, sqlx::Error> {
    if orchestrations.is_empty() {
        return Ok(Ripple::default());
    }
    let ids: Vec<Uuid> = orchestrations.iter().map(|_| Uuid::now_v7()).collect();
    let pending = sqlx::query_scalar!(
        r#"
        WITH woken AS (
            INSERT INTO eve.queue (id, org_id, worker_type, status, priority, wakes)
            SELECT w.id, q.org_id, q.worker_type, 'pending', q.priority, q.id
              FROM unnest($1::uuid[], $2::uuid[]) AS w (orchestration, id)
              JOIN eve.queue q ON q.id = w.orchestration
             WHERE q.id = ANY ($1) AND q.status = 'waiting'
               AND EXISTS (SELECT FROM eve.inbox i
                            WHERE i.orchestration_id = q.id AND i.wakeup_id IS NULL
                              AND i.discarded IS NULL)
               AND NOT EXISTS (SELECT FROM eve.queue open WHERE open.wakes = q.id)
            RETURNING id, wakes, worker_type
        ), asked AS (
            INSERT INTO eve.requests
                   (id, org_id, user_id, worker_type, skill, priority, max_attempts, timeout_ms,
                    root_request_id, orchestration_id, parent_request_id, created_by)
            SELECT w.id, r.org_id, r.user_id, r.worker_type, r.skill, r.priority, r.max_attempts,
                   r.timeout_ms, r.root_request_id, r.id, r.id, r.created_by
              FROM woken w
              JOIN eve.requests r ON r.id = w.wakes
             WHERE r.id = ANY ($1)
        )
        SELECT DISTINCT worker_type AS "worker_type!" FROM woken
        "#,
        orchestrations,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(Ripple { pending: pending.into_iter().collect(), interrupted: Vec::new() })
}

/// Whether anything is outstanding that can wake an orchestration: an open child that replies to it,
/// an event that no wake-up has been given, an open question, a timer, a deployment that is not settled.
pub(crate) async fn outstanding(tx: &mut Tx, orchestration: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM eve.queue WHERE reply_to = $1)
            OR EXISTS (SELECT FROM eve.inbox
                        WHERE orchestration_id = $1 AND wakeup_id IS NULL AND discarded IS NULL)
            OR EXISTS (SELECT FROM eve.hitl_requests WHERE request_id = $1 AND status = 'open')
            OR EXISTS (SELECT FROM eve.timers WHERE orchestration_id = $1)
            OR EXISTS (SELECT FROM eve.deployment_orders
                        WHERE orchestration_id = $1 AND told_at IS NULL) AS "outstanding!"
        "#,
        orchestration
    )
    .fetch_one(&mut **tx)
    .await
}

/// Marks requests, whose locks the caller holds, as orchestrations: somebody outside has given them
/// children or questions.
pub(crate) async fn adopt(
    tx: &mut Tx,
    requests: impl IntoIterator<Item = Uuid>,
) -> Result<(), sqlx::Error> {
    let requests: Vec<Uuid> = requests.into_iter().collect();
    if requests.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE eve.queue SET orchestrates = true WHERE id = ANY ($1) AND NOT orchestrates",
        &requests
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes that an orchestration, whose run has just returned, waits for so long at most.
pub(crate) async fn wait(
    tx: &mut Tx,
    orchestration: Uuid,
    deadline: Option<Duration>,
) -> Result<(), sqlx::Error> {
    let said = deadline.map(|deadline| deadline.min(WAIT_MAX).as_millis() as i64);
    // Who does not say waits for seven days, and at least for its timers and questions: whoever sets a
    // timer for next month means to be there.
    sqlx::query!(
        r#"
        UPDATE eve.queue
           SET status = 'waiting', orchestrates = true, worker_id = NULL, lease = NULL,
               claimed_at = NULL,
               wait_until = coalesce(
                   clock_timestamp() + $2::bigint * interval '1 millisecond',
                   greatest(
                       clock_timestamp() + $3::bigint * interval '1 millisecond',
                       (SELECT max(due_at) + interval '1 hour' FROM eve.timers WHERE orchestration_id = $1),
                       (SELECT max(expires_at) + interval '1 hour' FROM eve.hitl_requests
                         WHERE request_id = $1 AND status = 'open')))
         WHERE id = $1
        "#,
        orchestration,
        said,
        WAIT.as_millis() as i64
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Sets timers of an orchestration; one of the same name is moved.
pub(crate) async fn set_timers(
    tx: &mut Tx,
    org: Uuid,
    orchestration: Uuid,
    timers: &[(String, Duration)],
) -> Result<(), sqlx::Error> {
    if timers.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = timers.iter().map(|(name, _)| name.as_str()).collect();
    let ids: Vec<Uuid> = timers.iter().map(|_| Uuid::now_v7()).collect();
    let delays: Vec<i64> = timers.iter().map(|(_, delay)| delay.as_millis() as i64).collect();
    sqlx::query!(
        r#"
        INSERT INTO eve.timers (orchestration_id, name, id, org_id, due_at)
        SELECT $1, t.name, t.id, $2, clock_timestamp() + t.delay * interval '1 millisecond'
          FROM unnest($3::text[], $4::uuid[], $5::bigint[]) AS t (name, id, delay)
        ON CONFLICT (orchestration_id, name) DO UPDATE
           SET id = excluded.id, due_at = excluded.due_at, created_at = excluded.created_at
        "#,
        orchestration,
        org,
        &names as &[&str],
        &ids,
        &delays
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends what can wake orchestrations that have ended: events that nobody was given, timers, questions, and
/// what they want of deployments, if a person has not approved it yet. What is under way goes on.
pub(super) async fn close(tx: &mut Tx, orchestrations: &[Uuid]) -> Result<(), sqlx::Error> {
    if orchestrations.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        UPDATE eve.inbox
           SET discarded = 'the orchestration ended first'
         WHERE orchestration_id = ANY ($1) AND wakeup_id IS NULL AND discarded IS NULL
        "#,
        orchestrations
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!("DELETE FROM eve.timers WHERE orchestration_id = ANY ($1)", orchestrations)
        .execute(&mut **tx)
        .await?;
    sqlx::query!(
        r#"
        UPDATE eve.hitl_requests
           SET status = 'cancelled', ended_at = clock_timestamp()
         WHERE request_id = ANY ($1) AND status = 'open'
        "#,
        orchestrations
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        r#"
        WITH withdrawn AS (
            UPDATE eve.deployment_orders o
               SET state = 'settled', body = NULL, outcome = 'failed', reason = 'cancelled',
                   message = 'the request that wanted it ended first', settled_at = clock_timestamp(),
                   told_at = clock_timestamp()
              FROM eve.hitl_requests q
             WHERE o.orchestration_id = ANY ($1) AND o.state = 'approval'
               AND q.id = o.question_id AND q.status = 'open'
            RETURNING o.question_id
        )
        UPDATE eve.hitl_requests
           SET status = 'cancelled', ended_at = clock_timestamp()
         WHERE id IN (SELECT question_id FROM withdrawn) AND status = 'open'
        "#,
        orchestrations
    )
    .execute(&mut **tx)
    .await?;
    // What is under way goes on, and is told to nobody: a retry has orders of its own.
    sqlx::query!(
        r#"
        UPDATE eve.deployment_orders
           SET orchestration_id = NULL,
               told_at = CASE WHEN state = 'settled' THEN coalesce(told_at, clock_timestamp()) END
         WHERE orchestration_id = ANY ($1) AND told_at IS NULL
        "#,
        orchestrations
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The orchestration, if any, that one of `waiting`, just inserted, replies to and in the end waits for:
/// each would wait for the other. Follows open edges upwards, and from an orchestration to the
/// children that it waits for. Bounded: beyond [`CYCLE_STEPS`] requests it gives up looking, and the
/// deadline of the wait ends what cannot go on.
pub(crate) async fn cycle(tx: &mut Tx, waiting: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        WITH RECURSIVE waits (target, id) AS (
            SELECT q.reply_to, q.id
              FROM eve.queue q
             WHERE q.id = ANY ($1) AND q.reply_to IS NOT NULL
             UNION
            SELECT w.target, n.id
              FROM waits w
             CROSS JOIN LATERAL (
                   SELECT d.blocker_id
                     FROM eve.dependencies d
                    WHERE d.dependent_id = w.id AND d.state IN ('open', 'held')
                    UNION ALL
                   SELECT q.id FROM eve.queue q WHERE q.reply_to = w.id
                   ) n (id)
             WHERE w.id <> w.target
        ), visited AS (
            SELECT target, id FROM waits LIMIT $2
        )
        SELECT target AS "target!" FROM visited WHERE id = target LIMIT 1
        "#,
        waiting,
        CYCLE_STEPS
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Requests that the search for a cycle visits.
const CYCLE_STEPS: i64 = 50_000;
