//! Members of an organisation: who belongs to it, and as what.
//!
//! Invariant: an organisation has an owner. Whoever changes an owner locks all owners first, so two
//! who remove each other at the same time cannot both succeed.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::{OrgRole, TenancyError, Tenant, audit};
use crate::db::{Db, Scope, Tx};
use crate::ids::UserId;

/// Most members of one organisation.
const MAX_MEMBERS: i64 = 10_000;

/// One member.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// Their address, where the platform may read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// As what.
    pub role: OrgRole,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// The members, in the order in which they joined.
pub async fn list(db: &Db, tenant: Tenant) -> Result<Vec<Member>, TenancyError> {
    let failed = TenancyError::database("listing members");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let mut members = sqlx::query!(
        r#"SELECT user_id AS "user_id: UserId", role AS "role: OrgRole", created_at
             FROM eve.org_members
            WHERE org_id = $1
            ORDER BY created_at, user_id
            LIMIT $2"#,
        tenant.org().0,
        MAX_MEMBERS,
    )
    .map(|row| Member {
        user_id: row.user_id,
        email: None,
        role: row.role,
        created_at: row.created_at,
    })
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    let ids: Vec<Uuid> = members.iter().map(|member| member.user_id.0).collect();
    let emails = emails(db, &ids).await.map_err(failed)?;
    for member in &mut members {
        member.email = emails.get(&member.user_id).cloned();
    }
    Ok(members)
}

/// Addresses out of `auth.users`. On Supabase the platform may not be allowed to read that table:
/// members are then listed without addresses.
pub(super) async fn emails(db: &Db, ids: &[Uuid]) -> Result<HashMap<UserId, String>, sqlx::Error> {
    /// SQLSTATE insufficient_privilege.
    const DENIED: &str = "42501";
    let mut tx = db.begin(Scope::Control).await?;
    let found = sqlx::query!(
        r#"SELECT id AS "id: UserId", email AS "email!" FROM auth.users WHERE id = ANY($1) AND email IS NOT NULL"#,
        ids,
    )
    .map(|row| (row.id, row.email))
    .fetch_all(&mut *tx)
    .await;
    match found {
        Ok(rows) => Ok(rows.into_iter().collect()),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DENIED) => {
            Ok(HashMap::new())
        }
        Err(error) => Err(error),
    }
}

/// Adds a member, or changes a member's role. Only owners make, change and unmake owners.
pub async fn set(
    db: &Db,
    caller: &Caller,
    user: UserId,
    role: OrgRole,
) -> Result<Member, TenancyError> {
    let failed = TenancyError::database("setting a member's role");
    let org = caller.tenant.org();
    let mut tx = db.begin(Scope::Tenant(caller.tenant)).await.map_err(failed)?;
    let before = lock(&mut tx, caller.tenant, user).await.map_err(failed)?;
    if role == OrgRole::Owner || before.role == Some(OrgRole::Owner) {
        require_owner(caller)?;
    }
    if role != OrgRole::Owner {
        before.check_not_last_owner()?;
    }
    let created_at = sqlx::query_scalar!(
        "INSERT INTO eve.org_members (org_id, user_id, role)
         VALUES ($1, $2, $3)
         ON CONFLICT (org_id, user_id) DO UPDATE
            SET role = excluded.role
         RETURNING created_at",
        org.0,
        user.0,
        role as OrgRole,
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    let details = json!({ "role": role, "before": before.role });
    audit::record_details(
        &mut tx,
        caller.tenant,
        &caller.actor,
        "member.set",
        &user.to_string(),
        details,
    )
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    let email = emails(db, &[user.0]).await.map_err(failed)?.remove(&user);
    Ok(Member { user_id: user, email, role, created_at })
}

/// Removes a member. Their tokens stop working with them: a token never does more than its person.
pub async fn remove(db: &Db, caller: &Caller, user: UserId) -> Result<(), TenancyError> {
    let failed = TenancyError::database("removing a member");
    let org = caller.tenant.org();
    let mut tx = db.begin(Scope::Tenant(caller.tenant)).await.map_err(failed)?;
    let before = lock(&mut tx, caller.tenant, user).await.map_err(failed)?;
    let Some(role) = before.role else {
        return Err(TenancyError::NotFound { what: "member", name: user.to_string() });
    };
    if role == OrgRole::Owner {
        require_owner(caller)?;
    }
    before.check_not_last_owner()?;
    sqlx::query!("DELETE FROM eve.org_members WHERE org_id = $1 AND user_id = $2", org.0, user.0)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let details = json!({ "role": role });
    audit::record_details(
        &mut tx,
        caller.tenant,
        &caller.actor,
        "member.remove",
        &user.to_string(),
        details,
    )
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// A member's standing, under lock.
struct Standing {
    role: Option<OrgRole>,
    owners: usize,
}

impl Standing {
    fn check_not_last_owner(&self) -> Result<(), TenancyError> {
        if self.role == Some(OrgRole::Owner) && self.owners == 1 {
            return Err(TenancyError::Conflict(
                "this is the last owner: make somebody else an owner first".into(),
            ));
        }
        Ok(())
    }
}

/// Locks the member and all owners, in one order for everybody.
async fn lock(tx: &mut Tx, tenant: Tenant, user: UserId) -> Result<Standing, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT user_id AS "user_id: UserId", role AS "role: OrgRole"
             FROM eve.org_members
            WHERE org_id = $1
              AND (role = 'owner' OR user_id = $2)
            ORDER BY user_id
              FOR UPDATE"#,
        tenant.org().0,
        user.0,
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(Standing {
        role: rows.iter().find(|row| row.user_id == user).map(|row| row.role),
        owners: rows.iter().filter(|row| row.role == OrgRole::Owner).count(),
    })
}

fn require_owner(caller: &Caller) -> Result<(), TenancyError> {
    if caller.role >= OrgRole::Owner {
        return Ok(());
    }
    Err(TenancyError::Forbidden("only an owner may add, change or remove owners".into()))
}
