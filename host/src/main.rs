//! Temporary: the client alone, until `main` picks roles.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use eve_host::cli;

/// Runs WebAssembly skills from a queue, for many organisations
#[derive(Parser)]
#[command(name = "eve", version)]
struct Cli {
    #[command(flatten)]
    globals: cli::Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the control plane
    Serve,
    #[command(flatten)]
    Client(cli::Command),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { globals, command } = Cli::parse();
    match command {
        Command::Serve => ExitCode::SUCCESS,
        Command::Client(command) => cli::run(command, globals, Cli::command).await,
    }
}
