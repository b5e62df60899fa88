//! What this run was asked to do, and why it takes place.

use std::fmt;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bindings::eve::skill::types;
use crate::data::{self, DataError};
use crate::deploy::State;
use crate::platform;
use crate::queue::Status;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }
    };
}

id! {
    /// The id of a request: a UUID as text. It is what the platform says it is; an id that was made
    /// up or mistyped is refused by the call that it is passed to.
    RequestId
}
id! {
    /// The id of a question that was put to people.
    QuestionId
}
id! {
    /// The id of a deployment: of an app in an environment.
    DeploymentId
}

/// What this run was asked to do. Every getter asks the platform, and what is not asked for costs
/// nothing.
#[derive(Debug)]
pub struct Request {
    current: (),
}

impl Request {
    pub(crate) fn current() -> Self {
        Self { current: () }
    }

    /// The id of the request that runs.
    pub fn id(&self) -> RequestId {
        let () = self.current;
        platform::request::id().into()
    }

    /// Which attempt this is: 1 for the first.
    pub fn attempt(&self) -> u32 {
        platform::request::attempt()
    }

    /// What was asked for, in words; may be empty.
    pub fn prompt(&self) -> String {
        platform::request::prompt()
    }

    /// What was asked for, read into a type of the skill's own. It is a JSON object, `{}` if
    /// nothing was given. It is the same in every run of the request, whatever woke it.
    ///
    /// ```
    /// use eve_sdk::prelude::*;
    ///
    /// #[derive(Deserialize)]
    /// struct Context { text: String }
    ///
    /// fn run(request: Request) -> Result<Outcome, Failure> {
    ///     let Context { text } = request.context()?;
    ///     Ok(Outcome::completed(text))
    /// }
    /// # let run = eve_sdk::testing::Host::new().run(run);
    /// # assert!(run.failure().message().contains("missing field `text`"));
    /// ```
    pub fn context<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        let text = platform::request::context();
        match self.trigger() {
            Trigger::Initial => data::read("context", &text),
            // A schedule creates a request, or wakes one that waits.
            Trigger::Cron(_) if data::read::<Tick>("context", &text).is_err() => {
                data::read("context", &text)
            }
            _ => Ok(data::read::<Envelope<T>>("context", &text)?.parent_context),
        }
    }

    /// The context as the platform delivers it. When something woke this run it is an object that
    /// says what: `trigger`, `completed_request_id`, `completed_result_id`, `parent_request_id`,
    /// `parent_context` (which [`context`](Self::context) reads) and `additional_completions`. The
    /// [`triggers`](Self::triggers) say the same in types.
    pub fn raw_context<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        data::read("context", &platform::request::context())
    }

    /// The repository that the request is about.
    pub fn repo_url(&self) -> Option<String> {
        platform::request::repo_url()
    }

    /// The branch that the request is about.
    pub fn branch(&self) -> Option<String> {
        platform::request::branch()
    }

    /// The request's settings, a JSON object.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        data::read("config", &platform::request::config())
    }

    /// The request's labels, a JSON object.
    pub fn metadata<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        data::read("metadata", &platform::request::metadata())
    }

    /// Why this run takes place.
    pub fn trigger(&self) -> Trigger {
        platform::request::trigger().into()
    }

    /// Other events that came in meanwhile and are delivered with this run, oldest first.
    pub fn additional_triggers(&self) -> Vec<Trigger> {
        platform::request::additional_triggers().into_iter().map(Trigger::from).collect()
    }

    /// All that this run is about: [`trigger`](Self::trigger), then the
    /// [`additional_triggers`](Self::additional_triggers), oldest first. Every event is delivered
    /// once.
    ///
    /// ```
    /// use eve_sdk::prelude::*;
    ///
    /// fn run(request: Request) -> Result<Outcome, Failure> {
    ///     for trigger in request.triggers() {
    ///         match trigger {
    ///             Trigger::ChildComplete(child) => log::info!("{} ended", child.request_id),
    ///             Trigger::HitlResponse(answer) => match answer.text() {
    ///                 Some(text) => log::info!("somebody said {text}"),
    ///                 None => log::info!("nobody answered in time"),
    ///             },
    ///             Trigger::Timer(name) => log::info!("it is time to {name}"),
    ///             _ => {}
    ///         }
    ///     }
    ///     Ok(Outcome::completed(""))
    /// }
    /// # let run = eve_sdk::testing::Host::new()
    /// #     .trigger(Trigger::Timer("tidy".into()))
    /// #     .additional_trigger(Trigger::Timer("look again".into()))
    /// #     .run(run);
    /// # assert_eq!(run.lines().len(), 2);
    /// ```
    pub fn triggers(&self) -> Vec<Trigger> {
        let mut triggers = vec![self.trigger()];
        triggers.extend(self.additional_triggers());
        triggers
    }

    /// The request that created this one, if one did.
    pub fn parent_id(&self) -> Option<RequestId> {
        platform::request::parent_id().map(RequestId::from)
    }

    /// The worker type that runs this.
    pub fn worker_type(&self) -> String {
        platform::request::worker_type()
    }

    /// The organisation's short name. For display: it grants nothing.
    pub fn org_slug(&self) -> String {
        platform::request::org_slug()
    }

    /// Who sent the request. For display: it grants nothing.
    pub fn user_id(&self) -> Option<String> {
        platform::request::user_id()
    }

    /// When the run is stopped if it has not ended by itself.
    pub fn deadline(&self) -> SystemTime {
        platform::time(platform::request::deadline())
    }
}

/// What of a wake-up's context is the request's own.
#[derive(Deserialize)]
struct Envelope<T> {
    parent_context: T,
}

/// What only a wake-up's context has, when a schedule has woken a request.
#[derive(Deserialize)]
#[expect(dead_code, reason = "that they are there is all")]
struct Tick {
    trigger: String,
    parent_request_id: RequestId,
    parent_context: serde::de::IgnoredAny,
    additional_completions: Vec<serde::de::IgnoredAny>,
}

/// Why a run takes place.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Trigger {
    /// The request's first run, or another attempt at it.
    Initial,
    /// A child that replies to this orchestrator ended.
    ChildComplete(Completion),
    /// A person answered, or the question expired.
    HitlResponse(Answer),
    /// A deployment that this orchestrator asked for settled.
    DeploymentSettled(Settlement),
    /// A timer that this orchestrator had set went off; its name.
    Timer(String),
    /// A schedule created this request; the schedule's name.
    Cron(String),
    /// Something that this version does not know by a case of its own.
    Other(String),
}

/// A child that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The child.
    pub request_id: RequestId,
    /// `Completed`, `Failed` or `Cancelled`.
    pub status: Status,
}

/// The answer to a question that the skill had put to a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The question, as [`queue::ask`](crate::queue::ask) returned it.
    pub question_id: QuestionId,
    /// What was answered, as JSON text; none when the question expired.
    pub response: Option<String>,
    /// The user who answered, for display; none when the question expired.
    pub answered_by: Option<String>,
}

impl Answer {
    /// Whether nobody answered in time.
    pub fn is_expired(&self) -> bool {
        self.response.is_none()
    }

    /// The answer, if it is a text: what was chosen from the question's options always is.
    pub fn text(&self) -> Option<String> {
        self.read().ok()
    }

    /// The answer, read into a type of the skill's own.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        match &self.response {
            Some(text) => data::read("answer", text),
            None => Err(DataError::Missing { what: "answer" }),
        }
    }
}

/// A deployment that came to rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The deployment's id.
    pub deployment_id: String,
    /// `running`, `failed` or `stopped`.
    pub status: String,
    /// Why, when it failed: `image_pull`, `crash_loop`, `not_ready`, `superseded`, …
    pub reason: Option<String>,
}

impl Settlement {
    /// The deployment, as the call that asked for the change returned it.
    ///
    /// ```
    /// use eve_sdk::prelude::*;
    ///
    /// fn run(request: Request) -> Result<Outcome, Failure> {
    ///     if request.trigger() == Trigger::Initial {
    ///         deploy::scale("prod", "api", 3)?;
    ///         return Ok(Outcome::waiting());
    ///     }
    ///     let api = deploy::status("prod", "api")?;
    ///     for trigger in request.triggers() {
    ///         match trigger {
    ///             Trigger::DeploymentSettled(settled) if settled.id() != api.id => {}
    ///             Trigger::DeploymentSettled(settled) if settled.is_running() => {
    ///                 return Ok(Outcome::completed("scaled"));
    ///             }
    ///             Trigger::DeploymentSettled(settled) => {
    ///                 let reason = settled.reason.unwrap_or(settled.status);
    ///                 return Err(Failure::permanent(reason));
    ///             }
    ///             _ => {}
    ///         }
    ///     }
    ///     Ok(Outcome::waiting())
    /// }
    /// # use eve_sdk::testing::{Deployment, Orchestration, Settled};
    /// # let api = Deployment::running("prod", "api", "acme/api:v1");
    /// # let mut scaling = Orchestration::new(run).environment("prod").deployment(api);
    /// # let id = scaling.start().deployed()[0].id.clone();
    /// # assert_eq!(scaling.settle(&id, Settled::running()).wake().summary(), "scaled");
    /// ```
    pub fn id(&self) -> DeploymentId {
        DeploymentId(self.deployment_id.clone())
    }

    /// Where it came to rest; none for a word that this version does not know.
    pub fn state(&self) -> Option<State> {
        State::of(&self.status)
    }

    /// Whether as many replicas as there shall be are ready, of what was asked for and of nothing else.
    pub fn is_running(&self) -> bool {
        self.state() == Some(State::Running)
    }

    /// Whether what was asked for is not there: [`reason`](Self::reason) says why in a word, and
    /// [`deploy::status`](crate::deploy::status) in a sentence.
    pub fn is_failed(&self) -> bool {
        self.state() == Some(State::Failed)
    }

    /// Whether nothing of it is there.
    pub fn is_stopped(&self) -> bool {
        self.state() == Some(State::Stopped)
    }

    /// Whether it was not waited for any longer, because something else was asked for of the
    /// deployment meanwhile.
    pub fn is_superseded(&self) -> bool {
        self.is_failed() && self.reason.as_deref() == Some("superseded")
    }
}

impl From<types::Trigger> for Trigger {
    fn from(trigger: types::Trigger) -> Self {
        match trigger {
            types::Trigger::Initial => Trigger::Initial,
            types::Trigger::ChildComplete(child) => Trigger::ChildComplete(Completion {
                request_id: child.request_id.into(),
                status: child.status,
            }),
            types::Trigger::HitlResponse(answer) => Trigger::HitlResponse(Answer {
                question_id: answer.question_id.into(),
                response: answer.response,
                answered_by: answer.answered_by,
            }),
            types::Trigger::DeploymentSettled(settled) => Trigger::DeploymentSettled(Settlement {
                deployment_id: settled.deployment_id,
                status: settled.status,
                reason: settled.reason,
            }),
            types::Trigger::Timer(name) => Trigger::Timer(name),
            types::Trigger::Cron(name) => Trigger::Cron(name),
            types::Trigger::Other(name) => Trigger::Other(name),
        }
    }
}
