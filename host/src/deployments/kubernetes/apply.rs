//! Putting a deployment into its namespace, and taking it out again, as its deployer.

use std::collections::BTreeSet;

use http::{Method, Request};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::connection::patiently;
use super::failure::Failure;
use super::objects::{Count, Object, Spec};
use super::routes::{GATEWAY_API, INGRESS_API};
use super::secrets;
use super::{APP_LABEL, MANAGED_BY, MANAGER, REVISION};

/// What came of applying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The generation of the Deployment.
    pub generation: i64,
    /// Who else had changed what is ours, and what; it is as it was.
    pub drift: Vec<String>,
}

/// Makes the namespace be as the deployment is to be.
pub async fn apply(client: &Client, namespace: &str, spec: &Spec) -> Result<Applied, Failure> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let live = patiently(deployments.get_opt(&spec.app)).await?;
    if let Some(live) = &live {
        ours(live, spec)?;
        ahead(live, spec.revision)?;
    }
    if let Some(secret) = spec.secret() {
        put(client, namespace, &secret).await?;
    }
    if let Some(object) = spec.secrets_object() {
        match put(client, namespace, &object).await {
            Err(failure @ Failure::Gone(_)) if object.plural == secrets::PLURAL => {
                return Err(secrets::unknown(client, failure).await);
            }
            done => done?,
        };
    }
    put(client, namespace, &spec.service()).await?;
    put(client, namespace, &spec.disruption_budget()).await?;
    put(client, namespace, &spec.autoscaler()).await?;
    for route in [spec.http_route(), spec.ingress()] {
        lead(client, namespace, &route).await?;
    }
    // What makes pods comes last: where something else is refused, nothing runs.
    let version = live.as_ref().and_then(|live| live.resource_version());
    let mut object = spec.deployment(count(live.as_ref(), spec), version.as_deref());
    let mut applied: Deployment = put(client, namespace, &object).await?.map_or_else(
        || Err(Failure::Away("the API server did not say what came of it".into())),
        |value| serde_json::from_value(value).map_err(|error| Failure::Away(error.to_string())),
    )?;
    // What others have added beside our fields survives an apply: it takes a replacement to be rid of it.
    let drift = foreign(applied.metadata.managed_fields.as_deref().unwrap_or_default());
    if !drift.is_empty() {
        tracing::warn!(namespace, app = spec.app, ?drift, "taking out what others have put in");
        applied = replace(client, namespace, spec, &applied, &mut object).await?;
    }
    Ok(Applied { generation: applied.metadata.generation.unwrap_or_default(), drift })
}

/// Whether an environment keeps its secrets in a store, and its apps have ExternalSecrets: they are looked for
/// where there can be some. A cluster may not know the kind, or not let us ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum External {
    /// It does.
    Secrets,
    /// It does not.
    Nothing,
}

/// Takes a deployment out of its namespace, up to a revision: `true` once nothing of it is left.
pub async fn remove(
    client: &Client,
    namespace: &str,
    app: &str,
    latest: i32,
    external: External,
) -> Result<bool, Failure> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    if let Some(live) = patiently(deployments.get_opt(app)).await? {
        ahead(&live, latest)?;
    }
    let mut left = false;
    // First what leads to it, then what makes pods, and whatever would scale it.
    for (api, plural) in [
        (GATEWAY_API, "httproutes"),
        (INGRESS_API, "ingresses"),
        ("apis/autoscaling/v2", "horizontalpodautoscalers"),
        ("apis/apps/v1", "deployments"),
        ("api/v1", "services"),
        ("apis/policy/v1", "poddisruptionbudgets"),
        // Before the Secrets that are made of them.
        (secrets::API, secrets::PLURAL),
        ("api/v1", "secrets"),
    ] {
        let names = match (plural, external) {
            (secrets::PLURAL, External::Nothing) => Vec::new(),
            (secrets::PLURAL, External::Secrets) => externals(client, namespace, app).await?,
            _ => named(client, namespace, api, plural, app).await?,
        };
        for name in names {
            left = true;
            delete(client, namespace, api, plural, &name).await?;
        }
    }
    if left {
        return Ok(false);
    }
    Ok(named(client, namespace, "api/v1", "pods", app).await?.is_empty())
}

/// Deletes Secrets of variables and of secrets that nothing uses any more, and what they are made of.
pub async fn tidy(
    client: &Client,
    namespace: &str,
    app: &str,
    used: &BTreeSet<String>,
    external: External,
) -> Result<(), Failure> {
    if external == External::Secrets {
        for name in externals(client, namespace, app).await? {
            // It is called as the Secret is.
            if !used.contains(&name) {
                delete(client, namespace, secrets::API, secrets::PLURAL, &name).await?;
            }
        }
    }
    let prefixes = [format!("{app}-env-"), secrets::prefix(app)];
    for name in named(client, namespace, "api/v1", "secrets", app).await? {
        if !used.contains(&name) && prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            delete(client, namespace, "api/v1", "secrets", &name).await?;
        }
    }
    Ok(())
}

/// The ExternalSecrets of an app; none where the cluster does not know the kind any more.
async fn externals(client: &Client, namespace: &str, app: &str) -> Result<Vec<String>, Failure> {
    match named(client, namespace, secrets::API, secrets::PLURAL, app).await {
        Err(Failure::Gone(_)) => Ok(Vec::new()),
        names => names,
    }
}

/// The Secrets that the ReplicaSets of an app refer to: a rollout that fails goes back to one of them.
pub async fn used_secrets(
    client: &Client,
    namespace: &str,
    app: &str,
) -> Result<BTreeSet<String>, Failure> {
    let sets = list(client, namespace, "apis/apps/v1", "replicasets", app).await?;
    let mut used = BTreeSet::new();
    for set in sets {
        // What we go back to is made anew, and needs no old one.
        if set["spec"]["replicas"].as_i64().unwrap_or_default() == 0 {
            continue;
        }
        let pod = &set["spec"]["template"]["spec"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for container in list(&pod["containers"]) {
            for source in list(&container["envFrom"]) {
                used.extend(source["secretRef"]["name"].as_str().map(str::to_owned));
            }
            for variable in list(&container["env"]) {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                used.extend(reference["name"].as_str().map(str::to_owned));
            }
        }
        for volume in list(&pod["volumes"]) {
            used.extend(volume["secret"]["secretName"].as_str().map(str::to_owned));
        }
    }
    Ok(used)
}

/// A Deployment of the same name that somebody else has made is theirs.
pub(super) fn ours(live: &Deployment, spec: &Spec) -> Result<(), Failure> {
    let labels = live.labels();
    let managed = labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1);
    if managed && labels.get(APP_LABEL) == Some(&spec.app) {
        return Ok(());
    }
    Err(Failure::Refused {
        reason: "taken",
        message: format!(
            "there is a Deployment `{}` in the namespace that Eve Horizon did not make; it is left alone: \
             delete it, or give the app another name",
            spec.app
        ),
    })
}

/// A control plane that was left behind changes nothing.
fn ahead(live: &Deployment, revision: i32) -> Result<(), Failure> {
    let there = live.annotations().get(REVISION).and_then(|text| text.parse::<i32>().ok());
    match there {
        Some(there) if there > revision => Err(Failure::Conflict(format!(
            "revision {there} is there already, and this is {revision}"
        ))),
        _ => Ok(()),
    }
}

/// How the number of replicas is said. Where something scales it, we go on saying what it says until it has
/// said so itself: a field that nobody says falls back to 1 at once.
pub(super) fn count(live: Option<&Deployment>, spec: &Spec) -> Count {
    if spec.settings.autoscale.is_none() {
        return Count::Exactly(spec.replicas);
    }
    let Some(live) = live else { return Count::Exactly(spec.replicas.max(1)) };
    let theirs = managed(live).any(|entry| {
        entry.subresource.as_deref() == Some("scale")
            || (entry.manager.as_deref() != Some(MANAGER)
                && fields(entry).pointer("/f:spec/f:replicas").is_some())
    });
    match theirs {
        true => Count::Theirs,
        false => {
            let there = live.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            Count::Exactly(there.max(1))
        }
    }
}

fn managed(live: &Deployment) -> impl Iterator<Item = &ManagedFieldsEntry> {
    live.metadata.managed_fields.iter().flatten()
}

fn fields(entry: &ManagedFieldsEntry) -> Value {
    entry.fields_v1.as_ref().map(|fields| fields.0.clone()).unwrap_or_default()
}

/// Who beside us says anything of a specification, except how many replicas there are.
pub(super) fn foreign(managed: &[ManagedFieldsEntry]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in managed {
        let manager = entry.manager.as_deref().unwrap_or("somebody");
        let mine = manager == MANAGER;
        if mine || entry.subresource.is_some() {
            continue;
        }
        let fields = fields(entry);
        let Some(spec) = fields.get("f:spec").and_then(Value::as_object) else { continue };
        for (field, below) in spec {
            if field == "f:replicas" || field == "." {
                continue;
            }
            found.push(format!("{manager}: {}", path(field, below)));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The same of an object as it was answered.
pub(super) fn set_by_others(object: &Value) -> Vec<String> {
    let managed = object["metadata"]["managedFields"].clone();
    serde_json::from_value(managed).map_or_else(|_| Vec::new(), |managed: Vec<_>| foreign(&managed))
}

/// The first path below a field of `managedFields`, for people.
fn path(field: &str, below: &Value) -> String {
    let mut text = field.trim_start_matches("f:").to_owned();
    let mut at = below;
    while let Some((name, next)) =
        at.as_object().and_then(|object| object.iter().find(|(name, _)| *name != "."))
    {
        if text.len() > 200 {
            break;
        }
        text.push('.');
        text.push_str(name.trim_start_matches("f:"));
        at = next;
    }
    text
}

/// Puts our specification in the place of all that is there, then applies it once more so that it is ours.
async fn replace(
    client: &Client,
    namespace: &str,
    spec: &Spec,
    live: &Deployment,
    object: &mut Object,
) -> Result<Deployment, Failure> {
    let mut body = object.body.clone().unwrap_or_default();
    body["metadata"]["resourceVersion"] = json!(live.resource_version());
    if body["spec"].get("replicas").is_none() {
        body["spec"]["replicas"] = json!(live.spec.as_ref().and_then(|spec| spec.replicas));
    }
    let path = path_of(namespace, object.api, object.plural, Some(&object.name));
    let uri = format!("{path}?fieldManager={MANAGER}");
    let request = request(Method::PUT, &uri, "application/json", Some(&body))?;
    let there: Deployment = patiently(client.request(request)).await?;
    *object = spec.deployment(
        match object.body.as_ref().and_then(|body| body["spec"]["replicas"].as_i64()) {
            Some(replicas) => Count::Exactly(replicas as i32),
            None => Count::Theirs,
        },
        there.resource_version().as_deref(),
    );
    let value = put(client, namespace, object).await?;
    serde_json::from_value(value.unwrap_or_default())
        .map_err(|error| Failure::Away(error.to_string()))
}

/// Applies what leads to an app, or deletes it. One of the same name that somebody else has made is theirs.
async fn lead(client: &Client, namespace: &str, route: &Object) -> Result<(), Failure> {
    let Some(body) = &route.body else {
        return put(client, namespace, route).await.map(drop);
    };
    let there = get(client, namespace, route).await?;
    if there.is_some_and(|there| there["metadata"]["labels"][MANAGED_BY.0] != MANAGED_BY.1) {
        let message = format!(
            "there is {} `{}` in the namespace that Eve Horizon did not make; it is left alone: delete it, \
             or take the app's hosts away",
            body["kind"].as_str().unwrap_or_default(),
            route.name,
        );
        return Err(Failure::Refused { reason: "taken", message });
    }
    match put(client, namespace, route).await {
        // Nothing is there to be found when something is applied: it is the kind that is not.
        Err(Failure::Gone(message)) => Err(Failure::Refused {
            reason: "invalid",
            message: format!(
                "the cluster has no {}; its operator installs the Gateway API, or names an ingress class \
                 instead: {message}",
                body["kind"].as_str().unwrap_or_default()
            ),
        }),
        other => other.map(drop),
    }
}

/// An object as it is there.
pub(super) async fn get(
    client: &Client,
    namespace: &str,
    object: &Object,
) -> Result<Option<Value>, Failure> {
    let path = path_of(namespace, object.api, object.plural, Some(&object.name));
    match patiently(client.request(request(Method::GET, &path, "", None)?)).await {
        Ok(there) => Ok(Some(there)),
        Err(Failure::Gone(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Applies an object, or deletes it if it shall not be there.
async fn put(client: &Client, namespace: &str, object: &Object) -> Result<Option<Value>, Failure> {
    let Some(body) = &object.body else {
        delete(client, namespace, object.api, object.plural, &object.name).await?;
        return Ok(None);
    };
    let path = path_of(namespace, object.api, object.plural, Some(&object.name));
    let uri = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
    let request = request(Method::PATCH, &uri, "application/apply-patch+yaml", Some(body))?;
    patiently(client.request(request)).await.map(Some)
}

/// Deletes one of ours; somebody else's of the same name stays.
async fn delete(
    client: &Client,
    namespace: &str,
    api: &str,
    plural: &str,
    name: &str,
) -> Result<(), Failure> {
    let path = path_of(namespace, api, plural, Some(name));
    let there: Value = match patiently(client.request(request(Method::GET, &path, "", None)?)).await
    {
        Ok(there) => there,
        Err(Failure::Gone(_)) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    if there["metadata"]["labels"][MANAGED_BY.0] != MANAGED_BY.1
        || there["metadata"]["deletionTimestamp"].is_string()
    {
        return Ok(());
    }
    let options = json!({
        "propagationPolicy": "Background",
        "preconditions": { "uid": there["metadata"]["uid"] },
    });
    let request = request(Method::DELETE, &path, "application/json", Some(&options))?;
    match patiently(client.request::<Value>(request)).await {
        Ok(_) | Err(Failure::Gone(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

async fn named(
    client: &Client,
    namespace: &str,
    api: &str,
    plural: &str,
    app: &str,
) -> Result<Vec<String>, Failure> {
    let items = match list(client, namespace, api, plural, app).await {
        // The cluster does not have the kind.
        Err(Failure::Gone(_)) => return Ok(Vec::new()),
        items => items?,
    };
    let names =
        items.into_iter().filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned()));
    Ok(names.collect())
}

/// What there is of an app, as we label it.
async fn list(
    client: &Client,
    namespace: &str,
    api: &str,
    plural: &str,
    app: &str,
) -> Result<Vec<Value>, Failure> {
    let path = path_of(namespace, api, plural, None);
    let selector: String = url::form_urlencoded::byte_serialize(
        format!("{APP_LABEL}={app},{}={}", MANAGED_BY.0, MANAGED_BY.1).as_bytes(),
    )
    .collect();
    let uri = format!("{path}?labelSelector={selector}&limit=1000");
    let mut list: Value = patiently(client.request(request(Method::GET, &uri, "", None)?)).await?;
    Ok(match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    })
}

/// Names and namespaces are DNS labels: nothing in them has to be escaped.
pub(super) fn path_of(namespace: &str, api: &str, plural: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("/{api}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{api}/namespaces/{namespace}/{plural}"),
    }
}

pub(super) fn request(
    method: Method,
    uri: &str,
    content_type: &str,
    body: Option<&Value>,
) -> Result<Request<Vec<u8>>, Failure> {
    let mut builder = Request::builder().method(method).uri(uri);
    if body.is_some() {
        builder = builder.header(http::header::CONTENT_TYPE, content_type);
    }
    builder
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .map_err(|error| Failure::Away(error.to_string()))
}
