//! `eve deploy …`: apps in environments.

mod create;
mod diff;
mod logs;
mod shown;
mod wait;

use std::time::Duration;

use super::Globals;
use super::duration;
use super::error::{Error, Exit};
use super::output::Output;
use crate::deployments::{Deployment, Rollback, Scale};
use crate::http::{DeploymentPage, EventPage, History, Items};
use wait::Wanted;

/// What one page holds at most.
const PAGE: &str = "200";

/// Which deployment.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// The app
    #[arg(long, value_name = "NAME")]
    app: String,
    /// The environment
    #[arg(long, value_name = "NAME")]
    env: String,
}

impl Target {
    /// Its path in the API, and what follows.
    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec!["envs", &*self.env, "deployments", &*self.app];
        path.extend(rest);
        path
    }
}

/// Whether to wait for the end of what was asked for.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Patience {
    /// Wait until it runs or has failed
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 90s or 10m
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "15m", requires = "wait")]
    timeout: Duration,
}

/// Deploy apps, scale them, roll them back, and see how they are
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Create(Box<create::Create>),
    Diff(Box<diff::Differ>),
    /// Give a deployment another number of replicas
    #[command(
        after_help = "Example:\n  eve deploy scale --app api-service --env prod --replicas 5"
    )]
    Scale {
        #[command(flatten)]
        target: Target,
        /// How many: 0 to 1000
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        replicas: i64,
        #[command(flatten)]
        patience: Patience,
    },
    /// Go back to what once ran: the image of that time, and its configuration
    #[command(after_help = "\
Examples:
  eve deploy rollback --app api-service --env prod --to-version v1.2.2
  eve deploy rollback --app api-service --env prod    to what ran before

`eve deploy history` shows what ran.")]
    Rollback {
        #[command(flatten)]
        target: Target,
        /// A version: the tag of its image. The latest revision that ran with it is meant
        #[arg(long, value_name = "TAG")]
        to_version: Option<String>,
        /// A revision that ran
        #[arg(long, value_name = "N", conflicts_with = "to_version")]
        to_revision: Option<i32>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Show where a deployment stands, and its pods
    #[command(after_help = "Example:\n  eve deploy status --app api-service --env prod")]
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// List the revisions of a deployment, and what became of them, latest first
    #[command(after_help = "Example:\n  eve deploy history --app api-service --env prod")]
    History {
        #[command(flatten)]
        target: Target,
        /// Everything that happened, instead of revisions
        #[arg(long)]
        events: bool,
    },
    Logs(logs::Logs),
    /// List what is deployed
    #[command(after_help = "Examples:\n  eve deploy list\n  eve deploy list --env prod")]
    List {
        /// Only of this environment
        #[arg(long, value_name = "NAME")]
        env: Option<String>,
        /// What was deleted as well
        #[arg(long)]
        all: bool,
    },
    /// Delete a deployment: its pods, its service, and everything else of it; its history stays
    #[command(after_help = "Example:\n  eve deploy delete --app api-service --env prod")]
    Delete {
        #[command(flatten)]
        target: Target,
        /// Do not wait until it is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Wait until a deployment runs, or has failed
    #[command(after_help = "\
Example:
  eve deploy wait --app api-service --env prod --timeout 5m

Exit codes: 0 it runs, 1 it has failed, or the time was over.")]
    Wait {
        #[command(flatten)]
        target: Target,
        /// How long, such as 90s or 10m
        #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "15m")]
        timeout: Duration,
    },
}

/// Runs `eve deploy …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Create(command) => command.run(globals, out).await,
        Command::Diff(command) => command.run(globals, out).await,
        Command::Scale { target, replicas, patience } => {
            let client = globals.connect()?;
            let made: Deployment =
                client.post(&target.path(&["scale"]), &Scale { replicas }).await?;
            wait::show(&client, made, patience, out).await
        }
        Command::Rollback { target, to_version, to_revision, patience } => {
            let client = globals.connect()?;
            let rollback = Rollback { to_version, to_revision };
            let made: Deployment = client.post(&target.path(&["rollback"]), &rollback).await?;
            wait::show(&client, made, patience, out).await
        }
        Command::Status { target } => {
            out.show(&globals.connect()?.get::<Deployment>(&target.path(&[])).await?)?;
            Ok(Exit::Ok)
        }
        Command::History { target, events: false } => {
            let query = [("limit", PAGE.to_owned())];
            let history: History =
                globals.connect()?.get_where(&target.path(&["history"]), &query).await?;
            out.show(&history)?;
            Ok(Exit::Ok)
        }
        Command::History { target, events: true } => {
            let query = [("limit", PAGE.to_owned())];
            let page: EventPage =
                globals.connect()?.get_where(&target.path(&["events"]), &query).await?;
            out.show(&page)?;
            Ok(Exit::Ok)
        }
        Command::Logs(command) => command.run(globals, out).await,
        Command::List { env, all } => list(env, all, globals, out).await,
        Command::Delete { target, no_wait } => {
            let client = globals.connect()?;
            let left: Deployment = client.delete_where(&target.path(&[]), &[]).await?;
            if no_wait {
                out.show(&left)?;
                return Ok(Exit::Ok);
            }
            let patience = Duration::from_secs(120);
            let left = wait::until(&client, left, Wanted::Gone, patience, out).await?;
            out.show(&left)?;
            Ok(wait::exit(&left, Wanted::Gone))
        }
        Command::Wait { target, timeout } => {
            let client = globals.connect()?;
            let found: Deployment = client.get(&target.path(&[])).await?;
            let patience = Patience { wait: true, timeout };
            wait::show(&client, found, patience, out).await
        }
    }
}

async fn list(
    env: Option<String>,
    all: bool,
    globals: &Globals,
    out: &Output,
) -> Result<Exit, Error> {
    let client = globals.connect()?;
    let mut cursor = None;
    let mut items = Vec::new();
    loop {
        let mut query = vec![("limit", PAGE.to_owned()), ("deleted", all.to_string())];
        query.extend(env.clone().map(|env| ("env", env)));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: DeploymentPage = client.get_where(&["deployments"], &query).await?;
        let empty = page.items.is_empty();
        items.extend(page.items);
        // An empty page ends it whatever its cursor says: a list must not go on for ever.
        if page.next_cursor.is_none() || empty {
            break;
        }
        cursor = page.next_cursor;
    }
    out.show(&Items { items })?;
    Ok(Exit::Ok)
}
