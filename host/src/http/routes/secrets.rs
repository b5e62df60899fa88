//! Secrets of environments. No answer has a value in it.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::deployments::Deployer;
use crate::deployments::secrets::{NewSecret, SecretList, SecretSet};
use crate::http::AppState;
use crate::http::extract::{Allowed, Json, Path, Query, ReadDeployments, WriteDeployments};
use crate::http::problem::Problem;

/// Lists the secrets of an environment, without their values: names, versions, and what refers to them.
#[utoipa::path(
    get, path = "/v1/envs/{env}/secrets", tag = "secrets", params(("env" = String, Path)),
    responses((status = 200, description = "All of them", body = SecretList))
)]
pub async fn list_secrets(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path(env): Path<String>,
) -> Result<Json<SecretList>, Problem> {
    Ok(Json(state.deployments.secrets(caller.tenant, &env).await?))
}

/// Sets a secret: makes it, or gives it another value. The deployments that refer to it get a revision, and
/// pods with the new value, unless `restart` is false. The value is kept sealed, and cannot be read again.
#[utoipa::path(
    put, path = "/v1/envs/{env}/secrets/{secret}", tag = "secrets",
    params(
        ("env" = String, Path),
        ("secret" = String, Path, description = "Its name: `[A-Za-z_][A-Za-z0-9_]*`, at most 63 characters"),
    ),
    request_body = NewSecret,
    responses(
        (status = 200, description = "It is set", body = SecretSet),
        (
            status = 409,
            description = "The environment keeps its secrets in a store, or has 100 of them, or there is no \
                           key to seal with (`conflict`)"
        ),
    )
)]
pub async fn set_secret(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path((env, secret)): Path<(String, String)>,
    Json(new): Json<NewSecret>,
) -> Result<Json<SecretSet>, Problem> {
    let deployer = Deployer::from(&caller);
    Ok(Json(state.deployments.set_secret(&deployer, &env, &secret, &new).await?))
}

/// How much is deleted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// Although deployments refer to it. They keep its value until they are deployed again, and then must do
    /// without.
    #[serde(default)]
    force: bool,
}

/// Deletes a secret. Refused while deployments refer to it, unless forced.
#[utoipa::path(
    delete, path = "/v1/envs/{env}/secrets/{secret}", tag = "secrets",
    params(("env" = String, Path), ("secret" = String, Path), DeleteQuery),
    responses(
        (status = 204, description = "It is no more"),
        (
            status = 409,
            description = "Deployments refer to it, or the environment keeps its secrets in a store (`conflict`)"
        ),
    )
)]
pub async fn delete_secret(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path((env, secret)): Path<(String, String)>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, Problem> {
    let deployer = Deployer::from(&caller);
    state.deployments.delete_secret(&deployer, &env, &secret, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}
