//! Apps of the organisation, in its own environments: deploy them, scale them, roll them back, look at
//! them.
//!
//! What is asked for here is checked at once and takes effect when the run commits, as everything of
//! [`queue`](crate::queue) does. It becomes what the deployment *is to be*; making it so takes a while
//! and can fail. Return [`waiting`](crate::Outcome::waiting): the run's orchestrator is woken with
//! [`Trigger::DeploymentSettled`](crate::Trigger::DeploymentSettled) once the deployment is `running`,
//! `failed` or `stopped`. The last change that a run asks for of a deployment is the one that it is
//! woken for.
//!
//! ```
//! use eve_sdk::prelude::*;
//!
//! fn run(request: Request) -> Result<Outcome, Failure> {
//!     match request.trigger() {
//!         Trigger::Initial => {
//!             deploy::app("api").env("dev").image("acme/api:v2").replicas(2).health_path("/healthz").create()?;
//!             Ok(Outcome::waiting())
//!         }
//!         Trigger::DeploymentSettled(settled) if settled.is_running() => {
//!             let api = deploy::status("dev", "api")?;
//!             Ok(Outcome::completed(format!("{} of {} are ready", api.replicas.ready, api.replicas.desired)))
//!         }
//!         Trigger::DeploymentSettled(settled) => {
//!             deploy::rollback("dev", "api").to_previous()?;
//!             let why = settled.reason.unwrap_or_default();
//!             Ok(Outcome::completed(format!("v2 does not run ({why}): v1 is being put back")))
//!         }
//!         _ => Ok(Outcome::waiting()),
//!     }
//! }
//!
//! use eve_sdk::testing::{Deployment, Orchestration, Settled};
//!
//! let mut orchestration = Orchestration::new(run)
//!     .environment("dev")
//!     .deployment(Deployment::running("dev", "api", "acme/api:v1"));
//! let id = orchestration.start().deployed()[0].id.clone();
//! let run = orchestration.settle(&id, Settled::failed("image_pull", "no such image")).wake();
//! assert_eq!(run.summary(), "v2 does not run (image_pull): v1 is being put back");
//! ```
//!
//! An environment says which worker types may deploy to it; elsewhere every change is
//! [`denied`](crate::Error::Denied). Some ask a person for approval first, which the platform does: the
//! deployment settles when that is given and done, or as `failed` when it is refused. Environments and
//! apps of other organisations do not exist.

mod change;
mod standing;

use serde_json::Value;

use crate::bindings::eve::skill::deploy as contract;
use crate::error::Error;
use crate::platform;

pub use crate::bindings::eve::skill::deploy::State;
pub use crate::request::DeploymentId;
pub use change::{NewDeployment, Rollback, app, rollback};
pub use standing::{Deployment, Environment, LogLine, Pod, Replicas, Revision};

/// Gives a deployment another number of replicas, 0 to 1,000, and returns its id.
///
/// A deployment whose replicas follow its load is a [`Conflict`](Error::Conflict).
pub fn scale(
    env: impl AsRef<str>,
    app: impl AsRef<str>,
    replicas: u32,
) -> Result<DeploymentId, Error> {
    Ok(platform::deploy::scale(env.as_ref(), app.as_ref(), replicas)?.into())
}

/// Takes everything of a deployment out of its environment, and returns its id. Its history stays.
pub fn delete(env: impl AsRef<str>, app: impl AsRef<str>) -> Result<DeploymentId, Error> {
    Ok(platform::deploy::delete(env.as_ref(), app.as_ref())?.into())
}

/// The organisation's environments, by name.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// let open: Vec<_> = deploy::environments()?.into_iter().filter(|env| env.allowed).collect();
/// # Ok(Outcome::completed(format!("{} of {}", open[0].name, open.len()))) }
/// # use eve_sdk::testing::{Environment, Host};
/// # let host = Host::new().environment("dev").environment(Environment::new("prod").closed());
/// # assert_eq!(host.run(skill).summary(), "dev of 1");
/// ```
pub fn environments() -> Result<Vec<Environment>, Error> {
    Ok(platform::deploy::environments()?.into_iter().map(Environment::from).collect())
}

/// How a deployment stands; one that was deleted as well. What this run has asked for shows as
/// [`Pending`](State::Pending).
pub fn status(env: impl AsRef<str>, app: impl AsRef<str>) -> Result<Deployment, Error> {
    Ok(platform::deploy::status(env.as_ref(), app.as_ref())?.into())
}

/// The organisation's deployments by environment and app, without those that are stopped; at most
/// 1,000, their pods left out.
pub fn list() -> Result<Vec<Deployment>, Error> {
    listed(None)
}

/// The same of one environment.
pub fn list_in(env: impl AsRef<str>) -> Result<Vec<Deployment>, Error> {
    listed(Some(env.as_ref()))
}

fn listed(env: Option<&str>) -> Result<Vec<Deployment>, Error> {
    Ok(platform::deploy::list(env)?.into_iter().map(Deployment::from).collect())
}

/// A deployment's revisions, latest first, at most `limit` of them: 1 to 100. What this run has asked
/// for is none yet.
pub fn history(
    env: impl AsRef<str>,
    app: impl AsRef<str>,
    limit: u32,
) -> Result<Vec<Revision>, Error> {
    let revisions = platform::deploy::history(env.as_ref(), app.as_ref(), limit)?;
    Ok(revisions.into_iter().map(Revision::from).collect())
}

/// The last `tail` lines of each of a deployment's pods, 1 to 1,000 of them; the newest pods first, at
/// most 20 pods and 1 MiB. The cluster is asked, which takes a moment:
/// [`Unavailable`](Error::Unavailable) if it does not answer within 30 seconds.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// let lines = deploy::logs("dev", "api", 100)?;
/// let panic = lines.iter().find(|line| line.line.contains("panicked"));
/// # Ok(Outcome::completed(panic.map_or("", |line| &line.pod))) }
/// # let api = eve_sdk::testing::Deployment::running("dev", "api", "acme/api:v1");
/// # let api = api.log("api-1", "listening").log("api-2", "panicked at main.rs");
/// # assert_eq!(eve_sdk::testing::Host::new().deployment(api).run(skill).summary(), "api-2");
/// ```
pub fn logs(env: impl AsRef<str>, app: impl AsRef<str>, tail: u32) -> Result<Vec<LogLine>, Error> {
    let lines = platform::deploy::logs(env.as_ref(), app.as_ref(), tail)?;
    Ok(lines.into_iter().map(LogLine::from).collect())
}

/// Reads the Kubernetes API for what there is no function for, in the environment's own namespace, with
/// the rights of a viewer: no Secrets, nothing of others. `path` is as the API has it without the
/// namespace. The answer is the API's, at most 1 MiB of it; asked as [`logs`] are.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// # fn skill(_: Request) -> Result<Outcome, Failure> {
/// let events = deploy::kubernetes("dev", "api/v1/events?limit=50")?;
/// let count = events["items"].as_array().map_or(0, Vec::len);
/// # Ok(Outcome::completed(count.to_string())) }
/// # let host = eve_sdk::testing::Host::new().environment("dev");
/// # let host = host.kubernetes(|env, path| {
/// #     assert_eq!((env, path), ("dev", "api/v1/events?limit=50"));
/// #     Ok(json!({ "items": [{}, {}] }))
/// # });
/// # assert_eq!(host.run(skill).summary(), "2");
/// ```
pub fn kubernetes(env: impl AsRef<str>, path: impl AsRef<str>) -> Result<Value, Error> {
    let answer = platform::deploy::kubernetes(env.as_ref(), path.as_ref())?;
    serde_json::from_str(&answer)
        .map_err(|error| Error::Other(format!("the cluster's answer is no JSON: {error}")))
}

/// Goes back to something that ran.
fn back(env: &str, app: &str, to: &contract::Target) -> Result<DeploymentId, Error> {
    Ok(platform::deploy::rollback(env, app, to)?.into())
}
