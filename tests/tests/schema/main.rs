//! The schema: its migrations, its walls between organisations, and the brief's own SQL.
//!
//! Flow: [`ground`] asks the catalogue which tables belong to organisations, and gives two of them, and
//! the platform, a row of each. `privileges` holds what every role may do against a list that people have
//! read; `rows` does it, with the WHERE left out; `people` does it as Supabase lets people do it.
//! `beforehand` is what processes do while there is no such schema yet.
//!
//! Invariant: a table that somebody adds tomorrow is found in the catalogue, and fails here until it has
//! policies, a row in [`ground::furnish`], and a place in what each role sees.

mod beforehand;
mod brief;
mod ground;
mod migrating;
mod people;
mod privileges;
mod rows;
