//! One sweep: days first, then what is left in batches.

use std::fmt;

use chrono::NaiveDate;
use sqlx::Executor;
use uuid::Uuid;

use super::{DUTY, Keep, Retention};
use crate::db::{Db, Tx};
use crate::scheduler;

/// Rows that one transaction looks at.
const BATCH: i32 = 5_000;
/// Deployments that one transaction looks at, to delete [`BATCH`] revisions at most.
const DEPLOYMENTS: i32 = 500;
/// Transactions that one sweep spends on each table: the rest waits for the next sweep.
const BATCHES: usize = 200;

/// What a sweep has done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Days whose partitions were dropped.
    pub days: Vec<NaiveDate>,
    /// Requests of those days that were moved, because they are still needed.
    pub survivors: i64,
    /// Days whose tables somebody held for too long.
    pub busy: Vec<NaiveDate>,
    /// Days of which more is needed than can be moved. They stay as they are.
    pub crowded: Vec<NaiveDate>,
    /// Requests deleted one by one.
    pub requests: i64,
    /// Rows deleted that hung on requests which are gone: results, attempts, logs.
    pub remains: i64,
    /// Edges deleted.
    pub edges: i64,
    /// Rows of the inbox deleted.
    pub inbox: i64,
    /// Questions deleted.
    pub questions: i64,
    /// Idempotency keys deleted.
    pub keys: i64,
    /// Ticks of schedules deleted.
    pub ticks: i64,
    /// Revisions of deployments deleted.
    pub revisions: i64,
    /// Events of deployments deleted.
    pub events: i64,
    /// Orders of skills deleted.
    pub orders: i64,
    /// Whether there is more to do before long.
    pub unfinished: bool,
}

impl Swept {
    /// Whether it is worth a line in the log.
    pub fn did_something(&self) -> bool {
        *self != Swept { unfinished: self.unfinished, ..Swept::default() }
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        for (days, about) in [
            (&self.days, "dropped"),
            (&self.busy, "in use, to be tried again"),
            (&self.crowded, "kept, because too much of it is still needed"),
        ] {
            if let (Some(first), Some(last)) = (days.first(), days.last()) {
                let count = days.len();
                said.push(match count {
                    1 => format!("{first} {about}"),
                    _ => format!("{count} days from {first} to {last} {about}"),
                });
            }
        }
        for (count, what) in [
            (self.survivors, "requests of them moved"),
            (self.requests, "older requests"),
            (self.remains, "results, attempts and logs of theirs"),
            (self.edges, "edges"),
            (self.inbox, "inbox rows"),
            (self.questions, "questions"),
            (self.keys, "idempotency keys"),
            (self.ticks, "ticks of schedules"),
            (self.revisions, "revisions of deployments"),
            (self.events, "events of deployments"),
            (self.orders, "orders of skills"),
        ] {
            if count > 0 {
                said.push(format!("{count} {what}"));
            }
        }
        f.write_str(&said.join(", "))
    }
}

/// Takes or renews the leadership and begins a transaction under it: none if somebody else leads.
async fn begin(db: &Db, holder: Uuid) -> Result<Option<Tx>, sqlx::Error> {
    match scheduler::lead(db, DUTY, holder).await? {
        Some(term) => term.begin(db).await,
        None => Ok(None),
    }
}

/// Deletes what is past retention, as far as one sweep goes. Does nothing while somebody else leads.
pub(crate) async fn sweep(db: &Db, holder: Uuid, keep: Keep) -> Result<Swept, sqlx::Error> {
    let mut swept = Swept::default();
    days(db, holder, keep.retention, &mut swept).await?;
    requests(db, holder, keep.retention, &mut swept).await?;
    edges(db, holder, keep.retention, &mut swept).await?;
    by_id(db, holder, keep.retention, &mut swept).await?;
    by_age(db, holder, keep.retention, &mut swept).await?;
    deployments(db, holder, keep, &mut swept).await?;
    Ok(swept)
}

async fn days(
    db: &Db,
    holder: Uuid,
    keep: Retention,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
    let days = sqlx::query_scalar!(
        r#"SELECT day AS "day!" FROM eve.expired_days($1) AS day"#,
        keep.interval()
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    for day in days {
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        // Finding out what is needed of a long day reads all its results.
        tx.execute("SET LOCAL statement_timeout = '300s'").await?;
        let done = sqlx::query!(
            r#"SELECT outcome AS "outcome!", survivors AS "survivors!" FROM eve.drop_day($1, $2)"#,
            day,
            keep.interval()
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        match done.outcome.as_str() {
            "dropped" => {
                swept.days.push(day);
                swept.survivors += i64::from(done.survivors);
            }
            "crowded" => swept.crowded.push(day),
            _ => {
                swept.busy.push(day);
                swept.unfinished = true;
            }
        }
    }
    Ok(())
}

/// Ended requests in the default partitions, and what hangs on requests that are gone.
async fn requests(
    db: &Db,
    holder: Uuid,
    keep: Retention,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let mut after = Some(Uuid::nil());
    for _ in 0..BATCHES {
        let Some(from) = after else { break };
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let done = sqlx::query!(
            r#"SELECT next AS "next?", gone AS "gone!" FROM eve.sweep_requests($1, $2, $3)"#,
            keep.interval(),
            from,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.requests += i64::from(done.gone);
        after = done.next;
    }
    swept.unfinished |= after.is_some();
    for _ in 0..BATCHES {
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let gone = sqlx::query_scalar!(
            r#"SELECT eve.sweep_remains($1, $2) AS "gone!""#,
            keep.interval(),
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.remains += i64::from(gone);
        if gone == 0 {
            return Ok(());
        }
    }
    swept.unfinished = true;
    Ok(())
}

async fn edges(
    db: &Db,
    holder: Uuid,
    keep: Retention,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let mut after = Some((Uuid::nil(), Uuid::nil()));
    for _ in 0..BATCHES {
        let Some((blocker, dependent)) = after else { return Ok(()) };
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let done = sqlx::query!(
            r#"
            SELECT next_blocker AS "next_blocker?", next_dependent AS "next_dependent?", gone AS "gone!"
              FROM eve.sweep_edges($1, $2, $3, $4)
            "#,
            keep.interval(),
            blocker,
            dependent,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.edges += i64::from(done.gone);
        after = done.next_blocker.zip(done.next_dependent);
    }
    swept.unfinished |= after.is_some();
    Ok(())
}

/// The inbox and questions, which are found by their ids.
async fn by_id(
    db: &Db,
    holder: Uuid,
    keep: Retention,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let mut after = Some(Uuid::nil());
    for _ in 0..BATCHES {
        let Some(from) = after else { break };
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let done = sqlx::query!(
            r#"SELECT next AS "next?", gone AS "gone!" FROM eve.sweep_inbox($1, $2, $3)"#,
            keep.interval(),
            from,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.inbox += i64::from(done.gone);
        after = done.next;
    }
    swept.unfinished |= after.is_some();
    let mut after = Some(Uuid::nil());
    for _ in 0..BATCHES {
        let Some(from) = after else { break };
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let done = sqlx::query!(
            r#"SELECT next AS "next?", gone AS "gone!" FROM eve.sweep_questions($1, $2, $3)"#,
            keep.interval(),
            from,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.questions += i64::from(done.gone);
        after = done.next;
    }
    swept.unfinished |= after.is_some();
    Ok(())
}

/// Idempotency keys and ticks of schedules, which are found by their age.
async fn by_age(
    db: &Db,
    holder: Uuid,
    keep: Retention,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let mut done = (false, false);
    for _ in 0..BATCHES {
        if done == (true, true) {
            return Ok(());
        }
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let gone = sqlx::query!(
            r#"
            SELECT eve.sweep_keys($1, $2) AS "keys!", eve.sweep_ticks($1, $2) AS "ticks!"
            "#,
            keep.interval(),
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.keys += i64::from(gone.keys);
        swept.ticks += i64::from(gone.ticks);
        done = (gone.keys < BATCH, gone.ticks < BATCH);
    }
    swept.unfinished = true;
    Ok(())
}

/// What deployments once were: revisions, deployment by deployment, and events and orders, by their age.
async fn deployments(
    db: &Db,
    holder: Uuid,
    keep: Keep,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let mut after = Some(Uuid::nil());
    for _ in 0..BATCHES {
        let Some(from) = after else { break };
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let done = sqlx::query!(
            r#"
            SELECT next AS "next?", gone AS "gone!" FROM eve.sweep_revisions($1, $2, $3, $4, $5)
            "#,
            keep.retention.interval(),
            keep.keep_revisions.0,
            from,
            DEPLOYMENTS,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.revisions += i64::from(done.gone);
        after = done.next;
    }
    swept.unfinished |= after.is_some();
    let mut done = (false, false);
    for _ in 0..BATCHES {
        if done == (true, true) {
            return Ok(());
        }
        let Some(mut tx) = begin(db, holder).await? else { return Ok(()) };
        let gone = sqlx::query!(
            r#"
            SELECT eve.sweep_deployment_events($1, $2) AS "events!",
                   eve.sweep_deployment_orders($1, $2) AS "orders!"
            "#,
            keep.retention.interval(),
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        swept.events += i64::from(gone.events);
        swept.orders += i64::from(gone.orders);
        done = (gone.events < BATCH, gone.orders < BATCH);
    }
    swept.unfinished = true;
    Ok(())
}
