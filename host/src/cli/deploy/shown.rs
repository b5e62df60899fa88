//! Deployments for people.

use comfy_table::{Cell, Color};
use serde_json::Value;

use super::super::output::{Render, View, cell, optional, text_cell};
use crate::deployments::traffic::{Shown as Traffic, SplitBy};
use crate::deployments::{
    Deployment, DeploymentEvent, DeploymentStatus, Outcome, Replicas, Revision,
};
use crate::http::{EventPage, History, Items};

fn status(status: DeploymentStatus) -> Cell {
    let cell = Cell::new(status.as_str());
    match status {
        DeploymentStatus::Running => cell.fg(Color::Green),
        DeploymentStatus::Failed => cell.fg(Color::Red),
        DeploymentStatus::Deploying => cell.fg(Color::Cyan),
        DeploymentStatus::Stopped => cell.fg(Color::DarkGrey),
        DeploymentStatus::Pending => cell,
    }
}

fn replicas(replicas: Replicas) -> String {
    format!("{}/{}", replicas.ready, replicas.desired)
}

/// Who has which share, and which was asked for where that is another.
fn split(traffic: &Traffic) -> String {
    let mut lines: Vec<String> = traffic
        .shares
        .iter()
        .map(|share| match f64::from(share.asked) == share.percent {
            true => format!("{} % {}", share.percent, share.app),
            false => format!("{} % {} (asked for: {} %)", share.percent, share.app, share.asked),
        })
        .collect();
    lines.push(
        match traffic.by {
            SplitBy::Weights => "by the gateway, of what comes from outside",
            SplitBy::Replicas => "by numbers of replicas",
        }
        .to_owned(),
    );
    lines.join("\n")
}

impl Render for Deployment {
    fn render(&self, view: &View) -> String {
        let why = match (&self.reason, &self.message) {
            (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
            (reason, message) => message.clone().or_else(|| reason.clone()),
        };
        let mut pairs = vec![
            ("app", cell(&self.app)),
            ("env", cell(&self.env)),
            ("status", status(self.status)),
        ];
        pairs.extend(why.map(|why| ("reason", text_cell(why))));
        pairs.extend([
            ("image", cell(&self.image)),
            ("revision", cell(self.revision.to_string())),
            ("replicas", cell(format!("{} ready", replicas(self.replicas)))),
        ]);
        if !self.urls.is_empty() {
            pairs.push(("url", text_cell(self.urls.join("\n"))));
        }
        pairs.extend(self.traffic.as_ref().map(|traffic| ("traffic", text_cell(split(traffic)))));
        pairs.extend(self.deployed_at.map(|at| ("first ran", view.moment(at))));
        let mut text = view.details(pairs);
        if !self.pods.is_empty() {
            let rows = self.pods.iter().map(|pod| {
                [
                    cell(&pod.name),
                    cell(&pod.status),
                    cell(if pod.ready { "yes" } else { "no" }),
                    cell(pod.restarts.to_string()),
                    cell(&pod.version),
                    optional(pod.started_at.map(|at| view.ago(at))),
                ]
            });
            text.push_str("\n\n");
            text.push_str(&view.table(
                ["POD", "STATUS", "READY", "RESTARTS", "VERSION", "AGE"],
                0,
                rows,
            ));
        }
        text
    }
}

impl Render for Items<Deployment> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "Nothing is deployed. `eve deploy create` deploys an app.".to_owned();
        }
        let rows = self.items.iter().map(|item| {
            [
                cell(&item.env),
                cell(&item.app),
                status(item.status),
                cell(replicas(item.replicas)),
                cell(&item.version),
                cell(item.revision.to_string()),
                cell(view.ago(item.updated_at)),
                optional(item.message.as_ref()),
            ]
        });
        let header = ["ENV", "APP", "STATUS", "READY", "VERSION", "REVISION", "CHANGED", "MESSAGE"];
        view.table(header, 7, rows)
    }
}

impl Render for History {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No revisions.".to_owned();
        }
        let rows = self.items.iter().map(|item| {
            [
                cell(item.revision.to_string()),
                cell(&item.version),
                kind(item),
                outcome(item.outcome),
                cell(item.replicas.to_string()),
                cell(view.ago(item.created_at)),
                optional(item.message.as_ref().or(item.cause.as_ref())),
            ]
        });
        view.table(
            ["REVISION", "VERSION", "CHANGE", "OUTCOME", "REPLICAS", "AGE", "MESSAGE"],
            6,
            rows,
        )
    }
}

fn kind(revision: &Revision) -> Cell {
    match revision.origin {
        Some(origin) => cell(format!("{} to {origin}", revision.kind.as_str())),
        None => cell(revision.kind.as_str()),
    }
}

fn outcome(outcome: Option<Outcome>) -> Cell {
    match outcome {
        Some(Outcome::Running) => cell("ran").fg(Color::Green),
        Some(Outcome::Failed) => cell("failed").fg(Color::Red),
        Some(other) => cell(other.as_str()),
        None => cell("under way").fg(Color::Cyan),
    }
}

impl Render for EventPage {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "Nothing has happened.".to_owned();
        }
        let rows = self.items.iter().map(|event| {
            [
                cell(view.ago(event.created_at)),
                cell(&event.event_type),
                optional(event.revision.map(|revision| revision.to_string())),
                cell(details(event)),
            ]
        });
        view.table(["AGE", "EVENT", "REVISION", "DETAILS"], 3, rows)
    }
}

/// What is worth a line of an event's details.
fn details(event: &DeploymentEvent) -> String {
    let text = |key: &str| match &event.details[key] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    ["image", "replicas", "reason", "message", "what", "cause", "secret", "hosts", "canaries"]
        .iter()
        .filter_map(|key| text(key))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::output::tests::view;
    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "id": "01990000-0000-7000-8000-000000000001", "app": "api-service", "env": "prod",
            "status": "deploying", "image": "acme/api:v1.2.3", "version": "v1.2.3", "revision": 4,
            "replicas": {"desired": 3, "ready": 1},
            "pods": [
                {"name": "api-service-5d8-abcde", "status": "ImagePullBackOff", "ready": false,
                 "restarts": 0, "version": "v1.2.3", "started_at": "2026-02-28T23:59:00Z"},
                {"name": "api-service-5d8-fghij", "status": "Running", "ready": true,
                 "restarts": 2, "version": "v1.2.2", "started_at": "2026-02-27T00:00:00Z"},
            ],
            "reason": "image_pull", "message": "pod api-service-5d8-abcde: ErrImagePull: not found",
            "urls": ["https://api.prod.acme.apps.example.com"],
            "traffic": {"of": "api-service", "by": "replicas", "shares": [
                {"app": "api-service", "asked": 90, "percent": 75.0},
                {"app": "api-canary", "asked": 10, "percent": 25.0},
            ]},
            "config": {}, "deployed_at": null, "deployed_by": null, "request_id": null,
            "created_at": "2026-02-27T00:00:00Z", "updated_at": "2026-02-28T23:59:30Z",
        }))
        .expect("a deployment")
    }

    #[test]
    fn deployments_for_people() {
        insta::assert_snapshot!(deployment().render(&view()));
        insta::assert_snapshot!(Items { items: vec![deployment()] }.render(&view()));
    }

    #[test]
    fn history_for_people() {
        let revision = |revision: i32, kind: &str, outcome: Value, origin: Value| {
            json!({
                "revision": revision, "kind": kind, "image": "acme/api:v1.2.3", "version": "v1.2.3",
                "digest": null, "replicas": 3, "origin": origin, "outcome": outcome, "reason": null,
                "message": null, "created_by": {"via": "platform"}, "request_id": null,
                "created_at": "2026-02-28T23:59:00Z", "settled_at": null,
            })
        };
        let mut rotated = revision(4, "updated", json!("running"), Value::Null);
        rotated["cause"] = json!("secret API_KEY, version 2");
        let history: History = serde_json::from_value(json!({"items": [
            rotated,
            revision(3, "rolled_back", Value::Null, json!(1)),
            revision(2, "updated", json!("failed"), Value::Null),
            revision(1, "created", json!("running"), Value::Null),
        ]}))
        .expect("a history");
        insta::assert_snapshot!(history.render(&view()));
    }
}
