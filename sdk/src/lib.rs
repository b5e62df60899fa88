//! What the author of a skill imports.
//!
//! A skill is one function. It gets a [`Request`], and returns an [`Outcome`] or a [`Failure`];
//! between the two it may look at and create other requests ([`queue`]), keep state ([`db`]), look at
//! and change what is deployed ([`deploy`]) and write [`log`] lines. What it asks for is committed together with its outcome: a run that fails leaves nothing behind.
//!
//! ```
//! use eve_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Context {
//!     text: String,
//! }
//!
//! #[derive(Deserialize)]
//! struct Stats {
//!     words: u64,
//! }
//!
//! #[eve_sdk::skill]
//! fn run(request: Request) -> Result<Outcome, Failure> {
//!     match request.trigger() {
//!         Trigger::Initial => {
//!             let Context { text } = request.context()?;
//!             for part in text.split("\n\n") {
//!                 queue::request("general").skill("text-stats").context(&json!({ "text": part })).reply_to_me().create()?;
//!             }
//!             Ok(Outcome::waiting())
//!         }
//!         _ if queue::children()?.iter().any(|child| child.is_open()) => Ok(Outcome::waiting()),
//!         _ => {
//!             let words: u64 = queue::children()?.iter().filter_map(|child| child.output::<Stats>().ok()).map(|s| s.words).sum();
//!             Ok(Outcome::completed(format!("{words} words")).data(&json!({ "words": words })))
//!         }
//!     }
//! }
//!
//! // `cargo test` runs it without WebAssembly, against a fake host:
//! let first = eve_sdk::testing::Host::new().context(json!({ "text": "one two\n\nthree" })).run(run);
//! assert!(first.is_waiting());
//! assert_eq!(first.created().len(), 2);
//! ```
//!
//! Flow: the attribute [`skill`] exports the function through `__export`; every module calls the
//! platform through `platform`, which is the generated `bindings` on WebAssembly and the fake host
//! of [`testing`] elsewhere.
//!
//! Invariants:
//! - Nothing is called that the skill did not ask for: an interface that it does not use is not
//!   imported by its component, and so needs no grant. `request` and `log` are the exceptions.
//! - A mistake in a builder is kept and reported by the call that ends it (`create`, or the return
//!   of an outcome), so that building reads as one chain.
//! - Without `std`'s input and output nothing of WASI is imported on `wasm32-unknown-unknown`.
#![deny(missing_docs)]

#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
mod allocator;
#[doc(hidden)]
pub mod bindings;
mod data;
mod error;
mod outcome;
mod platform;
mod request;

#[doc(hidden)]
pub mod __export;
pub mod db;
pub mod deploy;
pub mod log;
pub mod prelude;
pub mod queue;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use data::DataError;
pub use error::Error;
pub use outcome::{Failure, Outcome};
pub use request::{
    Answer, Completion, DeploymentId, QuestionId, Request, RequestId, Settlement, Trigger,
};

/// Makes a function the skill that the component exports.
///
/// ```
/// use eve_sdk::prelude::*;
///
/// #[eve_sdk::skill]
/// fn run(request: Request) -> Result<Outcome, Failure> {
///     Ok(Outcome::completed(request.prompt()))
/// }
/// # assert_eq!(eve_sdk::testing::Host::new().prompt("hello").run(run).summary(), "hello");
/// ```
pub use eve_sdk_macros::skill;

/// The migrations of a folder beside `Cargo.toml`, embedded: its files `NNNN_name.sql`, by number.
///
/// ```ignore
/// db::schema("guests").migrate(&eve_sdk::migrations!("migrations"))?;
/// ```
pub use eve_sdk_macros::migrations;

/// The pages for authors: their code is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/skills.md")]
struct Pages;
