//! The schema's version: bring a database up to ours, and refuse one that is newer.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

use super::{Db, is_connection_loss, is_turned_away};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The oldest Postgres that schema and statements are written for: `security_invoker` of views is of 15.
const OLDEST: u32 = 15;
/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a database could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A later `eve` has migrated it.
    #[error(
        "the database is at schema version {database}, but this eve knows only up to {ours}: \
         it was migrated by a newer eve; upgrade this one"
    )]
    Newer {
        /// The database's version.
        database: i64,
        /// The newest version that this binary brings.
        ours: i64,
    },
    /// A Postgres that lacks what the schema is made of.
    #[error(
        "this Postgres is version {0}, and {OLDEST} or later is needed: upgrade the server, or name \
         another one in DATABASE_URL"
    )]
    TooOld(u32),
    /// Nobody answers there.
    #[error("the database at {place} cannot be reached")]
    Unreachable {
        /// Host, port and name.
        place: String,
        /// What happened.
        #[source]
        source: sqlx::Error,
    },
    /// The login does not hold there, or there is no such database.
    #[error("the database at {place} turns this login away: look at DATABASE_URL")]
    TurnedAway {
        /// Host, port and name.
        place: String,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// A migration that is no transaction was begun and did not end.
    #[error(
        "migration {0} was begun and has not ended, so that part of it may be there: undo by hand what \
         there is of it, then DELETE FROM _sqlx_migrations WHERE version = {0}, and run `eve migrate` again"
    )]
    HalfDone(i64),
    /// A migration failed; it left nothing behind.
    #[error("migrating the database failed")]
    Failed(#[source] sqlx::migrate::MigrateError),
    /// Postgres could not be asked.
    #[error("reading the database's schema version failed")]
    Database(#[from] sqlx::Error),
}

/// How a database's schema compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The same.
    Current,
    /// Migrations are missing.
    Behind,
    /// A newer `eve` was here. Schemas are expanded before they are contracted, so an older process
    /// may go on serving; it must not migrate.
    Ahead,
}

/// The version of the newest migration that this binary brings.
fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The newest migration that the database has; none if it was never migrated.
async fn applied(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await
}

/// Compares without changing anything.
pub async fn schema_state(pool: &PgPool) -> Result<SchemaState, sqlx::Error> {
    compare(&mut *pool.acquire().await?).await
}

/// The same over a connection of its own: it fails for what is wrong, where the pool would only say that
/// it has waited in vain.
pub async fn first_schema_state(db: &Db) -> Result<SchemaState, sqlx::Error> {
    let asked = async {
        let mut connection = connect(db.pool()).await?;
        let state = compare(&mut connection).await?;
        connection.close().await?;
        Ok(state)
    };
    // Whoever takes the connection may say nothing more.
    let patience = tokio::time::timeout(CONNECT * 2, asked).await;
    patience.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
}

async fn connect(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let options = pool.connect_options();
    tokio::time::timeout(CONNECT, PgConnection::connect_with(&options))
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
}

/// Where a pool's database is, without who connects: host, port and name.
pub fn place(pool: &PgPool) -> String {
    let options = pool.connect_options();
    let host =
        options.get_socket().map_or(options.get_host().into(), |path| path.to_string_lossy());
    format!("{host}:{}/{}", options.get_port(), options.get_database().unwrap_or("postgres"))
}

async fn compare(connection: &mut PgConnection) -> Result<SchemaState, sqlx::Error> {
    Ok(match applied(connection).await? {
        Some(version) if version == newest() => SchemaState::Current,
        Some(version) if version > newest() => SchemaState::Ahead,
        _ => SchemaState::Behind,
    })
}

/// Applies what is missing, each migration in a transaction of its own. Two processes may start it at
/// once: one waits for the other (sqlx's session lock) and finds nothing left to do. Returns the
/// migrations applied by this call.
pub async fn migrate(pool: &PgPool) -> Result<Vec<Cow<'static, str>>, MigrateError> {
    let mut connection = connect(pool).await.map_err(|source| match source {
        source if is_connection_loss(&source) => {
            MigrateError::Unreachable { place: place(pool), source }
        }
        source if is_turned_away(&source) => {
            MigrateError::TurnedAway { place: place(pool), source }
        }
        source => MigrateError::Database(source),
    })?;
    let version = connection.server_version_num().map(|number| number / 10_000);
    if let Some(version) = version.filter(|version| *version < OLDEST) {
        return Err(MigrateError::TooOld(version));
    }
    let before = applied(&mut connection).await?;
    if let Some(database) = before.filter(|version| *version > newest()) {
        return Err(MigrateError::Newer { database, ours: newest() });
    }
    connection.close().await?;
    // A large table is changed for longer than anybody else may take, and the second to come waits as long.
    let mut patient = pool.acquire().await?;
    patient.close_on_drop();
    patient.execute("SET statement_timeout = 0").await?;
    let done = MIGRATIONS.run(&mut *patient).await;
    done.map_err(|error| match error {
        sqlx::migrate::MigrateError::Dirty(version) => MigrateError::HalfDone(version),
        error => MigrateError::Failed(error),
    })?;
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| Some(migration.version) > before)
        .map(|migration| migration.description.clone())
        .collect())
}
