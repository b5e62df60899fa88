//! What one run leaves behind, no other finds.

use futures::StreamExt as _;

use super::*;

const RUNS: usize = 10_000;

/// The guests share slots and differ in size: what is beyond the end of a small one's memory is in
/// the middle of a large one's. (That a slot's memory is kept resident up to 2 MiB is why some are
/// larger.) A guest cannot look at stacks at all; that they are zeroed is a setting of the engine.
#[test]
fn no_run_finds_what_another_has_left() {
    let runtime = runtime(8, 1 << 30);
    let prowlers: Vec<Skill> = [(1, 1), (4, 4), (40, 8), (1, 47)]
        .iter()
        .map(|(pages, growth)| load(&runtime, &attackers::prowl(*pages, *growth)).unwrap())
        .collect();
    IO.block_on(async {
        let runs = futures::stream::iter(0..RUNS).map(|n| {
            let (runtime, skill) = (runtime.clone(), prowlers[n % prowlers.len()].clone());
            async move {
                let secret = format!("{{\"secret\":\"{}\"}}", RequestId::generate());
                let report = runtime.run(&skill, Job { context: secret.clone(), ..job() }).await;
                let Verdict::Completed(output) = report.verdict else {
                    panic!("run {n} has found something: {report:?}");
                };
                assert_eq!(output.summary, secret);
                let said: Vec<_> = report.log.iter().map(|line| &line.message).collect();
                assert_eq!(said, [&secret]);
                assert!(report.effects.is_empty());
            }
        });
        runs.buffer_unordered(16).for_each(|()| async {}).await;
        // A slot is given back after the memory is.
        drop(runtime.inner.slots.acquire_many(8).await.unwrap());
    });
    assert_eq!(runtime.memory().used(), 0);
}
