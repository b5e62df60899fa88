//! What the fake host knows during a run, and how it answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Created, Line, Question};
use crate::bindings::eve::skill::types::{Error, OnFailure, Status};
use crate::bindings::eve::skill::{queue as contract, types};
use crate::{QuestionId, RequestId, Trigger};

/// The contract's limits, as far as a test can meet them.
pub(super) mod limits {
    pub const CONTEXT_BYTES: usize = 1 << 20;
    pub const SMALL_JSON_BYTES: usize = 64 << 10;
    pub const PROMPT_BYTES: usize = 256 << 10;
    pub const BLOCKERS: usize = 10_000;
    pub const CREATED: usize = 10_000;
    pub const ATTEMPTS: u16 = 3;
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
pub(super) const NOW: u64 = 1_767_225_600_000;

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
    /// What the request that runs was blocked by.
    pub blocked_by: Vec<(RequestId, OnFailure)>,
    pub keys: HashMap<String, Key>,
    pub ids: u64,
    known: Vec<Arc<Known>>,
    /// Where each of `created` stands, as far as the run can know.
    statuses: Vec<Status>,
    places: HashMap<RequestId, Place>,
}

/// What an idempotency key stands for: a request, and what was asked for under the key.
pub(super) type Key = (RequestId, contract::NewRequest);

/// A request besides the one that runs.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub asked: Created,
    pub status: Status,
    /// Attempts begun so far.
    pub attempt: u32,
    pub output: types::Output,
    pub problem: Option<(String, String)>,
    pub parent: Option<RequestId>,
}

impl Known {
    pub fn new(status: Status) -> Self {
        Self::asked(Created::empty(RequestId::from("")), status)
    }

    pub fn asked(asked: Created, status: Status) -> Self {
        let attempt = u32::from(status.is_terminal());
        Self { asked, status, attempt, output: no_output(), problem: None, parent: None }
    }

    fn ended(&self) -> Option<contract::Ended> {
        self.status.is_terminal().then(|| contract::Ended {
            request_id: self.asked.id.to_string(),
            status: self.status,
            output: (self.status == Status::Completed).then(|| self.output.clone()),
            problem: self
                .problem
                .clone()
                .map(|(code, message)| contract::Problem { code, message }),
            finished_at: NOW,
        })
    }
}

pub(super) fn no_output() -> types::Output {
    types::Output { summary: String::new(), data: None, tokens_used: None, cost: None }
}

/// What a blocker in some state does to its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Released,
    Holds,
    Cancels,
}

impl Edge {
    pub fn of(status: Status, policy: OnFailure) -> Self {
        match (status, policy) {
            (Status::Completed, _) => Edge::Released,
            (Status::Failed | Status::Cancelled, OnFailure::Run) => Edge::Released,
            (Status::Failed | Status::Cancelled, OnFailure::Cancel) => Edge::Cancels,
            _ => Edge::Holds,
        }
    }
}

impl Created {
    /// A request that asks for nothing in particular.
    pub(super) fn empty(id: RequestId) -> Self {
        let empty = || Value::Object(Default::default());
        Self {
            id,
            worker_type: "general".into(),
            skill: None,
            prompt: String::new(),
            context: empty(),
            repo_url: None,
            branch: None,
            config: empty(),
            metadata: empty(),
            blocked_by: Vec::new(),
            reply_to_me: false,
            detached: false,
            delay: None,
            priority: 0,
            max_attempts: limits::ATTEMPTS,
            timeout: None,
            idempotency_key: None,
        }
    }

    fn info(&self, status: Status, attempt: u32) -> contract::Info {
        contract::Info {
            id: self.id.to_string(),
            worker_type: self.worker_type.clone(),
            skill: self.skill.clone(),
            status,
            prompt: self.prompt.clone(),
            context: self.context.to_string(),
            metadata: self.metadata.to_string(),
            attempt,
            created_at: NOW,
        }
    }
}

/// Where a request stands among those that a run sees.
#[derive(Clone, Copy, Debug)]
enum Place {
    Known(usize),
    /// Created by this run.
    Own(usize),
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
            blocked_by: Vec::new(),
            keys: HashMap::new(),
            ids: 0,
            known: Vec::new(),
            statuses: Vec::new(),
            places: HashMap::new(),
        };
        state.id = state.next_id();
        state
    }

    /// The context as the platform delivers it: in a wake-up an object that says what happened.
    pub fn delivered_context(&self) -> Value {
        if matches!(self.trigger, Trigger::Initial | Trigger::Cron(_)) {
            return self.context.clone();
        }
        let mut delivered = event(&self.trigger);
        delivered["parent_request_id"] = json!(self.id);
        delivered["parent_context"] = self.context.clone();
        delivered["additional_completions"] = self.additional_triggers.iter().map(event).collect();
        delivered
    }

    pub fn add(&mut self, mut known: Known) -> RequestId {
        if known.asked.id.as_str().is_empty() {
            known.asked.id = self.next_id();
        }
        let id = known.asked.id.clone();
        self.share(Arc::new(known));
        id
    }

    pub fn share(&mut self, known: Arc<Known>) {
        self.places.insert(known.asked.id.clone(), Place::Known(self.known.len()));
        self.known.push(known);
    }

    pub fn has_something_outstanding(&self) -> bool {
        let open_child = |known: &Arc<Known>| {
            known.parent.as_ref() == Some(&self.id)
                && !known.status.is_terminal()
                && !self.is_cancelled(&known.asked.id)
        };
        self.starts_something() || self.known.iter().any(open_child)
    }

    /// Whether the run itself asked for something that will wake it. The end of a child that it
    /// created and cancelled is delivered like any other.
    pub fn starts_something(&self) -> bool {
        !self.questions.is_empty()
            || !self.timers.is_empty()
            || self.created.iter().any(|created| created.reply_to_me)
    }

    pub fn next_id(&mut self) -> RequestId {
        self.ids += 1;
        RequestId::from(format!("019b7654-0000-7000-8000-{:012x}", self.ids))
    }

    fn is_cancelled(&self, id: &RequestId) -> bool {
        self.cancelled.contains(id)
    }

    fn status(&self, id: &RequestId) -> Option<Status> {
        match self.places.get(id)? {
            Place::Own(place) => Some(self.statuses[*place]),
            Place::Known(_) if self.is_cancelled(id) => Some(Status::Cancelled),
            Place::Known(place) => Some(self.known[*place].status),
        }
    }

    /// Where a request of this run will stand once it is committed.
    fn standing(&self, request: &Created) -> Status {
        let mut held = false;
        for (id, policy) in &request.blocked_by {
            match Edge::of(self.status(id).unwrap_or(Status::Pending), *policy) {
                Edge::Released => {}
                Edge::Holds => held = true,
                Edge::Cancels => return Status::Cancelled,
            }
        }
        match (held, request.delay) {
            (true, _) => Status::Blocked,
            (false, Some(_)) => Status::Scheduled,
            (false, None) => Status::Pending,
        }
    }

    fn seen(&self, place: Place) -> (contract::Info, Option<contract::Ended>) {
        let (asked, status, attempt, ended) = match place {
            Place::Own(place) => (&self.created[place], self.statuses[place], 0, None),
            Place::Known(place) => {
                let known = &self.known[place];
                let status = match self.is_cancelled(&known.asked.id) {
                    true => Status::Cancelled,
                    false => known.status,
                };
                (&known.asked, status, known.attempt, known.ended())
            }
        };
        let gone = (status == Status::Cancelled).then(|| contract::Ended {
            request_id: asked.id.to_string(),
            status,
            output: None,
            problem: Some(contract::Problem {
                code: "cancelled".into(),
                message: "cancelled by this run, when it commits".into(),
            }),
            finished_at: NOW,
        });
        (asked.info(status, attempt), ended.or(gone))
    }

    /// Every request that there is besides the one that runs, oldest first.
    fn all(&self) -> impl DoubleEndedIterator<Item = Place> {
        let known = (0..self.known.len()).map(Place::Known);
        known.chain((0..self.created.len()).map(Place::Own))
    }

    fn place(&self, id: &str) -> Result<Place, Error> {
        self.places
            .get(&RequestId::from(id))
            .copied()
            .ok_or_else(|| Error::NotFound(format!("there is no request {id}")))
    }

    pub fn find(&self, id: &str) -> Result<(contract::Info, Option<contract::Ended>), Error> {
        if id == self.id.as_str() {
            let myself = Created {
                worker_type: self.worker_type.clone(),
                prompt: self.prompt.clone(),
                context: self.context.clone(),
                metadata: self.metadata.clone(),
                ..Created::empty(self.id.clone())
            };
            return Ok((myself.info(Status::Processing, self.attempt), None));
        }
        self.place(id).map(|place| self.seen(place))
    }

    pub fn children(&self, of: &str) -> Result<Vec<contract::Child>, Error> {
        let mine = of == self.id.as_str();
        if !mine {
            self.place(of)?;
        }
        let is_child = |place: &Place| match place {
            Place::Own(_) => mine,
            Place::Known(place) => {
                self.known[*place].parent.as_ref().is_some_and(|parent| parent.as_str() == of)
            }
        };
        let children = self.all().filter(is_child).map(|place| self.seen(place));
        Ok(children.map(|(request, ended)| contract::Child { request, ended }).collect())
    }

    pub fn blockers(&self, of: &str) -> Result<Vec<contract::Blocking>, Error> {
        let edges = match of == self.id.as_str() {
            true => &self.blocked_by,
            false => match self.place(of)? {
                Place::Own(place) => &self.created[place].blocked_by,
                Place::Known(place) => &self.known[place].asked.blocked_by,
            },
        };
        let blocking = |(id, policy): &(RequestId, OnFailure)| {
            let status = self.status(id).unwrap_or(Status::Pending);
            contract::Blocking {
                id: id.to_string(),
                status,
                on_failure: *policy,
                open: Edge::of(status, *policy) == Edge::Holds,
            }
        };
        Ok(edges.iter().map(blocking).collect())
    }

    pub fn create_many(&mut self, requests: &[contract::NewRequest]) -> Result<Vec<String>, Error> {
        // All or none: what a later entry breaks, an earlier one must not have left behind.
        let before = (self.created.len(), self.keys.clone(), self.ids);
        let mut ids = Vec::with_capacity(requests.len());
        for request in requests {
            match self.create(request, &ids) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    for created in self.created.drain(before.0..) {
                        self.places.remove(&created.id);
                    }
                    self.statuses.truncate(before.0);
                    (self.keys, self.ids) = (before.1, before.2);
                    return Err(error);
                }
            }
        }
        Ok(ids.into_iter().map(|id| id.to_string()).collect())
    }

    pub fn create(
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
        let max_attempts = request.max_attempts.unwrap_or(limits::ATTEMPTS);
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
        if request.reply_to_me && blocked_by.iter().any(|(id, _)| *id == self.id) {
            return Err(Error::Conflict(format!(
                "blocked_by: a request that replies to {} cannot wait for it",
                self.id
            )));
        }
        if let Some(key) = &request.idempotency_key {
            if key.is_empty() || key.chars().count() > limits::KEY_CHARACTERS {
                return Err(Error::Invalid(format!(
                    "idempotency_key: is empty or longer than {} characters",
                    limits::KEY_CHARACTERS
                )));
            }
        }
        let id = self.identify(request)?;
        if self.places.contains_key(&id) {
            return Ok(id);
        }
        let created = Created {
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
        };
        self.places.insert(id.clone(), Place::Own(self.created.len()));
        self.statuses.push(self.standing(&created));
        self.created.push(created);
        Ok(id)
    }

    /// An id, after the idempotency key if there is one: a key that a failed run had used stands for
    /// the id that it gave out then.
    fn identify(&mut self, request: &contract::NewRequest) -> Result<RequestId, Error> {
        let Some(key) = &request.idempotency_key else { return Ok(self.next_id()) };
        // Blockers are left out: those of the same run have other ids in another attempt.
        let body = contract::NewRequest { blocked_by: Vec::new(), ..request.clone() };
        match self.keys.get(key) {
            Some((id, known)) if *known == body => Ok(id.clone()),
            Some(_) => {
                Err(Error::Conflict(format!("idempotency_key: `{key}` stands for another request")))
            }
            None => {
                let id = self.next_id();
                self.keys.insert(key.clone(), (id.clone(), body));
                Ok(id)
            }
        }
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

    pub fn list(&self, filter: &contract::Filter) -> Result<Vec<contract::Info>, Error> {
        let limit = filter.limit.unwrap_or(20);
        if !(1..=100).contains(&limit) {
            return Err(Error::Invalid(format!("limit: {limit} is not in 1 to 100")));
        }
        let part = json_object("context", &filter.context, limits::CONTEXT_BYTES)?;
        let before = filter.before.as_deref();
        Ok(self
            .all()
            .rev()
            .map(|place| self.seen(place).0)
            .skip_while(|info| before.is_some_and(|before| info.id != before))
            .skip(usize::from(before.is_some()))
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

    pub fn ask(&mut self, question: &contract::Question) -> Result<QuestionId, Error> {
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

    pub fn wake_after(&mut self, delay: u64, name: &str) -> Result<(), Error> {
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

    pub fn cancel(&mut self, id: &str) -> Result<(), Error> {
        if id == self.id.as_str() {
            return Err(Error::Invalid("id: a run cannot cancel its own request".into()));
        }
        let place = self.place(id)?;
        let id = RequestId::from(id);
        if self.status(&id).is_some_and(Status::is_terminal) {
            return Err(Error::Conflict(format!("request {id} has already ended")));
        }
        self.cancelled.push(id);
        let mut next = 0;
        if let Place::Own(own) = place {
            self.statuses[own] = Status::Cancelled;
            next = own + 1;
        }
        // Own dependents stand behind what they wait for, so one pass reaches them all.
        for later in next..self.created.len() {
            if !self.statuses[later].is_terminal() {
                self.statuses[later] = self.standing(&self.created[later]);
            }
        }
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
            "status": match child.status {
                Status::Completed => "completed",
                Status::Failed => "failed",
                _ => "cancelled",
            },
        }),
        Trigger::HitlResponse(answer) => json!({
            "trigger": "hitl_response",
            "question_id": answer.question_id,
            "response": answer.read::<Value>().unwrap_or(Value::Null),
            "expired": answer.is_expired(),
        }),
        Trigger::DeploymentSettled(settled) => {
            json!({ "trigger": "deployment_settled", "deployment_id": settled.deployment_id })
        }
        Trigger::Timer(name) => json!({ "trigger": "timer", "name": name }),
        Trigger::Cron(name) => json!({ "trigger": "cron", "name": name }),
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
