//! What is to be: deploying, scaling, rolling back, deleting. Each is one transaction: a revision, an
//! event, and the deployment's row, which is locked by whoever changes it.

mod asked;
mod rows;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::apps::{self, NewApp};
use super::environments::{self, EnvironmentStatus, alone, share};
use super::orders::taken;
use super::secrets::{Held, Resolved};
use super::settings::{self, Settings, Variables};
use super::{
    DeployError, Deployer, Deployment, Deployments, NewDeployment, Outcome, Patch, RevisionKind,
    Rollback, Scale, names, read, traffic,
};
use crate::db::{Scope, Tx};
use crate::requests::empty_object;
use crate::sealing::{Envelope, SealingError};
use crate::tenancy::{Actor, audit};
use asked::{Values, config, variable_names};
use rows::{app, event, first, settle};

pub(crate) use asked::not_autoscaled;
pub(super) use asked::{Asked, distinct, following, following_replicas, whole};
pub(super) use rows::{Locked, Stored, lock, stored, target};

const UNREADABLE: &str = "the environment variables cannot be opened; deploy again with --env-vars";

/// Where the environment variables of a revision are sealed for.
pub(super) fn variables_place(deployment: Uuid) -> String {
    format!("deployment/{deployment}/variables")
}

impl Deployments {
    /// Deploys an app, or something else of it in place of what is there.
    pub async fn deploy(
        &self,
        deployer: &Deployer,
        env: &str,
        new: &NewDeployment,
    ) -> Result<Deployment, DeployError> {
        let image = new.check()?;
        let replicas = new.replicas.map(settings::replicas).transpose()?;
        let failed = DeployError::database("deploying");
        let mut tx = self.db.begin(Scope::Tenant(deployer.tenant)).await.map_err(failed)?;
        let environment = permitted(&mut tx, deployer, env, Hold::Alone).await?;
        if new.register {
            let app = NewApp { name: new.app.clone(), repo_url: None, config: empty_object() };
            apps::register(&mut tx, deployer.tenant, &deployer.actor, &app).await?;
        }
        let app = app(&mut tx, deployer, &new.app).await?;
        let row = match lock(&mut tx, deployer, environment.id, app).await? {
            Some(row) => row,
            None => {
                first(&mut tx, deployer, environment.id, app, &image).await?;
                // Two who deploy it first at once: the later one has waited, and finds the other's.
                let row = lock(&mut tx, deployer, environment.id, app).await?;
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
        let model = match &before {
            Some(_) => None,
            None => {
                let given = new.env_vars.is_some();
                self.model(&mut tx, environment.id, &new.settings, row.id, given).await?
            }
        };
        let begins = before.as_ref().or(model.as_ref());
        let mut settings = following(begins, &new.settings, replicas)?;
        let tenant = deployer.tenant;
        let fitting = traffic::check(&mut tx, tenant, env, &new.app, &mut settings).await?;
        let replicas =
            following_replicas(before.as_ref(), &new.settings, &settings, replicas, fitting)?;
        let (variables, names) = match &new.env_vars {
            Some(variables) if variables.is_empty() => (None, Vec::new()),
            Some(variables) => {
                (Some(self.seal(row.id, variables)?), variables.keys().cloned().collect())
            }
            None => begins
                .map(|begins| (begins.variables.clone(), variable_names(&begins.config)))
                .unwrap_or_default(),
        };
        distinct(&settings, &names)?;
        let references = settings.secrets.as_deref().unwrap_or_default();
        let resolved = self
            .resolve(&mut tx, deployer.tenant, &environment, row.id, references, Held::default())
            .await?;
        let asked = Asked {
            kind: if before.is_none() { RevisionKind::Created } else { RevisionKind::Updated },
            template: None,
            origin: None,
            image: image.to_string(),
            digest: None,
            pinned: false,
            replicas,
            config: config(&settings, names.iter().collect(), &resolved),
            variables,
            secrets: Values::Now(resolved.sealed),
            cause: None,
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
        let (mut tx, _, row) =
            self.existing(deployer, env, app_name, Hold::Shared, "scaling").await?;
        let failed = DeployError::database("scaling");
        let before = stored(&mut tx, row.id, row.revision)
            .await
            .map_err(failed)?
            .ok_or_else(|| DeployError::not_found("deployment", app_name))?;
        not_autoscaled(app_name, &before.config)?;
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
            secrets: Values::Kept,
            cause: None,
        };
        self.revise(tx, deployer, env, app_name, row, asked).await
    }

    /// Goes back to what once ran: its image, by digest, and its configuration; secrets have the values of now.
    pub async fn rollback(
        &self,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
        rollback: &Rollback,
    ) -> Result<Deployment, DeployError> {
        rollback.check()?;
        let (mut tx, environment, row) =
            self.existing(deployer, env, app_name, Hold::Alone, "rolling back").await?;
        let failed = DeployError::database("rolling back");
        let now = stored(&mut tx, row.id, row.revision)
            .await
            .map_err(failed)?
            .ok_or_else(|| DeployError::not_found("deployment", app_name))?;
        let target = target(&mut tx, Some(row.id), env, app_name, rollback).await?;
        let target = stored(&mut tx, row.id, target)
            .await
            .map_err(failed)?
            .ok_or_else(|| DeployError::not_found("deployment", app_name))?;
        // What it goes back to was right at its time: a host may be another app's by now.
        let mut settings = whole(&target.config)?;
        traffic::check(&mut tx, deployer.tenant, env, app_name, &mut settings).await?;
        let references = settings.secrets.as_deref().unwrap_or_default();
        let resolved = self
            .resolve(&mut tx, deployer.tenant, &environment, row.id, references, Held::default())
            .await
            .map_err(|error| match error {
                DeployError::Invalid { message, .. } => {
                    let revision = target.revision;
                    DeployError::Conflict(format!("revision {revision} of `{app_name}`: {message}"))
                }
                error => error,
            })?;
        let names = variable_names(&target.config);
        let asked = Asked {
            kind: RevisionKind::RolledBack,
            template: None,
            origin: Some(target.revision),
            image: target.image,
            pinned: target.digest.is_some(),
            digest: target.digest,
            replicas: now.replicas,
            config: config(&settings, names.iter().collect(), &resolved),
            variables: target.variables,
            secrets: Values::Now(resolved.sealed),
            cause: None,
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
        let (mut tx, environment, row) =
            self.existing(deployer, env, app_name, Hold::Shared, "deleting").await?;
        let failed = DeployError::database("deleting a deployment");
        // Whoever makes a canary holds the environment alone.
        if let Some(canary) = traffic::canaries(&mut tx, environment.id, app_name).await?.first() {
            return Err(DeployError::Conflict(format!(
                "`{}` is a canary of `{app_name}`: delete that first (`eve deploy delete --app {} --env \
                 {env}`)",
                canary.app, canary.app
            )));
        }
        settle(&mut tx, &row, Outcome::Stopped).await.map_err(failed)?;
        sqlx::query!(
            "UPDATE eve.deployments
                SET stopping = true, settled_revision = revision, status = 'deploying',
                    reason = 'stopping', message = 'it is being deleted', underway_since = now(),
                    secrets = NULL, updated_at = now()
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
        taken(&mut tx, deployer, row.id, row.revision).await?;
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
        hold: Hold,
        doing: &'static str,
    ) -> Result<(Tx, environments::Locked, Locked), DeployError> {
        let failed = DeployError::database(doing);
        let unknown = || DeployError::not_found("deployment", app_name);
        names::app("app", app_name).map_err(|_| unknown())?;
        let mut tx = self.db.begin(Scope::Tenant(deployer.tenant)).await.map_err(failed)?;
        let environment = permitted(&mut tx, deployer, env, hold).await?;
        let app = app(&mut tx, deployer, app_name).await.map_err(|_| unknown())?;
        let row = lock(&mut tx, deployer, environment.id, app).await?;
        match row {
            Some(row) if !row.gone => Ok((tx, environment, row)),
            _ => Err(unknown()),
        }
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
        self.write(&mut tx, deployer, env, app_name, &row, asked).await?;
        let made = read::one(&mut tx, deployer.tenant, env, app_name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        made.ok_or_else(|| DeployError::not_found("deployment", app_name))
    }

    /// The same as a part of something larger, whose end rings the bell.
    pub(super) async fn write(
        &self,
        tx: &mut Tx,
        deployer: &Deployer,
        env: &str,
        app_name: &str,
        row: &Locked,
        asked: Asked,
    ) -> Result<(), DeployError> {
        let failed = DeployError::database("writing a revision");
        settle(tx, row, Outcome::Superseded).await.map_err(failed)?;
        let revision = row.revision + 1;
        let request = match deployer.actor {
            Actor::Run { request, .. } => Some(request.0),
            _ => None,
        };
        let creator = deployer.actor.to_json();
        sqlx::query!(
            "INSERT INTO eve.deployment_revisions
                    (deployment_id, revision, org_id, kind, template, origin, image, digest, pinned,
                     replicas, config, variables, created_by, request_id, cause)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
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
            asked.cause,
        )
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
        let (keeps, secrets) = match asked.secrets {
            Values::Kept => (true, None),
            Values::Now(sealed) => (false, sealed),
        };
        sqlx::query!(
            "UPDATE eve.deployments
                SET revision = $2, stopping = false, status = 'pending', image = $3, replicas = $4,
                    config = $5, reason = NULL, message = NULL, underway_since = now(),
                    updated_at = now(), deployed_by = $6, request_id = $7,
                    secrets = CASE WHEN $8 THEN secrets ELSE $9 END
              WHERE id = $1",
            row.id,
            revision,
            asked.image,
            asked.replicas,
            asked.config,
            deployer.actor.user().map(|user| user.0),
            request,
            keeps,
            secrets,
        )
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
        let mut details = json!({
            "image": asked.image, "digest": asked.digest, "replicas": asked.replicas,
            "config": asked.config, "origin": asked.origin,
        });
        if let Some(cause) = asked.cause {
            details["cause"] = json!(cause);
        }
        event(tx, deployer, row.id, asked.kind.as_str(), revision, details.clone())
            .await
            .map_err(failed)?;
        let action = match asked.kind {
            RevisionKind::Created | RevisionKind::Updated => "deployment.create",
            RevisionKind::Scaled => "deployment.scale",
            RevisionKind::RolledBack => "deployment.rollback",
        };
        let target = format!("{env}/{app_name}");
        audit::record_details(tx, deployer.tenant, &deployer.actor, action, &target, details)
            .await
            .map_err(failed)?;
        taken(tx, deployer, row.id, revision).await
    }

    /// What a new canary begins with: how its app runs, with its variables, which are sealed for the canary.
    /// What leads to the app, and how many there are of it, is the app's own. Variables are not taken over where
    /// it is given others.
    pub(super) async fn model(
        &self,
        tx: &mut Tx,
        environment: Uuid,
        settings: &Patch,
        canary: Uuid,
        has_variables: bool,
    ) -> Result<Option<Stored>, DeployError> {
        let Some(of) = settings.canary_of() else { return Ok(None) };
        let failed = DeployError::database("reading how the app of a canary runs");
        let main = sqlx::query!(
            "SELECT d.id, d.revision
               FROM eve.deployments d JOIN eve.apps a ON a.id = d.app_id
              WHERE d.environment_id = $1 AND a.name = $2 AND NOT d.stopping AND d.status <> 'stopped'",
            environment,
            of
        )
        .fetch_optional(&mut **tx)
        .await
        .map_err(&failed)?;
        // That there is none is said where canaries are checked.
        let Some(main) = main else { return Ok(None) };
        let Some(model) = stored(tx, main.id, main.revision).await.map_err(&failed)? else {
            return Ok(None);
        };
        let variables = match has_variables {
            true => Variables::new(),
            false => self.unseal(main.id, model.variables.as_ref())?,
        };
        let names: Vec<String> = variables.keys().cloned().collect();
        let sealed = (!names.is_empty()).then(|| self.seal(canary, &variables)).transpose()?;
        let settings =
            Settings { hosts: None, canary: None, autoscale: None, ..whole(&model.config)? };
        let config = config(&settings, names.iter().collect(), &Resolved::default());
        Ok(Some(Stored { config, variables: sealed, ..model }))
    }

    pub(super) fn seal(
        &self,
        deployment: Uuid,
        variables: &Variables,
    ) -> Result<Value, DeployError> {
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

/// What is said of an environment that is on its way out.
pub(super) fn deleting(env: &str) -> DeployError {
    DeployError::Conflict(format!("the environment `{env}` is being deleted"))
}

/// How an environment is held by whoever deploys to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    /// Beside others: what is done concerns one app.
    Shared,
    /// Alone: hosts and canaries of other apps are looked at.
    Alone,
}

/// The environment, if this deployer may deploy to it and it is not being deleted.
pub(super) async fn permitted(
    tx: &mut Tx,
    deployer: &Deployer,
    env: &str,
    held: Hold,
) -> Result<environments::Locked, DeployError> {
    let environment = match held {
        Hold::Shared => share(tx, deployer.tenant, env).await?,
        Hold::Alone => alone(tx, deployer.tenant, env).await?,
    };
    environment.config.permits(&deployer.authority, env)?;
    if environment.status == EnvironmentStatus::Deleting {
        return Err(deleting(env));
    }
    Ok(environment)
}
