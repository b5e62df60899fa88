//! Postgres: one pool, and one place that decides as whom a transaction runs.
//!
//! Flow: [`Db::connect`] opens the pool; every access begins with [`Db::begin`] and a [`Scope`], which
//! switches to a role without BYPASSRLS and, where the scope is a tenant's, sets the organisation for
//! the transaction. Row-level security is the second wall: the first is the WHERE clause.
//!
//! Invariants:
//! - The database's clock is the only clock: no timestamp that decides anything is made here.
//! - Statements are planned for their values ([custom plans]): a generic plan of `LIMIT $1` over the
//!   queue is a sequential scan.
//! - No transaction stays open while something other than Postgres is waited for.
//!
//! [custom plans]: https://www.postgresql.org/docs/current/sql-prepare.html

mod migrate;

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Executor, Postgres, Transaction};

use crate::tenancy::Tenant;

pub use migrate::{MigrateError, SchemaState, first_schema_state, migrate, place, schema_state};

/// A transaction in progress; rolled back when dropped.
pub type Tx = Transaction<'static, Postgres>;

/// As whom a transaction runs: see `migrations/0001_roles_and_tenancy.sql`.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// One organisation's data.
    Tenant(Tenant),
    /// What a running skill may read of its organisation.
    Guest(Tenant),
    /// The queue's tables across organisations: claim, finish, rescue.
    Engine,
    /// Identity look-ups and platform administration.
    Control,
    /// How many requests stand where, by worker type, and nothing else.
    Metrics,
}

/// How a process talks to Postgres.
#[derive(Clone, Debug)]
pub struct DbConfig {
    /// `postgres://…`.
    pub url: String,
    /// Most connections at one time.
    pub max_connections: u32,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
}

/// A pool of connections to the platform's database.
#[derive(Clone, Debug)]
pub struct Db {
    pool: PgPool,
}

impl Db {
    /// Opens the pool. Connects lazily: Postgres need not be there yet.
    pub fn connect(config: &DbConfig) -> Result<Db, sqlx::Error> {
        let options = PgConnectOptions::from_str(&config.url)?
            .application_name(&config.application_name)
            .options([
                ("plan_cache_mode", "force_custom_plan"),
                // A process that hangs in the middle of a transaction must not hold its locks.
                ("idle_in_transaction_session_timeout", "10s"),
                ("statement_timeout", "60s"),
                // Everything here is found by an index. With what the planner knows of a table that has
                // just been filled, or of a day that is nearly all one fan-out, it reads all of it.
                ("enable_seqscan", "off"),
                // The batches of the queue are small: compiling their plans costs more than it saves.
                ("jit", "off"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(Duration::from_secs(10))
            .idle_timeout(Duration::from_secs(300))
            // Postgres gone and back leaves dead connections: the first use finds out and retries,
            // which costs less than a round trip before every use.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Db { pool })
    }

    /// Begins a transaction in `scope`, in one round trip after BEGIN.
    pub async fn begin(&self, scope: Scope) -> Result<Tx, sqlx::Error> {
        // Pooled connections may have died since they were used last, all of them if Postgres was
        // restarted: each is tried, then a new one.
        // sqlx counts idle ones without a lock: for a moment it may say fewer than none, as a huge number.
        let mut dead = self.pool.num_idle().min(self.pool.size() as usize) + 1;
        let mut tx = loop {
            match self.pool.begin().await {
                Err(sqlx::Error::PoolTimedOut) => return Err(sqlx::Error::PoolTimedOut),
                Err(error) if is_connection_loss(&error) && dead > 0 => dead -= 1,
                other => break other?,
            }
        };
        match scope {
            Scope::Engine => tx.execute("SET LOCAL ROLE eve_engine").await?,
            Scope::Control => tx.execute("SET LOCAL ROLE eve_control").await?,
            Scope::Metrics => tx.execute("SET LOCAL ROLE eve_metrics").await?,
            Scope::Tenant(tenant) => {
                enter_org(&mut tx, "eve_tenant", tenant, MEMBER_PATIENCE).await?
            }
            Scope::Guest(tenant) => enter_org(&mut tx, "eve_guest", tenant, GUEST_PATIENCE).await?,
        };
        Ok(tx)
    }

    /// The pool itself, for migrations, listening, and readiness.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// A member's call that cannot have its locks fails, to be tried again, and gives its connection back.
const MEMBER_PATIENCE: &str = "SET LOCAL lock_timeout = '10s'";
/// A guest's question that takes longer than this must not keep a connection from others.
const GUEST_PATIENCE: &str = "SET LOCAL statement_timeout = '10s'";

/// Switches the role and sets the organisation until the transaction ends. The values are our own
/// constants and a UUID, so they can stand in a simple-protocol statement: one round trip for both.
async fn enter_org(
    tx: &mut Tx,
    role: &'static str,
    tenant: Tenant,
    patience: &'static str,
) -> Result<sqlx::postgres::PgQueryResult, sqlx::Error> {
    let org = tenant.org();
    let statement = format!("SET LOCAL ROLE {role}; SET LOCAL eve.org_id = '{org}'; {patience}");
    tx.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement))).await
}

/// Whether the connection, not the statement, was the trouble: trying again may help.
pub fn is_connection_loss(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed => true,
        // 57P01 to 57P03: terminated by an administrator, crash shutdown, still starting. 08: connection.
        // 25P03: our own idle_in_transaction_session_timeout. 53300: too many connections for now.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("57P") || code.starts_with("08") || code == "25P03" || code == "53300"
        }),
        _ => false,
    }
}

/// Whether the server does not let this login in, or has no such database, or lets it see nothing there:
/// somebody has to make it, or to grant it something.
pub fn is_turned_away(error: &sqlx::Error) -> bool {
    // 28: authorization. 3D000: no such database. 42501: insufficient privilege.
    matches!(error, sqlx::Error::Database(error)
        if error.code().is_some_and(|code| code.starts_with("28") || code == "3D000" || code == "42501"))
}

/// Whether Postgres refused the values, so that the same statement would be refused again: data
/// exceptions, violated constraints, more than fits.
pub fn is_refusal(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error)
        if error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))))
}

/// Whether Postgres chose this transaction to break a deadlock or a serialisation conflict.
pub fn is_deadlock(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error)
        if matches!(error.code().as_deref(), Some("40P01" | "40001" | "55P03")))
}

/// Whether a statement took longer than it may.
pub fn is_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("57014"))
}

/// Whether somebody else has made that row: a unique index says so.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.is_unique_violation())
}
