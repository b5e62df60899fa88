//! What a request is made of, as clients send it and as they see it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::ids::{RequestId, UserId, WorkerId};

/// Where a request stands. The same words stand in the CHECK of `eve.queue` and in
/// `eve.orchestration_requests.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Status {
    /// Waits for its time: a delay, or the back-off before another attempt.
    Scheduled,
    /// Waits for other requests to end.
    Blocked,
    /// Claimable now.
    Pending,
    /// Taken by a worker, not started yet.
    Claimed,
    /// Running.
    Processing,
    /// An orchestrator that has returned and will be woken.
    Waiting,
    /// Ended with an output.
    Completed,
    /// Ended: attempts used up, or failed for good.
    Failed,
    /// Ended: cancelled itself, or by the end of something it depended on.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a request's life.
    pub const ALL: [Status; 9] = [
        Status::Scheduled,
        Status::Blocked,
        Status::Pending,
        Status::Claimed,
        Status::Processing,
        Status::Waiting,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
    ];

    /// Whether nothing can happen to the request any more, short of a retry.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }

    /// The word in the database, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Blocked => "blocked",
            Status::Pending => "pending",
            Status::Claimed => "claimed",
            Status::Processing => "processing",
            Status::Waiting => "waiting",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Status::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
            format!("`{text}` is not a status; the statuses are {}", known.join(", "))
        })
    }
}

/// What becomes of a dependent when its blocker fails or is cancelled.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OnFailure {
    /// It is cancelled too, and so on down its own dependents.
    #[default]
    Cancel,
    /// It starts anyway.
    Run,
    /// It stays blocked until the blocker is retried and succeeds; 24 hours at most.
    Hold,
}

/// What a request waits for: an existing request of the same organisation, or an earlier entry of
/// the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockerRef {
    /// A request that exists.
    Id(RequestId),
    /// The entry of the batch with this index, counted from 0; written `#0`, `#1`, … in JSON.
    Entry(usize),
}

/// One edge of the graph, as it is asked for. In JSON either just the id (or `#index`), or
/// `{"id": …, "on_failure": "cancel" | "run" | "hold"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The request to wait for.
    pub on: BlockerRef,
    /// What happens when it fails or is cancelled.
    pub on_failure: OnFailure,
}

/// Who is told when a request ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReplyTo {
    /// An orchestration is woken.
    Orchestrator {
        /// Which: an open request of the organisation, whose child the new request becomes. Inside a
        /// run it is absent: the run's own orchestration is meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<RequestId>,
    },
}

/// A request to create. Only `worker_type` is required.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRequest {
    /// The pool that runs it, such as `general`.
    pub worker_type: String,
    /// The skill to run; the worker type's default skill when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skill: Option<String>,
    /// What is wanted, in words. At most 256 KiB.
    #[serde(default)]
    pub prompt: String,
    /// What is wanted, for programs: a JSON object of at most 1 MiB.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub context: Value,
    /// The repository that the request is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    /// The branch that the request is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Settings for the skill: a JSON object of at most 64 KiB.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub config: Value,
    /// Labels: a JSON object of at most 64 KiB.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// Requests that must end first, at most 10,000: ids, `#index` of an earlier entry of the same
    /// batch, or objects `{"id": …, "on_failure": …}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<BlockerJson>)]
    pub blocked_by: Vec<Blocker>,
    /// Who is told when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyTo>,
    /// Whether it goes on when the orchestrator that created it completes.
    #[serde(default)]
    pub detached: bool,
    /// Earliest start, in milliseconds from now; at most 365 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// -100 to 100, lower first, among the requests of one organisation.
    #[serde(default)]
    pub priority: i16,
    /// How many times a retryable failure is tried in all, 1 to 25; 3 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    /// Wall-clock limit of one run in milliseconds, 100 to 86,400,000; the worker type's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The same key twice creates one request; at most 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `{}`.
pub fn empty_object() -> Value {
    Value::Object(Default::default())
}

/// How a blocker is written in JSON.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BlockerJson {
    /// An id, or `#index`.
    Plain(String),
    /// With a policy.
    WithPolicy {
        /// An id, or `#index`.
        id: String,
        /// What happens when it fails or is cancelled.
        #[serde(default)]
        on_failure: OnFailure,
    },
}

impl std::str::FromStr for BlockerRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || super::validate::shown(text, 64);
        match text.strip_prefix('#') {
            Some(index) => index.parse().map(BlockerRef::Entry).map_err(|_| {
                format!("blocked_by: `{}` is not `#` and the index of an earlier entry", shown())
            }),
            None => text
                .parse()
                .map(BlockerRef::Id)
                .map_err(|_| format!("blocked_by: `{}` is not a request id (a UUID)", shown())),
        }
    }
}

impl std::fmt::Display for BlockerRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BlockerRef::Id(id) => id.fmt(f),
            BlockerRef::Entry(index) => write!(f, "#{index}"),
        }
    }
}

impl<'de> Deserialize<'de> for Blocker {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, on_failure) = match BlockerJson::deserialize(deserializer)? {
            BlockerJson::Plain(id) => (id, OnFailure::default()),
            BlockerJson::WithPolicy { id, on_failure } => (id, on_failure),
        };
        let on = id.parse().map_err(serde::de::Error::custom)?;
        Ok(Blocker { on, on_failure })
    }
}

impl Serialize for Blocker {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BlockerJson::WithPolicy { id: self.on.to_string(), on_failure: self.on_failure }
            .serialize(serializer)
    }
}

/// A request as members of its organisation see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// Where it stands.
    pub status: Status,
    /// The pool that runs it.
    pub worker_type: String,
    /// The skill it names; none means the worker type's default.
    pub skill: Option<String>,
    /// What is wanted, in words.
    pub prompt: String,
    /// What is wanted, for programs.
    #[schema(value_type = Object)]
    pub context: Value,
    /// The repository that it is about.
    pub repo_url: Option<String>,
    /// The branch that it is about.
    pub branch: Option<String>,
    /// Settings for the skill.
    #[schema(value_type = Object)]
    pub config: Value,
    /// Labels.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// -100 to 100, lower first.
    pub priority: i16,
    /// How many times a retryable failure is tried in all.
    pub max_attempts: i16,
    /// Wall-clock limit of one run in milliseconds; none means the worker type's.
    pub timeout_ms: Option<i64>,
    /// Attempts begun in this generation; 0 before the first.
    pub attempt: i16,
    /// 1, and one more for every retry of the finished request.
    pub generation: i32,
    /// When a scheduled request becomes pending.
    pub run_at: Option<DateTime<Utc>>,
    /// Blockers that still hold it back.
    pub open_blockers: i32,
    /// The worker that has it.
    pub worker_id: Option<WorkerId>,
    /// The request that created it.
    pub parent_request_id: Option<RequestId>,
    /// The first ancestor.
    pub root_request_id: RequestId,
    /// The user on whose behalf it runs.
    pub user_id: Option<UserId>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was claimed last.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it failed or was cancelled.
    pub error: Option<Problem>,
    /// What its result says in words.
    pub summary: Option<String>,
}

/// Why a request failed or was cancelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A word for programs: see [`FailureCode`], or `cancelled`, `blocker_failed`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// What a request ended with. Written once per generation, never changed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestResult {
    /// The request, whose id is the result's too.
    pub request_id: RequestId,
    /// `completed`, `failed` or `cancelled`.
    pub status: Status,
    /// The request's generation that ended so.
    pub generation: i32,
    /// A line or a short text for people.
    pub summary: Option<String>,
    /// A JSON value for programs.
    #[schema(value_type = Object)]
    pub data: Option<Value>,
    /// Why it failed or was cancelled.
    pub error: Option<Problem>,
    /// Language-model tokens that the run says it used.
    pub tokens_used: Option<i64>,
    /// US dollars that the run says it cost.
    pub cost: Option<f64>,
    /// The attempt that ended it.
    pub attempt: i16,
    /// When that attempt began; none if it never ran.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Wall-clock time of the last run in microseconds.
    pub duration_us: Option<i64>,
    /// CPU time of the last run in microseconds.
    pub cpu_us: Option<i64>,
    /// Most memory that the last run had at one time, in bytes.
    pub memory_peak_bytes: Option<i64>,
}

/// What a request waits for, as it stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BlockerState {
    /// The blocker.
    pub id: RequestId,
    /// Where the blocker stands.
    pub status: Status,
    /// What happens when it fails or is cancelled.
    pub on_failure: OnFailure,
    /// Whether it still holds the dependent back.
    pub open: bool,
    /// Why it holds, where that is not plain from its status: `held` after a failure.
    pub reason: Option<String>,
}

/// One line of a run's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was written.
    pub at: DateTime<Utc>,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub message: String,
    /// Name-value pairs that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

/// The log of one run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunLog {
    /// The request that ran: the one that was asked for, or a wake-up of it.
    pub request_id: RequestId,
    /// The request's generation.
    pub generation: i32,
    /// The attempt, from 1.
    pub attempt: i16,
    /// Its lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines dropped because the run wrote more than is kept.
    pub dropped: i64,
}

/// Why the platform, not the skill, ended a run. The words are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// The skill itself reported a failure.
    Failed,
    /// The guest trapped: a panic, an unreachable instruction, an access out of bounds.
    Trapped,
    /// Wall-clock time used up.
    TimedOut,
    /// CPU time used up.
    CpuExhausted,
    /// A growth of memory or tables past the limit was refused, and the guest gave up.
    MemoryExhausted,
    /// The guest's stack overflowed.
    StackOverflow,
    /// The output was larger than is kept.
    OutputTooLarge,
    /// The output was not valid: not JSON, a negative cost, U+0000.
    OutputInvalid,
    /// What the run asked for could not be committed.
    EffectsInvalid,
    /// The run returned `waiting` while nothing was outstanding that could wake it.
    NothingToWaitFor,
    /// An orchestration was not woken within the time that it was willing to wait.
    WaitTimedOut,
    /// The request names no skill that exists, or the worker type has no default.
    SkillNotFound,
    /// The skill imports what it is not granted any more.
    NotGranted,
    /// The skill could not be loaded or started.
    SkillUnloadable,
    /// Worker after worker died while running it.
    WorkerLost,
    /// The worker had no room for the run's memory; tried again elsewhere.
    OutOfCapacity,
    /// A bug or an outage of ours.
    Internal,
}

impl FailureCode {
    /// The word in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureCode::Failed => "failed",
            FailureCode::Trapped => "trapped",
            FailureCode::TimedOut => "timed_out",
            FailureCode::CpuExhausted => "cpu_exhausted",
            FailureCode::MemoryExhausted => "memory_exhausted",
            FailureCode::StackOverflow => "stack_overflow",
            FailureCode::OutputTooLarge => "output_too_large",
            FailureCode::OutputInvalid => "output_invalid",
            FailureCode::EffectsInvalid => "effects_invalid",
            FailureCode::NothingToWaitFor => "nothing_to_wait_for",
            FailureCode::WaitTimedOut => "wait_timed_out",
            FailureCode::SkillNotFound => "skill_not_found",
            FailureCode::NotGranted => "not_granted",
            FailureCode::SkillUnloadable => "skill_unloadable",
            FailureCode::WorkerLost => "worker_lost",
            FailureCode::OutOfCapacity => "out_of_capacity",
            FailureCode::Internal => "internal",
        }
    }
}
