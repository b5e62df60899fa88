//! Parses the command line and picks a role.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use eve_host::skills::artifact::Signer;
use eve_host::{cli, roles, skills, telemetry};

/// Runs WebAssembly skills from a queue, for many organisations at once
#[derive(Debug, Parser)]
#[command(name = "eve", version)]
struct Cli {
    #[command(flatten)]
    globals: cli::Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(roles::dev::Args),
    Serve(Box<roles::serve::Args>),
    Worker(roles::worker::Args),
    Migrate(roles::migrate::Args),
    /// Make a key pair: the control plane signs artifacts with it, workers verify them
    Keygen,
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    // The child that compiles uploads: before anything else is set up in this process.
    if std::env::args().nth(1).as_deref() == Some(skills::compile::COMMAND) {
        return skills::compile::child_main();
    }
    let Cli { globals, command } = Cli::parse();
    match command {
        Command::Client(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(cli::run(command, globals, Cli::command)),
                Err(error) => failed(&error.into()),
            }
        }
        Command::Keygen => {
            let signer = Signer::generate();
            println!("EVE_SIGNING_KEY={}\nEVE_VERIFY_KEYS={}", signer.seed(), signer.public_key());
            ExitCode::SUCCESS
        }
        role => match run(role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
    }
}

fn run(role: Command) -> anyhow::Result<()> {
    let metrics = telemetry::start()?;
    // Guests have threads of their own: these wait for Postgres and sockets.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match role {
            Command::Dev(args) => roles::dev::run(args, metrics).await,
            Command::Serve(args) => roles::serve::run(*args, metrics).await,
            Command::Worker(args) => roles::worker::run(args, metrics).await,
            Command::Migrate(args) => roles::migrate::run(args).await,
            Command::Keygen | Command::Client(_) => unreachable!("handled in main"),
        }
    })
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
