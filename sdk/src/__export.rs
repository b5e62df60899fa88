//! What `#[eve_sdk::skill]` expands to uses this. Not for authors, and no part of the API.

pub use crate::bindings::eve::skill::types::{Failure, Outcome};
pub use crate::bindings::export_skill;
pub use crate::bindings::exports::eve::skill::handler::Guest;

/// Runs the skill once, and turns what it returns into the contract's terms.
pub fn run(
    skill: fn(crate::Request) -> Result<crate::Outcome, crate::Failure>,
) -> Result<Outcome, Failure> {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(log_panic));
    skill(crate::Request::current()).and_then(crate::Outcome::into_contract).map_err(Failure::from)
}

/// A panic ends in a trap that says nothing; the run's log gets what it would have printed.
#[cfg(target_arch = "wasm32")]
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message =
        match (panic.payload().downcast_ref::<&str>(), panic.payload().downcast_ref::<String>()) {
            (Some(message), _) => message,
            (None, Some(message)) => message.as_str(),
            (None, None) => "no message",
        };
    match panic.location() {
        Some(location) => crate::log::write(
            crate::log::Level::Error,
            &format!("panicked: {message}"),
            &[("location", &format_args!("{}:{}", location.file(), location.line()))],
        ),
        None => crate::log::error(format!("panicked: {message}")),
    }
}
