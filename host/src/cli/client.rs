//! The HTTP client: one method per shape of call, every failure as an [`Error`].

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::context::Server;
use super::error::{Error, Refusal};

/// A server that does not accept a connection for this long is taken for absent.
const CONNECT: Duration = Duration::from_secs(10);

/// An answer takes milliseconds; a server under load may take seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// An upload is compiled before it is answered: up to a minute of CPU on a machine that may be busy.
const UPLOAD: Duration = Duration::from_secs(600);

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
        }
        let http = builder.build().map_err(Error::Client)?;
        Ok(Client { http, base, server })
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.server.url
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

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Segments are escaped one by one: no name can reach another endpoint.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.server.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(org) = &self.server.org {
            request = request.header("eve-org", org);
        }
        request
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| {
            let error = error.without_url();
            let url = self.server.url.clone();
            if error.is_builder() {
                Error::Client(error)
            } else if error.is_connect() {
                Error::Unreachable { url, local: is_local(&self.base), source: error }
            } else {
                Error::Interrupted { url, source: error }
            }
        })?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
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
    use super::*;

    fn client(url: &str) -> Client {
        Client::new(Server { url: url.into(), token: None, org: None }).expect("a client")
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
