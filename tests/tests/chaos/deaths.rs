//! Workers that die, by SIGKILL: nothing is lost, nothing happens twice.

use anyhow::Result;
use eve_tests::{Platform, Process, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::invariants;

/// A thousand requests of every kind. `metadata.kind` says what should become of each.
fn thousand() -> Vec<Value> {
    let mut all = Vec::new();
    let hostile = |kind: &str, orders: Value| json!({ "skill": "hostile", "context": orders, "metadata": { "kind": kind } });
    for _ in 0..500 {
        all.push(hostile("completes", json!({ "spin_ms": 5 })));
    }
    for _ in 0..60 {
        for step in 0..3 {
            let mut request = hostile("completes", json!({ "spin_ms": 2 }));
            if step > 0 {
                request["blocked_by"] = json!([format!("#{}", all.len() - 1)]);
            }
            all.push(request);
        }
    }
    for _ in 0..10 {
        let first = all.len();
        for _ in 0..9 {
            all.push(hostile("completes", json!({ "spin_ms": 2 })));
        }
        let mut last = hostile("completes", json!({}));
        last["blocked_by"] = (first..first + 9).map(|index| json!(format!("#{index}"))).collect();
        all.push(last);
    }
    for _ in 0..40 {
        all.push(hostile("fails", json!({ "do": "fail-permanent" })));
    }
    for _ in 0..30 {
        let mut request = hostile("fails-twice", json!({ "do": "fail-retryable" }));
        request["max_attempts"] = json!(2);
        all.push(request);
    }
    for _ in 0..30 {
        all.push(hostile("second-time", json!({ "do": "fail-until", "attempt": 2 })));
    }
    for _ in 0..20 {
        // A pipeline that breaks: its end is cancelled, what comes after it in any case runs.
        let head = all.len();
        all.push(hostile("fails", json!({ "do": "fail-permanent" })));
        let mut second = hostile("cancelled", json!({}));
        second["blocked_by"] = json!([format!("#{head}")]);
        all.push(second);
        let mut third = hostile("completes", json!({}));
        third["blocked_by"] = json!([{ "id": format!("#{}", head + 1), "on_failure": "run" }]);
        all.push(third);
    }
    for _ in 0..60 {
        let orders = json!({ "do": "create", "create": 3, "skill": "noop", "spin_ms": 10 });
        all.push(hostile("creates", orders));
    }
    assert_eq!(all.len(), 1_000);
    all
}

#[tokio::test]
async fn a_thousand_requests_survive_the_workers() -> Result<()> {
    let mut platform = Platform::start(&["hostile", "noop"]).await?;
    platform.serve().await?;
    let mut workers: Vec<Process> = Vec::new();
    for _ in 0..3 {
        workers.push(platform.worker(4)?);
    }
    platform.create_all(thousand()).await?;

    for (round, ended) in [50i64, 150, 300, 450, 600].into_iter().enumerate() {
        wait_for(&format!("{ended} requests that have ended"), async || {
            let count = platform.count("SELECT count(*) FROM eve.orchestration_results").await;
            (count >= ended).then_some(())
        })
        .await;
        // In the first round all of them, afterwards one after the other.
        let doomed = if round == 0 { 0..3 } else { round % 3..round % 3 + 1 };
        for worker in doomed {
            workers[worker].kill();
            workers[worker] = platform.worker(4)?;
        }
        invariants::hold(&platform).await;
    }
    // The duties too pass from one process to another.
    platform.servers()[1].process().kill();
    platform.serve().await?;

    // Silence is noticed after 15 s, and a suspect runs alone.
    for left in [500i64, 250, 100, 0] {
        wait_for(&format!("a queue of {left}"), async || {
            invariants::hold(&platform).await;
            (platform.count("SELECT count(*) FROM eve.queue").await <= left).then_some(())
        })
        .await;
    }

    let kinds: Vec<(String, String, String, i64, i64, i64)> = sqlx::query_as(
        "SELECT coalesce(r.metadata ->> 'kind', 'child') AS kind, x.status,
                coalesce(x.error_code, ''), min(x.attempt)::bigint, max(x.attempt)::bigint, count(*)
           FROM eve.requests r
           LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
          GROUP BY 1, 2, 3
          ORDER BY 1, 2, 3",
    )
    .fetch_all(platform.pool())
    .await?;
    let expected = [
        ("cancelled", "cancelled", "blocker_failed", 0, 0, 20),
        ("child", "completed", "", 1, 1, 180),
        ("completes", "completed", "", 1, 1, 500 + 180 + 100 + 20),
        ("creates", "completed", "", 1, 1, 60),
        ("fails", "failed", "failed", 1, 1, 40 + 20),
        ("fails-twice", "failed", "failed", 2, 2, 30),
        ("second-time", "completed", "", 2, 2, 30),
    ]
    .map(|(kind, status, code, least, most, count)| {
        (kind.to_owned(), status.to_owned(), code.to_owned(), least, most, count)
    });
    assert_eq!(kinds, expected);

    let odd = platform
        .count(
            "SELECT count(*) FROM (SELECT parent_request_id FROM eve.requests
              WHERE parent_request_id IS NOT NULL GROUP BY 1 HAVING count(*) <> 3) odd",
        )
        .await;
    assert_eq!(odd, 0, "each parent created its three children once");
    let early = platform
        .count(
            "SELECT count(*) FROM eve.dependencies d
               JOIN eve.orchestration_results b ON b.request_id = d.blocker_id
               JOIN eve.orchestration_results x ON x.request_id = d.dependent_id
              WHERE x.started_at < b.finished_at",
        )
        .await;
    assert_eq!(early, 0, "nobody started before its blockers had ended");
    let failed = "SELECT count(*) FROM eve.attempts WHERE kind = 'failed'";
    assert_eq!(platform.count(failed).await, 60, "one failed attempt of each that tried again");
    let rescued = "SELECT count(*) FROM eve.attempts WHERE kind = 'rescued'";
    assert!(platform.count(rescued).await > 0, "the workers were killed while they had work");
    invariants::settled(&platform).await;
    Ok(())
}

/// Whenever the poison starts, its worker dies: with a hundred others in hand the first time, without
/// any other suspect from then on.
#[tokio::test]
async fn a_request_that_kills_its_workers_ends_alone() -> Result<()> {
    let platform = Platform::start(&["hostile-wasi"]).await?;
    let sleep = |ms: u64| json!({ "skill": "hostile-wasi", "context": { "do": "sleep", "ms": ms }, "max_attempts": 1 });
    let mut poison = sleep(3_600_000);
    poison["priority"] = json!(-100);
    let mut requests = vec![poison];
    // As long as the poison at first, so that all of them are in hand when it strikes.
    requests.extend((0..100).map(|_| sleep(3_600_000)));
    let ids = platform.create_all(requests).await?;
    let in_hand = "SELECT count(*) FROM eve.queue WHERE status = 'processing'";
    let suspects_in_hand =
        "SELECT count(*) FROM eve.queue WHERE status = 'processing' AND rescues > 0";
    let suspects = "SELECT count(*) FROM eve.queue WHERE rescues > 0";
    for death in 1..=3 {
        // It claims twice as many as it has slots, and runs three quarters of them for one organisation.
        let mut worker = platform.worker(100)?;
        platform.claimed(ids[0]).await;
        if death == 1 {
            let others = platform.count(in_hand).await - 1;
            assert!(others > 50, "only {others} were claimed with it");
        } else {
            assert_eq!(platform.count(suspects_in_hand).await, 1, "it runs without other suspects");
        }
        worker.kill();
        // The next one must not come before this one is known to be dead, or it would find nothing.
        wait_for("the rescue", async || match platform.live(ids[0]).await {
            Some((status, _, _)) => (status == "pending").then_some(()),
            None => Some(()),
        })
        .await;
        if death == 1 {
            assert!(platform.count(suspects).await > 50, "they died with it");
            // From now on they would end at once, if the poison let them.
            sqlx::query(
                r#"UPDATE eve.requests SET context = '{"do": "sleep", "ms": 0}' WHERE id <> $1"#,
            )
            .bind(ids[0])
            .execute(platform.pool())
            .await?;
        }
    }
    let end = platform.end_of(ids[0]).await;
    assert_eq!((end.status.as_str(), end.code()), ("failed", "worker_lost"));
    // One suspect at a time each.
    let _workers =
        [platform.worker(4)?, platform.worker(4)?, platform.worker(4)?, platform.worker(4)?];
    for id in &ids[1..] {
        let end = platform.end_of(*id).await;
        assert_eq!((end.status.as_str(), end.attempt), ("completed", 1));
    }
    let died_twice = "SELECT count(*) FROM (SELECT FROM eve.attempts WHERE kind = 'rescued'
                                             GROUP BY request_id HAVING count(*) > 1) twice";
    assert_eq!(platform.count(died_twice).await, 1, "only the poison");
    invariants::settled(&platform).await;
    Ok(())
}

/// A suspect that is cancelled, or taken away, must not count for ever.
#[tokio::test]
async fn a_cancelled_suspect_lets_the_next_one_run() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    platform.set_limits(json!({ "cpu_ms": 3_600_000, "wall_ms": 3_600_000 })).await?;
    let suspect: Uuid = platform.order(json!({ "do": "loop" })).await?;
    mark_as_suspect(&platform, suspect).await?;
    let _worker = platform.worker(2)?;
    platform.claimed(suspect).await;

    let next = platform.create(json!({ "skill": "noop" })).await?;
    mark_as_suspect(&platform, next).await?;
    platform.post(&format!("/v1/requests/{suspect}/cancel"), &json!({})).await?;
    assert_eq!(platform.end_of(suspect).await.code(), "cancelled");
    assert_eq!(platform.end_of(next).await.status, "completed");
    Ok(())
}

/// As if a worker had died under it.
async fn mark_as_suspect(platform: &Platform, id: Uuid) -> Result<()> {
    sqlx::query("UPDATE eve.queue SET rescues = 1 WHERE id = $1")
        .bind(id)
        .execute(platform.pool())
        .await?;
    Ok(())
}

/// Suspects run beside a backlog, not after it.
#[tokio::test]
async fn a_suspect_does_not_starve_behind_a_backlog() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    // Of two organisations: one alone never fills a worker.
    for org in ["one", "two"] {
        platform.flood(org, 3_000, "hostile", json!({ "spin_ms": 5 })).await?;
    }
    let suspect = platform.create(json!({ "skill": "noop" })).await?;
    mark_as_suspect(&platform, suspect).await?;
    let _worker = platform.worker(2)?;
    assert_eq!(platform.end_of(suspect).await.status, "completed");
    let left = platform.count("SELECT count(*) FROM eve.queue").await;
    assert!(left > 3_000, "the backlog was worked off first: {left} left");
    Ok(())
}

/// Work that a worker has put aside must not wait behind runs that turn out to be long.
#[tokio::test]
async fn prefetched_work_goes_back_when_runs_turn_out_long() -> Result<()> {
    let platform = Platform::start(&["hostile-wasi", "noop"]).await?;
    let noop = || json!({ "skill": "noop" });
    let _first = platform.worker(1)?;
    // So many short ones that the worker prefetches as if all were short.
    platform.create_all((0..500).map(|_| noop()).collect()).await?;
    platform.until("an empty queue", "SELECT NOT EXISTS (SELECT FROM eve.queue)").await;
    let long = json!({ "skill": "hostile-wasi", "context": { "do": "sleep" }, "priority": -1 });
    let mut requests = vec![long];
    requests.extend((0..50).map(|_| noop()));
    let ids = platform.create_all(requests).await?;
    platform.claimed(ids[0]).await;
    let _second = platform.worker(1)?;
    for id in &ids[1..] {
        assert_eq!(platform.end_of(*id).await.status, "completed");
    }
    Ok(())
}

/// A worker that was given up for dead and comes back can do no more damage.
#[tokio::test]
async fn a_worker_that_wakes_up_too_late_changes_nothing() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    let orders = json!({ "do": "create", "create": 3, "skill": "noop", "spin_ms": 100 });
    let request = json!({ "skill": "hostile", "context": orders, "max_attempts": 1 });
    let stopped = platform.worker(8)?;
    // One by one, until the worker is caught with work in hand.
    let mut ids = Vec::new();
    let caught = loop {
        let id = platform.create(request.clone()).await?;
        ids.push(id);
        wait_for("a claim", async || match platform.live(id).await {
            Some((status, _, _)) => (status == "processing").then_some(()),
            None => Some(()),
        })
        .await;
        stopped.pause();
        if platform.live(id).await.is_some() {
            break id;
        }
        stopped.resume();
    };
    let _other = platform.worker(8)?;
    assert_eq!(platform.end_of(caught).await.status, "completed");
    stopped.resume();
    // It goes on working, under leases of its own.
    for id in platform.create_all(vec![request; 20]).await? {
        ids.push(id);
    }
    platform.until("an empty queue", "SELECT NOT EXISTS (SELECT FROM eve.queue)").await;
    for id in &ids {
        let end = platform.end_of(*id).await;
        assert_eq!((end.status.as_str(), end.attempt), ("completed", 1));
    }
    let children =
        platform.count("SELECT count(*) FROM eve.requests WHERE parent_request_id IS NOT NULL");
    assert_eq!(children.await, 3 * ids.len() as i64);
    let rescued = "SELECT count(*) FROM eve.attempts WHERE kind = 'rescued'";
    assert!(platform.count(rescued).await > 0);
    invariants::hold(&platform).await;
    Ok(())
}

/// The bell of a cancelled run may come when the request has been retried and runs again.
#[tokio::test]
async fn a_retried_run_is_not_stopped_by_the_bell_of_the_one_before() -> Result<()> {
    let platform = Platform::start(&["hostile", "noop"]).await?;
    platform.set_limits(json!({ "cpu_ms": 3_600_000, "wall_ms": 3_600_000 })).await?;
    let _worker = platform.worker(4)?;
    let id = platform.order(json!({ "do": "loop" })).await?;
    for _ in 0..10 {
        platform.claimed(id).await;
        platform.post(&format!("/v1/requests/{id}/cancel"), &json!({})).await?;
        platform.post(&format!("/v1/requests/{id}/retry"), &json!({})).await?;
    }
    platform.claimed(id).await;
    platform.post(&format!("/v1/requests/{id}/cancel"), &json!({})).await?;
    // Every one of them has left its slot.
    let noops = platform.create_all(vec![json!({ "skill": "noop" }); 20]).await?;
    for noop in noops {
        assert_eq!(platform.end_of(noop).await.status, "completed");
    }
    invariants::hold(&platform).await;
    Ok(())
}
