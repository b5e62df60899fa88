//! The audit log: who changed what, through what. Append-only; written in the transaction that
//! makes the change, so that neither exists without the other.

use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::Actor;
use crate::db::Tx;
use crate::ids::OrgId;

/// Writes one row. `action` is `noun.verb`, such as `token.create`; `target` names the thing.
pub async fn record(
    tx: &mut Tx,
    org: OrgId,
    actor: &Actor,
    action: &str,
    target: &str,
    details: Value,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO eve.audit_log (id, org_id, actor, action, target, details)
         VALUES ($1, $2, $3, $4, $5, $6)",
        Uuid::now_v7(),
        org.0,
        Json(actor) as _,
        action,
        target,
        details,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
