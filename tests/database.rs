//! A database for one test.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

/// Names the Postgres to make databases on.
const SERVER: &str = "EVE_TEST_DATABASE_URL";
/// Says that a template is being made; any number that nothing else uses.
const TEMPLATE_LOCK: i64 = 0x0065_7665_7465_6d70;

/// A migrated database that nobody else uses, dropped at the end.
#[derive(Debug)]
pub struct Database {
    name: String,
    options: PgConnectOptions,
    url: String,
}

impl Database {
    /// Makes one, in the time that copying some files takes: the migrations run once, in a template.
    pub async fn fresh() -> Result<Database> {
        let server = server_url()?;
        let mut admin = connect(&server).await?;
        let template = template(&mut admin, &server).await?;
        let made = Self::create(&mut admin, &server, Some(&template)).await;
        admin.close().await?;
        made
    }

    /// Makes an empty one, which has not been migrated.
    pub async fn empty() -> Result<Database> {
        let server = server_url()?;
        let mut admin = connect(&server).await?;
        let made = Self::create(&mut admin, &server, None).await;
        admin.close().await?;
        made
    }

    async fn create(
        admin: &mut PgConnection,
        server: &str,
        template: Option<&str>,
    ) -> Result<Database> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("eve_test_{}_{count}", std::process::id());
        // Left by a process that had our id and was killed.
        execute(admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        let template = template.unwrap_or("template1");
        execute(admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        let url = with_database(server, &name)?;
        Ok(Database { options: PgConnectOptions::from_str(&url)?, name, url })
    }

    /// Its URL, as a superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connections to it, as a superuser, past every wall: to look at what is there.
    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(4).connect_lazy_with(self.options.clone())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let options = self.options.clone().database("postgres");
        let name = self.name.clone();
        let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        // A thread, because a runtime cannot be entered from within another.
        let dropped = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut own = options.clone().database(&name).connect().await?;
                let orgs = organisations(&mut own).await?;
                own.close().await?;
                let mut admin = options.connect().await?;
                for org in orgs {
                    drop_organisation(&mut admin, &org).await?;
                }
                execute(&mut admin, statement).await?;
                Ok(admin.close().await?)
            })
        })
        .join();
        if !matches!(dropped, Ok(Ok(()))) {
            eprintln!("the database {} stays behind: {dropped:?}", self.name);
        }
    }
}

/// The ids, as names have them, of organisations that have schemas.
async fn organisations(connection: &mut PgConnection) -> Result<Vec<String>> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('eve.skill_schemas') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(Vec::new());
    }
    let ids = "SELECT DISTINCT replace(org_id::text, '-', '') FROM eve.skill_schemas";
    Ok(sqlx::query_scalar(ids).fetch_all(connection).await?)
}

/// Removes what an organisation has on the skills server: its database, and its roles.
async fn drop_organisation(admin: &mut PgConnection, org: &str) -> Result<()> {
    execute(admin, format!("DROP DATABASE IF EXISTS eve_org_{org} WITH (FORCE)")).await?;
    let roles: Vec<String> =
        sqlx::query_scalar("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1)")
            .bind(format!("eve_{org}_"))
            .fetch_all(&mut *admin)
            .await?;
    for role in roles {
        execute(admin, format!("DROP ROLE IF EXISTS {role}")).await?;
    }
    Ok(())
}

/// The template for the migrations as they are now: made by whoever comes first.
async fn template(admin: &mut PgConnection, server: &str) -> Result<String> {
    let name = format!("eve_template_{:016x}", migrations_checksum()?);
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut *admin).await?;
    let made = make_template(admin, server, &name).await;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(TEMPLATE_LOCK).execute(&mut *admin).await?;
    made.context("making the template for test databases")?;
    Ok(name)
}

async fn make_template(admin: &mut PgConnection, server: &str, name: &str) -> Result<()> {
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut *admin)
            .await?;
    if there {
        return Ok(());
    }
    // Under another name until it is whole.
    let unfinished = format!("{name}_unfinished");
    execute(admin, format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await?;
    execute(admin, format!("CREATE DATABASE {unfinished}")).await?;
    let options = PgConnectOptions::from_str(&with_database(server, &unfinished)?)?;
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
    eve_host::db::migrate(&pool).await?;
    pool.close().await;
    // Nobody can be connected to a template while it is copied, autovacuum neither.
    execute(admin, format!("ALTER DATABASE {unfinished} ALLOW_CONNECTIONS false")).await?;
    execute(admin, format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await
}

/// Changes with every change of a migration.
fn migrations_checksum() -> Result<u64> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        std::fs::read(&file)
            .with_context(|| format!("reading {}", file.display()))?
            .hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn server_url() -> Result<String> {
    std::env::var(SERVER).with_context(|| {
        format!(
            "{SERVER} does not name a Postgres for tests; run them with scripts/test, or set \
             {SERVER}=$(scripts/postgres start)"
        )
    })
}

/// `server` with another database's name in it.
fn with_database(server: &str, name: &str) -> Result<String> {
    let (address, query) = match server.split_once('?') {
        Some((address, query)) => (address, format!("?{query}")),
        None => (server, String::new()),
    };
    let (scheme, rest) =
        address.split_once("://").with_context(|| format!("{SERVER} is no URL"))?;
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    Ok(format!("{scheme}://{host}/{name}{query}"))
}

async fn connect(url: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::from_str(url).with_context(|| format!("reading {SERVER}"))?;
    options.connect().await.with_context(|| format!("connecting to {SERVER}"))
}

/// Names cannot be parameters; these are our own.
async fn execute(connection: &mut PgConnection, statement: String) -> Result<()> {
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(statement.clone())))
        .await
        .with_context(|| statement)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_both_kinds_take_a_name() {
        let socket = with_database("postgres:///postgres?host=/tmp/x&user=postgres", "a").unwrap();
        assert_eq!(socket, "postgres:///a?host=/tmp/x&user=postgres");
        let tcp = with_database("postgres://me:pw@localhost:5433", "a").unwrap();
        assert_eq!(tcp, "postgres://me:pw@localhost:5433/a");
    }
}
