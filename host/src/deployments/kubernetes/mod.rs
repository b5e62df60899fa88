//! How a Kubernetes cluster is talked to.
//!
//! `connection` is who we are there: the control plane's own account, which makes namespaces and
//! identities, and per namespace a deployer, an editor and a viewer, whose tokens last ten minutes.
//! `provision` makes a namespace and what confines it, with the account; everything else is done with the
//! identities of one namespace: `objects` and `routes` are what a deployment is there, `secrets` what it
//! refers to; `apply` puts them there, `differences` says what applying would change, `observe` reads what
//! came of it. `proxy` is the door for the user's own kubectl.
//!
//! Invariants:
//! - Nothing of a tenant is touched with the account's rights: what an identity may not do is not done.
//! - Apply is server-side, and ours wins over whoever else has changed the same fields.

pub mod apply;
pub mod check;
pub mod connection;
pub mod differences;
mod drift;
pub mod failure;
pub mod logs;
pub mod manifests;
pub mod objects;
pub mod observe;
pub mod provision;
pub mod proxy;
mod raw;
pub mod routes;
pub mod secrets;

/// Who we are in `managedFields`.
pub const MANAGER: &str = "eve-horizon";
/// The namespace in which identities live and nothing runs.
pub const DEPLOYERS: &str = "eve-deployers";
/// The namespace of the platform itself.
pub const PLATFORM: &str = "eve-horizon";
/// On a namespace and on identities: the id of the environment.
pub const ENVIRONMENT_LABEL: &str = "eve-horizon.dev/environment";
/// On everything that we make in a namespace.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "eve-horizon");
/// On everything of an app.
pub const APP_LABEL: &str = "eve-horizon.dev/app";
/// On pods: the app whose requests they may be led, which is another for those of a canary. A Service goes
/// by it while requests are split among replicas.
pub const SERVES: &str = "eve-horizon.dev/serves";
/// On everything of an app: the revision that it was put there for.
pub const REVISION: &str = "eve-horizon.dev/revision";
/// On pods: the revision that they were made for.
pub const TEMPLATE: &str = "eve-horizon.dev/template";
