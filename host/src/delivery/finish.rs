//! Writing what became of runs.
//!
//! Most runs have neither dependents nor effects: [`plain`] ends a whole batch of them in one statement
//! and skips what it finds locked. What only has dependents, or replies to an orchestration, goes through
//! [`batch_with_graph`], many at a time; the rest one by one through [`with_graph`]. In every case the
//! result, the effects and what they set free or wake commit together or not at all.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::claim::Claimed;
use crate::db::{
    Db, Scope, Tx, is_connection_loss, is_deadlock, is_duplicate, is_refusal, is_timeout,
};
use crate::deployments::orders;
use crate::hitl;
use crate::ids::WorkerId;
use crate::requests::graph::{Columns, Ending, Graph, Reach, Ripple};
use crate::requests::insert::{self, Parent, Prepared};
use crate::requests::{FailureCode, LogLine, Origin, Problem, RequestError, Status, orchestration};
use crate::runtime::Effects;
use crate::tenancy::{Actor, OrgRole, Tenant, audit};

/// The first wait before another attempt; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// How long the slow path waits for a lock before it tries again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";

/// A run that ended, as it is to be written.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What was claimed.
    pub run: Claimed,
    /// How it ended.
    pub outcome: Outcome,
    /// What it asked for; empty unless it completed or waits.
    pub effects: Effects,
    /// Its log.
    pub log: Vec<LogLine>,
    /// Log lines that were dropped.
    pub log_dropped: u64,
    /// Wall-clock time.
    pub wall: Duration,
    /// CPU time.
    pub cpu: Duration,
    /// Peak memory in bytes.
    pub memory_peak: usize,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With an output.
    Completed {
        /// For people.
        summary: String,
        /// JSON text.
        data: Option<String>,
        /// Tokens used.
        tokens_used: Option<i64>,
        /// Cost.
        cost: Option<f64>,
    },
    /// Not yet: it waits for what it has started.
    Waiting {
        /// For how long at most.
        deadline: Option<Duration>,
    },
    /// Without.
    Failed {
        /// In a word.
        code: FailureCode,
        /// In a sentence.
        message: String,
        /// Whether another attempt may help.
        retryable: bool,
    },
}

impl Finished {
    /// A run that never got as far as running.
    pub fn unstarted(
        run: Claimed,
        code: FailureCode,
        message: String,
        retryable: bool,
    ) -> Finished {
        Finished {
            run,
            outcome: Outcome::Failed { code, message, retryable },
            effects: Effects::default(),
            log: Vec::new(),
            log_dropped: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            memory_peak: 0,
        }
    }

    /// The same run, failed because what came of it cannot be committed.
    fn refused(&self, why: &RequestError) -> Finished {
        match why {
            RequestError::NothingToWaitFor => {
                self.failed(FailureCode::NothingToWaitFor, why.to_string())
            }
            why => self.failed(
                FailureCode::EffectsInvalid,
                format!("what the run asked for could not be committed: {why}"),
            ),
        }
    }

    /// The same run, failed because Postgres does not take what came of it.
    pub fn not_stored(&self, why: &sqlx::Error) -> Finished {
        match self.is_plain() {
            true => self.failed(
                FailureCode::OutputInvalid,
                format!("the outcome could not be stored: {why}"),
            ),
            false => self.failed(
                FailureCode::EffectsInvalid,
                format!("what the run asked for could not be committed: {why}"),
            ),
        }
    }

    fn failed(&self, code: FailureCode, message: String) -> Finished {
        Finished {
            outcome: Outcome::Failed { code, message, retryable: false },
            effects: Effects::default(),
            log: Vec::new(),
            ..self.clone()
        }
    }

    /// Whether it is tried again.
    fn goes_on(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { retryable: true, .. })
            && self.run.attempt < self.run.max_attempts
    }

    /// Whether it can end without looking at the graph, if its row says so too.
    fn is_plain(&self) -> bool {
        self.effects.is_empty()
            && self.run.wake.is_none()
            && !matches!(self.outcome, Outcome::Waiting { .. })
    }

    /// Whether it can go through the graph together with others: it changes nothing but by its end.
    pub fn is_simple(&self) -> bool {
        self.is_plain() && !self.goes_on()
    }

    /// Whose run it is: a wake-up's is its orchestration's.
    fn orchestration(&self) -> Uuid {
        self.run.wake.as_ref().map_or(self.run.id.0, |wake| wake.orchestration.0)
    }

    fn ending(&self) -> Ending {
        let mut ending = Ending {
            id: self.run.id.0,
            status: Status::Completed,
            summary: None,
            data: None,
            error: None,
            tokens_used: None,
            cost: None,
            duration_us: Some(self.wall.as_micros() as i64),
            cpu_us: Some(self.cpu.as_micros() as i64),
            memory_peak_bytes: Some(self.memory_peak as i64),
        };
        match &self.outcome {
            Outcome::Completed { summary, data, tokens_used, cost } => {
                ending.summary = Some(summary.clone()).filter(|summary| !summary.is_empty());
                ending.data = data.clone();
                ending.tokens_used = *tokens_used;
                ending.cost = *cost;
            }
            // What a wake-up decides about its orchestration is no output of its own.
            Outcome::Waiting { .. } => {}
            Outcome::Failed { code, message, .. } => {
                ending.status = Status::Failed;
                ending.error =
                    Some(Problem { code: code.as_str().into(), message: message.clone() });
            }
        }
        ending
    }

    /// Full jitter on an exponential back-off, so that what failed together does not return together.
    fn backoff(&self) -> Duration {
        let exponent = u32::from(self.run.attempt.unsigned_abs()).saturating_sub(1).min(20);
        let longest = BACKOFF_FIRST.saturating_mul(1 << exponent).min(BACKOFF_MAX);
        longest.mul_f64(rand::random_range(0.5..1.0))
    }
}

/// Writes the outcomes of a batch, in the caller's transaction. Returns the indices of those that have
/// to go through [`with_graph`]: they have dependents or effects, somebody holds their row's lock, or
/// their lease is lost.
pub async fn plain(
    tx: &mut PgConnection,
    worker: WorkerId,
    batch: &[Finished],
) -> Result<Vec<usize>, sqlx::Error> {
    let mut written = vec![false; batch.len()];
    let ends: Vec<usize> = (0..batch.len())
        .filter(|&index| batch[index].is_plain() && !batch[index].goes_on())
        .collect();
    let again: Vec<usize> = (0..batch.len()).filter(|&index| batch[index].goes_on()).collect();
    let mut found: HashSet<Uuid> = HashSet::with_capacity(batch.len());
    found.extend(end(tx, worker, ends.iter().map(|&index| &batch[index])).await?);
    found.extend(again_later(tx, worker, again.iter().map(|&index| &batch[index])).await?);
    for index in ends.into_iter().chain(again) {
        written[index] = found.contains(&batch[index].run.id.0);
    }
    let logged: Vec<&Finished> = batch
        .iter()
        .enumerate()
        .filter(|(index, _)| written[*index])
        .map(|(_, finished)| finished)
        .collect();
    write_logs(tx, &logged).await?;
    Ok((0..batch.len()).filter(|&index| !written[index]).collect())
}

async fn end(
    tx: &mut PgConnection,
    worker: WorkerId,
    batch: impl Iterator<Item = &Finished>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let (leases, endings): (Vec<i64>, Vec<Ending>) =
        batch.map(|finished| (finished.run.lease, finished.ending())).unzip();
    if endings.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(&endings);
    sqlx::query_scalar!(
        r#"
        WITH ended AS MATERIALIZED (
            SELECT *
              FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
                          $8::text[], $9::bigint[], $10::float8[], $11::bigint[], $12::bigint[],
                          $13::bigint[])
                AS e (id, lease, status, summary, data, code, message, tokens, cost, duration, cpu, peak)
        ), gone AS (
            DELETE FROM eve.queue
             WHERE id IN (
                   SELECT q.id
                     FROM eve.queue q
                     JOIN ended e ON e.id = q.id AND e.lease = q.lease
                    WHERE q.id = ANY ($2) AND q.worker_id = $1 AND NOT q.has_dependents
                       AND q.reply_to IS NULL AND q.wakes IS NULL AND NOT q.orchestrates
                      FOR UPDATE OF q SKIP LOCKED)
            RETURNING id, org_id, generation, attempt, claimed_at
        )
        INSERT INTO eve.orchestration_results
               (request_id, org_id, status, generation, attempt, summary, data, error_code, error_message,
                tokens_used, cost, worker_id, started_at, duration_us, cpu_us, memory_peak_bytes)
        SELECT g.id, g.org_id, e.status, g.generation, g.attempt, e.summary, e.data::jsonb, e.code,
               e.message, e.tokens, e.cost, $1, g.claimed_at, e.duration, e.cpu, e.peak
          FROM gone g
          JOIN ended e ON e.id = g.id
        RETURNING request_id
        "#,
        worker.0,
        &columns.ids,
        &leases,
        &columns.statuses as &[&str],
        &columns.summaries as &[Option<&str>],
        &columns.data as &[Option<&str>],
        &columns.codes as &[Option<&str>],
        &columns.messages as &[Option<&str>],
        &columns.tokens as &[Option<i64>],
        &columns.costs as &[Option<f64>],
        &columns.durations as &[Option<i64>],
        &columns.cpu as &[Option<i64>],
        &columns.peaks as &[Option<i64>],
    )
    .fetch_all(&mut *tx)
    .await
}

/// Schedules failed runs for another attempt, and records the one that failed.
async fn again_later(
    tx: &mut PgConnection,
    worker: WorkerId,
    batch: impl Iterator<Item = &Finished>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut leases = Vec::new();
    let mut waits = Vec::new();
    let mut endings = Vec::new();
    for finished in batch {
        leases.push(finished.run.lease);
        waits.push(finished.backoff().as_millis() as i64);
        endings.push(finished.ending());
    }
    if endings.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(&endings);
    sqlx::query_scalar!(
        r#"
        WITH ended AS MATERIALIZED (
            SELECT *
              FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[],
                          $8::bigint[], $9::bigint[])
                AS e (id, lease, wait, code, message, duration, cpu, peak)
        ), held AS MATERIALIZED (
            SELECT q.id, q.claimed_at, e.wait, e.code, e.message, e.duration, e.cpu, e.peak
              FROM eve.queue q
              JOIN ended e ON e.id = q.id AND e.lease = q.lease
             WHERE q.id = ANY ($2) AND q.worker_id = $1
               FOR NO KEY UPDATE OF q SKIP LOCKED
        ), back AS (
            UPDATE eve.queue q
               SET status = 'scheduled', run_at = clock_timestamp() + h.wait * interval '1 millisecond',
                   worker_id = NULL, lease = NULL, claimed_at = NULL
              FROM held h
             WHERE q.id = h.id
            RETURNING q.id, q.org_id, q.generation, q.attempt
        )
        INSERT INTO eve.attempts
               (request_id, id, org_id, generation, attempt, kind, code, message, worker_id, started_at,
                duration_us, cpu_us, memory_peak_bytes)
        SELECT b.id, gen_random_uuid(), b.org_id, b.generation, b.attempt, 'failed', h.code, h.message, $1,
               h.claimed_at, h.duration, h.cpu, h.peak
          FROM back b
          JOIN held h ON h.id = b.id
        RETURNING request_id
        "#,
        worker.0,
        &columns.ids,
        &leases,
        &waits,
        &columns.codes as &[Option<&str>],
        &columns.messages as &[Option<&str>],
        &columns.durations as &[Option<i64>],
        &columns.cpu as &[Option<i64>],
        &columns.peaks as &[Option<i64>],
    )
    .fetch_all(&mut *tx)
    .await
}

async fn write_logs(tx: &mut PgConnection, batch: &[&Finished]) -> Result<(), sqlx::Error> {
    let written: Vec<&&Finished> = batch
        .iter()
        .filter(|finished| !finished.log.is_empty() || finished.log_dropped > 0)
        .collect();
    if written.is_empty() {
        return Ok(());
    }
    let requests: Vec<Uuid> = written.iter().map(|f| f.run.id.0).collect();
    let ids: Vec<Uuid> = written.iter().map(|_| Uuid::now_v7()).collect();
    let orgs: Vec<Uuid> = written.iter().map(|f| f.run.org_id.0).collect();
    let generations: Vec<i32> = written.iter().map(|f| f.run.generation).collect();
    let attempts: Vec<i16> = written.iter().map(|f| f.run.attempt).collect();
    let lines: Vec<sqlx::types::Json<&Vec<LogLine>>> =
        written.iter().map(|f| sqlx::types::Json(&f.log)).collect();
    let dropped: Vec<i64> = written.iter().map(|f| f.log_dropped as i64).collect();
    sqlx::query!(
        r#"
        INSERT INTO eve.run_logs (request_id, id, org_id, generation, attempt, lines, dropped)
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::smallint[],
                             $6::jsonb[], $7::bigint[])
        "#,
        &requests,
        &ids,
        &orgs,
        &generations,
        &attempts,
        &lines as &[sqlx::types::Json<&Vec<LogLine>>],
        &dropped
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// What came of writing one run through the graph.
#[derive(Debug)]
pub enum Written {
    /// It is written.
    Done(Ripple),
    /// The lease is lost: the run was rescued or cancelled, or an earlier try of this very write had
    /// committed before its connection broke. Nothing was changed.
    LeaseLost,
}

/// Ends runs that change nothing but by their ends (see [`Finished::is_simple`]) with what follows: one
/// transaction for all. What turns out to need more is `None`, and goes through [`with_graph`].
pub async fn batch_with_graph(
    db: &Db,
    worker: WorkerId,
    batch: &[Finished],
) -> Result<Vec<Option<Written>>, sqlx::Error> {
    let mut written = Vec::with_capacity(batch.len());
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        match try_batch(db, worker, part).await {
            Ok(done) => written.extend(done),
            Err(error) if is_connection_loss(&error) => return Err(error),
            // In halves, each of which meets fewer others, until it shows whose trouble it is.
            Err(_) if part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.push(second);
                parts.push(first);
            }
            // Alone, it is tried again by itself.
            Err(_) => written.extend(part.iter().map(|_| None)),
        }
    }
    Ok(written)
}

async fn try_batch(
    db: &Db,
    worker: WorkerId,
    batch: &[Finished],
) -> Result<Vec<Option<Written>>, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    sqlx::Executor::execute(&mut *tx, LOCK_TIMEOUT).await?;
    let mut reach = Reach::default();
    for finished in batch {
        match finished.outcome {
            Outcome::Completed { .. } => reach.completing.push(finished.run.id.0),
            _ => reach.failing.push(finished.run.id.0),
        }
    }
    let mut graph = Graph::lock(&mut tx, &reach).await?;
    let mut written = Vec::with_capacity(batch.len());
    let mut endings = Vec::with_capacity(batch.len());
    let mut logged = Vec::with_capacity(batch.len());
    for finished in batch {
        written.push(match graph.live.get(&finished.run.id.0) {
            Some(live) if holds_lease(&graph, worker, finished) => {
                if live.orchestrates || live.wakes.is_some() {
                    None
                } else {
                    endings.push(finished.ending());
                    logged.push(finished);
                    Some(Written::Done(Ripple::default()))
                }
            }
            _ => Some(Written::LeaseLost),
        });
    }
    let own: HashSet<Uuid> = endings.iter().map(|ending| ending.id).collect();
    let mut ripple = graph.end(&mut tx, endings).await?;
    ripple.interrupted.retain(|interrupted| !own.contains(interrupted));
    write_logs(&mut tx, &logged).await?;
    tx.commit().await?;
    if let Some(Some(Written::Done(first))) =
        written.iter_mut().find(|written| matches!(written, Some(Written::Done(_))))
    {
        *first = ripple;
    }
    Ok(written)
}

/// Ends one run with all that follows: its effects, its dependents, its orchestration.
pub async fn with_graph(
    db: &Db,
    worker: WorkerId,
    finished: &Finished,
) -> Result<Written, sqlx::Error> {
    let mut tries = 0;
    let mut failed: Option<Finished> = None;
    loop {
        match try_with_graph(db, worker, failed.as_ref().unwrap_or(finished)).await {
            // A key's request that another run creates at this moment breaks a unique index; the next
            // try finds it.
            Err(RequestError::Database { source, .. })
                if (is_deadlock(&source) || is_duplicate(&source)) && tries < 10 =>
            {
                tries += 1;
            }
            // It fails, alone. Only once: a failure that is refused too is not the run's fault.
            Err(RequestError::Database { source, .. })
                if (is_refusal(&source) || is_timeout(&source)) && failed.is_none() =>
            {
                let error: &dyn std::error::Error = &source;
                tracing::error!(request = %finished.run.id, error, "what came of a run was refused");
                failed = Some(finished.not_stored(&source));
            }
            Err(RequestError::Database { source, .. }) => return Err(source),
            // What the run asked for cannot be had any more.
            Err(refused) if failed.is_none() => failed = Some(finished.refused(&refused)),
            Err(other) => {
                return Err(sqlx::Error::Protocol(format!("ending a run was refused: {other}")));
            }
            Ok(written) => return Ok(written),
        }
    }
}

async fn try_with_graph(
    db: &Db,
    worker: WorkerId,
    finished: &Finished,
) -> Result<Written, RequestError> {
    let failed = || RequestError::database("ending a run");
    let mut tx: Tx = db.begin(Scope::Engine).await.map_err(failed())?;
    sqlx::Executor::execute(&mut *tx, LOCK_TIMEOUT).await.map_err(failed())?;
    let id = finished.run.id.0;
    if finished.goes_on() {
        // Only its own row: nothing else changes.
        let reach = Reach { rows: vec![id], ..Reach::default() };
        let graph = Graph::lock(&mut tx, &reach).await.map_err(failed())?;
        if !holds_lease(&graph, worker, finished) {
            return Ok(Written::LeaseLost);
        }
        again_later(&mut tx, worker, std::iter::once(finished)).await.map_err(failed())?;
        write_logs(&mut tx, &[finished]).await.map_err(failed())?;
        tx.commit().await.map_err(failed())?;
        return Ok(Written::Done(Ripple::default()));
    }

    let orchestration = finished.orchestration();
    let is_wakeup = orchestration != id;
    let there = created_meanwhile(&mut tx, finished).await.map_err(failed())?;
    let mut prepared: Vec<Prepared> = finished
        .effects
        .creates
        .iter()
        .filter(|(id, _)| !there.contains(&id.0))
        .map(|(id, new)| Prepared { id: *id, new: new.clone(), parent: None })
        .collect();
    let mut reach = Reach { rows: insert::external_blockers(&prepared), ..Reach::default() };
    reach.rows.push(orchestration);
    reach.failing.extend(finished.effects.cancels.iter().map(|(target, _)| target.0));
    match finished.outcome {
        Outcome::Completed { .. } => reach.completing.extend([id, orchestration]),
        Outcome::Failed { .. } => reach.failing.push(id),
        Outcome::Waiting { .. } if is_wakeup => reach.completing.push(id),
        Outcome::Waiting { .. } => {}
    }
    let mut graph = Graph::lock(&mut tx, &reach).await.map_err(failed())?;
    if !holds_lease(&graph, worker, finished) {
        return Ok(Written::LeaseLost);
    }
    // A wake-up is cancelled with its orchestration: while it is open, so is that.
    let Some(own) = graph.live.get(&orchestration).cloned() else { return Ok(Written::LeaseLost) };

    // The organisation is the leased row's, not the worker's memory of it.
    let tenant = Tenant::proven(crate::ids::OrgId(own.org_id));
    let actor = Actor::Run { request: finished.run.id, user: finished.run.user_id };
    let origin = Origin { actor, schedule: None };
    let mut ripple = Ripple::default();
    if !prepared.is_empty() {
        let parent = Parent {
            id: orchestration,
            root: finished.run.root_request_id.0,
            generation: own.generation,
        };
        prepared.iter_mut().for_each(|request| request.parent = Some(parent));
        ripple.absorb(insert::insert(&mut tx, tenant, &origin, &prepared, &mut graph).await?);
    }
    let mut endings = Vec::new();
    match finished.outcome {
        Outcome::Completed { .. } if is_wakeup => {
            let ending = finished.ending();
            endings.push(ending.of_orchestration(orchestration));
            endings.push(ending.without_output());
        }
        Outcome::Waiting { .. } if !is_wakeup => {}
        _ => endings.push(finished.ending()),
    }
    let created: HashSet<Uuid> = prepared.iter().map(|created| created.id.0).collect();
    let mut cancelled = Vec::new();
    for (target, reason) in &finished.effects.cancels {
        // Another organisation's request does not exist for it; one that ended meanwhile has ended; a
        // wake-up goes with its orchestration only.
        let is_own = graph
            .live
            .get(&target.0)
            .is_some_and(|live| live.org_id == tenant.org().0 && live.wakes.is_none())
            || created.contains(&target.0);
        if is_own && target.0 != orchestration {
            let message = reason.clone().unwrap_or_else(|| format!("cancelled by request {id}"));
            endings.push(Ending::without_run(target.0, Status::Cancelled, "cancelled", message));
            cancelled.push(target.to_string());
        }
    }
    audit::record_all(&mut tx, tenant, &actor, "request.cancel", &cancelled)
        .await
        .map_err(failed())?;
    ripple.absorb(graph.end(&mut tx, endings).await.map_err(failed())?);
    ripple.interrupted.retain(|interrupted| *interrupted != id);

    let waits = match finished.outcome {
        // Unless what it has cancelled has taken it along.
        Outcome::Waiting { deadline } if graph.live.contains_key(&orchestration) => Some(deadline),
        _ => None,
    };
    hitl::insert(
        &mut tx,
        tenant,
        &actor,
        waits.map(|_| crate::ids::RequestId(orchestration)),
        OrgRole::Member,
        &finished.effects.questions,
    )
    .await
    .map_err(failed())?;
    let asker = orders::Asker {
        request: crate::ids::RequestId(orchestration),
        user: finished.run.user_id,
        worker_type: &finished.run.worker_type,
    };
    let listener = waits.map(|_| crate::ids::RequestId(orchestration));
    orders::insert(&mut tx, tenant, asker, listener, &finished.effects.orders)
        .await
        .map_err(failed())?;
    if let Some(deadline) = waits {
        let timers = &finished.effects.timers;
        orchestration::set_timers(&mut tx, own.org_id, orchestration, timers)
            .await
            .map_err(failed())?;
        if !orchestration::outstanding(&mut tx, orchestration).await.map_err(failed())? {
            return Err(RequestError::NothingToWaitFor);
        }
        if !is_wakeup {
            record_wait(&mut tx, worker, finished).await.map_err(failed())?;
        }
        orchestration::wait(&mut tx, orchestration, deadline).await.map_err(failed())?;
        ripple.absorb(orchestration::wake(&mut tx, &[orchestration]).await.map_err(failed())?);
    }
    write_logs(&mut tx, &[finished]).await.map_err(failed())?;
    tx.commit().await.map_err(failed())?;
    Ok(Written::Done(ripple))
}

/// Keeps what the first run of an orchestration has used: it has no result to stand with.
async fn record_wait(
    tx: &mut Tx,
    worker: WorkerId,
    finished: &Finished,
) -> Result<(), sqlx::Error> {
    let ending = finished.ending();
    sqlx::query!(
        r#"
        INSERT INTO eve.attempts
               (request_id, id, org_id, generation, attempt, kind, code, message, worker_id, started_at,
                duration_us, cpu_us, memory_peak_bytes)
        SELECT id, gen_random_uuid(), org_id, generation, attempt, 'waited', 'waiting', '', $2,
               claimed_at, $3, $4, $5
          FROM eve.queue
         WHERE id = $1
        "#,
        finished.run.id.0,
        worker.0,
        ending.duration_us,
        ending.cpu_us,
        ending.memory_peak_bytes
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Which of the requests that a run creates under a key are there already: another run had the same
/// key, and committed first.
async fn created_meanwhile(tx: &mut Tx, finished: &Finished) -> Result<Vec<Uuid>, sqlx::Error> {
    let keyed: Vec<Uuid> = finished
        .effects
        .creates
        .iter()
        .filter(|(_, new)| new.idempotency_key.is_some())
        .map(|(id, _)| id.0)
        .collect();
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar!("SELECT id FROM eve.requests WHERE id = ANY ($1)", &keyed)
        .fetch_all(&mut **tx)
        .await
}

fn holds_lease(graph: &Graph, worker: WorkerId, finished: &Finished) -> bool {
    graph.live.get(&finished.run.id.0).is_some_and(|live| {
        live.worker_id == Some(worker.0) && live.lease == Some(finished.run.lease)
    })
}
