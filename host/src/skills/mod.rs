//! Skills: what is uploaded, and how it becomes something that a worker can run.
//!
//! Flow: SKILL.md is read (`manifest`); the component is checked and compiled in a child process
//! (`compile`); the machine code is loaded once for its fit, signed and packed (`artifact`), stored
//! and made active (`upload`, `store`). A worker fetches an active artifact once, verifies it and maps it
//! (`loader`, `artifact`), if it imports no more than is granted (`capabilities`).
//!
//! Invariants:
//! - Bytes of a guest are parsed and compiled in a child with CPU, memory and time limits only.
//! - Machine code is mapped only after a signature over it, its origin and the engine it was made
//!   for has been verified through the very descriptor that is mapped.
//! - A version never changes: another content is another version.

pub mod artifact;
pub mod capabilities;
pub mod compile;
pub mod loader;
pub mod manifest;
pub mod store;
pub mod upload;
