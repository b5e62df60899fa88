//! `eve dev`: the whole platform in one process, on a Postgres of its own.

pub mod bootstrap;
pub mod certificate;
mod key;
pub mod postgres;

pub use key::key;
