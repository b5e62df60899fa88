//! Requests as people see them.

use comfy_table::Cell;
use serde::Serialize;
use serde_json::Value;

use super::super::output::{Render, View, cell, optional, text_cell};
use crate::http::Items;
use crate::requests::{BlockerState, OnFailure, Request, RequestDetails};

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

impl Render for RequestDetails {
    fn render(&self, view: &View) -> String {
        let used = match self.usage.usage.runs {
            0 => None,
            _ => Some(("used", cell(super::usage::total(&self.usage)))),
        };
        view.details(pairs(&self.request, view).into_iter().chain(used))
    }
}

/// What there is to say of a request, each with its name.
fn pairs(request: &Request, view: &View) -> Vec<(&'static str, Cell)> {
    let mut pairs = vec![
        ("id", cell(request.id.to_string())),
        ("status", view.status(request.status)),
        ("worker type", cell(&request.worker_type)),
        ("skill", request.skill.as_ref().map_or_else(|| cell("(default)"), cell)),
    ];
    let mut add = |name, value: Option<Cell>| {
        if let Some(value) = value {
            pairs.push((name, value));
        }
    };
    let words = |text: &String| (!text.is_empty()).then(|| text_cell(text));
    add("prompt", words(&request.prompt));
    add("context", object(&request.context));
    add("config", object(&request.config));
    add("metadata", object(&request.metadata));
    add("repository", request.repo_url.as_ref().map(cell));
    add("branch", request.branch.as_ref().map(cell));
    add("summary", request.summary.as_ref().and_then(words));
    let error = request.error.as_ref().map(|error| format!("{} ({})", error.message, error.code));
    add("error", error.map(text_cell));
    let blockers = (request.open_blockers > 0).then(|| cell(request.open_blockers.to_string()));
    add("open blockers", blockers);
    add("attempt", Some(cell(format!("{} of {}", request.attempt, request.max_attempts))));
    add("generation", (request.generation > 1).then(|| cell(request.generation.to_string())));
    add("priority", (request.priority != 0).then(|| cell(request.priority.to_string())));
    add("timeout", request.timeout_ms.map(|timeout| cell(format!("{timeout} ms"))));
    add("parent", request.parent_request_id.map(|id| cell(id.to_string())));
    let root =
        (request.root_request_id != request.id).then(|| cell(request.root_request_id.to_string()));
    add("root", root);
    add("created", Some(view.moment(request.created_at)));
    add("not before", request.run_at.map(|at| view.moment(at)));
    add("started", request.started_at.map(|at| view.moment(at)));
    add("finished", request.finished_at.map(|at| view.moment(at)));
    pairs
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
