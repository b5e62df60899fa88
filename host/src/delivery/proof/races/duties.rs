//! Races between processes that do the same duty, and with people.

use tokio_util::sync::CancellationToken;

use super::super::machine::question;
use super::*;
use crate::hitl::{self, HitlError, Questions};
use crate::ids::QuestionId;
use crate::retention::Keep;
use crate::scheduler;

/// A term that is over when a test says so, however slow the machine is.
const LONG_TERM: &str = "UPDATE eve.leadership SET expires_at = now() + interval '1 hour'";

/// A leader that was stopped and continued goes on where it was: in the past.
#[tokio::test]
async fn a_duty_holder_that_slept_through_its_lease_changes_nothing() {
    let stage = Stage::set().await;
    let db = &stage.database.db;
    let blocker = stage.one(plain_request()).await;
    let dependent = stage.one(after(&[blocker], OnFailure::Hold)).await;
    let run = stage.claim_one().await;
    stage.finish(&run, How::Failed, Effects::default()).await;
    stage.database.execute("UPDATE eve.dependencies SET held_until = now()".into()).await;

    let (sleeper, successor) = (Uuid::new_v4(), Uuid::new_v4());
    let old = scheduler::lead(db, scheduler::DUTIES, sleeper)
        .await
        .expect("Postgres")
        .expect("nobody else leads");
    stage.database.execute(LONG_TERM.into()).await;
    assert!(scheduler::lead(db, scheduler::DUTIES, successor).await.expect("Postgres").is_none());
    // Its time is over while it sleeps, and nobody has taken over yet.
    stage.database.execute("UPDATE eve.leadership SET expires_at = now()".into()).await;
    scheduler::expire_held(db, &stage.bell, old).await.expect("Postgres");
    assert_eq!(stage.state(dependent).await, "blocked");
    // Somebody has.
    let new = scheduler::lead(db, scheduler::DUTIES, successor)
        .await
        .expect("Postgres")
        .expect("the term was over");
    stage.database.execute(LONG_TERM.into()).await;
    assert!(old.begin(db).await.expect("Postgres").is_none());
    scheduler::expire_held(db, &stage.bell, old).await.expect("Postgres");
    assert_eq!(stage.state(dependent).await, "blocked");
    // It leads again, in another epoch: what it had begun in the first is void all the same.
    stage.database.execute("UPDATE eve.leadership SET expires_at = now()".into()).await;
    let again = scheduler::lead(db, scheduler::DUTIES, sleeper)
        .await
        .expect("Postgres")
        .expect("the term was over");
    stage.database.execute(LONG_TERM.into()).await;
    assert!(old.begin(db).await.expect("Postgres").is_none());
    assert!(new.begin(db).await.expect("Postgres").is_none());
    scheduler::expire_held(db, &stage.bell, again).await.expect("Postgres");
    assert_eq!(stage.state(dependent).await, "cancelled: blocker_failed");
    stage.check().await;
}

/// Nobody takes over in the middle of a duty's transaction, however long that sleeps.
#[tokio::test]
async fn a_successor_waits_for_the_transaction_of_a_duty() {
    let stage = Stage::set().await;
    let db = stage.database.db.clone();
    let (sleeper, successor) = (Uuid::new_v4(), Uuid::new_v4());
    let old = scheduler::lead(&db, scheduler::DUTIES, sleeper)
        .await
        .expect("Postgres")
        .expect("nobody else leads");
    stage.database.execute(LONG_TERM.into()).await;
    let tx = old.begin(&db).await.expect("Postgres").expect("it leads");
    let taking = {
        let db = db.clone();
        tokio::spawn(async move {
            scheduler::lead(&db, scheduler::DUTIES, successor).await.expect("Postgres")
        })
    };
    stage.until_waiting(1).await;
    tx.commit().await.expect("a commit");
    assert!(taking.await.expect("no panic").is_none(), "the term is not over");
    assert!(old.begin(&db).await.expect("Postgres").is_some());
}

/// An orchestration that waits for an answer, and the question.
async fn asking(stage: &Stage) -> (RequestId, QuestionId) {
    let orchestration = stage.one(plain_request()).await;
    let run = stage.claim_one().await;
    let id = QuestionId::generate();
    let effects = Effects { questions: vec![(id, question())], ..Effects::default() };
    stage.finish(&run, How::Waiting, effects).await;
    (orchestration, id)
}

#[tokio::test]
async fn an_answer_meets_the_expiry_of_its_question() {
    for first in BOTH {
        let stage = Stage::set().await;
        let (orchestration, id) = asking(&stage).await;
        let held = stage.hold(orchestration).await;
        let questions = Questions::new(stage.database.db.clone(), stage.bell.clone());
        let tenant = stage.tenant;
        let answering = async move {
            questions
                .respond(tenant, &Actor::Platform, OrgRole::Member, id, &serde_json::json!("yes"))
                .await
        };
        let db = stage.database.db.clone();
        let expiring = async move {
            let mut tx = db.begin(Scope::Engine).await.expect("a transaction");
            hitl::expire::expire(&mut tx, 10).await.expect("an expiry");
            tx.commit().await.expect("a commit");
        };
        let due = format!("UPDATE eve.hitl_requests SET expires_at = now() WHERE id = '{id}'");
        let (answering, expiring) = match first {
            First::One => {
                let answering = tokio::spawn(answering);
                stage.until_waiting(1).await;
                // Its time is over while the answer waits for the orchestration.
                stage.database.execute(due).await;
                (answering, tokio::spawn(expiring))
            }
            First::Other => {
                stage.database.execute(due).await;
                let expiring = tokio::spawn(expiring);
                stage.until_waiting(1).await;
                (tokio::spawn(answering), expiring)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        let answered = answering.await.expect("no panic");
        expiring.await.expect("no panic");
        // By the time that the answer has its locks it is late, whoever came first.
        assert!(matches!(answered, Err(HitlError::Conflict(_))), "{first:?}");
        let told = stage.claim_one().await.wake.expect("a wake-up").events;
        assert_eq!(told.len(), 1, "{first:?}");
        assert_eq!(told[0].payload, serde_json::json!({}), "{first:?}");
        stage.check().await;
    }
}

#[tokio::test]
async fn two_people_answer_at_once() {
    let stage = Stage::set().await;
    let (orchestration, id) = asking(&stage).await;
    let held = stage.hold(orchestration).await;
    let answering = |word: &'static str| {
        let questions = Questions::new(stage.database.db.clone(), stage.bell.clone());
        let tenant = stage.tenant;
        tokio::spawn(async move {
            questions
                .respond(tenant, &Actor::Platform, OrgRole::Member, id, &serde_json::json!(word))
                .await
        })
    };
    let one = answering("yes");
    stage.until_waiting(1).await;
    let other = answering("no");
    stage.until_waiting(2).await;
    drop(held);
    one.await.expect("no panic").expect("the first answer");
    assert!(matches!(other.await.expect("no panic"), Err(HitlError::Conflict(_))));
    let told = stage.claim_one().await.wake.expect("a wake-up").events;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].payload["response"], "yes");
    stage.check().await;
}

#[tokio::test]
async fn a_timer_goes_off_in_two_processes_at_once() {
    let stage = Stage::set().await;
    let orchestration = stage.one(plain_request()).await;
    let run = stage.claim_one().await;
    let timers = vec![("tea".to_owned(), Duration::from_secs(3600))];
    stage.finish(&run, How::Waiting, Effects { timers, ..Effects::default() }).await;
    stage.database.execute("UPDATE eve.timers SET due_at = now()".into()).await;
    // Whose orchestration is busy is left for later.
    let held = stage.hold(orchestration).await;
    scheduler::waits::fire_timers(&stage.database.db).await.expect("Postgres");
    held.rollback().await.expect("a rollback");
    assert_eq!(stage.unread(orchestration).await, 0);
    let firing = || {
        let db = stage.database.db.clone();
        tokio::spawn(async move { scheduler::waits::fire_timers(&db).await.expect("Postgres") })
    };
    let (one, other) = (firing(), firing());
    one.await.expect("no panic");
    other.await.expect("no panic");
    let told = stage.claim_one().await.wake.expect("a wake-up").events;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].payload["name"], "tea");
    assert_eq!(stage.unread(orchestration).await, 0);
    stage.check().await;
}

/// An orchestration is woken at the moment at which it has waited for long enough.
#[tokio::test]
async fn a_wait_ends_while_its_orchestration_is_woken() {
    for first in BOTH {
        let stage = Stage::set().await;
        let (orchestration, children) = stage.orchestration(1).await;
        stage
            .database
            .execute("UPDATE eve.queue SET wait_until = now() WHERE wait_until IS NOT NULL".into())
            .await;
        let term = scheduler::lead(&stage.database.db, scheduler::DUTIES, Uuid::new_v4()).await;
        let term = term.expect("Postgres").expect("nobody else leads");
        stage.database.execute(LONG_TERM.into()).await;
        let (db, bell) = (stage.database.db.clone(), stage.bell.clone());
        let giving_up =
            async move { scheduler::expire_waits(&db, &bell, term).await.expect("Postgres") };
        let held = stage.hold(orchestration).await;
        let (waking, giving_up) = match first {
            First::One => {
                let waking = stage.finishing(&children[0], How::Completed, Effects::default());
                stage.until_waiting(1).await;
                (waking, tokio::spawn(giving_up))
            }
            First::Other => {
                let giving_up = tokio::spawn(giving_up);
                stage.until_waiting(1).await;
                (stage.finishing(&children[0], How::Completed, Effects::default()), giving_up)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        let woken = waking.await.expect("no panic");
        giving_up.await.expect("no panic");
        match first {
            First::One => {
                assert!(matches!(woken, Written::Done(_)));
                assert_eq!(stage.state(orchestration).await, "waiting");
                assert_eq!(stage.open_wakeups(orchestration).await, 1);
            }
            First::Other => {
                assert!(matches!(woken, Written::LeaseLost));
                assert_eq!(stage.state(orchestration).await, "failed: wait_timed_out");
            }
        }
        stage.check().await;
    }
}

/// A dependent has been held for too long at the moment at which its blocker is retried.
#[tokio::test]
async fn a_held_dependent_expires_while_its_blocker_is_retried() {
    for first in BOTH {
        let stage = Stage::set().await;
        let blocker = stage.one(plain_request()).await;
        let dependent = stage.one(after(&[blocker], OnFailure::Hold)).await;
        let run = stage.claim_one().await;
        stage.finish(&run, How::Failed, Effects::default()).await;
        let over = "UPDATE eve.dependencies SET held_until = now() WHERE state = 'held'";
        stage.database.execute(over.into()).await;
        let term = scheduler::lead(&stage.database.db, scheduler::DUTIES, Uuid::new_v4()).await;
        let term = term.expect("Postgres").expect("nobody else leads");
        stage.database.execute(LONG_TERM.into()).await;
        let (db, bell) = (stage.database.db.clone(), stage.bell.clone());
        let expiring =
            async move { scheduler::expire_held(&db, &bell, term).await.expect("Postgres") };
        let held = stage.hold(dependent).await;
        let (retrying, expiring) = match first {
            First::One => {
                let retrying = stage.retrying(blocker);
                stage.until_waiting(1).await;
                (retrying, tokio::spawn(expiring))
            }
            First::Other => {
                let expiring = tokio::spawn(expiring);
                stage.until_waiting(1).await;
                (stage.retrying(blocker), expiring)
            }
        };
        stage.until_waiting(2).await;
        drop(held);
        retrying.await.expect("no panic").expect("a retry");
        expiring.await.expect("no panic");
        let state = match first {
            First::One => "blocked",
            First::Other => "cancelled: blocker_failed",
        };
        assert_eq!(stage.state(dependent).await, state, "{first:?}");
        stage.check().await;
    }
}

/// Partitions are made while somebody reads for hours: nobody else is to wait for that.
#[tokio::test]
async fn partitions_wait_for_no_reader() {
    let stage = Stage::set().await;
    stage.database.execute("DO $$ BEGIN
        EXECUTE format('DROP TABLE eve.%I', 'requests' || to_char((now() AT TIME ZONE 'UTC')::date + 3, '_YYYYMMDD'));
    END $$".into()).await;
    let mut reader = stage.database.db.pool().begin().await.expect("a transaction");
    sqlx::query("SELECT FROM eve.requests").execute(&mut *reader).await.expect("a reader");
    let mut tx = stage.database.db.begin(Scope::Engine).await.expect("a transaction");
    let refused = sqlx::query("SELECT eve.ensure_partitions_of('requests', 3)")
        .execute(&mut *tx)
        .await
        .expect_err("the reader is in the way");
    assert!(crate::db::is_deadlock(&refused), "{refused}");
    tx.rollback().await.expect("a rollback");
    reader.rollback().await.expect("a rollback");
    let mut tx = stage.database.db.begin(Scope::Engine).await.expect("a transaction");
    let made: i32 = sqlx::query_scalar("SELECT eve.ensure_partitions_of('requests', 3)")
        .fetch_one(&mut *tx)
        .await
        .expect("a partition");
    assert_eq!(made, 1);
}

/// A duty that fails in every round keeps nobody from rescuing.
#[tokio::test]
async fn rescuing_goes_on_while_another_duty_fails() {
    let stage = Stage::set().await;
    let id = stage.one(plain_request()).await;
    // Of a worker that has never been heard.
    stage.claim_one().await;
    stage
        .database
        .execute("ALTER TABLE eve.dependencies RENAME COLUMN held_until TO gone".into())
        .await;
    let stop = CancellationToken::new();
    let duties = tokio::spawn(scheduler::run(
        stage.database.db.clone(),
        stage.bell.clone(),
        Keep::default(),
        stop.clone(),
    ));
    let rescued = async {
        while stage.state(id).await != "pending" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, rescued).await.expect("a rescue");
    stop.cancel();
    duties.await.expect("no panic");
}
