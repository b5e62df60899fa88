//! The brief's own commands, as they are written there, in bash.

use eve_tests::Shared;
use serde_json::json;

/// "Multi-Environment Rollout".
const ROLLOUT: &str = r#"
# Deploy to dev first
DEV=$(eve request create \
  --worker-type deployment \
  --prompt "Deploy api-service:v1.2.3 to dev" \
  --context '{"app": "api-service", "env": "dev", "image": "v1.2.3"}' \
  | jq -r '.id')

# Staging blocked by dev success
STAGING=$(eve request create \
  --worker-type deployment \
  --prompt "Deploy api-service:v1.2.3 to staging" \
  --blocked-by "$DEV" \
  --context '{"app": "api-service", "env": "staging", "image": "v1.2.3"}' \
  | jq -r '.id')

# Prod blocked by staging success
eve request create \
  --worker-type deployment \
  --prompt "Deploy api-service:v1.2.3 to prod" \
  --blocked-by "$STAGING" \
  --context '{"app": "api-service", "env": "prod", "image": "v1.2.3"}' \
  --reply-to-orchestrator
"#;

#[tokio::test]
async fn a_rollout_through_the_environments() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let output = acme.bash(&ROLLOUT.replace(" \\\n  --reply-to-orchestrator", "")).await?;
    let prod = output.id()?;
    acme.until(prod, "completed").await?;
    let result = acme.json(["result", "get", &prod.to_string()]).await?;
    assert_eq!(result["data"]["context"]["env"], "prod", "{result}");

    let filter = r#"{"app": "api-service"}"#;
    let list = acme.json(["request", "list", "--context-filter", filter]).await?;
    let mut order: Vec<(&str, &str)> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| {
            let env = item["context"]["env"].as_str().unwrap_or_default();
            (item["finished_at"].as_str().unwrap_or_default(), env)
        })
        .collect();
    order.sort_unstable();
    let order: Vec<&str> = order.into_iter().map(|(_, env)| env).collect();
    assert_eq!(order, ["dev", "staging", "prod"]);
    Ok(())
}

const CANARY: &str = r#"eve request create \
  --worker-type deployment \
  --prompt "Deploy canary: api-service:v1.2.3, 10% traffic" \
  --reply-to-orchestrator"#;

/// Only a run has an orchestrator to reply to: elsewhere the flag would be a promise that nobody
/// could keep.
#[tokio::test]
async fn a_reply_needs_an_orchestrator() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let before = acme.belongings().await?;
    for command in [CANARY, PIPELINE] {
        let output = acme.bash(command).await?;
        assert_eq!(output.code(), Some(2), "{output}");
        assert!(output.stderr.contains("only works inside a run"), "{output}");
        assert!(output.stderr.contains("set EVE_REQUEST_ID"), "{output}");
        assert!(output.stdout.is_empty(), "{output}");
    }
    let nowhere = format!("export EVE_REQUEST_ID={}; {CANARY}", uuid::Uuid::now_v7());
    let output = acme.bash(&nowhere).await?;
    assert_eq!(output.code(), Some(2), "{output}");
    assert!(output.stderr.contains("there is no request"), "{output}");
    assert_eq!(acme.belongings().await?, before);
    Ok(())
}

/// A shell inside a run: what it creates with the flag are children of the run's request.
#[tokio::test]
async fn a_shell_inside_a_run_has_its_orchestrator_told() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    // Open for as long as nobody works there.
    let orchestration = acme.create(json!({ "worker_type": "nobody" })).await?;
    let inside = async |command: &str| {
        acme.bash(&format!("export EVE_REQUEST_ID={orchestration}; {command}")).await?.json()
    };
    let parent = json!(orchestration);
    let canary = inside(CANARY).await?;
    assert_eq!(canary["parent_request_id"], parent, "{canary}");
    let prod = inside(ROLLOUT).await?;
    assert_eq!(prod["parent_request_id"], parent, "{prod}");
    let steps = inside(PIPELINE).await?["requests"].as_array().expect("the steps").clone();
    assert_eq!(steps[6]["parent_request_id"], parent, "the end of the pipeline replies");
    assert!(steps[..6].iter().all(|step| step["parent_request_id"].is_null()), "{steps:?}");
    let fan_out = "eve request fan-out --reply-to-orchestrator \
        --tasks '[{\"worker_type\": \"general\"}, {\"worker_type\": \"general\"}]'";
    let tasks = inside(fan_out).await?["requests"].as_array().expect("the tasks").clone();
    assert!(tasks.iter().all(|task| task["parent_request_id"] == parent), "{tasks:?}");

    for id in [&canary["id"], &prod["id"], &steps[6]["id"], &tasks[0]["id"], &tasks[1]["id"]] {
        acme.until(id.as_str().unwrap_or_default().parse()?, "completed").await?;
    }
    let told: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM eve.inbox WHERE orchestration_id = $1 AND source_kind = 'child'",
    )
    .bind(orchestration)
    .fetch_one(&Shared::platform().await?.pool)
    .await?;
    assert_eq!(told, 5);
    let ended = acme.json(["request", "cancel", &orchestration.to_string()]).await?;
    assert_eq!(ended["status"], "cancelled");
    let late = acme.bash(&format!("export EVE_REQUEST_ID={orchestration}; {CANARY}")).await?;
    assert_eq!(late.code(), Some(1), "{late}");
    assert!(late.stderr.contains("has ended"), "{late}");
    Ok(())
}

const PIPELINE: &str = r#"eve request pipeline \
  --tasks '[
    {"worker_type": "general", "prompt": "Build Docker image from $REPO"},
    {"worker_type": "general", "prompt": "Run unit tests"},
    {"worker_type": "deployment", "prompt": "Deploy to dev environment"},
    {"worker_type": "general", "prompt": "Run integration tests against dev"},
    {"worker_type": "deployment", "prompt": "Deploy to staging environment"},
    {"worker_type": "general", "prompt": "Run smoke tests against staging"},
    {"worker_type": "deployment", "prompt": "Deploy to prod environment"}
  ]' \
  --context '{"app": "api-service", "version": "v1.2.3"}' \
  --reply-to-orchestrator"#;

#[tokio::test]
async fn a_pipeline_runs_step_by_step() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let command = PIPELINE.replace("\\\n  --reply-to-orchestrator", "");
    let created = acme.bash(&command).await?.json()?;
    let steps = created["requests"].as_array().expect("the steps").clone();
    assert_eq!(steps.len(), 7);
    let ids: Vec<String> =
        steps.iter().map(|step| step["id"].as_str().expect("an id").to_owned()).collect();
    for step in &steps {
        assert_eq!(step["context"], json!({ "app": "api-service", "version": "v1.2.3" }));
    }

    let watch: Vec<&str> =
        ["request", "watch"].into_iter().chain(ids.iter().map(|id| &**id)).collect();
    let watched = acme.run(watch).await?;
    assert_eq!(watched.code(), Some(0), "{watched}");
    for pair in ids.windows(2) {
        let blockers = acme.json(["request", "blockers", &pair[1]]).await?;
        assert_eq!(blockers["items"].as_array().map(Vec::len), Some(1), "{blockers}");
        assert_eq!(blockers["items"][0]["id"], pair[0], "{blockers}");
        assert_eq!(blockers["items"][0]["open"], false, "{blockers}");
    }

    let mut ends = Vec::new();
    for id in &ids {
        let result = acme.json(["result", "get", id]).await?;
        ends.push((result["started_at"].to_string(), result["finished_at"].to_string()));
    }
    for pair in ends.windows(2) {
        assert!(
            pair[0].1 <= pair[1].0,
            "a step began before the one ahead of it had ended: {ends:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn keda_counts_the_backlog_and_sees_nothing_else() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    for org in [&acme, &corp] {
        let two = json!([{ "worker_type": "nobody" }, { "worker_type": "nobody" },
                         { "worker_type": "nobody", "delay_ms": 3_600_000 }]);
        org.create_all(two).await?;
    }
    let mut session = platform.pool.acquire().await?;
    sqlx::query("SET ROLE eve_metrics").execute(&mut *session).await?;
    // Other tests of this file have requests there too.
    let count = "SELECT COUNT(*) FROM eve.orchestration_requests
                 WHERE worker_type = 'nobody' AND status = 'pending'";
    let pending: i64 = sqlx::query_scalar(count).fetch_one(&mut *session).await?;
    assert!(pending >= 4, "{pending}");
    for secret in [
        "SELECT prompt FROM eve.orchestration_requests",
        "SELECT org_id FROM eve.orchestration_requests",
        "SELECT count(*) FROM eve.requests",
        "SELECT count(*) FROM eve.queue",
    ] {
        let refused = sqlx::query(secret).fetch_optional(&mut *session).await.err();
        let code = refused.as_ref().and_then(|error| error.as_database_error()?.code());
        assert_eq!(code.as_deref(), Some("42501"), "{secret}: {refused:?}");
    }
    sqlx::query("RESET ROLE").execute(&mut *session).await?;
    Ok(())
}

#[tokio::test]
async fn the_views_columns_can_be_read_by_members_only() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    acme.create(json!({ "worker_type": "nobody", "prompt": "ours" })).await?;
    corp.create(json!({ "worker_type": "nobody", "prompt": "theirs" })).await?;
    let ended = acme.create(json!({ "worker_type": "general", "prompt": "ended" })).await?;
    acme.until(ended, "completed").await?;
    let mut tx = platform.pool.begin().await?;
    sqlx::query("SET LOCAL ROLE eve_tenant").execute(&mut *tx).await?;
    let seen = "SELECT prompt FROM eve.orchestration_requests ORDER BY prompt";
    let nothing: Vec<String> = sqlx::query_scalar(seen).fetch_all(&mut *tx).await?;
    assert!(nothing.is_empty(), "{nothing:?}");
    sqlx::query("SELECT set_config('eve.org_id', $1, true)")
        .bind(acme.org.id.to_string())
        .execute(&mut *tx)
        .await?;
    let own: Vec<String> = sqlx::query_scalar(seen).fetch_all(&mut *tx).await?;
    assert_eq!(own, ["ended", "ours"]);
    Ok(())
}

#[tokio::test]
async fn a_reader_may_stop_reading() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let prompt = "x".repeat(10_000);
    let hundred = vec![json!({ "worker_type": "nobody", "prompt": prompt }); 100];
    acme.create_all(json!(hundred)).await?;
    // The reader goes after the first line, with a megabyte to come: no error, and no word about it.
    let output = acme.bash("eve request list --all | head -n 1").await?;
    assert_eq!((output.code(), &*output.stdout, &*output.stderr), (Some(0), "{\n", ""), "{output}");
    Ok(())
}
