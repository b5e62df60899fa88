//! The schema's version: bring a database up to ours, and refuse one that is newer.

use std::borrow::Cow;

use sqlx::PgPool;
use sqlx::migrate::Migrator;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

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
    /// A migration failed; it left nothing behind.
    #[error("migrating the database failed")]
    Failed(#[from] sqlx::migrate::MigrateError),
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
async fn applied(pool: &PgPool) -> Result<Option<i64>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(pool)
        .await
}

/// Compares without changing anything.
pub async fn schema_state(pool: &PgPool) -> Result<SchemaState, sqlx::Error> {
    Ok(match applied(pool).await? {
        Some(version) if version == newest() => SchemaState::Current,
        Some(version) if version > newest() => SchemaState::Ahead,
        _ => SchemaState::Behind,
    })
}

/// Applies what is missing, each migration in a transaction of its own. Two processes may start it at
/// once: one waits for the other (sqlx's session lock) and finds nothing left to do. Returns the
/// migrations applied by this call.
pub async fn migrate(pool: &PgPool) -> Result<Vec<Cow<'static, str>>, MigrateError> {
    let before = applied(pool).await?;
    if let Some(database) = before.filter(|version| *version > newest()) {
        return Err(MigrateError::Newer { database, ours: newest() });
    }
    MIGRATIONS.run(pool).await?;
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| Some(migration.version) > before)
        .map(|migration| migration.description.clone())
        .collect())
}
