//! Making a namespace, and what confines it; and unmaking it.
//!
//! In this order: the namespace, with its labels from birth; its `default` account, without a token;
//! quotas and limits; who may talk to whom; the identities; last what the identities may do. Nobody has
//! any rights in a namespace that is not walled in. Every step may be done again.

use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::{Connection, Identity, patiently};
use super::failure::Failure;
use super::{DEPLOYERS, ENVIRONMENT_LABEL, MANAGED_BY, MANAGER, manifests};
use crate::deployments::clusters::Gateway;
use crate::deployments::environments::Quota;

/// What a namespace is made for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The environment's id.
    pub environment: Uuid,
    /// The namespace's name.
    pub namespace: String,
    /// What host names end with, with a dot first; none if nothing is reached from outside.
    pub host_suffix: Option<String>,
    /// What the keys of its secrets in the platform's stores begin with; none if they are not kept there.
    pub secret_prefix: Option<String>,
    /// The Gateway that leads to its apps.
    pub gateway: Option<Gateway>,
    /// What all of it may have together.
    pub quota: Quota,
}

/// What names of annotations begin with that nobody else gives.
const OURS: &str = "eve-horizon.dev/";

/// Roles, and who has them in a namespace.
const BINDINGS: [(&str, &str, Identity); 4] = [
    ("eve-deployer-binding", "eve-app-deployer", Identity::Deployer),
    ("eve-editor-binding", "eve-app-editor", Identity::Editor),
    ("eve-exec-binding", "eve-app-exec", Identity::Editor),
    ("eve-viewer-binding", "eve-app-viewer", Identity::Viewer),
];

/// Makes it, or repairs what is no longer as it was made.
pub async fn provision(connection: &Connection, wanted: &Wanted) -> Result<(), Failure> {
    let client = connection.account();
    let name = &wanted.namespace;
    namespace(client, wanted).await?;
    apply::<ServiceAccount>(client, name, default_account()).await?;
    apply::<ResourceQuota>(client, name, quota(connection, &wanted.quota).await?).await?;
    apply::<LimitRange>(client, name, managed(manifests::limits())).await?;
    for policy in network(wanted.gateway.as_ref()) {
        apply::<NetworkPolicy>(client, name, managed(&policy)).await?;
    }
    let known = identities(client, wanted).await?;
    for identity in Identity::ALL {
        if !known.iter().any(|account| account.name_any() == identity.account(name)) {
            self::identity(client, wanted, identity).await?;
        }
    }
    for (binding, role, identity) in BINDINGS {
        apply::<RoleBinding>(client, name, role_binding(binding, role, identity, name)).await?;
    }
    Ok(())
}

/// Unmakes it: `true` once nothing of it is left. What carries another environment's id stays.
pub async fn deprovision(connection: &Connection, wanted: &Wanted) -> Result<bool, Failure> {
    let client = connection.account();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ours = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(ENVIRONMENT_LABEL) == Some(&wanted.environment.to_string())
    };
    if let Some(found) = patiently(namespaces.get_opt(&wanted.namespace)).await?
        && ours(found.labels())
    {
        if found.metadata.deletion_timestamp.is_none() {
            let exactly = DeleteParams::default()
                .preconditions(Preconditions { uid: found.uid(), resource_version: None });
            gone(patiently(namespaces.delete(&wanted.namespace, &exactly)).await)?;
        }
        return Ok(false);
    }
    // Identities last: whoever is stopped in between finds them by the environment's id.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), DEPLOYERS);
    for account in identities(client, wanted).await? {
        let exactly = DeleteParams::default()
            .preconditions(Preconditions { uid: account.uid(), resource_version: None });
        gone(patiently(accounts.delete(&account.name_any(), &exactly)).await)?;
    }
    connection.forget(&wanted.namespace);
    Ok(true)
}

/// The accounts that carry the environment's id.
async fn identities(client: &Client, wanted: &Wanted) -> Result<Vec<ServiceAccount>, Failure> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), DEPLOYERS);
    let of_it =
        ListParams::default().labels(&format!("{ENVIRONMENT_LABEL}={}", wanted.environment));
    Ok(patiently(accounts.list(&of_it)).await?.items)
}

/// What is gone already need not be deleted.
fn gone<T>(outcome: Result<T, Failure>) -> Result<(), Failure> {
    match outcome {
        Ok(_) | Err(Failure::Gone(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// The namespace, ours from birth.
async fn namespace(client: &Client, wanted: &Wanted) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (name, id) = (&wanted.namespace, wanted.environment.to_string());
    let mut annotations = json!({});
    if let Some(suffix) = &wanted.host_suffix {
        annotations["eve-horizon.dev/host-suffix"] = json!(suffix);
    }
    if let Some(prefix) = &wanted.secret_prefix {
        annotations["eve-horizon.dev/secret-prefix"] = json!(prefix);
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                ENVIRONMENT_LABEL: id,
                MANAGED_BY.0: MANAGED_BY.1,
                "pod-security.kubernetes.io/enforce": "restricted",
            },
            "annotations": annotations,
        },
    });
    let found = match patiently(namespaces.get_opt(name)).await? {
        Some(found) => found,
        None => {
            // Made, not applied: a namespace that somebody makes at this moment is not taken over.
            let new: Namespace = parsed(object.clone());
            let made = patiently(namespaces.create(
                &PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() },
                &new,
            ))
            .await;
            match made {
                Ok(made) => made,
                Err(Failure::Conflict(_)) => patiently(namespaces.get(name)).await?,
                Err(failure) => return Err(failure),
            }
        }
    };
    match found.labels().get(ENVIRONMENT_LABEL) {
        Some(label) if *label == id => {}
        _ => {
            return Err(Failure::Refused {
                reason: "taken",
                message: format!(
                    "there is a namespace `{name}` in the cluster that Eve Horizon did not make for this \
                     environment; it is left alone: delete the environment and choose another --namespace"
                ),
            });
        }
    }
    if found.metadata.deletion_timestamp.is_some() {
        return Err(Failure::Away(format!("the namespace `{name}` is still being deleted")));
    }
    if is_as(&found, &object) {
        return Ok(());
    }
    let params = PatchParams::apply(MANAGER).force();
    patiently(namespaces.patch(name, &params, &Patch::Apply(&object))).await?;
    Ok(())
}

/// Whether a namespace carries our labels, and of our annotations exactly those.
fn is_as(found: &Namespace, object: &Value) -> bool {
    let said = |key: &str| object["metadata"][key].as_object().cloned().unwrap_or_default();
    let labels = said("labels").iter().all(|(name, value)| {
        found.labels().get(name).is_some_and(|there| value.as_str() == Some(there))
    });
    let wanted = said("annotations");
    let mut ours = found.annotations().iter().filter(|(name, _)| name.starts_with(OURS));
    let annotations = ours.clone().count() == wanted.len()
        && ours.all(|(name, there)| wanted.get(name).and_then(Value::as_str) == Some(there));
    labels && annotations
}

async fn identity(client: &Client, wanted: &Wanted, identity: Identity) -> Result<(), Failure> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), DEPLOYERS);
    let name = identity.account(&wanted.namespace);
    let id = wanted.environment.to_string();
    // One that was left by an environment that had this namespace before is not given to another.
    if let Some(found) = patiently(accounts.get_opt(&name)).await? {
        if found.labels().get(ENVIRONMENT_LABEL) == Some(&id) {
            return Ok(());
        }
        let exactly = DeleteParams::default()
            .preconditions(Preconditions { uid: found.uid(), resource_version: None });
        gone(patiently(accounts.delete(&name, &exactly)).await)?;
        tracing::info!(account = name, "replacing an identity of an environment that is no more");
    }
    let account: ServiceAccount = parsed(json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {
            "name": name,
            "labels": { ENVIRONMENT_LABEL: id, MANAGED_BY.0: MANAGED_BY.1 },
        },
        "automountServiceAccountToken": false,
    }));
    match patiently(accounts.create(&PostParams::default(), &account)).await {
        Ok(_) | Err(Failure::Conflict(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Server-side apply of one of our objects, by the name that is in it.
async fn apply<K>(client: &Client, namespace: &str, object: Value) -> Result<(), Failure>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let params = PatchParams::apply(MANAGER).force();
    match patiently(api.patch(&name, &params, &Patch::Apply(&object))).await {
        // What a binding refers to cannot be changed: it is made anew.
        Err(Failure::Refused { reason: "invalid", message })
            if K::kind(&()) == "RoleBinding" && message.contains("roleRef") =>
        {
            gone(patiently(api.delete(&name, &DeleteParams::default())).await)?;
            patiently(api.patch(&name, &params, &Patch::Apply(&object))).await?;
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

fn parsed<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("our own objects are of their kinds")
}

fn default_account() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "default" },
        "automountServiceAccountToken": false,
    })
}

/// The quota, with what this environment may have. Kinds that the cluster does not have are left out: a quota
/// that knows a kind before its controller does refuses every object of it for minutes.
async fn quota(connection: &Connection, quota: &Quota) -> Result<Value, Failure> {
    let groups = connection.groups().await?;
    let mut object = managed(manifests::quota());
    let hard = &mut object["spec"]["hard"];
    if let Some(hard) = hard.as_object_mut() {
        hard.retain(|resource, _| match resource.strip_prefix("count/") {
            Some(kind) => {
                let group = kind.split_once('.').map_or("", |(_, group)| group);
                group.is_empty() || groups.contains(group)
            }
            None => true,
        });
    }
    hard["pods"] = json!(quota.pods.to_string());
    hard["requests.cpu"] = json!(quota.cpu.to_string());
    hard["limits.cpu"] = json!((2 * quota.cpu).to_string());
    hard["requests.memory"] = json!(format!("{}Gi", quota.memory_gib));
    hard["limits.memory"] = json!(format!("{}Gi", 2 * quota.memory_gib));
    Ok(object)
}

/// Who may talk to whom: the pods of the cluster's Gateway too, which carry its name in its namespace
/// (GEP-1762).
fn network(gateway: Option<&Gateway>) -> Vec<Value> {
    let mut policies = manifests::network().to_vec();
    let Some(gateway) = gateway else { return policies };
    let peer = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": gateway.namespace } },
        "podSelector": { "matchLabels": { "gateway.networking.k8s.io/gateway-name": gateway.name } },
    });
    for policy in &mut policies {
        let rules = policy.pointer_mut("/spec/ingress").and_then(Value::as_array_mut);
        if let Some(rules) = rules.filter(|rules| !rules.is_empty()) {
            rules.push(json!({ "from": [peer] }));
        }
    }
    policies
}

/// With the label of what is ours.
fn managed(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["labels"] = json!({ MANAGED_BY.0: MANAGED_BY.1 });
    object
}

fn role_binding(name: &str, role: &str, identity: Identity, namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": name, "labels": { MANAGED_BY.0: MANAGED_BY.1 } },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{
            "kind": "ServiceAccount", "namespace": DEPLOYERS, "name": identity.account(namespace),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_written_only_if_it_is_not_as_it_should_be() {
        let object = json!({ "metadata": {
            "labels": { "a": "b" }, "annotations": { "eve-horizon.dev/host-suffix": ".x" },
        } });
        let found = |labels: Value, annotations: Value| -> Namespace {
            parsed(json!({ "metadata": { "labels": labels, "annotations": annotations } }))
        };
        let suffix = json!({ "eve-horizon.dev/host-suffix": ".x", "others": "y" });
        assert!(is_as(&found(json!({ "a": "b", "c": "d" }), suffix.clone()), &object));
        assert!(!is_as(&found(json!({ "a": "x" }), suffix.clone()), &object));
        assert!(!is_as(&found(json!({}), suffix.clone()), &object));
        assert!(!is_as(&found(json!({ "a": "b" }), json!({})), &object));
        // What is no longer to be said is taken out.
        let none = json!({ "metadata": { "labels": { "a": "b" }, "annotations": {} } });
        assert!(!is_as(&found(json!({ "a": "b" }), suffix), &none));
        assert!(is_as(&found(json!({ "a": "b" }), json!({ "others": "y" })), &none));
    }
}
