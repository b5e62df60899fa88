//! Requests: what they are, and everything that clients and guests do to one.
//!
//! Flow: [`NewRequest`]s are checked (`validate`), given ids (`create`) and inserted together with their
//! edges (`insert`); `delivery` claims, runs and ends them; `read` shows them; `cancel` and `retry` change
//! open and ended ones.
//!
//! Invariants:
//! - A request is a row of `eve.requests` until retention deletes it, and until then exactly one of: a row of
//!   `eve.queue` (open), a row of `eve.orchestration_results` (ended).
//! - Every change of the graph (creating with blockers, ending, cancelling, retrying) goes through
//!   one locking routine (`graph`); so does whatever an orchestration hears (`orchestration`).

mod cancel;
pub(crate) mod children;
pub(crate) mod create;
mod error;
pub(crate) mod graph;
pub(crate) mod insert;
mod model;
pub(crate) mod orchestration;
pub(crate) mod read;
mod retry;
mod tree;
mod usage;
pub mod validate;

use crate::db::Db;
use crate::notify::Bell;
use crate::tenancy::Actor;

pub use create::MAX_BATCH;
pub use error::RequestError;
pub use graph::Ripple;
pub use model::*;
pub use read::Filter;
pub use tree::{Node, Tree};
pub use usage::{RequestDetails, TreeUsage, Usage};
pub use validate::Invalid;

/// Everything that members and guests do with requests.
#[derive(Clone, Debug)]
pub struct Requests {
    pub(crate) db: Db,
    pub(crate) bell: Bell,
}

/// On whose behalf requests are created.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Who creates them.
    pub actor: Actor,
    /// The schedule that creates them, by name.
    pub schedule: Option<String>,
}

/// What a creation made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The requests, in the order in which they were asked for.
    pub requests: Vec<Request>,
    /// Whether an earlier call with the same idempotency key had made them.
    pub replayed: bool,
}

impl Requests {
    /// On the given database, ringing the given bell.
    pub fn new(db: Db, bell: Bell) -> Requests {
        Requests { db, bell }
    }
}
