//! A reverse proxy to the API server of an environment's cluster, for the user's own kubectl.
//!
//! Flow: [`Deployments::forward`] finds the caller's environment and with which of its identities they may
//! enter it ([`Deployments::entry`]); `target` reads what the call is about from its path, `headers` copies
//! what may be copied; what changes something or enters a container is written to the audit log
//! (`record`); the call is made with the identity's token, and its answer streams back. A connection that
//! is upgraded is a `tunnel`. `streams` knows what is open, and cuts it.
//!
//! Invariants:
//! - The identity's rights are the wall: whatever slips past this room meets RBAC and the admission
//!   policies of the namespace. All that is looked at here is looked at besides.
//! - The caller's credential never reaches the cluster, and the identity's token never leaves us.
//! - Nothing is passed on that was not understood: paths in one way of writing only, headers from a list,
//!   a connection only after the cluster has agreed to another protocol.
//! - An answer goes on for no longer than the caller would be let in ([`streams`]), and for at most an hour.
//! - Whatever changes something is in the audit log before it is asked for. If this process dies
//!   meanwhile, the row that says how it ended is missing, and the first one is there.

mod headers;
mod record;
mod streams;
mod target;
mod tunnel;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connection::{Connection, Identity};
use super::failure::in_words;
use crate::deployments::environments::EnvironmentStatus;
use crate::deployments::{DeployError, Deployments};
use crate::tenancy::auth::{AuthError, Caller};
use crate::tenancy::tokens::TokenScope;
use headers::Upgrade;
use record::Record;
pub use streams::Streams;
use streams::{Key, Over, Ticket};
pub use target::Target;

/// Largest body of a call: what an API server reads at most (3 MiB), and a little, so that it may say so.
pub const MOST_BODY: usize = (3 << 20) + (64 << 10);
/// How long the beginning of an answer may take. An API server gives up after 60 s itself.
const ANSWER: Duration = Duration::from_secs(65);

/// Why a call was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It is not written as it should be.
    #[error("{0}")]
    Malformed(String),
    /// Not through this door, or not for this caller.
    #[error("{0}")]
    Forbidden(String),
    /// Another method.
    #[error("{0} is not passed on")]
    Method(Method),
    /// Too much is open already.
    #[error("{0}")]
    TooMany(String),
    /// The cluster did not answer, or not sensibly.
    #[error("the cluster `{cluster}` cannot be asked: {message}")]
    Away {
        /// Which.
        cluster: String,
        /// Why.
        message: String,
    },
    /// The caller's access ended while the cluster was asked.
    #[error("{0}")]
    Cut(&'static str),
    /// There is no such environment, or it cannot be looked up.
    #[error(transparent)]
    Deploy(#[from] DeployError),
}

/// Asks once more who the caller is: they may have lost their credential since.
pub type Again = Arc<dyn Fn() -> BoxFuture<'static, Result<Caller, AuthError>> + Send + Sync>;

/// A call of Kubernetes's API.
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// The same question later.
    pub again: Again,
    /// A hash of their credential.
    pub credential: [u8; 32],
    /// The environment, as it was named.
    pub env: String,
    /// The method.
    pub method: Method,
    /// The path of the API server, as it was sent: `/api/v1/…`.
    pub path: String,
    /// What stands behind the question mark.
    pub query: Option<String>,
    /// What was sent.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The connection, once it speaks another protocol.
    pub connection: Option<OnUpgrade>,
    /// Ends whatever is open.
    pub shutdown: CancellationToken,
}

/// How somebody enters an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    environment: Uuid,
    cluster: String,
    namespace: String,
    identity: Identity,
}

impl Deployments {
    /// As whom a caller enters an environment: as the editor who may deploy to it, as the viewer who may
    /// only look.
    pub(super) async fn entry(&self, caller: &Caller, env: &str) -> Result<Entry, ProxyError> {
        let environment = self.environment(caller.tenant, env).await?;
        let least = environment.config.deployers();
        let deploys = caller.role >= least && caller.scopes.allow(TokenScope::DeploymentsWrite);
        let identity = match deploys {
            true => Identity::Editor,
            false if caller.scopes.allow(TokenScope::DeploymentsRead) => Identity::Viewer,
            false => {
                let scope = TokenScope::DeploymentsRead.as_str();
                return Err(ProxyError::Forbidden(format!("this token lacks the scope `{scope}`")));
            }
        };
        if environment.status == EnvironmentStatus::Deleting {
            let message = format!("the environment `{}` is being deleted", environment.name);
            return Err(DeployError::Conflict(message).into());
        }
        if environment.provisioned_at.is_none() {
            let message = format!("the environment `{}` is not ready yet", environment.name);
            return Err(DeployError::Conflict(message).into());
        }
        Ok(Entry {
            environment: environment.id,
            cluster: environment.cluster,
            namespace: environment.namespace,
            identity,
        })
    }

    /// Passes a call on to the API server of an environment's cluster, and its answer back.
    pub async fn forward(&self, mut call: Call) -> Result<Response<Body>, ProxyError> {
        let entry = self.entry(&call.caller, &call.env).await?;
        let query = call.query.as_deref();
        let target = Target::parse(&call.method, &call.path, query, &entry.namespace)?;
        let upgrade = Upgrade::parse(&call.method, &call.headers, call.body.is_empty())?;
        match (target.is_session(), &upgrade) {
            (true, None) => {
                return Err(malformed("exec, attach and port-forward upgrade the connection"));
            }
            (false, Some(_)) => {
                return Err(malformed("there is nothing to upgrade to at this path"));
            }
            _ => {}
        }
        let connection = call.connection.take();
        if upgrade.is_some() && connection.is_none() {
            return Err(malformed("this connection cannot be upgraded"));
        }
        let request = request(&target, &call, upgrade.as_ref())?;
        let record = Record::of(&call.env, &entry, &target, call.caller.clone());
        let away = |message: String| ProxyError::Away { cluster: entry.cluster.clone(), message };
        let cluster = self.connect(&self.cluster_row(&entry.cluster).await?)?;
        let client = cluster
            .identity(&entry.namespace, entry.identity)
            .map_err(|failure| away(failure.to_string()))?;
        let namespace = entry.namespace.clone();
        let key = Key { credential: call.credential, org: call.caller.tenant.org(), entry };
        let ticket = self.streams.admit(self, key, &call)?;
        if let Some(record) = &record {
            record.begun(self).await?;
        }
        let exchange = Exchange {
            deployments: self.clone(),
            record,
            ticket,
            target,
            upgrade,
            connection,
            cluster,
            namespace,
            client,
        };
        if exchange.record.is_none() {
            return exchange.run(request).await;
        }
        // On its own: who hangs up half-way does not get around the row that says how it ended.
        match tokio::spawn(exchange.run(request)).await {
            Ok(answer) => answer,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// One call that is on its way.
struct Exchange {
    deployments: Deployments,
    record: Option<Record>,
    ticket: Ticket,
    target: Target,
    upgrade: Option<Upgrade>,
    connection: Option<OnUpgrade>,
    cluster: Connection,
    namespace: String,
    client: kube::Client,
}

impl Exchange {
    async fn run(self, request: Request<kube::client::Body>) -> Result<Response<Body>, ProxyError> {
        let began = Instant::now();
        let answer = self.ask(request).await;
        let code = answer.as_ref().map_or(StatusCode::SERVICE_UNAVAILABLE, |it| it.status());
        if code == StatusCode::SWITCHING_PROTOCOLS
            && let Ok(answer) = answer
        {
            return self.switch(answer, began).await;
        }
        if let Some(record) = &self.record {
            record.ended(&self.deployments, code, began.elapsed(), None).await;
        }
        let answer = answer?;
        let mut passed = Response::new(());
        *passed.status_mut() = answer.status();
        *passed.headers_mut() = headers::from_cluster(answer.headers());
        let body = stream(answer.into_body(), self.ticket, self.target.is_watch());
        Ok(passed.map(|()| body))
    }

    /// The cluster's answer, as far as its headers.
    async fn ask(
        &self,
        request: Request<kube::client::Body>,
    ) -> Result<Response<kube::client::Body>, ProxyError> {
        // What follows something begins with the first thing that there is, whenever that is.
        let patience = if self.target.is_long() { streams::LONGEST } else { ANSWER };
        let answer = tokio::select! {
            biased;
            over = self.ticket.over() => return Err(ProxyError::Cut(over.as_str())),
            answer = tokio::time::timeout(patience, self.client.send(request)) => answer,
        };
        match answer {
            Ok(Ok(answer)) if answer.status() == StatusCode::UNAUTHORIZED => {
                // An environment of the same name may have been made anew: the next call asks for another.
                self.cluster.forget(&self.namespace);
                Err(self.away("it does not accept the environment's identity".to_owned()))
            }
            Ok(Ok(answer)) if answer.status().is_informational() && self.upgrade.is_none() => {
                Err(self.away("it wants to speak another protocol".to_owned()))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.away(in_words(&error))),
            Err(_) => Err(self.away(format!("no answer within {} s", patience.as_secs()))),
        }
    }

    /// The cluster agrees to another protocol: from here on bytes go through as they are.
    async fn switch(
        self,
        answer: Response<kube::client::Body>,
        began: Instant,
    ) -> Result<Response<Body>, ProxyError> {
        let code = StatusCode::SWITCHING_PROTOCOLS;
        let agreed = self.upgrade.as_ref().and_then(|it| it.agreed(answer.headers()));
        let (Some(headers), Some(connection)) = (agreed, self.connection) else {
            if let Some(record) = &self.record {
                record.ended(&self.deployments, code, began.elapsed(), Some("refused")).await;
            }
            let cluster = self.ticket.cluster().to_owned();
            let message = "it wants to speak another protocol".to_owned();
            return Err(ProxyError::Away { cluster, message });
        };
        let (deployments, record, ticket) = (self.deployments, self.record, self.ticket);
        tokio::spawn(async move {
            let how = tunnel::run(connection, hyper::upgrade::on(answer), &ticket).await;
            drop(ticket);
            if let Some(record) = record {
                record.ended(&deployments, code, began.elapsed(), Some(how)).await;
            }
        });
        let mut passed = Response::new(Body::empty());
        *passed.status_mut() = code;
        *passed.headers_mut() = headers;
        Ok(passed)
    }

    fn away(&self, message: String) -> ProxyError {
        ProxyError::Away { cluster: self.ticket.cluster().to_owned(), message }
    }
}

fn malformed(message: &str) -> ProxyError {
    ProxyError::Malformed(message.to_owned())
}

fn request(
    target: &Target,
    call: &Call,
    upgrade: Option<&Upgrade>,
) -> Result<Request<kube::client::Body>, ProxyError> {
    let body = match call.method {
        Method::GET => Bytes::new(),
        _ => call.body.clone(),
    };
    let mut request = Request::new(kube::client::Body::from(body));
    *request.method_mut() = call.method.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers::to_cluster(&call.headers)?;
    if let Some(upgrade) = upgrade {
        request.headers_mut().extend(upgrade.headers());
    }
    *request.uri_mut() = target.uri().map_err(|_| malformed("this is no path"))?;
    Ok(request)
}

/// The body of an answer, until there is no more of it, or it is over.
fn stream(body: kube::client::Body, ticket: Ticket, is_watch: bool) -> Body {
    let mut chunks = Body::new(body).into_data_stream();
    Body::from_stream(async_stream::stream! {
        loop {
            // Whether it is over is asked first: what is there to be read is not read any more.
            let chunk = tokio::select! {
                biased;
                over = ticket.over() => Err(over),
                chunk = chunks.next() => Ok(chunk),
            };
            match chunk {
                Ok(Some(chunk)) => yield chunk.map_err(std::io::Error::other),
                Ok(None) => break,
                // A watch that ends is asked for again; the end of anything else would pass for its whole.
                Err(Over::Time | Over::Shutdown) if is_watch => break,
                Err(over) => {
                    yield Err(std::io::Error::other(over.as_str()));
                    break;
                }
            }
        }
    })
}
