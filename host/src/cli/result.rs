//! `eve result …`: what requests ended with.

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Format, Output, Render, View, cell, plain_text, size, text_cell};
use super::request::create::request_id;
use crate::ids::RequestId;
use crate::requests::RequestResult;

/// Show what requests ended with
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Show a request's result
    ///
    /// A request that is still open has none yet (exit code 3). `eve request watch` waits for it.
    #[command(after_help = "\
Examples:
  eve result get \"$ID\"
  eve result get \"$ID\" --data | jq .words")]
    Get {
        /// The request's id, which is its result's too
        #[arg(value_parser = request_id)]
        id: RequestId,
        /// Only the data that the run handed back, as JSON; fails if the request did not complete
        #[arg(long)]
        data: bool,
    },
}

/// Runs `eve result …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let Command::Get { id, data } = command;
    let result: RequestResult =
        globals.connect()?.get(&["requests", &id.to_string(), "result"]).await?;
    if !data {
        out.show(&result)?;
        return Ok(Exit::Ok);
    }
    if let Some(error) = &result.error {
        let said = format!("the request has {}: {} ({})", result.status, error.message, error.code);
        return Err(Error::Failed(said));
    }
    let data = result.data.unwrap_or_default();
    match (out.format(), data.as_str()) {
        (Format::Table, Some(text)) => out.text(&plain_text(text))?,
        _ => out.json(&data)?,
    }
    Ok(Exit::Ok)
}

impl Render for RequestResult {
    fn render(&self, view: &View) -> String {
        let mut pairs = vec![
            ("request", cell(self.request_id.to_string())),
            ("status", view.status(self.status)),
        ];
        let mut add = |name, value: Option<String>| {
            pairs.extend(value.filter(|value| !value.is_empty()).map(|v| (name, text_cell(v))));
        };
        add("summary", self.summary.clone());
        let error = self.error.as_ref().map(|error| format!("{} ({})", error.message, error.code));
        add("error", error);
        let data = self.data.as_ref().map(serde_json::to_string_pretty);
        add("data", data.and_then(Result::ok));
        add("attempt", (self.attempt > 1).then(|| self.attempt.to_string()));
        add("generation", (self.generation > 1).then(|| self.generation.to_string()));
        add("tokens used", self.tokens_used.map(|tokens| tokens.to_string()));
        add("cost", self.cost.map(|cost| format!("${cost}")));
        add("duration", self.duration_us.map(milliseconds));
        add("cpu", self.cpu_us.map(milliseconds));
        let memory = self.memory_peak_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        add("peak memory", memory.map(size));
        pairs.push(("finished", view.moment(self.finished_at)));
        view.details(pairs)
    }
}

fn milliseconds(microseconds: i64) -> String {
    format!("{:.1} ms", microseconds as f64 / 1_000.0)
}
