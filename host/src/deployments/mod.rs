//! Deployments: apps of an organisation, in its own namespaces.
//!
//! Flow: an admin of the platform registers a cluster (`clusters`), an admin of an organisation makes an
//! environment in it (`environments`), members register apps (`apps`) and say what of them shall run
//! where (`desired`), and with which of the environment's `secrets`: each such change is a revision, and an
//! event. What answers an app's requests is in `traffic`; what a change would alter, `diff` says. What
//! skills want comes as orders (`orders`), each of which becomes such a change. The reconciler
//! (`reconcile`) makes the clusters be as the latest revisions say, and writes down what it sees (`read`
//! shows it). `kubernetes` is how a cluster is talked to.
//!
//! Invariants:
//! - The database says what is to be, the cluster what is. Nobody but the reconciler changes a cluster.
//! - A revision never changes. Its outcome is written once.
//! - What is secret is sealed in the database, and is in no answer, event or log.

pub mod apps;
pub mod asks;
pub mod clusters;
mod desired;
pub mod diff;
pub mod environments;
mod error;
mod image;
pub mod kubernetes;
mod names;
pub mod orders;
mod patch;
mod read;
pub mod reconcile;
mod room;
pub mod secrets;
mod settings;
#[cfg(test)]
mod tests;
pub mod traffic;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use desired::not_autoscaled;
pub use error::DeployError;
pub use image::Image;
pub use patch::{Patch, is_setting};
pub use settings::{Autoscale, Canary, MAX_REPLICAS, Settings, Variables};

use crate::db::Db;
use crate::ids::{RequestId, UserId};
use crate::notify::Bell;
use crate::requests::Invalid;
use crate::sealing::Sealer;
use crate::tenancy::auth::Caller;
use crate::tenancy::{Actor, OrgRole, Tenant};
use kubernetes::connection::{Connection, Connections};
use kubernetes::proxy::Streams;
use room::Room;

/// Everything that people and skills do with clusters, environments, apps and deployments.
#[derive(Clone, Debug)]
pub struct Deployments {
    pub(crate) db: Db,
    pub(crate) bell: Bell,
    sealer: Option<Sealer>,
    connections: Connections,
    streams: Streams,
    logs: Room,
}

/// Logs that are read in a process at one time: each is a call that lasts, of up to 20 pods.
const MAX_LOGS: usize = 400;

impl Deployments {
    /// With what secrets are sealed with; without it nothing secret can be stored.
    pub fn new(db: Db, bell: Bell, sealer: Option<Sealer>) -> Deployments {
        Deployments {
            db,
            bell,
            sealer,
            connections: Connections::default(),
            streams: Streams::default(),
            logs: Room::new("logs", MAX_LOGS),
        }
    }

    /// Seals and opens.
    pub(crate) fn sealer(&self) -> Result<&Sealer, DeployError> {
        self.sealer.as_ref().ok_or(DeployError::Unconfigured(
            "the control plane has no key to seal secrets with: its operator sets EVE_SEALING_KEY \
             (`openssl rand -base64 32` makes one)",
        ))
    }

    /// How a cluster is talked to.
    fn connect(&self, row: &clusters::Row) -> Result<Connection, DeployError> {
        self.connections.get(row, self.sealer.as_ref())
    }
}

/// Whoever wants something deployed.
#[derive(Clone, Debug)]
pub struct Deployer {
    /// For which organisation.
    pub tenant: Tenant,
    /// Through what they act.
    pub actor: Actor,
    /// What they may do is said by this.
    pub authority: Authority,
    /// The order of a skill that this is, which is taken with it.
    pub order: Option<orders::Ordered>,
}

/// What says whether somebody may deploy to an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// A member's role.
    Role(OrgRole),
    /// The worker type of the request that a skill runs for.
    WorkerType(String),
}

impl From<&Caller> for Deployer {
    fn from(caller: &Caller) -> Self {
        Deployer {
            tenant: caller.tenant,
            actor: caller.actor,
            authority: Authority::Role(caller.role),
            order: None,
        }
    }
}

/// Where a deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeploymentStatus {
    /// It was asked for; the cluster has not taken it yet.
    Pending,
    /// The cluster has taken it; not all of it is there.
    Deploying,
    /// As many replicas as there shall be are ready, of the latest revision and no other.
    Running,
    /// It is not there, and its time is over, or there is no use in waiting.
    Failed,
    /// Nothing of it is there.
    Stopped,
}

impl DeploymentStatus {
    /// Every status.
    pub const ALL: [DeploymentStatus; 5] = [
        DeploymentStatus::Pending,
        DeploymentStatus::Deploying,
        DeploymentStatus::Running,
        DeploymentStatus::Failed,
        DeploymentStatus::Stopped,
    ];

    /// The word in the database, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            DeploymentStatus::Pending => "pending",
            DeploymentStatus::Deploying => "deploying",
            DeploymentStatus::Running => "running",
            DeploymentStatus::Failed => "failed",
            DeploymentStatus::Stopped => "stopped",
        }
    }
}

/// An app to deploy. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDeployment {
    /// The app, which is registered.
    pub app: String,
    /// Registers the app if there is none of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub register: bool,
    /// The image: `[registry/]repository[:tag][@digest]`.
    pub image: String,
    /// How many replicas: 0 to 1000; 1 at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Environment variables, all of them: those of before are forgotten. They are kept sealed, and never
    /// shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<Variables>,
    /// What of the way it is to run is to be different: a merge patch (RFC 7396). What is left out stays as
    /// it is, what is null is no longer said.
    #[serde(default)]
    #[schema(value_type = Settings)]
    pub settings: Patch,
}

impl NewDeployment {
    /// Checks everything that can be checked without looking anywhere else.
    fn check(&self) -> Result<Image, DeployError> {
        names::app("app", &self.app)?;
        let image: Image = self.image.parse().map_err(|why: String| Invalid::new("image", why))?;
        self.replicas.map(settings::replicas).transpose()?;
        self.settings.check()?;
        if let Some(variables) = &self.env_vars {
            settings::variables(variables)?;
        }
        Ok(image)
    }
}

/// How many replicas a deployment shall have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// 0 to 1000.
    pub replicas: i64,
}

/// What to go back to. Without either: to the last revision that ran before the present one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// A version: the tag of an image. The latest revision that ran with it is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_version: Option<String>,
    /// A revision that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_revision: Option<i32>,
}

impl Rollback {
    fn check(&self) -> Result<(), Invalid> {
        match (&self.to_version, self.to_revision) {
            (Some(_), Some(_)) => {
                Err(Invalid::new("to_version", "give a version or a revision, not both"))
            }
            _ => Ok(()),
        }
    }
}

/// How many replicas there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replicas {
    /// How many there shall be.
    pub desired: i32,
    /// How many of them are ready, of the latest revision.
    pub ready: i32,
}

/// One pod of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed`, or why a container waits: `CrashLoopBackOff`.
    pub status: String,
    /// Whether it takes traffic.
    pub ready: bool,
    /// How often its containers have been started again.
    pub restarts: i32,
    /// The version that it runs.
    pub version: String,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
}

/// A deployment: an app in an environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    pub id: Uuid,
    /// The app.
    pub app: String,
    /// The environment.
    pub env: String,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// The image that was asked for.
    pub image: String,
    /// Its version: the image's tag.
    pub version: String,
    /// The latest revision.
    pub revision: i32,
    /// How many replicas there are.
    pub replicas: Replicas,
    /// Its pods, at most 100 of them, those that are not ready first.
    #[schema(value_type = Vec<Pod>)]
    pub pods: Json<Vec<Pod>>,
    /// Where it is reached from outside.
    #[serde(default)]
    pub urls: Vec<String>,
    /// How requests are split between an app and its canaries, where it is one of them; left out of lists.
    #[serde(default)]
    pub traffic: Option<traffic::Shown>,
    /// Why it stands there, in a word: `image_pull`, `crash_loop`, `not_ready`, `quota`, `admission`,
    /// `secret_missing`.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// How it is to run, the names of its environment variables (`variables`), and the versions of its
    /// secrets that its pods have (`secret_versions`).
    #[schema(value_type = Object)]
    pub config: Value,
    /// When it first ran.
    pub deployed_at: Option<DateTime<Utc>>,
    /// Who asked for the latest revision.
    pub deployed_by: Option<UserId>,
    /// The request whose run asked for it.
    pub request_id: Option<RequestId>,
    /// When it was first asked for.
    pub created_at: DateTime<Utc>,
    /// When anything of it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a revision came to be by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum RevisionKind {
    /// The first, or the first after it was deleted.
    Created,
    /// Another image or configuration.
    Updated,
    /// Another number of replicas.
    Scaled,
    /// What once ran, again.
    RolledBack,
}

impl RevisionKind {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            RevisionKind::Created => "created",
            RevisionKind::Updated => "updated",
            RevisionKind::Scaled => "scaled",
            RevisionKind::RolledBack => "rolled_back",
        }
    }
}

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Outcome {
    /// It ran.
    Running,
    /// It did not come to be there.
    Failed,
    /// Another was asked for before it was there.
    Superseded,
    /// It was to be deleted before it was there.
    Stopped,
}

impl Outcome {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Failed => "failed",
            Outcome::Superseded => "superseded",
            Outcome::Stopped => "stopped",
        }
    }
}

/// A change that was asked for, and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its number, from 1.
    pub revision: i32,
    /// What it came to be by.
    pub kind: RevisionKind,
    /// Its image.
    pub image: String,
    /// Its version: the image's tag.
    pub version: String,
    /// What the image's name meant when it ran.
    pub digest: Option<String>,
    /// How many replicas it asked for.
    pub replicas: i32,
    /// The revision that a rollback went back to.
    pub origin: Option<i32>,
    /// What became of it; none while it is under way.
    pub outcome: Option<Outcome>,
    /// Why it failed, in a word.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// Why there is one, if nobody has deployed: `secret DATABASE_URL, version 3`.
    pub cause: Option<String>,
    /// Who asked for it.
    #[schema(value_type = Object)]
    pub created_by: Json<Actor>,
    /// The request whose run asked for it.
    pub request_id: Option<RequestId>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was there, or was given up.
    pub settled_at: Option<DateTime<Utc>>,
}

/// Something that happened to a deployment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeploymentEvent {
    /// Its id.
    pub id: Uuid,
    /// What: `created`, `updated`, `scaled`, `rolled_back`, `deleted`, `secret_deleted`, and what was found:
    /// `deploying`, `running`, `failed`, `stopped`, `drifted`, `traffic` (hosts lead to it, or canaries take
    /// a share). One that is `updated` because of a secret has a `cause` in its details.
    pub event_type: String,
    /// The revision.
    pub revision: Option<i32>,
    /// More of it.
    #[schema(value_type = Object)]
    pub details: Value,
    /// Who asked for it; none for what was found.
    #[schema(value_type = Option<Object>)]
    pub actor: Option<Json<Actor>>,
    /// When.
    pub created_at: DateTime<Utc>,
}
