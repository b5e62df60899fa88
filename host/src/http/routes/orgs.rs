//! Organisations.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::Items;
use crate::http::AppState;
use crate::http::extract::{Json, Path, PlatformAdmin, Somebody};
use crate::http::problem::Problem;
use crate::tenancy::orgs::{self, NewOrg, Org};

/// Lists the caller's organisations.
#[utoipa::path(
    get, path = "/v1/orgs", tag = "organisations",
    responses((status = 200, description = "By slug", body = inline(Items<Org>)))
)]
pub async fn list_orgs(Somebody(identity): Somebody) -> Json<Items<Org>> {
    Json(Items { items: identity.orgs.clone() })
}

/// Makes an organisation, which the caller then owns; for administrators of the platform.
#[utoipa::path(
    post, path = "/v1/orgs", tag = "organisations", request_body = NewOrg,
    responses(
        (status = 201, description = "Created", body = Org),
        (status = 409, description = "The slug is taken (`conflict`)"),
    ),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn create_org(
    State(state): State<AppState>,
    PlatformAdmin(identity): PlatformAdmin,
    Json(new): Json<NewOrg>,
) -> Result<impl IntoResponse, Problem> {
    let org = orgs::create(&state.db, &identity.actor, &new).await?;
    state.auth.forget();
    Ok((StatusCode::CREATED, Json(org)))
}

/// Shows one of the caller's organisations.
#[utoipa::path(
    get, path = "/v1/orgs/{slug}", tag = "organisations",
    params(("slug" = String, Path, description = "Its slug or id")),
    responses((status = 200, description = "The organisation", body = Org))
)]
pub async fn get_org(
    Somebody(identity): Somebody,
    Path(slug): Path<String>,
) -> Result<Json<Org>, Problem> {
    Ok(Json(identity.org(&slug)?.clone()))
}
