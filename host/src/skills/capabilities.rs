//! Which capabilities a skill has: those that its worker type grants, less those that its organisation
//! has revoked.
//!
//! Flow: an administrator revokes a capability, or gives it back ([`revoke`], [`grant`]). A claim brings
//! along what is revoked (`delivery::claim`), and a worker starts nothing that imports more than both
//! grant; a [`Denial`] says who can change that. [`standing`] shows the same to people beforehand.
//!
//! Invariants:
//! - Pushing grants nothing: only what an administrator has activated runs, and what was revoked stays
//!   revoked whichever version is active.
//! - A change and its row in the audit log are one transaction.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::store::{self, SkillError};
use crate::db::{Db, Scope, Tx};
use crate::ids::SkillId;
use crate::runtime::{Capability, Grants};
use crate::tenancy::{Actor, Tenant, audit};

/// Most worker types that are shown with a skill.
const MAX_WORKER_TYPES: i64 = 1_000;

/// A capability that a skill needs, or that was revoked from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapabilityGrant {
    /// Which: `queue`, `db`.
    pub capability: String,
    /// Whether the version imports it.
    pub needed: bool,
    /// Since when this organisation denies it to the skill, and by whom; none if it does not.
    pub revoked: Option<Revocation>,
}

/// When and by whom a capability was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revocation {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom.
    #[schema(value_type = Object)]
    pub by: Value,
}

/// A worker type that a skill is for, and whether it can run there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// The worker type.
    pub worker_type: String,
    /// Whether all that the version needs is granted here.
    pub runs: bool,
    /// What is not, and why.
    pub denied: Vec<Denied>,
}

/// A capability that a skill needs and does not have on a worker type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Denied {
    /// Which.
    pub capability: String,
    /// Who denies it.
    pub by: Denier,
    /// The same in words, and who can change it.
    pub reason: String,
}

/// Who denies a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Denier {
    /// The worker type does not grant it: a matter for administrators of the platform.
    WorkerType,
    /// The organisation has revoked it: a matter for its administrators.
    Organization,
}

/// How a version stands with its capabilities.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Those that it needs, and those that were revoked.
    pub capabilities: Vec<CapabilityGrant>,
    /// The worker types that it is for.
    pub places: Vec<Place>,
}

/// Why a skill does not have a capability, and who can give it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The worker type does not grant it.
    #[error(
        "the worker type `{worker_type}` does not grant `{capability}`; an administrator of the platform \
         does so with: eve worker-type set {worker_type} --grant {grants}"
    )]
    WorkerType {
        /// Which.
        worker_type: String,
        /// What is missing.
        capability: Capability,
        /// All that it would then grant, separated by commas.
        grants: String,
    },
    /// The organisation has revoked it.
    #[error(
        "`{capability}` was revoked from the skill `{skill}` in this organisation; an administrator gives \
         it back with: eve skill grant {skill} {capability}"
    )]
    Organization {
        /// From which skill.
        skill: String,
        /// What is missing.
        capability: Capability,
    },
}

impl Denial {
    /// Why `skill` does not have `capability` on a worker type that grants `grants`, in an organisation
    /// that denies it `revoked`; none if it has it.
    pub fn of(
        capability: Capability,
        skill: &str,
        worker_type: &str,
        grants: &Grants,
        revoked: &[Capability],
    ) -> Option<Denial> {
        if revoked.contains(&capability) {
            return Some(Denial::Organization { skill: skill.to_owned(), capability });
        }
        if grants.has(capability) {
            return None;
        }
        let granted = Capability::ALL.into_iter().filter(|c| *c == capability || grants.has(*c));
        let grants: Vec<&str> = granted.map(Capability::as_str).collect();
        let (worker_type, grants) = (worker_type.to_owned(), grants.join(","));
        Some(Denial::WorkerType { worker_type, capability, grants })
    }

    fn by(&self) -> Denier {
        match self {
            Denial::WorkerType { .. } => Denier::WorkerType,
            Denial::Organization { .. } => Denier::Organization,
        }
    }
}

/// Denies a capability to a skill, the organisation's own or the platform's, in this organisation. What
/// is claimed from now on does not have it; runs in progress end as they began.
pub async fn revoke(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    name: &str,
    capability: Capability,
) -> Result<(), SkillError> {
    let failed = SkillError::database("revoking a capability");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = store::skill_id(&mut tx, tenant, name).await?;
    let new = sqlx::query!(
        "INSERT INTO eve.revoked_capabilities (org_id, skill_id, capability, revoked_by)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
        tenant.org().0,
        skill.0,
        capability.as_str(),
        actor.to_json(),
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?
    .rows_affected();
    if new == 1 {
        let details = json!({ "capability": capability });
        audit::record_details(&mut tx, tenant, actor, "capability.revoke", name, details)
            .await
            .map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

/// Gives back what was revoked, as far as worker types grant it. Answers with all that the skill's
/// version needs or is denied.
pub async fn grant(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    name: &str,
    capability: Capability,
) -> Result<Vec<CapabilityGrant>, SkillError> {
    let failed = SkillError::database("granting a capability");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = store::skill_id(&mut tx, tenant, name).await?;
    let gone = sqlx::query!(
        "DELETE FROM eve.revoked_capabilities WHERE org_id = $1 AND skill_id = $2 AND capability = $3",
        tenant.org().0,
        skill.0,
        capability.as_str(),
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?
    .rows_affected();
    if gone == 1 {
        let details = json!({ "capability": capability });
        audit::record_details(&mut tx, tenant, actor, "capability.grant", name, details)
            .await
            .map_err(failed)?;
    }
    let active = sqlx::query_scalar!(
        r#"SELECT v.capabilities
             FROM eve.skills s
             JOIN eve.skill_versions v ON v.id = s.active_version
            WHERE s.id = $1"#,
        skill.0,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    let all = capabilities(&mut tx, tenant, skill, &active.unwrap_or_default()).await;
    let all = all.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(all)
}

/// How a version of a skill stands that needs `needed`, on the worker types `wanted`; on all if none is
/// named.
pub(super) async fn standing(
    tx: &mut Tx,
    tenant: Tenant,
    skill: SkillId,
    name: &str,
    needed: &[String],
    wanted: &[String],
) -> Result<Standing, sqlx::Error> {
    let capabilities = capabilities(tx, tenant, skill, needed).await?;
    let revoked = capabilities.iter().filter(|grant| grant.revoked.is_some());
    let revoked: Vec<Capability> =
        revoked.filter_map(|grant| grant.capability.parse().ok()).collect();
    let needed: Vec<Capability> = needed.iter().filter_map(|word| word.parse().ok()).collect();
    let places = sqlx::query!(
        r#"
        SELECT id, coalesce(grants, '{}') AS "grants!"
          FROM eve.worker_types
         WHERE cardinality($1::text[]) = 0
            OR id = ANY ($1)
         ORDER BY id
         LIMIT $2
        "#,
        wanted,
        MAX_WORKER_TYPES,
    )
    .map(|row| {
        let grants: Grants = row.grants.iter().filter_map(|word| word.parse().ok()).collect();
        let denied = needed.iter().filter_map(|capability| {
            let denial = Denial::of(*capability, name, &row.id, &grants, &revoked)?;
            let (by, reason) = (denial.by(), denial.to_string());
            Some(Denied { capability: capability.to_string(), by, reason })
        });
        let denied: Vec<Denied> = denied.collect();
        Place { runs: denied.is_empty(), worker_type: row.id, denied }
    })
    .fetch_all(&mut **tx)
    .await?;
    Ok(Standing { capabilities, places })
}

/// What is needed, and what was revoked from the skill in this organisation.
async fn capabilities(
    tx: &mut Tx,
    tenant: Tenant,
    skill: SkillId,
    needed: &[String],
) -> Result<Vec<CapabilityGrant>, sqlx::Error> {
    sqlx::query!(
        r#"
        SELECT coalesce(n.capability, r.capability) AS "capability!",
               n.capability IS NOT NULL AS "needed!", r.created_at AS "at?", r.revoked_by AS "by?"
          FROM unnest($1::text[]) AS n (capability)
          FULL JOIN (SELECT capability, created_at, revoked_by
                       FROM eve.revoked_capabilities
                      WHERE org_id = $2 AND skill_id = $3) r ON r.capability = n.capability
         ORDER BY 1
        "#,
        needed,
        tenant.org().0,
        skill.0,
    )
    .map(|row| CapabilityGrant {
        capability: row.capability,
        needed: row.needed,
        revoked: row.at.zip(row.by).map(|(at, by)| Revocation { at, by }),
    })
    .fetch_all(&mut **tx)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_who_can_change_it() {
        let (queue, db) = (Capability::Queue, Capability::Db);
        let of = |grants: Grants, revoked: &[Capability]| {
            Denial::of(queue, "words", "reports", &grants, revoked).map(|denial| denial.to_string())
        };
        assert_eq!(of(Grants::all(), &[db]), None);
        let bare = of([db].into_iter().collect(), &[]).unwrap();
        assert!(bare.ends_with("with: eve worker-type set reports --grant queue,db"), "{bare}");
        // Its own administrators are asked first, because they have said so on purpose.
        let revoked = of(Grants::none(), &[queue]).unwrap();
        assert!(revoked.ends_with("with: eve skill grant words queue"), "{revoked}");
    }
}
