//! Questions to people.

use std::time::Duration;

use serde::Serialize;

use crate::bindings::eve::skill::queue as contract;
use crate::error::Error;
use crate::platform::{self, milliseconds};
use crate::request::QuestionId;

/// Begins a question to the people of the organisation. What becomes of it wakes this request: a
/// [`Trigger::HitlResponse`](crate::Trigger::HitlResponse), which holds no response if nobody
/// answered in time.
///
/// ```
/// use eve_sdk::prelude::*;
/// use std::time::Duration;
///
/// fn run(request: Request) -> Result<Outcome, Failure> {
///     match request.trigger() {
///         Trigger::Initial => {
///             queue::ask("Roll out to production?")
///                 .options(["yes", "no"])
///                 .details(&json!({ "image": "acme/api:v2" }))
///                 .expires_in(Duration::from_secs(3_600))
///                 .create()?;
///             Ok(Outcome::waiting())
///         }
///         Trigger::HitlResponse(answer) if answer.text().as_deref() == Some("yes") => {
///             Ok(Outcome::completed("rolled out"))
///         }
///         _ => Ok(Outcome::completed("left as it is")),
///     }
/// }
/// # let run = eve_sdk::testing::Host::new().run(run);
/// # assert!(run.is_waiting());
/// # assert_eq!(run.questions()[0].options, ["yes", "no"]);
/// ```
pub fn ask(question: impl Into<String>) -> NewQuestion {
    NewQuestion {
        fields: contract::Question {
            text: question.into(),
            options: Vec::new(),
            details: None,
            expires_in: None,
        },
        mistake: None,
    }
}

/// A question that is being put together. [`create`](NewQuestion::create) ends it; what was wrong
/// on the way is reported there.
#[derive(Clone, Debug)]
#[must_use = "a question is asked by `.create()`"]
pub struct NewQuestion {
    fields: contract::Question,
    mistake: Option<String>,
}

impl NewQuestion {
    /// One more answer to choose from: 1 to 256 characters, different from the others, 100 at most.
    /// Without options people may answer anything.
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.fields.options.push(option.into());
        self
    }

    /// More answers to choose from, as [`option`](Self::option) adds one.
    pub fn options<O: Into<String>>(mut self, options: impl IntoIterator<Item = O>) -> Self {
        self.fields.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// What helps to answer: a value that is a JSON object, at most 64 KiB of it.
    pub fn details<T: Serialize + ?Sized>(mut self, details: &T) -> Self {
        match serde_json::to_string(details) {
            Ok(text) => self.fields.details = Some(text),
            Err(error) => {
                self.mistake.get_or_insert(format!("details: cannot be written as JSON: {error}"));
            }
        }
        self
    }

    /// How long it stays open: a second to 30 days; 24 hours unless this is called.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.fields.expires_in = Some(milliseconds(time));
        self
    }

    /// Asks it, and returns its id. At most 100 in one run.
    pub fn create(self) -> Result<QuestionId, Error> {
        match self.mistake {
            Some(mistake) => Err(Error::Invalid(mistake)),
            None => Ok(platform::queue::ask(&self.fields)?.into()),
        }
    }
}
