//! `eve request logs`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::Globals;
use super::super::client::Client;
use super::super::error::Error;
use super::super::output::{Format, Output, Render, View, plain, plain_text};
use super::create::request_id;
use super::watch::Patience;
use crate::http::Logs;
use crate::ids::RequestId;
use crate::requests::{LogLine, Request, RunLog};

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Show what a request's runs have logged
///
/// Runs that something has woken are among them; of very many the last 50 are shown.
/// A run's lines appear when the run has ended, or while it goes on, as the server keeps them. Text
/// that a skill writes to standard output appears as `info`, to standard error as `warn`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve request logs \"$ID\"
  eve request logs \"$ID\" -f
  eve request logs \"$ID\" | jq -r '.runs[].lines[] | select(.level == \"error\") | .message'

With -f JSON output is one line of the log a line.")]
pub struct ShowLogs {
    /// The request's id
    #[arg(value_parser = request_id)]
    id: RequestId,
    /// Stay until the request has ended, printing lines as they come
    #[arg(long, short)]
    follow: bool,
}

/// A line of a followed log, with its run.
#[derive(Serialize)]
struct Followed<'a> {
    request_id: RequestId,
    generation: i32,
    attempt: i16,
    #[serde(flatten)]
    line: &'a LogLine,
}

impl Render for Logs {
    fn render(&self, _: &View) -> String {
        let several = self.runs.len() > 1;
        let mut lines = Vec::new();
        for run in &self.runs {
            if several {
                lines.push(heading(run, self.runs[0].request_id));
            }
            lines.extend(run.lines.iter().map(line));
            lines.extend(dropped(run.dropped));
        }
        if lines.is_empty() { "Nothing has been logged.".to_owned() } else { lines.join("\n") }
    }
}

/// `first` is the request that was asked for, or the oldest wake-up that is shown.
fn heading(run: &RunLog, first: RequestId) -> String {
    let mut text = "--- ".to_owned();
    if run.request_id != first {
        text.push_str("woken, ");
    }
    if run.generation > 1 {
        text.push_str(&format!("generation {}, ", run.generation));
    }
    text.push_str(&format!("attempt {}", run.attempt));
    text
}

/// A line for people.
pub fn line(line: &LogLine) -> String {
    let at = line.at.format("%H:%M:%S%.3f");
    let mut text = format!("{at} {:5} {}", plain(&line.level), plain_text(&line.message));
    for (name, value) in &line.fields {
        text.push_str(&format!(" {}={}", plain(name), plain(value)));
    }
    text
}

fn dropped(count: i64) -> Option<String> {
    (count > 0).then(|| format!("({count} more lines were not kept: the run logged too much)"))
}

/// Prints the log, or follows it.
pub async fn run(command: ShowLogs, globals: &Globals, out: &Output) -> Result<(), Error> {
    let client = globals.connect()?;
    if command.follow {
        return follow(&client, command.id, &Patience::default(), out).await;
    }
    let log: Logs = client.get(&["requests", &command.id.to_string(), "logs"]).await?;
    out.show(&log)
}

/// Prints lines as they come, until the request has ended.
async fn follow(
    client: &Client,
    id: RequestId,
    patience: &Patience,
    out: &Output,
) -> Result<(), Error> {
    let id = id.to_string();
    let mut printed = Printed::default();
    let mut contact = None;
    loop {
        // The status before the lines: when it says that the request has ended, the lines that
        // follow are all there will be.
        let look = async {
            let request: Request = client.get(&["requests", &id]).await?;
            let log: Logs = client.get(&["requests", &id, "logs"]).await?;
            Ok((request, log))
        };
        match look.await {
            Ok((request, log)) => {
                contact = Some(Instant::now());
                printed.print_new(&log, out)?;
                if request.status.is_terminal() {
                    return printed.print_dropped(&log, out);
                }
            }
            Err(error) => patience.bear(error, contact, client)?,
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A run: its request, generation and attempt.
type Key = (RequestId, i32, i16);

fn key(run: &RunLog) -> Key {
    (run.request_id, run.generation, run.attempt)
}

/// How many lines of each run have been printed. A run keeps its first lines, so a count suffices.
#[derive(Default)]
struct Printed {
    lines: HashMap<Key, usize>,
    last: Option<Key>,
    first: Option<RequestId>,
}

impl Printed {
    fn print_new(&mut self, log: &Logs, out: &Output) -> Result<(), Error> {
        for (run, entry) in self.take_new(log) {
            let (request_id, generation, attempt) = key(run);
            let first = *self.first.get_or_insert(request_id);
            match out.format() {
                Format::Json => {
                    out.json_line(&Followed { request_id, generation, attempt, line: entry })?
                }
                Format::Table => {
                    if self.last.is_some_and(|last| last != key(run)) {
                        out.text(&heading(run, first))?;
                    }
                    out.text(&line(entry))?;
                }
            }
            self.last = Some(key(run));
        }
        Ok(())
    }

    /// The lines that were not there the last time, each with its run.
    fn take_new<'a>(&mut self, log: &'a Logs) -> Vec<(&'a RunLog, &'a LogLine)> {
        let mut new = Vec::new();
        for run in &log.runs {
            let done = self.lines.entry(key(run)).or_default();
            new.extend(run.lines.iter().skip(*done).map(|line| (run, line)));
            *done = run.lines.len().max(*done);
        }
        new
    }

    fn print_dropped(&self, log: &Logs, out: &Output) -> Result<(), Error> {
        if out.format() == Format::Table {
            let count: i64 = log.runs.iter().map(|run| run.dropped).sum();
            if let Some(text) = dropped(count) {
                out.text(&text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::view;

    const ME: &str = "01990000-0000-7000-8000-000000000001";

    fn log(runs: serde_json::Value) -> Logs {
        serde_json::from_value(serde_json::json!({ "runs": runs })).expect("a log")
    }

    fn lines(texts: &[&str]) -> serde_json::Value {
        let line = |text: &&str| serde_json::json!({ "at": "2026-03-01T11:59:00.25Z", "level": "info", "message": text });
        texts.iter().map(line).collect()
    }

    #[test]
    fn a_followed_line_is_printed_once_and_never_missed() {
        let mut printed = Printed::default();
        let mut seen = Vec::new();
        let steps = [
            serde_json::json!([{"request_id": ME, "generation": 1, "attempt": 1, "lines": lines(&["a"]), "dropped": 0}]),
            serde_json::json!([{"request_id": ME, "generation": 1, "attempt": 1, "lines": lines(&["a", "b"]), "dropped": 0}]),
            serde_json::json!([
                {"request_id": ME, "generation": 1, "attempt": 1, "lines": lines(&["a", "b", "c"]), "dropped": 0},
                {"request_id": ME, "generation": 1, "attempt": 2, "lines": lines(&["a"]), "dropped": 0},
            ]),
        ];
        for step in steps {
            let log = log(step);
            let new = printed.take_new(&log);
            seen.extend(new.iter().map(|(run, line)| format!("{}{}", run.attempt, line.message)));
        }
        assert_eq!(seen, ["1a", "1b", "1c", "2a"]);
    }

    #[test]
    fn a_log_for_people() {
        let mut value = serde_json::json!([
            {"request_id": ME, "generation": 1, "attempt": 1, "lines": lines(&["one\u{1b}[2J"]), "dropped": 0},
            {"request_id": ME, "generation": 1, "attempt": 2, "lines": lines(&["two"]), "dropped": 7},
            {"request_id": ME.replace("01", "02"), "generation": 1, "attempt": 1,
             "lines": lines(&["three"]), "dropped": 0},
        ]);
        value[1]["lines"][0]["fields"] = serde_json::json!([["path", "a.txt"]]);
        insta::assert_snapshot!(log(value).render(&view()), @r#"
        --- attempt 1
        11:59:00.250 info  one�[2J
        --- attempt 2
        11:59:00.250 info  two path=a.txt
        (7 more lines were not kept: the run logged too much)
        --- woken, attempt 1
        11:59:00.250 info  three
        "#);
    }
}
