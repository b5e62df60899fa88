//! `eve skill dev`.
//!
//! The folder is looked at four times a second. A skill is tens of files, so that costs next to nothing,
//! and it works on network mounts and in containers, where notices from the kernel do not arrive.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Local, Utc};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::super::Globals;
use super::super::error::{Error, Exit};
use super::super::output::{Format, Output, explain, plain_text, size};
use super::build::{self, Options};
use super::project::{self, Project, Stamp};
use super::push;
use crate::skills::store::Version;

/// How often the folder is looked at. A change counts once two looks in a row have seen the same: an
/// editor writes several files, and some of them in parts.
const LOOK: Duration = Duration::from_millis(250);
/// When a server that could not be reached is tried again, though nothing has changed.
const AGAIN: Duration = Duration::from_secs(3);

/// Build and push a skill whenever it changes
///
/// Watches the skill's folder, and on every change builds it and pushes it to the server that commands
/// go to now. Says one line each time; what does not build is told, and the version before stays
/// active. The version that SKILL.md names is left out: every push is a version of its own. Ctrl-C ends
/// it.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve skill dev
  eve skill dev skills/word-count

Piped, it prints a JSON object a line: {\"at\": …, \"status\": \"pushed\" or \"failed\", …}.")]
pub struct Dev {
    /// The skill's folder
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// One time round, as it is shown.
#[derive(Serialize)]
struct Cycle {
    at: DateTime<Utc>,
    skill: Option<String>,
    status: &'static str,
    version: Option<Version>,
    error: Option<String>,
    next: Option<String>,
    took_ms: u64,
}

/// Goes round until it is told to end.
pub async fn run(command: Dev, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    // What is wrong from the start would be wrong for ever: another folder was meant.
    let project = Project::open(&command.path)?;
    let client = globals.connect()?;
    out.note(&format!(
        "watching {}, pushing to {}; Ctrl-C ends it",
        project.folder.display(),
        client.url()
    ));
    let failed = |error| Error::local(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        ended = rounds(&command.path, globals, out) => ended,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(failed).map(|()| Exit::Ok),
        _ = terminate.recv() => Ok(Exit::Ok),
    }
}

async fn rounds(path: &Path, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let mut seen: Option<Vec<Stamp>> = None;
    let mut done: Option<Vec<Stamp>> = None;
    let mut again_at: Option<Instant> = None;
    let mut said = None;
    loop {
        let sources = project::sources(path);
        let is_settled = seen.as_ref() == Some(&sources);
        let is_new = done.as_ref() != Some(&sources);
        let is_due = again_at.is_some_and(|at| Instant::now() >= at);
        if (is_settled && is_new) || is_due {
            let started = Instant::now();
            let result = once(path, globals, out).await;
            again_at = match &result {
                Err((_, error)) if error.is_passing() => Some(Instant::now() + AGAIN),
                _ => None,
            };
            let cycle = Cycle::of(result, started.elapsed());
            // A server that stays away is told about once.
            if is_new || cycle.error != said {
                tell(&cycle, out)?;
            }
            said = cycle.error;
            done = Some(sources.clone());
        }
        seen = Some(sources);
        tokio::time::sleep(LOOK).await;
    }
}

/// Builds and pushes; an error comes with the skill's name, as far as it is known.
async fn once(
    path: &Path,
    globals: &Globals,
    out: &Output,
) -> Result<(String, Version), (Option<String>, Error)> {
    let project = Project::open(path).map_err(|error| (None, error))?;
    let name = project.manifest.name.clone();
    let push = async {
        let made = build::make(&project, &Options::default(), &out.hushed()).await?;
        build::advise(&project, &made.compiled, out);
        let manifest = without_version(&project.manifest_text);
        let query = [("activate", "true".to_owned())];
        // Connected anew: the context may have changed since the last time.
        push::upload(&globals.connect()?, &name, made.wasm, Some(manifest), &query, out).await
    };
    match push.await {
        Ok(version) => Ok((name.clone(), version)),
        Err(error) => Err((Some(name.clone()), error)),
    }
}

/// SKILL.md without its `version`: a label stands for one content, and this one changes all the time.
fn without_version(manifest: &str) -> String {
    let mut marks = 0;
    let keep = |line: &&str| {
        marks += usize::from(line.trim_end() == "---" && marks < 2);
        !(marks == 1 && line.starts_with("version:"))
    };
    manifest.split_inclusive('\n').filter(keep).collect()
}

impl Cycle {
    fn of(result: Result<(String, Version), (Option<String>, Error)>, took: Duration) -> Cycle {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let cycle = Cycle {
            at: Utc::now(),
            skill: None,
            status: "failed",
            version: None,
            error: None,
            next: None,
            took_ms,
        };
        match result {
            Ok((skill, version)) => {
                Cycle { skill: Some(skill), status: "pushed", version: Some(version), ..cycle }
            }
            Err((skill, error)) => {
                Cycle { skill, error: Some(explain(&error, false)), next: error.next(), ..cycle }
            }
        }
    }
}

fn tell(cycle: &Cycle, out: &Output) -> Result<(), Error> {
    if out.format() == Format::Json {
        return out.json_line(cycle);
    }
    let at = cycle.at.with_timezone(&Local).format("%H:%M:%S");
    match (&cycle.version, &cycle.error) {
        (Some(version), _) => {
            let bytes = u64::try_from(version.size_bytes).unwrap_or(0);
            let took = cycle.took_ms as f64 / 1_000.0;
            let skill = cycle.skill.as_deref().unwrap_or_default();
            out.text(&format!(
                "{at} pushed {skill} {}, {} in {took:.1} s",
                version.version,
                size(bytes)
            ))
        }
        (None, error) => out.text(&format!("{at} {}", plain_text(error.as_deref().unwrap_or("")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_front_matters_version_is_left_out() {
        let text = "---\nname: a\nversion: 1.0\ndescription: x\n---\nversion: 2\n---\nversion: 3\n";
        let left = without_version(text);
        assert_eq!(left, "---\nname: a\ndescription: x\n---\nversion: 2\n---\nversion: 3\n");
        assert_eq!(without_version("version: 1\n"), "version: 1\n");
    }
}
