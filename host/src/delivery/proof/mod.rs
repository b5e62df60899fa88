//! The proof of section 2 of the design, on a real Postgres.
//!
//! [`walk`] runs random operations side by side on the database ([`machine`]) and on a small model of
//! the design ([`model`]), and compares everything ([`facts`]) after each. [`races`] interleaves
//! transactions by hand, and looks at the [`invariants`] afterwards.
//!
//! `EVE_MODEL_CASES=20000 cargo test -p eve-host --lib proof::walk` walks for longer.

mod facts;
mod invariants;
mod machine;
mod model;
mod operations;
mod races;
mod walk;
