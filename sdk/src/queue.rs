//! Requests of the same organisation: create more of them, look at them, cancel them; put questions
//! to its people, and be woken later.
//!
//! What is asked for here is checked at once and committed together with the run's
//! outcome: all of it or, when the run fails or is lost, none of it. Ids are final at once.
//!
//! ```
//! use eve_sdk::prelude::*;
//! use std::time::Duration;
//!
//! # fn skill(_: Request) -> Result<Outcome, Failure> {
//! let build = queue::request("general").prompt("Build the image").create()?;
//! queue::request("deployment")
//!     .skill("deployment-worker")
//!     .context(&json!({ "image": "acme/api:v1" }))
//!     .blocked_by([&build])
//!     .on_failure(OnFailure::Cancel)
//!     .delay(Duration::from_secs(60))
//!     .reply_to_me()
//!     .create()?;
//! # Ok(Outcome::waiting()) }
//! # let run = eve_sdk::testing::Host::new().run(skill);
//! # assert_eq!(run.created()[1].blocked_by, [(run.created()[0].id.clone(), OnFailure::Cancel)]);
//! ```

mod question;

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::eve::skill::queue as contract;
use crate::bindings::eve::skill::types;
use crate::data::{self, DataError};
use crate::platform::{self, milliseconds, time};
use crate::request::RequestId;

pub use crate::bindings::eve::skill::types::{OnFailure, Status};
pub use crate::error::Error;
pub use question::{NewQuestion, ask};

impl Status {
    /// Whether a request of this status has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }
}

/// Begins a request for the workers of a type, such as `general`.
pub fn request(worker_type: impl Into<String>) -> NewRequest {
    NewRequest {
        fields: contract::NewRequest {
            worker_type: worker_type.into(),
            skill: None,
            prompt: String::new(),
            context: None,
            repo_url: None,
            branch: None,
            config: None,
            metadata: None,
            blocked_by: Vec::new(),
            reply_to_me: false,
            detached: false,
            delay: None,
            priority: None,
            max_attempts: None,
            timeout: None,
            idempotency_key: None,
        },
        last_named: 0,
        mistake: None,
    }
}

/// A request that is being put together. [`create`](NewRequest::create) ends it; what was wrong on
/// the way is reported there.
#[derive(Clone, Debug)]
#[must_use = "a request is created by `.create()`, `queue::create_many` or a batch"]
pub struct NewRequest {
    fields: contract::NewRequest,
    /// Where the blockers of the last `blocked_by` begin.
    last_named: usize,
    mistake: Option<String>,
}

impl NewRequest {
    /// The skill to run; the worker type's default unless this is called.
    pub fn skill(mut self, name: impl Into<String>) -> Self {
        self.fields.skill = Some(name.into());
        self
    }

    /// What is wanted, in words; at most 256 KiB.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.fields.prompt = prompt.into();
        self
    }

    /// What is wanted, for programs: a value that is a JSON object, at most 1 MiB of it.
    pub fn context<T: Serialize + ?Sized>(mut self, context: &T) -> Self {
        self.fields.context = self.json("context", context);
        self
    }

    /// The repository that the request is about.
    pub fn repo_url(mut self, url: impl Into<String>) -> Self {
        self.fields.repo_url = Some(url.into());
        self
    }

    /// The branch that the request is about.
    pub fn branch(mut self, branch: impl Into<String>) -> Self {
        self.fields.branch = Some(branch.into());
        self
    }

    /// Settings for the skill: a value that is a JSON object, at most 64 KiB of it.
    pub fn config<T: Serialize + ?Sized>(mut self, config: &T) -> Self {
        self.fields.config = self.json("config", config);
        self
    }

    /// Labels: a value that is a JSON object, at most 64 KiB of it.
    pub fn metadata<T: Serialize + ?Sized>(mut self, metadata: &T) -> Self {
        self.fields.metadata = self.json("metadata", metadata);
        self
    }

    /// Requests that must end first, 10,000 at most: ids, or [entries](Entry) of the same batch. If
    /// one of them fails this request is cancelled, unless [`on_failure`](Self::on_failure) follows.
    pub fn blocked_by<B: Into<Blocker>>(mut self, blockers: impl IntoIterator<Item = B>) -> Self {
        self.last_named = self.fields.blocked_by.len();
        self.fields.blocked_by.extend(blockers.into_iter().map(|blocker| contract::Blocker {
            id: blocker.into().0,
            on_failure: OnFailure::Cancel,
        }));
        self
    }

    /// What happens to this request when one of the blockers that the preceding
    /// [`blocked_by`](Self::blocked_by) named fails or is cancelled.
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        if self.fields.blocked_by.is_empty() {
            self.mistake.get_or_insert("on_failure: call blocked_by first".into());
        }
        for blocker in self.fields.blocked_by.iter_mut().skip(self.last_named) {
            blocker.on_failure = policy;
        }
        self
    }

    /// Wakes this run's orchestrator when the new request ends.
    pub fn reply_to_me(mut self) -> Self {
        self.fields.reply_to_me = true;
        self
    }

    /// Lets the new request go on when this run's orchestrator completes. When that fails or is
    /// cancelled, everything that it has started is cancelled.
    pub fn detached(mut self) -> Self {
        self.fields.detached = true;
        self
    }

    /// Earliest start, counted from the commit of this run.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.fields.delay = Some(milliseconds(delay));
        self
    }

    /// -100 to 100, lower first, among the requests of the organisation; 0 unless this is called.
    pub fn priority(mut self, priority: i16) -> Self {
        self.fields.priority = Some(priority);
        self
    }

    /// How many times a retryable failure is tried in all, 1 to 25; 3 unless this is called.
    pub fn max_attempts(mut self, attempts: u16) -> Self {
        self.fields.max_attempts = Some(attempts);
        self
    }

    /// Wall-clock limit of a run; the worker type's unless this is called.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.fields.timeout = Some(milliseconds(timeout));
        self
    }

    /// The same key twice creates one request; 255 characters at most.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.fields.idempotency_key = Some(key.into());
        self
    }

    /// Creates it, and returns its id.
    pub fn create(self) -> Result<RequestId, Error> {
        let fields = self.finish()?;
        Ok(platform::queue::create(&fields)?.into())
    }

    fn json<T: Serialize + ?Sized>(&mut self, what: &str, value: &T) -> Option<String> {
        match serde_json::to_string(value) {
            Ok(text) => Some(text),
            Err(error) => {
                self.mistake.get_or_insert(format!("{what}: cannot be written as JSON: {error}"));
                None
            }
        }
    }

    fn finish(self) -> Result<contract::NewRequest, Error> {
        match self.mistake {
            Some(mistake) => Err(Error::Invalid(mistake)),
            None => Ok(self.fields),
        }
    }
}

/// What a new request can wait for: a request by its id, or an entry of the same batch.
#[derive(Clone, Debug)]
pub struct Blocker(String);

impl From<RequestId> for Blocker {
    fn from(id: RequestId) -> Self {
        Self(id.to_string())
    }
}

impl From<&RequestId> for Blocker {
    fn from(id: &RequestId) -> Self {
        Self(id.to_string())
    }
}

impl From<Entry> for Blocker {
    fn from(entry: Entry) -> Self {
        Self(format!("#{}", entry.0))
    }
}

impl From<&Entry> for Blocker {
    fn from(entry: &Entry) -> Self {
        (*entry).into()
    }
}

/// A request of a batch that is not created yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(usize);

impl Entry {
    /// Where its id will stand in what [`Batch::create`] returns.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Requests that are created together, all of them or none; later ones can wait for earlier ones.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// let mut batch = queue::Batch::new();
/// let parts = ["one", "two"].map(|text| {
///     batch.add(queue::request("general").skill("text-stats").context(&json!({ "text": text })))
/// });
/// let sum = batch.add(
///     queue::request("general").skill("text-stats").context(&json!({ "aggregate": true })).blocked_by(parts),
/// );
/// let ids = batch.create()?;
/// log::info!("the sum will be in {}", ids[sum.index()]);
/// # Ok(Outcome::completed("")) }
/// # let run = eve_sdk::testing::Host::new().run(skill);
/// # assert_eq!(run.created()[2].blocked_by.len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    requests: Vec<NewRequest>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request, and returns how later ones of the batch refer to it.
    pub fn add(&mut self, request: NewRequest) -> Entry {
        self.requests.push(request);
        Entry(self.requests.len() - 1)
    }

    /// Creates all of them or none, and returns their ids in the order in which they were added.
    pub fn create(self) -> Result<Vec<RequestId>, Error> {
        create_many(self.requests)
    }
}

/// Creates all of the requests or none, and returns their ids in the same order.
pub fn create_many(
    requests: impl IntoIterator<Item = NewRequest>,
) -> Result<Vec<RequestId>, Error> {
    let requests =
        requests.into_iter().map(NewRequest::finish).collect::<Result<Vec<_>, Error>>()?;
    let ids = platform::queue::create_many(&requests)?;
    Ok(ids.into_iter().map(RequestId::from).collect())
}

/// A request as it stands.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its id.
    pub id: RequestId,
    /// The pool that runs it.
    pub worker_type: String,
    /// The skill that it names; none means the worker type's default.
    pub skill: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// What is wanted, in words.
    pub prompt: String,
    /// Attempts begun so far.
    pub attempt: u32,
    /// When it was created.
    pub created_at: SystemTime,
    context: String,
    metadata: String,
}

impl Info {
    /// What is wanted, read into a type of the skill's own.
    pub fn context<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        data::read("context", &self.context)
    }

    /// Its labels.
    pub fn metadata<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        data::read("metadata", &self.metadata)
    }
}

impl From<contract::Info> for Info {
    fn from(info: contract::Info) -> Self {
        Self {
            id: info.id.into(),
            worker_type: info.worker_type,
            skill: info.skill,
            status: info.status,
            prompt: info.prompt,
            attempt: info.attempt,
            created_at: time(info.created_at),
            context: info.context,
            metadata: info.metadata,
        }
    }
}

/// Why a request failed or was cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A word for programs: `failed`, `trapped`, `timed_out`, `blocker_failed`, `cancelled`, …
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// What a request ended with.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The request.
    pub request_id: RequestId,
    /// `Completed`, `Failed` or `Cancelled`.
    pub status: Status,
    /// A line or a short text for people; empty unless it completed.
    pub summary: String,
    /// Language-model tokens that the run used, if it counted any.
    pub tokens_used: Option<u64>,
    /// What the run cost in US dollars, if it said so.
    pub cost: Option<f64>,
    /// Present when it failed or was cancelled.
    pub problem: Option<Problem>,
    /// When it ended.
    pub finished_at: SystemTime,
    data: Option<String>,
}

impl Ended {
    /// The data that it completed with, read into a type of the skill's own.
    pub fn output<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        match &self.data {
            Some(text) => data::read("output", text),
            None => Err(DataError::Missing { what: "output" }),
        }
    }
}

impl From<contract::Ended> for Ended {
    fn from(ended: contract::Ended) -> Self {
        let output = ended.output.unwrap_or(types::Output {
            summary: String::new(),
            data: None,
            tokens_used: None,
            cost: None,
        });
        Self {
            request_id: ended.request_id.into(),
            status: ended.status,
            summary: output.summary,
            tokens_used: output.tokens_used,
            cost: output.cost,
            problem: ended
                .problem
                .map(|problem| Problem { code: problem.code, message: problem.message }),
            finished_at: time(ended.finished_at),
            data: output.data,
        }
    }
}

/// A request that this one created, with its end if it has ended.
#[derive(Clone, Debug)]
pub struct Child {
    /// The request as it stands.
    pub request: Info,
    /// What it ended with; none while it is open.
    pub ended: Option<Ended>,
}

impl Child {
    /// Its id.
    pub fn id(&self) -> &RequestId {
        &self.request.id
    }

    /// Whether it has not ended yet.
    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// The data that it completed with, read into a type of the skill's own.
    pub fn output<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        match &self.ended {
            Some(ended) => ended.output(),
            None => Err(DataError::Missing { what: "output" }),
        }
    }
}

/// A request that another one waits for, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The blocker.
    pub id: RequestId,
    /// Where it stands.
    pub status: Status,
    /// What happens to the dependent if it fails or is cancelled.
    pub on_failure: OnFailure,
    /// Whether it still holds the dependent back.
    pub is_open: bool,
}

/// A request of this organisation.
pub fn get(id: &RequestId) -> Result<Info, Error> {
    Ok(platform::queue::get(id.as_str())?.into())
}

/// What a request ended with; none while it is open.
pub fn result(id: &RequestId) -> Result<Option<Ended>, Error> {
    Ok(platform::queue::result(id.as_str())?.map(Ended::from))
}

/// The requests that this one created, oldest first. In a run that was woken they are those of the
/// orchestration, whichever of its runs created them.
pub fn children() -> Result<Vec<Child>, Error> {
    children_of(&platform::request::id().into())
}

/// The requests that the given one created, oldest first; at most 10,000.
pub fn children_of(id: &RequestId) -> Result<Vec<Child>, Error> {
    let children = platform::queue::children(id.as_str())?;
    Ok(children
        .into_iter()
        .map(|child| Child { request: child.request.into(), ended: child.ended.map(Ended::from) })
        .collect())
}

/// What the given request waits for, or has waited for.
pub fn blockers(id: &RequestId) -> Result<Vec<Blocking>, Error> {
    let blockers = platform::queue::blockers(id.as_str())?;
    Ok(blockers
        .into_iter()
        .map(|blocker| Blocking {
            id: blocker.id.into(),
            status: blocker.status,
            on_failure: blocker.on_failure,
            is_open: blocker.open,
        })
        .collect())
}

/// Cancels an open request, and by the policies of their edges its dependents.
pub fn cancel(id: &RequestId, reason: Option<&str>) -> Result<(), Error> {
    Ok(platform::queue::cancel(id.as_str(), reason)?)
}

/// Wakes this request with [`Trigger::Timer`](crate::Trigger::Timer) of this name, once, so long
/// after the run's commit: a second to 365 days. A timer of the same name that has not gone off yet
/// is moved. Names have 1 to 255 characters; a run sets at most 100. Only a run that returns
/// [`waiting`](crate::Outcome::waiting) keeps its timers.
///
/// ```
/// use eve_sdk::prelude::*;
/// use std::time::Duration;
///
/// fn run(request: Request) -> Result<Outcome, Failure> {
///     match request.trigger() {
///         Trigger::Timer(_) => Ok(Outcome::completed("time is up")),
///         _ => {
///             queue::wake_after(Duration::from_secs(3_600), "time is up")?;
///             Ok(Outcome::waiting())
///         }
///     }
/// }
/// # assert!(eve_sdk::testing::Host::new().run(run).is_waiting());
/// ```
pub fn wake_after(delay: Duration, name: impl AsRef<str>) -> Result<(), Error> {
    Ok(platform::queue::wake_after(milliseconds(delay), name.as_ref())?)
}

/// Begins a list of requests, newest first. Everything that is asked for must hold.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// let open = queue::list().context(&json!({ "project": 7 })).statuses([Status::Pending]).limit(100).fetch()?;
/// # Ok(Outcome::completed(format!("{} open", open.len()))) }
/// # assert_eq!(eve_sdk::testing::Host::new().run(skill).summary(), "0 open");
/// ```
pub fn list() -> List {
    List {
        filter: contract::Filter {
            context: None,
            statuses: Vec::new(),
            worker_type: None,
            limit: None,
            before: None,
        },
        mistake: None,
    }
}

/// What to list. [`fetch`](List::fetch) ends it.
#[derive(Clone, Debug)]
#[must_use = "a list is read by `.fetch()`"]
pub struct List {
    filter: contract::Filter,
    mistake: Option<String>,
}

impl List {
    /// A value that is a JSON object, which the context must contain.
    pub fn context<T: Serialize + ?Sized>(mut self, part: &T) -> Self {
        match serde_json::to_string(part) {
            Ok(text) => self.filter.context = Some(text),
            Err(error) => {
                self.mistake.get_or_insert(format!("context: cannot be written as JSON: {error}"));
            }
        }
        self
    }

    /// Any of these; every status unless this is called.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = Status>) -> Self {
        self.filter.statuses.extend(statuses);
        self
    }

    /// Of this worker type.
    pub fn worker_type(mut self, worker_type: impl Into<String>) -> Self {
        self.filter.worker_type = Some(worker_type.into());
        self
    }

    /// How many, 1 to 100; 20 unless this is called.
    pub fn limit(mut self, limit: u32) -> Self {
        self.filter.limit = Some(limit);
        self
    }

    /// Only older than this one: the last of the page before.
    pub fn before(mut self, id: &RequestId) -> Self {
        self.filter.before = Some(id.to_string());
        self
    }

    /// Reads them.
    pub fn fetch(self) -> Result<Vec<Info>, Error> {
        if let Some(mistake) = self.mistake {
            return Err(Error::Invalid(mistake));
        }
        Ok(platform::queue::list(&self.filter)?.into_iter().map(Info::from).collect())
    }
}
