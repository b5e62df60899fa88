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
