//! Secrets in pods: ours, and those that External Secrets would bring. It is not installed here: the test
//! does what it does, and is told the same.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use eve_tests::{Output, wait_for};
use serde_json::{Value, json};

use crate::stage::Stage;

/// The names of the Secrets in the namespace.
async fn secrets(stage: &Stage) -> Result<Vec<String>> {
    let secrets = stage.object("api/v1", "secrets").await?;
    let names = secrets["items"].as_array().into_iter().flatten();
    Ok(names.filter_map(|secret| secret["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

async fn generation(stage: &Stage) -> Result<Value> {
    let object = stage.object("apis/apps/v1", "deployments/api").await?;
    Ok(object["metadata"]["generation"].clone())
}

/// `eve kubectl` with a token that is made so; none without a kubectl.
async fn kubectl(stage: &Stage, token: &str, arguments: &str) -> Result<Option<Output>> {
    let Ok(kubectl) = std::env::var("EVE_TEST_KUBECTL") else { return Ok(None) };
    let name = uuid::Uuid::new_v4();
    let made = stage.run(&format!("eve token create t-{name} {token}")).await?.json()?;
    let token = made["token"].as_str().context("a token")?;
    let line =
        format!("EVE_KUBECTL='{kubectl}' EVE_TOKEN={token} eve kubectl --env dev {arguments}");
    stage.bash(&line).await.map(Some)
}

#[tokio::test]
async fn pods_get_secrets_and_new_ones_when_those_are_set() -> Result<()> {
    let Some(stage) = Stage::set("secrets").await? else { return Ok(()) };
    stage.apps(&["api"]).await?;
    stage.run("echo postgres://one | eve secret set DATABASE_URL --env dev").await?;
    stage.run("printf hush-one | eve secret set TOKEN --env dev").await?;
    let deploy = "eve deploy create --app api --env dev --cpu 5m --image";
    let references = "--secret DATABASE_URL --secret API_TOKEN=TOKEN";
    let variables = r#"--env-vars '{"COLOUR": "blue"}'"#;
    stage.run(&format!("{deploy} acme/api:v1.2.2 {references} {variables} --wait")).await?;
    let env = stage.answer("api").await?["env"].clone();
    assert_eq!(env["DATABASE_URL"], "postgres://one", "{env}");
    assert_eq!((&env["API_TOKEN"], &env["COLOUR"]), (&json!("hush-one"), &json!("blue")), "{env}");
    assert!(env["TOKEN"].is_null(), "{env}");

    // Nobody reads them through kubectl, whatever may be read beside them.
    let names = secrets(&stage).await?;
    assert_eq!(names.len(), 2, "{names:?}");
    let secret = names.iter().find(|name| name.contains("-secrets-")).context("a Secret")?;
    for token in ["--role owner", "--scope deployments:read"] {
        for arguments in [
            "get secrets -o yaml".to_owned(),
            format!("get secret {secret} -o yaml"),
            format!("describe secret {secret}"),
            format!("get --raw /api/v1/namespaces/{}/secrets/{secret}", stage.namespace),
            format!("annotate secret {secret} a=b -o yaml"),
            format!("patch secret {secret} -p '{{}}' -o yaml"),
            format!("delete secret {secret}"),
        ] {
            let Some(output) = kubectl(&stage, token, &arguments).await? else { continue };
            assert!(!output.status.success(), "{token}: {arguments}: {output}");
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(!said.contains("hush") && !said.contains("aHVzaC1vbmU"), "{said}");
        }
        if let Some(output) = kubectl(&stage, token, "get pods -o yaml").await? {
            assert!(output.status.success(), "{output}");
            assert!(!output.stdout.contains("hush"), "{output}");
        }
    }

    // Setting one is a revision of what refers to it, with new pods of the same image.
    let set = stage.run("printf hush-two | eve secret set TOKEN --env dev").await?.json()?;
    assert_eq!(set["restarted"], json!(["api"]), "{set}");
    let settled = stage.settled("api", 2).await?;
    assert_eq!(settled["status"], "running", "{settled:#}");
    let answer = stage.answer("api").await?;
    assert_eq!(
        (&answer["env"]["API_TOKEN"], &answer["version"]),
        (&json!("hush-two"), &json!("v1.2.2"))
    );
    let object = stage.object("apis/apps/v1", "deployments/api").await?;
    let image = object["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    assert!(image.is_some_and(|image| image.contains("@sha256:")), "{image:?}");
    let history = stage.run("eve deploy history --app api --env dev").await?.json()?;
    assert_eq!(history["items"][0]["cause"], "secret TOKEN, version 2", "{history:#}");
    wait_for("what nothing uses to go", async || {
        let left = secrets(&stage).await.ok()?;
        (left.len() == 2 && !left.contains(secret)).then_some(())
    })
    .await;

    // One that is not to restart anything does not, even when all is applied anew.
    stage.run("printf hush-three | eve secret set TOKEN --env dev --no-restart").await?;
    let before = generation(&stage).await?;
    let service = format!("api/v1/namespaces/{}/services/api", stage.namespace);
    ensure!(stage.admin.delete(&service).await?.is_success());
    wait_for("the Service to be back", async || {
        stage.admin.get(&service).await.ok().filter(|answer| answer.is_success()).map(drop)
    })
    .await;
    stage.run("eve deploy scale --app api --env dev --replicas 2 --wait").await?;
    assert_eq!(stage.answer("api").await?["env"]["API_TOKEN"], "hush-two");
    let after = generation(&stage).await?;
    assert_eq!(after.as_i64(), before.as_i64().map(|before| before + 1), "only the scale");

    // A rollback goes back to the image, and takes the values of now.
    stage.run(&format!("{deploy} acme/api:v1.2.3 --wait")).await?;
    let answer = stage.answer("api").await?;
    assert_eq!(
        (&answer["version"], &answer["env"]["API_TOKEN"]),
        (&json!("v1.2.3"), &json!("hush-three"))
    );
    stage.run("printf hush-four | eve secret set TOKEN --env dev --no-restart").await?;
    stage.run("eve deploy rollback --app api --env dev --to-version v1.2.2 --wait").await?;
    let answer = stage.answer("api").await?;
    assert_eq!(
        (&answer["version"], &answer["env"]["API_TOKEN"]),
        (&json!("v1.2.2"), &json!("hush-four"))
    );

    stage.run("eve deploy delete --app api --env dev").await?;
    assert_eq!(secrets(&stage).await?, Vec::<String>::new());
    stage.strike().await
}

/// With `tail` in an image: whatever is in a file, it logs.
#[tokio::test]
async fn a_file_has_what_was_set() -> Result<()> {
    let Some(stage) = Stage::set("files of secrets").await? else { return Ok(()) };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let image =
        format!("{}/scripts/cluster image acme/tail:test $(command -v tail)=/tail", root.display());
    stage.run(&image).await?;
    stage.apps(&["api"]).await?;
    stage.run("printf 'one\\ntwo\\n' | eve secret set TLS_KEY --env dev --from-file -").await?;
    let deploy =
        "eve deploy create --app api --env dev --image acme/tail:test --cpu 5m --run-as-user 1000";
    let file = "--secret-file /etc/tls/key.pem=TLS_KEY";
    stage.run(&format!("{deploy} {file} --wait -- /tail -n +1 -f /etc/tls/key.pem")).await?;
    let logs = stage.run("eve deploy logs --app api --env dev --tail 10").await?.stdout;
    assert!(logs.contains("one") && logs.contains("two"), "{logs}");
    // Nobody writes there, and everybody in the container reads.
    let object = stage.object("apis/apps/v1", "deployments/api").await?;
    let pod = &object["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["volumeMounts"][0]["readOnly"], true, "{pod:#}");
    stage.strike().await
}

/// An environment whose secrets are in a store.
async fn with_store(test: &str, store: &str) -> Result<Option<Stage>> {
    let Some(stage) = Stage::bare(test).await? else { return Ok(None) };
    let create = format!(
        "eve env create --name dev --cluster local --namespace {} --secret-store {store}",
        stage.namespace
    );
    let made = stage.run(&create).await?.json()?;
    ensure!(made["status"] == "ready", "{made}");
    stage.apps(&["api"]).await?;
    Ok(Some(stage))
}

/// The ExternalSecrets in the namespace.
async fn externals(stage: &Stage) -> Result<Vec<Value>> {
    let found = stage.object("apis/external-secrets.io/v1", "externalsecrets").await?;
    Ok(found["items"].as_array().cloned().unwrap_or_default())
}

/// Says of an ExternalSecret what External Secrets would.
async fn say(stage: &Stage, external: &Value, status: &str, message: &str) -> Result<()> {
    let name = external["metadata"]["name"].as_str().context("a name")?;
    let place = format!(
        "apis/external-secrets.io/v1/namespaces/{}/externalsecrets/{name}",
        stage.namespace
    );
    let body = json!({ "status": { "conditions": [{
        "type": "Ready", "status": status, "message": message,
        "reason": if status == "True" { "SecretSynced" } else { "SecretSyncedError" },
    }] } });
    let kind = "application/merge-patch+json";
    let said = stage.admin.send(http::Method::PATCH, &place, kind, Some(&body)).await?;
    ensure!(said.is_success(), "{said}");
    Ok(())
}

/// Makes the Secret of an ExternalSecret as External Secrets would: owned by it, with its labels.
async fn bring(stage: &Stage, external: &Value, value: &str) -> Result<()> {
    let metadata = &external["metadata"];
    let data = external["spec"]["data"].as_array().into_iter().flatten();
    let data: serde_json::Map<String, Value> = data
        .filter_map(|one| Some((one["secretKey"].as_str()?.to_owned(), json!(value))))
        .collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": external["spec"]["target"]["name"], "labels": metadata["labels"],
            "ownerReferences": [{
                "apiVersion": external["apiVersion"], "kind": "ExternalSecret",
                "name": metadata["name"], "uid": metadata["uid"], "controller": true,
            }],
        },
        "stringData": data,
    });
    let place = format!("api/v1/namespaces/{}/secrets", stage.namespace);
    let made = stage.admin.create(&place, &secret).await?;
    ensure!(made.is_success(), "{made}");
    say(stage, external, "True", "secret synced").await
}

#[tokio::test]
async fn what_is_in_a_store_is_waited_for() -> Result<()> {
    let Some(stage) = with_store("a store", "eve-tenants").await? else { return Ok(()) };
    let namespace =
        stage.admin.get(&format!("api/v1/namespaces/{}", stage.namespace)).await?.json()?;
    let prefix = "eve-horizon/dev/dev/";
    assert_eq!(namespace["metadata"]["annotations"]["eve-horizon.dev/secret-prefix"], prefix);
    let set = stage.bash("echo hush | eve secret set DATABASE_URL --env dev").await?;
    assert_eq!(set.status.code(), Some(1), "{set}");
    assert!(set.stderr.contains("eve-horizon/dev/dev/DATABASE_URL"), "{set}");

    let deploy = "eve deploy create --app api --env dev --cpu 5m --image";
    stage.run(&format!("{deploy} acme/api:v1.2.2 --secret DATABASE_URL")).await?;
    let waits = async |word: &str| {
        stage
            .until("api", word, |found| {
                found["reason"] == "secret_missing"
                    && found["message"].as_str().is_some_and(|message| message.contains(word))
            })
            .await
    };
    waits("has not looked").await?;
    let found = externals(&stage).await?;
    ensure!(found.len() == 1, "{found:#?}");
    let first = &found[0];
    assert_eq!(first["metadata"]["labels"]["eve-horizon.dev/app"], "api", "{first:#}");
    assert_eq!(
        first["spec"]["secretStoreRef"],
        json!({"kind": "ClusterSecretStore", "name": "eve-tenants"})
    );
    let key = json!({"key": format!("{prefix}DATABASE_URL")});
    assert_eq!(first["spec"]["data"][0]["remoteRef"], key, "{first:#}");
    say(&stage, first, "False", "could not get secret data from provider").await?;
    let waiting = waits("could not get secret data").await?;
    assert_eq!(waiting["status"], "deploying", "{waiting:#}");
    let message = waiting["message"].as_str().unwrap_or_default();
    assert!(message.contains("eve-horizon/dev/dev/DATABASE_URL"), "{message}");
    bring(&stage, first, "postgres://store").await?;
    assert_eq!(stage.settled("api", 1).await?["status"], "running");
    assert_eq!(stage.answer("api").await?["env"]["DATABASE_URL"], "postgres://store");

    // Pods that are made anew get what is in the store by then, and nobody else's go first.
    stage.run(&format!("{deploy} acme/api:v1.2.3")).await?;
    let second = wait_for("another ExternalSecret", async || {
        let found = externals(&stage).await.ok()?;
        found.into_iter().find(|one| one["metadata"]["name"] != first["metadata"]["name"])
    })
    .await;
    assert_eq!(stage.answer("api").await?["version"], "v1.2.2", "what ran goes on");
    bring(&stage, &second, "postgres://rotated").await?;
    assert_eq!(stage.settled("api", 2).await?["status"], "running");
    let answer = stage.answer("api").await?;
    assert_eq!(
        (&answer["version"], &answer["env"]["DATABASE_URL"]),
        (&json!("v1.2.3"), &json!("postgres://rotated"))
    );
    wait_for("the first one to go", async || {
        (externals(&stage).await.ok()?.len() == 1).then_some(())
    })
    .await;

    // Nobody but its reconciler changes it.
    let name = second["metadata"]["name"].as_str().context("a name")?;
    for arguments in
        [format!("delete externalsecret {name}"), format!("annotate externalsecret {name} a=b")]
    {
        if let Some(output) = kubectl(&stage, "--role owner", &arguments).await? {
            assert!(output.stderr.contains("managed by Eve Horizon"), "{arguments}: {output}");
        }
    }
    stage.run("eve deploy delete --app api --env dev").await?;
    assert_eq!(externals(&stage).await?, Vec::<Value>::new());
    assert_eq!(secrets(&stage).await?, Vec::<String>::new());
    stage.strike().await
}

#[tokio::test]
async fn a_store_that_is_not_the_tenants_is_refused_by_the_cluster() -> Result<()> {
    let Some(stage) = with_store("a foreign store", "platform").await? else { return Ok(()) };
    let check = stage.bash("eve cluster check local").await?;
    assert_eq!(check.status.code(), Some(1), "{check}");
    assert!(check.stdout.contains("`platform` among the secret-stores"), "{check}");
    let deploy = "eve deploy create --app api --env dev --image acme/api:v1.2.3 --secret A --wait";
    let output = stage.bash(deploy).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    let status: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!((&status["status"], &status["reason"]), (&json!("failed"), &json!("admission")));
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("secret-stores"), "{message}");
    assert_eq!(externals(&stage).await?, Vec::<Value>::new());
    // Nor is a prefix that is not below the cluster's root.
    let create = format!(
        "eve env create --name other --cluster local --namespace {}-x --secret-store eve-tenants \
         --secret-prefix platform/",
        stage.namespace
    );
    let refused = stage.bash(&create).await?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.stdout.contains("secret prefix must lie below"), "{refused}");
    stage.run("eve env delete other").await?;
    stage.strike().await
}
