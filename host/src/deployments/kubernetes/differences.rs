//! What applying a deployment would change in its namespace, by a dry run of it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::try_join_all;
use kube::Client;
use serde_json::{Value, json};

use super::apply::{count, fence, is_ours, stamped, whole};
use super::drift;
use super::failure::Failure;
use super::objects::{Count, Object, Spec};
use super::raw::Place;
use super::{REVISION, TEMPLATE};
use crate::deployments::diff::ObjectDiff;

/// What stands for the value of a variable.
const HIDDEN: &str = "(hidden)";
/// What stands for one that is another.
const CHANGED: &str = "(hidden, another)";
/// What we say of the environment ourselves: no variables of anybody.
const OURS: [&str; 3] = ["PORT", "EVE_APP", "EVE_ENV"];

/// What becomes of the marks that every revision has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Compared: the objects are of one revision.
    Compared,
    /// Left out: there is another revision, and they say nothing else.
    Left,
}

/// The objects that differ.
pub async fn differences(
    client: &Client,
    namespace: &str,
    spec: &Spec,
    marks: Marks,
) -> Result<Vec<ObjectDiff>, Failure> {
    let place = Place::new(client, namespace);
    let plain = [
        ("Service", spec.service()),
        ("PodDisruptionBudget", spec.disruption_budget()),
        ("HorizontalPodAutoscaler", spec.autoscaler()),
        ("HTTPRoute", spec.http_route()),
        ("Ingress", spec.ingress()),
    ];
    let plain = try_join_all(
        plain
            .into_iter()
            .map(async |(kind, object)| simple(place, spec, kind, &object, marks).await),
    );
    let (deployment, secret, plain) =
        tokio::try_join!(deployment(place, spec, marks), secret(place, spec, marks), plain)?;
    Ok([deployment, secret].into_iter().chain(plain).flatten().collect())
}

/// An object of which nothing is to be hidden.
async fn simple(
    place: Place<'_>,
    spec: &Spec,
    kind: &str,
    object: &Object,
    marks: Marks,
) -> Result<Option<ObjectDiff>, Failure> {
    let live = place.get(object.api, object.plural, &object.name).await?;
    let Some(body) = &object.body else {
        // What is somebody else's stays.
        return Ok(live.filter(|live| is_ours(live, &spec.app)).map(|live| ObjectDiff {
            kind: kind.to_owned(),
            name: object.name.clone(),
            before: Some(cleaned(live, marks)),
            after: None,
            others: Vec::new(),
            refused: None,
        }));
    };
    if let Err(Failure::Refused { message, .. }) = fence(spec, object, live.as_ref()) {
        return Ok(compared(kind, object, live, Err(message), false, marks));
    }
    let outcome = told(place.would_apply(object, &stamped(body, spec)).await)?;
    let stays = outcome.as_ref().map(drift::told).unwrap_or_default();
    Ok(compared(kind, object, live, outcome, !stays.is_empty(), marks))
}

/// The Deployment, without what others have added to it.
async fn deployment(
    place: Place<'_>,
    spec: &Spec,
    marks: Marks,
) -> Result<Option<ObjectDiff>, Failure> {
    let named = spec.deployment(Count::Theirs);
    let live = place.get(named.api, named.plural, &named.name).await?;
    if let Err(Failure::Refused { message, .. }) = fence(spec, &named, live.as_ref()) {
        return Ok(compared("Deployment", &named, live, Err(message), false, marks));
    }
    let object = spec.deployment(count(live.as_ref(), spec));
    let body = stamped(object.body.as_ref().unwrap_or(&Value::Null), spec);
    let beside = live.as_ref().filter(|live| drift::is_beside(live));
    let outcome = match beside {
        // As it is put right: ours in the place of all that is there.
        Some(live) => told(place.would_replace(&object, &whole(&body, live)).await)?,
        None => told(place.would_apply(&object, &body).await)?,
    };
    let meddled = live.as_ref().is_some_and(|live| !drift::told(live).is_empty());
    Ok(compared("Deployment", &object, live, outcome, meddled, marks))
}

/// The Secret of the variables, by the names in it.
async fn secret(
    place: Place<'_>,
    spec: &Spec,
    marks: Marks,
) -> Result<Option<ObjectDiff>, Failure> {
    let Some(object) = spec.secret() else { return Ok(None) };
    let mut live = place.get(object.api, object.plural, &object.name).await?;
    let there = live.as_ref().map(|live| live["data"].clone()).unwrap_or_default();
    if let Some(live) = &mut live {
        let names = there.as_object().into_iter().flatten();
        live["data"] = names.map(|(name, _)| (name.clone(), json!(HIDDEN))).collect();
    }
    let mut body = stamped(object.body.as_ref().unwrap_or(&Value::Null), spec);
    // A cluster has it as bytes.
    body["data"] = spec
        .variables
        .iter()
        .map(|(name, text)| {
            let same = there.get(name).is_none_or(|there| *there == BASE64.encode(text));
            (name.clone(), json!(if same { HIDDEN } else { CHANGED }))
        })
        .collect();
    if let Some(body) = body.as_object_mut() {
        body.remove("stringData");
    }
    Ok(compared("Secret", &object, live, Ok(body), false, marks))
}

/// An object as it would be; or why the cluster would not have it.
fn told(outcome: Result<Value, Failure>) -> Result<Result<Value, String>, Failure> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Refused { message, .. }) => Ok(Err(message)),
        Err(Failure::Gone(message)) => Ok(Err(format!("the cluster has no such kind: {message}"))),
        Err(failure) => Err(failure),
    }
}

/// The difference, if there is one. `meddled` says that others have set fields which applying leaves.
fn compared(
    kind: &str,
    object: &Object,
    live: Option<Value>,
    outcome: Result<Value, String>,
    meddled: bool,
    marks: Marks,
) -> Option<ObjectDiff> {
    let (after, refused) = match outcome {
        Ok(after) => (Some(after), None),
        Err(refused) => (None, Some(refused)),
    };
    let others = live.as_ref().map(drift::told).unwrap_or_default();
    let mut before = live.map(|live| cleaned(live, marks));
    let mut after = after.map(|after| cleaned(after, marks));
    if before == after && !meddled && refused.is_none() {
        return None;
    }
    hide(before.as_mut(), after.as_mut());
    Some(ObjectDiff {
        kind: kind.to_owned(),
        name: object.name.clone(),
        before,
        after,
        others,
        refused,
    })
}

/// Without what a cluster writes into every object, and what others write down of it.
fn cleaned(mut object: Value, marks: Marks) -> Value {
    let Some(whole) = object.as_object_mut() else { return object };
    whole.remove("status");
    for place in ["/metadata", "/spec/template/metadata"] {
        let Some(metadata) = object.pointer_mut(place).and_then(Value::as_object_mut) else {
            continue;
        };
        for field in [
            "managedFields",
            "resourceVersion",
            "uid",
            "generation",
            "creationTimestamp",
            "namespace",
        ] {
            metadata.remove(field);
        }
        // The first has whole objects in it, with their values.
        let noise = [
            "kubectl.kubernetes.io/last-applied-configuration",
            "deployment.kubernetes.io/revision",
        ];
        without(metadata, "annotations", &noise);
        if marks == Marks::Left {
            without(metadata, "annotations", &[REVISION, TEMPLATE]);
            // One that is not there yet has no id.
            without(metadata, "labels", &["eve-horizon.dev/deployment"]);
        }
    }
    // Addresses, which a dry run makes up.
    if object["kind"] == "Service"
        && let Some(spec) = object["spec"].as_object_mut()
    {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    object
}

/// Takes keys out of labels or annotations, and these away if nothing is left.
fn without(metadata: &mut serde_json::Map<String, Value>, field: &str, keys: &[&str]) {
    let Some(texts) = metadata.get_mut(field).and_then(Value::as_object_mut) else { return };
    for key in keys {
        texts.remove(*key);
    }
    if texts.is_empty() {
        metadata.remove(field);
    }
}

/// Puts words in the place of values of variables, wherever pods get some.
fn hide(before: Option<&mut Value>, after: Option<&mut Value>) {
    let was = before.as_deref().map(values).unwrap_or_default();
    if let Some(after) = after {
        put_words(after, |key, value| was.get(key).is_none_or(|was| was == value));
    }
    if let Some(before) = before {
        put_words(before, |_, _| true);
    }
}

/// Where containers are that variables are given to.
const CONTAINERS: [&str; 2] =
    ["/spec/template/spec/containers", "/spec/template/spec/initContainers"];

/// A variable's place: container and name.
type Key = (String, String);

/// The values in an object.
fn values(object: &Value) -> BTreeMap<Key, Value> {
    let containers = CONTAINERS.iter().filter_map(|place| object.pointer(place)?.as_array());
    let mut values = BTreeMap::new();
    for container in containers.flatten() {
        for variable in container["env"].as_array().into_iter().flatten() {
            values.insert(key(&container["name"], variable), variable["value"].clone());
        }
    }
    values
}

/// Puts a word in the place of each value, by whether it is the same as on the other side.
fn put_words(object: &mut Value, same: impl Fn(&Key, &Value) -> bool) {
    for place in CONTAINERS {
        let containers = object.pointer_mut(place).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let owner = container["name"].clone();
            let env = container.get_mut("env").and_then(Value::as_array_mut);
            for variable in env.into_iter().flatten() {
                let name = variable["name"].as_str().unwrap_or_default();
                if OURS.contains(&name) || !variable["value"].is_string() {
                    continue;
                }
                let same = same(&key(&owner, variable), &variable["value"]);
                variable["value"] = json!(if same { HIDDEN } else { CHANGED });
            }
        }
    }
}

fn key(container: &Value, variable: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(container), text(&variable["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(env: Value) -> Value {
        json!({
            "kind": "Deployment",
            "metadata": {
                "name": "api", "uid": "x", "managedFields": [],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"value\": \"hush\"}",
                    "eve-horizon.dev/revision": "3",
                },
            },
            "spec": { "template": {
                "metadata": { "annotations": { "eve-horizon.dev/template": "3" } },
                "spec": { "containers": [{ "name": "app", "env": env }] },
            } },
            "status": { "replicas": 1 },
        })
    }

    fn object() -> Object {
        Object { api: "apis/apps/v1", plural: "deployments", name: "api".into(), body: None }
    }

    #[test]
    fn values_are_hidden_and_that_they_differ_is_not() {
        let ours = json!({ "name": "PORT", "value": "8080" });
        let value = |text: &str| json!({ "name": "KEY", "value": text });
        let before = deployment(json!([ours, value("hush")]));
        let after =
            deployment(json!([ours, value("hush-hush"), { "name": "NEW", "value": "hush" }]));
        let same = before.clone();
        assert_eq!(
            compared("Deployment", &object(), Some(before.clone()), Ok(same), false, Marks::Left),
            None
        );
        let diff =
            compared("Deployment", &object(), Some(before), Ok(after), false, Marks::Compared)
                .expect("a difference");
        let text = serde_json::to_string(&diff).expect("JSON");
        assert!(!text.contains("hush"), "{text}");
        let env = |object: &Option<Value>| {
            object.as_ref().expect("an object")["spec"]["template"]["spec"]["containers"][0]["env"]
                .clone()
        };
        assert_eq!(env(&diff.before)[1]["value"], HIDDEN);
        assert_eq!(env(&diff.after)[1]["value"], CHANGED);
        assert_eq!(env(&diff.after)[2]["value"], HIDDEN);
        assert_eq!(env(&diff.after)[0]["value"], "8080");
    }

    #[test]
    fn marks_of_a_revision_are_no_difference_between_two() {
        let now = deployment(json!([]));
        let mut next = now.clone();
        next["metadata"]["annotations"]["eve-horizon.dev/revision"] = json!("4");
        next["spec"]["template"]["metadata"]["annotations"]["eve-horizon.dev/template"] =
            json!("4");
        let between = |marks| {
            compared("Deployment", &object(), Some(now.clone()), Ok(next.clone()), false, marks)
        };
        assert_eq!(between(Marks::Left), None);
        assert!(between(Marks::Compared).is_some());
        let refused = compared("Deployment", &object(), None, Err("no".into()), false, Marks::Left);
        assert!(
            refused.is_some_and(|it| it.refused.as_deref() == Some("no") && it.after.is_none())
        );
    }
}
