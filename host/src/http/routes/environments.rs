//! Environments.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Items;
use crate::deployments::environments::{Deletion, Environment, NewEnvironment};
use crate::http::AppState;
use crate::http::extract::{Allowed, Json, ManageEnvironments, Path, Query, ReadDeployments};
use crate::http::problem::Problem;

/// Makes an environment; for admins. Its namespace follows: it can be deployed to once its status is
/// `ready`.
#[utoipa::path(
    post, path = "/v1/envs", tag = "environments", request_body = NewEnvironment,
    responses(
        (status = 201, description = "The environment", body = Environment),
        (status = 409, description = "Its name or namespace is taken, or there are too many (`conflict`)"),
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn create_env(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageEnvironments>,
    Json(new): Json<NewEnvironment>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.deployments.create_environment(&caller, &new).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Lists environments.
#[utoipa::path(
    get, path = "/v1/envs", tag = "environments",
    responses((status = 200, description = "By name", body = inline(Items<Environment>)))
)]
pub async fn list_envs(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
) -> Result<Json<Items<Environment>>, Problem> {
    Ok(Json(Items { items: state.deployments.environments(caller.tenant).await? }))
}

/// Shows an environment.
#[utoipa::path(
    get, path = "/v1/envs/{env}", tag = "environments", params(("env" = String, Path)),
    responses((status = 200, description = "The environment", body = Environment))
)]
pub async fn get_env(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path(env): Path<String>,
) -> Result<Json<Environment>, Problem> {
    Ok(Json(state.deployments.environment(caller.tenant, &env).await?))
}

/// How much is deleted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// What is deployed in it as well.
    #[serde(default)]
    force: bool,
    /// Without touching its cluster, which is gone for ever. `message` then says what is left behind.
    #[serde(default)]
    abandon: bool,
}

/// Deletes an environment, its namespace and all that is in it; for admins. Refused while apps are deployed
/// in it, unless forced. It is gone once it can no longer be shown.
///
/// One whose cluster is gone for ever can be abandoned: it is forgotten, and so is everything that was
/// deployed in it; nothing in the cluster is touched. Refused while the cluster answers, except for
/// administrators of the platform.
#[utoipa::path(
    delete, path = "/v1/envs/{env}", tag = "environments",
    params(("env" = String, Path), DeleteQuery),
    responses(
        (status = 202, description = "It is being deleted", body = Environment),
        (status = 409, description = "Apps are deployed in it, or its cluster answers (`conflict`)"),
    ),
    security(("bearer" = ["admin"])),
)]
pub async fn delete_env(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageEnvironments>,
    Path(env): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<impl IntoResponse, Problem> {
    let how = match (query.abandon, query.force) {
        (true, _) => Deletion::Abandoned,
        (false, true) => Deletion::Whole,
        (false, false) => Deletion::Empty,
    };
    let left = state.deployments.delete_environment(&caller, &env, how).await?;
    Ok((StatusCode::ACCEPTED, Json(left)))
}
