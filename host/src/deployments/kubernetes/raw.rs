//! Objects of a namespace as JSON: the few calls that it takes to put them there and take them out.
//!
//! Nothing is written over an object that was not looked at: with `over`, the API server refuses what
//! somebody has changed since ([optimistic concurrency]), and the caller looks again.
//!
//! [optimistic concurrency]: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions

use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use super::connection::patiently;
use super::failure::Failure;
use super::objects::Object;
use super::{APP_LABEL, MANAGED_BY, MANAGER};

/// Objects on one page of a list.
const PAGE: usize = 500;
/// Most pages: quotas allow for some hundred objects of a kind.
const MOST_PAGES: usize = 20;

/// A namespace, as one who may change it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl<'a> Place<'a> {
    pub fn new(client: &'a Client, namespace: &'a str) -> Place<'a> {
        Place { client, namespace }
    }

    /// Who may.
    pub fn client(&self) -> &'a Client {
        self.client
    }

    /// An object; none if there is none of the name.
    pub async fn get(&self, api: &str, plural: &str, name: &str) -> Result<Option<Value>, Failure> {
        let path = self.path(api, plural, Some(name));
        match self.send(Method::GET, &path, "", None).await {
            Ok(there) => Ok(Some(there)),
            Err(Failure::Gone(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// What there is of an app, as we label it; nothing of a kind that the cluster does not have.
    pub async fn of_app(&self, api: &str, plural: &str, app: &str) -> Result<Vec<Value>, Failure> {
        let selector = format!("{APP_LABEL}={app},{}={}", MANAGED_BY.0, MANAGED_BY.1);
        match self.list(api, plural, &selector).await {
            Err(Failure::Gone(_)) => Ok(Vec::new()),
            all => all,
        }
    }

    /// All of a kind with these labels; of whatever labels with none.
    pub async fn list(
        &self,
        api: &str,
        plural: &str,
        selector: &str,
    ) -> Result<Vec<Value>, Failure> {
        let path = self.path(api, plural, None);
        let mut all = Vec::new();
        let mut next = String::new();
        for _ in 0..MOST_PAGES {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("labelSelector", selector)
                .append_pair("limit", &PAGE.to_string())
                .append_pair("continue", &next)
                .finish();
            let mut list = self.send(Method::GET, &format!("{path}?{query}"), "", None).await?;
            if let Value::Array(items) = list["items"].take() {
                all.extend(items);
            }
            next = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if next.is_empty() {
                return Ok(all);
            }
        }
        Err(Failure::Away(format!("there are more than {} {plural} in the namespace", all.len())))
    }

    /// Applies an object over exactly what was looked at; where nothing was, over nothing that says otherwise.
    pub async fn apply(
        &self,
        object: &Object,
        mut body: Value,
        over: Option<&Value>,
    ) -> Result<Value, Failure> {
        let path = self.path(object.api, object.plural, Some(&object.name));
        let force = over.is_some();
        if let Some(over) = over {
            body["metadata"]["resourceVersion"] = over["metadata"]["resourceVersion"].clone();
        }
        let uri = format!("{path}?fieldManager={MANAGER}&force={force}&fieldValidation=Strict");
        self.send(Method::PATCH, &uri, "application/apply-patch+yaml", Some(&body)).await
    }

    /// Puts an object in the place of exactly what was looked at, whoever had said what is in that.
    pub async fn replace(
        &self,
        object: &Object,
        mut body: Value,
        over: &Value,
    ) -> Result<Value, Failure> {
        body["metadata"]["resourceVersion"] = over["metadata"]["resourceVersion"].clone();
        let path = self.path(object.api, object.plural, Some(&object.name));
        let uri = format!("{path}?fieldManager={MANAGER}");
        self.send(Method::PUT, &uri, "application/json", Some(&body)).await
    }

    /// An object as applying it would leave it.
    pub async fn would_apply(&self, object: &Object, body: &Value) -> Result<Value, Failure> {
        let path = self.path(object.api, object.plural, Some(&object.name));
        let uri =
            format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict&dryRun=All");
        self.send(Method::PATCH, &uri, "application/apply-patch+yaml", Some(body)).await
    }

    /// An object as putting it in the place of what is there would leave it.
    pub async fn would_replace(&self, object: &Object, body: &Value) -> Result<Value, Failure> {
        let path = self.path(object.api, object.plural, Some(&object.name));
        let uri = format!("{path}?fieldManager={MANAGER}&dryRun=All");
        self.send(Method::PUT, &uri, "application/json", Some(body)).await
    }

    /// Deletes exactly what was looked at.
    pub async fn delete(&self, api: &str, plural: &str, there: &Value) -> Result<(), Failure> {
        let metadata = &there["metadata"];
        if metadata["deletionTimestamp"].is_string() {
            return Ok(());
        }
        let path = self.path(api, plural, metadata["name"].as_str());
        let options = json!({
            "propagationPolicy": "Background",
            "preconditions": {
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            },
        });
        match self.send(Method::DELETE, &path, "application/json", Some(&options)).await {
            Ok(_) | Err(Failure::Gone(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Names and namespaces are DNS labels or were read of the API server: nothing in them has to be escaped.
    fn path(&self, api: &str, plural: &str, name: Option<&str>) -> String {
        let namespace = self.namespace;
        match name {
            Some(name) => format!("/{api}/namespaces/{namespace}/{plural}/{name}"),
            None => format!("/{api}/namespaces/{namespace}/{plural}"),
        }
    }

    async fn send(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        send(self.client, method, uri, content_type, body).await
    }
}

/// What an API server answers of a path that is in no namespace.
pub(super) async fn look(client: &Client, path: &str) -> Result<Value, Failure> {
    send(client, Method::GET, path, "", None).await
}

async fn send(
    client: &Client,
    method: Method,
    uri: &str,
    content_type: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let mut builder = Request::builder().method(method).uri(uri);
    if body.is_some() {
        builder = builder.header(http::header::CONTENT_TYPE, content_type);
    }
    let request = builder
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(|error| Failure::Away(error.to_string()))?;
    patiently(client.request(request)).await
}
