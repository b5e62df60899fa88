//! What kubectl talks to: a port of this machine, for as long as one command runs.
//!
//! It speaks plain HTTP, and below one path only, which has 256 random bits in it: whoever else is on this
//! machine can reach the port and nothing behind it. TLS would keep nothing from anybody here - only who
//! may read this process's memory can listen to the loopback interface - and kubectl would have to be
//! given a certificate and a token instead.
//!
//! What kubectl asks first is what there is, and of a refusal of that it says `unknown`, whatever stands in
//! it. So the last such answer is remembered, and said when kubectl has failed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::client::Client;
use super::super::error::Error;

/// Largest body: a little more than what a server takes, so that it may say so.
const MOST_BODY: usize = 8 << 20;

/// What belongs to one connection, or is the forwarder's to say; everything else is passed on.
const NOT_PASSED: [HeaderName; 11] = [
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::AUTHORIZATION,
    header::COOKIE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

/// A forwarder that runs. It ends when this is dropped.
pub struct Forwarder {
    address: SocketAddr,
    secret: String,
    serving: JoinHandle<()>,
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    env: String,
    /// `/` and the secret.
    prefix: String,
    /// Why it was last not said what there is.
    unsaid: Mutex<Option<String>>,
}

impl Inner {
    fn remember(&self, message: Option<String>) {
        *self.unsaid.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }
}

impl Forwarder {
    /// Listens on a free port.
    pub async fn start(client: Client, env: &str) -> Result<Forwarder, Error> {
        let failed = |error| Error::local(format!("cannot listen on this machine: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let inner = Arc::new(Inner {
            client,
            env: env.to_owned(),
            prefix: format!("/{secret}"),
            unsaid: Mutex::default(),
        });
        let router = Router::new().fallback(forward).with_state(inner.clone());
        let serving = tokio::spawn(async move {
            // Ends with this process only.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Forwarder { address, secret, serving, inner })
    }

    /// Why kubectl could not find out what there is, if it could not: it does not say itself.
    pub fn unsaid(&self) -> Option<String> {
        self.inner.unsaid.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/{}", self.address, self.secret)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn forward(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    match pass_on(&inner, request).await {
        Ok(response) => response,
        Err((status, message)) => {
            inner.remember(Some(message.clone()));
            // As Kubernetes says it: kubectl shows nothing else.
            let said = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": message, "reason": reason(status), "code": status.as_u16(),
            });
            (status, axum::Json(said)).into_response()
        }
    }
}

fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "BadRequest",
    }
}

/// What is below the secret; none for whoever does not know it.
fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    let (head, rest) = path.split_at_checked(prefix.len())?;
    bool::from(head.as_bytes().ct_eq(prefix.as_bytes())).then_some(rest)
}

async fn pass_on(inner: &Inner, request: Request) -> Result<Response, (StatusCode, String)> {
    let (mut parts, body) = request.into_parts();
    let connection = parts.extensions.remove::<OnUpgrade>();
    let rest = below(&inner.prefix, parts.uri.path())
        .filter(|rest| rest.starts_with('/'))
        .ok_or_else(|| (StatusCode::NOT_FOUND, "there is nothing here".to_owned()))?;
    let query = parts.uri.query();
    let mut passed = inner
        .client
        .passing_on(parts.method.clone(), &["envs", &inner.env, "kube"], rest, query)
        .ok_or_else(|| (StatusCode::BAD_REQUEST, "this path is not passed on".to_owned()))?;
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    passed = passed.headers(kept(&parts.headers));
    match &upgrade {
        Some(upgrade) => {
            passed = passed.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, upgrade);
        }
        None => {
            let whole = to_bytes(body, MOST_BODY).await.map_err(|_| {
                (StatusCode::BAD_REQUEST, format!("the body is larger than {MOST_BODY} bytes"))
            })?;
            if !whole.is_empty() {
                passed = passed.body(whole);
            }
        }
    }
    let answer = passed.send().await.map_err(|error| {
        let error = error.without_url();
        let mut why: &dyn std::error::Error = &error;
        while let Some(deeper) = why.source() {
            why = deeper;
        }
        let message = format!("cannot reach {}: {why}", inner.client.url());
        (StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = kept(answer.headers());
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(response, answer, connection, upgrade);
    }
    if is_discovery(rest) {
        let failed = answer.status().is_client_error() || answer.status().is_server_error();
        let whole = answer.bytes().await.unwrap_or_default();
        inner.remember(failed.then(|| message(&whole)).flatten());
        *response.body_mut() = Body::from(whole);
    } else {
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
    }
    Ok(response)
}

/// Whether it is asked what there is, and not for anything of it.
fn is_discovery(path: &str) -> bool {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    matches!(
        segments.as_slice(),
        ["version" | "api" | "apis"] | ["api" | "apis", _] | ["apis", _, _] | ["openapi", ..]
    )
}

/// What a `Status` says.
fn message(body: &[u8]) -> Option<String> {
    let status: serde_json::Value = serde_json::from_slice(body).ok()?;
    (status["kind"] == "Status").then(|| status["message"].as_str().map(str::to_owned)).flatten()
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in NOT_PASSED {
        kept.remove(name);
    }
    kept
}

/// The server agrees to another protocol: from here on bytes go through as they are.
fn switch(
    mut response: Response,
    answer: reqwest::Response,
    connection: Option<OnUpgrade>,
    upgrade: Option<header::HeaderValue>,
) -> Result<Response, (StatusCode, String)> {
    let (Some(connection), Some(upgrade)) = (connection, upgrade) else {
        let message = "the server wants to speak another protocol".to_owned();
        return Err((StatusCode::SERVICE_UNAVAILABLE, message));
    };
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, upgrade);
    tokio::spawn(async move {
        let both = tokio::join!(connection, answer.upgrade());
        if let (Ok(client), Ok(mut server)) = both {
            // Either side just hangs up: an error here is an end like any other.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut server).await;
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_about_what_there_is_are_known() {
        for path in ["/api", "/apis", "/version", "/api/v1", "/apis/apps/v1", "/openapi/v3/api/v1"]
        {
            assert!(is_discovery(path), "{path}");
        }
        for path in ["/api/v1/pods", "/api/v1/namespaces/a/pods", "/apis/apps/v1/deployments", "/"]
        {
            assert!(!is_discovery(path), "{path}");
        }
    }

    #[test]
    fn only_who_knows_the_secret_gets_anywhere() {
        assert_eq!(below("/secret", "/secret/api/v1"), Some("/api/v1"));
        assert_eq!(below("/secret", "/secret"), Some(""));
        for path in ["/", "/api", "/secreT/api", "/sec", "//secret/api", "/x/secret/api"] {
            assert_eq!(below("/secret", path), None, "{path}");
        }
    }
}
