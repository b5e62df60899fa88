//! Filling the queue, watching it drain, and the floor under it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use eve_host::db::{Db, Scope};
use eve_host::delivery::claim::{Appetite, Cursor};
use eve_host::delivery::finish::{self, Finished, Outcome};
use eve_host::ids::{OrgId, WorkerId};
use sqlx::Row;
use uuid::Uuid;

use super::processes::Client;

/// The organisation that everything here belongs to.
pub async fn org(db: &Db) -> Result<OrgId> {
    let id: Uuid = sqlx::query_scalar("SELECT id FROM eve.organizations WHERE slug = 'dev'")
        .fetch_one(db.pool())
        .await?;
    Ok(OrgId(id))
}

/// Fills the queue with no-ops, a thousand to a statement.
pub async fn create(db: &Db, org: OrgId, count: usize) -> Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    for chunk in ids.chunks(1_000) {
        let mut tx = db.begin(Scope::Engine).await?;
        sqlx::query(
            "INSERT INTO eve.requests (id, org_id, worker_type, skill, root_request_id,
                                       orchestration_id, created_by)
             SELECT id, $2, 'general', 'noop', id, id, '{}' FROM unnest($1::uuid[]) AS n (id)",
        )
        .bind(chunk)
        .bind(org.0)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO eve.queue (id, org_id, worker_type, status, priority)
             SELECT id, $2, 'general', 'pending', 0 FROM unnest($1::uuid[]) AS n (id)",
        )
        .bind(chunk)
        .bind(org.0)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
    }
    sqlx::query("ANALYZE eve.queue").execute(db.pool()).await?;
    sqlx::query("SELECT pg_notify('eve_pending', 'general')").execute(db.pool()).await?;
    Ok(ids)
}

/// Waits until all of them have completed.
pub async fn finished(db: &Db, ids: &[Uuid]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM eve.queue").fetch_one(db.pool()).await?;
        if open == 0 {
            break;
        }
        anyhow::ensure!(Instant::now() < deadline, "{open} requests are still open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let completed: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM eve.orchestration_results
          WHERE request_id = ANY ($1) AND status = 'completed'",
    )
    .bind(ids)
    .fetch_one(db.pool())
    .await?;
    anyhow::ensure!(completed as usize == ids.len(), "only {completed} of {} completed", ids.len());
    Ok(())
}

/// Runs a second, from the first claim to the last result.
pub async fn rate(db: &Db, ids: &[Uuid]) -> Result<f64> {
    let seconds: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8
           FROM eve.orchestration_results WHERE request_id = ANY ($1)",
    )
    .bind(ids)
    .fetch_one(db.pool())
    .await?;
    Ok(ids.len() as f64 / seconds)
}

/// Milliseconds.
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
}

impl Percentiles {
    pub fn of(mut all: Vec<f64>) -> Percentiles {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
        Percentiles { p50: at(0.5), p95: at(0.95) }
    }
}

/// Sends single requests through the API, each when the one before has ended, and reads how long
/// each waited for its worker.
pub async fn pick_up(client: &Client, db: &Db, count: usize) -> Result<Percentiles> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let request = serde_json::json!({ "worker_type": "general", "skill": "noop" });
        let id = client.create(&request).await?;
        finished(db, &[id]).await?;
        ids.push(id);
    }
    let waits: Vec<f64> = sqlx::query(
        "SELECT extract(epoch FROM x.started_at - r.created_at)::float8 * 1000
           FROM eve.requests r JOIN eve.orchestration_results x ON x.request_id = r.id
          WHERE r.id = ANY ($1)",
    )
    .bind(&ids)
    .fetch_all(db.pool())
    .await?
    .iter()
    .map(|row| row.get(0))
    .collect();
    Ok(Percentiles::of(waits))
}

/// The same statements as a worker's, one connection, batches of 500, running nothing.
pub async fn floor(db: &Db, ids: &[Uuid]) -> Result<f64> {
    let worker = WorkerId::generate();
    let mut cursor = Cursor::new(worker, "general".into());
    let started = Instant::now();
    let mut batch: Vec<Finished> = Vec::new();
    let mut done = 0;
    while done < ids.len() {
        let mut tx = db.begin(Scope::Engine).await?;
        let left = finish::plain(&mut tx, worker, &batch).await?;
        anyhow::ensure!(left.is_empty(), "a run without dependents was left");
        done += batch.len();
        let appetite = Appetite {
            batch: 500,
            org_cap: 500,
            held: HashMap::new(),
            last_slot: false,
            suspect: false,
        };
        let claimed = cursor.claim(&mut tx, &appetite).await?;
        tx.commit().await?;
        batch = claimed
            .into_iter()
            .map(|run| Finished {
                run,
                outcome: Outcome::Completed {
                    summary: String::new(),
                    data: None,
                    tokens_used: None,
                    cost: None,
                },
                effects: Default::default(),
                log: Vec::new(),
                log_dropped: 0,
                wall: Duration::ZERO,
                cpu: Duration::ZERO,
                memory_peak: 0,
            })
            .collect();
    }
    Ok(ids.len() as f64 / started.elapsed().as_secs_f64())
}
