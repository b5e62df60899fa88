//! What people, tokens and guests changed: one row in the same transaction as the change.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Actor, Tenant};
use crate::db::Tx;

/// Records that `actor` did `action` (`noun.verb`) to `target`.
pub async fn record(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    action: &'static str,
    target: &str,
) -> Result<(), sqlx::Error> {
    record_details(tx, tenant, actor, action, target, json!({})).await
}

/// As [`record`], for several targets at once.
pub async fn record_all(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    action: &'static str,
    targets: &[String],
) -> Result<(), sqlx::Error> {
    if targets.is_empty() {
        return Ok(());
    }
    let actor = actor.to_json();
    let ids: Vec<Uuid> = targets.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query!(
        "INSERT INTO eve.audit_log (id, org_id, actor, action, target)
         SELECT a.id, $2, $3, $4, a.target FROM unnest($1::uuid[], $5::text[]) AS a (id, target)",
        &ids,
        tenant.org().0,
        actor,
        action,
        targets,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// As [`record`], with what the change consisted of: never a secret.
pub async fn record_details(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    action: &'static str,
    target: &str,
    details: Value,
) -> Result<(), sqlx::Error> {
    let actor = actor.to_json();
    sqlx::query!(
        "INSERT INTO eve.audit_log (id, org_id, actor, action, target, details)
         VALUES ($1, $2, $3, $4, $5, $6)",
        Uuid::now_v7(),
        tenant.org().0,
        actor,
        action,
        target,
        details,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
