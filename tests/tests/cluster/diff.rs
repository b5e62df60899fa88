//! What would change, and what has drifted, found by dry runs on a real API server.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use eve_tests::Output;
use serde_json::{Value, json};

use crate::stage::Stage;

fn objects(diff: &Value) -> Vec<(String, String)> {
    let objects = diff["objects"].as_array().into_iter().flatten();
    objects
        .map(|object| {
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            (text("kind"), text("name"))
        })
        .collect()
}

fn object<'a>(diff: &'a Value, kind: &str) -> &'a Value {
    let mut objects = diff["objects"].as_array().into_iter().flatten();
    objects.find(|object| object["kind"] == kind).unwrap_or(&Value::Null)
}

fn parsed(output: &Output) -> Result<Value> {
    Ok(serde_json::from_str(&output.stdout)?)
}

#[tokio::test]
async fn drift_is_shown_and_values_are_not() -> Result<()> {
    let Some(stage) = Stage::set("drift, shown").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage
        .run(
            r#"eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --replicas 2 \
                 --env-vars '{"API_KEY": "hush-hush"}' --wait"#,
        )
        .await?;
    let diff = "eve deploy diff --app api --env dev --exit-code";
    let nothing = stage.run(diff).await?;
    assert_eq!(parsed(&nothing)?["different"], false, "{nothing}");
    assert_eq!(
        stage.run(&format!("{diff} --output table")).await?.stdout.trim(),
        "Nothing differs."
    );

    let patch = async |rest: &str, body: Value| {
        let kind = "application/strategic-merge-patch+json";
        let place = format!("{rest}?fieldManager=somebody");
        let answer = stage.admin.send(http::Method::PATCH, &place, kind, Some(&body)).await?;
        ensure!(answer.is_success(), "{answer}");
        Ok(())
    };
    // A Service is put right at the next look only.
    let service = format!("api/v1/namespaces/{}/services/api", stage.namespace);
    patch(&service, json!({ "spec": { "selector": { "app": "other" } } })).await?;
    let output = stage.bash(diff).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    let found = parsed(&output)?;
    assert_eq!(objects(&found), [("Service".to_owned(), "api".to_owned())], "{found:#}");
    let of = object(&found, "Service");
    assert_eq!(of["before"]["spec"]["selector"]["app"], "other");
    assert_eq!(of["after"]["spec"]["selector"]["eve-horizon.dev/app"], "api");
    assert!(of["others"].to_string().contains("somebody"), "{of}");
    let shown = stage.run("eve deploy diff --app api --env dev --output table").await?.stdout;
    for line in ["--- a/Service/api", "+++ b/Service/api", "-    app: other"] {
        assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
    }

    // A Deployment is put right at once, unless it was so a moment ago: again and again until it is seen.
    let place = format!("apis/apps/v1/namespaces/{}/deployments/api", stage.namespace);
    let sneaked = json!({ "spec": { "template": { "spec": { "containers": [{
        "name": "app", "env": [{ "name": "SNEAKED", "value": "sneaked-in" }],
    }] } } } });
    let begun = Instant::now();
    let output = loop {
        patch(&place, sneaked.clone()).await?;
        let output = stage.bash(diff).await?;
        if objects(&parsed(&output)?).iter().any(|(kind, _)| kind == "Deployment") {
            break output;
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "it is never seen: {output}");
    };
    let found = parsed(&output)?;
    let of = object(&found, "Deployment");
    let env = |side: &str| of[side]["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    assert!(env("before").contains("SNEAKED") && !env("after").contains("SNEAKED"), "{of:#}");
    assert!(of["others"].to_string().contains("somebody"), "{of:#}");
    for secret in ["sneaked-in", "hush-hush", "aHVzaC1odXNo"] {
        assert!(!output.stdout.contains(secret), "{secret}: {output}");
    }
    stage.strike().await
}

#[tokio::test]
async fn a_change_is_shown_before_it_is_made() -> Result<()> {
    let Some(stage) = Stage::set("changes, shown").await? else { return Ok(()) };
    stage.apps(&["api", "new", "api-canary"]).await?;
    stage
        .run(
            r#"eve deploy create --app api --env dev --image acme/api:v1.2.3 --cpu 5m --replicas 1 \
                 --env-vars '{"KEPT": "hush-kept", "CHANGED": "hush-one", "GONE": "hush-gone"}' --wait"#,
        )
        .await?;
    let before =
        stage.object("apis/apps/v1", "deployments/api").await?["metadata"]["resourceVersion"]
            .clone();
    let output = stage
        .run(
            r#"eve deploy diff --app api --env dev --image acme/api:v1.2.2 --replicas 3 --health-path /healthz \
                 --env-vars '{"KEPT": "hush-kept", "CHANGED": "hush-two", "NEW": "hush-new"}'"#,
        )
        .await?;
    let found = parsed(&output)?;
    assert_eq!(found["different"], true);
    assert_eq!(
        found["settings"],
        json!([
            { "name": "image", "before": "acme/api:v1.2.3", "after": "acme/api:v1.2.2" },
            { "name": "replicas", "before": 1, "after": 3 },
            { "name": "settings.health_path", "before": null, "after": "/healthz" },
        ])
    );
    let variables = json!({ "added": ["NEW"], "removed": ["GONE"], "changed": ["CHANGED"] });
    assert_eq!(found["variables"], variables);
    let kinds: Vec<String> = objects(&found).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["Deployment", "Secret", "PodDisruptionBudget"], "{found:#}");
    let of = object(&found, "Deployment");
    assert_eq!(
        (&of["before"]["spec"]["replicas"], &of["after"]["spec"]["replicas"]),
        (&json!(1), &json!(3))
    );
    let probe = &of["after"]["spec"]["template"]["spec"]["containers"][0]["readinessProbe"];
    assert_eq!(probe["httpGet"]["path"], "/healthz");
    let names = object(&found, "Secret")["after"]["data"].clone();
    assert_eq!(names, json!({ "CHANGED": "(hidden)", "KEPT": "(hidden)", "NEW": "(hidden)" }));
    assert!(!output.stdout.contains("hush") && !output.stdout.contains("aHVza"), "{output}");

    // What was said is all that would change; the rest is as it is.
    let same = stage
        .run("eve deploy diff --app api --env dev --image acme/api:v1.2.3 --exit-code")
        .await?;
    assert_eq!(parsed(&same)?["different"], false, "{same}");

    // What was never deployed is new from top to bottom.
    let new = stage.run("eve deploy diff --app new --env dev --image acme/api:v1.2.3").await?;
    let new = parsed(&new)?;
    assert_eq!(
        (&new["revision"], &object(&new, "Deployment")["before"]),
        (&Value::Null, &Value::Null)
    );
    let missing = stage.bash("eve deploy diff --app new --env dev").await?;
    assert_eq!(missing.status.code(), Some(3), "{missing}");
    let refused = stage.bash("eve deploy diff --app new --env dev --replicas 2").await?;
    assert_eq!(refused.status.code(), Some(2), "{refused}");
    let refused = stage.bash("eve deploy diff --app api --env dev --host api").await?;
    assert!(refused.stderr.contains("--domain"), "{refused}");

    // Whoever may only look may ask, but not what values would change: they could guess.
    let scoped = ["token", "create", "ro", "--scope", "deployments:read"];
    let token = stage.eve().json(scoped).await?;
    let secret = token["token"].as_str().unwrap_or_default();
    let look = format!("EVE_TOKEN={secret} eve deploy diff --app api --env dev");
    stage.run(&look).await?;
    stage.run(&format!("{look} --replicas 3")).await?;
    let guess = stage.bash(&format!("{look} --env-vars '{{\"GONE\": \"hush-gone\"}}'")).await?;
    assert_eq!(guess.status.code(), Some(4), "{guess}");
    assert!(guess.stderr.contains("the right to deploy"), "{guess}");

    // What the cluster would refuse is said beforehand.
    let kubeconfig = std::env::var("EVE_TEST_KUBECONFIG")?;
    let update = format!(
        "eve cluster update --id local --kubeconfig {kubeconfig} --token-file {} --domain apps.example.com \
         --ingress-class internal",
        stage.token_file()
    );
    stage.run(&update).await?;
    let begun = Instant::now();
    loop {
        let output = stage.run("eve deploy diff --app api --env dev --host api").await?;
        let found = parsed(&output)?;
        let refused = object(&found, "Ingress")["refused"].as_str().unwrap_or_default();
        if refused.contains("ingress-classes") {
            break;
        }
        // Until the namespace has its suffix.
        ensure!(begun.elapsed() < Duration::from_secs(60), "{found:#}");
    }

    // Nothing of all that was done.
    let after = stage.object("apis/apps/v1", "deployments/api").await?;
    assert_eq!(after["metadata"]["resourceVersion"], before);
    assert_eq!(stage.status("api").await?["revision"], 1);
    let secrets = stage.object("api/v1", "secrets").await?;
    assert_eq!(secrets["items"].as_array().map(Vec::len), Some(1), "{secrets:#}");
    stage.strike().await
}
