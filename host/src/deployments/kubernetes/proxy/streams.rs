//! What is open, and for how long it may be.
//!
//! Every answer holds a [`Ticket`] until it has come to its end. Tickets of one credential for one
//! environment share a guard: a task that asks every [`LOOK`] whether the caller would still be let in as
//! the same identity, and cuts all of them if not. It ends when it finds that nobody holds a ticket.
//!
//! It lives in this process, as the connections do: when the process dies, they are gone as well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Again, Call, Entry, ProxyError};
use crate::deployments::room::{Room, Seat};
use crate::deployments::{DeployError, Deployments};
use crate::ids::OrgId;
use crate::tenancy::auth::AuthError;

/// How often it is looked whether a caller would still be let in. What was read of a credential is
/// remembered for five seconds besides, on replicas other than the one that revoked it.
const LOOK: Duration = Duration::from_secs(2);
/// How long answers go on while nobody can be asked, because the database is away.
const BLIND: Duration = Duration::from_secs(60);
/// How long anything may go on.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// What one credential may have open in one environment: a terminal full of k9s has a few dozen watches.
const MOST: usize = 200;

/// What all credentials of all organisations may have open in a process; one organisation a quarter of it.
const MOST_OF_ALL: usize = 4_000;

/// Whose tickets, for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// A hash of the credential.
    pub credential: [u8; 32],
    /// The organisation.
    pub org: OrgId,
    /// The environment, and as whom it is entered.
    pub entry: Entry,
}

type Place = ([u8; 32], OrgId, uuid::Uuid, super::Identity);

impl Key {
    fn place(&self) -> Place {
        (self.credential, self.org, self.entry.environment, self.entry.identity)
    }
}

/// Everything that is open in this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Streams {
    open: Arc<Mutex<HashMap<Place, Arc<Guard>>>>,
    room: Room,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { open: Arc::default(), room: Room::new("calls to clusters", MOST_OF_ALL) }
    }
}

#[derive(Debug, Default)]
struct Guard {
    cut: CancellationToken,
    held: AtomicUsize,
}

/// Why something does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The caller would not be let in any more.
    Revoked,
    /// It has gone on for as long as anything may.
    Time,
    /// The control plane stops.
    Shutdown,
}

impl Over {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Over::Revoked => "the access to this environment was withdrawn",
            Over::Time => "an hour is over, and nothing goes on for longer",
            Over::Shutdown => "the control plane stops",
        }
    }
}

/// Leave to go on, for now.
#[derive(Debug)]
pub struct Ticket {
    guard: Arc<Guard>,
    /// The organisation's.
    _seat: Seat,
    cluster: String,
    until: Instant,
    shutdown: CancellationToken,
}

impl Ticket {
    /// The cluster that it is for.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Waits until it is no longer good.
    pub async fn over(&self) -> Over {
        tokio::select! {
            biased;
            () = self.guard.cut.cancelled() => Over::Revoked,
            () = self.shutdown.cancelled() => Over::Shutdown,
            () = tokio::time::sleep_until(self.until) => Over::Time,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.guard.held.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Streams {
    /// A ticket for a caller who was let in just now.
    pub(super) fn admit(
        &self,
        deployments: &Deployments,
        key: Key,
        call: &Call,
    ) -> Result<Ticket, ProxyError> {
        let seat = self.room.take(key.org).map_err(|full| ProxyError::TooMany(full.0))?;
        let (guard, is_new) = self.guard(&key)?;
        if is_new {
            let watch = Watch {
                streams: self.clone(),
                key: key.clone(),
                guard: guard.clone(),
                deployments: deployments.clone(),
                again: call.again.clone(),
                env: call.env.clone(),
            };
            tokio::spawn(watch.run());
        }
        Ok(Ticket {
            guard,
            _seat: seat,
            cluster: key.entry.cluster,
            until: Instant::now() + LONGEST,
            shutdown: call.shutdown.clone(),
        })
    }

    /// The guard of a key, with one more who holds a ticket of it.
    fn guard(&self, key: &Key) -> Result<(Arc<Guard>, bool), ProxyError> {
        let mut open = self.lock();
        let known = open.get(&key.place()).filter(|guard| !guard.cut.is_cancelled()).cloned();
        let is_new = known.is_none();
        let guard = known.unwrap_or_default();
        if guard.held.fetch_add(1, Ordering::AcqRel) >= MOST {
            guard.held.fetch_sub(1, Ordering::AcqRel);
            return Err(ProxyError::TooMany(format!(
                "{MOST} calls of this credential are open in this environment, and no more may be"
            )));
        }
        open.insert(key.place(), guard.clone());
        Ok((guard, is_new))
    }

    /// Whether nobody holds a ticket; then the guard is forgotten.
    fn is_idle(&self, key: &Key, guard: &Arc<Guard>) -> bool {
        let mut open = self.lock();
        let idle = guard.held.load(Ordering::Acquire) == 0;
        if idle {
            Self::forget(&mut open, key, guard);
        }
        idle
    }

    fn cut(&self, key: &Key, guard: &Arc<Guard>) {
        Self::forget(&mut self.lock(), key, guard);
        guard.cut.cancel();
    }

    fn forget(open: &mut HashMap<Place, Arc<Guard>>, key: &Key, guard: &Arc<Guard>) {
        if open.get(&key.place()).is_some_and(|known| Arc::ptr_eq(known, guard)) {
            open.remove(&key.place());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Arc<Guard>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What looks after the tickets of one key.
struct Watch {
    streams: Streams,
    key: Key,
    guard: Arc<Guard>,
    deployments: Deployments,
    again: Again,
    env: String,
}

/// What somebody is, who was let in a while ago.
enum Standing {
    Good,
    Lost,
    /// Nobody could be asked.
    Unknown,
}

impl Watch {
    async fn run(self) {
        let mut seen = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if self.streams.is_idle(&self.key, &self.guard) {
                return;
            }
            match self.standing().await {
                Standing::Good => seen = Instant::now(),
                Standing::Unknown if seen.elapsed() < BLIND => {}
                Standing::Unknown | Standing::Lost => {
                    self.streams.cut(&self.key, &self.guard);
                    return;
                }
            }
        }
    }

    async fn standing(&self) -> Standing {
        let caller = match (self.again)().await {
            Ok(caller) => caller,
            Err(AuthError::Database(_) | AuthError::KeysUnavailable) => return Standing::Unknown,
            Err(_) => return Standing::Lost,
        };
        match self.deployments.entry(&caller, &self.env).await {
            // Another identity or another environment of the same name: it is not the same access.
            Ok(entry) if entry == self.key.entry => Standing::Good,
            Ok(_) => Standing::Lost,
            Err(ProxyError::Deploy(DeployError::Database { .. })) => Standing::Unknown,
            Err(_) => Standing::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployments::kubernetes::connection::Identity;

    fn key(credential: u8) -> Key {
        Key {
            credential: [credential; 32],
            org: OrgId(uuid::Uuid::nil()),
            entry: Entry {
                environment: uuid::Uuid::nil(),
                cluster: "local".into(),
                namespace: "acme-dev".into(),
                identity: Identity::Editor,
            },
        }
    }

    #[test]
    fn a_credential_has_so_many_and_another_its_own() {
        let streams = Streams::default();
        let (guard, is_new) = streams.guard(&key(1)).expect("the first");
        assert!(is_new);
        for _ in 1..MOST {
            let (same, is_new) = streams.guard(&key(1)).expect("another");
            assert!(Arc::ptr_eq(&guard, &same) && !is_new);
        }
        assert!(matches!(streams.guard(&key(1)), Err(ProxyError::TooMany(_))));
        assert!(streams.guard(&key(2)).is_ok());
        assert!(!streams.is_idle(&key(1), &guard));
        guard.held.store(0, Ordering::Release);
        assert!(streams.is_idle(&key(1), &guard));
        assert_eq!(streams.lock().len(), 1, "what is idle is forgotten");
    }

    #[tokio::test]
    async fn what_is_cut_stays_cut_and_who_comes_back_has_a_guard_of_his_own() {
        let streams = Streams::default();
        let (guard, _) = streams.guard(&key(1)).expect("the first");
        let ticket = Ticket {
            guard: guard.clone(),
            _seat: streams.room.take(key(1).org).expect("a seat"),
            cluster: "local".into(),
            until: Instant::now() + LONGEST,
            shutdown: CancellationToken::new(),
        };
        tokio::select! {
            biased;
            over = ticket.over() => panic!("{over:?}"),
            () = std::future::ready(()) => {}
        }
        streams.cut(&key(1), &guard);
        assert_eq!(ticket.over().await, Over::Revoked);
        let (again, is_new) = streams.guard(&key(1)).expect("again");
        assert!(is_new && !Arc::ptr_eq(&guard, &again));
        drop(ticket);
        assert_eq!(guard.held.load(Ordering::Acquire), 0);
        assert!(!again.cut.is_cancelled());
    }
}
