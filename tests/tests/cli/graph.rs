//! Requests that wait for one another: policies, cascades, retries; and keys that make a call
//! harmless to repeat.

use eve_tests::{Member, Shared};
use serde_json::{Value, json};
use uuid::Uuid;

const HOUR: u64 = 3_600_000;

async fn statuses(member: &Member, ids: &[Uuid]) -> anyhow::Result<Vec<String>> {
    let mut statuses = Vec::new();
    for id in ids {
        statuses.push(member.status(*id).await?);
    }
    Ok(statuses)
}

fn error_code(request: &Value) -> &str {
    request["error"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn each_policy_does_what_it_says() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    // The blocker waits for an hour, and so for its cancellation; a retry has no delay.
    let blocker = json!({ "worker_type": "general", "delay_ms": HOUR });
    let waits = |policy: &str| {
        json!({ "worker_type": "general", "prompt": policy,
                "blocked_by": [{ "id": "#0", "on_failure": policy }] })
    };
    let below = json!({ "worker_type": "general", "blocked_by": ["#1"] });
    let ids = acme
        .create_all(json!([blocker, waits("cancel"), waits("run"), waits("hold"), below]))
        .await?;
    let [blocker, cancelled, run, held, below] = ids[..] else { panic!("{ids:?}") };
    assert_eq!(statuses(&acme, &ids[1..]).await?, ["blocked"; 4]);

    let output =
        acme.run(["request", "cancel", &blocker.to_string(), "--reason", "too early"]).await?;
    let answer = output.json()?;
    assert_eq!(answer["status"], "cancelled");
    assert_eq!(answer["error"]["message"], "too early");
    assert_eq!(error_code(&acme.until(cancelled, "cancelled").await?), "blocker_failed");
    assert_eq!(error_code(&acme.until(below, "cancelled").await?), "blocker_failed");
    acme.until(run, "completed").await?;
    assert_eq!(acme.status(held).await?, "blocked");
    let blockers = acme.json(["request", "blockers", &held.to_string()]).await?;
    let item = &blockers["items"][0];
    assert_eq!((item["open"].clone(), item["on_failure"].clone()), (json!(true), json!("hold")));
    assert!(item["reason"].as_str().is_some_and(|reason| reason.starts_with("held")), "{blockers}");

    // What was cancelled because of another comes back with that one, not alone.
    let refused = acme.run(["request", "retry", &below.to_string()]).await?;
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("retry that one"), "{refused}");
    let again = acme.json(["request", "retry", &blocker.to_string()]).await?;
    assert_eq!((again["generation"].clone(), again["error"].clone()), (json!(2), Value::Null));
    for (id, generation) in [(blocker, 2), (cancelled, 2), (below, 2), (held, 1), (run, 1)] {
        let request = acme.until(id, "completed").await?;
        assert_eq!(request["generation"], generation, "{request}");
    }
    for verb in ["retry", "cancel"] {
        let refused = acme.run(["request", verb, &blocker.to_string()]).await?;
        assert_eq!(refused.code(), Some(1), "{refused}");
        assert!(refused.stderr.contains("is completed"), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_run_cancels_what_waits_for_it() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let tasks = json!([
        { "worker_type": "general", "skill": "hostile", "context": { "do": "fail-permanent" } },
        { "worker_type": "general" },
        { "worker_type": "general" },
    ])
    .to_string();
    let created = acme.json(["request", "pipeline", "--tasks", &tasks]).await?;
    let ids: Vec<Uuid> = serde_json::from_value(json!([
        created["requests"][0]["id"],
        created["requests"][1]["id"],
        created["requests"][2]["id"],
    ]))?;
    let failed = acme.until(ids[0], "failed").await?;
    assert_eq!(failed["error"], json!({ "code": "failed", "message": "as told" }));
    for id in &ids[1..] {
        let request = acme.until(*id, "cancelled").await?;
        assert_eq!(error_code(&request), "blocker_failed", "{request}");
        assert_eq!(request["attempt"], 0, "{request}");
    }
    // A blocker that has ended gets its policy there and then.
    let id = ids[0].to_string();
    let create = ["request", "create", "--worker-type", "general", "--blocked-by", &id];
    assert_eq!(acme.json(create).await?["status"], "cancelled");
    let late = acme.run(create.into_iter().chain(["--on-failure", "run"])).await?.id()?;
    acme.until(late, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn a_fan_out_is_collected() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let tasks = json!([
        { "worker_type": "general", "skill": "text-stats", "context": { "text": "one two" } },
        { "worker_type": "general", "skill": "text-stats", "context": { "text": "three" } },
        { "worker_type": "general", "skill": "hostile", "context": { "do": "trap" }, "max_attempts": 1 },
    ])
    .to_string();
    let collect = json!({ "worker_type": "general", "skill": "text-stats", "context": { "aggregate": true } });
    let created = acme
        .json([
            "request",
            "fan-out",
            "--tasks",
            &tasks,
            "--collect",
            &collect.to_string(),
            "--on-failure",
            "run",
        ])
        .await?;
    let last = created["requests"][3]["id"].as_str().expect("the collector").to_owned();
    let blockers = acme.json(["request", "blockers", &last]).await?;
    assert_eq!(blockers["items"].as_array().map(Vec::len), Some(3), "{blockers}");
    let watched = acme.run(["request", "watch", &last]).await?;
    assert_eq!(watched.code(), Some(0), "{watched}");
    let data = acme.json(["result", "get", &last, "--data"]).await?;
    assert_eq!((data["words"].clone(), data["documents"].clone()), (json!(3), json!(2)), "{data}");
    Ok(())
}

#[tokio::test]
async fn a_running_request_can_be_cancelled() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let sleeper =
        json!({ "worker_type": "general", "skill": "hostile-wasi", "context": { "do": "sleep" } });
    let id = acme.create(sleeper).await?;
    acme.until(id, "processing").await?;
    let answer = acme.json(["request", "cancel", &id.to_string()]).await?;
    assert_eq!((answer["status"].clone(), error_code(&answer)), (json!("cancelled"), "cancelled"));
    let shown = acme.run(["result", "get", &id.to_string(), "--data"]).await?;
    assert_eq!(shown.code(), Some(1), "{shown}");
    assert!(shown.stderr.contains("cancelled on request"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_retryable_failure_is_tried_again() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let context = r#"{"do": "fail-until", "attempt": 2}"#;
    let created = acme
        .run([
            "request",
            "create",
            "--worker-type",
            "general",
            "--skill",
            "hostile",
            "--context",
            context,
            "--wait",
        ])
        .await?;
    assert_eq!(created.code(), Some(0), "{created}");
    let result = created.json()?;
    assert_eq!(
        (result["attempt"].clone(), result["summary"].clone()),
        (json!(2), json!("attempt 2"))
    );
    Ok(())
}

#[tokio::test]
async fn a_key_makes_a_call_harmless_to_repeat() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let create = [
        "request",
        "create",
        "--worker-type",
        "nobody",
        "--idempotency-key",
        "nightly",
        "--prompt",
    ];
    let with = |prompt: &'static str| create.into_iter().chain([prompt]);
    let first = acme.run(with("report")).await?.id()?;
    assert_eq!(acme.run(with("report")).await?.id()?, first);
    let other = acme.run(with("another report")).await?;
    assert_eq!(other.code(), Some(1), "{other}");
    assert!(other.stderr.contains("was used before, for a different body"), "{other}");

    let body = json!({ "requests": [{ "worker_type": "nobody" }, { "worker_type": "nobody" }] });
    let call =
        || acme.call(reqwest::Method::POST, "/v1/requests/batch").header("Idempotency-Key", "b1");
    let made = call().json(&body).send().await?;
    assert_eq!(made.status(), 201);
    let made: Value = made.json().await?;
    let (again, side_by_side) = tokio::join!(call().json(&body).send(), call().json(&body).send());
    for answer in [again?, side_by_side?] {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await?["requests"], made["requests"]);
    }
    let conflict =
        call().json(&json!({ "requests": [{ "worker_type": "general" }] })).send().await?;
    assert_eq!(conflict.status(), 409);
    // Keys are an organisation's own.
    let corp = Shared::platform().await?.org().await?;
    let theirs = corp.run(with("theirs")).await?.id()?;
    assert_ne!(theirs, first);
    assert_eq!(acme.belongings().await?["requests"], 3);
    Ok(())
}

#[tokio::test]
async fn a_batch_is_created_whole_or_not_at_all() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let before = acme.belongings().await?;
    for (wrong, field) in [
        (json!({ "worker_type": "nope" }), "worker_type"),
        (json!({ "worker_type": "nobody", "blocked_by": ["#3"] }), "requests[2].blocked_by"),
        (json!({ "worker_type": "nobody", "priority": 101 }), "requests[2].priority"),
        (json!({ "worker_type": "nobody", "blocked_by": [Uuid::now_v7()] }), "blocked_by"),
    ] {
        let good = json!({ "worker_type": "nobody" });
        let body = json!({ "requests": [good, good, wrong] });
        let (status, problem) = acme.post("/v1/requests/batch", &body).await?;
        assert_eq!(status, 422, "{problem}");
        let place = problem["field"].as_str().unwrap_or_default();
        assert!(place.ends_with(field), "{problem}");
        assert_eq!(acme.belongings().await?, before, "{problem}");
    }
    let hundred = vec![json!({ "worker_type": "nobody" }); 100];
    assert_eq!(acme.create_all(json!(hundred)).await?.len(), 100);
    Ok(())
}
