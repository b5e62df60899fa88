//! What a run's effects weigh, and how they compare with a filter: work that has to have an end.

use serde_json::Value;

use super::CallError;
use super::run::over;
use crate::hitl::NewQuestion;
use crate::requests::{Blocker, NewRequest};

/// For what is neither text nor JSON.
const FLAT: usize = 256;

/// What a request weighs among the effects: its text, and a flat rate for the rest.
pub(super) fn request(request: &NewRequest) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    FLAT + request.prompt.len()
        + json_weight(&request.context)
        + json_weight(&request.config)
        + json_weight(&request.metadata)
        + text(&request.repo_url)
        + text(&request.branch)
        + text(&request.idempotency_key)
        + request.blocked_by.len() * size_of::<Blocker>()
}

/// What a JSON value takes in memory, roughly: `[[],[],…]` takes ten times its text.
fn json_weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(json_weight).sum(),
            Value::Object(members) => {
                members.iter().map(|(key, value)| key.len() + json_weight(value)).sum()
            }
        }
}

/// What a question weighs among the effects.
pub(super) fn question(question: &NewQuestion) -> usize {
    FLAT + question.question.len()
        + question.options.iter().map(|option| size_of::<String>() + option.len()).sum::<usize>()
        + json_weight(&question.details)
}

/// What a timer weighs among the effects.
pub(super) fn timer(name: &str) -> usize {
    FLAT + name.len()
}

/// Whether `value` contains `wanted` as Postgres' `@>` has it: objects member by member, every
/// element of a wanted array in some element, scalars as they are.
/// <https://www.postgresql.org/docs/current/datatype-json.html#JSON-CONTAINMENT>
pub(in crate::runtime::capabilities) fn contains(
    value: &Value,
    wanted: &Value,
    steps: &mut usize,
) -> Result<bool, CallError> {
    *steps = steps.checked_sub(1).ok_or_else(|| {
        over("the filter takes too long to compare with this run's own requests".into())
    })?;
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                match value.get(key) {
                    Some(value) if contains(value, wanted, steps)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Array(value), Value::Array(wanted)) => {
            'wanted: for wanted in wanted {
                for value in value {
                    if contains(value, wanted, steps)? {
                        continue 'wanted;
                    }
                }
                return Ok(false);
            }
            Ok(true)
        }
        (Value::Number(value), Value::Number(wanted)) => {
            Ok(value == wanted || value.as_f64() == wanted.as_f64())
        }
        (value, wanted) => Ok(value == wanted),
    }
}
