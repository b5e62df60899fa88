//! The command line: a client of the HTTP API, and of nothing else. Only `eve skill new`, `build`,
//! `test` and `run` do their work on this machine.
//!
//! Flow: `main` parses [`Globals`] and one [`Command`]; [`run`] finds the server (`context`), hands
//! both to the noun's module (`request`, `skill`, …), which reads its arguments (`json`,
//! `duration`), calls the API (`client`) and shows what came back (`output`).
//!
//! Invariants:
//! - Standard output carries the answer only, and all of it is JSON when it is not a terminal.
//!   Progress, notes and errors go to standard error.
//! - The exit code says how it went ([`Exit`]); scripts never have to read text.
//! - Nothing that came from the server reaches a terminal with its control characters alive.
//! - A token goes to the server that it was given for, never to another one named by `--url`.

mod app;
mod client;
mod cluster;
mod completions;
mod context;
mod db;
mod deploy;
pub(crate) mod duration;
mod env;
mod error;
mod hitl;
mod json;
mod kubectl;
mod login;
mod member;
mod org;
mod output;
mod request;
mod result;
mod schedule;
mod secret;
mod skill;
mod token;
mod worker_type;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

pub use context::{Contexts, Server, Token, default_path};
pub use error::{Error, Exit};

use client::Client;
use output::{Format, Output};

/// Flags that every command of the client understands.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The server, such as https://eve.example.com [env: EVE_URL] [default: the current context's]
    #[arg(long, global = true, env = "EVE_URL", hide_env = true, value_name = "URL")]
    pub url: Option<String>,

    /// The API token or JWT to present [env: EVE_TOKEN] [default: the current context's]
    #[arg(long, global = true, env = "EVE_TOKEN", hide_env = true, value_name = "TOKEN")]
    pub token: Option<Token>,

    /// The organisation to act for, by slug or id [env: EVE_ORG] [default: the context's]
    #[arg(long, global = true, env = "EVE_ORG", hide_env = true, value_name = "ORG")]
    pub org: Option<String>,

    /// How to print answers: table or json [default: table on a terminal, json when piped]
    #[arg(long, short = 'o', global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<Format>,

    /// No progress and no notes: answers and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Globals {
    /// The server that the flags, the environment and the context file name.
    fn server(&self) -> Result<Server, Error> {
        context::resolve(self, &Contexts::load(&default_path()?)?)
    }

    /// The same, with the token of whatever context there is for that server: for programs that other
    /// programs run, whichever context is the current one.
    fn server_of_any_context(&self) -> Result<Server, Error> {
        let contexts = Contexts::load(&default_path()?)?;
        let server = context::resolve(self, &contexts)?;
        match server.token {
            Some(_) => Ok(server),
            None => Ok(contexts.of(&server, self.org.as_deref()).unwrap_or(server)),
        }
    }

    fn connect(&self) -> Result<Client, Error> {
        Client::new(self.server()?)
    }
}

/// What the client can be told to do.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    #[command(subcommand)]
    Request(request::Command),
    #[command(subcommand)]
    Result(result::Command),
    #[command(subcommand)]
    Hitl(hitl::Command),
    #[command(subcommand)]
    Schedule(schedule::Command),
    #[command(subcommand)]
    Skill(skill::Command),
    #[command(subcommand)]
    Db(db::Command),
    #[command(subcommand)]
    Deploy(deploy::Command),
    #[command(subcommand)]
    App(app::Command),
    #[command(subcommand)]
    Env(env::Command),
    #[command(subcommand)]
    Secret(secret::Command),
    Kubectl(kubectl::Kubectl),
    #[command(subcommand)]
    Cluster(cluster::Command),
    #[command(subcommand)]
    WorkerType(worker_type::Command),
    #[command(subcommand)]
    Org(org::Command),
    #[command(subcommand)]
    Member(member::Command),
    #[command(subcommand)]
    Token(token::Command),
    Login(login::Login),
    Whoami(login::Whoami),
    #[command(subcommand)]
    Context(context::Command),
    Completions(completions::Completions),
}

/// Runs one command, prints its answer or its error, and says how it went.
///
/// `whole` builds the entire command line, roles included: completions are generated from it.
pub async fn run(command: Command, globals: Globals, whole: fn() -> clap::Command) -> ExitCode {
    let out = Output::new(&globals);
    let done = match command {
        Command::Request(command) => request::run(command, &globals, &out).await,
        Command::Result(command) => result::run(command, &globals, &out).await,
        Command::Hitl(command) => hitl::run(command, &globals, &out).await,
        Command::Schedule(command) => schedule::run(command, &globals, &out).await,
        Command::Skill(command) => skill::run(command, &globals, &out).await,
        Command::Db(command) => db::run(command, &globals, &out).await,
        Command::Deploy(command) => deploy::run(command, &globals, &out).await,
        Command::App(command) => app::run(command, &globals, &out).await,
        Command::Env(command) => env::run(command, &globals, &out).await,
        Command::Secret(command) => secret::run(command, &globals, &out).await,
        Command::Kubectl(command) => match kubectl::run(command, &globals, &out).await {
            Ok(code) => return code.into(),
            Err(error) => Err(error),
        },
        Command::Cluster(command) => cluster::run(command, &globals, &out).await,
        Command::WorkerType(command) => worker_type::run(command, &globals, &out).await,
        Command::Org(command) => org::run(command, &globals, &out).await,
        Command::Member(command) => member::run(command, &globals, &out).await,
        Command::Token(command) => token::run(command, &globals, &out).await,
        Command::Login(command) => login::run(command, &globals, &out).await,
        Command::Whoami(command) => login::whoami(command, &globals, &out).await,
        Command::Context(command) => context::run(command, &out),
        Command::Completions(command) => completions::run(&command, &out, whole),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => out.fail(&error).into(),
    }
}
