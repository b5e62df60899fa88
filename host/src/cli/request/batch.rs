//! `eve request fan-out` and `pipeline`: several requests in one call, all of them or none.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::Globals;
use super::super::error::Error;
use super::super::json::{Document, Inputs, kind};
use super::super::output::{Output, Render, View};
use super::create::{REPLY_FLAG, inside, on_failure, orchestrator};
use super::view;
use crate::http::{Batch, CreatedBatch};
use crate::requests::{Blocker, BlockerRef, NewRequest, OnFailure, ReplyTo};

/// Create several requests that run side by side
///
/// Either all of them are created or none. With --collect one more request is created that starts
/// when all of them have ended.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
A task is a JSON object with `worker_type` and, as wanted: skill, prompt, context, repo_url, branch,
config, metadata, blocked_by, reply_to, delay_ms, priority, max_attempts, timeout_ms.
`blocked_by` takes ids, or `#0`, `#1`, … for an earlier task of the list.

Examples:
  eve request fan-out --tasks '[
    {\"worker_type\": \"general\", \"skill\": \"text-stats\", \"context\": {\"text\": \"one\"}},
    {\"worker_type\": \"general\", \"skill\": \"text-stats\", \"context\": {\"text\": \"two\"}}
  ]'

  # Collect what came of them, whether or not all went well
  eve request fan-out --tasks @tasks.json --collect '{\"worker_type\": \"general\"}' --on-failure run

  # Wait for all of them
  eve request watch $(eve request fan-out --tasks @tasks.json | jq -r '.requests[].id')")]
pub struct FanOut {
    /// The tasks: a JSON array
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    tasks: String,

    /// A JSON object that every task's own context is laid over
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    context: Option<String>,

    /// One more task, blocked by all the others
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    collect: Option<String>,

    /// If a task fails or is cancelled: cancel the collecting one, run it anyway, or hold it
    #[arg(long, value_name = "POLICY", default_value = "cancel", requires = "collect",
          value_parser = on_failure())]
    on_failure: OnFailure,

    /// Wake the orchestration that this runs in, which EVE_REQUEST_ID names: when the collecting task
    /// ends, or without --collect whenever one of the tasks ends
    #[arg(long)]
    reply_to_orchestrator: bool,
}

/// Create requests that run one after the other
///
/// Each waits for the one before it. Either all of them are created or none.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
A task is a JSON object with `worker_type` and, as wanted: skill, prompt, context, repo_url, branch,
config, metadata, blocked_by, reply_to, delay_ms, priority, max_attempts, timeout_ms.

Examples:
  eve request pipeline \\
    --tasks '[
      {\"worker_type\": \"general\", \"prompt\": \"Build the image\"},
      {\"worker_type\": \"general\", \"prompt\": \"Run the tests\"},
      {\"worker_type\": \"deployment\", \"prompt\": \"Deploy to dev\"}
    ]' \\
    --context '{\"app\": \"api-service\", \"version\": \"v1.2.3\"}'

  # Follow it to its end
  eve request watch $(eve request pipeline --tasks @tasks.json | jq -r '.requests[].id')")]
pub struct Pipeline {
    /// The tasks in their order: a JSON array
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    tasks: String,

    /// A JSON object that every task's own context is laid over
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    context: Option<String>,

    /// If a task fails or is cancelled: cancel the rest, run the next one anyway, or hold it
    #[arg(long, value_name = "POLICY", default_value = "cancel", value_parser = on_failure())]
    on_failure: OnFailure,

    /// Wake the orchestration that this runs in, which EVE_REQUEST_ID names, when the last task ends,
    /// whether it ran or was cancelled because one before it failed
    #[arg(long)]
    reply_to_orchestrator: bool,
}

impl Render for CreatedBatch {
    fn render(&self, view: &View) -> String {
        view::table(&self.requests, view)
    }
}

/// Creates requests side by side.
pub async fn fan_out(command: FanOut, globals: &Globals, out: &Output) -> Result<(), Error> {
    let requests = command.requests(&mut Inputs::default(), inside().as_deref())?;
    create(requests, globals, out).await
}

/// Creates requests one behind the other.
pub async fn pipeline(command: Pipeline, globals: &Globals, out: &Output) -> Result<(), Error> {
    let requests = command.requests(&mut Inputs::default(), inside().as_deref())?;
    create(requests, globals, out).await
}

async fn create(requests: Vec<NewRequest>, globals: &Globals, out: &Output) -> Result<(), Error> {
    let client = globals.connect()?;
    let created: CreatedBatch = client.post(&["requests", "batch"], &Batch { requests }).await?;
    out.show(&created)
}

impl FanOut {
    fn requests(self, inputs: &mut Inputs, inside: Option<&str>) -> Result<Vec<NewRequest>, Error> {
        let reply = reply(self.reply_to_orchestrator, inside)?;
        let mut requests = tasks(&inputs.read("--tasks", &self.tasks)?, inside)?;
        if let Some(collect) = &self.collect {
            let document = inputs.read("--collect", collect)?;
            let mut last: NewRequest = document.parse()?;
            complete_reply("--collect", &mut last, inside)?;
            let blockers = (0..requests.len()).map(BlockerRef::Entry);
            last.blocked_by.extend(blockers.map(|on| Blocker { on, on_failure: self.on_failure }));
            requests.push(last);
        }
        // Whoever has them collected wants to hear of the collection, not of every part.
        let silent = if self.collect.is_some() { requests.len() - 1 } else { 0 };
        tell(&mut requests[silent..], reply.as_ref());
        share_context(
            &mut requests,
            inputs.optional_object("--context", self.context.as_deref())?,
        )?;
        Ok(requests)
    }
}

impl Pipeline {
    fn requests(self, inputs: &mut Inputs, inside: Option<&str>) -> Result<Vec<NewRequest>, Error> {
        let reply = reply(self.reply_to_orchestrator, inside)?;
        let mut requests = tasks(&inputs.read("--tasks", &self.tasks)?, inside)?;
        for (index, request) in requests.iter_mut().enumerate().skip(1) {
            let before = BlockerRef::Entry(index - 1);
            // A task may say itself that it waits for the one before, with a policy of its own.
            if request.blocked_by.iter().all(|blocker| blocker.on != before) {
                request.blocked_by.push(Blocker { on: before, on_failure: self.on_failure });
            }
        }
        // The end of the last is the end of all: when one fails, those behind it are cancelled.
        let last = requests.len() - 1;
        tell(&mut requests[last..], reply.as_ref());
        share_context(
            &mut requests,
            inputs.optional_object("--context", self.context.as_deref())?,
        )?;
        Ok(requests)
    }
}

/// Reads the tasks. A fault is placed by its index and by line and column.
fn tasks(document: &Document, inside: Option<&str>) -> Result<Vec<NewRequest>, Error> {
    const FORM: &str = "write it like this: --tasks '[{\"worker_type\": \"general\", \
                        \"prompt\": \"…\"}]', @file, or - for stdin";
    let entries = match document.parse::<Value>()? {
        Value::Array(entries) => entries,
        other => {
            let message = format!("--tasks must be a JSON array, not {}", kind(&other));
            return Err(Error::usage_hint(message, FORM));
        }
    };
    if entries.is_empty() {
        return Err(Error::usage_hint("--tasks is an empty array: there is nothing to do", FORM));
    }
    let mut requests: Vec<NewRequest> = document.parse_typed(|| {
        entries
            .iter()
            .position(|entry| NewRequest::deserialize(entry).is_err())
            .map(|index| format!("task {index}"))
    })?;
    for (index, request) in requests.iter_mut().enumerate() {
        complete_reply(&format!("task {index}"), request, inside)?;
    }
    Ok(requests)
}

/// The orchestration that `--reply-to-orchestrator` means.
fn reply(wanted: bool, inside: Option<&str>) -> Result<Option<ReplyTo>, Error> {
    wanted.then(|| orchestrator(REPLY_FLAG, inside)).transpose()
}

/// Has requests reply that do not name whom to reply to themselves.
fn tell(requests: &mut [NewRequest], reply: Option<&ReplyTo>) {
    for request in requests {
        request.reply_to = request.reply_to.take().or_else(|| reply.cloned());
    }
}

/// A task's own `reply_to` without an id means what the flag means.
fn complete_reply(
    place: &str,
    request: &mut NewRequest,
    inside: Option<&str>,
) -> Result<(), Error> {
    if let Some(ReplyTo::Orchestrator { request_id: None }) = request.reply_to {
        request.reply_to = Some(orchestrator(&format!("{place}: `reply_to`"), inside)?);
    }
    Ok(())
}

/// Lays every request's own context over the shared one: names at the top level, the own one wins.
fn share_context(requests: &mut [NewRequest], shared: Option<Value>) -> Result<(), Error> {
    let shared = match shared {
        Some(Value::Object(shared)) => shared,
        _ => Map::new(),
    };
    for (index, request) in requests.iter_mut().enumerate() {
        let Value::Object(own) = &mut request.context else {
            let found = kind(&request.context);
            return Err(Error::usage(format!(
                "task {index}: `context` must be a JSON object, not {found}"
            )));
        };
        for (name, value) in &shared {
            own.entry(name).or_insert_with(|| value.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(tasks: &str, context: Option<&str>) -> Pipeline {
        Pipeline {
            tasks: tasks.into(),
            context: context.map(str::to_owned),
            on_failure: OnFailure::Cancel,
            reply_to_orchestrator: false,
        }
    }

    fn blockers(request: &NewRequest) -> Vec<String> {
        request.blocked_by.iter().map(|blocker| blocker.on.to_string()).collect()
    }

    #[test]
    fn each_task_waits_for_the_one_before() {
        let tasks = r##"[{"worker_type": "general"}, {"worker_type": "general"},
            {"worker_type": "general", "blocked_by": [{"id": "#1", "on_failure": "run"}, "#0"]}]"##;
        let requests = line(tasks, None).requests(&mut Inputs::default(), None).expect("requests");
        assert!(blockers(&requests[0]).is_empty());
        assert_eq!(blockers(&requests[1]), ["#0"]);
        assert_eq!(blockers(&requests[2]), ["#1", "#0"]);
        assert_eq!(requests[2].blocked_by[0].on_failure, OnFailure::Run);
    }

    #[test]
    fn a_tasks_own_context_wins_over_the_shared_one() {
        let tasks = r#"[{"worker_type": "general", "context": {"env": "dev", "deep": {"a": 1}}},
            {"worker_type": "general"}]"#;
        let shared = r#"{"env": "prod", "app": "api", "deep": {"b": 2}}"#;
        let requests =
            line(tasks, Some(shared)).requests(&mut Inputs::default(), None).expect("requests");
        assert_eq!(requests[0].context, json!({"env": "dev", "app": "api", "deep": {"a": 1}}));
        assert_eq!(requests[1].context, json!({"env": "prod", "app": "api", "deep": {"b": 2}}));
    }

    #[test]
    fn a_collector_waits_for_all() {
        let command = FanOut {
            tasks: r#"[{"worker_type": "general"}, {"worker_type": "general"}]"#.into(),
            context: Some(r#"{"app": "api"}"#.into()),
            collect: Some(r#"{"worker_type": "general"}"#.into()),
            on_failure: OnFailure::Run,
            reply_to_orchestrator: false,
        };
        let requests = command.requests(&mut Inputs::default(), None).expect("requests");
        assert_eq!(requests.len(), 3);
        assert!(blockers(&requests[1]).is_empty());
        assert_eq!(blockers(&requests[2]), ["#0", "#1"]);
        assert_eq!(requests[2].context, json!({"app": "api"}));
    }

    #[test]
    fn faults_are_placed() {
        let said = |tasks: &str| {
            let error =
                line(tasks, None).requests(&mut Inputs::default(), None).expect_err("refused");
            error.to_string()
        };
        insta::assert_snapshot!(
            said("[\n  {\"worker_type\": \"general\"},\n  {\"worker_type\": \"general\", \"promt\": \"x\"}\n]"),
            @r#"
        --tasks:3:36: task 1: unknown field `promt`, expected one of `worker_type`, `skill`, `prompt`, `context`, `repo_url`, `branch`, `config`, `metadata`, `blocked_by`, `reply_to`, `detached`, `delay_ms`, `priority`, `max_attempts`, `timeout_ms`, `idempotency_key`
              {"worker_type": "general", "promt": "x"}
                                               ^
        "#
        );
        insta::assert_snapshot!(said("{}"), @r#"--tasks must be a JSON array, not an object"#);
        insta::assert_snapshot!(said("[]"), @r#"--tasks is an empty array: there is nothing to do"#);
        insta::assert_snapshot!(said(r#"[{"prompt": "x"}]"#), @r#"
        --tasks:1:16: task 0: missing field `worker_type`
            [{"prompt": "x"}]
                           ^
        "#);
        insta::assert_snapshot!(said(r#"[{"worker_type": "general", "context": [1]}]"#), @r#"task 0: `context` must be a JSON object, not an array"#);
        insta::assert_snapshot!(
            said(r#"[{"worker_type": "general", "reply_to": {"type": "orchestrator"}}]"#),
            @r#"task 0: `reply_to` only works inside a run: EVE_REQUEST_ID is not set, so there is no orchestration to wake"#
        );
    }

    const RUN: &str = "01990000-0000-7000-8000-000000000001";

    /// Which of the requests reply, and to whom.
    fn replies(requests: &[NewRequest]) -> Vec<Option<String>> {
        let to = |request: &NewRequest| match request.reply_to.as_ref()? {
            ReplyTo::Orchestrator { request_id } => request_id.map(|id| id.to_string()),
        };
        requests.iter().map(to).collect()
    }

    #[test]
    fn the_end_of_a_pipeline_replies() {
        let tasks = r#"[{"worker_type": "general"}, {"worker_type": "general"}]"#;
        let inside = || Pipeline { reply_to_orchestrator: true, ..line(tasks, None) };
        let requests = inside().requests(&mut Inputs::default(), Some(RUN)).expect("requests");
        assert_eq!(replies(&requests), [None, Some(RUN.to_owned())]);
        let refused = inside().requests(&mut Inputs::default(), None).expect_err("outside");
        assert_eq!(refused.exit(), super::super::super::Exit::Usage);
    }

    #[test]
    fn every_task_of_a_fan_out_replies_or_only_the_collector() {
        let other = "01990000-0000-7000-8000-000000000002";
        let tasks = format!(
            r#"[{{"worker_type": "general"}},
                {{"worker_type": "general", "reply_to": {{"type": "orchestrator", "request_id": "{other}"}}}},
                {{"worker_type": "general", "reply_to": {{"type": "orchestrator"}}}}]"#
        );
        let fan_out = |collect: Option<&str>, reply_to_orchestrator| {
            let command = FanOut {
                tasks: tasks.clone(),
                context: None,
                collect: collect.map(str::to_owned),
                on_failure: OnFailure::Cancel,
                reply_to_orchestrator,
            };
            replies(&command.requests(&mut Inputs::default(), Some(RUN)).expect("requests"))
        };
        let (run, other) = (Some(RUN.to_owned()), Some(other.to_owned()));
        assert_eq!(fan_out(None, true), [run.clone(), other.clone(), run.clone()]);
        // What a task says itself counts in any case.
        let collector = Some(r#"{"worker_type": "general"}"#);
        assert_eq!(fan_out(collector, true), [None, other.clone(), run.clone(), run.clone()]);
        assert_eq!(fan_out(collector, false), [None, other, run, None]);
    }
}
