//! The tables in `attacks/`: what their entries mean.
//!
//! A file is a room: objects that are there beforehand (`given`), and groups. A group has an object as
//! its `base`, or a `template` of pods that is tried as every kind in `kinds`; its `twins` are let
//! through and its `attacks` are refused, each of them a small change. Where the group creates or applies
//! its base, that is the first twin.
//!
//! An entry may override whatever its group says, and changes the object by
//! - `change`: a JSON merge patch (with the verb `patch`: what is sent, in the format that `patch` names);
//! - `template`, `pod`, `container`: a merge patch of the template, its spec, its first container.
//!
//! An attack says who refuses it (`by`: `rbac`, `policy NAME`, `pod-security`, `quota`, or `api` for
//! the API server's own validation; `a | b` where both would) and a part of what is answered (`refused`).
//!
//! Writes are dry runs, which pass through every layer and leave nothing behind.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Room {
    #[serde(default)]
    given: Vec<GivenEntry>,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenEntry {
    r#as: String,
    object: Value,
    r#in: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Group {
    group: String,
    r#as: String,
    by: String,
    r#in: Option<String>,
    verb: Option<Verb>,
    subresource: Option<String>,
    patch: Option<Format>,
    base: Option<Value>,
    body: Option<Value>,
    kinds: Option<Vec<String>>,
    template: Option<Value>,
    #[serde(default)]
    base_is_refused: bool,
    #[serde(default)]
    twins: Vec<Entry>,
    attacks: Vec<Entry>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: String,
    r#as: Option<String>,
    by: Option<String>,
    r#in: Option<String>,
    verb: Option<Verb>,
    subresource: Option<String>,
    patch: Option<Format>,
    base: Option<Value>,
    object: Option<Value>,
    body: Option<Value>,
    kinds: Option<Vec<String>>,
    change: Option<Value>,
    template: Option<Value>,
    pod: Option<Value>,
    container: Option<Value>,
    /// Of the request, instead of the object's.
    path: Option<String>,
    /// Of a deletion.
    options: Option<Value>,
    impersonate: Option<String>,
    impersonate_group: Option<String>,
    /// What the answer to an attack must say.
    refused: Option<String>,
    /// The status that a twin is answered with, if it is not a success.
    answers: Option<u16>,
    /// What the answer to a twin must not hold.
    silent: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Create,
    /// A stream, which a POST opens: there is no dry run of it.
    Connect,
    Update,
    Patch,
    Apply,
    Delete,
    DeleteCollection,
    Get,
    List,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Merge,
    Strategic,
    Json,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Format::Merge => "application/merge-patch+json",
            Format::Strategic => "application/strategic-merge-patch+json",
            Format::Json => "application/json-patch+json",
        }
    }
}

/// An object that is there before a room is entered.
pub struct Given {
    pub by: String,
    /// Of its collection.
    pub path: String,
    pub object: Value,
    pub namespaced: bool,
}

/// One request, and what must become of it.
pub struct Case {
    /// Room, group, entry and kind.
    pub name: String,
    pub by: String,
    pub impersonate: Option<(String, Option<String>)>,
    pub method: Method,
    pub path: String,
    pub content_type: &'static str,
    pub body: Option<Value>,
    pub end: End,
}

pub enum End {
    LetThrough { answers: Option<u16>, silent: Option<String> },
    Refused { by: Vec<String>, saying: String },
}

/// Reads every table; `names` are filled in for `${…}`.
pub fn read(names: &BTreeMap<&str, String>) -> anyhow::Result<(Vec<Given>, Vec<Case>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/attacks");
    let mut given = Vec::new();
    let mut cases = Vec::new();
    for file in std::fs::read_dir(&folder)? {
        let file = file?.path();
        let what = || file.display().to_string();
        let mut text = std::fs::read_to_string(&file).with_context(what)?;
        for (name, value) in names {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        let room: Room = serde_saphyr::from_str(&text).with_context(what)?;
        let namespace = &names["ns"];
        for entry in room.given {
            let within = entry.r#in.as_ref().unwrap_or(namespace);
            given.push(Given {
                by: entry.r#as,
                path: path(&entry.object, within, false),
                namespaced: !within.is_empty(),
                object: entry.object,
            });
        }
        let title = file.file_stem().unwrap_or_default().to_string_lossy();
        for group in &room.groups {
            let title = format!("{title} / {}", group.group);
            group.cases(&title, namespace, &mut cases).with_context(|| title.clone())?;
        }
    }
    Ok((given, cases))
}

impl Group {
    fn cases(&self, title: &str, namespace: &str, cases: &mut Vec<Case>) -> anyhow::Result<()> {
        let writes = matches!(self.verb, None | Some(Verb::Create | Verb::Apply));
        let is_there = self.base.is_some() || self.template.is_some();
        let mut twins = self.twins.clone();
        if writes && is_there && !self.base_is_refused {
            twins.push(Entry { name: "as it is".into(), ..Entry::default() });
        }
        for entry in &twins {
            self.case(title, namespace, entry, Entry::let_through, cases)?;
        }
        for entry in &self.attacks {
            self.case(title, namespace, entry, Entry::refused, cases)?;
        }
        Ok(())
    }

    fn case(
        &self,
        title: &str,
        namespace: &str,
        entry: &Entry,
        end: fn(&Entry, &Group) -> anyhow::Result<End>,
        cases: &mut Vec<Case>,
    ) -> anyhow::Result<()> {
        let title = format!("{title} / {}", entry.name);
        let kinds = entry.kinds.as_ref().or(self.kinds.as_ref()).cloned().unwrap_or_default();
        let objects = match &self.template {
            Some(template) if entry.object.is_none() => kinds
                .iter()
                .map(|kind| {
                    (format!("{title} / {kind}"), of_kind(kind, entry.shape(template.clone())))
                })
                .collect(),
            _ => vec![(title, self.object(entry))],
        };
        for (name, object) in objects {
            let end = end(entry, self).with_context(|| name.clone())?;
            cases.push(self.request(name, namespace, entry, object, end));
        }
        Ok(())
    }

    fn object(&self, entry: &Entry) -> Value {
        let base = entry.object.as_ref().or(entry.base.as_ref()).or(self.base.as_ref());
        let mut object = base.cloned().unwrap_or_default();
        if let Some(change) = entry.change.as_ref().filter(|change| change.is_object()) {
            merge(&mut object, change);
        }
        object
    }

    fn request(
        &self,
        name: String,
        namespace: &str,
        entry: &Entry,
        object: Value,
        end: End,
    ) -> Case {
        let verb = entry.verb.or(self.verb).unwrap_or(Verb::Create);
        let format = entry.patch.or(self.patch).unwrap_or(Format::Merge);
        let within = entry.r#in.as_deref().or(self.r#in.as_deref()).unwrap_or(namespace);
        let part = entry.subresource.as_ref().or(self.subresource.as_ref());
        let path = entry.path.clone().unwrap_or_else(|| {
            let of_all = matches!(verb, Verb::Create | Verb::DeleteCollection | Verb::List);
            let path = path(&object, within, part.is_some() || !of_all);
            part.map(|part| format!("{path}/{part}")).unwrap_or(path)
        });
        let json = "application/json";
        let sent = || Some(entry.body.clone().or(self.body.clone()).unwrap_or(object.clone()));
        let (method, content_type, body) = match verb {
            Verb::Create => (Method::POST, json, sent()),
            Verb::Connect => (Method::POST, json, None),
            Verb::Update => (Method::PUT, json, sent()),
            Verb::Patch => (Method::PATCH, format.content_type(), entry.change.clone()),
            Verb::Apply => (Method::PATCH, "application/apply-patch+yaml", Some(object)),
            Verb::Delete => (Method::DELETE, json, entry.options.as_ref().map(deletion)),
            Verb::DeleteCollection => (Method::DELETE, json, None),
            Verb::Get | Verb::List => (Method::GET, json, None),
        };
        let dry_run = match verb {
            Verb::Connect | Verb::Get | Verb::List => "",
            Verb::Apply => "dryRun=All&fieldManager=attacks&force=true",
            _ => "dryRun=All",
        };
        let joint = match dry_run {
            "" => "",
            _ if path.contains('?') => "&",
            _ => "?",
        };
        Case {
            name,
            by: entry.r#as.as_ref().unwrap_or(&self.r#as).clone(),
            impersonate: entry
                .impersonate
                .clone()
                .map(|user| (user, entry.impersonate_group.clone())),
            method,
            path: format!("{path}{joint}{dry_run}"),
            content_type,
            body,
            end,
        }
    }
}

impl Entry {
    fn let_through(&self, _: &Group) -> anyhow::Result<End> {
        anyhow::ensure!(self.refused.is_none() && self.by.is_none(), "a twin is not refused");
        Ok(End::LetThrough { answers: self.answers, silent: self.silent.clone() })
    }

    fn refused(&self, group: &Group) -> anyhow::Result<End> {
        let saying = self.refused.clone().context("an attack says how it is `refused`")?;
        let by = self.by.as_ref().unwrap_or(&group.by);
        let by = by.split('|').map(|layer| layer.trim().to_owned()).collect();
        Ok(End::Refused { by, saying })
    }

    fn shape(&self, mut template: Value) -> Value {
        if let Some(change) = &self.template {
            merge(&mut template, change);
        }
        if let Some(change) = &self.pod {
            merge(&mut template["spec"], change);
        }
        if let Some(change) = &self.container {
            merge(&mut template["spec"]["containers"][0], change);
        }
        template
    }
}

/// The body of a deletion, which the server reads instead of the query.
fn deletion(options: &Value) -> Value {
    let mut body = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "dryRun": ["All"] });
    merge(&mut body, options);
    body
}

/// An object of a kind that holds a template of pods, or a pod by itself.
fn of_kind(kind: &str, mut template: Value) -> Value {
    if matches!(kind, "Job" | "CronJob") {
        template["spec"]["restartPolicy"] = "Never".into();
    }
    let labels = json!({ "app.kubernetes.io/name": "web" });
    let (version, rest) = match kind {
        "Pod" => {
            template["apiVersion"] = "v1".into();
            template["kind"] = "Pod".into();
            template["metadata"]["name"] = "new".into();
            return template;
        }
        "PodTemplate" => ("v1", json!({ "template": template })),
        "ReplicationController" => {
            ("v1", json!({ "spec": { "selector": labels, "template": template } }))
        }
        "Job" => ("batch/v1", json!({ "spec": { "template": template } })),
        "CronJob" => {
            let job = json!({ "spec": { "template": template } });
            ("batch/v1", json!({ "spec": { "schedule": "0 0 * * *", "jobTemplate": job } }))
        }
        _ => {
            let selector = json!({ "matchLabels": labels });
            let mut spec = json!({ "selector": selector, "template": template });
            if kind == "StatefulSet" {
                spec["serviceName"] = "web".into();
            }
            ("apps/v1", json!({ "spec": spec }))
        }
    };
    let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "new" } });
    merge(&mut object, &rest);
    object
}

/// A JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
