//! Who answers: the host that runs the component or, in native tests, the fake one. Both offer the
//! functions of the contract's interfaces with the signatures that wit-bindgen gives them.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::eve::skill::{db, deploy, log, queue, request};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::fake::{db, deploy, log, queue, request};

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time of the contract: milliseconds since 1970.
pub(crate) fn time(timestamp: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(timestamp)
}

/// A length of time as the contract has it: milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
