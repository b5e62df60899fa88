//! `eve:skill/deploy`: what the run's organisation has deployed, and what is to become of it.
//!
//! Flow: a change is checked here (its form) and by the [`DeployHost`] (that it could be done as things
//! stand), then kept as an [`Order`] among the run's effects, which commit with the run's result or not at
//! all. Reads ask the host and lay the run's own orders over the answer.
//!
//! Invariants:
//! - Nothing here changes the database, and nothing reaches a cluster: what commits is taken by the control
//!   plane, which checks it again.
//! - Orders hold valid changes only: nothing in them can make the commit fail that they share with others.

mod guest;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::deployments::asks::Ask;
use crate::deployments::orders::{Change, Order, Place};
use crate::deployments::{
    DeployError, Deployment, DeploymentStatus, Image, NewDeployment, Replicas, Revision,
    not_autoscaled,
};
use crate::runtime::bindings::eve::skill::types::Error;
use crate::runtime::{HostFailure, limits};

/// What a method of [`DeployHost`] answers with, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, DeployError>>;

/// The deployments of one organisation, as a run of it may see them. Bound to the organisation and the
/// worker type when it is made: no method takes either. Dropping a future must be harmless.
pub trait DeployHost: Send + Sync {
    /// The organisation's environments, by name.
    fn environments(&self) -> Answer<'_, Vec<Place>>;

    /// Whether a change could be made as things stand: the deployment that it changes, if there is one.
    /// `own` says that the run itself has asked for the deployment before.
    fn could<'a>(
        &'a self,
        env: &'a str,
        app: &'a str,
        change: &'a Change,
        own: bool,
    ) -> Answer<'a, Option<Deployment>>;

    /// One deployment; one that was deleted as well.
    fn status<'a>(&'a self, env: &'a str, app: &'a str) -> Answer<'a, Deployment>;

    /// Deployments that are not stopped, of one environment or of all, by environment and app.
    fn list<'a>(&'a self, env: Option<&'a str>) -> Answer<'a, Vec<Deployment>>;

    /// A deployment's revisions, latest first.
    fn history<'a>(&'a self, env: &'a str, app: &'a str, limit: u32) -> Answer<'a, Vec<Revision>>;

    /// What an environment's cluster says to a question.
    fn ask<'a>(&'a self, env: &'a str, ask: &'a Ask) -> Answer<'a, Value>;
}

/// No environment at all: what a component gets that is run apart from any organisation.
#[derive(Clone, Copy, Debug)]
pub struct NoDeployments;

impl DeployHost for NoDeployments {
    fn environments(&self) -> Answer<'_, Vec<Place>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn could<'a>(
        &'a self,
        env: &'a str,
        _: &'a str,
        _: &'a Change,
        _: bool,
    ) -> Answer<'a, Option<Deployment>> {
        Box::pin(async move { Err(DeployError::not_found("environment", env)) })
    }

    fn status<'a>(&'a self, env: &'a str, _: &'a str) -> Answer<'a, Deployment> {
        Box::pin(async move { Err(DeployError::not_found("environment", env)) })
    }

    fn list<'a>(&'a self, env: Option<&'a str>) -> Answer<'a, Vec<Deployment>> {
        Box::pin(async move {
            match env {
                Some(env) => Err(DeployError::not_found("environment", env)),
                None => Ok(Vec::new()),
            }
        })
    }

    fn history<'a>(&'a self, env: &'a str, _: &'a str, _: u32) -> Answer<'a, Vec<Revision>> {
        Box::pin(async move { Err(DeployError::not_found("environment", env)) })
    }

    fn ask<'a>(&'a self, env: &'a str, _: &'a Ask) -> Answer<'a, Value> {
        Box::pin(async move { Err(DeployError::not_found("environment", env)) })
    }
}

/// What became of a call: an error for the guest, or one of ours.
#[derive(Debug)]
enum CallError {
    Guest(Error),
    Ours(HostFailure),
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        CallError::Guest(error)
    }
}

/// A run's side of deployments: its orders so far, and how they look to its own reads.
pub(crate) struct Deploys {
    host: Arc<dyn DeployHost>,
    io: Handle,
    orders: Vec<Order>,
    /// Bytes that the orders hold, roughly.
    bytes: usize,
    /// How the deployments look that the run has asked for, by environment and app.
    own: HashMap<(String, String), Deployment>,
}

impl Deploys {
    pub(crate) fn new(host: Arc<dyn DeployHost>, io: Handle) -> Self {
        Self { host, io, orders: Vec::new(), bytes: 0, own: HashMap::new() }
    }

    pub(crate) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Does something on the I/O runtime. [`CallError::Ours`] ends the run.
    async fn ask<T, F>(
        &self,
        question: impl FnOnce(Arc<dyn DeployHost>) -> F,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DeployError>> + Send + 'static,
    {
        let task = self.io.spawn(question(self.host.clone()));
        match AbortOnDropHandle::new(task).await {
            Ok(answer) => answer.map_err(|error| CallError::Guest(guest::error(error))),
            Err(error) => Err(CallError::Ours(HostFailure::new("the deployments", error))),
        }
    }

    async fn environments(&self) -> Result<Vec<Place>, CallError> {
        self.ask(|host| async move { host.environments().await }).await
    }

    /// Keeps a change, if it could be made: the deployment's id.
    async fn order(&mut self, env: String, app: String, change: Change) -> Result<Uuid, CallError> {
        if self.orders.len() >= limits::DEPLOYS {
            return Err(limit(format!("a run asks for at most {} changes", limits::DEPLOYS)));
        }
        let bytes = weight(&env, &app, &change);
        if self.bytes + bytes > limits::EFFECTS {
            return Err(limit(format!(
                "what a run asks for may take {} bytes in all",
                limits::EFFECTS
            )));
        }
        let key = (env, app);
        let own = match self.own.get(&key) {
            // The run itself has had it deleted: it can only be deployed anew.
            Some(own) if is_leaving(own) && !matches!(change, Change::Create(_)) => {
                return Err(guest::error(DeployError::not_found("deployment", &key.1)).into());
            }
            Some(own) => {
                if let Change::Scale(_) = change {
                    not_autoscaled(&key.1, &own.config).map_err(guest::error)?;
                }
                !is_leaving(own)
            }
            None => false,
        };
        let asked = (key.clone(), change.clone());
        let there = self
            .ask(move |host| async move {
                let ((env, app), change) = &asked;
                host.could(env, app, change, own).await
            })
            .await?;
        let (env, app) = key.clone();
        let seen = self.own.remove(&key).or(there);
        let told = seen.as_ref().map_or_else(Uuid::now_v7, |seen| seen.id);
        let order = Order { id: Uuid::now_v7(), env, app, told, change };
        self.own.insert(key, after(seen, &order));
        self.orders.push(order);
        self.bytes += bytes;
        Ok(told)
    }

    async fn status(&self, env: String, app: String) -> Result<Deployment, CallError> {
        let key = (env, app);
        if let Some(own) = self.own.get(&key) {
            return Ok(own.clone());
        }
        self.ask(move |host| async move { host.status(&key.0, &key.1).await }).await
    }

    async fn list(&self, env: Option<String>) -> Result<Vec<Deployment>, CallError> {
        let asked = env.clone();
        let mut all =
            self.ask(move |host| async move { host.list(asked.as_deref()).await }).await?;
        all.retain(|there| !self.own.contains_key(&(there.env.clone(), there.app.clone())));
        let own = self.own.values().filter(|own| env.as_ref().is_none_or(|env| *env == own.env));
        all.extend(own.cloned());
        all.sort_by(|a, b| (&a.env, &a.app).cmp(&(&b.env, &b.app)));
        all.truncate(limits::DEPLOYMENTS);
        Ok(all)
    }

    async fn history(
        &self,
        env: String,
        app: String,
        limit: u32,
    ) -> Result<Vec<Revision>, CallError> {
        let key = (env, app);
        // One that only this run knows of has no revision yet.
        let is_new = self.own.get(&key).is_some_and(|own| own.revision == 0);
        let (env, app) = key;
        match self.ask(move |host| async move { host.history(&env, &app, limit).await }).await {
            Err(CallError::Guest(Error::NotFound(_))) if is_new => Ok(Vec::new()),
            answer => answer,
        }
    }

    async fn ask_cluster(&self, env: String, ask: Ask) -> Result<Value, CallError> {
        self.ask(move |host| async move { host.ask(&env, &ask).await }).await
    }
}

/// Why a deployment that is to be deleted stands where it does.
const STOPPING: &str = "stopping";

fn is_leaving(deployment: &Deployment) -> bool {
    deployment.reason.as_deref() == Some(STOPPING)
}

fn limit(message: String) -> CallError {
    CallError::Guest(Error::Limit(message))
}

/// How much an order is, roughly.
fn weight(env: &str, app: &str, change: &Change) -> usize {
    let body = match change {
        Change::Create(new) => {
            let variables = new.env_vars.iter().flatten();
            let settings = serde_json::to_vec(&new.settings).map_or(0, |text| text.len());
            new.image.len()
                + settings
                + variables.map(|(name, value)| name.len() + value.len() + 64).sum::<usize>()
        }
        Change::Rollback(to) => to.to_version.as_ref().map_or(0, String::len),
        Change::Scale(_) | Change::Delete => 0,
    };
    size_of::<Order>() + size_of::<Deployment>() + 2 * (env.len() + app.len()) + body
}

/// How a deployment looks to the run that has asked for something of it.
fn after(seen: Option<Deployment>, order: &Order) -> Deployment {
    let mut seen = seen.unwrap_or_else(|| Deployment {
        id: order.told,
        app: order.app.clone(),
        env: order.env.clone(),
        status: DeploymentStatus::Pending,
        image: String::new(),
        version: String::new(),
        revision: 0,
        replicas: Replicas { desired: 1, ready: 0 },
        pods: sqlx::types::Json(Vec::new()),
        urls: Vec::new(),
        traffic: None,
        reason: None,
        message: None,
        config: json!({}),
        deployed_at: None,
        deployed_by: None,
        request_id: None,
        created_at: chrono::Utc::now(),
        updated_at: chrono::Utc::now(),
    });
    seen.status = DeploymentStatus::Pending;
    seen.reason = None;
    seen.message = None;
    seen.updated_at = chrono::Utc::now();
    match &order.change {
        Change::Create(new) => create(&mut seen, new),
        Change::Scale(scale) => {
            seen.replicas.desired = i32::try_from(scale.replicas).unwrap_or(i32::MAX);
        }
        Change::Rollback(_) => {}
        Change::Delete => {
            seen.reason = Some(STOPPING.to_owned());
            seen.message = Some("it is being deleted".to_owned());
        }
    }
    seen
}

fn create(seen: &mut Deployment, new: &NewDeployment) {
    let image = new.image.parse::<Image>();
    seen.image = image.as_ref().map_or_else(|_| new.image.clone(), Image::to_string);
    seen.version = image.map(|image| image.version().to_owned()).unwrap_or_default();
    if let Some(replicas) = new.replicas {
        seen.replicas.desired = i32::try_from(replicas).unwrap_or(i32::MAX);
    }
    // As deploying does: whoever says how many does not want the load to say so.
    if new.replicas.is_some()
        && !new.settings.sets("autoscale")
        && let Some(config) = seen.config.as_object_mut()
    {
        config.remove("autoscale");
    }
    new.settings.merge_into(&mut seen.config);
    if let Some(config) = seen.config.as_object_mut()
        && let Some(variables) = &new.env_vars
    {
        config.insert("variables".into(), json!(variables.keys().collect::<Vec<_>>()));
    }
}
