//! Environments and deployments, as the test wants them to stand, and what runs ask for of them.

mod cluster;
mod fleet;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::object;
use super::validate::deploy::Settings;
use crate::DeploymentId;
use crate::deploy::{Pod, State};

pub use crate::bindings::eve::skill::deploy::Target;
pub(super) use cluster::Api;
pub(super) use fleet::Fleet;

/// An environment of the organisation. `"dev".into()` is one that is ready and that skills may deploy
/// to without asking.
#[derive(Clone, Debug)]
pub struct Environment {
    pub(super) name: String,
    status: &'static str,
    message: Option<String>,
    allowed: bool,
    approval: bool,
}

impl Environment {
    /// One of this name, which is ready.
    ///
    /// # Panics
    /// When no environment can have this name.
    #[track_caller]
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        assert!(
            super::validate::deploy::is_environment(&name),
            "`{name}` is no environment's name"
        );
        Self { name, status: "ready", message: None, allowed: true, approval: false }
    }

    /// Skills of the worker type that runs may not deploy to it.
    pub fn closed(mut self) -> Self {
        self.allowed = false;
        self
    }

    /// A person is asked before what a skill asks for is done.
    pub fn approval(mut self) -> Self {
        self.approval = true;
        self
    }

    /// It is being made: what is asked for waits.
    pub fn provisioning(mut self) -> Self {
        self.status = "provisioning";
        self
    }

    /// It could not be made.
    pub fn failed(mut self, message: impl Into<String>) -> Self {
        (self.status, self.message) = ("failed", Some(message.into()));
        self
    }

    /// It is being deleted: nothing can be deployed to it any more.
    pub fn deleting(mut self) -> Self {
        self.status = "deleting";
        self
    }
}

impl<N: Into<String>> From<N> for Environment {
    #[track_caller]
    fn from(name: N) -> Self {
        Self::new(name)
    }
}

/// An app that is deployed in an environment, as the test wants it to stand. The environment is there
/// and the app registered with it.
///
/// ```
/// use eve_sdk::prelude::*;
/// use eve_sdk::testing::{Deployment, Host};
///
/// fn skill(_: Request) -> Result<Outcome, Failure> {
///     let api = deploy::status("prod", "api")?;
///     Ok(Outcome::completed(format!("{} {}, revision {}", api.version, api.state, api.revision)))
/// }
///
/// let api = Deployment::running("prod", "api", "acme/api:v2").after("acme/api:v1").replicas(3);
/// assert_eq!(Host::new().deployment(api).run(skill).summary(), "v2 running, revision 2");
/// ```
#[derive(Clone, Debug)]
pub struct Deployment {
    pub(super) id: DeploymentId,
    pub(super) env: String,
    pub(super) app: String,
    state: State,
    ready: u32,
    pods: Vec<Pod>,
    /// What its pods have written, by pod.
    lines: Vec<(String, String)>,
    reason: Option<String>,
    message: Option<String>,
    /// It is to be gone.
    stopping: bool,
    /// Oldest first; the last is what it is to be.
    revisions: Vec<Revision>,
    /// How many of them were there before the run.
    committed: usize,
    /// Whether the run has asked for a change of it.
    pub(super) changed: bool,
    /// Whether an earlier run of the request asked for what it is to be.
    pub(super) asked_for: bool,
}

/// A revision of a deployment.
#[derive(Clone, Debug)]
struct Revision {
    kind: &'static str,
    image: String,
    replicas: u32,
    settings: Settings,
    variables: Vec<String>,
    /// The revision whose pods it has, from 1.
    template: usize,
    outcome: Option<&'static str>,
    reason: Option<String>,
    message: Option<String>,
    ran: bool,
}

impl Deployment {
    fn new(env: impl Into<String>, app: impl Into<String>, image: impl Into<String>) -> Self {
        let revision = Revision {
            kind: "created",
            image: image.into(),
            replicas: 1,
            settings: Settings::new(),
            variables: Vec::new(),
            template: 1,
            outcome: None,
            reason: None,
            message: None,
            ran: false,
        };
        Self {
            id: DeploymentId::from(""),
            env: env.into(),
            app: app.into(),
            state: State::Deploying,
            ready: 0,
            pods: Vec::new(),
            lines: Vec::new(),
            reason: None,
            message: None,
            stopping: false,
            revisions: vec![revision],
            committed: 1,
            changed: false,
            asked_for: false,
        }
    }

    /// One whose only replica is ready.
    pub fn running(
        env: impl Into<String>,
        app: impl Into<String>,
        image: impl Into<String>,
    ) -> Self {
        let mut new = Self::new(env, app, image);
        new.come_to(State::Running, None, None);
        new
    }

    /// One that is on its way.
    pub fn deploying(
        env: impl Into<String>,
        app: impl Into<String>,
        image: impl Into<String>,
    ) -> Self {
        Self::new(env, app, image)
    }

    /// One that did not come to be there: why in a word, and in a sentence.
    pub fn failed(
        env: impl Into<String>,
        app: impl Into<String>,
        image: impl Into<String>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let mut new = Self::new(env, app, image);
        new.come_to(State::Failed, Some(reason.into()), Some(message.into()));
        new
    }

    /// One that ran and was deleted.
    pub fn stopped(
        env: impl Into<String>,
        app: impl Into<String>,
        image: impl Into<String>,
    ) -> Self {
        let mut new = Self::running(env, app, image);
        new.stopping = true;
        new.come_to(State::Stopped, None, None);
        new
    }

    /// Its id; one is made up unless this is called.
    pub fn id(mut self, id: impl Into<DeploymentId>) -> Self {
        self.id = id.into();
        self
    }

    /// A revision before the present one, and after those that were given already, which ran.
    pub fn after(mut self, image: impl Into<String>) -> Self {
        let mut earlier = Self::running("", "", image).revisions;
        let at = self.revisions.len() - 1;
        self.revisions.splice(at..at, earlier.drain(..));
        for (place, revision) in self.revisions.iter_mut().enumerate() {
            (revision.template, revision.kind) =
                (place + 1, if place == 0 { "created" } else { "updated" });
        }
        self.committed = self.revisions.len();
        self
    }

    /// How many replicas there shall be, and are if it runs.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.present_mut().replicas = replicas;
        if self.state == State::Running {
            self.ready = replicas;
        }
        self
    }

    /// How many replicas are ready.
    pub fn ready(mut self, ready: u32) -> Self {
        self.ready = ready;
        self
    }

    /// How it is to run; a JSON object.
    pub fn settings(mut self, settings: impl Serialize) -> Self {
        if let Value::Object(settings) = object("settings", settings) {
            self.present_mut().settings = settings;
        }
        self
    }

    /// The names of its environment variables.
    pub fn variables<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.present_mut().variables = names.into_iter().map(Into::into).collect();
        self
    }

    /// One more pod.
    pub fn pod(mut self, pod: Pod) -> Self {
        self.pods.push(pod);
        self
    }

    /// One more line that a pod has written.
    pub fn log(mut self, pod: impl Into<String>, line: impl Into<String>) -> Self {
        self.lines.push((pod.into(), line.into()));
        self
    }

    /// An earlier run of the request asked for what it is to be, and is woken when it settles.
    pub fn asked_for(mut self) -> Self {
        self.asked_for = true;
        self
    }

    fn present_mut(&mut self) -> &mut Revision {
        let last = self.revisions.len() - 1;
        &mut self.revisions[last]
    }
}

/// How a deployment comes to rest.
///
/// ```
/// use eve_sdk::testing::Settled;
///
/// let good = Settled::running();
/// let bad = Settled::failed("image_pull", "registry.example.com does not know acme/api:v9");
/// ```
#[derive(Clone, Debug)]
pub struct Settled {
    state: State,
    reason: Option<String>,
    message: Option<String>,
}

impl Settled {
    /// As many replicas as there shall be are ready.
    pub fn running() -> Self {
        Self { state: State::Running, reason: None, message: None }
    }

    /// It is not there: why in a word, and in a sentence.
    pub fn failed(reason: impl Into<String>, message: impl Into<String>) -> Self {
        let (reason, message) = (Some(reason.into()), Some(message.into()));
        Self { state: State::Failed, reason, message }
    }

    /// Somebody else asked for something else of it before it was there.
    pub fn superseded() -> Self {
        Self::failed("superseded", "another change was asked for before it was there")
    }

    /// Nothing of it is there: it was to be deleted.
    pub fn stopped() -> Self {
        Self { state: State::Stopped, reason: None, message: None }
    }
}

/// A change of a deployment that a run asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The id that the run was given.
    pub id: DeploymentId,
    /// The environment.
    pub env: String,
    /// The app.
    pub app: String,
    /// What was asked for.
    pub what: Changed,
}

/// What was asked for of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// Something was deployed.
    Deploy {
        /// Which image.
        image: String,
        /// How many replicas, if the run said so.
        replicas: Option<u32>,
        /// Environment variables, if the run said any.
        env_vars: Option<BTreeMap<String, String>>,
        /// What was said of how it is to run; a JSON object.
        settings: Value,
        /// Whether the app was to be registered if there was none.
        register: bool,
    },
    /// Another number of replicas.
    Scale(u32),
    /// What once ran.
    Rollback(Target),
    /// Nothing at all.
    Delete,
}
