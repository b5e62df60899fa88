//! Watching requests: one loop in a process, however many clients watch.
//!
//! Flow: a client's stream [`Hub::subscribe`]s; when Postgres says on `eve_changed` that something
//! changed - or after [`POLL`], should a notification be lost - the loop asks once per organisation
//! for all of its watched requests, and hands each to whoever watches it.
//!
//! Invariant: at most one such query per organisation in [`ROUND`], never one per client. A hub that
//! dies leaves streams which end; clients come back and get the state as it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::problem::{Kind, Problem};
use crate::db::Db;
use crate::ids::RequestId;
use crate::notify;
use crate::requests::{Request, Requests};
use crate::tenancy::Tenant;

/// A lost notification costs this long.
const POLL: Duration = Duration::from_secs(2);
/// Rounds begin at least this far apart.
const ROUND: Duration = Duration::from_millis(100);
/// Organisations that are asked about at one time.
const PARALLEL: usize = 4;
/// Most watchers of a process: each is an open connection.
const MAX_WATCHERS: usize = 10_000;
/// Most of them of one organisation: it takes four to keep all others out.
const MAX_OF_ONE: usize = MAX_WATCHERS / 4;
/// Most requests asked about in one statement.
const CHUNK: usize = 1_000;

/// What watchers see: nothing until the first round after they came.
type Seen = Option<Arc<Request>>;

/// Hands changes to watchers. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    watched: Mutex<HashMap<(Tenant, RequestId), watch::Sender<Seen>>>,
    wake: Notify,
}

/// One client's interest in one request; given up when dropped.
pub struct Subscription {
    hub: Hub,
    key: (Tenant, RequestId),
    receiver: watch::Receiver<Seen>,
}

impl Hub {
    /// Starts the loop, which ends with `shutdown`.
    pub fn start(db: Db, requests: Requests, shutdown: CancellationToken) -> Self {
        let inner = Arc::new(Inner { watched: Mutex::default(), wake: Notify::new() });
        let hub = Self { inner };
        let woken = hub.clone();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let wake = |_: &str, _: &str| woken.inner.wake.notify_one();
            notify::listen(db.pool().clone(), &[notify::CHANGED], stop, wake).await;
        });
        tokio::spawn(shutdown.run_until_cancelled_owned(hub.clone().rounds(requests)));
        hub
    }

    /// Watches a request from now on. Whether it exists is for the caller to find out, afterwards:
    /// then no change falls in between.
    pub fn subscribe(&self, tenant: Tenant, id: RequestId) -> Result<Subscription, Problem> {
        let mut watched = self.watched();
        let (mut all, mut own) = (0, 0);
        for ((of, _), sender) in watched.iter() {
            all += sender.receiver_count();
            own += if *of == tenant { sender.receiver_count() } else { 0 };
        }
        if all >= MAX_WATCHERS || own >= MAX_OF_ONE {
            return Err(Problem::new(
                Kind::Unavailable,
                "too many requests are being watched here",
            ));
        }
        let key = (tenant, id);
        let receiver = watched.entry(key).or_insert_with(|| watch::Sender::new(None)).subscribe();
        drop(watched);
        self.inner.wake.notify_one();
        Ok(Subscription { hub: self.clone(), key, receiver })
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<(Tenant, RequestId), watch::Sender<Seen>>> {
        // Nothing that could panic happens under it; if it did, the map would still be whole.
        self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn rounds(self, requests: Requests) {
        loop {
            let _ = tokio::time::timeout(POLL, self.inner.wake.notified()).await;
            let next = Instant::now() + ROUND;
            self.round(&requests).await;
            sleep_until(next).await;
        }
    }

    async fn round(&self, requests: &Requests) {
        let mut by_tenant: HashMap<Tenant, Vec<RequestId>> = HashMap::new();
        for (tenant, id) in self.watched().keys() {
            by_tenant.entry(*tenant).or_default().push(*id);
        }
        futures::stream::iter(by_tenant)
            .for_each_concurrent(PARALLEL, |(tenant, ids)| async move {
                for ids in ids.chunks(CHUNK) {
                    match requests.snapshot(tenant, ids).await {
                        Ok(found) => self.hand_out(tenant, found),
                        // The next round tries again.
                        Err(error) => tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "asking for watched requests failed"
                        ),
                    }
                }
            })
            .await;
    }

    fn hand_out(&self, tenant: Tenant, found: Vec<Request>) {
        let watched = self.watched();
        for request in found {
            if let Some(sender) = watched.get(&(tenant, request.id)) {
                sender.send_if_modified(|seen| {
                    let changed = seen.as_ref().is_none_or(|seen| is_change(seen, &request));
                    if changed {
                        *seen = Some(Arc::new(request));
                    }
                    changed
                });
            }
        }
    }
}

/// Whether watchers should hear of the difference: another status, or another run of the same.
pub fn is_change(before: &Request, after: &Request) -> bool {
    (before.status, before.generation, before.attempt)
        != (after.status, after.generation, after.attempt)
}

impl Subscription {
    /// The next state that this subscription has not seen; none when the hub is gone.
    pub async fn changed(&mut self) -> Option<Arc<Request>> {
        loop {
            self.receiver.changed().await.ok()?;
            if let Some(request) = self.receiver.borrow_and_update().clone() {
                return Some(request);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watched = self.hub.watched();
        // Ours is still counted.
        if watched.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.key);
        }
    }
}
