//! Clusters: where apps may run. Platform administrators register them; members see their names.
//!
//! Invariants:
//! - What a cluster is entered with is sealed before it is stored, and never shown again.
//! - It is a token, a certificate or a login at a cloud ([`logins`]): whatever would have the control plane run
//!   a program, read a file, or talk through somebody else is refused.

mod credentials;
pub mod logins;
mod store;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use utoipa::ToSchema;

pub(super) use credentials::ClusterConfig;
pub use credentials::{Credentials, NewCluster};
pub(super) use store::Row;

/// What kind of cluster it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Provider {
    /// A Kubernetes of one's own: kind, minikube, k3s, kubeadm.
    Local,
    /// Amazon's Kubernetes.
    Eks,
    /// Google's Kubernetes.
    Gke,
    /// Microsoft's Kubernetes.
    Aks,
    /// Amazon's own orchestrator; not supported yet.
    Ecs,
    /// A Docker on one machine; not supported yet.
    Docker,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Provider; 6] = [
        Provider::Local,
        Provider::Eks,
        Provider::Gke,
        Provider::Aks,
        Provider::Ecs,
        Provider::Docker,
    ];

    /// The word in the database, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Local => "local",
            Provider::Eks => "eks",
            Provider::Gke => "gke",
            Provider::Aks => "aks",
            Provider::Ecs => "ecs",
            Provider::Docker => "docker",
        }
    }

    /// Whether it is a Kubernetes.
    pub fn is_kubernetes(self) -> bool {
        !matches!(self, Provider::Ecs | Provider::Docker)
    }
}

/// A Gateway of the Gateway API, which the operator keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What the last look at a cluster found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ClusterStatus {
    /// Nobody has looked yet.
    Unchecked,
    /// Environments can be made in it.
    Ready,
    /// It answers, and something is missing.
    Unready,
    /// It does not answer, or knows nobody of that name.
    Unreachable,
}

impl ClusterStatus {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterStatus::Unchecked => "unchecked",
            ClusterStatus::Ready => "ready",
            ClusterStatus::Unready => "unready",
            ClusterStatus::Unreachable => "unreachable",
        }
    }
}

/// A cluster, without what it is entered with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its id, by which it is addressed.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// What kind it is.
    pub provider: Provider,
    /// Its API server; none where the control plane runs in it.
    pub endpoint: Option<String>,
    /// Whether there is something to enter it with.
    pub has_credentials: bool,
    /// What the last look at it found.
    pub status: ClusterStatus,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Its version of Kubernetes.
    pub version: Option<String>,
    /// When it was looked at.
    pub checked_at: Option<DateTime<Utc>>,
    /// What the host names of its environments end with; none if nothing is reached from outside.
    pub domain: Option<String>,
    /// The Gateway that leads requests to apps.
    #[schema(value_type = Option<Gateway>)]
    pub gateway: Option<Json<Gateway>>,
    /// The class of the Ingresses that do, where there is no Gateway.
    pub ingress_class: Option<String>,
    /// Environments in it.
    pub environments: i64,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// What a look at a cluster found.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterCheck {
    /// In one word.
    pub status: ClusterStatus,
    /// Its version of Kubernetes, if it answers.
    pub version: Option<String>,
    /// Why it does not answer.
    pub error: Option<String>,
    /// What has to be there and is not, a line each: permissions, namespaces, admission policies.
    pub missing: Vec<String>,
    /// What works and should not stay so.
    pub warnings: Vec<String>,
}

impl ClusterCheck {
    /// Of a cluster that does not answer.
    pub(super) fn unreachable(error: String) -> ClusterCheck {
        ClusterCheck {
            status: ClusterStatus::Unreachable,
            version: None,
            error: Some(error),
            missing: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// In a line, for lists.
    pub(super) fn message(&self) -> Option<String> {
        let text = self.error.clone().or_else(|| {
            let (first, rest) = self.missing.split_first()?;
            Some(match rest.len() {
                0 => format!("missing: {first}"),
                more => format!("missing: {first}, and {more} more"),
            })
        })?;
        Some(text.chars().take(500).collect())
    }
}
