//! Eve Horizon runs skills - WebAssembly components - on a queue of requests in Postgres, for many
//! organisations at once.
//!
//! One folder per noun; `ARCHITECTURE.md` walks a request and an upload through them.

pub mod authority;
pub mod autoscaling;
pub mod cli;
pub mod db;
pub mod delivery;
pub mod deployments;
pub mod dev;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hitl;
pub mod http;
pub mod ids;
pub mod notify;
pub mod requests;
pub mod retention;
pub mod roles;
pub mod runtime;
pub mod scheduler;
pub mod schedules;
pub mod schemas;
pub mod sealing;
pub mod skills;
pub mod telemetry;
pub mod tenancy;
#[cfg(test)]
mod testing;
pub mod worker;
pub mod worker_types;
