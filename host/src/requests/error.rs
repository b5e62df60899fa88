//! What can go wrong with a request, in words for whoever sent it.

use crate::ids::RequestId;

/// Why something asked of a request was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It does not exist, or belongs to another organisation.
    #[error("there is no request {0}")]
    NotFound(RequestId),
    /// It exists and is still open, so it has no result.
    #[error("request {0} has not ended yet")]
    Open(RequestId),
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Where, as a path: `worker_type`, `requests[3].blocked_by`.
        field: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// What was asked contradicts the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// A run returned `waiting`, and nothing could wake it.
    #[error("the skill returned `waiting`, but nothing that could wake it is outstanding")]
    NothingToWaitFor,
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

impl RequestError {
    /// For `map_err`: names what was being done.
    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> RequestError {
        move |source| RequestError::Database { doing, source }
    }
}
