//! Why something asked of a schema was not done.

use super::values::{TooMuch, Unfit};

/// Why something asked of a schema was not done. The texts are for the author of the statement.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Malformed, or not allowed here.
    #[error("{0}")]
    Invalid(String),
    /// Not granted, or not approved.
    #[error("{0}")]
    Denied(String),
    /// There is no such schema.
    #[error("there is no schema `{0}` in this organisation; it is made when a skill first uses it")]
    NotFound(String),
    /// Postgres refused a statement.
    #[error("{0}")]
    Sql(Box<SqlError>),
    /// Too many rows or bytes, too long, too much at once.
    #[error("{0}")]
    Limit(String),
    /// Another number of rows than was expected.
    #[error("{0}")]
    RowCount(String),
    /// What was migrated does not fit what is there.
    #[error("{0}")]
    Migration(String),
    /// The run that asks is not its worker's any more.
    #[error("this run has lost its lease: it was cancelled, or given up for dead")]
    LeaseLost,
    /// Not to be had just now. What was asked for may or may not have been done.
    #[error("{doing}: the skills database cannot answer just now")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What was in the way; for the log.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The platform's own database.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What Postgres or the connection said.
        #[source]
        source: sqlx::Error,
    },
}

/// What Postgres said of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlError {
    /// SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The character at which it was found out, from 1.
    pub position: Option<u32>,
    /// Which statement, from 0.
    pub statement: u32,
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl SchemaError {
    pub(super) fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> SchemaError + Copy {
        move |source| SchemaError::Database { doing, source }
    }

    pub(super) fn unavailable(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> SchemaError {
        SchemaError::Unavailable { doing, source: source.into() }
    }

    /// What a client of the skills server reports about statement number `statement`.
    pub(super) fn of_client(
        doing: &'static str,
        error: tokio_postgres::Error,
        statement: usize,
    ) -> SchemaError {
        use std::error::Error as _;
        let Some(said) = error.as_db_error() else {
            let source = error.source();
            if let Some(much) = source.and_then(|source| source.downcast_ref::<TooMuch>()) {
                return SchemaError::Limit(much.to_string());
            }
            return match source.and_then(|source| source.downcast_ref::<Unfit>()) {
                Some(unfit) => SchemaError::Invalid(unfit.to_string()),
                None => SchemaError::unavailable(doing, error),
            };
        };
        let code = said.code().code();
        // The server is going down, full, or was told to end this session by somebody else.
        // 08P01 is what a wrong number of parameters is, and the author's own.
        let connection = code.starts_with("08") && code != "08P01";
        if code.starts_with("57P") || connection || ["53300", "3D000"].contains(&code) {
            return SchemaError::unavailable(doing, error);
        }
        if code == "57014" {
            return SchemaError::Limit(
                "the statement took longer than it may, and was stopped".into(),
            );
        }
        let position = match said.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(position)) => Some(*position),
            _ => None,
        };
        SchemaError::Sql(Box::new(SqlError {
            code: code.to_owned(),
            message: said.message().to_owned(),
            detail: said.detail().map(str::to_owned),
            hint: said.hint().map(str::to_owned),
            constraint: said.constraint().map(str::to_owned),
            position,
            statement: statement as u32,
        }))
    }
}
