//! Runs skills: WebAssembly components inside wasmtime, each run in a fresh store, within limits.
//!
//! Flow: [`Runtime::load`] maps a verified artifact, checks its imports against grants and prepares
//! it; [`Runtime::run`] waits for a slot, runs it once on the guest threads (`executor`), and
//! answers with a [`Report`]: a verdict, the effects to commit, the log and what was used.
//! What guests may call is in `capabilities`, every number is in `limits`, wasmtime's settings are
//! in `engine`, the files of WASI that lead nowhere are in `wasi`.
//!
//! Invariants:
//! - Nothing of one run is left for the next: store, stack and memory are fresh or zeroed.
//! - A run changes nothing: what it asks for is handed back as [`Effects`], and only from a run
//!   that ended `Completed` or `Waiting`.
//! - Whatever a guest does ends its own run with a code of its own; neighbours go on undisturbed.
//! - Everything in a [`Report`] can be stored: bounded, valid JSON, without U+0000.

pub(crate) mod bindings;
pub mod capabilities;
pub(crate) mod context;
pub mod engine;
mod executor;
#[cfg(test)]
pub(crate) mod guests;
mod job;
pub mod limits;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
mod wasi;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store, UpdateDeadline};

pub use capabilities::db::{DbHost, NoDb};
pub use capabilities::deploy::{DeployHost, NoDeployments};
pub use capabilities::queue::{Effects, QueueError, QueueFilter, QueueHost, Reservation};
pub use capabilities::{Capability, Grants, Import, RefusedImport};
pub use job::{Job, Output, Report, Trigger, Usage, Verdict};
pub use limits::{Limits, MemoryBudget};

use crate::requests::FailureCode;
use crate::skills::artifact::VerifiedArtifact;
pub(crate) use bindings::SkillPre;
use bindings::eve::skill;
use capabilities::db::Database;
use capabilities::deploy::Deploys;
use capabilities::log::SharedLog;
use capabilities::queue::Queue;
use context::Context;
use executor::{Ended, Executor, Keep, Outcome};
use limits::{MemoryAccount, StoreLimiter};

/// How a runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Runs at a time.
    pub max_concurrent: u32,
    /// Bytes that all guests may have together.
    pub memory_budget: usize,
    /// Threads that run guests, and as many again for hogs; 0 means as many as there are cores.
    pub threads: usize,
    /// Where calls that need I/O are made. Must not be a runtime that runs guests.
    pub io: Handle,
}

/// Why a runtime could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// wasmtime refused its settings, or there was no address space for the pool.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// A host function could not be linked: a bug.
    #[error("linking the host functions")]
    Link(#[source] wasmtime::Error),
    /// No threads were to be had.
    #[error("starting the guest threads")]
    Threads(#[source] std::io::Error),
}

/// Why a skill could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It imports what it must not.
    #[error("the skill {0}")]
    Refused(#[from] RefusedImport),
    /// It does not fit the engine: too many memories, tables or instances, or too large ones.
    #[error("the skill does not fit into a worker")]
    Unfit(#[source] wasmtime::Error),
}

/// An error of ours inside a host function; ends the run as `internal`.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed")]
pub struct HostFailure {
    what: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl HostFailure {
    fn new(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what, source: source.into() }
    }
}

/// Runs skills. Cheap to clone; one per process.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    /// With what every skill has.
    linker: Linker<Context>,
    fingerprint: String,
    executor: Executor,
    slots: Arc<Semaphore>,
    budget: MemoryBudget,
    io: Handle,
}

/// A skill that is ready to run. Cheap to clone.
#[derive(Clone)]
pub struct Skill {
    pre: Arc<SkillPre<Context>>,
}

impl Runtime {
    /// Starts the engine and its threads.
    pub fn new(config: RuntimeConfig) -> Result<Self, StartError> {
        let engine = engine::pooling(config.max_concurrent)?;
        let linker = linker(&engine, &Grants::none()).map_err(StartError::Link)?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let executor = Executor::start(threads).map_err(StartError::Threads)?;
        engine::start_ticker(&engine).map_err(StartError::Threads)?;
        Ok(Self {
            inner: Arc::new(Inner {
                fingerprint: engine::fingerprint(&engine),
                engine,
                linker,
                executor,
                slots: Arc::new(Semaphore::new(config.max_concurrent as usize)),
                budget: MemoryBudget::new(config.memory_budget, config.max_concurrent as usize),
                io: config.io,
            }),
        })
    }

    /// What artifacts this runtime can load.
    pub fn fingerprint(&self) -> &str {
        &self.inner.fingerprint
    }

    /// The memory that guests have and may have.
    pub fn memory(&self) -> &MemoryBudget {
        &self.inner.budget
    }

    /// For how long a guest thread has been at what is interrupted every 10 ms: seconds mean that it hangs.
    pub(crate) fn longest_poll(&self) -> Duration {
        self.inner.executor.longest_poll()
    }

    /// The engine that artifacts are mapped into.
    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Prepares a verified artifact, granting it no more than `grants`. Takes 0.3 to 5 ms and reads
    /// no file: what can be slow has happened when the artifact was opened.
    pub fn load(&self, artifact: &VerifiedArtifact, grants: &Grants) -> Result<Skill, LoadError> {
        self.prepare(artifact.component(), grants)
    }

    fn prepare(&self, component: &Component, grants: &Grants) -> Result<Skill, LoadError> {
        let imports = functional_imports(&self.inner.engine, component);
        grants.check(imports.iter().map(String::as_str))?;
        let mut linker = self.inner.linker.clone();
        let pre = link(&mut linker, grants)
            .and_then(|()| linker.instantiate_pre(component))
            .and_then(SkillPre::new)
            .map_err(LoadError::Unfit)?;
        Ok(Skill { pre: Arc::new(pre) })
    }

    /// Runs a skill once. Waits for a slot first; that wait is not part of the run's time. Dropping
    /// the future cancels the run.
    pub async fn run(&self, skill: &Skill, job: Job) -> Report {
        let limits = job.limits;
        let log = SharedLog::default();
        let Ok(permit) = self.inner.slots.clone().acquire_owned().await else {
            return internal(&log, "the runtime is shutting down");
        };
        let account = Arc::new(MemoryAccount::open(&self.inner.budget, limits.memory));
        let queue = Queue::new(job.queue.clone(), self.inner.io.clone());
        let db = Database::new(job.db.clone(), self.inner.io.clone());
        let deploys = Deploys::new(job.deployments.clone(), self.inner.io.clone());
        let limiter = StoreLimiter::new(account.clone());
        let context = Context::new(Box::new(job), log.clone(), queue, db, deploys, limiter);
        let run = once(skill.pre.clone(), self.inner.engine.clone(), context, account.clone());
        let outcome = self.inner.executor.spawn(
            run,
            Account(account.clone()),
            permit,
            limits.wall,
            limits.cpu,
        );
        match outcome.await {
            Ok(outcome) => report(outcome, &log, &account, &limits),
            Err(_) => internal(&log, "the runtime is shutting down"),
        }
    }
}

/// Names of a component's imports that bring functions or resources: an interface of types only
/// needs no grant.
pub(crate) fn functional_imports(engine: &Engine, component: &Component) -> Vec<String> {
    component
        .component_type()
        .imports(engine)
        .filter(|(_, item)| match &item.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).any(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
            }
            _ => true,
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What a skill with these grants is linked against: what every skill has, and what is granted.
pub(crate) fn linker(engine: &Engine, grants: &Grants) -> wasmtime::Result<Linker<Context>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    skill::types::add_to_linker::<Context, HasSelf<Context>>(&mut linker, |context| context)?;
    skill::request::add_to_linker::<Context, HasSelf<Context>>(&mut linker, |context| context)?;
    skill::log::add_to_linker::<Context, HasSelf<Context>>(&mut linker, |context| context)?;
    link(&mut linker, grants)?;
    Ok(linker)
}

/// Adds what is granted.
fn link(linker: &mut Linker<Context>, grants: &Grants) -> wasmtime::Result<()> {
    for capability in Capability::ALL.into_iter().filter(|capability| grants.has(*capability)) {
        match capability {
            Capability::Queue => {
                skill::queue::add_to_linker::<Context, HasSelf<Context>>(linker, |context| {
                    context
                })?;
            }
            Capability::Db => {
                skill::db::add_to_linker::<Context, HasSelf<Context>>(linker, |context| context)?;
            }
            Capability::Deploy => {
                skill::deploy::add_to_linker::<Context, HasSelf<Context>>(linker, |context| {
                    context
                })?;
            }
        }
    }
    Ok(())
}

struct Account(Arc<MemoryAccount>);

impl Keep for Account {
    fn is_heavy(&self) -> bool {
        self.0.peak() > limits::HEAVY_TEARDOWN
    }
}

/// One run, from a fresh store to what it ended with.
async fn once(
    skill: Arc<SkillPre<Context>>,
    engine: Engine,
    context: Context,
    account: Arc<MemoryAccount>,
) -> (Verdict, Effects) {
    let mut store = Store::new(&engine, context);
    store.limiter(|context| &mut context.limiter);
    store.set_hostcall_fuel(limits::HOSTCALL_FUEL);
    store.set_max_component_handles(limits::HANDLES);
    // A guest that computes gives its thread back once a tick, and is looked at.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));

    let verdict = match skill.instantiate_async(&mut store).await {
        Ok(instance) => {
            verdict::of(instance.eve_skill_handler().call_run(&mut store).await, &account)
        }
        Err(error) => verdict::unstartable(&error, &account),
    };
    let effects = match &verdict {
        Verdict::Failed { .. } => Effects::default(),
        _ => {
            let context = store.data_mut();
            Effects { orders: context.deploys.take_orders(), ..context.queue.take_effects() }
        }
    };
    (verdict, effects)
}

fn report(
    outcome: Outcome<(Verdict, Effects)>,
    log: &SharedLog,
    account: &MemoryAccount,
    limits: &Limits,
) -> Report {
    let (verdict, effects) = match outcome.ended {
        Ended::Finished(finished) => finished,
        Ended::TimedOut => (
            verdict::failed(
                FailureCode::TimedOut,
                format!("the run took longer than {}", shown(limits.wall)),
                true,
            ),
            Effects::default(),
        ),
        Ended::CpuExhausted => (
            verdict::failed(
                FailureCode::CpuExhausted,
                format!("the run used more than {} of CPU time", shown(limits.cpu)),
                false,
            ),
            Effects::default(),
        ),
        Ended::Panicked => (
            verdict::failed(FailureCode::Internal, "a host function panicked".into(), true),
            Effects::default(),
        ),
    };
    let (lines, dropped) = log.lock().take();
    Report {
        verdict,
        effects,
        log: lines,
        log_dropped: dropped,
        usage: Usage { wall: outcome.wall, cpu: outcome.cpu, memory_peak: account.peak() },
    }
}

fn internal(log: &SharedLog, message: &str) -> Report {
    let (lines, dropped) = log.lock().take();
    Report {
        verdict: verdict::failed(FailureCode::Internal, message.into(), true),
        effects: Effects::default(),
        log: lines,
        log_dropped: dropped,
        usage: Usage::default(),
    }
}

/// A limit as people write it.
fn shown(limit: Duration) -> String {
    if limit.subsec_millis() == 0 && limit.as_secs() > 0 {
        format!("{} s", limit.as_secs())
    } else {
        format!("{} ms", limit.as_millis())
    }
}
