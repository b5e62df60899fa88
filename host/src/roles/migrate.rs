//! `eve migrate`: brings a database up to this binary's schema.

use super::Database;
use crate::db;

/// Bring the database up to this version's schema
///
/// Safe to run twice, and from two places at once. Refuses a database that a newer eve has migrated.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
}

/// Runs it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let db = args.database.connect("migrate")?;
    let applied = db::migrate(db.pool()).await?;
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
