//! API tokens of the chosen organisation.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Items;
use crate::http::AppState;
use crate::http::extract::{Allowed, Json, ManageOrg, Path};
use crate::http::problem::Problem;
use crate::ids::TokenId;
use crate::tenancy::tokens::{self, NewToken, Token};

/// Lists tokens that are not revoked, newest first; for admins.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens",
    responses((status = 200, description = "The tokens", body = inline(Items<Token>))),
    security(("bearer" = ["admin"])),
)]
pub async fn list_tokens(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageOrg>,
) -> Result<Json<Items<Token>>, Problem> {
    Ok(Json(Items { items: tokens::list(&state.db, caller.tenant).await? }))
}

/// A token with its secret.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// The token.
    #[serde(flatten)]
    pub info: Token,
    /// The secret: shown this once, and never again.
    pub token: String,
}

/// Makes a token that stands for the caller; for admins.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = NewToken,
    responses(
        (status = 201, description = "The token, with its secret", body = IssuedToken),
        (status = 409, description = "The organisation has too many tokens (`conflict`)"),
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn create_token(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageOrg>,
    Json(new): Json<NewToken>,
) -> Result<impl IntoResponse, Problem> {
    let (info, secret) = tokens::create(&state.db, &caller, &new).await?;
    Ok((StatusCode::CREATED, Json(IssuedToken { info, token: secret.expose().to_owned() })))
}

/// Revokes a token; for admins.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = TokenId, Path)),
    responses((status = 204, description = "Revoked")),
    security(("bearer" = ["admin"])),
)]
pub async fn revoke_token(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageOrg>,
    Path(id): Path<TokenId>,
) -> Result<StatusCode, Problem> {
    tokens::revoke(&state.db, caller.tenant, &caller.actor, id).await?;
    state.auth.forget();
    Ok(StatusCode::NO_CONTENT)
}
