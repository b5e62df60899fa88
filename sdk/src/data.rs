//! JSON that came from outside the skill, read into the skill's own types.

use std::fmt;

use serde::de::DeserializeOwned;

/// Why a context, an output or other JSON could not be read into the type that was asked for.
///
/// With `?` it becomes a permanent [`Failure`](crate::Failure): it will be the same next time.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataError {
    /// There is none, such as the data of a request that failed.
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// It is not of the expected shape.
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::Missing { what } => write!(f, "there is no {what}"),
            DataError::Malformed { what, .. } => {
                write!(f, "the {what} is not of the expected shape")
            }
        }
    }
}

impl std::error::Error for DataError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DataError::Missing { .. } => None,
            DataError::Malformed { source, .. } => Some(source),
        }
    }
}

/// Reads JSON text; `what` names it in the error.
pub(crate) fn read<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, DataError> {
    serde_json::from_str(text).map_err(|source| DataError::Malformed { what, source })
}
