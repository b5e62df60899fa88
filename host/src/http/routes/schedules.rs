//! Schedules.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::AppState;
use crate::http::cursor;
use crate::http::extract::{Allowed, Json, Path, Query, ReadRequests, WriteRequests};
use crate::http::problem::Problem;
use crate::schedules::{NewSchedule, Schedule};

/// Schedules on a page when the client does not say. Each may hold a megabyte.
const DEFAULT_PAGE: u32 = 20;
/// Most schedules on a page.
const MAX_PAGE: u32 = 100;

/// Makes a schedule, which begins at once.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", request_body = NewSchedule,
    responses(
        (status = 201, description = "The schedule", body = Schedule),
        (status = 409, description = "There is one of that name, or there are too many (`conflict`)"),
    )
)]
pub async fn create_schedule(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Json(new): Json<NewSchedule>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.schedules.create(caller.tenant, &caller.actor, &new).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// 1 to 100; 20 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of schedules.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct SchedulePage {
    /// Newest first.
    pub items: Vec<Schedule>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Lists schedules, newest first.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", params(PageQuery),
    responses((status = 200, description = "A page", body = SchedulePage))
)]
pub async fn list_schedules(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Query(query): Query<PageQuery>,
) -> Result<Json<SchedulePage>, Problem> {
    let limit = cursor::limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let before = query.cursor.as_deref().map(cursor::decode).transpose()?;
    let items = state.schedules.list(caller.tenant, before, limit + 1).await?;
    let (items, next_cursor) = cursor::page(items, limit, |last| cursor::encode(last.id));
    Ok(Json(SchedulePage { items, next_cursor }))
}

/// Shows a schedule.
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, description = "The schedule", body = Schedule))
)]
pub async fn get_schedule(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(name): Path<String>,
) -> Result<Json<Schedule>, Problem> {
    Ok(Json(state.schedules.get(caller.tenant, &name).await?))
}

/// Deletes a schedule. What it has created goes on.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)),
    responses((status = 204, description = "Deleted"))
)]
pub async fn delete_schedule(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    state.schedules.delete(caller.tenant, &caller.actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a schedule create nothing until it is resumed. What it has created goes on.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, description = "The schedule, paused", body = Schedule))
)]
pub async fn pause_schedule(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(name): Path<String>,
) -> Result<Json<Schedule>, Problem> {
    Ok(Json(state.schedules.pause(caller.tenant, &caller.actor, &name).await?))
}

/// Has a paused schedule go on from now: what it missed is not made up for.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, description = "The schedule, going on", body = Schedule))
)]
pub async fn resume_schedule(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(name): Path<String>,
) -> Result<Json<Schedule>, Problem> {
    Ok(Json(state.schedules.resume(caller.tenant, &caller.actor, &name).await?))
}
