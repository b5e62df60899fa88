//! Environments, apps and deployments as members ask for them, right and wrong; no cluster answers here.

use anyhow::Result;
use eve_tests::{Output, Platform};
use serde_json::Value;

/// A platform with a cluster that is not there, an environment in it, and an app.
async fn platform() -> Result<Platform> {
    let platform = Platform::start(&[]).await?;
    for line in [
        "eve cluster add --id nowhere --provider eks --endpoint https://127.0.0.1:9",
        "eve env create --name dev --cluster nowhere --no-wait",
        "eve app create --name api-service --repo-url git@github.com:acme/api.git",
    ] {
        let output = platform.eve().bash(line).await?;
        assert!(output.status.success(), "{line}: {output}");
    }
    Ok(platform)
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() -> Result<()> {
    let platform = platform().await?;
    let eve = platform.eve();
    let deploy = "eve deploy create --app api-service --env dev";
    for (line, code, words) in [
        (format!("{deploy} --image 'A/B'"), 2, &["image", "acme/api:v1.2.3"][..]),
        (format!("{deploy} --image ''"), 2, &["image", "empty"]),
        (format!("{deploy} --image a --replicas -1"), 2, &["replicas", "-1"]),
        (format!("{deploy} --image a --replicas 1000000000"), 2, &["replicas", "1000"]),
        (format!("{deploy} --image a --env-vars '{{\"A\": 1}}'"), 2, &["--env-vars", "string"]),
        (format!("{deploy} --image a --env-vars '[]'"), 2, &["--env-vars"]),
        (format!("{deploy} --image a --env-vars '{{\"A-B\": \"\"}}'"), 2, &["A-B"]),
        (format!("{deploy} --image a --memory 1"), 2, &["memory", "256Mi"]),
        (format!("{deploy} --image a --run-as-user 0"), 2, &["root"]),
        (format!("{deploy} --image a --autoscale 5..2"), 2, &["autoscale"]),
        (format!("{deploy} --image a --deadline 1s"), 2, &["deadline"]),
        ("eve deploy create --app nothing --env dev --image a".into(), 2, &["eve app create"]),
        (
            "eve deploy create --app api-service --env gone --image a".into(),
            3,
            &["environment `gone`"],
        ),
        ("eve deploy status --app api-service --env dev".into(), 3, &["api-service in dev"]),
        ("eve deploy scale --app api-service --env dev --replicas 2".into(), 3, &["deployment"]),
        (
            "eve deploy rollback --app api-service --env dev --to-version v1".into(),
            3,
            &["deployment"],
        ),
        ("eve app create --name 'Not A Name'".into(), 2, &["DNS label"]),
        ("eve app create --name 2048".into(), 2, &["letter"]),
        ("eve app create --name api-service".into(), 1, &["already"]),
        ("eve env create --name UP --cluster nowhere".into(), 2, &["DNS label"]),
        (
            "eve env create --name x --cluster nowhere --namespace kube-system".into(),
            2,
            &["reserved"],
        ),
        ("eve env create --name x --cluster nowhere --namespace com".into(), 2, &["hyphen"]),
        ("eve env create --name x --cluster missing".into(), 2, &["no cluster `missing`"]),
        ("eve env create --name x --cluster nowhere --config '{\"cpu\": 1}'".into(), 2, &["cpu"]),
        ("eve env create --name dev --cluster nowhere --namespace a-b".into(), 1, &["already"]),
        (
            "eve env create --name y --cluster nowhere --namespace dev-dev".into(),
            1,
            &["--namespace"],
        ),
        ("eve cluster add --id x --provider ecs".into(), 2, &["ecs"]),
        ("eve cluster add --id x --provider eks --endpoint http://a".into(), 2, &["https"]),
        ("eve cluster add --id nowhere --endpoint https://127.0.0.1:9".into(), 1, &["already"]),
        ("eve cluster remove nowhere".into(), 1, &["dev-dev"]),
        ("eve cluster check nothing".into(), 3, &["cluster `nothing`"]),
    ] {
        refused(&eve.bash(&line).await?, code, words);
    }
    let deployments = platform.get("/v1/deployments?deleted=true").await?;
    assert_eq!(deployments["items"], serde_json::json!([]));
    Ok(())
}

#[tokio::test]
async fn what_is_asked_for_waits_for_its_cluster() -> Result<()> {
    let platform = platform().await?;
    let eve = platform.eve();
    // As the brief has it.
    let line = r#"eve deploy create \
  --app api-service \
  --env dev \
  --image "acme/api:v1.2.3" \
  --replicas 3 \
  --env-vars '{"DATABASE_URL": "...", "API_KEY": "hush-hush"}'"#;
    let made = eve.bash(line).await?;
    assert!(made.status.success(), "{made}");
    let status: Value = serde_json::from_str(&made.stdout)?;
    assert_eq!(status["status"], "pending", "{status}");
    assert_eq!(status["replicas"]["desired"], 3);
    for line in [
        "eve deploy scale --app api-service --env dev --replicas 5",
        "eve deploy status --app api-service --env dev",
        "eve deploy history --app api-service --env dev",
        "eve deploy history --app api-service --env dev --events",
        "eve deploy list",
        "eve env list",
        "eve app list",
        "eve cluster list",
    ] {
        let output = eve.bash(line).await?;
        assert!(output.status.success(), "{line}: {output}");
        assert!(!output.stdout.contains("hush-hush"), "{line}: {output}");
    }
    let never = "eve deploy rollback --app api-service --env dev --to-version v1.2.2";
    refused(
        &eve.bash(never).await?,
        1,
        &["no version `v1.2.2` of `api-service` ever ran in `dev`"],
    );
    refused(&eve.bash("eve app delete api-service").await?, 1, &["deployed in dev"]);
    refused(&eve.bash("eve env delete dev").await?, 1, &["api-service", "--force"]);
    // What is sealed is nowhere to be read.
    let leaks: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM eve.deployment_revisions r WHERE r::text LIKE '%hush-hush%')
              + (SELECT count(*) FROM eve.deployment_events e WHERE e::text LIKE '%hush-hush%')
              + (SELECT count(*) FROM eve.deployments d WHERE d::text LIKE '%hush-hush%')
              + (SELECT count(*) FROM eve.audit_log a WHERE a::text LIKE '%hush-hush%')",
    )
    .fetch_one(platform.pool())
    .await?;
    assert_eq!(leaks, 0);
    Ok(())
}

#[tokio::test]
async fn an_environment_says_who_may_deploy_to_it() -> Result<()> {
    let platform = platform().await?;
    let eve = platform.eve();
    let create = "eve env create --name prod --cluster nowhere --no-wait --config '{\"deployers\": \"admin\"}'";
    assert!(eve.bash(create).await?.status.success());
    let token = eve.json(["token", "create", "ci", "--role", "member"]).await?;
    let secret = token["token"].as_str().unwrap_or_default();
    let deploy = |env: &str| {
        format!("EVE_TOKEN={secret} eve deploy create --app api-service --env {env} --image a:1")
    };
    let output = eve.bash(&deploy("dev")).await?;
    assert!(output.status.success(), "{output}");
    refused(&eve.bash(&deploy("prod")).await?, 4, &["takes the role admin"]);
    let scoped = ["token", "create", "ro", "--scope", "deployments:read"];
    let token = eve.json(scoped).await?;
    let secret = token["token"].as_str().unwrap_or_default();
    let look = format!("EVE_TOKEN={secret} eve deploy list");
    assert!(eve.bash(&look).await?.status.success());
    let deploy =
        format!("EVE_TOKEN={secret} eve deploy create --app api-service --env dev --image a:1");
    refused(&eve.bash(&deploy).await?, 4, &["deployments:write"]);
    Ok(())
}
