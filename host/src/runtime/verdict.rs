//! Judges how a run ended: checks what it returned, and tells apart the ways in which it can fail.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::bindings::eve::skill::types;
use super::capabilities::log::{cut, storable};
use super::limits::{self, MemoryAccount, Refusal};
use super::{HostFailure, Output, Verdict};
use crate::requests::FailureCode;
use crate::requests::validate;

/// Functions named in the message of a trap, innermost first: enough to find the place.
const FRAMES: usize = 8;

/// A failure, its message made fit to be stored.
pub(super) fn failed(code: FailureCode, message: String, retryable: bool) -> Verdict {
    Verdict::Failed { code, message: storable(cut(&message, limits::MESSAGE)), retryable }
}

/// The verdict on what a call of `run` returned.
pub(crate) fn of(
    result: wasmtime::Result<Result<types::Outcome, types::Failure>>,
    account: &MemoryAccount,
) -> Verdict {
    match result {
        Ok(Ok(types::Outcome::Completed(output))) => completed(output),
        Ok(Ok(types::Outcome::Waiting(wait))) => {
            Verdict::Waiting { deadline: wait.deadline.map(Duration::from_millis) }
        }
        Ok(Err(types::Failure::Retryable(message))) => failed(FailureCode::Failed, message, true),
        Ok(Err(types::Failure::Permanent(message))) => failed(FailureCode::Failed, message, false),
        Err(error) => broken(&error, account),
    }
}

fn completed(output: types::Output) -> Verdict {
    match checked(output) {
        Ok(output) => Verdict::Completed(output),
        Err((code, message)) => failed(code, message, false),
    }
}

fn checked(output: types::Output) -> Result<Output, (FailureCode, String)> {
    let too_large = |what: &str, bytes: usize, most: usize| {
        let message = format!("the output's {what} has {bytes} bytes; at most {most} are kept");
        (FailureCode::OutputTooLarge, message)
    };
    let invalid = |message: String| (FailureCode::OutputInvalid, message);

    let types::Output { summary, data, tokens_used, cost } = output;
    if summary.len() > limits::OUTPUT_SUMMARY {
        return Err(too_large("summary", summary.len(), limits::OUTPUT_SUMMARY));
    }
    validate::text("summary", &summary, usize::MAX)
        .map_err(|problem| invalid(problem.to_string()))?;
    if let Some(data) = &data {
        if data.len() > limits::OUTPUT_DATA {
            return Err(too_large("data", data.len(), limits::OUTPUT_DATA));
        }
        let value: Value = serde_json::from_str(data)
            .map_err(|error| invalid(format!("data: not valid JSON: {error}")))?;
        validate::json("data", &value, usize::MAX)
            .and_then(|()| validate::numbers("data", data))
            .map_err(|problem| invalid(problem.to_string()))?;
    }
    let tokens_used = tokens_used
        .map(i64::try_from)
        .transpose()
        .map_err(|_| invalid("tokens_used: more than 2^63 - 1".into()))?;
    if let Some(cost) = cost
        && !(cost.is_finite() && cost >= 0.0)
    {
        return Err(invalid(format!("cost: {cost} is not a sum of money")));
    }
    Ok(Output { summary, data, tokens_used, cost })
}

/// The verdict on a call that did not return.
///
/// What the same input would do again is permanent: using up CPU, memory or stack, and exiting. A
/// trap may have been a panic about something that has passed, so it is worth another attempt.
fn broken(error: &wasmtime::Error, account: &MemoryAccount) -> Verdict {
    if let Some(failure) = error.downcast_ref::<HostFailure>() {
        tracing::error!(error = failure as &dyn std::error::Error, "a host function failed");
        return failed(FailureCode::Internal, "the platform failed, not the skill".into(), true);
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return failed(FailureCode::OutOfCapacity, "the worker has no slot left".into(), true);
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::StackOverflow) {
        let kib = limits::WASM_STACK >> 10;
        return failed(
            FailureCode::StackOverflow,
            place(format!("the skill's stack grew past {kib} KiB"), error),
            false,
        );
    }
    if trap == Some(&Trap::MemoryOutOfBounds) && is_bottomless(error) {
        return failed(
            FailureCode::StackOverflow,
            place("the stack that the skill keeps in its memory is used up".into(), error),
            false,
        );
    }
    match account.refusal() {
        Some(Refusal::Budget) => {
            let message = "the worker has no memory left for this run".into();
            return failed(FailureCode::OutOfCapacity, message, true);
        }
        Some(Refusal::Limit) => {
            let message = format!(
                "the skill had {} KiB of memory and wanted more; it may have {} KiB",
                account.peak() >> 10,
                account.limit() >> 10
            );
            return failed(FailureCode::MemoryExhausted, place(message, error), false);
        }
        None => {}
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let message = format!("the skill called exit({}) instead of returning", exit.0);
        return failed(FailureCode::Trapped, message, false);
    }
    let cause = error.root_cause().to_string();
    // wasmtime has no type for either of these. Without wasm on the stack, it was the result that
    // could not be read.
    let too_much = cause.contains("fuel allocated for hostcalls has been exhausted");
    let most = limits::HOSTCALL_FUEL >> 20;
    let in_wasm = trap.is_some() || error.downcast_ref::<WasmBacktrace>().is_some();
    match (in_wasm, too_much) {
        (false, true) => {
            let message = format!("the output takes more than {most} MiB");
            failed(FailureCode::OutputTooLarge, message, false)
        }
        (false, false) => {
            let message = format!("the output cannot be read: {cause}");
            failed(FailureCode::OutputInvalid, message, false)
        }
        (true, true) => {
            let message = format!("the skill passed more than {most} MiB to the host in one call");
            failed(FailureCode::Trapped, place(message, error), false)
        }
        (true, false) => {
            let cause = cause.strip_prefix("wasm trap: ").unwrap_or(&cause);
            failed(FailureCode::Trapped, place(format!("the skill trapped: {cause}"), error), true)
        }
    }
}

/// The verdict on a skill that could not even be instantiated.
pub(super) fn unstartable(error: &wasmtime::Error, account: &MemoryAccount) -> Verdict {
    let guests_own = error.downcast_ref::<Trap>().is_some()
        || error.downcast_ref::<WasmBacktrace>().is_some()
        || error.downcast_ref::<PoolConcurrencyLimitError>().is_some()
        || account.refusal().is_some();
    if guests_own {
        return broken(error, account);
    }
    tracing::warn!(error = format!("{error:#}"), "a skill could not be started");
    let message = format!("the skill could not be started: {}", error.root_cause());
    failed(FailureCode::SkillUnloadable, message, true)
}

/// Whether the guest was in recursion without end. Compilers keep what has an address on a stack in
/// linear memory, at its very beginning, so that running off it is an access out of bounds: if that
/// happens hundreds of calls deep, the stack is what ran out.
fn is_bottomless(error: &wasmtime::Error) -> bool {
    error
        .downcast_ref::<WasmBacktrace>()
        .is_some_and(|backtrace| backtrace.frames().len() >= limits::BACKTRACE_FRAMES)
}

/// `message`, and where in the guest it happened, as far as the guest's functions have names.
fn place(mut message: String, error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return message };
    let mut names: Vec<&str> = backtrace
        .frames()
        .iter()
        .filter_map(|frame| {
            let symbol = frame.symbols().first().and_then(|symbol| symbol.name());
            symbol.or_else(|| frame.func_name())
        })
        .collect();
    // Recursion says the same thing again and again.
    names.dedup();
    for name in names.into_iter().take(FRAMES) {
        // Names are the guest's own; writing to a string cannot fail.
        let _ = write!(message, "\n  in {}", cut(name, 200).escape_debug());
    }
    message
}
