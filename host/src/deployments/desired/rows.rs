//! Deployments and their revisions as they are stored, read and written in the transaction of whoever changes them.

use serde_json::Value;
use uuid::Uuid;

use crate::db::Tx;
use crate::deployments::{DeployError, Deployer, Image, Outcome, Rollback};

/// A deployment's row, locked.
pub(in crate::deployments) struct Locked {
    pub id: Uuid,
    pub revision: i32,
    pub(super) settled: i32,
    /// Nothing of it is there, or shall be.
    pub(super) gone: bool,
}

/// A revision as it is stored.
pub(in crate::deployments) struct Stored {
    pub revision: i32,
    pub template: i32,
    pub image: String,
    pub digest: Option<String>,
    pub pinned: bool,
    pub replicas: i32,
    pub config: Value,
    pub variables: Option<Value>,
}

/// The revision that a rollback goes back to; of what is no deployment yet none ever ran.
pub(in crate::deployments) async fn target(
    tx: &mut Tx,
    id: Option<Uuid>,
    env: &str,
    app_name: &str,
    rollback: &Rollback,
) -> Result<i32, DeployError> {
    let failed = DeployError::database("looking for what ran");
    let now = sqlx::query_scalar!(
        "SELECT template FROM eve.deployment_revisions
          WHERE deployment_id = $1 ORDER BY revision DESC LIMIT 1",
        id
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?;
    let ran = match id {
        Some(id) => ran(tx, id).await.map_err(failed)?,
        None => Vec::new(),
    };
    let version = |stored: &Ran| {
        stored.image.parse::<Image>().map(|image| image.version().to_owned()).unwrap_or_default()
    };
    let wanted = |stored: &Ran| match (&rollback.to_version, rollback.to_revision) {
        (Some(wanted), _) => version(stored) == *wanted,
        (None, Some(wanted)) => stored.revision == wanted,
        (None, None) => Some(stored.template) != now,
    };
    let Some(index) = ran.iter().position(wanted) else {
        let what = match (&rollback.to_version, rollback.to_revision) {
            (Some(version), _) => {
                let version: String = version.chars().take(128).collect();
                format!("version `{}` of `{app_name}`", version.escape_default())
            }
            (None, Some(revision)) => format!("revision {revision} of `{app_name}`"),
            (None, None) => format!("other version of `{app_name}`"),
        };
        let mut others: Vec<String> = match rollback.to_revision {
            Some(_) => ran.iter().map(|stored| stored.revision.to_string()).collect(),
            None => ran.iter().map(version).collect(),
        };
        let mut seen = std::collections::BTreeSet::new();
        others.retain(|other| seen.insert(other.clone()));
        others.truncate(20);
        return Err(DeployError::Conflict(match others.is_empty() {
            true => format!("no {what} ever ran in `{env}`"),
            false => format!("no {what} ever ran in `{env}`; these did: {}", others.join(", ")),
        }));
    };
    Ok(ran[index].revision)
}

/// A revision that ran.
struct Ran {
    revision: i32,
    template: i32,
    image: String,
}

/// Revisions that ran, latest first.
async fn ran(tx: &mut Tx, id: Uuid) -> Result<Vec<Ran>, sqlx::Error> {
    sqlx::query_as!(
        Ran,
        "SELECT revision, template, image
           FROM eve.deployment_revisions
          WHERE deployment_id = $1 AND ran_at IS NOT NULL
          ORDER BY revision DESC
          LIMIT 1000",
        id
    )
    .fetch_all(&mut **tx)
    .await
}

/// The app, which is not deleted while this lasts.
pub(super) async fn app(tx: &mut Tx, deployer: &Deployer, name: &str) -> Result<Uuid, DeployError> {
    sqlx::query_scalar!(
        "SELECT id FROM eve.apps WHERE org_id = $1 AND name = $2 FOR SHARE",
        deployer.tenant.org().0,
        name
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(DeployError::database("reading an app"))?
    .ok_or_else(|| DeployError::Invalid {
        field: "app".into(),
        message: format!("there is no app `{name}`; `eve app create --name {name}` registers it"),
    })
}

/// The row of what was never deployed before, without a revision yet.
pub(super) async fn first(
    tx: &mut Tx,
    deployer: &Deployer,
    environment: Uuid,
    app: Uuid,
    image: &Image,
) -> Result<(), DeployError> {
    sqlx::query!(
        "INSERT INTO eve.deployments (id, app_id, environment_id, org_id, image, status)
         VALUES ($1, $2, $3, $4, $5, 'stopped')
         ON CONFLICT DO NOTHING",
        deployer.order.map_or_else(Uuid::now_v7, |order| order.told),
        app,
        environment,
        deployer.tenant.org().0,
        image.to_string(),
    )
    .execute(&mut **tx)
    .await
    .map_err(DeployError::database("deploying"))?;
    Ok(())
}

pub(in crate::deployments) async fn lock(
    tx: &mut Tx,
    deployer: &Deployer,
    environment: Uuid,
    app: Uuid,
) -> Result<Option<Locked>, DeployError> {
    let failed = DeployError::database("locking a deployment");
    let row = sqlx::query!(
        r#"SELECT id, settled_revision AS settled, stopping OR status = 'stopped' AS "gone!"
             FROM eve.deployments
            WHERE org_id = $1 AND environment_id = $2 AND app_id = $3
              FOR NO KEY UPDATE"#,
        deployer.tenant.org().0,
        environment,
        app
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    // In a statement of its own: one that has waited for the lock sees revisions as they were before.
    let revision = sqlx::query_scalar!(
        r#"SELECT coalesce(max(revision), 0) AS "revision!"
             FROM eve.deployment_revisions WHERE deployment_id = $1"#,
        row.id
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(failed)?;
    Ok(Some(Locked { id: row.id, revision, settled: row.settled, gone: row.gone }))
}

/// One revision.
pub(in crate::deployments) async fn stored(
    tx: &mut Tx,
    id: Uuid,
    revision: i32,
) -> Result<Option<Stored>, sqlx::Error> {
    sqlx::query_as!(
        Stored,
        "SELECT revision, template, image, digest, pinned, replicas, config, variables
           FROM eve.deployment_revisions WHERE deployment_id = $1 AND revision = $2",
        id,
        revision
    )
    .fetch_optional(&mut **tx)
    .await
}

/// What becomes of the revision that was under way.
pub(super) async fn settle(tx: &mut Tx, row: &Locked, outcome: Outcome) -> Result<(), sqlx::Error> {
    if row.settled >= row.revision {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE eve.deployment_revisions SET outcome = $3, settled_at = now()
          WHERE deployment_id = $1 AND revision = $2 AND outcome IS NULL",
        row.id,
        row.revision,
        outcome.as_str(),
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn event(
    tx: &mut Tx,
    deployer: &Deployer,
    id: Uuid,
    kind: &str,
    revision: i32,
    details: Value,
) -> Result<(), sqlx::Error> {
    let actor = deployer.actor.to_json();
    sqlx::query!(
        "INSERT INTO eve.deployment_events (id, deployment_id, org_id, event_type, revision, details, actor)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        Uuid::now_v7(),
        id,
        deployer.tenant.org().0,
        kind,
        revision,
        details,
        actor,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
