//! Two transactions at once, one test for each race that the design names.
//!
//! A test locks a row ([`Stage::hold`]), starts both sides one after the other, each when it sees in
//! `pg_stat_activity` that the one before waits for a lock ([`Stage::until_waiting`]), and lets the row
//! go: who came first goes first, for Postgres queues those who wait for a row. Afterwards the outcome
//! is one of the two serial ones, and the invariants hold.

mod deployments;
mod duties;
mod graph;
mod orchestrations;

use std::time::Duration;

use sqlx::{Postgres, Transaction};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::invariants;
use super::machine::{finished, furnish, outcome, plain_request};
use super::operations::How;
use crate::db::Scope;
use crate::delivery::claim::{Appetite, Claimed, Cursor};
use crate::delivery::finish::{self, Finished, Written};
use crate::ids::{RequestId, WorkerId};
use crate::notify::Bell;
use crate::requests::{
    Blocker, BlockerRef, NewRequest, OnFailure, Origin, ReplyTo, Request, RequestError, Requests,
};
use crate::runtime::Effects;
use crate::tenancy::{Actor, OrgRole, Tenant};
use crate::testing::TestDatabase;

/// When a test gives up waiting for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database with one organisation and one worker.
struct Stage {
    database: TestDatabase,
    tenant: Tenant,
    requests: Requests,
    bell: Bell,
    worker: WorkerId,
}

impl Stage {
    async fn set() -> Stage {
        let database = TestDatabase::fresh().await;
        furnish(&database).await;
        let tenant = database.org("acme").await;
        let bell = Bell::start(database.db.pool().clone());
        let requests = Requests::new(database.db.clone(), bell.clone());
        Stage { database, tenant, requests, bell, worker: WorkerId(Uuid::new_v4()) }
    }

    // ---- setting up -------------------------------------------------------------------------------

    async fn create(&self, new: Vec<NewRequest>) -> Vec<RequestId> {
        let origin = Origin { actor: Actor::Platform, schedule: None };
        let created = self.requests.create(self.tenant, &origin, new, None).await;
        created.expect("a creation").requests.into_iter().map(|request| request.id).collect()
    }

    async fn one(&self, new: NewRequest) -> RequestId {
        self.create(vec![new]).await[0]
    }

    /// Everything that is pending, under leases of the stage's worker.
    async fn claim(&self) -> Vec<Claimed> {
        let appetite = Appetite {
            batch: 100,
            org_cap: 100,
            held: Default::default(),
            last_slot: false,
            suspect: true,
        };
        let mut tx = self.database.db.begin(Scope::Engine).await.expect("a transaction");
        let mut cursor = Cursor::new(self.worker, "general".into());
        let claimed = cursor.claim(&mut tx, &appetite).await.expect("a claim");
        tx.commit().await.expect("a commit");
        claimed
    }

    /// The only pending request, claimed.
    async fn claim_one(&self) -> Claimed {
        let mut claimed = self.claim().await;
        assert_eq!(claimed.len(), 1, "{claimed:?}");
        claimed.remove(0)
    }

    /// Ends a run while nothing else happens.
    async fn finish(&self, run: &Claimed, how: How, effects: Effects) {
        let finished = finished(run.clone(), outcome(how), effects);
        let written = finish::with_graph(&self.database.db, self.worker, &finished).await;
        assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
    }

    /// An orchestration that waits for `children` which reply to it, all of them claimed.
    async fn orchestration(&self, children: usize) -> (RequestId, Vec<Claimed>) {
        let id = self.one(plain_request()).await;
        let run = self.claim_one().await;
        let new = || (RequestId::generate(), replying());
        let effects =
            Effects { creates: (0..children).map(|_| new()).collect(), ..Effects::default() };
        self.finish(&run, How::Waiting, effects).await;
        let mut runs = self.claim().await;
        runs.sort_by_key(|run| run.id);
        assert_eq!(runs.len(), children);
        (id, runs)
    }

    // ---- the two sides ----------------------------------------------------------------------------

    fn finishing(&self, run: &Claimed, how: How, effects: Effects) -> JoinHandle<Written> {
        self.writing(finished(run.clone(), outcome(how), effects))
    }

    fn writing(&self, finished: Finished) -> JoinHandle<Written> {
        let (db, worker) = (self.database.db.clone(), self.worker);
        tokio::spawn(async move {
            finish::with_graph(&db, worker, &finished).await.expect("a run is written")
        })
    }

    fn creating(&self, new: NewRequest) -> JoinHandle<RequestId> {
        let (requests, tenant) = (self.requests.clone(), self.tenant);
        tokio::spawn(async move {
            let origin = Origin { actor: Actor::Platform, schedule: None };
            let created = requests.create(tenant, &origin, vec![new], None).await;
            created.expect("a creation").requests[0].id
        })
    }

    fn cancelling(&self, id: RequestId) -> JoinHandle<Result<Request, RequestError>> {
        let (requests, tenant) = (self.requests.clone(), self.tenant);
        tokio::spawn(async move { requests.cancel(tenant, &Actor::Platform, id, None).await })
    }

    fn retrying(&self, id: RequestId) -> JoinHandle<Result<Request, RequestError>> {
        let (requests, tenant) = (self.requests.clone(), self.tenant);
        tokio::spawn(async move { requests.retry(tenant, &Actor::Platform, id).await })
    }

    // ---- who waits for whom -----------------------------------------------------------------------

    /// Locks a request's row until the transaction is dropped.
    async fn hold(&self, id: RequestId) -> Transaction<'static, Postgres> {
        let mut tx = self.database.db.pool().begin().await.expect("a transaction");
        let held = sqlx::query("SELECT FROM eve.queue WHERE id = $1 FOR NO KEY UPDATE")
            .bind(id.0)
            .fetch_all(&mut *tx)
            .await
            .expect("a lock");
        assert_eq!(held.len(), 1, "{id} is open");
        tx
    }

    /// Until so many transactions wait for somebody's lock.
    async fn until_waiting(&self, count: i64) {
        let waiting = async {
            loop {
                let waiting: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0",
                )
                .fetch_one(self.database.db.pool())
                .await
                .expect("pg_stat_activity");
                if waiting >= count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("somebody waits for a lock");
    }

    // ---- looking ----------------------------------------------------------------------------------

    async fn request(&self, id: RequestId) -> Request {
        self.requests.get(self.tenant, id).await.expect("a request")
    }

    /// Its status, and why if it ended badly: `cancelled: blocker_failed`.
    async fn state(&self, id: RequestId) -> String {
        let request = self.request(id).await;
        match request.error {
            Some(problem) => format!("{}: {}", request.status, problem.code),
            None => request.status.to_string(),
        }
    }

    async fn count(&self, sql: &'static str, id: RequestId) -> i64 {
        sqlx::query_scalar(sql)
            .bind(id.0)
            .fetch_one(self.database.db.pool())
            .await
            .expect("a count")
    }

    /// Events that an orchestration has not been told of, and will be.
    async fn unread(&self, orchestration: RequestId) -> i64 {
        self.count(
            "SELECT count(*) FROM eve.inbox
              WHERE orchestration_id = $1 AND wakeup_id IS NULL AND discarded IS NULL",
            orchestration,
        )
        .await
    }

    async fn open_wakeups(&self, orchestration: RequestId) -> i64 {
        self.count("SELECT count(*) FROM eve.queue WHERE wakes = $1", orchestration).await
    }

    async fn check(&self) {
        invariants::hold(&self.database.db).await;
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    One,
    Other,
}

const BOTH: [First; 2] = [First::One, First::Other];

/// A request that waits for another.
fn after(blockers: &[RequestId], on_failure: OnFailure) -> NewRequest {
    let blocker = |id: &RequestId| Blocker { on: BlockerRef::Id(*id), on_failure };
    NewRequest { blocked_by: blockers.iter().map(blocker).collect(), ..plain_request() }
}

/// A child that replies to the run that creates it.
fn replying() -> NewRequest {
    NewRequest { reply_to: Some(ReplyTo::Orchestrator { request_id: None }), ..plain_request() }
}
