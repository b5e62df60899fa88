//! Requests: what they are, and everything that clients and guests do to one.
//!
//! Flow: [`NewRequest`]s are checked (`validate`), given ids and inserted together with their edges
//! (`create`); `delivery` claims, runs and ends them; `read` shows them; `cancel` and `retry` change
//! open and ended ones.
//!
//! Invariants:
//! - A request is a row of `eve.requests` for ever, and at any time exactly one of: a row of
//!   `eve.queue` (open), a row of `eve.orchestration_results` (ended).
//! - Every change of the graph (creating with blockers, ending, cancelling, retrying) goes through
//!   one locking routine (`graph`).

mod error;
mod model;
mod service_stand_in;

pub use error::RequestError;
pub use model::*;
pub use service_stand_in::{Created, Filter, Origin, Requests};
