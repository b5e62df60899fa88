//! What one `eve` process is: control plane, worker, or all in one.
//!
//! Flow: `main` parses the command line and calls one role; a role opens what it needs, starts its
//! tasks, and ends them in order when the process is told to stop.

pub mod dev;
pub mod migrate;
pub mod serve;
pub mod worker;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::db::{
    self, Db, DbConfig, SchemaState, first_schema_state, is_connection_loss, is_turned_away,
};
use crate::schemas::{Schemas, Server};
use crate::skills::artifact::{ArtifactCache, Signer, Verifier};
use crate::worker::health::Health;

/// Where the platform's database is.
#[derive(Clone, Debug, clap::Args)]
pub struct Database {
    /// The platform's database, postgres://user:password@host/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
    /// Most connections at one time
    #[arg(long, env = "EVE_DATABASE_CONNECTIONS", default_value_t = 20, value_name = "N")]
    pub database_connections: u32,
}

impl Database {
    fn connect(&self, role: &str) -> anyhow::Result<Db> {
        self.pool(role, self.database_connections)
    }

    /// Fails for fewer connections than a process can work with.
    fn at_least(&self, connections: u32) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.database_connections >= connections,
            "EVE_DATABASE_CONNECTIONS is {}, and this process takes at least {connections}: some of them only listen",
            self.database_connections
        );
        Ok(())
    }

    /// For a worker: what its engine uses, and what the calls of its guests use. Two pools, so that
    /// guests who ask much and slowly keep no heartbeat and no result from being written.
    fn connect_worker(&self) -> anyhow::Result<(Db, Db)> {
        self.at_least(3)?;
        let guests = (self.database_connections / 2).max(1);
        let engine = self.database_connections.saturating_sub(guests).max(1);
        Ok((self.pool("worker", engine)?, self.pool("worker: guests", guests)?))
    }

    fn pool(&self, name: &str, max_connections: u32) -> anyhow::Result<Db> {
        Db::connect(&DbConfig {
            url: self.database_url.clone(),
            max_connections,
            application_name: format!("eve {name}"),
        })
        .context("DATABASE_URL is not a Postgres URL")
    }
}

/// Where skills keep state.
#[derive(Clone, Debug, clap::Args)]
pub struct SkillsDatabase {
    /// The skills server, postgres://user:password@host/postgres; a worker needs no credentials in it.
    /// Without it skills have no database
    #[arg(long, env = "SKILLS_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    skills_database_url: Option<String>,
    /// The key that the passwords of its roles are derived from, base64 of 32 bytes, the same everywhere;
    /// `openssl rand -base64 32` makes one
    #[arg(long, env = "EVE_SKILLS_KEY", hide_env_values = true, value_name = "KEY")]
    skills_key: Option<String>,
    /// Most sessions of the skills server at one time
    #[arg(long, env = "EVE_SKILLS_CONNECTIONS", default_value_t = 32, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    skills_connections: u32,
}

impl SkillsDatabase {
    /// The schemas of its server, if there is one.
    fn schemas(&self, db: Db) -> anyhow::Result<Schemas> {
        let Some(url) = &self.skills_database_url else { return Ok(Schemas::none(db)) };
        let key = self.skills_key.as_deref().context(
            "a skills server needs a key: set EVE_SKILLS_KEY (openssl rand -base64 32 makes one)",
        )?;
        let key = key.parse().map_err(|why: String| anyhow::anyhow!("EVE_SKILLS_KEY {why}"))?;
        Ok(Schemas::new(db, Server::new(url, key)?, self.skills_connections as usize))
    }
}

/// Who brings the schema up to date.
enum Migrating<'a> {
    /// Somebody was to do it first: where it is not done, the process says so and ends.
    First,
    /// Somebody does it meanwhile, and makes this process's login with it: a worker waits, and its health
    /// says for what. Ending would only have it started again, later every time.
    Meanwhile(&'a Health),
}

/// Waits until the database can be reached and has a schema that this binary can serve; a newer one
/// will do, because schemas are expanded before they are contracted. What it waits for is logged once.
async fn ready(db: &Db, migrating: Migrating<'_>, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut pause = std::time::Duration::from_millis(200);
    let mut said: Option<String> = None;
    let place = db::place(db.pool());
    loop {
        let Some(state) = stop.run_until_cancelled(first_schema_state(db)).await else {
            anyhow::bail!("stopped before the database could be used");
        };
        let (why, error) = match (state, &migrating) {
            (Ok(SchemaState::Current | SchemaState::Ahead), _) => {
                if said.is_some() {
                    tracing::info!("the database is as it should be; going on");
                }
                return Ok(());
            }
            (Ok(SchemaState::Behind), Migrating::First) => {
                anyhow::bail!(
                    "the database's schema is older than this eve: run `eve migrate` first"
                )
            }
            (Ok(SchemaState::Behind), Migrating::Meanwhile(_)) => {
                let why = "the database's schema is older than this eve: waiting for `eve migrate`";
                (why.to_owned(), None)
            }
            (Err(error), _) if is_connection_loss(&error) => {
                (format!("the database at {place} cannot be reached; trying again"), Some(error))
            }
            (Err(error), Migrating::Meanwhile(_)) if is_turned_away(&error) => {
                let why = format!(
                    "the database at {place} turns this login away: waiting for somebody to make it"
                );
                (why, Some(error))
            }
            (Err(error), _) => return Err(error).context("reading the database's schema version"),
        };
        if said.as_ref() != Some(&why) {
            let error = error.as_ref().map(|error| error as &dyn std::error::Error);
            tracing::warn!(error, "{why}");
            if let Migrating::Meanwhile(health) = migrating {
                health.waits(&why);
            }
            said = Some(why);
        }
        tokio::select! {
            () = stop.cancelled() => anyhow::bail!("stopped before the database could be used"),
            () = tokio::time::sleep(pause) => {
                pause = (pause * 2).min(std::time::Duration::from_secs(5));
            }
        }
    }
}

/// A token that is cancelled by SIGTERM or SIGINT. A second signal ends the process at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        let mut wait = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        wait().await;
        tracing::info!("stopping; a second signal ends the process at once");
        token.cancel();
        wait().await;
        std::process::exit(130);
    });
    Ok(stop)
}

/// Where a process keeps verified machine code when it is not told: a folder of the user's own.
fn default_cache() -> PathBuf {
    let base =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("eve-horizon/artifacts")
}

fn open_cache(directory: &Path, verifier: Verifier) -> anyhow::Result<ArtifactCache> {
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    ArtifactCache::open(directory, verifier)
        .with_context(|| format!("opening the artifact cache {}", directory.display()))
}

/// The signer of this control plane, from a key or from a file.
fn signer(key: Option<&str>, file: Option<&Path>) -> anyhow::Result<Signer> {
    match (key, file) {
        (Some(key), _) => Signer::from_base64(key.trim()).context("EVE_SIGNING_KEY"),
        (None, Some(file)) => {
            Signer::from_file(file).with_context(|| format!("reading {}", file.display()))
        }
        (None, None) => anyhow::bail!(
            "no key to sign artifacts with: set EVE_SIGNING_KEY or EVE_SIGNING_KEY_FILE; \
             `eve keygen` makes one"
        ),
    }
}

/// A share of this machine's memory for guests: three fifths of what the cgroup allows, or of what
/// there is.
fn default_memory_budget() -> usize {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let limit = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .and_then(|text| text.trim().parse::<usize>().ok());
    let physical = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes << 10)
    });
    let total = match (limit, physical) {
        (Some(limit), Some(physical)) => limit.min(physical),
        (limit, physical) => limit.or(physical).unwrap_or(2 << 30),
    };
    total / 5 * 3
}

/// The pod's or the machine's name.
fn host_name() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
