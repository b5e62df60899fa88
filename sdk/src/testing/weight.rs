//! What a run's effects and the host's answers weigh, as `capabilities::queue::weight` and
//! `capabilities::queue::guest` in `host/src` count it.

use serde_json::Value;

use super::validate::{Asked, deploy};
use crate::bindings::eve::skill::deploy::NewDeployment;
use crate::bindings::eve::skill::queue as contract;

/// `FLAT`: for what is neither text nor JSON.
const FLAT: usize = 256;
/// What a blocker, an id, a text and a JSON value take in the host's memory, besides what they hold.
const BLOCKER: usize = 32;
const ID: usize = 16;
const TEXT: usize = 24;
const VALUE: usize = 32;

pub(super) fn request(request: &Asked) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let created = &request.created;
    FLAT + created.prompt.len()
        + json(&created.context)
        + json(&created.config)
        + json(&created.metadata)
        + text(&created.repo_url)
        + text(&created.branch)
        + text(&created.idempotency_key)
        + request.blockers.len() * BLOCKER
}

fn json(value: &Value) -> usize {
    VALUE
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(json).sum(),
            Value::Object(members) => {
                members.iter().map(|(key, value)| key.len() + json(value)).sum()
            }
        }
}

pub(super) fn question(question: &contract::Question, details: &Value) -> usize {
    let options = question.options.iter().map(|option| TEXT + option.len());
    FLAT + question.text.len() + options.sum::<usize>() + json(details)
}

pub(super) fn timer(name: &str) -> usize {
    FLAT + name.len()
}

pub(super) fn cancel(reason: Option<&str>) -> usize {
    ID + reason.map_or(0, str::len)
}

/// A deployment that is asked for.
pub(super) fn deployment(new: &NewDeployment, asked: &deploy::Asked) -> usize {
    let variables = asked.env_vars.iter().flatten();
    change(&new.env, &new.app)
        + new.image.len()
        + variables.map(|(name, value)| 2 * TEXT + name.len() + value.len()).sum::<usize>()
        + asked.settings.iter().map(|(name, value)| name.len() + json(value)).sum::<usize>()
}

/// Another change of a deployment.
pub(super) fn change(env: &str, app: &str) -> usize {
    FLAT + env.len() + app.len()
}

/// A request in an answer.
pub(super) fn info(info: &contract::Info) -> usize {
    info.prompt.len() + info.context.len() + info.metadata.len()
}

/// A child in an answer.
pub(super) fn child(child: &contract::Child) -> usize {
    let ended = child.ended.as_ref().map_or(0, |ended| {
        let output = ended
            .output
            .as_ref()
            .map_or(0, |output| output.summary.len() + output.data.as_ref().map_or(0, String::len));
        output + ended.problem.as_ref().map_or(0, |problem| problem.message.len())
    });
    info(&child.request) + ended
}
