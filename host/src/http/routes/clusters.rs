//! Clusters: for administrators of the platform.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::Items;
use super::worker_types::printable;
use crate::deployments::clusters::{Cluster, ClusterCheck, NewCluster};
use crate::http::AppState;
use crate::http::extract::{Json, Path, PlatformAdmin};
use crate::http::problem::Problem;

/// Lists clusters; for administrators of the platform.
#[utoipa::path(
    get, path = "/v1/clusters", tag = "clusters",
    responses((status = 200, description = "By id", body = inline(Items<Cluster>))),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn list_clusters(
    State(state): State<AppState>,
    _: PlatformAdmin,
) -> Result<Json<Items<Cluster>>, Problem> {
    Ok(Json(Items { items: state.deployments.clusters().await? }))
}

/// Registers a cluster; for administrators of the platform. Its credentials are kept sealed, and never
/// shown again. Nobody looks at the cluster yet: that is what `check` is for.
#[utoipa::path(
    post, path = "/v1/clusters", tag = "clusters", request_body = NewCluster,
    responses(
        (status = 201, description = "Registered", body = Cluster),
        (status = 409, description = "There is one of that id, or no key to seal with (`conflict`)"),
    ),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn add_cluster(
    State(state): State<AppState>,
    PlatformAdmin(identity): PlatformAdmin,
    Json(new): Json<NewCluster>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.deployments.add_cluster(&identity.actor, &new).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Shows a cluster; for administrators of the platform.
#[utoipa::path(
    get, path = "/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)),
    responses((status = 200, description = "The cluster", body = Cluster)),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn get_cluster(
    State(state): State<AppState>,
    _: PlatformAdmin,
    Path(id): Path<String>,
) -> Result<Json<Cluster>, Problem> {
    Ok(Json(state.deployments.cluster(&printable(id)?).await?))
}

/// Puts another place or credential in a cluster's: a token that has expired, a server that has moved; for
/// administrators of the platform. What is left out is forgotten; environments stay.
#[utoipa::path(
    put, path = "/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)),
    request_body = NewCluster,
    responses((status = 200, description = "The cluster", body = Cluster)),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn update_cluster(
    State(state): State<AppState>,
    PlatformAdmin(identity): PlatformAdmin,
    Path(id): Path<String>,
    Json(new): Json<NewCluster>,
) -> Result<Json<Cluster>, Problem> {
    let id = printable(id)?;
    Ok(Json(state.deployments.update_cluster(&identity.actor, &id, &new).await?))
}

/// Looks at a cluster: whether it answers, which version it has, and what is missing in it; for
/// administrators of the platform. Takes up to 25 s.
#[utoipa::path(
    post, path = "/v1/clusters/{id}/check", tag = "clusters", params(("id" = String, Path)),
    responses((status = 200, description = "What was found", body = ClusterCheck)),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn check_cluster(
    State(state): State<AppState>,
    _: PlatformAdmin,
    Path(id): Path<String>,
) -> Result<Json<ClusterCheck>, Problem> {
    Ok(Json(state.deployments.check_cluster(&printable(id)?).await?))
}

/// Forgets a cluster in which there are no environments; for administrators of the platform. Nothing in
/// the cluster is changed.
#[utoipa::path(
    delete, path = "/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)),
    responses(
        (status = 204, description = "Forgotten"),
        (status = 409, description = "There are environments in it (`conflict`)"),
    ),
    security(("bearer" = ["platform-admin"])),
)]
pub async fn remove_cluster(
    State(state): State<AppState>,
    PlatformAdmin(identity): PlatformAdmin,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    state.deployments.remove_cluster(&identity.actor, &printable(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
