//! Deployments.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::deployments::diff::{Change, Diff};
use crate::deployments::kubernetes::logs::{LogLine, Wanted};
use crate::deployments::{
    Deployer, Deployment, DeploymentEvent, NewDeployment, Revision, Rollback, Scale,
};
use crate::http::AppState;
use crate::http::cursor;
use crate::http::extract::{
    Allowed, Json, OptionalJson, Path, Query, ReadDeployments, WriteDeployments,
};
use crate::http::problem::Problem;

/// Things on a page when the client does not say.
const DEFAULT_PAGE: u32 = 50;
/// Most things on a page.
const MAX_PAGE: u32 = 200;
/// Most lines that are read of a pod's log before it is followed.
const MAX_TAIL: u32 = 100_000;
/// How long a log is followed.
const LONGEST_LOG: Duration = Duration::from_secs(3_600);
/// Lines that are read of each pod's log when the client does not say.
const DEFAULT_TAIL: u32 = 100;

/// Deploys an app, or something else of it in place of what is there. What is left out stays as it is.
/// The answer comes at once; the app is there once the status is `running`.
#[utoipa::path(
    post, path = "/v1/envs/{env}/deployments", tag = "deployments", params(("env" = String, Path)),
    request_body = NewDeployment,
    responses(
        (status = 202, description = "It was asked for", body = Deployment),
        (status = 409, description = "The environment is being deleted, a host leads to another app, or the cluster has nothing that leads to hosts (`conflict`)"),
    )
)]
pub async fn create_deployment(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path(env): Path<String>,
    Json(new): Json<NewDeployment>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.deployments.deploy(&Deployer::from(&caller), &env, &new).await?;
    Ok((StatusCode::ACCEPTED, Json(made)))
}

/// Which deployments.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only those of this environment.
    env: Option<String>,
    /// Those that were deleted as well.
    #[serde(default)]
    deleted: bool,
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of deployments.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct DeploymentPage {
    /// By environment and app.
    pub items: Vec<Deployment>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Lists deployments.
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments", params(ListQuery),
    responses((status = 200, description = "A page", body = DeploymentPage))
)]
pub async fn list_deployments(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Query(query): Query<ListQuery>,
) -> Result<Json<DeploymentPage>, Problem> {
    let limit = cursor::limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let after = query.cursor.as_deref().map(cursor::decode_names::<2>).transpose()?;
    let after = after.as_ref().map(|[env, app]| (env.as_str(), app.as_str()));
    let (env, deleted) = (query.env.as_deref(), query.deleted);
    let items =
        state.deployments.deployments(caller.tenant, env, deleted, after, limit + 1).await?;
    let (items, next_cursor) =
        cursor::page(items, limit, |last| cursor::encode_names(&[&last.env, &last.app]));
    Ok(Json(DeploymentPage { items, next_cursor }))
}

/// Shows a deployment: where it stands, and its pods.
#[utoipa::path(
    get, path = "/v1/envs/{env}/deployments/{app}", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path)),
    responses((status = 200, description = "The deployment", body = Deployment))
)]
pub async fn get_deployment(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path((env, app)): Path<(String, String)>,
) -> Result<Json<Deployment>, Problem> {
    Ok(Json(state.deployments.deployment(caller.tenant, &env, &app).await?))
}

/// Deletes a deployment: its pods, its service, and everything else of it. It is gone once its status is
/// `stopped`; its history stays.
#[utoipa::path(
    delete, path = "/v1/envs/{env}/deployments/{app}", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path)),
    responses(
        (status = 202, description = "It is being deleted", body = Deployment),
        (status = 409, description = "It has canaries (`conflict`)"),
    )
)]
pub async fn delete_deployment(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path((env, app)): Path<(String, String)>,
) -> Result<impl IntoResponse, Problem> {
    let left = state.deployments.undeploy(&Deployer::from(&caller), &env, &app).await?;
    Ok((StatusCode::ACCEPTED, Json(left)))
}

/// Gives a deployment another number of replicas. Its pods stay.
#[utoipa::path(
    post, path = "/v1/envs/{env}/deployments/{app}/scale", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path)), request_body = Scale,
    responses(
        (status = 202, description = "It was asked for", body = Deployment),
        (status = 409, description = "Its replicas follow the load (`conflict`)"),
    )
)]
pub async fn scale_deployment(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path((env, app)): Path<(String, String)>,
    Json(scale): Json<Scale>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.deployments.scale(&Deployer::from(&caller), &env, &app, scale).await?;
    Ok((StatusCode::ACCEPTED, Json(made)))
}

/// Goes back to what once ran: the image of that time, by its digest, and its configuration.
#[utoipa::path(
    post, path = "/v1/envs/{env}/deployments/{app}/rollback", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path)), request_body = Rollback,
    responses(
        (status = 202, description = "It was asked for", body = Deployment),
        (status = 409, description = "It never ran here (`conflict`)"),
    )
)]
pub async fn roll_back_deployment(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteDeployments>,
    Path((env, app)): Path<(String, String)>,
    OptionalJson(rollback): OptionalJson<Rollback>,
) -> Result<impl IntoResponse, Problem> {
    let made = state.deployments.rollback(&Deployer::from(&caller), &env, &app, &rollback).await?;
    Ok((StatusCode::ACCEPTED, Json(made)))
}

/// Says what a change would alter: of what was asked for, and, by a dry run, of the objects in the cluster.
/// Without a body, or an empty one: what there differs from what the latest revision says. Nothing is changed.
/// Values of variables are in no answer; naming some takes the right to deploy.
#[utoipa::path(
    post, path = "/v1/envs/{env}/deployments/{app}/diff", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path)), request_body = Change,
    responses(
        (status = 200, description = "What differs", body = Diff),
        (status = 409, description = "The cluster does not answer, or the change contradicts what there is (`conflict`)"),
    )
)]
pub async fn diff_deployment(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path((env, app)): Path<(String, String)>,
    OptionalJson(change): OptionalJson<Change>,
) -> Result<Json<Diff>, Problem> {
    Ok(Json(state.deployments.diff(&caller, &env, &app, &change).await?))
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// Only revisions before this one.
    before: Option<i32>,
}

/// A page of revisions.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Latest first.
    pub items: Vec<Revision>,
}

/// Lists what was asked for of a deployment, and what became of it.
#[utoipa::path(
    get, path = "/v1/envs/{env}/deployments/{app}/history", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path), HistoryQuery),
    responses((status = 200, description = "Revisions", body = History))
)]
pub async fn get_history(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path((env, app)): Path<(String, String)>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<History>, Problem> {
    let limit = cursor::limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let (tenant, before) = (caller.tenant, query.before);
    Ok(Json(History { items: state.deployments.history(tenant, &env, &app, before, limit).await? }))
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// 1 to 200; 50 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of events.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// Latest first.
    pub items: Vec<DeploymentEvent>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Lists what happened to a deployment.
#[utoipa::path(
    get, path = "/v1/envs/{env}/deployments/{app}/events", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path), EventsQuery),
    responses((status = 200, description = "A page", body = EventPage))
)]
pub async fn list_events(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path((env, app)): Path<(String, String)>,
    Query(query): Query<EventsQuery>,
) -> Result<Json<EventPage>, Problem> {
    let limit = cursor::limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let before: Option<Uuid> = query.cursor.as_deref().map(cursor::decode).transpose()?;
    let tenant = caller.tenant;
    let items = state.deployments.events(tenant, &env, &app, before, limit + 1).await?;
    let (items, next_cursor) = cursor::page(items, limit, |last| cursor::encode(last.id));
    Ok(Json(EventPage { items, next_cursor }))
}

/// What of the logs.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// The last lines of each pod: 0 to 100000; 100 when absent.
    tail: Option<u32>,
    /// And what comes next, for up to an hour.
    #[serde(default)]
    follow: bool,
    /// Of the containers before their last restart.
    #[serde(default)]
    previous: bool,
}

/// What the pods of a deployment have written, a JSON object a line: `{pod, line}`.
#[utoipa::path(
    get, path = "/v1/envs/{env}/deployments/{app}/logs", tag = "deployments",
    params(("env" = String, Path), ("app" = String, Path), LogsQuery),
    responses(
        (status = 200, description = "Lines", body = LogLine, content_type = "application/x-ndjson"),
        (status = 409, description = "The cluster does not answer (`conflict`)"),
    )
)]
pub async fn get_logs(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadDeployments>,
    Path((env, app)): Path<(String, String)>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let tail = query.tail.unwrap_or(DEFAULT_TAIL);
    if tail > MAX_TAIL {
        return Err(Problem::invalid("tail", format!("must be 0 to {MAX_TAIL}")));
    }
    let wanted = Wanted { tail, follow: query.follow, previous: query.previous };
    let lines = state.deployments.logs(caller.tenant, &env, &app, wanted).await?;
    let shutdown = state.shutdown.clone();
    let over = async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(LONGEST_LOG) => {}
        }
    };
    let bytes = lines.take_until(Box::pin(over)).map(|line| {
        let mut text = serde_json::to_vec(&line).expect("texts always serialise");
        text.push(b'\n');
        Ok::<_, std::convert::Infallible>(text)
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response())
}
