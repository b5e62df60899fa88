//! Logins at a cloud, by which its clusters are entered.
//!
//! Flow: a platform administrator registers a cluster with the login of a cloud ([`Login`]); whoever opens a
//! connection makes a [`LoginTokens`] of it, which asks for a bearer token when one is needed, and again
//! before it ends. `aws` signs its tokens itself, `google` and `azure` exchange theirs for one.
//!
//! Invariants:
//! - A login is a secret and what it is for, never an address, a file or a program: where tokens are asked
//!   for is written here ([`Hosts`]), whatever stands in what was uploaded.
//! - A secret goes to its own cloud only: https, no redirects, and no more of an answer than [`MOST_ANSWER`].
//! - One question at a time for a cluster, and none within [`PAUSE`] of one that failed: a login that does
//!   not hold does not become a flood at the cloud.
//! - Tokens are in memory only. A process that dies asks again.

mod aws;
mod azure;
mod google;

use std::time::{Duration, Instant, SystemTime};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub use aws::AwsLogin;
pub use azure::AzureLogin;
pub use google::GoogleLogin;

use super::Provider;
use crate::requests::Invalid;

/// How long a cloud may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Most bytes of its answer.
const MOST_ANSWER: usize = 64 << 10;
/// How long before its end a token is not used any more.
const LEFT: Duration = Duration::from_secs(300);
/// How long a question that failed is not asked again.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest text of a login that is no key.
const MOST_TEXT: usize = 4_096;

/// Where tokens are asked for. Only tests make others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::deployments) struct Hosts {
    google: String,
    azure: String,
}

impl Default for Hosts {
    fn default() -> Self {
        Hosts {
            google: "https://oauth2.googleapis.com".to_owned(),
            azure: "https://login.microsoftonline.com".to_owned(),
        }
    }
}

/// A login at a cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// At Amazon's.
    Aws(AwsLogin),
    /// At Google's.
    Google(GoogleLogin),
    /// At Microsoft's.
    Azure(AzureLogin),
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The login cannot be used as it is.
    #[error("the login cannot be used: {0}")]
    Unusable(String),
    /// The cloud cannot be asked.
    #[error("{host} cannot be asked for a token: {why}")]
    Away {
        /// Where.
        host: String,
        /// Why not.
        why: String,
    },
    /// The cloud says no.
    #[error("{host} gives no token for this login ({status}): {why}")]
    Refused {
        /// Where.
        host: String,
        /// The status of the answer.
        status: u16,
        /// What it said.
        why: String,
    },
    /// The cloud says something else than it should.
    #[error("{host} has answered with something that is no token: {why}")]
    Foreign {
        /// Where.
        host: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A token, and for how long it is good.
#[derive(Debug)]
struct Token {
    token: SecretString,
    lasts: Duration,
}

impl Login {
    /// Whether it can be kept as it is, as the field of that name.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        match self {
            Login::Aws(login) => login.check(),
            Login::Google(login) => login.check(),
            Login::Azure(login) => login.check(),
        }
    }

    /// The field that it comes in.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Login::Aws(_) => "aws",
            Login::Google(_) => "google",
            Login::Azure(_) => "azure",
        }
    }

    /// Whose clusters it is for.
    pub(super) fn provider(&self) -> Provider {
        match self {
            Login::Aws(_) => Provider::Eks,
            Login::Google(_) => Provider::Gke,
            Login::Azure(_) => Provider::Aks,
        }
    }

    async fn ask(&self, hosts: &Hosts) -> Result<Token, LoginError> {
        let now = SystemTime::now();
        match self {
            Login::Aws(login) => login.token(now),
            Login::Google(login) => login.token(&hosts.google, now).await,
            Login::Azure(login) => login.token(&hosts.azure).await,
        }
    }
}

/// The tokens of a login.
#[derive(Debug)]
pub(in crate::deployments) struct LoginTokens {
    login: Login,
    hosts: Hosts,
    held: Mutex<Held>,
}

/// What the last question came to, and until when that counts.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Token(SecretString, Instant),
    Failed(LoginError, Instant),
}

impl LoginTokens {
    /// Of a login; nothing is asked yet.
    pub(in crate::deployments) fn new(login: Login) -> LoginTokens {
        LoginTokens { login, hosts: Hosts::default(), held: Mutex::default() }
    }

    /// One that asks elsewhere.
    #[cfg(test)]
    pub(in crate::deployments) fn at(login: Login, host: &str) -> LoginTokens {
        let hosts = Hosts { google: host.to_owned(), azure: host.to_owned() };
        LoginTokens { hosts, ..LoginTokens::new(login) }
    }

    /// A token that is good for a while.
    pub(in crate::deployments) async fn token(&self) -> Result<SecretString, LoginError> {
        let mut held = self.held.lock().await;
        match &*held {
            Held::Token(token, until) if Instant::now() < *until => {
                return Ok(token.clone());
            }
            Held::Failed(error, until) if Instant::now() < *until => return Err(error.clone()),
            _ => {}
        }
        match self.login.ask(&self.hosts).await {
            Ok(Token { token, lasts }) => {
                let until = Instant::now() + lasts.saturating_sub(LEFT);
                *held = Held::Token(token.clone(), until);
                Ok(token)
            }
            Err(error) => {
                *held = Held::Failed(error.clone(), Instant::now() + PAUSE);
                Err(error)
            }
        }
    }
}

/// The answer of a token endpoint (RFC 6749, sections 5.1 and 5.2).
#[derive(Deserialize)]
struct Answer {
    access_token: Option<SecretString>,
    token_type: Option<String>,
    expires_in: Option<u64>,
    error: Option<String>,
    error_description: Option<String>,
}

/// Exchanges a form for a token.
async fn exchange(host: &str, path: &str, form: &[(&str, &str)]) -> Result<Token, LoginError> {
    let away = |error: &dyn std::error::Error| LoginError::Away {
        host: host.to_owned(),
        why: crate::deployments::kubernetes::failure::in_words(error),
    };
    // The process may have chosen a provider already; then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(ANSWER)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| away(&error))?;
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut response = client
        .post(format!("{host}{path}"))
        .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(http::header::ACCEPT, "application/json")
        .body(body)
        .send()
        .await
        .map_err(|error| away(&error.without_url()))?;
    let status = response.status();
    let foreign = |why: String| LoginError::Foreign { host: host.to_owned(), why };
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| away(&error.without_url()))? {
        text.extend_from_slice(&chunk);
        if text.len() > MOST_ANSWER {
            return Err(foreign(format!("it has more than {MOST_ANSWER} bytes")));
        }
    }
    let answer: Answer = match serde_json::from_slice(&text) {
        Ok(answer) => answer,
        Err(_) if !status.is_success() => {
            let why = "without a reason".to_owned();
            return Err(LoginError::Refused {
                host: host.to_owned(),
                status: status.as_u16(),
                why,
            });
        }
        // Where it is wrong, and not what stands there: that may be the token.
        Err(error) => return Err(foreign(format!("line {} of it", error.line()))),
    };
    if !status.is_success() {
        let said = [answer.error, answer.error_description];
        let said: Vec<_> = said.into_iter().flatten().collect();
        // Azure's descriptions have lines with ids and times after the first.
        let why = said.join(": ").lines().next().unwrap_or("without a reason").to_owned();
        let why = crate::deployments::kubernetes::failure::shown(&why, 500);
        return Err(LoginError::Refused { host: host.to_owned(), status: status.as_u16(), why });
    }
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(foreign("its kind is not `Bearer`".to_owned()));
    }
    let token =
        answer.access_token.ok_or_else(|| foreign("`access_token` is missing".to_owned()))?;
    let fit = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !fit(token.expose_secret()) {
        return Err(foreign("`access_token` could not be sent in a header".to_owned()));
    }
    // RFC 6749: what is not said is the server's own affair; both clouds give an hour.
    let lasts = Duration::from_secs(answer.expires_in.unwrap_or(0).min(24 * 3600));
    Ok(Token { token, lasts })
}

/// A secret as it is sealed. These types are serialised for that alone.
fn sealed<S: serde::Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// The same of one that may be missing.
fn sealed_option<S: serde::Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|secret| secret.expose_secret()).serialize(serializer)
}

/// Whether a text of a login is one: not empty, not endless, all of it of a kind.
fn fits(text: &str, most: usize, of: impl Fn(u8) -> bool) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(of)
}

#[cfg(test)]
mod tests;
