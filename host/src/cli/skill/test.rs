//! `eve skill test`.

use std::path::PathBuf;

use serde::Serialize;

use super::super::error::{Error, Exit};
use super::super::output::{Output, Render, View, cell, text_cell};
use super::build::{self, Made, Options, Tested, needs};
use super::local::{Bench, Setting};
use super::project::Project;
use super::state;
use crate::requests::FailureCode;
use crate::runtime::{Grants, Report, Verdict};

/// Test a skill
///
/// Runs the skill's own tests natively, then builds its component and checks that: everything that it
/// imports is named in SKILL.md, it starts in the runtime that workers have, and a run without any
/// input ends by itself, well or with a failure of the skill's own, and not in a trap or past a limit.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve skill test
  eve skill test skills/echo --skip-native

Exit codes: 0 all is well, 1 something is not, 2 usage.")]
pub struct Test {
    /// The skill's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Leave the skill's own tests out
    #[arg(long)]
    skip_native: bool,
    #[command(flatten)]
    options: Options,
}

/// What was found out.
#[derive(Serialize)]
struct Findings {
    skill: String,
    passed: bool,
    checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    result: Judgement,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Judgement {
    Ok,
    Failed,
    Skipped,
}

impl Render for Findings {
    fn render(&self, view: &View) -> String {
        let rows = self.checks.iter().map(|check| {
            let result = match check.result {
                Judgement::Ok => cell("ok").fg(comfy_table::Color::Green),
                Judgement::Failed => cell("FAILED").fg(comfy_table::Color::Red),
                Judgement::Skipped => cell("skipped").fg(comfy_table::Color::Yellow),
            };
            [result, cell(check.name), text_cell(&check.detail)]
        });
        view.list(rows)
    }
}

/// Runs all checks; what comes after one that failed is still told, as far as it can be.
pub async fn run(command: Test, out: &Output) -> Result<Exit, Error> {
    let project = Project::open(&command.path)?;
    let mut checks = vec![native(&project, &command, out).await?];
    match build::make(&project, &Options { reuse: true, ..command.options }, out).await {
        Err(error) => checks.push(Check {
            name: "component",
            result: Judgement::Failed,
            detail: super::super::output::explain(&error, false),
        }),
        Ok(made) => {
            checks.push(Check {
                name: "component",
                result: Judgement::Ok,
                detail: made.built.component.display().to_string(),
            });
            checks.push(grants(&project, &made));
            checks.push(trial(&project, &made).await);
        }
    }
    let passed = checks.iter().all(|check| check.result != Judgement::Failed);
    out.show(&Findings { skill: project.manifest.name.clone(), passed, checks })?;
    Ok(if passed { Exit::Ok } else { Exit::Failed })
}

async fn native(project: &Project, command: &Test, out: &Output) -> Result<Check, Error> {
    let tested = match command.skip_native {
        true => Tested::Skipped("--skip-native".into()),
        false => build::test(project, &command.options, out).await?,
    };
    let (result, detail) = match tested {
        Tested::Passed => (Judgement::Ok, "passed".to_owned()),
        Tested::Failed => (Judgement::Failed, "see above".to_owned()),
        Tested::Skipped(why) => (Judgement::Skipped, why),
    };
    Ok(Check { name: "own tests", result, detail })
}

/// Whether SKILL.md names all that the component needs. What it names beyond that does no harm.
fn grants(project: &Project, made: &Made) -> Check {
    let unnamed = build::unnamed(project, &made.compiled);
    let named = &project.manifest.capabilities;
    let unused: Vec<_> =
        named.iter().copied().filter(|named| !made.compiled.capabilities.contains(named)).collect();
    let (result, detail) = match (unnamed.as_slice(), unused.as_slice()) {
        ([], []) => (Judgement::Ok, format!("needs {}", needs(named))),
        ([], unused) => (
            Judgement::Ok,
            format!("SKILL.md names {}, which the component does not use", needs(unused)),
        ),
        (unnamed, _) => {
            let detail =
                format!("the component needs {}: name it under `capabilities`", needs(unnamed));
            (Judgement::Failed, detail)
        }
    };
    Check { name: "SKILL.md", result, detail }
}

/// Starts the component, granted all that it asks for: whether it should be is another check.
async fn trial(project: &Project, made: &Made) -> Check {
    let (result, detail) = match tried(project, made).await {
        Ok(report) => judge(&report),
        Err(error) => (Judgement::Failed, super::super::output::explain(&error, false)),
    };
    Check { name: "a run without input", result, detail }
}

/// With empty schemas, if it uses any.
async fn tried(project: &Project, made: &Made) -> Result<Report, Error> {
    let grants: Grants = made.compiled.capabilities.iter().copied().collect();
    let named = project.manifest.schemas.iter().cloned().collect();
    state::around(&made.compiled, None, Some(named), async |db| {
        let bench = Bench::new(db)?;
        let skill = bench.prepare(&made.wasm, &made.compiled, &grants)?;
        Ok(bench.run(&skill, &Setting::default()).await)
    })
    .await
}

/// A failure of the skill's own is what most skills have to say to nothing.
fn judge(report: &Report) -> (Judgement, String) {
    match &report.verdict {
        Verdict::Completed(output) => (Judgement::Ok, format!("completed: {}", output.summary)),
        Verdict::Waiting { .. } => (Judgement::Ok, "waits for what it has started".to_owned()),
        Verdict::Failed { code: FailureCode::Failed, message, .. } => {
            (Judgement::Ok, format!("failed by itself: {message}"))
        }
        Verdict::Failed { code, message, .. } => {
            let mut detail = format!("{}: {message}", code.as_str());
            // A panic says in the log what it was about.
            if let Some(line) = report.log.iter().rev().find(|line| line.level == "error") {
                detail.push_str(&format!("\n{}", line.message));
            }
            (Judgement::Failed, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Effects, Output as Answer, Usage};

    #[test]
    fn only_what_the_platform_ends_is_a_fault() {
        let judged = |verdict| {
            let (effects, usage) = (Effects::default(), Usage::default());
            judge(&Report { verdict, effects, log: Vec::new(), log_dropped: 0, usage }).0
        };
        let failed = |code| Verdict::Failed { code, message: String::new(), retryable: true };
        assert_eq!(judged(Verdict::Completed(Answer::default())), Judgement::Ok);
        assert_eq!(judged(Verdict::Waiting { deadline: None }), Judgement::Ok);
        assert_eq!(judged(failed(FailureCode::Failed)), Judgement::Ok);
        for code in [FailureCode::Trapped, FailureCode::CpuExhausted, FailureCode::NothingToWaitFor]
        {
            assert_eq!(judged(failed(code)), Judgement::Failed);
        }
    }
}
