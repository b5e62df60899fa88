//! What a revision asks for, and what follows from the one before.

use serde_json::{Value, json};

use super::rows::Stored;
use crate::deployments::secrets::{Place, Resolved};
use crate::deployments::settings::{Settings, settings_of, understood};
use crate::deployments::{DeployError, Patch, RevisionKind};
use crate::requests::Invalid;

/// What a revision asks for.
pub(in crate::deployments) struct Asked {
    pub(super) kind: RevisionKind,
    /// The revision whose pods it has; its own if none.
    pub(super) template: Option<i32>,
    pub(super) origin: Option<i32>,
    pub(super) image: String,
    pub(super) digest: Option<String>,
    pub(super) pinned: bool,
    pub(super) replicas: i32,
    pub(super) config: Value,
    pub(super) variables: Option<Value>,
    pub(super) secrets: Values,
    /// Why, if nobody deploys.
    pub(super) cause: Option<String>,
}

/// The values of secrets that pods have.
pub(super) enum Values {
    /// Those that they have: their template stays.
    Kept,
    /// Those of now, sealed; none if the app refers to none.
    Now(Option<Value>),
}

impl Asked {
    /// The same once more, with the secrets of now. The image is the one that ran, whatever its name means by
    /// now: another secret is no other version.
    pub fn again(before: Stored, settings: &Settings, resolved: Resolved, cause: String) -> Asked {
        let names = variable_names(&before.config);
        Asked {
            kind: RevisionKind::Updated,
            template: None,
            origin: None,
            config: config(settings, names.iter().collect(), &resolved),
            image: before.image,
            pinned: before.digest.is_some(),
            digest: before.digest,
            replicas: before.replicas,
            variables: before.variables,
            secrets: Values::Now(resolved.sealed),
            cause: Some(cause),
        }
    }
}

/// How it is to run, of which another revision is made: nothing of it may be left out.
pub(in crate::deployments) fn whole(config: &Value) -> Result<Settings, DeployError> {
    understood(config).map_err(|unknown| {
        DeployError::Conflict(format!(
            "a later version of eve has deployed this, with settings that this control plane does not know \
             ({unknown}): ask again when all control planes are of that version"
        ))
    })
}

/// A config to store: how it is to run, the names of variables, and which secrets it has.
pub(super) fn config(settings: &Settings, variables: Vec<&String>, resolved: &Resolved) -> Value {
    let mut config = serde_json::to_value(settings).expect("settings always serialise");
    config["variables"] = json!(variables);
    if !resolved.versions.is_empty() {
        config["secret_versions"] = json!(resolved.versions);
    }
    config
}

/// A variable has one value.
pub(in crate::deployments) fn distinct(
    settings: &Settings,
    variables: &[String],
) -> Result<(), Invalid> {
    for reference in settings.secrets.iter().flatten() {
        if let Place::Variable(variable) = reference.place()
            && variables.iter().any(|name| name == variable)
        {
            return Err(Invalid::new(
                "settings.secrets",
                format_args!(
                    "the variable {variable} is in env_vars already: give the others there without it, or give \
                     the secret {} another variable",
                    reference.name
                ),
            ));
        }
    }
    Ok(())
}

/// That the number of replicas is not the load's to say.
pub(crate) fn not_autoscaled(app_name: &str, config: &Value) -> Result<(), DeployError> {
    match settings_of(config).autoscale {
        None => Ok(()),
        Some(scale) => Err(DeployError::Conflict(format!(
            "`{app_name}` has {} to {} replicas, as its load wants: deploy it without autoscaling to \
             say how many",
            scale.min, scale.max
        ))),
    }
}

/// How it is to run after a change.
pub(in crate::deployments) fn following(
    before: Option<&Stored>,
    now: &Patch,
    replicas: Option<i32>,
) -> Result<Settings, DeployError> {
    let before = match before {
        Some(before) => whole(&before.config)?,
        None => Settings::default(),
    };
    let mut settings = now.apply(&before)?;
    // Whoever says how many replicas there shall be does not want the load to say so.
    if replicas.is_some() && !now.sets("autoscale") {
        settings.autoscale = None;
    }
    settings.check()?;
    Ok(settings)
}

/// How many replicas it is to have after a change: as many as was said, or as give it the share of requests
/// that was asked for (`fitting`), or as it had.
pub(in crate::deployments) fn following_replicas(
    before: Option<&Stored>,
    now: &Patch,
    settings: &Settings,
    replicas: Option<i32>,
    fitting: Option<Result<i32, DeployError>>,
) -> Result<i32, DeployError> {
    if let Some(replicas) = replicas {
        return Ok(replicas);
    }
    if now.sets("canary")
        && settings.autoscale.is_none()
        && let Some(fitting) = fitting
    {
        return fitting;
    }
    let floor = settings.autoscale.map(|scale| scale.min);
    Ok(before.map(|before| before.replicas).or(floor).unwrap_or(1))
}

pub(super) fn variable_names(config: &Value) -> Vec<String> {
    serde_json::from_value(config["variables"].clone()).unwrap_or_default()
}
