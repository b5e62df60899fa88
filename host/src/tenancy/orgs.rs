//! Organisations: made by platform administrators, seen by their members.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{Actor, OrgRole, TenancyError, Tenant, audit};
use crate::db::{Db, Scope};
use crate::ids::OrgId;

/// An organisation as one of its members sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its short name in URLs, headers and on the command line.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// The caller's role in it.
    pub role: OrgRole,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An organisation to make.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    /// 1 to 48 lower-case letters, digits and hyphens; no hyphen at either end.
    pub slug: String,
    /// 1 to 200 characters.
    pub name: String,
}

/// Makes an organisation; the person behind the actor becomes its owner.
pub async fn create(db: &Db, actor: &Actor, new: &NewOrg) -> Result<Org, TenancyError> {
    let failed = TenancyError::database("making an organisation");
    check_slug(&new.slug)?;
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > 200 || name.contains(char::is_control) {
        return Err(TenancyError::Invalid {
            field: "name",
            message: "must be 1 to 200 printable characters".into(),
        });
    }
    let owner = actor.user().ok_or_else(|| {
        TenancyError::Forbidden(
            "this token stands for no person who could own an organisation".into(),
        )
    })?;
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    let row = sqlx::query!(
        r#"INSERT INTO eve.organizations (slug, name)
           VALUES ($1, $2)
           ON CONFLICT (slug) DO NOTHING
           RETURNING id AS "id: OrgId", created_at"#,
        new.slug,
        name,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?
    .ok_or_else(|| TenancyError::Conflict(format!("the slug `{}` is taken", new.slug)))?;
    sqlx::query!(
        "INSERT INTO eve.org_members (org_id, user_id, role) VALUES ($1, $2, 'owner')",
        row.id.0,
        owner.0,
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    let details = json!({ "slug": new.slug, "name": name });
    audit::record_details(
        &mut tx,
        Tenant::proven(row.id),
        actor,
        "org.create",
        &row.id.to_string(),
        details,
    )
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(Org {
        id: row.id,
        slug: new.slug.clone(),
        name: name.to_owned(),
        role: OrgRole::Owner,
        created_at: row.created_at,
    })
}

/// The rule of the schema's CHECK, in words.
fn check_slug(slug: &str) -> Result<(), TenancyError> {
    let fine = (1..=48).contains(&slug.len())
        && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !slug.starts_with('-')
        && !slug.ends_with('-');
    if fine {
        return Ok(());
    }
    Err(TenancyError::Invalid {
        field: "slug",
        message: "must be 1 to 48 lower-case letters, digits and hyphens, no hyphen at either end"
            .into(),
    })
}
