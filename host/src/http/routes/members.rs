//! Members of the chosen organisation.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Items;
use crate::http::AppState;
use crate::http::extract::{Allowed, AnyMember, Json, ManageOrg, Path};
use crate::http::problem::Problem;
use crate::ids::UserId;
use crate::tenancy::OrgRole;
use crate::tenancy::members::{self, Member};

/// Lists members in the order in which they joined.
#[utoipa::path(
    get, path = "/v1/members", tag = "members",
    responses((status = 200, description = "The members", body = inline(Items<Member>)))
)]
pub async fn list_members(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<AnyMember>,
) -> Result<Json<Items<Member>>, Problem> {
    Ok(Json(Items { items: members::list(&state.db, caller.tenant).await? }))
}

/// A member's role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberRole {
    /// Only owners make, change and unmake owners.
    role: OrgRole,
}

/// Adds a member, or changes a member's role; for admins.
#[utoipa::path(
    put, path = "/v1/members/{user_id}", tag = "members", params(("user_id" = UserId, Path)),
    request_body = MemberRole,
    responses(
        (status = 200, description = "The member", body = Member),
        (status = 409, description = "This is the last owner (`conflict`)"),
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn put_member(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageOrg>,
    Path(user): Path<UserId>,
    Json(body): Json<MemberRole>,
) -> Result<Json<Member>, Problem> {
    let member = members::set(&state.db, &caller, user, body.role).await?;
    state.auth.forget();
    Ok(Json(member))
}

/// Removes a member, whose tokens stop working; for admins.
#[utoipa::path(
    delete, path = "/v1/members/{user_id}", tag = "members", params(("user_id" = UserId, Path)),
    responses(
        (status = 204, description = "Removed"),
        (status = 409, description = "This is the last owner (`conflict`)"),
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn delete_member(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageOrg>,
    Path(user): Path<UserId>,
) -> Result<StatusCode, Problem> {
    members::remove(&state.db, &caller, user).await?;
    state.auth.forget();
    Ok(StatusCode::NO_CONTENT)
}
