//! `eve:skill/queue`: create, look at and cancel requests of the run's organisation, ask its people,
//! set timers.
//!
//! Flow: a create or cancel is checked here (its form) and by the [`QueueHost`] (that what it names
//! exists), then kept in [`Effects`], which commit with the run's result or not at all. A question
//! and a timer name nothing that has to exist, and are only checked here. Reads ask the host and lay
//! the run's own effects over the answer, so that a guest sees what it has done.
//!
//! Invariants:
//! - Nothing here changes the database, except that an idempotency key is reserved at once.
//! - Ids are made here and are final.
//! - [`Effects`] hold valid requests only, whose blockers are ids: nothing in them can make the
//!   commit fail that they share with other runs, short of the world having changed meanwhile.

mod guest;
mod run;
mod weight;

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::deployments::orders::Order;
use crate::hitl::NewQuestion;
use crate::ids::{QuestionId, RequestId};
use crate::requests::validate::Invalid;
use crate::requests::{BlockerState, NewRequest, Request, RequestResult, Status};
use crate::runtime::HostFailure;
#[cfg(doc)]
use crate::runtime::limits;

pub(crate) use guest::guest_status;
pub(crate) use run::Queue;
pub(super) use weight::contains;

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

/// What a method of [`QueueHost`] answers with, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, QueueError>>;

/// A request, with its end if it has ended.
pub type Child = (Request, Option<RequestResult>);

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
    ) -> Answer<'a, Vec<(RequestId, Status)>>;

    /// Reserves an idempotency key of the organisation for `proposed`, in a commit of its own, or
    /// finds what it already stands for; [`QueueError::Conflict`] if that has another body.
    fn reserve<'a>(
        &'a self,
        key: &'a str,
        body_hash: [u8; 32],
        proposed: RequestId,
    ) -> Answer<'a, Reservation>;

    /// A request.
    fn get(&self, id: RequestId) -> Answer<'_, Request>;

    /// What a request ended with; none while it is open.
    fn result(&self, id: RequestId) -> Answer<'_, Option<RequestResult>>;

    /// Requests, newest first.
    fn list<'a>(&'a self, filter: &'a QueueFilter) -> Answer<'a, Vec<Request>>;

    /// What `of` created, oldest first, each with its end if it has ended. At most
    /// [`limits::CREATES`]; more than [`limits::QUEUE_ANSWER`] bytes is [`QueueError::Limit`].
    fn children(&self, of: RequestId) -> Answer<'_, Vec<Child>>;

    /// What `of` waits for, or has waited for.
    fn blockers(&self, of: RequestId) -> Answer<'_, Vec<BlockerState>>;

    /// Whether the run may cancel it: it exists, has not ended and is no wake-up.
    fn cancellable(&self, id: RequestId) -> Answer<'_, ()>;
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
    /// Questions to put to people. Valid.
    pub questions: Vec<(QuestionId, NewQuestion)>,
    /// Timers to set: each name once, and after how long it goes off.
    pub timers: Vec<(String, Duration)>,
    /// What is wanted of deployments, in the order in which it was asked for.
    pub orders: Vec<Order>,
}

impl Effects {
    /// Whether the run asked for nothing.
    pub fn is_empty(&self) -> bool {
        self.creates.is_empty()
            && self.cancels.is_empty()
            && self.questions.is_empty()
            && self.timers.is_empty()
            && self.orders.is_empty()
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
