//! `eve dev`: control plane, scheduler and a worker of each kind in one process, on a Postgres of its
//! own. No configuration; data survives a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::serve::ControlPlane;
use crate::cli;
use crate::db::{self, Db, DbConfig};
use crate::deployments::Deployments;
use crate::dev::certificate::{self, Made};
use crate::dev::postgres::{PostgresError, PrivatePostgres};
use crate::dev::{self, bootstrap};
use crate::http::listener::{Certificate, Listener, Plain};
use crate::http::rates::RateLimits;
use crate::notify::Bell;
use crate::requests::Requests;
use crate::retention::Keep;
use crate::runtime::{Runtime, RuntimeConfig};
use crate::schemas::{Schemas, Server};
use crate::sealing::Sealer;
use crate::skills::artifact::{Signer, Verifier};
use crate::skills::loader::Loader;
use crate::tenancy::auth::{AuthConfig, Authenticator};
use crate::worker::health::Health;
use crate::worker::{self, WorkerConfig, WorkerParts};

/// Runs at one time, of each pool and of all of them together.
const SLOTS: usize = 16;
/// Sessions of skills' schemas at one time, of the pools together and of the API.
const SKILLS_CONNECTIONS: usize = 16;
/// How long to wait before Postgres is started once more.
const RESTART: Duration = Duration::from_secs(1);
/// How long runs may go on after the process was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Run everything on this machine: control plane, workers, and a Postgres of its own
///
/// Needs no configuration. Makes an organisation, a user and a token, and points this user's
/// command line at itself. Data survives a restart.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where data is kept [default: ~/.local/share/eve-horizon/dev]
    #[arg(long, env = "EVE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen
    #[arg(long, env = "EVE_LISTEN", default_value = "127.0.0.1:3000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Use this database instead of a private Postgres
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    keep: Keep,
}

/// Runs it.
pub async fn run(args: Args, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let stop = super::stop_on_signal()?;
    let data_dir = match args.data_dir {
        Some(dir) => dir,
        None => default_data_dir()?,
    };
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("making the data directory {}", data_dir.display()))?;
    // Before Postgres: a port that is taken is found out in a moment.
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!("listening on {}; choose another address with --listen", args.listen)
    })?;
    let kept = args.keep;
    let Some(url) = args.database_url else {
        let postgres = PrivatePostgres::start(&data_dir).await?;
        let url = postgres.url();
        let done = CancellationToken::new();
        let keeper = tokio::spawn(keep(postgres, data_dir.clone(), done.clone()));
        let kept_in = "a private Postgres in";
        let ran = with_database(&url, &data_dir, listener, metrics, kept, &stop, kept_in).await;
        done.cancel();
        keeper.await.context("looking after Postgres")?.context("stopping Postgres")?;
        return ran;
    };
    let kept_in = "DATABASE_URL; keys are in";
    with_database(&url, &data_dir, listener, metrics, kept, &stop, kept_in).await
}

/// Starts Postgres again when it ends by itself, and stops it when `done`. What was committed is
/// there, and everything else in this process waits for it and goes on.
async fn keep(
    mut postgres: PrivatePostgres,
    data_dir: PathBuf,
    done: CancellationToken,
) -> Result<(), PostgresError> {
    loop {
        tokio::select! {
            () = done.cancelled() => return postgres.stop().await,
            () = postgres.ended() => {}
        }
        let log = data_dir.join("postgres.log");
        tracing::error!(log = %log.display(), "Postgres has ended by itself; starting it again");
        // Gives the data directory's lock back.
        drop(postgres);
        postgres = loop {
            match PrivatePostgres::start(&data_dir).await {
                Ok(postgres) => break postgres,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "Postgres does not start; trying again"
                    );
                }
            }
            tokio::select! {
                () = done.cancelled() => return Ok(()),
                () = tokio::time::sleep(RESTART) => {}
            }
        };
    }
}

async fn with_database(
    url: &str,
    data_dir: &Path,
    listener: TcpListener,
    metrics: PrometheusHandle,
    kept: Keep,
    stop: &CancellationToken,
    kept_in: &str,
) -> anyhow::Result<()> {
    let connect = |name: &str, max_connections| {
        let application_name = name.to_owned();
        Db::connect(&DbConfig { url: url.to_owned(), max_connections, application_name })
            .context("DATABASE_URL is not a Postgres URL")
    };
    let db = connect("eve dev", 24)?;
    // Guests who ask much and slowly keep nobody else from the database.
    let guests = connect("eve dev: guests", 8)?;
    db::migrate(db.pool()).await?;
    let signer = signer(&data_dir.join("signing.key"))?;
    let address = listener.local_addr()?;
    let reached = reached_at(address);
    let made = certificate::ensure(data_dir, reached.ip())?;
    let certificate = Certificate::load(made.files.clone()).await?;
    let token = bootstrap::run(&db).await.context("making the organisation, user and token")?;
    let server = cli::Server {
        url: format!("https://{reached}"),
        certificate_authority: Some(made.authority.clone()),
        token: Some(token.expose().parse().map_err(anyhow::Error::msg)?),
        org: Some(bootstrap::ORG_SLUG.to_owned()),
    };
    let context_file = cli::default_path()?;
    let mut contexts = cli::Contexts::load(&context_file)?;
    contexts.choose("dev", server);
    contexts.save(&context_file)?;

    let public_key = signer.public_key();
    let verifier = || Verifier::new([public_key.as_str()]);
    let artifacts = data_dir.join("artifacts");
    let runtime = Runtime::new(RuntimeConfig {
        max_concurrent: SLOTS as u32 * 2,
        memory_budget: super::default_memory_budget(),
        threads: 0,
        io: tokio::runtime::Handle::current(),
    })?;
    let bell = Bell::start(db.pool().clone());
    let skills = Server::new(url, dev::key(&data_dir.join("skills.key"))?)?;
    let schemas = |db: Db| Schemas::new(db, skills.clone(), SKILLS_CONNECTIONS);
    let parts = WorkerParts {
        schemas: schemas(guests.clone()),
        deployments: Deployments::new(guests.clone(), bell.clone(), None),
        requests: Requests::new(guests, bell.clone()),
        loader: Loader::new(
            db.clone(),
            runtime.clone(),
            super::open_cache(&artifacts, verifier()?)?,
        ),
        db: db.clone(),
        bell: bell.clone(),
        runtime: runtime.clone(),
    };
    let mut pools = tokio::task::JoinSet::new();
    for worker_type in bootstrap::POOLS {
        let config = WorkerConfig {
            worker_type: worker_type.to_owned(),
            slots: SLOTS,
            grace: GRACE,
            host: super::host_name(),
        };
        pools.spawn(worker::run(config, parts.clone(), Health::default(), stop.clone()));
    }
    let plane = ControlPlane {
        schemas: schemas(db.clone()),
        auth: Authenticator::new(db.clone(), &AuthConfig::default())?,
        db,
        bell,
        rates: RateLimits::off(),
        signer,
        runtime,
        cache: super::open_cache(&artifacts, verifier()?)?,
        keep: kept,
        metrics,
        sealer: Some(Sealer::new(dev::key(&data_dir.join("sealing.key"))?, Vec::new())),
        external_metrics: None,
    };
    greet(reached, data_dir, &context_file, kept_in, &made);
    let renewing =
        tokio::spawn(certificate::renew(data_dir.to_owned(), reached.ip(), stop.clone()));

    let listener = Listener::tls(listener, &certificate, Plain::Served);
    let ran = plane.run(listener, Some(certificate), stop.clone()).await;
    stop.cancel();
    renewing.await.context("renewing the certificate panicked")?;
    while let Some(pool) = pools.join_next().await {
        if let Err(error) = pool
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    ran
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    let base =
        std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")))
        .map(|base| base.join("eve-horizon/dev"))
        .context("HOME is not set: name a folder with --data-dir")
}

/// The key of this data directory, made when there is none.
fn signer(file: &Path) -> anyhow::Result<Signer> {
    if !file.exists() {
        Signer::generate().save(file).with_context(|| format!("writing {}", file.display()))?;
    }
    Signer::from_file(file).with_context(|| format!("reading {}", file.display()))
}

/// Where this machine reaches what listens everywhere.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

fn greet(address: SocketAddr, data_dir: &Path, context_file: &Path, kept_in: &str, made: &Made) {
    println!(
        "Eve Horizon is ready at http://{address}

  database   {kept_in} {data}
  organisation `{org}`; this user's command line is set up in {context}
  https      at the same address, for which {authority} vouches

Try, in another terminal:

  eve skill push PATH               a folder with SKILL.md and a component
  eve request create --worker-type general --skill echo --prompt hello --wait
  eve request list
  curl http://{address}/v1/openapi.json

Stop with Ctrl-C; data stays.",
        data = data_dir.display(),
        org = bootstrap::ORG_SLUG,
        context = context_file.display(),
        authority = made.authority_file.display(),
    );
}
