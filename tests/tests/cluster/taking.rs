//! What is somebody else's is not taken over, and what is of a later revision not written over.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::stage::Stage;

fn named(kind: &str, name: &str, spec: Value) -> Value {
    let api = match kind {
        "Service" => "v1",
        "PodDisruptionBudget" => "policy/v1",
        "HorizontalPodAutoscaler" => "autoscaling/v2",
        _ => "apps/v1",
    };
    json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name }, "spec": spec })
}

#[tokio::test]
async fn what_somebody_else_has_made_is_left_alone() -> Result<()> {
    let Some(stage) = Stage::set("taking over objects").await? else { return Ok(()) };
    let service = named(
        "Service",
        "web",
        json!({
            "selector": { "app": "theirs" }, "ports": [{ "port": 81 }],
        }),
    );
    let budget = named(
        "PodDisruptionBudget",
        "queue",
        json!({
            "maxUnavailable": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": { "matchLabels": { "app.kubernetes.io/name": "queue" } },
        }),
    );
    let scaler = named(
        "HorizontalPodAutoscaler",
        "scaled",
        json!({
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "theirs" },
            "minReplicas": 1, "maxReplicas": 2,
        }),
    );
    for (theirs, app, flags) in [
        (service, "web", "--replicas 1"),
        (budget, "queue", "--replicas 2"),
        (scaler, "scaled", "--autoscale 1..2"),
    ] {
        let kind = theirs["kind"].as_str().unwrap_or_default().to_owned();
        let place = crate::api::path(&theirs, &stage.namespace, true);
        let made = stage
            .admin
            .create(&crate::api::path(&theirs, &stage.namespace, false), &theirs)
            .await?;
        ensure!(made.is_success(), "{made}");
        stage.apps(&[app]).await?;
        let create = format!(
            "eve deploy create --app {app} --env dev --image acme/api:v1.2.3 --cpu 5m {flags} --wait"
        );
        let refused = stage.bash(&create).await?;
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        let status: Value = serde_json::from_str(&refused.stdout)?;
        assert_eq!(
            (&status["status"], &status["reason"]),
            (&json!("failed"), &json!("taken")),
            "{status:#}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("{kind} `{app}`")), "{message}");
        let there = stage.admin.get(&place).await?.json()?;
        assert!(there["metadata"]["labels"].is_null(), "{there:#}");
        assert_eq!(there["metadata"]["uid"], made.json()?["metadata"]["uid"]);
        let deployments = format!("apis/apps/v1/namespaces/{}/deployments", stage.namespace);
        let deployment = stage.admin.get(&format!("{deployments}/{app}")).await?;
        assert_eq!(deployment.status, 404, "nothing runs of what is not whole");
        // Taking the app out again leaves it as well.
        stage.run(&format!("eve deploy delete --app {app} --env dev")).await?;
        ensure!(stage.admin.get(&place).await?.is_success());
        ensure!(stage.admin.delete(&place).await?.is_success());
        stage.run(&create).await?;
    }
    stage.strike().await
}

/// A control plane that was left behind, seen from the other side: what is there is of a later revision.
#[tokio::test]
async fn what_is_of_a_later_revision_is_not_written_over() -> Result<()> {
    let Some(stage) = Stage::set("later revisions").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --wait")
        .await?;
    let service = format!("api/v1/namespaces/{}/services/api", stage.namespace);
    let stamp = async |revision: &str| {
        let body =
            json!({ "metadata": { "annotations": { "eve-horizon.dev/revision": revision } } });
        let kind = "application/merge-patch+json";
        let answer = stage.admin.send(http::Method::PATCH, &service, kind, Some(&body)).await?;
        ensure!(answer.is_success(), "{answer}");
        Ok(())
    };
    let there = stage.admin.get(&service).await?.json()?;
    assert_eq!(there["metadata"]["annotations"]["eve-horizon.dev/revision"], "1", "{there:#}");
    stamp("99").await?;
    stage.run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --port 9000").await?;
    let waits = stage.until("api", "held back", |found| found["reason"] == "conflict").await?;
    assert_eq!(waits["status"], "pending", "{waits:#}");
    let message = waits["message"].as_str().unwrap_or_default();
    assert!(message.contains("revision 99 is there already, and this is 2"), "{message}");
    let there = stage.admin.get(&service).await?.json()?;
    assert_eq!(there["metadata"]["annotations"]["eve-horizon.dev/revision"], "99", "{there:#}");
    let deployment = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(deployment["metadata"]["generation"], 1, "{deployment:#}");
    stamp("1").await?;
    let settled = stage.settled("api", 2).await?;
    assert_eq!(
        (&settled["status"], &settled["reason"]),
        (&json!("running"), &Value::Null),
        "{settled:#}"
    );
    for (api, place) in [("api/v1", "services/api"), ("apis/apps/v1", "deployments/api")] {
        let there = stage.object(api, place).await?;
        assert_eq!(there["metadata"]["annotations"]["eve-horizon.dev/revision"], "2", "{there:#}");
    }
    stage.strike().await
}
