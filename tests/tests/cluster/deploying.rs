//! Apps on real nodes: deployed, scaled, rolled back, broken, and killed under.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::stage::Stage;

/// The events of a deployment that were found, not asked for: type and revision, oldest first.
async fn found(stage: &Stage, app: &str) -> Result<Vec<(String, i64)>> {
    let path = format!("/v1/envs/dev/deployments/{app}/events?limit=200");
    let page = stage.platform.get(&path).await?;
    let events = page["items"].as_array().cloned().unwrap_or_default();
    let found = events.iter().rev().filter(|event| event["actor"].is_null());
    Ok(found
        .map(|event| {
            let kind = event["event_type"].as_str().unwrap_or_default().to_owned();
            (kind, event["revision"].as_i64().unwrap_or_default())
        })
        .collect())
}

#[tokio::test]
async fn an_app_is_deployed_scaled_rolled_back_and_deleted() -> Result<()> {
    let Some(stage) = Stage::set("deploying").await? else { return Ok(()) };
    stage.run("eve app create --name api-service --repo-url git@github.com:acme/api.git").await?;
    stage
        .run(
            r#"eve deploy create --app api-service --env dev --image "acme/api:v1.2.2" --cpu 5m --replicas 3 \
                 --env-vars '{"DATABASE_URL": "postgres://x", "API_KEY": "hush"}' --wait"#,
        )
        .await?;
    let answer = stage.answer("api-service").await?;
    assert_eq!(answer["version"], "v1.2.2", "{answer}");
    assert_eq!(answer["env"]["API_KEY"], "hush", "{answer}");
    assert_eq!(answer["env"]["EVE_ENV"], "dev", "{answer}");

    let output = stage.run("eve deploy status --app api-service --env dev").await?;
    let status: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!(status["status"], "running");
    assert_eq!(status["replicas"], json!({"desired": 3, "ready": 3}));
    let running = status["pods"].as_array().into_iter().flatten();
    assert_eq!(running.filter(|pod| pod["ready"] == true).count(), 3, "{status}");
    assert!(!output.stdout.contains("hush"), "{output}");
    assert_eq!(status["config"]["variables"], json!(["API_KEY", "DATABASE_URL"]));

    // Another version keeps what is not said: replicas and variables.
    stage
        .run("eve deploy create --app api-service --env dev --image acme/api:v1.2.3 --wait")
        .await?;
    let answer = stage.answer("api-service").await?;
    assert_eq!((&answer["version"], &answer["env"]["API_KEY"]), (&json!("v1.2.3"), &json!("hush")));

    // Scaling leaves the pods that are there.
    let pods = |status: &Value| -> Vec<String> {
        let all = status["pods"].as_array().into_iter().flatten();
        all.filter(|pod| pod["ready"] == true)
            .filter_map(|pod| pod["name"].as_str().map(str::to_owned))
            .collect()
    };
    let before = pods(&stage.status("api-service").await?);
    stage.run("eve deploy scale --app api-service --env dev --replicas 5 --wait").await?;
    let after = stage.status("api-service").await?;
    assert_eq!(after["replicas"], json!({"desired": 5, "ready": 5}));
    assert!(before.iter().all(|pod| pods(&after).contains(pod)), "{before:?} {after}");

    // A rollback goes to what the version meant when it ran.
    stage.run("eve deploy rollback --app api-service --env dev --to-version v1.2.2 --wait").await?;
    let answer = stage.answer("api-service").await?;
    assert_eq!((&answer["version"], &answer["env"]["API_KEY"]), (&json!("v1.2.2"), &json!("hush")));
    let object = stage.object("apis/apps/v1", "deployments/api-service").await?;
    let image = object["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    assert!(image.is_some_and(|image| image.starts_with("acme/api:v1.2.2@sha256:")), "{image:?}");
    assert_eq!(object["spec"]["replicas"], 5, "a rollback does not scale");
    stage.run("eve deploy rollback --app api-service --env dev --wait").await?;
    assert_eq!(stage.answer("api-service").await?["version"], "v1.2.3");

    let history = stage.run("eve deploy history --app api-service --env dev").await?.stdout;
    let history: Value = serde_json::from_str(&history)?;
    let told: Vec<(&str, &str, &str)> = history["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| {
            let text = |key: &str| item[key].as_str().unwrap_or_default();
            (text("kind"), text("version"), text("outcome"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("rolled_back", "v1.2.3", "running"),
            ("rolled_back", "v1.2.2", "running"),
            ("scaled", "v1.2.3", "running"),
            ("updated", "v1.2.3", "running"),
            ("created", "v1.2.2", "running"),
        ]
    );
    let refused =
        stage.bash("eve deploy rollback --app api-service --env dev --to-version v9").await?;
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("these did: v1.2.3, v1.2.2"), "{refused}");

    let logs = stage.run("eve deploy logs --app api-service --env dev --tail 100").await?.stdout;
    assert!(logs.contains("starting on port 8080"), "{logs}");

    // Of the Secrets that were made for variables one is left.
    let secrets = stage.object("api/v1", "secrets").await?;
    assert_eq!(secrets["items"].as_array().map(Vec::len), Some(1), "{secrets:#}");

    let refused = stage.bash("eve env delete dev").await?;
    assert!(!refused.status.success() && refused.stderr.contains("api-service"), "{refused}");
    stage.run("eve deploy delete --app api-service --env dev").await?;
    let status = stage.status("api-service").await?;
    assert_eq!(status["status"], "stopped");
    for (api, kinds) in [
        ("apis/apps/v1", "deployments"),
        ("api/v1", "services"),
        ("api/v1", "secrets"),
        ("api/v1", "pods"),
        ("apis/policy/v1", "poddisruptionbudgets"),
    ] {
        let left = stage.object(api, kinds).await?;
        assert_eq!(left["items"], json!([]), "{kinds} are left");
    }
    stage.strike().await
}

#[tokio::test]
async fn what_does_not_come_to_be_says_why() -> Result<()> {
    let config = r#"{"quota": {"pods": 8, "cpu": 20, "memory_gib": 40}}"#;
    let Some(stage) = Stage::set_with("failing", config).await? else { return Ok(()) };
    let apps = ["missing", "crash", "unready", "many", "good"];
    stage.apps(&apps).await?;
    // What cannot come to be is given up soon; what can may take as long as a busy machine takes.
    let create = |app: &str, image: &str, deadline: &str, flags: &str| {
        format!(
            "eve deploy create --app {app} --env dev --image {image} --deadline {deadline} --cpu 5m {flags} \
             --wait"
        )
    };
    let missing = create("missing", "acme/missing:v1", "15s", "");
    let crash = create("crash", "acme/crash:v1", "15s", "");
    let unready = create("unready", "acme/unready:v1", "15s", "--health-path /readyz");
    let good = create("good", "acme/api:v1.2.3", "150s", "");
    let (missing, crash, unready, good) = tokio::try_join!(
        stage.bash(&missing),
        stage.bash(&crash),
        stage.bash(&unready),
        stage.bash(&good)
    )?;
    ensure!(good.status.success(), "{good}");
    for (output, app, reason, word) in [
        (missing, "missing", "image_pull", "acme/missing:v1"),
        (crash, "crash", "crash_loop", "exit code 1"),
        (unready, "unready", "not_ready", "unready status: [app]"),
    ] {
        assert_eq!(output.status.code(), Some(1), "{app}: {output}");
        let status: Value = serde_json::from_str(&output.stdout)?;
        assert_eq!(status["status"], "failed", "{status:#}");
        assert_eq!(status["reason"], reason, "{status:#}");
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{app}: {message}");
    }
    // What failed does not take along what ran: the old pods stay until the new ones are there.
    let broken = create("good", "acme/missing:v1", "15s", "");
    assert_eq!(stage.bash(&broken).await?.status.code(), Some(1));
    assert_eq!(stage.answer("good").await?["version"], "v1.2.3");
    // Back to what ran: the failed revision is none.
    stage.run("eve deploy rollback --app good --env dev --to-version v1.2.3 --wait").await?;

    // More pods than the environment has room for.
    let many = create("many", "acme/api:v1.2.3", "15s", "--replicas 9");
    let many = stage.bash(&many).await?;
    let status: Value = serde_json::from_str(&many.stdout)?;
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&json!("failed"), &json!("quota")),
        "{status:#}"
    );
    // Room is made, and what was given up comes to be after all; nobody is told twice.
    for app in ["missing", "crash", "unready", "good"] {
        stage.run(&format!("eve deploy delete --app {app} --env dev --no-wait")).await?;
    }
    stage.run(&create("many", "acme/api:v1.2.3", "150s", "--replicas 6")).await?;
    let ends = found(&stage, "many").await?;
    let ends: Vec<&str> = ends
        .iter()
        .filter(|(kind, _)| kind != "deploying")
        .map(|(kind, _)| kind.as_str())
        .collect();
    assert_eq!(ends, ["failed", "running"]);
    stage.strike().await
}

/// The control plane is killed at whatever moment of a rollout, again and again; each ends as it was last
/// asked for, and every revision that is told of is told of once.
#[tokio::test]
async fn a_rollout_ends_right_whenever_the_control_plane_is_killed() -> Result<()> {
    let Some(mut stage) = Stage::set("killing").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    let seed: u64 =
        std::env::var("EVE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let rounds = 8;
    for round in 1..=rounds {
        let version = if round % 2 == 0 { "v1.2.2" } else { "v1.2.3" };
        let body = json!({
            "app": "api", "image": format!("acme/api:{version}"), "replicas": 1 + round % 3,
            "settings": { "cpu": "5m" },
        });
        stage.platform.post("/v1/envs/dev/deployments", &body).await?;
        // A rollout takes two to four seconds here: this hits every step of it sooner or later.
        let moment = Duration::from_millis(random.random_range(0..1_500));
        tokio::time::sleep(moment).await;
        stage.platform.servers()[0].process().kill();
        stage.platform.replace_server().await?;
        if round % 2 == 0 {
            let settled = stage.settled("api", round).await?;
            assert_eq!(settled["status"], "running", "seed {seed}: {settled:#}");
            assert_eq!(settled["replicas"]["ready"], 1 + round % 3, "{settled:#}");
            assert_eq!(stage.answer("api").await?["version"], version);
        }
    }
    let mut told = BTreeMap::new();
    for (kind, revision) in found(&stage, "api").await? {
        if kind == "running" || kind == "failed" {
            *told.entry(revision).or_insert(0) += 1;
        }
    }
    assert!(told.values().all(|times| *times == 1), "seed {seed}: {told:?}");
    assert!(told.contains_key(&rounds), "seed {seed}: {told:?}");
    // Nothing of what was half-done is left.
    let object = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(object["metadata"]["annotations"]["eve-horizon.dev/revision"], rounds.to_string());
    stage.strike().await
}

/// Two control planes, of which one leads: each revision is applied once.
#[tokio::test]
async fn control_planes_do_not_fight() -> Result<()> {
    let Some(mut stage) = Stage::set("two control planes").await? else { return Ok(()) };
    // The first leads; from now on the second is asked.
    stage.platform.serve().await?;
    stage.platform.servers().rotate_left(1);
    stage.apps(&["api"]).await?;
    for revision in 1..=3_i64 {
        let body = json!({
            "app": "api", "image": "acme/api:v1.2.3", "env_vars": { "N": revision.to_string() },
            "settings": { "cpu": "5m" },
        });
        stage.platform.post("/v1/envs/dev/deployments", &body).await?;
        let settled = stage.settled("api", revision).await?;
        assert_eq!(settled["status"], "running", "{settled:#}");
    }
    let object = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(object["metadata"]["generation"], 3, "somebody wrote more than was asked for");
    // The one that leads hangs; another goes on, and when it wakes up it changes nothing.
    stage.platform.servers()[1].process().pause();
    let body = json!({ "app": "api", "image": "acme/api:v1.2.2" });
    stage.platform.post("/v1/envs/dev/deployments", &body).await?;
    let settled = stage.settled("api", 4).await?;
    assert_eq!(settled["status"], "running", "{settled:#}");
    stage.platform.servers()[1].process().resume();
    let body = json!({ "app": "api", "image": "acme/api:v1.2.3" });
    stage.platform.post("/v1/envs/dev/deployments", &body).await?;
    stage.settled("api", 5).await?;
    let object = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(object["metadata"]["generation"], 5, "somebody wrote more than was asked for");
    let drifted = found(&stage, "api").await?;
    assert!(!drifted.iter().any(|(kind, _)| kind == "drifted"), "{drifted:?}");
    stage.strike().await
}

#[tokio::test]
async fn what_others_change_is_put_right() -> Result<()> {
    let Some(stage) = Stage::set("drift").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --replicas 2 --wait")
        .await?;
    let place = format!("apis/apps/v1/namespaces/{}/deployments/api", stage.namespace);
    let patch = async |body: Value| {
        let kind = "application/strategic-merge-patch+json";
        let place = format!("{place}?fieldManager=somebody");
        let answer = stage.admin.send(http::Method::PATCH, &place, kind, Some(&body)).await?;
        ensure!(answer.is_success(), "{answer}");
        Ok(())
    };
    let right = async |what: &str| {
        let begun = std::time::Instant::now();
        loop {
            let object = stage.object("apis/apps/v1", "deployments/api").await;
            if let Ok(object) = &object {
                let containers = object["spec"]["template"]["spec"]["containers"].as_array();
                let env = &object["spec"]["template"]["spec"]["containers"][0]["env"];
                let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
                if containers.is_some_and(|containers| containers.len() == 1)
                    && !env.to_string().contains("SNEAKED")
                    && image.as_str() == Some("acme/api:v1.2.3")
                    && object["spec"]["replicas"] == 2
                {
                    return Ok(());
                }
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "{what}: {object:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let container =
        |more: Value| json!({ "spec": { "template": { "spec": { "containers": [more] } } } });
    // A field of ours, one beside ours that an apply would leave, and a whole container.
    patch(json!({ "spec": { "replicas": 5 } })).await?;
    right("replicas").await?;
    patch(container(json!({ "name": "app", "image": "acme/api:v1.2.2" }))).await?;
    right("an image").await?;
    patch(container(json!({ "name": "app", "env": [{ "name": "SNEAKED", "value": "in" }] })))
        .await?;
    right("a variable").await?;
    patch(container(json!({
        "name": "miner", "image": "acme/web:v1", "resources": { "requests": { "cpu": "5m" } }, "imagePullPolicy": "Always",
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        },
    })))
    .await?;
    right("a container").await?;
    // What was deleted comes back.
    let service = format!("api/v1/namespaces/{}/services/api", stage.namespace);
    for place in [&place, &service] {
        let deleted = stage.admin.delete(place).await?;
        ensure!(deleted.is_success(), "{deleted}");
        eve_tests::wait_for(&format!("{place} to be back"), async || {
            stage.admin.get(place).await.ok().filter(|answer| answer.is_success()).map(drop)
        })
        .await;
    }
    let settled = stage.until("api", "running", |found| found["status"] == "running").await?;
    assert_eq!(settled["revision"], 1, "nobody asked for anything");
    // What comes close together may be told together; but all of it is told.
    let events = stage.platform.get("/v1/envs/dev/deployments/api/events?limit=100").await?;
    let told: String = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| event["event_type"] == "drifted")
        .map(|event| event["details"].to_string())
        .collect();
    for what in ["replicas", "image", "SNEAKED", "miner", "Deployment", "Service"] {
        assert!(told.contains(what), "{what} is not told: {told}");
    }
    stage.strike().await
}
