//! Requests: what they are, and everything that changes one.

mod model;
pub mod validate;

pub use model::*;
