//! What there is: deployments, their revisions and what happened to them.

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::kubernetes::connection::Identity;
use super::kubernetes::logs::{self, Lines, Wanted};
use super::settings::settings_of;
use super::traffic::Place;
use super::{
    DeployError, Deployment, DeploymentEvent, DeploymentStatus, Deployments, Image, Outcome, Pod,
    Replicas, Revision, RevisionKind, names, traffic,
};
use crate::db::{Scope, Tx};
use crate::ids::{RequestId, UserId};
use crate::tenancy::{Actor, Tenant};

impl Deployments {
    /// One deployment; one that was deleted as well.
    pub async fn deployment(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
    ) -> Result<Deployment, DeployError> {
        self.deployment_in(Scope::Tenant(tenant), tenant, env, app).await
    }

    pub(super) async fn deployment_in(
        &self,
        scope: Scope,
        tenant: Tenant,
        env: &str,
        app: &str,
    ) -> Result<Deployment, DeployError> {
        let failed = DeployError::database("reading a deployment");
        known(env, app)?;
        let mut tx = self.db.begin(scope).await.map_err(failed)?;
        match one(&mut tx, tenant, env, app).await.map_err(failed)? {
            Some(deployment) => Ok(deployment),
            None => Err(missing(&mut tx, tenant, env, app).await?),
        }
    }

    /// At most `limit` deployments of the organisation, or of one environment, in the order of
    /// environment and app, only behind `after`. Those that were deleted only if they are `wanted`.
    pub async fn deployments(
        &self,
        tenant: Tenant,
        env: Option<&str>,
        deleted: bool,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Deployment>, DeployError> {
        if let Some(env) = env {
            self.environment(tenant, env).await?;
        }
        self.deployments_in(Scope::Tenant(tenant), tenant, env, deleted, after, limit).await
    }

    pub(super) async fn deployments_in(
        &self,
        scope: Scope,
        tenant: Tenant,
        env: Option<&str>,
        deleted: bool,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Deployment>, DeployError> {
        let failed = DeployError::database("listing deployments");
        // A guest's list has to fit into its worker's memory, however large configurations are.
        let bare = matches!(scope, Scope::Guest(_));
        let mut tx = self.db.begin(scope).await.map_err(failed)?;
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT d.id, a.name AS app, e.name AS env, d.status AS "status: DeploymentStatus", d.image,
                      d.revision, d.replicas, d.ready_replicas, CASE WHEN $7 THEN '[]' ELSE d.pods END AS "pods!: Json<Vec<Pod>>", d.reason,
                      d.message, CASE WHEN $7 THEN '{}' ELSE d.config END AS "config!", d.deployed_at, d.deployed_by, d.request_id, d.created_at,
                      d.updated_at, d.environment_id, o.slug, c.id AS cluster, c.config AS cluster_config
                 FROM eve.deployments d
                 JOIN eve.apps a ON a.id = d.app_id
                 JOIN eve.environments e ON e.id = d.environment_id
                 JOIN eve.organizations o ON o.id = e.org_id
                 JOIN eve.clusters c ON c.id = e.cluster_id
                WHERE d.org_id = $1
                  AND ($2::text IS NULL OR e.name = $2)
                  AND ($3 OR d.status <> 'stopped')
                  AND ($4::text IS NULL OR (e.name, a.name) > ($4, $5::text))
                ORDER BY e.name, a.name
                LIMIT $6"#,
            tenant.org().0,
            env,
            deleted,
            after.map(|(env, _)| env),
            after.map(|(_, app)| app),
            i64::from(limit),
            bare,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        Ok(rows.into_iter().map(Deployment::from).collect())
    }

    /// At most `limit` revisions of a deployment, latest first, only older than `before`.
    pub async fn history(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
        before: Option<i32>,
        limit: u32,
    ) -> Result<Vec<Revision>, DeployError> {
        self.history_in(Scope::Tenant(tenant), tenant, env, app, before, limit).await
    }

    pub(super) async fn history_in(
        &self,
        scope: Scope,
        tenant: Tenant,
        env: &str,
        app: &str,
        before: Option<i32>,
        limit: u32,
    ) -> Result<Vec<Revision>, DeployError> {
        let failed = DeployError::database("reading a deployment's history");
        let id = self.deployment_in(scope, tenant, env, app).await?.id;
        let mut tx = self.db.begin(scope).await.map_err(failed)?;
        let rows = sqlx::query!(
            r#"SELECT revision, kind AS "kind: RevisionKind", image, digest, replicas, origin,
                      outcome AS "outcome: Outcome", reason, message, cause,
                      created_by AS "created_by: Json<Actor>", request_id, created_at, settled_at
                 FROM eve.deployment_revisions
                WHERE deployment_id = $1 AND ($2::int IS NULL OR revision < $2)
                ORDER BY revision DESC
                LIMIT $3"#,
            id,
            before,
            i64::from(limit),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        let revisions = rows.into_iter().map(|row| Revision {
            revision: row.revision,
            kind: row.kind,
            version: version(&row.image),
            image: row.image,
            digest: row.digest,
            replicas: row.replicas,
            origin: row.origin,
            outcome: row.outcome,
            reason: row.reason,
            message: row.message,
            cause: row.cause,
            created_by: row.created_by,
            request_id: row.request_id.map(RequestId),
            created_at: row.created_at,
            settled_at: row.settled_at,
        });
        Ok(revisions.collect())
    }

    /// What the pods of a deployment have written. An organisation reads so many at one time.
    pub async fn logs(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
        wanted: Wanted,
    ) -> Result<Lines, DeployError> {
        self.deployment(tenant, env, app).await?;
        let seat = self.logs.take(tenant.org()).map_err(|full| DeployError::TooMany(full.0))?;
        let environment = self.environment(tenant, env).await?;
        let cluster = self.cluster_row(&environment.cluster).await?;
        let connection = self.connect(&cluster)?;
        let failed = |failure: super::kubernetes::failure::Failure| DeployError::Cluster {
            cluster: environment.cluster.clone(),
            message: failure.to_string(),
        };
        let client =
            connection.identity(&environment.namespace, Identity::Viewer).map_err(failed)?;
        let lines =
            logs::read(&client, &environment.namespace, app, wanted).await.map_err(failed)?;
        Ok(lines
            .map(move |line| {
                // Until the last of them is read, or nobody reads them any more.
                let _seat = &seat;
                line
            })
            .boxed())
    }

    /// At most `limit` things that happened to a deployment, latest first, only older than `before`.
    pub async fn events(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeploymentEvent>, DeployError> {
        let failed = DeployError::database("reading what happened to a deployment");
        let id = self.deployment(tenant, env, app).await?.id;
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        sqlx::query_as!(
            DeploymentEvent,
            r#"SELECT id, event_type, revision, details, actor AS "actor: Json<Actor>", created_at
                 FROM eve.deployment_events
                WHERE deployment_id = $1 AND ($2::uuid IS NULL OR id < $2)
                ORDER BY id DESC
                LIMIT $3"#,
            id,
            before,
            i64::from(limit),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)
    }
}

/// What is no name is nobody's.
fn known(env: &str, app: &str) -> Result<(), DeployError> {
    names::label("env", env, names::MAX_ENVIRONMENT)
        .map_err(|_| DeployError::not_found("environment", env))?;
    names::app("app", app).map_err(|_| DeployError::not_found("deployment", app))
}

/// Which of the two there is not.
async fn missing(
    tx: &mut Tx,
    tenant: Tenant,
    env: &str,
    app: &str,
) -> Result<DeployError, DeployError> {
    let there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.environments WHERE org_id = $1 AND name = $2) AS "there!""#,
        tenant.org().0,
        env
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(DeployError::database("reading an environment"))?;
    Ok(match there {
        true => DeployError::not_found("deployment", &format!("{app} in {env}")),
        false => DeployError::not_found("environment", env),
    })
}

/// A deployment as it stands in this transaction.
pub(super) async fn one(
    tx: &mut Tx,
    tenant: Tenant,
    env: &str,
    app: &str,
) -> Result<Option<Deployment>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT d.id, a.name AS app, e.name AS env, d.status AS "status: DeploymentStatus", d.image,
                  d.revision, d.replicas, d.ready_replicas, d.pods AS "pods: Json<Vec<Pod>>", d.reason,
                  d.message, d.config, d.deployed_at, d.deployed_by, d.request_id, d.created_at,
                  d.updated_at, d.environment_id, o.slug, c.id AS cluster, c.config AS cluster_config
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
             JOIN eve.environments e ON e.id = d.environment_id
             JOIN eve.organizations o ON o.id = e.org_id
             JOIN eve.clusters c ON c.id = e.cluster_id
            WHERE d.org_id = $1 AND e.name = $2 AND a.name = $3"#,
        tenant.org().0,
        env,
        app
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let traffic = traffic::split(tx, row.environment_id, &row.app, &row.config).await?;
    Ok(Some(Deployment { traffic, ..Deployment::from(row) }))
}

struct Row {
    id: Uuid,
    app: String,
    env: String,
    status: DeploymentStatus,
    image: String,
    revision: i32,
    replicas: i32,
    ready_replicas: i32,
    pods: Json<Vec<Pod>>,
    reason: Option<String>,
    message: Option<String>,
    config: Value,
    deployed_at: Option<DateTime<Utc>>,
    deployed_by: Option<Uuid>,
    request_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    environment_id: Uuid,
    slug: String,
    cluster: String,
    cluster_config: Value,
}

impl From<Row> for Deployment {
    fn from(row: Row) -> Self {
        let cluster = serde_json::from_value(row.cluster_config).unwrap_or_default();
        let place = Place::new(&row.env, &row.slug, &row.cluster, cluster);
        let hosts = settings_of(&row.config).hosts.unwrap_or_default();
        let urls = match row.status {
            DeploymentStatus::Stopped => Vec::new(),
            _ => traffic::urls(&place, &hosts),
        };
        Deployment {
            id: row.id,
            app: row.app,
            env: row.env,
            status: row.status,
            version: version(&row.image),
            image: row.image,
            revision: row.revision,
            replicas: Replicas { desired: row.replicas, ready: row.ready_replicas },
            pods: row.pods,
            urls,
            traffic: None,
            reason: row.reason,
            message: row.message,
            config: row.config,
            deployed_at: row.deployed_at,
            deployed_by: row.deployed_by.map(UserId),
            request_id: row.request_id.map(RequestId),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

fn version(image: &str) -> String {
    image.parse::<Image>().map(|image| image.version().to_owned()).unwrap_or_default()
}
