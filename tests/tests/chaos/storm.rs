//! Everybody changes the same graph at the same time.

use anyhow::Result;
use eve_tests::{Platform, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::invariants;

/// One of several clients: creates, cancels and retries, all over the others' requests.
async fn client(platform: &Platform, seed: usize) -> Result<()> {
    let mut known: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM eve.requests ORDER BY id")
        .fetch_all(platform.pool())
        .await?;
    for round in 0..40 {
        // Spread, but the same in every test run.
        let pick = |n: usize| (seed * 7_919 + round * 104_729 + n * 31) % known.len();
        let blocker = |n: usize| {
            let policy = ["cancel", "run"][(round + n) % 2];
            json!({ "id": known[pick(n)], "on_failure": policy })
        };
        let kinds = ["noop", "fail-permanent"];
        let new: Vec<Value> = (0..3)
            .map(|n| {
                json!({
                    "skill": "hostile",
                    "context": { "do": kinds[usize::from((round + n) % 5 == 0)] },
                    "blocked_by": [blocker(n), blocker(n + 10), blocker(n + 20)],
                })
            })
            .collect();
        // Naming what exists always works, whatever is happening to it.
        let mut created = platform.create_all(new).await?;
        for (n, verb) in [(1, "cancel"), (2, "retry"), (3, "retry")] {
            let answer =
                platform.post(&format!("/v1/requests/{}/{verb}", known[pick(n)]), &json!({})).await;
            if let Err(refused) = answer {
                let refused = refused.to_string();
                assert!(refused.starts_with("409"), "{verb}: {refused}");
            }
        }
        known.append(&mut created);
    }
    Ok(())
}

#[tokio::test]
async fn the_graph_stays_whole_when_everybody_changes_it() -> Result<()> {
    let platform = Platform::start(&["hostile"]).await?;
    let _workers = [platform.worker(4)?, platform.worker(4)?];
    let failing = json!({ "skill": "hostile", "context": { "do": "fail-permanent" } });
    platform.create_all(vec![failing; 12]).await?;
    let clients = (0..6).map(|seed| client(&platform, seed));
    let watching = async {
        loop {
            invariants::hold(&platform).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = futures_all(clients) => done?,
        () = watching => {}
    }
    // What was revived and has another blocker that failed is held until that one is retried too.
    let going_on = "SELECT count(*) FROM eve.queue q
                     WHERE NOT EXISTS (WITH RECURSIVE above (id) AS (
                            SELECT q.id
                             UNION
                            SELECT d.blocker_id FROM above a JOIN eve.dependencies d ON d.dependent_id = a.id
                             WHERE d.state = 'open')
                           SELECT FROM above a JOIN eve.dependencies d ON d.dependent_id = a.id
                            WHERE d.state = 'held')";
    wait_for("a queue in which nothing goes on", async || {
        (platform.count(going_on).await == 0).then_some(())
    })
    .await;
    invariants::hold(&platform).await;
    // What a cancelled request says about why is true.
    let wrong = "SELECT count(*) FROM eve.orchestration_results x
                  WHERE x.error_code = 'blocker_failed'
                    AND NOT EXISTS (SELECT FROM eve.dependencies d
                                     WHERE d.dependent_id = x.request_id AND d.blocker_id = x.cancelled_by
                                       AND d.on_failure = 'cancel')";
    assert_eq!(platform.count(wrong).await, 0);
    Ok(())
}

/// Runs them side by side.
async fn futures_all(
    clients: impl Iterator<Item = impl Future<Output = Result<()>>>,
) -> Result<()> {
    let mut clients: Vec<_> = clients.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut first = None;
        clients.retain_mut(|client| match client.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(outcome) => {
                if let Err(error) = outcome {
                    first.get_or_insert(error);
                }
                false
            }
        });
        match first {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if clients.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}
