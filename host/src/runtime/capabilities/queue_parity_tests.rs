//! The platform says what the SDK's fake host says: the table of calls that `sdk` runs against that
//! (`sdk/src/testing/parity_tests.rs`), through the functions that a guest's calls land in.

use std::sync::{Arc, LazyLock};

use chrono::Utc;
use serde_json::{Value, json};

use super::db::Database;
use super::deploy::Deploys;
use super::log::SharedLog;
use super::memory_queue::MemoryQueue;
use super::queue::{Effects, Queue};
use crate::ids::RequestId;
use crate::requests::{NewRequest, RequestResult, Status};
use crate::runtime::bindings::eve::skill::{queue as contract, types};
use crate::runtime::context::Context;
use crate::runtime::limits::{MemoryAccount, MemoryBudget, StoreLimiter};
use crate::runtime::{Job, Verdict, verdict};

#[path = "../../../../sdk/src/testing/refusals.rs"]
mod refusals;

use refusals::{Call, ENDED, OPEN, Platform, RUN, conversions};

conversions!();

static IO: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

fn account() -> Arc<MemoryAccount> {
    Arc::new(MemoryAccount::open(&MemoryBudget::new(0, 1), 0))
}

/// What a store carries whose guest has just begun.
fn begun() -> Context {
    let id = |text: &str| -> RequestId { text.parse().unwrap() };
    let host = Arc::new(MemoryQueue::default());
    let request: NewRequest = serde_json::from_value(json!({ "worker_type": "general" })).unwrap();
    let creates = [RUN, OPEN, ENDED].map(|text| (id(text), request.clone())).to_vec();
    host.commit(RequestId::generate(), &Effects { creates, ..Effects::default() });
    host.finish(RequestResult {
        request_id: id(ENDED),
        status: Status::Completed,
        generation: 1,
        summary: None,
        data: None,
        error: None,
        tokens_used: None,
        cost: None,
        attempt: 1,
        started_at: None,
        finished_at: Utc::now(),
        duration_us: None,
        cpu_us: None,
        memory_peak_bytes: None,
    });
    let queue = Queue::new(host.clone(), IO.handle().clone());
    let job = Job::bare(id(RUN), host);
    let db = Database::new(job.db.clone(), IO.handle().clone());
    let deploys = Deploys::new(job.deployments.clone(), IO.handle().clone());
    let limiter = StoreLimiter::new(account());
    Context::new(Box::new(job), SharedLog::default(), queue, db, deploys, limiter)
}

impl Platform for Context {
    fn call(&mut self, call: &Call) -> Result<Vec<String>, String> {
        use contract::Host as _;
        let none = |answer: Result<(), types::Error>| answer.map(|()| Vec::new());
        let answer = match call {
            Call::Create(request) => {
                let answer = IO.block_on(self.create(new_request(request)));
                answer.map(|answer| answer.map(|id| vec![id]))
            }
            Call::CreateMany(requests) => {
                IO.block_on(self.create_many(requests.iter().map(new_request).collect()))
            }
            Call::Cancel(id, reason) => {
                IO.block_on(self.cancel(id.clone(), reason.clone())).map(none)
            }
            Call::Ask(asked) => self.ask(question(asked)).map(|answer| answer.map(|id| vec![id])),
            Call::WakeAfter(delay, name) => self.wake_after(*delay, name.clone()).map(none),
            Call::Get(id) => {
                IO.block_on(self.get(id.clone())).map(|answer| answer.map(|_| Vec::new()))
            }
            Call::List(wanted) => {
                IO.block_on(self.list(filter(wanted))).map(|answer| answer.map(|_| Vec::new()))
            }
        };
        answer.expect("no fault of the host").map_err(said)
    }
}

#[test]
fn the_platform_refuses_what_the_fake_host_refuses() {
    let wrong: Vec<String> = refusals::rows()
        .iter()
        .filter_map(|row| refusals::check(row, &mut begun()).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_platform_judges_ends_as_the_fake_host_does() {
    for ending in refusals::endings() {
        let (summary, data) = (ending.summary, ending.data);
        let (tokens_used, cost) = (ending.tokens_used, ending.cost);
        let output = types::Output { summary, data, tokens_used, cost };
        let verdict = verdict::of(Ok(Ok(types::Outcome::Completed(output))), &account());
        match (&verdict, ending.failed) {
            (Verdict::Completed(_), None) => {}
            (Verdict::Failed { code, message, retryable: false }, Some((wanted, begins)))
                if code.as_str() == wanted && message.starts_with(begins) => {}
            (verdict, wanted) => panic!("{verdict:?}, not {wanted:?}"),
        }
    }
}
