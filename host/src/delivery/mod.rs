//! Delivery: from a pending row to a run, and from a run's report to a result. At-least-once runs,
//! exactly-once results.
//!
//! Flow: [`claim`] takes a fair batch under a lease; a worker runs it; [`finish`] writes the outcomes,
//! guarded by the lease; [`lease`] keeps the worker's heartbeat, and gives up on workers that have
//! none. One commit completes batch n and claims batch n+1.
//!
//! Invariants:
//! - Whoever writes an outcome holds the lease: a row whose `(worker_id, lease)` is not what the worker
//!   was given is not touched, so a worker that was given up for dead can do no more damage.
//! - Organisation ids come from leased rows by RETURNING, never from a worker's memory.
//! - Nothing here waits for a lock while holding others out of order: the fast path skips locked
//!   rows, everything else goes through `requests::graph`.

pub mod claim;
pub mod finish;
pub mod guest;
pub mod guest_db;
pub mod guest_deploy;
pub mod lease;

#[cfg(test)]
mod proof;
