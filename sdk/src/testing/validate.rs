//! What the platform refuses before it looks anywhere else, in its order and its words:
//! `capabilities::queue::guest`, `requests::validate`, `hitl::validate` and `runtime::verdict` in
//! `host/src`; of deployments in [`deploy`].

pub(super) mod deploy;

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::{Created, limits};
use crate::bindings::eve::skill::queue as contract;
use crate::bindings::eve::skill::types::{self, Error, OnFailure};
use crate::{Failure, RequestId};

/// How a run failed, and the platform's word for it.
pub(super) type Failed = (Failure, &'static str);

fn invalid(field: &str, problem: impl Display) -> Error {
    // As the platform passes errors on.
    Error::Invalid(storable(&format!("{field}: {problem}")))
}

/// What a request waits for, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum On {
    Id(RequestId),
    /// An entry of the batch.
    Entry(usize),
}

impl Display for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            On::Id(id) => id.fmt(f),
            On::Entry(index) => write!(f, "#{index}"),
        }
    }
}

/// A request as it is asked for: without an id, and its blockers not looked up.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub created: Created,
    pub blockers: Vec<(On, OnFailure)>,
    pub max_attempts: Option<u16>,
}

impl Asked {
    /// Reads a request. Ids that are none of a request are let through where `is_known` knows them: a
    /// test may name requests as it likes.
    pub fn read(
        request: &contract::NewRequest,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Self, Error> {
        if request.blocked_by.len() > limits::BLOCKERS {
            let most = limits::BLOCKERS;
            return Err(invalid("blocked_by", format_args!("at most {most} requests are allowed")));
        }
        let blockers = request
            .blocked_by
            .iter()
            .map(|blocker| Ok((blocker_ref(&blocker.id, &is_known)?, blocker.on_failure)))
            .collect::<Result<_, Error>>()?;
        let created = Created {
            id: RequestId::from(""),
            worker_type: request.worker_type.clone(),
            skill: request.skill.clone(),
            prompt: request.prompt.clone(),
            context: parse("context", request.context.as_deref(), limits::CONTEXT_BYTES)?,
            repo_url: request.repo_url.clone(),
            branch: request.branch.clone(),
            config: parse("config", request.config.as_deref(), limits::SETTINGS_BYTES)?,
            metadata: parse("metadata", request.metadata.as_deref(), limits::SETTINGS_BYTES)?,
            blocked_by: Vec::new(),
            reply_to_me: request.reply_to_me,
            detached: request.detached,
            delay: request.delay.map(Duration::from_millis),
            priority: request.priority.unwrap_or(0),
            max_attempts: request.max_attempts.unwrap_or(limits::ATTEMPTS_DEFAULT),
            timeout: request.timeout.map(Duration::from_millis),
            idempotency_key: request.idempotency_key.clone(),
        };
        Ok(Self { created, blockers, max_attempts: request.max_attempts })
    }

    /// Checks all that can be checked without looking anywhere else. `index` is the place in the
    /// batch.
    pub fn check(&self, index: usize) -> Result<(), Error> {
        let request = &self.created;
        name("worker_type", &request.worker_type)?;
        if let Some(skill) = &request.skill {
            name("skill", skill)?;
        }
        text("prompt", &request.prompt, limits::PROMPT_BYTES)?;
        object("context", &request.context, limits::CONTEXT_BYTES)?;
        object("config", &request.config, limits::SETTINGS_BYTES)?;
        object("metadata", &request.metadata, limits::SETTINGS_BYTES)?;
        if let Some(url) = &request.repo_url {
            text("repo_url", url, limits::REFERENCE_BYTES)?;
        }
        if let Some(branch) = &request.branch {
            text("branch", branch, limits::REFERENCE_BYTES)?;
        }
        self.check_blockers(index)?;
        let delay = request.delay.map_or(0, milliseconds);
        if delay > limits::DELAY_MS {
            return Err(invalid("delay_ms", format_args!("{delay} is more than 365 days")));
        }
        within("priority", request.priority, limits::PRIORITY)?;
        if let Some(attempts) = self.max_attempts {
            within("max_attempts", attempts, limits::ATTEMPTS)?;
        }
        if let Some(timeout) = request.timeout {
            within("timeout_ms", milliseconds(timeout), limits::TIMEOUT_MS)?;
        }
        request.idempotency_key.as_deref().map_or(Ok(()), key)
    }

    fn check_blockers(&self, index: usize) -> Result<(), Error> {
        let mut seen = HashSet::with_capacity(self.blockers.len());
        for (on, _) in &self.blockers {
            if matches!(on, On::Entry(entry) if *entry >= index) {
                let problem = format_args!("`{on}` is not an earlier entry of the batch");
                return Err(invalid("blocked_by", problem));
            }
            if !seen.insert(on) {
                return Err(invalid("blocked_by", format_args!("`{on}` is named twice")));
            }
        }
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn blocker_ref(text: &str, is_known: impl Fn(&str) -> bool) -> Result<On, Error> {
    if text.len() > limits::ID_BYTES {
        return Err(invalid("blocked_by", "an id is longer than an id can be"));
    }
    if let Some(index) = text.strip_prefix('#') {
        return index.parse().map(On::Entry).map_err(|_| {
            let problem = format_args!("`{text}` is not `#` and the index of an earlier entry");
            invalid("blocked_by", problem)
        });
    }
    match uuid(text) {
        _ if is_known(text) => Ok(On::Id(text.into())),
        Some(id) => Ok(On::Id(id)),
        None => Err(invalid("blocked_by", format_args!("`{text}` is not a request id (a UUID)"))),
    }
}

/// Reads a request's id that a call was given.
pub(super) fn id(field: &str, text: &str) -> Result<RequestId, Error> {
    uuid(text).ok_or_else(|| {
        let shown: String = text.chars().take(limits::ID_BYTES).collect();
        invalid(field, format_args!("`{}` is not a request id", shown.escape_debug()))
    })
}

/// A UUID in the form that the platform prints. It reads others too: without hyphens, in braces.
fn uuid(text: &str) -> Option<RequestId> {
    let bare = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let bare = bare.strip_prefix('{').and_then(|bare| bare.strip_suffix('}')).unwrap_or(bare);
    let hyphens: Vec<usize> = bare.match_indices('-').map(|(place, _)| place).collect();
    let mut digits: String = bare.chars().filter(|c| *c != '-').collect();
    let fits = digits.len() == 32
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && (hyphens.is_empty() || hyphens == [8, 13, 18, 23]);
    if !fits {
        return None;
    }
    digits.make_ascii_lowercase();
    for place in [8, 13, 18, 23] {
        digits.insert(place, '-');
    }
    Some(digits.into())
}

/// Checks a question, and reads what helps to answer it.
pub(super) fn question(question: &contract::Question) -> Result<Value, Error> {
    let details = parse("details", question.details.as_deref(), limits::DETAILS_BYTES)?;
    if question.text.is_empty() {
        return Err(invalid("question", "must not be empty"));
    }
    text("question", &question.text, limits::QUESTION_BYTES)?;
    options(&question.options)?;
    object("details", &details, limits::DETAILS_BYTES)?;
    match question.expires_in {
        Some(ms) if !limits::EXPIRES_MS.contains(&ms) => {
            let problem = format_args!("{ms} is not between a second and 30 days");
            Err(invalid("expires_in_ms", problem))
        }
        _ => Ok(details),
    }
}

fn options(options: &[String]) -> Result<(), Error> {
    let given = options.len();
    if given > limits::OPTIONS {
        let most = limits::OPTIONS;
        let problem = format_args!("{given} answers; at most {most} are allowed");
        return Err(invalid("options", problem));
    }
    let mut seen = HashSet::with_capacity(given);
    for option in options {
        if option.is_empty() {
            return Err(invalid("options", "an answer must not be empty"));
        }
        if option.chars().nth(limits::OPTION_CHARS).is_some() {
            let most = limits::OPTION_CHARS;
            let problem = format_args!("an answer has more than {most} characters");
            return Err(invalid("options", problem));
        }
        text("options", option, usize::MAX)?;
        if !seen.insert(option) {
            let problem = format_args!("`{}` stands there twice", option.escape_debug());
            return Err(invalid("options", problem));
        }
    }
    Ok(())
}

/// Checks a timer.
pub(super) fn timer(delay: u64, name: &str) -> Result<(), Error> {
    if !limits::TIMER_MS.contains(&delay) {
        let problem = format_args!("{delay} ms is not between a second and 365 days");
        return Err(invalid("delay", problem));
    }
    if name.is_empty() {
        return Err(invalid("name", "must not be empty"));
    }
    if name.chars().nth(limits::TIMER_NAME_CHARS).is_some() {
        let most = limits::TIMER_NAME_CHARS;
        return Err(invalid("name", format_args!("longer than {most} characters")));
    }
    text("name", name, usize::MAX)
}

/// What a list is to hold, checked.
pub(super) struct Filter {
    pub context: Option<Value>,
    pub limit: usize,
}

impl Filter {
    pub fn read(filter: &contract::Filter) -> Result<Self, Error> {
        let limit = filter.limit.unwrap_or(limits::LIST_DEFAULT);
        if limit == 0 || limit > limits::LIST {
            let most = limits::LIST;
            return Err(invalid("limit", format_args!("{limit} is not between 1 and {most}")));
        }
        if let Some(worker_type) = &filter.worker_type {
            name("worker_type", worker_type)?;
        }
        let context = match filter.context.as_deref() {
            None => None,
            given => {
                let value = parse("context", given, limits::SETTINGS_BYTES)?;
                object("context", &value, limits::SETTINGS_BYTES)?;
                Some(value)
            }
        };
        Ok(Self { context, limit: limit as usize })
    }
}

/// Checks how a run has ended, and cuts what is too long.
pub(super) fn outcome(end: Result<types::Outcome, Failure>) -> Result<types::Outcome, Failed> {
    match end {
        Ok(types::Outcome::Completed(out)) => match output(&out) {
            Ok(()) => Ok(types::Outcome::Completed(out)),
            Err((code, message)) => Err((Failure::permanent(message), code)),
        },
        Ok(waiting) => Ok(waiting),
        Err(Failure::Retryable(message)) => {
            Err((Failure::Retryable(cut_message(&message)), "failed"))
        }
        Err(Failure::Permanent(message)) => {
            Err((Failure::Permanent(cut_message(&message)), "failed"))
        }
    }
}

fn output(output: &types::Output) -> Result<(), (&'static str, String)> {
    let too_large = |what: &str, bytes: usize, most: usize| {
        let message = format!("the output's {what} has {bytes} bytes; at most {most} are kept");
        Err(("output_too_large", message))
    };
    let invalid = |error: Error| match error {
        Error::Invalid(problem) => ("output_invalid", problem),
        other => ("output_invalid", format!("{other:?}")),
    };
    if output.summary.len() > limits::OUTPUT_SUMMARY {
        return too_large("summary", output.summary.len(), limits::OUTPUT_SUMMARY);
    }
    text("summary", &output.summary, usize::MAX).map_err(invalid)?;
    if let Some(data) = &output.data {
        if data.len() > limits::OUTPUT_DATA {
            return too_large("data", data.len(), limits::OUTPUT_DATA);
        }
        let value = parse("data", Some(data), usize::MAX).map_err(invalid)?;
        json("data", &value, usize::MAX).map_err(invalid)?;
        numbers("data", data).map_err(invalid)?;
    }
    if output.tokens_used.is_some_and(|tokens| i64::try_from(tokens).is_err()) {
        return Err(("output_invalid", "tokens_used: more than 2^63 - 1".into()));
    }
    match output.cost {
        Some(cost) if !(cost.is_finite() && cost >= 0.0) => {
            Err(("output_invalid", format!("cost: {cost} is not a sum of money")))
        }
        _ => Ok(()),
    }
}

/// A failure's message as it is kept.
pub(super) fn cut_message(message: &str) -> String {
    storable(cut(message, limits::MESSAGE))
}

/// At most `bytes` of a text, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Text without U+0000, which Postgres cannot hold.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "")
}

/// Whether it is a DNS label of at most so many bytes.
fn label(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A worker type's or a skill's name: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
fn name(field: &str, name: &str) -> Result<(), Error> {
    if label(name, limits::NAME_BYTES) {
        return Ok(());
    }
    if name.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    let shown: String = name.chars().take(limits::NAME_BYTES).collect();
    Err(invalid(
        field,
        format_args!(
            "`{}` is not a name: lower-case letters, digits and `-`, at most {}, no `-` at either end",
            shown.escape_default(),
            limits::NAME_BYTES
        ),
    ))
}

fn key(key: &str) -> Result<(), Error> {
    let field = "idempotency_key";
    if key.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    if key.chars().nth(limits::KEY_CHARS).is_some() {
        return Err(invalid(field, format_args!("longer than {} characters", limits::KEY_CHARS)));
    }
    if key.chars().any(char::is_control) {
        return Err(invalid(field, "contains a control character"));
    }
    Ok(())
}

/// Text of at most so many bytes, without U+0000.
pub(super) fn text(field: &str, text: &str, bytes: usize) -> Result<(), Error> {
    if text.len() > bytes {
        let problem = format_args!("{} bytes; at most {bytes} are allowed", text.len());
        return Err(invalid(field, problem));
    }
    if text.contains('\0') {
        return Err(invalid(field, "contains the character U+0000"));
    }
    Ok(())
}

/// JSON text as a value; `{}` where there is none. Its size is checked before it is parsed.
fn parse(field: &str, text: Option<&str>, bytes: usize) -> Result<Value, Error> {
    let Some(text) = text else { return Ok(Value::Object(Default::default())) };
    if text.len() > bytes {
        let problem = format_args!("{} bytes; at most {bytes} are allowed", text.len());
        return Err(invalid(field, problem));
    }
    serde_json::from_str(text)
        .map_err(|error| invalid(field, format_args!("not valid JSON: {error}")))
}

fn object(field: &str, value: &Value, bytes: usize) -> Result<(), Error> {
    if !value.is_object() {
        return Err(invalid(field, "must be a JSON object"));
    }
    json(field, value, bytes)
}

/// A JSON value that the platform can keep: bounded in bytes and depth, no U+0000 in strings or keys.
pub(super) fn json(field: &str, value: &Value, bytes: usize) -> Result<(), Error> {
    let mut left = bytes;
    let mut todo = vec![(value, 1_usize)];
    while let Some((value, depth)) = todo.pop() {
        if depth > limits::JSON_DEPTH {
            let most = limits::JSON_DEPTH;
            return Err(invalid(field, format_args!("nested deeper than {most} levels")));
        }
        let mut spend = |spent: usize| match left.checked_sub(spent) {
            Some(rest) => {
                left = rest;
                Ok(())
            }
            None => Err(invalid(field, format_args!("more than {bytes} bytes of JSON"))),
        };
        match value {
            Value::Null | Value::Bool(true) => spend(4)?,
            Value::Bool(false) => spend(5)?,
            Value::Number(number) => spend(number.to_string().len())?,
            Value::String(string) => {
                spend(string.len() + 2)?;
                text(field, string, usize::MAX)?;
            }
            Value::Array(items) => {
                spend(2 + items.len().saturating_sub(1))?;
                todo.extend(items.iter().map(|item| (item, depth + 1)));
            }
            Value::Object(members) => {
                spend(2 + members.len().saturating_sub(1))?;
                for (key, member) in members {
                    spend(key.len() + 3)?;
                    text(field, key, usize::MAX)?;
                    todo.push((member, depth + 1));
                }
            }
        }
    }
    Ok(())
}

/// The numbers of a JSON text that is kept as it is written: `jsonb` reads them again.
fn numbers(field: &str, text: &str) -> Result<(), Error> {
    let most = limits::NUMBER_SCALE;
    let (mut quoted, mut escaped, mut start) = (false, false, None);
    for (at, c) in text.char_indices() {
        let is_part = !quoted && (c.is_ascii_digit() || "+-.eE".contains(c));
        match (start, is_part) {
            (None, true) if c == '-' || c.is_ascii_digit() => start = Some(at),
            (Some(begun), false) => {
                fits(field, &text[begun..at], most)?;
                start = None;
            }
            _ => {}
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    start.map_or(Ok(()), |begun| fits(field, &text[begun..], most))
}

fn fits(field: &str, number: &str, most: usize) -> Result<(), Error> {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let scale = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len()) as i64;
    let limit = most as i64;
    let fits = |power: i64| (-limit..=limit).contains(&power) && scale - power <= limit;
    if exponent.parse().is_ok_and(fits) {
        return Ok(());
    }
    let problem = format_args!(
        "a number has more than {most} digits after the point, or as large an exponent"
    );
    Err(invalid(field, problem))
}

fn within<T: PartialOrd + Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(invalid(field, format_args!("{value} is not between {least} and {most}")))
}
