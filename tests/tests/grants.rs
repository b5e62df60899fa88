//! What is granted, and taken back: a skill that ran yesterday is refused today, and says who decided so.

#[path = "../../host/src/runtime/guests.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
mod guests;

use eve_tests::{Database, Org, Platform, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

/// A platform with the skill `asker`, which imports the queue, in the organisation `dev`.
async fn platform(database: &Database) -> anyhow::Result<Platform> {
    let platform = Platform::on(database.url(), &[]).await?;
    let folder = tempfile::tempdir()?;
    let wasm = folder.path().join("asker.wasm");
    std::fs::write(&wasm, guests::queue_get())?;
    let pushed = platform.eve().json(["skill", "push", &wasm.to_string_lossy()]).await?;
    assert_eq!(pushed["capabilities"], json!(["queue"]), "{pushed}");
    Ok(platform)
}

/// Runs the skill: how its request stands in the end.
async fn run(platform: &Platform) -> anyhow::Result<Value> {
    let id = platform.create(json!({ "skill": "asker" })).await?;
    platform.end_of(id).await;
    platform.get(&format!("/v1/requests/{id}")).await
}

fn message(failed: &Value) -> &str {
    failed["error"]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_revoked_capability_is_missed_at_the_next_start() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let platform = platform(&database).await?;
    let _worker = platform.worker(2)?;
    assert_eq!(run(&platform).await?["status"], "completed");

    // One that is waiting for its time is refused like one that is created afterwards.
    let later = json!({ "skill": "asker", "delay_ms": 2_000 });
    let later = platform.create(later).await?;
    let revoke = ["skill", "revoke", "asker", "queue"];
    assert!(platform.eve().run(revoke).await?.status.success());
    let failed = run(&platform).await?;
    assert_eq!(failed["error"]["code"], "not_granted", "{failed}");
    assert_eq!(failed["attempt"], 1, "no other attempt could do better: {failed}");
    for part in ["eve:skill/queue@0.1.0", "in this organisation", "eve skill grant asker queue"] {
        assert!(message(&failed).contains(part), "{part}: {failed}");
    }
    platform.end_of(later).await;
    let later = platform.get(&format!("/v1/requests/{later}")).await?;
    assert_eq!(later["error"]["code"], "not_granted", "{later}");

    let shown = platform.eve().json(["skill", "show", "asker"]).await?;
    assert_eq!(shown["worker_types"][0]["runs"], false, "{shown}");
    let table = platform.eve().on_terminal(120, "skill show asker").await?;
    for part in ["revoked", "general (queue revoked)"] {
        assert!(table.stdout.contains(part), "{part}: {table}");
    }

    platform.eve().run(["skill", "grant", "asker", "queue"]).await?;
    let id: Uuid = failed["id"].as_str().expect("an id").parse()?;
    platform.post(&format!("/v1/requests/{id}/retry"), &json!({})).await?;
    wait_for("the retry", async || {
        let request = platform.get(&format!("/v1/requests/{id}")).await.ok()?;
        (request["status"] == "completed").then_some(())
    })
    .await;
    assert_eq!(run(&platform).await?["status"], "completed");
    Ok(())
}

/// Of the platform's skill, one organisation revokes what others keep.
#[tokio::test]
async fn an_organisation_revokes_for_itself() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let platform = Platform::on(database.url(), &[]).await?;
    let folder = tempfile::tempdir()?;
    let wasm = folder.path().join("asker.wasm");
    std::fs::write(&wasm, guests::queue_get())?;
    let path = wasm.to_string_lossy();
    platform.eve().json(["skill", "push", "--platform", &path]).await?;
    platform.eve().run(["skill", "revoke", "asker", "queue"]).await?;
    Org::create(&database, "corp").await?;
    let _worker = platform.worker(2)?;
    let theirs = platform.flood("corp", 1, "asker", json!({})).await?;
    assert_eq!(run(&platform).await?["error"]["code"], "not_granted");
    assert_eq!(platform.end_of(theirs[0]).await.code(), "completed");
    Ok(())
}

/// Worker types are set by administrators of the platform; workers learn of it with their heartbeats.
#[tokio::test]
async fn what_a_worker_type_grants_no_more_is_missed_at_the_next_start() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let platform = platform(&database).await?;
    let _worker = platform.worker(2)?;
    assert_eq!(run(&platform).await?["status"], "completed");
    let set = async |grants: &str| {
        platform.eve().json(["worker-type", "set", "general", "--grant", grants]).await
    };
    set("db").await?;
    let failed = wait_for("a refusal", async || {
        run(&platform).await.ok().filter(|ended| ended["status"] == "failed")
    })
    .await;
    assert_eq!(failed["error"]["code"], "not_granted", "{failed}");
    let advice = "eve worker-type set general --grant queue,db";
    for part in ["worker type `general` does not grant `queue`", advice] {
        assert!(message(&failed).contains(part), "{part}: {failed}");
    }
    let shown = platform.eve().json(["skill", "show", "asker"]).await?;
    let mut places = shown["worker_types"].as_array().into_iter().flatten();
    let general = places.find(|place| place["worker_type"] == "general");
    assert_eq!(general.map(|place| &place["denied"][0]["by"]), Some(&json!("worker_type")));

    set("queue,db").await?;
    wait_for("a run", async || {
        run(&platform).await.ok().filter(|ended| ended["status"] == "completed")
    })
    .await;
    Ok(())
}
