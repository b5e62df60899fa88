//! Requests as people see them.

use comfy_table::Cell;
use serde::Serialize;
use serde_json::Value;

use super::super::output::{Render, View, cell, optional, text_cell};
use crate::http::Items;
use crate::requests::{BlockerState, OnFailure, Request};

/// A request that has just been created: for people, its id and how to go on.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Created(pub Request);

/// A request of which only the status is news.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Line(pub Request);

impl Render for Created {
    fn render(&self, view: &View) -> String {
        let id = self.0.id;
        format!(
            "{}\n\nFollow it: eve request watch {id}",
            table(std::slice::from_ref(&self.0), view)
        )
    }
}

impl Render for Line {
    fn render(&self, view: &View) -> String {
        table(std::slice::from_ref(&self.0), view)
    }
}

impl Render for Request {
    fn render(&self, view: &View) -> String {
        let mut pairs = vec![
            ("id", cell(self.id.to_string())),
            ("status", view.status(self.status)),
            ("worker type", cell(&self.worker_type)),
            ("skill", self.skill.as_ref().map_or_else(|| cell("(default)"), cell)),
        ];
        let mut add = |name, value: Option<Cell>| {
            if let Some(value) = value {
                pairs.push((name, value));
            }
        };
        let words = |text: &String| (!text.is_empty()).then(|| text_cell(text));
        add("prompt", words(&self.prompt));
        add("context", object(&self.context));
        add("config", object(&self.config));
        add("metadata", object(&self.metadata));
        add("repository", self.repo_url.as_ref().map(cell));
        add("branch", self.branch.as_ref().map(cell));
        add("summary", self.summary.as_ref().and_then(words));
        let error = self.error.as_ref().map(|error| format!("{} ({})", error.message, error.code));
        add("error", error.map(text_cell));
        let blockers = (self.open_blockers > 0).then(|| cell(self.open_blockers.to_string()));
        add("open blockers", blockers);
        add("attempt", Some(cell(format!("{} of {}", self.attempt, self.max_attempts))));
        add("generation", (self.generation > 1).then(|| cell(self.generation.to_string())));
        add("priority", (self.priority != 0).then(|| cell(self.priority.to_string())));
        add("timeout", self.timeout_ms.map(|timeout| cell(format!("{timeout} ms"))));
        add("parent", self.parent_request_id.map(|id| cell(id.to_string())));
        let root =
            (self.root_request_id != self.id).then(|| cell(self.root_request_id.to_string()));
        add("root", root);
        add("created", Some(view.moment(self.created_at)));
        add("not before", self.run_at.map(|at| view.moment(at)));
        add("started", self.started_at.map(|at| view.moment(at)));
        add("finished", self.finished_at.map(|at| view.moment(at)));
        view.details(pairs)
    }
}

/// An object as JSON on as many lines as it takes; an empty one is not worth a line.
fn object(value: &Value) -> Option<Cell> {
    let filled = value.as_object().is_none_or(|object| !object.is_empty());
    filled.then(|| text_cell(serde_json::to_string_pretty(value).unwrap_or_default()))
}

/// Requests, one a line.
pub fn table(requests: &[Request], view: &View) -> String {
    let rows = requests.iter().map(|request| {
        // What became of it says more than what was asked, once there is something to say.
        let about = match (&request.error, &request.summary) {
            (Some(error), _) => &error.message,
            (None, Some(summary)) if !summary.is_empty() => summary,
            _ => &request.prompt,
        };
        [
            cell(request.id.to_string()),
            view.status(request.status),
            cell(&request.worker_type),
            optional(request.skill.as_ref()),
            cell(view.ago(request.created_at)),
            cell(about),
        ]
    });
    view.table(["ID", "STATUS", "WORKER TYPE", "SKILL", "AGE", "ABOUT"], 5, rows)
}

impl Render for Items<BlockerState> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "It waits for no other request.".to_owned();
        }
        let rows = self.items.iter().map(|blocker| {
            let policy = match blocker.on_failure {
                OnFailure::Cancel => "cancel",
                OnFailure::Run => "run",
                OnFailure::Hold => "hold",
            };
            [
                cell(blocker.id.to_string()),
                view.status(blocker.status),
                cell(if blocker.open { "open" } else { "done" }),
                cell(policy),
                optional(blocker.reason.as_ref()),
            ]
        });
        view.table(["BLOCKER", "STATUS", "STATE", "IF IT FAILS", "REASON"], 4, rows)
    }
}
