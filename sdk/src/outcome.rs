//! How a run ends, in the skill's own words.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::bindings::eve::skill::types;
use crate::platform::milliseconds;
use crate::{DataError, Error};

/// How a run ended, when it did not fail.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// let done = Outcome::completed("3 words").data(&json!({ "words": 3 })).tokens(120).cost(0.002);
/// let later = Outcome::waiting();
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub(crate) end: types::Outcome,
    /// The first thing that was built wrongly. It fails the run when the outcome is returned.
    mistake: Option<String>,
}

impl Outcome {
    /// The request is done. `summary` is a line or a short text for people, at most 64 KiB.
    pub fn completed(summary: impl Into<String>) -> Self {
        let output =
            types::Output { summary: summary.into(), data: None, tokens_used: None, cost: None };
        Self { end: types::Outcome::Completed(output), mistake: None }
    }

    /// The request waits for what it has started, and is run again when that happens. Waiting
    /// while nothing is outstanding fails at once.
    pub fn waiting() -> Self {
        Self { end: types::Outcome::Waiting(types::Wait { deadline: None }), mistake: None }
    }

    /// The result for programs: any value that can be written as JSON, at most 1 MiB of it.
    pub fn data<T: Serialize + ?Sized>(self, data: &T) -> Self {
        match serde_json::to_string(data) {
            Ok(text) => self.output("data", |output| output.data = Some(text)),
            Err(error) => self.mistaken(format!("the data cannot be written as JSON: {error}")),
        }
    }

    /// How many language-model tokens the run used.
    pub fn tokens(self, tokens: u64) -> Self {
        self.output("tokens", |output| output.tokens_used = Some(tokens))
    }

    /// What the run cost, in US dollars; not negative, not NaN.
    pub fn cost(self, dollars: f64) -> Self {
        if dollars.is_finite() && dollars >= 0.0 {
            self.output("cost", |output| output.cost = Some(dollars))
        } else {
            self.mistaken(format!("a cost of {dollars} dollars makes no sense"))
        }
    }

    /// Fails the orchestrator if nothing wakes it for this long; 7 days unless this is called.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        match &mut self.end {
            types::Outcome::Waiting(wait) => {
                wait.deadline = Some(milliseconds(deadline));
                self
            }
            types::Outcome::Completed(_) => {
                self.mistaken("a completed outcome waits for nothing and has no deadline".into())
            }
        }
    }

    /// Whether this is [`Outcome::waiting`].
    pub fn is_waiting(&self) -> bool {
        matches!(self.end, types::Outcome::Waiting(_))
    }

    fn output(mut self, what: &str, set: impl FnOnce(&mut types::Output)) -> Self {
        match &mut self.end {
            types::Outcome::Completed(output) => {
                set(output);
                self
            }
            types::Outcome::Waiting(_) => {
                self.mistaken(format!("a waiting outcome has no {what} yet"))
            }
        }
    }

    fn mistaken(mut self, mistake: String) -> Self {
        self.mistake.get_or_insert(mistake);
        self
    }

    pub(crate) fn into_contract(self) -> Result<types::Outcome, Failure> {
        match self.mistake {
            Some(mistake) => {
                Err(Failure::Permanent(format!("the skill's outcome is wrong: {mistake}")))
            }
            None => Ok(self.end),
        }
    }
}

/// How a run failed, in the skill's own judgement.
///
/// Errors of the SDK and of `serde_json` turn into one with `?`. A panic is not a failure but a
/// trap: the platform reports it as `trapped`, with the message in the run's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Worth another attempt, if the request has any left.
    Retryable(String),
    /// Will not get better by trying again.
    Permanent(String),
}

impl Failure {
    /// Worth another attempt, if the request has any left. Nothing that this run asked for happens.
    pub fn retryable(message: impl fmt::Display) -> Self {
        Failure::Retryable(message.to_string())
    }

    /// Will not get better by trying again. Nothing that this run asked for happens.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Failure::Permanent(message.to_string())
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        match self {
            Failure::Retryable(message) | Failure::Permanent(message) => message,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_retryable() { Failure::retryable(error) } else { Failure::permanent(error) }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match &error {
            // A failure is one text, so the source has to be in it.
            DataError::Malformed { source, .. } => {
                Failure::permanent(format_args!("{error}: {source}"))
            }
            DataError::Missing { .. } => Failure::permanent(error),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Failure::permanent(error)
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retryable(message) => types::Failure::Retryable(message),
            Failure::Permanent(message) => types::Failure::Permanent(message),
        }
    }
}
