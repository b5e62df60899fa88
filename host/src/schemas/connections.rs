//! Sessions of the skills server: cached for each role, under one cap for the process.
//!
//! Flow: [`Connections::lease`] waits for the organisation's share and for one of the process's permits,
//! takes an idle session of that role or opens one, and closes the idle session that was used longest
//! ago when there would be too many. A [`Lease`] that ends well goes back; one that is dropped in the
//! middle of a call is stopped on the server before its permit is free.
//!
//! Invariants:
//! - Busy and idle sessions together never exceed the cap.
//! - An organisation never has more than a quarter of it, so that one cannot keep the others waiting;
//!   those who wait are served in the order in which they came.
//! - A session that served one run is reset before it serves another.
//! - A session is used only if every door of the template is shut to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Config};

use super::server::{Opened, Server};
use super::wire::{Budget, OverBudget};
use super::{SchemaError, SchemaName, limits, template};
use crate::ids::OrgId;

/// Idle sessions are closed after this.
const IDLE: Duration = Duration::from_secs(60);

/// Whose session: one role each.
type Key = (OrgId, SchemaName);

/// The sessions of this process.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Server,
    cap: usize,
    share: usize,
    permits: Arc<Semaphore>,
    shares: Mutex<HashMap<OrgId, Arc<Semaphore>>>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    key: Key,
    since: Instant,
    session: Session,
}

/// An open session.
#[derive(Debug)]
struct Session {
    client: Client,
    task: tokio::task::JoinHandle<()>,
    budget: Budget,
    pid: i32,
    /// What it served last.
    user: u64,
}

/// A session that a call has to itself.
#[derive(Debug)]
pub(super) struct Lease {
    connections: Connections,
    key: Key,
    session: Option<Session>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Connections {
    pub(super) fn new(server: Server, cap: usize) -> Connections {
        let cap = cap.max(1);
        Connections(Arc::new(Inner {
            server,
            cap,
            share: cap.div_ceil(4).max(2).min(cap),
            permits: Arc::new(Semaphore::new(cap)),
            shares: Mutex::new(HashMap::new()),
            idle: Mutex::new(Vec::new()),
        }))
    }

    /// Where they lead.
    pub(super) fn server(&self) -> &Server {
        &self.0.server
    }

    /// A session of a schema's role for `user`, which stands for one run, or one call of a person.
    pub(super) async fn lease(
        &self,
        org: OrgId,
        schema: &SchemaName,
        user: u64,
    ) -> Result<Lease, SchemaError> {
        let share = self.share_of(org);
        let closed = |error| SchemaError::unavailable("waiting for a session", error);
        let share = share.acquire_owned().await.map_err(closed)?;
        let permit = self.0.permits.clone().acquire_owned().await.map_err(closed)?;
        let key = (org, schema.clone());
        let mut lease =
            Lease { connections: self.clone(), key, session: None, permits: Some((share, permit)) };
        while let Some(mut session) = self.take_idle(&lease.key) {
            if session.client.is_closed() {
                continue;
            }
            session.budget.renew();
            if session.user == user || reset(&session.client).await.is_ok() {
                session.user = user;
                lease.session = Some(session);
                return Ok(lease);
            }
        }
        self.make_room();
        lease.session = Some(self.open(&lease.key, user).await?);
        Ok(lease)
    }

    async fn open(&self, (org, schema): &Key, user: u64) -> Result<Session, SchemaError> {
        const DOING: &str = "opening a session";
        let config = self.0.server.tenant(*org, schema);
        let Opened { client, task, budget } = self
            .0
            .server
            .open(&config)
            .await
            .map_err(|error| SchemaError::unavailable(DOING, error))?;
        let failed = |error| SchemaError::of_client(DOING, error, 0);
        let doors = client.query(&template::open_doors(), &[]).await.map_err(failed)?;
        if !doors.is_empty() {
            let doors: Vec<String> = doors.iter().map(|row| row.get(0)).collect();
            return Err(SchemaError::unavailable(
                DOING,
                format!(
                    "the skills server is not locked down: a skill would have {}; prepare it as a \
                     superuser, see docs/operating.md",
                    doors.join(", ")
                ),
            ));
        }
        let pid: i32 = client
            .query_one("SELECT pg_catalog.pg_backend_pid()", &[])
            .await
            .map_err(failed)?
            .get(0);
        Ok(Session { client, task, budget, pid, user })
    }

    fn share_of(&self, org: OrgId) -> Arc<Semaphore> {
        let mut shares = self.0.shares.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds are forgotten now and then.
        if shares.len() > 10_000 {
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        shares.entry(org).or_insert_with(|| Arc::new(Semaphore::new(self.0.share))).clone()
    }

    /// Whether a session of a schema waits to be used.
    pub(super) fn has_idle(&self, org: OrgId, schema: &SchemaName) -> bool {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.iter().any(|idle| idle.key.0 == org && idle.key.1 == *schema)
    }

    fn take_idle(&self, key: &Key) -> Option<Session> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was used last: the others may grow old.
        let index = idle.iter().rposition(|idle| idle.key == *key)?;
        Some(idle.remove(index).session)
    }

    /// Closes idle sessions until one more may be opened.
    fn make_room(&self) {
        let busy = self.0.cap - self.0.permits.available_permits();
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE && !idle.session.client.is_closed());
        while !idle.is_empty() && idle.len() + busy > self.0.cap {
            idle.remove(0);
        }
    }

    fn put_back(&self, key: Key, session: Session) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(Idle { key, since: Instant::now(), session });
    }
}

/// Everything of a session that one run could leave to the next. Prepared statements stay: they are the
/// driver's own.
async fn reset(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD SEQUENCES; DISCARD PLANS").await
}

impl Lease {
    /// The session. Whoever drops the lease while this works for it stops it on the server.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.session.as_mut().expect("a lease has its session until it ends").client
    }

    /// What really was in the way, where the session could not be used to the end.
    pub(super) fn explained(&self, error: SchemaError) -> SchemaError {
        let overdrawn = self.session.as_ref().is_some_and(|session| session.budget.is_overdrawn());
        match error {
            SchemaError::Unavailable { .. } if overdrawn => {
                SchemaError::Limit(OverBudget.to_string())
            }
            other => other,
        }
    }

    /// The call has ended and its session may serve others.
    pub(super) fn done(mut self) {
        if let Some(session) = self.session.take()
            && !session.client.is_closed()
        {
            self.connections.put_back(self.key.clone(), session);
        }
    }
}

impl Drop for Lease {
    /// In the middle of a call: the statement is cancelled, the session terminated if that does not
    /// help, and only then is its place free.
    fn drop(&mut self) {
        let (Some(session), Some(permits)) = (self.session.take(), self.permits.take()) else {
            return;
        };
        let (server, (org, schema)) = (self.connections.0.server.clone(), self.key.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            stop(&server, org, &schema, session).await;
            drop(permits);
        });
    }
}

async fn stop(server: &Server, org: OrgId, schema: &SchemaName, session: Session) {
    let config = server.tenant(org, schema);
    session.budget.renew();
    let quietly = async {
        server.cancel(&config, &session.client).await;
        // Answered only once the statement is over.
        session.client.batch_execute("ROLLBACK").await.is_ok()
    };
    if !matches!(tokio::time::timeout(limits::CANCEL, quietly).await, Ok(true)) {
        // It swallows its cancellation, or its answer is too large to be read to its end.
        if let Err(error) = terminate(server, &config, session.pid).await {
            tracing::warn!(%org, %schema, error, "a session could not be terminated");
        }
    }
    session.task.abort();
}

/// Terminates a session, and waits until it is gone: some of what Postgres computes is not to be
/// interrupted, and until then its place is taken.
async fn terminate(server: &Server, config: &Config, pid: i32) -> Result<(), String> {
    let said = |error: tokio_postgres::Error| error.to_string();
    let other = server.open(config).await.map_err(|error| error.to_string())?;
    // The role that logs in is the one whose sessions these are.
    other.client.batch_execute("SET ROLE NONE").await.map_err(said)?;
    let begun = Instant::now();
    let mut wait = Duration::from_millis(20);
    while begun.elapsed() < limits::STUBBORN {
        let there = "SELECT pg_catalog.pg_terminate_backend($1)";
        let row = other.client.query_one(there, &[&pid]).await.map_err(said)?;
        if !row.get::<_, bool>(0) {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
    Err(format!("it has not ended for {} minutes", limits::STUBBORN.as_secs() / 60))
}
