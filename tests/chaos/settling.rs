//! After the attack: everything that can still happen happens.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::client::Client;
use crate::fleet::Fleet;
use crate::options::Options;
use crate::progress::Tally;

/// How often a line says how far it is.
const EVERY: Duration = Duration::from_secs(5);

/// Waits until nothing is open. What is held after a failure would be so for a day, as it should:
/// users give it up. Returns what was given up. What does not end is a finding.
pub async fn settle(
    options: &Options,
    clients: &[Client],
    fleet: &mut Fleet,
    pool: &PgPool,
    tally: &Tally,
) -> Result<HashSet<Uuid>> {
    fleet.recover().await?;
    let mut given_up = HashSet::new();
    let patience = Duration::from_secs(options.patience);
    let mut last = (0, 0);
    let mut moved = Instant::now();
    let mut said = Instant::now();
    loop {
        fleet.tend()?;
        tally.look(pool).await?;
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM eve.queue").fetch_one(pool).await?;
        if open == 0 {
            return Ok(given_up);
        }
        if (tally.ended(), open) != last {
            last = (tally.ended(), open);
            moved = Instant::now();
        }
        if moved.elapsed() > patience {
            tally.found(format!(
                "{open} requests do not end, and nothing has for {patience:?}:\n{}",
                stuck(pool).await?
            ));
            return Ok(given_up);
        }
        if said.elapsed() >= EVERY {
            said = Instant::now();
            println!("{:>5} s: {open} requests are open", tally.elapsed().as_secs());
        }
        give_up_held(clients, pool, &mut given_up).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Cancels what is held back by nothing but failures.
async fn give_up_held(
    clients: &[Client],
    pool: &PgPool,
    given_up: &mut HashSet<Uuid>,
) -> Result<()> {
    let held: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT q.id, q.org_id
           FROM eve.queue q
          WHERE q.status = 'blocked'
            AND EXISTS (SELECT FROM eve.dependencies d WHERE d.dependent_id = q.id AND d.state = 'held')
            AND NOT EXISTS (SELECT FROM eve.dependencies d WHERE d.dependent_id = q.id AND d.state = 'open')
          ORDER BY q.id
          LIMIT 50",
    )
    .fetch_all(pool)
    .await?;
    for (id, org) in held {
        let Some(client) = clients.iter().find(|client| client.org().id == org) else { continue };
        given_up.insert(id);
        let reason = json!({ "reason": "given up: what it waited for failed" });
        let answer = client.post(&format!("/v1/requests/{id}/cancel"), &reason, None).await?;
        if !answer.is_success() && answer.status != 409 {
            bail!("giving up {id}: {}: {}", answer.status, answer.body);
        }
    }
    Ok(())
}

/// What does not end.
async fn stuck(pool: &PgPool) -> Result<String> {
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT q.id || ' ' || q.status || ', attempt ' || q.attempt || ', rescues ' || q.rescues
                || ', open blockers ' || q.open_blockers || coalesce(', runs at ' || q.run_at, '')
                || coalesce(', worker ' || q.worker_id, '') || ', ' || coalesce(r.skill, '')
                || ' ' || left(r.context::text, 200)
           FROM eve.queue q
           JOIN eve.requests r ON r.id = q.id
          ORDER BY q.id
          LIMIT 20",
    )
    .fetch_all(pool)
    .await?;
    Ok(lines.join("\n"))
}
