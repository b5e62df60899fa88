//! `eve schedule …`: requests that are created again and again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use comfy_table::Cell;
use serde::Serialize;

use super::Globals;
use super::duration;
use super::error::{Error, Exit};
use super::json::Inputs;
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::http::{Items, SchedulePage};
use crate::requests::{NewRequest, empty_object};
use crate::schedules::{NewSchedule, Overlap, Schedule};

/// What one page holds at most.
const PAGE: &str = "100";

/// Create requests again and again, when a cron expression says
///
/// Every tick creates a request. Ticks that were missed, because nothing was running, are made up for
/// by one.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Create(Box<Create>),
    /// List the schedules, newest first
    #[command(after_help = "Example:\n  eve schedule list")]
    List,
    /// Show a schedule, and its next three ticks
    #[command(after_help = "Example:\n  eve schedule show nightly")]
    Show {
        /// Its name
        name: String,
    },
    /// Create nothing until it is resumed; what it has created goes on
    #[command(after_help = "Example:\n  eve schedule pause nightly")]
    Pause {
        /// Its name
        name: String,
    },
    /// Go on from now; what was missed meanwhile is not made up for
    #[command(after_help = "Example:\n  eve schedule resume nightly")]
    Resume {
        /// Its name
        name: String,
    },
    /// Delete a schedule; what it has created goes on
    #[command(after_help = "Example:\n  eve schedule delete nightly")]
    Delete {
        /// Its name
        name: String,
    },
}

/// Create a schedule
///
/// A cron expression has five fields: minute, hour, day of the month, month, day of the week (0 to 7
/// or sun to sat). It means the clock on the wall of the time zone. Where that jumps, an expression of
/// one time of day still fires once a day; others follow the wall.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  # Every working day at nine, in Berlin
  eve schedule create standup --cron '0 9 * * 1-5' --timezone Europe/Berlin \\
    --worker-type general --skill echo --prompt 'Good morning'

  # Every quarter of an hour, even if the one before still runs
  eve schedule create probe --cron '*/15 * * * *' --worker-type general --overlap allow \\
    --context '{\"url\": \"https://example.com\"}'")]
pub struct Create {
    /// Its name: lower-case letters, digits and -
    name: String,
    /// When: five fields, or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION")]
    cron: String,
    /// The time zone, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    timezone: String,
    /// If the request of the tick before is still open: skip this tick, allow both, or replace that
    /// one, which is cancelled
    #[arg(long, value_name = "POLICY", default_value = "skip", value_parser = overlap())]
    overlap: Overlap,
    /// The pool of workers that runs it; `eve worker-type list` shows them
    #[arg(long, value_name = "TYPE")]
    worker_type: String,
    /// The skill to run [default: the worker type's]
    #[arg(long, value_name = "NAME")]
    skill: Option<String>,
    /// What is wanted, in words
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// What is wanted, for programs: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    context: Option<String>,
    /// The repository that it is about
    #[arg(long, value_name = "URL")]
    repo_url: Option<String>,
    /// The branch that it is about
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Settings for the skill: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    config: Option<String>,
    /// Labels: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    metadata: Option<String>,
    /// -100 to 100, lower first; counts within your organisation only
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i16,
    /// Stop a run that takes longer, such as 90s or 10m [default: the worker type's]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// How often a failure that may pass is tried in all [default: 3]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u16>,
}

/// The policies, by their words in the API.
fn overlap() -> impl TypedValueParser<Value = Overlap> {
    PossibleValuesParser::new(Overlap::ALL.map(Overlap::as_str)).map(|word| {
        Overlap::ALL.into_iter().find(|known| known.as_str() == word).unwrap_or_default()
    })
}

/// A schedule of which only the state is news.
#[derive(Serialize)]
#[serde(transparent)]
struct Line(Schedule);

impl Render for Line {
    fn render(&self, view: &View) -> String {
        table(std::slice::from_ref(&self.0), view)
    }
}

impl Render for Schedule {
    fn render(&self, view: &View) -> String {
        let request = serde_json::to_string_pretty(&self.request).unwrap_or_default();
        let mut pairs = vec![
            ("name", cell(&self.name)),
            ("cron", cell(format!("{} ({})", self.cron, self.timezone))),
            ("state", cell(state(self))),
        ];
        let mut add = |name, value: Option<Cell>| {
            if let Some(value) = value {
                pairs.push((name, value));
            }
        };
        let ticks: Vec<String> = self.upcoming.iter().map(|tick| self.on_the_wall(*tick)).collect();
        add("next", (!ticks.is_empty()).then(|| text_cell(ticks.join("\n"))));
        add("overlap", Some(cell(self.overlap.as_str())));
        add("request", Some(text_cell(request)));
        add("last tick", self.last_tick.map(|at| view.moment(at)));
        add("last request", self.last_request_id.map(|id| cell(id.to_string())));
        add("last error", self.last_error.as_ref().map(text_cell));
        add("created", Some(view.moment(self.created_at)));
        view.details(pairs)
    }
}

impl Schedule {
    /// A tick as the clock on the wall of its time zone shows it.
    fn on_the_wall(&self, tick: DateTime<Utc>) -> String {
        match self.timezone.parse::<chrono_tz::Tz>() {
            Ok(zone) => tick.with_timezone(&zone).format("%a %Y-%m-%d %H:%M %Z").to_string(),
            // A server may know time zones that this program does not.
            Err(_) => tick.format("%a %Y-%m-%d %H:%M UTC").to_string(),
        }
    }
}

fn state(schedule: &Schedule) -> &'static str {
    match (schedule.paused, schedule.next_at) {
        (true, _) => "paused",
        (false, Some(_)) => "active",
        (false, None) => "stopped",
    }
}

impl Render for Items<Schedule> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No schedules. `eve schedule create` makes one.".to_owned();
        }
        table(&self.items, view)
    }
}

/// Schedules, one a line.
fn table(schedules: &[Schedule], view: &View) -> String {
    let rows = schedules.iter().map(|schedule| {
        [
            cell(&schedule.name),
            cell(&schedule.cron),
            cell(&schedule.timezone),
            cell(state(schedule)),
            optional(schedule.next_at.map(|at| view.ago(at))),
            optional(schedule.last_tick.map(|at| format!("{} ago", view.ago(at)))),
            optional(schedule.last_error.as_ref()),
        ]
    });
    view.table(["NAME", "CRON", "TIME ZONE", "STATE", "NEXT", "LAST", "ERROR"], 6, rows)
}

impl Create {
    fn schedule(self, inputs: &mut Inputs) -> Result<NewSchedule, Error> {
        let mut object = |flag, text: Option<&str>| {
            inputs.optional_object(flag, text).map(|value| value.unwrap_or_else(empty_object))
        };
        let context = object("--context", self.context.as_deref())?;
        let config = object("--config", self.config.as_deref())?;
        let metadata = object("--metadata", self.metadata.as_deref())?;
        Ok(NewSchedule {
            name: self.name,
            cron: self.cron,
            timezone: self.timezone,
            overlap: self.overlap,
            request: NewRequest {
                worker_type: self.worker_type,
                skill: self.skill,
                prompt: self.prompt.unwrap_or_default(),
                context,
                repo_url: self.repo_url,
                branch: self.branch,
                config,
                metadata,
                blocked_by: Vec::new(),
                reply_to: None,
                detached: false,
                delay_ms: None,
                priority: self.priority,
                max_attempts: self.max_attempts,
                timeout_ms: self.timeout.map(duration::milliseconds),
                idempotency_key: None,
            },
        })
    }
}

/// Runs `eve schedule …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Create(command) => {
            let new = command.schedule(&mut Inputs::default())?;
            out.show(&globals.connect()?.post::<Schedule>(&["schedules"], &new).await?)?;
        }
        Command::List => list(globals, out).await?,
        Command::Show { name } => {
            out.show(&globals.connect()?.get::<Schedule>(&["schedules", &name]).await?)?;
        }
        Command::Pause { name } => change(&name, "pause", globals, out).await?,
        Command::Resume { name } => change(&name, "resume", globals, out).await?,
        Command::Delete { name } => {
            globals.connect()?.delete(&["schedules", &name]).await?;
            out.note(&format!("deleted {name}"));
        }
    }
    Ok(Exit::Ok)
}

async fn change(name: &str, verb: &str, globals: &Globals, out: &Output) -> Result<(), Error> {
    let path = ["schedules", name, verb];
    let changed: Schedule = globals.connect()?.post(&path, &serde_json::json!({})).await?;
    out.show(&Line(changed))
}

/// All of them: an organisation has few, and each may be large.
async fn list(globals: &Globals, out: &Output) -> Result<(), Error> {
    let client = globals.connect()?;
    let mut cursor = None;
    let mut items = Vec::new();
    loop {
        let mut query = vec![("limit", PAGE.to_owned())];
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: SchedulePage = client.get_where(&["schedules"], &query).await?;
        let empty = page.items.is_empty();
        items.extend(page.items);
        // An empty page ends it whatever its cursor says: a list must not go on for ever.
        if page.next_cursor.is_none() || empty {
            return out.show(&Items { items });
        }
        cursor = page.next_cursor;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::super::output::tests::view;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn flags_become_a_schedule() {
        let line = Line::try_parse_from([
            "schedule",
            "create",
            "standup",
            "--cron",
            "0 9 * * 1-5",
            "--timezone",
            "Europe/Berlin",
            "--worker-type",
            "general",
            "--prompt",
            "- Hello",
            "--context",
            r#"{"a": 1}"#,
            "--overlap",
            "replace",
            "--timeout",
            "90s",
        ]);
        let Ok(Line { command: Command::Create(command) }) = line else { panic!("no schedule") };
        let new = command.schedule(&mut Inputs::default()).expect("a schedule");
        assert_eq!(
            serde_json::to_value(new).expect("JSON"),
            json!({
                "name": "standup", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin",
                "overlap": "replace",
                "request": {
                    "worker_type": "general", "prompt": "- Hello", "context": {"a": 1},
                    "config": {}, "metadata": {}, "detached": false, "priority": 0,
                    "timeout_ms": 90_000,
                },
            })
        );
        let refused = Line::try_parse_from([
            "schedule",
            "create",
            "x",
            "--cron",
            "@daily",
            "--worker-type",
            "general",
            "--overlap",
            "queue",
        ]);
        assert!(refused.is_err_and(|error| error.to_string().contains("skip, allow, replace")));
    }

    fn schedule(name: &str, error: Option<&str>) -> Schedule {
        serde_json::from_value(json!({
            "id": "01990000-0000-7000-8000-000000000001", "name": name, "cron": "0 9 * * 1-5",
            "timezone": "Europe/Berlin", "request": {"worker_type": "general"}, "overlap": "skip",
            "paused": false, "next_at": "2026-03-27T08:00:00Z",
            "upcoming": ["2026-03-27T08:00:00Z", "2026-03-30T07:00:00Z", "2026-03-31T07:00:00Z"],
            "last_tick": "2026-02-27T08:00:00Z", "last_request_id": null, "last_error": error,
            "created_by": {"via": "platform"}, "created_at": "2026-02-01T11:57:00Z",
        }))
        .expect("a schedule")
    }

    #[test]
    fn schedules_for_people() {
        insta::assert_snapshot!(schedule("standup", None).render(&view()), @r#"
        name:       standup
        cron:       0 9 * * 1-5 (Europe/Berlin)
        state:      active
        next:       Fri 2026-03-27 09:00 CET
                    Mon 2026-03-30 09:00 CEST
                    Tue 2026-03-31 09:00 CEST
        overlap:    skip
        request:    {
                      "worker_type": "general"
                    }
        last tick:  2026-02-27 08:00:00 UTC (2d ago)
        created:    2026-02-01 11:57:00 UTC (28d ago)
        "#);
        let gone = "request.worker_type: there is no worker type `reports`; there are general";
        let items = vec![schedule("standup", None), schedule("report", Some(gone))];
        insta::assert_snapshot!(Items { items }.render(&view()), @r"
        NAME     CRON         TIME ZONE      STATE   NEXT    LAST    ERROR
        standup  0 9 * * 1-5  Europe/Berlin  active  in 25d  2d ago  -
        report   0 9 * * 1-5  Europe/Berlin  active  in 25d  2d ago  request.worker_type: there is n…
        ");
    }
}
