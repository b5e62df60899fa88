//! Skills and their versions.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Items;
use crate::http::extract::{
    Allowed, AnyMember, Json, ManageSkills, Path, PushSkills, Query, require_platform_admin,
};
use crate::http::problem::{Kind, Problem};
use crate::http::{AppState, form};
use crate::runtime::Capability;
use crate::schemas::SchemaName;
use crate::schemas::grants::SchemaGrant;
use crate::skills::capabilities::{self, CapabilityGrant};
use crate::skills::store::{self, Activation, Pushed, Skill, SkillDetail, Version};
use crate::tenancy::auth::Caller;
use crate::tenancy::{OrgRole, PLATFORM_ORG, Tenant};

/// Whose skill is meant.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OwnerQuery {
    /// The platform's own instead of the organisation's; for administrators of the platform.
    #[serde(default)]
    platform: bool,
}

/// How to push.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PushQuery {
    /// Whether it runs at once: true when absent. Activating takes an admin.
    #[serde(default = "yes")]
    activate: bool,
    /// The platform's own instead of the organisation's; for administrators of the platform.
    #[serde(default)]
    platform: bool,
}

fn yes() -> bool {
    true
}

/// For whom a change is made: the caller's organisation, or the platform.
fn owner(caller: &Caller, platform: bool) -> Result<Tenant, Problem> {
    if !platform {
        return Ok(caller.tenant);
    }
    require_platform_admin(caller.platform_admin)?;
    Ok(Tenant::proven(PLATFORM_ORG))
}

/// Lists the organisation's skills and the platform's.
#[utoipa::path(
    get, path = "/v1/skills", tag = "skills",
    responses((status = 200, description = "By name", body = inline(Items<Skill>)))
)]
pub async fn list_skills(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<AnyMember>,
) -> Result<Json<Items<Skill>>, Problem> {
    Ok(Json(Items { items: store::list(&state.db, caller.tenant).await? }))
}

/// Shows a skill with its versions and its SKILL.md.
#[utoipa::path(
    get, path = "/v1/skills/{name}", tag = "skills", params(("name" = String, Path)),
    responses((status = 200, description = "The skill", body = SkillDetail))
)]
pub async fn get_skill(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<AnyMember>,
    Path(name): Path<String>,
) -> Result<Json<SkillDetail>, Problem> {
    Ok(Json(store::get(&state.db, caller.tenant, &printable("name", name)?).await?))
}

/// Lists a skill's versions, newest first.
#[utoipa::path(
    get, path = "/v1/skills/{name}/versions", tag = "skills", params(("name" = String, Path)),
    responses((status = 200, description = "Its versions", body = inline(Items<Version>)))
)]
pub async fn list_versions(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<AnyMember>,
    Path(name): Path<String>,
) -> Result<Json<Items<Version>>, Problem> {
    let items = store::versions(&state.db, caller.tenant, &printable("name", name)?).await?;
    Ok(Json(Items { items }))
}

/// Deletes a skill with all its versions.
#[utoipa::path(
    delete, path = "/v1/skills/{name}", tag = "skills", params(("name" = String, Path), OwnerQuery),
    responses((status = 204, description = "Deleted")),
    security(("bearer" = ["admin"])),
)]
pub async fn delete_skill(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageSkills>,
    Path(name): Path<String>,
    Query(query): Query<OwnerQuery>,
) -> Result<StatusCode, Problem> {
    let tenant = owner(&caller, query.platform)?;
    store::delete(&state.db, tenant, &caller.actor, &printable("name", name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes another version the one that runs; runs in progress end as they began.
#[utoipa::path(
    post, path = "/v1/skills/{name}/versions/{version}/activate", tag = "skills",
    params(
        ("name" = String, Path),
        ("version" = String, Path, description = "Its label, or at least 8 digits of its SHA-256"),
        OwnerQuery,
    ),
    responses(
        (status = 200, description = "The version, active", body = Version),
        (status = 409, description = "Several versions begin with these digits (`conflict`)"),
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn activate_version(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageSkills>,
    Path((name, version)): Path<(String, String)>,
    Query(query): Query<OwnerQuery>,
) -> Result<Json<Version>, Problem> {
    let tenant = owner(&caller, query.platform)?;
    let (name, version) = (printable("name", name)?, printable("version", version)?);
    Ok(Json(store::activate(&state.db, tenant, &caller.actor, &name, &version).await?))
}

/// Lets a skill reach a schema in this organisation, one of the platform's for instance. Activating an
/// organisation's own skill approves what its manifest names.
#[utoipa::path(
    put, path = "/v1/skills/{name}/schemas/{schema}", tag = "skills",
    params(("name" = String, Path), ("schema" = String, Path)),
    responses((status = 200, description = "What it may reach", body = inline(Items<SchemaGrant>))),
    security(("bearer" = ["admin"])),
)]
pub async fn approve_schema(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageSkills>,
    Path((name, schema)): Path<(String, String)>,
) -> Result<Json<Items<SchemaGrant>>, Problem> {
    let (name, schema): (_, SchemaName) = (printable("name", name)?, schema.parse()?);
    let items = store::approve(&state.db, caller.tenant, &caller.actor, &name, &schema).await?;
    Ok(Json(Items { items }))
}

/// Takes the approval back. Runs in progress find out at their next statement.
#[utoipa::path(
    delete, path = "/v1/skills/{name}/schemas/{schema}", tag = "skills",
    params(("name" = String, Path), ("schema" = String, Path)),
    responses((status = 204, description = "Taken back")),
    security(("bearer" = ["admin"])),
)]
pub async fn withdraw_schema(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageSkills>,
    Path((name, schema)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (name, schema): (_, SchemaName) = (printable("name", name)?, schema.parse()?);
    store::withdraw(&state.db, caller.tenant, &caller.actor, &name, &schema).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a capability back to a skill that was revoked from it in this organisation. What its worker type
/// does not grant it still does not have.
#[utoipa::path(
    put, path = "/v1/skills/{name}/capabilities/{capability}", tag = "skills",
    params(("name" = String, Path), ("capability" = String, Path, description = "`queue`, `db`")),
    responses((
        status = 200,
        description = "What it needs, and what is still revoked",
        body = inline(Items<CapabilityGrant>),
    )),
    security(("bearer" = ["admin"])),
)]
pub async fn grant_capability(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageSkills>,
    Path((name, capability)): Path<(String, String)>,
) -> Result<Json<Items<CapabilityGrant>>, Problem> {
    let (name, capability) = (printable("name", name)?, capability_of(&capability)?);
    let (db, actor) = (&state.db, &caller.actor);
    let items = capabilities::grant(db, caller.tenant, actor, &name, capability).await?;
    Ok(Json(Items { items }))
}

/// Revokes a capability from a skill in this organisation, the platform's skills included. Requests that
/// are claimed from now on fail as `not_granted` if it imports the capability, whichever version is
/// active; runs in progress end as they began.
#[utoipa::path(
    delete, path = "/v1/skills/{name}/capabilities/{capability}", tag = "skills",
    params(("name" = String, Path), ("capability" = String, Path, description = "`queue`, `db`")),
    responses((status = 204, description = "Revoked")),
    security(("bearer" = ["admin"])),
)]
pub async fn revoke_capability(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageSkills>,
    Path((name, capability)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (name, capability) = (printable("name", name)?, capability_of(&capability)?);
    capabilities::revoke(&state.db, caller.tenant, &caller.actor, &name, capability).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn capability_of(text: &str) -> Result<Capability, Problem> {
    text.parse().map_err(|problem: String| Problem::invalid("capability", problem))
}

/// An upload.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only described: the parts are read as they come")]
pub struct UploadForm {
    /// The WebAssembly component, at most 64 MiB.
    #[schema(format = Binary, content_media_type = "application/wasm")]
    component: String,
    /// SKILL.md as text, at most 64 KiB.
    manifest: Option<String>,
}

/// Pushes a version of a skill.
///
/// The component is checked and compiled before anything is stored: what is refused changes nothing.
/// The version's label is the manifest's `version`, or the beginning of the component's SHA-256.
#[utoipa::path(
    post, path = "/v1/skills/{name}/versions", tag = "skills",
    params(("name" = String, Path), PushQuery),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "A new version", body = Version),
        (status = 200, description = "The same content was there already", body = Version),
        (status = 409, description = "The label is another content's (`conflict`)"),
    )
)]
pub async fn push_version(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<PushSkills>,
    Path(name): Path<String>,
    Query(query): Query<PushQuery>,
    request: Request,
) -> Result<impl IntoResponse, Problem> {
    let tenant = owner(&caller, query.platform)?;
    let activation = if query.activate { Activation::Activate } else { Activation::Keep };
    if activation == Activation::Activate && caller.role < OrgRole::Admin {
        let detail =
            "activating a version takes an admin: push it with `activate=false`, and ask one";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let _place = state.uploads.admit(tenant)?;
    let upload = form::read(printable("name", name)?, request, &state).await?;
    Ok(match state.uploads.push(tenant, &caller.actor, upload, activation).await? {
        Pushed::Created(version) => (StatusCode::CREATED, Json(version)),
        Pushed::Existing(version) => (StatusCode::OK, Json(version)),
    })
}

/// Postgres would refuse U+0000 where we only look something up.
fn printable(field: &str, text: String) -> Result<String, Problem> {
    if text.contains(char::is_control) {
        return Err(Problem::invalid(field, "must be printable"));
    }
    Ok(text)
}
