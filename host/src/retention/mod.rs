//! Retention: what has ended is deleted after a time.
//!
//! Flow: [`run`] ticks under a leadership of its own. A sweep drops the partitions of whole days that
//! are past retention, and moves the few requests of them that are still needed to the default
//! partitions; then it deletes, in small batches, what has become old there and in the tables that
//! have no partitions. What is still needed is said by `eve.referenced` and decided in the transaction
//! that deletes: see `migrations/0007_retention.sql`. What deployments once were goes likewise, and what skills ordered of them, up to the
//! revisions that can be rolled back to: see `migrations/0016_deployment_retention.sql`.
//!
//! Invariants:
//! - Nothing goes that is open, that ended within the retention time, or that something open refers to.
//! - Retention exceeds the longest run and its grace ([`LEAST`]); the SQL functions check it again.
//! - Every step is a transaction that checks the leadership's epoch. Whoever dies half-way leaves days
//!   that are gone whole and batches that are gone whole; the next sweep goes on with the rest, and
//!   finds edges, inbox rows and keys whose requests are gone however they went.
//! - Nobody waits for long: detaching a partition locks a table against everybody, so it gives up
//!   within moments and is tried again at the next tick.

mod sweep;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::duration;
use crate::db::Db;
use crate::scheduler;

pub(crate) use sweep::sweep;

/// The least: the longest run, 24 hours, and more grace than any worker gets. A run's ids are made
/// while it goes on, and their rows are inserted when it ends.
pub const LEAST: Duration = Duration::from_secs(26 * 3600);
/// The most; years are a matter for backups.
const MOST: Duration = Duration::from_secs(3650 * 86_400);
/// Kept when nobody says otherwise.
const USUAL: Duration = Duration::from_secs(30 * 86_400);

/// How often it is looked for what is past retention: partitions become so once a day.
const TICK: Duration = Duration::from_secs(3600);
/// How soon again when there was more than one sweep does, or somebody was in the way.
const SOON: Duration = Duration::from_secs(60);
/// Whose leadership it is done under: not that of the other duties, because its transactions take
/// seconds and a rescue must not wait for them.
pub(crate) const DUTY: &str = "retention";

/// The least revisions that ran to keep of a deployment: with fewer nobody could go back to last week's.
const LEAST_REVISIONS: i32 = 10;
/// The most: no more can be rolled back to.
const MOST_REVISIONS: i32 = 1_000;
/// Kept when nobody says otherwise: a month of several deployments a day.
const USUAL_REVISIONS: i32 = 100;

/// What is kept, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Keep {
    /// How long requests are kept after they have ended, such as 30d; at least 26h
    #[arg(long, env = "EVE_RETENTION", default_value_t, value_name = "TIME")]
    pub retention: Retention,
    /// How many revisions that ran are kept of a deployment however old they are: 10 to 1000
    #[arg(long, env = "EVE_KEEP_REVISIONS", default_value_t, value_name = "N")]
    pub keep_revisions: Revisions,
}

/// How many revisions that ran are kept of a deployment, however old they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions(i32);

impl Default for Revisions {
    fn default() -> Self {
        Revisions(USUAL_REVISIONS)
    }
}

impl FromStr for Revisions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) if (LEAST_REVISIONS..=MOST_REVISIONS).contains(&count) => {
                Ok(Revisions(count))
            }
            _ => Err(format!("must be {LEAST_REVISIONS} to {MOST_REVISIONS}")),
        }
    }
}

impl fmt::Display for Revisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long requests are kept after they have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention(Duration);

impl Retention {
    /// `keep`, if it is between 26 hours and ten years.
    pub fn new(keep: Duration) -> Result<Self, String> {
        match keep {
            keep if keep < LEAST => {
                Err("must be at least 26h: longer than the longest run may take".to_owned())
            }
            keep if keep > MOST => Err("must be at most 3650d".to_owned()),
            keep => Ok(Retention(keep)),
        }
    }

    /// As Postgres has it. Never out of its range: see [`Retention::new`].
    fn interval(self) -> sqlx::postgres::types::PgInterval {
        let microseconds = i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX);
        sqlx::postgres::types::PgInterval { months: 0, days: 0, microseconds }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Retention(USUAL)
    }
}

impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration::parse(text).and_then(Retention::new)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds if seconds % 86_400 == 0 => write!(f, "{}d", seconds / 86_400),
            seconds if seconds % 3600 == 0 => write!(f, "{}h", seconds / 3600),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

/// Sweeps until `stop`.
pub(crate) async fn run(db: &Db, keep: Keep, stop: &CancellationToken) {
    let holder = Uuid::now_v7();
    loop {
        let swept = tokio::select! {
            () = stop.cancelled() => break,
            swept = sweep(db, holder, keep) => swept,
        };
        let wait = match swept {
            Ok(swept) => {
                if swept.did_something() {
                    tracing::info!(keep = %keep.retention, %swept, "deleted what was past retention");
                }
                if swept.unfinished { SOON } else { TICK }
            }
            Err(error) => {
                scheduler::report("retention", &error);
                SOON
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    if let Err(error) = scheduler::resign(db, DUTY, holder).await {
        scheduler::report("giving the leadership of retention up", &error);
    }
}
