//! Environments, made by the control plane's own account the way the platform makes them.

use eve_tests::wait_for;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Caller, Cluster, path};
use crate::wall;

/// An identity of an environment: its name is the namespace's, and this.
pub const SUFFIXES: [&str; 3] = ["", "-edit", "-view"];

/// Its bindings: name, role, suffix of the identity.
const BINDINGS: [(&str, &str, &str); 4] = [
    ("eve-deployer-binding", "eve-app-deployer", ""),
    ("eve-editor-binding", "eve-app-editor", "-edit"),
    ("eve-viewer-binding", "eve-app-viewer", "-view"),
    ("eve-exec-binding", "eve-app-exec", "-edit"),
];

/// The account of the control plane, with a token as its pods have one.
pub async fn control_plane(cluster: &Cluster) -> anyhow::Result<Caller> {
    let place = "api/v1/namespaces/eve-horizon/serviceaccounts/eve-control-plane/token";
    let answer = cluster.admin()?.create(place, &token_request(3600)).await?.json()?;
    cluster.bearer(answer["status"]["token"].as_str().unwrap_or_default())
}

/// Makes an environment whose hosts end with `.<namespace>.apps.example.com` and whose keys of secrets
/// begin with `eve-horizon/<namespace>/`: the namespace first, what gives rights last.
pub async fn provision(control_plane: &Caller, namespace: &str) -> anyhow::Result<()> {
    let apply = async |object: &Value, within: &str| {
        let answer = control_plane.apply(&path(object, within, true), object).await?;
        anyhow::ensure!(answer.is_success(), "{answer}");
        Ok(())
    };
    let object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace,
            "labels": {
                "eve-horizon.dev/environment": Uuid::now_v7().to_string(),
                "pod-security.kubernetes.io/enforce": "restricted",
            },
            "annotations": {
                "eve-horizon.dev/host-suffix": format!(".{namespace}.apps.example.com"),
                "eve-horizon.dev/secret-prefix": format!("eve-horizon/{namespace}/"),
            },
        },
    });
    apply(&object, "").await?;
    apply(&account("default"), namespace).await?;
    for object in wall::documents(&wall::manifests().join("environment"))? {
        apply(&object, namespace).await?;
    }
    for suffix in SUFFIXES {
        apply(&account(&format!("{namespace}{suffix}")), "eve-deployers").await?;
    }
    for (name, role, suffix) in BINDINGS {
        let object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{
                "kind": "ServiceAccount",
                "name": format!("{namespace}{suffix}"),
                "namespace": "eve-deployers",
            }],
        });
        apply(&object, namespace).await?;
    }
    Ok(())
}

/// Takes an environment away again, with the same account.
pub async fn remove(control_plane: &Caller, namespace: &str) -> anyhow::Result<()> {
    let mut places: Vec<String> = Vec::new();
    for (name, _, _) in BINDINGS {
        let bindings = "apis/rbac.authorization.k8s.io/v1/namespaces";
        places.push(format!("{bindings}/{namespace}/rolebindings/{name}"));
    }
    for suffix in SUFFIXES {
        let accounts = "api/v1/namespaces/eve-deployers/serviceaccounts";
        places.push(format!("{accounts}/{namespace}{suffix}"));
    }
    places.push(format!("api/v1/namespaces/{namespace}"));
    for place in places {
        let answer = control_plane.delete(&place).await?;
        anyhow::ensure!(answer.is_success() || answer.status == 404, "{answer}");
    }
    Ok(())
}

/// Somebody with the token of an identity, as the broker hands it out; waits until the identity may
/// list pods, since bindings take a moment.
pub async fn identity(
    cluster: &Cluster,
    control_plane: &Caller,
    namespace: &str,
    suffix: &str,
) -> anyhow::Result<Caller> {
    let accounts = "api/v1/namespaces/eve-deployers/serviceaccounts";
    let place = format!("{accounts}/{namespace}{suffix}/token");
    let answer = control_plane.create(&place, &token_request(600)).await?.json()?;
    let caller = cluster.bearer(answer["status"]["token"].as_str().unwrap_or_default())?;
    let pods = format!("api/v1/namespaces/{namespace}/pods");
    wait_for(&format!("{namespace}{suffix} to list pods"), async || {
        caller.get(&pods).await.ok().filter(|answer| answer.is_success()).map(drop)
    })
    .await;
    Ok(caller)
}

fn account(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": name },
        "automountServiceAccountToken": false,
    })
}

fn token_request(seconds: u32) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "expirationSeconds": seconds },
    })
}
