//! The loop that holds everything that is claimed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::health::Health;
use super::ready::Ready;
use super::run;
use super::settle::{Settlement, settle};
use super::{RETRY, WorkerConfig, WorkerParts};
use crate::delivery::claim::{Appetite, Cursor};
use crate::delivery::finish::{self, Finished, Written};
use crate::delivery::lease;
use crate::ids::{OrgId, WorkerId};

/// How long after nothing was heard the queue is looked at anyway.
const SCAN: Duration = Duration::from_secs(1);
/// How often the worker compares what it holds with what the database says it holds.
const RECONCILE: Duration = Duration::from_secs(10);
/// Work is prefetched for so long.
const PREFETCH: Duration = Duration::from_millis(50);
/// How long no run has ended when what was prefetched goes back: runs turned out longer than those
/// that the prefetch was measured by.
const STALLED: Duration = Duration::from_secs(1);
/// Most requests in hand, running ones included.
const MAX_IN_HAND: usize = 1_000;
/// Transactions that go through the graph at one time.
const GRAPH_WRITERS: usize = 4;
/// Runs written by one of them: children of one orchestration, and blockers of one collector, would
/// else queue for its lock one by one.
const GRAPH_BATCH: usize = 256;

/// What the loop hears from other processes.
#[derive(Debug)]
pub(super) enum Event {
    Pending,
    Interrupted(Uuid),
}

/// A claimed request that is not acknowledged as ended yet.
#[derive(Debug)]
struct InHand {
    lease: i64,
    org: OrgId,
    /// A worker has died under it.
    suspect: bool,
    running: Option<AbortHandle>,
}

/// What a settlement brings back.
struct Settled {
    cursor: Cursor,
    batch: Vec<Finished>,
    outcome: Result<Settlement, sqlx::Error>,
}

/// A run that waits to be written through the graph.
struct ForGraph {
    finished: Finished,
    alone: bool,
}

/// A batch that went through the graph, and what came of each run; none means once more, alone.
type GraphWritten = (Vec<Finished>, Result<Vec<Option<Written>>, sqlx::Error>);

pub(super) struct Pool {
    id: WorkerId,
    config: WorkerConfig,
    parts: WorkerParts,
    settings: run::Settings,
    health: Health,
    bells: mpsc::UnboundedReceiver<Event>,
    /// None while a settlement has it.
    cursor: Option<Cursor>,
    in_hand: HashMap<Uuid, InHand>,
    ready: Ready,
    running: JoinSet<Finished>,
    /// Whose slots the running tasks have.
    slots_of: HashMap<tokio::task::Id, OrgId>,
    finished: Vec<Finished>,
    settling: JoinSet<Settled>,
    graph: JoinSet<GraphWritten>,
    graph_waiting: VecDeque<ForGraph>,
    /// There may be something to claim.
    hungry: bool,
    /// What is held has to be compared with the database before anything else is claimed.
    unsure: bool,
    reconcile_at: Instant,
    /// Postgres failed: nothing is tried before this.
    not_before: Option<Instant>,
    retry: Duration,
    /// Average wall-clock time of a run, in seconds.
    average: f64,
    /// When a run ended last, or there was none running.
    moved: Instant,
}

impl Pool {
    pub(super) fn new(
        id: WorkerId,
        config: WorkerConfig,
        parts: WorkerParts,
        settings: run::Settings,
        health: Health,
        bells: mpsc::UnboundedReceiver<Event>,
    ) -> Pool {
        Pool {
            id,
            cursor: Some(Cursor::new(id, config.worker_type.clone())),
            ready: Ready::new(config.slots),
            config,
            parts,
            settings,
            health,
            bells,
            in_hand: HashMap::new(),
            running: JoinSet::new(),
            slots_of: HashMap::new(),
            finished: Vec::new(),
            settling: JoinSet::new(),
            graph: JoinSet::new(),
            graph_waiting: VecDeque::new(),
            hungry: true,
            unsure: false,
            reconcile_at: Instant::now() + RECONCILE,
            not_before: None,
            retry: RETRY.0,
            average: PREFETCH.as_secs_f64(),
            moved: Instant::now(),
        }
    }

    pub(super) async fn work(&mut self, stop: &CancellationToken) {
        let mut scan = tokio::time::interval(SCAN);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.health.turns();
            self.start_runs();
            self.start_graph_writers();
            self.settle(true).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(settled) = self.settling.join_next() => self.settled(settled),
                Some(written) = self.graph.join_next() => self.graph_written(written),
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(event) = self.bells.recv() => self.heard(event),
                () = until(self.not_before) => self.not_before = None,
                _ = scan.tick() => {
                    self.hungry = true;
                    self.give_back_stalled().await;
                }
            }
        }
    }

    /// Gives back what has not started, lets the rest finish within the grace period, and gives back
    /// what does not.
    pub(super) async fn drain(&mut self) {
        let deadline = Instant::now() + self.config.grace;
        tracing::info!(running = self.running.len(), "draining");
        while !self.in_hand.is_empty() || !self.settling.is_empty() {
            // What waits for a slot; later, what a claim brings that was under way when the signal came.
            self.give_back_ready().await;
            self.start_graph_writers();
            self.settle(false).await;
            if self.in_hand.is_empty() && self.settling.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(settled) = self.settling.join_next() => self.settled(settled),
                Some(written) = self.graph.join_next() => self.graph_written(written),
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = until(self.not_before) => self.not_before = None,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        if self.in_hand.is_empty() {
            return;
        }
        tracing::warn!(count = self.in_hand.len(), "giving back what did not finish in time");
        self.running.shutdown().await;
        let started: Vec<(Uuid, i64)> =
            self.in_hand.iter().map(|(id, held)| (*id, held.lease)).collect();
        match lease::give_back(&self.parts.db, self.id, &[], &started).await {
            Ok(ripple) => self.parts.bell.ripple(&ripple),
            // They are rescued when this worker has been silent for long enough.
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "giving runs back failed");
            }
        }
    }

    /// Gives back what has not started, as if it had never been claimed.
    async fn give_back_ready(&mut self) {
        if self.ready.is_empty() || self.not_before.is_some() {
            return;
        }
        let leases = self.ready.leases();
        let given = {
            let _asking = self.health.asks();
            lease::give_back(&self.parts.db, self.id, &leases, &[]).await
        };
        match given {
            Ok(ripple) => {
                self.ready.clear();
                for (id, _) in leases {
                    self.forget(id);
                }
                self.parts.bell.ripple(&ripple);
            }
            Err(error) => self.postgres_failed("giving runs back", &error),
        }
    }

    /// Work that waits behind long runs is for whoever has a slot free.
    async fn give_back_stalled(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let stalled = self.moved.elapsed();
        if stalled >= STALLED {
            self.average = self.average.max(stalled.as_secs_f64());
            self.give_back_ready().await;
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Pending => self.hungry = true,
            // Somebody ended it; or had ended it, and it was retried and claimed again before the bell
            // came. The leases tell.
            Event::Interrupted(id) => self.unsure |= self.in_hand.contains_key(&id),
        }
    }

    fn forget(&mut self, id: Uuid) {
        self.in_hand.remove(&id);
    }

    /// Somebody else has what was held: nothing is to come of it any more. A run that has finished finds
    /// out when it is written.
    fn let_go(&mut self, id: Uuid, held: InHand) {
        match held.running {
            Some(abort) => abort.abort(),
            None => self.ready.remove(held.org, id),
        }
    }

    fn start_runs(&mut self) {
        while self.running.len() < self.config.slots {
            let Some(run) = self.ready.start() else { return };
            if self.running.is_empty() {
                self.moved = Instant::now();
            }
            let (id, org) = (run.id.0, run.org_id);
            let task = run::execute(self.parts.clone(), self.settings.clone(), self.id, run);
            let abort = self.running.spawn(task);
            self.slots_of.insert(abort.id(), org);
            if let Some(held) = self.in_hand.get_mut(&id) {
                held.running = Some(abort);
            }
        }
    }

    fn start_graph_writers(&mut self) {
        if self.not_before.is_some() {
            return;
        }
        while self.graph.len() < GRAPH_WRITERS {
            let Some(next) = self.graph_waiting.pop_front() else { return };
            let (db, id) = (self.parts.db.clone(), self.id);
            if next.alone {
                self.graph.spawn(async move {
                    let written = finish::with_graph(&db, id, &next.finished).await;
                    (vec![next.finished], written.map(|written| vec![Some(written)]))
                });
                continue;
            }
            let mut batch = vec![next.finished];
            while batch.len() < GRAPH_BATCH
                && let Some(next) = self.graph_waiting.pop_front_if(|next| !next.alone)
            {
                batch.push(next.finished);
            }
            self.graph.spawn(async move {
                let written = finish::batch_with_graph(&db, id, &batch).await;
                (batch, written)
            });
        }
    }

    /// How many requests may be in hand: the slots, and what keeps them busy for a while.
    fn window(&self) -> usize {
        let ahead = PREFETCH.as_secs_f64() / self.average.max(1e-6) * self.config.slots as f64;
        (self.config.slots + ahead as usize).min(MAX_IN_HAND.max(self.config.slots))
    }

    /// Starts a settlement if there is anything to write or to claim.
    async fn settle(&mut self, claiming: bool) {
        if self.not_before.is_some() || !self.settling.is_empty() {
            return;
        }
        if self.unsure || self.reconcile_at <= Instant::now() {
            self.reconcile().await;
            if self.not_before.is_some() {
                return;
            }
        }
        let appetite = if claiming && self.hungry { self.appetite() } else { None };
        if self.finished.is_empty() && appetite.is_none() {
            return;
        }
        let Some(mut cursor) = self.cursor.take() else { return };
        if appetite.is_some() {
            // A bell that rings from here on may be about what this claim does not see.
            self.hungry = false;
        }
        let batch = std::mem::take(&mut self.finished);
        let (db, worker) = (self.parts.db.clone(), self.id);
        self.settling.spawn(async move {
            let outcome = settle(&db, worker, &mut cursor, &batch, appetite.as_ref()).await;
            Settled { cursor, batch, outcome }
        });
    }

    fn appetite(&self) -> Option<Appetite> {
        let window = self.window();
        // What this settlement writes is free by its own commit.
        let staying = self.in_hand.len().saturating_sub(self.finished.len());
        let batch = window.saturating_sub(staying);
        if batch == 0 {
            return None;
        }
        let ending: std::collections::HashSet<Uuid> =
            self.finished.iter().map(|finished| finished.run.id.0).collect();
        let mut held: HashMap<OrgId, usize> = HashMap::new();
        for (id, run) in &self.in_hand {
            if !ending.contains(id) {
                *held.entry(run.org).or_default() += 1;
            }
        }
        Some(Appetite {
            batch,
            org_cap: (window * 3).div_ceil(4),
            held,
            last_slot: batch == 1 && window > 1,
            suspect: self.running.len() < self.config.slots
                && !self.in_hand.values().any(|held| held.suspect),
        })
    }

    fn settled(&mut self, settled: Result<Settled, tokio::task::JoinError>) {
        let Settled { cursor, batch, outcome } = match settled {
            Ok(settled) => settled,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.cursor = Some(cursor);
        match outcome {
            Ok(settlement) => {
                self.retry = RETRY.0;
                let mut left = settlement.left.into_iter().peekable();
                let mut freed = false;
                for (index, finished) in batch.into_iter().enumerate() {
                    if left.next_if_eq(&index).is_some() {
                        let alone = !finished.is_simple();
                        self.graph_waiting.push_back(ForGraph { finished, alone });
                    } else {
                        self.acknowledge(&finished);
                        freed = true;
                    }
                }
                if freed {
                    self.parts.bell.changed();
                }
                match settlement.claimed {
                    Some(claimed) => {
                        self.hungry |= freed || !claimed.is_empty();
                        for run in claimed {
                            let held = InHand {
                                lease: run.lease,
                                org: run.org_id,
                                suspect: run.rescues > 0,
                                running: None,
                            };
                            // Cancelled, retried and claimed again before anybody told: the run of before
                            // has nothing left to do.
                            if let Some(before) = self.in_hand.insert(run.id.0, held) {
                                self.let_go(run.id.0, before);
                            }
                            self.ready.push(run);
                        }
                    }
                    None => self.hungry |= freed,
                }
            }
            Err(error) => {
                self.finished.splice(0..0, batch);
                self.postgres_failed("settling", &error);
            }
        }
    }

    /// A run is written: its slot is free.
    fn acknowledge(&mut self, finished: &Finished) {
        // Claimed again meanwhile, after a retry: that one stays.
        if self.in_hand.get(&finished.run.id.0).is_some_and(|h| h.lease == finished.run.lease) {
            self.forget(finished.run.id.0);
        }
        let outcome = match &finished.outcome {
            finish::Outcome::Completed { .. } => "completed",
            finish::Outcome::Waiting { .. } => "waiting",
            finish::Outcome::Failed { code, .. } => code.as_str(),
        };
        metrics::counter!(
            "eve_runs_total",
            "worker_type" => self.config.worker_type.clone(),
            "outcome" => outcome
        )
        .increment(1);
    }

    fn graph_written(&mut self, written: Result<GraphWritten, tokio::task::JoinError>) {
        let (batch, outcome) = match written {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match outcome {
            Ok(written) => {
                for (finished, written) in batch.into_iter().zip(written) {
                    match written {
                        Some(Written::Done(ripple)) => {
                            self.acknowledge(&finished);
                            self.parts.bell.ripple(&ripple);
                            if !finished.effects.orders.is_empty() {
                                self.parts.bell.deployments();
                            }
                        }
                        Some(Written::LeaseLost) => {
                            let request = finished.run.id;
                            tracing::debug!(%request, "a run had lost its lease; discarded");
                            self.acknowledge(&finished);
                        }
                        None => {
                            self.graph_waiting.push_front(ForGraph { finished, alone: true });
                        }
                    }
                }
                self.hungry = true;
            }
            Err(error) => {
                let alone = batch.len() == 1;
                // Behind the others: should it be this one's own trouble, they are not to wait for it.
                for finished in batch {
                    let alone = alone || !finished.is_simple();
                    self.graph_waiting.push_back(ForGraph { finished, alone });
                }
                self.postgres_failed("ending a run", &error);
            }
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, Finished), tokio::task::JoinError>) {
        let task = match &ended {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        if let Some(org) = self.slots_of.remove(&task) {
            self.ready.ended(org);
        }
        match ended {
            Ok((_, finished)) => {
                let seconds = finished.wall.as_secs_f64();
                self.average += (seconds - self.average) / 16.0;
                self.moved = Instant::now();
                self.finished.push(finished);
            }
            // Interrupted: it is forgotten already.
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn postgres_failed(&mut self, doing: &'static str, error: &sqlx::Error) {
        let error: &dyn std::error::Error = error;
        tracing::warn!(doing, error, "Postgres failed; trying again");
        self.not_before = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY.1);
        self.unsure = true;
        self.hungry = true;
    }

    /// Compares what is held with what the database says: claims whose answer was lost go back, runs
    /// that were taken away are stopped.
    async fn reconcile(&mut self) {
        let held: Vec<(Uuid, i64)> =
            self.in_hand.iter().map(|(id, held)| (*id, held.lease)).collect();
        let compared = {
            let _asking = self.health.asks();
            lease::reconcile(&self.parts.db, self.id, &held).await
        };
        match compared {
            Ok(kept) => {
                for (id, _) in held {
                    if kept.contains(&id) {
                        continue;
                    }
                    self.hungry = true;
                    if let Some(held) = self.in_hand.remove(&id) {
                        self.let_go(id, held);
                    }
                }
                self.unsure = false;
                self.reconcile_at = Instant::now() + RECONCILE;
            }
            Err(error) => self.postgres_failed("comparing leases", &error),
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
