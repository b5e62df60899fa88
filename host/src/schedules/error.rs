//! What can go wrong with a schedule, in words for whoever sent it.

use crate::requests::{Invalid, RequestError};

/// Why something asked of a schedule was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// It does not exist, or belongs to another organisation.
    #[error("there is no schedule `{0}`")]
    NotFound(String),
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Where, as a path: `cron`, `request.worker_type`.
        field: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// What was asked contradicts the state that things are in.
    #[error("{0}")]
    Conflict(String),
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

impl ScheduleError {
    /// For `map_err`: names what was being done.
    pub(super) fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> ScheduleError + Copy {
        move |source| ScheduleError::Database { doing, source }
    }

    /// What is wrong with the request that a schedule shall create.
    pub(super) fn of_template(error: RequestError) -> ScheduleError {
        match error {
            RequestError::Invalid { field, message } => {
                ScheduleError::Invalid { field: format!("request.{field}"), message }
            }
            RequestError::Database { doing, source } => ScheduleError::Database { doing, source },
            other => ScheduleError::Conflict(other.to_string()),
        }
    }
}

impl From<Invalid> for ScheduleError {
    fn from(invalid: Invalid) -> Self {
        ScheduleError::Invalid { field: invalid.field, message: invalid.message }
    }
}
