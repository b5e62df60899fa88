//! What can be chosen.

use std::time::Duration;

use clap::Parser;

use crate::progress::Blow;

/// Users at work on a whole platform, and enemies who take it apart meanwhile
///
/// Runs until the minutes are over, or until every target that is given is reached.
#[derive(Clone, Debug, Parser)]
#[command(name = "eve-chaos")]
pub struct Options {
    /// Decides what users ask for and what enemies do
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// How long the enemies attack [default: 1 if there is no target]
    #[arg(long, value_name = "MINUTES")]
    pub minutes: Option<f64>,
    /// Target: so many processes killed by SIGKILL
    #[arg(long, value_name = "N")]
    pub kills: Option<u64>,
    /// Target: so many requests, those that runs create included
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Run few very large graphs instead, without enemies
    #[arg(long, conflicts_with_all = ["minutes", "kills", "requests"])]
    pub scale: bool,

    /// Control planes
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub servers: usize,
    /// Workers
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub workers: usize,
    /// Runs that a worker has at one time
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub slots: u32,
    /// Organisations
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub organisations: usize,
    /// Users who create, cancel and retry
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub authors: usize,
    /// Users create nothing while so many requests are claimable or blocked
    #[arg(long, default_value_t = 1500, value_name = "N")]
    pub backlog: i64,

    /// Seconds between SIGKILLs of workers, on average; 0 for none, as for the others
    #[arg(long, default_value_t = 0.7, value_name = "SECONDS")]
    pub kill_every: f64,
    /// Seconds between SIGKILLs of control planes. Rescues need a leader that listens for 15 s
    #[arg(long, default_value_t = 40.0, value_name = "SECONDS")]
    pub server_kill_every: f64,
    /// Seconds between stops of a worker, for longer than its lease
    #[arg(long, default_value_t = 25.0, value_name = "SECONDS")]
    pub pause_every: f64,
    /// Seconds between stops of a control plane, for longer than its leadership
    #[arg(long, default_value_t = 75.0, value_name = "SECONDS")]
    pub server_pause_every: f64,
    /// Seconds between SIGTERMs of workers
    #[arg(long, default_value_t = 8.0, value_name = "SECONDS")]
    pub drain_every: f64,
    /// Seconds between cuts of database connections
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub cut_every: f64,
    /// Seconds between crashes of Postgres
    #[arg(long, default_value_t = 50.0, value_name = "SECONDS")]
    pub crash_every: f64,

    /// Seconds without any progress after which settling is given up
    #[arg(long, default_value_t = 180, value_name = "SECONDS")]
    pub patience: u64,
    /// Keep the database of a failed run, and say where it is
    #[arg(long)]
    pub keep: bool,
}

impl Options {
    /// Each kind of blow, and the seconds between two of it.
    pub fn blows(&self) -> [(Blow, f64); Blow::ALL.len()] {
        [
            (Blow::KillWorker, self.kill_every),
            (Blow::KillServer, self.server_kill_every),
            (Blow::PauseWorker, self.pause_every),
            (Blow::PauseServer, self.server_pause_every),
            (Blow::Drain, self.drain_every),
            (Blow::Cut, self.cut_every),
            (Blow::Crash, self.crash_every),
        ]
    }

    /// How long the enemies attack at most.
    pub fn limit(&self) -> Option<Duration> {
        match (self.minutes, self.kills, self.requests) {
            (Some(minutes), _, _) => Some(Duration::from_secs_f64(minutes * 60.0)),
            (None, None, None) => Some(Duration::from_secs(60)),
            _ => None,
        }
    }
}
