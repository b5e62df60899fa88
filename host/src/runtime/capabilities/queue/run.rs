//! A run's side of the queue: what it has asked for so far, and how that looks to its own reads.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::guest::{
    cancelled, child_bytes, ended, guest_on_failure, guest_status, info_bytes, own_info, timestamp,
};
use super::{CallError, Effects, QueueError, QueueFilter, QueueHost, Reservation, weight};
use crate::hitl::NewQuestion;
use crate::ids::{QuestionId, RequestId};
use crate::requests::validate::{self, Invalid};
use crate::requests::{BlockerRef, NewRequest, OnFailure, Request, Status};
use crate::runtime::bindings::eve::skill::queue as wit;
use crate::runtime::{HostFailure, limits};

/// A run's side of the queue: its effects so far, and how they look to its own reads.
pub(crate) struct Queue {
    host: Arc<dyn QueueHost>,
    io: Handle,
    effects: Effects,
    /// Bytes that the effects hold, roughly.
    bytes: usize,
    /// Where in `effects.creates` each own request stands.
    own: HashMap<RequestId, usize>,
    /// How each of `effects.creates` looks.
    views: Vec<OwnView>,
    cancelled: HashSet<RequestId>,
    keys: HashMap<String, ([u8; 32], RequestId)>,
    /// What stands for a keyed request's id in digests.
    keyed: HashMap<RequestId, RequestId>,
}

/// How a request that is not committed yet looks to the run that asked for it.
pub(super) struct OwnView {
    pub(super) status: Status,
    pub(super) created_at: DateTime<Utc>,
    /// Existing blockers, as they stood when it was asked for.
    blockers: Vec<(RequestId, Status)>,
}

/// What a blocker in some state does to its dependent.
enum Edge {
    Released,
    Holds,
    Cancels,
}

impl Edge {
    fn of(status: Status, on_failure: OnFailure) -> Self {
        match (status, on_failure) {
            (Status::Completed, _) => Edge::Released,
            (Status::Failed | Status::Cancelled, OnFailure::Run) => Edge::Released,
            (Status::Failed | Status::Cancelled, OnFailure::Cancel) => Edge::Cancels,
            _ => Edge::Holds,
        }
    }
}

impl Queue {
    pub(crate) fn new(host: Arc<dyn QueueHost>, io: Handle) -> Self {
        Self {
            host,
            io,
            effects: Effects::default(),
            bytes: 0,
            own: HashMap::new(),
            views: Vec::new(),
            cancelled: HashSet::new(),
            keys: HashMap::new(),
            keyed: HashMap::new(),
        }
    }

    pub(crate) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Does something on the I/O runtime. The outer error is ours and ends the run.
    async fn ask<T, F>(
        &self,
        question: impl FnOnce(Arc<dyn QueueHost>) -> F,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, QueueError>> + Send + 'static,
    {
        let task = self.io.spawn(question(self.host.clone()));
        match AbortOnDropHandle::new(task).await {
            Ok(answer) => Ok(answer?),
            Err(error) => Err(CallError::Ours(HostFailure::new("the queue", error))),
        }
    }

    pub(in crate::runtime::capabilities) async fn create(
        &mut self,
        requests: Vec<NewRequest>,
        run: RequestId,
    ) -> Result<Vec<RequestId>, CallError> {
        if self.effects.creates.len() + requests.len() > limits::CREATES {
            return Err(over(format!("a run creates at most {} requests", limits::CREATES)));
        }
        for (index, request) in requests.iter().enumerate() {
            request.validate(index).map_err(|invalid| in_batch(&requests, index, invalid))?;
            not_in_a_circle(request, run)?;
        }
        let bytes = requests.iter().map(weight::request).sum();
        self.afford(bytes)?;

        let mut external: Vec<RequestId> = requests
            .iter()
            .flat_map(|request| &request.blocked_by)
            .filter_map(|blocker| match blocker.on {
                BlockerRef::Id(id) if !self.own.contains_key(&id) => Some(id),
                _ => None,
            })
            .collect();
        external.sort_unstable();
        external.dedup();

        let requests = Arc::new(requests);
        let asked = requests.clone();
        let states: HashMap<RequestId, Status> = self
            .ask(|host| async move { host.check(&asked, &external).await })
            .await?
            .into_iter()
            .collect();

        let ids = self.identify(&requests).await?;
        let requests = Arc::try_unwrap(requests).unwrap_or_else(|shared| (*shared).clone());
        let mut handed_out = Vec::with_capacity(ids.len());
        for (mut request, reservation) in requests.into_iter().zip(ids) {
            let id = match reservation {
                Reservation::Exists(id) => id,
                Reservation::Open(id) => {
                    if !self.own.contains_key(&id) {
                        for blocker in &mut request.blocked_by {
                            if let BlockerRef::Entry(entry) = blocker.on {
                                blocker.on = BlockerRef::Id(handed_out[entry]);
                            }
                        }
                        self.keep(id, request, &states);
                    }
                    id
                }
            };
            handed_out.push(id);
        }
        self.bytes += bytes;
        Ok(handed_out)
    }

    /// An id for each, after its idempotency key if it has one. Reserving comes last of all checks:
    /// a batch that is refused has reserved nothing.
    async fn identify(&mut self, requests: &[NewRequest]) -> Result<Vec<Reservation>, CallError> {
        let mut ids = Vec::with_capacity(requests.len());
        for request in requests {
            let proposed = RequestId::generate();
            let Some(key) = &request.idempotency_key else {
                ids.push(Reservation::Open(proposed));
                continue;
            };
            let hash = self.body_hash(request, requests);
            let reservation = match self.keys.get(key) {
                Some((known, id)) if *known == hash => Reservation::Open(*id),
                Some(_) => {
                    return Err(QueueError::Conflict(format!(
                        "idempotency_key: `{key}` was used for another request of this run"
                    ))
                    .into());
                }
                None => {
                    let key = key.clone();
                    self.ask(|host| async move { host.reserve(&key, hash, proposed).await }).await?
                }
            };
            let (Reservation::Open(id) | Reservation::Exists(id)) = reservation;
            self.keys.insert(key.clone(), (hash, id));
            self.keyed.insert(id, stand_in(key));
            ids.push(reservation);
        }
        Ok(ids)
    }

    /// The body's digest with the run's own requests by key, or by place where they have none,
    /// instead of by id: another attempt of the run makes other ids, and must find the same digest.
    fn body_hash(&self, request: &NewRequest, batch: &[NewRequest]) -> [u8; 32] {
        let mut request = request.clone();
        let before = self.effects.creates.len();
        for blocker in &mut request.blocked_by {
            blocker.on = match blocker.on {
                BlockerRef::Entry(entry) => match &batch[entry].idempotency_key {
                    Some(key) => BlockerRef::Id(stand_in(key)),
                    None => BlockerRef::Entry(before + entry),
                },
                BlockerRef::Id(id) => match (self.keyed.get(&id), self.own.get(&id)) {
                    (Some(stand_in), _) => BlockerRef::Id(*stand_in),
                    (None, Some(place)) => BlockerRef::Entry(*place),
                    (None, None) => BlockerRef::Id(id),
                },
            };
        }
        request.body_hash()
    }

    fn keep(&mut self, id: RequestId, request: NewRequest, states: &HashMap<RequestId, Status>) {
        let blockers = request
            .blocked_by
            .iter()
            .filter_map(|blocker| match blocker.on {
                BlockerRef::Id(id) => states.get(&id).map(|status| (id, *status)),
                BlockerRef::Entry(_) => None,
            })
            .collect();
        let mut view = OwnView { status: Status::Pending, created_at: Utc::now(), blockers };
        view.status = self.status_of(&request, &view);
        self.own.insert(id, self.effects.creates.len());
        self.views.push(view);
        self.effects.creates.push((id, request));
    }

    /// Where an own request will stand after the commit, as far as this run can know.
    fn status_of(&self, request: &NewRequest, view: &OwnView) -> Status {
        let mut held = false;
        for blocker in &request.blocked_by {
            let BlockerRef::Id(id) = blocker.on else { continue };
            match Edge::of(self.blocker_status(view, id), blocker.on_failure) {
                Edge::Released => {}
                Edge::Holds => held = true,
                Edge::Cancels => return Status::Cancelled,
            }
        }
        match (held, request.delay_ms) {
            (true, _) => Status::Blocked,
            (false, Some(1..)) => Status::Scheduled,
            (false, _) => Status::Pending,
        }
    }

    fn blocker_status(&self, view: &OwnView, id: RequestId) -> Status {
        if self.cancelled.contains(&id) {
            return Status::Cancelled;
        }
        match self.own.get(&id) {
            Some(place) => self.views[*place].status,
            None => view
                .blockers
                .iter()
                .find(|(blocker, _)| *blocker == id)
                .map_or(Status::Pending, |(_, status)| *status),
        }
    }

    pub(in crate::runtime::capabilities) async fn cancel(
        &mut self,
        id: RequestId,
        reason: Option<String>,
        run: RequestId,
    ) -> Result<(), CallError> {
        if id == run {
            return Err(QueueError::Invalid(
                "id: a run cannot cancel its own request; return a failure instead".into(),
            )
            .into());
        }
        if let Some(reason) = &reason {
            validate::text("reason", reason, limits::MESSAGE).map_err(QueueError::from)?;
        }
        let bytes = size_of::<RequestId>() + reason.as_ref().map_or(0, String::len);
        self.afford(bytes)?;
        let ended = self.cancelled.contains(&id)
            || self.own.get(&id).is_some_and(|place| self.views[*place].status.is_terminal());
        if ended {
            return Err(QueueError::Conflict(format!("request {id} is cancelled already")).into());
        }
        let own = self.own.get(&id).copied();
        if own.is_none() {
            self.ask(|host| async move { host.cancellable(id).await }).await?;
        }
        self.bytes += bytes;
        self.cancelled.insert(id);
        self.effects.cancels.push((id, reason));
        if let Some(place) = own {
            self.views[place].status = Status::Cancelled;
        }
        // Own dependents stand behind what they wait for, so one pass forward reaches them all.
        for later in own.map_or(0, |place| place + 1)..self.views.len() {
            if !self.views[later].status.is_terminal() {
                let (_, request) = &self.effects.creates[later];
                self.views[later].status = self.status_of(request, &self.views[later]);
            }
        }
        Ok(())
    }

    pub(in crate::runtime::capabilities) fn ask_people(
        &mut self,
        question: NewQuestion,
    ) -> Result<QuestionId, CallError> {
        question.validate().map_err(QueueError::from)?;
        if self.effects.questions.len() >= limits::QUESTIONS {
            return Err(over(format!("a run asks at most {} questions", limits::QUESTIONS)));
        }
        let bytes = weight::question(&question);
        self.afford(bytes)?;
        self.bytes += bytes;
        let id = QuestionId::generate();
        self.effects.questions.push((id, question));
        Ok(id)
    }

    /// Sets a timer, or moves the one of that name that this run has set before.
    pub(in crate::runtime::capabilities) fn wake_after(
        &mut self,
        delay: Duration,
        name: String,
    ) -> Result<(), CallError> {
        check_timer(delay, &name)?;
        if let Some((_, set)) = self.effects.timers.iter_mut().find(|(set, _)| *set == name) {
            *set = delay;
            return Ok(());
        }
        if self.effects.timers.len() >= limits::TIMERS {
            return Err(over(format!("a run sets at most {} timers", limits::TIMERS)));
        }
        let bytes = weight::timer(&name);
        self.afford(bytes)?;
        self.bytes += bytes;
        self.effects.timers.push((name, delay));
        Ok(())
    }

    pub(in crate::runtime::capabilities) async fn get(
        &self,
        id: RequestId,
    ) -> Result<wit::Info, CallError> {
        if let Some(info) = self.own_info(id) {
            return Ok(info);
        }
        let request = self.ask(|host| async move { host.get(id).await }).await?;
        Ok(self.info(request))
    }

    pub(in crate::runtime::capabilities) async fn result(
        &self,
        id: RequestId,
    ) -> Result<Option<wit::Ended>, CallError> {
        if let Some(place) = self.own.get(&id) {
            let view = &self.views[*place];
            return Ok((view.status == Status::Cancelled).then(|| cancelled(id)));
        }
        if self.cancelled.contains(&id) {
            return Ok(Some(cancelled(id)));
        }
        let result = self.ask(|host| async move { host.result(id).await }).await?;
        Ok(result.map(ended))
    }

    pub(in crate::runtime::capabilities) async fn list(
        &self,
        filter: QueueFilter,
    ) -> Result<Vec<wit::Info>, CallError> {
        let own = self.list_own(&filter)?;
        let limit = filter.limit as usize;
        let statuses = filter.statuses.clone();
        let listed = self.ask(|host| async move { host.list(&filter).await }).await?;
        let mut all: Vec<(RequestId, wit::Info)> = listed
            .into_iter()
            // What this run has cancelled looks cancelled, and so may not belong here any more.
            .filter(|request| {
                !self.cancelled.contains(&request.id)
                    || statuses.is_empty()
                    || statuses.contains(&Status::Cancelled)
            })
            .map(|request| (request.id, self.info(request)))
            .chain(own)
            .collect();
        all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        all.truncate(limit);
        let all: Vec<_> = all.into_iter().map(|(_, info)| info).collect();
        bounded(all.iter().map(info_bytes).sum())?;
        Ok(all)
    }

    /// The run's own requests that a filter lets through, newest first.
    fn list_own(&self, filter: &QueueFilter) -> Result<Vec<(RequestId, wit::Info)>, CallError> {
        let mut steps = limits::CONTAINMENT_STEPS;
        let mut found = Vec::new();
        for (place, (id, request)) in self.effects.creates.iter().enumerate().rev() {
            let view = &self.views[place];
            let fits = filter.before.is_none_or(|before| *id < before)
                && (filter.statuses.is_empty() || filter.statuses.contains(&view.status))
                && filter.worker_type.as_ref().is_none_or(|wanted| *wanted == request.worker_type);
            let contains = |wanted| weight::contains(&request.context, wanted, &mut steps);
            if fits && filter.context.as_ref().map(contains).transpose()?.unwrap_or(true) {
                found.push((*id, own_info(*id, request, view)));
                if found.len() == filter.limit as usize {
                    break;
                }
            }
        }
        Ok(found)
    }

    pub(in crate::runtime::capabilities) async fn children(
        &self,
        of: RequestId,
        run: RequestId,
    ) -> Result<Vec<wit::Child>, CallError> {
        if self.own.contains_key(&of) {
            return Ok(Vec::new());
        }
        let mut children: Vec<wit::Child> = self
            .ask(|host| async move { host.children(of).await })
            .await?
            .into_iter()
            .map(|(request, result)| {
                let gone = self.cancelled.contains(&request.id).then(|| cancelled(request.id));
                wit::Child { request: self.info(request), ended: result.map(ended).or(gone) }
            })
            .collect();
        if of == run {
            for (place, (id, request)) in self.effects.creates.iter().enumerate() {
                let view = &self.views[place];
                let gone = (view.status == Status::Cancelled).then(|| cancelled(*id));
                children.push(wit::Child { request: own_info(*id, request, view), ended: gone });
            }
        }
        bounded(children.iter().map(child_bytes).sum())?;
        Ok(children)
    }

    pub(in crate::runtime::capabilities) async fn blockers(
        &self,
        of: RequestId,
    ) -> Result<Vec<wit::Blocking>, CallError> {
        if let Some(place) = self.own.get(&of) {
            let (_, request) = &self.effects.creates[*place];
            let view = &self.views[*place];
            return Ok(request
                .blocked_by
                .iter()
                .filter_map(|blocker| match blocker.on {
                    BlockerRef::Id(id) => Some((id, blocker.on_failure)),
                    BlockerRef::Entry(_) => None,
                })
                .map(|(id, on_failure)| {
                    let status = self.blocker_status(view, id);
                    wit::Blocking {
                        id: id.to_string(),
                        status: guest_status(status),
                        on_failure: guest_on_failure(on_failure),
                        open: matches!(Edge::of(status, on_failure), Edge::Holds),
                    }
                })
                .collect());
        }
        let blockers = self.ask(|host| async move { host.blockers(of).await }).await?;
        Ok(blockers
            .into_iter()
            .map(|blocker| wit::Blocking {
                id: blocker.id.to_string(),
                status: guest_status(blocker.status),
                on_failure: guest_on_failure(blocker.on_failure),
                open: blocker.open,
            })
            .collect())
    }

    fn own_info(&self, id: RequestId) -> Option<wit::Info> {
        let place = *self.own.get(&id)?;
        let (id, request) = &self.effects.creates[place];
        Some(own_info(*id, request, &self.views[place]))
    }

    fn info(&self, request: Request) -> wit::Info {
        let gone = self.cancelled.contains(&request.id);
        wit::Info {
            id: request.id.to_string(),
            worker_type: request.worker_type,
            skill: request.skill,
            status: guest_status(if gone { Status::Cancelled } else { request.status }),
            prompt: request.prompt,
            context: request.context.to_string(),
            metadata: request.metadata.to_string(),
            attempt: u32::try_from(request.attempt).unwrap_or(0),
            created_at: timestamp(request.created_at),
        }
    }

    fn afford(&self, bytes: usize) -> Result<(), CallError> {
        if self.bytes + bytes > limits::EFFECTS {
            return Err(over(format!(
                "what a run asks for may take {} bytes in all",
                limits::EFFECTS
            )));
        }
        Ok(())
    }
}

fn check_timer(delay: Duration, name: &str) -> Result<(), QueueError> {
    if !limits::TIMER.contains(&delay) {
        return Err(QueueError::Invalid(format!(
            "delay: {} ms is not between a second and 365 days",
            delay.as_millis()
        )));
    }
    if name.is_empty() {
        return Err(QueueError::Invalid("name: must not be empty".into()));
    }
    if name.chars().nth(limits::TIMER_NAME_CHARS).is_some() {
        return Err(QueueError::Invalid(format!(
            "name: longer than {} characters",
            limits::TIMER_NAME_CHARS
        )));
    }
    Ok(validate::text("name", name, usize::MAX)?)
}

/// Refuses what could never start: the orchestration waits for the child, the child for it. Longer
/// circles are found under the locks of the commit.
fn not_in_a_circle(request: &NewRequest, run: RequestId) -> Result<(), QueueError> {
    let waits_for_run = request.blocked_by.iter().any(|blocker| blocker.on == BlockerRef::Id(run));
    if request.reply_to.is_some() && waits_for_run {
        return Err(QueueError::Conflict(format!(
            "blocked_by: a request that replies to {run} cannot wait for it: neither would ever go on"
        )));
    }
    Ok(())
}

/// An id that stands for whatever request has this idempotency key.
fn stand_in(key: &str) -> RequestId {
    let digest: [u8; 32] = Sha256::digest(key).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    RequestId(uuid::Uuid::from_bytes(id))
}

pub(super) fn over(message: String) -> CallError {
    QueueError::Limit(message).into()
}

fn bounded(bytes: usize) -> Result<(), CallError> {
    if bytes > limits::QUEUE_ANSWER {
        return Err(over(format!(
            "the answer is larger than {} bytes; ask for fewer at a time, or for single requests and \
             results by their ids",
            limits::QUEUE_ANSWER
        )));
    }
    Ok(())
}

/// Says which entry of a batch is meant, where there is more than one.
fn in_batch(requests: &[NewRequest], index: usize, invalid: Invalid) -> QueueError {
    match requests.len() {
        1 => invalid.into(),
        _ => QueueError::Invalid(format!("requests[{index}].{invalid}")),
    }
}
