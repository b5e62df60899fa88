//! What others change while somebody writes all the time, and autoscalers of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use eve_tests::wait_for;
use serde_json::{Value, json};

use crate::api::Caller;
use crate::stage::Stage;

/// How long the writer rests between two writes: hardly longer than a call takes.
const PACE: Duration = Duration::from_millis(40);

/// What was told of drift, oldest first.
async fn drifted(stage: &Stage, app: &str) -> Result<Vec<String>> {
    let page =
        stage.platform.get(&format!("/v1/envs/dev/deployments/{app}/events?limit=200")).await?;
    let events = page["items"].as_array().cloned().unwrap_or_default();
    let drifted = events.iter().rev().filter(|event| event["event_type"] == "drifted");
    Ok(drifted.map(|event| event["details"]["what"].to_string()).collect())
}

/// Touches an object until it is told to stop: how often.
async fn touch(admin: Caller, place: String, stop: Arc<AtomicBool>) -> Result<u32> {
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        times += 1;
        let touched =
            json!({ "metadata": { "annotations": { "example.com/touched": times.to_string() } } });
        let kind = "application/merge-patch+json";
        let answer = admin.send(http::Method::PATCH, &place, kind, Some(&touched)).await?;
        ensure!(answer.is_success() || answer.status == 404, "{answer}");
        tokio::time::sleep(PACE).await;
    }
    Ok(times)
}

#[tokio::test]
async fn drift_is_told_each_time_whoever_writes_in_between() -> Result<()> {
    let Some(stage) = Stage::set("drift under a writer").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --replicas 2 --wait")
        .await?;
    let place = format!("apis/apps/v1/namespaces/{}/deployments/api", stage.namespace);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(touch(stage.admin.clone(), place.clone(), stop.clone()));
    let patch = async |body: Value| {
        let kind = "application/strategic-merge-patch+json";
        let place = format!("{place}?fieldManager=somebody");
        let answer = stage.admin.send(http::Method::PATCH, &place, kind, Some(&body)).await?;
        ensure!(answer.is_success(), "{answer}");
        Ok(())
    };
    let container =
        |more: Value| json!({ "spec": { "template": { "spec": { "containers": [more] } } } });
    let changes = [
        ("replicas", json!({ "spec": { "replicas": 5 } })),
        ("image", container(json!({ "name": "app", "image": "acme/api:v1.2.2" }))),
        (
            "SNEAKED",
            container(json!({ "name": "app", "env": [{ "name": "SNEAKED", "value": "in" }] })),
        ),
        ("args", container(json!({ "name": "app", "args": ["--sneaked"] }))),
        (
            "hostAliases",
            json!({ "spec": { "template": { "spec": {
            "hostAliases": [{ "ip": "10.0.0.1", "hostnames": ["sneaked.example.com"] }],
        } } } }),
        ),
        // Neither can be where the other is: an apply alone is refused.
        (
            "valueFrom",
            container(json!({ "name": "app", "env": [{
            "name": "PORT", "value": null, "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } },
        }] })),
        ),
    ];
    let mut told = drifted(&stage, "api").await?.len();
    assert_eq!(told, 0, "nobody has changed anything of ours");
    for (what, change) in changes {
        patch(change).await?;
        let begun = std::time::Instant::now();
        loop {
            let object = stage.object("apis/apps/v1", "deployments/api").await?;
            let pod = &object["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            let env = container["env"].to_string();
            let right = object["spec"]["replicas"] == 2
                && container["image"] == "acme/api:v1.2.3"
                && container["args"].is_null()
                && pod["hostAliases"].is_null()
                && !env.contains("SNEAKED")
                && !env.contains("valueFrom");
            if right {
                break;
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "{what} stays: {object:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let all = wait_for(&format!("{what} to be told"), async || {
            drifted(&stage, "api").await.ok().filter(|all| all.len() > told)
        })
        .await;
        assert_eq!(all.len(), told + 1, "{what} was told more than once: {all:?}");
        assert!(all[told].contains(what) && all[told].contains("somebody"), "{what}: {all:?}");
        told += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let times = writer.await??;
    assert!(times > 10, "the writer wrote {times} times");
    let settled = stage.until("api", "running", |found| found["status"] == "running").await?;
    assert_eq!(settled["revision"], 1, "nobody asked for anything");
    stage.strike().await
}

#[tokio::test]
async fn autoscalers_of_others_do_not_fight_with_us() -> Result<()> {
    let Some(stage) = Stage::set("autoscalers of others").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --replicas 2 --wait")
        .await?;
    let scalers =
        format!("apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", stage.namespace);
    let scaler = |name: &str, target: &str| {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": name },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target },
                "minReplicas": 3, "maxReplicas": 4,
            },
        })
    };
    // One that aims elsewhere is nobody's business.
    for (name, target) in [("elsewhere", "worker"), ("theirs", "api")] {
        let made = stage.admin.create(&scalers, &scaler(name, target)).await?;
        ensure!(made.is_success(), "{made}");
    }
    wait_for("the autoscaler to be taken out", async || {
        let there = stage.admin.get(&format!("{scalers}/theirs")).await.ok()?;
        (there.status == 404).then_some(())
    })
    .await;
    let told = wait_for("the autoscaler to be told of", async || {
        drifted(&stage, "api").await.ok().filter(|told| !told.is_empty())
    })
    .await;
    let of_it = told.iter().filter(|what| what.contains("HorizontalPodAutoscaler theirs")).count();
    assert_eq!(of_it, 1, "{told:?}");
    let found = stage
        .until("api", "running with 2 replicas", |found| {
            found["status"] == "running" && found["replicas"] == json!({ "desired": 2, "ready": 2 })
        })
        .await?;
    assert_eq!(found["revision"], 1, "nobody asked for anything");
    let kept = stage.admin.get(&format!("{scalers}/elsewhere")).await?;
    ensure!(kept.is_success(), "{kept}");
    stage.strike().await
}
