//! What the fake host knows during a run, and how it answers.

mod create;
mod deploy;
mod list;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::database::Database;
use super::deployments::Fleet;
use super::{Change, Created, Line, Question, limits, validate, weight};
use crate::bindings::eve::skill::types::{Error, OnFailure, Status};
use crate::bindings::eve::skill::{queue as contract, types};
use crate::{QuestionId, RequestId, Trigger};

pub(super) use create::Key;

/// 2026-01-01: the fake host's clock stands still.
pub(super) const NOW: u64 = 1_767_225_600_000;

#[derive(Clone, Debug)]
pub(super) struct State {
    /// The request that runs, as it was asked for.
    pub me: Created,
    pub attempt: u32,
    /// Attempts begun at the request itself: a wake-up counts its own.
    pub begun: u32,
    pub trigger: Trigger,
    pub additional_triggers: Vec<Trigger>,
    pub parent: Option<RequestId>,
    pub lines: Vec<Line>,
    pub created: Vec<Created>,
    /// What the run has cancelled, and why.
    pub cancels: Vec<(RequestId, Option<String>)>,
    pub questions: Vec<Question>,
    pub timers: Vec<(String, Duration)>,
    /// What there is to deploy to, with what the run has asked for.
    pub fleet: Fleet,
    pub changes: Vec<Change>,
    pub database: Database,
    pub keys: HashMap<String, Key>,
    pub ids: u64,
    /// How many of `known` are older than the request that runs.
    pub older: usize,
    known: Vec<Arc<Known>>,
    /// Where each of `created` stands, as far as the run can know.
    statuses: Vec<Status>,
    places: HashMap<RequestId, Place>,
    cancelled: HashSet<RequestId>,
    /// The keys that the run has named, by what they stand for.
    keyed: HashMap<RequestId, String>,
    /// What the run's effects weigh.
    bytes: usize,
    log_bytes: usize,
}

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
            max_attempts: limits::ATTEMPTS_DEFAULT,
            timeout: None,
            idempotency_key: None,
        }
    }

    /// Where it stands once nothing holds it back.
    pub(super) fn ready(&self) -> Status {
        match self.delay {
            Some(delay) if !delay.is_zero() => Status::Scheduled,
            _ => Status::Pending,
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
    /// The one that runs.
    Myself,
    Known(usize),
    /// Created by this run.
    Own(usize),
}

impl State {
    pub fn new() -> Self {
        let mut state = Self {
            me: Created::empty(RequestId::from("")),
            attempt: 1,
            begun: 1,
            trigger: Trigger::Initial,
            additional_triggers: Vec::new(),
            parent: None,
            lines: Vec::new(),
            created: Vec::new(),
            cancels: Vec::new(),
            questions: Vec::new(),
            timers: Vec::new(),
            fleet: Fleet::default(),
            changes: Vec::new(),
            database: Database::default(),
            keys: HashMap::new(),
            ids: 0,
            older: 0,
            known: Vec::new(),
            statuses: Vec::new(),
            places: HashMap::new(),
            cancelled: HashSet::new(),
            keyed: HashMap::new(),
            bytes: 0,
            log_bytes: 0,
        };
        state.me.id = state.next_id();
        state
    }

    /// Whether an event has woken the run: then its request waits meanwhile.
    fn is_woken(&self) -> bool {
        !matches!(self.trigger, Trigger::Initial | Trigger::Cron(_))
    }

    /// The context as the platform delivers it: in a wake-up an object that says what happened.
    pub fn delivered_context(&self) -> Value {
        if !self.is_woken() {
            return self.me.context.clone();
        }
        let event = |trigger: &Trigger| self.event(trigger);
        let mut delivered = event(&self.trigger);
        delivered["parent_request_id"] = json!(self.me.id);
        delivered["parent_context"] = self.me.context.clone();
        delivered["additional_completions"] = self.additional_triggers.iter().map(event).collect();
        delivered
    }

    /// What happened, as a wake-up's context says it: of a deployment also where it is.
    fn event(&self, trigger: &Trigger) -> Value {
        let mut said = event(trigger);
        if let (Trigger::DeploymentSettled(settled), Some(said)) = (trigger, said.as_object_mut()) {
            said.extend(self.fleet.described(settled));
        }
        said
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

    /// Puts what the request that runs has created behind it, as the younger ones.
    pub fn sort_by_age(&mut self) {
        let is_child = |known: &Arc<Known>| known.parent.as_ref() == Some(&self.me.id);
        let (children, others): (Vec<_>, Vec<_>) = self.known.drain(..).partition(is_child);
        self.older = others.len();
        for known in others.into_iter().chain(children) {
            self.share(known);
        }
    }

    /// Whether something will wake the request, if the run returns `waiting`: an open child that
    /// replies, even if the run cancels it, because its end is delivered then; a question; a timer; a
    /// deployment.
    pub fn has_something_outstanding(&self) -> bool {
        self.starts_something()
            || self.fleet.asked_for().next().is_some()
            || self.known.iter().any(|known| {
                known.parent.as_ref() == Some(&self.me.id)
                    && known.asked.reply_to_me
                    && !known.status.is_terminal()
            })
    }

    /// Whether the run itself asked for something that will wake it. The end of a child that it
    /// created and cancelled is delivered like any other.
    pub fn starts_something(&self) -> bool {
        !self.questions.is_empty()
            || !self.timers.is_empty()
            || !self.changes.is_empty()
            || self.created.iter().any(|created| created.reply_to_me)
    }

    pub fn next_id(&mut self) -> RequestId {
        self.ids += 1;
        RequestId::from(format!("019b7654-0000-7000-8000-{:012x}", self.ids))
    }

    fn status(&self, id: &RequestId) -> Option<Status> {
        if *id == self.me.id {
            return Some(self.status_at(Place::Myself));
        }
        self.places.get(id).map(|place| self.status_at(*place))
    }

    fn status_at(&self, place: Place) -> Status {
        match place {
            Place::Myself if self.is_woken() => Status::Waiting,
            Place::Myself => Status::Processing,
            Place::Own(place) => self.statuses[place],
            Place::Known(place) => match &self.known[place] {
                known if self.cancelled.contains(&known.asked.id) => Status::Cancelled,
                known => known.status,
            },
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
        if held { Status::Blocked } else { request.ready() }
    }

    fn asked(&self, place: Place) -> &Created {
        match place {
            Place::Myself => &self.me,
            Place::Own(place) => &self.created[place],
            Place::Known(place) => &self.known[place].asked,
        }
    }

    fn info(&self, place: Place) -> contract::Info {
        let attempt = match place {
            Place::Myself => self.begun,
            Place::Own(_) => 0,
            Place::Known(place) => self.known[place].attempt,
        };
        self.asked(place).info(self.status_at(place), attempt)
    }

    fn ended(&self, place: Place) -> Option<contract::Ended> {
        let ended = match place {
            Place::Known(place) => self.known[place].ended(),
            Place::Own(_) | Place::Myself => None,
        };
        let gone = || contract::Ended {
            request_id: self.asked(place).id.to_string(),
            status: Status::Cancelled,
            output: None,
            problem: Some(contract::Problem {
                code: "cancelled".into(),
                message: "cancelled by this run, when it commits".into(),
            }),
            finished_at: NOW,
        };
        ended.or_else(|| (self.status_at(place) == Status::Cancelled).then(gone))
    }

    /// Every request that there is, oldest first.
    fn all(&self) -> impl DoubleEndedIterator<Item = Place> {
        let older = (0..self.older).map(Place::Known);
        let younger = (self.older..self.known.len()).map(Place::Known);
        let own = (0..self.created.len()).map(Place::Own);
        older.chain([Place::Myself]).chain(younger).chain(own)
    }

    fn is_known(&self, id: &str) -> bool {
        id == self.me.id.as_str() || self.places.contains_key(&RequestId::from(id))
    }

    /// Where the request stands that a call names. `field` is the argument's name.
    fn find(&self, field: &str, text: &str) -> Result<Place, Error> {
        // A test may name requests as it likes, so they are looked for before anything else.
        let id = match self.is_known(text) {
            true => RequestId::from(text),
            false => validate::id(field, text)?,
        };
        if id == self.me.id {
            return Ok(Place::Myself);
        }
        let found = self.places.get(&id).copied();
        found.ok_or_else(|| Error::NotFound(format!("there is no request {id}")))
    }

    pub fn get(&self, id: &str) -> Result<contract::Info, Error> {
        Ok(self.info(self.find("id", id)?))
    }

    pub fn result(&self, id: &str) -> Result<Option<contract::Ended>, Error> {
        Ok(self.ended(self.find("id", id)?))
    }

    pub fn children(&self, of: &str) -> Result<Vec<contract::Child>, Error> {
        let of = self.find("of", of)?;
        let parent = &self.asked(of).id;
        let mut children: Vec<Place> = (0..self.known.len())
            .filter(|place| self.known[*place].parent.as_ref() == Some(parent))
            .map(Place::Known)
            .collect();
        if children.len() > limits::CREATES {
            return Err(Error::Limit(format!(
                "it has more than {} children; get those that you need by their ids",
                limits::CREATES
            )));
        }
        if matches!(of, Place::Myself) {
            children.extend((0..self.created.len()).map(Place::Own));
        }
        let children: Vec<contract::Child> = children
            .into_iter()
            .map(|place| contract::Child { request: self.info(place), ended: self.ended(place) })
            .collect();
        bounded(children.iter().map(weight::child).sum())?;
        Ok(children)
    }

    pub fn blockers(&self, of: &str) -> Result<Vec<contract::Blocking>, Error> {
        let blocking = |(id, policy): &(RequestId, OnFailure)| {
            let status = self.status(id).unwrap_or(Status::Pending);
            contract::Blocking {
                id: id.to_string(),
                status,
                on_failure: *policy,
                open: Edge::of(status, *policy) == Edge::Holds,
            }
        };
        let of = self.find("of", of)?;
        Ok(self.asked(of).blocked_by.iter().map(blocking).collect())
    }

    pub fn ask(&mut self, question: &contract::Question) -> Result<QuestionId, Error> {
        let details = validate::question(question)?;
        if self.questions.len() >= limits::QUESTIONS {
            let most = limits::QUESTIONS;
            return Err(Error::Limit(format!("a run asks at most {most} questions")));
        }
        let bytes = weight::question(question, &details);
        self.afford(bytes)?;
        self.bytes += bytes;
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
        validate::timer(delay, name)?;
        let delay = Duration::from_millis(delay);
        if let Some((_, set)) = self.timers.iter_mut().find(|(set, _)| set == name) {
            *set = delay;
            return Ok(());
        }
        if self.timers.len() >= limits::TIMERS {
            return Err(Error::Limit(format!("a run sets at most {} timers", limits::TIMERS)));
        }
        let bytes = weight::timer(name);
        self.afford(bytes)?;
        self.bytes += bytes;
        self.timers.push((name.into(), delay));
        Ok(())
    }

    pub fn cancel(&mut self, id: &str, reason: Option<&str>) -> Result<(), Error> {
        let found = self.find("id", id);
        if matches!(found, Ok(Place::Myself)) {
            return Err(Error::Invalid(
                "id: a run cannot cancel its own request; return a failure instead".into(),
            ));
        }
        if matches!(found, Err(Error::Invalid(_))) {
            return found.map(drop);
        }
        validate::text("reason", reason.unwrap_or_default(), limits::MESSAGE)?;
        let bytes = weight::cancel(reason);
        self.afford(bytes)?;
        let place = found?;
        let id = self.asked(place).id.clone();
        match (place, self.status_at(place)) {
            (Place::Known(place), Status::Completed | Status::Failed | Status::Cancelled)
                if !self.cancelled.contains(&id) =>
            {
                let status = word(self.known[place].status);
                return Err(Error::Conflict(format!("request {id} is {status} already")));
            }
            (_, Status::Cancelled) => {
                return Err(Error::Conflict(format!("request {id} is cancelled already")));
            }
            _ => {}
        }
        self.bytes += bytes;
        self.cancelled.insert(id.clone());
        self.cancels.push((id, reason.map(str::to_owned)));
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

    fn afford(&self, bytes: usize) -> Result<(), Error> {
        if self.bytes + bytes > limits::EFFECTS {
            let most = limits::EFFECTS;
            return Err(Error::Limit(format!("what a run asks for may take {most} bytes in all")));
        }
        Ok(())
    }

    /// Adds a line to the log, unless that is full.
    pub fn log(&mut self, mut line: Line) {
        let bytes = line.message.len().min(limits::LOG_LINE)
            + line.fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.lines.len() >= limits::LOG_LINES || self.log_bytes + bytes > limits::LOG_BYTES {
            return;
        }
        self.log_bytes += bytes;
        line.message = validate::storable(validate::cut(&line.message, limits::LOG_LINE));
        line.fields.truncate(limits::LOG_FIELDS);
        for (name, value) in &mut line.fields {
            (*name, *value) = (validate::storable(name), validate::storable(value));
        }
        self.lines.push(line);
    }
}

/// Refuses an answer that is too large.
fn bounded(bytes: usize) -> Result<(), Error> {
    if bytes > limits::QUEUE_ANSWER {
        return Err(Error::Limit(format!(
            "the answer is larger than {} bytes; ask for fewer at a time, or for single requests and \
             results by their ids",
            limits::QUEUE_ANSWER
        )));
    }
    Ok(())
}

/// How the platform writes the status of a request that has ended.
fn word(status: Status) -> &'static str {
    match status {
        Status::Completed => "completed",
        Status::Failed => "failed",
        _ => "cancelled",
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
            "status": word(child.status),
        }),
        Trigger::HitlResponse(answer) => json!({
            "trigger": "hitl_response",
            "question_id": answer.question_id,
            "response": answer.read::<Value>().unwrap_or(Value::Null),
            "expired": answer.is_expired(),
        }),
        Trigger::DeploymentSettled(settled) => {
            json!({
                "trigger": "deployment_settled", "deployment_id": settled.deployment_id,
                "status": settled.status, "reason": settled.reason,
            })
        }
        Trigger::Timer(name) => json!({ "trigger": "timer", "name": name }),
        Trigger::Cron(name) => json!({ "trigger": "cron", "name": name }),
        Trigger::Other(kind) => json!({ "trigger": kind }),
    }
}
