//! JWTs, as Supabase Auth issues them: checked against its JWKS, or a shared HS256 secret.
//!
//! Invariants:
//! - The algorithm belongs to our key, never to the token's header ([RFC 8725] 3.1): a header that
//!   names another one is refused, so a public key cannot be passed off as an HMAC secret.
//! - `exp`, `aud`, `iss` and `sub` must be there; `nbf` is honoured when it is.
//! - The JWKS endpoint is asked at most once a minute, however many unknown key ids are sent, and
//!   keys once fetched outlive its outages.
//!
//! [RFC 8725]: https://www.rfc-editor.org/rfc/rfc8725

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::{Mutex, RwLock};
use url::Url;

use crate::ids::UserId;

/// Clocks may differ by this much.
const LEEWAY_SECONDS: u64 = 30;
/// The endpoint is asked at most this often, so that made-up key ids cannot make us flood it.
const REFETCH_INTERVAL: Duration = Duration::from_secs(60);
/// Keys are fetched anew after this time, so that one which was withdrawn stops working.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How long the endpoint may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set that is read.
const MAX_JWKS_BYTES: usize = 256 * 1024;
/// Most keys of a set that are used.
const MAX_KEYS: usize = 64;
/// Longest token that is looked at: headers are limited to about this anyway.
const MAX_TOKEN_LENGTH: usize = 16 * 1024;
/// A shorter HMAC secret could be guessed offline from one token.
const MIN_SECRET_LENGTH: usize = 32;

/// Whose JWTs are accepted.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// `aud` must contain it; Supabase says `authenticated`.
    pub audience: String,
    /// `iss` must be it, such as `https://<project>.supabase.co/auth/v1`.
    pub issuer: String,
    /// The shared secret, where tokens are signed with HS256.
    pub hs256_secret: Option<SecretString>,
    /// Where the public keys are, where tokens are signed with a private one.
    pub jwks_url: Option<Url>,
}

/// Why JWTs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum JwtConfigError {
    /// Neither a secret nor a key set.
    #[error("JWTs need a secret or the URL of a key set (JWKS)")]
    NoKeys,
    /// The secret could be guessed.
    #[error("the JWT secret must have at least {MIN_SECRET_LENGTH} characters")]
    ShortSecret,
    /// A set of keys that anybody on the way can change proves nothing.
    #[error("the JWKS URL must be https, or http on this machine")]
    InsecureUrl,
    /// The HTTP client could not be made.
    #[error("the HTTP client for the key set could not be made")]
    Client(#[from] reqwest::Error),
}

/// Why a JWT is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// What is wrong with it, in words for whoever sent it.
    #[error("{0}")]
    Refused(&'static str),
    /// No key has ever been fetched, and the endpoint does not answer.
    #[error("the keys that sign-in tokens are checked with cannot be fetched")]
    NoKeys,
}

/// What we read of a token once its signature and claims hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub user: UserId,
    /// Their address, for display.
    pub email: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Compared by `jsonwebtoken`, which would take a list with ours in it; RFC 7519, 4.1.1, knows one.
    #[serde(default)]
    iss: serde_json::Value,
    #[serde(default)]
    email: Option<String>,
}

/// Checks JWTs. Cheap to clone.
#[derive(Clone)]
pub struct JwtVerifier {
    inner: Arc<Inner>,
}

struct Inner {
    audience: String,
    issuer: String,
    secret: Option<Key>,
    remote: Option<Remote>,
}

struct Remote {
    url: Url,
    client: reqwest::Client,
    keys: RwLock<Keys>,
    /// When the endpoint was asked last; held while asking, so that one asks for all.
    asked: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<String, Arc<Key>>,
    fetched: Option<Instant>,
}

/// A key together with the one algorithm that it is for.
struct Key {
    key: DecodingKey,
    algorithm: Algorithm,
}

impl JwtVerifier {
    /// Checks the configuration; asks no endpoint yet.
    pub fn new(config: &JwtConfig) -> Result<Self, JwtConfigError> {
        if config.hs256_secret.is_none() && config.jwks_url.is_none() {
            return Err(JwtConfigError::NoKeys);
        }
        let secret = match &config.hs256_secret {
            Some(secret) if secret.expose_secret().len() < MIN_SECRET_LENGTH => {
                return Err(JwtConfigError::ShortSecret);
            }
            Some(secret) => Some(Key {
                key: DecodingKey::from_secret(secret.expose_secret().as_bytes()),
                algorithm: Algorithm::HS256,
            }),
            None => None,
        };
        let remote = config.jwks_url.clone().map(Remote::new).transpose()?;
        let (audience, issuer) = (config.audience.clone(), config.issuer.clone());
        Ok(Self { inner: Arc::new(Inner { audience, issuer, secret, remote }) })
    }

    /// Checks a token.
    pub async fn verify(&self, token: &str) -> Result<Person, JwtError> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(JwtError::Refused("the token is too long"));
        }
        // Only to find our key: nothing in the header is believed before the signature holds.
        let header = decode_header(token).map_err(|_| {
            JwtError::Refused("this is neither an API token nor a JWT that is accepted here")
        })?;
        if header.crit.is_some() {
            return Err(JwtError::Refused(
                "the token needs an extension (crit) that is not known here",
            ));
        }
        let kid = header.kid.as_deref();
        if let Some(remote) = &self.inner.remote
            && let Some(key) = remote.key(kid).await
        {
            return self.check(token, &key);
        }
        let by_secret = self.inner.secret.as_ref().map(|key| self.check(token, key));
        match (&self.inner.remote, by_secret) {
            (_, Some(Ok(person))) => Ok(person),
            (None, Some(Err(error))) => Err(error),
            // Perhaps the key is new.
            (Some(remote), by_secret) => match (remote.refetch(kid).await, by_secret) {
                (Some(key), _) => self.check(token, &key),
                (None, Some(Err(error))) => Err(error),
                (None, _) if remote.keys.read().await.fetched.is_none() => Err(JwtError::NoKeys),
                (None, _) => {
                    Err(JwtError::Refused("the token is signed with a key that is not known here"))
                }
            },
            (None, None) => Err(JwtError::NoKeys),
        }
    }

    fn check(&self, token: &str, key: &Key) -> Result<Person, JwtError> {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.inner.audience]);
        validation.set_issuer(&[&self.inner.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims =
            decode::<Claims>(token, &key.key, &validation).map_err(|error| refusal(&error))?.claims;
        // The library also takes a list that has ours among others.
        if !claims.iss.is_string() {
            return Err(JwtError::Refused("the token is from another issuer"));
        }
        let user = claims
            .sub
            .parse()
            .map_err(|_| JwtError::Refused("the token's subject is not a user id (a UUID)"))?;
        Ok(Person { user, email: claims.email.filter(|email| !email.is_empty()) })
    }
}

/// In words for whoever sent the token.
fn refusal(error: &jsonwebtoken::errors::Error) -> JwtError {
    JwtError::Refused(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks one of exp, aud, iss and sub",
        ErrorKind::InvalidAlgorithm => "the token is signed with another algorithm than its key's",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        _ => "the token is malformed",
    })
}

impl Remote {
    fn new(url: Url) -> Result<Self, JwtConfigError> {
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            return Err(JwtConfigError::InsecureUrl);
        }
        // The process may have chosen a provider already; then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { url, client, keys: RwLock::default(), asked: Mutex::default() })
    }

    /// The key that we hold for this id; fetched anew when our copy is old.
    async fn key(&self, kid: Option<&str>) -> Option<Arc<Key>> {
        let keys = self.keys.read().await;
        let fresh = keys.fetched.is_some_and(|at| at.elapsed() < MAX_AGE);
        let key = keys.find(kid);
        drop(keys);
        if fresh || key.is_none() { key } else { self.refetch(kid).await }
    }

    /// Asks the endpoint, unless somebody did within the last minute, and looks again.
    async fn refetch(&self, kid: Option<&str>) -> Option<Arc<Key>> {
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|at| at.elapsed() >= REFETCH_INTERVAL) {
            *asked = Some(Instant::now());
            match self.fetch().await {
                Ok(by_id) => {
                    *self.keys.write().await = Keys { by_id, fetched: Some(Instant::now()) };
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &*error;
                    tracing::warn!(error, url = %self.url, "fetching the key set failed; going on with the keys at hand");
                }
            }
        }
        drop(asked);
        self.keys.read().await.find(kid)
    }

    async fn fetch(
        &self,
    ) -> Result<HashMap<String, Arc<Key>>, Box<dyn std::error::Error + Send + Sync>> {
        let mut response = self.client.get(self.url.clone()).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_JWKS_BYTES {
                return Err("the key set is too large".into());
            }
        }
        Ok(read_keys(&body)?)
    }
}

impl Keys {
    /// Without an id, the only key there is.
    fn find(&self, kid: Option<&str>) -> Option<Arc<Key>> {
        match kid {
            Some(kid) => self.by_id.get(kid).cloned(),
            None if self.by_id.len() == 1 => self.by_id.values().next().cloned(),
            None => None,
        }
    }
}

/// Reads a key set. A key that is not for signatures, or that we do not know how to use, is left
/// out and spoils nothing for the others.
fn read_keys(body: &[u8]) -> Result<HashMap<String, Arc<Key>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<serde_json::Value>,
    }
    let set: KeySet = serde_json::from_slice(body)?;
    Ok(set
        .keys
        .into_iter()
        .take(MAX_KEYS)
        .filter_map(|value| serde_json::from_value::<Jwk>(value).ok())
        .filter_map(|jwk| {
            Some((jwk.common.key_id.clone().unwrap_or_default(), Arc::new(usable(&jwk)?)))
        })
        .collect())
}

/// The key with its algorithm, if it is a public key for signatures. Symmetric keys have no place
/// in a set that is published.
fn usable(jwk: &Jwk) -> Option<Key> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match (&jwk.algorithm, jwk.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), None | Some(KeyAlgorithm::RS256)) => Algorithm::RS256,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS384)) => Algorithm::RS384,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS512)) => Algorithm::RS512,
        (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS256)) => Algorithm::PS256,
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES256))
            if key.curve == EllipticCurve::P256 =>
        {
            Algorithm::ES256
        }
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES384))
            if key.curve == EllipticCurve::P384 =>
        {
            Algorithm::ES384
        }
        (AlgorithmParameters::OctetKeyPair(key), None | Some(KeyAlgorithm::EdDSA))
            if key.curve == EllipticCurve::Ed25519 =>
        {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    Some(Key { key: DecodingKey::from_jwk(jwk).ok()?, algorithm })
}

#[cfg(test)]
mod tests;
