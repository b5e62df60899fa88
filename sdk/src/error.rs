//! Why a call to the platform did not do what was asked.

use std::fmt;

use crate::bindings::eve::skill::types;

/// Why a call to the platform did not do what was asked. The text says what was wrong.
///
/// With `?` it becomes a [`Failure`](crate::Failure): a retryable one where trying again may help
/// ([`Unavailable`](Error::Unavailable), [`Other`](Error::Other)), else a permanent one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument is malformed, too long or out of range.
    Invalid(String),
    /// It does not exist, or belongs to someone else.
    NotFound(String),
    /// What was asked contradicts the state that things are in.
    Conflict(String),
    /// The run's quota of this is used up.
    Limit(String),
    /// The capability is there, but not for this.
    Denied(String),
    /// The platform could not answer just now.
    Unavailable(String),
    /// Something that this version does not know by a case of its own.
    Other(String),
}

impl Error {
    /// Whether the same call may succeed in another attempt.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::Other(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(text) => write!(f, "invalid: {text}"),
            Error::NotFound(text) => write!(f, "not found: {text}"),
            Error::Conflict(text) => write!(f, "conflict: {text}"),
            Error::Limit(text) => write!(f, "limit reached: {text}"),
            Error::Denied(text) => write!(f, "denied: {text}"),
            Error::Unavailable(text) => write!(f, "unavailable: {text}"),
            Error::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        match error {
            types::Error::Invalid(text) => Error::Invalid(text),
            types::Error::NotFound(text) => Error::NotFound(text),
            types::Error::Conflict(text) => Error::Conflict(text),
            types::Error::Limit(text) => Error::Limit(text),
            types::Error::Denied(text) => Error::Denied(text),
            types::Error::Unavailable(text) => Error::Unavailable(text),
            types::Error::Other(text) => Error::Other(text),
        }
    }
}
