//! Small guests for tests, written by hand as component text: what a compiler would never produce.

/// Where a guest's `run` leaves what it returns. Memory is zero there at first, and all zeroes are
/// `ok(completed({summary: ""}))`.
pub const RESULT: u32 = 1_024;

/// A component that exports the handler. `imports` are component imports and lowered functions,
/// `with` passes them to the core module, `core` is the module's content besides memory and
/// `realloc`, and `pages` its initial memory.
pub fn skill(imports: &str, with: &str, core: &str, pages: u32) -> Vec<u8> {
    lifted(imports, with, core, pages, "")
}

/// The same with further options for what lifts `run`, such as `(post-return (func $main "post"))`.
pub fn lifted(imports: &str, with: &str, core: &str, pages: u32, options: &str) -> Vec<u8> {
    let types = r#"
        (type $output-0 (record
            (field "summary" string) (field "data" (option string))
            (field "tokens-used" (option u64)) (field "cost" (option f64))))
        (type $wait-0 (record (field "deadline" (option u64))))
    "#;
    let text = format!(
        r#"(component $root
            (core module $libc
                (memory (export "memory") {pages})
                (global $next (mut i32) (i32.const 32768))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (global.set $next (i32.and
                        (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                    (global.get $next)
                    (global.set $next (i32.add (global.get $next) (local.get 3)))))
            (core instance $libc (instantiate $libc))
            (alias core export $libc "memory" (core memory $memory))
            (alias core export $libc "realloc" (core func $realloc))
            {imports}
            (core module $main
                (import "libc" "memory" (memory 0))
                {core})
            (core instance $main (instantiate $main (with "libc" (instance $libc)) {with}))
            {types}
            (type $outcome-0 (variant (case "completed" $output-0) (case "waiting" $wait-0)))
            (type $failure-0 (variant (case "retryable" string) (case "permanent" string)))
            (alias core export $main "run" (core func $core-run))
            (func $run (result (result $outcome-0 (error $failure-0)))
                (canon lift (core func $core-run) (memory $memory) (realloc $realloc) {options}))
            (component $handler
                {types}
                (import "output" (type $output (eq $output-0)))
                (import "wait" (type $wait (eq $wait-0)))
                (type $outcome-1 (variant (case "completed" $output) (case "waiting" $wait)))
                (import "outcome" (type $outcome (eq $outcome-1)))
                (type $failure-1 (variant (case "retryable" string) (case "permanent" string)))
                (import "failure" (type $failure (eq $failure-1)))
                (import "run" (func $run (result (result $outcome (error $failure)))))
                (export $output-e "output" (type $output))
                (export $wait-e "wait" (type $wait))
                (type $outcome-2 (variant (case "completed" $output-e) (case "waiting" $wait-e)))
                (export $outcome-e "outcome" (type $outcome) (type (eq $outcome-2)))
                (export $failure-e "failure" (type $failure))
                (export "run" (func $run)
                    (func (result (result $outcome-e (error $failure-e))))))
            (instance $exported (instantiate $handler
                (with "output" (type $output-0)) (with "wait" (type $wait-0))
                (with "outcome" (type $outcome-0)) (with "failure" (type $failure-0))
                (with "run" (func $run))))
            (export "eve:skill/handler@0.1.0" (instance $exported)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A guest without imports whose `run` has this body.
pub fn body(instructions: &str) -> Vec<u8> {
    skill("", "", &format!(r#"(func (export "run") (result i32) {instructions})"#), 1)
}

/// Returns at once, with an empty output.
pub fn noop() -> Vec<u8> {
    body(&format!("(i32.const {RESULT})"))
}

/// Stores 32-bit words into its result, at these offsets, and returns it.
pub fn returning(words: &[(u32, u32)]) -> Vec<u8> {
    let stores: String = words
        .iter()
        .map(|(offset, word)| {
            format!("(i32.store (i32.const {}) (i32.const {}))", RESULT + offset, *word as i32)
        })
        .collect();
    body(&format!("{stores} (i32.const {RESULT})"))
}

/// Returns this text as its output's data.
pub fn returning_data(data: &str) -> Vec<u8> {
    let escaped: String = data.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    skill(
        "",
        "",
        &format!(
            r#"(data (i32.const 4096) "{escaped}")
               (func (export "run") (result i32)
                   (i32.store8 (i32.const {}) (i32.const 1))
                   (i32.store (i32.const {}) (i32.const 4096))
                   (i32.store (i32.const {}) (i32.const {}))
                   (i32.const {RESULT}))"#,
            RESULT + 24,
            RESULT + 28,
            RESULT + 32,
            data.len(),
        ),
        1,
    )
}

/// Computes for ever.
pub fn spin() -> Vec<u8> {
    body("(loop $again (br $again)) (unreachable)")
}

/// Calls itself for ever.
pub fn recurse() -> Vec<u8> {
    skill(
        "",
        "",
        r#"(func $deeper (param i64 i64 i64 i64) (result i64)
               (i64.add (i64.const 1)
                   (call $deeper (local.get 3) (local.get 2) (local.get 1) (local.get 0))))
           (func (export "run") (result i32)
               (i32.wrap_i64
                   (call $deeper (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))))"#,
        1,
    )
}

/// Grows its memory, a mebibyte at a time, and traps when it is refused.
pub fn grow() -> Vec<u8> {
    body(
        "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
         (unreachable)",
    )
}

/// Begins with this many 64 KiB pages of memory.
pub fn with_pages(pages: u32) -> Vec<u8> {
    let run = format!(r#"(func (export "run") (result i32) (i32.const {RESULT}))"#);
    skill("", "", &run, pages)
}

/// The imports that logging takes, lowered and passed to the core module.
pub const LOGGING: &str = r#"
    (import "eve:skill/log@0.1.0" (instance $log
        (type $level-0 (enum "trace" "debug" "info" "warn" "error"))
        (export "level" (type $level (eq $level-0)))
        (export "log" (func (param "level" $level) (param "message" string)
            (param "fields" (list (tuple string string)))))))
    (alias export $log "log" (func $log-log))
    (core func $core-log (canon lower (func $log-log) (memory $memory)))"#;

/// A guest that can log: `core` finds the function as `$log`.
pub fn logging(core: &str, pages: u32) -> Vec<u8> {
    let core = format!(r#"(import "host" "log" (func $log (param i32 i32 i32 i32 i32))) {core}"#);
    skill(LOGGING, r#"(with "host" (instance (export "log" (func $core-log))))"#, &core, pages)
}

/// Logs the same line for ever.
pub fn log_flood() -> Vec<u8> {
    logging(
        r#"(data (i32.const 4096) "hello")
           (func (export "run") (result i32)
               (loop $again
                   (call $log (i32.const 2) (i32.const 4096) (i32.const 5)
                       (i32.const 0) (i32.const 0))
                   (br $again))
               (unreachable))"#,
        1,
    )
}

/// Calls itself for ever, and the host on every level.
pub fn recurse_through_the_host() -> Vec<u8> {
    logging(
        r#"(func $deeper (param i64) (result i64)
               (call $log (i32.const 2) (i32.const 4096) (i32.const 5)
                   (i32.const 0) (i32.const 0))
               (i64.add (local.get 0) (call $deeper (local.get 0))))
           (func (export "run") (result i32) (i32.wrap_i64 (call $deeper (i64.const 1))))"#,
        1,
    )
}

/// The imports of WASI that printing takes.
const PRINTING: &str = r#"
    (import "wasi:io/error@0.2.0" (instance $io-error
        (export "error" (type (sub resource)))))
    (alias export $io-error "error" (type $error))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (alias outer $root $error (type $error-0))
        (export "error" (type $error (eq $error-0)))
        (export "output-stream" (type $stream (sub resource)))
        (type $failure-0 (variant (case "last-operation-failed" (own $error)) (case "closed")))
        (export "stream-error" (type $failure (eq $failure-0)))
        (export "[method]output-stream.blocking-write-and-flush"
            (func (param "self" (borrow $stream)) (param "contents" (list u8))
                (result (result (error $failure)))))))
    (alias export $streams "output-stream" (type $output-stream))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer $root $output-stream (type $stream-0))
        (export "output-stream" (type $stream (eq $stream-0)))
        (export "get-stdout" (func (result (own $stream))))))
    (alias export $streams "[method]output-stream.blocking-write-and-flush" (func $write))
    (core func $core-write (canon lower (func $write) (memory $memory)))
    (alias export $stdout "get-stdout" (func $get-stdout))
    (core func $core-get-stdout (canon lower (func $get-stdout)))"#;

/// Prints two lines to standard output, `times` times; for ever if that is 0.
pub fn print(times: u32) -> Vec<u8> {
    skill(
        PRINTING,
        r#"(with "host" (instance
               (export "write" (func $core-write)) (export "stdout" (func $core-get-stdout))))"#,
        &format!(
            r#"(import "host" "write" (func $write (param i32 i32 i32 i32)))
               (import "host" "stdout" (func $stdout (result i32)))
               (data (i32.const 4096) "one\ntwo\n")
               (func (export "run") (result i32)
                   (local $stream i32) (local $left i32)
                   (local.set $stream (call $stdout))
                   (local.set $left (i32.const {times}))
                   (loop $again
                       (call $write (local.get $stream) (i32.const 4096) (i32.const 8)
                           (i32.const 2048))
                       (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                       (br_if $again (local.get $left)))
                   (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// Asks for this many random bytes at once.
pub fn random(bytes: u64) -> Vec<u8> {
    random_of("wasi:random/random@0.2.0", "get-random-bytes", bytes, Times::One)
}

/// A few at a time, again and again; there is room for more of them than it has time for.
pub fn random_flood() -> Vec<u8> {
    random_of("wasi:random/random@0.2.0", "get-random-bytes", 16, Times::ForEver)
}

enum Times {
    One,
    ForEver,
}

/// The same of the generator that promises nothing.
pub fn insecure_random(bytes: u64) -> Vec<u8> {
    random_of("wasi:random/insecure@0.2.0", "get-insecure-random-bytes", bytes, Times::One)
}

fn random_of(interface: &str, function: &str, bytes: u64, times: Times) -> Vec<u8> {
    let (again, end, pages) = match times {
        Times::One => ("", "", 16),
        Times::ForEver => ("(loop $again", "(br $again))", 4_000),
    };
    skill(
        &format!(
            r#"(import "{interface}" (instance $random
               (export "{function}" (func (param "len" u64) (result (list u8))))))
           (alias export $random "{function}" (func $bytes))
           (core func $core-bytes
               (canon lower (func $bytes) (memory $memory) (realloc $realloc)))"#
        ),
        r#"(with "host" (instance (export "bytes" (func $core-bytes))))"#,
        &format!(
            r#"(import "host" "bytes" (func $bytes (param i64 i32)))
               (func (export "run") (result i32) {again}
                   (call $bytes (i64.const {bytes}) (i32.const 2048))
                   {end}
                   (i32.const {RESULT}))"#
        ),
        pages,
    )
}

/// A guest that can wait: `core` finds `$block`, `$subscribe` and `$poll` of WASI.
pub fn waiting(core: &str, pages: u32) -> Vec<u8> {
    let core = format!(
        r#"(import "host" "block" (func $block (param i32)))
           (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
           (import "host" "poll" (func $poll (param i32 i32 i32)))
           {core}"#
    );
    skill(
        r#"(import "wasi:io/poll@0.2.0" (instance $poll
               (export "pollable" (type $pollable (sub resource)))
               (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
               (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
           (alias export $poll "pollable" (type $pollable))
           (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
               (alias outer $root $pollable (type $pollable-0))
               (export "pollable" (type $pollable (eq $pollable-0)))
               (export "subscribe-duration"
                   (func (param "when" u64) (result (own $pollable))))))
           (alias export $poll "[method]pollable.block" (func $block))
           (core func $core-block (canon lower (func $block)))
           (alias export $poll "poll" (func $poll-many))
           (core func $core-poll
               (canon lower (func $poll-many) (memory $memory) (realloc $realloc)))
           (alias export $clock "subscribe-duration" (func $subscribe))
           (core func $core-subscribe (canon lower (func $subscribe)))"#,
        r#"(with "host" (instance (export "block" (func $core-block))
               (export "poll" (func $core-poll)) (export "subscribe" (func $core-subscribe))))"#,
        &core,
        pages,
    )
}

/// Sleeps by WASI's monotonic clock: a run that waits for the host.
pub fn sleep(nanoseconds: u64) -> Vec<u8> {
    waiting(
        &format!(
            r#"(func (export "run") (result i32)
                   (call $block (call $subscribe (i64.const {nanoseconds})))
                   (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// Asks the queue for a request; the host's answer decides nothing.
pub fn queue_get() -> Vec<u8> {
    skill(
        r#"(import "eve:skill/queue@0.1.0" (instance $queue
               (type $status-0 (enum "scheduled" "blocked" "pending" "claimed" "processing"
                   "waiting" "completed" "failed" "cancelled"))
               (export "status" (type $status (eq $status-0)))
               (type $error-0 (variant (case "invalid" string) (case "not-found" string)
                   (case "conflict" string) (case "limit" string) (case "denied" string)
                   (case "unavailable" string) (case "other" string)))
               (export "error" (type $error (eq $error-0)))
               (type $info-0 (record (field "id" string) (field "worker-type" string)
                   (field "skill" (option string)) (field "status" $status)
                   (field "prompt" string) (field "context" string) (field "metadata" string)
                   (field "attempt" u32) (field "created-at" u64)))
               (export "info" (type $info (eq $info-0)))
               (export "get" (func (param "id" string) (result (result $info (error $error)))))))
           (alias export $queue "get" (func $get))
           (core func $core-get
               (canon lower (func $get) (memory $memory) (realloc $realloc)))"#,
        r#"(with "host" (instance (export "get" (func $core-get))))"#,
        &format!(
            r#"(import "host" "get" (func $get (param i32 i32 i32)))
               (data (i32.const 4096) "01890000-0000-7000-8000-000000000000")
               (func (export "run") (result i32)
                   (call $get (i32.const 4096) (i32.const 36) (i32.const 2048))
                   (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// Passes a string of this length to its log.
pub fn shout(bytes: u32) -> Vec<u8> {
    logging(
        &format!(
            r#"(func (export "run") (result i32)
                   (memory.fill (i32.const 4096) (i32.const 120) (i32.const {bytes}))
                   (call $log (i32.const 2) (i32.const 4096) (i32.const {bytes})
                       (i32.const 0) (i32.const 0))
                   (i32.const {RESULT}))"#
        ),
        200,
    )
}

/// Imports an interface with a function, of any name.
pub fn importing(interface: &str) -> Vec<u8> {
    skill(
        &format!(
            r#"(import "{interface}" (instance $foreign (export "f" (func))))
               (alias export $foreign "f" (func $f))
               (core func $core-f (canon lower (func $f)))"#
        ),
        r#"(with "host" (instance (export "f" (func $core-f))))"#,
        &format!(
            r#"(import "host" "f" (func $f))
               (func (export "run") (result i32) (call $f) (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// A component that is no skill.
#[allow(dead_code, reason = "for the tests of the compiler process, which share this file")]
pub fn nothing() -> Vec<u8> {
    wat::parse_str("(component)").unwrap_or_else(|error| panic!("{error}"))
}

/// A core module.
#[allow(dead_code, reason = "for the tests of the compiler process, which share this file")]
pub fn module() -> Vec<u8> {
    wat::parse_str("(module (func (export \"run\")))").unwrap_or_else(|error| panic!("{error}"))
}

/// Exports the handler with a function `run` of another type.
#[allow(dead_code, reason = "for the tests of the compiler process, which share this file")]
pub fn wrong_type() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result u32) (canon lift (core func $i "run")))
            (instance $handler (export "run" (func $run)))
            (export "eve:skill/handler@0.1.0" (instance $handler)))"#,
    )
    .unwrap_or_else(|error| panic!("{error}"))
}
