//! The requests of an organisation over many runs, and the rules by which they change.
//!
//! The same rules as the platform's, without time, workers and losses: effects of a good run commit
//! together, what a request ends with goes down its edges and to the orchestration that it replies
//! to, and an orchestration that ends takes with it what it has started.

mod deploy;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::deployments::Fleet;
use super::state::{Edge, Key, Known, State, no_output};
use super::validate;
use super::{Created, Question, Run, Skill, fake, limits, nothing_to_wait_for};
use crate::bindings::eve::skill::types;
use crate::queue::{OnFailure, Status};
use crate::{Completion, DeploymentId, Failure, RequestId, Trigger};

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    tasks: Vec<Task>,
    places: HashMap<RequestId, usize>,
    /// Where in `tasks` the children of a request stand.
    children: HashMap<RequestId, Vec<usize>>,
    keys: HashMap<String, Key>,
    ids: u64,
    /// What answers statements; nobody has sent any to it yet.
    pub database: Database,
    /// What there is to deploy to.
    pub fleet: Fleet,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub known: Arc<Known>,
    /// Blockers that still hold it back.
    held_by: Vec<(RequestId, OnFailure)>,
    /// What its first run is run for.
    pub first: Trigger,
    /// The run that failed and is to be tried again.
    again: Option<Due>,
    /// What has happened to it since it was run last.
    inbox: VecDeque<Trigger>,
    /// Its open questions.
    pub questions: Vec<Question>,
    /// Its timers that have not gone off.
    pub timers: Vec<(String, Duration)>,
    /// Deployments whose settling wakes it.
    pub awaited: Vec<DeploymentId>,
}

/// A run that is to take place.
#[derive(Clone, Debug)]
struct Due {
    triggers: Vec<Trigger>,
    attempt: u32,
}

/// How a request ends.
#[derive(Clone, Debug)]
pub(super) enum End {
    Completed(types::Output),
    Failed(String, String),
    Cancelled(&'static str, String),
}

impl Task {
    fn new(known: Known) -> Self {
        Self {
            known: Arc::new(known),
            held_by: Vec::new(),
            first: Trigger::Initial,
            again: None,
            inbox: VecDeque::new(),
            questions: Vec::new(),
            timers: Vec::new(),
            awaited: Vec::new(),
        }
    }

    pub fn status(&self) -> Status {
        self.known.status
    }

    pub fn held_by(&self) -> impl Iterator<Item = &RequestId> {
        self.held_by.iter().map(|(id, _)| id)
    }

    /// Whether nothing is waking it, so that its waiting deadline may run out.
    pub fn is_idle(&self) -> bool {
        self.status() == Status::Waiting && !self.can_run()
    }

    /// Whether a worker would run it now. Delays have always passed.
    pub fn can_run(&self) -> bool {
        match self.status() {
            Status::Pending | Status::Scheduled => true,
            Status::Waiting => self.again.is_some() || !self.inbox.is_empty(),
            _ => false,
        }
    }

    fn due(&mut self) -> Due {
        if let Some(mut due) = self.again.take() {
            due.attempt += 1;
            return due;
        }
        let triggers = match self.status() {
            Status::Waiting => {
                let bound = self.inbox.len().min(limits::EVENTS_PER_WAKEUP);
                self.inbox.drain(..bound).collect()
            }
            _ => vec![self.first.clone()],
        };
        Due { triggers, attempt: 1 }
    }
}

impl World {
    pub fn add(&mut self, asked: Created) -> RequestId {
        self.insert(Task::new(Known::asked(asked, Status::Pending)))
    }

    pub fn next_id(&mut self) -> RequestId {
        let mut state = State::new();
        state.ids = self.ids;
        let id = state.next_id();
        self.ids = state.ids;
        id
    }

    fn insert(&mut self, task: Task) -> RequestId {
        let id = task.known.asked.id.clone();
        if let Some(parent) = &task.known.parent {
            self.children.entry(parent.clone()).or_default().push(self.tasks.len());
        }
        self.places.insert(id.clone(), self.tasks.len());
        self.tasks.push(task);
        id
    }

    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The children of a request, oldest first.
    pub fn children_of(&self, id: &RequestId) -> impl Iterator<Item = &Task> {
        self.children.get(id).into_iter().flatten().map(|place| &self.tasks[*place])
    }

    #[track_caller]
    pub fn task(&self, id: &RequestId) -> &Task {
        match self.places.get(id) {
            Some(place) => &self.tasks[*place],
            None => panic!("there is no request {id}"),
        }
    }

    #[track_caller]
    pub fn task_mut(&mut self, id: &RequestId) -> &mut Task {
        match self.places.get(id) {
            Some(place) => &mut self.tasks[*place],
            None => panic!("there is no request {id}"),
        }
    }

    /// Something happens to an orchestration. Nobody hears it if that has ended.
    pub fn deliver(&mut self, to: &RequestId, event: Trigger) {
        let task = self.task_mut(to);
        if !task.status().is_terminal() {
            task.inbox.push_back(event);
        }
    }

    /// Runs a request that [can run](Task::can_run), once.
    pub fn run(&mut self, id: &RequestId, skill: Skill) -> Run {
        let task = self.task_mut(id);
        let due = task.due();
        if task.status() != Status::Waiting {
            Arc::make_mut(&mut task.known).attempt = due.attempt;
        }
        let (ended, state) = fake::run(self.state(id, &due), skill);
        // Ids and keys are given out at once, whatever becomes of the run.
        self.keys.clone_from(&state.keys);
        self.ids = state.ids;
        // What was migrated stays so too.
        self.database.migrated.clone_from(&state.database.migrated);
        let mut end = match ended {
            Ok(ended) => validate::outcome(ended),
            Err(panic) => Err((Failure::Retryable(trap(panic.as_ref())), "trapped")),
        };
        if matches!(end, Ok(types::Outcome::Waiting(_))) && !self.has_something_outstanding(&state)
        {
            end = Err(nothing_to_wait_for());
        }
        match &end {
            Ok(types::Outcome::Waiting(_)) => {
                Arc::make_mut(&mut self.task_mut(id).known).status = Status::Waiting;
                self.commit(&state);
            }
            Ok(types::Outcome::Completed(output)) => {
                self.commit(&state);
                let made: Vec<RequestId> = state.created.iter().map(|new| new.id.clone()).collect();
                self.end(id, End::Completed(output.clone()), &made);
            }
            Err((Failure::Retryable(_), _)) if due.attempt < self.attempts(id) => {
                let task = self.task_mut(id);
                task.again = Some(due);
                if task.status() != Status::Waiting {
                    Arc::make_mut(&mut task.known).status = Status::Scheduled;
                }
            }
            Err((failure, code)) => {
                let end = End::Failed((*code).into(), failure.message().into());
                self.end(id, end, &[]);
            }
        }
        Run::of(state, end)
    }

    fn attempts(&self, id: &RequestId) -> u32 {
        self.task(id).known.asked.max_attempts.into()
    }

    /// What a run sees of all this.
    fn state(&self, id: &RequestId, due: &Due) -> State {
        let known = &self.task(id).known;
        let mut state = State::new();
        state.me = known.asked.clone();
        (state.attempt, state.begun) = (due.attempt, known.attempt);
        state.parent.clone_from(&known.parent);
        let mut triggers = due.triggers.iter().cloned();
        state.trigger = triggers.next().unwrap_or(Trigger::Initial);
        state.additional_triggers = triggers.collect();
        state.keys.clone_from(&self.keys);
        state.ids = self.ids;
        state.database = self.database.clone();
        state.fleet = self.fleet.clone();
        state.older = self.places[id];
        for task in self.tasks.iter().filter(|task| task.known.asked.id != *id) {
            state.share(task.known.clone());
        }
        state
    }

    /// Whether something will wake the request whose run this was, if it waits.
    fn has_something_outstanding(&self, state: &State) -> bool {
        let task = self.task(&state.me.id);
        // The end of a child that the run cancels is delivered too.
        let replies = |task: &Task| task.known.asked.reply_to_me && !task.status().is_terminal();
        state.starts_something()
            || !task.inbox.is_empty()
            || !task.questions.is_empty()
            || !task.timers.is_empty()
            || !task.awaited.is_empty()
            || self.children_of(&state.me.id).any(replies)
    }

    fn commit(&mut self, state: &State) {
        for asked in &state.created {
            self.create(asked.clone(), &state.me.id);
        }
        for (id, reason) in &state.cancels {
            let by = || format!("cancelled by request {}", state.me.id);
            let message = reason.clone().unwrap_or_else(by);
            self.end(id, End::Cancelled("cancelled", message), &[]);
        }
        self.commit_changes(state);
        let task = self.task_mut(&state.me.id);
        task.questions.extend(state.questions.iter().cloned());
        for (name, delay) in &state.timers {
            task.timers.retain(|(set, _)| set != name);
            task.timers.push((name.clone(), *delay));
        }
    }

    fn create(&mut self, asked: Created, parent: &RequestId) {
        let mut held_by = Vec::new();
        let mut doomed = None;
        for (blocker, policy) in &asked.blocked_by {
            match Edge::of(self.task(blocker).status(), *policy) {
                Edge::Released => {}
                Edge::Holds => held_by.push((blocker.clone(), *policy)),
                Edge::Cancels => doomed = Some(blocker.clone()),
            }
        }
        let status = if held_by.is_empty() { asked.ready() } else { Status::Blocked };
        let mut known = Known::asked(asked, status);
        known.parent = Some(parent.clone());
        let id = self.insert(Task { held_by, ..Task::new(known) });
        if let Some(blocker) = doomed {
            self.end(&id, blocker_failed(&blocker), &[]);
        }
    }

    /// Ends an open request, with all that follows. `made` is what the run that ends it created.
    pub fn end(&mut self, id: &RequestId, end: End, made: &[RequestId]) {
        let mut todo = VecDeque::from([(id.clone(), end)]);
        while let Some((id, end)) = todo.pop_front() {
            let task = self.task_mut(&id);
            if task.status().is_terminal() {
                continue;
            }
            let known = Arc::make_mut(&mut task.known);
            (known.status, known.output, known.problem) = match end {
                End::Completed(output) => (Status::Completed, output, None),
                End::Failed(code, message) => (Status::Failed, no_output(), Some((code, message))),
                End::Cancelled(code, message) => {
                    (Status::Cancelled, no_output(), Some((code.to_owned(), message)))
                }
            };
            let status = known.status;
            let listener = known.parent.clone().filter(|_| known.asked.reply_to_me);
            task.again = None;
            task.inbox.clear();
            task.questions.clear();
            task.timers.clear();
            task.awaited.clear();
            self.end_children(&id, status, made, &mut todo);
            self.follow_edges(&id, status, &mut todo);
            if let Some(orchestration) = listener {
                let event = Trigger::ChildComplete(Completion { request_id: id, status });
                self.deliver(&orchestration, event);
            }
        }
    }

    fn end_children(
        &self,
        id: &RequestId,
        status: Status,
        made: &[RequestId],
        todo: &mut VecDeque<(RequestId, End)>,
    ) {
        let mut ended = vec![id];
        let mut spares = status == Status::Completed;
        while let Some(parent) = ended.pop() {
            for child in self.children_of(parent) {
                let asked = &child.known.asked;
                if spares && (asked.detached || made.contains(&asked.id)) {
                    continue;
                }
                if child.status().is_terminal() {
                    // What it has left running is a descendant all the same.
                    ended.push(&asked.id);
                    continue;
                }
                let why =
                    format!("cancelled because request {parent}, which had started it, ended");
                todo.push_back((asked.id.clone(), End::Cancelled("orchestration_ended", why)));
            }
            spares = false;
        }
    }

    fn follow_edges(
        &mut self,
        id: &RequestId,
        status: Status,
        todo: &mut VecDeque<(RequestId, End)>,
    ) {
        for dependent in &mut self.tasks {
            let edge = dependent.held_by.iter().position(|(blocker, _)| blocker == id);
            let Some(edge) = edge else { continue };
            match Edge::of(status, dependent.held_by[edge].1) {
                Edge::Holds => {}
                Edge::Cancels => {
                    todo.push_back((dependent.known.asked.id.clone(), blocker_failed(id)));
                }
                Edge::Released => {
                    dependent.held_by.remove(edge);
                    if dependent.held_by.is_empty() && dependent.status() == Status::Blocked {
                        let known = Arc::make_mut(&mut dependent.known);
                        known.status = known.asked.ready();
                    }
                }
            }
        }
    }
}

fn blocker_failed(blocker: &RequestId) -> End {
    End::Cancelled(
        "blocker_failed",
        format!("cancelled because request {blocker}, which it waited for, did not complete"),
    )
}

/// What a panic said.
fn trap(panic: &(dyn std::any::Any + Send)) -> String {
    let said = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(said), _) => said,
        (None, Some(said)) => said.as_str(),
        (None, None) => "no message",
    };
    format!("panicked: {said}")
}
