//! What a change would alter, and what in a cluster is not as it should be. Nothing is changed by asking.
//!
//! Flow: the change is worked out as `desired` would do it, without writing it; the objects that would come
//! of it are applied as a dry run, by the environment's own deployer, and compared with those that are there
//! (`kubernetes/differences`). Without a change the objects are those of the latest revision: what differs
//! then has drifted.
//!
//! Whoever may look may ask. Values of variables are in no answer; and since an answer says which variables
//! would change, only those who may deploy, and so see them anyway, may name values: anybody else could guess
//! until nothing changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::desired::{Stored, distinct, following, following_replicas, stored};
use super::kubernetes::connection::Identity;
use super::kubernetes::differences::{self, Marks};
use super::kubernetes::failure::Failure;
use super::kubernetes::objects::Spec;
use super::kubernetes::secrets::{Secrets, Source};
use super::secrets::Held;
use super::settings::settings_of;
use super::traffic::Place;
use super::{
    DeployError, Deployments, Image, Patch, Settings, Variables, environments, names, settings,
    traffic,
};
use crate::db::{Scope, Tx};
use crate::requests::Invalid;
use crate::tenancy::Tenant;
use crate::tenancy::auth::Caller;
use crate::tenancy::tokens::TokenScope;

/// A change to ask about, said as for a deployment. What is left out stays as it is; without anything, what
/// has drifted is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Another image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Another number of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Other environment variables, all of them; for those who may deploy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<Variables>,
    /// Other settings: a merge patch (RFC 7396), as for a deployment.
    #[schema(value_type = Settings)]
    pub settings: Patch,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The app.
    pub app: String,
    /// The environment.
    pub env: String,
    /// The latest revision; none if it is not deployed.
    pub revision: Option<i32>,
    /// Whether anything does.
    pub different: bool,
    /// What the change alters of what was asked for; nothing without a change.
    pub settings: Vec<SettingDiff>,
    /// What it alters of the environment variables.
    pub variables: VariableDiff,
    /// What it alters in the cluster, or what has drifted there: the app's own objects only. Pods are
    /// replaced with every change but scaling, whatever differs.
    pub objects: Vec<ObjectDiff>,
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SettingDiff {
    /// `image`, `replicas`, or a setting: `settings.port`.
    pub name: String,
    /// As it is; none if it is not set.
    pub before: Option<Value>,
    /// As it would be; none if it would not be set.
    pub after: Option<Value>,
}

/// Environment variables that differ, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VariableDiff {
    /// There would be these as well.
    pub added: Vec<String>,
    /// These would not be there any more.
    pub removed: Vec<String>,
    /// These would have another value.
    pub changed: Vec<String>,
}

/// An object that differs. Values of variables are hidden in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObjectDiff {
    /// Its kind: `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// As it is, without what a cluster adds to every object; none if it is not there.
    #[schema(value_type = Object)]
    pub before: Option<Value>,
    /// As it would be; none if it would not be there, or the cluster would refuse it.
    #[schema(value_type = Object)]
    pub after: Option<Value>,
    /// Who else has set fields of its specification, and which.
    pub others: Vec<String>,
    /// Why the cluster would refuse it.
    pub refused: Option<String>,
}

/// What is compared with what is in the cluster.
struct Compared {
    spec: Spec,
    /// Before it, as it was asked for; none if nothing was.
    before: Option<Stored>,
    before_variables: Variables,
}

impl Deployments {
    /// What a change would alter; without one, what has drifted.
    pub async fn diff(
        &self,
        caller: &Caller,
        env: &str,
        app: &str,
        change: &Change,
    ) -> Result<Diff, DeployError> {
        let environment = self.environment(caller.tenant, env).await?;
        names::app("app", app).map_err(|_| DeployError::not_found("deployment", app))?;
        if change.env_vars.is_some() {
            let least = environment.config.deployers();
            if caller.role < least || !caller.scopes.allow(TokenScope::DeploymentsWrite) {
                return Err(DeployError::Forbidden(format!(
                    "asking what values of variables would change takes the right to deploy to `{env}`"
                )));
            }
        }
        let change = (*change != Change::default()).then_some(change);
        let compared = self.compared(caller.tenant, environment.id, env, app, change).await?;
        let Compared { spec, before, before_variables } = &compared;

        let row = self.cluster_row(&environment.cluster).await?;
        let connection = self.connect(&row)?;
        let away = |failure: Failure| DeployError::Cluster {
            cluster: environment.cluster.clone(),
            message: failure.to_string(),
        };
        let namespace = &environment.namespace;
        let deployer = connection.identity(namespace, Identity::Deployer).map_err(away)?;
        let marks = if change.is_some() { Marks::Left } else { Marks::Compared };
        let objects =
            differences::differences(&deployer, namespace, spec, marks).await.map_err(away)?;

        let (settings, variables) = match change {
            Some(_) => (
                setting_diffs(before.as_ref(), spec),
                variable_diff(before_variables, &spec.variables),
            ),
            None => Default::default(),
        };
        let different =
            !settings.is_empty() || variables != VariableDiff::default() || !objects.is_empty();
        Ok(Diff {
            app: app.to_owned(),
            env: env.to_owned(),
            revision: before.as_ref().map(|before| before.revision),
            different,
            settings,
            variables,
            objects,
        })
    }

    /// What there would be after a change, or is to be now. Nothing is locked: whoever asks waits for nobody.
    async fn compared(
        &self,
        tenant: Tenant,
        environment: Uuid,
        env: &str,
        app: &str,
        change: Option<&Change>,
    ) -> Result<Compared, DeployError> {
        let failed = DeployError::database("comparing a deployment");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let present = present(&mut tx, tenant, environment, app).await.map_err(failed)?;
        let (id, before) = match present {
            Some((id, before)) => (id, before),
            None => (Uuid::nil(), None),
        };
        let place = place(&mut tx, tenant, env).await.map_err(failed)?;
        let place = place.ok_or_else(|| DeployError::not_found("environment", env))?;
        let model = match (&before, change) {
            (None, Some(change)) => {
                let given = change.env_vars.is_some();
                self.model(&mut tx, environment, &change.settings, id, given).await?
            }
            _ => None,
        };
        let begins = before.as_ref().or(model.as_ref());
        let before_variables = match &before {
            Some(before) => self.unseal(id, before.variables.as_ref())?,
            None => Variables::new(),
        };
        let (sealed, variables) = match change.and_then(|change| change.env_vars.as_ref()) {
            Some(variables) => {
                settings::variables(variables)?;
                let sealed =
                    (!variables.is_empty()).then(|| self.seal(id, variables)).transpose()?;
                (sealed, variables.clone())
            }
            None => {
                let sealed = begins.and_then(|begins| begins.variables.clone());
                let variables = self.unseal(id, sealed.as_ref())?;
                (sealed, variables)
            }
        };
        let fingerprint = self.fingerprint(sealed.as_ref(), &variables)?;
        let spec = match (change, &before) {
            (None, None) => return Err(DeployError::not_found("deployment", app)),
            (None, Some(before)) => Spec {
                id,
                app: app.to_owned(),
                env: env.to_owned(),
                revision: before.revision,
                template: before.template,
                image: parsed(&before.image)?,
                digest: before.digest.clone().filter(|_| before.pinned),
                replicas: before.replicas,
                settings: settings_of(&before.config),
                variables,
                fingerprint,
                secrets: None,
                traffic: Default::default(),
            },
            (Some(change), before) => {
                registered(&mut tx, tenant, app).await?;
                let replicas = change.replicas.map(settings::replicas).transpose()?;
                let before = before.as_ref();
                let mut settings = following(begins, &change.settings, replicas)?;
                distinct(&settings, &variables.keys().cloned().collect::<Vec<_>>())?;
                let fitting = traffic::check(&mut tx, tenant, env, app, &mut settings).await?;
                let replicas =
                    following_replicas(before, &change.settings, &settings, replicas, fitting)?;
                let (image, digest) = match (&change.image, before) {
                    (Some(image), _) => (parsed(image)?, None),
                    (None, Some(before)) => {
                        (parsed(&before.image)?, before.digest.clone().filter(|_| before.pinned))
                    }
                    (None, None) => {
                        let why = "must be given: the app is not deployed here yet";
                        return Err(Invalid::new("image", why).into());
                    }
                };
                let revision = before.map_or(1, |before| before.revision + 1);
                Spec {
                    id,
                    app: app.to_owned(),
                    env: env.to_owned(),
                    revision,
                    template: revision,
                    image,
                    digest,
                    replicas,
                    settings,
                    variables,
                    fingerprint,
                    secrets: None,
                    traffic: Default::default(),
                }
            }
        };
        let traffic = traffic::wanted(&mut tx, environment, app, &spec.settings, &place)
            .await
            .map_err(failed)?
            .map_err(DeployError::Conflict)?;
        let was = change.is_none();
        let secrets = self.secrets_of(&mut tx, tenant, environment, &spec, was).await?;
        Ok(Compared { spec: Spec { traffic, secrets, ..spec }, before, before_variables })
    }

    /// The secrets that a deployment refers to: as it has them, if it `was` so before, else with the values of
    /// now.
    async fn secrets_of(
        &self,
        tx: &mut Tx,
        tenant: Tenant,
        environment: Uuid,
        spec: &Spec,
        was: bool,
    ) -> Result<Option<Secrets>, DeployError> {
        let failed = DeployError::database("reading what secrets a deployment has");
        let references = spec.settings.secrets.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(None);
        }
        let place = environments::looked_at(tx, tenant, environment).await.map_err(failed)?;
        let place = place.ok_or_else(|| DeployError::not_found("environment", &spec.env))?;
        if let Some(store) = place.config.secret_store {
            return Ok(Some(Secrets { references, source: Source::Store(store) }));
        }
        let sealed = match was {
            true => sqlx::query_scalar!(
                "SELECT secrets FROM eve.deployments WHERE id = $1 AND org_id = $2",
                spec.id,
                tenant.org().0
            )
            .fetch_optional(&mut **tx)
            .await
            .map_err(failed)?
            .flatten(),
            false => {
                let had = Held::default();
                self.resolve(tx, tenant, &place, spec.id, &references, had).await?.sealed
            }
        };
        let (held, fingerprint) = self.held(spec.id, sealed.as_ref())?;
        Ok(Some(Secrets { references, source: Source::Held { held, fingerprint } }))
    }
}

fn parsed(image: &str) -> Result<Image, DeployError> {
    image.parse().map_err(|why: String| Invalid::new("image", why).into())
}

/// A deployment's id and its latest revision, if it is not deleted.
async fn present(
    tx: &mut Tx,
    tenant: Tenant,
    environment: Uuid,
    app: &str,
) -> Result<Option<(Uuid, Option<Stored>)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT d.id, d.revision, d.stopping OR d.status = 'stopped' AS "gone!"
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
            WHERE d.org_id = $1 AND d.environment_id = $2 AND a.name = $3"#,
        tenant.org().0,
        environment,
        app,
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let before = if row.gone { None } else { stored(tx, row.id, row.revision).await? };
    Ok(Some((row.id, before)))
}

/// Whether there is such an app.
async fn registered(tx: &mut Tx, tenant: Tenant, app: &str) -> Result<(), DeployError> {
    let there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.apps WHERE org_id = $1 AND name = $2) AS "there!""#,
        tenant.org().0,
        app
    )
    .fetch_one(&mut **tx)
    .await
    .map_err(DeployError::database("reading an app"))?;
    if there { Ok(()) } else { Err(DeployError::not_found("app", app)) }
}

/// What an environment's hosts are made of.
async fn place(tx: &mut Tx, tenant: Tenant, env: &str) -> Result<Option<Place>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT o.slug, c.id AS cluster, c.config
           FROM eve.environments e
           JOIN eve.organizations o ON o.id = e.org_id
           JOIN eve.clusters c ON c.id = e.cluster_id
          WHERE e.org_id = $1 AND e.name = $2",
        tenant.org().0,
        env,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| {
        let config = serde_json::from_value(row.config).unwrap_or_default();
        Place::new(env, &row.slug, &row.cluster, config)
    }))
}

/// What was asked for, a value a name; variables are no part of it.
fn said(image: &str, replicas: i32, settings: &Settings) -> BTreeMap<String, Value> {
    let settings = serde_json::to_value(settings).expect("settings always serialise");
    let settings = settings.as_object().cloned().unwrap_or_default();
    let mut all: BTreeMap<String, Value> =
        settings.into_iter().map(|(name, value)| (format!("settings.{name}"), value)).collect();
    all.insert("image".into(), json!(image));
    all.insert("replicas".into(), json!(replicas));
    all
}

fn setting_diffs(before: Option<&Stored>, after: &Spec) -> Vec<SettingDiff> {
    let before =
        before.map(|it| said(&it.image, it.replicas, &settings_of(&it.config))).unwrap_or_default();
    let after = said(&after.image.to_string(), after.replicas, &after.settings);
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| SettingDiff {
            name: name.clone(),
            before: before.get(name).cloned(),
            after: after.get(name).cloned(),
        })
        .collect()
}

fn variable_diff(before: &Variables, after: &Variables) -> VariableDiff {
    let only = |these: &Variables, those: &Variables| -> Vec<String> {
        these.keys().filter(|name| !those.contains_key(*name)).cloned().collect()
    };
    let changed = before
        .iter()
        .filter(|(name, value)| after.get(*name).is_some_and(|other| other != *value))
        .map(|(name, _)| name.clone());
    VariableDiff {
        added: only(after, before),
        removed: only(before, after),
        changed: changed.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_differ_by_name() {
        let variables = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let before = variables(&[("A", "hush"), ("B", "hush"), ("C", "hush")]);
        let after = variables(&[("B", "other"), ("C", "hush"), ("D", "hush")]);
        let diff = variable_diff(&before, &after);
        assert_eq!(diff.added, ["D"]);
        assert_eq!(diff.removed, ["A"]);
        assert_eq!(diff.changed, ["B"]);
        assert!(!serde_json::to_string(&diff).expect("JSON").contains("hush"));
        assert_eq!(variable_diff(&before, &before), VariableDiff::default());
    }
}
