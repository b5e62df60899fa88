//! What autoscalers of worker pools ask: the External Metrics API of Kubernetes, `external.metrics.k8s.io/v1beta1`.
//!
//! Flow: the API server passes what an autoscaler asks on to us ([aggregation]), over TLS on a port of its own.
//! `front_proxy` sees that it was the API server, and for whom it asks; `review` asks it whether they may;
//! `api` answers out of `counts`. `certificate` keeps what the API server knows us by: an authority in a Secret
//! that all replicas share, told to the APIService.
//!
//! Invariants:
//! - Nothing is answered to anybody but the API server: a handshake takes a certificate of the front proxy's
//!   authority. Who asks is in headers, and those are read only then.
//! - Only metrics of our own namespace are there.
//! - What cannot be counted is an error, never a zero: an autoscaler that hears zero takes workers away.
//! - Every replica serves. While none does, namespaces everywhere in the cluster are stuck when they are deleted,
//!   since their API cannot be listed.
//!
//! [aggregation]: https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/

mod api;
mod certificate;
pub mod counts;
mod front_proxy;
mod review;
mod selector;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::listener::{Listener, Plain};
use certificate::Shown;
use counts::Counter;
use front_proxy::Trust;

/// How often it is looked whether certificates are due and who is trusted.
const LOOK: Duration = Duration::from_secs(60);
/// The same after something has gone wrong.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a replica that has just started is sent nobody while it cannot serve: after that, a cluster that
/// will not have it takes the rest of the API away from nobody.
const START: Duration = Duration::from_secs(30);
/// How long connecting to the API server may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long answers may take that were asked for before the end.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Where autoscalers ask.
#[derive(Clone, Debug, clap::Args)]
pub struct ExternalMetrics {
    /// Serve external.metrics.k8s.io on this address to the API server of the cluster that this process runs
    /// in: eve_pending_requests and eve_busy_slots, by worker_type
    #[arg(
        long,
        env = "EVE_EXTERNAL_METRICS_LISTEN",
        value_name = "ADDRESS",
        requires = "external_metrics_namespace"
    )]
    external_metrics_listen: Option<SocketAddr>,
    /// The namespace that the metrics are in: this process's own
    #[arg(long, env = "EVE_EXTERNAL_METRICS_NAMESPACE", value_name = "NAMESPACE")]
    external_metrics_namespace: Option<String>,
}

/// What is to answer, and where.
pub struct Server {
    address: SocketAddr,
    client: Client,
    namespace: Arc<str>,
}

impl ExternalMetrics {
    /// What is to serve them, if an address is given: one that can be had.
    pub async fn server(self) -> anyhow::Result<Option<Server>> {
        let (Some(address), Some(namespace)) =
            (self.external_metrics_listen, self.external_metrics_namespace)
        else {
            return Ok(None);
        };
        let mut config = Config::incluster()
            .context("EVE_EXTERNAL_METRICS_LISTEN is for a process that runs in a cluster")?;
        config.connect_timeout = Some(CONNECT);
        let client = ClientBuilder::try_from(config)?.build();
        // Only tried: until it is known whom to answer, callers are better off refused than unheard.
        drop(listen(address).await?);
        Ok(Some(Server { address, client, namespace: namespace.into() }))
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let port = TcpListener::bind(address).await;
    port.with_context(|| format!("listening on {address}, for external metrics"))
}

impl Server {
    /// Answers until `stop`. `started` is cancelled once it does, or has not managed to for a while: until then
    /// the process had better not be ready, since questions go to every one that is.
    pub async fn run(
        self,
        counter: Counter,
        started: CancellationToken,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut keeper = Keeper::new(self.client.clone(), self.namespace.clone());
        // Who has not been told who the API server is can tell it from nobody.
        let first = {
            let mut first = pin!(keeper.first(&stop));
            match tokio::time::timeout(START, &mut first).await {
                Ok(first) => first,
                Err(_) => {
                    started.cancel();
                    first.await
                }
            }
        };
        let Some(first) = first else { return Ok(()) };
        let port = listen(self.address).await?;
        started.cancel();
        let (config, configs) = watch::channel(first.config);
        let (trust, trusts) = watch::channel(first.trust);
        let stopped = stop.clone();
        let mut keeping = tokio::spawn(async move { keeper.keep(&config, &trust, &stopped).await });
        tracing::info!(
            address = %port.local_addr()?,
            namespace = %self.namespace,
            "serving external metrics"
        );
        let state = api::State {
            namespace: self.namespace,
            counter,
            trust: trusts,
            reviews: review::Reviews::new(self.client),
        };
        let service = api::router(state).into_make_service_with_connect_info::<front_proxy::Peer>();
        let listener = Listener::following(port, configs, Plain::Refused);
        let serving =
            axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_TIME).await;
        };
        tokio::select! {
            served = serving => served.context("serving external metrics")?,
            () = overdue => {}
            // It ends when all of it does, or panics.
            kept = &mut keeping => {
                return kept.context("keeping the certificates of external metrics panicked");
            }
        }
        stop.cancel();
        keeping.await.context("keeping the certificates of external metrics panicked")
    }
}

/// What handshakes and requests go by.
struct Current {
    config: Arc<ServerConfig>,
    trust: Arc<Trust>,
}

/// Keeps it up to date.
struct Keeper {
    client: Client,
    namespace: Arc<str>,
    shown: Option<Shown>,
    /// What was said last about what is wrong: it is said once.
    said: Option<String>,
}

impl Keeper {
    fn new(client: Client, namespace: Arc<str>) -> Keeper {
        Keeper { client, namespace, shown: None, said: None }
    }

    async fn look(&mut self) -> anyhow::Result<Current> {
        let trust = Trust::read(&self.client).await?;
        let shown = certificate::ensure(&self.client, &self.namespace, self.shown.take()).await?;
        let config = shown.config(&trust)?;
        self.shown = Some(shown);
        Ok(Current { config, trust: Arc::new(trust) })
    }

    /// The first, however long it takes; none when it is to stop.
    async fn first(&mut self, stop: &CancellationToken) -> Option<Current> {
        loop {
            match stop.run_until_cancelled(self.look()).await? {
                Ok(current) => {
                    self.said = None;
                    return Some(current);
                }
                Err(error) => self.say(&error),
            }
            stop.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await?;
        }
    }

    async fn keep(
        mut self,
        config: &watch::Sender<Arc<ServerConfig>>,
        trust: &watch::Sender<Arc<Trust>>,
        stop: &CancellationToken,
    ) {
        loop {
            let pause = if self.said.is_some() { LOOK_AGAIN } else { LOOK };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            let Some(seen) = stop.run_until_cancelled(self.look()).await else { return };
            match seen {
                Ok(current) => {
                    self.said = None;
                    config.send_replace(current.config);
                    trust.send_replace(current.trust);
                }
                Err(error) => self.say(&error),
            }
        }
    }

    fn say(&mut self, error: &anyhow::Error) {
        let said = format!("{error:#}");
        if self.said.as_ref() != Some(&said) {
            tracing::error!(error = said, "external metrics: what was true before is kept");
            self.said = Some(said);
        }
    }
}
