//! Requests to the API server, and who makes them.

use std::path::PathBuf;

use anyhow::Context as _;
use http::{Method, Request};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// The cluster of `EVE_TEST_KUBECONFIG`.
pub struct Cluster {
    config: Config,
}

impl Cluster {
    /// The cluster to test with; `None`, said aloud, if there is none.
    pub async fn of_environment(test: &str) -> anyhow::Result<Option<Cluster>> {
        let Some(path) = std::env::var_os("EVE_TEST_KUBECONFIG") else {
            eprintln!("SKIPPED: {test} needs a cluster: name a kubeconfig in EVE_TEST_KUBECONFIG");
            return Ok(None);
        };
        let path = PathBuf::from(path);
        let file = Kubeconfig::read_from(&path)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Some(Cluster { config }))
    }

    /// Whoever the kubeconfig names.
    pub fn admin(&self) -> anyhow::Result<Caller> {
        Ok(Caller {
            client: Client::try_from(self.config.clone())?,
            user: None,
            groups: Vec::new(),
        })
    }

    /// The holder of a token, and of nothing else: a client certificate would win over it.
    pub fn bearer(&self, token: &str) -> anyhow::Result<Caller> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Ok(Caller { client: Client::try_from(config)?, user: None, groups: Vec::new() })
    }
}

/// Somebody who makes requests.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    user: Option<String>,
    groups: Vec<String>,
}

impl Caller {
    /// The same caller in the name of another user, who has every right besides his groups'.
    pub fn with_every_right_as(&self, user: &str, groups: &[&str]) -> Caller {
        let groups = groups.iter().copied().chain(["system:masters"]).map(str::to_owned).collect();
        Caller { client: self.client.clone(), user: Some(user.to_owned()), groups }
    }

    /// The same caller, trying to be somebody else.
    pub fn impersonating(&self, user: &str, group: Option<&str>) -> Caller {
        let groups = group.map(str::to_owned).into_iter().collect();
        Caller { client: self.client.clone(), user: Some(user.to_owned()), groups }
    }

    /// Sends `body` to `path` (no slash in front) and takes whatever the server answers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let what = format!("{method} /{path}");
        let mut request = Request::builder().method(method).uri(format!("/{path}"));
        if body.is_some() {
            request = request.header("Content-Type", content_type);
        }
        if let Some(user) = &self.user {
            request = request.header("Impersonate-User", user);
        }
        for group in &self.groups {
            request = request.header("Impersonate-Group", group);
        }
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let answer = self.client.send(request.body(Body::from(body))?).await;
        let answer = answer.with_context(|| what.clone())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect_bytes().await.with_context(|| what.clone())?;
        Ok(Answer { what, status, text: String::from_utf8_lossy(&body).into_owned() })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, "", None).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, "application/json", Some(object)).await
    }

    /// Server-side apply. Fields that the server does not know are errors: they are typing errors.
    pub async fn apply(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        let path = format!("{path}?fieldManager=eve-tests&force=true&fieldValidation=Strict");
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(object)).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, path, "", None).await
    }
}

/// What the server said.
pub struct Answer {
    what: String,
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub fn json(&self) -> anyhow::Result<Value> {
        anyhow::ensure!(self.is_success(), "{self}");
        serde_json::from_str(&self.text).with_context(|| self.to_string())
    }

    /// The message of a refusal.
    pub fn message(&self) -> String {
        let status = serde_json::from_str::<Value>(&self.text).unwrap_or_default();
        status["message"].as_str().unwrap_or(&self.text).to_owned()
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answered {}", self.what, self.status)?;
        // What was made or read says nothing that the request does not.
        if self.is_success() { Ok(()) } else { write!(f, ": {}", self.message().trim_end()) }
    }
}

/// The path of an object, or of its kind's collection in a namespace; "" for objects that have none.
pub fn path(object: &Value, namespace: &str, named: bool) -> String {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let api = if version.contains('/') { "apis" } else { "api" };
    let kinds = plural(object["kind"].as_str().unwrap_or_default());
    let mut path = format!("{api}/{version}/");
    if !namespace.is_empty() {
        path += &format!("namespaces/{namespace}/");
    }
    path += &kinds;
    if named {
        path += &format!("/{}", object["metadata"]["name"].as_str().unwrap_or_default());
    }
    path
}

/// Kinds are English, and so are their plurals.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let before_y = kind.strip_suffix('y').and_then(|stem| stem.chars().last());
    match before_y {
        _ if kind == "endpoints" => kind,
        Some(letter) if !"aeiou".contains(letter) => format!("{}ies", &kind[..kind.len() - 1]),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    }
}
