//! `eve serve`: the control plane. HTTP API, background duties, compiling uploads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Database, Migrating, SkillsDatabase};
use crate::autoscaling::{self, ExternalMetrics, counts::Counter};
use crate::db::Db;
use crate::deployments::{Deployments, asks, reconcile};
use crate::http::listener::{Certificate, Files, Listener, Plain};
use crate::http::rates::{self, Rate, RateLimits};
use crate::http::{self, AppState};
use crate::notify::Bell;
use crate::requests::Requests;
use crate::retention::Keep;
use crate::runtime::{Runtime, RuntimeConfig};
use crate::scheduler;
use crate::schemas::Schemas;
use crate::sealing::{Sealer, SealingKey};
use crate::skills::artifact::{ArtifactCache, Signer};
use crate::skills::compile::Workshop;
use crate::skills::upload::Uploads;
use crate::tenancy::auth::{AuthConfig, Authenticator};
use crate::tenancy::jwt::JwtConfig;

/// Run the control plane: the HTTP API and the background duties
///
/// Any number of replicas may run: duties are done by one of them at a time.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    skills: SkillsDatabase,
    /// Where to listen
    #[arg(long, env = "EVE_LISTEN", default_value = "127.0.0.1:3000", value_name = "ADDRESS")]
    listen: SocketAddr,
    #[command(flatten)]
    tls: Tls,
    #[command(flatten)]
    external_metrics: ExternalMetrics,
    #[command(flatten)]
    jwt: Jwt,
    #[command(flatten)]
    rates: Rates,
    /// The key that artifacts are signed with, base64 of 32 bytes; `eve keygen` makes one
    #[arg(long, env = "EVE_SIGNING_KEY", hide_env_values = true, value_name = "KEY")]
    signing_key: Option<String>,
    /// A file with that key, readable by its owner only
    #[arg(long, env = "EVE_SIGNING_KEY_FILE", value_name = "FILE", conflicts_with = "signing_key")]
    signing_key_file: Option<PathBuf>,
    #[command(flatten)]
    sealing: Sealing,
    /// Where compiled skills are kept; must be this user's own [default: ~/.cache/eve-horizon/artifacts]
    #[arg(long, env = "EVE_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    keep: Keep,
}

/// What connections are encrypted with. Without it the server speaks HTTP.
#[derive(Clone, Debug, clap::Args)]
pub struct Tls {
    /// Speak https with this certificate: PEM, followed by those that lead to its authority. The files are
    /// read again when they change
    #[arg(long, env = "EVE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key: PEM, not encrypted
    #[arg(long, env = "EVE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Tls {
    async fn certificate(self) -> anyhow::Result<Option<Arc<Certificate>>> {
        let (Some(certificate), Some(key)) = (self.tls_cert, self.tls_key) else { return Ok(None) };
        Ok(Some(Certificate::load(Files { certificate, key }).await?))
    }
}

/// How people sign in. Without any of it only API tokens are accepted.
#[derive(Clone, Debug, clap::Args)]
pub struct Jwt {
    /// The secret of HS256 tokens (Supabase: the JWT secret)
    #[arg(long, env = "EVE_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Option<String>,
    /// The key set of asymmetrically signed tokens (Supabase: …/auth/v1/.well-known/jwks.json)
    #[arg(long, env = "EVE_JWKS_URL", value_name = "URL")]
    jwks_url: Option<url::Url>,
    /// Who must have issued them (Supabase: https://PROJECT.supabase.co/auth/v1)
    #[arg(long, env = "EVE_JWT_ISSUER", value_name = "ISSUER")]
    jwt_issuer: Option<String>,
    /// For whom they must have been issued
    #[arg(
        long,
        env = "EVE_JWT_AUDIENCE",
        default_value = "authenticated",
        value_name = "AUDIENCE"
    )]
    jwt_audience: String,
}

impl Jwt {
    pub(super) fn config(&self) -> anyhow::Result<AuthConfig> {
        if self.jwt_secret.is_none() && self.jwks_url.is_none() {
            return Ok(AuthConfig { jwt: None });
        }
        let issuer =
            self.jwt_issuer.clone().context("sign-in tokens need an issuer: set EVE_JWT_ISSUER")?;
        Ok(AuthConfig {
            jwt: Some(JwtConfig {
                audience: self.jwt_audience.clone(),
                issuer,
                hs256_secret: self.jwt_secret.clone().map(SecretString::from),
                jwks_url: self.jwks_url.clone(),
            }),
        })
    }
}

/// What secrets are sealed with: credentials of clusters, environment variables of apps.
#[derive(Clone, Debug, clap::Args)]
pub struct Sealing {
    /// The key that secrets are sealed with, base64 of 32 random bytes, as `openssl rand -base64 32` makes them
    #[arg(long, env = "EVE_SEALING_KEY", hide_env_values = true, value_name = "KEY")]
    sealing_key: Option<String>,
    /// A file with that key
    #[arg(long, env = "EVE_SEALING_KEY_FILE", value_name = "FILE", conflicts_with = "sealing_key")]
    sealing_key_file: Option<PathBuf>,
    /// Keys of before, which still open what they have sealed; separated by commas
    #[arg(
        long,
        env = "EVE_OLD_SEALING_KEYS",
        hide_env_values = true,
        value_name = "KEYS",
        value_delimiter = ','
    )]
    old_sealing_keys: Vec<String>,
}

impl Sealing {
    fn sealer(&self) -> anyhow::Result<Option<Sealer>> {
        let key = |name: &str, text: &str| -> anyhow::Result<SealingKey> {
            text.parse().map_err(|why: String| anyhow::anyhow!("{name}: {why}"))
        };
        let current = match (&self.sealing_key, &self.sealing_key_file) {
            (Some(text), _) => key("EVE_SEALING_KEY", text)?,
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("reading {}", file.display()))?;
                key(&file.display().to_string(), &text)?
            }
            (None, None) => return Ok(None),
        };
        let old: anyhow::Result<Vec<_>> =
            self.old_sealing_keys.iter().map(|text| key("EVE_OLD_SEALING_KEYS", text)).collect();
        Ok(Some(Sealer::new(current, old?)))
    }
}

/// How often clients may call. Each process counts for itself.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Rates {
    /// Calls of one token or person, such as 200/s or 600/m, ten seconds' worth at once; or off
    #[arg(long, env = "EVE_RATE_LIMIT", default_value_t = rates::CALLER, value_name = "RATE")]
    rate_limit: Rate,
    /// Calls of one address without a credential that holds, before it is slowed down; or off
    #[arg(
        long,
        env = "EVE_BAD_CREDENTIAL_LIMIT",
        default_value_t = rates::STRANGER,
        value_name = "RATE"
    )]
    bad_credential_limit: Rate,
    /// How many proxies of yours append to X-Forwarded-For: a client's address is taken from there
    #[arg(long, env = "EVE_TRUSTED_PROXIES", default_value_t = 0, value_name = "N")]
    trusted_proxies: usize,
}

impl Rates {
    fn limits(self) -> RateLimits {
        RateLimits {
            caller: self.rate_limit,
            stranger: self.bad_credential_limit,
            proxies: self.trusted_proxies,
        }
    }
}

/// What the control plane serves with.
pub(super) struct ControlPlane {
    pub db: Db,
    pub bell: Bell,
    pub auth: Authenticator,
    pub rates: RateLimits,
    pub signer: Signer,
    pub runtime: Runtime,
    pub cache: ArtifactCache,
    pub keep: Keep,
    pub metrics: PrometheusHandle,
    pub schemas: Schemas,
    pub sealer: Option<Sealer>,
    /// Where autoscalers ask, if they do.
    pub external_metrics: Option<autoscaling::Server>,
}

/// Runs it.
pub async fn run(args: Args, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let stop = super::stop_on_signal()?;
    args.database.at_least(4)?;
    let db = args.database.connect("serve")?;
    let signer = super::signer(args.signing_key.as_deref(), args.signing_key_file.as_deref())?;
    let verifier = crate::skills::artifact::Verifier::new([signer.public_key().as_str()])?;
    let cache = super::open_cache(&args.cache_dir.unwrap_or_else(super::default_cache), verifier)?;
    let certificate = args.tls.certificate().await?;
    let auth = Authenticator::new(db.clone(), &args.jwt.config()?)?;
    let sealer = args.sealing.sealer()?;
    let schemas = args.skills.schemas(db.clone())?;
    super::ready(&db, Migrating::First, &stop).await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let external_metrics = args.external_metrics.server().await?;
    // Only ever loads artifacts, to see that they fit: one slot, no guests.
    let runtime = Runtime::new(RuntimeConfig {
        max_concurrent: 1,
        memory_budget: crate::runtime::limits::MEMORY,
        threads: 1,
        io: tokio::runtime::Handle::current(),
    })?;
    let bell = Bell::start(db.pool().clone());
    let rates = args.rates.limits();
    let keep = args.keep;
    let plane = ControlPlane {
        db,
        bell,
        auth,
        rates,
        signer,
        runtime,
        cache,
        keep,
        metrics,
        schemas,
        sealer,
        external_metrics,
    };
    let address = listener.local_addr()?;
    let listener = match &certificate {
        Some(certificate) => Listener::tls(listener, certificate, Plain::Refused),
        None => listener.into(),
    };
    tracing::info!(%address, tls = certificate.is_some(), "serving");
    plane.run(listener, certificate, stop).await
}

impl ControlPlane {
    /// Serves until `stop`.
    pub(super) async fn run(
        self,
        listener: Listener,
        certificate: Option<Arc<Certificate>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let stopped = stop.clone();
        let following = tokio::spawn(async move {
            if let Some(certificate) = certificate {
                certificate.follow(stopped).await;
            }
        });
        let requests = Requests::new(self.db.clone(), self.bell.clone());
        let workshop = Workshop {
            exe: std::env::current_exe().context("finding our own binary")?,
            signer: Arc::new(self.signer),
            cache: Arc::new(self.cache),
            runtime: self.runtime,
        };
        let uploads = Uploads::new(self.db.clone(), workshop);
        let (compiler, stopped) = (uploads.clone(), stop.clone());
        let compiling = tokio::spawn(async move { compiler.keep_compiled(&stopped).await });
        let deployments = Deployments::new(self.db.clone(), self.bell.clone(), self.sealer);
        let reconciling = tokio::spawn(reconcile::run(deployments.clone(), stop.clone()));
        let answering = tokio::spawn(asks::serve(deployments.clone(), stop.clone()));
        let duties =
            tokio::spawn(scheduler::run(self.db.clone(), self.bell, self.keep, stop.clone()));
        let (schemas, stopped) = (self.schemas.clone(), stop.clone());
        let provisioning = tokio::spawn(async move { schemas.provision(stopped).await });
        let counter = Counter::new(self.db.clone());
        let started = CancellationToken::new();
        if self.external_metrics.is_none() {
            started.cancel();
        }
        let measured = self.external_metrics.map(|server| {
            let (counter, started, stopped) = (counter.clone(), started.clone(), stop.clone());
            tokio::spawn(async move {
                // Without it autoscalers are blind and namespaces stuck: another process may do better.
                let _ends = stopped.clone().drop_guard();
                server.run(counter, started, stopped).await
            })
        });
        let (schemas, rates) = (self.schemas, self.rates);
        let parts = http::Parts {
            requests,
            auth: self.auth,
            uploads,
            schemas,
            deployments,
            counter,
            started,
            rates,
        };
        let state = AppState::new(self.db, parts, Some(self.metrics), stop.clone());
        let served = http::serve(listener, state, stop.clone()).await;
        stop.cancel();
        compiling.await.context("compiling stored skills panicked")?;
        duties.await.context("a background duty panicked")?;
        provisioning.await.context("making schemas panicked")?;
        reconciling.await.context("reconciling deployments panicked")?;
        answering.await.context("answering what skills ask panicked")?;
        following.await.context("following the certificate's files panicked")?;
        if let Some(measured) = measured {
            measured.await.context("serving external metrics panicked")??;
        }
        served.context("serving HTTP")
    }
}
