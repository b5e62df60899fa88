//! What a deployment is in a cluster: pure functions from what is asked for to objects.

use serde_json::{Value, json};
use uuid::Uuid;

use super::secrets::Secrets;
use super::{APP_LABEL, MANAGED_BY, REVISION, SERVES, TEMPLATE};
use crate::deployments::traffic::Traffic;
use crate::deployments::{Image, Settings, Variables};

/// How long a container without a probe has to run before it is taken for ready.
const STEADY_SECONDS: i32 = 3;

/// A deployment, with everything that it takes to make it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The deployment.
    pub id: Uuid,
    /// The app.
    pub app: String,
    /// The environment's name, which the app is told.
    pub env: String,
    /// The revision.
    pub revision: i32,
    /// The revision that its pods are of.
    pub template: i32,
    /// The image.
    pub image: Image,
    /// What its name meant when it ran; it is pinned to that.
    pub digest: Option<String>,
    /// How many replicas.
    pub replicas: i32,
    /// How it is to run.
    pub settings: Settings,
    /// Its environment variables.
    pub variables: Variables,
    /// A name for these variables that tells nobody what they are.
    pub fingerprint: Option<String>,
    /// The secrets that it refers to.
    pub secrets: Option<Secrets>,
    /// What leads to it, and who shares its requests.
    pub traffic: Traffic,
}

/// How the number of replicas is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(i32),
    /// Somebody else says so.
    Theirs,
}

/// One object, with what is needed to address it.
#[derive(Clone)]
pub struct Object {
    /// Its path below the namespace: `api/v1`, `apis/apps/v1`.
    pub api: &'static str,
    /// `services`.
    pub plural: &'static str,
    /// Its name.
    pub name: String,
    /// All of it; none if it shall not be there.
    pub body: Option<Value>,
}

/// What is in it may be secret.
impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.api, self.plural, self.name)
    }
}

impl Spec {
    /// The name of the Secret that the variables are in; none without variables. It is never changed:
    /// other variables have another name.
    pub fn secret_name(&self) -> Option<String> {
        self.fingerprint.as_ref().map(|fingerprint| format!("{}-env-{fingerprint}", self.app))
    }

    pub(super) fn labels(&self) -> Value {
        json!({
            "app": self.app,
            "app.kubernetes.io/name": self.app,
            MANAGED_BY.0: MANAGED_BY.1,
            APP_LABEL: self.app,
            "eve-horizon.dev/deployment": self.id,
        })
    }

    fn selector(&self) -> Value {
        // The second is the platform's to give: no pod that a tenant makes is taken for one of these.
        json!({ "app.kubernetes.io/name": self.app, APP_LABEL: self.app })
    }

    /// The labels of its pods.
    fn pod_labels(&self) -> Value {
        let mut labels = self.labels();
        let canary = self.settings.canary.as_ref();
        labels[SERVES] = json!(canary.map_or(&self.app, |canary| &canary.of));
        labels
    }

    pub(super) fn metadata(&self, name: &str) -> Value {
        json!({ "name": name, "labels": self.labels() })
    }

    /// The Secret of the variables.
    pub fn secret(&self) -> Option<Object> {
        let name = self.secret_name()?;
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": self.metadata(&name),
            "stringData": self.variables,
        });
        Some(Object { api: "api/v1", plural: "secrets", name, body: Some(body) })
    }

    /// The Service: the app's name, on port 80. It leads to the app's pods, and where requests are split
    /// among replicas to those of its canaries as well.
    pub fn service(&self) -> Object {
        let shared = !self.traffic.canaries.is_empty() && !self.traffic.is_weighed();
        let selector = match shared {
            true => json!({ SERVES: self.app }),
            false => self.selector(),
        };
        let body = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": self.metadata(&self.app),
            "spec": {
                "type": "ClusterIP",
                "selector": selector,
                // By name: a canary may listen elsewhere.
                "ports": [{
                    "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http",
                }],
            },
        });
        Object { api: "api/v1", plural: "services", name: self.app.clone(), body: Some(body) }
    }

    /// The Deployment.
    pub fn deployment(&self, count: Count) -> Object {
        let settings = &self.settings;
        let image = match &self.digest {
            Some(digest) if !self.image.is_pinned() => self.image.pinned(digest),
            _ => self.image.clone(),
        };
        let mut metadata = self.metadata(&self.app);
        metadata["annotations"] = json!({ REVISION: self.revision.to_string() });
        let mut container = json!({
            "name": "app",
            "image": image.to_string(),
            // What a node has kept may be another tenant's, or an older image of the same name.
            "imagePullPolicy": "Always",
            "ports": [{ "name": "http", "containerPort": settings.port(), "protocol": "TCP" }],
            "env": [
                { "name": "PORT", "value": settings.port().to_string() },
                { "name": "EVE_APP", "value": self.app },
                { "name": "EVE_ENV", "value": self.env },
            ],
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
            },
        });
        if let Some(name) = self.secret_name() {
            container["envFrom"] = json!([{ "secretRef": { "name": name } }]);
        }
        if !settings.command.is_empty() {
            container["command"] = json!(settings.command);
        }
        let mut resources = json!({});
        if let Some(cpu) = &settings.cpu {
            resources["requests"]["cpu"] = json!(cpu);
        }
        if let Some(memory) = &settings.memory {
            resources["requests"]["memory"] = json!(memory);
            resources["limits"]["memory"] = json!(memory);
        }
        container["resources"] = resources;
        if let Some(path) = &settings.health_path {
            container["readinessProbe"] = json!({
                "httpGet": { "path": path, "port": settings.port() },
                "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3,
            });
        }
        let mut security = json!({
            "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" },
        });
        if let Some(user) = settings.run_as_user {
            security["runAsUser"] = json!(user);
        }
        let mut pod = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": security,
            "terminationGracePeriodSeconds": 30,
        });
        if let (Some(secrets), Some(name)) = (&self.secrets, self.secrets_name()) {
            secrets.mount(&name, &mut container, &mut pod);
        }
        pod["containers"] = json!([container]);
        let mut spec = json!({
            "selector": { "matchLabels": self.selector() },
            // Without a probe a container that runs counts as ready: one that ends at once must not.
            "minReadySeconds": if settings.health_path.is_some() { 0 } else { STEADY_SECONDS },
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": settings.deadline_s(),
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": 0 },
            },
            "template": {
                "metadata": {
                    "labels": self.pod_labels(),
                    "annotations": { TEMPLATE: self.template.to_string() },
                },
                "spec": pod,
            },
        });
        if let Count::Exactly(replicas) = count {
            spec["replicas"] = json!(replicas);
        }
        let body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec,
        });
        Object {
            api: "apis/apps/v1",
            plural: "deployments",
            name: self.app.clone(),
            body: Some(body),
        }
    }

    /// What says how many replicas there shall be, as the load wants.
    pub fn autoscaler(&self) -> Object {
        let body = self.settings.autoscale.map(|scale| {
            json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "metadata": self.metadata(&self.app),
                "spec": {
                    "scaleTargetRef": {
                        "apiVersion": "apps/v1", "kind": "Deployment", "name": self.app,
                    },
                    "minReplicas": scale.min, "maxReplicas": scale.max,
                    "metrics": [{
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {
                                "type": "Utilization", "averageUtilization": scale.cpu_percent,
                            },
                        },
                    }],
                },
            })
        });
        Object {
            api: "apis/autoscaling/v2",
            plural: "horizontalpodautoscalers",
            name: self.app.clone(),
            body,
        }
    }

    /// What keeps a drained node from taking more than one replica at a time.
    pub fn disruption_budget(&self) -> Object {
        let several = match self.settings.autoscale {
            Some(scale) => scale.min > 1,
            None => self.replicas > 1,
        };
        let body = several.then(|| {
            json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                "metadata": self.metadata(&self.app),
                "spec": {
                    "maxUnavailable": 1,
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                    "selector": { "matchLabels": self.selector() },
                },
            })
        });
        Object {
            api: "apis/policy/v1",
            plural: "poddisruptionbudgets",
            name: self.app.clone(),
            body,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::deployments::kubernetes::secrets::Source;
    use crate::deployments::secrets::{Held, SecretReference, SecretStore};

    pub(in crate::deployments::kubernetes) fn spec() -> Spec {
        Spec {
            id: Uuid::nil(),
            app: "api-service".into(),
            env: "prod".into(),
            revision: 4,
            template: 3,
            image: "acme/api:v1.2.3".parse().expect("an image"),
            digest: None,
            replicas: 3,
            settings: Settings::default(),
            variables: Variables::new(),
            fingerprint: None,
            secrets: None,
            traffic: Traffic::default(),
        }
    }

    fn references() -> Vec<SecretReference> {
        serde_json::from_value(json!([
            {"name": "DATABASE_URL"},
            {"name": "TOKEN", "variable": "API_TOKEN"},
            {"name": "TLS_KEY", "file": "/etc/tls/key.pem"},
            {"name": "TOKEN", "file": "/run/secrets/token"},
        ]))
        .expect("references")
    }

    #[test]
    fn what_is_asked_for_least() {
        let spec = spec();
        assert!(spec.secret().is_none());
        assert!(spec.autoscaler().body.is_none());
        insta::assert_json_snapshot!([
            spec.service().body,
            spec.deployment(Count::Exactly(3)).body,
            spec.disruption_budget().body,
        ]);
    }

    #[test]
    fn everything_that_can_be_asked_for() {
        let spec = Spec {
            digest: Some(format!("sha256:{}", "0a".repeat(32))),
            variables: Variables::from([("API_KEY".into(), "hush".into())]),
            fingerprint: Some("0123456789abcdef".into()),
            settings: serde_json::from_value(json!({
                "port": 9000, "health_path": "/healthz", "cpu": "250m", "memory": "256Mi",
                "command": ["/app", "--serve"], "run_as_user": 1000, "deadline_s": 60,
                "autoscale": {"min": 2, "max": 10},
            }))
            .expect("settings"),
            ..spec()
        };
        insta::assert_json_snapshot!([
            spec.secret().and_then(|secret| secret.body),
            spec.service().body,
            spec.deployment(Count::Theirs).body,
            spec.autoscaler().body,
            spec.disruption_budget().body,
        ]);
        // A secret's content is in the Secret and nowhere else.
        for object in [spec.deployment(Count::Theirs), spec.service(), spec.autoscaler()] {
            assert!(!format!("{:?}", object.body).contains("hush"));
        }
    }

    #[test]
    fn secrets_are_referred_to_wherever_they_come_from() {
        let values = ["DATABASE_URL", "TOKEN", "TLS_KEY"].map(|name| (name.into(), "hush".into()));
        let held =
            Source::Held { held: Held(values.into()), fingerprint: "0123456789abcdef".into() };
        let store = Source::Store(SecretStore {
            name: "eve-tenants".into(),
            prefix: "eve-horizon/acme/prod/".into(),
        });
        let with =
            |source| Spec { secrets: Some(Secrets { references: references(), source }), ..spec() };
        let (held, store) = (with(held), with(store));
        let pods = |spec: &Spec| {
            let body = spec.deployment(Count::Exactly(3)).body.unwrap_or_default();
            body["spec"]["template"]["spec"].clone()
        };
        insta::assert_json_snapshot!([
            held.secrets_object().and_then(|secret| secret.body),
            store.secrets_object().and_then(|secret| secret.body),
            Some(pods(&held)),
        ]);
        // The pods are the same but for the Secret's name.
        let renamed = pods(&held).to_string().replace("-secrets-0123456789abcdef", "-secrets-r3");
        assert_eq!(renamed, pods(&store).to_string());
        // A value is in the Secret and nowhere else, and printed nowhere.
        assert!(!pods(&held).to_string().contains("hush"));
        assert!(!format!("{held:?} {:?}", held.secrets_object()).contains("hush"));
    }
}
