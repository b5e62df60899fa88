//! Orders: what running skills want of deployments.
//!
//! Flow: a run asks through its `deploy` capability, which checks (`check`) and keeps the [`Order`]; the
//! commit that ends the run inserts it ([`insert`]). Whoever leads the reconcilers takes one after another
//! (`take`), asking a person first where the environment wants that: it becomes a revision like any other,
//! in the transaction that marks the order as taken. When that revision is settled so is the order
//! (`settle`), and the run's orchestration is woken (`tell`).
//!
//! A run's own process does not write revisions: that takes the key that secrets are sealed with, which
//! workers do not have.
//!
//! Invariants:
//! - An order is taken once: the revision and the order's state are one transaction.
//! - An order is told once: telling and the order's mark are one transaction, under the orchestration's
//!   lock.
//! - What may be done is decided when it is taken; what the run was told before was a courtesy.
//! - The body, which may hold environment variables, is gone once it is decided.

pub(super) mod check;
mod settle;
mod take;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{NewDeployment, Rollback, Scale};
use crate::db::Tx;
use crate::ids::{RequestId, UserId};
use crate::tenancy::Tenant;

pub use check::Place;
pub(crate) use settle::{settle, tell};
pub(crate) use take::{take_all, taken};

/// What a run asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Deploy it, or something else of it.
    Create(NewDeployment),
    /// Give it another number of replicas.
    Scale(Scale),
    /// Go back to what once ran.
    Rollback(Rollback),
    /// Take it out.
    Delete,
}

impl Change {
    /// The word in the database.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Create(_) => "create",
            Change::Scale(_) => "scale",
            Change::Rollback(_) => "rollback",
            Change::Delete => "delete",
        }
    }

    /// In words, without what may be secret, for a person who decides.
    fn in_words(&self, env: &str, app: &str) -> String {
        match self {
            Change::Create(new) => match new.replicas {
                Some(replicas) => {
                    format!("Deploy `{}` as `{app}` to `{env}`, {replicas} replicas?", new.image)
                }
                None => format!("Deploy `{}` as `{app}` to `{env}`?", new.image),
            },
            Change::Scale(scale) => {
                format!("Scale `{app}` in `{env}` to {} replicas?", scale.replicas)
            }
            Change::Rollback(to) => {
                let target = match (&to.to_version, to.to_revision) {
                    (Some(version), _) => format!("version `{version}`"),
                    (None, Some(revision)) => format!("revision {revision}"),
                    (None, None) => "what ran before".to_owned(),
                };
                format!("Roll `{app}` in `{env}` back to {target}?")
            }
            Change::Delete => format!("Delete `{app}` from `{env}`?"),
        }
    }

    /// The same for programs: names of environment variables, and not their values.
    fn shown(&self) -> Value {
        match self {
            Change::Create(new) => json!({
                "image": new.image, "replicas": new.replicas, "settings": new.settings,
                "variables": new.env_vars.as_ref().map(|variables| variables.keys().collect::<Vec<_>>()),
            }),
            Change::Scale(scale) => json!(scale),
            Change::Rollback(rollback) => json!(rollback),
            Change::Delete => json!({}),
        }
    }
}

/// An order, as a run keeps it until it commits.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Its id, rising.
    pub id: Uuid,
    /// The environment's name.
    pub env: String,
    /// The app's.
    pub app: String,
    /// The deployment's id, as the run was told.
    pub told: Uuid,
    /// What is asked for.
    pub change: Change,
}

/// An order that is being taken, for whoever writes the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The order.
    pub id: Uuid,
    /// The deployment's id, if there is none yet.
    pub told: Uuid,
}

/// Who asks: the request that a run runs for.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The request; a wake-up's is its orchestration.
    pub request: RequestId,
    /// On whose behalf it runs.
    pub user: Option<UserId>,
    /// The pool that ran it.
    pub worker_type: &'a str,
}

/// Inserts orders, which have been checked when they were asked for. `orchestration` is woken once they
/// are settled; the caller holds the lock of its row.
pub(crate) async fn insert(
    tx: &mut Tx,
    tenant: Tenant,
    asker: Asker<'_>,
    orchestration: Option<RequestId>,
    orders: &[Order],
) -> Result<(), sqlx::Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = orders.iter().map(|order| order.id).collect();
    let environments: Vec<&str> = orders.iter().map(|order| order.env.as_str()).collect();
    let apps: Vec<&str> = orders.iter().map(|order| order.app.as_str()).collect();
    let kinds: Vec<&str> = orders.iter().map(|order| order.change.kind()).collect();
    let told: Vec<Uuid> = orders.iter().map(|order| order.told).collect();
    let bodies: Vec<Value> = orders.iter().map(|order| body(&order.change)).collect();
    sqlx::query!(
        r#"
        INSERT INTO eve.deployment_orders
               (id, org_id, request_id, user_id, worker_type, orchestration_id, environment, app, kind,
                told_id, body)
        SELECT o.id, $1, $2, $3, $4, $5, o.environment, o.app, o.kind, o.told, o.body
          FROM unnest($6::uuid[], $7::text[], $8::text[], $9::text[], $10::uuid[], $11::jsonb[])
            AS o (id, environment, app, kind, told, body)
        "#,
        tenant.org().0,
        asker.request.0,
        asker.user.map(|user| user.0),
        asker.worker_type,
        orchestration.map(|id| id.0),
        &ids,
        &environments as &[&str],
        &apps as &[&str],
        &kinds as &[&str],
        &told,
        &bodies,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// As it is stored: an object whatever it is.
fn body(change: &Change) -> Value {
    match change {
        Change::Delete => json!({ "delete": {} }),
        other => serde_json::to_value(other).expect("a change always serialises"),
    }
}

/// The opposite of [`body`].
fn change(body: Value) -> Result<Change, serde_json::Error> {
    match body.get("delete") {
        Some(_) => Ok(Change::Delete),
        None => serde_json::from_value(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_what_was_asked_for() {
        let new = NewDeployment {
            app: "api".into(),
            image: "acme/api:v1".into(),
            register: true,
            env_vars: Some([("TOKEN".to_owned(), "hidden".to_owned())].into()),
            ..NewDeployment::default()
        };
        for asked in [
            Change::Create(new),
            Change::Scale(Scale { replicas: 3 }),
            Change::Rollback(Rollback::default()),
            Change::Rollback(Rollback { to_version: Some("v1".into()), to_revision: None }),
            Change::Delete,
        ] {
            let stored = body(&asked);
            assert!(stored.is_object(), "{stored}");
            assert_eq!(change(stored).expect("it was stored"), asked);
            let shown = format!("{}{}", asked.in_words("prod", "api"), asked.shown());
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }
}
