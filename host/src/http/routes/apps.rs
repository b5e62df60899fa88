//! Apps.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::deployments::apps::{App, NewApp};
use crate::http::AppState;
use crate::http::cursor;
use crate::http::extract::{Allowed, Json, Path, Query, ReadDeployments, WriteDeployments};
use crate::http::problem::Problem;

/// Apps on a page when the client does not say.
const DEFAULT_PAGE: u32 = 100;
/// Most apps on a page.
const MAX_PAGE: u32 = 500;

/// Registers an app.
#[utoipa::path(
    post, path = "/v1/apps", tag = "apps", request_body = NewApp,
    responses(
        (status = 201, description = "The app", body = App),
        (status = 409, description = "There is one of that name, or there are too many (`conflict`)"),
    )
)]
pub async fn create_app(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Json(new): Json<NewApp>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.deployments.create_app(caller.tenant, &caller.actor, &new).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// 1 to 500; 100 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of apps.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct AppPage {
    /// By name.
    pub items: Vec<App>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Lists apps.
#[utoipa::path(
    get, path = "/v1/apps", tag = "apps", params(PageQuery),
    responses((status = 200, description = "A page", body = AppPage))
)]
pub async fn list_apps(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Query(query): Query<PageQuery>,
) -> Result<Json<AppPage>, Problem> {
    let limit = cursor::limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let after = query.cursor.as_deref().map(cursor::decode_names::<1>).transpose()?;
    let after = after.as_ref().map(|[name]| name.as_str());
    let items = state.deployments.apps(caller.tenant, after, limit + 1).await?;
    let (items, next_cursor) =
        cursor::page(items, limit, |last| cursor::encode_names(&[&last.name]));
    Ok(Json(AppPage { items, next_cursor }))
}

/// Shows an app.
#[utoipa::path(
    get, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path)),
    responses((status = 200, description = "The app", body = App))
)]
pub async fn get_app(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path(app): Path<String>,
) -> Result<Json<App>, Problem> {
    Ok(Json(state.deployments.app(caller.tenant, &app).await?))
}

/// Deletes an app that is deployed nowhere, and the history of where it was.
#[utoipa::path(
    delete, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "It is deployed somewhere (`conflict`)"),
    )
)]
pub async fn delete_app(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path(app): Path<String>,
) -> Result<StatusCode, Problem> {
    state.deployments.delete_app(caller.tenant, &caller.actor, &app).await?;
    Ok(StatusCode::NO_CONTENT)
}
