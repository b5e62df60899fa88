//! Changes that take more than a name and a number.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{DeploymentId, back};
use crate::bindings::eve::skill::deploy as contract;
use crate::error::Error;
use crate::platform;

/// Begins a deployment of an app, or of something else of it in place of what is there. What is left
/// out stays as it is.
///
/// ```
/// use eve_sdk::prelude::*;
/// use std::time::Duration;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// let id = deploy::app("api")
///     .env("dev")
///     .image("registry.example.com/acme/api:v1")
///     .replicas(2)
///     .env_vars([("LOG", "debug"), ("REGION", "eu")])
///     .port(9_000)
///     .health_path("/healthz")
///     .memory("256Mi")
///     .deadline(Duration::from_secs(120))
///     .settings(&json!({ "run_as_user": 1_000 }))
///     .create()?;
/// # log::info!("{id}");
/// # Ok(Outcome::waiting()) }
/// # let run = eve_sdk::testing::Host::new().environment("dev").app("api").run(skill);
/// # let eve_sdk::testing::Changed::Deploy { settings, .. } = &run.deployed()[0].what else { panic!() };
/// # assert_eq!(*settings, json!({ "port": 9000, "health_path": "/healthz", "memory": "256Mi",
/// #     "deadline_s": 120, "run_as_user": 1000 }));
/// ```
pub fn app(name: impl Into<String>) -> NewDeployment {
    NewDeployment {
        fields: contract::NewDeployment {
            env: String::new(),
            app: name.into(),
            register: false,
            image: String::new(),
            replicas: None,
            env_vars: None,
            settings: None,
        },
        settings: Map::new(),
        mistake: None,
    }
}

/// A deployment that is being put together. [`create`](NewDeployment::create) ends it; what was wrong
/// on the way is reported there.
///
/// An app is told to listen on the port in `PORT`, and is reached by others in its environment under
/// its name, on port 80.
#[derive(Clone, Debug)]
#[must_use = "an app is deployed by `.create()`"]
pub struct NewDeployment {
    fields: contract::NewDeployment,
    settings: Map<String, Value>,
    mistake: Option<String>,
}

impl NewDeployment {
    /// The environment, by name.
    pub fn env(mut self, name: impl Into<String>) -> Self {
        self.fields.env = name.into();
        self
    }

    /// The image: `[registry/]repository[:tag][@digest]`, at most 512 characters. Its tag is the
    /// deployment's version.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.fields.image = image.into();
        self
    }

    /// Registers the app if the organisation has none of that name; else that is
    /// [`NotFound`](Error::NotFound).
    pub fn register(mut self) -> Self {
        self.fields.register = true;
        self
    }

    /// How many replicas: 0 to 1,000; as many as there are unless this is called, 1 at first. Whoever
    /// says how many does not want the load to say so: an [`autoscale`](Self::autoscale) of before ends.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.fields.replicas = Some(replicas);
        self
    }

    /// An environment variable. Those of before are forgotten, all of them, once one is said; 500 of
    /// 512 KiB together at most. Secrets do not belong here.
    pub fn env_var(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        let variables = self.fields.env_vars.get_or_insert_default();
        match variables.iter_mut().find(|(said, _)| *said == name) {
            Some((_, said)) => *said = value,
            None => variables.push((name, value)),
        }
        self
    }

    /// More environment variables, as [`env_var`](Self::env_var) says one. Without any in it this
    /// takes away those of before.
    pub fn env_vars<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.fields.env_vars.get_or_insert_default();
        variables.into_iter().fold(self, |new, (name, value)| new.env_var(name, value))
    }

    /// How it is to run: a value that is a JSON object, at most 64 KiB of it, with what the HTTP API
    /// calls `settings`. What it does not name stays as it is, and so does what the methods below say.
    pub fn settings<T: Serialize + ?Sized>(mut self, settings: &T) -> Self {
        match serde_json::to_value(settings) {
            Ok(Value::Object(settings)) => self.settings.extend(settings),
            Ok(_) => self.mistaken("settings: must be a JSON object".into()),
            Err(error) => self.mistaken(format!("settings: cannot be written as JSON: {error}")),
        }
        self
    }

    /// The port that the app listens on, 8080 at first: it is told so in `PORT`.
    pub fn port(self, port: u16) -> Self {
        self.set("port", json!(port))
    }

    /// A path that answers 200 once the app can take traffic, such as `/healthz`. Without one a
    /// container that runs is ready.
    pub fn health_path(self, path: impl Into<String>) -> Self {
        self.set("health_path", json!(path.into()))
    }

    /// CPU that each pod asks for, as Kubernetes writes it: `250m`, `2`.
    pub fn cpu(self, cpu: impl Into<String>) -> Self {
        self.set("cpu", json!(cpu.into()))
    }

    /// Memory that each pod may have, as Kubernetes writes it: `256Mi`, `1Gi`.
    pub fn memory(self, memory: impl Into<String>) -> Self {
        self.set("memory", json!(memory.into()))
    }

    /// What to run instead of the image's own entry point, and with what: at most 100 words.
    pub fn command<W: Into<String>>(self, words: impl IntoIterator<Item = W>) -> Self {
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        self.set("command", json!(words))
    }

    /// A number of replicas that follows the load: `min` from 1, `max` to 100.
    pub fn autoscale(self, min: u32, max: u32) -> Self {
        self.set("autoscale", json!({ "min": min, "max": max }))
    }

    /// The user that the app runs as, where its image names none or one by name; nothing runs as root.
    pub fn run_as_user(self, user: u32) -> Self {
        self.set("run_as_user", json!(user))
    }

    /// How long the change may take to be there before it has failed: 5 seconds to an hour, 10 minutes
    /// at first. Parts of a second count as one.
    pub fn deadline(self, deadline: Duration) -> Self {
        let seconds = deadline.as_secs() + u64::from(deadline.subsec_nanos() > 0);
        self.set("deadline_s", json!(seconds))
    }

    /// It takes a share of another app's requests, in percent: 1 to 100. That app is deployed in the same
    /// environment.
    pub fn canary_of(self, app: impl Into<String>, percent: u32) -> Self {
        self.set("canary", json!({ "of": app.into(), "percent": percent }))
    }

    /// Deploys it, and returns the deployment's id: the same one for as long as the app is known in the
    /// environment. At most 100 changes (this, [`scale`](super::scale), [`rollback`] and
    /// [`delete`](super::delete)) in one run.
    pub fn create(mut self) -> Result<DeploymentId, Error> {
        if let Some(mistake) = self.mistake {
            return Err(Error::Invalid(mistake));
        }
        if !self.settings.is_empty() {
            self.fields.settings = Some(Value::Object(self.settings).to_string());
        }
        Ok(platform::deploy::create(&self.fields)?.into())
    }

    fn set(mut self, name: &str, value: Value) -> Self {
        self.settings.insert(name.to_owned(), value);
        self
    }

    fn mistaken(&mut self, mistake: String) {
        self.mistake.get_or_insert(mistake);
    }
}

/// Begins going back to what once ran: its image and its configuration. The number of replicas stays.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// deploy::rollback("prod", "api").to_version("v1.2.2")?;
/// # Ok(Outcome::waiting()) }
/// # use eve_sdk::testing::{Deployment, Host};
/// # let api = Deployment::running("prod", "api", "acme/api:v1.2.3").after("acme/api:v1.2.2");
/// # assert!(Host::new().environment("prod").deployment(api).run(skill).is_waiting());
/// ```
pub fn rollback(env: impl Into<String>, app: impl Into<String>) -> Rollback {
    Rollback { env: env.into(), app: app.into() }
}

/// A deployment that goes back to what once ran. What never ran is a [`Conflict`](Error::Conflict),
/// which says what did.
#[derive(Clone, Debug)]
#[must_use = "say what to go back to: `.to_previous()`, `.to_version(…)` or `.to_revision(…)`"]
pub struct Rollback {
    env: String,
    app: String,
}

impl Rollback {
    /// To the last revision that ran before the present one. Returns the deployment's id.
    pub fn to_previous(self) -> Result<DeploymentId, Error> {
        back(&self.env, &self.app, &contract::Target::Previous)
    }

    /// To the latest revision that ran with this version: an image's tag. Returns the deployment's id.
    pub fn to_version(self, version: impl Into<String>) -> Result<DeploymentId, Error> {
        back(&self.env, &self.app, &contract::Target::Version(version.into()))
    }

    /// To this revision, which must have run. Returns the deployment's id.
    pub fn to_revision(self, revision: u32) -> Result<DeploymentId, Error> {
        back(&self.env, &self.app, &contract::Target::Revision(revision))
    }
}
