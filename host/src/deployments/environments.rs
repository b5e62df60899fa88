//! Environments: the namespaces that an organisation has in clusters.
//!
//! Flow: an admin makes one, which is a row; the reconciler makes the namespace and what confines it, and
//! says that it is `ready`. Deleting is likewise: the row stays, `deleting`, until the namespace is gone.
//!
//! Invariants:
//! - A namespace of a cluster is one environment's: the table has it once, and in the cluster it carries
//!   the environment's id from birth. One that we did not make is never taken over.
//! - Names that are Kubernetes', a distribution's or ours are refused.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::kubernetes::DEPLOYERS;
use super::kubernetes::connection::Identity;
use super::secrets::{self, SecretStore};
use super::{Authority, DeployError, Deployments, names};
use crate::db::{Scope, Tx};
use crate::requests::Invalid;
use crate::tenancy::auth::Caller;
use crate::tenancy::{OrgRole, Tenant, audit};

/// Most environments of an organisation.
pub const MAX_ENVIRONMENTS: i64 = 100;

/// Where an environment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EnvironmentStatus {
    /// Its namespace is being made.
    Provisioning,
    /// Apps can be deployed to it.
    Ready,
    /// Its namespace cannot be made; it is tried again.
    Failed,
    /// Its namespace is being deleted.
    Deleting,
}

impl EnvironmentStatus {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            EnvironmentStatus::Provisioning => "provisioning",
            EnvironmentStatus::Ready => "ready",
            EnvironmentStatus::Failed => "failed",
            EnvironmentStatus::Deleting => "deleting",
        }
    }
}

/// What an environment allows and has room for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnvironmentConfig {
    /// The least role that may deploy to it: `member` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployers: Option<OrgRole>,
    /// The worker types whose skills may deploy to it: all that are granted `deploy` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_types: Option<Vec<String>>,
    /// Whether a person is asked before what a skill asks for is done: a member who may deploy to it
    /// approves or rejects, within 24 hours.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// The quotas of its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Where its secrets are kept, if not by Eve Horizon; only administrators of the platform say so, and only
    /// when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_store: Option<SecretStore>,
}

/// What all apps of an environment may have together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Pods: 1 to 10000; 50 when absent.
    pub pods: u32,
    /// Cores of CPU: 20 when absent.
    pub cpu: u32,
    /// Gibibytes of memory: 40 when absent.
    pub memory_gib: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Quota { pods: 50, cpu: 20, memory_gib: 40 }
    }
}

impl EnvironmentConfig {
    fn check(&self) -> Result<(), Invalid> {
        if let Some(quota) = &self.quota {
            for (field, value, most) in [
                ("config.quota.pods", quota.pods, 10_000),
                ("config.quota.cpu", quota.cpu, 100_000),
                ("config.quota.memory_gib", quota.memory_gib, 1_000_000),
            ] {
                if !(1..=most).contains(&value) {
                    return Err(Invalid::new(field, format_args!("must be 1 to {most}")));
                }
            }
        }
        let types = self.worker_types.iter().flatten();
        if types.clone().count() > 100 {
            return Err(Invalid::new("config.worker_types", "may be at most 100"));
        }
        types.into_iter().try_for_each(|name| names::label("config.worker_types", name, 63))
    }

    /// The least role that may deploy to it, and that may approve what skills ask for.
    pub fn deployers(&self) -> OrgRole {
        self.deployers.unwrap_or(OrgRole::Member)
    }

    /// Whether somebody may deploy to it; `env` is its name.
    pub(super) fn permits(&self, authority: &Authority, env: &str) -> Result<(), DeployError> {
        match authority {
            Authority::Role(role) if *role < self.deployers() => {
                Err(DeployError::Forbidden(format!(
                    "deploying to `{env}` takes the role {}: ask one of them",
                    self.deployers()
                )))
            }
            Authority::WorkerType(kind)
                if self.worker_types.as_ref().is_some_and(|allowed| !allowed.contains(kind)) =>
            {
                Err(DeployError::Forbidden(format!(
                    "skills of the worker type `{kind}` may not deploy to `{env}`"
                )))
            }
            Authority::Role(_) | Authority::WorkerType(_) => Ok(()),
        }
    }

    /// The quotas of its namespace.
    pub fn quota(&self) -> Quota {
        self.quota.clone().unwrap_or_default()
    }
}

/// An environment to make.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnvironment {
    /// Its name, unique in the organisation: a DNS label of at most 40 characters, such as `dev`.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// Its namespace in the cluster: a DNS label of at most 58 characters. The organisation's short name,
    /// `-` and the environment's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What it allows and has room for.
    #[serde(default)]
    pub config: EnvironmentConfig,
}

/// An environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    /// Its id, which its namespace carries.
    pub id: Uuid,
    /// Its name, by which it is addressed.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// Its namespace in the cluster.
    pub namespace: String,
    /// What it allows and has room for.
    #[schema(value_type = EnvironmentConfig)]
    pub config: Json<EnvironmentConfig>,
    /// Where it stands.
    pub status: EnvironmentStatus,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Apps that are deployed in it.
    pub deployments: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its namespace was last found to be as it should.
    pub provisioned_at: Option<DateTime<Utc>>,
}

/// How an environment is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Unless apps are deployed in it.
    Empty,
    /// With everything that is in it.
    Whole,
    /// Without touching its cluster, which is gone for ever.
    Abandoned,
}

impl Deployments {
    /// Makes an environment. Its namespace follows.
    pub async fn create_environment(
        &self,
        caller: &Caller,
        new: &NewEnvironment,
    ) -> Result<Environment, DeployError> {
        let tenant = caller.tenant;
        names::label("name", &new.name, names::MAX_ENVIRONMENT)?;
        new.config.check()?;
        let config =
            secrets::settled(&new.config, &caller.org.slug, &new.name, caller.platform_admin)?;
        let namespace = match &new.namespace {
            Some(namespace) => namespace.clone(),
            None => format!("{}-{}", caller.org.slug, new.name),
        };
        names::namespace("namespace", &namespace)?;
        let failed = DeployError::database("making an environment");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let cluster = sqlx::query_scalar!("SELECT id FROM eve.clusters WHERE id = $1", new.cluster)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
        if cluster.is_none() {
            let message = format!(
                "there is no cluster `{}`; an administrator of the platform registers them (`eve cluster add`)",
                new.cluster.chars().take(63).collect::<String>().escape_default()
            );
            return Err(DeployError::Invalid { field: "cluster".into(), message });
        }
        let config = serde_json::to_value(&config).expect("a config always serialises");
        let creator = caller.actor.to_json();
        let made = sqlx::query!(
            "INSERT INTO eve.environments (id, org_id, name, cluster_id, namespace, config, created_by)
             SELECT $1, $2, $3, $4, $5, $6, $7
              WHERE (SELECT count(*) FROM eve.environments WHERE org_id = $2) < $8",
            Uuid::now_v7(),
            tenant.org().0,
            new.name,
            new.cluster,
            namespace,
            config,
            creator,
            MAX_ENVIRONMENTS,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(said)
                if said.constraint() == Some("environments_cluster_id_namespace_key") =>
            {
                // Whose it is is nobody's business.
                DeployError::Conflict(format!(
                    "the namespace `{namespace}` of the cluster `{}` is an environment's already: choose \
                     another with --namespace",
                    new.cluster
                ))
            }
            sqlx::Error::Database(said) if said.is_unique_violation() => {
                DeployError::Conflict(format!("there is an environment `{}` already", new.name))
            }
            _ => failed(error),
        })?;
        if made.rows_affected() == 0 {
            return Err(DeployError::Conflict(format!(
                "the organisation has {MAX_ENVIRONMENTS} environments, and may have no more"
            )));
        }
        let details = json!({ "cluster": new.cluster, "namespace": namespace, "config": config });
        audit::record_details(
            &mut tx,
            tenant,
            &caller.actor,
            "environment.create",
            &new.name,
            details,
        )
        .await
        .map_err(failed)?;
        let made = one(&mut tx, tenant, &new.name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        made.ok_or_else(|| DeployError::not_found("environment", &new.name))
    }

    /// One environment.
    pub async fn environment(
        &self,
        tenant: Tenant,
        name: &str,
    ) -> Result<Environment, DeployError> {
        let failed = DeployError::database("reading an environment");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let found = match names::label("name", name, names::MAX_ENVIRONMENT) {
            Ok(()) => one(&mut tx, tenant, name).await.map_err(failed)?,
            Err(_) => None,
        };
        found.ok_or_else(|| DeployError::not_found("environment", name))
    }

    /// The organisation's environments, by name.
    pub async fn environments(&self, tenant: Tenant) -> Result<Vec<Environment>, DeployError> {
        let failed = DeployError::database("listing environments");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        some(&mut tx, tenant, None).await.map_err(failed)
    }

    /// Has an environment deleted, with everything that is in it as far as `how` allows.
    ///
    /// One that is abandoned is forgotten, and whatever there is of it in its cluster stays and is nobody's:
    /// so nobody may do that while the cluster answers but an administrator of the platform, whose cluster
    /// it is.
    pub async fn delete_environment(
        &self,
        caller: &Caller,
        name: &str,
        how: Deletion,
    ) -> Result<Environment, DeployError> {
        let tenant = caller.tenant;
        let failed = DeployError::database("deleting an environment");
        names::label("name", name, names::MAX_ENVIRONMENT)
            .map_err(|_| DeployError::not_found("environment", name))?;
        let abandoned = how == Deletion::Abandoned;
        let mut left_behind = None;
        if abandoned {
            let environment = self.environment(tenant, name).await?;
            if !caller.platform_admin {
                self.is_away(&environment).await?;
            }
            left_behind = Some(environment.left_behind());
        }
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        lock(&mut tx, tenant, name).await?;
        let running = sqlx::query_scalar!(
            r#"SELECT a.name
                 FROM eve.deployments d
                 JOIN eve.apps a ON a.id = d.app_id
                 JOIN eve.environments e ON e.id = d.environment_id
                WHERE e.org_id = $1 AND e.name = $2 AND d.status <> 'stopped'
                ORDER BY a.name LIMIT 20"#,
            tenant.org().0,
            name
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        if !running.is_empty() && how == Deletion::Empty {
            return Err(DeployError::Conflict(format!(
                "deployed in `{name}`: {}; delete them first, or everything with --force",
                running.join(", ")
            )));
        }
        sqlx::query!(
            "UPDATE eve.environments
                SET status = 'deleting', message = $3, abandoned = abandoned OR $4
              WHERE org_id = $1 AND name = $2",
            tenant.org().0,
            name,
            left_behind,
            abandoned,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        let (action, details) = match left_behind {
            Some(left) => {
                ("environment.abandon", json!({ "left_behind": left, "deployed": running }))
            }
            None => {
                let force = how == Deletion::Whole;
                ("environment.delete", json!({ "force": force, "deployed": running }))
            }
        };
        audit::record_details(&mut tx, tenant, &caller.actor, action, name, details)
            .await
            .map_err(failed)?;
        let left = one(&mut tx, tenant, name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        left.ok_or_else(|| DeployError::not_found("environment", name))
    }

    /// Fails while the cluster of an environment answers.
    async fn is_away(&self, environment: &Environment) -> Result<(), DeployError> {
        let row = self.cluster_row(&environment.cluster).await?;
        match self.connect(&row)?.is_there().await {
            Err(_) => Ok(()),
            Ok(()) => Err(DeployError::Conflict(format!(
                "the cluster `{}` answers: `eve env delete {} --force` deletes the environment with all that \
                 is in it; only an administrator of the platform can abandon what is there",
                environment.cluster, environment.name
            ))),
        }
    }
}

impl Environment {
    /// What nobody looks after any more when it is abandoned.
    fn left_behind(&self) -> String {
        let Environment { cluster, namespace, .. } = self;
        let accounts = Identity::ALL.map(|identity| identity.account(namespace)).join(", ");
        format!(
            "left behind in the cluster `{cluster}`, should it come back: the namespace {namespace} with all \
             that is in it, and the accounts {accounts} in {DEPLOYERS}"
        )
    }
}

/// An environment that is locked against being deleted.
pub(super) struct Locked {
    pub id: Uuid,
    pub name: String,
    pub config: EnvironmentConfig,
    pub status: EnvironmentStatus,
}

/// Locks an environment: whoever deploys to it shares the lock, whoever deletes it does not.
async fn lock(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<(), DeployError> {
    let failed = DeployError::database("locking an environment");
    sqlx::query_scalar!(
        "SELECT id FROM eve.environments WHERE org_id = $1 AND name = $2 FOR UPDATE",
        tenant.org().0,
        name
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?
    .map(|_| ())
    .ok_or_else(|| DeployError::not_found("environment", name))
}

/// As [`lock`], for whoever deploys what concerns one app.
pub(super) async fn share(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<Locked, DeployError> {
    let failed = DeployError::database("locking an environment");
    if name.contains('\0') {
        return Err(DeployError::not_found("environment", name));
    }
    sqlx::query!(
        r#"SELECT id, name, config AS "config: Json<EnvironmentConfig>",
                  status AS "status: EnvironmentStatus"
             FROM eve.environments WHERE org_id = $1 AND name = $2 FOR SHARE"#,
        tenant.org().0,
        name
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?
    .map(|row| Locked { id: row.id, name: row.name, config: row.config.0, status: row.status })
    .ok_or_else(|| DeployError::not_found("environment", name))
}

/// An environment that is only looked at, by its id.
pub(super) async fn looked_at(
    tx: &mut Tx,
    tenant: Tenant,
    id: Uuid,
) -> Result<Option<Locked>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT id, name, config AS "config: Json<EnvironmentConfig>",
                  status AS "status: EnvironmentStatus"
             FROM eve.environments WHERE org_id = $1 AND id = $2"#,
        tenant.org().0,
        id
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| Locked {
        id: row.id,
        name: row.name,
        config: row.config.0,
        status: row.status,
    }))
}

/// As [`share`], for whoever changes what may concern other deployments of it: nobody else deploys meanwhile.
pub(super) async fn alone(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<Locked, DeployError> {
    let failed = DeployError::database("locking an environment");
    if name.contains('\0') {
        return Err(DeployError::not_found("environment", name));
    }
    sqlx::query!(
        r#"SELECT id, name, config AS "config: Json<EnvironmentConfig>",
                  status AS "status: EnvironmentStatus"
             FROM eve.environments WHERE org_id = $1 AND name = $2 FOR NO KEY UPDATE"#,
        tenant.org().0,
        name
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?
    .map(|row| Locked { id: row.id, name: row.name, config: row.config.0, status: row.status })
    .ok_or_else(|| DeployError::not_found("environment", name))
}

async fn one(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<Option<Environment>, sqlx::Error> {
    Ok(some(tx, tenant, Some(name)).await?.pop())
}

/// The environments of an organisation, by name; only that of a name.
async fn some(
    tx: &mut Tx,
    tenant: Tenant,
    name: Option<&str>,
) -> Result<Vec<Environment>, sqlx::Error> {
    sqlx::query_as!(
        Environment,
        r#"SELECT e.id, e.name, e.cluster_id AS cluster, e.namespace,
                  e.config AS "config: Json<EnvironmentConfig>",
                  e.status AS "status: EnvironmentStatus", e.message, e.created_at, e.provisioned_at,
                  (SELECT count(*) FROM eve.deployments d
                    WHERE d.environment_id = e.id AND d.status <> 'stopped') AS "deployments!"
             FROM eve.environments e
            WHERE e.org_id = $1 AND ($2::text IS NULL OR e.name = $2)
            ORDER BY e.name
            LIMIT $3"#,
        tenant.org().0,
        name,
        MAX_ENVIRONMENTS,
    )
    .fetch_all(&mut **tx)
    .await
}
