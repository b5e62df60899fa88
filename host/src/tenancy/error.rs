//! What can go wrong with organisations, members and tokens, in words for whoever asked.

/// Why something asked of an organisation was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TenancyError {
    /// It does not exist, or belongs to another organisation.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// `organisation`, `member`, `token`.
        what: &'static str,
        /// As it was asked for.
        name: String,
    },
    /// The caller's role in their own organisation does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Which field.
        field: &'static str,
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

impl TenancyError {
    /// For `map_err`: names what was being done.
    pub(crate) fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> TenancyError + Copy {
        move |source| TenancyError::Database { doing, source }
    }
}
