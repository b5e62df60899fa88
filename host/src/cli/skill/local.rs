//! The real runtime on this machine, with a queue in memory in the platform's place.
//!
//! Flow: [`check`] has a component checked and compiled in a child process, as a server does;
//! [`Bench::prepare`] maps the machine code, and [`Bench::run`] runs it once.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use serde_json::Value;
use tempfile::TempDir;

use super::super::error::Error;
use super::trigger::Trigger;
use crate::delivery::claim::WakeEvent;
use crate::ids::RequestId;
use crate::requests::orchestration::EventKind;
use crate::requests::{NewRequest, RequestResult, Status, empty_object};
use crate::runtime::capabilities::memory_queue::MemoryQueue;
use crate::runtime::{
    DbHost, Effects, Grants, Job, LoadError, Report, Runtime, RuntimeConfig, Skill, Verdict, limits,
};
use crate::skills::artifact::{ArtifactCache, Signer, Statement, Verifier, pack};
use crate::skills::compile::{self, CompileError, Compiled};
use crate::worker::Why;

/// Memory that the only guest of this process may have: room for what a worker type may allow.
const MEMORY: usize = 2 * limits::MEMORY_CEILING;

/// Checks and compiles a component in a child process, exactly as a server would.
pub async fn check(wasm: &[u8], path: &Path) -> Result<Compiled, Error> {
    let exe = std::env::current_exe()
        .map_err(|error| Error::local(format!("cannot find our own binary: {error}")))?;
    compile::compile(wasm, &exe).await.map_err(|error| match error {
        CompileError::Rejected(reason) => Error::local_hint(
            format!("{} is no skill: {reason}", path.display()),
            "a server would refuse it for the same reason",
        ),
        ours => failed("compiling the component", &ours),
    })
}

/// Our own failure, with its causes.
pub fn failed(doing: &str, error: &dyn std::error::Error) -> Error {
    let mut text = format!("{doing} failed: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    Error::local(text)
}

/// Where components are run.
pub struct Bench {
    runtime: Runtime,
    signer: Signer,
    cache: ArtifactCache,
    db: Arc<dyn DbHost>,
    _folder: TempDir,
}

/// What to run a skill with.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What is wanted, in words.
    pub prompt: String,
    /// What is wanted, for programs: an object.
    pub context: Value,
    /// Why the run takes place, and what else came in; none is the first run.
    pub triggers: Vec<Trigger>,
    /// Which attempt it is.
    pub attempt: u32,
    /// The pool that it pretends to run in.
    pub worker_type: String,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            prompt: String::new(),
            context: empty_object(),
            triggers: Vec::new(),
            attempt: 1,
            worker_type: "general".to_owned(),
        }
    }
}

impl Bench {
    /// Starts the runtime. One a process: it reserves terabytes of address space.
    pub fn new(db: Arc<dyn DbHost>) -> Result<Bench, Error> {
        let folder = TempDir::new().map_err(|error| failed("making a temporary folder", &error))?;
        let signer = Signer::generate();
        let artifacts = folder.path().join("artifacts");
        let cache = Verifier::new([signer.public_key().as_str()])
            .and_then(|verifier| ArtifactCache::open(&artifacts, verifier))
            .map_err(|error| failed("keeping machine code", &error))?;
        let io = tokio::runtime::Handle::current();
        let config = RuntimeConfig { max_concurrent: 1, memory_budget: MEMORY, threads: 1, io };
        let runtime = Runtime::new(config).map_err(|error| failed("starting wasmtime", &error))?;
        Ok(Bench { runtime, signer, cache, db, _folder: folder })
    }

    /// Prepares what [`check`] has compiled of `wasm`, granting it no more than `grants`.
    pub fn prepare(
        &self,
        wasm: &Bytes,
        compiled: &Compiled,
        grants: &Grants,
    ) -> Result<Skill, Error> {
        let statement = Statement::about(&compiled.artifact, wasm, &compiled.fingerprint);
        let claim = self.signer.sign(statement);
        let artifact = pack(&compiled.artifact)
            .and_then(|packed| self.cache.put(&claim, &packed))
            .and_then(|()| self.cache.get(&self.runtime, &claim))
            .map_err(|error| failed("mapping the compiled skill", &error))?
            .ok_or_else(|| Error::local("the compiled skill was gone at once"))?;
        self.runtime.load(&artifact, grants).map_err(|error| match error {
            LoadError::Refused(refused) => Error::local_hint(
                format!("the skill {refused}"),
                "name what it needs in SKILL.md, under `capabilities`; a worker type has to grant \
                 the same",
            ),
            unfit => failed("loading the skill", &unfit),
        })
    }

    /// Runs a skill once. What it asks for is not done, only told.
    pub async fn run(&self, skill: &Skill, setting: &Setting) -> Report {
        let id = RequestId::generate();
        let queue = Arc::new(MemoryQueue::default());
        let (events, schedule) = happened(&setting.triggers);
        for event in events.iter().filter(|event| event.kind == EventKind::Child) {
            add_child(&queue, id, event);
        }
        let own = setting.context.to_string();
        let why = match schedule {
            Some(name) => Why::scheduled(name, own),
            None if events.is_empty() => Why::initial(own),
            None => Why::woken(id, &own, &events),
        };
        let job = Job {
            attempt: setting.attempt,
            prompt: setting.prompt.clone(),
            context: why.context,
            trigger: why.trigger,
            additional_triggers: why.additional,
            worker_type: setting.worker_type.clone(),
            db: self.db.clone(),
            ..Job::bare(id, queue)
        };
        let mut report = self.runtime.run(skill, job).await;
        // Of a run that was woken nobody here knows what its earlier ones had started.
        let is_first = events.is_empty();
        let waits = matches!(report.verdict, Verdict::Waiting { .. });
        if is_first && waits && !is_woken(&report.effects) {
            report.verdict = Verdict::Failed {
                code: crate::requests::FailureCode::NothingToWaitFor,
                message: "waiting, while nothing is outstanding that could wake it".into(),
                retryable: false,
            };
            report.effects = Effects::default();
        }
        report
    }
}

/// Whether something that the run asked for wakes it.
fn is_woken(effects: &Effects) -> bool {
    let cancelled = |id| effects.cancels.iter().any(|(cancelled, _)| *cancelled == id);
    !effects.questions.is_empty()
        || !effects.timers.is_empty()
        || effects.creates.iter().any(|(id, new)| new.reply_to.is_some() && !cancelled(*id))
}

/// What has happened to an orchestration, or the schedule that created the request.
fn happened(triggers: &[Trigger]) -> (Vec<WakeEvent>, Option<String>) {
    if let [Trigger::Cron { name }] = triggers {
        return (Vec::new(), Some(name.clone()));
    }
    (triggers.iter().filter_map(Trigger::event).collect(), None)
}

/// A child that has ended as the event says: the skill may ask for it.
fn add_child(queue: &MemoryQueue, parent: RequestId, event: &WakeEvent) {
    let id = RequestId(event.source);
    let request = NewRequest {
        worker_type: "general".into(),
        skill: None,
        prompt: String::new(),
        context: empty_object(),
        repo_url: None,
        branch: None,
        config: empty_object(),
        metadata: empty_object(),
        blocked_by: Vec::new(),
        reply_to: None,
        detached: false,
        delay_ms: None,
        priority: 0,
        max_attempts: None,
        timeout_ms: None,
        idempotency_key: None,
    };
    queue.commit(parent, &Effects { creates: vec![(id, request)], ..Effects::default() });
    let status: Status =
        serde_json::from_value(event.payload["status"].clone()).unwrap_or(Status::Completed);
    let is_completed = status == Status::Completed;
    queue.finish(RequestResult {
        request_id: id,
        status,
        generation: 1,
        summary: is_completed.then(String::new),
        data: event.payload.get("data").filter(|_| is_completed).cloned(),
        error: (!is_completed).then(|| crate::requests::Problem {
            code: status.to_string(),
            message: format!("{status}, as --trigger says"),
        }),
        tokens_used: None,
        cost: None,
        attempt: 1,
        started_at: Some(Utc::now()),
        finished_at: Utc::now(),
        duration_us: None,
        cpu_us: None,
        memory_peak_bytes: None,
    });
}
