//! What a cluster needs before environments can be made in it, and what every environment gets. The files
//! are in `manifests/`; its README says which is for what.

use std::sync::LazyLock;

use serde_json::Value;

/// What is applied to a cluster, in order.
const CLUSTER: [&str; 15] = [
    include_str!("manifests/namespaces.yaml"),
    include_str!("manifests/params.yaml"),
    include_str!("manifests/app-roles.yaml"),
    include_str!("manifests/control-plane-policy.yaml"),
    include_str!("manifests/control-plane.yaml"),
    include_str!("manifests/deployers-policy.yaml"),
    include_str!("manifests/pods-policy.yaml"),
    include_str!("manifests/services-policy.yaml"),
    include_str!("manifests/secrets-policy.yaml"),
    include_str!("manifests/routes-policy.yaml"),
    include_str!("manifests/storage-policy.yaml"),
    include_str!("manifests/autoscaling-policy.yaml"),
    include_str!("manifests/external-secrets-policy.yaml"),
    include_str!("manifests/objects-policy.yaml"),
    include_str!("manifests/managed-policy.yaml"),
];

/// The token of the control plane's account, for a control plane that is elsewhere. Kubernetes fills it in.
const TOKEN: &str = "\
# How the control plane enters the cluster from elsewhere. It holds until this Secret is deleted.
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: eve-control-plane-token
  namespace: eve-horizon
  annotations:
    kubernetes.io/service-account.name: eve-control-plane
";

static QUOTA: LazyLock<Value> =
    LazyLock::new(|| parsed(include_str!("manifests/environment/quota.yaml")).remove(0));
static LIMITS: LazyLock<Value> =
    LazyLock::new(|| parsed(include_str!("manifests/environment/limit-range.yaml")).remove(0));
static NETWORK: LazyLock<Vec<Value>> =
    LazyLock::new(|| parsed(include_str!("manifests/environment/network-policy.yaml")));

/// All of it, as documents of YAML; with a token of the account, if the control plane is elsewhere.
pub fn all(token: bool) -> String {
    let documents = CLUSTER.into_iter().chain(token.then_some(TOKEN));
    documents.map(str::trim_end).collect::<Vec<_>>().join("\n---\n") + "\n"
}

/// The names of the admission policies among it.
pub fn policies() -> Vec<String> {
    let objects = CLUSTER.into_iter().flat_map(parsed);
    let policies = objects.filter(|object| object["kind"] == "ValidatingAdmissionPolicy");
    policies.filter_map(|policy| Some(policy["metadata"]["name"].as_str()?.to_owned())).collect()
}

/// The quota that an environment gets.
pub fn quota() -> &'static Value {
    &QUOTA
}

/// What containers get that ask for nothing.
pub fn limits() -> &'static Value {
    &LIMITS
}

/// Who may talk to whom.
pub fn network() -> &'static [Value] {
    &NETWORK
}

fn parsed(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("our own manifests are YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_applied() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/deployments/kubernetes/manifests");
        let files = std::fs::read_dir(folder).expect("the folder");
        let count = files
            .filter(|file| {
                let file = file.as_ref().expect("a file").path();
                file.extension().is_some_and(|extension| extension == "yaml")
            })
            .count();
        assert_eq!(count, CLUSTER.len());
        assert!(policies().contains(&"eve-control-plane".to_owned()));
        assert!(all(true).contains("service-account-token") && !all(false).contains("-token\n"));
        assert_eq!(network().len(), 2);
        assert_eq!(
            (quota()["kind"].as_str(), limits()["kind"].as_str()),
            (Some("ResourceQuota"), Some("LimitRange"))
        );
    }
}
