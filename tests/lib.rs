//! End-to-end tests of Eve Horizon: what they stand on. The tests themselves are in `tests/tests/`.
//!
//! Flow: [`Database::fresh`] makes a migrated database on a real Postgres, [`Eve`] starts the real
//! binary's roles on it and calls its command line, [`wait_for`] waits for what should come of it.
//!
//! Invariants:
//! - Nothing is faked: the binary is the one that users run, killed as a kernel would kill it.
//! - No test sleeps for a fixed time or asserts on elapsed time; deadlines only end what hangs.
//! - A test has a database of its own and ports that nobody else has, so tests run side by side.
//! - What a test starts ends with it, and when it fails, what the processes said is printed.
//!
//! `scripts/test` sets up what is needed and names it: `EVE_TEST_DATABASE_URL`, a Postgres as a
//! superuser; `EVE_BIN`, the binary. By hand: `EVE_TEST_DATABASE_URL=$(scripts/postgres start)`,
//! and the binary is looked for beside the tests.
//!
//! ```no_run
//! # use eve_tests::*;
//! # #[tokio::main] async fn main() -> anyhow::Result<()> {
//! let database = Database::fresh().await?;
//! let eve = Eve::on(&database)?;
//! let server = eve.serve().await?;
//! let mut worker = eve.worker("general", 4)?;
//! worker.kill();
//! # Ok(()) }
//! ```

mod database;
mod eve;
pub mod invariants;
mod platform;
mod process;
mod shared;
mod tenant;
mod wait;

pub use database::Database;
pub use eve::{Eve, Output, Server, binary, free_address, http_client, skill, skills_folder};
pub use platform::{Ended, Platform};
pub use process::Process;
pub use shared::{Member, Shared};
pub use tenant::Org;
pub use wait::{PATIENCE, wait_for, wait_long_for};
