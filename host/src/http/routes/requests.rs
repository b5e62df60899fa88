//! Requests and results.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Items;
use crate::http::AppState;
use crate::http::cursor;
use crate::http::extract::{Allowed, Json, OptionalJson, Path, Query, ReadRequests, WriteRequests};
use crate::http::problem::Problem;
use crate::http::watch::is_change;
use crate::ids::RequestId;
use crate::requests::{
    BlockerState, Created, Filter, NewRequest, Origin, Request, RequestDetails, RequestResult,
    RunLog, Status, Tree,
};
use crate::tenancy::auth::Caller;

/// Most requests of one batch.
const MAX_BATCH: usize = 10_000;
/// Requests on a page when the client does not say.
const DEFAULT_PAGE: u32 = 20;
/// Most requests on a page.
const MAX_PAGE: u32 = 100;
/// Longest reason for a cancellation, in characters.
const MAX_REASON: usize = 1_000;
/// Comments on a stream on which nothing happens, so that proxies leave it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a stream may last: whoever watches on shows their credential again, which may have been
/// revoked meanwhile.
const LONGEST_WATCH: Duration = Duration::from_secs(3_600);
/// The header that makes a repeated call harmless.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Creates a request.
///
/// With an idempotency key - in the header, or in the body - the same call again returns the request
/// of the first one, with status 200.
#[utoipa::path(
    post, path = "/v1/requests", tag = "requests",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key twice creates one request")),
    request_body = NewRequest,
    responses(
        (status = 201, description = "Created", body = Request),
        (status = 200, description = "It was there already, under this idempotency key", body = Request),
        (status = 409, description = "The key was used for another request (`conflict`)"),
    )
)]
pub async fn create_request(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    headers: HeaderMap,
    Json(new): Json<NewRequest>,
) -> Result<impl IntoResponse, Problem> {
    let key = idempotency_key(&headers, Some(&new))?;
    let created = create(&state, &caller, vec![new], key).await?;
    let status = created_status(&created);
    let request = created.requests.into_iter().next().ok_or_else(nothing_created)?;
    Ok((status, Json(request)))
}

/// Requests to create all at once, or not at all.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// 1 to 10,000; each may wait for earlier ones by `#index`.
    pub requests: Vec<NewRequest>,
}

/// The requests of a batch.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct CreatedBatch {
    /// In the order of the batch.
    pub requests: Vec<Request>,
}

/// Creates many requests, all or none.
#[utoipa::path(
    post, path = "/v1/requests/batch", tag = "requests",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key twice creates one batch")),
    request_body = Batch,
    responses(
        (status = 201, description = "Created", body = CreatedBatch),
        (status = 200, description = "They were there already, under this idempotency key", body = CreatedBatch),
        (status = 409, description = "The key was used for another batch (`conflict`)"),
    )
)]
pub async fn create_batch(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    headers: HeaderMap,
    Json(batch): Json<Batch>,
) -> Result<impl IntoResponse, Problem> {
    if batch.requests.is_empty() || batch.requests.len() > MAX_BATCH {
        return Err(Problem::invalid("requests", format!("must be 1 to {MAX_BATCH} requests"))
            .with("limit", MAX_BATCH));
    }
    let key = idempotency_key(&headers, None)?;
    let created = create(&state, &caller, batch.requests, key).await?;
    Ok((created_status(&created), Json(CreatedBatch { requests: created.requests })))
}

async fn create(
    state: &AppState,
    caller: &Caller,
    new: Vec<NewRequest>,
    key: Option<String>,
) -> Result<Created, Problem> {
    let origin = Origin { actor: caller.actor, schedule: None };
    Ok(state.requests.create(caller.tenant, &origin, new, key.as_deref()).await?)
}

fn created_status(created: &Created) -> StatusCode {
    if created.replayed { StatusCode::OK } else { StatusCode::CREATED }
}

fn nothing_created() -> Problem {
    #[derive(Debug, thiserror::Error)]
    #[error("a request was created, and none came back")]
    struct Nothing;
    Problem::internal(
        std::sync::Arc::new(Nothing) as std::sync::Arc<dyn std::error::Error + Send + Sync>
    )
}

/// The key in the header; it must not contradict the one in the body.
fn idempotency_key(
    headers: &HeaderMap,
    body: Option<&NewRequest>,
) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .map(|key| key.trim_matches('"'))
        .filter(|key| (1..=255).contains(&key.len()))
        .ok_or_else(|| {
            Problem::invalid("Idempotency-Key", "must be 1 to 255 printable characters")
        })?;
    let in_body = body.and_then(|new| new.idempotency_key.as_deref());
    if in_body.is_some_and(|in_body| in_body != key) {
        return Err(Problem::invalid("idempotency_key", "contradicts the header Idempotency-Key"));
    }
    Ok(Some(key.to_owned()))
}

/// What to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Statuses, separated by commas.
    status: Option<String>,
    /// Sent to this worker type.
    worker_type: Option<String>,
    /// Naming this skill.
    skill: Option<String>,
    /// A JSON object that the request's context must contain.
    context: Option<String>,
    /// In the tree of this request.
    root: Option<RequestId>,
    /// Created by this request.
    parent: Option<RequestId>,
    /// 1 to 100; 20 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of requests.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RequestPage {
    /// Newest first.
    pub items: Vec<Request>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Lists requests, newest first.
#[utoipa::path(
    get, path = "/v1/requests", tag = "requests", params(ListQuery),
    responses((status = 200, description = "A page", body = RequestPage))
)]
pub async fn list_requests(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Query(query): Query<ListQuery>,
) -> Result<Json<RequestPage>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    let mut filter = filter(query)?;
    // One more than asked for tells whether there is another page.
    filter.limit = limit + 1;
    let mut items = state.requests.list(caller.tenant, &filter).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| more).map(|last| cursor::encode(last.id));
    Ok(Json(RequestPage { items, next_cursor }))
}

fn filter(query: ListQuery) -> Result<Filter, Problem> {
    let statuses = query
        .status
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| word.parse::<Status>().map_err(|message| Problem::invalid("status", message)))
        .collect::<Result<_, _>>()?;
    let context = query.context.as_deref().map(context).transpose()?;
    let before = query.cursor.as_deref().map(cursor::decode).transpose()?;
    for (field, text) in [("worker_type", &query.worker_type), ("skill", &query.skill)] {
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(Problem::invalid(field, "must not contain the character U+0000"));
        }
    }
    Ok(Filter {
        context,
        statuses,
        worker_type: query.worker_type,
        skill: query.skill,
        root: query.root,
        parent: query.parent,
        before,
        limit: 0,
    })
}

fn context(text: &str) -> Result<Value, Problem> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Problem::invalid("context", format!("is not valid JSON: {error}")))?;
    if !value.is_object() {
        return Err(Problem::invalid("context", "must be a JSON object"));
    }
    if has_nul(&value) {
        return Err(Problem::invalid("context", "must not contain the character U+0000"));
    }
    Ok(value)
}

/// Postgres keeps no U+0000. Parsed JSON is at most 128 levels deep, so recursion is safe.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

/// Shows a request, and what it and everything below it has used.
#[utoipa::path(
    get, path = "/v1/requests/{id}", tag = "requests", params(("id" = RequestId, Path)),
    responses((status = 200, description = "The request", body = RequestDetails))
)]
pub async fn get_request(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<RequestDetails>, Problem> {
    Ok(Json(state.requests.details(caller.tenant, id).await?))
}

/// Shows the tree below a request: what it created, what that created, and what all of it has used.
#[utoipa::path(
    get, path = "/v1/requests/{id}/tree", tag = "requests", params(("id" = RequestId, Path)),
    responses((status = 200, description = "The tree, as a list", body = Tree))
)]
pub async fn get_tree(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<Tree>, Problem> {
    Ok(Json(state.requests.tree(caller.tenant, id).await?))
}

/// Shows what a request ended with.
#[utoipa::path(
    get, path = "/v1/requests/{id}/result", tag = "requests", params(("id" = RequestId, Path)),
    responses(
        (status = 200, description = "The result", body = RequestResult),
        (status = 404, description = "There is no such request (`not-found`), or it is open (`result-not-ready`)"),
    )
)]
pub async fn get_request_result(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<RequestResult>, Problem> {
    Ok(Json(state.requests.result(caller.tenant, id).await?))
}

/// Shows a result, which has its request's id.
#[utoipa::path(
    get, path = "/v1/results/{id}", tag = "requests", params(("id" = RequestId, Path)),
    responses(
        (status = 200, description = "The result", body = RequestResult),
        (status = 404, description = "There is no such request (`not-found`), or it is open (`result-not-ready`)"),
    )
)]
pub async fn get_result(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<RequestResult>, Problem> {
    Ok(Json(state.requests.result(caller.tenant, id).await?))
}

/// Shows what a request waits for, and waited for.
#[utoipa::path(
    get, path = "/v1/requests/{id}/blockers", tag = "requests", params(("id" = RequestId, Path)),
    responses((status = 200, description = "Its blockers", body = inline(Items<BlockerState>)))
)]
pub async fn list_blockers(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<Items<BlockerState>>, Problem> {
    Ok(Json(Items { items: state.requests.blockers(caller.tenant, id).await? }))
}

/// The logs of a request's runs.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Logs {
    /// Its runs, those that woke it included: the last 50, oldest first.
    pub runs: Vec<RunLog>,
}

/// Shows what a request's runs have logged.
#[utoipa::path(
    get, path = "/v1/requests/{id}/logs", tag = "requests", params(("id" = RequestId, Path)),
    responses((status = 200, description = "Its runs", body = Logs))
)]
pub async fn get_logs(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<Logs>, Problem> {
    Ok(Json(Logs { runs: state.requests.logs(caller.tenant, id).await? }))
}

/// Watches a request until it has ended.
///
/// Server-sent events: `request` with the request as JSON, the first at once, then one at every
/// change of status; the stream ends after a terminal one. When it ends earlier, after an hour at
/// the latest, watch again.
#[utoipa::path(
    get, path = "/v1/requests/{id}/watch", tag = "requests", params(("id" = RequestId, Path)),
    responses((status = 200, description = "Events", content_type = "text/event-stream", body = String))
)]
pub async fn watch_request(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<RequestId>,
) -> Result<impl IntoResponse, Problem> {
    // Before it is read: so no change falls in between.
    let mut subscription = state.hub.subscribe(caller.tenant, id)?;
    let first = state.requests.get(caller.tenant, id).await?;
    let shutdown = state.shutdown.clone();
    let end = tokio::time::Instant::now() + LONGEST_WATCH;
    let events = async_stream::stream! {
        let mut shown = std::sync::Arc::new(first);
        yield event(&shown);
        while !shown.status.is_terminal() {
            let next = tokio::select! {
                next = subscription.changed() => next,
                () = shutdown.cancelled() => None,
                () = tokio::time::sleep_until(end) => None,
            };
            let Some(next) = next else { break };
            if is_change(&shown, &next) {
                yield event(&next);
                shown = next;
            }
        }
    };
    Ok(sse(events))
}

fn event(request: &Request) -> Result<Event, Infallible> {
    let event = Event::default().event("request");
    // A request always serialises; if one did not, the client would ask for it.
    Ok(event.json_data(request).unwrap_or_else(|_| Event::default().comment("unreadable")))
}

fn sse(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> impl IntoResponse {
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// Why a request is cancelled.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancellation {
    /// For people; at most 1,000 characters.
    #[serde(default)]
    reason: Option<String>,
}

/// Cancels an open request, and what depends on it.
#[utoipa::path(
    post, path = "/v1/requests/{id}/cancel", tag = "requests", params(("id" = RequestId, Path)),
    request_body(content = Option<Cancellation>),
    responses(
        (status = 200, description = "The request, cancelled", body = Request),
        (status = 409, description = "It has ended already, or is a wake-up (`conflict`)"),
    )
)]
pub async fn cancel_request(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(id): Path<RequestId>,
    OptionalJson(cancellation): OptionalJson<Cancellation>,
) -> Result<Json<Request>, Problem> {
    let reason = cancellation.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON || reason.contains('\0')) {
        let message = format!("must be at most {MAX_REASON} characters, none of them U+0000");
        return Err(Problem::invalid("reason", message));
    }
    Ok(Json(state.requests.cancel(caller.tenant, &caller.actor, id, reason).await?))
}

/// Runs a failed or cancelled request again, and revives what its end had cancelled.
#[utoipa::path(
    post, path = "/v1/requests/{id}/retry", tag = "requests", params(("id" = RequestId, Path)),
    responses(
        (status = 200, description = "The request, open again", body = Request),
        (status = 409, description = "It has not failed and was not cancelled (`conflict`)"),
    )
)]
pub async fn retry_request(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(id): Path<RequestId>,
) -> Result<Json<Request>, Problem> {
    Ok(Json(state.requests.retry(caller.tenant, &caller.actor, id).await?))
}
