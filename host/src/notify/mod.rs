//! Bells: NOTIFY, sent after commits and coalesced, so that nobody has to poll to be prompt.
//!
//! Flow: whoever has committed a change rings the [`Bell`]; one task per process sends, from a session
//! of its own, at most one notification per channel and payload every 10 ms (50 ms for watchers).
//! [`listen`] is the other end.
//!
//! Invariants:
//! - A notification only saves time. Every listener also scans; a bell that dies with its process
//!   loses nothing.
//! - NOTIFY is never sent inside a commit that does work: it takes a lock that all committers share,
//!   and cost two to five times at 32 clients.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ids::RequestId;
use crate::requests::Ripple;

/// Requests became pending; the payload is their worker type.
pub const PENDING: &str = "eve_pending";
/// Some request changed; no payload. For watchers.
pub const CHANGED: &str = "eve_changed";
/// A running request was ended from outside; the payload is its id.
pub const INTERRUPTED: &str = "eve_interrupted";

/// Something is to be different in a cluster; no payload.
pub const DEPLOYMENTS: &str = "eve_deployments";
/// A running skill asks something of a cluster; no payload.
pub const ASKS: &str = "eve_asks";

const WORKER_SPACING: Duration = Duration::from_millis(10);
const WATCHER_SPACING: Duration = Duration::from_millis(50);

/// Rings other processes. Cheap to clone; ringing never blocks and never fails.
#[derive(Clone, Debug)]
pub struct Bell {
    rings: mpsc::UnboundedSender<Ring>,
}

#[derive(Debug)]
enum Ring {
    Pending(String),
    Changed,
    Interrupted(RequestId),
    Deployments,
    Asks,
}

impl Bell {
    /// Starts the task that sends, on `pool`'s database, until the last clone is dropped.
    pub fn start(pool: PgPool) -> Bell {
        let (rings, receiver) = mpsc::unbounded_channel();
        tokio::spawn(send(pool, receiver));
        Bell { rings }
    }

    /// Requests of this worker type can be claimed.
    pub fn pending(&self, worker_type: &str) {
        self.ring(Ring::Pending(worker_type.to_owned()));
    }

    /// Some request changed.
    pub fn changed(&self) {
        self.ring(Ring::Changed);
    }

    /// Something is to be different in a cluster.
    pub fn deployments(&self) {
        self.ring(Ring::Deployments);
    }

    /// A running skill asks something of a cluster.
    pub fn asks(&self) {
        self.ring(Ring::Asks);
    }

    /// Everything that a committed change of the graph means for others.
    pub fn ripple(&self, ripple: &Ripple) {
        for worker_type in &ripple.pending {
            self.pending(worker_type);
        }
        for id in &ripple.interrupted {
            self.ring(Ring::Interrupted(RequestId(*id)));
        }
        self.changed();
    }

    fn ring(&self, ring: Ring) {
        // The task ends only with the process.
        let _ = self.rings.send(ring);
    }
}

/// What has been rung and not been sent.
#[derive(Debug, Default)]
struct Gathered {
    pending: BTreeSet<String>,
    interrupted: Vec<RequestId>,
    deployments: bool,
    asks: bool,
    changed: bool,
}

impl Gathered {
    fn note(&mut self, ring: Ring) {
        match ring {
            Ring::Pending(worker_type) => {
                self.pending.insert(worker_type);
            }
            Ring::Changed => self.changed = true,
            Ring::Interrupted(id) => self.interrupted.push(id),
            Ring::Deployments => self.deployments = true,
            Ring::Asks => self.asks = true,
        }
    }

    /// Whether there is something for workers and reconcilers, who are told sooner than watchers.
    fn is_urgent(&self) -> bool {
        !self.pending.is_empty() || !self.interrupted.is_empty() || self.deployments || self.asks
    }
}

/// Gathers rings and sends what is due.
async fn send(pool: PgPool, mut rings: mpsc::UnboundedReceiver<Ring>) {
    let mut gathered = Gathered::default();
    let mut workers_due = Instant::now();
    let mut watchers_due = Instant::now();
    loop {
        let now = Instant::now();
        let due = if gathered.is_urgent() {
            Some(workers_due)
        } else if gathered.changed {
            Some(watchers_due)
        } else {
            None
        };
        match due {
            Some(at) if at <= now => {}
            Some(at) => {
                tokio::select! {
                    ring = rings.recv() => match ring {
                        Some(ring) => {
                            gathered.note(ring);
                            continue;
                        }
                        None => return,
                    },
                    () = tokio::time::sleep_until(at) => {}
                }
            }
            None => match rings.recv().await {
                Some(ring) => {
                    gathered.note(ring);
                    continue;
                }
                None => return,
            },
        }
        while let Ok(ring) = rings.try_recv() {
            gathered.note(ring);
        }
        let mut messages: Vec<(&str, String)> = Vec::new();
        let Gathered { pending, interrupted, deployments, asks, changed } = &mut gathered;
        messages.extend(std::mem::take(pending).into_iter().map(|kind| (PENDING, kind)));
        messages.extend(interrupted.drain(..).map(|id: RequestId| (INTERRUPTED, id.to_string())));
        if std::mem::take(deployments) {
            messages.push((DEPLOYMENTS, String::new()));
        }
        if std::mem::take(asks) {
            messages.push((ASKS, String::new()));
        }
        if *changed && watchers_due <= Instant::now() {
            messages.push((CHANGED, String::new()));
            *changed = false;
            watchers_due = Instant::now() + WATCHER_SPACING;
        }
        workers_due = Instant::now() + WORKER_SPACING;
        if let Err(error) = notify(&pool, &messages).await {
            // Lost on purpose: listeners scan, and a queue of old bells would help nobody.
            tracing::debug!(%error, "sending notifications failed");
        }
    }
}

async fn notify(pool: &PgPool, messages: &[(&str, String)]) -> Result<(), sqlx::Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let channels: Vec<&str> = messages.iter().map(|(channel, _)| *channel).collect();
    let payloads: Vec<&str> = messages.iter().map(|(_, payload)| payload.as_str()).collect();
    let mut tx = pool.begin().await?;
    // A notification need not survive a crash: no wait for the disk.
    sqlx::query!("SET LOCAL synchronous_commit = off").execute(&mut *tx).await?;
    sqlx::query!(
        "SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)",
        &channels as &[&str],
        &payloads as &[&str],
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await
}

/// Listens on `channels` and calls `heard(channel, payload)` for each notification, until `stop`.
/// Reconnects for ever; `heard("", "")` is called after each (re)connection, because something may
/// have been missed meanwhile.
pub async fn listen(
    pool: PgPool,
    channels: &[&str],
    stop: CancellationToken,
    mut heard: impl FnMut(&str, &str),
) {
    let mut wait = Duration::from_millis(100);
    while !stop.is_cancelled() {
        let session = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen_all(channels.iter().copied()).await?;
            heard("", "");
            wait = Duration::from_millis(100);
            loop {
                match listener.try_recv().await? {
                    Some(notification) => heard(notification.channel(), notification.payload()),
                    None => return Ok::<(), sqlx::Error>(()),
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            outcome = session => if let Err(error) = outcome {
                tracing::debug!(%error, "listening was interrupted");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(2)),
        }
    }
}
