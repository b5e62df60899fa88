//! Races over orchestrations.

use super::*;
use crate::delivery::guest::GuestQueue;
use crate::runtime::{QueueError, QueueHost as _};

/// The run of an orchestration's wake-up, and its only child that is still running.
async fn awake(stage: &Stage) -> (RequestId, Claimed, Claimed) {
    let (orchestration, mut children) = stage.orchestration(2).await;
    let child = children.remove(1);
    stage.finish(&children[0], How::Completed, Effects::default()).await;
    let wakeup = stage.claim_one().await;
    assert!(wakeup.wake.is_some());
    (orchestration, wakeup, child)
}

#[tokio::test]
async fn an_orchestration_is_cancelled_while_its_wake_up_commits() {
    for how in [How::Completed, How::Waiting, How::Failed] {
        for first in BOTH {
            let stage = Stage::set().await;
            let (orchestration, wakeup, child) = awake(&stage).await;
            let another = RequestId::generate();
            let effects = match how {
                How::Failed => Effects::default(),
                _ => Effects { creates: vec![(another, replying())], ..Effects::default() },
            };
            let held = stage.hold(orchestration).await;
            let (finishing, cancelling) = match first {
                First::One => {
                    let finishing = stage.finishing(&wakeup, how, effects);
                    stage.until_waiting(1).await;
                    (finishing, stage.cancelling(orchestration))
                }
                First::Other => {
                    let cancelling = stage.cancelling(orchestration);
                    stage.until_waiting(1).await;
                    (stage.finishing(&wakeup, how, effects), cancelling)
                }
            };
            stage.until_waiting(2).await;
            drop(held);
            let written = finishing.await.expect("no panic");
            let cancelled = cancelling.await.expect("no panic");
            let why = format!("{how:?} {first:?}");
            match (first, how) {
                (First::One, How::Waiting) => {
                    assert!(matches!(written, Written::Done(_)), "{why}");
                    cancelled.expect("a cancel");
                    // What the wake-up has just started is found, although it was not there when the
                    // cancel began.
                    assert_eq!(stage.state(another).await, "cancelled: orchestration_ended");
                    assert_eq!(stage.state(orchestration).await, "cancelled: cancelled");
                }
                (First::One, _) => {
                    assert!(matches!(written, Written::Done(_)), "{why}");
                    assert!(matches!(cancelled, Err(RequestError::Conflict(_))), "{why}");
                    let ended = if how == How::Failed { "failed: failed" } else { "completed" };
                    assert_eq!(stage.state(orchestration).await, ended, "{why}");
                }
                (First::Other, _) => {
                    assert!(matches!(written, Written::LeaseLost), "{why}");
                    cancelled.expect("a cancel");
                    assert_eq!(stage.state(orchestration).await, "cancelled: cancelled", "{why}");
                    assert_eq!(stage.state(wakeup.id).await, "cancelled: orchestration_ended");
                    let found = stage.requests.get(stage.tenant, another).await;
                    assert!(found.is_err(), "nothing of what it asked for exists");
                }
            }
            assert_eq!(stage.state(child.id).await, "cancelled: orchestration_ended", "{why}");
            assert_eq!(stage.open_wakeups(orchestration).await, 0);
            stage.check().await;
        }
    }
}

/// The last completion comes while the wake-up, which does not know of it, goes back to sleep.
#[tokio::test]
async fn the_last_child_ends_while_the_wake_up_goes_back_to_sleep() {
    for first in BOTH {
        let stage = Stage::set().await;
        let (orchestration, wakeup, child) = awake(&stage).await;
        let held = stage.hold(orchestration).await;
        let (sleeping, ending) = match first {
            First::One => {
                let sleeping = stage.finishing(&wakeup, How::Waiting, Effects::default());
                stage.until_waiting(1).await;
                (sleeping, stage.finishing(&child, How::Completed, Effects::default()))
            }
            First::Other => {
                let ending = stage.finishing(&child, How::Completed, Effects::default());
                stage.until_waiting(1).await;
                (stage.finishing(&wakeup, How::Waiting, Effects::default()), ending)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        assert!(matches!(sleeping.await, Ok(Written::Done(_))), "{first:?}");
        assert!(matches!(ending.await, Ok(Written::Done(_))), "{first:?}");
        assert_eq!(stage.state(orchestration).await, "waiting");
        assert_eq!(stage.unread(orchestration).await, 1);
        assert_eq!(stage.open_wakeups(orchestration).await, 1);
        stage.check().await;
        // And it is told, once.
        let next = stage.claim_one().await;
        let events = next.wake.as_ref().expect("a wake-up").events.clone();
        assert_eq!(events.iter().map(|event| event.source).collect::<Vec<_>>(), [child.id.0]);
        stage.finish(&next, How::Completed, Effects::default()).await;
        assert_eq!(stage.state(orchestration).await, "completed");
        stage.check().await;
    }
}

/// The last completion comes while the wake-up completes the orchestration without it.
#[tokio::test]
async fn a_child_ends_while_the_wake_up_completes() {
    for first in BOTH {
        let stage = Stage::set().await;
        let (orchestration, wakeup, child) = awake(&stage).await;
        let held = stage.hold(orchestration).await;
        let (completing, ending) = match first {
            First::One => {
                let completing = stage.finishing(&wakeup, How::Completed, Effects::default());
                stage.until_waiting(1).await;
                (completing, stage.finishing(&child, How::Completed, Effects::default()))
            }
            First::Other => {
                let ending = stage.finishing(&child, How::Completed, Effects::default());
                stage.until_waiting(1).await;
                (stage.finishing(&wakeup, How::Completed, Effects::default()), ending)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        assert!(matches!(completing.await, Ok(Written::Done(_))), "{first:?}");
        let ending = ending.await.expect("no panic");
        match first {
            First::One => {
                assert!(matches!(ending, Written::LeaseLost));
                assert_eq!(stage.state(child.id).await, "cancelled: orchestration_ended");
            }
            First::Other => {
                assert!(matches!(ending, Written::Done(_)));
                assert_eq!(stage.state(child.id).await, "completed");
            }
        }
        assert_eq!(stage.state(orchestration).await, "completed");
        assert_eq!(stage.unread(orchestration).await, 0);
        stage.check().await;
    }
}

/// Two children end at once: one wake-up.
#[tokio::test]
async fn two_children_end_at_once() {
    let stage = Stage::set().await;
    let (orchestration, children) = stage.orchestration(2).await;
    let held = stage.hold(orchestration).await;
    let one = stage.finishing(&children[0], How::Completed, Effects::default());
    stage.until_waiting(1).await;
    let other = stage.finishing(&children[1], How::Failed, Effects::default());
    stage.until_waiting(2).await;
    drop(held);
    assert!(matches!(one.await, Ok(Written::Done(_))));
    assert!(matches!(other.await, Ok(Written::Done(_))));
    assert_eq!(stage.open_wakeups(orchestration).await, 1);
    let wakeup = stage.claim_one().await;
    assert_eq!(wakeup.wake.expect("a wake-up").events.len(), 2);
    stage.check().await;
}

/// A child is given to an orchestration from outside while it completes.
#[tokio::test]
async fn a_child_is_added_while_its_orchestration_completes() {
    for first in BOTH {
        let stage = Stage::set().await;
        let orchestration = stage.one(plain_request()).await;
        let run = stage.claim_one().await;
        let child = NewRequest {
            reply_to: Some(ReplyTo::Orchestrator { request_id: Some(orchestration) }),
            ..plain_request()
        };
        let (requests, tenant) = (stage.requests.clone(), stage.tenant);
        let adding = async move {
            let origin = Origin { actor: Actor::Platform, schedule: None };
            requests.create(tenant, &origin, vec![child], None).await
        };
        let held = stage.hold(orchestration).await;
        let (adding, completing) = match first {
            First::One => {
                let adding = tokio::spawn(adding);
                stage.until_waiting(1).await;
                (adding, stage.finishing(&run, How::Completed, Effects::default()))
            }
            First::Other => {
                let completing = stage.finishing(&run, How::Completed, Effects::default());
                stage.until_waiting(1).await;
                (tokio::spawn(adding), completing)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        assert!(matches!(completing.await, Ok(Written::Done(_))));
        let added = adding.await.expect("no panic");
        match first {
            First::One => {
                let child = added.expect("a creation").requests[0].id;
                assert_eq!(stage.state(child).await, "cancelled: orchestration_ended");
            }
            First::Other => assert!(matches!(added, Err(RequestError::Conflict(_)))),
        }
        stage.check().await;
    }
}

/// A child is retried while its orchestration ends: it must not come back to nobody.
#[tokio::test]
async fn a_child_is_retried_while_its_orchestration_is_cancelled() {
    for first in BOTH {
        let stage = Stage::set().await;
        let (orchestration, children) = stage.orchestration(2).await;
        stage.finish(&children[0], How::Failed, Effects::default()).await;
        let held = stage.hold(orchestration).await;
        let (retrying, cancelling) = match first {
            First::One => {
                let retrying = stage.retrying(children[0].id);
                stage.until_waiting(1).await;
                (retrying, stage.cancelling(orchestration))
            }
            First::Other => {
                let cancelling = stage.cancelling(orchestration);
                stage.until_waiting(1).await;
                (stage.retrying(children[0].id), cancelling)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        let retried = retrying.await.expect("no panic");
        cancelling.await.expect("no panic").expect("a cancel");
        match first {
            First::One => {
                retried.expect("a retry");
                assert_eq!(stage.state(children[0].id).await, "cancelled: orchestration_ended");
            }
            First::Other => {
                assert!(matches!(retried, Err(RequestError::Conflict(_))));
                assert_eq!(stage.state(children[0].id).await, "failed: failed");
            }
        }
        stage.check().await;
    }
}

/// What is detached outlives the orchestration above its creator, too, as long as nobody fails.
#[tokio::test]
async fn a_detached_grandchild_outlives_an_orchestration_that_completes() {
    let stage = Stage::set().await;
    let (orchestration, children) = stage.orchestration(1).await;
    let detached = RequestId::generate();
    let new = NewRequest { detached: true, ..plain_request() };
    let effects = Effects { creates: vec![(detached, new)], ..Effects::default() };
    stage.finish(&children[0], How::Completed, effects).await;
    let wakeup = stage.claim().await.into_iter().find(|run| run.wake.is_some());
    let wakeup = wakeup.expect("a wake-up");
    stage.finish(&wakeup, How::Completed, Effects::default()).await;
    assert_eq!(stage.state(orchestration).await, "completed");
    assert_eq!(stage.state(detached).await, "processing");
    stage.check().await;
}

/// Ending an orchestration costs what it has open, not the square of what it ever had; the statistics
/// are those of a day that is nearly all one fan-out.
#[tokio::test]
async fn an_orchestration_with_many_ended_children_ends() {
    let stage = Stage::set().await;
    let (orchestration, _) = stage.orchestration(1).await;
    let org = stage.tenant.org();
    stage
        .database
        .execute(format!(
            "CREATE TEMP TABLE made AS
                 SELECT eve.uuid_at(clock_timestamp()) AS base;
             WITH numbered AS (
                 SELECT n, (left((SELECT base FROM made)::text, 14) || '7' || substr(md5(n::text), 1, 3)
                            || '-8' || substr(md5(n::text), 4, 3) || '-' || lpad(to_hex(n), 12, '0'))::uuid AS id
                   FROM generate_series(1, 60000) n
             ), asked AS (
                 INSERT INTO eve.requests (id, org_id, worker_type, root_request_id, orchestration_id,
                                           parent_request_id, created_by)
                 SELECT id, '{org}', 'general', CASE WHEN n <= 10000 THEN '{orchestration}'::uuid ELSE id END,
                        id, CASE WHEN n <= 10000 THEN '{orchestration}'::uuid END, '{{}}'
                   FROM numbered
                 RETURNING id
             )
             INSERT INTO eve.orchestration_results (request_id, org_id, generation, attempt, status)
             SELECT id, '{org}', 1, 1, 'completed' FROM asked"
        ))
        .await;
    stage.database.execute("ANALYZE eve.requests".into()).await;
    stage.cancelling(orchestration).await.expect("no panic").expect("a cancel");
    assert_eq!(stage.state(orchestration).await, "cancelled: cancelled");
}

/// A wake-up ends with its orchestration only: a guest that would cancel it hears that at once.
#[tokio::test]
async fn a_guest_cannot_cancel_a_wake_up_by_itself() {
    let stage = Stage::set().await;
    let (orchestration, wakeup, child) = awake(&stage).await;
    let other = stage.one(plain_request()).await;
    let queue = GuestQueue::new(stage.requests.clone(), stage.tenant, other);
    let refused = queue.cancellable(wakeup.id).await;
    assert!(
        matches!(refused, Err(QueueError::Conflict(ref why)) if why.contains("cancel that one"))
    );
    queue.cancellable(child.id).await.expect("a child can be cancelled");
    queue.cancellable(orchestration).await.expect("so can an orchestration");
    let nobody = queue.cancellable(RequestId::generate()).await;
    assert!(matches!(nobody, Err(QueueError::NotFound(_))), "{nobody:?}");
    let corp = stage.database.org("corp").await;
    let foreign = GuestQueue::new(stage.requests.clone(), corp, other);
    let nobody = foreign.cancellable(child.id).await;
    assert!(matches!(nobody, Err(QueueError::NotFound(_))), "{nobody:?}");
    stage.finish(&child, How::Completed, Effects::default()).await;
    let late = queue.cancellable(child.id).await;
    assert!(
        matches!(late, Err(QueueError::Conflict(ref why)) if why.contains("completed already"))
    );
}

/// Whoever sets a timer for next month, and does not say how long to wait, means to be there.
#[tokio::test]
async fn a_wait_is_as_long_as_what_it_waits_for() {
    let stage = Stage::set().await;
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    for (timer, least) in [(days(1), 6), (days(30), 30)] {
        let id = stage.one(plain_request()).await;
        let run = stage.claim_one().await;
        let timers = vec![("later".to_owned(), timer)];
        stage.finish(&run, How::Waiting, Effects { timers, ..Effects::default() }).await;
        let waits = "SELECT floor(extract(epoch FROM wait_until - now()) / 86400)::bigint
                       FROM eve.queue WHERE id = $1";
        assert_eq!(stage.count(waits, id).await, least);
    }
}
