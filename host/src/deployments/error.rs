//! What can go wrong, in words for whoever asked.

use crate::requests::Invalid;
use crate::sealing::SealingError;

/// Why something asked of clusters, environments, apps or deployments was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// It does not exist, or belongs to another organisation.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// `cluster`, `environment`, `app`, `deployment`, `revision`.
        what: &'static str,
        /// As it was named.
        name: String,
    },
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Where, as a path: `replicas`, `config.port`.
        field: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// What was asked contradicts the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// There is too much of it at present.
    #[error("{0}")]
    TooMany(String),
    /// Not with the caller's role, in this environment.
    #[error("{0}")]
    Forbidden(String),
    /// The platform is not set up for it.
    #[error("{0}")]
    Unconfigured(&'static str),
    /// What is sealed does not open.
    #[error("{what}")]
    Sealed {
        /// What was to be opened.
        what: String,
        /// Why it did not.
        #[source]
        source: SealingError,
    },
    /// The cluster cannot be asked, or did not do it.
    #[error("cluster `{cluster}`: {message}")]
    Cluster {
        /// Which.
        cluster: String,
        /// What it said, or why it said nothing.
        message: String,
    },
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

impl DeployError {
    /// For `map_err`: names what was being done.
    pub(super) fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> DeployError + Copy {
        move |source| DeployError::Database { doing, source }
    }

    pub(crate) fn not_found(what: &'static str, name: &str) -> DeployError {
        DeployError::NotFound { what, name: name.chars().take(64).collect() }
    }
}

impl From<Invalid> for DeployError {
    fn from(invalid: Invalid) -> Self {
        DeployError::Invalid { field: invalid.field, message: invalid.message }
    }
}
