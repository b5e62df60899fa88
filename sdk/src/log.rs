//! Lines for people, kept with the run and shown by `eve request logs`.
//!
//! A run keeps at most 1,000 lines and 256 KiB; what goes beyond is dropped and counted.
//!
//! ```
//! use eve_sdk::prelude::*;
//!
//! # fn skill(_: Request) -> Result<Outcome, Failure> {
//! let words = 42;
//! log::info("counting");
//! log::info!("{words} words");
//! log::warn!("that took long"; words = words, seconds = 1.5);
//! # Ok(Outcome::completed("")) }
//! # let run = eve_sdk::testing::Host::new().run(skill);
//! # assert_eq!(run.lines()[1].message, "42 words");
//! # assert_eq!(run.lines()[2].fields, [("words".into(), "42".into()), ("seconds".into(), "1.5".into())]);
//! ```

use std::fmt::Display;

/// How much a line matters.
pub use crate::bindings::eve::skill::log::Level;

/// Adds a line with name-value pairs that belong to it. The macros of this module are shorter.
pub fn write(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    let fields: Vec<(String, String)> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
    crate::platform::log::log(level, message, &fields);
}

macro_rules! levels {
    ($($name:ident $level:ident $macro_name:ident $doc:literal;)*) => {$(
        #[doc = $doc]
        pub fn $name(message: impl AsRef<str>) {
            write(Level::$level, message.as_ref(), &[]);
        }

        #[doc(inline)]
        pub use crate::$macro_name as $name;
    )*};
}

levels! {
    trace Trace __log_trace "Adds a line that follows the skill step by step.";
    debug Debug __log_debug "Adds a line for whoever looks for a mistake.";
    info Info __log_info "Adds a line for whoever wants to know what was done.";
    warn Warn __log_warn "Adds a line about something that may be wrong.";
    error Error __log_error "Adds a line about something that is wrong.";
}

/// A line at level trace: `trace!("format", arguments…; name = value, …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($line:tt)+) => { $crate::__log_line!(Trace, $($line)+) };
}

/// A line at level debug: `debug!("format", arguments…; name = value, …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($line:tt)+) => { $crate::__log_line!(Debug, $($line)+) };
}

/// A line at level info: `info!("format", arguments…; name = value, …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($line:tt)+) => { $crate::__log_line!(Info, $($line)+) };
}

/// A line at level warn: `warn!("format", arguments…; name = value, …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($line:tt)+) => { $crate::__log_line!(Warn, $($line)+) };
}

/// A line at level error: `error!("format", arguments…; name = value, …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($line:tt)+) => { $crate::__log_line!(Error, $($line)+) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_line {
    ($level:ident, $format:literal $(, $argument:expr)* ; $($name:ident = $value:expr),+ $(,)?) => {
        $crate::log::write(
            $crate::log::Level::$level,
            &::std::format!($format $(, $argument)*),
            &[$((::core::stringify!($name), &$value)),+],
        )
    };
    ($level:ident, $($argument:tt)+) => {
        $crate::log::write($crate::log::Level::$level, &::std::format!($($argument)+), &[])
    };
}
