//! Questions to people.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::hitl::{Answerer, NewQuestion, Question, QuestionFilter, QuestionStatus};
use crate::http::AppState;
use crate::http::cursor;
use crate::http::extract::{Allowed, Json, Path, Query, ReadRequests, WriteRequests};
use crate::http::problem::Problem;
use crate::ids::{QuestionId, RequestId};
use crate::requests::empty_object;
use crate::tenancy::tokens::TokenScope;

/// Questions on a page when the client does not say.
const DEFAULT_PAGE: u32 = 20;
/// Most questions on a page.
const MAX_PAGE: u32 = 100;

/// A question of a person's own.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// What is asked, in words: 1 byte to 16 KiB.
    pub question: String,
    /// The answers to choose from, each different, at most 100 of 1 to 256 characters. Any answer is
    /// taken when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// What helps to answer: a JSON object of at most 64 KiB.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub details: Value,
    /// How long it stays open, in milliseconds: a second to 30 days; 24 hours when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// The open request that shall hear the answer, as an orchestration: it is woken by it, and its
    /// end cancels the question. Nobody is woken when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
}

/// Puts a question to the people of the organisation.
#[utoipa::path(
    post, path = "/v1/hitl", tag = "questions", request_body = Ask,
    responses(
        (status = 201, description = "The question", body = Question),
        (status = 409, description = "The request that shall hear the answer has ended (`conflict`)"),
    )
)]
pub async fn ask(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Json(ask): Json<Ask>,
) -> Result<impl IntoResponse, Problem> {
    let Ask { question, options, details, expires_in_ms, request_id } = ask;
    let new = NewQuestion { question, options, details, expires_in_ms };
    let asked = state.questions.ask(caller.tenant, &caller.actor, new, request_id).await?;
    Ok((StatusCode::CREATED, Json(asked)))
}

/// What to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct QuestionQuery {
    /// Statuses, separated by commas: open, answered, expired, cancelled.
    status: Option<String>,
    /// Asked for this orchestration.
    request: Option<RequestId>,
    /// 1 to 100; 20 when absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of questions.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct QuestionPage {
    /// Newest first.
    pub items: Vec<Question>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Lists questions, newest first.
#[utoipa::path(
    get, path = "/v1/hitl", tag = "questions", params(QuestionQuery),
    responses((status = 200, description = "A page", body = QuestionPage))
)]
pub async fn list_questions(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Query(query): Query<QuestionQuery>,
) -> Result<Json<QuestionPage>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    let words = query.status.iter().flat_map(|list| list.split(',')).map(str::trim);
    let statuses = words
        .filter(|word| !word.is_empty())
        .map(str::parse::<QuestionStatus>)
        .collect::<Result<_, _>>()
        .map_err(|message| Problem::invalid("status", message))?;
    let filter = QuestionFilter {
        statuses,
        request: query.request,
        before: query.cursor.as_deref().map(cursor::decode).transpose()?,
        // One more than asked for tells whether there is another page.
        limit: limit + 1,
    };
    let mut items = state.questions.list(caller.tenant, &filter).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| more).map(|last| cursor::encode(last.id));
    Ok(Json(QuestionPage { items, next_cursor }))
}

/// Shows a question.
#[utoipa::path(
    get, path = "/v1/hitl/{id}", tag = "questions", params(("id" = QuestionId, Path)),
    responses((status = 200, description = "The question", body = Question))
)]
pub async fn get_question(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(id): Path<QuestionId>,
) -> Result<Json<Question>, Problem> {
    Ok(Json(state.questions.get(caller.tenant, id).await?))
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// One of the question's options as a string; any JSON but null, of at most 64 KiB, where there
    /// are none.
    #[schema(value_type = Object)]
    pub response: Value,
}

/// Answers an open question, once, and wakes the orchestration that it was asked for.
#[utoipa::path(
    post, path = "/v1/hitl/{id}/respond", tag = "questions", params(("id" = QuestionId, Path)),
    request_body = Answer,
    responses(
        (status = 200, description = "The question, answered", body = Question),
        (status = 403, description = "The question takes another role (`forbidden`)"),
        (status = 409, description = "It was answered, has expired or was cancelled (`conflict`)"),
    )
)]
pub async fn respond(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(id): Path<QuestionId>,
    Json(answer): Json<Answer>,
) -> Result<Json<Question>, Problem> {
    let response = &answer.response;
    let answerer =
        Answerer { role: caller.role, deploys: caller.scopes.allow(TokenScope::DeploymentsWrite) };
    let answered =
        state.questions.respond(caller.tenant, &caller.actor, answerer, id, response).await?;
    // What a person was asked before it is deployed.
    state.deployments.bell.deployments();
    Ok(Json(answered))
}
