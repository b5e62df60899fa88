//! The skills server: where it is, and how roles and databases on it are named and guarded.
//!
//! One database an organisation, on it one schema for each logical one, with a role that owns what is in
//! it and one that logs in. Names are
//! made of ids alone, and passwords are derived from one key, so there is nothing to store and nothing
//! that a guest could be shown.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretBox};
use sha2::Sha256;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::wire::{Budget, Wire};
use super::{SchemaError, SchemaName, limits};
use crate::ids::OrgId;

/// The database that those of organisations are copied from.
pub(super) const TEMPLATE: &str = "eve_skills_template";

/// The key that passwords are derived from: 32 bytes.
#[derive(Clone)]
pub struct SkillsKey(Arc<SecretBox<[u8; 32]>>);

impl std::fmt::Debug for SkillsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SkillsKey(…)")
    }
}

impl FromStr for SkillsKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .map_err(|_| "must be base64".to_owned())?;
        let bytes: [u8; 32] =
            bytes.try_into().map_err(|_| "must be the base64 of 32 bytes".to_owned())?;
        Ok(SkillsKey(Arc::new(SecretBox::new(Box::new(bytes)))))
    }
}

/// Why a skills server cannot be used as it was given.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The URL is none.
    #[error("SKILLS_DATABASE_URL is not a Postgres URL")]
    Url(#[source] tokio_postgres::Error),
    /// TLS cannot be set up.
    #[error("setting TLS up for the skills server")]
    Tls(#[source] rustls::Error),
}

/// A skills server.
#[derive(Clone)]
pub struct Server {
    pub(super) config: Config,
    key: SkillsKey,
    tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A session that was opened, and the task that carries its bytes.
pub(super) struct Opened {
    pub(super) client: tokio_postgres::Client,
    pub(super) task: tokio::task::JoinHandle<()>,
    pub(super) budget: Budget,
}

impl Server {
    /// The server of a URL. The credentials in it, if any, are the provisioner's.
    pub fn new(url: &str, key: SkillsKey) -> Result<Server, ServerError> {
        let config: Config = url.parse().map_err(ServerError::Url)?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // What this library cannot read verifies nobody.
            let _ = roots.add(certificate);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ServerError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Server { config, key, tls: MakeRustlsConnect::new(tls) })
    }

    /// The database of an organisation.
    pub(super) fn database(org: OrgId) -> String {
        format!("eve_org_{}", org.0.simple())
    }

    /// The role that sessions log in as: it becomes the schema's own ([`Server::role`]) at once, which
    /// cannot log in. So nothing that is said in a session changes how the next one begins.
    pub(super) fn login(org: OrgId, schema: &SchemaName) -> String {
        format!("{}_in", Self::role(org, schema))
    }

    /// The role that owns what is in a schema.
    pub(super) fn role(org: OrgId, schema: &SchemaName) -> String {
        use sha2::Digest as _;
        let digest = Sha256::digest(schema.as_str());
        format!("eve_{}_{}", org.0.simple(), hex::encode(&digest[..8]))
    }

    /// The role's password.
    pub(super) fn password(&self, org: OrgId, schema: &SchemaName) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key.0.expose_secret()[..])
            .expect("a key of any length will do");
        mac.update(b"eve skills database v1\0");
        mac.update(org.0.as_bytes());
        mac.update(schema.as_str().as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    /// As the role that a schema's sessions log in as, in its organisation's database.
    pub(super) fn tenant(&self, org: OrgId, schema: &SchemaName) -> Config {
        let mut config = self.config.clone();
        config
            .user(Self::login(org, schema))
            .password(self.password(org, schema))
            .dbname(Self::database(org))
            .application_name("eve skill");
        config
    }

    /// As the provisioner, in a database.
    pub(super) fn provisioner(&self, database: &str) -> Config {
        let mut config = self.config.clone();
        config.dbname(database).application_name("eve provisioner");
        config
    }

    /// Opens a session as the provisioner, in a database, for `doing` something.
    pub(super) async fn provision(
        &self,
        database: &str,
        doing: &'static str,
    ) -> Result<Opened, SchemaError> {
        let opened = self.open(&self.provisioner(database)).await;
        opened.map_err(|error| SchemaError::unavailable(doing, error))
    }

    /// Asks the server to cancel what a session is doing. Whether it does shows in the session.
    pub(super) async fn cancel(&self, config: &Config, client: &tokio_postgres::Client) {
        let cancelling = async {
            let (wire, host) = Wire::dial(config, Budget::new()).await?;
            let tls = MakeTlsConnect::<Wire>::make_tls_connect(&mut self.tls.clone(), &host)
                .map_err(std::io::Error::other)?;
            client.cancel_token().cancel_query_raw(wire, tls).await.map_err(std::io::Error::other)
        };
        if let Err(error) = cancelling.await {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "a cancel request did not reach the skills server");
        }
    }

    /// Opens a session. Every session is watched for how much it sends.
    pub(super) async fn open(&self, config: &Config) -> Result<Opened, OpenError> {
        let budget = Budget::new();
        let connecting = async {
            let (wire, host) = Wire::dial(config, budget.clone()).await?;
            let mut config = config.clone();
            if matches!(config.get_hosts().first(), Some(Host::Unix(_))) {
                config.ssl_mode(SslMode::Disable);
            }
            let tls = MakeTlsConnect::<Wire>::make_tls_connect(&mut self.tls.clone(), &host)
                .map_err(std::io::Error::other)?;
            Ok(config.connect_raw(wire, tls).await?)
        };
        let (client, connection) = tokio::time::timeout(limits::CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(OpenError::Io(std::io::ErrorKind::TimedOut.into())))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "a session of the skills server ended");
            }
        });
        Ok(Opened { client, task, budget })
    }
}

/// The SQLSTATE of an error, if Postgres has said one.
pub(super) fn code(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(|code| code.code())
}

/// Changes catalogues that others may be changing: what two disturb each other in is done again.
pub(super) async fn change(
    client: &tokio_postgres::Client,
    sql: &str,
) -> Result<(), tokio_postgres::Error> {
    let mut tries = 0;
    loop {
        match client.batch_execute(sql).await {
            // "tuple concurrently updated", a deadlock, an object that is in use or just gone.
            Err(error)
                if tries < 20
                    && matches!(code(&error), Some("XX000" | "40P01" | "55006" | "42704")) =>
            {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50 * tries)).await;
            }
            other => return other,
        }
    }
}

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The server cannot be reached.
    #[error("the skills server cannot be reached")]
    Io(#[from] std::io::Error),
    /// It does not let us in.
    #[error("the skills server refuses the session")]
    Postgres(#[from] tokio_postgres::Error),
}
