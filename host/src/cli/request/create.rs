//! `eve request create`.

use std::time::Duration;

use super::super::Globals;
use super::super::duration;
use super::super::error::{Error, Exit};
use super::super::json::Inputs;
use super::super::output::{Output, plain};
use super::{view, watch};
use crate::ids::RequestId;
use crate::requests::{
    Blocker, BlockerRef, NewRequest, OnFailure, ReplyTo, Request, RequestResult, empty_object,
};

/// Names the request on whose behalf a shell inside a run calls the command line.
const REQUEST_ID: &str = "EVE_REQUEST_ID";
/// The flag that has an orchestration woken.
pub const REPLY_FLAG: &str = "--reply-to-orchestrator";

/// Create a request
///
/// Prints the new request; its id is what every other command wants. Arguments called JSON are
/// written in place, as @FILE, or as - for standard input.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  # Run a skill and wait for its result
  eve request create --worker-type general --skill echo --prompt 'Hello' --wait

  # One request after another: the second runs when the first has completed
  DEV=$(eve request create --worker-type deployment --prompt 'Deploy to dev' \\
    --context '{\"app\": \"api\", \"env\": \"dev\"}' | jq -r '.id')
  eve request create --worker-type deployment --prompt 'Deploy to staging' \\
    --blocked-by \"$DEV\" --context @staging.json

  # At most once, however often the script runs
  eve request create --worker-type general --prompt 'Nightly report' \\
    --idempotency-key \"report-$(date +%F)\"

  # Inside a run, whose request EVE_REQUEST_ID names: wake its orchestration when this one ends
  eve request create --worker-type deployment --prompt 'Deploy canary' --reply-to-orchestrator

Exit codes: 0 created (with --wait: completed), 1 failed or cancelled (with --wait),
2 usage or refused input, 3 not found, 4 denied, 5 server not reached.")]
pub struct Create {
    /// The pool of workers that runs it; `eve worker-type list` shows them
    #[arg(long, value_name = "TYPE")]
    pub worker_type: String,

    /// The skill to run [default: the worker type's]
    #[arg(long, value_name = "NAME")]
    pub skill: Option<String>,

    /// What is wanted, in words
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,

    /// What is wanted, for programs: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub context: Option<String>,

    /// Requests that must end first; repeatable, or separated by commas
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = request_id)]
    pub blocked_by: Vec<RequestId>,

    /// If one of them fails or is cancelled: cancel this request, run it anyway, or hold it back
    /// until the other has been retried and has completed
    #[arg(long, value_name = "POLICY", default_value = "cancel", requires = "blocked_by",
          value_parser = on_failure())]
    pub on_failure: OnFailure,

    /// The repository that it is about
    #[arg(long, value_name = "URL")]
    pub repo_url: Option<String>,

    /// The branch that it is about
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,

    /// Settings for the skill: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub config: Option<String>,

    /// Labels: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub metadata: Option<String>,

    /// -100 to 100, lower first; counts within your organisation only
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i16,

    /// Start no earlier than this from now, such as 90s, 10m or 7d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub delay: Option<Duration>,

    /// Stop a run that takes longer, such as 90s or 10m [default: the worker type's]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,

    /// How often a failure that may pass is tried in all [default: 3]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u16>,

    /// The same key twice creates one request and shows it twice
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,

    /// Wake the orchestration that this runs in when the request ends: the one that EVE_REQUEST_ID
    /// names
    #[arg(long)]
    pub reply_to_orchestrator: bool,

    /// Let it go on when the orchestration that created it ends
    #[arg(long)]
    pub detached: bool,

    /// Wait until it has ended and print its result instead
    #[arg(long)]
    pub wait: bool,
}

/// Reads a request's id. An empty one is what a failed command in `$(…)` leaves behind.
pub fn request_id(text: &str) -> Result<RequestId, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty; did the command that should have printed the id fail?".into());
    }
    text.parse().map_err(|_| "an id is a UUID, as `eve request create` prints it".into())
}

/// The policies of an edge, by their words in the API.
pub fn on_failure() -> impl clap::builder::TypedValueParser<Value = OnFailure> {
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(["cancel", "run", "hold"]).map(|word| {
        match word.as_str() {
            "run" => OnFailure::Run,
            "hold" => OnFailure::Hold,
            _ => OnFailure::Cancel,
        }
    })
}

/// The request on whose behalf the command line runs, from the environment; none outside a run.
pub fn inside() -> Option<String> {
    let id = std::env::var_os(REQUEST_ID)?;
    Some(id.to_string_lossy().into_owned()).filter(|id| !id.trim().is_empty())
}

/// The orchestration that hears of a request's end: the one that the request `inside` belongs to.
/// `asked_by` is the flag, or the task, that wants it told.
pub fn orchestrator(asked_by: &str, inside: Option<&str>) -> Result<ReplyTo, Error> {
    let Some(id) = inside else {
        return Err(Error::usage_hint(
            format!(
                "{asked_by} only works inside a run: {REQUEST_ID} is not set, so there is no \
                 orchestration to wake"
            ),
            format!(
                "set {REQUEST_ID} to the id of the open request that shall be woken, or leave it \
                 out and wait with --wait or `eve request watch ID`; a skill that orchestrates says \
                 `.reply_to_me()` when it creates the request"
            ),
        ));
    };
    match request_id(id) {
        Ok(id) => Ok(ReplyTo::Orchestrator { request_id: Some(id) }),
        Err(_) => Err(Error::usage_hint(
            format!("{asked_by}: {REQUEST_ID} is `{}`, which is no request's id", plain(id)),
            format!("set {REQUEST_ID} to a UUID, as `eve request create` prints it"),
        )),
    }
}

impl Create {
    fn request(self, inputs: &mut Inputs, inside: Option<&str>) -> Result<NewRequest, Error> {
        let reply_to = match self.reply_to_orchestrator {
            true => Some(orchestrator(REPLY_FLAG, inside)?),
            false => None,
        };
        let on_failure = self.on_failure;
        Ok(NewRequest {
            worker_type: self.worker_type,
            skill: self.skill,
            prompt: self.prompt.unwrap_or_default(),
            context: inputs
                .optional_object("--context", self.context.as_deref())?
                .unwrap_or_else(empty_object),
            repo_url: self.repo_url,
            branch: self.branch,
            config: inputs
                .optional_object("--config", self.config.as_deref())?
                .unwrap_or_else(empty_object),
            metadata: inputs
                .optional_object("--metadata", self.metadata.as_deref())?
                .unwrap_or_else(empty_object),
            blocked_by: self
                .blocked_by
                .into_iter()
                .map(|id| Blocker { on: BlockerRef::Id(id), on_failure })
                .collect(),
            reply_to,
            detached: self.detached,
            delay_ms: self.delay.map(duration::milliseconds),
            priority: self.priority,
            max_attempts: self.max_attempts,
            timeout_ms: self.timeout.map(duration::milliseconds),
            idempotency_key: self.idempotency_key,
        })
    }
}

/// Creates the request; with `--wait` stays until it has ended.
pub async fn run(command: Create, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let wait = command.wait;
    let new = command.request(&mut Inputs::default(), inside().as_deref())?;
    let client = globals.connect()?;
    let request: Request = client.post(&["requests"], &new).await?;
    if !wait {
        out.show(&view::Created(request))?;
        return Ok(Exit::Ok);
    }
    out.note(&format!("created {}", request.id));
    let id = request.id.to_string();
    let exit = watch::ended(&client, &[request.id], watch::Shown::Progress, out).await?;
    let result: RequestResult = client.get(&["requests", &id, "result"]).await?;
    out.show(&result)?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn parsed(arguments: &[&str]) -> Result<NewRequest, String> {
        let line = Line::try_parse_from(["create"].iter().chain(arguments))
            .map_err(|error| error.to_string())?;
        line.create.request(&mut Inputs::default(), None).map_err(|error| error.to_string())
    }

    const ID: &str = "01990000-0000-7000-8000-000000000001";
    const OTHER: &str = "01990000-0000-7000-8000-000000000002";

    #[test]
    fn flags_become_a_request() {
        let both = format!("{ID},{OTHER}");
        let request = parsed(&[
            "--worker-type",
            "deployment",
            "--prompt",
            "- Deploy",
            "--context",
            r#"{"a":1}"#,
            "--blocked-by",
            &both,
            "--blocked-by",
            ID,
            "--on-failure",
            "hold",
            "--delay",
            "10m",
            "--timeout",
            "500ms",
            "--priority",
            "-5",
        ])
        .expect("a request");
        insta::assert_json_snapshot!(request, @r##"
        {
          "worker_type": "deployment",
          "prompt": "- Deploy",
          "context": {
            "a": 1
          },
          "config": {},
          "metadata": {},
          "blocked_by": [
            {
              "id": "01990000-0000-7000-8000-000000000001",
              "on_failure": "hold"
            },
            {
              "id": "01990000-0000-7000-8000-000000000002",
              "on_failure": "hold"
            },
            {
              "id": "01990000-0000-7000-8000-000000000001",
              "on_failure": "hold"
            }
          ],
          "detached": false,
          "delay_ms": 600000,
          "priority": -5,
          "timeout_ms": 500
        }
        "##);
    }

    #[test]
    fn an_empty_or_foreign_blocker_is_explained() {
        let empty = parsed(&["--worker-type", "general", "--blocked-by", ""]).expect_err("empty");
        assert!(empty.contains("did the command that should have printed the id fail?"), "{empty}");
        let null = parsed(&["--worker-type", "general", "--blocked-by", "null"]).expect_err("null");
        assert!(null.contains("an id is a UUID"), "{null}");
    }

    #[test]
    fn only_a_run_has_an_orchestrator() {
        let error = parsed(&["--worker-type", "general", "--reply-to-orchestrator"]);
        assert!(error.is_err_and(|said| said.contains("only works inside a run")));
        assert_eq!(orchestrator(REPLY_FLAG, None).expect_err("refused").exit(), Exit::Usage);
        let error = orchestrator(REPLY_FLAG, Some("null")).expect_err("refused");
        assert!(error.to_string().contains("EVE_REQUEST_ID is `null`"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
        let reply = orchestrator(REPLY_FLAG, Some(ID)).expect("an orchestration");
        let expected = serde_json::json!({ "type": "orchestrator", "request_id": ID });
        assert_eq!(serde_json::to_value(reply).expect("JSON"), expected);
    }

    #[test]
    fn a_policy_without_a_blocker_is_refused() {
        assert!(parsed(&["--worker-type", "general", "--on-failure", "run"]).is_err());
    }
}
