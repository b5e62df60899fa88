//! What crosses between guest and queue: the types of `wit/skill.wit` to and from ours.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::run::OwnView;
use super::{CallError, QueueError, QueueFilter};
use crate::hitl::{self, NewQuestion};
use crate::ids::RequestId;
use crate::requests::validate;
use crate::requests::{
    Blocker, NewRequest, OnFailure, ReplyTo, RequestResult, Status, empty_object,
};
use crate::runtime::bindings::eve::skill::queue as wit;
use crate::runtime::bindings::eve::skill::types;
use crate::runtime::capabilities::log::storable;
use crate::runtime::context::Context;
use crate::runtime::limits;

pub(super) fn own_info(id: RequestId, request: &NewRequest, view: &OwnView) -> wit::Info {
    wit::Info {
        id: id.to_string(),
        worker_type: request.worker_type.clone(),
        skill: request.skill.clone(),
        status: guest_status(view.status),
        prompt: request.prompt.clone(),
        context: request.context.to_string(),
        metadata: request.metadata.to_string(),
        attempt: 0,
        created_at: timestamp(view.created_at),
    }
}

pub(super) fn info_bytes(info: &wit::Info) -> usize {
    info.prompt.len() + info.context.len() + info.metadata.len()
}

/// What a child is to the limit of an answer.
pub(super) fn child_bytes(child: &wit::Child) -> usize {
    let ended = child.ended.as_ref().map_or(0, |ended| {
        let output = ended
            .output
            .as_ref()
            .map_or(0, |output| output.summary.len() + output.data.as_ref().map_or(0, String::len));
        output + ended.problem.as_ref().map_or(0, |problem| problem.message.len())
    });
    info_bytes(&child.request) + ended
}

pub(super) fn ended(result: RequestResult) -> wit::Ended {
    let completed = result.status == Status::Completed;
    wit::Ended {
        request_id: result.request_id.to_string(),
        status: guest_status(result.status),
        output: completed.then(|| types::Output {
            summary: result.summary.unwrap_or_default(),
            data: result.data.map(|data| data.to_string()),
            tokens_used: result.tokens_used.and_then(|tokens| tokens.try_into().ok()),
            cost: result.cost,
        }),
        problem: result
            .error
            .map(|error| wit::Problem { code: error.code, message: error.message }),
        finished_at: timestamp(result.finished_at),
    }
}

/// How a request ends that this run has cancelled.
pub(super) fn cancelled(id: RequestId) -> wit::Ended {
    wit::Ended {
        request_id: id.to_string(),
        status: types::Status::Cancelled,
        output: None,
        problem: Some(wit::Problem {
            code: "cancelled".into(),
            message: "cancelled by this run, when it commits".into(),
        }),
        finished_at: timestamp(Utc::now()),
    }
}

pub(super) fn timestamp(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}

pub(crate) fn guest_status(status: Status) -> types::Status {
    match status {
        Status::Scheduled => types::Status::Scheduled,
        Status::Blocked => types::Status::Blocked,
        Status::Pending => types::Status::Pending,
        Status::Claimed => types::Status::Claimed,
        Status::Processing => types::Status::Processing,
        Status::Waiting => types::Status::Waiting,
        Status::Completed => types::Status::Completed,
        Status::Failed => types::Status::Failed,
        Status::Cancelled => types::Status::Cancelled,
    }
}

fn host_status(status: types::Status) -> Status {
    match status {
        types::Status::Scheduled => Status::Scheduled,
        types::Status::Blocked => Status::Blocked,
        types::Status::Pending => Status::Pending,
        types::Status::Claimed => Status::Claimed,
        types::Status::Processing => Status::Processing,
        types::Status::Waiting => Status::Waiting,
        types::Status::Completed => Status::Completed,
        types::Status::Failed => Status::Failed,
        types::Status::Cancelled => Status::Cancelled,
    }
}

pub(super) fn guest_on_failure(on_failure: OnFailure) -> types::OnFailure {
    match on_failure {
        OnFailure::Cancel => types::OnFailure::Cancel,
        OnFailure::Run => types::OnFailure::Run,
        OnFailure::Hold => types::OnFailure::Hold,
    }
}

fn host_on_failure(on_failure: types::OnFailure) -> OnFailure {
    match on_failure {
        types::OnFailure::Cancel => OnFailure::Cancel,
        types::OnFailure::Run => OnFailure::Run,
        types::OnFailure::Hold => OnFailure::Hold,
    }
}

fn id(field: &str, text: &str) -> Result<RequestId, QueueError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        QueueError::Invalid(format!("{field}: `{}` is not a request id", shown.escape_debug()))
    })
}

/// JSON text of a guest as a value. Its size is checked before it is parsed.
fn parse(field: &str, text: Option<String>, bytes: usize) -> Result<Value, QueueError> {
    let Some(text) = text else { return Ok(empty_object()) };
    if text.len() > bytes {
        return Err(QueueError::Invalid(format!(
            "{field}: {} bytes; at most {bytes} are allowed",
            text.len()
        )));
    }
    serde_json::from_str(&text)
        .map_err(|error| QueueError::Invalid(format!("{field}: not valid JSON: {error}")))
}

fn new_request(request: wit::NewRequest) -> Result<NewRequest, QueueError> {
    if request.blocked_by.len() > validate::BLOCKERS {
        return Err(QueueError::Invalid(format!(
            "blocked_by: at most {} requests are allowed",
            validate::BLOCKERS
        )));
    }
    let blocked_by = request
        .blocked_by
        .into_iter()
        .map(|blocker| {
            let on = if blocker.id.len() > 64 {
                Err(QueueError::Invalid("blocked_by: an id is longer than an id can be".into()))
            } else {
                blocker.id.parse().map_err(QueueError::Invalid)
            };
            Ok(Blocker { on: on?, on_failure: host_on_failure(blocker.on_failure) })
        })
        .collect::<Result<_, QueueError>>()?;
    Ok(NewRequest {
        worker_type: request.worker_type,
        skill: request.skill,
        prompt: request.prompt,
        context: parse("context", request.context, validate::CONTEXT_BYTES)?,
        repo_url: request.repo_url,
        branch: request.branch,
        config: parse("config", request.config, validate::SETTINGS_BYTES)?,
        metadata: parse("metadata", request.metadata, validate::SETTINGS_BYTES)?,
        blocked_by,
        reply_to: request.reply_to_me.then_some(ReplyTo::Orchestrator { request_id: None }),
        detached: request.detached,
        delay_ms: request.delay,
        priority: request.priority.unwrap_or(0),
        max_attempts: request.max_attempts,
        timeout_ms: request.timeout,
        idempotency_key: request.idempotency_key,
    })
}

fn new_question(question: wit::Question) -> Result<NewQuestion, QueueError> {
    Ok(NewQuestion {
        question: question.text,
        options: question.options,
        details: parse("details", question.details, hitl::validate::DETAILS_BYTES)?,
        expires_in_ms: question.expires_in,
    })
}

fn new_filter(filter: wit::Filter) -> Result<QueueFilter, QueueError> {
    let limit = filter.limit.unwrap_or(20);
    if limit == 0 || limit as usize > limits::LIST {
        return Err(QueueError::Invalid(format!(
            "limit: {limit} is not between 1 and {}",
            limits::LIST
        )));
    }
    if let Some(worker_type) = &filter.worker_type {
        validate::name("worker_type", worker_type)?;
    }
    let context = match filter.context {
        None => None,
        given => {
            let value = parse("context", given, validate::SETTINGS_BYTES)?;
            validate::object("context", &value, validate::SETTINGS_BYTES)?;
            Some(value)
        }
    };
    let mut statuses: Vec<Status> = Vec::new();
    for status in filter.statuses.into_iter().map(host_status) {
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    let before = filter.before.map(|text| id("before", &text)).transpose()?;
    Ok(QueueFilter { context, statuses, worker_type: filter.worker_type, limit, before })
}

/// Turns what became of a call into what the bindings want: an answer, an error for the guest, or
/// the end of the run.
fn answer<T>(outcome: Result<T, CallError>) -> wasmtime::Result<Result<T, types::Error>> {
    let error = match outcome {
        Ok(answer) => return Ok(Ok(answer)),
        Err(CallError::Ours(failure)) => return Err(failure.into()),
        Err(CallError::Guest(error)) => error,
    };
    if let QueueError::Unavailable(source) = &error {
        tracing::warn!(
            error = source.as_ref() as &dyn std::error::Error,
            "a guest's queue call failed"
        );
    }
    let text = storable(&error.to_string());
    Ok(Err(match error {
        QueueError::Invalid(_) => types::Error::Invalid(text),
        QueueError::NotFound(_) => types::Error::NotFound(text),
        QueueError::Conflict(_) => types::Error::Conflict(text),
        QueueError::Limit(_) => types::Error::Limit(text),
        QueueError::Denied(_) => types::Error::Denied(text),
        QueueError::Unavailable(_) => types::Error::Unavailable(text),
    }))
}

type Call<T> = wasmtime::Result<Result<T, types::Error>>;

impl wit::Host for Context {
    async fn create(&mut self, request: wit::NewRequest) -> Call<String> {
        let run = self.job.id;
        answer(
            async {
                let ids = self.queue.create(vec![new_request(request)?], run).await?;
                Ok(ids[0].to_string())
            }
            .await,
        )
    }

    async fn create_many(&mut self, requests: Vec<wit::NewRequest>) -> Call<Vec<String>> {
        let run = self.job.id;
        answer(
            async {
                let requests = requests
                    .into_iter()
                    .map(new_request)
                    .collect::<Result<Vec<_>, QueueError>>()?;
                let ids = self.queue.create(requests, run).await?;
                Ok(ids.iter().map(RequestId::to_string).collect())
            }
            .await,
        )
    }

    async fn get(&mut self, text: String) -> Call<wit::Info> {
        answer(async { self.queue.get(id("id", &text)?).await }.await)
    }

    async fn result(&mut self, text: String) -> Call<Option<wit::Ended>> {
        answer(async { self.queue.result(id("id", &text)?).await }.await)
    }

    async fn list(&mut self, filter: wit::Filter) -> Call<Vec<wit::Info>> {
        answer(async { self.queue.list(new_filter(filter)?).await }.await)
    }

    async fn children(&mut self, of: String) -> Call<Vec<wit::Child>> {
        let run = self.job.id;
        answer(async { self.queue.children(id("of", &of)?, run).await }.await)
    }

    async fn blockers(&mut self, of: String) -> Call<Vec<wit::Blocking>> {
        answer(async { self.queue.blockers(id("of", &of)?).await }.await)
    }

    async fn cancel(&mut self, text: String, reason: Option<String>) -> Call<()> {
        let run = self.job.id;
        answer(async { self.queue.cancel(id("id", &text)?, reason, run).await }.await)
    }

    fn ask(&mut self, question: wit::Question) -> Call<String> {
        answer(
            new_question(question)
                .map_err(CallError::from)
                .and_then(|question| self.queue.ask_people(question))
                .map(|id| id.to_string()),
        )
    }

    fn wake_after(&mut self, delay: u64, name: String) -> Call<()> {
        answer(self.queue.wake_after(Duration::from_millis(delay), name))
    }
}
