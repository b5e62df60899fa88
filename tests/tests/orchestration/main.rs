//! Orchestrations, end to end: real workers, real components, real Postgres.

mod waking;
