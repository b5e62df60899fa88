//! Environments on a real API server: made in order, walled in, never taken over, and taken away whole.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::stage::Stage;

#[tokio::test]
async fn an_environment_is_walled_in_and_taken_away_whole() -> Result<()> {
    let Some(stage) = Stage::set("environments").await? else { return Ok(()) };
    let namespace = stage.namespace.clone();
    let place = format!("api/v1/namespaces/{namespace}");
    let made = stage.admin.get(&place).await?.json()?;
    let labels = &made["metadata"]["labels"];
    let shown = stage.platform.get("/v1/envs/dev").await?;
    assert_eq!(labels["eve-horizon.dev/environment"], shown["id"], "{labels}");
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    let account = stage.object("api/v1", "serviceaccounts/default").await?;
    assert_eq!(account["automountServiceAccountToken"], false);
    for (api, kinds, count) in [
        ("api/v1", "resourcequotas", 1),
        ("api/v1", "limitranges", 1),
        ("apis/networking.k8s.io/v1", "networkpolicies", 2),
        ("apis/rbac.authorization.k8s.io/v1", "rolebindings", 4),
    ] {
        let found = stage.object(api, kinds).await?;
        assert_eq!(found["items"].as_array().map(Vec::len), Some(count), "{kinds}");
    }

    // What somebody takes away of it comes back by itself.
    let policy =
        format!("apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/default-deny");
    ensure!(stage.admin.delete(&policy).await?.is_success());
    let begun = std::time::Instant::now();
    while !stage.admin.get(&policy).await?.is_success() {
        ensure!(begun.elapsed() < Duration::from_secs(120), "the policy does not come back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // Somebody else's object in the namespace goes with it; somebody else's account does not.
    let accounts = "api/v1/namespaces/eve-deployers/serviceaccounts";
    let theirs = format!("{namespace}-theirs");
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": theirs } });
    ensure!(stage.admin.create(accounts, &account).await?.is_success());
    stage.run("eve env delete dev").await?;
    ensure!(stage.admin.get(&place).await?.status == 404);
    for suffix in ["", "-edit", "-view"] {
        let left = stage.admin.get(&format!("{accounts}/{namespace}{suffix}")).await?;
        assert_eq!(left.status, 404, "{left}");
    }
    let kept = stage.admin.get(&format!("{accounts}/{theirs}")).await?;
    assert!(kept.is_success(), "{kept}");
    stage.admin.delete(&format!("{accounts}/{theirs}")).await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_taken_over() -> Result<()> {
    let Some(stage) = Stage::bare("taking over").await? else { return Ok(()) };
    let namespace = stage.namespace.clone();
    let place = format!("api/v1/namespaces/{namespace}");
    let theirs = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": namespace, "labels": { "owner": "somebody" } },
    });
    ensure!(stage.admin.create("api/v1/namespaces", &theirs).await?.is_success());
    let create = format!("eve env create --name dev --cluster local --namespace {namespace}");
    let refused = stage.bash(&create).await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    let shown: Value = serde_json::from_str(&refused.stdout)?;
    assert_eq!(shown["status"], "failed", "{shown}");
    assert!(shown["message"].as_str().is_some_and(|why| why.contains("left alone")), "{shown}");
    let found = stage.admin.get(&place).await?.json()?;
    assert!(found["metadata"]["labels"]["eve-horizon.dev/environment"].is_null(), "{found}");

    // Another organisation that would have the same name is told no more than that it is taken.
    stage.run("eve org create corp --name Corp").await?;
    let corp =
        format!("eve --org corp env create --name x --cluster local --namespace {namespace}");
    let refused = stage.bash(&corp).await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("environment's already"), "{refused}");
    assert!(!refused.stderr.contains("dev"), "{refused}");

    // Deleting the environment leaves the namespace that was never its own.
    stage.run("eve env delete dev").await?;
    let kept = stage.admin.get(&place).await?;
    assert!(kept.is_success(), "{kept}");
    // A Deployment that somebody else has made is theirs as well.
    stage.admin.delete(&place).await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_away_keeps_nobody_else_waiting() -> Result<()> {
    let Some(stage) = Stage::set("a cluster that is away").await? else { return Ok(()) };
    let added = stage
        .run("eve cluster add --id away --provider eks --endpoint https://127.0.0.1:9/")
        .await?;
    assert!(added.stdout.contains("unreachable"), "{added}");
    let env = stage.bash("eve env create --name far --cluster away --no-wait").await?;
    ensure!(env.status.success(), "{env}");
    stage.apps(&["api"]).await?;
    stage.run("eve deploy create --app api --env far --image acme/api:v1.2.3 --cpu 5m").await?;
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --wait")
        .await?;
    let far = stage.platform.get("/v1/envs/far/deployments/api").await?;
    assert_eq!(far["status"], "pending", "{far:#}");
    let env = stage.platform.get("/v1/envs/far").await?;
    assert_eq!(env["status"], "provisioning", "{env}");
    assert!(env["message"].is_string(), "{env}");
    stage.strike().await
}

#[tokio::test]
async fn a_cluster_says_what_is_wrong_with_it() -> Result<()> {
    let Some(stage) = Stage::bare("registering clusters").await? else { return Ok(()) };
    let kubeconfig = std::env::var("EVE_TEST_KUBECONFIG")?;
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, "expired")?;
    let token = token.display();
    // A token that is nobody's.
    let add = format!("eve cluster add --id stale --kubeconfig {kubeconfig} --token-file {token}");
    let output = stage.run(&add).await?;
    assert!(output.stderr.contains("does not accept the credential"), "{output}");
    let check = stage.bash("eve cluster check stale").await?;
    assert_eq!(check.status.code(), Some(1), "{check}");
    // A token that has run out is replaced, and the environments of the cluster go on.
    let env = "eve env create --name late --cluster stale --namespace";
    let waiting = stage.run(&format!("{env} {} --no-wait", stage.namespace)).await?;
    assert!(waiting.stdout.contains("provisioning"), "{waiting}");
    let good = stage.token_file();
    let update = "eve cluster update --id stale --kubeconfig";
    let output = stage.run(&format!("{update} {kubeconfig} --token-file {good}")).await?;
    assert!(output.stdout.contains("\"ready\""), "{output}");
    let begun = std::time::Instant::now();
    while stage.platform.get("/v1/envs/late").await?["status"] != "ready" {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the environment is not made");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stage.run("eve env delete late").await?;
    // Another cluster's certificate authority.
    let ca = folder.path().join("ca.pem");
    let other = concat!(
        "-----BEGIN CERTIFICATE-----\n",
        "MIIBdDCCARugAwIBAgIUNs0nYSzJZZBGJkQmZg6xNDSMcVEwCgYIKoZIzj0EAwIw\n",
        "EDEOMAwGA1UEAwwFb3RoZXIwHhcNMjYwMTAxMDAwMDAwWhcNMzYwMTAxMDAwMDAw\n",
        "-----END CERTIFICATE-----\n"
    );
    std::fs::write(&ca, other)?;
    let add = format!(
        "eve cluster add --id elsewhere --kubeconfig {kubeconfig} --token-file {token} --ca-file {}",
        ca.display()
    );
    let output = stage.bash(&add).await?;
    assert!(output.stderr.contains("certificate"), "{output}");
    // An administrator of the cluster may do all that, and far too much.
    let output =
        stage.run(&format!("eve cluster add --id admin --kubeconfig {kubeconfig}")).await?;
    assert!(
        output.stderr.contains("warning: the credential may get secrets in kube-system"),
        "{output}"
    );
    Ok(())
}
