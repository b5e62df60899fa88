//! Settings that are said once, and no longer.

use anyhow::Result;
use serde_json::{Value, json};

use crate::stage::Stage;

#[tokio::test]
async fn a_setting_is_unset() -> Result<()> {
    let Some(stage) = Stage::set("unsetting").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run(
            "eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --memory 64Mi \
                 --health-path /healthz --wait",
        )
        .await?;
    let container = async || -> Result<Value> {
        let there = stage.object("apis/apps/v1", "deployments/api").await?;
        Ok(there["spec"]["template"]["spec"]["containers"][0].clone())
    };
    let first = container().await?;
    assert_eq!(first["readinessProbe"]["httpGet"]["path"], "/healthz", "{first:#}");
    assert_eq!(first["resources"]["limits"]["memory"], "64Mi", "{first:#}");
    let create = "eve deploy create --app api --env dev --image acme/api:v1.2.3";
    stage.run(&format!("{create} --unset health-path --unset memory --wait")).await?;
    let then = container().await?;
    assert!(then["readinessProbe"].is_null(), "{then:#}");
    assert!(then["resources"]["limits"]["memory"].is_null(), "{then:#}");
    assert_eq!(then["resources"]["requests"]["cpu"], "5m", "what is left out stays: {then:#}");
    let shown = stage.status("api").await?;
    assert_eq!(shown["config"], json!({ "cpu": "5m", "variables": [] }), "{shown:#}");

    // The same by the API, and what is none.
    let path = "/v1/envs/dev/deployments";
    let body =
        |settings: Value| json!({ "app": "api", "image": "acme/api:v1.2.3", "settings": settings });
    stage.platform.post(path, &body(json!({ "cpu": null }))).await?;
    assert_eq!(stage.status("api").await?["config"], json!({ "variables": [] }));
    for bad in [json!({ "privileged": null }), json!({ "port": "x" }), json!({ "deadline_s": 1 })] {
        let refused = stage.platform.post(path, &body(bad.clone())).await;
        let why = refused.expect_err(&bad.to_string()).to_string();
        assert!(why.contains("settings."), "{bad}: {why}");
    }
    let refused = stage.bash(&format!("{create} --unset colour")).await?;
    assert_eq!(refused.status.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("`health_path`"), "{refused}");
    stage.strike().await
}

/// While versions change, or after a release has come back: nothing of it is taken away, and it is said why.
#[tokio::test]
async fn what_a_later_version_has_deployed_is_left_alone() -> Result<()> {
    let Some(stage) = Stage::set("settings of a later version").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    let deploy = "eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m";
    stage.run(&format!("{deploy} --wait")).await?;
    let change = async |expression: &str| -> Result<()> {
        let pool = stage.platform.pool();
        for table in ["eve.deployments", "eve.deployment_revisions"] {
            let statement = format!("UPDATE {table} SET config = {expression}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(pool).await?;
        }
        Ok(())
    };
    change(r#"config || '{"gpu": 1}'"#).await?;
    // Scaling makes nothing of it but another number.
    stage.run("eve deploy scale --app api --env dev --replicas 2").await?;
    let left = stage.until("api", "left alone", |found| found["reason"] == "later_version").await?;
    let said = left["message"].as_str().unwrap_or_default();
    assert!(said.contains("a later version of eve") && said.contains("gpu"), "{left:#}");
    let there = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(there["spec"]["replicas"], 1, "it is as it was: {there:#}");
    let refused = stage.bash(deploy).await?;
    assert!(!refused.status.success(), "{refused}");
    assert!(refused.stderr.contains("a later version of eve has deployed this"), "{refused}");

    // A control plane that understands it goes on.
    change("config - 'gpu'").await?;
    stage.until("api", "running", |found| found["replicas"]["ready"] == 2).await?;
    stage.strike().await
}
