//! `eve completions`: scripts that complete commands and flags in a shell.

use clap_complete::Shell;

use super::error::{Error, Exit};
use super::output::Output;

/// Print a completion script for a shell
///
/// Prints a script to standard output that makes the shell complete eve's commands and flags.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve completions bash > ~/.local/share/bash-completion/completions/eve
  eve completions zsh > \"${fpath[1]}/_eve\"
  eve completions fish > ~/.config/fish/completions/eve.fish

Open a new shell afterwards.")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints the script for the whole command line.
pub fn run(
    command: &Completions,
    out: &Output,
    whole: fn() -> clap::Command,
) -> Result<Exit, Error> {
    // Into memory first: the generator panics where a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut whole(), "eve", &mut script);
    out.bytes(&script)?;
    Ok(Exit::Ok)
}
