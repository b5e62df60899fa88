//! `eve dev`: the whole platform in one process, on a Postgres of its own.

pub mod bootstrap;
pub mod postgres;
