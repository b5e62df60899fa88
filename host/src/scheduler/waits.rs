//! Time, as orchestrations see it: timers that go off, and waits that are over.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{BATCH, EXPIRY_BATCH};
use crate::db::{Db, Scope, Tx};
use crate::requests::graph::{Ending, Graph, Reach, Ripple};
use crate::requests::orchestration::{self, Event, EventKind};
use crate::requests::{FailureCode, Status};

/// Delivers timers whose time has come; one transaction, up to [`BATCH`]. Everybody may do this: a
/// timer is deleted by whoever delivers it, under its orchestration's lock. Whoever dies before the
/// commit has delivered nothing.
pub(crate) async fn fire_timers(db: &Db) -> Result<Ripple, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let due: Vec<Uuid> = sqlx::query_scalar!(
        r#"
        -- Whoever is busy just now is left to the next tick, so that one does not hold up all. now(),
        -- because only what is stable within a statement can use the index.
        SELECT id FROM eve.queue
         WHERE id IN (SELECT orchestration_id FROM eve.timers
                       WHERE due_at <= now()
                       ORDER BY due_at LIMIT $1)
           FOR NO KEY UPDATE SKIP LOCKED
        "#,
        BATCH
    )
    .fetch_all(&mut *tx)
    .await?;
    if due.is_empty() {
        return Ok(Ripple::default());
    }
    // The orchestrations first, as whoever ends one or moves a timer does: these it has.
    let graph = Graph::lock(&mut tx, &Reach { rows: due.clone(), ..Reach::default() }).await?;
    let fired = sqlx::query!(
        r#"
        DELETE FROM eve.timers
         WHERE orchestration_id = ANY ($1) AND due_at <= now()
        RETURNING orchestration_id, org_id, id, name
        "#,
        &due
    )
    .fetch_all(&mut *tx)
    .await?;
    let events: Vec<Event> = fired
        .into_iter()
        .map(|timer| Event {
            orchestration: timer.orchestration_id,
            org: timer.org_id,
            kind: EventKind::Timer,
            source: timer.id,
            generation: 1,
            payload: serde_json::json!({ "name": timer.name }),
        })
        .collect();
    let ripple = orchestration::deliver(&mut tx, &graph, &events).await?;
    tx.commit().await?;
    Ok(ripple)
}

/// Fails orchestrations that have waited for as long as they wanted to, and that nothing is waking
/// now. None if there are none; the caller commits.
pub(super) async fn expire(tx: &mut Tx) -> Result<Option<Ripple>, sqlx::Error> {
    let due = overdue(tx, None).await?;
    if due.is_empty() {
        return Ok(None);
    }
    let reach = Reach { failing: due.clone(), ..Reach::default() };
    let mut graph = Graph::lock(tx, &reach).await?;
    // Somebody may have woken one before its lock was had.
    let still: BTreeSet<Uuid> = overdue(tx, Some(&due)).await?.into_iter().collect();
    let endings = still
        .into_iter()
        .map(|id| {
            Ending::without_run(
                id,
                Status::Failed,
                FailureCode::WaitTimedOut.as_str(),
                "nothing woke it within the time that it was willing to wait",
            )
        })
        .collect();
    Ok(Some(graph.end(tx, endings).await?))
}

async fn overdue(tx: &mut Tx, among: Option<&[Uuid]>) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT q.id
          FROM eve.queue q
         WHERE q.status = 'waiting' AND q.wait_until <= now()
           AND ($1::uuid[] IS NULL OR q.id = ANY ($1))
           AND NOT EXISTS (SELECT FROM eve.queue w WHERE w.wakes = q.id)
         ORDER BY q.wait_until
         LIMIT $2
        "#,
        among,
        EXPIRY_BATCH
    )
    .fetch_all(&mut **tx)
    .await
}
