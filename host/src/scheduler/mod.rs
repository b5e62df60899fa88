//! Background duties of the control plane.
//!
//! Flow: [`run`] ticks. *Promotion* (scheduled requests whose time has come), *timers* and *schedules*
//! (requests that are due again) are everybody's: who finds a row locked skips it or waits for it.
//! *Rescue*, *expiry* of held edges, of waits and of questions, and *partitions* are done by one, under a
//! leased, epoch-numbered leadership. *Retention* is done by one as well, under a leadership of its own:
//! its transactions take seconds, and a rescue must not wait for them.
//!
//! Invariants:
//! - A duty that dies half-way leaves a committed prefix of its work; whoever leads next goes on.
//! - Every transaction of a led duty locks its leadership row and checks the epoch: a process that was
//!   stopped and continued wakes up in the past and changes nothing.

pub(crate) mod waits;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::{Db, Scope, Tx, is_connection_loss, is_deadlock};
use crate::delivery::lease::Rescuer;
use crate::hitl::expire::expire;
use crate::notify::Bell;
use crate::requests::graph::{Ending, Graph, Reach, Ripple};
use crate::requests::{Requests, Status};
use crate::retention::{self, Retention};
use crate::schedules::tick::tick;

/// How often due requests are looked for.
const PROMOTION_TICK: Duration = Duration::from_millis(200);
/// How often due schedules are looked for: they are due on the minute.
const SCHEDULE_TICK: Duration = Duration::from_secs(1);
/// How often led duties run.
const DUTY_TICK: Duration = Duration::from_secs(1);
/// How long a leadership lasts without renewal, in seconds.
const TERM: f64 = 10.0;
/// Rows promoted, or held edges or questions expired, in one transaction.
const BATCH: i64 = 1_000;
/// How often partitions are looked after.
const PARTITION_TICK: Duration = Duration::from_secs(3600);
/// Days for which partitions exist ahead.
const PARTITION_DAYS: i32 = 3;

/// Runs every duty until `stop`.
pub async fn run(db: Db, bell: Bell, retention: Retention, stop: CancellationToken) {
    tokio::join!(
        promotion(&db, &bell, &stop),
        schedules(&db, &bell, &stop),
        led(&db, &bell, &stop),
        retention::run(&db, retention, &stop)
    );
}

async fn schedules(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let requests = Requests::new(db.clone(), bell.clone());
    let mut ticks = tokio::time::interval(SCHEDULE_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
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
    let mut ticks = tokio::time::interval(PROMOTION_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match promote(db).await {
            Ok(pending) if pending.is_empty() => {}
            Ok(pending) => bell.ripple(&Ripple { pending, interrupted: Vec::new() }),
            Err(error) => report("promoting scheduled requests", &error),
        }
        match waits::fire_timers(db).await {
            Ok(ripple) if ripple.pending.is_empty() => {}
            Ok(ripple) => bell.ripple(&ripple),
            // The next tick finds them again.
            Err(error) if is_deadlock(&error) => {}
            Err(error) => report("firing timers", &error),
        }
    }
}

/// Makes due requests pending; returns their worker types.
pub(crate) async fn promote(db: &Db) -> Result<BTreeSet<String>, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let promoted = sqlx::query_scalar!(
        r#"
        UPDATE eve.queue
           SET status = 'pending', run_at = NULL
         WHERE id IN (SELECT id FROM eve.queue
                       WHERE status = 'scheduled' AND run_at <= clock_timestamp()
                       ORDER BY run_at LIMIT $1
                         FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING worker_type
        "#,
        BATCH
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(promoted.into_iter().collect())
}

/// A term of leadership.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leadership {
    duty: &'static str,
    holder: Uuid,
    epoch: i64,
}

pub(crate) const DUTIES: &str = "duties";

async fn led(db: &Db, bell: &Bell, stop: &CancellationToken) {
    let holder = Uuid::now_v7();
    let mut rescuer = Rescuer::default();
    let mut partitions_due = Instant::now();
    let mut ticks = tokio::time::interval(DUTY_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let round = async {
            let Some(term) = lead(db, DUTIES, holder).await? else {
                // Somebody else leads: what was heard before would be stale when it is our turn.
                rescuer.lost_touch();
                return Ok(());
            };
            rescue(db, bell, term, &mut rescuer).await?;
            expire_held(db, bell, term).await?;
            expire_waits(db, bell, term).await?;
            expire_questions(db, bell, term).await?;
            if partitions_due <= Instant::now() {
                partitions(db, term).await?;
                partitions_due = Instant::now() + PARTITION_TICK;
            }
            Ok::<(), sqlx::Error>(())
        };
        if let Err(error) = round.await {
            // Silence that was heard over a broken connection means nothing.
            rescuer.lost_touch();
            report("a background duty", &error);
        }
    }
    if let Err(error) = resign(db, DUTIES, holder).await {
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
    /// Begins a transaction of a led duty: none if the term is over. The row stays locked until the
    /// transaction ends, so that a successor waits for it.
    pub(crate) async fn begin(self, db: &Db) -> Result<Option<Tx>, sqlx::Error> {
        let mut tx = db.begin(Scope::Engine).await?;
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

async fn rescue(
    db: &Db,
    bell: &Bell,
    term: Leadership,
    rescuer: &mut Rescuer,
) -> Result<(), sqlx::Error> {
    let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
    let silent = rescuer.silent(&mut tx).await?;
    tx.commit().await?;
    for worker in silent {
        tracing::warn!(%worker, "a worker has been silent for too long: rescuing its runs");
        loop {
            let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
            let ripple = rescuer.rescue(&mut tx, worker).await?;
            tx.commit().await?;
            match ripple {
                Some(ripple) => bell.ripple(&ripple),
                None => break,
            }
        }
    }
    Ok(())
}

/// Cancels dependents that were held for longer than they may be.
pub(crate) async fn expire_held(db: &Db, bell: &Bell, term: Leadership) -> Result<(), sqlx::Error> {
    loop {
        let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
        let expired = sqlx::query!(
            r#"
            SELECT d.dependent_id, d.blocker_id
              FROM eve.dependencies d
              JOIN eve.queue q ON q.id = d.dependent_id
             WHERE d.state = 'held' AND d.held_until <= clock_timestamp() AND q.status = 'blocked'
             LIMIT $1
            "#,
            BATCH
        )
        .fetch_all(&mut *tx)
        .await?;
        if expired.is_empty() {
            return Ok(());
        }
        let reach = Reach {
            failing: expired.iter().map(|row| row.dependent_id).collect(),
            ..Reach::default()
        };
        let mut graph = Graph::lock(&mut tx, &reach).await?;
        let mut seen = BTreeSet::new();
        let endings = expired
            .iter()
            .filter(|row| {
                seen.insert(row.dependent_id) && graph.live.contains_key(&row.dependent_id)
            })
            .map(|row| {
                Ending::without_run(
                    row.dependent_id,
                    Status::Cancelled,
                    "blocker_failed",
                    format!("held for too long: request {} was not retried", row.blocker_id),
                )
            })
            .collect();
        let ripple = graph.end(&mut tx, endings).await?;
        tx.commit().await?;
        bell.ripple(&ripple);
    }
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
    let Some(mut tx) = term.begin(db).await? else { return Ok(()) };
    let made =
        sqlx::query_scalar!(r#"SELECT eve.ensure_partitions($1) AS "made!""#, PARTITION_DAYS)
            .fetch_one(&mut *tx)
            .await?;
    tx.commit().await?;
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
