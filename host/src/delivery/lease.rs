//! Leases belong to worker processes: one heartbeat a process, not a run.
//!
//! [`Heartbeat`] is the worker's side. [`Rescuer`] is the other: it gives the runs of a worker back to
//! the queue when that worker was silent for 15 s. Only silence counts that was heard while the
//! rescuer's own connection to Postgres was unbroken: after an outage nobody is dead yet. If the
//! rescuer dies, the next one starts listening afresh.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::db::{Db, Scope, Tx, is_deadlock};
use crate::ids::WorkerId;
use crate::requests::graph::{Ending, Graph, Reach, Ripple};
use crate::requests::{FailureCode, Status};

/// How often a worker says that it lives.
pub const BEAT: Duration = Duration::from_secs(3);
/// How long a worker may be silent.
pub const SILENCE: Duration = Duration::from_secs(15);
/// How long the rescuer may go without listening before what it has heard is void.
const ATTENTION: Duration = Duration::from_secs(5);
/// How many workers may die under a request before it ends.
pub const MAX_RESCUES: i16 = 3;
/// How often a request is given back by a draining worker before that counts as an attempt.
pub const MAX_DRAINS: i16 = 3;
/// Rows rescued in one transaction.
const RESCUE_BATCH: i64 = 500;

/// A worker's entry in `eve.workers`.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The process.
    pub worker_id: WorkerId,
    /// Its pool.
    pub worker_type: String,
    /// Where it runs: the pod's or the machine's name.
    pub host: String,
    /// The engine whose artifacts it can run.
    pub fingerprint: String,
    /// Runs at one time.
    pub slots: usize,
}

impl Heartbeat {
    /// Says that the worker lives. Also registers it: a worker that was given up for dead and is not
    /// comes back under the same id, without its leases.
    pub async fn beat(&self, db: &Db, draining: bool) -> Result<(), sqlx::Error> {
        let mut tx = db.begin(Scope::Engine).await?;
        sqlx::query!(
            r#"
            INSERT INTO eve.workers (id, worker_type, host, version, fingerprint, slots, draining)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (id) DO UPDATE
               SET last_seen_at = clock_timestamp(), beats = workers.beats + 1, draining = $7
            "#,
            self.worker_id.0,
            self.worker_type,
            self.host,
            env!("CARGO_PKG_VERSION"),
            self.fingerprint,
            self.slots as i32,
            draining
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Takes the entry back, after everything was finished or given back.
    pub async fn leave(&self, db: &Db) -> Result<(), sqlx::Error> {
        let mut tx = db.begin(Scope::Engine).await?;
        sqlx::query!("DELETE FROM eve.workers WHERE id = $1", self.worker_id.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }
}

/// Which of `held` are still this worker's; and how many rows carry its name that it does not know
/// of, because the answer to the claim was lost with its connection: those go back to the queue.
pub async fn reconcile(
    db: &Db,
    worker: WorkerId,
    held: &[(Uuid, i64)],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let (ids, leases): (Vec<Uuid>, Vec<i64>) = held.iter().copied().unzip();
    let mut tx = db.begin(Scope::Engine).await?;
    let orphans = sqlx::query_scalar!(
        r#"
        UPDATE eve.queue q
           SET status = 'pending', attempt = q.attempt - 1, worker_id = NULL, lease = NULL,
               claimed_at = NULL
         WHERE q.worker_id = $1 AND q.status IN ('claimed', 'processing')
           AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::bigint[]) AS h (id, lease)
                            WHERE h.id = q.id AND h.lease = q.lease)
        RETURNING q.id
        "#,
        worker.0,
        &ids,
        &leases
    )
    .fetch_all(&mut *tx)
    .await?;
    let kept = sqlx::query_scalar!(
        r#"
        SELECT q.id
          FROM unnest($2::uuid[], $3::bigint[]) AS h (id, lease)
          JOIN eve.queue q ON q.id = h.id AND q.lease = h.lease
         WHERE q.worker_id = $1
        "#,
        worker.0,
        &ids,
        &leases
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    if !orphans.is_empty() {
        tracing::warn!(count = orphans.len(), "gave back claims whose answer had been lost");
    }
    Ok(kept.into_iter().collect())
}

/// Gives runs back to the queue: unstarted ones as if they had never been claimed. Of `started` ones
/// every third time counts as an attempt, and a request that has used up its attempts so ends.
pub async fn give_back(
    db: &Db,
    worker: WorkerId,
    unstarted: &[(Uuid, i64)],
    started: &[(Uuid, i64)],
) -> Result<Ripple, sqlx::Error> {
    let mut tries = 0;
    loop {
        match try_give_back(db, worker, unstarted, started).await {
            Err(error) if is_deadlock(&error) && tries < 5 => tries += 1,
            other => return other,
        }
    }
}

async fn try_give_back(
    db: &Db,
    worker: WorkerId,
    unstarted: &[(Uuid, i64)],
    started: &[(Uuid, i64)],
) -> Result<Ripple, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    // First, as always: ending takes the graph's locks in their own order.
    let mut ripple = end_drained(&mut tx, worker, started).await?;
    let (ids, leases): (Vec<Uuid>, Vec<i64>) = unstarted.iter().chain(started).copied().unzip();
    let ran: Vec<bool> = (0..ids.len()).map(|index| index >= unstarted.len()).collect();
    let back = sqlx::query_scalar!(
        r#"
        WITH held AS MATERIALIZED (
            SELECT q.id, q.claimed_at, h.ran, h.ran AND q.drains + 1 >= $5 AS counts
              FROM unnest($2::uuid[], $3::bigint[], $4::boolean[]) AS h (id, lease, ran)
              JOIN eve.queue q ON q.id = h.id AND q.lease = h.lease
             WHERE q.worker_id = $1
             ORDER BY q.id
               FOR NO KEY UPDATE OF q
        ), back AS (
            UPDATE eve.queue q
               SET status = 'pending', worker_id = NULL, lease = NULL, claimed_at = NULL,
                   drains = CASE WHEN h.counts THEN 0 WHEN h.ran THEN q.drains + 1 ELSE q.drains END,
                   attempt = CASE WHEN h.counts THEN q.attempt ELSE q.attempt - 1 END
              FROM held h
             WHERE q.id = h.id
            RETURNING q.id, q.org_id, q.worker_type, q.generation, q.attempt, h.counts, h.claimed_at
        ), recorded AS (
            INSERT INTO eve.attempts
                   (request_id, id, org_id, generation, attempt, kind, code, message, worker_id, started_at)
            SELECT id, gen_random_uuid(), org_id, generation, attempt, 'drained', $6, $7, $1, claimed_at
              FROM back
             WHERE counts
        )
        SELECT DISTINCT worker_type FROM back
        "#,
        worker.0,
        &ids,
        &leases,
        &ran,
        i32::from(MAX_DRAINS),
        FailureCode::WorkerLost.as_str(),
        drained_message()
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    ripple.pending.extend(back);
    Ok(ripple)
}

/// Ends the runs among `started` that draining workers have cut short once too often.
async fn end_drained(
    tx: &mut Tx,
    worker: WorkerId,
    started: &[(Uuid, i64)],
) -> Result<Ripple, sqlx::Error> {
    let (ids, leases): (Vec<Uuid>, Vec<i64>) = started.iter().copied().unzip();
    let used_up = sqlx::query_scalar!(
        r#"
        SELECT q.id
          FROM unnest($2::uuid[], $3::bigint[]) AS h (id, lease)
          JOIN eve.queue q ON q.id = h.id AND q.lease = h.lease
          JOIN eve.requests r ON r.id = q.id
         WHERE q.worker_id = $1 AND q.drains + 1 >= $4 AND q.attempt >= r.max_attempts
        "#,
        worker.0,
        &ids,
        &leases,
        i32::from(MAX_DRAINS)
    )
    .fetch_all(&mut **tx)
    .await?;
    if used_up.is_empty() {
        return Ok(Ripple::default());
    }
    let reach = Reach { failing: used_up.clone(), ..Reach::default() };
    let mut graph = Graph::lock(tx, &reach).await?;
    let leases: HashMap<Uuid, i64> = started.iter().copied().collect();
    let endings = used_up
        .into_iter()
        .filter(|id| {
            graph.live.get(id).is_some_and(|live| {
                live.worker_id == Some(worker.0) && live.lease == leases.get(id).copied()
            })
        })
        .map(|id| {
            let code = FailureCode::WorkerLost.as_str();
            Ending::without_run(id, Status::Failed, code, drained_message())
        })
        .collect();
    let mut ripple = graph.end(tx, endings).await?;
    ripple.interrupted.clear();
    Ok(ripple)
}

fn drained_message() -> String {
    format!("{MAX_DRAINS} workers were stopped before this had ended")
}

/// What the rescuer has heard of each worker, by its own monotonic clock.
#[derive(Debug, Default)]
pub struct Rescuer {
    heard: HashMap<Uuid, (i64, Instant)>,
    /// When it listened last: a longer pause than usual is a silence of its own.
    listened: Option<Instant>,
}

impl Rescuer {
    /// Forgets what it has heard: its own connection was broken, so silence means nothing.
    pub fn lost_touch(&mut self) {
        self.heard.clear();
    }

    /// Listens once. Returns the workers that have been silent for too long.
    pub async fn silent(&mut self, tx: &mut Tx) -> Result<Vec<WorkerId>, sqlx::Error> {
        // Workers in the table, and holders of leases that are not in it any more.
        let rows = sqlx::query!(
            r#"
            SELECT w.id AS "id!", w.beats AS "beats!" FROM eve.workers w
             UNION ALL
            SELECT DISTINCT q.worker_id, -1::bigint FROM eve.queue q
             WHERE q.status IN ('claimed', 'processing')
               AND NOT EXISTS (SELECT FROM eve.workers w WHERE w.id = q.worker_id)
            "#
        )
        .fetch_all(&mut **tx)
        .await?;
        let now = Instant::now();
        // This process was stopped, or Postgres was: the workers' hearts may have beaten in vain.
        if self.listened.replace(now).is_none_or(|last| now.duration_since(last) > ATTENTION) {
            self.heard.clear();
        }
        let mut heard = HashMap::with_capacity(rows.len());
        let mut silent = Vec::new();
        for row in rows {
            let since = match self.heard.get(&row.id) {
                Some((beats, since)) if *beats == row.beats => *since,
                _ => now,
            };
            if now.duration_since(since) >= SILENCE {
                silent.push(WorkerId(row.id));
            }
            heard.insert(row.id, (row.beats, since));
        }
        self.heard = heard;
        Ok(silent)
    }

    /// Gives a dead worker's runs back to the queue as suspects, and ends those under which too many
    /// workers have died. One transaction a call; call until it returns `None`.
    pub async fn rescue(
        &mut self,
        tx: &mut Tx,
        worker: WorkerId,
    ) -> Result<Option<Ripple>, sqlx::Error> {
        if let Some(ripple) = end_poison(tx, worker).await? {
            return Ok(Some(ripple));
        }
        let back = sqlx::query_scalar!(
            r#"
            SELECT id
              FROM eve.queue
             WHERE worker_id = $1 AND status IN ('claimed', 'processing')
             ORDER BY id
             LIMIT $2
               FOR NO KEY UPDATE SKIP LOCKED
            "#,
            worker.0,
            RESCUE_BATCH
        )
        .fetch_all(&mut **tx)
        .await?;
        if back.is_empty() {
            sqlx::query!(
                r#"
                DELETE FROM eve.workers
                 WHERE id = $1
                   AND NOT EXISTS (SELECT FROM eve.queue
                                    WHERE worker_id = $1 AND status IN ('claimed', 'processing'))
                "#,
                worker.0
            )
            .execute(&mut **tx)
            .await?;
            // What it still holds is locked, by a transaction of its own that died with it as likely as
            // not: it stays silent, and the next round looks again.
            let left = sqlx::query_scalar!(
                r#"
                SELECT EXISTS (SELECT FROM eve.queue
                                WHERE worker_id = $1 AND status IN ('claimed', 'processing')) AS "left!"
                "#,
                worker.0
            )
            .fetch_one(&mut **tx)
            .await?;
            if !left {
                self.heard.remove(&worker.0);
            }
            return Ok(None);
        }
        let pending = sqlx::query!(
            r#"
            WITH back AS (
                UPDATE eve.queue q
                   SET status = 'pending', attempt = q.attempt - 1, rescues = q.rescues + 1,
                       worker_id = NULL, lease = NULL, claimed_at = NULL
                  FROM (SELECT id, claimed_at FROM eve.queue WHERE id = ANY ($1)) old
                 WHERE q.id = old.id
                RETURNING q.id, q.org_id, q.generation, q.attempt, q.worker_type, old.claimed_at
            ), recorded AS (
                INSERT INTO eve.attempts
                       (request_id, id, org_id, generation, attempt, kind, code, message, worker_id, started_at)
                SELECT id, gen_random_uuid(), org_id, generation, attempt + 1, 'rescued', $2,
                       'the worker that ran this died', $3, claimed_at
                  FROM back
            )
            SELECT DISTINCT worker_type FROM back
            "#,
            &back,
            FailureCode::WorkerLost.as_str(),
            worker.0
        )
        .fetch_all(&mut **tx)
        .await?;
        Ok(Some(Ripple {
            pending: pending.into_iter().map(|row| row.worker_type).collect(),
            interrupted: Vec::new(),
        }))
    }
}

/// Ends the runs of a dead worker under which too many have died; none if there are none. Before any
/// other lock is taken: ending takes the graph's locks in their own order.
async fn end_poison(tx: &mut Tx, worker: WorkerId) -> Result<Option<Ripple>, sqlx::Error> {
    let poison = sqlx::query_scalar!(
        r#"
        SELECT id FROM eve.queue
         WHERE worker_id = $1 AND status IN ('claimed', 'processing') AND rescues + 1 >= $2
         LIMIT $3
        "#,
        worker.0,
        i32::from(MAX_RESCUES),
        RESCUE_BATCH
    )
    .fetch_all(&mut **tx)
    .await?;
    if poison.is_empty() {
        return Ok(None);
    }
    let reach = Reach { failing: poison.clone(), ..Reach::default() };
    let mut graph = Graph::lock(tx, &reach).await?;
    let endings = poison
        .into_iter()
        .filter(|id| graph.live.get(id).is_some_and(|live| live.worker_id == Some(worker.0)))
        .map(|id| {
            Ending::without_run(
                id,
                Status::Failed,
                FailureCode::WorkerLost.as_str(),
                format!("{MAX_RESCUES} workers died while they ran this"),
            )
        })
        .collect();
    let mut ripple = graph.end(tx, endings).await?;
    ripple.interrupted.clear();
    Ok(Some(ripple))
}
