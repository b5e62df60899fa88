//! Who we are in a cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::client::{Body, ClientBuilder};
use kube::{Api, Client, Config};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tower::BoxError;

use super::failure::{Failure, in_words};
use super::{DEPLOYERS, PLATFORM};
use crate::deployments::DeployError;
use crate::deployments::clusters::logins::LoginTokens;
use crate::deployments::clusters::{Credentials, Row};
use crate::sealing::Sealer;

/// How long the token of an identity lasts: the least that Kubernetes gives.
const TOKEN_SECONDS: i64 = 600;
/// When another is asked for. A watch that is opened then ends before its token does.
const TOKEN_USED: Duration = Duration::from_secs(240);
/// The control plane's own account, in the platform's namespace.
const ACCOUNT: &str = "eve-control-plane";
/// How long it is remembered which groups an API has: they change when somebody installs something.
const GROUPS_KNOWN: Duration = Duration::from_secs(600);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the answer to a call that is no stream may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What an identity of a namespace may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Everything of an app: the reconciler's.
    Deployer,
    /// Change what is not ours, for people and skills.
    Editor,
    /// Look.
    Viewer,
}

impl Identity {
    /// All of them.
    pub const ALL: [Identity; 3] = [Identity::Deployer, Identity::Editor, Identity::Viewer];

    /// Its ServiceAccount in `eve-deployers`.
    pub fn account(self, namespace: &str) -> String {
        match self {
            Identity::Deployer => namespace.to_owned(),
            Identity::Editor => format!("{namespace}-edit"),
            Identity::Viewer => format!("{namespace}-view"),
        }
    }
}

/// How long a connection is kept that nobody asks for. Its cluster may have been removed by another control
/// plane, and its credential is then nobody's any more.
const UNUSED: Duration = Duration::from_secs(3_600);

/// Connections that are open, by cluster, and when they were last asked for.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<std::sync::Mutex<HashMap<String, (Connection, Instant)>>>);

/// A cluster that can be talked to. Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    cluster: String,
    /// What it was made of: another row is another connection.
    made_of: [u8; 32],
    /// Without credentials: a client certificate would win over a token.
    config: Config,
    /// The control plane's own account.
    account: Client,
    identities: std::sync::Mutex<HashMap<(String, Identity), Client>>,
    /// The groups of its API, and when they were read.
    groups: Mutex<Option<(Arc<HashSet<String>>, Instant)>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.0.cluster)
    }
}

impl Connections {
    /// The connection of a cluster, made anew when its row is another.
    pub(in crate::deployments) fn get(
        &self,
        row: &Row,
        sealer: Option<&Sealer>,
    ) -> Result<Connection, DeployError> {
        let made_of: [u8; 32] = Sha256::digest(format!(
            "{:?}{:?}{:?}",
            row.endpoint,
            row.credentials.as_ref().map(ToString::to_string),
            row.config.to_string()
        ))
        .into();
        let now = Instant::now();
        let mut open = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.retain(|id, (_, used)| *id == row.id || !is_unused(*used, now));
        if let Some((connection, used)) = open.get_mut(&row.id)
            && connection.0.made_of == made_of
        {
            *used = now;
            return Ok(connection.clone());
        }
        let connection = Connection::new(row, made_of, sealer)?;
        open.insert(row.id.clone(), (connection.clone(), now));
        Ok(connection)
    }

    /// Forgets the connection of a cluster that was removed; whoever holds it may use it to the end.
    pub(in crate::deployments) fn forget(&self, cluster: &str) {
        let mut open = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.remove(cluster);
    }
}

impl Connection {
    fn new(
        row: &Row,
        made_of: [u8; 32],
        sealer: Option<&Sealer>,
    ) -> Result<Connection, DeployError> {
        let wrong = |message: String| DeployError::Cluster { cluster: row.id.clone(), message };
        let credentials = credentials(row, sealer)?;
        let mut config = match &row.endpoint {
            Some(endpoint) => {
                let url =
                    endpoint.parse().map_err(|_| wrong("its endpoint is not a URL".into()))?;
                Config::new(url)
            }
            None => {
                let mut config = Config::incluster().map_err(|error| {
                    wrong(format!(
                        "it has no endpoint, so it would be the cluster that the control plane runs in, \
                         and that is not in one: {}",
                        in_words(&error)
                    ))
                })?;
                if credentials.is_some() {
                    config.auth_info = Default::default();
                }
                config
            }
        };
        config.connect_timeout = Some(CONNECT);
        if let Some(authority) = row.config().certificate_authority {
            config.root_cert_file = None;
            config.root_cert = Some(
                certificates(&authority)
                    .ok_or_else(|| wrong("its certificate authority is not PEM".into()))?,
            );
        }
        let mut own = config.clone();
        let mut login = None;
        match credentials {
            Some(Credentials::Token(token)) => own.auth_info.token = Some(shared(&token)),
            Some(Credentials::Certificate(certificate, key)) => {
                use base64::Engine as _;
                let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
                own.auth_info.client_certificate_data = Some(encode(&certificate));
                own.auth_info.client_key_data = Some(encode(key.expose_secret()).into());
            }
            Some(Credentials::Login(found)) => login = Some(LoginTokens::new(found)),
            Some(Credentials::InCluster) | None => {}
        }
        let account = match login {
            None => client(own, None),
            Some(login) => account_by(own, login),
        };
        let account = account.map_err(|error| wrong(in_words(&error)))?;
        config.auth_info = Default::default();
        Ok(Connection(Arc::new(Inner {
            cluster: row.id.clone(),
            made_of,
            config,
            account,
            identities: Default::default(),
            groups: Default::default(),
        })))
    }

    /// Whether the cluster gives any answer, if only that it does not know us; else why not.
    pub async fn is_there(&self) -> Result<(), String> {
        match patiently(self.0.account.apiserver_version()).await {
            Err(Failure::Away(why)) => Err(why),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The names of the groups of its API, as they were at most [`GROUPS_KNOWN`] ago.
    pub async fn groups(&self) -> Result<Arc<HashSet<String>>, Failure> {
        let mut known = self.0.groups.lock().await;
        if let Some((groups, since)) = known.as_ref()
            && since.elapsed() < GROUPS_KNOWN
        {
            return Ok(Arc::clone(groups));
        }
        let groups = patiently(self.0.account.list_api_groups()).await?.groups;
        let groups: Arc<HashSet<String>> =
            Arc::new(groups.into_iter().map(|group| group.name).collect());
        *known = Some((Arc::clone(&groups), Instant::now()));
        Ok(groups)
    }

    /// The control plane's own account.
    pub fn account(&self) -> &Client {
        &self.0.account
    }

    /// An identity of a namespace. Its token is asked for when it is first used, and again before it ends.
    pub fn identity(&self, namespace: &str, identity: Identity) -> Result<Client, Failure> {
        let mut known = self.0.identities.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = known.get(&(namespace.to_owned(), identity)) {
            return Ok(client.clone());
        }
        let tokens = Tokens {
            accounts: Api::namespaced(self.0.account.clone(), DEPLOYERS),
            place: DEPLOYERS,
            name: identity.account(namespace),
            held: Arc::default(),
        };
        let client = client(self.0.config.clone(), Some(Bearer::Account(Arc::new(tokens))))?;
        known.insert((namespace.to_owned(), identity), client.clone());
        Ok(client)
    }

    /// Forgets the identities of a namespace: it is gone.
    pub fn forget(&self, namespace: &str) {
        let mut known = self.0.identities.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.retain(|(of, _), _| of != namespace);
    }
}

/// Waits for an answer no longer than is reasonable.
pub async fn patiently<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Away(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

/// The control plane's own account, for whoever has a login at the cluster's cloud: that is let do one thing,
/// ask for tokens of the account, so that it is confined as everywhere.
fn account_by(config: Config, login: LoginTokens) -> Result<Client, kube::Error> {
    let door = client(config.clone(), Some(Bearer::Login(Arc::new(login))))?;
    let tokens = Tokens {
        accounts: Api::namespaced(door, PLATFORM),
        place: PLATFORM,
        name: ACCOUNT.to_owned(),
        held: Arc::default(),
    };
    client(config, Some(Bearer::Account(Arc::new(tokens))))
}

/// Whether nobody has asked for a connection for so long that it is given up.
fn is_unused(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) >= UNUSED
}

fn client(config: Config, tokens: Option<Bearer>) -> Result<Client, kube::Error> {
    let plain = ClientBuilder::try_from(config)?.build();
    let Some(tokens) = tokens else { return Ok(plain) };
    let authorized = tower::service_fn(move |request: http::Request<Body>| {
        let (plain, tokens) = (plain.clone(), tokens.clone());
        async move {
            let request = tokens.authorize(request).await?;
            plain.send(request).await.map_err(BoxError::from)
        }
    });
    Ok(Client::new(authorized, "default"))
}

/// What a client presents.
#[derive(Clone)]
enum Bearer {
    /// Tokens of an account of the cluster.
    Account(Arc<Tokens>),
    /// Tokens of a login at its cloud.
    Login(Arc<LoginTokens>),
}

/// The tokens of an account.
struct Tokens {
    accounts: Api<ServiceAccount>,
    place: &'static str,
    name: String,
    held: Arc<Mutex<Option<(SecretString, Instant)>>>,
}

impl Bearer {
    async fn authorize(
        &self,
        mut request: http::Request<Body>,
    ) -> Result<http::Request<Body>, BoxError> {
        let token = match self {
            Bearer::Account(tokens) => tokens.token().await?,
            Bearer::Login(login) => login.token().await?,
        };
        let mut value = http::HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
        Ok(request)
    }
}

impl Tokens {
    async fn token(&self) -> Result<SecretString, BoxError> {
        let mut held = self.held.lock().await;
        if let Some((token, since)) = held.as_ref()
            && since.elapsed() < TOKEN_USED
        {
            return Ok(shared(token));
        }
        let asked = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let given = patiently(self.accounts.create_token_request(
            &self.name,
            &PostParams::default(),
            &asked,
        ))
        .await
        .map_err(|failure| self.said(&failure))?;
        let token: SecretString =
            given.status.map(|status| status.token).ok_or("the API server gave no token")?.into();
        *held = Some((shared(&token), Instant::now()));
        Ok(token)
    }

    /// Why there is no token, and what to do about it where that is somebody's to do.
    fn said(&self, failure: &Failure) -> String {
        let next = match failure {
            _ if self.place != PLATFORM => "",
            Failure::Gone(_) => "; `eve cluster manifest` makes it",
            Failure::Denied(_) => {
                "; what the cluster has to let a login at its cloud do is in docs/deployments.md"
            }
            _ => "",
        };
        format!("no token for {}/{}: {failure}{next}", self.place, self.name)
    }
}

/// The same secret once more.
fn shared(secret: &SecretString) -> SecretString {
    secret.expose_secret().to_owned().into()
}

fn credentials(row: &Row, sealer: Option<&Sealer>) -> Result<Option<Credentials>, DeployError> {
    if row.credentials.is_none() {
        return Ok(None);
    }
    let wrong =
        |message: &str| DeployError::Cluster { cluster: row.id.clone(), message: message.into() };
    let envelope = row.envelope().ok_or_else(|| {
        wrong("it has no credential that can be used; remove it and add it with a token")
    })?;
    let sealer = sealer.ok_or(DeployError::Unconfigured(
        "the control plane has no key to open credentials of clusters with: its operator sets EVE_SEALING_KEY",
    ))?;
    let opened =
        sealer.open(&Row::place(&row.id), &envelope).map_err(|source| DeployError::Sealed {
            what: format!("the credential of the cluster `{}` cannot be opened", row.id),
            source,
        })?;
    Credentials::parse(opened.expose_secret())
        .map(Some)
        .ok_or_else(|| wrong("its credential is neither a token, a certificate nor a login"))
}

/// The certificates of a PEM text, as DER.
fn certificates(pem: &str) -> Option<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|certificate| certificate.map(|der| der.as_ref().to_vec()))
        .collect();
    all.ok().filter(|all| !all.is_empty())
}

#[cfg(test)]
mod tests;
