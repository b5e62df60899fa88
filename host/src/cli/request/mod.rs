//! `eve request …`: create requests, alone or in numbers, and see what becomes of them.

mod batch;
pub mod create;
mod list;
mod logs;
mod tree;
mod usage;
mod view;
pub mod watch;

pub use logs::line as log_line;

use super::Globals;
use super::error::{Error, Exit};
use super::output::Output;
use crate::http::Items;
use crate::ids::RequestId;
use crate::requests::{BlockerState, Request, RequestDetails};

/// Create requests and see what becomes of them
///
/// A request asks a pool of workers to run a skill. It is `pending` until a worker takes it, and ends
/// `completed`, `failed` or `cancelled`; its result is shown by `eve result get`. Requests can wait
/// for one another (`blocked`), for their time (`scheduled`), and, as orchestrations, for what they
/// have started (`waiting`).
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Create(Box<create::Create>),
    FanOut(batch::FanOut),
    Pipeline(batch::Pipeline),
    List(list::List),
    /// Show a request, and what it and everything below it has used
    #[command(after_help = "\
Examples:
  eve request get 0199c7a1-5d3e-7c44-9b1a-3f2f6f0d8e11
  eve request get \"$ID\" | jq -r .status")]
    Get {
        /// The request's id
        #[arg(value_parser = create::request_id)]
        id: RequestId,
    },
    Tree(tree::ShowTree),
    Watch(watch::Watch),
    /// Show what a request waits for
    ///
    /// An `open` blocker still holds the request back. What happens to it when the blocker fails or
    /// is cancelled is the edge's policy: cancel, run or hold.
    #[command(after_help = "Example:\n  eve request blockers \"$ID\"")]
    Blockers {
        /// The request's id
        #[arg(value_parser = create::request_id)]
        id: RequestId,
    },
    /// Cancel a request, and what depends on it
    ///
    /// A run that is under way is stopped. Requests that wait for this one are cancelled too, unless
    /// their policy says otherwise. A request that has ended cannot be cancelled.
    #[command(after_help = "\
Examples:
  eve request cancel \"$ID\"
  eve request cancel \"$ID\" --reason 'wrong version'")]
    Cancel {
        /// The request's id
        #[arg(value_parser = create::request_id)]
        id: RequestId,
        /// Why, for whoever finds it cancelled
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Try a failed or cancelled request again
    ///
    /// It keeps its id and starts a new generation with all its attempts. Requests that were
    /// cancelled because it failed come back with it.
    #[command(after_help = "Example:\n  eve request retry \"$ID\" && eve request watch \"$ID\"")]
    Retry {
        /// The request's id
        #[arg(value_parser = create::request_id)]
        id: RequestId,
    },
    Logs(logs::ShowLogs),
}

/// Runs `eve request …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Create(command) => return create::run(*command, globals, out).await,
        Command::FanOut(command) => batch::fan_out(command, globals, out).await?,
        Command::Pipeline(command) => batch::pipeline(command, globals, out).await?,
        Command::List(command) => list::run(command, globals, out).await?,
        Command::Watch(command) => return watch::run(command, globals, out).await,
        Command::Tree(command) => tree::run(command, globals, out).await?,
        Command::Logs(command) => logs::run(command, globals, out).await?,
        Command::Get { id } => {
            let request: RequestDetails =
                globals.connect()?.get(&["requests", &id.to_string()]).await?;
            out.show(&request)?;
        }
        Command::Blockers { id } => {
            let path = ["requests", &id.to_string(), "blockers"];
            let blockers: Items<BlockerState> = globals.connect()?.get(&path).await?;
            out.show(&blockers)?;
        }
        Command::Cancel { id, reason } => {
            let path = ["requests", &id.to_string(), "cancel"];
            let body = match reason {
                Some(reason) => serde_json::json!({ "reason": reason }),
                None => serde_json::json!({}),
            };
            let request: Request = globals.connect()?.post(&path, &body).await?;
            out.show(&view::Line(request))?;
        }
        Command::Retry { id } => {
            let path = ["requests", &id.to_string(), "retry"];
            let body = serde_json::json!({});
            let request: Request = globals.connect()?.post(&path, &body).await?;
            out.show(&view::Line(request))?;
        }
    }
    Ok(Exit::Ok)
}
