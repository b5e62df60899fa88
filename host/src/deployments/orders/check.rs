//! What a running skill may see and ask for. Under the guest's role, which reads and nothing else.

use sqlx::types::Json;

use super::Change;
use crate::db::{Scope, Tx};
use crate::deployments::environments::{EnvironmentConfig, EnvironmentStatus};
use crate::deployments::{
    Authority, DeployError, Deployment, DeploymentStatus, Deployments, Revision, desired, names,
    read, settings,
};
use crate::requests::Invalid;
use crate::tenancy::Tenant;

/// Most deployments in one answer.
const MOST: u32 = 1_000;

/// An environment, as a skill sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: EnvironmentStatus,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Whether skills of the worker type may deploy to it.
    pub allowed: bool,
    /// Whether a person is asked first.
    pub approval: bool,
}

struct Row {
    name: String,
    status: EnvironmentStatus,
    message: Option<String>,
    config: Json<EnvironmentConfig>,
}

impl Deployments {
    /// The organisation's environments, as skills of a worker type see them.
    pub(crate) async fn places(
        &self,
        tenant: Tenant,
        worker_type: &str,
    ) -> Result<Vec<Place>, DeployError> {
        let failed = DeployError::database("listing environments");
        let authority = Authority::WorkerType(worker_type.to_owned());
        let mut tx = self.db.begin(Scope::Guest(tenant)).await.map_err(failed)?;
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT name, status AS "status: EnvironmentStatus", message,
                      config AS "config: Json<EnvironmentConfig>"
                 FROM eve.environments WHERE org_id = $1 ORDER BY name"#,
            tenant.org().0
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        let places = rows.into_iter().map(|row| Place {
            allowed: row.config.permits(&authority, &row.name).is_ok(),
            approval: row.config.approval,
            name: row.name,
            status: row.status,
            message: row.message,
        });
        Ok(places.collect())
    }

    /// Whether a run could have this done as things stand: the deployment, if there is one. `own` says that
    /// the run itself has asked for the deployment before.
    pub(crate) async fn could(
        &self,
        tenant: Tenant,
        worker_type: &str,
        env: &str,
        app: &str,
        change: &Change,
        own: bool,
    ) -> Result<Option<Deployment>, DeployError> {
        match change {
            Change::Create(new) => {
                new.check()?;
            }
            Change::Scale(scale) => {
                settings::replicas(scale.replicas)?;
            }
            Change::Rollback(rollback) => rollback.check()?,
            Change::Delete => {}
        }
        let failed = DeployError::database("looking at an environment");
        let mut tx = self.db.begin(Scope::Guest(tenant)).await.map_err(failed)?;
        permitted(&mut tx, tenant, worker_type, env).await?;
        let there = match names::app("app", app) {
            Ok(()) => read::one(&mut tx, tenant, env, app).await.map_err(failed)?,
            Err(_) => None,
        };
        let unknown = || DeployError::not_found("deployment", app);
        let gone = there.as_ref().is_none_or(|there| {
            there.status == DeploymentStatus::Stopped || there.reason.as_deref() == Some("stopping")
        });
        match change {
            Change::Create(new) if !new.register && !own => {
                known(&mut tx, tenant, app).await?;
            }
            Change::Create(_) => {}
            _ if gone && !own => return Err(unknown()),
            Change::Rollback(rollback) => {
                let id = there.as_ref().map(|there| there.id);
                desired::target(&mut tx, id, env, app, rollback).await?;
            }
            // What the run itself has said of the load, the caller knows.
            Change::Scale(_) if !own => {
                let config = there.as_ref().map(|there| &there.config).ok_or_else(unknown)?;
                desired::not_autoscaled(app, config)?;
            }
            Change::Scale(_) => {}
            Change::Delete => {}
        }
        Ok(there)
    }

    /// One deployment, for a running skill.
    pub(crate) async fn deployment_for_guest(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
    ) -> Result<Deployment, DeployError> {
        self.deployment_in(Scope::Guest(tenant), tenant, env, app).await
    }

    /// The organisation's deployments, or those of one environment, for a running skill.
    pub(crate) async fn deployments_for_guest(
        &self,
        tenant: Tenant,
        env: Option<&str>,
    ) -> Result<Vec<Deployment>, DeployError> {
        if let Some(env) = env {
            let failed = DeployError::database("looking at an environment");
            let mut tx = self.db.begin(Scope::Guest(tenant)).await.map_err(failed)?;
            environment(&mut tx, tenant, env).await?;
        }
        self.deployments_in(Scope::Guest(tenant), tenant, env, false, None, MOST).await
    }

    /// A deployment's latest revisions, for a running skill.
    pub(crate) async fn history_for_guest(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
        limit: u32,
    ) -> Result<Vec<Revision>, DeployError> {
        if !(1..=100).contains(&limit) {
            return Err(
                Invalid::new("limit", format_args!("{limit} is not between 1 and 100")).into()
            );
        }
        self.history_in(Scope::Guest(tenant), tenant, env, app, None, limit).await
    }
}

async fn environment(tx: &mut Tx, tenant: Tenant, env: &str) -> Result<Row, DeployError> {
    let unknown = || DeployError::not_found("environment", env);
    names::label("env", env, names::MAX_ENVIRONMENT).map_err(|_| unknown())?;
    sqlx::query_as!(
        Row,
        r#"SELECT name, status AS "status: EnvironmentStatus", message,
                  config AS "config: Json<EnvironmentConfig>"
             FROM eve.environments WHERE org_id = $1 AND name = $2"#,
        tenant.org().0,
        env
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(DeployError::database("looking at an environment"))?
    .ok_or_else(unknown)
}

/// Whether skills of a worker type may have something to do with an environment.
pub(in crate::deployments) async fn permitted(
    tx: &mut Tx,
    tenant: Tenant,
    worker_type: &str,
    env: &str,
) -> Result<(), DeployError> {
    let row = environment(tx, tenant, env).await?;
    row.config.permits(&Authority::WorkerType(worker_type.to_owned()), env)?;
    match row.status {
        EnvironmentStatus::Deleting => Err(desired::deleting(env)),
        _ => Ok(()),
    }
}

async fn known(tx: &mut Tx, tenant: Tenant, app: &str) -> Result<(), DeployError> {
    let there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.apps WHERE org_id = $1 AND name = $2) AS "there!""#,
        tenant.org().0,
        app
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(DeployError::database("looking for an app"))?;
    match there {
        true => Ok(()),
        false => Err(DeployError::NotFound { what: "app", name: app.chars().take(64).collect() }),
    }
}
