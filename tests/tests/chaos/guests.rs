//! Guests that misbehave end with a code of their own; neighbours go on undisturbed.

use anyhow::Result;
use eve_tests::Platform;
use serde_json::json;

use crate::invariants;

#[tokio::test]
async fn every_misbehaviour_ends_with_its_own_code() -> Result<()> {
    let platform = Platform::start(&["hostile", "hostile-wasi", "noop"]).await?;
    // What must complete is far below it in the slowest build, what must not never comes to an end.
    platform.set_limits(json!({ "cpu_ms": 3_000 })).await?;
    let cases = [
        ("hostile", json!({ "do": "loop" }), "cpu_exhausted"),
        ("hostile-wasi", json!({ "do": "loop" }), "cpu_exhausted"),
        ("hostile", json!({ "do": "sleep-busy" }), "cpu_exhausted"),
        ("hostile", json!({ "do": "allocate" }), "memory_exhausted"),
        ("hostile-wasi", json!({ "do": "allocate" }), "memory_exhausted"),
        ("hostile", json!({ "do": "allocate-gently" }), "completed"),
        ("hostile", json!({ "do": "recurse" }), "stack_overflow"),
        ("hostile-wasi", json!({ "do": "recurse" }), "stack_overflow"),
        ("hostile", json!({ "do": "recurse-in-memory" }), "stack_overflow"),
        ("hostile", json!({ "do": "trap" }), "trapped"),
        ("hostile", json!({ "do": "panic" }), "trapped"),
        ("hostile-wasi", json!({ "do": "panic" }), "trapped"),
        ("hostile-wasi", json!({ "do": "print" }), "cpu_exhausted"),
        ("hostile-wasi", json!({ "do": "print-error", "lines": 3_000 }), "completed"),
        ("hostile", json!({ "do": "log" }), "cpu_exhausted"),
        ("hostile", json!({ "do": "log", "lines": 3_000 }), "completed"),
        ("hostile", json!({ "do": "big-output" }), "output_too_large"),
        ("hostile", json!({ "do": "big-output", "bytes": 16 << 20 }), "output_too_large"),
        ("hostile", json!({ "do": "big-summary" }), "output_too_large"),
        ("hostile", json!({ "do": "invalid-json" }), "output_invalid"),
        ("hostile", json!({ "do": "nul-output" }), "output_invalid"),
        ("hostile", json!({ "do": "invalid-cost" }), "output_invalid"),
        ("hostile", json!({ "do": "fail-permanent" }), "failed"),
        ("hostile", json!({ "do": "waiting" }), "nothing_to_wait_for"),
        ("hostile", json!({ "do": "bulk" }), "cpu_exhausted"),
        ("hostile-wasi", json!({ "do": "sleep" }), "timed_out"),
    ];
    let mut requests = Vec::new();
    for (skill, orders, code) in &cases {
        let mut request = json!({ "skill": skill, "context": orders, "max_attempts": 1 });
        if *code == "timed_out" {
            request["timeout_ms"] = json!(500);
        }
        requests.push(request);
    }
    requests.extend((0..200).map(|_| json!({ "skill": "noop", "max_attempts": 1 })));
    let ids = platform.create_all(requests).await?;
    let _worker = platform.worker(8)?;

    for (id, (skill, orders, code)) in ids.iter().zip(&cases) {
        let end = platform.end_of(*id).await;
        assert_eq!(end.code(), *code, "{skill} {orders}");
        // A flood of lines is cut, and says so.
        if ["print", "print-error", "log"].iter().any(|flood| orders["do"] == *flood) {
            let logs = platform.get(&format!("/v1/requests/{id}/logs")).await?;
            let log = &logs["runs"][0];
            assert_eq!(log["lines"].as_array().map(Vec::len), Some(1_000), "{skill} {orders}");
            assert!(log["dropped"].as_i64() >= Some(2_000), "{skill} {orders}: {}", log["dropped"]);
        }
    }
    for id in &ids[cases.len()..] {
        let end = platform.end_of(*id).await;
        assert_eq!((end.status.as_str(), end.attempt), ("completed", 1));
    }
    assert_eq!(platform.count("SELECT count(*) FROM eve.attempts").await, 0);
    invariants::hold(&platform).await;
    Ok(())
}

/// Every text and list that a guest can pass to the host, a byte longer than it may be and longer than
/// the host will copy.
#[tokio::test]
async fn what_is_too_long_for_any_function_is_refused() -> Result<()> {
    const FUNCTIONS: [&str; 43] = [
        "log.message",
        "log.fields",
        "queue.create.worker-type",
        "queue.create.skill",
        "queue.create.prompt",
        "queue.create.context",
        "queue.create.repo-url",
        "queue.create.branch",
        "queue.create.config",
        "queue.create.metadata",
        "queue.create.blocked-by",
        "queue.create.idempotency-key",
        "queue.create-many",
        "queue.get",
        "queue.result",
        "queue.list.context",
        "queue.list.statuses",
        "queue.list.worker-type",
        "queue.list.before",
        "queue.children",
        "queue.blockers",
        "queue.cancel.id",
        "queue.cancel.reason",
        "queue.ask.text",
        "queue.ask.options",
        "queue.ask.many-options",
        "queue.ask.details",
        "queue.wake-after",
        "db.query.schema",
        "db.query.sql",
        "db.query.text",
        "db.query.bytes",
        "db.query.json",
        "db.query.numeric",
        "db.query.uuid",
        "db.query.texts",
        "db.query.booleans",
        "db.query.type-name",
        "db.query.parameters",
        "db.execute.sql",
        "db.transaction",
        "db.migrate.name",
        "db.migrate.sql",
    ];
    let platform = Platform::start(&["hostile"]).await?;
    platform.eve().json(["skill", "approve", "hostile", "--schema", "state"]).await?;
    let worker = platform.worker(8)?;
    // What it takes to run at all, once in every slot.
    for id in platform.create_all(vec![json!({ "skill": "hostile" }); 64]).await? {
        assert_eq!(platform.end_of(id).await.code(), "completed");
    }
    let before = worker.peak_memory()?;
    let mut requests = Vec::new();
    for to in FUNCTIONS {
        for bytes in [(1 << 20) + 1, 16 << 20] {
            let orders = json!({ "do": "shout", "to": to, "bytes": bytes });
            requests.push(json!({ "skill": "hostile", "context": orders, "max_attempts": 1 }));
        }
    }
    let ids = platform.create_all(requests).await?;
    for (index, to) in FUNCTIONS.into_iter().enumerate() {
        let long = platform.end_of(ids[2 * index]).await;
        let error = long.data.as_ref().and_then(|data| data["error"].as_str());
        match to {
            // Lines are cut, and a status named twice is named once.
            "log.message" | "log.fields" | "queue.list.statuses" => {
                assert!(long.code() == "completed" && error.is_none(), "{to}: {long:?}");
            }
            // So many take more to copy than they are long.
            "queue.create-many" | "db.transaction" => assert_ne!(long.code(), "internal", "{to}"),
            _ => assert!(error.is_some_and(|said| !said.contains("Denied")), "{to}: {long:?}"),
        }
        let longer = platform.end_of(ids[2 * index + 1]).await;
        assert_eq!(longer.code(), "trapped", "{to}: {longer:?}");
    }
    // The guests have 16 MiB each and copies of it; the host nothing of the kind.
    let more = worker.peak_memory()? - before;
    println!("the worker's memory has grown by {} MiB at most", more >> 20);
    assert!(more < 8 * (256 << 20) + (128 << 20), "{} MiB", more >> 20);
    invariants::hold(&platform).await;
    Ok(())
}

/// However many want all the memory that they may have, a worker keeps to its budget, and those that want
/// little have it.
#[tokio::test]
async fn a_worker_keeps_to_its_memory_budget() -> Result<()> {
    const BUDGET: u64 = 400 << 20;
    let platform = Platform::start(&["hostile", "noop"]).await?;
    let budget = BUDGET.to_string();
    let worker = platform.eve().start([
        "worker",
        "--type",
        "general",
        "--slots",
        "8",
        "--memory-budget",
        &budget,
    ])?;
    for id in platform.create_all(vec![json!({ "skill": "noop" }); 64]).await? {
        assert_eq!(platform.end_of(id).await.code(), "completed");
    }
    let before = worker.peak_memory()?;
    let greedy = json!({
        "skill": "hostile", "context": { "do": "allocate" }, "max_attempts": 1,
    });
    let greedy = platform.create_all(vec![greedy; 24]).await?;
    let modest = json!({ "skill": "noop", "max_attempts": 1 });
    let modest = platform.create_all(vec![modest; 100]).await?;
    for id in greedy {
        let code = platform.end_of(id).await.code().to_owned();
        // Its own limit, or the worker's budget.
        assert!(["memory_exhausted", "out_of_capacity"].contains(&code.as_str()), "{code}");
    }
    for id in modest {
        assert_eq!(platform.end_of(id).await.code(), "completed");
    }
    let more = worker.peak_memory()? - before;
    println!("beside {} MiB for guests: {} MiB more", BUDGET >> 20, more >> 20);
    assert!(more < BUDGET / 10 * 11, "{} MiB", more >> 20);
    Ok(())
}

#[tokio::test]
async fn cancelling_stops_a_loop_and_commits_nothing() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    platform.set_limits(json!({ "cpu_ms": 3_600_000, "wall_ms": 3_600_000 })).await?;
    // One slot: whatever comes next runs only if the loop has really stopped.
    let _worker = platform.worker(1)?;
    for _ in 0..3 {
        let looping = platform
            .order(json!({ "do": "create-then-loop", "create": 2, "skill": "noop" }))
            .await?;
        platform.claimed(looping).await;
        let next = platform.create(json!({ "skill": "noop" })).await?;
        let cancelled =
            platform.post(&format!("/v1/requests/{looping}/cancel"), &json!({})).await?;
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(platform.end_of(looping).await.code(), "cancelled");
        assert_eq!(platform.end_of(next).await.status, "completed");
    }
    let children = "SELECT count(*) FROM eve.requests WHERE parent_request_id IS NOT NULL";
    assert_eq!(platform.count(children).await, 0);
    Ok(())
}

/// A worker knows what it may grant before it runs anything.
#[tokio::test]
async fn the_first_run_of_a_worker_has_its_grants() -> Result<()> {
    let platform = Platform::start(&["hostile"]).await?;
    for _ in 0..5 {
        let ids = platform
            .create_all((0..20).map(|_| json!({ "skill": "hostile", "max_attempts": 1 })).collect())
            .await?;
        let mut worker = platform.worker(4)?;
        for id in ids {
            assert_eq!(platform.end_of(id).await.code(), "completed");
        }
        worker.kill();
    }
    Ok(())
}
