//! Humans in the loop: questions that runs and people put to the people of an organisation.
//!
//! Flow: a run asks through its `queue` capability, and the question is inserted by the commit that
//! ends the run ([`insert`]); a person asks through the API (`ask`). Somebody answers (`respond`), or
//! it expires (`expire`, a duty of the control plane); the orchestration that it was asked for is
//! woken by either. `read` shows questions.
//!
//! Invariants:
//! - A question is settled once: answered, expired or cancelled with the orchestration that asked.
//! - Whoever settles the question of an orchestration holds the lock of that orchestration's row,
//!   and takes it before the question's.
//! - A question without an orchestration wakes nobody; whoever wants the answer looks.

mod ask;
mod error;
pub(crate) mod expire;
mod read;
mod respond;
#[cfg(test)]
mod tests;
pub mod validate;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::Db;
use crate::ids::{QuestionId, RequestId};
use crate::notify::Bell;
use crate::tenancy::{Actor, OrgRole};

pub(crate) use ask::insert;
pub use error::HitlError;
pub use read::QuestionFilter;

/// Everything that members do with questions.
#[derive(Clone, Debug)]
pub struct Questions {
    db: Db,
    bell: Bell,
}

impl Questions {
    /// On the given database, ringing the given bell when an answer wakes somebody.
    pub fn new(db: Db, bell: Bell) -> Questions {
        Questions { db, bell }
    }
}

/// What somebody who answers may do.
#[derive(Clone, Copy, Debug)]
pub struct Answerer {
    /// Their role.
    pub role: OrgRole,
    /// Whether they may deploy: what asks whether something may be deployed takes that.
    pub deploys: bool,
}

impl From<OrgRole> for Answerer {
    fn from(role: OrgRole) -> Self {
        Answerer { role, deploys: true }
    }
}

/// A question to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewQuestion {
    /// What is asked, in words: 1 byte to 16 KiB.
    pub question: String,
    /// The answers to choose from, each different, at most 100 of 1 to 256 characters. Any answer is
    /// taken when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// What helps to answer: a JSON object of at most 64 KiB.
    #[serde(default = "crate::requests::empty_object")]
    #[schema(value_type = Object)]
    pub details: Value,
    /// How long it stays open, in milliseconds: a second to 30 days; 24 hours when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// Where a question stands. The same words stand in the CHECK of `eve.hitl_requests`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum QuestionStatus {
    /// Waits for an answer.
    Open,
    /// Somebody has answered.
    Answered,
    /// Nobody answered in time.
    Expired,
    /// The orchestration that it was asked for has ended: nobody wants to know any more.
    Cancelled,
}

impl QuestionStatus {
    /// Every status, in the order of a question's life.
    pub const ALL: [QuestionStatus; 4] = [
        QuestionStatus::Open,
        QuestionStatus::Answered,
        QuestionStatus::Expired,
        QuestionStatus::Cancelled,
    ];

    /// The word in the database, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            QuestionStatus::Open => "open",
            QuestionStatus::Answered => "answered",
            QuestionStatus::Expired => "expired",
            QuestionStatus::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for QuestionStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for QuestionStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        QuestionStatus::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
            let known = QuestionStatus::ALL.map(QuestionStatus::as_str).join(", ");
            format!("`{text}` is not a status of a question; the statuses are {known}")
        })
    }
}

/// A question as members of its organisation see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Question {
    /// Its id.
    pub id: QuestionId,
    /// Where it stands.
    pub status: QuestionStatus,
    /// What is asked, in words.
    pub question: String,
    /// The answers to choose from; any answer is taken when there are none.
    pub options: Vec<String>,
    /// What helps to answer.
    #[schema(value_type = Object)]
    pub details: Value,
    /// The orchestration that hears the answer; none if nobody is woken by it.
    pub request_id: Option<RequestId>,
    /// The least role of a member who may answer.
    pub least_role: OrgRole,
    /// What was answered: one of the options as a string, or any JSON where there were none.
    #[schema(value_type = Option<Object>)]
    pub response: Option<Value>,
    /// Who answered, and through what.
    #[schema(value_type = Option<Object>)]
    pub responded_by: Option<Actor>,
    /// Who asked: a run, or a person.
    #[schema(value_type = Object)]
    pub created_by: Actor,
    /// When it was asked.
    pub created_at: DateTime<Utc>,
    /// Until when it can be answered.
    pub expires_at: DateTime<Utc>,
    /// When it was answered, expired or was cancelled.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Who asked or answered, in words.
pub(crate) fn who(actor: &Actor) -> String {
    match actor {
        Actor::User { user } => format!("user {user}"),
        Actor::Token { token, user: Some(user) } => format!("user {user} (token {token})"),
        Actor::Token { token, user: None } => format!("token {token}"),
        Actor::Run { request, .. } => format!("request {request}"),
        Actor::Schedule { schedule, .. } => format!("schedule {schedule}"),
        Actor::Platform => "the platform".to_owned(),
    }
}
