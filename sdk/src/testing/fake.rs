//! The platform that a native run calls: functions of the contract, with the signatures that
//! wit-bindgen gives them, answered from the run's [`State`].
//!
//! A run lives on the thread of the test that started it, so its state is a thread-local that
//! [`Installed`] puts there and takes away again, panics included.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::Skill;
use super::state::State;
use crate::Failure;
use crate::bindings::eve::skill::types;

/// How a skill's function ended, if it did not panic.
type Ended = Result<types::Outcome, Failure>;

/// Runs a skill once. What it did before a panic is in the state nevertheless.
pub(super) fn run(state: State, skill: Skill) -> (thread::Result<Ended>, State) {
    let installed = Installed::new(state);
    // What the skill leaves behind is in the state, which every one of its calls leaves whole.
    let ended = catch_unwind(AssertUnwindSafe(|| crate::__export::run(skill)));
    let ended = ended.map(|ended| {
        ended.map_err(|failure| match failure {
            types::Failure::Retryable(message) => Failure::Retryable(message),
            types::Failure::Permanent(message) => Failure::Permanent(message),
        })
    });
    (ended, installed.take())
}

thread_local! {
    static RUN: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// The state of the run that goes on on this thread, for as long as this lives.
struct Installed {
    /// A run inside a run, however odd, gets its own state and gives the outer one back.
    outer: Option<State>,
}

impl Installed {
    fn new(state: State) -> Self {
        Self { outer: RUN.replace(Some(state)) }
    }

    fn take(self) -> State {
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

pub(crate) mod db {
    #![expect(clippy::result_large_err, reason = "the contract's own error, as it is generated")]

    use super::with;
    use crate::bindings::eve::skill::db::{Error, Migration, Rows, Statement};

    pub(crate) fn query(schema: &str, statement: &Statement) -> Result<Rows, Error> {
        with(|run| run.database.run(schema, statement))
    }
    pub(crate) fn execute(schema: &str, statement: &Statement) -> Result<u64, Error> {
        query(schema, statement).map(|rows| rows.affected)
    }
    pub(crate) fn transaction(schema: &str, statements: &[Statement]) -> Result<Vec<Rows>, Error> {
        statements.iter().map(|statement| query(schema, statement)).collect()
    }
    pub(crate) fn migrate(schema: &str, migrations: &[Migration]) -> Result<Vec<u32>, Error> {
        with(|run| Ok(run.database.migrate(schema, migrations)))
    }
}

pub(crate) mod deploy {
    use super::with;
    use crate::bindings::eve::skill::deploy::{
        Deployment, Environment, LogLine, NewDeployment, Revision, Target,
    };
    use crate::bindings::eve::skill::types::Error;

    pub(crate) fn environments() -> Result<Vec<Environment>, Error> {
        with(|run| Ok(run.fleet.environments()))
    }
    pub(crate) fn create(new: &NewDeployment) -> Result<String, Error> {
        with(|run| run.deploy(new)).map(|id| id.to_string())
    }
    pub(crate) fn scale(env: &str, app: &str, replicas: u32) -> Result<String, Error> {
        with(|run| run.scale(env, app, replicas)).map(|id| id.to_string())
    }
    pub(crate) fn rollback(env: &str, app: &str, to: &Target) -> Result<String, Error> {
        with(|run| run.rollback(env, app, to)).map(|id| id.to_string())
    }
    pub(crate) fn delete(env: &str, app: &str) -> Result<String, Error> {
        with(|run| run.undeploy(env, app)).map(|id| id.to_string())
    }
    pub(crate) fn status(env: &str, app: &str) -> Result<Deployment, Error> {
        with(|run| run.fleet.status(env, app))
    }
    pub(crate) fn list(env: Option<&str>) -> Result<Vec<Deployment>, Error> {
        with(|run| run.fleet.list(env))
    }
    pub(crate) fn history(env: &str, app: &str, limit: u32) -> Result<Vec<Revision>, Error> {
        with(|run| run.fleet.history(env, app, limit))
    }
    pub(crate) fn logs(env: &str, app: &str, tail: u32) -> Result<Vec<LogLine>, Error> {
        with(|run| run.fleet.logs(env, app, tail, &run.me.worker_type))
    }
    pub(crate) fn kubernetes(env: &str, path: &str) -> Result<String, Error> {
        with(|run| run.fleet.kubernetes(env, path, &run.me.worker_type))
    }
}

pub(crate) mod request {
    use super::with;
    use crate::Trigger;
    use crate::bindings::eve::skill::types;

    pub(crate) fn id() -> String {
        with(|run| run.me.id.to_string())
    }
    pub(crate) fn attempt() -> u32 {
        with(|run| run.attempt)
    }
    pub(crate) fn prompt() -> String {
        with(|run| run.me.prompt.clone())
    }
    pub(crate) fn context() -> String {
        with(|run| run.delivered_context().to_string())
    }
    pub(crate) fn repo_url() -> Option<String> {
        with(|run| run.me.repo_url.clone())
    }
    pub(crate) fn branch() -> Option<String> {
        with(|run| run.me.branch.clone())
    }
    pub(crate) fn config() -> String {
        with(|run| run.me.config.to_string())
    }
    pub(crate) fn metadata() -> String {
        with(|run| run.me.metadata.to_string())
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
        with(|run| run.me.worker_type.clone())
    }
    pub(crate) fn org_slug() -> String {
        "test".into()
    }
    pub(crate) fn user_id() -> Option<String> {
        None
    }
    pub(crate) fn deadline() -> u64 {
        super::super::state::NOW + 300_000
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
    use super::with;
    use crate::log::Level;
    use crate::testing::Line;

    pub(crate) fn log(level: Level, message: &str, fields: &[(String, String)]) {
        let line = Line { level, message: message.into(), fields: fields.into() };
        with(|run| run.log(line));
    }
}

pub(crate) mod queue {
    use super::with;
    use crate::bindings::eve::skill::queue::{
        Blocking, Child, Ended, Filter, Info, NewRequest, Question,
    };
    use crate::bindings::eve::skill::types::Error;

    pub(crate) fn create(request: &NewRequest) -> Result<String, Error> {
        let ids = with(|run| run.create(std::slice::from_ref(request)))?;
        Ok(ids[0].to_string())
    }
    pub(crate) fn create_many(requests: &[NewRequest]) -> Result<Vec<String>, Error> {
        let ids = with(|run| run.create(requests))?;
        Ok(ids.iter().map(ToString::to_string).collect())
    }
    pub(crate) fn get(id: &str) -> Result<Info, Error> {
        with(|run| run.get(id))
    }
    pub(crate) fn result(id: &str) -> Result<Option<Ended>, Error> {
        with(|run| run.result(id))
    }
    pub(crate) fn list(filter: &Filter) -> Result<Vec<Info>, Error> {
        with(|run| run.list(filter))
    }
    pub(crate) fn children(of: &str) -> Result<Vec<Child>, Error> {
        with(|run| run.children(of))
    }
    pub(crate) fn blockers(of: &str) -> Result<Vec<Blocking>, Error> {
        with(|run| run.blockers(of))
    }
    pub(crate) fn cancel(id: &str, reason: Option<&str>) -> Result<(), Error> {
        with(|run| run.cancel(id, reason))
    }
    pub(crate) fn ask(question: &Question) -> Result<String, Error> {
        with(|run| run.ask(question)).map(|id| id.to_string())
    }
    pub(crate) fn wake_after(delay: u64, name: &str) -> Result<(), Error> {
        with(|run| run.wake_after(delay, name))
    }
}
