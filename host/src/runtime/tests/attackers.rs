//! Guests that are each written to break a limit, or to find what others have left.

use crate::runtime::guests::{LOGGING, RESULT, lifted, logging, skill, waiting};

/// As many calls of its log with a text of this length, one after the other without a loop.
pub fn shout_in_a_row(times: usize, bytes: u32) -> Vec<u8> {
    let call = format!(
        "(call $log (i32.const 2) (i32.const 4096) (i32.const {bytes}) (i32.const 0) (i32.const 0))"
    );
    let calls = call.repeat(times);
    let run = format!(r#"(func (export "run") (result i32) {calls} (i32.const {RESULT}))"#);
    logging(&run, bytes / 65_536 + 2)
}

/// The same through a table, in which the import itself stands.
pub fn shout_in_a_row_indirectly(times: usize, bytes: u32) -> Vec<u8> {
    let call = format!(
        "(call_indirect (type $log) (i32.const 2) (i32.const 4096) (i32.const {bytes}) \
         (i32.const 0) (i32.const 0) (i32.const 0))"
    );
    let calls = call.repeat(times);
    let run = format!(
        r#"(type $log (func (param i32 i32 i32 i32 i32)))
           (table funcref (elem $log))
           (func (export "run") (result i32) {calls} (i32.const {RESULT}))"#
    );
    logging(&run, bytes / 65_536 + 2)
}

/// Takes this many of the host's resources, keeps them, and then does this.
pub fn hoard(resources: u32, then: &str) -> Vec<u8> {
    waiting(
        &format!(
            r#"(func (export "run") (result i32)
                   (local $left i32)
                   (local.set $left (i32.const {resources}))
                   (loop $again
                       (drop (call $subscribe (i64.const 1_000_000_000_000)))
                       (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                       (br_if $again (local.get $left)))
                   {then}
                   (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// Waits for one thing this many times over, all at once.
pub fn crowd(times: u32) -> Vec<u8> {
    waiting(
        &format!(
            r#"(func (export "run") (result i32)
                   (local $at i32) (local $handle i32)
                   (local.set $handle (call $subscribe (i64.const 1)))
                   (local.set $at (i32.const 65536))
                   (loop $again
                       (i32.store (local.get $at) (local.get $handle))
                       (local.set $at (i32.add (local.get $at) (i32.const 4)))
                       (br_if $again (i32.lt_u (local.get $at)
                           (i32.const {end}))))
                   (call $poll (i32.const 65536) (i32.const {times}) (i32.const 2048))
                   (i32.const {RESULT}))"#,
            end = 65_536 + 4 * times
        ),
        // The list, and the answer that the host writes.
        2 * (times / 16_384 + 2),
    )
}

/// Makes resources of its own for ever, of which the host keeps nothing but handles.
pub fn handles() -> Vec<u8> {
    skill(
        "(type $thing (resource (rep i32)))
         (core func $new (canon resource.new $thing))",
        r#"(with "host" (instance (export "new" (func $new))))"#,
        r#"(import "host" "new" (func $new (param i32) (result i32)))
           (func (export "run") (result i32)
               (loop $again (drop (call $new (i32.const 7))) (br $again))
               (unreachable))"#,
        1,
    )
}

/// Opens TCP sockets for ever; completes with how many it got as its data's length, if any.
pub fn sockets() -> Vec<u8> {
    skill(
        r#"(import "wasi:sockets/network@0.2.0" (instance $network
               (type $family-0 (enum "ipv4" "ipv6"))
               (export "ip-address-family" (type $family (eq $family-0)))
               (type $code-0 (enum "unknown" "access-denied" "not-supported" "invalid-argument"
                   "out-of-memory" "timeout" "concurrency-conflict" "not-in-progress" "would-block"
                   "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
                   "remote-unreachable" "connection-refused" "connection-reset"
                   "connection-aborted" "datagram-too-large" "name-unresolvable"
                   "temporary-resolver-failure" "permanent-resolver-failure"))
               (export "error-code" (type $code (eq $code-0)))))
           (alias export $network "ip-address-family" (type $family))
           (alias export $network "error-code" (type $code))
           (import "wasi:sockets/tcp@0.2.0" (instance $tcp
               (export "tcp-socket" (type $socket (sub resource)))))
           (alias export $tcp "tcp-socket" (type $socket))
           (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
               (alias outer $root $family (type $family-0))
               (export "ip-address-family" (type $family (eq $family-0)))
               (alias outer $root $code (type $code-0))
               (export "error-code" (type $code (eq $code-0)))
               (alias outer $root $socket (type $socket-0))
               (export "tcp-socket" (type $socket (eq $socket-0)))
               (export "create-tcp-socket" (func (param "address-family" $family)
                   (result (result (own $socket) (error $code)))))))
           (alias export $create "create-tcp-socket" (func $create-socket))
           (core func $core-create (canon lower (func $create-socket) (memory $memory)))"#,
        r#"(with "host" (instance (export "create" (func $core-create))))"#,
        &format!(
            r#"(import "host" "create" (func $create (param i32 i32)))
               (func (export "run") (result i32)
                   (local $left i32)
                   (local.set $left (i32.const 10000))
                   (loop $again
                       (call $create (i32.const 0) (i32.const 2048))
                       ;; `ok`: there is a socket.
                       (if (i32.eqz (i32.load8_u (i32.const 2048))) (then (unreachable)))
                       (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                       (br_if $again (local.get $left)))
                   (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// Reads its context. `$context` writes a pointer and a length to the address that it is given;
/// `core` comes with the log as well. `allocate` is what the host calls to have room for the text.
fn reading(allocate: &str, core: &str, pages: u32) -> Vec<u8> {
    let imports = format!(
        r#"{LOGGING}
           (core module $allocator
               (import "libc" "memory" (memory 0))
               (import "libc" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
               (import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
               (func (export "realloc") (param i32 i32 i32 i32) (result i32) {allocate}))
           (core instance $allocator (instantiate $allocator
               (with "libc" (instance $libc))
               (with "host" (instance (export "log" (func $core-log))))))
           (alias core export $allocator "realloc" (core func $allocate))
           (import "eve:skill/request@0.1.0" (instance $request
               (export "context" (func (result string)))))
           (alias export $request "context" (func $context))
           (core func $core-context
               (canon lower (func $context) (memory $memory) (realloc $allocate)))"#
    );
    let core = format!(
        r#"(import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
           (import "host" "context" (func $context (param i32)))
           {core}"#
    );
    skill(
        &imports,
        r#"(with "host" (instance
               (export "log" (func $core-log)) (export "context" (func $core-context))))"#,
        &core,
        pages,
    )
}

/// Misbehaves while the host hands it something.
pub fn allocating(body: &str) -> Vec<u8> {
    let core = format!(
        r#"(func (export "run") (result i32) (call $context (i32.const 2048)) (i32.const {RESULT}))"#
    );
    reading(body, &core, 1)
}

/// Misbehaves after it has returned, when it is asked to clean up.
pub fn cleaning_up(body: &str) -> Vec<u8> {
    let core = format!(
        r#"(import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
           (func (export "post") (param i32) {body})
           (func (export "run") (result i32) (i32.const {RESULT}))"#
    );
    lifted(
        LOGGING,
        r#"(with "host" (instance (export "log" (func $core-log))))"#,
        &core,
        1,
        r#"(post-return (func $main "post"))"#,
    )
}

/// Misbehaves before it is asked to do anything.
pub fn starting(body: &str) -> Vec<u8> {
    logging(
        &format!(
            r#"(func $start {body}) (start $start)
               (func (export "run") (result i32) (i32.const {RESULT}))"#
        ),
        1,
    )
}

/// Looks for what others have left behind: in its memory, in what it grows by, in its table and its
/// globals; traps if it finds anything. Then leaves its context everywhere, says it to the log, and
/// returns it.
pub fn prowl(pages: u32, growth: u32) -> Vec<u8> {
    let core = format!(
        r#"(table $table 5000 funcref)
           (elem declare func $nothing_in)
           (global $left (mut i64) (i64.const 0))
           (func $nothing_in (param $to i32)
               (local $at i32)
               (loop $again
                   (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (unreachable)))
                   (local.set $at (i32.add (local.get $at) (i32.const 8)))
                   (br_if $again (i32.lt_u (local.get $at) (local.get $to)))))
           (func $leave (param $at i32) (param $to i32) (param $what i64)
               (loop $again
                   (i64.store (local.get $at) (local.get $what))
                   (local.set $at (i32.add (local.get $at) (i32.const 8)))
                   (br_if $again (i32.lt_u (local.get $at) (local.get $to)))))
           (func (export "run") (result i32)
               (local $at i32) (local $secret i64)
               (call $nothing_in (i32.const {before}))
               (if (i32.eq (memory.grow (i32.const {growth})) (i32.const -1))
                   (then (unreachable)))
               (call $nothing_in (i32.const {after}))
               (if (i64.ne (global.get $left) (i64.const 0)) (then (unreachable)))
               (loop $again
                   (if (i32.eqz (ref.is_null (table.get $table (local.get $at))))
                       (then (unreachable)))
                   (table.set $table (local.get $at) (ref.func $nothing_in))
                   (local.set $at (i32.add (local.get $at) (i32.const 1)))
                   (br_if $again (i32.lt_u (local.get $at) (i32.const 5000))))
               (call $context (i32.const 2048))
               (local.set $secret (i64.load (i32.load (i32.const 2048))))
               (global.set $left (local.get $secret))
               (call $leave (i32.const 4096) (i32.const 32768) (local.get $secret))
               (call $leave (i32.const 65536) (i32.const {after}) (local.get $secret))
               (call $log (i32.const 2) (i32.load (i32.const 2048)) (i32.load (i32.const 2052))
                   (i32.const 0) (i32.const 0))
               (i32.store (i32.const {summary}) (i32.load (i32.const 2048)))
               (i32.store (i32.const {length}) (i32.load (i32.const 2052)))
               (i32.const {RESULT}))"#,
        before = pages * 65_536,
        after = (pages + growth) * 65_536,
        summary = RESULT + 16,
        length = RESULT + 20,
    );
    let allocate = "(call $realloc (local.get 0) (local.get 1) (local.get 2) (local.get 3))";
    reading(allocate, &core, pages)
}

/// Fills and copies 64 MiB at a time, for ever.
pub fn bulk() -> Vec<u8> {
    let run = r#"(func (export "run") (result i32)
        (loop $again
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x4000000))
            (memory.copy (i32.const 0x4000000) (i32.const 0) (i32.const 0x3000000))
            (br $again))
        (unreachable))"#;
    skill("", "", run, 2_000)
}

/// These instructions this many times, one after the other without a loop.
pub fn in_a_row(times: usize, instructions: &str, pages: u32) -> Vec<u8> {
    let all = instructions.repeat(times);
    let run = format!(
        r#"(table $table 20000 funcref)
           (func (export "run") (result i32) {all} (i32.const {RESULT}))"#
    );
    skill("", "", &run, pages)
}

/// Grows two memories and two tables in turns, and traps when all are refused.
pub fn grow_everything() -> Vec<u8> {
    const GROW: &str = r#"
        (table $table 0 funcref)
        (func $grow (result i32)
            (i32.or
                (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
                (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))"#;
    skill(
        &format!(
            r#"(core module $more (memory 0) {GROW} (export "grow" (func $grow)))
               (core instance $more (instantiate $more))"#
        ),
        r#"(with "more" (instance $more))"#,
        &format!(
            r#"(import "more" "grow" (func $grow-more (result i32)))
               {GROW}
               (func (export "run") (result i32)
                   (loop $again (br_if $again (i32.or (call $grow) (call $grow-more))))
                   (unreachable))"#
        ),
        1,
    )
}
