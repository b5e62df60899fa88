//! What the fake host knows during a run, and how it answers.
//!
//! A run lives on the thread of the test that started it, so its state is a thread-local that
//! [`Installed`] puts there and takes away again, panics included.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Created, Line, Other, Question};
use crate::bindings::eve::skill::types::{Error, OnFailure, Status};
use crate::bindings::eve::skill::{queue as contract, types};
use crate::{QuestionId, RequestId, Trigger};

/// The contract's limits, as far as a test can meet them.
mod limits {
    pub const CONTEXT_BYTES: usize = 1 << 20;
    pub const SMALL_JSON_BYTES: usize = 64 << 10;
    pub const PROMPT_BYTES: usize = 256 << 10;
    pub const BLOCKERS: usize = 10_000;
    pub const CREATED: usize = 10_000;
    pub const KEY_CHARACTERS: usize = 255;
    pub const LOG_LINES: usize = 1_000;
    pub const QUESTIONS: usize = 100;
    pub const QUESTION_BYTES: usize = 16 << 10;
    pub const OPTIONS: usize = 100;
    pub const OPTION_CHARACTERS: usize = 256;
    pub const EXPIRES_MS: std::ops::RangeInclusive<u64> = 1_000..=30 * 24 * 3_600 * 1_000;
    pub const TIMERS: usize = 100;
    pub const TIMER_MS: std::ops::RangeInclusive<u64> = 1_000..=365 * 24 * 3_600 * 1_000;
    pub const TIMER_NAME_CHARACTERS: usize = 255;
}

/// 2026-01-01: the fake host's clock stands still.
const NOW: u64 = 1_767_225_600_000;

#[derive(Clone, Debug)]
pub(super) struct State {
    pub id: RequestId,
    pub attempt: u32,
    pub prompt: String,
    pub context: Value,
    pub config: Value,
    pub metadata: Value,
    pub repo_url: Option<String>,
    pub branch: Option<String>,
    pub trigger: Trigger,
    pub additional_triggers: Vec<Trigger>,
    pub parent: Option<RequestId>,
    pub worker_type: String,
    pub lines: Vec<Line>,
    pub created: Vec<Created>,
    pub cancelled: Vec<RequestId>,
    pub questions: Vec<Question>,
    pub timers: Vec<(String, Duration)>,
    known: Vec<Known>,
    keys: HashMap<String, RequestId>,
    ids: u64,
}

/// A request besides the one that runs.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: Option<RequestId>,
    pub status: Status,
    pub prompt: String,
    pub context: Value,
    pub summary: String,
    pub data: Option<String>,
    pub problem: Option<(String, String)>,
    pub is_child: bool,
    pub is_blocker: bool,
}

impl Known {
    pub fn new(status: Status) -> Self {
        Self {
            id: None,
            status,
            prompt: String::new(),
            context: Value::Object(Default::default()),
            summary: String::new(),
            data: None,
            problem: None,
            is_child: false,
            is_blocker: false,
        }
    }

    fn ended(&self, id: &RequestId) -> Option<contract::Ended> {
        self.status.is_terminal().then(|| contract::Ended {
            request_id: id.to_string(),
            status: self.status,
            output: (self.status == Status::Completed).then(|| types::Output {
                summary: self.summary.clone(),
                data: self.data.clone(),
                tokens_used: None,
                cost: None,
            }),
            problem: self
                .problem
                .clone()
                .map(|(code, message)| contract::Problem { code, message }),
            finished_at: NOW,
        })
    }

    fn info(&self, id: &RequestId) -> contract::Info {
        contract::Info {
            id: id.to_string(),
            worker_type: "general".into(),
            skill: None,
            status: self.status,
            prompt: self.prompt.clone(),
            context: self.context.to_string(),
            metadata: "{}".into(),
            attempt: u32::from(self.status.is_terminal()),
            created_at: NOW,
        }
    }
}

impl Created {
    fn info(&self, cancelled: bool) -> contract::Info {
        let status = match (cancelled, self.blocked_by.is_empty(), self.delay) {
            (true, ..) => Status::Cancelled,
            (_, false, _) => Status::Blocked,
            (_, _, Some(_)) => Status::Scheduled,
            _ => Status::Pending,
        };
        contract::Info {
            id: self.id.to_string(),
            worker_type: self.worker_type.clone(),
            skill: self.skill.clone(),
            status,
            prompt: self.prompt.clone(),
            context: self.context.to_string(),
            metadata: self.metadata.to_string(),
            attempt: 0,
            created_at: NOW,
        }
    }
}

impl State {
    pub fn new() -> Self {
        let empty = || Value::Object(Default::default());
        let mut state = Self {
            id: RequestId::from(""),
            attempt: 1,
            prompt: String::new(),
            context: empty(),
            config: empty(),
            metadata: empty(),
            repo_url: None,
            branch: None,
            trigger: Trigger::Initial,
            additional_triggers: Vec::new(),
            parent: None,
            worker_type: "general".into(),
            lines: Vec::new(),
            created: Vec::new(),
            cancelled: Vec::new(),
            questions: Vec::new(),
            timers: Vec::new(),
            known: Vec::new(),
            keys: HashMap::new(),
            ids: 0,
        };
        state.id = state.next_id();
        state
    }

    /// The context as the platform delivers it: in a wake-up an object that says what happened.
    fn delivered_context(&self) -> Value {
        if matches!(self.trigger, Trigger::Initial | Trigger::Cron(_)) {
            return self.context.clone();
        }
        let mut delivered = event(&self.trigger);
        delivered["parent_request_id"] = json!(self.id);
        delivered["parent_context"] = self.context.clone();
        delivered["additional_completions"] = self.additional_triggers.iter().map(event).collect();
        delivered
    }

    pub fn add(&mut self, other: Other, relate: impl FnOnce(&mut Known)) {
        let mut known = other.known;
        known.id.get_or_insert_with(|| self.next_id());
        relate(&mut known);
        self.known.push(known);
    }

    pub fn has_something_outstanding(&self) -> bool {
        !self.questions.is_empty()
            || !self.timers.is_empty()
            || self
                .created
                .iter()
                .any(|created| created.reply_to_me && !self.is_cancelled(&created.id))
            || self.known().any(|(id, known)| {
                known.is_child && !known.status.is_terminal() && !self.is_cancelled(id)
            })
    }

    fn next_id(&mut self) -> RequestId {
        self.ids += 1;
        RequestId::from(format!("019b7654-0000-7000-8000-{:012x}", self.ids))
    }

    fn known(&self) -> impl Iterator<Item = (&RequestId, &Known)> {
        self.known.iter().filter_map(|known| known.id.as_ref().map(|id| (id, known)))
    }

    fn is_cancelled(&self, id: &RequestId) -> bool {
        self.cancelled.contains(id)
    }

    /// Every request that there is, newest first, with its end.
    fn all(&self) -> Vec<(contract::Info, Option<contract::Ended>)> {
        let created = self.created.iter().map(|new| (new.info(self.is_cancelled(&new.id)), None));
        let known = self.known().map(|(id, known)| {
            let mut info = known.info(id);
            if self.is_cancelled(id) {
                info.status = Status::Cancelled;
            }
            (info, known.ended(id))
        });
        let mut all: Vec<_> = known.chain(created).collect();
        all.reverse();
        all
    }

    fn find(&self, id: &str) -> Result<(contract::Info, Option<contract::Ended>), Error> {
        self.all()
            .into_iter()
            .find(|(info, _)| info.id == id)
            .ok_or_else(|| Error::NotFound(format!("there is no request {id}")))
    }

    fn create_many(&mut self, requests: &[contract::NewRequest]) -> Result<Vec<String>, Error> {
        // All or none: what a later entry breaks, an earlier one must not have left behind.
        let before = (self.created.len(), self.keys.clone(), self.ids);
        let mut ids = Vec::with_capacity(requests.len());
        for request in requests {
            match self.create(request, &ids) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    self.created.truncate(before.0);
                    (self.keys, self.ids) = (before.1, before.2);
                    return Err(error);
                }
            }
        }
        Ok(ids.into_iter().map(|id| id.to_string()).collect())
    }

    fn create(
        &mut self,
        request: &contract::NewRequest,
        batch: &[RequestId],
    ) -> Result<RequestId, Error> {
        if self.created.len() >= limits::CREATED {
            return Err(Error::Limit(format!(
                "a run creates at most {} requests",
                limits::CREATED
            )));
        }
        if request.worker_type.is_empty() {
            return Err(Error::Invalid("worker_type: is empty".into()));
        }
        if request.prompt.len() > limits::PROMPT_BYTES {
            return Err(Error::Invalid(format!("prompt: exceeds {} bytes", limits::PROMPT_BYTES)));
        }
        let context = json_object("context", &request.context, limits::CONTEXT_BYTES)?;
        let config = json_object("config", &request.config, limits::SMALL_JSON_BYTES)?;
        let metadata = json_object("metadata", &request.metadata, limits::SMALL_JSON_BYTES)?;
        let priority = request.priority.unwrap_or(0);
        if !(-100..=100).contains(&priority) {
            return Err(Error::Invalid(format!("priority: {priority} is not in -100 to 100")));
        }
        let max_attempts = request.max_attempts.unwrap_or(3);
        if !(1..=25).contains(&max_attempts) {
            return Err(Error::Invalid(format!("max_attempts: {max_attempts} is not in 1 to 25")));
        }
        if request.blocked_by.len() > limits::BLOCKERS {
            return Err(Error::Limit(format!("blocked_by: more than {}", limits::BLOCKERS)));
        }
        let blocked_by = request
            .blocked_by
            .iter()
            .map(|blocker| Ok((self.blocker(&blocker.id, batch)?, blocker.on_failure)))
            .collect::<Result<Vec<(RequestId, OnFailure)>, Error>>()?;
        if let Some(key) = &request.idempotency_key {
            if key.is_empty() || key.chars().count() > limits::KEY_CHARACTERS {
                return Err(Error::Invalid(format!(
                    "idempotency_key: is empty or longer than {} characters",
                    limits::KEY_CHARACTERS
                )));
            }
            if let Some(id) = self.keys.get(key) {
                return Ok(id.clone());
            }
        }
        let id = self.next_id();
        if let Some(key) = &request.idempotency_key {
            self.keys.insert(key.clone(), id.clone());
        }
        self.created.push(Created {
            id: id.clone(),
            worker_type: request.worker_type.clone(),
            skill: request.skill.clone(),
            prompt: request.prompt.clone(),
            context,
            repo_url: request.repo_url.clone(),
            branch: request.branch.clone(),
            config,
            metadata,
            blocked_by,
            reply_to_me: request.reply_to_me,
            detached: request.detached,
            delay: request.delay.map(Duration::from_millis),
            priority,
            max_attempts,
            timeout: request.timeout.map(Duration::from_millis),
            idempotency_key: request.idempotency_key.clone(),
        });
        Ok(id)
    }

    fn blocker(&self, id: &str, batch: &[RequestId]) -> Result<RequestId, Error> {
        match id.strip_prefix('#') {
            Some(index) => index
                .parse::<usize>()
                .ok()
                .and_then(|index| batch.get(index).cloned())
                .ok_or_else(|| Error::Invalid(format!("blocked_by: {id} is no earlier entry"))),
            None => self.find(id).map(|_| RequestId::from(id)),
        }
    }

    fn list(&self, filter: &contract::Filter) -> Result<Vec<contract::Info>, Error> {
        let limit = filter.limit.unwrap_or(20);
        if !(1..=100).contains(&limit) {
            return Err(Error::Invalid(format!("limit: {limit} is not in 1 to 100")));
        }
        let part = json_object("context", &filter.context, limits::CONTEXT_BYTES)?;
        let older = self.all().into_iter().map(|(info, _)| info);
        let older: Vec<_> = match &filter.before {
            Some(before) => older.skip_while(|info| info.id != *before).skip(1).collect(),
            None => older.collect(),
        };
        Ok(older
            .into_iter()
            .filter(|info| filter.statuses.is_empty() || filter.statuses.contains(&info.status))
            .filter(|info| {
                filter.worker_type.as_ref().is_none_or(|wanted| *wanted == info.worker_type)
            })
            .filter(|info| {
                serde_json::from_str(&info.context).is_ok_and(|context| contains(&context, &part))
            })
            .take(limit as usize)
            .collect())
    }

    fn ask(&mut self, question: &contract::Question) -> Result<QuestionId, Error> {
        if question.text.is_empty() || question.text.len() > limits::QUESTION_BYTES {
            let bytes = limits::QUESTION_BYTES;
            return Err(Error::Invalid(format!("question: is empty or exceeds {bytes} bytes")));
        }
        if question.options.len() > limits::OPTIONS {
            return Err(Error::Invalid(format!("options: more than {}", limits::OPTIONS)));
        }
        for (place, option) in question.options.iter().enumerate() {
            if option.is_empty() || option.chars().count() > limits::OPTION_CHARACTERS {
                return Err(Error::Invalid(format!(
                    "options: one is empty or longer than {} characters",
                    limits::OPTION_CHARACTERS
                )));
            }
            if question.options[..place].contains(option) {
                return Err(Error::Invalid(format!("options: `{option}` stands there twice")));
            }
        }
        let texts = question.options.iter().chain([&question.text]);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(Error::Invalid("question: holds the character U+0000".into()));
        }
        let details = json_object("details", &question.details, limits::SMALL_JSON_BYTES)?;
        if question.expires_in.is_some_and(|ms| !limits::EXPIRES_MS.contains(&ms)) {
            return Err(Error::Invalid("expires_in_ms: is not a second to 30 days".into()));
        }
        if self.questions.len() >= limits::QUESTIONS {
            return Err(Error::Limit(format!("a run asks at most {}", limits::QUESTIONS)));
        }
        let id = QuestionId::from(self.next_id().as_str());
        self.questions.push(Question {
            id: id.clone(),
            text: question.text.clone(),
            options: question.options.clone(),
            details,
            expires_in: question.expires_in.map(Duration::from_millis),
        });
        Ok(id)
    }

    fn wake_after(&mut self, delay: u64, name: &str) -> Result<(), Error> {
        if !limits::TIMER_MS.contains(&delay) {
            return Err(Error::Invalid(format!("delay: {delay} ms is not a second to 365 days")));
        }
        let characters = name.chars().count();
        if !(1..=limits::TIMER_NAME_CHARACTERS).contains(&characters) || name.contains('\0') {
            return Err(Error::Invalid(format!(
                "name: is empty, longer than {} characters or holds U+0000",
                limits::TIMER_NAME_CHARACTERS
            )));
        }
        let delay = Duration::from_millis(delay);
        if let Some((_, set)) = self.timers.iter_mut().find(|(set, _)| set == name) {
            *set = delay;
            return Ok(());
        }
        if self.timers.len() >= limits::TIMERS {
            return Err(Error::Limit(format!("a run sets at most {} timers", limits::TIMERS)));
        }
        self.timers.push((name.into(), delay));
        Ok(())
    }

    fn cancel(&mut self, id: &str) -> Result<(), Error> {
        let (info, _) = self.find(id)?;
        if info.status.is_terminal() {
            return Err(Error::Conflict(format!("request {id} has already ended")));
        }
        self.cancelled.push(RequestId::from(id));
        Ok(())
    }
}

/// What happened, as a wake-up's context says it.
fn event(trigger: &Trigger) -> Value {
    match trigger {
        Trigger::Initial => json!({ "trigger": "initial" }),
        Trigger::ChildComplete(child) => json!({
            "trigger": "child_complete",
            "completed_request_id": child.request_id,
            "completed_result_id": child.request_id,
        }),
        Trigger::HitlResponse(_) => json!({ "trigger": "hitl_response" }),
        Trigger::DeploymentSettled(_) => json!({ "trigger": "deployment_settled" }),
        Trigger::Timer(_) => json!({ "trigger": "timer" }),
        Trigger::Cron(_) => json!({ "trigger": "cron" }),
        Trigger::Other(kind) => json!({ "trigger": kind }),
    }
}

/// Postgres' `@>`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(name, value)| whole.get(name).is_some_and(|found| contains(found, value))),
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|value| whole.iter().any(|found| contains(found, value)))
        }
        _ => whole == part,
    }
}

fn json_object(what: &str, text: &Option<String>, bytes: usize) -> Result<Value, Error> {
    let Some(text) = text else { return Ok(Value::Object(Default::default())) };
    if text.len() > bytes {
        return Err(Error::Invalid(format!("{what}: exceeds {bytes} bytes")));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) if has_nul(&value) => {
            Err(Error::Invalid(format!("{what}: holds the character U+0000")))
        }
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(Error::Invalid(format!("{what}: is not a JSON object"))),
        Err(error) => Err(Error::Invalid(format!("{what}: {error}"))),
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

thread_local! {
    static RUN: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// The state of the run that goes on on this thread, for as long as this lives.
pub(super) struct Installed {
    /// A run inside a run, however odd, gets its own state and gives the outer one back.
    outer: Option<State>,
}

impl Installed {
    pub fn new(state: State) -> Self {
        Self { outer: RUN.replace(Some(state)) }
    }

    pub fn take(self) -> State {
        RUN.take().unwrap_or_else(State::new)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        RUN.set(self.outer.take());
    }
}

#[track_caller]
fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    RUN.with_borrow_mut(|run| match run {
        Some(state) => act(state),
        None => panic!("outside a run the platform answers nothing: use eve_sdk::testing::Host"),
    })
}

/// The functions of the contract, with the signatures that wit-bindgen gives them.
pub(crate) mod fake {
    pub(crate) mod request {
        use super::super::{NOW, with};
        use crate::Trigger;
        use crate::bindings::eve::skill::types;

        pub(crate) fn id() -> String {
            with(|run| run.id.to_string())
        }
        pub(crate) fn attempt() -> u32 {
            with(|run| run.attempt)
        }
        pub(crate) fn prompt() -> String {
            with(|run| run.prompt.clone())
        }
        pub(crate) fn context() -> String {
            with(|run| run.delivered_context().to_string())
        }
        pub(crate) fn repo_url() -> Option<String> {
            with(|run| run.repo_url.clone())
        }
        pub(crate) fn branch() -> Option<String> {
            with(|run| run.branch.clone())
        }
        pub(crate) fn config() -> String {
            with(|run| run.config.to_string())
        }
        pub(crate) fn metadata() -> String {
            with(|run| run.metadata.to_string())
        }
        pub(crate) fn trigger() -> types::Trigger {
            with(|run| in_contract(&run.trigger))
        }
        pub(crate) fn additional_triggers() -> Vec<types::Trigger> {
            with(|run| run.additional_triggers.iter().map(in_contract).collect())
        }
        pub(crate) fn parent_id() -> Option<String> {
            with(|run| run.parent.as_ref().map(ToString::to_string))
        }
        pub(crate) fn worker_type() -> String {
            with(|run| run.worker_type.clone())
        }
        pub(crate) fn org_slug() -> String {
            "test".into()
        }
        pub(crate) fn user_id() -> Option<String> {
            None
        }
        pub(crate) fn deadline() -> u64 {
            NOW + 300_000
        }

        fn in_contract(trigger: &Trigger) -> types::Trigger {
            match trigger.clone() {
                Trigger::Initial => types::Trigger::Initial,
                Trigger::ChildComplete(child) => types::Trigger::ChildComplete(types::Completion {
                    request_id: child.request_id.to_string(),
                    status: child.status,
                }),
                Trigger::HitlResponse(answer) => types::Trigger::HitlResponse(types::Answer {
                    question_id: answer.question_id.to_string(),
                    response: answer.response,
                    answered_by: answer.answered_by,
                }),
                Trigger::DeploymentSettled(settled) => {
                    types::Trigger::DeploymentSettled(types::Settlement {
                        deployment_id: settled.deployment_id,
                        status: settled.status,
                        reason: settled.reason,
                    })
                }
                Trigger::Timer(name) => types::Trigger::Timer(name),
                Trigger::Cron(name) => types::Trigger::Cron(name),
                Trigger::Other(name) => types::Trigger::Other(name),
            }
        }
    }

    pub(crate) mod log {
        use super::super::{limits, with};
        use crate::log::Level;
        use crate::testing::Line;

        pub(crate) fn log(level: Level, message: &str, fields: &[(String, String)]) {
            with(|run| {
                if run.lines.len() < limits::LOG_LINES {
                    run.lines.push(Line { level, message: message.into(), fields: fields.into() });
                }
            });
        }
    }

    pub(crate) mod queue {
        use super::super::with;
        use crate::bindings::eve::skill::queue::{
            Blocking, Child, Ended, Filter, Info, NewRequest, Question,
        };
        use crate::bindings::eve::skill::types::{Error, OnFailure};

        pub(crate) fn create(request: &NewRequest) -> Result<String, Error> {
            with(|run| run.create(request, &[])).map(|id| id.to_string())
        }
        pub(crate) fn create_many(requests: &[NewRequest]) -> Result<Vec<String>, Error> {
            with(|run| run.create_many(requests))
        }
        pub(crate) fn get(id: &str) -> Result<Info, Error> {
            with(|run| run.find(id)).map(|(info, _)| info)
        }
        pub(crate) fn result(id: &str) -> Result<Option<Ended>, Error> {
            with(|run| run.find(id)).map(|(_, ended)| ended)
        }
        pub(crate) fn list(filter: &Filter) -> Result<Vec<Info>, Error> {
            with(|run| run.list(filter))
        }
        pub(crate) fn children(of: &str) -> Result<Vec<Child>, Error> {
            with(|run| {
                if of != run.id.as_str() {
                    return run.find(of).map(|_| Vec::new());
                }
                let is_child = |id: &str| {
                    !run.known().any(|(known, what)| known.as_str() == id && !what.is_child)
                };
                let mut children: Vec<Child> = run
                    .all()
                    .into_iter()
                    .filter(|(info, _)| is_child(&info.id))
                    .map(|(request, ended)| Child { request, ended })
                    .collect();
                children.reverse();
                Ok(children)
            })
        }
        pub(crate) fn blockers(of: &str) -> Result<Vec<Blocking>, Error> {
            with(|run| {
                let blocking = |id: &crate::RequestId, on_failure: OnFailure| {
                    run.find(id.as_str()).map(|(info, _)| Blocking {
                        id: info.id,
                        status: info.status,
                        on_failure,
                        open: !info.status.is_terminal(),
                    })
                };
                if of == run.id.as_str() {
                    return run
                        .known()
                        .filter(|(_, known)| known.is_blocker)
                        .map(|(id, _)| blocking(id, OnFailure::Cancel))
                        .collect();
                }
                match run.created.iter().find(|created| created.id.as_str() == of) {
                    Some(created) => {
                        created.blocked_by.iter().map(|(id, on)| blocking(id, *on)).collect()
                    }
                    None => run.find(of).map(|_| Vec::new()),
                }
            })
        }
        pub(crate) fn cancel(id: &str, _reason: Option<&str>) -> Result<(), Error> {
            with(|run| run.cancel(id))
        }
        pub(crate) fn ask(question: &Question) -> Result<String, Error> {
            with(|run| run.ask(question)).map(|id| id.to_string())
        }
        pub(crate) fn wake_after(delay: u64, name: &str) -> Result<(), Error> {
            with(|run| run.wake_after(delay, name))
        }
    }
}
