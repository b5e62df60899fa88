//! Whether environments can be made in a cluster: that it answers, that we are let in, that everything is
//! there that `eve cluster manifest` prints, and that our own account is confined.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::connection::{Connection, patiently};
use super::failure::Failure;
use super::{DEPLOYERS, PLATFORM, secrets};
use crate::deployments::clusters::{ClusterCheck, ClusterStatus};

/// The oldest Kubernetes: ValidatingAdmissionPolicy is stable since then.
const OLDEST: (u32, u32) = (1, 30);
/// How long the whole of it may take.
const LIMIT: Duration = Duration::from_secs(25);
/// Questions at one time.
const AT_ONCE: usize = 8;

/// Verb, group, resource, namespace, name.
type Question = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// What the account has to be allowed.
const NEEDED: [Question; 22] = [
    ("create", "", "namespaces", "", ""),
    ("get", "", "namespaces", "", ""),
    ("patch", "", "namespaces", "", ""),
    ("delete", "", "namespaces", "", ""),
    ("patch", "", "serviceaccounts", "", "default"),
    ("patch", "", "resourcequotas", "", ""),
    ("create", "", "resourcequotas", "", ""),
    ("patch", "", "limitranges", "", ""),
    ("create", "", "limitranges", "", ""),
    ("patch", "networking.k8s.io", "networkpolicies", "", ""),
    ("create", "networking.k8s.io", "networkpolicies", "", ""),
    ("patch", "rbac.authorization.k8s.io", "rolebindings", "", ""),
    ("create", "rbac.authorization.k8s.io", "rolebindings", "", ""),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "", "eve-app-deployer"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "", "eve-app-editor"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "", "eve-app-viewer"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "", "eve-app-exec"),
    ("create", "", "serviceaccounts", DEPLOYERS, ""),
    ("get", "", "serviceaccounts", DEPLOYERS, ""),
    ("list", "", "serviceaccounts", DEPLOYERS, ""),
    ("delete", "", "serviceaccounts", DEPLOYERS, ""),
    ("create", "", "serviceaccounts/token", DEPLOYERS, ""),
];

/// What the account should better not be allowed.
const TOO_MUCH: [Question; 3] = [
    ("get", "", "secrets", "kube-system", ""),
    ("create", "", "pods", "kube-system", ""),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", "", ""),
];

impl Connection {
    /// Looks at the cluster, in which environments keep their secrets in these stores.
    pub(in crate::deployments) async fn check(&self, stores: &[String]) -> ClusterCheck {
        match tokio::time::timeout(LIMIT, self.look(stores)).await {
            Ok(Ok(check)) => check,
            Ok(Err(failure)) => ClusterCheck::unreachable(failure.to_string()),
            Err(_) => ClusterCheck::unreachable(format!("no answer within {} s", LIMIT.as_secs())),
        }
    }

    async fn look(&self, stores: &[String]) -> Result<ClusterCheck, Failure> {
        let client = self.account();
        let version = patiently(client.apiserver_version()).await?;
        let mut missing = Vec::new();
        let mut warnings = Vec::new();
        let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
        if (number(&version.major), number(&version.minor)) < OLDEST {
            missing.push(format!(
                "Kubernetes {}.{} or later: it is {}",
                OLDEST.0, OLDEST.1, version.git_version
            ));
        }
        for (what, denied) in self.answers(&NEEDED).await? {
            if denied {
                missing.push(format!("the permission to {what}"));
            }
        }
        for (what, denied) in self.answers(&TOO_MUCH).await? {
            if !denied {
                warnings.push(format!(
                    "the credential may {what}, which Eve Horizon never does: register the cluster with the \
                     token of {PLATFORM}/eve-control-plane instead"
                ));
            }
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for namespace in [PLATFORM, DEPLOYERS] {
            match patiently(namespaces.get_opt(namespace)).await {
                Ok(Some(_)) => {}
                Ok(None) => missing.push(format!("the namespace {namespace}")),
                Err(Failure::Denied(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        if missing.is_empty() && warnings.is_empty() && !self.is_confined().await? {
            missing.push(
                "the admission policy eve-control-plane: a namespace could be made that is not confined"
                    .into(),
            );
        }
        if !missing.is_empty() {
            warnings.push(
                "`eve cluster manifest | kubectl apply --server-side -f -` makes what is missing"
                    .into(),
            );
        }
        if !stores.is_empty() {
            missing.extend(self.lacks_for_stores(stores).await?);
        }
        let status = match missing.is_empty() {
            true => ClusterStatus::Ready,
            false => ClusterStatus::Unready,
        };
        Ok(ClusterCheck {
            status,
            version: Some(version.git_version),
            error: None,
            missing,
            warnings,
        })
    }

    /// What has to be there where environments keep their secrets in stores, and is not. Whether the stores
    /// themselves are there we may not see.
    async fn lacks_for_stores(&self, stores: &[String]) -> Result<Vec<String>, Failure> {
        let client = self.account();
        let mut missing = Vec::new();
        if !secrets::is_installed(client).await? {
            missing.push(format!(
                "External Secrets ({}/v1), from whose stores environments take their secrets",
                secrets::GROUP
            ));
        }
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), PLATFORM);
        match patiently(maps.get_opt("eve-platform")).await {
            Ok(map) => {
                let data = map.and_then(|map| map.data).unwrap_or_default();
                let allowed = data.get("secret-stores").cloned().unwrap_or_default();
                for store in stores {
                    if !allowed.split(',').any(|allowed| allowed.trim() == store) {
                        missing.push(format!(
                            "`{store}` among the secret-stores of the ConfigMap {PLATFORM}/eve-platform"
                        ));
                    }
                }
            }
            // That is said among the permissions.
            Err(Failure::Denied(_)) => {}
            Err(failure) => return Err(failure),
        }
        let roles: Api<ClusterRole> = Api::all(client.clone());
        match patiently(roles.get_opt("eve-app-deployer")).await {
            Ok(role) => {
                let rules = role.and_then(|role| role.rules).unwrap_or_default();
                let knows = |groups: &Option<Vec<String>>| {
                    groups.iter().flatten().any(|group| group == secrets::GROUP)
                };
                if !rules.iter().any(|rule| knows(&rule.api_groups)) {
                    missing.push(
                        "externalsecrets in the ClusterRole eve-app-deployer: apply `eve cluster manifest` \
                         again"
                            .into(),
                    );
                }
            }
            Err(Failure::Denied(_)) => {}
            Err(failure) => return Err(failure),
        }
        Ok(missing)
    }

    /// Each as a sentence, and whether it is denied.
    async fn answers(
        &self,
        questions: &'static [Question],
    ) -> Result<Vec<(String, bool)>, Failure> {
        let asked: Vec<_> = questions.iter().map(|question| self.ask(*question)).collect();
        let answers: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
        answers.into_iter().collect()
    }

    async fn ask(
        &self,
        (verb, group, resource, namespace, name): Question,
    ) -> Result<(String, bool), Failure> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.account().clone());
        let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: given(verb),
                    group: given(group),
                    resource: given(kind),
                    subresource: given(subresource),
                    namespace: given(namespace),
                    name: given(name),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = patiently(reviews.create(&PostParams::default(), &review)).await?;
        let mut what = format!("{verb} {resource}");
        if !name.is_empty() {
            what = format!("{what}/{name}");
        }
        if !namespace.is_empty() {
            what = format!("{what} in {namespace}");
        }
        Ok((what, !answer.status.is_some_and(|status| status.allowed)))
    }

    /// Whether a namespace that is not an environment's is refused. Nothing is made: it is a dry run.
    async fn is_confined(&self) -> Result<bool, Failure> {
        let namespaces: Api<Namespace> = Api::all(self.account().clone());
        let free: Namespace = serde_json::from_value(json!({
            "metadata": { "name": format!("kube-eve-check-{}", uuid::Uuid::now_v7().simple()) },
        }))
        .map_err(|error| Failure::Away(error.to_string()))?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match patiently(namespaces.create(&dry, &free)).await {
            Ok(_) => Ok(false),
            Err(Failure::Refused { reason: "admission", .. }) => Ok(true),
            Err(failure) => Err(failure),
        }
    }
}
