//! What can go wrong with a question, in words for whoever asked or answered.

use crate::ids::QuestionId;
use crate::requests::Invalid;

/// Why something asked of a question was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum HitlError {
    /// It does not exist, or belongs to another organisation.
    #[error("there is no question {0}")]
    NotFound(QuestionId),
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Which field.
        field: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// What was asked contradicts the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// Not with the caller's role.
    #[error("{0}")]
    Forbidden(String),
    /// Postgres did not do it.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What Postgres or the connection said.
        #[source]
        source: sqlx::Error,
    },
}

impl HitlError {
    /// For `map_err`: names what was being done.
    pub(super) fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> HitlError + Copy {
        move |source| HitlError::Database { doing, source }
    }
}

impl From<Invalid> for HitlError {
    fn from(invalid: Invalid) -> Self {
        HitlError::Invalid { field: invalid.field, message: invalid.message }
    }
}
