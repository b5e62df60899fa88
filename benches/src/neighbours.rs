//! What well-behaved requests feel of hostile ones on the same worker.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use eve_host::db::Db;
use serde_json::{Value, json};
use uuid::Uuid;

use super::processes::Client;
use super::queue::{self, Percentiles};

/// What runs beside them, by what it is told to do.
pub const ATTACKS: [(&str, &str); 11] = [
    ("hostile", "loop"),
    ("hostile", "bulk"),
    ("hostile", "allocate"),
    ("hostile", "recurse"),
    ("hostile", "sleep-busy"),
    ("hostile", "log"),
    ("hostile", "trap"),
    ("hostile", "big-output"),
    ("hostile-wasi", "print"),
    ("hostile-wasi", "sleep"),
    ("hostile", "create-then-loop"),
];

/// Hostile runs at one time.
const HOSTILE: usize = 8;

/// From the creation of a request to its result, in milliseconds: requests through the API, each
/// when the one before has ended.
pub async fn latency(client: &Client, db: &Db, count: usize) -> Result<Percentiles> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = client.create(&json!({ "worker_type": "general", "skill": "noop" })).await?;
        ended(db, id).await?;
        ids.push(id);
    }
    let took: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM x.finished_at - r.created_at)::float8 * 1000
           FROM eve.requests r JOIN eve.orchestration_results x ON x.request_id = r.id
          WHERE r.id = ANY ($1)",
    )
    .bind(&ids)
    .fetch_all(db.pool())
    .await?;
    Ok(Percentiles::of(took))
}

/// The same beside a program that spins on every core in the idle class, and has nothing to do with us:
/// what the kernel and the machine make of being busy.
pub async fn beside_spinners(client: &Client, db: &Db, count: usize) -> Result<Percentiles> {
    let cores = std::thread::available_parallelism()?.get();
    let mut spinners = Vec::new();
    for _ in 0..cores {
        let mut command = tokio::process::Command::new("chrt");
        command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]).kill_on_drop(true);
        spinners.push(command.spawn().context("starting chrt")?);
    }
    latency(client, db, count).await
}

/// The same beside this attack, which goes on without a break.
pub async fn beside(
    (skill, action): (&str, &str),
    client: &Client,
    db: &Db,
    count: usize,
) -> Result<Percentiles> {
    let order = json!({
        "worker_type": "general", "skill": skill, "max_attempts": 1, "context": { "do": action },
    });
    // By the database's clock, which writes the rest.
    let began: String = sqlx::query_scalar("SELECT now()::text").fetch_one(db.pool()).await?;
    let measured = async {
        under_way(db, &began).await?;
        latency(client, db, count).await
    };
    let measured = tokio::select! {
        failed = keep_up(client, db, &order) => match failed? {},
        measured = measured => measured?,
    };
    cancel_all(client, db).await?;
    Ok(measured)
}

/// So many of them at any time.
async fn keep_up(client: &Client, db: &Db, order: &Value) -> Result<Infallible> {
    let mut open: Vec<Uuid> = Vec::new();
    loop {
        while open.len() < HOSTILE {
            open.push(client.create(order).await?);
        }
        let over: Vec<Uuid> = sqlx::query_scalar(
            "SELECT request_id FROM eve.orchestration_results WHERE request_id = ANY ($1)",
        )
        .bind(&open)
        .fetch_all(db.pool())
        .await?;
        open.retain(|id| !over.contains(id));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until as many as are to run at one time have begun since then.
async fn under_way(db: &Db, began: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM eve.queue WHERE claimed_at >= $1::text::timestamptz)
                  + (SELECT count(*) FROM eve.orchestration_results
                      WHERE started_at >= $1::text::timestamptz)",
        )
        .bind(began)
        .fetch_one(db.pool())
        .await?;
        if seen >= HOSTILE as i64 {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "the attack does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ended(db: &Db, id: Uuid) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM eve.orchestration_results WHERE request_id = $1)",
        )
        .bind(id)
        .fetch_one(db.pool())
        .await?;
        if there {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "request {id} has not ended");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whatever is left of an attack must not be beside the next.
async fn cancel_all(client: &Client, db: &Db) -> Result<()> {
    let open: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM eve.queue").fetch_all(db.pool()).await?;
    for id in open {
        client
            .http
            .post(format!("{}/v1/requests/{id}/cancel", client.url))
            .bearer_auth(&client.token)
            .json(&json!({}))
            .send()
            .await?;
    }
    queue::finished(db, &[]).await
}
