//! Environments whose cluster is gone for ever.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::stage::Stage;

#[tokio::test]
async fn an_environment_of_a_cluster_that_is_gone_is_forgotten() -> Result<()> {
    let Some(stage) = Stage::set("abandoning").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --wait")
        .await?;
    let kubeconfig = std::env::var("EVE_TEST_KUBECONFIG")?;
    let token = stage.token_file();
    // Its address is nobody's any more.
    let update = "eve cluster update --id local --provider local --endpoint https://127.0.0.1:9/";
    stage.run(&format!("{update} --token-file {token}")).await?;
    stage.run("eve env delete dev --force --no-wait").await?;
    stage
        .until_env("dev", "waiting for its cluster", |env| {
            env["status"] == "deleting" && env["message"].is_string()
        })
        .await?;
    let refused = stage.bash("eve cluster remove local").await?;
    assert!(!refused.status.success() && refused.stderr.contains("--abandon"), "{refused}");

    let output = stage.run("eve env delete dev --abandon").await?;
    let namespace = stage.namespace.clone();
    for word in ["left behind", &namespace, &format!("{namespace}-edit")] {
        assert!(output.stderr.contains(word), "{output}");
    }
    let gone = stage.platform.get("/v1/envs/dev").await;
    assert!(gone.is_err(), "{gone:?}");
    let left =
        "SELECT (SELECT count(*) FROM eve.environments) + (SELECT count(*) FROM eve.deployments)
                     + (SELECT count(*) FROM eve.deployment_revisions)
                     + (SELECT count(*) FROM eve.deployment_events)";
    assert_eq!(stage.platform.count(left).await, 0, "the history goes with it");
    let audited = "SELECT count(*) FROM eve.audit_log WHERE action = 'environment.abandon'";
    assert_eq!(stage.platform.count(audited).await, 1);
    stage.run("eve cluster remove local").await?;

    // Nothing in the cluster was touched.
    let there = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(there["status"]["readyReplicas"], 1, "{there:#}");

    // It comes back: whoever would have the same namespace does not get what is in it.
    let add = format!(
        "eve cluster add --id local --provider local --kubeconfig {kubeconfig} --token-file {token}"
    );
    stage.run(&add).await?;
    let create = format!("eve env create --name again --cluster local --namespace {namespace}");
    let refused = stage.bash(&create).await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    let shown: Value = serde_json::from_str(&refused.stdout)?;
    assert!(shown["message"].as_str().is_some_and(|why| why.contains("left alone")), "{shown}");
    stage.run("eve env delete again").await?;
    let place = format!("api/v1/namespaces/{namespace}");
    ensure!(stage.admin.delete(&place).await?.is_success());
    for suffix in ["", "-edit", "-view"] {
        let account =
            format!("api/v1/namespaces/eve-deployers/serviceaccounts/{namespace}{suffix}");
        stage.admin.delete(&account).await?;
    }
    stage.leave();
    Ok(())
}
