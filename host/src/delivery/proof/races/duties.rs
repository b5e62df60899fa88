//! Races between processes that do the same duty, and with people.

use super::*;
use crate::scheduler;

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
    assert!(old.begin(db).await.expect("Postgres").is_none());
    scheduler::expire_held(db, &stage.bell, old).await.expect("Postgres");
    assert_eq!(stage.state(dependent).await, "blocked");
    // It leads again, in another epoch: what it had begun in the first is void all the same.
    stage.database.execute("UPDATE eve.leadership SET expires_at = now()".into()).await;
    let again = scheduler::lead(db, scheduler::DUTIES, sleeper)
        .await
        .expect("Postgres")
        .expect("the term was over");
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
