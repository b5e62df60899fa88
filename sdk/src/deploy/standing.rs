//! What there is: environments, deployments and their history.

use std::fmt;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::{DeploymentId, State};
use crate::bindings::eve::skill::deploy as contract;
use crate::data::{self, DataError};
use crate::platform::time;

impl State {
    /// The word: `pending`, `deploying`, `running`, `failed` or `stopped`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Deploying => "deploying",
            State::Running => "running",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }

    /// The state of a word.
    pub(crate) fn of(word: &str) -> Option<State> {
        let all = [State::Pending, State::Deploying, State::Running, State::Failed, State::Stopped];
        all.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether a deployment in this state stays in it until somebody asks for something else, or
    /// something befalls it.
    pub fn is_settled(self) -> bool {
        matches!(self, State::Running | State::Failed | State::Stopped)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A place to deploy to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Such as `dev`, `staging`, `prod`.
    pub name: String,
    /// `provisioning`, `ready`, `failed` or `deleting`. What is asked for before it is ready waits.
    pub status: String,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Whether skills of this run's worker type may deploy to it.
    pub allowed: bool,
    /// Whether a person is asked before what a skill asks for is done.
    pub approval: bool,
}

impl Environment {
    /// Whether something can run there now.
    pub fn is_ready(&self) -> bool {
        self.status == "ready"
    }
}

impl From<contract::Environment> for Environment {
    fn from(environment: contract::Environment) -> Self {
        Self {
            name: environment.name,
            status: environment.status,
            message: environment.message,
            allowed: environment.allowed,
            approval: environment.approval,
        }
    }
}

/// How many replicas a deployment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// How many there shall be.
    pub desired: u32,
    /// How many of the latest revision are ready.
    pub ready: u32,
}

/// One pod of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed`, or why a container waits: `CrashLoopBackOff`.
    pub status: String,
    /// Whether it takes traffic.
    pub ready: bool,
    /// How often its containers have been started again.
    pub restarts: u32,
    /// The version that it runs.
    pub version: String,
}

/// A deployment: an app in an environment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Its id: what a [`Settlement`](crate::Settlement) names.
    pub id: DeploymentId,
    /// The app.
    pub app: String,
    /// The environment.
    pub env: String,
    /// Where it stands.
    pub state: State,
    /// The image that was asked for.
    pub image: String,
    /// The image's tag.
    pub version: String,
    /// The latest revision, from 1; 0 if the first is this run's own and not committed yet.
    pub revision: u32,
    /// How many replicas there are.
    pub replicas: Replicas,
    /// At most 100, those that are not ready first; none in a list.
    pub pods: Vec<Pod>,
    /// Why it stands there, in a word: `image_pull`, `crash_loop`, `not_ready`, `quota`, `admission`, …
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// When anything of it last changed.
    pub updated_at: SystemTime,
    config: String,
}

impl Deployment {
    /// Whether as many replicas as there shall be are ready, of the latest revision and no other.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// How it is to run, read into a type of the skill's own: what the HTTP API calls `settings`, and
    /// `variables`, the names of its environment variables.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        data::read("config", &self.config)
    }

    /// The names of its environment variables. What they hold is nobody's to read.
    pub fn variables(&self) -> Result<Vec<String>, DataError> {
        #[derive(Deserialize)]
        struct Variables {
            #[serde(default)]
            variables: Vec<String>,
        }
        self.config().map(|Variables { variables }| variables)
    }
}

impl From<contract::Deployment> for Deployment {
    fn from(deployment: contract::Deployment) -> Self {
        let pod = |pod: contract::Pod| Pod {
            name: pod.name,
            status: pod.status,
            ready: pod.ready,
            restarts: pod.restarts,
            version: pod.version,
        };
        Self {
            id: deployment.id.into(),
            app: deployment.app,
            env: deployment.env,
            state: deployment.state,
            image: deployment.image,
            version: deployment.version,
            revision: deployment.revision,
            replicas: Replicas { desired: deployment.desired, ready: deployment.ready },
            pods: deployment.pods.into_iter().map(pod).collect(),
            reason: deployment.reason,
            message: deployment.message,
            updated_at: time(deployment.updated_at),
            config: deployment.config,
        }
    }
}

/// A line that a pod has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The pod's name.
    pub pod: String,
    /// At most 16 KiB of it.
    pub line: String,
}

impl From<contract::LogLine> for LogLine {
    fn from(line: contract::LogLine) -> Self {
        Self { pod: line.pod, line: line.line }
    }
}

/// A change that was asked for, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its number, from 1.
    pub revision: u32,
    /// `created`, `updated`, `scaled` or `rolled_back`.
    pub kind: String,
    /// Its image.
    pub image: String,
    /// The image's tag.
    pub version: String,
    /// How many replicas it asked for.
    pub replicas: u32,
    /// `running`, `failed`, `superseded` or `stopped`; none while it is under way.
    pub outcome: Option<String>,
    /// Why it failed, in a word.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// When it was there, or was given up.
    pub settled_at: Option<SystemTime>,
}

impl From<contract::Revision> for Revision {
    fn from(revision: contract::Revision) -> Self {
        Self {
            revision: revision.revision,
            kind: revision.kind,
            image: revision.image,
            version: revision.version,
            replicas: revision.replicas,
            outcome: revision.outcome,
            reason: revision.reason,
            message: revision.message,
            created_at: time(revision.created_at),
            settled_at: revision.settled_at.map(time),
        }
    }
}
