//! `eve skill run`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::error::{Error, Exit};
use super::super::json::Inputs;
use super::super::output::{
    Output, Render, View, cell, optional, plain, plain_text, size, text_cell,
};
use super::super::request::log_line;
use super::build::{self, Options};
use super::local::{self, Bench, Setting};
use super::project::{self, Project};
use super::push::read_component;
use super::state;
use super::trigger::{self, Trigger};
use crate::hitl::NewQuestion;
use crate::ids::{QuestionId, RequestId};
use crate::requests::{LogLine, NewRequest, empty_object};
use crate::runtime::{Capability, Grants, Report, Verdict};
use crate::skills::compile::Compiled;

/// Run a skill on this machine
///
/// Builds the skill if PATH is its folder, and runs it once in the runtime that workers have, with the
/// same limits, granted what its SKILL.md names. Needs no server: the queue is one in memory, and what
/// the run asks for is shown, not done. What it keeps in its schemas is real: a Postgres is started for a
/// skill that has any, and what a skill's folder has kept stays there, in target/eve/state.
#[derive(clap::Args, Debug)]
#[command(after_help = format!("\
Triggers:
  {FORMS}

Examples:
  eve skill run --context '{{\"text\": \"one two\"}}'
  eve skill run skills/release-notes --context @history.json
  eve skill run --context @context.json --trigger child='{{\"words\": 3}}' --trigger timer:remind
  eve skill run target/eve/echo.wasm --prompt hello | jq -r .summary

Exit codes: 0 it completed or waits, 1 it failed or could not be built, 2 usage.",
    FORMS = trigger::FORMS))]
pub struct Run {
    /// The skill's folder, or a component
    #[arg(default_value = ".")]
    path: PathBuf,
    /// What is wanted, in words
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    prompt: String,
    /// What is wanted, for programs: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    context: Option<String>,
    /// Why the run takes place, see below; several are delivered together
    #[arg(long = "trigger", value_name = "TRIGGER")]
    triggers: Vec<Trigger>,
    /// Which attempt the run is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=25))]
    attempt: u32,
    /// The pool that it is told it runs in
    #[arg(long, value_name = "TYPE", default_value = "general")]
    worker_type: String,
    /// Run the component that is there
    #[arg(long)]
    no_build: bool,
    /// Begin with empty schemas
    #[arg(long)]
    fresh: bool,
}

/// How a run went, as it is shown.
#[derive(Serialize)]
struct Ran {
    skill: String,
    /// `completed`, `waiting` or `failed`.
    status: &'static str,
    summary: Option<String>,
    data: Option<Value>,
    tokens_used: Option<i64>,
    cost: Option<f64>,
    /// How long it waits at most, where it says so.
    deadline_ms: Option<u64>,
    error: Option<Failure>,
    effects: Shown,
    log: Vec<LogLine>,
    log_dropped: u64,
    duration_us: u64,
    cpu_us: u64,
    memory_peak_bytes: u64,
}

#[derive(Serialize)]
struct Failure {
    code: &'static str,
    message: String,
    retryable: bool,
}

/// What the platform would do with the run's end, and not otherwise.
#[derive(Serialize)]
struct Shown {
    requests: Vec<Created>,
    cancels: Vec<Cancelled>,
    questions: Vec<Asked>,
    timers: Vec<Timer>,
}

#[derive(Serialize)]
struct Created {
    id: RequestId,
    #[serde(flatten)]
    request: NewRequest,
}

#[derive(Serialize)]
struct Cancelled {
    id: RequestId,
    reason: Option<String>,
}

#[derive(Serialize)]
struct Asked {
    id: QuestionId,
    #[serde(flatten)]
    question: NewQuestion,
}

#[derive(Serialize)]
struct Timer {
    name: String,
    after_ms: u64,
}

/// Builds if need be, and runs.
pub async fn run(command: Run, out: &Output) -> Result<Exit, Error> {
    let context = Inputs::default().optional_object("--context", command.context.as_deref())?;
    if command.triggers.len() > 1 && command.triggers.contains(&Trigger::Initial) {
        return Err(Error::usage(
            "--trigger initial is a first run: nothing else has happened then",
        ));
    }
    let setting = Setting {
        prompt: command.prompt,
        context: context.unwrap_or_else(empty_object),
        triggers: command.triggers,
        attempt: command.attempt,
        worker_type: command.worker_type,
    };
    let subject = match command.path.is_dir() {
        true => Subject::of_folder(&command.path, command.no_build, out).await?,
        false => Subject::of_file(&command.path).await?,
    };
    let folder = subject.folder(command.fresh, out)?;
    let ran = state::around(&subject.compiled, folder, subject.schemas.clone(), async |db| {
        let bench = Bench::new(db)?;
        let skill = bench.prepare(&subject.wasm, &subject.compiled, &subject.grants)?;
        Ok(Ran::of(subject.name.clone(), bench.run(&skill, &setting).await))
    })
    .await?;
    let exit = if ran.error.is_some() { Exit::Failed } else { Exit::Ok };
    out.show(&ran)?;
    Ok(exit)
}

/// What is to be run.
struct Subject {
    name: String,
    wasm: Bytes,
    compiled: Compiled,
    grants: Grants,
    /// The schemas that SKILL.md names; none if there is no SKILL.md.
    schemas: Option<BTreeSet<String>>,
    /// Where state is kept.
    folder: Option<PathBuf>,
}

impl Subject {
    /// Where a skill that has schemas keeps them: emptied if that is wanted.
    fn folder(&self, fresh: bool, out: &Output) -> Result<Option<&Path>, Error> {
        let uses_db = self.compiled.capabilities.contains(&Capability::Db);
        let Some(folder) = self.folder.as_deref().filter(|_| uses_db) else { return Ok(None) };
        if fresh && folder.exists() {
            std::fs::remove_dir_all(folder).map_err(|source| Error::File {
                doing: "remove",
                path: folder.to_owned(),
                source,
            })?;
        }
        if !folder.exists() {
            out.note("making a database for the skill, once");
        }
        Ok(Some(folder))
    }

    async fn of_folder(path: &Path, no_build: bool, out: &Output) -> Result<Subject, Error> {
        let project = Project::open(path)?;
        let name = project.manifest.name.clone();
        let grants: Grants = project.manifest.capabilities.iter().copied().collect();
        let schemas = Some(project.manifest.schemas.iter().cloned().collect());
        let folder = Some(project.folder.join(project::OUTPUT).join("state"));
        if !no_build {
            // What cargo has to say about a build is worth hearing when there is one; that there was
            // nothing to do is not.
            let made =
                build::make(&project, &Options { reuse: true, ..Options::default() }, out).await?;
            let (wasm, compiled) = (made.wasm, made.compiled);
            return Ok(Subject { name, wasm, compiled, grants, schemas, folder });
        }
        let component = project.component();
        if !component.is_file() {
            return Err(Error::usage_hint(
                format!("{} is not there", project.shown(&component)),
                "build it: `eve skill build`, or leave out --no-build",
            ));
        }
        let wasm = read_component(&component)?;
        let compiled = local::check(&wasm, &component).await?;
        Ok(Subject { name, wasm, compiled, grants, schemas, folder })
    }

    /// A component by itself is granted everything, unless a SKILL.md beside it says what it needs.
    async fn of_file(path: &Path) -> Result<Subject, Error> {
        let wasm = read_component(path)?;
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let beside = project::read_manifest(folder.unwrap_or(Path::new(".")))?;
        let (name, grants, schemas) = match beside {
            Some((_, manifest)) => (
                manifest.name,
                manifest.capabilities.into_iter().collect(),
                Some(manifest.schemas.into_iter().collect()),
            ),
            None => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                (stem.into_owned(), Grants::all(), None)
            }
        };
        let compiled = local::check(&wasm, path).await?;
        Ok(Subject { name, wasm, compiled, grants, schemas, folder: None })
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Ran {
    fn of(skill: String, report: Report) -> Ran {
        let Report { verdict, effects, log, log_dropped, usage } = report;
        let mut ran = Ran {
            skill,
            status: "completed",
            summary: None,
            data: None,
            tokens_used: None,
            cost: None,
            deadline_ms: None,
            error: None,
            effects: Shown {
                requests: effects
                    .creates
                    .into_iter()
                    .map(|(id, request)| Created { id, request })
                    .collect(),
                cancels: effects
                    .cancels
                    .into_iter()
                    .map(|(id, reason)| Cancelled { id, reason })
                    .collect(),
                questions: effects
                    .questions
                    .into_iter()
                    .map(|(id, question)| Asked { id, question })
                    .collect(),
                timers: effects
                    .timers
                    .into_iter()
                    .map(|(name, delay)| Timer { name, after_ms: milliseconds(delay) })
                    .collect(),
            },
            log,
            log_dropped,
            duration_us: microseconds(usage.wall),
            cpu_us: microseconds(usage.cpu),
            memory_peak_bytes: usage.memory_peak as u64,
        };
        match verdict {
            Verdict::Completed(output) => {
                ran.summary = Some(output.summary);
                // It was checked to be JSON when the run ended.
                ran.data = output.data.and_then(|data| serde_json::from_str(&data).ok());
                ran.tokens_used = output.tokens_used;
                ran.cost = output.cost;
            }
            Verdict::Waiting { deadline } => {
                ran.status = "waiting";
                ran.deadline_ms = deadline.map(milliseconds);
            }
            Verdict::Failed { code, message, retryable } => {
                ran.status = "failed";
                ran.error = Some(Failure { code: code.as_str(), message, retryable });
            }
        }
        ran
    }
}

impl Render for Ran {
    fn render(&self, view: &View) -> String {
        let mut text = String::new();
        for line in &self.log {
            text.push_str(&format!("{}\n", log_line(line)));
        }
        if self.log_dropped > 0 {
            let dropped = self.log_dropped;
            text.push_str(&format!("({dropped} more lines are not kept: the run logs too much)\n"));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let mut pairs = vec![("skill", cell(&self.skill)), ("status", cell(self.status))];
        let mut add = |name, value: Option<String>| {
            pairs.extend(value.filter(|value| !value.is_empty()).map(|v| (name, text_cell(v))));
        };
        add("summary", self.summary.clone());
        add(
            "error",
            self.error.as_ref().map(|error| {
                let again = if error.retryable { ", worth another attempt" } else { "" };
                format!("{} ({}{again})", error.message, error.code)
            }),
        );
        add("data", self.data.as_ref().and_then(|data| serde_json::to_string_pretty(data).ok()));
        add("tokens used", self.tokens_used.map(|tokens| tokens.to_string()));
        add("cost", self.cost.map(|cost| format!("${cost}")));
        add("waits", self.deadline_ms.map(|ms| format!("{} s at most", ms / 1_000)));
        let span = |us: u64| format!("{:.1} ms", us as f64 / 1_000.0);
        add("duration", Some(span(self.duration_us)));
        add("cpu", Some(span(self.cpu_us)));
        add("peak memory", Some(size(self.memory_peak_bytes)));
        text.push_str(&view.details(pairs));
        if let Some(effects) = self.effects.render(view) {
            text.push_str(&format!("\n\nWould commit:\n{effects}"));
        }
        text
    }
}

impl Shown {
    /// A table with a line for each thing; none if there is none.
    fn render(&self, view: &View) -> Option<String> {
        let id = |id: &str| cell(id);
        let mut rows = Vec::new();
        for Created { id: made, request } in &self.requests {
            let mut about = plain(&request.prompt);
            if request.context != json!({}) {
                about = format!("{about} {}", plain(&request.context.to_string()));
            }
            if !request.blocked_by.is_empty() {
                about = format!("{about} (after {} others)", request.blocked_by.len());
            }
            rows.push([
                cell("request"),
                id(&made.to_string()),
                cell(match &request.skill {
                    Some(skill) => format!("{}/{skill}", request.worker_type),
                    None => request.worker_type.clone(),
                }),
                cell(about.trim()),
            ]);
        }
        for Cancelled { id: cancelled, reason } in &self.cancels {
            rows.push([
                cell("cancel"),
                id(&cancelled.to_string()),
                cell("-"),
                optional(reason.as_ref()),
            ]);
        }
        for Asked { id: asked, question } in &self.questions {
            let options = match question.options.is_empty() {
                true => "anything".to_owned(),
                false => question.options.join("/"),
            };
            let text = plain_text(&question.question).replace('\n', " ");
            rows.push([cell("question"), id(&asked.to_string()), cell(options), cell(text)]);
        }
        for Timer { name, after_ms } in &self.timers {
            let after = format!("in {} s", after_ms / 1_000);
            rows.push([cell("timer"), cell("-"), cell(after), cell(name)]);
        }
        (!rows.is_empty()).then(|| view.table(["WHAT", "ID", "FOR", "ABOUT"], 3, rows))
    }
}
