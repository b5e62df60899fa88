//! `eve:skill/queue`: create, look at and cancel requests of the run's organisation.
//!
//! Flow: a create or cancel is checked here (its form) and by the [`QueueHost`] (that what it names
//! exists), then kept in [`Effects`], which commit with the run's result or not at all. Reads ask
//! the host and lay the run's own effects over the answer, so that a guest sees what it has done.
//!
//! Invariants:
//! - Nothing here changes the database, except that an idempotency key is reserved at once.
//! - Ids are made here and are final.
//! - [`Effects`] hold valid requests only, whose blockers are ids: nothing in them can make the
//!   commit fail that they share with other runs, short of the world having changed meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::ids::RequestId;
use crate::requests::validate::{self, Invalid};
use crate::requests::{
    Blocker, BlockerRef, BlockerState, NewRequest, OnFailure, ReplyTo, Request, RequestResult,
    Status, empty_object,
};
use crate::runtime::bindings::eve::skill::queue as wit;
use crate::runtime::bindings::eve::skill::types;
use crate::runtime::context::Context;
use crate::runtime::{HostFailure, limits};

use super::log::storable;

/// Why the host did not do what was asked. The text is for the skill's author.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// An argument is malformed, too long or out of range.
    #[error("{0}")]
    Invalid(String),
    /// It does not exist, or belongs to someone else: which of the two is not said.
    #[error("{0}")]
    NotFound(String),
    /// What was asked contradicts the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// The run's quota of this is used up.
    #[error("{0}")]
    Limit(String),
    /// The capability is there, but not for this.
    #[error("{0}")]
    Denied(String),
    /// The database could not answer. The guest learns only that much.
    #[error("the queue cannot answer just now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Invalid> for QueueError {
    fn from(invalid: Invalid) -> Self {
        QueueError::Invalid(invalid.to_string())
    }
}

/// What an idempotency key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// It is reserved under this id, and there is no such request yet: the run creates it. The id
    /// is the proposed one, unless an earlier attempt reserved the key and never committed.
    Open(RequestId),
    /// A request with this id has been created under the key, with the same body.
    Exists(RequestId),
}

/// What to list. Everything that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueFilter {
    /// An object that the context must contain (Postgres' `@>`).
    pub context: Option<Value>,
    /// Any of these; every status when empty.
    pub statuses: Vec<Status>,
    /// Of this worker type.
    pub worker_type: Option<String>,
    /// 1 to [`limits::LIST`].
    pub limit: u32,
    /// Only older than this one.
    pub before: Option<RequestId>,
}

/// The queue of one organisation, as a run of it may use it. Bound to the organisation and the run
/// when it is made: no method takes either.
///
/// Methods are called on the I/O runtime. Dropping a future must be harmless: a run can be
/// cancelled in the middle of a call.
pub trait QueueHost: Send + Sync {
    /// Whether these could be created: worker types and skills exist, and so do `blockers`, which
    /// are the existing requests that they name, each once (what else stands in
    /// [`NewRequest::blocked_by`] is the run's own). Answers with the blockers' states.
    fn check<'a>(
        &'a self,
        requests: &'a [NewRequest],
        blockers: &'a [RequestId],
    ) -> BoxFuture<'a, Result<Vec<(RequestId, Status)>, QueueError>>;

    /// Reserves an idempotency key of the organisation for `proposed`, in a commit of its own, or
    /// finds what it already stands for; [`QueueError::Conflict`] if that has another body.
    fn reserve<'a>(
        &'a self,
        key: &'a str,
        body_hash: [u8; 32],
        proposed: RequestId,
    ) -> BoxFuture<'a, Result<Reservation, QueueError>>;

    /// A request.
    fn get(&self, id: RequestId) -> BoxFuture<'_, Result<Request, QueueError>>;

    /// What a request ended with; none while it is open.
    fn result(&self, id: RequestId) -> BoxFuture<'_, Result<Option<RequestResult>, QueueError>>;

    /// Requests, newest first.
    fn list<'a>(
        &'a self,
        filter: &'a QueueFilter,
    ) -> BoxFuture<'a, Result<Vec<Request>, QueueError>>;

    /// What `of` created, oldest first, each with its end if it has ended. At most
    /// [`limits::CREATES`]; more than [`limits::QUEUE_ANSWER`] bytes is [`QueueError::Limit`].
    fn children(
        &self,
        of: RequestId,
    ) -> BoxFuture<'_, Result<Vec<(Request, Option<RequestResult>)>, QueueError>>;

    /// What `of` waits for, or has waited for.
    fn blockers(&self, of: RequestId) -> BoxFuture<'_, Result<Vec<BlockerState>, QueueError>>;

    /// Whether the run may cancel it: it exists, has not ended and is no wake-up.
    fn cancellable(&self, id: RequestId) -> BoxFuture<'_, Result<(), QueueError>>;
}

/// What a run asked for; commits with its result.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Requests to create, in the order of asking. Valid; blockers are ids, of existing requests
    /// or of earlier entries. An id that came from an idempotency key may have been created by
    /// another run meanwhile: then that request stands.
    pub creates: Vec<(RequestId, NewRequest)>,
    /// Requests to cancel, each once, and why; among them may be some of `creates`.
    pub cancels: Vec<(RequestId, Option<String>)>,
}

impl Effects {
    /// Whether the run asked for nothing.
    pub fn is_empty(&self) -> bool {
        self.creates.is_empty() && self.cancels.is_empty()
    }
}

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
struct OwnView {
    status: Status,
    created_at: DateTime<Utc>,
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

    pub(super) async fn create(
        &mut self,
        requests: Vec<NewRequest>,
    ) -> Result<Vec<RequestId>, CallError> {
        if self.effects.creates.len() + requests.len() > limits::CREATES {
            return Err(over(format!("a run creates at most {} requests", limits::CREATES)));
        }
        for (index, request) in requests.iter().enumerate() {
            request.validate(index).map_err(|invalid| in_batch(&requests, index, invalid))?;
        }
        let bytes = requests.iter().map(weight).sum();
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

    pub(super) async fn cancel(
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

    pub(super) async fn get(&self, id: RequestId) -> Result<wit::Info, CallError> {
        if let Some(info) = self.own_info(id) {
            return Ok(info);
        }
        let request = self.ask(|host| async move { host.get(id).await }).await?;
        Ok(self.info(request))
    }

    pub(super) async fn result(&self, id: RequestId) -> Result<Option<wit::Ended>, CallError> {
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

    pub(super) async fn list(&self, filter: QueueFilter) -> Result<Vec<wit::Info>, CallError> {
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
            let contains = |wanted| contains(&request.context, wanted, &mut steps);
            if fits && filter.context.as_ref().map(contains).transpose()?.unwrap_or(true) {
                found.push((*id, own_info(*id, request, view)));
                if found.len() == filter.limit as usize {
                    break;
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn children(
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
        bounded(children.iter().map(|child| info_bytes(&child.request)).sum())?;
        Ok(children)
    }

    pub(super) async fn blockers(&self, of: RequestId) -> Result<Vec<wit::Blocking>, CallError> {
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

/// What became of a call: an answer for the guest, or an error of ours.
#[derive(Debug)]
pub(super) enum CallError {
    Guest(QueueError),
    Ours(HostFailure),
}

impl From<QueueError> for CallError {
    fn from(error: QueueError) -> Self {
        CallError::Guest(error)
    }
}

/// An id that stands for whatever request has this idempotency key.
fn stand_in(key: &str) -> RequestId {
    let digest: [u8; 32] = Sha256::digest(key).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    RequestId(uuid::Uuid::from_bytes(id))
}

fn over(message: String) -> CallError {
    QueueError::Limit(message).into()
}

fn bounded(bytes: usize) -> Result<(), CallError> {
    if bytes > limits::QUEUE_ANSWER {
        return Err(over(format!(
            "the answer is larger than {} bytes; ask for less at a time",
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

/// What a request weighs among the effects: its text, and a flat rate for the rest.
fn weight(request: &NewRequest) -> usize {
    const FLAT: usize = 256;
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    FLAT + request.prompt.len()
        + json_weight(&request.context)
        + json_weight(&request.config)
        + json_weight(&request.metadata)
        + text(&request.repo_url)
        + text(&request.branch)
        + text(&request.idempotency_key)
        + request.blocked_by.len() * size_of::<Blocker>()
}

/// What a JSON value takes in memory, roughly: `[[],[],…]` takes ten times its text.
fn json_weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(json_weight).sum(),
            Value::Object(members) => {
                members.iter().map(|(key, value)| key.len() + json_weight(value)).sum()
            }
        }
}

/// Whether `value` contains `wanted` as Postgres' `@>` has it: objects member by member, every
/// element of a wanted array in some element, scalars as they are.
/// <https://www.postgresql.org/docs/current/datatype-json.html#JSON-CONTAINMENT>
pub(super) fn contains(
    value: &Value,
    wanted: &Value,
    steps: &mut usize,
) -> Result<bool, CallError> {
    *steps = steps.checked_sub(1).ok_or_else(|| {
        over("the filter takes too long to compare with this run's own requests".into())
    })?;
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                match value.get(key) {
                    Some(value) if contains(value, wanted, steps)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Array(value), Value::Array(wanted)) => {
            'wanted: for wanted in wanted {
                for value in value {
                    if contains(value, wanted, steps)? {
                        continue 'wanted;
                    }
                }
                return Ok(false);
            }
            Ok(true)
        }
        (Value::Number(value), Value::Number(wanted)) => {
            Ok(value == wanted || value.as_f64() == wanted.as_f64())
        }
        (value, wanted) => Ok(value == wanted),
    }
}

fn own_info(id: RequestId, request: &NewRequest, view: &OwnView) -> wit::Info {
    wit::Info {
        id: id.to_string(),
        worker_type: request.worker_type.clone(),
        skill: request.skill.clone(),
        status: guest_status(view.status),
        prompt: request.prompt.clone(),
        context: request.context.to_string(),
        metadata: request.metadata.to_string(),
        attempt: 0,
        created_at: timestamp(view.created_at),
    }
}

fn info_bytes(info: &wit::Info) -> usize {
    info.prompt.len() + info.context.len() + info.metadata.len()
}

fn ended(result: RequestResult) -> wit::Ended {
    let completed = result.status == Status::Completed;
    wit::Ended {
        request_id: result.request_id.to_string(),
        status: guest_status(result.status),
        output: completed.then(|| types::Output {
            summary: result.summary.unwrap_or_default(),
            data: result.data.map(|data| data.to_string()),
            tokens_used: result.tokens_used.and_then(|tokens| tokens.try_into().ok()),
            cost: result.cost,
        }),
        problem: result
            .error
            .map(|error| wit::Problem { code: error.code, message: error.message }),
        finished_at: timestamp(result.finished_at),
    }
}

/// How a request ends that this run has cancelled.
fn cancelled(id: RequestId) -> wit::Ended {
    wit::Ended {
        request_id: id.to_string(),
        status: types::Status::Cancelled,
        output: None,
        problem: Some(wit::Problem {
            code: "cancelled".into(),
            message: "cancelled by this run, when it commits".into(),
        }),
        finished_at: timestamp(Utc::now()),
    }
}

fn timestamp(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}

pub(crate) fn guest_status(status: Status) -> types::Status {
    match status {
        Status::Scheduled => types::Status::Scheduled,
        Status::Blocked => types::Status::Blocked,
        Status::Pending => types::Status::Pending,
        Status::Claimed => types::Status::Claimed,
        Status::Processing => types::Status::Processing,
        Status::Waiting => types::Status::Waiting,
        Status::Completed => types::Status::Completed,
        Status::Failed => types::Status::Failed,
        Status::Cancelled => types::Status::Cancelled,
    }
}

fn host_status(status: types::Status) -> Status {
    match status {
        types::Status::Scheduled => Status::Scheduled,
        types::Status::Blocked => Status::Blocked,
        types::Status::Pending => Status::Pending,
        types::Status::Claimed => Status::Claimed,
        types::Status::Processing => Status::Processing,
        types::Status::Waiting => Status::Waiting,
        types::Status::Completed => Status::Completed,
        types::Status::Failed => Status::Failed,
        types::Status::Cancelled => Status::Cancelled,
    }
}

fn guest_on_failure(on_failure: OnFailure) -> types::OnFailure {
    match on_failure {
        OnFailure::Cancel => types::OnFailure::Cancel,
        OnFailure::Run => types::OnFailure::Run,
        OnFailure::Hold => types::OnFailure::Hold,
    }
}

fn host_on_failure(on_failure: types::OnFailure) -> OnFailure {
    match on_failure {
        types::OnFailure::Cancel => OnFailure::Cancel,
        types::OnFailure::Run => OnFailure::Run,
        types::OnFailure::Hold => OnFailure::Hold,
    }
}

fn id(field: &str, text: &str) -> Result<RequestId, QueueError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        QueueError::Invalid(format!("{field}: `{}` is not a request id", shown.escape_debug()))
    })
}

/// JSON text of a guest as a value. Its size is checked before it is parsed.
fn parse(field: &str, text: Option<String>, bytes: usize) -> Result<Value, QueueError> {
    let Some(text) = text else { return Ok(empty_object()) };
    if text.len() > bytes {
        return Err(QueueError::Invalid(format!(
            "{field}: {} bytes; at most {bytes} are allowed",
            text.len()
        )));
    }
    serde_json::from_str(&text)
        .map_err(|error| QueueError::Invalid(format!("{field}: not valid JSON: {error}")))
}

fn new_request(request: wit::NewRequest) -> Result<NewRequest, QueueError> {
    if request.blocked_by.len() > validate::BLOCKERS {
        return Err(QueueError::Invalid(format!(
            "blocked_by: at most {} requests are allowed",
            validate::BLOCKERS
        )));
    }
    let blocked_by = request
        .blocked_by
        .into_iter()
        .map(|blocker| {
            let on = if blocker.id.len() > 64 {
                Err(QueueError::Invalid("blocked_by: an id is longer than an id can be".into()))
            } else {
                blocker.id.parse().map_err(QueueError::Invalid)
            };
            Ok(Blocker { on: on?, on_failure: host_on_failure(blocker.on_failure) })
        })
        .collect::<Result<_, QueueError>>()?;
    Ok(NewRequest {
        worker_type: request.worker_type,
        skill: request.skill,
        prompt: request.prompt,
        context: parse("context", request.context, validate::CONTEXT_BYTES)?,
        repo_url: request.repo_url,
        branch: request.branch,
        config: parse("config", request.config, validate::SETTINGS_BYTES)?,
        metadata: parse("metadata", request.metadata, validate::SETTINGS_BYTES)?,
        blocked_by,
        reply_to: request.reply_to_me.then_some(ReplyTo::Orchestrator),
        detached: request.detached,
        delay_ms: request.delay,
        priority: request.priority.unwrap_or(0),
        max_attempts: request.max_attempts,
        timeout_ms: request.timeout,
        idempotency_key: request.idempotency_key,
    })
}

fn new_filter(filter: wit::Filter) -> Result<QueueFilter, QueueError> {
    let limit = filter.limit.unwrap_or(20);
    if limit == 0 || limit as usize > limits::LIST {
        return Err(QueueError::Invalid(format!(
            "limit: {limit} is not between 1 and {}",
            limits::LIST
        )));
    }
    if let Some(worker_type) = &filter.worker_type {
        validate::name("worker_type", worker_type)?;
    }
    let context = match filter.context {
        None => None,
        given => {
            let value = parse("context", given, validate::SETTINGS_BYTES)?;
            validate::object("context", &value, validate::SETTINGS_BYTES)?;
            Some(value)
        }
    };
    let mut statuses: Vec<Status> = Vec::new();
    for status in filter.statuses.into_iter().map(host_status) {
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    let before = filter.before.map(|text| id("before", &text)).transpose()?;
    Ok(QueueFilter { context, statuses, worker_type: filter.worker_type, limit, before })
}

/// Turns what became of a call into what the bindings want: an answer, an error for the guest, or
/// the end of the run.
fn answer<T>(outcome: Result<T, CallError>) -> wasmtime::Result<Result<T, types::Error>> {
    let error = match outcome {
        Ok(answer) => return Ok(Ok(answer)),
        Err(CallError::Ours(failure)) => return Err(failure.into()),
        Err(CallError::Guest(error)) => error,
    };
    if let QueueError::Unavailable(source) = &error {
        tracing::warn!(
            error = source.as_ref() as &dyn std::error::Error,
            "a guest's queue call failed"
        );
    }
    let text = storable(&error.to_string());
    Ok(Err(match error {
        QueueError::Invalid(_) => types::Error::Invalid(text),
        QueueError::NotFound(_) => types::Error::NotFound(text),
        QueueError::Conflict(_) => types::Error::Conflict(text),
        QueueError::Limit(_) => types::Error::Limit(text),
        QueueError::Denied(_) => types::Error::Denied(text),
        QueueError::Unavailable(_) => types::Error::Unavailable(text),
    }))
}

type Call<T> = wasmtime::Result<Result<T, types::Error>>;

impl wit::Host for Context {
    async fn create(&mut self, request: wit::NewRequest) -> Call<String> {
        answer(
            async {
                let ids = self.queue.create(vec![new_request(request)?]).await?;
                Ok(ids[0].to_string())
            }
            .await,
        )
    }

    async fn create_many(&mut self, requests: Vec<wit::NewRequest>) -> Call<Vec<String>> {
        answer(
            async {
                let requests = requests
                    .into_iter()
                    .map(new_request)
                    .collect::<Result<Vec<_>, QueueError>>()?;
                let ids = self.queue.create(requests).await?;
                Ok(ids.iter().map(RequestId::to_string).collect())
            }
            .await,
        )
    }

    async fn get(&mut self, text: String) -> Call<wit::Info> {
        answer(async { self.queue.get(id("id", &text)?).await }.await)
    }

    async fn result(&mut self, text: String) -> Call<Option<wit::Ended>> {
        answer(async { self.queue.result(id("id", &text)?).await }.await)
    }

    async fn list(&mut self, filter: wit::Filter) -> Call<Vec<wit::Info>> {
        answer(async { self.queue.list(new_filter(filter)?).await }.await)
    }

    async fn children(&mut self, of: String) -> Call<Vec<wit::Child>> {
        let run = self.job.id;
        answer(async { self.queue.children(id("of", &of)?, run).await }.await)
    }

    async fn blockers(&mut self, of: String) -> Call<Vec<wit::Blocking>> {
        answer(async { self.queue.blockers(id("of", &of)?).await }.await)
    }

    async fn cancel(&mut self, text: String, reason: Option<String>) -> Call<()> {
        let run = self.job.id;
        answer(async { self.queue.cancel(id("id", &text)?, reason, run).await }.await)
    }
}
