//! Retrying a request that failed or was cancelled: a new generation of it, and of those that were
//! cancelled because of it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::graph::{Graph, HOLD_HOURS, Reach, Ripple};
use super::orchestration;
use super::{OnFailure, Request, RequestError, Requests, Status};
use crate::db::{Scope, Tx, is_deadlock};
use crate::ids::RequestId;
use crate::tenancy::{Actor, Tenant, audit};

impl Requests {
    /// Puts an ended request back into the queue. Its result moves to its attempts; dependents that
    /// were cancelled because this generation of it did not complete are revived, and those that were
    /// held wait for it again.
    pub async fn retry(
        &self,
        tenant: Tenant,
        actor: &Actor,
        id: RequestId,
    ) -> Result<Request, RequestError> {
        let mut tries = 0;
        loop {
            match self.try_retry(tenant, actor, id).await {
                Err(RequestError::Database { source, .. }) if is_deadlock(&source) && tries < 5 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
                Ok(ripple) => {
                    self.bell.ripple(&ripple);
                    return self.get(tenant, id).await;
                }
            }
        }
    }

    async fn try_retry(
        &self,
        tenant: Tenant,
        actor: &Actor,
        id: RequestId,
    ) -> Result<Ripple, RequestError> {
        let failed = || RequestError::database("retrying");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed())?;
        let locked = lock_neighbours(&mut tx, id.0).await.map_err(failed())?;
        let ended = sqlx::query!(
            r#"
            SELECT status AS "status: Status", generation, cancelled_by
              FROM eve.orchestration_results
             WHERE request_id = $1 AND org_id = $2
               FOR UPDATE
            "#,
            id.0,
            tenant.org().0
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed())?;
        let Some(ended) = ended else {
            drop(tx);
            let request = self.get(tenant, id).await?;
            return Err(RequestError::Conflict(format!(
                "request {id} is {}: only a failed or cancelled one can be retried",
                request.status
            )));
        };
        if ended.status == Status::Completed {
            return Err(RequestError::Conflict(format!(
                "request {id} is completed: only a failed or cancelled one can be retried"
            )));
        }
        if let Some(blocker) = ended.cancelled_by {
            let blocker_failed = sqlx::query_scalar!(
                r#"
                SELECT EXISTS (
                    SELECT FROM eve.orchestration_results WHERE request_id = $1 AND status <> 'completed'
                ) AS "failed!"
                "#,
                blocker
            )
            .fetch_one(&mut *tx)
            .await
            .map_err(failed())?;
            if blocker_failed {
                return Err(RequestError::Conflict(format!(
                    "request {id} was cancelled because {blocker} did not complete: retry that one, \
                     and this one follows"
                )));
            }
        }
        if let Some(conflict) = unheard(&mut tx, id).await.map_err(failed())? {
            return Err(conflict);
        }
        let revived = cascade(&mut tx, id.0, ended.generation).await.map_err(failed())?;
        // Who is revived, and by whom they are blocked, is certain only now that all of them are locked.
        if !neighbours(&mut tx, id.0).await.map_err(failed())?.is_subset(&locked) {
            drop(tx);
            return Box::pin(self.try_retry(tenant, actor, id)).await;
        }
        let ripple = revive(&mut tx, id.0, &revived).await.map_err(failed())?;
        if let Some(waiting) = orchestration::cycle(&mut tx, &revived).await.map_err(failed())? {
            return Err(RequestError::Conflict(format!(
                "request {waiting} would wait for ever: a request that replies to it, and would be \
                 retried, waits for it"
            )));
        }
        audit::record(&mut tx, tenant, actor, "request.retry", &id.to_string())
            .await
            .map_err(failed())?;
        tx.commit().await.map_err(failed())?;
        Ok(ripple)
    }
}

/// Why a request may not be retried, if so: it is a wake-up, or it replies to an orchestration that
/// has ended, or has itself been retried since. Who may be told is locked.
async fn unheard(tx: &mut Tx, id: RequestId) -> Result<Option<RequestError>, sqlx::Error> {
    let place = sqlx::query!(
        r#"
        SELECT r.orchestration_id AS "orchestration_id!", r.parent_request_id, r.reply_to IS NOT NULL AS "replies!",
               coalesce(q.generation = r.parent_generation, false) AS "heard!"
          FROM eve.requests r
          LEFT JOIN eve.queue q ON q.id = r.parent_request_id
         WHERE r.id = $1
        "#,
        id.0
    )
    .fetch_one(&mut **tx)
    .await?;
    if place.orchestration_id != id.0 {
        return Ok(Some(RequestError::Conflict(format!(
            "request {id} is a wake-up of {}: retry that one",
            place.orchestration_id
        ))));
    }
    Ok(match place.parent_request_id {
        Some(parent) if place.replies && !place.heard => Some(RequestError::Conflict(format!(
            "request {id} replies to {parent}, which does not wait for it any more: retry that one"
        ))),
        _ => None,
    })
}

/// Locks the blockers of whoever will be revived, and dependents that are held: the live ones first, then
/// the results of the others, as an insertion does. A blocker that ended or was retried unseen would
/// leave its dependent waiting for ever. Returns what it holds the locks of.
async fn lock_neighbours(tx: &mut Tx, id: Uuid) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    let rows: Vec<Uuid> = neighbours(tx, id).await?.into_iter().collect();
    let reach = Reach { rows: rows.clone(), ..Reach::default() };
    let mut locked: BTreeSet<Uuid> = Graph::lock(tx, &reach).await?.live.into_keys().collect();
    let ended = sqlx::query_scalar!(
        r#"
        SELECT request_id FROM eve.orchestration_results
         WHERE request_id = ANY ($1)
         ORDER BY request_id
           FOR UPDATE
        "#,
        &rows
    )
    .fetch_all(&mut **tx)
    .await?;
    locked.extend(ended);
    Ok(locked)
}

async fn neighbours(tx: &mut Tx, id: Uuid) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    let found = sqlx::query_scalar!(
        r#"
        WITH RECURSIVE revived (id, generation) AS (
            SELECT request_id, generation FROM eve.orchestration_results WHERE request_id = $1
             UNION
            SELECT x.request_id, x.generation
              FROM revived r
              JOIN eve.orchestration_results x
                ON x.cancelled_by = r.id AND x.cancelled_by_generation = r.generation
        )
        SELECT d.blocker_id AS "id!" FROM revived r JOIN eve.dependencies d ON d.dependent_id = r.id
         WHERE d.state <> 'met'
           AND (EXISTS (SELECT FROM eve.queue q WHERE q.id = d.blocker_id)
                OR EXISTS (SELECT FROM eve.orchestration_results x WHERE x.request_id = d.blocker_id))
         UNION
        SELECT d.dependent_id FROM revived r JOIN eve.dependencies d ON d.blocker_id = r.id
         WHERE d.state = 'held'
         UNION
        -- Orchestrations that are to be told must not end meanwhile.
        SELECT q.id FROM revived r JOIN eve.requests c ON c.id = r.id
          JOIN eve.queue q ON q.id = c.parent_request_id
         WHERE c.reply_to IS NOT NULL
        "#,
        id
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(found.into_iter().collect())
}

/// The request and everything that was cancelled because this generation of it did not complete,
/// and so on down; locked.
async fn cascade(tx: &mut Tx, id: Uuid, generation: i32) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut all = vec![id];
    let mut level = vec![(id, generation)];
    while !level.is_empty() {
        let (ids, generations): (Vec<Uuid>, Vec<i32>) = level.into_iter().unzip();
        let rows = sqlx::query!(
            r#"
            SELECT x.request_id, x.generation
              FROM unnest($1::uuid[], $2::integer[]) AS cause (id, generation)
              JOIN eve.orchestration_results x
                ON x.cancelled_by = cause.id AND x.cancelled_by_generation = cause.generation
              JOIN eve.requests r ON r.id = x.request_id
              -- Whose orchestration has ended, or has begun anew, has nobody to come back for.
             WHERE r.reply_to IS NULL
                OR EXISTS (SELECT FROM eve.queue q
                            WHERE q.id = r.parent_request_id AND q.generation = r.parent_generation)
             ORDER BY x.request_id
               FOR UPDATE OF x
            "#,
            &ids,
            &generations
        )
        .fetch_all(&mut **tx)
        .await?;
        level = rows.into_iter().map(|row| (row.request_id, row.generation)).collect();
        all.extend(level.iter().map(|(id, _)| *id));
    }
    Ok(all)
}

/// Moves the results of `ids` to their attempts and puts them back into the queue, with as many open
/// blockers as they now have.
async fn revive(tx: &mut Tx, first: Uuid, ids: &[Uuid]) -> Result<Ripple, sqlx::Error> {
    sqlx::query!(
        r#"
        WITH gone AS (
            DELETE FROM eve.orchestration_results WHERE request_id = ANY ($1) RETURNING *
        ), kept AS (
            INSERT INTO eve.attempts
                   (request_id, id, org_id, generation, attempt, kind, code, message, worker_id,
                    started_at, ended_at, duration_us, cpu_us, memory_peak_bytes, tokens_used, cost)
            SELECT request_id, gen_random_uuid(), org_id, generation, attempt, 'retried', error_code,
                   coalesce(error_message, ''), worker_id, started_at, finished_at, duration_us, cpu_us,
                   memory_peak_bytes, tokens_used, cost
              FROM gone
        )
        INSERT INTO eve.queue
               (id, org_id, worker_type, status, priority, generation, open_blockers, has_dependents, reply_to)
        SELECT g.request_id, g.org_id, r.worker_type, 'pending', r.priority, g.generation + 1, 0,
               EXISTS (SELECT FROM eve.dependencies d WHERE d.blocker_id = g.request_id),
               CASE WHEN r.reply_to IS NOT NULL THEN r.parent_request_id END
          FROM gone g
          JOIN eve.requests r ON r.id = g.request_id
        "#,
        ids
    )
    .execute(&mut **tx)
    .await?;
    // Whoever was held waits for a live blocker again.
    sqlx::query!(
        "UPDATE eve.dependencies SET state = 'open', held_until = NULL
          WHERE blocker_id = ANY ($1) AND state = 'held'",
        ids
    )
    .execute(&mut **tx)
    .await?;
    // Blockers may have ended while their dependent was dead, and nobody told its edges.
    let edges = sqlx::query!(
        r#"
        SELECT d.blocker_id AS "blocker_id!", d.dependent_id AS "dependent_id!",
               d.on_failure AS "on_failure!: OnFailure", x.status AS "ended?: Status",
               EXISTS (SELECT FROM eve.queue q WHERE q.id = d.blocker_id) AS "live!"
          FROM eve.dependencies d
          LEFT JOIN eve.orchestration_results x ON x.request_id = d.blocker_id
         WHERE d.dependent_id = ANY ($1) AND d.state <> 'met'
        "#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut blockers = Vec::new();
    let mut dependents = Vec::new();
    let mut states = Vec::new();
    let mut open: BTreeMap<Uuid, i32> = BTreeMap::new();
    for edge in edges {
        let state = match (edge.ended, edge.on_failure) {
            (None, _) if edge.live => "open",
            // It is past retention: nobody can wait for it any more.
            (None, _) => "met",
            (Some(Status::Completed), _) | (Some(_), OnFailure::Run) => "met",
            // A second blocker failed too: it holds the dependent back until it is retried itself, but
            // not for ever.
            (Some(_), OnFailure::Hold | OnFailure::Cancel) => "held",
        };
        if state != "met" {
            *open.entry(edge.dependent_id).or_default() += 1;
        }
        blockers.push(edge.blocker_id);
        dependents.push(edge.dependent_id);
        states.push(state);
    }
    sqlx::query!(
        r#"
        UPDATE eve.dependencies d
           SET state = e.state,
               held_until = CASE e.state WHEN 'held' THEN clock_timestamp() + make_interval(hours => $4) END
          FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS e (blocker, dependent, state)
         WHERE d.blocker_id = e.blocker AND d.dependent_id = e.dependent
        "#,
        &blockers,
        &dependents,
        &states as &[&str],
        HOLD_HOURS
    )
    .execute(&mut **tx)
    .await?;
    let (blocked, counts): (Vec<Uuid>, Vec<i32>) = open.into_iter().unzip();
    sqlx::query!(
        r#"
        UPDATE eve.queue q
           SET open_blockers = b.count, status = 'blocked'
          FROM unnest($1::uuid[], $2::integer[]) AS b (id, count)
         WHERE q.id = b.id
        "#,
        &blocked,
        &counts
    )
    .execute(&mut **tx)
    .await?;
    let pending = sqlx::query_scalar!(
        "SELECT DISTINCT worker_type FROM eve.queue WHERE id = ANY ($1) AND status = 'pending'",
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    tracing::debug!(request = %first, revived = ids.len(), "retried");
    Ok(Ripple { pending: pending.into_iter().collect::<BTreeSet<_>>(), interrupted: Vec::new() })
}
