//! What a running skill's `deploy` calls reach: its organisation's deployments, under the guest's role.

use std::future::Future;

use serde_json::Value;

use super::guest::patient;
use crate::db::is_connection_loss;
use crate::deployments::asks::Ask;
use crate::deployments::orders::{Change, Place};
use crate::deployments::{DeployError, Deployment, Deployments, Revision};
use crate::runtime::capabilities::deploy::{Answer, DeployHost};
use crate::tenancy::Tenant;

/// The deployments of one organisation, for one run of it.
#[derive(Debug)]
pub struct GuestDeployments {
    deployments: Deployments,
    tenant: Tenant,
    worker_type: String,
}

impl GuestDeployments {
    /// For a run of `worker_type`, whose lease the caller holds.
    pub fn new(deployments: Deployments, tenant: Tenant, worker_type: String) -> GuestDeployments {
        GuestDeployments { deployments, tenant, worker_type }
    }
}

/// Asks again while Postgres is away: everything here reads.
async fn patiently<T, F: Future<Output = Result<T, DeployError>>>(
    ask: impl FnMut() -> F,
) -> Result<T, DeployError> {
    let lost = |error: &DeployError| match error {
        DeployError::Database { source, .. } => is_connection_loss(source),
        _ => false,
    };
    patient(lost, ask).await
}

impl DeployHost for GuestDeployments {
    fn environments(&self) -> Answer<'_, Vec<Place>> {
        Box::pin(patiently(|| self.deployments.places(self.tenant, &self.worker_type)))
    }

    fn could<'a>(
        &'a self,
        env: &'a str,
        app: &'a str,
        change: &'a Change,
        own: bool,
    ) -> Answer<'a, Option<Deployment>> {
        Box::pin(patiently(move || {
            self.deployments.could(self.tenant, &self.worker_type, env, app, change, own)
        }))
    }

    fn status<'a>(&'a self, env: &'a str, app: &'a str) -> Answer<'a, Deployment> {
        Box::pin(patiently(move || self.deployments.deployment_for_guest(self.tenant, env, app)))
    }

    fn list<'a>(&'a self, env: Option<&'a str>) -> Answer<'a, Vec<Deployment>> {
        Box::pin(patiently(move || self.deployments.deployments_for_guest(self.tenant, env)))
    }

    fn history<'a>(&'a self, env: &'a str, app: &'a str, limit: u32) -> Answer<'a, Vec<Revision>> {
        Box::pin(patiently(move || {
            self.deployments.history_for_guest(self.tenant, env, app, limit)
        }))
    }

    fn ask<'a>(&'a self, env: &'a str, ask: &'a Ask) -> Answer<'a, Value> {
        Box::pin(patiently(move || self.deployments.ask(self.tenant, &self.worker_type, env, ask)))
    }
}
