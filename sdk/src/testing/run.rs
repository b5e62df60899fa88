//! What a run came to.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::database::Call;
use super::deployments::Change;
use super::state::State;
#[cfg(doc)]
use crate::Outcome;
use crate::bindings::eve::skill::types;
use crate::log::Level;
use crate::queue::OnFailure;
use crate::{Failure, QuestionId, RequestId, Trigger};

/// What a run came to: how it ended, what it wrote and, if it did not fail, what it asked for.
#[derive(Clone, Debug)]
pub struct Run {
    pub(super) end: Result<types::Outcome, Failure>,
    pub(super) code: Option<&'static str>,
    pub(super) triggers: Vec<Trigger>,
    pub(super) attempt: u32,
    pub(super) lines: Vec<Line>,
    pub(super) created: Vec<Created>,
    pub(super) cancelled: Vec<RequestId>,
    pub(super) reasons: Vec<Option<String>>,
    pub(super) questions: Vec<Question>,
    pub(super) timers: Vec<(String, Duration)>,
    pub(super) deployed: Vec<Change>,
    pub(super) statements: Vec<Call>,
}

impl Run {
    pub(super) fn of(state: State, end: Result<types::Outcome, (Failure, &'static str)>) -> Self {
        let (end, code) = match end {
            Ok(outcome) => (Ok(outcome), None),
            Err((failure, code)) => (Err(failure), Some(code)),
        };
        let mut triggers = vec![state.trigger];
        triggers.extend(state.additional_triggers);
        let mut run = Self {
            end,
            code,
            triggers,
            attempt: state.attempt,
            lines: state.lines,
            created: Vec::new(),
            cancelled: Vec::new(),
            reasons: Vec::new(),
            questions: Vec::new(),
            timers: Vec::new(),
            deployed: Vec::new(),
            statements: state.database.calls,
        };
        if run.end.is_ok() {
            run.created = state.created;
            (run.cancelled, run.reasons) = state.cancels.into_iter().unzip();
            (run.questions, run.timers) = (state.questions, state.timers);
            run.deployed = state.changes;
        }
        run
    }

    /// What it was run for.
    pub fn triggers(&self) -> &[Trigger] {
        &self.triggers
    }

    /// The statements that it sent to its schemas, in order, however it ended.
    pub fn statements(&self) -> &[Call] {
        &self.statements
    }

    /// Which attempt it was, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The platform's word for how it failed, such as `failed`, `trapped`, `output_too_large` or
    /// `nothing_to_wait_for`; none if it did not.
    pub fn code(&self) -> Option<&str> {
        self.code
    }

    /// Whether it returned [`Outcome::waiting`].
    pub fn is_waiting(&self) -> bool {
        matches!(self.end, Ok(types::Outcome::Waiting(_)))
    }

    /// How long it is willing to wait, if it waits and says so.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.end {
            Ok(types::Outcome::Waiting(wait)) => wait.deadline.map(Duration::from_millis),
            _ => None,
        }
    }

    /// The summary that it completed with.
    ///
    /// # Panics
    /// When it did not complete.
    #[track_caller]
    pub fn summary(&self) -> &str {
        &self.completed().summary
    }

    /// The data that it completed with.
    ///
    /// # Panics
    /// When it did not complete, or without data, or when the data is of another shape.
    #[track_caller]
    pub fn output<T: DeserializeOwned>(&self) -> T {
        match self.completed().data.as_deref().map(serde_json::from_str) {
            Some(Ok(data)) => data,
            Some(Err(error)) => panic!("the run's data is of another shape: {error}"),
            None => panic!("the run completed without data"),
        }
    }

    /// Language-model tokens that it says it used.
    ///
    /// # Panics
    /// When it did not complete.
    #[track_caller]
    pub fn tokens(&self) -> Option<u64> {
        self.completed().tokens_used
    }

    /// Dollars that it says it cost.
    ///
    /// # Panics
    /// When it did not complete.
    #[track_caller]
    pub fn cost(&self) -> Option<f64> {
        self.completed().cost
    }

    /// How it failed.
    ///
    /// # Panics
    /// When it did not fail.
    #[track_caller]
    pub fn failure(&self) -> &Failure {
        match &self.end {
            Err(failure) => failure,
            Ok(end) => panic!("the run did not fail but ended with {end:?}"),
        }
    }

    /// The lines that it wrote to its log.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The requests that it created, in order; none if it failed.
    pub fn created(&self) -> &[Created] {
        &self.created
    }

    /// The requests that it cancelled, in order; none if it failed.
    pub fn cancelled(&self) -> &[RequestId] {
        &self.cancelled
    }

    /// Why it cancelled a request: the reason that it gave, if it gave one.
    ///
    /// # Panics
    /// When it did not cancel that request.
    #[track_caller]
    pub fn reason(&self, cancelled: &RequestId) -> Option<&str> {
        match self.cancelled.iter().position(|id| id == cancelled) {
            Some(place) => self.reasons[place].as_deref(),
            None => panic!("the run did not cancel {cancelled}"),
        }
    }

    /// The questions that it put to people, in order; none if it failed.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// The timers that it set, each with its name and after how long it goes off; none if it failed.
    pub fn timers(&self) -> &[(String, Duration)] {
        &self.timers
    }

    /// The changes of deployments that it asked for, in order; none if it failed.
    pub fn deployed(&self) -> &[Change] {
        &self.deployed
    }

    #[track_caller]
    fn completed(&self) -> &types::Output {
        match &self.end {
            Ok(types::Outcome::Completed(output)) => output,
            Ok(types::Outcome::Waiting(_)) => panic!("the run did not complete, it waits"),
            Err(failure) => panic!("the run did not complete but failed: {failure}"),
        }
    }
}

/// A line of a run's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The text.
    pub message: String,
    /// Name-value pairs that belong to it.
    pub fields: Vec<(String, String)>,
}

/// A question that a run put to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The id that the run was given for it.
    pub id: QuestionId,
    /// What is asked.
    pub text: String,
    /// The answers to choose from; any answer if there are none.
    pub options: Vec<String>,
    /// What helps to answer.
    pub details: Value,
    /// How long it stays open, if the run said so.
    pub expires_in: Option<Duration>,
}

/// A request that a run created.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    /// The id that the run was given for it.
    pub id: RequestId,
    /// The pool that is to run it.
    pub worker_type: String,
    /// The skill that it names.
    pub skill: Option<String>,
    /// What is wanted, in words.
    pub prompt: String,
    /// What is wanted, for programs.
    pub context: Value,
    /// The repository that it is about.
    pub repo_url: Option<String>,
    /// The branch that it is about.
    pub branch: Option<String>,
    /// Settings for the skill.
    pub config: Value,
    /// Labels.
    pub metadata: Value,
    /// What it waits for; entries of a batch stand here with the ids that they were given.
    pub blocked_by: Vec<(RequestId, OnFailure)>,
    /// Whether its end wakes the orchestrator.
    pub reply_to_me: bool,
    /// Whether it goes on when the orchestrator ends.
    pub detached: bool,
    /// Earliest start, counted from the commit.
    pub delay: Option<Duration>,
    /// -100 to 100, lower first.
    pub priority: i16,
    /// How many times a retryable failure is tried in all.
    pub max_attempts: u16,
    /// Wall-clock limit of a run.
    pub timeout: Option<Duration>,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
}
