//! What must hold of everything that parses what guests and clients send.
//!
//! Flow: a target is one function here. It hands bytes to the code in question and panics where the
//! answer is not what it must be. `fuzz/` runs targets under libFuzzer, for as long as one likes; `run`
//! runs all of them in the test suite, with a seed, on `fuzz/corpus` and mutations of it.
//!
//! Invariants:
//! - No part of the product: there for tests and with the feature `fuzzing` only.
//! - A target says what must hold of the answer, not only that there is one. What was found once is in
//!   the corpus, by a name that says what it was.
//! - The same bytes take the same way: no network, no file, no clock that the corpus could outlive.

mod boundary;
mod credentials;
#[path = "../http/cursor.rs"]
#[allow(clippy::duplicate_mod, reason = "`http` keeps it to itself")]
mod cursor_source;
mod cursors;
mod manifests;
#[cfg(test)]
mod mutate;
mod output;
mod problem {
    pub use crate::http::Problem;
}
#[cfg(test)]
mod run;
mod statements;
mod times;
mod uploads;
mod values;

pub use boundary::boundary;
pub use credentials::{jwt, token};
pub use cursors::cursor;
pub use manifests::manifest;
pub use output::output;
pub use statements::statement;
pub use times::{cron, duration};
pub use uploads::{import, upload};
pub use values::value;

/// What the code in question made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It took it.
    Accepted,
    /// It said what is wrong with it.
    Refused,
}

/// What is said of hostile input is there, is short, and does nothing to a terminal, a log or Postgres.
fn is_presentable(said: &str, bytes: usize) {
    assert!(!said.is_empty(), "nothing is said");
    assert!(said.len() <= bytes, "{} bytes are said: {said:?}", said.len());
    assert!(!said.chars().any(char::is_control), "control characters are said: {said:?}");
}
