//! A skill that waits, played through from its first run to its end.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::database::{Call, Database};
use super::deployments::{Deployment, Environment, Settled};
use super::state::no_output;
use super::world::{End, Task, World};
use super::{Created, Question, Run, Skill, limits, object, validate, written};
use crate::queue::{Problem, Status};
use crate::request::Answer;
use crate::{DeploymentId, QuestionId, RequestId, Trigger};

/// An orchestrator and everything that it starts, run after run.
///
/// The test decides what happens between two runs: which child completes or fails, who answers what,
/// which timer goes off, how a deployment settles, whether the wait is over. Methods that end in `_of` do the same for a child
/// that is an orchestrator itself. The rules are the platform's: what a run asked for happens only if the run
/// ended well; a retryable failure is tried again with the same triggers; every event is delivered
/// once; blocked children wait for their blockers; and when the orchestration ends, what it has
/// started ends too, except what is detached or was created by the run that completed it.
///
/// ```
/// use eve_sdk::prelude::*;
/// use eve_sdk::testing::Orchestration;
///
/// /// Two builds side by side; a person decides if one of them fails.
/// fn release(request: Request) -> Result<Outcome, Failure> {
///     if request.trigger() == Trigger::Initial {
///         for image in ["api", "web"] {
///             queue::request("general").prompt(image).reply_to_me().create()?;
///         }
///         return Ok(Outcome::waiting());
///     }
///     for trigger in request.triggers() {
///         match trigger {
///             Trigger::ChildComplete(child) if child.status == Status::Failed => {
///                 queue::ask("Go on without it?").options(["yes", "no"]).create()?;
///                 return Ok(Outcome::waiting());
///             }
///             Trigger::HitlResponse(answer) if answer.text().as_deref() != Some("yes") => {
///                 return Err(Failure::permanent("stopped"));
///             }
///             _ => {}
///         }
///     }
///     match queue::children()?.iter().filter(|child| child.is_open()).count() {
///         0 => Ok(Outcome::completed("released")),
///         _ => Ok(Outcome::waiting()),
///     }
/// }
///
/// let mut orchestration = Orchestration::new(release);
/// assert!(orchestration.start().is_waiting());
/// let [api, web] = orchestration.children().try_into().unwrap();
///
/// orchestration.fail(&api, "failed", "no such base image");
/// let run = orchestration.wake();
/// let question = run.questions()[0].id.clone();
///
/// // Both of these happen before the next run: it is woken once, with two triggers.
/// orchestration.answer(&question, "yes");
/// orchestration.complete(&web, &json!({}));
/// let run = orchestration.wake();
/// assert_eq!(run.triggers().len(), 2);
/// assert_eq!(run.summary(), "released");
/// assert_eq!(orchestration.status(), Status::Completed);
/// ```
///
/// A test that gives the children's skills as functions can have them run too:
///
/// ```
/// use eve_sdk::prelude::*;
/// use eve_sdk::testing::Orchestration;
///
/// fn sum(request: Request) -> Result<Outcome, Failure> {
///     if request.trigger() == Trigger::Initial {
///         for n in 1..=10 {
///             queue::request("general").skill("square").context(&json!({ "n": n })).reply_to_me().create()?;
///         }
///     }
///     let children = queue::children()?;
///     if children.iter().any(|child| child.is_open()) {
///         return Ok(Outcome::waiting());
///     }
///     let sum = children.iter().map(|child| child.output::<u64>()).sum::<Result<u64, _>>()?;
///     Ok(Outcome::completed("summed").data(&sum))
/// }
///
/// fn square(request: Request) -> Result<Outcome, Failure> {
///     let n = request.context::<Value>()?["n"].as_u64().unwrap_or(0);
///     Ok(Outcome::completed("squared").data(&(n * n)))
/// }
///
/// let run = Orchestration::new(sum).skill("square", square).run_to_end();
/// assert_eq!(run.output::<u64>(), 385);
/// ```
#[derive(Clone, Debug)]
pub struct Orchestration {
    world: World,
    root: RequestId,
    skill: Skill,
    skills: HashMap<String, Skill>,
}

impl Orchestration {
    /// A request for this skill, with an empty prompt and context, that has not been run yet.
    pub fn new(skill: Skill) -> Self {
        let mut world = World::default();
        let id = world.next_id();
        let root = world.add(Created::empty(id));
        Self { world, root, skill, skills: HashMap::new() }
    }

    /// What is wanted, in words.
    pub fn prompt(self, prompt: impl Into<String>) -> Self {
        self.asked(|asked| asked.prompt = prompt.into())
    }

    /// What is wanted; a JSON object.
    pub fn context(self, context: impl Serialize) -> Self {
        self.asked(|asked| asked.context = object("context", context))
    }

    /// The request's settings; a JSON object.
    pub fn config(self, config: impl Serialize) -> Self {
        self.asked(|asked| asked.config = object("config", config))
    }

    /// The request's labels; a JSON object.
    pub fn metadata(self, metadata: impl Serialize) -> Self {
        self.asked(|asked| asked.metadata = object("metadata", metadata))
    }

    /// The repository and the branch that the request is about.
    pub fn repository(self, url: impl Into<String>, branch: impl Into<String>) -> Self {
        self.asked(|asked| (asked.repo_url, asked.branch) = (Some(url.into()), Some(branch.into())))
    }

    /// The worker type that runs it; `general` unless this is called.
    pub fn worker_type(self, worker_type: impl Into<String>) -> Self {
        self.asked(|asked| asked.worker_type = worker_type.into())
    }

    /// How many times a run that fails retryably is tried in all; 3 unless this is called.
    pub fn max_attempts(self, attempts: u16) -> Self {
        self.asked(|asked| asked.max_attempts = attempts)
    }

    /// Has a schedule of this name create the request.
    pub fn schedule(mut self, name: impl Into<String>) -> Self {
        self.world.task_mut(&self.root).first = Trigger::Cron(name.into());
        self
    }

    /// What the database answers every run; see [`Host::database`](super::Host::database).
    pub fn database(
        mut self,
        answers: impl FnMut(&Call) -> Result<crate::db::Rows, crate::db::Error> + Send + 'static,
    ) -> Self {
        self.world.database = Database::answering(answers);
        self
    }

    /// An environment of the organisation; see [`Host::environment`](super::Host::environment).
    #[track_caller]
    pub fn environment(mut self, environment: impl Into<Environment>) -> Self {
        self.world.fleet.add_environment(environment.into());
        self
    }

    /// A registered app; see [`Host::app`](super::Host::app).
    pub fn app(mut self, name: impl Into<String>) -> Self {
        self.world.fleet.add_app(name.into());
        self
    }

    /// Something that is deployed; see [`Host::deployment`](super::Host::deployment).
    pub fn deployment(mut self, mut deployment: Deployment) -> Self {
        if deployment.id.as_str().is_empty() {
            deployment.id = self.world.next_id().as_str().into();
        }
        if deployment.asked_for {
            self.world.task_mut(&self.root).awaited.push(deployment.id.clone());
        }
        self.world.fleet.add(deployment);
        self
    }

    /// What the Kubernetes API answers; see [`Host::kubernetes`](super::Host::kubernetes).
    pub fn kubernetes(
        mut self,
        answers: impl FnMut(&str, &str) -> Result<serde_json::Value, crate::Error> + Send + 'static,
    ) -> Self {
        self.world.fleet.api = super::deployments::Api::answering(answers);
        self
    }

    /// The function that runs children which name this skill, when the test says so.
    pub fn skill(mut self, name: impl Into<String>, skill: Skill) -> Self {
        self.skills.insert(name.into(), skill);
        self
    }

    fn asked(mut self, change: impl FnOnce(&mut Created)) -> Self {
        let task = self.world.task_mut(&self.root);
        change(&mut std::sync::Arc::make_mut(&mut task.known).asked);
        self
    }

    /// The first run, or another attempt at it.
    ///
    /// # Panics
    /// When the first run is over.
    #[track_caller]
    pub fn start(&mut self) -> Run {
        let status = self.status();
        assert!(
            matches!(status, Status::Pending | Status::Scheduled),
            "the orchestration has been started and is {status:?}"
        );
        self.world.run(&self.root, self.skill)
    }

    /// Wakes the orchestration with everything that has happened since its last run; or, if its last
    /// run is to be tried again, with what that was woken with.
    ///
    /// # Panics
    /// When it does not wait, or nothing has happened that wakes it.
    #[track_caller]
    pub fn wake(&mut self) -> Run {
        let status = self.status();
        assert!(status == Status::Waiting, "the orchestration does not wait, it is {status:?}");
        assert!(self.world.task(&self.root).can_run(), "nothing has happened that wakes it");
        self.world.run(&self.root, self.skill)
    }

    /// A request completes with this data.
    ///
    /// # Panics
    /// When it is blocked, or has ended.
    #[track_caller]
    pub fn complete(&mut self, id: &RequestId, data: &impl Serialize) -> &mut Self {
        let mut output = no_output();
        output.data = Some(written("data", data).to_string());
        self.end(id, End::Completed(output))
    }

    /// A request fails.
    ///
    /// # Panics
    /// When it is blocked, or has ended.
    #[track_caller]
    pub fn fail(
        &mut self,
        id: &RequestId,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Self {
        self.end(id, End::Failed(code.into(), message.into()))
    }

    /// Somebody cancels a request: a child, or the orchestration itself.
    ///
    /// # Panics
    /// When it has ended.
    #[track_caller]
    pub fn cancel(&mut self, id: &RequestId) -> &mut Self {
        let status = self.world.task(id).status();
        assert!(!status.is_terminal(), "request {id} has ended: it is {status:?}");
        self.world.end(id, End::Cancelled("cancelled", "cancelled on request".into()), &[]);
        self
    }

    /// Somebody answers a question.
    ///
    /// # Panics
    /// When there is no such open question, it has options and this is none of them, or the platform
    /// would not take it: `null`, more than 64 KiB, nested too deeply.
    #[track_caller]
    pub fn answer(&mut self, question: &QuestionId, response: impl Serialize) -> &mut Self {
        let response = written("answer", response);
        if let Err(error) = validate::json("response", &response, limits::RESPONSE_BYTES) {
            panic!("the answer is refused: {}", crate::Error::from(error));
        }
        let (asker, question) = self.take(question, |question| {
            let chosen = response.as_str().map(str::to_owned);
            assert!(!response.is_null(), "`null` is no answer");
            assert!(
                question.options.is_empty()
                    || chosen.is_some_and(|chosen| question.options.contains(&chosen)),
                "{response} is none of the answers to choose from: {:?}",
                question.options
            );
        });
        let answer = Answer {
            question_id: question.id,
            response: Some(response.to_string()),
            answered_by: Some("019b7654-0000-7000-8000-aaaaaaaaaaaa".into()),
        };
        self.world.deliver(&asker, Trigger::HitlResponse(answer));
        self
    }

    /// Nobody answers a question in time.
    ///
    /// # Panics
    /// When there is no such open question.
    #[track_caller]
    pub fn expire(&mut self, question: &QuestionId) -> &mut Self {
        let (asker, question) = self.take(question, |_| {});
        let answer = Answer { question_id: question.id, response: None, answered_by: None };
        self.world.deliver(&asker, Trigger::HitlResponse(answer));
        self
    }

    /// A timer of the orchestration goes off.
    ///
    /// # Panics
    /// When none of this name is set.
    #[track_caller]
    pub fn fire(&mut self, timer: &str) -> &mut Self {
        self.fire_of(&self.root.clone(), timer)
    }

    /// A timer of any request goes off: of a child that is an orchestrator itself. Its next run is
    /// [`run_child`](Self::run_child)'s.
    ///
    /// # Panics
    /// When there is no such request, or none of this name is set.
    #[track_caller]
    pub fn fire_of(&mut self, id: &RequestId, timer: &str) -> &mut Self {
        let timers = &mut self.world.task_mut(id).timers;
        match timers.iter().position(|(name, _)| name == timer) {
            Some(place) => timers.remove(place),
            None => panic!("there is no timer `{timer}`; there are {timers:?}"),
        };
        self.world.deliver(id, Trigger::Timer(timer.into()));
        self
    }

    /// A deployment comes to rest. Whoever asked for the change is woken: the orchestration, or a child
    /// that is one itself.
    ///
    /// ```
    /// use eve_sdk::prelude::*;
    /// use eve_sdk::testing::{Orchestration, Settled};
    ///
    /// fn run(request: Request) -> Result<Outcome, Failure> {
    ///     if let Trigger::DeploymentSettled(settled) = request.trigger() {
    ///         return Ok(Outcome::completed(settled.status));
    ///     }
    ///     deploy::app("web").env("dev").image("acme/web:v1").register().create()?;
    ///     Ok(Outcome::waiting())
    /// }
    ///
    /// let mut orchestration = Orchestration::new(run).environment("dev");
    /// let id = orchestration.start().deployed()[0].id.clone();
    /// assert_eq!(orchestration.settle(&id, Settled::running()).wake().summary(), "running");
    /// ```
    ///
    /// # Panics
    /// When there is no such deployment, nothing is under way of it, or something else is: what is being
    /// deleted does not come to run.
    #[track_caller]
    pub fn settle(&mut self, id: &DeploymentId, how: Settled) -> &mut Self {
        self.world.settle(id, &how);
        self
    }

    /// Nothing wakes the orchestration for as long as it is willing to wait: it fails as
    /// `wait_timed_out`, and what it has started is cancelled.
    ///
    /// ```
    /// use eve_sdk::prelude::*;
    /// use eve_sdk::testing::Orchestration;
    /// use std::time::Duration;
    ///
    /// fn impatient(_: Request) -> Result<Outcome, Failure> {
    ///     queue::request("general").reply_to_me().create()?;
    ///     Ok(Outcome::waiting().deadline(Duration::from_secs(3_600)))
    /// }
    ///
    /// let mut orchestration = Orchestration::new(impatient);
    /// assert_eq!(orchestration.start().deadline(), Some(Duration::from_secs(3_600)));
    /// let child = orchestration.children().remove(0);
    /// orchestration.wait_out();
    /// let id = orchestration.id().clone();
    /// assert_eq!(orchestration.problem_of(&id).unwrap().code, "wait_timed_out");
    /// assert_eq!(orchestration.status_of(&child), Status::Cancelled);
    /// ```
    ///
    /// # Panics
    /// When it does not wait, or something has happened that wakes it.
    #[track_caller]
    pub fn wait_out(&mut self) -> &mut Self {
        self.wait_out_of(&self.root.clone())
    }

    /// The same for any request: for a child that is an orchestrator itself.
    ///
    /// # Panics
    /// When it does not wait, or something has happened that wakes it.
    #[track_caller]
    pub fn wait_out_of(&mut self, id: &RequestId) -> &mut Self {
        let task = self.world.task(id);
        let status = task.status();
        assert!(status == Status::Waiting, "request {id} does not wait, it is {status:?}");
        assert!(task.is_idle(), "something has happened that wakes {id}");
        let message = "nothing woke it within the time that it was willing to wait";
        self.world.end(id, End::Failed("wait_timed_out".into(), message.into()), &[]);
        self
    }

    /// Runs one child, or child of a child, whose skill the test gave and which can run now: its
    /// first run, another attempt, or because it waits and something woke it. None if there is none.
    pub fn run_child(&mut self) -> Option<Run> {
        let (id, skill) = self.world.tasks().iter().find_map(|task| {
            let asked = &task.known.asked;
            let skill = self.skills.get(asked.skill.as_deref()?)?;
            (task.can_run() && asked.id != self.root).then(|| (asked.id.clone(), *skill))
        })?;
        Some(self.world.run(&id, skill))
    }

    /// Runs children until none can run any more, and returns how many runs that were. The
    /// orchestration itself is not woken.
    pub fn run_children(&mut self) -> usize {
        std::iter::from_fn(|| self.run_child()).count()
    }

    /// Starts the orchestration if it has not been started, runs children and wakes it until it has
    /// ended, and returns its last run.
    ///
    /// # Panics
    /// When it waits for something that only the test can do: end a child whose skill is not known,
    /// answer a question, let a timer go off, have a deployment settle.
    #[track_caller]
    pub fn run_to_end(&mut self) -> Run {
        loop {
            self.run_children();
            assert!(
                self.world.task(&self.root).can_run(),
                "the orchestration is {:?}, and nothing goes on by itself; open children: {:?}, \
                 questions: {:?}, timers: {:?}, deployments: {:?}",
                self.status(),
                self.open_children(),
                self.of_all(|task| &task.questions),
                self.of_all(|task| &task.timers),
                self.of_all(|task| &task.awaited),
            );
            let run = self.world.run(&self.root, self.skill);
            if self.status().is_terminal() {
                return run;
            }
        }
    }

    /// The orchestration's own id.
    pub fn id(&self) -> &RequestId {
        &self.root
    }

    /// Where the orchestration stands.
    pub fn status(&self) -> Status {
        self.world.task(&self.root).status()
    }

    /// Where a request stands.
    ///
    /// # Panics
    /// When there is none of this id.
    #[track_caller]
    pub fn status_of(&self, id: &RequestId) -> Status {
        self.world.task(id).status()
    }

    /// What was asked for when a request was created.
    ///
    /// # Panics
    /// When there is none of this id.
    #[track_caller]
    pub fn request(&self, id: &RequestId) -> &Created {
        &self.world.task(id).known.asked
    }

    /// The orchestration's children, oldest first.
    pub fn children(&self) -> Vec<RequestId> {
        self.children_of(&self.root)
    }

    /// The orchestration's children that have not ended, oldest first.
    pub fn open_children(&self) -> Vec<RequestId> {
        let mut children = self.children();
        children.retain(|child| !self.status_of(child).is_terminal());
        children
    }

    /// The children of any request, oldest first.
    pub fn children_of(&self, id: &RequestId) -> Vec<RequestId> {
        self.world.children_of(id).map(|task| task.known.asked.id.clone()).collect()
    }

    /// The orchestration's open questions, oldest first.
    pub fn questions(&self) -> &[Question] {
        self.questions_of(&self.root)
    }

    /// The open questions of any request, oldest first.
    ///
    /// # Panics
    /// When there is none of this id.
    #[track_caller]
    pub fn questions_of(&self, id: &RequestId) -> &[Question] {
        &self.world.task(id).questions
    }

    /// The orchestration's timers that have not gone off, by name.
    pub fn timers(&self) -> &[(String, Duration)] {
        self.timers_of(&self.root)
    }

    /// The timers of any request that have not gone off, by name.
    ///
    /// # Panics
    /// When there is none of this id.
    #[track_caller]
    pub fn timers_of(&self, id: &RequestId) -> &[(String, Duration)] {
        &self.world.task(id).timers
    }

    /// The deployments that the orchestration has asked for and that have not settled, in that order.
    pub fn unsettled(&self) -> &[DeploymentId] {
        &self.world.task(&self.root).awaited
    }

    /// Why a request failed or was cancelled; none if it did not.
    ///
    /// # Panics
    /// When there is none of this id.
    #[track_caller]
    pub fn problem_of(&self, id: &RequestId) -> Option<Problem> {
        let problem = self.world.task(id).known.problem.clone();
        problem.map(|(code, message)| Problem { code, message })
    }

    /// The data that a request completed with.
    ///
    /// # Panics
    /// When it did not complete, or without data, or when the data is of another shape.
    #[track_caller]
    pub fn output_of<T: DeserializeOwned>(&self, id: &RequestId) -> T {
        let known = &self.world.task(id).known;
        match known.output.data.as_deref().map(serde_json::from_str) {
            Some(Ok(data)) => data,
            Some(Err(error)) => panic!("the data of {id} is of another shape: {error}"),
            None => panic!("{id} is {:?} and has no data", known.status),
        }
    }

    /// Something of every request, with whose it is.
    fn of_all<'a, T>(&'a self, of: impl Fn(&'a Task) -> &'a Vec<T>) -> Vec<(&'a RequestId, &'a T)> {
        let tasks = self.world.tasks().iter();
        tasks.flat_map(|task| of(task).iter().map(|item| (&task.known.asked.id, item))).collect()
    }

    #[track_caller]
    fn end(&mut self, id: &RequestId, end: End) -> &mut Self {
        let task = self.world.task(id);
        match task.status() {
            Status::Blocked => {
                let blockers: Vec<&RequestId> = task.held_by().collect();
                panic!("request {id} cannot run yet: it is blocked by {blockers:?}");
            }
            status if status.is_terminal() => panic!("request {id} has ended: it is {status:?}"),
            _ => self.world.end(id, end, &[]),
        }
        self
    }

    /// Takes a question from those that are open, unless `check` panics.
    #[track_caller]
    fn take(&mut self, id: &QuestionId, check: impl FnOnce(&Question)) -> (RequestId, Question) {
        let find = |task: &Task| task.questions.iter().position(|question| question.id == *id);
        let found = self
            .world
            .tasks()
            .iter()
            .find_map(|task| find(task).map(|place| (task.known.asked.id.clone(), place)));
        let Some((asker, place)) = found else { panic!("there is no open question {id}") };
        let questions = &mut self.world.task_mut(&asker).questions;
        check(&questions[place]);
        let question = questions.remove(place);
        (asker, question)
    }
}
