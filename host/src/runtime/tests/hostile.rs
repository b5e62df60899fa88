//! Guests written to break a limit. Each ends with a code of its own and a reason, everything that
//! it took comes back, and the next run in its place is as good as any.

use super::*;

/// Little enough that a test is short, and much more than what must complete takes.
const LIMITS: Limits = Limits {
    cpu: Duration::from_millis(300),
    wall: Duration::from_secs(60),
    memory: limits::MEMORY,
};

/// Runs it where only one can run at a time, and then another.
fn attack(what: &str, wasm: &[u8]) -> Report {
    let runtime = runtime(1, 512 << 20);
    let skill = load(&runtime, wasm).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let report = IO.block_on(runtime.run(&skill, Job { limits: LIMITS, ..job() }));
    let next = load(&runtime, &guests::noop()).unwrap();
    let after = IO.block_on(runtime.run(&next, job()));
    assert_eq!(after.verdict, Verdict::Completed(Output::default()), "after {what}");
    // The slot is given back after the memory is.
    drop(IO.block_on(runtime.inner.slots.acquire()).unwrap());
    assert_eq!(runtime.memory().used(), 0, "{what}");
    // A tick, and what cannot be interrupted in between; without interruptions, minutes.
    let most = LIMITS.cpu + Duration::from_millis(700);
    assert!(report.usage.cpu < most, "{what} has had {:?} of CPU time", report.usage.cpu);
    assert!(report.usage.memory_peak <= LIMITS.memory, "{what}");
    report
}

fn fails(what: &str, wasm: &[u8], code: FailureCode, because: &str) {
    let report = attack(what, wasm);
    let (found, message) = failure(&report);
    assert_eq!(found, code, "{what}: {message}");
    assert!(message.contains(because), "{what}: {message}");
    assert!(report.effects.is_empty(), "{what}");
}

fn completes(what: &str, wasm: &[u8]) {
    let report = attack(what, wasm);
    assert_eq!(report.verdict, Verdict::Completed(Output::default()), "{what}");
}

#[test]
fn what_takes_long_in_few_bytes_is_interrupted() {
    const FILL: &str = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0x4000000))";
    const COPY: &str = "(memory.copy (i32.const 0x2000000) (i32.const 0) (i32.const 0x2000000))";
    const TABLE: &str = "(table.fill (i32.const 0) (ref.null func) (i32.const 20000))";
    const GROW: &str = "(drop (memory.grow (i32.const 0)))";
    const MOST: u32 = 3 << 20;
    // Seconds of work each, with no loop and no function to enter.
    for (what, guest) in [
        ("bulk operations in a loop", attackers::bulk()),
        ("fills in a row", attackers::in_a_row(1_000, FILL, 1_024)),
        ("copies in a row", attackers::in_a_row(2_000, COPY, 1_024)),
        ("calls of the host in a row", attackers::shout_in_a_row(10_000, MOST)),
        ("calls through a table in a row", attackers::shout_in_a_row_indirectly(10_000, MOST)),
    ] {
        fails(what, &guest, FailureCode::CpuExhausted, "CPU");
    }
    completes("fills of a table in a row", &attackers::in_a_row(1_000, TABLE, 1));
    completes("growing in a row", &attackers::in_a_row(1_000, GROW, 1));
}

#[test]
fn memories_and_tables_end_together() {
    use FailureCode::{MemoryExhausted, Trapped};
    fails(
        "growing two memories and two tables",
        &attackers::grow_everything(),
        MemoryExhausted,
        "wanted more",
    );
    fails("handles without end", &attackers::handles(), Trapped, "handle");
    let hoard = attackers::hoard(1_000_000, "");
    fails("host resources without end", &hoard, Trapped, "resource");
    completes("as many host resources as there may be", &attackers::hoard(100, ""));
    let trap = attackers::hoard(100, "(unreachable)");
    fails("a trap with resources in its hands", &trap, Trapped, "unreachable");
    completes("sockets without end: none is to be had", &attackers::sockets());
}

#[test]
fn what_is_passed_is_bounded() {
    use FailureCode::{CpuExhausted, OutputInvalid, OutputTooLarge, Trapped};
    completes("waiting for one thing 1,000 times", &attackers::crowd(1_000));
    fails("waiting for one thing 2,000 times", &attackers::crowd(2_000), Trapped, "handle limit");
    fails("waiting for one thing 1,000,000 times", &attackers::crowd(1_000_000), Trapped, "");
    let ages = guests::sleep(u64::MAX);
    let ages = run_with(&ages, Limits { wall: Duration::from_millis(50), ..LIMITS });
    assert_eq!(failure(&ages).0, FailureCode::TimedOut);
    fails("random bytes", &guests::random(u64::MAX), Trapped, "");
    fails("random bytes without end", &guests::random_flood(), CpuExhausted, "CPU");
    fails("insecure random bytes", &guests::insecure_random(1 << 30), Trapped, "");
    // A pointer and a length: of the gigabyte there is nothing.
    let gigabyte = [(16, 65_536), (20, 1 << 30)];
    let nothing_there = guests::returning(&gigabyte);
    fails("returning 1 GiB that is not there", &nothing_there, OutputInvalid, "cannot be read");
    let stores: String = gigabyte
        .iter()
        .map(|(at, word)| {
            let word = (*word).min(255 << 20);
            format!("(i32.store (i32.const {}) (i32.const {word}))", guests::RESULT + at)
        })
        .collect();
    let run =
        format!(r#"(func (export "run") (result i32) {stores} (i32.const {}))"#, guests::RESULT);
    let there = guests::skill("", "", &run, 4_096);
    fails("returning 255 MiB", &there, OutputTooLarge, "MiB");
}

#[test]
fn before_and_after_and_in_between_there_are_limits_too() {
    use FailureCode::{CpuExhausted, MemoryExhausted, Trapped};
    const SPIN: &str = "(loop $again (br $again)) (unreachable)";
    const LOG: &str = "(call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) \
                       (i32.const 0))";
    const GROW: &str = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) \
                        (i32.const -1)))) (unreachable)";
    let starting = |body: &str| attackers::starting(body);
    fails("spinning while it is started", &starting(SPIN), CpuExhausted, "CPU");
    fails("growing while it is started", &starting(GROW), MemoryExhausted, "memory");
    fails("trapping while it is started", &starting("(unreachable)"), Trapped, "unreachable");

    let allocating = |body: &str| attackers::allocating(body);
    fails("spinning while it is handed something", &allocating(SPIN), CpuExhausted, "CPU");
    fails("trapping there", &allocating("(unreachable)"), Trapped, "unreachable");
    fails("growing there", &allocating(GROW), MemoryExhausted, "memory");
    fails("pointing nowhere", &allocating("(i32.const -16)"), Trapped, "");
    let calling = allocating(&format!("{LOG} (i32.const 4096)"));
    fails("calling the host while it is handed something", &calling, Trapped, "leave");

    let cleaning_up = |body: &str| attackers::cleaning_up(body);
    fails("spinning when it cleans up", &cleaning_up(SPIN), CpuExhausted, "CPU");
    fails("trapping when it cleans up", &cleaning_up("(unreachable)"), Trapped, "unreachable");
    fails("growing when it cleans up", &cleaning_up(GROW), MemoryExhausted, "memory");
    fails("calling the host when it cleans up", &cleaning_up(LOG), Trapped, "leave");
    completes("cleaning up", &cleaning_up(""));
}
