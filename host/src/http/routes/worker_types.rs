//! Worker types.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::Items;
use crate::http::AppState;
use crate::http::extract::{Json, Path, PlatformAdmin, Somebody};
use crate::http::problem::Problem;
use crate::worker_types::{self, Put, WorkerType, WorkerTypeSpec};

/// Lists worker types.
#[utoipa::path(
    get, path = "/v1/worker-types", tag = "worker types",
    responses((status = 200, description = "By id", body = inline(Items<WorkerType>)))
)]
pub async fn list_worker_types(
    State(state): State<AppState>,
    _: Somebody,
) -> Result<Json<Items<WorkerType>>, Problem> {
    Ok(Json(Items { items: worker_types::list(&state.db).await? }))
}

/// Shows a worker type.
#[utoipa::path(
    get, path = "/v1/worker-types/{id}", tag = "worker types", params(("id" = String, Path)),
    responses((status = 200, description = "The worker type", body = WorkerType))
)]
pub async fn get_worker_type(
    State(state): State<AppState>,
    _: Somebody,
    Path(id): Path<String>,
) -> Result<Json<WorkerType>, Problem> {
    Ok(Json(worker_types::get(&state.db, &printable(id)?).await?))
}

/// Makes a worker type, or puts another in its place; for administrators of the platform.
#[utoipa::path(
    put, path = "/v1/worker-types/{id}", tag = "worker types", params(("id" = String, Path)),
    request_body = WorkerTypeSpec,
    responses(
        (status = 200, description = "Replaced", body = WorkerType),
        (status = 201, description = "Created", body = WorkerType),
    ),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn put_worker_type(
    State(state): State<AppState>,
    PlatformAdmin(identity): PlatformAdmin,
    Path(id): Path<String>,
    Json(spec): Json<WorkerTypeSpec>,
) -> Result<impl IntoResponse, Problem> {
    Ok(match worker_types::put(&state.db, &identity.actor, &id, &spec).await? {
        Put::Created(stored) => (StatusCode::CREATED, Json(stored)),
        Put::Replaced(stored) => (StatusCode::OK, Json(stored)),
    })
}

/// Deletes a worker type that no open request is sent to; for administrators of the platform.
#[utoipa::path(
    delete, path = "/v1/worker-types/{id}", tag = "worker types", params(("id" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "Requests are open that are sent to it (`conflict`)"),
    ),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn delete_worker_type(
    State(state): State<AppState>,
    PlatformAdmin(identity): PlatformAdmin,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    worker_types::delete(&state.db, &identity.actor, &printable(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Postgres would refuse U+0000 where we only look something up.
pub(super) fn printable(id: String) -> Result<String, Problem> {
    if id.contains(char::is_control) {
        return Err(Problem::invalid("id", "must be printable"));
    }
    Ok(id)
}
