//! Which schemas a skill may reach: those that its manifest or its worker type names, as far as its
//! organisation has approved them for it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{Run, SchemaError, SchemaName};
use crate::db::{Db, Scope, Tx};
use crate::ids::SkillId;
use crate::tenancy::{Actor, Tenant, audit};

/// A schema that a skill names, and whether it may reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchemaGrant {
    /// The logical name.
    pub schema: String,
    /// Whether the organisation has approved it for this skill.
    pub approved: bool,
}

/// What a run may reach, and whether it still holds its lease.
pub(super) struct Standing {
    pub(super) holds_lease: bool,
    pub(super) named: BTreeSet<String>,
    pub(super) approved: BTreeSet<String>,
}

/// Looks a run up: one statement before each of its calls.
pub(super) async fn standing(db: &Db, tenant: Tenant, run: &Run) -> Result<Standing, SchemaError> {
    let failed = SchemaError::database("looking a run up");
    let mut tx = db.begin(Scope::Guest(tenant)).await.map_err(failed)?;
    let row = sqlx::query!(
        r#"
        SELECT EXISTS (SELECT FROM eve.queue
                        WHERE id = $1 AND org_id = $2 AND worker_id = $3 AND lease = $4) AS "holds!",
               ARRAY (SELECT jsonb_array_elements_text(v.manifest -> 'schemas')
                        FROM eve.skill_versions v WHERE v.id = $5
                       UNION
                      SELECT w.schema_name FROM eve.worker_types w
                       WHERE w.id = $6 AND w.schema_name IS NOT NULL) AS "named!",
               ARRAY (SELECT a.schema_name
                        FROM eve.schema_approvals a
                        JOIN eve.skill_versions v ON v.skill_id = a.skill_id
                       WHERE a.org_id = $2 AND v.id = $5) AS "approved!"
        "#,
        run.request.0,
        tenant.org().0,
        run.worker.0,
        run.lease,
        run.version.0,
        run.worker_type,
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    Ok(Standing {
        holds_lease: row.holds,
        named: row.named.into_iter().collect(),
        approved: row.approved.into_iter().collect(),
    })
}

impl Standing {
    /// Why the run may not reach a schema, if so.
    pub(super) fn denies(&self, schema: &SchemaName, skill: &str) -> Option<SchemaError> {
        if !self.named.contains(schema.as_str()) {
            return Some(not_named(schema, &self.named));
        }
        (!self.approved.contains(schema.as_str())).then(|| {
            SchemaError::Denied(format!(
                "schema `{schema}` is not approved for the skill `{skill}` in this organisation; an \
                 administrator types: eve skill approve {skill} --schema {schema}"
            ))
        })
    }
}

/// A schema that neither SKILL.md nor the worker type names.
pub(crate) fn not_named(schema: &SchemaName, named: &BTreeSet<String>) -> SchemaError {
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let named = match named.is_empty() {
        true => "no schema".to_owned(),
        false => format!("only {}", named.join(", ")),
    };
    SchemaError::Denied(format!(
        "schema `{schema}`: SKILL.md and the worker type name {named}; add it to `schemas` in SKILL.md and \
         push again"
    ))
}

/// Approves schemas for a skill, in the caller's transaction; what was approved already stays as it is.
pub async fn approve(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    skill: SkillId,
    name: &str,
    schemas: &[String],
) -> Result<(), sqlx::Error> {
    let new = sqlx::query_scalar!(
        "INSERT INTO eve.schema_approvals (org_id, skill_id, schema_name, approved_by)
         SELECT $1, $2, n.name, $4 FROM unnest($3::text[]) AS n (name)
         ON CONFLICT DO NOTHING
         RETURNING schema_name",
        tenant.org().0,
        skill.0,
        schemas,
        actor.to_json()
    )
    .fetch_all(&mut **tx)
    .await?;
    for schema in new {
        let details = json!({ "schema": schema });
        audit::record_details(tx, tenant, actor, "schema.approve", name, details).await?;
    }
    Ok(())
}

/// Takes an approval back. Runs in progress find out at their next call.
pub async fn withdraw(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    skill: SkillId,
    name: &str,
    schema: &SchemaName,
) -> Result<bool, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM eve.schema_approvals WHERE org_id = $1 AND skill_id = $2 AND schema_name = $3",
        tenant.org().0,
        skill.0,
        schema.as_str(),
    )
    .execute(&mut **tx)
    .await?
    .rows_affected()
        == 1;
    if gone {
        let details = json!({ "schema": schema });
        audit::record_details(tx, tenant, actor, "schema.withdraw", name, details).await?;
    }
    Ok(gone)
}

/// The schemas that a skill's active version names, and which of them are approved; with those that are
/// approved and not named (any more), or named by a worker type alone.
pub async fn of_skill(
    tx: &mut Tx,
    tenant: Tenant,
    skill: SkillId,
) -> Result<Vec<SchemaGrant>, sqlx::Error> {
    sqlx::query_as!(
        SchemaGrant,
        r#"
        SELECT n.name AS "schema!", bool_or(n.approved) AS "approved!"
          FROM (SELECT jsonb_array_elements_text(v.manifest -> 'schemas') AS name, false AS approved
                  FROM eve.skills s JOIN eve.skill_versions v ON v.id = s.active_version
                 WHERE s.id = $1
                 UNION ALL
                SELECT a.schema_name, true FROM eve.schema_approvals a
                 WHERE a.skill_id = $1 AND a.org_id = $2) n
         GROUP BY n.name
         ORDER BY n.name
        "#,
        skill.0,
        tenant.org().0
    )
    .fetch_all(&mut **tx)
    .await
}
