//! Secrets of environments as members set them, right and wrong; no cluster answers here.

use anyhow::{Context as _, Result, ensure};
use eve_tests::{Database, Eve, Output, Platform};
use futures::future::try_join_all;
use serde_json::{Value, json};

/// A platform with a cluster that is not there, an environment in it, and an app.
async fn furnish(platform: &Platform) -> Result<()> {
    for line in [
        "eve cluster add --id nowhere --provider eks --endpoint https://127.0.0.1:9",
        "eve env create --name dev --cluster nowhere --no-wait",
        "eve app create --name api",
    ] {
        run(platform, line).await?;
    }
    Ok(())
}

async fn platform() -> Result<Platform> {
    let platform = Platform::start(&[]).await?;
    furnish(&platform).await?;
    Ok(platform)
}

async fn run(platform: &Platform, line: &str) -> Result<Output> {
    let output = platform.eve().bash(line).await?;
    ensure!(output.status.success(), "{line}: {output}");
    Ok(output)
}

async fn answer(platform: &Platform, line: &str) -> Result<Value> {
    run(platform, line).await?.json()
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

const DEPLOY: &str = "eve deploy create --app api --env dev --image acme/api:v1";

async fn history(platform: &Platform) -> Result<Vec<Value>> {
    let history = platform.get("/v1/envs/dev/deployments/api/history").await?;
    Ok(history["items"].as_array().cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_secret_is_set_referred_to_and_never_shown() -> Result<()> {
    let mut platform = platform().await?;
    let set = |value: &str, flags: &str| {
        format!("printf '{value}' | eve secret set API_KEY --env dev {flags}")
    };
    let made = answer(&platform, &set("hush-1\\n", "")).await?;
    let nobody = json!({
        "name": "API_KEY", "version": 1, "changed": true, "restarted": [], "left": [],
    });
    assert_eq!(made, nobody);
    // The line break was not the value's.
    let again = answer(&platform, &set("hush-1", "")).await?;
    assert_eq!((&again["version"], &again["changed"]), (&json!(1), &json!(false)), "{again}");
    let exact =
        "f=$(mktemp); printf 'hush-1\\n' >$f; eve secret set API_KEY --env dev --from-file $f";
    assert_eq!(answer(&platform, exact).await?["version"], 2, "a file is taken as it is");
    assert_eq!(answer(&platform, &set("hush-1\\n", "--from-file -")).await?["changed"], false);

    let references = "--secret API_KEY --secret TOKEN=API_KEY --secret-file /run/secrets/k=API_KEY";
    let deployed = answer(&platform, &format!("{DEPLOY} {references}")).await?;
    assert_eq!(
        deployed["config"]["secrets"],
        json!([
            {"name": "API_KEY"}, {"name": "API_KEY", "variable": "TOKEN"},
            {"name": "API_KEY", "file": "/run/secrets/k"},
        ])
    );
    assert_eq!(deployed["config"]["secret_versions"], json!({"API_KEY": 2}));
    let listed = answer(&platform, "eve secret list --env dev").await?;
    assert_eq!(listed["items"][0]["apps"], json!([{"app": "api", "version": 2}]), "{listed}");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));

    // Whoever refers to it gets the new value, and everybody is told why.
    let rolled = answer(&platform, &set("hush-3", "")).await?;
    assert_eq!(rolled["restarted"], json!(["api"]), "{rolled}");
    let latest = history(&platform).await?.remove(0);
    assert_eq!((&latest["revision"], &latest["kind"]), (&json!(2), &json!("updated")));
    assert_eq!(latest["cause"], "secret API_KEY, version 3");
    let events = platform.get("/v1/envs/dev/deployments/api/events").await?;
    assert_eq!(events["items"][0]["details"]["cause"], latest["cause"], "{events:#}");
    assert!(events["items"][0]["actor"].is_object(), "{events:#}");

    // Unless they are not to be restarted: then until something else makes their pods anew.
    let left = answer(&platform, &set("hush-4", "--no-restart")).await?;
    assert_eq!((&left["restarted"], &left["left"]), (&json!([]), &json!(["api"])));
    run(&platform, "eve deploy scale --app api --env dev --replicas 2").await?;
    let listed = answer(&platform, "eve secret list --env dev").await?;
    assert_eq!(listed["items"][0]["version"], 4);
    assert_eq!(listed["items"][0]["apps"], json!([{"app": "api", "version": 3}]), "{listed}");
    let caught_up = answer(&platform, &set("hush-4", "")).await?;
    assert_eq!(
        (&caught_up["changed"], &caught_up["restarted"]),
        (&json!(false), &json!(["api"])),
        "it is the same value, and they do not have it"
    );
    let status = platform.get("/v1/envs/dev/deployments/api").await?;
    assert_eq!(status["config"]["secret_versions"], json!({"API_KEY": 4}));
    assert_eq!(status["replicas"]["desired"], 2);

    // Another image keeps what is referred to; what is named is all of it.
    let kept =
        answer(&platform, "eve deploy create --app api --env dev --image acme/api:v2").await?;
    assert_eq!(kept["config"]["secrets"].as_array().map(Vec::len), Some(3));
    let one = answer(&platform, &format!("{DEPLOY} --secret API_KEY")).await?;
    assert_eq!(one["config"]["secrets"], json!([{"name": "API_KEY"}]));

    let delete = "eve secret delete API_KEY --env dev";
    refused(&platform.eve().bash(delete).await?, 1, &["api refer to API_KEY", "--force"]);
    run(&platform, &format!("{delete} --force")).await?;
    let events = platform.get("/v1/envs/dev/deployments/api/events").await?;
    assert_eq!(events["items"][0]["event_type"], "secret_deleted", "{events:#}");
    // It keeps what it has, and cannot be deployed with it any more.
    run(&platform, "eve deploy scale --app api --env dev --replicas 3").await?;
    let missing = ["no secret API_KEY in `dev`", "eve secret set API_KEY --env dev"];
    refused(&platform.eve().bash(DEPLOY).await?, 2, &missing);
    let set_again = answer(&platform, &set("hush-4", "")).await?;
    assert_eq!((&set_again["version"], &set_again["restarted"]), (&json!(1), &json!([])));
    let other = answer(&platform, &set("hush-5", "")).await?;
    assert_eq!(other["restarted"], json!(["api"]));
    run(&platform, &format!("{DEPLOY} --no-secrets")).await?;
    run(&platform, delete).await?;

    // Nothing of it is to be read anywhere.
    let leaks: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM eve.deployment_revisions r WHERE r::text LIKE '%hush%')
              + (SELECT count(*) FROM eve.deployment_events e WHERE e::text LIKE '%hush%')
              + (SELECT count(*) FROM eve.deployments d WHERE d::text LIKE '%hush%')
              + (SELECT count(*) FROM eve.environment_secrets s WHERE s::text LIKE '%hush%')
              + (SELECT count(*) FROM eve.audit_log a WHERE a::text LIKE '%hush%')",
    )
    .fetch_one(platform.pool())
    .await?;
    assert_eq!(leaks, 0);
    let audited: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM eve.audit_log WHERE action IN ('secret.set', 'secret.delete')",
    )
    .fetch_one(platform.pool())
    .await?;
    assert_eq!(audited, 11);
    let log = platform.servers()[0].process().log();
    assert!(!log.is_empty() && !log.contains("hush"), "{log}");
    // What is gone everywhere is nowhere.
    let copies: i64 = sqlx::query_scalar("SELECT count(secrets) FROM eve.deployments")
        .fetch_one(platform.pool())
        .await?;
    assert_eq!(copies, 0);
    Ok(())
}

#[tokio::test]
async fn what_is_no_secret_is_refused_and_changes_nothing() -> Result<()> {
    let platform = platform().await?;
    let eve = platform.eve();
    let long = "x".repeat(64);
    for (line, code, words) in [
        ("eve secret set API_KEY hush --env dev </dev/null".to_owned(), 2, &["command line"][..]),
        ("eve secret set API_KEY=hush --env dev </dev/null".into(), 2, &["--from-file"]),
        ("eve secret set API_KEY --env dev </dev/null".into(), 2, &["empty", "standard input"]),
        ("echo | eve secret set API_KEY --env dev".into(), 2, &["empty"]),
        ("printf 'a\\0b' | eve secret set API_KEY --env dev".into(), 2, &["not text", "base64"]),
        ("printf '\\377' | eve secret set API_KEY --env dev".into(), 2, &["not text"]),
        ("head -c 65537 /dev/zero | tr '\\0' x | eve secret set A --env dev".into(), 2, &["65536"]),
        ("yes | head -c 99999999 | eve secret set A --env dev".into(), 2, &["65536"]),
        ("eve secret set API_KEY --env dev --from-file /nowhere".into(), 2, &["/nowhere"]),
        ("echo a | eve secret set API-KEY --env dev".into(), 2, &["API-KEY", "digit"]),
        ("echo a | eve secret set 1A --env dev".into(), 2, &["1A"]),
        (format!("echo a | eve secret set {long} --env dev"), 2, &["63"]),
        ("echo a | eve secret set A --env gone".into(), 3, &["environment `gone`"]),
        ("eve secret list --env gone".into(), 3, &["environment `gone`"]),
        ("eve secret delete A --env gone".into(), 3, &["environment `gone`"]),
        ("eve secret delete A --env dev".into(), 3, &["secret `A in dev`"]),
        ("eve secret delete A/../B --env dev".into(), 3, &["secret"]),
        (format!("{DEPLOY} --secret NOPE"), 2, &["no secret NOPE in `dev`", "eve secret set NOPE"]),
        (format!("{DEPLOY} --secret PORT"), 2, &["PORT", "platform's"]),
        (format!("{DEPLOY} --secret A-B"), 2, &["A-B"]),
        (format!("{DEPLOY} --secret-file /etc/passwd=A"), 2, &["/etc/passwd", "system's"]),
        (format!("{DEPLOY} --secret-file etc=A"), 2, &["absolute"]),
        (format!("{DEPLOY} --secret-file /a"), 2, &["PATH=NAME"]),
        (format!("{DEPLOY} --env-vars '{{\"A\": \"b\"}}' --secret A"), 2, &["A", "env_vars"]),
    ] {
        let output = eve.bash(&line).await?;
        refused(&output, code, words);
        assert!(!output.stderr.contains("hush"), "{line}: {output}");
    }
    let listed = platform.get("/v1/envs/dev/secrets").await?;
    assert_eq!(listed, json!({"items": [], "store": null}));
    assert_eq!(platform.get("/v1/deployments?deleted=true").await?["items"], json!([]));

    // There may be a hundred.
    sqlx::query(
        "INSERT INTO eve.environment_secrets (org_id, environment_id, name, value, created_by, updated_by)
         SELECT org_id, id, 'S' || n, '{}', '{}', '{}'
           FROM eve.environments, generate_series(1, 99) AS n WHERE name = 'dev'",
    )
    .execute(platform.pool())
    .await?;
    run(&platform, "echo a | eve secret set A --env dev").await?;
    let full = eve.bash("echo a | eve secret set B --env dev").await?;
    refused(&full, 1, &["100 secrets", "eve secret delete"]);
    run(&platform, "echo b | eve secret set A --env dev").await?;
    // What does not open any more is said to whoever needs it, and is set again.
    refused(&eve.bash(&format!("{DEPLOY} --secret S1")).await?, 1, &["S1", "set it again"]);
    run(&platform, "echo a | eve secret set S1 --env dev").await?;
    run(&platform, &format!("{DEPLOY} --secret S1")).await?;
    // All that an app refers to has to fit into one Secret.
    let many = "head -c 65536 /dev/zero | tr '\\0' x >$TMPDIR/x; for n in $(seq 1 13); do
                    eve secret set S$n --env dev --from-file $TMPDIR/x >/dev/null || exit; done";
    run(&platform, &format!("export TMPDIR=$(mktemp -d); {many}")).await?;
    let flags =
        |count: usize| -> String { (1..=count).map(|n| format!(" --secret S{n}")).collect() };
    run(&platform, &format!("{DEPLOY} {}", flags(12))).await?;
    let output = eve.bash(&format!("{DEPLOY} {}", flags(13))).await?;
    refused(&output, 2, &["786432 bytes", "851968"]);
    Ok(())
}

#[tokio::test]
async fn who_may_deploy_may_set_secrets_and_members_see_names() -> Result<()> {
    let platform = platform().await?;
    let create = "eve env create --name prod --cluster nowhere --no-wait --config '{\"deployers\": \"admin\"}'";
    run(&platform, create).await?;
    run(&platform, "echo hush | eve secret set A --env prod").await?;
    let token = async |flags: &str| -> Result<String> {
        let made = answer(&platform, &format!("eve token create {flags}")).await?;
        Ok(made["token"].as_str().context("a token")?.to_owned())
    };
    let member = token("ci --role member").await?;
    let reader = token("reader --scope deployments:read").await?;
    let other = token("other --scope requests:write").await?;
    for (holder, line, code, word) in [
        (&member, "echo a | eve secret set A --env dev", 0, ""),
        (&member, "eve secret list --env prod", 0, ""),
        (&member, "echo a | eve secret set A --env prod", 4, "takes the role admin"),
        (&member, "eve secret delete A --env prod", 4, "takes the role admin"),
        (&reader, "eve secret list --env prod", 0, ""),
        (&reader, "echo a | eve secret set A --env dev", 4, "deployments:write"),
        (&reader, "eve secret delete A --env dev", 4, "deployments:write"),
        (&other, "eve secret list --env dev", 4, "deployments:read"),
    ] {
        let output = platform.eve().bash(&format!("export EVE_TOKEN={holder}; {line}")).await?;
        refused(&output, code, &[word]);
        assert!(!output.stdout.contains("hush"), "{output}");
    }
    // Another organisation's are not there.
    run(&platform, "eve org create corp --name Corp").await?;
    let theirs = "eve --org corp secret list --env dev";
    refused(&platform.eve().bash(theirs).await?, 3, &["environment `dev`"]);
    // With the environment go its secrets.
    let delete = "DELETE FROM eve.environments WHERE name = 'prod'";
    sqlx::query(delete).execute(platform.pool()).await?;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM eve.environment_secrets")
        .fetch_one(platform.pool())
        .await?;
    assert_eq!(left, 1);
    Ok(())
}

/// Sets beside each other and beside deployments: whatever the order, what is deployed has the last value.
#[tokio::test]
async fn nobody_is_left_with_an_old_value() -> Result<()> {
    let platform = platform().await?;
    run(&platform, "eve app create --name worker").await?;
    run(&platform, "echo 0 | eve secret set A --env dev && echo 0 | eve secret set B --env dev")
        .await?;
    for app in ["api", "worker"] {
        let line = format!(
            "eve deploy create --app {app} --env dev --image acme/api:v1 --secret A --secret B"
        );
        run(&platform, &line).await?;
    }
    for round in 1..=3 {
        let mut lines = Vec::new();
        for n in 0..4 {
            for name in ["A", "B"] {
                lines.push(format!("echo {round}-{n} | eve secret set {name} --env dev"));
            }
            for app in ["api", "worker"] {
                lines
                    .push(format!("eve deploy create --app {app} --env dev --image acme/api:v{n}"));
            }
        }
        try_join_all(lines.iter().map(|line| run(&platform, line))).await?;
        let listed = platform.get("/v1/envs/dev/secrets").await?;
        for secret in listed["items"].as_array().context("secrets")? {
            let version = &secret["version"];
            let all = json!([
                {"app": "api", "version": version}, {"app": "worker", "version": version},
            ]);
            assert_eq!(secret["apps"], all, "{listed:#}");
        }
    }
    // Each revision once, without a gap.
    let revisions = history(&platform).await?;
    let numbers: Vec<i64> = revisions.iter().filter_map(|one| one["revision"].as_i64()).collect();
    let latest = numbers.first().copied().unwrap_or_default();
    assert_eq!(numbers, (1..=latest).rev().collect::<Vec<_>>());
    Ok(())
}

const FIRST: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SECOND: &str = "HRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEAHh8=";

#[tokio::test]
async fn sealing_keys_take_turns() -> Result<()> {
    let database = Database::fresh().await?;
    let with = async |key: &str, old: Option<&str>| {
        let mut eve = Eve::on(&database)?.env("EVE_SEALING_KEY", key);
        if let Some(old) = old {
            eve = eve.env("EVE_OLD_SEALING_KEYS", old);
        }
        Platform::of(eve, database.url(), &[]).await
    };
    let before = with(FIRST, None).await?;
    furnish(&before).await?;
    for name in ["A", "B"] {
        run(&before, &format!("echo hush | eve secret set {name} --env dev")).await?;
    }
    run(&before, &format!("{DEPLOY} --secret A --secret B")).await?;
    drop(before);

    // The new key seals, the old one opens: nobody is restarted, whatever is set anew.
    let between = with(SECOND, Some(FIRST)).await?;
    let same = answer(&between, "echo hush | eve secret set A --env dev").await?;
    assert_eq!((&same["changed"], &same["restarted"]), (&json!(false), &json!([])), "{same}");
    run(&between, "eve deploy scale --app api --env dev --replicas 2").await?;
    drop(between);

    // Without the old one, what was not set anew is said to be lost, and can be.
    let after = with(SECOND, None).await?;
    let words = ["the secret B cannot be opened; set it again", "EVE_OLD_SEALING_KEYS"];
    refused(&after.eve().bash(DEPLOY).await?, 1, &words);
    refused(&after.eve().bash("echo new | eve secret set A --env dev").await?, 1, &words);
    let reset = answer(&after, "echo hush | eve secret set B --env dev").await?;
    assert_eq!((&reset["version"], &reset["restarted"]), (&json!(2), &json!(["api"])), "{reset}");
    run(&after, DEPLOY).await?;
    Ok(())
}

#[tokio::test]
async fn a_store_elsewhere_is_named_with_its_keys() -> Result<()> {
    let platform = platform().await?;
    let eve = platform.eve();
    let create = "eve env create --name ext --cluster nowhere --no-wait --secret-store";
    // Whoever administers an organisation does not say what is read with the platform's rights.
    let token =
        answer(&platform, "eve token create ci --role admin --scope deployments:write").await?;
    let token = token["token"].as_str().context("a token")?;
    let output = eve.bash(&format!("EVE_TOKEN={token} {create} eve-tenants")).await?;
    refused(&output, 4, &["secret_store", "administrators of the platform"]);
    refused(&eve.bash(&format!("{create} Not_One")).await?, 2, &["ClusterSecretStore"]);
    for prefix in ["x", "../", "/", "X/", "a b/"] {
        let output = eve.bash(&format!("{create} eve-tenants --secret-prefix '{prefix}'")).await?;
        refused(&output, 2, &["prefix", "eve-horizon/acme/prod/"]);
    }
    let made = answer(&platform, &format!("{create} eve-tenants")).await?;
    let store = json!({"name": "eve-tenants", "prefix": "eve-horizon/dev/ext/"});
    assert_eq!(made["config"]["secret_store"], store);

    let set = eve.bash("echo hush | eve secret set API_KEY --env ext").await?;
    refused(&set, 1, &["store `eve-tenants`", "eve-horizon/dev/ext/API_KEY"]);
    assert!(!set.stderr.contains("hush"), "{set}");
    let delete = eve.bash("eve secret delete API_KEY --env ext").await?;
    refused(&delete, 1, &["eve-horizon/dev/ext/API_KEY"]);
    let deploy = "eve deploy create --app api --env ext --image acme/api:v1 --secret API_KEY";
    let deployed = answer(&platform, deploy).await?;
    assert!(deployed["config"]["secret_versions"].is_null(), "{deployed}");
    let listed = answer(&platform, "eve secret list --env ext").await?;
    assert_eq!(
        listed,
        json!({
            "items": [{
                "name": "API_KEY", "version": null, "key": "eve-horizon/dev/ext/API_KEY",
                "apps": [{"app": "api", "version": null}], "created_at": null, "updated_at": null,
            }],
            "store": store,
        })
    );
    Ok(())
}
