//! What a new request must look like, before anything else is asked about it.
//!
//! Pure: the same checks for HTTP and for guests, made when the request is asked for, so that what
//! Postgres would refuse never reaches the commit that a request shares with its neighbours.

use std::ops::RangeInclusive;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Blocker, BlockerRef, NewRequest};

/// What is wanted, in words: 256 KiB, about eighty pages.
pub const PROMPT_BYTES: usize = 256 << 10;
/// What is wanted, for programs: one megabyte, as every string that crosses into a guest.
pub const CONTEXT_BYTES: usize = 1 << 20;
/// Settings and labels, each.
pub const SETTINGS_BYTES: usize = 64 << 10;
/// A repository's address, a branch's name.
pub const REFERENCE_BYTES: usize = 2 << 10;
/// An idempotency key, in characters.
pub const KEY_CHARS: usize = 255;
/// Edges of one request: as many as one run or call creates, so that one collector can wait for all.
pub const BLOCKERS: usize = 10_000;
/// Nesting of a JSON value. Parsers recurse; Postgres' own limit depends on its stack.
pub const JSON_DEPTH: usize = 64;
/// The longest delay: 365 days.
pub const DELAY_MS: u64 = 365 * 24 * 3_600 * 1_000;
/// Priorities; lower goes first.
pub const PRIORITY: RangeInclusive<i16> = -100..=100;
/// Attempts in all.
pub const ATTEMPTS: RangeInclusive<u16> = 1..=25;
/// Wall-clock limit of one run: a tenth of a second to a day.
pub const TIMEOUT_MS: RangeInclusive<u64> = 100..=86_400_000;
/// Digits after the point that `numeric` keeps, and so `jsonb`.
const NUMBER_SCALE: usize = 16_383;

/// What is wrong with a value, in words for whoever sent it: names the field first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Where: the name of the field.
    pub field: String,
    /// What is wrong with it, and where that helps what would be right.
    pub message: String,
}

impl Invalid {
    pub(crate) fn new(field: &str, problem: impl std::fmt::Display) -> Self {
        Self { field: field.to_owned(), message: problem.to_string() }
    }
}

impl NewRequest {
    /// Checks everything that can be checked without looking anywhere else. `index` is the
    /// request's place in its batch: it may wait for earlier entries only. 0 outside a batch.
    pub fn validate(&self, index: usize) -> Result<(), Invalid> {
        name("worker_type", &self.worker_type)?;
        if let Some(skill) = &self.skill {
            name("skill", skill)?;
        }
        text("prompt", &self.prompt, PROMPT_BYTES)?;
        object("context", &self.context, CONTEXT_BYTES)?;
        object("config", &self.config, SETTINGS_BYTES)?;
        object("metadata", &self.metadata, SETTINGS_BYTES)?;
        if let Some(url) = &self.repo_url {
            text("repo_url", url, REFERENCE_BYTES)?;
        }
        if let Some(branch) = &self.branch {
            text("branch", branch, REFERENCE_BYTES)?;
        }
        self.validate_blockers(index)?;
        if let Some(delay) = self.delay_ms
            && delay > DELAY_MS
        {
            return Err(Invalid::new("delay_ms", format_args!("{delay} is more than 365 days")));
        }
        within("priority", self.priority, PRIORITY)?;
        if let Some(attempts) = self.max_attempts {
            within("max_attempts", attempts, ATTEMPTS)?;
        }
        if let Some(timeout) = self.timeout_ms {
            within("timeout_ms", timeout, TIMEOUT_MS)?;
        }
        if let Some(key) = &self.idempotency_key {
            idempotency_key("idempotency_key", key)?;
        }
        Ok(())
    }

    fn validate_blockers(&self, index: usize) -> Result<(), Invalid> {
        if self.blocked_by.len() > BLOCKERS {
            let given = self.blocked_by.len();
            return Err(Invalid::new(
                "blocked_by",
                format_args!("{given} requests; at most {BLOCKERS} are allowed"),
            ));
        }
        let mut seen = std::collections::HashSet::with_capacity(self.blocked_by.len());
        for Blocker { on, .. } in &self.blocked_by {
            if let BlockerRef::Entry(entry) = on
                && *entry >= index
            {
                return Err(Invalid::new(
                    "blocked_by",
                    format_args!("`#{entry}` is not an earlier entry of the batch"),
                ));
            }
            if !seen.insert(on) {
                return Err(Invalid::new("blocked_by", format_args!("`{on}` is named twice")));
            }
        }
        Ok(())
    }

    /// A digest of all that the request asks for, its idempotency key excepted: the same key with
    /// another digest is somebody's mistake.
    pub fn body_hash(&self) -> [u8; 32] {
        let keyless = Self { idempotency_key: None, ..self.clone() };
        // serde_json keeps the members of an object sorted, so equal requests serialise equally; and
        // serialising plain data into memory cannot fail.
        let body = serde_json::to_vec(&keyless).unwrap_or_default();
        Sha256::digest(&body).into()
    }
}

/// Whether it is a DNS label (RFC 1123) of at most so many characters.
pub fn is_label(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A worker type's or a skill's name: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, a DNS label, because both
/// become parts of Kubernetes names.
pub fn name(field: &str, name: &str) -> Result<(), Invalid> {
    if is_label(name, 63) {
        return Ok(());
    }
    if name.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    let shown: String = name.chars().take(63).collect();
    Err(Invalid::new(
        field,
        format_args!(
            "`{}` is not a name: lower-case letters, digits and `-`, at most 63, no `-` at either end",
            // Letters of other scripts are told apart from those that they look like.
            shown.escape_default()
        ),
    ))
}

/// A client's idempotency key: 1 to 255 characters, no control characters.
pub fn idempotency_key(field: &str, key: &str) -> Result<(), Invalid> {
    if key.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if key.chars().nth(KEY_CHARS).is_some() {
        return Err(Invalid::new(field, format_args!("longer than {KEY_CHARS} characters")));
    }
    if key.chars().any(char::is_control) {
        return Err(Invalid::new(field, "contains a control character"));
    }
    Ok(())
}

/// Text that Postgres can hold: bounded, without U+0000.
pub fn text(field: &str, text: &str, bytes: usize) -> Result<(), Invalid> {
    if text.len() > bytes {
        return Err(Invalid::new(
            field,
            format_args!("{} bytes; at most {bytes} are allowed", text.len()),
        ));
    }
    if text.contains('\0') {
        return Err(Invalid::new(field, "contains the character U+0000"));
    }
    Ok(())
}

/// A JSON object that `jsonb` can hold, of at most `bytes` as text.
pub fn object(field: &str, value: &Value, bytes: usize) -> Result<(), Invalid> {
    if !value.is_object() {
        return Err(Invalid::new(field, "must be a JSON object"));
    }
    json(field, value, bytes)
}

/// A JSON value that `jsonb` can hold: bounded in bytes and depth, no U+0000 in strings or keys.
pub fn json(field: &str, value: &Value, bytes: usize) -> Result<(), Invalid> {
    let mut left = bytes;
    // Depth-first with a stack of our own: the checked value must not choose our recursion.
    let mut todo = vec![(value, 1_usize)];
    while let Some((value, depth)) = todo.pop() {
        if depth > JSON_DEPTH {
            return Err(Invalid::new(
                field,
                format_args!("nested deeper than {JSON_DEPTH} levels"),
            ));
        }
        let mut spend = |bytes_used: usize| match left.checked_sub(bytes_used) {
            Some(rest) => {
                left = rest;
                Ok(())
            }
            None => Err(Invalid::new(field, format_args!("more than {bytes} bytes of JSON"))),
        };
        match value {
            Value::Null | Value::Bool(true) => spend(4)?,
            Value::Bool(false) => spend(5)?,
            Value::Number(number) => spend(number_bytes(field, number)?)?,
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

/// `jsonb` keeps numbers as `numeric`: 131,072 digits before the point, 16,383 after. A 64-bit
/// float or integer, which is all that a parsed [`Value`] holds, always fits, unless serde_json is
/// built to keep numbers as text; then `1e999999` would get here.
fn number_bytes(field: &str, number: &serde_json::Number) -> Result<usize, Invalid> {
    let fits = number.is_i64() || number.is_u64() || number.as_f64().is_some_and(f64::is_finite);
    if fits {
        Ok(number.to_string().len())
    } else {
        Err(Invalid::new(field, format_args!("`{number}` is too large for a number")))
    }
}

/// The numbers of a JSON text, which has been parsed, where it is kept as it is written: then `jsonb` reads
/// them again, and refuses what a parser of floats takes for 0, such as `1e-20000`.
pub fn numbers(field: &str, text: &str) -> Result<(), Invalid> {
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match first {
            b'"' => after_string(after),
            b'-' | b'0'..=b'9' => {
                let part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let end = rest.iter().position(|byte| !part(byte)).unwrap_or(rest.len());
                if !number_fits(&rest[..end]) {
                    return Err(Invalid::new(
                        field,
                        format_args!(
                            "a number has more than {NUMBER_SCALE} digits after the point, or as \
                             large an exponent"
                        ),
                    ));
                }
                &rest[end..]
            }
            _ => after,
        };
    }
    Ok(())
}

/// What follows a string whose opening quote has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    loop {
        rest = match rest {
            [b'"', after @ ..] => return after,
            [b'\\', _, after @ ..] | [_, after @ ..] => after,
            [] => return rest,
        };
    }
}

fn number_fits(number: &[u8]) -> bool {
    let most = NUMBER_SCALE as i64;
    let exponent_at = number.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (digits, exponent) = match exponent_at {
        Some(at) => (&number[..at], std::str::from_utf8(&number[at + 1..]).unwrap_or_default()),
        None => (number, "0"),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let scale = point.map_or(0, |at| digits.len() - at - 1) as i64;
    let fits = |exponent: i64| (-most..=most).contains(&exponent) && scale - exponent <= most;
    exponent.parse().is_ok_and(fits)
}

/// What somebody else has written, as it may stand in a message of ours: cut, and control characters, which
/// do things to terminals and logs, escaped.
pub(crate) fn shown(text: &str, bytes: usize) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        let before = shown.len();
        match c.is_control() {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
        if shown.len() > bytes {
            shown.truncate(before);
            break;
        }
    }
    shown
}

fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Invalid> {
    if range.contains(&value) {
        Ok(())
    } else {
        let (least, most) = range.into_inner();
        Err(Invalid::new(field, format_args!("{value} is not between {least} and {most}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(value: Value) -> NewRequest {
        serde_json::from_value(value).unwrap()
    }

    fn problem(value: Value) -> String {
        request(value).validate(0).unwrap_err().to_string()
    }

    #[test]
    fn the_smallest_request_is_valid() {
        assert_eq!(request(json!({"worker_type": "general"})).validate(0), Ok(()));
    }

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "general", "0-9", &"x".repeat(63)] {
            assert_eq!(name("skill", good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä", "a b", "a\0", &"x".repeat(64)] {
            assert!(name("skill", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn u0000_is_refused_wherever_it_hides() {
        for value in [
            json!({"worker_type": "a", "prompt": "x\0"}),
            json!({"worker_type": "a", "context": {"k": ["\0"]}}),
            json!({"worker_type": "a", "context": {"k\0": 1}}),
            json!({"worker_type": "a", "metadata": {"a": {"b\0": 1}}}),
            json!({"worker_type": "a", "branch": "\0"}),
        ] {
            assert!(problem(value).contains("U+0000"));
        }
    }

    #[test]
    fn json_is_bounded_in_depth_size_and_kind() {
        let mut deep = json!({});
        for _ in 0..JSON_DEPTH {
            deep = json!({"d": deep});
        }
        assert!(problem(json!({"worker_type": "a", "context": deep})).contains("nested"));
        assert!(problem(json!({"worker_type": "a", "context": []})).contains("object"));
        let big = json!({"worker_type": "a", "config": {"x": "y".repeat(SETTINGS_BYTES)}});
        assert!(problem(big).contains("bytes of JSON"));
    }

    #[test]
    fn numbers_that_jsonb_refuses_are_found() {
        let decimals = |count: usize| format!("{{\"a\": [0.{}]}}", "0".repeat(count));
        for text in [
            "[0, -1.5, 1e308, 1E-16383, 1.5e-16382, 0e16383, true, null]",
            r#"{"1e-20000": "1e-20000 \" 1e-20000", "\\": 1}"#,
            &decimals(16_383),
        ] {
            assert_eq!(numbers("data", text), Ok(()), "{text}");
        }
        for text in [
            "1e-16384",
            "[1.5e-16383]",
            "{\"a\": -0e-20000}",
            "[\"\\\\\", 0e2000000000]",
            "1e-99999999999999999999",
            &decimals(16_384),
        ] {
            let problem = numbers("data", text).unwrap_err().to_string();
            assert!(problem.starts_with("data: a number has more than 16383 digits"), "{problem}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_printable() {
        assert_eq!(shown("a\u{1b}[2J`é'", 20), "a\\u{1b}[2J`é'");
        assert_eq!(shown("ééé", 5), "éé");
        assert_eq!(shown("\0\0\0", 5), "\\0\\0");
    }

    #[test]
    fn numbers_are_ranged() {
        for (field, value) in [
            ("priority", json!(101)),
            ("max_attempts", json!(0)),
            ("max_attempts", json!(26)),
            ("timeout_ms", json!(99)),
            ("delay_ms", json!(DELAY_MS + 1)),
        ] {
            let mut body = json!({"worker_type": "a"});
            body[field] = value;
            assert!(problem(body).starts_with(field));
        }
    }

    #[test]
    fn a_batch_entry_waits_for_earlier_entries_only() {
        let entry = request(json!({"worker_type": "a", "blocked_by": ["#1"]}));
        assert!(entry.validate(1).is_err());
        assert_eq!(entry.validate(2), Ok(()));
        let twice = request(json!({"worker_type": "a", "blocked_by": ["#0", "#0"]}));
        assert!(twice.validate(1).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn the_key_is_no_part_of_the_body() {
        let a = request(json!({"worker_type": "a", "idempotency_key": "1"}));
        let b = request(json!({"worker_type": "a", "idempotency_key": "2"}));
        let c = request(json!({"worker_type": "b", "idempotency_key": "1"}));
        assert_eq!(a.body_hash(), b.body_hash());
        assert_ne!(a.body_hash(), c.body_hash());
    }
}
