//! A queue in memory, for running a skill without a database (`eve skill run`) and for tests of
//! the runtime. It answers like the real one, as far as a single run can tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt as _;
use futures::future::ready;

use super::queue::{Answer, Child, Effects, QueueError, QueueFilter, QueueHost, Reservation};
use crate::hitl::NewQuestion;
use crate::ids::{QuestionId, RequestId};
use crate::requests::{BlockerRef, BlockerState, NewRequest, Request, RequestResult, Status};

/// Requests of one pretended organisation.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Worker types that exist; every name does when empty.
    worker_types: Vec<String>,
    requests: BTreeMap<RequestId, (Request, Option<RequestResult>)>,
    blockers: HashMap<RequestId, Vec<BlockerState>>,
    keys: HashMap<String, ([u8; 32], RequestId)>,
    questions: Vec<(QuestionId, NewQuestion)>,
    /// By orchestration and name.
    timers: BTreeMap<(RequestId, String), Duration>,
}

impl MemoryQueue {
    /// An empty queue that knows these worker types, or any if none are named.
    pub fn new(worker_types: impl IntoIterator<Item = String>) -> Self {
        let state = State { worker_types: worker_types.into_iter().collect(), ..State::default() };
        Self { state: Mutex::new(state) }
    }

    /// Does what a run asked for, as a commit would.
    pub fn commit(&self, parent: RequestId, effects: &Effects) {
        let mut state = self.lock();
        for (id, request) in &effects.creates {
            let blockers = request.blocked_by.iter().filter_map(|blocker| match blocker.on {
                BlockerRef::Id(on) => state.requests.get(&on).map(|(blocking, _)| BlockerState {
                    id: on,
                    status: blocking.status,
                    on_failure: blocker.on_failure,
                    open: !blocking.status.is_terminal(),
                    reason: None,
                }),
                BlockerRef::Entry(_) => None,
            });
            let blockers: Vec<_> = blockers.collect();
            let open = blockers.iter().filter(|blocker| blocker.open).count();
            let request = pending(*id, parent, request, open);
            state.requests.entry(*id).or_insert((request, None));
            state.blockers.insert(*id, blockers);
        }
        for (id, _) in &effects.cancels {
            if let Some((request, _)) = state.requests.get_mut(id) {
                request.status = Status::Cancelled;
                request.finished_at = Some(Utc::now());
            }
        }
        state.questions.extend(effects.questions.iter().cloned());
        for (name, delay) in &effects.timers {
            state.timers.insert((parent, name.clone()), *delay);
        }
    }

    /// The questions that were asked, oldest first.
    pub fn questions(&self) -> Vec<(QuestionId, NewQuestion)> {
        self.lock().questions.clone()
    }

    /// The timers of an orchestration by name, and after how long they go off.
    pub fn timers(&self, of: RequestId) -> Vec<(String, Duration)> {
        let state = self.lock();
        let own = state.timers.iter().filter(|((orchestration, _), _)| *orchestration == of);
        own.map(|((_, name), delay)| (name.clone(), *delay)).collect()
    }

    /// Ends a request.
    pub fn finish(&self, result: RequestResult) {
        if let Some((request, slot)) = self.lock().requests.get_mut(&result.request_id) {
            request.status = result.status;
            *slot = Some(result);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pending(id: RequestId, parent: RequestId, new: &NewRequest, open: usize) -> Request {
    Request {
        id,
        status: match (open, new.delay_ms) {
            (1.., _) => Status::Blocked,
            (0, Some(1..)) => Status::Scheduled,
            (0, _) => Status::Pending,
        },
        worker_type: new.worker_type.clone(),
        skill: new.skill.clone(),
        prompt: new.prompt.clone(),
        context: new.context.clone(),
        repo_url: new.repo_url.clone(),
        branch: new.branch.clone(),
        config: new.config.clone(),
        metadata: new.metadata.clone(),
        priority: new.priority,
        max_attempts: new.max_attempts.and_then(|n| n.try_into().ok()).unwrap_or(3),
        timeout_ms: new.timeout_ms.and_then(|n| n.try_into().ok()),
        attempt: 0,
        generation: 1,
        run_at: None,
        open_blockers: i32::try_from(open).unwrap_or(i32::MAX),
        worker_id: None,
        parent_request_id: Some(parent),
        root_request_id: parent,
        user_id: None,
        created_at: Utc::now(),
        started_at: None,
        finished_at: None,
        error: None,
        summary: None,
    }
}

fn missing(id: RequestId) -> QueueError {
    QueueError::NotFound(format!("there is no request {id}"))
}

impl State {
    fn request(&self, id: RequestId) -> Result<&(Request, Option<RequestResult>), QueueError> {
        self.requests.get(&id).ok_or_else(|| missing(id))
    }

    fn check(
        &self,
        requests: &[NewRequest],
        blockers: &[RequestId],
    ) -> Result<Vec<(RequestId, Status)>, QueueError> {
        for request in requests {
            if !self.worker_types.is_empty() && !self.worker_types.contains(&request.worker_type) {
                return Err(QueueError::NotFound(format!(
                    "worker_type: there is no worker type `{}`",
                    request.worker_type
                )));
            }
        }
        blockers.iter().map(|id| Ok((*id, self.request(*id)?.0.status))).collect()
    }

    fn reserve(
        &mut self,
        key: &str,
        body_hash: [u8; 32],
        proposed: RequestId,
    ) -> Result<Reservation, QueueError> {
        let (known, id) = *self.keys.entry(key.to_owned()).or_insert((body_hash, proposed));
        if known != body_hash {
            return Err(QueueError::Conflict(format!(
                "idempotency_key: `{key}` stands for another request"
            )));
        }
        match self.requests.contains_key(&id) {
            true => Ok(Reservation::Exists(id)),
            false => Ok(Reservation::Open(id)),
        }
    }

    fn list(&self, filter: &QueueFilter) -> Vec<Request> {
        let fits = |request: &&Request| {
            filter.before.is_none_or(|before| request.id < before)
                && (filter.statuses.is_empty() || filter.statuses.contains(&request.status))
                && filter.worker_type.as_ref().is_none_or(|wanted| *wanted == request.worker_type)
                && filter.context.as_ref().is_none_or(|wanted| {
                    super::queue::contains(&request.context, wanted, &mut usize::MAX.clone())
                        .unwrap_or(false)
                })
        };
        let newest_first = self.requests.values().rev().map(|(request, _)| request);
        newest_first.filter(fits).take(filter.limit as usize).cloned().collect()
    }
}

impl QueueHost for MemoryQueue {
    fn check<'a>(
        &'a self,
        requests: &'a [NewRequest],
        blockers: &'a [RequestId],
    ) -> Answer<'a, Vec<(RequestId, Status)>> {
        ready(self.lock().check(requests, blockers)).boxed()
    }

    fn reserve<'a>(
        &'a self,
        key: &'a str,
        body_hash: [u8; 32],
        proposed: RequestId,
    ) -> Answer<'a, Reservation> {
        ready(self.lock().reserve(key, body_hash, proposed)).boxed()
    }

    fn get(&self, id: RequestId) -> Answer<'_, Request> {
        ready(self.lock().request(id).map(|(request, _)| request.clone())).boxed()
    }

    fn result(&self, id: RequestId) -> Answer<'_, Option<RequestResult>> {
        ready(self.lock().request(id).map(|(_, result)| result.clone())).boxed()
    }

    fn list<'a>(&'a self, filter: &'a QueueFilter) -> Answer<'a, Vec<Request>> {
        ready(Ok(self.lock().list(filter))).boxed()
    }

    fn children(&self, of: RequestId) -> Answer<'_, Vec<Child>> {
        let state = self.lock();
        let children = state.requests.values();
        let children = children.filter(|(child, _)| child.parent_request_id == Some(of));
        ready(Ok(children.cloned().collect())).boxed()
    }

    fn blockers(&self, of: RequestId) -> Answer<'_, Vec<BlockerState>> {
        let state = self.lock();
        let known = state.request(of).map(|_| ());
        ready(known.map(|()| state.blockers.get(&of).cloned().unwrap_or_default())).boxed()
    }

    fn cancellable(&self, id: RequestId) -> Answer<'_, ()> {
        let state = self.lock();
        let answer = state.request(id).and_then(|(request, _)| {
            if request.status.is_terminal() {
                Err(QueueError::Conflict(format!("request {id} is {} already", request.status)))
            } else {
                Ok(())
            }
        });
        ready(answer).boxed()
    }
}
