//! Skills deploy: the brief's prompts, a real worker, real pods.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eve_tests::{Process, skill, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::Stage;

/// How long a request may wait for a rollout before something hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// A platform whose deployment workers have the skill that we ship.
async fn stage(test: &str, config: &str) -> Result<Option<(Stage, Process)>> {
    let Some(stage) = Stage::set_with(test, config).await? else { return Ok(None) };
    stage.eve().push(&skill("deployment-worker")?).await?;
    let worker = stage.eve().worker("deployment", 4)?;
    Ok(Some((stage, worker)))
}

/// Creates a request as the brief does.
async fn request(stage: &Stage, prompt: &str, context: Value) -> Result<Uuid> {
    let context = context.to_string();
    let line = [
        "request",
        "create",
        "--worker-type",
        "deployment",
        "--prompt",
        prompt,
        "--context",
        &context,
    ];
    let made = stage.eve().json(line).await?;
    Ok(made["id"].as_str().context("an id")?.parse()?)
}

/// How a request ended, that may wait for a rollout.
async fn end(stage: &Stage, id: Uuid) -> Result<Value> {
    let begun = Instant::now();
    loop {
        // A control plane may be down at the moment: a test kills it.
        if let Ok(ended) = stage.platform.get(&format!("/v1/requests/{id}/result")).await {
            return Ok(ended);
        }
        ensure!(begun.elapsed() < PATIENCE, "request {id} has not ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn asked(stage: &Stage, prompt: &str, context: Value) -> Result<Value> {
    let id = request(stage, prompt, context).await?;
    end(stage, id).await
}

#[tokio::test]
async fn the_deployment_worker_does_what_it_is_asked() -> Result<()> {
    let Some((stage, mut worker)) = stage("the deployment worker", "{}").await? else {
        return Ok(());
    };
    stage.apps(&["api-service"]).await?;
    let small = json!({ "settings": { "cpu": "5m" } });

    let id = request(&stage, "Deploy api-service:v1.2.3 to dev", small.clone()).await?;
    let ended = end(&stage, id).await?;
    ensure!(ended["status"] == "completed", "{ended:#}");
    let data = &ended["data"];
    assert_eq!(
        (&data["app"], &data["env"], &data["version"], &data["status"]),
        (&json!("api-service"), &json!("dev"), &json!("v1.2.3"), &json!("running")),
        "{ended:#}"
    );
    assert_eq!(stage.answer("api-service").await?["version"], "v1.2.3");
    // It is the request's, and so is the person's who sent it.
    let found = stage.status("api-service").await?;
    assert_eq!(found["request_id"], id.to_string());
    let history =
        stage.eve().json(["deploy", "history", "--app", "api-service", "--env", "dev"]).await?;
    assert_eq!(history["items"][0]["request_id"], id.to_string(), "{history:#}");

    let scaled = asked(&stage, "Scale api-service to 2 replicas in dev", json!({})).await?;
    ensure!(scaled["status"] == "completed", "{scaled:#}");
    assert_eq!(stage.status("api-service").await?["replicas"], json!({ "desired": 2, "ready": 2 }));

    // Structured context wins over words.
    let context = json!({ "app": "api-service", "env": "dev", "image": "api-service:v1.2.2" });
    let ended = asked(&stage, "Deploy api-service:v9 to prod", context).await?;
    ensure!(ended["status"] == "completed", "{ended:#}");
    assert_eq!(stage.answer("api-service").await?["version"], "v1.2.2");

    let ended = asked(&stage, "Roll back api-service in dev", json!({})).await?;
    ensure!(ended["status"] == "completed", "{ended:#}");
    assert_eq!(stage.answer("api-service").await?["version"], "v1.2.3");

    let ended = asked(&stage, "Status of api-service in dev", json!({})).await?;
    assert_eq!(ended["data"]["status"], "running", "{ended:#}");

    // What cannot be had fails with the reason; what runs goes on running.
    let context = json!({
        "app": "api-service", "image": "acme/missing:v1", "settings": { "deadline_s": 10 },
    });
    let ended = asked(&stage, "Deploy api-service to dev", context).await?;
    ensure!(ended["status"] == "failed", "{ended:#}");
    assert!(ended.to_string().contains("image_pull"), "{ended:#}");
    assert_eq!(stage.answer("api-service").await?["version"], "v1.2.3");
    let ended = asked(&stage, "Deploy api-service:v1.2.3 to moon", json!({})).await?;
    ensure!(ended["status"] == "failed", "{ended:#}");
    assert!(ended.to_string().contains("moon"), "{ended:#}");

    worker.terminate();
    worker.wait().await;
    stage.strike().await
}

#[tokio::test]
async fn a_person_approves_what_a_skill_deploys() -> Result<()> {
    let config = r#"{"approval": true, "deployers": "admin"}"#;
    let Some((stage, mut worker)) = stage("approval", config).await? else { return Ok(()) };
    stage.apps(&["api-service"]).await?;
    let small = json!({ "settings": { "cpu": "5m" } });
    let question = async || {
        wait_for("a question", async || {
            let open = stage.eve().json(["hitl", "list", "--status", "open"]).await.ok()?;
            open["items"].as_array()?.first().cloned()
        })
        .await
    };
    let id = request(&stage, "Deploy api-service:v1.2.3 to dev", small.clone()).await?;
    let asked = question().await;
    let text = asked["question"].as_str().unwrap_or_default();
    assert_eq!(text, "Deploy `api-service:v1.2.3` as `api-service` to `dev`?", "{asked:#}");
    assert!(stage.status("api-service").await.is_err(), "nothing is there before it is approved");
    let answer = async |word: &str| {
        let id = question().await["id"].as_str().unwrap_or_default().to_owned();
        stage.run(&format!("eve hitl respond {id} {word}")).await
    };
    answer("approve").await?;
    let ended = end(&stage, id).await?;
    ensure!(ended["status"] == "completed", "{ended:#}");
    assert_eq!(stage.answer("api-service").await?["version"], "v1.2.3");

    let id = request(&stage, "Scale api-service in dev to 0", json!({})).await?;
    answer("reject").await?;
    let ended = end(&stage, id).await?;
    ensure!(ended["status"] == "failed", "{ended:#}");
    assert!(ended.to_string().contains("rejected"), "{ended:#}");
    assert_eq!(stage.status("api-service").await?["replicas"]["desired"], 1);
    worker.terminate();
    worker.wait().await;
    stage.strike().await
}

/// A control plane dies between an order and its taking, and between the settling and the telling.
#[tokio::test]
async fn a_skill_is_woken_whatever_dies() -> Result<()> {
    let Some((mut stage, mut worker)) = stage("wake-ups", "{}").await? else { return Ok(()) };
    stage.apps(&["api-service"]).await?;
    let small = json!({ "settings": { "cpu": "5m" } });
    for round in 0..3 {
        let version = ["v1.2.1", "v1.2.2", "v1.2.3"][round];
        let prompt = format!("Deploy api-service:{version} to dev");
        let id = request(&stage, &prompt, small.clone()).await?;
        // At the moment at which the first trace of it is there.
        let moment = ["asked", "taken", "settled"][round];
        wait_for(&format!("an order that is {moment}, or further"), async || {
            let states: Vec<String> =
                sqlx::query_scalar("SELECT state FROM eve.deployment_orders WHERE request_id = $1")
                    .bind(id)
                    .fetch_all(stage.platform.pool())
                    .await
                    .ok()?;
            let order = ["asked", "taken", "settled"];
            let at = |state: &str| order.iter().position(|one| *one == state);
            states.iter().any(|state| at(state) >= at(moment)).then_some(())
        })
        .await;
        stage.platform.servers()[0].process().kill();
        stage.platform.replace_server().await?;
        let ended = end(&stage, id).await?;
        ensure!(ended["status"] == "completed", "{ended:#}");
        assert_eq!(stage.answer("api-service").await?["version"], version);
        let revision = i64::try_from(round)? + 1;
        assert_eq!(stage.status("api-service").await?["revision"], revision, "done once");
    }
    worker.terminate();
    worker.wait().await;
    stage.strike().await
}
