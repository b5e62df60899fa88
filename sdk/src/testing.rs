//! A fake host, so that `cargo test` runs a skill's logic natively, without WebAssembly.
//!
//! ```
//! use eve_sdk::prelude::*;
//! use eve_sdk::testing::{Host, Other};
//!
//! fn skill(request: Request) -> Result<Outcome, Failure> {
//!     let open = queue::children()?.iter().filter(|child| child.is_open()).count();
//!     log::info!("{open} open");
//!     Ok(Outcome::completed("looked").data(&json!({ "open": open })))
//! }
//!
//! let run = Host::new()
//!     .child(Other::completed(&json!({ "words": 3 })))
//!     .child(Other::pending())
//!     .run(skill);
//! assert_eq!(run.output::<Value>(), json!({ "open": 1 }));
//! assert_eq!(run.lines()[0].message, "1 open");
//! ```
//!
//! It answers as the platform does, limits included, but knows only what the test tells it and
//! nothing of time, of workers or of other organisations. What it stands in for is proved against
//! the real runtime by the platform's own tests.

mod fake_state;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bindings::eve::skill::types;
use crate::log::Level;
use crate::queue::{OnFailure, Status};
use crate::{Failure, Outcome, QuestionId, Request, RequestId, Trigger};

pub(crate) use fake_state::fake;
use fake_state::{Known, State};

/// The host of one run: what the run was asked to do, and which other requests there are.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `.run(…)`"]
pub struct Host {
    state: State,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host whose request has an empty prompt and context, and runs for the first time.
    pub fn new() -> Self {
        Self { state: State::new() }
    }

    /// What was asked for, in words.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.state.prompt = prompt.into();
        self
    }

    /// What was asked for; a JSON object.
    pub fn context(mut self, context: impl Serialize) -> Self {
        self.state.context = object("context", context);
        self
    }

    /// The request's settings; a JSON object.
    pub fn config(mut self, config: impl Serialize) -> Self {
        self.state.config = object("config", config);
        self
    }

    /// The request's labels; a JSON object.
    pub fn metadata(mut self, metadata: impl Serialize) -> Self {
        self.state.metadata = object("metadata", metadata);
        self
    }

    /// The repository and the branch that the request is about.
    pub fn repository(mut self, url: impl Into<String>, branch: impl Into<String>) -> Self {
        self.state.repo_url = Some(url.into());
        self.state.branch = Some(branch.into());
        self
    }

    /// Which attempt this is.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.state.attempt = attempt;
        self
    }

    /// Why the run takes place.
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.state.trigger = trigger;
        self
    }

    /// Another event that is delivered with this run.
    pub fn additional_trigger(mut self, trigger: Trigger) -> Self {
        self.state.additional_triggers.push(trigger);
        self
    }

    /// The request that created this one.
    pub fn parent(mut self, id: RequestId) -> Self {
        self.state.parent = Some(id);
        self
    }

    /// The worker type that runs this; `general` unless this is called.
    pub fn worker_type(mut self, worker_type: impl Into<String>) -> Self {
        self.state.worker_type = worker_type.into();
        self
    }

    /// A request that an earlier run of this one created.
    pub fn child(mut self, child: Other) -> Self {
        self.state.add(child, |known| known.is_child = true);
        self
    }

    /// A request that this one was blocked by.
    pub fn blocker(mut self, blocker: Other) -> Self {
        self.state.add(blocker, |known| known.is_blocker = true);
        self
    }

    /// Some other request of the organisation.
    pub fn other(mut self, other: Other) -> Self {
        self.state.add(other, |_| {});
        self
    }

    /// Runs the skill once.
    ///
    /// # Panics
    /// When the skill panics, which on the platform is a trap.
    pub fn run(self, skill: fn(Request) -> Result<Outcome, Failure>) -> Run {
        let installed = fake_state::Installed::new(self.state);
        let ended = crate::__export::run(skill);
        let state = installed.take();
        let mut end = ended.map_err(|failure| match failure {
            types::Failure::Retryable(message) => Failure::Retryable(message),
            types::Failure::Permanent(message) => Failure::Permanent(message),
        });
        if matches!(end, Ok(types::Outcome::Waiting(_))) && !state.has_something_outstanding() {
            end =
                Err(Failure::permanent("waiting, while nothing is outstanding that could wake it"));
        }
        let mut run = Run {
            end,
            lines: state.lines,
            created: state.created,
            cancelled: state.cancelled,
            questions: state.questions,
            timers: state.timers,
        };
        if run.end.is_err() {
            (run.created, run.cancelled) = (Vec::new(), Vec::new());
            (run.questions, run.timers) = (Vec::new(), Vec::new());
        }
        run
    }
}

/// Another request of the organisation, as the test wants it to stand.
#[derive(Clone, Debug)]
pub struct Other {
    known: Known,
}

impl Other {
    /// One that is waiting for a worker.
    pub fn pending() -> Self {
        Self { known: Known::new(Status::Pending) }
    }

    /// One that completed with this data.
    pub fn completed(data: &impl Serialize) -> Self {
        let mut known = Known::new(Status::Completed);
        known.data = Some(written("data", data).to_string());
        Self { known }
    }

    /// One that failed.
    pub fn failed(code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut known = Known::new(Status::Failed);
        known.problem = Some((code.into(), message.into()));
        Self { known }
    }

    /// One that was cancelled.
    pub fn cancelled() -> Self {
        let mut known = Known::new(Status::Cancelled);
        known.problem = Some(("cancelled".into(), "cancelled".into()));
        Self { known }
    }

    /// Its id; one is made up unless this is called.
    pub fn id(mut self, id: impl Into<RequestId>) -> Self {
        self.known.id = Some(id.into());
        self
    }

    /// Its prompt.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.known.prompt = prompt.into();
        self
    }

    /// Its context; a JSON object.
    pub fn context(mut self, context: impl Serialize) -> Self {
        self.known.context = object("context", context);
        self
    }

    /// The summary that it completed with.
    pub fn summary(mut self, summary: impl Into<String>) -> Self {
        self.known.summary = summary.into();
        self
    }
}

/// What a run came to: how it ended, what it wrote and, if it did not fail, what it asked for.
#[derive(Clone, Debug)]
pub struct Run {
    end: Result<types::Outcome, Failure>,
    lines: Vec<Line>,
    created: Vec<Created>,
    cancelled: Vec<RequestId>,
    questions: Vec<Question>,
    timers: Vec<(String, Duration)>,
}

impl Run {
    /// Whether it returned [`Outcome::waiting`].
    pub fn is_waiting(&self) -> bool {
        matches!(self.end, Ok(types::Outcome::Waiting(_)))
    }

    /// The summary that it completed with.
    ///
    /// # Panics
    /// When it did not complete.
    #[track_caller]
    pub fn summary(&self) -> &str {
        &self.completed().summary
    }

    /// The data that it completed with.
    ///
    /// # Panics
    /// When it did not complete, or without data, or when the data is of another shape.
    #[track_caller]
    pub fn output<T: DeserializeOwned>(&self) -> T {
        match self.completed().data.as_deref().map(serde_json::from_str) {
            Some(Ok(data)) => data,
            Some(Err(error)) => panic!("the run's data is of another shape: {error}"),
            None => panic!("the run completed without data"),
        }
    }

    /// Language-model tokens that it says it used.
    ///
    /// # Panics
    /// When it did not complete.
    #[track_caller]
    pub fn tokens(&self) -> Option<u64> {
        self.completed().tokens_used
    }

    /// Dollars that it says it cost.
    ///
    /// # Panics
    /// When it did not complete.
    #[track_caller]
    pub fn cost(&self) -> Option<f64> {
        self.completed().cost
    }

    /// How it failed.
    ///
    /// # Panics
    /// When it did not fail.
    #[track_caller]
    pub fn failure(&self) -> &Failure {
        match &self.end {
            Err(failure) => failure,
            Ok(end) => panic!("the run did not fail but ended with {end:?}"),
        }
    }

    /// The lines that it wrote to its log.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The requests that it created, in order; none if it failed.
    pub fn created(&self) -> &[Created] {
        &self.created
    }

    /// The requests that it cancelled, in order; none if it failed.
    pub fn cancelled(&self) -> &[RequestId] {
        &self.cancelled
    }

    /// The questions that it put to people, in order; none if it failed.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// The timers that it set, each with its name and after how long it goes off; none if it failed.
    pub fn timers(&self) -> &[(String, Duration)] {
        &self.timers
    }

    #[track_caller]
    fn completed(&self) -> &types::Output {
        match &self.end {
            Ok(types::Outcome::Completed(output)) => output,
            Ok(types::Outcome::Waiting(_)) => panic!("the run did not complete, it waits"),
            Err(failure) => panic!("the run did not complete but failed: {failure}"),
        }
    }
}

/// A line of a run's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The text.
    pub message: String,
    /// Name-value pairs that belong to it.
    pub fields: Vec<(String, String)>,
}

/// A question that a run put to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The id that the run was given for it.
    pub id: QuestionId,
    /// What is asked.
    pub text: String,
    /// The answers to choose from; any answer if there are none.
    pub options: Vec<String>,
    /// What helps to answer.
    pub details: Value,
    /// How long it stays open, if the run said so.
    pub expires_in: Option<Duration>,
}

/// A request that a run created.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    /// The id that the run was given for it.
    pub id: RequestId,
    /// The pool that is to run it.
    pub worker_type: String,
    /// The skill that it names.
    pub skill: Option<String>,
    /// What is wanted, in words.
    pub prompt: String,
    /// What is wanted, for programs.
    pub context: Value,
    /// The repository that it is about.
    pub repo_url: Option<String>,
    /// The branch that it is about.
    pub branch: Option<String>,
    /// Settings for the skill.
    pub config: Value,
    /// Labels.
    pub metadata: Value,
    /// What it waits for; entries of a batch stand here with the ids that they were given.
    pub blocked_by: Vec<(RequestId, OnFailure)>,
    /// Whether its end wakes the orchestrator.
    pub reply_to_me: bool,
    /// Whether it goes on when the orchestrator ends.
    pub detached: bool,
    /// Earliest start, counted from the commit.
    pub delay: Option<Duration>,
    /// -100 to 100, lower first.
    pub priority: i16,
    /// How many times a retryable failure is tried in all.
    pub max_attempts: u16,
    /// Wall-clock limit of a run.
    pub timeout: Option<Duration>,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
}

#[track_caller]
fn written(what: &str, value: impl Serialize) -> Value {
    match serde_json::to_value(value) {
        Ok(value) => value,
        Err(error) => panic!("the test's {what} cannot be written as JSON: {error}"),
    }
}

#[track_caller]
fn object(what: &str, value: impl Serialize) -> Value {
    let value = written(what, value);
    assert!(value.is_object(), "the test's {what} is not a JSON object: {value}");
    value
}
