//! What a new question must look like, before anything else is asked about it.
//!
//! Pure, as [`crate::requests::validate`] is: the same checks for HTTP and for guests.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::NewQuestion;
use crate::requests::Invalid;
use crate::requests::validate::{object, text};

/// What is asked, in words: 16 KiB, five pages that somebody has to read.
pub const QUESTION_BYTES: usize = 16 << 10;
/// Answers to choose from: more than that is no choice that a person makes.
pub const OPTIONS: usize = 100;
/// One answer to choose from, in characters: it is shown on a button or in a list.
pub const OPTION_CHARS: usize = 256;
/// What helps to answer, as much as a request's settings.
pub const DETAILS_BYTES: usize = 64 << 10;
/// How long a question stays open: a second to 30 days.
pub const EXPIRES_MS: RangeInclusive<u64> = 1_000..=30 * 24 * 3_600 * 1_000;
/// How long it stays open if nothing was said: 24 hours.
pub const EXPIRES_MS_DEFAULT: u64 = 24 * 3_600 * 1_000;

impl NewQuestion {
    /// Checks everything that can be checked without looking anywhere else.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.question.is_empty() {
            return Err(Invalid::new("question", "must not be empty"));
        }
        text("question", &self.question, QUESTION_BYTES)?;
        self.validate_options()?;
        object("details", &self.details, DETAILS_BYTES)?;
        if let Some(ms) = self.expires_in_ms
            && !EXPIRES_MS.contains(&ms)
        {
            return Err(Invalid::new(
                "expires_in_ms",
                format_args!("{ms} is not between a second and 30 days"),
            ));
        }
        Ok(())
    }

    fn validate_options(&self) -> Result<(), Invalid> {
        let given = self.options.len();
        if given > OPTIONS {
            return Err(Invalid::new(
                "options",
                format_args!("{given} answers; at most {OPTIONS} are allowed"),
            ));
        }
        let mut seen = HashSet::with_capacity(given);
        for option in &self.options {
            if option.is_empty() {
                return Err(Invalid::new("options", "an answer must not be empty"));
            }
            if option.chars().nth(OPTION_CHARS).is_some() {
                return Err(Invalid::new(
                    "options",
                    format_args!("an answer has more than {OPTION_CHARS} characters"),
                ));
            }
            text("options", option, usize::MAX)?;
            if !seen.insert(option) {
                return Err(Invalid::new(
                    "options",
                    format_args!("`{}` stands there twice", option.escape_debug()),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(body: Value) -> Result<(), String> {
        let question: NewQuestion = serde_json::from_value(body).unwrap();
        question.validate().map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_question_needs_only_its_text() {
        assert_eq!(check(json!({"question": "?"})), Ok(()));
        assert_eq!(check(json!({"question": "ä".repeat(QUESTION_BYTES / 2)})), Ok(()));
    }

    #[test]
    fn the_bounds_are_inclusive() {
        let options: Vec<String> =
            (0..OPTIONS).map(|n| format!("{n:ä>width$}", width = OPTION_CHARS)).collect();
        for expires in [*EXPIRES_MS.start(), EXPIRES_MS_DEFAULT, *EXPIRES_MS.end()] {
            let body = json!({"question": "?", "options": options, "expires_in_ms": expires});
            assert_eq!(check(body), Ok(()));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<String> = (0..=OPTIONS).map(|n| n.to_string()).collect();
        for (field, value, said) in [
            ("question", json!(""), "empty"),
            ("question", json!("x".repeat(QUESTION_BYTES + 1)), "bytes"),
            ("question", json!("a\0"), "U+0000"),
            ("options", json!(many), "101 answers"),
            ("options", json!([""]), "empty"),
            ("options", json!(["ä".repeat(OPTION_CHARS + 1)]), "256 characters"),
            ("options", json!(["\0"]), "U+0000"),
            ("options", json!(["yes", "no", "yes"]), "`yes` stands there twice"),
            ("details", json!([]), "object"),
            ("details", json!({"x": "y".repeat(DETAILS_BYTES)}), "bytes of JSON"),
            ("details", json!({"a": {"b\0": 1}}), "U+0000"),
            ("expires_in_ms", json!(999), "a second"),
            ("expires_in_ms", json!(EXPIRES_MS.end() + 1), "30 days"),
        ] {
            let mut body = json!({"question": "?"});
            body[field] = value;
            let problem = check(body).unwrap_err();
            assert!(problem.starts_with(&format!("{field}: ")), "{problem}");
            assert!(problem.contains(said), "{problem}");
        }
    }
}
