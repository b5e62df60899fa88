//! Apps: what organisations deploy. An app is a name; what runs under it is said with each deployment.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{DeployError, Deployments, names};
use crate::db::{Scope, Tx};
use crate::requests::{Invalid, empty_object};
use crate::tenancy::{Actor, Tenant, audit};

/// Most apps of an organisation.
pub const MAX_APPS: i64 = 10_000;
/// Largest `config`.
const MAX_CONFIG: usize = 64 << 10;

/// An app to register.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    /// Its name, unique in the organisation: a DNS label of at most 50 characters that begins with a letter.
    /// Its service in every environment has it as well.
    pub name: String,
    /// The repository of its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    /// Whatever skills want to know of it: a JSON object of at most 64 KiB.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub config: Value,
}

/// An app.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its id.
    pub id: Uuid,
    /// Its name, by which it is addressed.
    pub name: String,
    /// The repository of its source.
    pub repo_url: Option<String>,
    /// Whatever skills want to know of it.
    #[schema(value_type = Object)]
    pub config: Value,
    /// The environments in which it is deployed, by name.
    pub environments: Vec<String>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

impl Deployments {
    /// Registers an app.
    pub async fn create_app(
        &self,
        tenant: Tenant,
        actor: &Actor,
        new: &NewApp,
    ) -> Result<App, DeployError> {
        check(new)?;
        let failed = DeployError::database("registering an app");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        if !register(&mut tx, tenant, actor, new).await? {
            return Err(DeployError::Conflict(format!("there is an app `{}` already", new.name)));
        }
        let made = one(&mut tx, tenant, &new.name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        made.ok_or_else(|| DeployError::not_found("app", &new.name))
    }

    /// One app.
    pub async fn app(&self, tenant: Tenant, name: &str) -> Result<App, DeployError> {
        let failed = DeployError::database("reading an app");
        known(name)?;
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let app = one(&mut tx, tenant, name).await.map_err(failed)?;
        app.ok_or_else(|| DeployError::not_found("app", name))
    }

    /// At most `limit` apps of the organisation in the order of their names, only behind `after`.
    pub async fn apps(
        &self,
        tenant: Tenant,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<App>, DeployError> {
        let failed = DeployError::database("listing apps");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        sqlx::query_as!(
            App,
            r#"SELECT a.id, a.name, a.repo_url, a.config, a.created_at,
                      ARRAY(SELECT e.name FROM eve.deployments d
                              JOIN eve.environments e ON e.id = d.environment_id
                             WHERE d.app_id = a.id AND d.status <> 'stopped'
                             ORDER BY e.name) AS "environments!"
                 FROM eve.apps a
                WHERE a.org_id = $1 AND ($2::text IS NULL OR a.name > $2)
                ORDER BY a.name
                LIMIT $3"#,
            tenant.org().0,
            after,
            i64::from(limit),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)
    }

    /// Deletes an app that is deployed nowhere, with the history of where it was.
    pub async fn delete_app(
        &self,
        tenant: Tenant,
        actor: &Actor,
        name: &str,
    ) -> Result<(), DeployError> {
        let failed = DeployError::database("deleting an app");
        known(name)?;
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        // Whoever deploys it takes the same lock.
        let id = sqlx::query_scalar!(
            "SELECT id FROM eve.apps WHERE org_id = $1 AND name = $2 FOR UPDATE",
            tenant.org().0,
            name
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?
        .ok_or_else(|| DeployError::not_found("app", name))?;
        let app = one(&mut tx, tenant, name).await.map_err(failed)?;
        if let Some(app) = app
            && !app.environments.is_empty()
        {
            return Err(DeployError::Conflict(format!(
                "`{name}` is deployed in {}: delete it there first (`eve deploy delete --app {name} --env {}`)",
                app.environments.join(", "),
                app.environments[0],
            )));
        }
        sqlx::query!("DELETE FROM eve.apps WHERE org_id = $1 AND id = $2", tenant.org().0, id)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        audit::record(&mut tx, tenant, actor, "app.delete", name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }
}

/// What is no name is no app's.
fn known(name: &str) -> Result<(), DeployError> {
    names::app("name", name).map_err(|_| DeployError::not_found("app", name))
}

/// Registers an app, which has been checked, in the caller's transaction: `false` if there is one of that
/// name.
pub(super) async fn register(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    new: &NewApp,
) -> Result<bool, DeployError> {
    let failed = DeployError::database("registering an app");
    let creator = actor.to_json();
    let made = sqlx::query!(
        "INSERT INTO eve.apps (id, org_id, name, repo_url, config, created_by)
         SELECT $1, $2, $3, $4, $5, $6
          WHERE (SELECT count(*) FROM eve.apps WHERE org_id = $2) < $7
         ON CONFLICT (org_id, name) DO NOTHING",
        Uuid::now_v7(),
        tenant.org().0,
        new.name,
        new.repo_url,
        new.config,
        creator,
        MAX_APPS,
    )
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    if made.rows_affected() == 1 {
        let details = json!({ "repo_url": new.repo_url });
        audit::record_details(tx, tenant, actor, "app.create", &new.name, details)
            .await
            .map_err(failed)?;
        return Ok(true);
    }
    match one(tx, tenant, &new.name).await.map_err(failed)? {
        Some(_) => Ok(false),
        None => Err(DeployError::Conflict(format!(
            "the organisation has {MAX_APPS} apps, and may have no more"
        ))),
    }
}

async fn one(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<Option<App>, sqlx::Error> {
    sqlx::query_as!(
        App,
        r#"SELECT a.id, a.name, a.repo_url, a.config, a.created_at,
                  ARRAY(SELECT e.name FROM eve.deployments d
                          JOIN eve.environments e ON e.id = d.environment_id
                         WHERE d.app_id = a.id AND d.status <> 'stopped'
                         ORDER BY e.name) AS "environments!"
             FROM eve.apps a
            WHERE a.org_id = $1 AND a.name = $2"#,
        tenant.org().0,
        name
    )
    .fetch_optional(&mut **tx)
    .await
}

fn check(new: &NewApp) -> Result<(), Invalid> {
    names::app("name", &new.name)?;
    if let Some(url) = &new.repo_url
        && (url.is_empty() || url.len() > 2_048 || url.chars().any(char::is_control))
    {
        return Err(Invalid::new(
            "repo_url",
            "must be 1 to 2048 characters, without control characters",
        ));
    }
    let text = new.config.to_string();
    if !new.config.is_object() || text.len() > MAX_CONFIG || text.contains("\\u0000") {
        return Err(Invalid::new(
            "config",
            format_args!("must be a JSON object of at most {MAX_CONFIG} bytes, without U+0000"),
        ));
    }
    Ok(())
}
