//! The wall around tenants, on a real API server: everything that RBAC, Pod Security, quotas and the
//! admission policies in `host/src/deployments/kubernetes/manifests/` must refuse.
//!
//! Flow: [`wall`] installs the manifests and waits until they are in force, [`environment`] makes two
//! environments with the control plane's own account, as the platform does. [`attacks`] then runs the
//! tables in `attacks/`, which [`table`] reads; [`sweep`] asks about every verb on every resource.
//! [`kubectl`] does the same through the platform's own door, and [`tls`] is what other tools go through.
//!
//! [`stage`] is the whole platform on that cluster, registered as an operator would; [`environments`],
//! [`deploying`], [`settings`], [`traffic`], [`following`], [`secrets`], [`diff`] and [`many`] use it as
//! members do; [`drifting`], [`taking`] and [`abandoning`] get in its way. [`chart`] installs the platform in the cluster
//! itself.
//!
//! Invariants:
//! - The API server is a real one, named by `EVE_TEST_KUBECONFIG` (an administrator's). Without it the
//!   tests say that they are skipped.
//! - Nobody shares a cluster's state: what a test makes is named after itself and goes when it ends.
//! - Whoever attacks holds a token that the control plane asked for, unless the table says otherwise.

mod abandoning;
mod api;
mod attacks;
mod chart;
mod deploying;
mod diff;
mod drifting;
mod environment;
mod environments;
mod following;
mod kubectl;
mod many;
mod secrets;
mod settings;
mod skills;
mod stage;
mod sweep;
mod table;
mod taking;
mod tls;
mod traffic;
mod wall;
