//! A worker: claims requests of one worker type and runs their skills.
//!
//! Flow: one loop (`Pool`) holds everything that is claimed. Jobs go to the runtime's own threads;
//! their reports come back and wait for the next *settlement*: one transaction that writes finished
//! runs and claims new ones. Only one settlement is under way at a time; what finishes meanwhile is
//! the next one's batch, so batches grow with the load and an idle worker adds no latency. Runs with
//! dependents or effects are written apart (`delivery::finish::with_graph`), a few at a time.
//!
//! Invariants:
//! - A slot is free only once the commit that ended its run is acknowledged.
//! - Work is prefetched for 50 ms at most: another worker may be idle.
//! - When Postgres is away, finished runs are kept and written when it is back. What the outage leaves
//!   unclear (did that commit happen?) is settled by the lease: writing twice finds no row.

pub mod health;
mod pool;
mod ready;
mod run;
mod settle;
mod why;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::delivery::lease::{BEAT, Heartbeat};
use crate::deployments::Deployments;
use crate::ids::WorkerId;
use crate::notify::{self, Bell};
use crate::requests::Requests;
use crate::runtime::Runtime;
use crate::schemas::Schemas;
use crate::skills::loader::Loader;
use health::Health;
use pool::{Event, Pool};
pub(crate) use why::Why;

/// Waits after Postgres failed: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The pool that it belongs to.
    pub worker_type: String,
    /// Runs at one time.
    pub slots: usize,
    /// How long it may go on after it was told to stop.
    pub grace: Duration,
    /// The pod's or the machine's name.
    pub host: String,
}

/// What a worker works with.
#[derive(Clone)]
pub struct WorkerParts {
    /// The platform's database.
    pub db: Db,
    /// Rings others.
    pub bell: Bell,
    /// For the guests' queue calls.
    pub requests: Requests,
    /// Runs skills.
    pub runtime: Runtime,
    /// Loads them.
    pub loader: Loader,
    /// For the guests' database calls.
    pub schemas: Schemas,
    /// For the guests' calls about deployments.
    pub deployments: Deployments,
}

/// Works until `stop`, then drains. Returns when everything is finished or given back. How it does, it
/// notes in `health`.
pub async fn run(
    config: WorkerConfig,
    parts: WorkerParts,
    health: Health,
    stop: CancellationToken,
) {
    let id = WorkerId::generate();
    let heartbeat = Heartbeat {
        worker_id: id,
        worker_type: config.worker_type.clone(),
        host: config.host.clone(),
        fingerprint: parts.runtime.fingerprint().to_owned(),
        slots: config.slots,
    };
    let settings = run::Settings::default();
    // Before the first claim: a run without its grants would fail for good.
    let mut wait = RETRY.0;
    let mut said = None;
    while let Err(error) = settings.refresh(&parts.db, &config.worker_type).await {
        health.waits("the worker type may not be read, or cannot be: see the log");
        // A login that may not do it yet waits for as long as nobody grants it.
        if said.replace(error.to_string()) != Some(error.to_string()) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the worker type cannot be read; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
        }
    }
    let draining = Arc::new(AtomicBool::new(false));
    let over = CancellationToken::new();
    let beating = tokio::spawn(beat(
        heartbeat.clone(),
        parts.db.clone(),
        settings.clone(),
        health.clone(),
        draining.clone(),
        over.clone(),
    ));
    let (heard, bells) = mpsc::unbounded_channel();
    let listening = {
        let (pool, over) = (parts.db.pool().clone(), over.clone());
        let worker_type = config.worker_type.clone();
        tokio::spawn(async move {
            notify::listen(
                pool,
                &[notify::PENDING, notify::INTERRUPTED],
                over,
                |channel, payload| {
                    let event = match channel {
                        notify::INTERRUPTED => match payload.parse() {
                            Ok(id) => Event::Interrupted(id),
                            Err(_) => return,
                        },
                        notify::PENDING if payload != worker_type => return,
                        // Requests are pending, or the connection is new and something may have been
                        // missed.
                        _ => Event::Pending,
                    };
                    // The loop ends after this task.
                    let _ = heard.send(event);
                },
            )
            .await;
        })
    };
    tracing::info!(worker = %id, worker_type = config.worker_type, slots = config.slots, "working");

    health.works(parts.runtime.clone(), beating.abort_handle());
    let mut pool = Pool::new(id, config, parts.clone(), settings, health.clone(), bells);
    pool.work(&stop).await;
    health.drains();
    draining.store(true, Ordering::Relaxed);
    pool.drain().await;

    over.cancel();
    for task in [beating, listening] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a worker's task panicked");
        }
    }
    if let Err(error) = heartbeat.leave(&parts.db).await {
        tracing::warn!(%error, "the worker's entry stays until it is found silent");
    }
    tracing::info!(worker = %id, "stopped");
}

/// Keeps the heartbeat, and the worker type's settings fresh. Dies with the process: then the worker
/// is silent, which is the point.
async fn beat(
    heartbeat: Heartbeat,
    db: Db,
    settings: run::Settings,
    health: Health,
    draining: Arc<AtomicBool>,
    over: CancellationToken,
) {
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let beaten = heartbeat.beat(&db, draining.load(Ordering::Relaxed)).await;
        if beaten.is_ok() {
            health.beats();
        }
        if let Err(error) = beaten.and(settings.refresh(&db, &heartbeat.worker_type).await) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a heartbeat failed");
        }
    }
}
