//! Programs of others that a build runs.

use std::io::ErrorKind;
use std::process::Stdio;

use tokio::process::Command;

use super::super::super::error::Error;
use super::super::super::output::Output;

/// Runs a program to its end with what it says on our standard error, and says whether it succeeded.
/// With `--quiet` it is heard only if it fails.
pub async fn run(mut command: Command, missing: &str, out: &Output) -> Result<bool, Error> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    if !out.is_quiet() {
        command.stdout(std::io::stderr()).stderr(Stdio::inherit());
        let status =
            command.status().await.map_err(|error| unstartable(&command, error, missing))?;
        return Ok(status.success());
    }
    let output = command.output().await.map_err(|error| unstartable(&command, error, missing))?;
    if !output.status.success() {
        out.complain(&output.stdout);
        out.complain(&output.stderr);
    }
    Ok(output.status.success())
}

/// Runs a program and returns what it wrote to standard output, and to standard error if `heard` is
/// not [`Hearing::Live`].
pub async fn ask(
    mut command: Command,
    hearing: Hearing,
    missing: &str,
) -> Result<std::process::Output, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.stderr(match hearing {
        Hearing::Live => Stdio::inherit(),
        Hearing::Kept => Stdio::piped(),
    });
    let child = command.spawn().map_err(|error| unstartable(&command, error, missing))?;
    child.wait_with_output().await.map_err(|error| unstartable(&command, error, missing))
}

/// What becomes of a program's standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// It is ours.
    Live,
    /// It is returned.
    Kept,
}

/// The error for a program that did not start. `missing` says how one gets it.
fn unstartable(command: &Command, error: std::io::Error, missing: &str) -> Error {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    match error.kind() {
        ErrorKind::NotFound => {
            Error::local_hint(format!("there is no `{program}` on the PATH"), missing)
        }
        _ => Error::local(format!("cannot run {program}: {error}")),
    }
}
