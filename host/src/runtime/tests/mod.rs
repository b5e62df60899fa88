//! Real components in the real runtime: every way in which a run can end.

mod attackers;
mod hostile;
mod isolation;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use wasmtime::component::Component;

use super::capabilities::memory_queue::MemoryQueue;
use super::capabilities::queue::{Answer, Child};
use super::*;
use crate::ids::RequestId;
use crate::requests::{BlockerState, NewRequest, Request, RequestResult, Status};
use crate::skills::compile::interruptible::interruptible;

static IO: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

fn runtime(max_concurrent: u32, memory_budget: usize) -> Runtime {
    let io = IO.handle().clone();
    Runtime::new(RuntimeConfig { max_concurrent, memory_budget, threads: 2, io }).unwrap()
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| runtime(16, 1 << 30));

/// As what was uploaded becomes what a worker runs.
fn load(runtime: &Runtime, wasm: &[u8]) -> Result<Skill, LoadError> {
    let wasm = interruptible(wasm).unwrap();
    let component = Component::new(runtime.engine(), wasm).unwrap();
    runtime.prepare(&component, &Grants::all())
}

fn job() -> Job {
    Job::bare(RequestId::generate(), Arc::new(MemoryQueue::default()))
}

fn run(wasm: &[u8]) -> Report {
    run_with(wasm, Limits::default())
}

fn run_with(wasm: &[u8], limits: Limits) -> Report {
    let skill = load(&RUNTIME, wasm).unwrap();
    IO.block_on(RUNTIME.run(&skill, Job { limits, ..job() }))
}

fn failure(report: &Report) -> (FailureCode, &str) {
    match &report.verdict {
        Verdict::Failed { code, message, .. } => (*code, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_noop_completes() {
    let report = run(&guests::noop());
    assert_eq!(report.verdict, Verdict::Completed(Output::default()));
    assert_eq!(report.usage.memory_peak, 64 << 10);
    assert!(report.log.is_empty() && report.effects.is_empty());
}

#[test]
fn outcomes_arrive_as_they_are() {
    let waiting = run(&guests::returning(&[(8, 1), (16, 1), (24, 5_000)]));
    assert_eq!(waiting.verdict, Verdict::Waiting { deadline: Some(Duration::from_secs(5)) });
    let retryable = run(&guests::returning(&[(0, 1)]));
    assert_eq!(
        retryable.verdict,
        Verdict::Failed { code: FailureCode::Failed, message: String::new(), retryable: true }
    );
    let permanent = run(&guests::returning(&[(0, 1), (8, 1)]));
    assert!(matches!(permanent.verdict, Verdict::Failed { retryable: false, .. }));
}

#[test]
fn output_is_checked() {
    let fine = run(&guests::returning_data(r#"{"words": [1, 2.5]}"#));
    assert!(matches!(fine.verdict, Verdict::Completed(Output { data: Some(_), .. })));
    for bad in [r#"{"words""#, r#"{"a":"\u0000"}"#, "", &"[".repeat(65), "1e999"] {
        let report = run(&guests::returning_data(bad));
        assert_eq!(failure(&report).0, FailureCode::OutputInvalid, "{bad}");
    }
    // Text that is none: 0xff bytes.
    let core = format!(
        r#"(data (i32.const 4096) "\ff\ff")
           (func (export "run") (result i32)
               (i32.store (i32.const {}) (i32.const 4096))
               (i32.store (i32.const {}) (i32.const 2))
               (i32.const {}))"#,
        guests::RESULT + 16,
        guests::RESULT + 20,
        guests::RESULT
    );
    assert_eq!(failure(&run(&guests::skill("", "", &core, 1))).0, FailureCode::OutputInvalid);
    // A negative cost: the sign bit of a float's upper half.
    let negative = run(&guests::returning(&[(56, 1), (68, 0xbff0_0000)]));
    assert_eq!(failure(&negative).0, FailureCode::OutputInvalid);
    // tokens_used = 2^63.
    let tokens = run(&guests::returning(&[(40, 1), (52, 0x8000_0000)]));
    assert_eq!(failure(&tokens).0, FailureCode::OutputInvalid);
}

#[test]
fn too_much_output_has_a_code_of_its_own() {
    let words = [(24, 1), (28, 65_536), (32, limits::OUTPUT_DATA as u32 + 1)];
    let core = words
        .iter()
        .map(|(at, word)| {
            format!("(i32.store (i32.const {}) (i32.const {word}))", guests::RESULT + at)
        })
        .collect::<String>();
    let large = |core: &str| {
        let run =
            format!(r#"(func (export "run") (result i32) {core} (i32.const {}))"#, guests::RESULT);
        guests::skill("", "", &run, 200)
    };
    let report = run(&large(&core));
    assert_eq!(failure(&report).0, FailureCode::OutputTooLarge);
    // More than the host would even copy.
    let report = run(&large(&core.replace(
        &(limits::OUTPUT_DATA + 1).to_string(),
        &(limits::HOSTCALL_FUEL + 1).to_string(),
    )));
    assert_eq!(failure(&report).0, FailureCode::OutputTooLarge);
}

#[test]
fn an_endless_loop_uses_up_its_cpu_time() {
    let limits = Limits { cpu: Duration::from_millis(100), ..Limits::default() };
    let report = run_with(&guests::spin(), limits);
    assert_eq!(failure(&report).0, FailureCode::CpuExhausted);
    assert!(report.usage.cpu >= limits.cpu);
}

#[test]
fn an_endless_loop_uses_up_its_wall_time() {
    let limits = Limits { wall: Duration::from_millis(60), ..Limits::default() };
    assert_eq!(failure(&run_with(&guests::spin(), limits)).0, FailureCode::TimedOut);
}

#[test]
fn waiting_uses_up_wall_time_and_no_cpu() {
    let limits = Limits { wall: Duration::from_millis(600), ..Limits::default() };
    let report = run_with(&guests::sleep(60_000_000_000), limits);
    assert_eq!(failure(&report).0, FailureCode::TimedOut);
    assert!(report.usage.cpu < limits.wall);
    let brief = run(&guests::sleep(1_000_000));
    assert_eq!(brief.verdict, Verdict::Completed(Output::default()));
}

#[test]
fn endless_recursion_overflows_its_own_stack() {
    let report = run(&guests::recurse());
    assert_eq!(failure(&report).0, FailureCode::StackOverflow);
}

#[test]
fn the_host_has_stack_left_where_the_guest_has_none() {
    // Every level calls the host, so the deepest call is made on a stack as full as it can be.
    let report = run(&guests::recurse_through_the_host());
    assert_eq!(failure(&report).0, FailureCode::StackOverflow);
    assert_eq!(report.log.len(), limits::LOG_LINES);
}

#[test]
fn a_trap_is_a_trap_and_says_where() {
    let report = run(&guests::body("(unreachable)"));
    let (code, message) = failure(&report);
    assert_eq!(code, FailureCode::Trapped);
    assert!(message.contains("unreachable"), "{message}");
    let named = guests::skill(
        "",
        "",
        r#"(func $inner (unreachable))
           (func $outer (export "run") (result i32) (call $inner) (i32.const 0))"#,
        1,
    );
    let report = run(&named);
    let (_, message) = failure(&report);
    assert!(message.ends_with("\n  in inner\n  in outer"), "{message}");
    let bounds = run(&guests::body("(i32.load (i32.const -4))"));
    assert_eq!(failure(&bounds).0, FailureCode::Trapped);
}

#[test]
fn memory_ends_where_its_limit_is() {
    let limits = Limits { memory: 8 << 20, ..Limits::default() };
    let report = run_with(&guests::grow(), limits);
    assert_eq!(failure(&report).0, FailureCode::MemoryExhausted);
    assert!(report.usage.memory_peak <= limits.memory);
    let at_once = run_with(&guests::with_pages(200), limits);
    assert_eq!(failure(&at_once).0, FailureCode::MemoryExhausted);
}

#[test]
fn memory_of_the_process_ends_elsewhere_and_comes_back() {
    let runtime = runtime(4, 4 << 20);
    let greedy = load(&runtime, &guests::grow()).unwrap();
    let report = IO.block_on(runtime.run(&greedy, job()));
    let Verdict::Failed { code, retryable, .. } = report.verdict else { panic!("{report:?}") };
    assert_eq!((code, retryable), (FailureCode::OutOfCapacity, true));
    // The slot is given back after the memory is.
    let all = runtime.inner.slots.clone().acquire_many_owned(4);
    drop(IO.block_on(all).unwrap());
    assert_eq!(runtime.memory().used(), 0);
}

#[test]
fn what_does_not_fit_is_refused_when_it_is_loaded() {
    let component = Component::new(RUNTIME.engine(), guests::with_pages(5_000));
    assert!(component.is_err(), "a memory larger than a slot");
}

#[test]
fn imports_need_grants() {
    let component = Component::new(RUNTIME.engine(), guests::queue_get()).unwrap();
    let refused = RUNTIME.prepare(&component, &Grants::none()).err().unwrap().to_string();
    assert!(refused.contains("eve:skill/queue@0.1.0"), "{refused}");
    assert!(RUNTIME.prepare(&component, &Grants::all()).is_ok());
    let component = Component::new(RUNTIME.engine(), guests::importing("eve:skill/shell@0.1.0"));
    let refused = RUNTIME.prepare(&component.unwrap(), &Grants::all()).err().unwrap().to_string();
    assert!(refused.contains("does not offer"), "{refused}");
}

#[test]
fn floods_end_and_are_counted() {
    let limits = Limits { cpu: Duration::from_millis(60), ..Limits::default() };
    for flood in [guests::log_flood(), guests::print(0)] {
        let report = run_with(&flood, limits);
        assert_eq!(failure(&report).0, FailureCode::CpuExhausted);
        assert_eq!(report.log.len(), limits::LOG_LINES);
        assert!(report.log_dropped > 0);
    }
}

#[test]
fn what_is_printed_is_logged() {
    let report = run(&guests::print(2));
    let lines: Vec<_> = report.log.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(lines, ["one", "two", "one", "two"]);
}

#[test]
fn the_host_does_not_copy_what_it_would_refuse() {
    let report = run(&guests::shout(limits::HOSTCALL_FUEL as u32 + 1));
    let (code, message) = failure(&report);
    assert_eq!(code, FailureCode::Trapped);
    assert!(message.contains("in one call"), "{message}");
    let cut = run(&guests::shout(limits::STRING as u32));
    assert_eq!(cut.log[0].message.len(), limits::LOG_LINE);
}

#[test]
fn random_is_there_but_not_by_the_gigabyte() {
    let seed = run(&guests::random(32));
    assert_eq!(seed.verdict, Verdict::Completed(Output::default()));
    assert_eq!(failure(&run(&guests::random(1 << 30))).0, FailureCode::Trapped);
}

#[test]
fn cancelling_frees_the_slot() {
    let runtime = runtime(1, 1 << 30);
    let skill = load(&runtime, &guests::spin()).unwrap();
    IO.block_on(async {
        for _ in 0..3 {
            let mut run = Box::pin(runtime.run(&skill, job()));
            // Until it has the only slot.
            while runtime.inner.slots.available_permits() > 0 {
                assert!(futures::poll!(run.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            drop(run);
            drop(runtime.inner.slots.acquire().await.unwrap());
        }
    });
    assert_eq!(runtime.memory().used(), 0);
}

#[test]
fn hogs_do_not_starve_neighbours() {
    let runtime = runtime(16, 1 << 30);
    let hog = load(&runtime, &guests::spin()).unwrap();
    let neighbour = load(&runtime, &guests::noop()).unwrap();
    IO.block_on(async {
        let limits = Limits { cpu: Duration::from_secs(3_600), ..Limits::default() };
        let hogs: Vec<_> = (0..8)
            .map(|_| {
                let (runtime, hog) = (runtime.clone(), hog.clone());
                tokio::spawn(async move { runtime.run(&hog, Job { limits, ..job() }).await })
            })
            .collect();
        while runtime.inner.slots.available_permits() > 8 {
            tokio::task::yield_now().await;
        }
        for _ in 0..200 {
            let report = runtime.run(&neighbour, job()).await;
            assert_eq!(report.verdict, Verdict::Completed(Output::default()));
        }
        for hog in hogs {
            assert!(!hog.is_finished());
            hog.abort();
        }
    });
}

/// A queue that panics: a bug of ours, as far from a guest as it can be.
struct Broken;

impl QueueHost for Broken {
    fn check<'a>(
        &'a self,
        _: &'a [NewRequest],
        _: &'a [RequestId],
    ) -> Answer<'a, Vec<(RequestId, Status)>> {
        unreachable!()
    }

    fn reserve<'a>(&'a self, _: &'a str, _: [u8; 32], _: RequestId) -> Answer<'a, Reservation> {
        unreachable!()
    }

    fn get(&self, _: RequestId) -> Answer<'_, Request> {
        Box::pin(async { panic!("a bug") })
    }

    fn result(&self, _: RequestId) -> Answer<'_, Option<RequestResult>> {
        unreachable!()
    }

    fn list<'a>(&'a self, _: &'a QueueFilter) -> Answer<'a, Vec<Request>> {
        unreachable!()
    }

    fn children(&self, _: RequestId) -> Answer<'_, Vec<Child>> {
        unreachable!()
    }

    fn blockers(&self, _: RequestId) -> Answer<'_, Vec<BlockerState>> {
        unreachable!()
    }

    fn cancellable(&self, _: RequestId) -> Answer<'_, ()> {
        unreachable!()
    }
}

#[test]
fn a_bug_of_ours_is_told_apart_and_ends_one_run() {
    let skill = load(&RUNTIME, &guests::queue_get()).unwrap();
    let report = IO.block_on(RUNTIME.run(&skill, Job { queue: Arc::new(Broken), ..job() }));
    assert_eq!(failure(&report).0, FailureCode::Internal);
    let report = IO.block_on(RUNTIME.run(&skill, job()));
    assert_eq!(report.verdict, Verdict::Completed(Output::default()));
}
