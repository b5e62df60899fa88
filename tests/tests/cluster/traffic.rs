//! Who answers an app's requests: canaries that take a share, and hosts that lead to apps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eve_tests::wait_for;
use serde_json::{Value, json};

use crate::stage::Stage;

/// Requests that are counted: enough to tell a quarter from none and from a half.
const REQUESTS: usize = 200;

/// How often each version answers, asked through an app's Service by a connection a time.
async fn versions(stage: &Stage, app: &str) -> Result<BTreeMap<String, usize>> {
    let service = stage.object("api/v1", &format!("services/{app}")).await?;
    let address = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?.to_owned();
    let http = eve_tests::http_client()?;
    let mut versions = BTreeMap::new();
    for _ in 0..REQUESTS {
        let request = http.get(format!("http://{address}/")).header("connection", "close");
        let answer: Value = request.timeout(Duration::from_secs(10)).send().await?.json().await?;
        let version = answer["version"].as_str().unwrap_or_default().to_owned();
        *versions.entry(version).or_default() += 1;
    }
    Ok(versions)
}

/// Waits until as many answer as should: what an endpoint becomes takes kube-proxy a moment.
async fn answered(
    stage: &Stage,
    app: &str,
    what: &str,
    mut right: impl FnMut(&BTreeMap<String, usize>) -> bool,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        // A pod that has just gone may still be asked.
        let found = versions(stage, app).await;
        if found.as_ref().is_ok_and(&mut right) {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{what}: {found:?}");
    }
}

/// Shares as a deployment shows them: app, asked for, had.
fn shares(status: &Value) -> Vec<(String, i64, f64)> {
    let shares = status["traffic"]["shares"].as_array().into_iter().flatten();
    shares
        .map(|share| {
            let app = share["app"].as_str().unwrap_or_default().to_owned();
            let asked = share["asked"].as_i64().unwrap_or_default();
            (app, asked, share["percent"].as_f64().unwrap_or(-1.0))
        })
        .collect()
}

fn split(main: f64, asked: i64, canary: f64) -> Vec<(String, i64, f64)> {
    vec![("api".into(), 100 - asked, main), ("api-canary".into(), asked, canary)]
}

async fn selector(stage: &Stage) -> Result<Value> {
    Ok(stage.object("api/v1", "services/api").await?["spec"]["selector"].clone())
}

async fn until_selector(stage: &Stage, wanted: Value) {
    wait_for(&format!("the Service to select {wanted}"), async || {
        selector(stage).await.ok().filter(|found| *found == wanted).map(drop)
    })
    .await;
}

#[tokio::test]
async fn requests_are_split_among_replicas_and_come_back() -> Result<()> {
    let Some(stage) = Stage::set("canaries").await? else { return Ok(()) };
    stage.apps(&["api", "api-canary"]).await?;
    let own = json!({ "app.kubernetes.io/name": "api", "eve-horizon.dev/app": "api" });
    let shared = json!({ "eve-horizon.dev/serves": "api" });
    let deploy = "eve deploy create --env dev --cpu 5m --wait";
    let variables = r#"--env-vars '{"GREETING": "hello"}' --deadline 170s"#;
    stage
        .run(&format!("{deploy} --app api --image acme/api:v1.2.2 --replicas 3 {variables}"))
        .await?;
    let before =
        stage.object("apis/apps/v1", "deployments/api").await?["metadata"]["generation"].clone();
    let canary = format!("{deploy} --app api-canary --image acme/api:v1.2.3 --canary-of api");
    // One beside three is a quarter; it may listen elsewhere.
    let made = stage.run(&format!("{canary} --traffic 25 --port 9090")).await?;
    let made: Value = serde_json::from_str(&made.stdout)?;
    assert_eq!(made["replicas"]["desired"], 1, "{made}");
    // For the rest it is as its app.
    assert_eq!(made["config"]["variables"], json!(["GREETING"]), "{made}");
    assert_eq!(made["config"]["deadline_s"], 170, "{made}");
    let secrets = "api/v1/namespaces/NS/secrets?labelSelector=eve-horizon.dev/app%3Dapi-canary";
    let secrets = stage.admin.get(&secrets.replace("NS", &stage.namespace)).await?.json()?;
    assert_eq!(secrets["items"][0]["data"]["GREETING"], "aGVsbG8=", "{secrets:#}");
    until_selector(&stage, shared.clone()).await;
    let status =
        stage.until("api", "split", |found| shares(found) == split(75.0, 25, 25.0)).await?;
    assert_eq!(status["traffic"]["by"], "replicas", "{status}");
    assert_eq!(shares(&stage.status("api-canary").await?), split(75.0, 25, 25.0));
    answered(&stage, "api", "a quarter", |found| {
        let new = found.get("v1.2.3").copied().unwrap_or_default();
        (REQUESTS / 10..REQUESTS * 4 / 10).contains(&new) && found.len() == 2
    })
    .await?;
    // The main app was left alone, and so was the canary's own name.
    let after = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(after["metadata"]["generation"], before);
    assert_eq!(
        versions(&stage, "api-canary").await?,
        BTreeMap::from([("v1.2.3".into(), REQUESTS)])
    );

    // The share that it really has is said.
    stage.run("eve deploy scale --app api --env dev --replicas 1 --wait").await?;
    stage.until("api-canary", "a half", |found| shares(found) == split(50.0, 25, 50.0)).await?;

    let refused = stage.bash("eve deploy delete --app api --env dev").await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("`api-canary` is a canary of `api`"), "{refused}");

    // It fails, while its old pod is still there: all requests return.
    let broken =
        "eve deploy create --app api-canary --env dev --image acme/missing:v1 --deadline 5s --wait";
    assert_eq!(stage.bash(broken).await?.status.code(), Some(1));
    until_selector(&stage, own.clone()).await;
    stage.until("api", "alone", |found| shares(found) == split(100.0, 25, 0.0)).await?;
    answered(&stage, "api", "all of it", |found| {
        *found == BTreeMap::from([("v1.2.2".into(), REQUESTS)])
    })
    .await?;
    // It is mended, and takes its share again; it is deleted, and all return for good.
    stage
        .run("eve deploy create --app api-canary --env dev --image acme/api:v1.2.3 --deadline 150s --wait")
        .await?;
    until_selector(&stage, shared).await;
    stage.run("eve deploy delete --app api-canary --env dev").await?;
    assert_eq!(selector(&stage).await?, own, "requests return before the pods go");
    assert_eq!(stage.status("api").await?["traffic"], Value::Null);
    answered(&stage, "api", "all of it again", |found| {
        *found == BTreeMap::from([("v1.2.2".into(), REQUESTS)])
    })
    .await?;
    stage.run("eve deploy delete --app api --env dev").await?;
    stage.strike().await
}

/// Registers the cluster anew, with these flags.
async fn update(stage: &Stage, flags: &str) -> Result<()> {
    let kubeconfig = std::env::var("EVE_TEST_KUBECONFIG")?;
    let token = stage.token_file();
    let update = "eve cluster update --id local --kubeconfig";
    stage.run(&format!("{update} {kubeconfig} --token-file {token} {flags}")).await?;
    Ok(())
}

const GATEWAY: &str = "apis/gateway.networking.k8s.io/v1";
const INGRESS: &str = "apis/networking.k8s.io/v1";

/// Waits for something in the namespace, or for its absence.
async fn until_object(
    stage: &Stage,
    api: &str,
    rest: &str,
    mut right: impl FnMut(&Value) -> bool,
) -> Value {
    let path = format!("{api}/namespaces/{}/{rest}", stage.namespace);
    wait_for(&format!("{rest} to be as it should"), async || {
        let answer = stage.admin.get(&path).await.ok()?;
        let found = if answer.status == 404 { Value::Null } else { answer.json().ok()? };
        right(&found).then_some(found)
    })
    .await
}

#[tokio::test]
async fn hosts_lead_to_apps_through_whatever_the_cluster_has() -> Result<()> {
    let Some(stage) = Stage::bare("hosts").await? else { return Ok(()) };
    update(&stage, "--domain apps.example.com --ingress-class nginx").await?;
    let create = "eve env create --name dev --cluster local --namespace";
    stage.run(&format!("{create} {}", stage.namespace)).await?;
    stage.apps(&["api", "api-canary", "web"]).await?;
    let host = |name: &str| format!("{name}.dev.dev.apps.example.com");
    let deploy = "eve deploy create --env dev --cpu 5m --wait";
    let full = host("www");
    let api = format!("{deploy} --app api --image acme/api:v1.2.2");
    let made = stage.run(&format!("{api} --host api --host {full}")).await?;
    let made: Value = serde_json::from_str(&made.stdout)?;
    assert_eq!(made["urls"], json!([format!("http://{}", host("api")), format!("http://{full}")]));
    let ingress = stage.object(INGRESS, "ingresses/api").await?;
    assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
    assert_eq!(ingress["metadata"]["labels"]["app.kubernetes.io/managed-by"], "eve-horizon");
    let rules = ingress["spec"]["rules"].as_array().cloned().unwrap_or_default();
    let hosts: Vec<&Value> = rules.iter().map(|rule| &rule["host"]).collect();
    assert_eq!(hosts, [&json!(host("api")), &json!(full)]);
    let backend = &rules[0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(*backend, json!({ "name": "api", "port": { "number": 80 } }));

    // One host leads to one app; a new image keeps the hosts; other hosts take their place.
    let web = format!("{deploy} --app web --image acme/api:v1.2.2");
    let refused = stage.bash(&format!("{web} --host api")).await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stderr.contains("the host `api` leads to `api`"), "{refused}");
    stage.run(&format!("{deploy} --app api --image acme/api:v1.2.3 --host api")).await?;
    stage.run(&format!("{web} --host www")).await?;
    let refused = stage.bash("eve deploy rollback --app api --env dev --to-revision 1").await?;
    assert!(refused.stderr.contains("the host `www` leads to `web`"), "{refused}");

    // What somebody takes away comes back.
    let place = format!("{INGRESS}/namespaces/{}/ingresses/api", stage.namespace);
    ensure!(stage.admin.delete(&place).await?.is_success());
    until_object(&stage, INGRESS, "ingresses/api", Value::is_object).await;

    // The cluster gets a Gateway: apps that are there move over, and the Ingresses go.
    let gateway = "--domain apps.example.com --gateway eve-gateway/tenants --https";
    update(&stage, gateway).await?;
    let route = until_object(&stage, GATEWAY, "httproutes/api", Value::is_object).await;
    assert_eq!(route["spec"]["hostnames"], json!([host("api")]));
    let parent = &route["spec"]["parentRefs"][0];
    assert_eq!((&parent["namespace"], &parent["name"]), (&json!("eve-gateway"), &json!("tenants")));
    for app in ["api", "web"] {
        until_object(&stage, INGRESS, &format!("ingresses/{app}"), Value::is_null).await;
    }
    let policy = "networkpolicies/tenant-isolation";
    until_object(&stage, INGRESS, policy, |found| {
        found["spec"]["ingress"].to_string().contains("eve-gateway")
    })
    .await;
    let status = stage.status("api").await?;
    assert_eq!(status["urls"], json!([format!("https://{}", host("api"))]));

    // A canary has its share by weight, and none of the app's own name.
    let canary = format!("{deploy} --app api-canary --image acme/api:v1.2.3 --canary-of api");
    stage.run(&format!("{canary} --traffic 10 --replicas 2")).await?;
    let weights = |route: &Value| -> Vec<(String, i64)> {
        let backends = route["spec"]["rules"][0]["backendRefs"].as_array().into_iter().flatten();
        let backend = |it: &Value| {
            let name = it["name"].as_str().unwrap_or_default().to_owned();
            (name, it["weight"].as_i64().unwrap_or_default())
        };
        backends.map(backend).collect()
    };
    let wanted = [("api".to_owned(), 90), ("api-canary".to_owned(), 10)];
    until_object(&stage, GATEWAY, "httproutes/api", |it| weights(it) == wanted).await;
    let own = json!({ "app.kubernetes.io/name": "api", "eve-horizon.dev/app": "api" });
    assert_eq!(selector(&stage).await?, own);
    let status =
        stage.until("api-canary", "split", |found| shares(found) == split(90.0, 10, 10.0)).await?;
    assert_eq!(status["traffic"]["by"], "weights", "{status}");
    let canary =
        "eve deploy create --app api-canary --env dev --image acme/api:v1.2.3 --canary-of api";
    stage.run(&format!("{canary} --traffic 50 --wait")).await?;
    let half = [("api".to_owned(), 50), ("api-canary".to_owned(), 50)];
    until_object(&stage, GATEWAY, "httproutes/api", |it| weights(it) == half).await;
    assert_eq!(stage.status("api-canary").await?["replicas"]["desired"], 2);
    stage.run("eve deploy delete --app api-canary --env dev").await?;
    let route = stage.object(GATEWAY, "httproutes/api").await?;
    assert_eq!(weights(&route), [("api".to_owned(), 1)], "{route:#}");

    // Hosts are taken away, and go with the app.
    stage
        .run("eve deploy create --app api --env dev --image acme/api:v1.2.3 --no-host --wait")
        .await?;
    until_object(&stage, GATEWAY, "httproutes/api", Value::is_null).await;
    assert_eq!(stage.status("api").await?["urls"], json!([]));
    stage.run("eve deploy delete --app web --env dev").await?;
    until_object(&stage, GATEWAY, "httproutes/web", Value::is_null).await;

    // What others have made under the app's name is theirs.
    let theirs = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "web" },
        "spec": {
            "parentRefs": [{ "namespace": "eve-gateway", "name": "tenants" }],
            "hostnames": [host("theirs")],
            "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }],
        },
    });
    let place = format!("{GATEWAY}/namespaces/{}/httproutes/web", stage.namespace);
    ensure!(stage.admin.apply(&place, &theirs).await?.is_success());
    let refused = stage.bash(&format!("{web} --host web")).await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    let status = stage.status("web").await?;
    assert_eq!(status["reason"], "taken", "{status:#}");
    let kept = stage.admin.get(&place).await?.json()?;
    assert_eq!(kept["spec"]["hostnames"], json!([host("theirs")]));
    stage.strike().await
}
