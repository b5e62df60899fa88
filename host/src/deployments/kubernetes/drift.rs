//! Who beside us says what of a Deployment, out of its `managedFields`.
//!
//! What somebody else says and we say as well is no drift; what only they say is: a field that we had said
//! and they have changed, which is theirs from then on, or one that they have put beside ours.
//! See [field management](https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::MANAGER;

/// Longest path that is told.
const MOST_CHARS: usize = 200;

/// Which fields count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// All of the specification.
    All,
    /// The number of replicas is anybody's.
    ButReplicas,
}

/// What somebody says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said {
    /// Who, as they call themselves.
    pub manager: String,
    /// Of which field, the first of several.
    pub field: String,
}

impl Said {
    /// For people; none if it is a remainder of our own.
    pub fn in_words(&self) -> Option<String> {
        (self.manager != MANAGER).then(|| format!("{}: {}", self.manager, self.field))
    }
}

/// What others say of the specification that we do not.
pub(super) fn foreign(live: &Value, which: Fields) -> BTreeSet<Said> {
    let mine = entries(live)
        .find(|entry| is_ours(entry))
        .and_then(|entry| entry.pointer("/fieldsV1/f:spec")?.as_object())
        .cloned()
        .unwrap_or_default();
    let mut found = BTreeSet::new();
    for entry in entries(live).filter(|entry| !is_ours(entry)) {
        let manager = entry["manager"].as_str().unwrap_or("somebody");
        let Some(theirs) = entry.pointer("/fieldsV1/f:spec").and_then(Value::as_object) else {
            continue;
        };
        for (field, below) in theirs {
            if field == "." || (field == "f:replicas" && which == Fields::ButReplicas) {
                continue;
            }
            let mut path = field.trim_start_matches("f:").to_owned();
            if beyond(below, mine.get(field), &mut path) {
                path = path.chars().take(MOST_CHARS).collect();
                found.insert(Said { manager: manager.to_owned(), field: path });
            }
        }
    }
    found
}

/// Whether others say anything beside what we do, of more than the number of replicas.
pub(super) fn is_beside(live: &Value) -> bool {
    !foreign(live, Fields::ButReplicas).is_empty()
}

/// What others say beside what we do, of more than the number of replicas, for people.
pub(super) fn told(live: &Value) -> Vec<String> {
    foreign(live, Fields::ButReplicas).iter().filter_map(Said::in_words).collect()
}

/// Whether something scales it: what says how many replicas there are is not what applies the rest.
pub(super) fn is_scaled(live: &Value) -> bool {
    entries(live).any(|entry| {
        entry["subresource"] == "scale"
            || (entry["manager"] != MANAGER
                && entry.pointer("/fieldsV1/f:spec/f:replicas").is_some())
    })
}

fn entries(live: &Value) -> impl Iterator<Item = &Value> {
    live["metadata"]["managedFields"].as_array().into_iter().flatten()
}

/// What we apply. What we once wrote otherwise, in replacing something, is not said any more.
fn is_ours(entry: &Value) -> bool {
    entry["manager"] == MANAGER
        && entry["operation"] == "Apply"
        && entry["subresource"].as_str().unwrap_or_default().is_empty()
}

/// Whether there is anything in `theirs` that is not in `mine`; `path` then leads to the first.
fn beyond(theirs: &Value, mine: Option<&Value>, path: &mut String) -> bool {
    let empty = Map::new();
    let theirs = theirs.as_object().unwrap_or(&empty);
    let mut below = theirs.iter().filter(|(name, _)| *name != ".");
    let Some(mine) = mine else {
        // All of it: as far as it is one way.
        if let Some((name, next)) = below.next() {
            push(path, name);
            beyond(next, None, path);
        }
        return true;
    };
    for (name, next) in below {
        let length = path.len();
        push(path, name);
        if beyond(next, mine.get(name), path) {
            return true;
        }
        path.truncate(length);
    }
    false
}

fn push(path: &mut String, name: &str) {
    path.push('.');
    path.push_str(name.trim_start_matches("f:"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(entries: Value) -> Value {
        json!({ "metadata": { "managedFields": entries } })
    }

    fn entry(manager: &str, operation: &str, subresource: &str, spec: Value) -> Value {
        json!({
            "manager": manager, "operation": operation, "subresource": subresource,
            "fieldsV1": { "f:spec": spec },
        })
    }

    fn container(fields: Value) -> Value {
        json!({ "f:template": { "f:spec": { "f:containers": { "k:{\"name\":\"app\"}": fields } } } })
    }

    fn ours() -> Value {
        let mut spec = container(json!({ ".": {}, "f:name": {}, "f:env": {
            "k:{\"name\":\"PORT\"}": { ".": {}, "f:name": {}, "f:value": {} },
        } }));
        spec["f:replicas"] = json!({});
        entry(MANAGER, "Apply", "", spec)
    }

    fn said(entries: Value) -> Vec<String> {
        let found = foreign(&live(entries), Fields::All);
        found.iter().filter_map(Said::in_words).collect()
    }

    #[test]
    fn what_only_others_say_is_drift() {
        assert_eq!(said(json!([ours()])), [""; 0]);
        let image = entry("kubectl", "Update", "", container(json!({ "f:image": {} })));
        assert_eq!(
            said(json!([ours(), image])),
            [r#"kubectl: template.spec.containers.k:{"name":"app"}.image"#]
        );
        let variable = container(json!({ "f:env": {
            "k:{\"name\":\"PORT\"}": { "f:value": {} },
            "k:{\"name\":\"SNEAKED\"}": { ".": {}, "f:name": {}, "f:value": {} },
        } }));
        assert_eq!(
            said(json!([ours(), entry("x", "Update", "", variable)])),
            [r#"x: template.spec.containers.k:{"name":"app"}.env.k:{"name":"SNEAKED"}.name"#]
        );
    }

    #[test]
    fn who_says_what_we_say_changes_nothing() {
        let same = container(json!({ ".": {}, "f:name": {} }));
        assert_eq!(said(json!([ours(), entry("argo", "Apply", "", same)])), [""; 0]);
    }

    #[test]
    fn replicas_may_be_anybodys() {
        let scaled = entry("hpa", "Update", "scale", json!({ "f:replicas": {} }));
        let others = live(json!([entry(MANAGER, "Apply", "", json!({})), scaled]));
        assert!(foreign(&others, Fields::ButReplicas).is_empty());
        assert_eq!(foreign(&others, Fields::All).len(), 1);
        assert!(is_scaled(&others) && !is_scaled(&live(json!([ours()]))));
    }

    #[test]
    fn what_is_left_of_our_own_is_taken_out_and_not_told() {
        let left = entry(MANAGER, "Update", "", container(json!({ "f:command": {} })));
        let live = live(json!([ours(), left]));
        assert_eq!(foreign(&live, Fields::ButReplicas).len(), 1);
        assert_eq!(foreign(&live, Fields::ButReplicas).iter().find_map(Said::in_words), None);
    }

    #[test]
    fn hostile_depths_are_cut() {
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({ "f:aaaaaaaaaa": deep });
        }
        let told = said(json!([entry("x", "Update", "", json!({ "f:template": deep }))]));
        assert!(told[0].len() < MOST_CHARS + 10, "{told:?}");
    }
}
