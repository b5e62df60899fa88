//! The HTTP client: one method per shape of call, every failure as an [`Error`].

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::context::{Server, certificates};
use super::error::{Error, Refusal};

/// A server that does not accept a connection for this long is taken for absent.
const CONNECT: Duration = Duration::from_secs(10);

/// An answer takes milliseconds; a server under load may take seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// An upload is compiled before it is answered: up to a minute of CPU on a machine that may be busy.
const UPLOAD: Duration = Duration::from_secs(600);

/// How long to put up with being told to come back later (429). A rate fills up within seconds, so
/// whoever is still refused then had better hear of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Those who were told the same come back within this of each other, and not all at one instant.
const SPREAD: Duration = Duration::from_millis(250);

/// How much of an answer that is not ours an error quotes, in characters.
const QUOTED: usize = 200;

/// A connection to one server as one caller.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    server: Server,
}

impl Client {
    /// Sets up the client; nothing is sent yet.
    pub fn new(server: Server) -> Result<Self, Error> {
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = Url::parse(&server.url)
            .map_err(|error| Error::usage(format!("`{}` is no address: {error}", server.url)))?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("eve/", env!("CARGO_PKG_VERSION")))
            // A redirect would turn a POST into a GET: better to say where the server points.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT);
        if base.scheme() == "http" {
            // Otherwise a machine without any CA certificate could not even talk to itself.
            builder = builder.tls_certs_only([]);
        } else if let Some(authority) = &server.certificate_authority {
            // Whoever has an authority of their own trusts no other with their tokens.
            builder = builder.tls_certs_only(certificates(authority).map_err(Error::Client)?);
        }
        let http = builder.build().map_err(Error::Client)?;
        Ok(Client { http, base, server })
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// What its certificate is verified by, PEM, if not by what this machine trusts.
    pub fn certificate_authority(&self) -> Option<&str> {
        self.server.certificate_authority.as_deref()
    }

    /// GET a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        self.get_where(path, &[]).await
    }

    /// GET a JSON answer with query parameters.
    pub async fn get_where<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, Error> {
        let request = self.request(Method::GET, path).query(query).timeout(ANSWER);
        self.json(self.send(request).await?).await
    }

    /// POST JSON for a JSON answer.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let request = self.request(Method::POST, path).json(body).timeout(ANSWER);
        self.json(self.send(request).await?).await
    }

    /// PUT JSON for a JSON answer.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let request = self.request(Method::PUT, path).json(body).timeout(ANSWER);
        self.json(self.send(request).await?).await
    }

    /// POST a form for a JSON answer.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        form: reqwest::multipart::Form,
    ) -> Result<T, Error> {
        let request = self.request(Method::POST, path).query(query).multipart(form);
        self.json(self.send(request.timeout(UPLOAD)).await?).await
    }

    /// DELETE; the answer has no body.
    pub async fn delete(&self, path: &[&str]) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, path).timeout(ANSWER)).await.map(drop)
    }

    /// The same with query parameters.
    pub async fn remove_where(&self, path: &[&str], query: &[(&str, String)]) -> Result<(), Error> {
        let request = self.request(Method::DELETE, path).query(query).timeout(ANSWER);
        self.send(request).await.map(drop)
    }

    /// DELETE, for an answer: what is not gone at once.
    pub async fn delete_where<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, Error> {
        let request = self.request(Method::DELETE, path).query(query).timeout(ANSWER);
        self.json(self.send(request).await?).await
    }

    /// GET an answer that comes little by little. Only its beginning has a deadline.
    pub async fn stream(&self, path: &[&str], query: &[(&str, String)]) -> Result<Response, Error> {
        let request = self.request(Method::GET, path).query(query);
        match tokio::time::timeout(ANSWER, self.send(request)).await {
            Ok(response) => response,
            Err(_) => Err(self.silent()),
        }
    }

    /// GET a stream of events. Only its beginning has a deadline.
    pub async fn events(&self, path: &[&str]) -> Result<Response, Error> {
        let request = self.request(Method::GET, path).header(header::ACCEPT, "text/event-stream");
        match tokio::time::timeout(ANSWER, self.send(request)).await {
            Ok(response) => response,
            Err(_) => Err(self.silent()),
        }
    }

    /// The error for a failure in the middle of an answer.
    pub fn interrupted(&self, source: reqwest::Error) -> Error {
        Error::Interrupted { url: self.server.url.clone(), source }
    }

    /// The error for a server that has gone quiet.
    pub fn silent(&self) -> Error {
        Error::Silent { url: self.server.url.clone() }
    }

    /// A request for what is below `path`, as somebody else has written it: for what speaks another
    /// protocol than this API. None if it would get out of there.
    pub fn passing_on(
        &self,
        method: Method,
        path: &[&str],
        rest: &str,
        query: Option<&str>,
    ) -> Option<RequestBuilder> {
        let base = self.at(path);
        let written = format!("{}{rest}", base.path());
        let mut url = Url::parse(&format!("{}{rest}", base.as_str())).ok()?;
        url.set_query(query);
        // Dots, backslashes and the like have been resolved by now.
        (url.path() == written && url.origin() == base.origin()).then(|| self.ask(method, url))
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.ask(method, self.at(path))
    }

    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Segments are escaped one by one: no name can reach another endpoint.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url
    }

    fn ask(&self, method: Method, url: Url) -> RequestBuilder {
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.server.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(org) = &self.server.org {
            request = request.header("eve-org", org);
        }
        request
    }

    /// Sends it, and again when the server says that it came too soon: nothing was done then. A body
    /// that can be read only once is sent once.
    async fn send(&self, mut request: RequestBuilder) -> Result<Response, Error> {
        let mut waited = Duration::ZERO;
        loop {
            let again = request.try_clone();
            let response = self.send_once(request).await?;
            match (too_soon(&response), again) {
                (Some(wait), Some(again)) if waited + wait <= PATIENCE => {
                    let wait = wait + SPREAD.mul_f64(rand::random());
                    tokio::time::sleep(wait).await;
                    waited += wait;
                    request = again;
                }
                _ if response.status().is_success() => return Ok(response),
                _ => return Err(self.refusal(response).await),
            }
        }
    }

    async fn send_once(&self, request: RequestBuilder) -> Result<Response, Error> {
        request.send().await.map_err(|error| {
            let error = error.without_url();
            let url = self.server.url.clone();
            if error.is_builder() {
                Error::Client(error)
            } else if is_untrusted(&error) {
                Error::Untrusted { url, source: error }
            } else if error.is_connect() {
                Error::Unreachable { url, local: is_local(&self.base), source: error }
            } else {
                Error::Interrupted { url, source: error }
            }
        })
    }

    async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let (url, status) = (response.url().to_string(), response.status());
        let body = response.bytes().await.map_err(|error| self.interrupted(error.without_url()))?;
        serde_json::from_slice(&body).map_err(|error| {
            let detail = format!("{error}: {}", quote(&String::from_utf8_lossy(&body)));
            Error::Foreign { url, status, detail }
        })
    }

    async fn refusal(&self, response: Response) -> Error {
        let (url, status) = (response.url().to_string(), response.status());
        let target = response.headers().get(header::LOCATION).cloned();
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return self.interrupted(error.without_url()),
        };
        if let Some(target) = target.filter(|_| status.is_redirection()) {
            let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
            return Error::Foreign { url, status, detail: format!("it points to {target}") };
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Error::Refused(Box::new(Refusal { status: status.as_u16(), ..refusal })),
            Err(_) => {
                let detail = quote(&String::from_utf8_lossy(&body));
                Error::Foreign { url, status, detail }
            }
        }
    }
}

/// When to come back, if the server has refused for having been called too often.
fn too_soon(response: &Response) -> Option<Duration> {
    let wait = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    (response.status() == StatusCode::TOO_MANY_REQUESTS).then(|| Duration::from_secs(wait))
}

/// Whether it failed at the server's certificate.
fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        // An I/O error does not name what it holds as its source, but the source of that.
        let mut held = error;
        while let Some(inner) = held.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
            held = inner;
        }
        if let Some(rustls::Error::InvalidCertificate(_)) = held.downcast_ref() {
            return true;
        }
        next = held.source();
    }
    false
}

/// Whether an address is this machine's own.
pub fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(url::Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
        None => false,
    }
}

fn quote(body: &str) -> String {
    let body = body.trim();
    if body.is_empty() {
        return "an empty answer".to_owned();
    }
    let start: String = body.chars().take(QUOTED).collect();
    let more = if start.len() < body.len() { "…" } else { "" };
    format!("`{start}{more}`")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::response::IntoResponse as _;

    use super::*;

    fn client(url: &str) -> Client {
        Client::new(Server::at(url)).expect("a client")
    }

    fn url(client: &Client, path: &[&str]) -> String {
        client.request(Method::GET, path).build().expect("a request").url().to_string()
    }

    #[test]
    fn segments_are_escaped() {
        let client = client("http://127.0.0.1:1/eve");
        assert_eq!(
            url(&client, &["skills", "a/../b?c"]),
            "http://127.0.0.1:1/eve/v1/skills/a%2F..%2Fb%3Fc"
        );
    }

    #[test]
    fn what_is_passed_on_stays_below() {
        let client = client("http://127.0.0.1:1/eve");
        let of = |rest: &str, query| {
            let request = client.passing_on(Method::GET, &["envs", "dev", "kube"], rest, query)?;
            Some(request.build().expect("a request").url().to_string())
        };
        let below = "http://127.0.0.1:1/eve/v1/envs/dev/kube";
        assert_eq!(of("/api/v1", Some("a=b%2Fc")), Some(format!("{below}/api/v1?a=b%2Fc")));
        assert_eq!(of("//api", None), Some(format!("{below}//api")));
        for rest in
            ["/..", "/a/../../x", "/%2e%2e/x", "/.%2E/x", "/a/./b", "/a\\..\\b", "/a#b", "/a?b"]
        {
            assert_eq!(of(rest, None), None, "{rest}");
        }
    }

    /// A server that answers 429 so many times, and then 200.
    async fn busy(times: usize, retry_after: &'static str) -> (Client, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let answer = move || async move {
            if counted.fetch_add(1, Ordering::SeqCst) >= times {
                return axum::Json(serde_json::json!("done")).into_response();
            }
            let problem = serde_json::json!({
                "type": "https://eve-horizon.dev/problems/too-many-requests",
                "title": "Too many requests", "status": 429, "detail": "too often: try again later",
            });
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", retry_after)], axum::Json(problem))
                .into_response()
        };
        let router = axum::Router::new().fallback(answer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (client(&url), calls)
    }

    #[tokio::test]
    async fn who_came_too_soon_comes_again() {
        let (client, calls) = busy(2, "0").await;
        let done: String = client.post(&["requests"], &"body").await.expect("it is served");
        assert_eq!((done.as_str(), calls.load(Ordering::SeqCst)), ("done", 3));
    }

    #[tokio::test]
    async fn who_would_wait_too_long_says_so_at_once() {
        for retry_after in ["3600", "31", "soon", "-1"] {
            let (client, calls) = busy(1, retry_after).await;
            let error = client.get::<String>(&["me"]).await.expect_err("refused");
            assert_eq!(error.to_string(), "too often: try again later");
            assert_eq!(error.exit(), super::super::Exit::Unreachable);
            assert!(error.next().is_some_and(|next| next.contains("less often")), "{error:?}");
            assert_eq!(calls.load(Ordering::SeqCst), 1, "{retry_after}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_exit_5_with_advice() {
        // A port that was free a moment ago: bound and let go.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("an address")
            .port();
        let client = client(&format!("http://127.0.0.1:{port}"));
        let error = client.get::<serde_json::Value>(&["me"]).await.expect_err("refused");
        assert_eq!(error.exit(), super::super::Exit::Unreachable);
        assert!(error.to_string().ends_with("; is `eve dev` running?"), "{error}");
        assert!(error.cause().is_some_and(|cause| cause.contains("refused")), "{error:?}");
    }
}
