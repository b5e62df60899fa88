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
//! A [`Host`] is for one run. A skill that waits and is woken is played through with an
//! [`Orchestration`].
//!
//! Both answer as the platform does: what it refuses is refused, with the same error, and what is
//! too large is too large here. One table of such calls is run against both. But they know only what
//! the test tells them:
//! - Every worker type and every skill that is named exists.
//! - Nothing is known of time, of workers, of other organisations, and of what a run may use: CPU
//!   time, memory, a deadline, 4 MiB for the arguments of one call.
//! - Circles of blockers are found when they are of one step; the platform finds longer ones when it
//!   commits a run.
//! - Wake-ups are no requests: the platform lists them, besides what they wake.
//! - Nothing is deployed: a deployment settles when the test says so, and how. Nobody is asked for an
//!   approval.

mod database;
#[cfg(test)]
mod deploy_parity_tests;
#[cfg(test)]
mod deploy_refusals;
mod deployments;
pub(crate) mod fake;
mod limits;
mod orchestration;
#[cfg(test)]
mod parity_tests;
#[cfg(test)]
mod refusals;
mod run;
mod state;
mod validate;
mod weight;
mod world;

use serde::Serialize;
use serde_json::Value;

use crate::bindings::eve::skill::types;
use crate::queue::{OnFailure, Status};
use crate::{Failure, Outcome, Request, RequestId, Trigger};

pub use database::Call;
use database::Database;
pub use deployments::{Change, Changed, Deployment, Environment, Settled, Target};
pub use orchestration::Orchestration;
pub use run::{Created, Line, Question, Run};
use state::{Known, State};

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
        self.state.me.prompt = prompt.into();
        self
    }

    /// What was asked for; a JSON object.
    pub fn context(mut self, context: impl Serialize) -> Self {
        self.state.me.context = object("context", context);
        self
    }

    /// The request's settings; a JSON object.
    pub fn config(mut self, config: impl Serialize) -> Self {
        self.state.me.config = object("config", config);
        self
    }

    /// The request's labels; a JSON object.
    pub fn metadata(mut self, metadata: impl Serialize) -> Self {
        self.state.me.metadata = object("metadata", metadata);
        self
    }

    /// The repository and the branch that the request is about.
    pub fn repository(mut self, url: impl Into<String>, branch: impl Into<String>) -> Self {
        self.state.me.repo_url = Some(url.into());
        self.state.me.branch = Some(branch.into());
        self
    }

    /// Which attempt this is.
    pub fn attempt(mut self, attempt: u32) -> Self {
        (self.state.attempt, self.state.begun) = (attempt, attempt);
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
        self.state.me.worker_type = worker_type.into();
        self
    }

    /// A request that an earlier run of this one created. Only one that
    /// [replies](Other::reply_to_me) wakes it.
    pub fn child(mut self, mut child: Other) -> Self {
        child.known.parent = Some(self.state.me.id.clone());
        self.state.add(child.known);
        self
    }

    /// A request that this one was blocked by.
    pub fn blocker(mut self, blocker: Other) -> Self {
        let id = self.state.add(blocker.known);
        self.state.me.blocked_by.push((id, OnFailure::Cancel));
        self
    }

    /// Some other request of the organisation.
    pub fn other(mut self, other: Other) -> Self {
        self.state.add(other.known);
        self
    }

    /// An environment of the organisation: a name, or an [`Environment`]. There are no others.
    ///
    /// # Panics
    /// When no environment can have this name.
    #[track_caller]
    pub fn environment(mut self, environment: impl Into<Environment>) -> Self {
        self.state.fleet.add_environment(environment.into());
        self
    }

    /// An app that the organisation has registered. Those that are deployed are.
    pub fn app(mut self, name: impl Into<String>) -> Self {
        self.state.fleet.add_app(name.into());
        self
    }

    /// Something that is deployed, and with it its environment and its app.
    pub fn deployment(mut self, mut deployment: Deployment) -> Self {
        if deployment.id.as_str().is_empty() {
            deployment.id = self.state.next_id().as_str().into();
        }
        self.state.fleet.add(deployment);
        self
    }

    /// What the Kubernetes API answers to [`deploy::kubernetes`](crate::deploy::kubernetes): called with
    /// environment and path.
    pub fn kubernetes(
        mut self,
        answers: impl FnMut(&str, &str) -> Result<Value, crate::Error> + Send + 'static,
    ) -> Self {
        self.state.fleet.api = deployments::Api::answering(answers);
        self
    }

    /// What the database answers: called with every statement that the skill sends, of a transaction
    /// one by one. Migrations are taken as applied.
    pub fn database(
        mut self,
        answers: impl FnMut(&Call) -> Result<crate::db::Rows, crate::db::Error> + Send + 'static,
    ) -> Self {
        self.state.database = Database::answering(answers);
        self
    }

    /// Runs the skill once.
    ///
    /// # Panics
    /// When the skill panics, which on the platform is a trap.
    pub fn run(mut self, skill: Skill) -> Run {
        self.state.sort_by_age();
        let (ended, state) = fake::run(self.state, skill);
        let mut end = match ended {
            Ok(ended) => validate::outcome(ended),
            Err(panic) => std::panic::resume_unwind(panic),
        };
        if matches!(end, Ok(types::Outcome::Waiting(_))) && !state.has_something_outstanding() {
            end = Err(nothing_to_wait_for());
        }
        Run::of(state, end)
    }
}

/// A skill: the function that `#[eve_sdk::skill]` stands on.
pub type Skill = fn(Request) -> Result<Outcome, Failure>;

/// What a run that waits for nothing fails with.
fn nothing_to_wait_for() -> validate::Failed {
    let message = "the skill returned `waiting`, but nothing that could wake it is outstanding";
    (Failure::permanent(message), "nothing_to_wait_for")
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
        known.output.data = Some(written("data", data).to_string());
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
        self.known.asked.id = id.into();
        self
    }

    /// Its end wakes whoever created it.
    pub fn reply_to_me(mut self) -> Self {
        self.known.asked.reply_to_me = true;
        self
    }

    /// Its prompt.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.known.asked.prompt = prompt.into();
        self
    }

    /// Its context; a JSON object.
    pub fn context(mut self, context: impl Serialize) -> Self {
        self.known.asked.context = object("context", context);
        self
    }

    /// The summary that it completed with.
    pub fn summary(mut self, summary: impl Into<String>) -> Self {
        self.known.output.summary = summary.into();
        self
    }
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
