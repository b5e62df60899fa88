//! What is to be: deploying, scaling, rolling back, deleting. Each is one transaction: a revision, an
//! event, and the deployment's row, which is locked by whoever changes it.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::environments::{EnvironmentStatus, share};
use super::settings::{self, Settings, Variables};
use super::{
    Authority, DeployError, Deployer, Deployment, Deployments, Image, NewDeployment, Outcome,
    RevisionKind, Rollback, Scale, names, read,
};
use crate::db::{Scope, Tx};
use crate::requests::Invalid;
use crate::sealing::{Envelope, SealingError};
use crate::tenancy::{Actor, OrgRole, audit};

/// A deployment's row, locked.
struct Locked {
    id: Uuid,
    revision: i32,
    settled: i32,
    /// Nothing of it is there, or shall be.
    gone: bool,
}

/// What a revision asks for.
struct Asked {
    kind: RevisionKind,
    /// The revision whose pods it has; its own if none.
    template: Option<i32>,
    origin: Option<i32>,
    image: String,
    digest: Option<String>,
    pinned: bool,
    replicas: i32,
    config: Value,
    variables: Option<Value>,
}

/// A revision as it is stored.
struct Stored {
    revision: i32,
    template: i32,
    image: String,
    digest: Option<String>,
    pinned: bool,
    replicas: i32,
    config: Value,
    variables: Option<Value>,
}

const UNREADABLE: &str = "the environment variables cannot be opened; deploy again with --env-vars";

/// Where the environment variables of a revision are sealed for.
pub(super) fn variables_place(deployment: Uuid) -> String {
    format!("deployment/{deployment}/variables")
}

/// How it is to run, out of a stored config.
pub(super) fn settings_of(config: &Value) -> Settings {
    let mut config = config.clone();
    if let Some(object) = config.as_object_mut() {
        object.remove("variables");
    }
    serde_json::from_value(config).unwrap_or_default()
}

/// A config to store: how it is to run, and the names of variables.
fn config(settings: &Settings, variables: Vec<&String>) -> Value {
    let mut config = serde_json::to_value(settings).expect("settings always serialise");
    config["variables"] = json!(variables);
    config
}

impl Deployments {
    /// Deploys an app, or something else of it in place of what is there.
    pub async fn deploy(
        &self,
        deployer: &Deployer,
        env: &str,
        new: &NewDeployment,
    ) -> Result<Deployment, DeployError> {
        names::app("app", &new.app)?;
        let image: Image = new.image.parse().map_err(|why: String| Invalid::new("image", why))?;
        let replicas = new.replicas.map(settings::replicas).transpose()?;
        if let Some(variables) = &new.env_vars {
            settings::variables(variables)?;
        }
        let failed = DeployError::database("deploying");
        let mut tx = self.db.begin(Scope::Tenant(deployer.tenant)).await.map_err(failed)?;
        let environment = permitted(&mut tx, deployer, env).await?;
        let app = app(&mut tx, deployer, &new.app).await?;
        let row = match lock(&mut tx, deployer, environment, app).await? {
            Some(row) => row,
            None => {
                self.first(&mut tx, deployer, environment, app, &image).await?;
                // Two who deploy it first at once: the later one has waited, and finds the other's.
                let row = lock(&mut tx, deployer, environment, app).await?;
                row.ok_or_else(|| DeployError::not_found("deployment", &new.app))?
            }
        };
        let before = match row.revision {
            0 => None,
            revision if row.gone => {
                // What it was before it was deleted is no reason to be so again.
                tracing::debug!(revision, "deployed again");
                None
            }
            revision => stored(&mut tx, row.id, revision).await.map_err(failed)?,
        };
        let mut settings = new.settings.apply(&match &before {
            Some(before) => settings_of(&before.config),
            None => Settings::default(),
        })?;
        // Whoever says how many replicas there shall be does not want the load to say so.
        if replicas.is_some() && !new.settings.names("autoscale") {
            settings.autoscale = None;
        }
        settings.check()?;
        let (variables, names) = match &new.env_vars {
            Some(variables) if variables.is_empty() => (None, Vec::new()),
            Some(variables) => {
                (Some(self.seal(row.id, variables)?), variables.keys().cloned().collect())
            }
            None => before
                .as_ref()
                .map(|before| (before.variables.clone(), variable_names(&before.config)))
                .unwrap_or_default(),
        };
        let floor = settings.autoscale.map(|scale| scale.min);
        let asked = Asked {
            kind: if before.is_none() { RevisionKind::Created } else { RevisionKind::Updated },
            template: None,
            origin: None,
            image: image.to_string(),
            digest: None,
            pinned: false,
            replicas: replicas
                .or(before.as_ref().map(|before| before.replicas))
                .or(floor)
                .unwrap_or(1),
            config: config(&settings, names.iter().collect()),
            variables,
        };
        self.revise(tx, deployer, env, &new.app, row, asked).await
    }

    /// Gives a deployment another number of replicas.
    pub async fn scale(
        &self,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
        scale: Scale,
    ) -> Result<Deployment, DeployError> {
        let replicas = settings::replicas(scale.replicas)?;
        let (mut tx, row) = self.existing(deployer, env, app_name, "scaling").await?;
        let failed = DeployError::database("scaling");
        let before = stored(&mut tx, row.id, row.revision)
            .await
            .map_err(failed)?
            .ok_or_else(|| DeployError::not_found("deployment", app_name))?;
        if let Some(scale) = settings_of(&before.config).autoscale {
            return Err(DeployError::Conflict(format!(
                "`{app_name}` has {} to {} replicas, as its load wants: deploy it without autoscaling to \
                 say how many",
                scale.min, scale.max
            )));
        }
        let asked = Asked {
            kind: RevisionKind::Scaled,
            template: Some(before.template),
            origin: None,
            image: before.image,
            // The image is said as it was: said otherwise, its pods would be made anew.
            digest: before.digest,
            pinned: before.pinned,
            replicas,
            config: before.config,
            variables: before.variables,
        };
        self.revise(tx, deployer, env, app_name, row, asked).await
    }

    /// Goes back to what once ran: its image, by digest, and its configuration.
    pub async fn rollback(
        &self,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
        rollback: &Rollback,
    ) -> Result<Deployment, DeployError> {
        if rollback.to_version.is_some() && rollback.to_revision.is_some() {
            return Err(Invalid::new("to_version", "give a version or a revision, not both").into());
        }
        let (mut tx, row) = self.existing(deployer, env, app_name, "rolling back").await?;
        let failed = DeployError::database("rolling back");
        let now = stored(&mut tx, row.id, row.revision)
            .await
            .map_err(failed)?
            .ok_or_else(|| DeployError::not_found("deployment", app_name))?;
        let ran = ran(&mut tx, row.id).await.map_err(failed)?;
        let version = |stored: &Ran| {
            stored
                .image
                .parse::<Image>()
                .map(|image| image.version().to_owned())
                .unwrap_or_default()
        };
        let wanted = |stored: &Ran| match (&rollback.to_version, rollback.to_revision) {
            (Some(wanted), _) => version(stored) == *wanted,
            (None, Some(wanted)) => stored.revision == wanted,
            (None, None) => stored.template != now.template,
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
        let target = stored(&mut tx, row.id, ran[index].revision)
            .await
            .map_err(failed)?
            .ok_or_else(|| DeployError::not_found("deployment", app_name))?;
        let asked = Asked {
            kind: RevisionKind::RolledBack,
            template: None,
            origin: Some(target.revision),
            image: target.image,
            pinned: target.digest.is_some(),
            digest: target.digest,
            replicas: now.replicas,
            config: target.config,
            variables: target.variables,
        };
        self.revise(tx, deployer, env, app_name, row, asked).await
    }

    /// Has a deployment deleted: its pods, its service and everything else of it. Its history stays.
    pub async fn undeploy(
        &self,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
    ) -> Result<Deployment, DeployError> {
        let (mut tx, row) = self.existing(deployer, env, app_name, "deleting").await?;
        let failed = DeployError::database("deleting a deployment");
        settle(&mut tx, &row, Outcome::Stopped).await.map_err(failed)?;
        sqlx::query!(
            "UPDATE eve.deployments
                SET stopping = true, settled_revision = revision, status = 'deploying',
                    reason = 'stopping', message = 'it is being deleted', underway_since = now(),
                    updated_at = now()
              WHERE id = $1",
            row.id
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        event(&mut tx, deployer, row.id, "deleted", row.revision, json!({}))
            .await
            .map_err(failed)?;
        let target = format!("{env}/{app_name}");
        audit::record(&mut tx, deployer.tenant, &deployer.actor, "deployment.delete", &target)
            .await
            .map_err(failed)?;
        let left = read::one(&mut tx, deployer.tenant, env, app_name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        left.ok_or_else(|| DeployError::not_found("deployment", app_name))
    }

    /// A deployment that is there, locked, for somebody who may change it.
    async fn existing(
        &self,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
        doing: &'static str,
    ) -> Result<(Tx, Locked), DeployError> {
        let failed = DeployError::database(doing);
        let unknown = || DeployError::not_found("deployment", app_name);
        names::app("app", app_name).map_err(|_| unknown())?;
        let mut tx = self.db.begin(Scope::Tenant(deployer.tenant)).await.map_err(failed)?;
        let environment = permitted(&mut tx, deployer, env).await?;
        let app = app(&mut tx, deployer, app_name).await.map_err(|_| unknown())?;
        let row = lock(&mut tx, deployer, environment, app).await?;
        match row {
            Some(row) if !row.gone => Ok((tx, row)),
            _ => Err(unknown()),
        }
    }

    /// The row of what was never deployed before, without a revision yet.
    async fn first(
        &self,
        tx: &mut Tx,
        deployer: &Deployer,
        environment: Uuid,
        app: Uuid,
        image: &Image,
    ) -> Result<(), DeployError> {
        sqlx::query!(
            "INSERT INTO eve.deployments (id, app_id, environment_id, org_id, image, status)
             VALUES ($1, $2, $3, $4, $5, 'stopped')
             ON CONFLICT (app_id, environment_id) DO NOTHING",
            Uuid::now_v7(),
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

    /// Writes the next revision, and has the deployment be as it says.
    async fn revise(
        &self,
        mut tx: Tx,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
        row: Locked,
        asked: Asked,
    ) -> Result<Deployment, DeployError> {
        let failed = DeployError::database("writing a revision");
        settle(&mut tx, &row, Outcome::Superseded).await.map_err(failed)?;
        let revision = row.revision + 1;
        let request = match deployer.actor {
            Actor::Run { request, .. } => Some(request.0),
            _ => None,
        };
        let creator = deployer.actor.to_json();
        sqlx::query!(
            "INSERT INTO eve.deployment_revisions
                    (deployment_id, revision, org_id, kind, template, origin, image, digest, pinned,
                     replicas, config, variables, created_by, request_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            row.id,
            revision,
            deployer.tenant.org().0,
            asked.kind.as_str(),
            asked.template.unwrap_or(revision),
            asked.origin,
            asked.image,
            asked.digest,
            asked.pinned,
            asked.replicas,
            asked.config,
            asked.variables,
            creator,
            request,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        sqlx::query!(
            "UPDATE eve.deployments
                SET revision = $2, stopping = false, status = 'pending', image = $3, replicas = $4,
                    config = $5, reason = NULL, message = NULL, underway_since = now(),
                    updated_at = now(), deployed_by = $6, request_id = $7
              WHERE id = $1",
            row.id,
            revision,
            asked.image,
            asked.replicas,
            asked.config,
            deployer.actor.user().map(|user| user.0),
            request,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        let details = json!({
            "image": asked.image, "digest": asked.digest, "replicas": asked.replicas,
            "config": asked.config, "origin": asked.origin,
        });
        event(&mut tx, deployer, row.id, asked.kind.as_str(), revision, details.clone())
            .await
            .map_err(failed)?;
        let action = match asked.kind {
            RevisionKind::Created | RevisionKind::Updated => "deployment.create",
            RevisionKind::Scaled => "deployment.scale",
            RevisionKind::RolledBack => "deployment.rollback",
        };
        let target = format!("{env}/{app_name}");
        audit::record_details(&mut tx, deployer.tenant, &deployer.actor, action, &target, details)
            .await
            .map_err(failed)?;
        let made = read::one(&mut tx, deployer.tenant, env, app_name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        made.ok_or_else(|| DeployError::not_found("deployment", app_name))
    }

    fn seal(&self, deployment: Uuid, variables: &Variables) -> Result<Value, DeployError> {
        let text = serde_json::to_vec(variables).expect("texts always serialise");
        let envelope = self.sealer()?.seal(&variables_place(deployment), &text);
        Ok(serde_json::to_value(envelope).expect("an envelope always serialises"))
    }

    /// A name for the environment variables of a revision; none without any.
    pub(super) fn fingerprint(
        &self,
        sealed: Option<&Value>,
        variables: &Variables,
    ) -> Result<Option<String>, DeployError> {
        let Some(sealed) = sealed.filter(|_| !variables.is_empty()) else { return Ok(None) };
        let broken = |source| DeployError::Sealed { what: UNREADABLE.to_owned(), source };
        let envelope: Envelope =
            serde_json::from_value(sealed.clone()).map_err(|_| broken(SealingError::Broken))?;
        let text = serde_json::to_vec(variables).expect("texts always serialise");
        self.sealer()?.fingerprint(&envelope, &text).map(Some).map_err(broken)
    }

    /// The environment variables of a revision.
    pub(super) fn unseal(
        &self,
        deployment: Uuid,
        sealed: Option<&Value>,
    ) -> Result<Variables, DeployError> {
        let Some(sealed) = sealed else { return Ok(Variables::new()) };
        let broken = |source| DeployError::Sealed { what: UNREADABLE.to_owned(), source };
        let envelope: Envelope =
            serde_json::from_value(sealed.clone()).map_err(|_| broken(SealingError::Broken))?;
        let opened =
            self.sealer()?.open(&variables_place(deployment), &envelope).map_err(broken)?;
        serde_json::from_slice(opened.expose_secret()).map_err(|_| broken(SealingError::Broken))
    }
}

fn variable_names(config: &Value) -> Vec<String> {
    serde_json::from_value(config["variables"].clone()).unwrap_or_default()
}

/// The environment, if this deployer may deploy to it and it is not being deleted.
async fn permitted(tx: &mut Tx, deployer: &Deployer, env: &str) -> Result<Uuid, DeployError> {
    let environment = share(tx, deployer.tenant, env).await?;
    match &deployer.authority {
        Authority::Role(role) => {
            let least = environment.config.deployers.unwrap_or(OrgRole::Member);
            if *role < least {
                return Err(DeployError::Forbidden(format!(
                    "deploying to `{env}` takes the role {least}: ask one of them"
                )));
            }
        }
        Authority::WorkerType(kind) => {
            let allowed = environment.config.worker_types.as_ref();
            if allowed.is_some_and(|allowed| !allowed.contains(kind)) {
                return Err(DeployError::Forbidden(format!(
                    "skills of the worker type `{kind}` may not deploy to `{env}`"
                )));
            }
        }
    }
    if environment.status == EnvironmentStatus::Deleting {
        return Err(DeployError::Conflict(format!("the environment `{env}` is being deleted")));
    }
    Ok(environment.id)
}

/// The app, which is not deleted while this lasts.
async fn app(tx: &mut Tx, deployer: &Deployer, name: &str) -> Result<Uuid, DeployError> {
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

async fn lock(
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
async fn stored(tx: &mut Tx, id: Uuid, revision: i32) -> Result<Option<Stored>, sqlx::Error> {
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

/// What becomes of the revision that was under way.
async fn settle(tx: &mut Tx, row: &Locked, outcome: Outcome) -> Result<(), sqlx::Error> {
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

async fn event(
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
