//! Background duties of the control plane.
//!
//! Flow: [`run`] ticks. *Promotion* (scheduled requests whose time has come), *timers* and *schedules*
//! (requests that are due again) are everybody's: who finds a row locked skips it or waits for it.
//! *Expiry* of held edges, of waits and of questions, and *partitions* are done by one, under a leased,
//! epoch-numbered leadership. *Rescue* and *retention* are done by one as well, each under a leadership
//! of its own: a rescue must not wait for anybody's trouble, and retention's transactions take seconds.
//!
//! Invariants:
//! - A duty that dies half-way leaves a committed prefix of its work; whoever leads next goes on.
//! - Every transaction of a led duty locks its leadership row and checks the epoch: a process that was
//!   stopped and continued wakes up in the past and changes nothing.

pub(crate) mod waits;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::{Db, Scope, Tx, is_connection_loss, is_deadlock};
use crate::delivery::lease::Rescuer;
use crate::hitl::expire::expire;
use crate::ids::WorkerId;
use crate::notify::Bell;
use crate::requests::graph::{Ending, Graph, Reach, Ripple};
use crate::requests::{Requests, Status};
use crate::retention::{self, Keep};
use crate::schedules::tick::tick;

/// How often due requests are looked for.
const PROMOTION_TICK: Duration = Duration::from_millis(200);
/// How often due schedules are looked for: they are due on the minute.
const SCHEDULE_TICK: Duration = Duration::from_secs(1);
/// How often led duties run.
const DUTY_TICK: Duration = Duration::from_secs(1);
/// How long a leadership lasts without renewal, in seconds.
pub(crate) const TERM: f64 = 10.0;
/// Rows promoted, or held edges or questions expired, in one transaction.
const BATCH: i64 = 1_000;
/// Held dependents, or waiting orchestrations, that are ended in one transaction: each can take a whole
/// tree along.
const EXPIRY_BATCH: i64 = 50;
/// Batches of a dead worker's runs that are given back before the others are listened to again.
const RESCUE_ROUND: usize = 20;
/// How long a duty waits for somebody's locks before the next one has its turn.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '3s'";
/// How often partitions are looked after.
const PARTITION_TICK: Duration = Duration::from_secs(3600);
/// How soon when that failed.
const PARTITION_RETRY: Duration = Duration::from_secs(60);
/// Days for which partitions exist ahead.
const PARTITION_DAYS: i32 = 3;

/// Runs every duty until `stop`.
pub async fn run(db: Db, bell: Bell, keep: Keep, stop: CancellationToken) {
    tokio::join!(
        promotion(&db, &bell, &stop),
        timers(&db, &bell, &stop),
        rescues(&db, &bell, &stop),
        schedules(&db, &bell, &stop),
        led(&db, &bell, &stop),
        retention::run(&db, keep, &stop)
    );
}

/// The beginnings of rounds, until `stop`: a round that takes longer than the period moves the next.
struct Rounds<'a> {
    ticks: Interval,
    stop: &'a CancellationToken,
}

impl Rounds<'_> {
    fn every(period: Duration, stop: &CancellationToken) -> Rounds<'_> {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Rounds { ticks, stop }
    }

    /// Waits for the next one; `false` when there is none any more.
    async fn next(&mut self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            _ = self.ticks.tick() => true,
        }
    }
}

async fn schedules(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let requests = Requests::new(db.clone(), bell.clone());
    let mut rounds = Rounds::every(SCHEDULE_TICK, stop);
    while rounds.next().await {
        while !stop.is_cancelled() {
            match tick(&requests).await {
                Ok(Some(ripple)) => bell.ripple(&ripple),
                Ok(None) => break,
                Err(error) => {
                    report("firing schedules", &error);
                    break;
                }
            }
        }
    }
}

async fn promotion(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let mut rounds = Rounds::every(PROMOTION_TICK, stop);
    while rounds.next().await {
        while !stop.is_cancelled() {
            match promote(db).await {
                Ok(promoted) if promoted.is_empty() => break,
                Ok(promoted) => {
                    let more = promoted.len() == BATCH as usize;
                    let pending = promoted.into_iter().collect();
                    bell.ripple(&Ripple { pending, interrupted: Vec::new() });
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    report("promoting scheduled requests", &error);
                    break;
                }
            }
        }
    }
}

async fn timers(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let mut rounds = Rounds::every(PROMOTION_TICK, stop);
    while rounds.next().await {
        match waits::fire_timers(db).await {
            Ok(ripple) if ripple.pending.is_empty() => {}
            Ok(ripple) => bell.ripple(&ripple),
            // The next tick finds them again.
            Err(error) if is_deadlock(&error) => {}
            Err(error) => report("firing timers", &error),
        }
    }
}

/// Makes up to [`BATCH`] due requests pending; returns the worker type of each.
pub(crate) async fn promote(db: &Db) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let promoted = sqlx::query_scalar!(
        r#"
        UPDATE eve.queue
           SET status = 'pending', run_at = NULL
         WHERE id IN (SELECT id FROM eve.queue
                       -- now(): only what is stable within a statement can use the index.
                       WHERE status = 'scheduled' AND run_at <= now()
                       ORDER BY run_at LIMIT $1
                         FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING worker_type
        "#,
        BATCH
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(promoted)
}

/// A term of leadership.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leadership {
    duty: &'static str,
    holder: Uuid,
    epoch: i64,
}

pub(crate) const DUTIES: &str = "duties";

/// The leadership of rescuing: of its own, so that no other duty's trouble keeps it from listening.
pub(crate) const RESCUE: &str = "rescue";

async fn rescues(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let holder = Uuid::now_v7();
    let mut rescuer = Rescuer::default();
    let mut rounds = Rounds::every(DUTY_TICK, stop);
    while rounds.next().await {
        let listen = async {
            let Some(term) = lead(db, RESCUE, holder).await? else { return Ok(None) };
            let Some(mut tx) = term.begin(db).await? else { return Ok(None) };
            let silent = rescuer.silent(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some((term, silent)))
        };
        match listen.await {
            Ok(Some((term, silent))) => {
                for worker in silent {
                    if let Err(error) = rescue(db, bell, term, &mut rescuer, worker).await {
                        report("rescuing a worker's runs", &error);
                    }
                }
            }
            // Somebody else leads: what was heard before would be stale when it is our turn.
            Ok(None) => rescuer.lost_touch(),
            Err(error) => {
                // Silence that was heard over a broken connection means nothing.
                rescuer.lost_touch();
                report("listening for workers", &error);
            }
        }
    }
    give_up(db, RESCUE, holder).await;
}

async fn led(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let holder = Uuid::now_v7();
    let mut partitions_due = Instant::now();
    let mut rounds = Rounds::every(DUTY_TICK, stop);
    while rounds.next().await {
        let term = match lead(db, DUTIES, holder).await {
            Ok(Some(term)) => term,
            Ok(None) => continue,
            Err(error) => {
                report("leading", &error);
                continue;
            }
        };
        // One duty's trouble is not the next one's.
        if let Err(error) = expire_held(db, bell, term).await {
            report("cancelling what was held for too long", &error);
        }
        if let Err(error) = expire_waits(db, bell, term).await {
            report("failing what has waited for too long", &error);
        }
        if let Err(error) = expire_questions(db, bell, term).await {
            report("expiring questions", &error);
        }
        if partitions_due <= Instant::now() {
            partitions_due = Instant::now()
                + match partitions(db, term).await {
                    Ok(()) => PARTITION_TICK,
                    Err(error) => {
                        report("making partitions", &error);
                        PARTITION_RETRY
                    }
                };
        }
    }
    give_up(db, DUTIES, holder).await;
}

async fn give_up(db: &Db, duty: &'static str, holder: Uuid) {
    if let Err(error) = resign(db, duty, holder).await {
        report("giving leadership up", &error);
    }
}

/// Takes or renews the leadership of some duties.
pub(crate) async fn lead(
    db: &Db,
    duty: &'static str,
    holder: Uuid,
) -> Result<Option<Leadership>, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let epoch = sqlx::query_scalar!(
        r#"
        INSERT INTO eve.leadership AS l (duty, holder, epoch, expires_at)
        VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
        ON CONFLICT (duty) DO UPDATE
           SET holder = $2,
               -- Renewing keeps the epoch, taking over begins another.
               epoch = CASE WHEN l.holder = $2 AND l.expires_at > clock_timestamp()
                            THEN l.epoch ELSE l.epoch + 1 END,
               expires_at = clock_timestamp() + make_interval(secs => $3)
         WHERE l.holder = $2 OR l.expires_at <= clock_timestamp()
        RETURNING epoch
        "#,
        duty,
        holder,
        TERM
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(epoch.map(|epoch| Leadership { duty, holder, epoch }))
}

/// Lets the next one lead at once.
pub(crate) async fn resign(db: &Db, duty: &'static str, holder: Uuid) -> Result<(), sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    sqlx::query!(
        "UPDATE eve.leadership SET expires_at = '-infinity' WHERE duty = $1 AND holder = $2",
        duty,
        holder
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

impl Leadership {
    /// Which term it is: another holder has another, and so has the same one after a break.
    pub(crate) fn epoch(self) -> i64 {
        self.epoch
    }

    /// Begins a transaction of a led duty: none if the term is over. The row stays locked until the
    /// transaction ends, so that a successor waits for it.
    pub(crate) async fn begin(self, db: &Db) -> Result<Option<Tx>, sqlx::Error> {
        self.begin_as(db, Scope::Engine).await
    }

    /// As [`Leadership::begin`], in another scope.
    pub(crate) async fn begin_as(self, db: &Db, scope: Scope) -> Result<Option<Tx>, sqlx::Error> {
        let mut tx = db.begin(scope).await?;
        sqlx::Executor::execute(&mut *tx, LOCK_TIMEOUT).await?;
        let holds = sqlx::query_scalar!(
            r#"
            SELECT epoch FROM eve.leadership
             WHERE duty = $1 AND holder = $2 AND epoch = $3 AND expires_at > clock_timestamp()
               FOR NO KEY UPDATE
            "#,
            self.duty,
            self.holder,
            self.epoch
        )
        .fetch_optional(&mut *tx)
        .await?;
        Ok(holds.map(|_| tx))
    }
}

/// Gives back what a dead worker had, batch by batch; the rest is for the next round.
async fn rescue(
    db: &Db,
    bell: &Bell,
    term: Leadership,
    rescuer: &mut Rescuer,
    worker: WorkerId,
) -> Result<(), sqlx::Error> {
    tracing::warn!(%worker, "a worker has been silent for too long: rescuing its runs");
    for _ in 0..RESCUE_ROUND {
        let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
        let ripple = rescuer.rescue(&mut tx, worker).await?;
        tx.commit().await?;
        match ripple {
            Some(ripple) => bell.ripple(&ripple),
            None => break,
        }
    }
    Ok(())
}

/// Cancels dependents that were held for longer than they may be.
pub(crate) async fn expire_held(db: &Db, bell: &Bell, term: Leadership) -> Result<(), sqlx::Error> {
    loop {
        let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
        let due: Vec<Uuid> =
            held_too_long(&mut tx, None).await?.into_iter().map(|edge| edge.dependent).collect();
        if due.is_empty() {
            return Ok(());
        }
        let reach = Reach { failing: due.clone(), ..Reach::default() };
        let mut graph = Graph::lock(&mut tx, &reach).await?;
        // A blocker may have been retried before the locks were had.
        let still = held_too_long(&mut tx, Some(&due)).await?;
        let mut seen = BTreeSet::new();
        let endings = still
            .iter()
            .filter(|edge| seen.insert(edge.dependent))
            .map(|edge| {
                Ending::without_run(
                    edge.dependent,
                    Status::Cancelled,
                    "blocker_failed",
                    format!("held for too long: request {} was not retried", edge.blocker),
                )
            })
            .collect();
        let ripple = graph.end(&mut tx, endings).await?;
        tx.commit().await?;
        bell.ripple(&ripple);
    }
}

/// An edge that has held its dependent back for longer than it may.
struct Held {
    dependent: Uuid,
    blocker: Uuid,
}

async fn held_too_long(tx: &mut Tx, among: Option<&[Uuid]>) -> Result<Vec<Held>, sqlx::Error> {
    sqlx::query_as!(
        Held,
        r#"
        SELECT d.dependent_id AS dependent, d.blocker_id AS blocker
          FROM eve.dependencies d
          JOIN eve.queue q ON q.id = d.dependent_id
         WHERE d.state = 'held' AND d.held_until <= now() AND q.status = 'blocked'
           AND ($1::uuid[] IS NULL OR d.dependent_id = ANY ($1))
         LIMIT $2
        "#,
        among,
        EXPIRY_BATCH
    )
    .fetch_all(&mut **tx)
    .await
}

/// Fails orchestrations that have waited for too long.
pub(crate) async fn expire_waits(
    db: &Db,
    bell: &Bell,
    term: Leadership,
) -> Result<(), sqlx::Error> {
    loop {
        let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
        let Some(ripple) = waits::expire(&mut tx).await? else { return Ok(()) };
        tx.commit().await?;
        bell.ripple(&ripple);
    }
}

/// Expires questions that nobody has answered in time.
async fn expire_questions(db: &Db, bell: &Bell, term: Leadership) -> Result<(), sqlx::Error> {
    loop {
        let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
        let Some(ripple) = expire(&mut tx, BATCH).await? else { return Ok(()) };
        tx.commit().await?;
        bell.ripple(&ripple);
    }
}

async fn partitions(db: &Db, term: Leadership) -> Result<(), sqlx::Error> {
    let mut made = 0;
    for parent in ["requests", "orchestration_results", "attempts", "run_logs"] {
        let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
        made += sqlx::query_scalar!(
            r#"SELECT eve.ensure_partitions_of($1, $2) AS "made!""#,
            parent,
            PARTITION_DAYS
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
    }
    if made > 0 {
        tracing::info!(made, "made partitions for the days ahead");
    }
    Ok(())
}

pub(crate) fn report(duty: &str, error: &sqlx::Error) {
    match is_connection_loss(error) {
        true => tracing::debug!(duty, error = error as &dyn std::error::Error, "Postgres is away"),
        false => tracing::error!(duty, error = error as &dyn std::error::Error, "a duty failed"),
    }
}
