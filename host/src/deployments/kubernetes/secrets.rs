//! Secrets that an app refers to, in its namespace: a Secret of ours that never changes, or one that External
//! Secrets (https://external-secrets.io/latest/api/externalsecret/) fills from the environment's store. The
//! app's containers refer to either in the same way, by the names of secrets.

use std::collections::BTreeSet;

use kube::Client;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::failure::{Failure, shown};
use super::objects::{Object, Spec};
use super::raw::{self, Place as Namespace};
use crate::deployments::secrets::{Held, Place, SecretReference, SecretStore};

/// The group and version of External Secrets.
pub const GROUP: &str = "external-secrets.io";
/// Where its objects are.
pub const API: &str = "apis/external-secrets.io/v1";
/// What they are called there.
pub const PLURAL: &str = "externalsecrets";
/// How often the store is read again: what is put there reaches pods that start later than that.
const REFRESH: &str = "1h0m0s";
/// The volume of the files.
const VOLUME: &str = "secrets";
/// Everybody in the container may read them, whoever the app runs as; nobody may write.
const MODE: u32 = 0o444;

/// Secrets that an app refers to.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Which, and where it finds them.
    pub references: Vec<SecretReference>,
    /// Where their values come from.
    pub source: Source,
}

/// Where values of secrets come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// From us.
    Held {
        /// The values.
        held: Held,
        /// A name for them that tells nobody what they are.
        fingerprint: String,
    },
    /// From the environment's store.
    Store(SecretStore),
}

impl Secrets {
    /// The name of the Secret. It is never another's: other values, or pods that are made anew of a store,
    /// have another one, and so what is going on running keeps its own.
    pub(super) fn name(&self, app: &str, template: i32) -> String {
        match &self.source {
            Source::Held { fingerprint, .. } => format!("{}{fingerprint}", prefix(app)),
            Source::Store(_) => format!("{}r{template}", prefix(app)),
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.references.iter().map(|reference| &*reference.name).collect()
    }

    /// What has to be there before the pods.
    fn object(&self, name: String, metadata: Value) -> Object {
        match &self.source {
            Source::Held { held, .. } => {
                let mut data = json!({});
                for (name, value) in &held.0 {
                    data[name] = json!(value.expose_secret());
                }
                let body = json!({
                    "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
                    "metadata": metadata, "stringData": data,
                });
                Object { api: "api/v1", plural: "secrets", name, body: Some(body) }
            }
            Source::Store(store) => {
                let data: Vec<Value> = self
                    .names()
                    .into_iter()
                    .map(|name| {
                        json!({ "secretKey": name, "remoteRef": { "key": store.key(name) } })
                    })
                    .collect();
                let body = json!({
                    "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
                    "metadata": metadata,
                    "spec": {
                        "refreshInterval": REFRESH,
                        "secretStoreRef": { "kind": "ClusterSecretStore", "name": store.name },
                        // Deleted with this object, and kept when the store has lost it.
                        "target": {
                            "name": name, "creationPolicy": "Owner", "deletionPolicy": "Retain",
                        },
                        "data": data,
                    },
                });
                Object { api: API, plural: PLURAL, name, body: Some(body) }
            }
        }
    }

    /// Gives them to a container and its pod.
    pub(super) fn mount(&self, secret: &str, container: &mut Value, pod: &mut Value) {
        let mut files = BTreeSet::new();
        let mut mounts = Vec::new();
        for reference in &self.references {
            match reference.place() {
                Place::Variable(variable) => {
                    let key = json!({ "name": secret, "key": reference.name });
                    let entry = json!({ "name": variable, "valueFrom": { "secretKeyRef": key } });
                    if let Some(env) = container["env"].as_array_mut() {
                        env.push(entry);
                    }
                }
                Place::File(path) => {
                    files.insert(&*reference.name);
                    mounts.push(json!({
                        "name": VOLUME, "mountPath": path, "subPath": reference.name, "readOnly": true,
                    }));
                }
            }
        }
        if mounts.is_empty() {
            return;
        }
        let items: Vec<Value> =
            files.into_iter().map(|name| json!({ "key": name, "path": name })).collect();
        container["volumeMounts"] = json!(mounts);
        pod["volumes"] = json!([{
            "name": VOLUME,
            "secret": { "secretName": secret, "defaultMode": MODE, "items": items },
        }]);
    }
}

impl Spec {
    /// The name of the Secret with the secrets that it refers to; none if it refers to none.
    pub fn secrets_name(&self) -> Option<String> {
        self.secrets.as_ref().map(|secrets| secrets.name(&self.app, self.template))
    }

    /// What has to be there for it before the pods.
    pub fn secrets_object(&self) -> Option<Object> {
        let secrets = self.secrets.as_ref()?;
        let name = self.secrets_name()?;
        let metadata = self.metadata(&name);
        Some(secrets.object(name, metadata))
    }

    /// The ExternalSecret that its secrets come from; none if they come from us.
    pub fn external(&self) -> Option<(String, &SecretStore)> {
        match &self.secrets.as_ref()?.source {
            Source::Store(store) => Some((self.secrets_name()?, store)),
            Source::Held { .. } => None,
        }
    }
}

/// What the names of an app's Secrets of secrets begin with.
pub(super) fn prefix(app: &str) -> String {
    format!("{app}-secrets-")
}

/// What an API server means that knows nothing of an ExternalSecret: the namespace is gone, or External
/// Secrets was never installed.
pub(super) async fn unknown(client: &Client, failure: Failure) -> Failure {
    match is_installed(client).await {
        Ok(false) => Failure::Refused {
            reason: "external_secrets",
            message: format!(
                "the environment keeps its secrets in a store, and External Secrets ({GROUP}/v1), which reads \
                 it, is not installed in the cluster: that is for its operator"
            ),
        },
        Ok(true) => failure,
        Err(failure) => failure,
    }
}

/// Whether External Secrets is installed, in the version that we speak.
pub(super) async fn is_installed(client: &Client) -> Result<bool, Failure> {
    let path = format!("/{API}");
    match raw::look(client, &path).await {
        Ok(resources) => Ok(resources["resources"]
            .as_array()
            .is_some_and(|all| all.iter().any(|resource| resource["name"] == PLURAL))),
        Err(Failure::Gone(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// How far an ExternalSecret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It is not there.
    Gone,
    /// Its Secret is there.
    Done,
    /// It is not, and why.
    Waiting(String),
}

/// Asks how far an ExternalSecret is.
pub async fn sync(
    client: &Client,
    namespace: &str,
    name: &str,
    store: &SecretStore,
) -> Result<Sync, Failure> {
    Ok(match Namespace::new(client, namespace).get(API, PLURAL, name).await? {
        Some(object) => of_status(&object, store),
        None => Sync::Gone,
    })
}

fn of_status(object: &Value, store: &SecretStore) -> Sync {
    let conditions = object["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    let Some(ready) = ready else {
        return Sync::Waiting(
            "External Secrets has not looked at its secrets yet; if it does not soon, it does not run in the \
             cluster"
                .into(),
        );
    };
    if ready["status"] == "True" {
        return Sync::Done;
    }
    let keys: Vec<&str> = object["spec"]["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["remoteRef"]["key"].as_str())
        .collect();
    let said = ready["message"].as_str().unwrap_or("no reason given");
    Sync::Waiting(format!(
        "External Secrets cannot read {} in the store `{}`: {}",
        shown(&keys.join(", "), 500),
        store.name,
        shown(said, 300),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> SecretStore {
        SecretStore { name: "eve-tenants".into(), prefix: "eve-horizon/acme/prod/".into() }
    }

    #[test]
    fn what_external_secrets_says_is_told() {
        let with = |conditions: Value| {
            json!({
                "spec": { "data": [{ "remoteRef": { "key": "eve-horizon/acme/prod/A" } }] },
                "status": { "conditions": conditions },
            })
        };
        assert!(
            matches!(of_status(&json!({}), &store()), Sync::Waiting(why) if why.contains("not looked"))
        );
        let done = with(json!([{ "type": "Ready", "status": "True", "reason": "SecretSynced" }]));
        assert_eq!(of_status(&done, &store()), Sync::Done);
        let failed = with(json!([
            { "type": "Deleted", "status": "False" },
            { "type": "Ready", "status": "False", "reason": "SecretSyncedError", "message": "no such key" },
        ]));
        let Sync::Waiting(why) = of_status(&failed, &store()) else { panic!("it is not there") };
        for word in ["eve-horizon/acme/prod/A", "eve-tenants", "no such key"] {
            assert!(why.contains(word), "{why}");
        }
    }
}
