//! `eve worker`: claims requests of one worker type and runs their skills.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::{Database, Migrating, SkillsDatabase};
use crate::deployments::Deployments;
use crate::notify::Bell;
use crate::requests::Requests;
use crate::runtime::{Runtime, RuntimeConfig};
use crate::skills::artifact::Verifier;
use crate::skills::loader::Loader;
use crate::worker::health::{self, Health};
use crate::worker::{self, WorkerConfig, WorkerParts};

/// Run a worker: claim requests of one worker type and run their skills
///
/// SIGTERM drains it: it claims nothing more, finishes what ends within the grace period, and gives
/// the rest back to the queue.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    skills: SkillsDatabase,
    /// The worker type, such as general
    #[arg(long = "type", env = "WORKER_TYPE", value_name = "TYPE")]
    worker_type: String,
    /// Runs at one time
    #[arg(long, env = "EVE_SLOTS", default_value_t = 32, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    slots: u32,
    /// Seconds that runs may go on after SIGTERM
    #[arg(long, env = "EVE_GRACE_SECONDS", default_value_t = 30, value_name = "SECONDS")]
    grace: u64,
    /// Where to answer probes and Prometheus: /healthz, /readyz, /metrics [default: nowhere]
    #[arg(long, env = "EVE_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
    /// Bytes of memory for all guests together [default: three fifths of what there is]
    #[arg(long, env = "EVE_MEMORY_BUDGET", value_name = "BYTES")]
    memory_budget: Option<usize>,
    /// Public keys whose artifacts are run, base64, separated by commas; `eve keygen` prints it
    #[arg(
        long,
        env = "EVE_VERIFY_KEYS",
        value_name = "KEYS",
        value_delimiter = ',',
        required = true
    )]
    verify_keys: Vec<String>,
    /// Where compiled skills are kept; must be this user's own [default: ~/.cache/eve-horizon/artifacts]
    #[arg(long, env = "EVE_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// Runs it.
pub async fn run(args: Args, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let stop = super::stop_on_signal()?;
    let (db, guests) = args.database.connect_worker()?;
    let verifier =
        Verifier::new(args.verify_keys.iter().map(|key| key.trim())).context("EVE_VERIFY_KEYS")?;
    let schemas = args.skills.schemas(guests.clone())?;
    let health = Health::default();
    // From the start: what waits for its database lives.
    let answering = match args.health_listen {
        Some(address) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on {address}, as EVE_HEALTH_LISTEN says"))?;
            Some(tokio::spawn(health::serve(listener, health.clone(), metrics)))
        }
        None => None,
    };
    super::ready(&db, Migrating::Meanwhile(&health), &stop).await?;
    let runtime = Runtime::new(RuntimeConfig {
        max_concurrent: args.slots,
        memory_budget: args.memory_budget.unwrap_or_else(super::default_memory_budget),
        threads: 0,
        io: tokio::runtime::Handle::current(),
    })?;
    let directory = args.cache_dir.unwrap_or_else(super::default_cache);
    let files = super::open_cache(&directory, verifier)?;
    let bell = Bell::start(db.pool().clone());
    let parts = WorkerParts {
        schemas,
        // A worker has no key to seal with, and needs none: it only asks.
        deployments: Deployments::new(guests.clone(), bell.clone(), None),
        requests: Requests::new(guests, bell.clone()),
        loader: Loader::new(db.clone(), runtime.clone(), files),
        db,
        bell,
        runtime,
    };
    let config = WorkerConfig {
        worker_type: args.worker_type,
        slots: args.slots as usize,
        grace: Duration::from_secs(args.grace),
        host: super::host_name(),
    };
    worker::run(config, parts, health, stop).await;
    if let Some(answering) = answering {
        answering.abort();
    }
    Ok(())
}
