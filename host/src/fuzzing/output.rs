//! What a run hands back: `runtime/verdict.rs`.

use std::sync::LazyLock;

use serde_json::Value;

use super::Seen;
use super::boundary::has_nul;
use crate::requests::FailureCode;
use crate::runtime::bindings::eve::skill::types;
use crate::runtime::limits::{self, MemoryAccount, MemoryBudget};
use crate::runtime::{Verdict, verdict};

static ACCOUNT: LazyLock<MemoryAccount> =
    LazyLock::new(|| MemoryAccount::open(&MemoryBudget::new(0), 0));

/// A line of tokens used, one of what it cost, one of summary, and data.
pub fn output(data: &[u8]) -> Seen {
    let Ok(text) = std::str::from_utf8(data) else { return Seen::Refused };
    let mut parts = text.splitn(4, '\n');
    let tokens_used = parts.next().and_then(|line| line.parse().ok());
    let cost = parts.next().and_then(|line| line.parse().ok());
    let summary = parts.next().unwrap_or_default().to_owned();
    let data = parts.next().map(str::to_owned);
    failures_are_cut(&summary);

    let given = types::Output { summary, data, tokens_used, cost };
    let ended = Ok(Ok(types::Outcome::Completed(given.clone())));
    match verdict::of(ended, &ACCOUNT) {
        Verdict::Completed(kept) => {
            assert_eq!((&kept.summary, &kept.data), (&given.summary, &given.data));
            assert_eq!(kept.tokens_used.map(|tokens| tokens as u64), given.tokens_used);
            assert_eq!(kept.cost, given.cost);
            assert!(kept.summary.len() <= limits::OUTPUT_SUMMARY && !kept.summary.contains('\0'));
            assert!(kept.cost.is_none_or(|cost| cost >= 0.0 && cost.is_finite()));
            if let Some(data) = &kept.data {
                assert!(data.len() <= limits::OUTPUT_DATA);
                jsonb_takes(data);
            }
            Seen::Accepted
        }
        Verdict::Failed { code, message, retryable } => {
            let ours = [FailureCode::OutputInvalid, FailureCode::OutputTooLarge];
            assert!(ours.contains(&code) && !retryable && is_storable(&message), "{message:?}");
            Seen::Refused
        }
        Verdict::Waiting { .. } => panic!("it completed"),
    }
}

fn failures_are_cut(said: &str) {
    // Past the limit, and in the middle of a character.
    let long = said.repeat(2 + limits::MESSAGE / said.len().max(1));
    for message in [said.to_owned(), format!("x{long}"), long] {
        let failure = types::Failure::Permanent(message);
        match verdict::of(Ok(Err(failure)), &ACCOUNT) {
            Verdict::Failed { message, .. } => assert!(is_storable(&message), "{message:?}"),
            other => panic!("{other:?}"),
        }
    }
}

fn is_storable(message: &str) -> bool {
    message.len() <= limits::MESSAGE && !message.contains('\0')
}

/// Postgres casts the text itself, which knows more ways to refuse than a parser of JSON. The numbers are
/// its own: `numeric` has at most 16,383 digits after the point, and 131,072 before.
fn jsonb_takes(text: &str) {
    let value: Value = serde_json::from_str(text).expect("JSON");
    assert!(depth(&value) <= 64, "it is nested deeply");
    assert!(!has_nul(&value), "it has U+0000");
    for number in numbers(text) {
        let (digits, exponent) = match number.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse().expect("a small exponent")),
            None => (number, 0_i64),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        assert!(fraction.len() as i64 - exponent <= 16_383, "{number}");
        assert!(whole.len() as i64 + exponent <= 131_072, "{number}");
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

/// The numbers of a JSON text: what looks like one, once strings are out of the way.
fn numbers(text: &str) -> Vec<&str> {
    let mut outside = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('"') {
        outside.push(&rest[..open]);
        let inside = &rest[open + 1..];
        let mut escaped = false;
        let close = inside.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        rest = &inside[close.expect("the end of a string") + 1..];
    }
    outside.push(rest);
    let no_number = |c: char| !(c.is_ascii_digit() || "+-.eE".contains(c));
    let words = outside.into_iter().flat_map(|text| text.split(no_number));
    // What is left of `true` and `false` has no digit.
    words.filter(|word| word.contains(|c: char| c.is_ascii_digit())).collect()
}
