//! `eve migrate`: brings a database up to this binary's schema.

use std::time::Duration;

use tokio::time::Instant;

use super::Database;
use crate::db::{self, MigrateError};

/// How often a database that cannot be reached is tried, and how often that is said.
const AGAIN: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Bring the database up to this version's schema
///
/// Safe to run twice, and from two places at once. Refuses a database that a newer eve has migrated,
/// unless it is told that this is a rollback.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    /// Seconds to wait for a database that cannot be reached
    #[arg(long, env = "EVE_MIGRATE_WAIT", default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
    /// Take a database that a newer eve has migrated for done: processes of the version before go on with it
    #[arg(long)]
    accept_newer: bool,
}

/// Runs it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let db = args.database.connect("migrate")?;
    let until = Instant::now() + Duration::from_secs(args.wait);
    let mut said: Option<Instant> = None;
    let applied = loop {
        match db::migrate(db.pool()).await {
            Err(error @ MigrateError::Unreachable { .. }) if Instant::now() < until => {
                if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                    let left = until.saturating_duration_since(Instant::now()).as_secs();
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "trying again for {left} s");
                    said = Some(Instant::now());
                }
            }
            // Schemas are expanded a release before they are contracted.
            Err(MigrateError::Newer { database, ours }) if args.accept_newer => {
                println!(
                    "the database is newer ({database}) than this eve ({ours}), which goes on with it"
                );
                return Ok(());
            }
            done => break done?,
        }
        tokio::time::sleep(AGAIN).await;
    };
    match applied.as_slice() {
        [] => println!("the database is up to date"),
        applied => {
            for name in applied {
                println!("applied {name}");
            }
        }
    }
    Ok(())
}
