//! What crosses between guest and deployments: the types of `wit/skill.wit` to and from ours.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{CallError, Deploys};
use crate::deployments::asks::Ask;
use crate::deployments::kubernetes::logs::LogLine;
use crate::deployments::orders::{Change, Place};
use crate::deployments::{
    DeployError, Deployment, DeploymentStatus, NewDeployment, Patch, Pod, Revision, Rollback,
    Scale, Settings, Variables,
};
use crate::requests::validate::{self, SETTINGS_BYTES};
use crate::runtime::bindings::eve::skill::deploy as wit;
use crate::runtime::bindings::eve::skill::types::Error;
use crate::runtime::capabilities::log::storable;
use crate::runtime::context::Context;

/// Longest path of a read, its query included.
const LONGEST_PATH: usize = 4 << 10;

/// An error as the guest is told.
pub(super) fn error(error: DeployError) -> Error {
    let text = storable(&error.to_string());
    match error {
        DeployError::NotFound { what: "app", .. } => Error::NotFound(format!(
            "{text}: register it with `register`, or have a member do it (`eve app create`)"
        )),
        DeployError::NotFound { .. } => Error::NotFound(text),
        DeployError::Invalid { .. } => Error::Invalid(text),
        DeployError::Conflict(_) => Error::Conflict(text),
        DeployError::Forbidden(_) => Error::Denied(text),
        DeployError::TooMany(_) => Error::Limit(text),
        DeployError::Unconfigured(_) | DeployError::Sealed { .. } => Error::Other(text),
        DeployError::Cluster { .. } | DeployError::Database { .. } => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a guest's call about deployments failed"
            );
            Error::Unavailable("the deployments cannot be looked at just now".into())
        }
    }
}

fn new_deployment(new: wit::NewDeployment) -> Result<(String, NewDeployment), Error> {
    let settings = match &new.settings {
        None => Patch::default(),
        Some(text) if text.len() > SETTINGS_BYTES => {
            return Err(Error::Invalid(format!(
                "settings: {} bytes; at most {SETTINGS_BYTES} are allowed",
                text.len()
            )));
        }
        Some(text) => {
            let value: Value = serde_json::from_str(text).map_err(|error| {
                Error::Invalid(storable(&format!("settings: not valid JSON: {error}")))
            })?;
            // A list would do for serde, and U+0000 for nobody but Postgres.
            validate::object("settings", &value, SETTINGS_BYTES)
                .map_err(|bad| error(bad.into()))?;
            let settings: Patch = serde_json::from_value(value)
                .map_err(|error| Error::Invalid(storable(&format!("settings: {error}"))))?;
            // A setting with parts is said with all of them: the run does not know what comes before it.
            settings.apply(&Settings::default()).map_err(|bad| error(bad.into()))?;
            settings
        }
    };
    let env_vars = match new.env_vars {
        None => None,
        Some(pairs) => {
            let mut variables = Variables::new();
            for (name, value) in pairs {
                if let Some(twice) = variables.insert(name.clone(), value).map(|_| name) {
                    let twice: String = twice.chars().take(80).collect();
                    let twice = storable(&twice.escape_debug().to_string());
                    return Err(Error::Invalid(format!("env_vars: `{twice}` stands there twice")));
                }
            }
            Some(variables)
        }
    };
    let deployment = NewDeployment {
        app: new.app,
        register: new.register,
        image: new.image,
        replicas: new.replicas.map(i64::from),
        env_vars,
        settings,
    };
    Ok((new.env, deployment))
}

fn target(env: &str, app: &str, to: wit::Target) -> Result<Rollback, Error> {
    Ok(match to {
        wit::Target::Previous => Rollback::default(),
        // A tag has at most 128 characters.
        wit::Target::Version(version) if version.len() > 128 => {
            return Err(Error::Invalid("to: a version has at most 128 characters".into()));
        }
        wit::Target::Version(version) => Rollback { to_version: Some(version), to_revision: None },
        wit::Target::Revision(revision) => match i32::try_from(revision) {
            Ok(revision) => Rollback { to_version: None, to_revision: Some(revision) },
            Err(_) => {
                return Err(Error::Conflict(format!(
                    "no revision {revision} of `{app}` ever ran in `{env}`"
                )));
            }
        },
    })
}

fn timestamp(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn environment(place: Place) -> wit::Environment {
    wit::Environment {
        name: place.name,
        status: place.status.as_str().to_owned(),
        message: place.message,
        allowed: place.allowed,
        approval: place.approval,
    }
}

fn state(status: DeploymentStatus) -> wit::State {
    match status {
        DeploymentStatus::Pending => wit::State::Pending,
        DeploymentStatus::Deploying => wit::State::Deploying,
        DeploymentStatus::Running => wit::State::Running,
        DeploymentStatus::Failed => wit::State::Failed,
        DeploymentStatus::Stopped => wit::State::Stopped,
    }
}

fn pod(pod: Pod) -> wit::Pod {
    wit::Pod {
        name: pod.name,
        status: pod.status,
        ready: pod.ready,
        restarts: count(pod.restarts),
        version: pod.version,
    }
}

fn deployment(deployment: Deployment) -> wit::Deployment {
    wit::Deployment {
        id: deployment.id.to_string(),
        app: deployment.app,
        env: deployment.env,
        state: state(deployment.status),
        image: deployment.image,
        version: deployment.version,
        revision: count(deployment.revision),
        desired: count(deployment.replicas.desired),
        ready: count(deployment.replicas.ready),
        pods: deployment.pods.0.into_iter().map(pod).collect(),
        reason: deployment.reason,
        message: deployment.message,
        config: deployment.config.to_string(),
        updated_at: timestamp(deployment.updated_at),
    }
}

fn revision(revision: Revision) -> wit::Revision {
    wit::Revision {
        revision: count(revision.revision),
        kind: revision.kind.as_str().to_owned(),
        image: revision.image,
        version: revision.version,
        replicas: count(revision.replicas),
        outcome: revision.outcome.map(|outcome| outcome.as_str().to_owned()),
        reason: revision.reason,
        message: revision.message,
        created_at: timestamp(revision.created_at),
        settled_at: revision.settled_at.map(timestamp),
    }
}

type Call<T> = wasmtime::Result<Result<T, Error>>;

/// Turns what became of a call into what the bindings want.
fn answer<T>(outcome: Result<T, CallError>) -> Call<T> {
    match outcome {
        Ok(answer) => Ok(Ok(answer)),
        Err(CallError::Guest(error)) => Ok(Err(error)),
        Err(CallError::Ours(failure)) => Err(failure.into()),
    }
}

/// Names are short; what is not is not looked for.
fn names(env: &str, app: &str) -> Result<(), Error> {
    match env.len().max(app.len()) {
        0..=255 => Ok(()),
        _ => Err(Error::Invalid("env and app: a name has at most 63 characters".into())),
    }
}

async fn ordered(
    deploys: &mut Deploys,
    env: String,
    app: String,
    change: Result<Change, Error>,
) -> Call<String> {
    answer(
        async {
            names(&env, &app)?;
            let id = deploys.order(env, app, change?).await?;
            Ok(Uuid::to_string(&id))
        }
        .await,
    )
}

impl wit::Host for Context {
    async fn environments(&mut self) -> Call<Vec<wit::Environment>> {
        let places = self.deploys.environments().await;
        answer(places.map(|places| places.into_iter().map(environment).collect()))
    }

    async fn create(&mut self, new: wit::NewDeployment) -> Call<String> {
        match new_deployment(new) {
            Ok((env, new)) => {
                let app = new.app.clone();
                ordered(&mut self.deploys, env, app, Ok(Change::Create(new))).await
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn scale(&mut self, env: String, app: String, replicas: u32) -> Call<String> {
        let change = Change::Scale(Scale { replicas: replicas.into() });
        ordered(&mut self.deploys, env, app, Ok(change)).await
    }

    async fn rollback(&mut self, env: String, app: String, to: wit::Target) -> Call<String> {
        let change = match names(&env, &app) {
            Ok(()) => target(&env, &app, to).map(Change::Rollback),
            Err(error) => Err(error),
        };
        ordered(&mut self.deploys, env, app, change).await
    }

    async fn delete(&mut self, env: String, app: String) -> Call<String> {
        ordered(&mut self.deploys, env, app, Ok(Change::Delete)).await
    }

    async fn status(&mut self, env: String, app: String) -> Call<wit::Deployment> {
        answer(
            async {
                names(&env, &app)?;
                Ok(deployment(self.deploys.status(env, app).await?))
            }
            .await,
        )
    }

    async fn list(&mut self, env: Option<String>) -> Call<Vec<wit::Deployment>> {
        answer(
            async {
                names(env.as_deref().unwrap_or_default(), "")?;
                let all = self.deploys.list(env).await?.into_iter().map(deployment);
                Ok(all
                    .map(|one| wit::Deployment { pods: Vec::new(), config: "{}".into(), ..one })
                    .collect())
            }
            .await,
        )
    }

    async fn history(&mut self, env: String, app: String, limit: u32) -> Call<Vec<wit::Revision>> {
        answer(
            async {
                names(&env, &app)?;
                let history = self.deploys.history(env, app, limit).await?;
                Ok(history.into_iter().map(revision).collect())
            }
            .await,
        )
    }

    async fn logs(&mut self, env: String, app: String, tail: u32) -> Call<Vec<wit::LogLine>> {
        answer(
            async {
                names(&env, &app)?;
                let lines = self.deploys.ask_cluster(env, Ask::Logs { app, tail }).await?;
                let lines: Vec<LogLine> = serde_json::from_value(lines)
                    .map_err(|error| Error::Other(storable(&error.to_string())))?;
                let line = |line: LogLine| wit::LogLine { pod: line.pod, line: line.line };
                Ok(lines.into_iter().map(line).collect())
            }
            .await,
        )
    }

    async fn kubernetes(&mut self, env: String, path: String) -> Call<String> {
        answer(
            async {
                names(&env, "")?;
                if path.len() > LONGEST_PATH || path.contains('\0') {
                    let most = format!("path: at most {LONGEST_PATH} bytes, none of them U+0000");
                    return Err(Error::Invalid(most).into());
                }
                Ok(self.deploys.ask_cluster(env, Ask::Read { path }).await?.to_string())
            }
            .await,
        )
    }
}
