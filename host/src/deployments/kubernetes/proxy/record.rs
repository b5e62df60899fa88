//! What is written to the audit log: a row before a cluster is asked, and one when it is over.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::target::Target;
use super::{Entry, Identity};
use crate::db::Scope;
use crate::deployments::{DeployError, Deployments};
use crate::tenancy::audit;
use crate::tenancy::auth::Caller;

/// Something that is to be written down.
#[derive(Debug)]
pub struct Record {
    caller: Caller,
    action: &'static str,
    target: String,
    details: Value,
}

impl Record {
    /// What a call does; none if it only reads. The words of a command are left out: passwords stand in
    /// them.
    pub fn of(env: &str, entry: &Entry, target: &Target, caller: Caller) -> Option<Record> {
        let action = target.action()?;
        let what = target.resource.as_ref()?;
        let mut shown = format!("{env}/{}", what.resource);
        for more in [&what.name, &what.part].into_iter().flatten() {
            shown.push('/');
            shown.push_str(more);
        }
        let mut details = json!({
            "env": env, "namespace": entry.namespace, "group": what.group,
            "resource": what.resource, "name": what.name, "part": what.part,
            "identity": match entry.identity {
                Identity::Deployer => "deployer",
                Identity::Editor => "editor",
                Identity::Viewer => "viewer",
            },
        });
        if target.is_dry_run() {
            details["dry_run"] = json!(true);
        }
        Some(Record { caller, action, target: shown, details })
    }

    /// Before the cluster is asked; it is not asked if this cannot be written.
    pub async fn begun(&self, deployments: &Deployments) -> Result<(), DeployError> {
        let mut details = self.details.clone();
        details["phase"] = json!("begun");
        let failed = DeployError::database("writing to the audit log");
        self.write(deployments, details).await.map_err(failed)
    }

    /// When it is over. What cannot be written is logged: it has happened already.
    pub async fn ended(
        &self,
        deployments: &Deployments,
        code: StatusCode,
        lasted: Duration,
        how: Option<&'static str>,
    ) {
        let mut details = self.details.clone();
        details["phase"] = json!("ended");
        details["code"] = json!(code.as_u16());
        details["milliseconds"] = json!(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX));
        if let Some(how) = how {
            details["how"] = json!(how);
        }
        if let Err(error) = self.write(deployments, details.clone()).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                action = self.action,
                target = self.target,
                %details,
                "the end of what is in the audit log could not be written there"
            );
        }
    }

    async fn write(&self, deployments: &Deployments, details: Value) -> Result<(), sqlx::Error> {
        let tenant = self.caller.tenant;
        let mut tx = deployments.db.begin(Scope::Tenant(tenant)).await?;
        let actor = &self.caller.actor;
        audit::record_details(&mut tx, tenant, actor, self.action, &self.target, details).await?;
        tx.commit().await
    }
}
