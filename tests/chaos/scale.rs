//! Few very large graphs, without enemies: that their size alone breaks nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eve_tests::invariants::{ALWAYS, PLANS, SETTLED, broken};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::Stage;
use crate::client::Client;
use crate::options::Options;
use crate::progress::Tally;

/// How long nothing may end before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs each graph, and says how long it took.
pub async fn run(options: &Options) -> Result<Vec<String>> {
    let tally = Arc::new(Tally::new());
    let Stage { mut fleet, clients, ground } = Stage::set(options, &tally).await?;
    let pool = ground.pool().clone();
    let client = clients.first().context("there is no organisation")?;

    let noop = |blockers: Value| json!({ "worker_type": "general", "skill": "noop", "blocked_by": blockers });
    let names = |range: std::ops::Range<usize>| -> Value {
        range.map(|index| json!(format!("#{index}"))).collect()
    };
    let mut diamond = vec![noop(json!([]))];
    diamond.extend((1..9_999).map(|_| noop(json!(["#0"]))));
    diamond.push(noop(names(1..9_999)));
    let ids = create(client, diamond, "diamond").await?;
    let took = ended(&pool, &ids, "a diamond of 10,000").await?;
    println!("a diamond of 10,000: {took:.1?}");

    let mut fan: Vec<Value> = (0..5_000).map(|_| noop(json!([]))).collect();
    fan.push(noop(names(0..5_000)));
    let ids = create(client, fan, "fan").await?;
    let took = ended(&pool, &ids, "a fan-out of 5,000 with a collector").await?;
    println!("a fan-out of 5,000 with a collector: {took:.1?}");

    let plan = json!({ "role": "orchestrator", "children": 2_000, "waves": 1, "ask": false, "race": false });
    let orchestrator =
        json!({ "worker_type": "general", "skill": "orchestrator", "context": plan });
    let ids = create(client, vec![orchestrator], "orchestrator").await?;
    let took = ended(&pool, &ids, "an orchestration of 2,000 children").await?;
    println!("an orchestration of 2,000 children: {took:.1?}");

    fleet.tend()?;
    let mut findings = tally.findings();
    let failed: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM eve.orchestration_results WHERE status <> 'completed'",
    )
    .fetch_one(&pool)
    .await?;
    if failed > 0 {
        findings.push(format!("{failed} did not complete"));
    }
    for rules in [ALWAYS, SETTLED, PLANS] {
        findings.extend(broken(&pool, rules).await?.iter().map(ToString::to_string));
    }
    drop((fleet, clients));
    ground.stop().await?;
    Ok(findings)
}

async fn create(client: &Client, requests: Vec<Value>, key: &str) -> Result<Vec<Uuid>> {
    let body = json!({ "requests": requests });
    let answer = client.post("/v1/requests/batch", &body, Some(key)).await?;
    ensure!(answer.is_success(), "{key}: {}: {}", answer.status, answer.body);
    let created = answer.body["requests"].as_array().context("no requests came back")?;
    created
        .iter()
        .map(|request| Ok(request["id"].as_str().context("a request without an id")?.parse()?))
        .collect()
}

/// Waits until these have ended, as long as anything ends at all.
async fn ended(pool: &PgPool, ids: &[Uuid], what: &str) -> Result<Duration> {
    let began = Instant::now();
    let (mut last, mut moved) = (-1, Instant::now());
    loop {
        let (open, ended): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM eve.queue WHERE id = ANY ($1)),
                    (SELECT count(*) FROM eve.orchestration_results)",
        )
        .bind(ids)
        .fetch_one(pool)
        .await?;
        if open == 0 {
            return Ok(began.elapsed());
        }
        if ended != last {
            (last, moved) = (ended, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            bail!("{what}: {open} do not end");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
