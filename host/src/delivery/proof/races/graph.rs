//! Races over edges and leases.

use super::*;
use crate::delivery::lease::{MAX_RESCUES, Rescuer};
use crate::requests::graph::{Graph, Reach};

#[tokio::test]
async fn a_blocker_ends_while_a_dependent_is_inserted() {
    let cases = [
        (How::Completed, OnFailure::Cancel, "pending"),
        (How::Failed, OnFailure::Cancel, "cancelled: blocker_failed"),
        (How::Failed, OnFailure::Run, "pending"),
        (How::Failed, OnFailure::Hold, "blocked"),
    ];
    let stage = Stage::set().await;
    for (how, on_failure, outcome) in cases {
        for first in BOTH {
            let blocker = stage.one(plain_request()).await;
            let run = stage.claim_one().await;
            let held = stage.hold(blocker).await;
            let dependent = || after(&[blocker], on_failure);
            let (creating, finishing) = match first {
                First::One => {
                    let creating = stage.creating(dependent());
                    stage.until_waiting(1).await;
                    (creating, stage.finishing(&run, how, Effects::default()))
                }
                First::Other => {
                    let finishing = stage.finishing(&run, how, Effects::default());
                    stage.until_waiting(1).await;
                    (stage.creating(dependent()), finishing)
                }
            };
            stage.until_waiting(2).await;
            drop(held);
            let dependent = creating.await.expect("no panic");
            assert!(matches!(finishing.await, Ok(Written::Done(_))));
            assert_eq!(stage.state(dependent).await, outcome, "{how:?} {on_failure:?} {first:?}");
            stage.check().await;
            // Out of the way of the next.
            let _ = stage.requests.cancel(stage.tenant, &Actor::Platform, dependent, None).await;
        }
    }
}

/// The fast path must not end a request that somebody is adding a dependent to.
#[tokio::test]
async fn the_fast_path_leaves_a_blocker_alone_while_a_dependent_is_inserted() {
    let stage = Stage::set().await;
    let [blocker, other] = stage.create(vec![plain_request(), plain_request()]).await[..] else {
        unreachable!("two were asked for")
    };
    let runs = stage.claim().await;
    // The inserter has marked the blocker, and waits for another row before it commits.
    let held = stage.hold(other).await;
    let creating = stage.creating(after(&[blocker, other], OnFailure::Cancel));
    stage.until_waiting(1).await;
    let run = runs.iter().find(|run| run.id == blocker).expect("claimed").clone();
    let batch = [finished(run, outcome(How::Completed), Effects::default())];
    let mut tx = stage.database.db.begin(Scope::Engine).await.expect("a transaction");
    let left = finish::plain(&mut tx, stage.worker, &batch).await.expect("a batch");
    tx.commit().await.expect("a commit");
    assert_eq!(left, [0]);
    let finishing = stage.writing(batch[0].clone());
    stage.until_waiting(2).await;
    drop(held);
    let dependent = creating.await.expect("no panic");
    assert!(matches!(finishing.await, Ok(Written::Done(_))));
    assert_eq!(stage.request(dependent).await.open_blockers, 1);
    stage.check().await;
}

#[tokio::test]
async fn the_last_two_blockers_end_in_two_transactions() {
    let stage = Stage::set().await;
    let blockers = stage.create(vec![plain_request(), plain_request()]).await;
    let dependent = stage.one(after(&blockers, OnFailure::Cancel)).await;
    let runs = stage.claim().await;
    // Each has its own blocker and waits for the dependent.
    let held = stage.hold(dependent).await;
    let one = stage.finishing(&runs[0], How::Completed, Effects::default());
    stage.until_waiting(1).await;
    let other = stage.finishing(&runs[1], How::Completed, Effects::default());
    stage.until_waiting(2).await;
    drop(held);
    assert!(matches!(one.await, Ok(Written::Done(_))));
    assert!(matches!(other.await, Ok(Written::Done(_))));
    assert_eq!(stage.state(dependent).await, "pending");
    stage.check().await;
}

#[tokio::test]
async fn the_last_two_blockers_end_in_one_batch() {
    let stage = Stage::set().await;
    let blockers = stage.create(vec![plain_request(), plain_request()]).await;
    let dependent = stage.one(after(&blockers, OnFailure::Run)).await;
    let runs = stage.claim().await;
    let ends = [How::Completed, How::Failed];
    let batch: Vec<Finished> = runs
        .iter()
        .zip(ends)
        .map(|(run, how)| finished(run.clone(), outcome(how), Effects::default()))
        .collect();
    let mut tx = stage.database.db.begin(Scope::Engine).await.expect("a transaction");
    let left = finish::plain(&mut tx, stage.worker, &batch).await.expect("a batch");
    tx.commit().await.expect("a commit");
    assert_eq!(left, [0, 1], "both have a dependent");
    let written = finish::batch_with_graph(&stage.database.db, stage.worker, &batch).await;
    assert!(written.expect("a batch").iter().all(|w| matches!(w, Some(Written::Done(_)))));
    assert_eq!(stage.state(dependent).await, "pending");
    stage.check().await;
}

#[tokio::test]
async fn a_late_completion_finds_that_its_run_was_rescued() {
    let stage = Stage::set().await;
    let id = stage.one(plain_request()).await;
    let run = stage.claim_one().await;
    // The rescue is not committed yet when the worker, which is not dead after all, reports.
    let mut tx = stage.database.db.begin(Scope::Engine).await.expect("a transaction");
    let mut rescuer = Rescuer::default();
    rescuer.rescue(&mut tx, stage.worker).await.expect("a rescue").expect("something to rescue");
    let created = (RequestId::generate(), plain_request());
    let effects = Effects { creates: vec![created], ..Effects::default() };
    let finishing = stage.finishing(&run, How::Completed, effects);
    stage.until_waiting(1).await;
    tx.commit().await.expect("a commit");
    assert!(matches!(finishing.await, Ok(Written::LeaseLost)));
    let request = stage.request(id).await;
    assert_eq!((request.status.as_str(), request.attempt), ("pending", 0));
    let requests: i64 = sqlx::query_scalar("SELECT count(*) FROM eve.requests")
        .fetch_one(stage.database.db.pool())
        .await
        .expect("a count");
    assert_eq!(requests, 1, "what the lost run asked for does not exist");
    stage.check().await;
}

#[tokio::test]
async fn a_rescue_finds_that_a_run_completes_at_this_moment() {
    // The last death that a request survives, and the one that ends it.
    for rescues in [0, MAX_RESCUES - 1] {
        let stage = Stage::set().await;
        let id = stage.one(plain_request()).await;
        let dependent = stage.one(after(&[id], OnFailure::Cancel)).await;
        let run = stage.claim_one().await;
        let sql = format!("UPDATE eve.queue SET rescues = {rescues} WHERE id = '{id}'");
        stage.database.execute(sql).await;
        // The completion has its own row, and waits for the dependent's.
        let held = stage.hold(dependent).await;
        let finishing = stage.finishing(&run, How::Completed, Effects::default());
        stage.until_waiting(1).await;
        let (db, worker) = (stage.database.db.clone(), stage.worker);
        let rescuing = tokio::spawn(async move {
            let mut rescuer = Rescuer::default();
            let mut tx = db.begin(Scope::Engine).await.expect("a transaction");
            rescuer.rescue(&mut tx, worker).await.expect("a rescue");
            tx.commit().await.expect("a commit");
        });
        if rescues + 1 == MAX_RESCUES {
            // Ending takes the graph's locks: it waits. Giving back skips what is locked.
            stage.until_waiting(2).await;
        } else {
            rescuing.await.expect("no panic");
            drop(held);
            assert!(matches!(finishing.await, Ok(Written::Done(_))));
            assert_eq!(stage.state(id).await, "completed");
            assert_eq!(stage.state(dependent).await, "pending");
            stage.check().await;
            continue;
        }
        drop(held);
        assert!(matches!(finishing.await, Ok(Written::Done(_))));
        rescuing.await.expect("no panic");
        assert_eq!(stage.state(id).await, "completed");
        assert_eq!(stage.state(dependent).await, "pending");
        stage.check().await;
    }
}

/// One blocker of a dead dependent is retried while the other fails.
#[tokio::test]
async fn a_retry_meets_a_cascade() {
    for first in BOTH {
        let stage = Stage::set().await;
        let blockers = stage.create(vec![plain_request(), plain_request()]).await;
        let dependent = stage.one(after(&blockers, OnFailure::Cancel)).await;
        let last = stage.one(after(&[dependent], OnFailure::Cancel)).await;
        let runs = stage.claim().await;
        stage.finish(&runs[0], How::Failed, Effects::default()).await;
        assert_eq!(stage.state(last).await, "cancelled: blocker_failed");

        let held = stage.hold(blockers[1]).await;
        let (retrying, failing) = match first {
            First::One => {
                let retrying = stage.retrying(blockers[0]);
                stage.until_waiting(1).await;
                (retrying, stage.finishing(&runs[1], How::Failed, Effects::default()))
            }
            First::Other => {
                let failing = stage.finishing(&runs[1], How::Failed, Effects::default());
                stage.until_waiting(1).await;
                (stage.retrying(blockers[0]), failing)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        retrying.await.expect("no panic").expect("a retry");
        assert!(matches!(failing.await, Ok(Written::Done(_))));
        let states = [stage.state(dependent).await, stage.state(last).await];
        match first {
            // Revived, and cancelled again because of the other one.
            First::One => assert_eq!(states, ["cancelled: blocker_failed"; 2]),
            // The other one holds it back until it is retried too.
            First::Other => assert_eq!(states, ["blocked"; 2]),
        }
        stage.check().await;
        // Retrying what has failed brings everything back in the end.
        let _ = stage.requests.retry(stage.tenant, &Actor::Platform, blockers[1]).await;
        assert_eq!(stage.request(dependent).await.open_blockers, 2);
        stage.check().await;
    }
}

/// The dependent of a request that is being retried ends, or gets company, at that moment.
#[tokio::test]
async fn a_dependent_is_inserted_while_its_blocker_is_retried() {
    let stage = Stage::set().await;
    let blocker = stage.one(plain_request()).await;
    let held_back = stage.one(after(&[blocker], OnFailure::Hold)).await;
    let run = stage.claim_one().await;
    stage.finish(&run, How::Failed, Effects::default()).await;
    let held = stage.hold(held_back).await;
    // The retry waits for the dependent that is held; the insertion, for the retry or the other way
    // round: either way the new one must end up waiting for the new generation.
    let retrying = stage.retrying(blocker);
    stage.until_waiting(1).await;
    let mut creating = stage.creating(after(&[blocker], OnFailure::Hold));
    let early = tokio::select! {
        added = &mut creating => Some(added.expect("no panic")),
        () = stage.until_waiting(2) => None,
    };
    drop(held);
    retrying.await.expect("no panic").expect("a retry");
    let added = match early {
        Some(added) => added,
        None => creating.await.expect("no panic"),
    };
    assert_eq!(stage.state(added).await, "blocked");
    stage.check().await;
    let run = stage.claim_one().await;
    stage.finish(&run, How::Completed, Effects::default()).await;
    assert_eq!(stage.state(held_back).await, "pending");
    assert_eq!(stage.state(added).await, "pending");
    stage.check().await;
}

#[tokio::test]
async fn overlapping_graphs_are_locked_in_one_order() {
    let stage = Stage::set().await;
    let ids = stage.create((0..4).map(|_| plain_request()).collect()).await;
    let there: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let back: Vec<Uuid> = there.iter().rev().copied().collect();
    for held in &ids {
        let held = stage.hold(*held).await;
        // At the level at which nothing is replayed: a deadlock would be an error.
        let locking = |rows: Vec<Uuid>| {
            let db = stage.database.db.clone();
            tokio::spawn(async move {
                let mut tx = db.begin(Scope::Engine).await?;
                let reach = Reach { failing: rows, ..Reach::default() };
                let graph = Graph::lock(&mut tx, &reach).await?;
                tx.commit().await?;
                Ok::<usize, sqlx::Error>(graph.live.len())
            })
        };
        let one = locking(there.clone());
        stage.until_waiting(1).await;
        let other = locking(back.clone());
        stage.until_waiting(2).await;
        drop(held);
        assert_eq!(one.await.expect("no panic").expect("no deadlock"), 4);
        assert_eq!(other.await.expect("no panic").expect("no deadlock"), 4);
    }
    // And with dependents that were inserted in opposite orders.
    let (one, other) = (ids[0], ids[1]);
    let mut below = Vec::new();
    for pair in [[one, other], [other, one]] {
        below.push(stage.one(after(&pair, OnFailure::Run)).await);
    }
    let runs = stage.claim().await;
    let run = |id: RequestId| runs.iter().find(|run| run.id == id).expect("claimed").clone();
    let held = stage.hold(below[0]).await;
    let first = stage.finishing(&run(one), How::Failed, Effects::default());
    stage.until_waiting(1).await;
    let second = stage.finishing(&run(other), How::Completed, Effects::default());
    stage.until_waiting(2).await;
    drop(held);
    assert!(matches!(first.await, Ok(Written::Done(_))));
    assert!(matches!(second.await, Ok(Written::Done(_))));
    for id in below {
        assert_eq!(stage.state(id).await, "pending");
    }
    stage.check().await;
}

/// What nobody could see when it was made shows when the dead are revived: they would wait for one
/// another.
#[tokio::test]
async fn a_retry_does_not_close_a_circle() {
    let stage = Stage::set().await;
    // `one` waits for the child that replies to it, which waits for `other`.
    let other = stage.one(plain_request()).await;
    let run = stage.claim_one().await;
    let anchor = RequestId::generate();
    let effects = Effects { creates: vec![(anchor, replying())], ..Effects::default() };
    stage.finish(&run, How::Waiting, effects).await;
    stage.claim_one().await;
    let one = stage.one(plain_request()).await;
    let run = stage.claim_one().await;
    let (child, second) = (RequestId::generate(), RequestId::generate());
    let blocked =
        NewRequest { reply_to: replying().reply_to, ..after(&[other], OnFailure::Cancel) };
    let effects =
        Effects { creates: vec![(child, blocked), (second, replying())], ..Effects::default() };
    stage.finish(&run, How::Waiting, effects).await;
    stage.cancelling(child).await.expect("no panic").expect("a cancel");
    // While it is dead, `other` is given a child that waits for `one`.
    let late = NewRequest {
        reply_to: Some(ReplyTo::Orchestrator { request_id: Some(other) }),
        ..after(&[one], OnFailure::Cancel)
    };
    let late = stage.one(late).await;
    let refused = stage.retrying(child).await.expect("no panic");
    assert!(matches!(refused, Err(RequestError::Conflict(_))), "{refused:?}");
    assert_eq!(stage.state(child).await, "cancelled: cancelled");
    assert_eq!(stage.state(late).await, "blocked");
    stage.check().await;
}
