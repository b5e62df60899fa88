//! Putting a deployment into its namespace, and taking it out again, as its deployer.
//!
//! Flow: look at every object of the names that it takes; refuse what is somebody else's, and step back
//! where a later revision is; put them there one by one, what makes pods last.
//!
//! Invariants:
//! - Each object is written over exactly what was looked at. Whoever changes it meanwhile has us look again,
//!   refuse and step back again, [`CONFLICTS`] times at most: so a control plane that was left behind writes
//!   over nothing of the one that leads.
//! - Everything carries the revision that it was put there for.
//! - What others had changed is told, whatever becomes of putting it right.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use kube::Client;
use serde_json::{Value, json};

use super::drift::{self, Fields, Said};
use super::failure::Failure;
use super::objects::{Count, Object, Spec};
use super::raw::Place;
use super::routes::{GATEWAY_API, INGRESS_API};
use super::secrets;
use super::{APP_LABEL, MANAGED_BY, REVISION};

/// How often one object is looked at again because somebody has changed it in between. Controllers write
/// the status of what was just applied a few times, within moments.
const CONFLICTS: u32 = 8;

/// What is made of an app, in the order in which it is taken out: first what leads to it, then what makes
/// pods, and whatever would scale it.
const MADE: [(&str, &str); 8] = [
    ROUTES,
    INGRESSES,
    SCALERS,
    ("apis/apps/v1", "deployments"),
    SERVICES,
    ("apis/policy/v1", "poddisruptionbudgets"),
    // Before the Secrets that are made of them.
    EXTERNALS,
    SECRETS,
];
const ROUTES: (&str, &str) = (GATEWAY_API, "httproutes");
const INGRESSES: (&str, &str) = (INGRESS_API, "ingresses");
const SERVICES: (&str, &str) = ("api/v1", "services");
const EXTERNALS: (&str, &str) = (secrets::API, secrets::PLURAL);
const SCALERS: (&str, &str) = ("apis/autoscaling/v2", "horizontalpodautoscalers");
const SECRETS: (&str, &str) = ("api/v1", "secrets");

/// What came of applying.
#[derive(Debug)]
pub struct Applied {
    /// Who else had changed what is ours, and what. As far as it was applied it is as it was.
    pub drift: Vec<String>,
    /// The generation of the Deployment.
    pub outcome: Result<i64, Failure>,
}

/// Whether the cluster is to have all of it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// This revision was applied before: what is missing was deleted.
    Whole,
    /// It is new there.
    New,
}

/// Whether requests were led as they are to be now. They are led otherwise without another revision: when a
/// canary comes, is ready or goes, and when the cluster's way in is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leading {
    /// As before: what is otherwise in the cluster was changed there.
    AsBefore,
    /// Otherwise: what leads to the app is to change.
    Otherwise,
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

/// Makes the namespace be as the deployment is to be.
pub async fn apply(
    client: &Client,
    namespace: &str,
    spec: &Spec,
    before: Before,
    leading: Leading,
) -> Applied {
    let place = Place::new(client, namespace);
    let mut putting = Putting { place, spec, before, leading, drift: BTreeSet::new() };
    let outcome = putting.all().await;
    if !putting.drift.is_empty() {
        let drift = &putting.drift;
        tracing::warn!(namespace, app = spec.app, ?drift, "others have changed what is ours");
    }
    Applied { drift: putting.drift.into_iter().collect(), outcome }
}

/// Takes a deployment out of its namespace, up to a revision: `true` once nothing of it is left.
pub async fn remove(
    client: &Client,
    namespace: &str,
    app: &str,
    latest: i32,
    external: External,
) -> Result<bool, Failure> {
    let place = Place::new(client, namespace);
    let made = || made(external);
    let lists = try_join_all(made().map(|(api, plural)| place.of_app(api, plural, app))).await?;
    for there in lists.iter().flatten() {
        ahead(there, latest)?;
    }
    let mut left = false;
    for ((api, plural), there) in made().zip(lists) {
        for object in there {
            left = true;
            match place.delete(api, plural, &object).await {
                // It is looked at again soon.
                Ok(()) | Err(Failure::Conflict(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(!left && place.of_app("api/v1", "pods", app).await?.is_empty())
}

/// The kinds of what is made of an app where it is.
fn made(external: External) -> impl Iterator<Item = (&'static str, &'static str)> {
    MADE.into_iter().filter(move |kind| *kind != EXTERNALS || external == External::Secrets)
}

/// Deletes Secrets of variables and of secrets that nothing uses any more, and what they are made of, as far
/// as they are of no later revision.
pub async fn tidy(
    client: &Client,
    namespace: &str,
    app: &str,
    used: &BTreeSet<String>,
    latest: i32,
    external: External,
) -> Result<(), Failure> {
    let place = Place::new(client, namespace);
    let prefixes = [format!("{app}-env-"), secrets::prefix(app)];
    // An ExternalSecret is called as its Secret is.
    for (api, plural) in made(external).filter(|kind| [EXTERNALS, SECRETS].contains(kind)) {
        for secret in place.of_app(api, plural, app).await? {
            let name = secret["metadata"]["name"].as_str().unwrap_or_default();
            let is_of_us = prefixes.iter().any(|prefix| name.starts_with(prefix));
            if used.contains(name) || !is_of_us || ahead(&secret, latest).is_err() {
                continue;
            }
            match place.delete(api, plural, &secret).await {
                // The next that settles deletes it.
                Ok(()) | Err(Failure::Conflict(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(())
}

/// The Secrets that the ReplicaSets of an app refer to: a rollout that fails goes back to one of them.
pub async fn used_secrets(
    client: &Client,
    namespace: &str,
    app: &str,
) -> Result<BTreeSet<String>, Failure> {
    let sets = Place::new(client, namespace).of_app("apis/apps/v1", "replicasets", app).await?;
    let mut used = BTreeSet::new();
    for set in sets {
        // What we go back to is made anew, and needs no old one.
        if set["spec"]["replicas"].as_i64().unwrap_or_default() == 0 {
            continue;
        }
        let pod = &set["spec"]["template"]["spec"];
        for container in pod["containers"].as_array().into_iter().flatten() {
            for source in container["envFrom"].as_array().into_iter().flatten() {
                used.extend(source["secretRef"]["name"].as_str().map(str::to_owned));
            }
            for variable in container["env"].as_array().into_iter().flatten() {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                used.extend(reference["name"].as_str().map(str::to_owned));
            }
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            used.extend(volume["secret"]["secretName"].as_str().map(str::to_owned));
        }
    }
    Ok(used)
}

/// Putting one revision into its namespace.
struct Putting<'a> {
    place: Place<'a>,
    spec: &'a Spec,
    before: Before,
    leading: Leading,
    drift: BTreeSet<String>,
}

impl Putting<'_> {
    async fn all(&mut self) -> Result<i64, Failure> {
        let (place, spec) = (self.place, self.spec);
        let aside: Vec<Object> = spec
            .secret()
            .into_iter()
            .chain(spec.secrets_object())
            .chain([spec.service(), spec.disruption_budget(), spec.autoscaler()])
            .chain([spec.http_route(), spec.ingress()])
            .collect();
        let main = spec.deployment(Count::Theirs);
        let deployment = place.get(main.api, main.plural, &main.name).await?;
        fence(spec, &main, deployment.as_ref())?;
        self.evict_scalers().await?;
        let looks = aside.iter().map(|object| place.get(object.api, object.plural, &object.name));
        let found = try_join_all(looks).await?;
        for (object, live) in aside.iter().zip(&found) {
            fence(spec, object, live.as_ref())?;
        }
        for (object, live) in aside.iter().zip(found) {
            match self.put(object, live).await {
                // There is nothing to be found when something is put there: it is the kind that is not.
                Err(Failure::Gone(message)) => return Err(self.unknown(object, message).await),
                outcome => outcome?,
            }
        }
        // What makes pods comes last: where something else is refused, nothing runs.
        self.put_deployment(deployment).await
    }

    /// What a cluster means that knows nothing of an object.
    async fn unknown(&self, object: &Object, message: String) -> Failure {
        let kind = object.body.as_ref().and_then(|body| body["kind"].as_str()).unwrap_or_default();
        match (object.api, object.plural) {
            EXTERNALS => secrets::unknown(self.place.client(), Failure::Gone(message)).await,
            ROUTES | INGRESSES => Failure::Refused {
                reason: "invalid",
                message: format!(
                    "the cluster has no {kind}; its operator installs the Gateway API, or names an ingress \
                     class instead: {message}"
                ),
            },
            _ => Failure::Gone(message),
        }
    }

    /// Deletes the autoscalers of others that aim at this Deployment: both would say how many replicas there
    /// are, in turn and for ever. No admission policy can look up whose the target of an autoscaler is.
    /// Nothing is deleted but what aims at what is ours, exactly as it was when it did: whoever can have an
    /// autoscaler aim here can delete it as well.
    async fn evict_scalers(&mut self) -> Result<(), Failure> {
        let mut tries = 0;
        'again: loop {
            for scaler in self.place.list(SCALERS.0, SCALERS.1, "").await? {
                let ending = scaler["metadata"]["deletionTimestamp"].is_string();
                if ending || is_ours(&scaler, &self.spec.app) || !aims_at(&scaler, &self.spec.app) {
                    continue;
                }
                match self.place.delete(SCALERS.0, SCALERS.1, &scaler).await {
                    Err(Failure::Conflict(_)) if tries < CONFLICTS => {
                        tries += 1;
                        pause(tries).await;
                        continue 'again;
                    }
                    other => other?,
                }
                let name = scaler["metadata"]["name"].as_str().unwrap_or_default();
                self.drift.insert(format!(
                    "HorizontalPodAutoscaler {name}: it aimed at the Deployment of this app, and was deleted; \
                     an app is scaled with `eve deploy create --autoscale` or `eve deploy scale`"
                ));
            }
            return Ok(());
        }
    }

    /// Puts an object there, or takes it out if it shall not be there.
    async fn put(&mut self, object: &Object, mut live: Option<Value>) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            match self.put_over(object, live.as_ref()).await {
                Err(Failure::Conflict(_)) if tries < CONFLICTS => {
                    tries += 1;
                    pause(tries).await;
                    live = self.place.get(object.api, object.plural, &object.name).await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn put_over(&mut self, object: &Object, live: Option<&Value>) -> Result<(), Failure> {
        fence(self.spec, object, live)?;
        let Some(body) = &object.body else {
            return match live.filter(|live| is_ours(live, &self.spec.app)) {
                Some(live) => self.place.delete(object.api, object.plural, live).await,
                None => Ok(()),
            };
        };
        let there = self.place.apply(object, stamped(body, self.spec), live).await?;
        let kind = body["kind"].as_str().unwrap_or_default();
        let name = &object.name;
        let leads = [ROUTES, INGRESSES, SERVICES].contains(&(object.api, object.plural));
        if leads && self.leading == Leading::Otherwise {
            // It was to change: whether others had a hand in it as well cannot be told.
            return Ok(());
        }
        match live {
            None if self.before == Before::Whole => {
                self.drift.insert(format!("{kind} {name}: it was deleted"));
            }
            // An apply that changes nothing leaves the version as it was.
            Some(live)
                if revision(live) == Some(self.spec.revision)
                    && live["metadata"]["resourceVersion"]
                        != there["metadata"]["resourceVersion"] =>
            {
                self.drift.insert(format!("{kind} {name}: fields of ours were changed"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts the Deployment there: its generation.
    async fn put_deployment(&mut self, mut live: Option<Value>) -> Result<i64, Failure> {
        let mut tries = 0;
        loop {
            match self.put_deployment_over(live.as_ref()).await {
                Ok(there) => {
                    return there["metadata"]["generation"].as_i64().ok_or_else(|| {
                        Failure::Away("the API server did not say what came of it".into())
                    });
                }
                Err(Failure::Conflict(_)) if tries < CONFLICTS => {
                    tries += 1;
                    pause(tries).await;
                    let (api, plural) = ("apis/apps/v1", "deployments");
                    live = self.place.get(api, plural, &self.spec.app).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn put_deployment_over(&mut self, live: Option<&Value>) -> Result<Value, Failure> {
        let (spec, place) = (self.spec, self.place);
        let object = spec.deployment(count(live, spec));
        let body = stamped(object.body.as_ref().unwrap_or(&Value::Null), spec);
        fence(spec, &object, live)?;
        match live {
            // Before anything is put right: whoever is stopped in between finds the rest of it.
            Some(live) => {
                let same = revision(live) == Some(spec.revision);
                let fields = match same && spec.settings.autoscale.is_none() {
                    true => Fields::All,
                    false => Fields::ButReplicas,
                };
                let said = drift::foreign(live, fields);
                self.drift.extend(said.iter().filter_map(Said::in_words));
            }
            None if self.before == Before::Whole => {
                self.drift.insert(format!("Deployment {}: it was deleted", spec.app));
            }
            None => {}
        }
        // What others have put beside our fields survives an apply: it takes a replacement to be rid of it. That
        // comes first, because theirs and ours can be wrong together, and each step stays done if somebody
        // writes before the next.
        let Some(live) = live.filter(|live| drift::is_beside(live)) else {
            let there = place.apply(&object, body.clone(), live).await?;
            return match drift::is_beside(&there) {
                // What we once put in the place of theirs, and do not say any more.
                true => place.replace(&object, whole(&body, &there), &there).await,
                false => Ok(there),
            };
        };
        let there = place.replace(&object, whole(&body, live), live).await?;
        place.apply(&object, body, Some(&there)).await
    }
}

/// Whether an object may be written over.
pub(super) fn fence(spec: &Spec, object: &Object, live: Option<&Value>) -> Result<(), Failure> {
    let Some(live) = live else { return Ok(()) };
    if !is_ours(live, &spec.app) {
        // Where we want nothing, whatever is there is none of our business.
        let Some(body) = &object.body else { return Ok(()) };
        let kind = body["kind"].as_str().unwrap_or("thing");
        let (article, instead) = match (object.api, object.plural) {
            ROUTES | INGRESSES => ("an", "take the app's hosts away"),
            EXTERNALS => ("an", "give the app another name"),
            _ => ("a", "give the app another name"),
        };
        return Err(Failure::Refused {
            reason: "taken",
            message: format!(
                "there is {article} {kind} `{}` in the namespace that Eve Horizon did not make; it is left \
                 alone: delete it, or {instead}",
                object.name
            ),
        });
    }
    ahead(live, spec.revision)
}

/// With the revision that it is put there for.
pub(super) fn stamped(body: &Value, spec: &Spec) -> Value {
    let mut body = body.clone();
    body["metadata"]["annotations"][REVISION] = json!(spec.revision.to_string());
    body
}

/// What is put in the place of all that is there: ours, with what its controllers have noted on it, and as
/// many replicas as there are where somebody else says so.
pub(super) fn whole(body: &Value, there: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in there["metadata"]["annotations"].as_object().into_iter().flatten() {
        if name.starts_with("deployment.kubernetes.io/") {
            body["metadata"]["annotations"][name] = value.clone();
        }
    }
    if body["spec"].get("replicas").is_none() {
        body["spec"]["replicas"] = there["spec"]["replicas"].clone();
    }
    body
}

/// Somebody else's object of the same name carries no label of ours: policies keep tenants from it.
pub(super) fn is_ours(live: &Value, app: &str) -> bool {
    let labels = &live["metadata"]["labels"];
    labels[MANAGED_BY.0] == MANAGED_BY.1 && labels[APP_LABEL] == app
}

/// The revision that an object was put there for.
fn revision(live: &Value) -> Option<i32> {
    live["metadata"]["annotations"][REVISION].as_str()?.parse().ok()
}

/// A control plane that was left behind changes nothing.
fn ahead(live: &Value, revision: i32) -> Result<(), Failure> {
    match self::revision(live) {
        Some(there) if there > revision => Err(Failure::Behind(format!(
            "revision {there} is there already, and this is {revision}"
        ))),
        _ => Ok(()),
    }
}

/// Whether an autoscaler scales the Deployment of an app.
fn aims_at(scaler: &Value, app: &str) -> bool {
    let target = &scaler["spec"]["scaleTargetRef"];
    let group = target["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    target["kind"] == "Deployment"
        && target["name"] == app
        && group.is_some_and(|(group, _)| group == "apps")
}

/// How the number of replicas is said. Where something scales it, we go on saying what it says until it has
/// said so itself: a field that nobody says falls back to 1 at once.
pub(super) fn count(live: Option<&Value>, spec: &Spec) -> Count {
    if spec.settings.autoscale.is_none() {
        return Count::Exactly(spec.replicas);
    }
    let Some(live) = live else { return Count::Exactly(spec.replicas.max(1)) };
    if drift::is_scaled(live) {
        return Count::Theirs;
    }
    let there = live["spec"]["replicas"].as_i64().and_then(|there| i32::try_from(there).ok());
    Count::Exactly(there.unwrap_or(1).max(1))
}

/// Between two tries: long enough for a controller to have finished, and not all at the same moment.
async fn pause(tries: u32) {
    let most = 20_u64 << tries.min(4);
    tokio::time::sleep(Duration::from_millis(rand::random_range(most / 4..most))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(api: &str, kind: &str, name: &str) -> Value {
        json!({ "spec": { "scaleTargetRef": { "apiVersion": api, "kind": kind, "name": name } } })
    }

    #[test]
    fn only_what_aims_at_the_deployment_aims_at_it() {
        assert!(aims_at(&scaler("apps/v1", "Deployment", "api"), "api"));
        assert!(aims_at(&scaler("apps/v1beta1", "Deployment", "api"), "api"));
        for (api, kind, name) in [
            ("apps/v1", "Deployment", "api2"),
            ("apps/v1", "StatefulSet", "api"),
            ("example.com/v1", "Deployment", "api"),
            ("v1", "Deployment", "api"),
        ] {
            assert!(!aims_at(&scaler(api, kind, name), "api"), "{api} {kind} {name}");
        }
        assert!(!aims_at(&json!({}), "api"));
    }

    #[test]
    fn a_later_revision_is_never_written_over() {
        let at = |revision: &str| json!({ "metadata": { "annotations": { REVISION: revision } } });
        assert!(matches!(ahead(&at("5"), 4), Err(Failure::Behind(_))));
        for there in ["4", "3", "x", ""] {
            assert_eq!(ahead(&at(there), 4), Ok(()), "{there}");
        }
        assert_eq!(ahead(&json!({}), 4), Ok(()));
    }

    #[test]
    fn what_replaces_keeps_what_controllers_have_noted() {
        let body = json!({ "metadata": { "annotations": { REVISION: "4" } }, "spec": {} });
        let there = json!({
            "metadata": { "annotations": {
                "deployment.kubernetes.io/revision": "7", "kubectl.kubernetes.io/restartedAt": "now",
            } },
            "spec": { "replicas": 5 },
        });
        assert_eq!(
            whole(&body, &there),
            json!({
                "metadata": { "annotations": {
                    REVISION: "4", "deployment.kubernetes.io/revision": "7",
                } },
                "spec": { "replicas": 5 },
            })
        );
    }
}
