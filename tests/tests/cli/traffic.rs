//! Hosts and canaries as members ask for them, right and wrong; no cluster answers here.

use anyhow::Result;
use eve_tests::{Output, Platform};
use serde_json::{Value, json};

/// A platform with a cluster that is not there, two environments in it, and apps.
async fn platform(flags: &str) -> Result<Platform> {
    let platform = Platform::start(&[]).await?;
    for line in [
        &*format!(
            "eve cluster add --id nowhere --provider eks --endpoint https://127.0.0.1:9 {flags}"
        ),
        "eve env create --name dev --cluster nowhere --no-wait",
        "eve env create --name prod --cluster nowhere --no-wait",
        "eve app create --name api",
        "eve app create --name next",
        "eve app create --name web",
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

async fn made(platform: &Platform, line: &str) -> Result<Value> {
    let output = platform.eve().bash(line).await?;
    assert!(output.status.success(), "{line}: {output}");
    Ok(serde_json::from_str(&output.stdout)?)
}

#[tokio::test]
async fn a_cluster_says_what_leads_to_hosts() -> Result<()> {
    let platform = platform("").await?;
    let eve = platform.eve();
    let deploy = "eve deploy create --app api --env dev --image a:1";
    refused(&eve.bash(&format!("{deploy} --host api")).await?, 1, &["no domain", "--domain"]);
    let update = "eve cluster update --id nowhere --provider eks --endpoint https://127.0.0.1:9";
    let updated = eve.bash(&format!("{update} --domain apps.example.com")).await?;
    assert!(updated.stdout.contains("apps.example.com"), "{updated}");
    let words = ["--gateway", "--ingress-class"];
    refused(&eve.bash(&format!("{deploy} --host api")).await?, 1, &words);
    for (flag, word) in [
        ("--gateway tenants", "NAMESPACE/NAME"),
        ("--gateway a/b/c", "gateway.name"),
        ("--gateway A/b", "gateway.namespace"),
        ("--ingress-class 'a b'", "ingress_class"),
    ] {
        refused(&eve.bash(&format!("{update} {flag}")).await?, 2, &[word]);
    }
    let gateway = format!("{update} --domain apps.example.com --gateway eve-gateway/tenants");
    let updated = eve.bash(&gateway).await?;
    assert!(updated.stdout.contains("\"tenants\""), "{updated}");
    let status = made(&platform, &format!("{deploy} --host api")).await?;
    assert_eq!(status["urls"], json!(["http://api.dev.dev.apps.example.com"]));
    // The domain moves, and hosts with it.
    eve.bash(&format!("{update} --domain example.org --gateway eve-gateway/tenants --https"))
        .await?;
    let status = made(&platform, "eve deploy status --app api --env dev").await?;
    assert_eq!(status["urls"], json!(["https://api.dev.dev.example.org"]));
    // It goes: what has hosts says so when it is deployed again, and what has none is free to be.
    eve.bash(update).await?;
    refused(&eve.bash(deploy).await?, 1, &["--domain"]);
    made(&platform, &format!("{deploy} --no-host")).await?;
    Ok(())
}

#[tokio::test]
async fn a_host_is_one_name_of_one_app() -> Result<()> {
    let platform = platform("--domain apps.example.com --ingress-class nginx").await?;
    let eve = platform.eve();
    let deploy =
        |app: &str, env: &str| format!("eve deploy create --app {app} --env {env} --image a:1");
    let dev = deploy("api", "dev");
    for (host, words) in [
        ("bank.example.com", &["a name alone", ".dev.dev.apps.example.com"][..]),
        ("api.prod.dev.apps.example.com", &[".dev.dev.apps.example.com"]),
        ("a.b.dev.dev.apps.example.com", &["a name alone"]),
        ("'*'", &["DNS label"]),
        ("API", &["DNS label"]),
        ("''", &["empty"]),
    ] {
        refused(&eve.bash(&format!("{dev} --host {host}")).await?, 2, words);
    }
    let many: Vec<String> = (0..17).map(|n| format!("--host h{n}")).collect();
    refused(&eve.bash(&format!("{dev} {}", many.join(" "))).await?, 2, &["at most 16"]);
    let both = "--host api --host api.dev.dev.apps.example.com --host www";
    let status = made(&platform, &format!("{dev} {both}")).await?;
    assert_eq!(status["config"]["hosts"], json!(["api", "www"]), "said twice, kept once");
    // Said again it is no other's; in another environment it is another host.
    made(&platform, &format!("{dev} --host api")).await?;
    made(&platform, &format!("{} --host api", deploy("web", "prod"))).await?;
    let web = deploy("web", "dev");
    refused(&eve.bash(&format!("{web} --host api")).await?, 1, &["leads to `api`"]);
    // Two that want it at once: one gets it.
    let lines = [format!("{web} --host www"), format!("{} --host www", deploy("next", "dev"))];
    let (one, other) = tokio::try_join!(eve.bash(&lines[0]), eve.bash(&lines[1]))?;
    let got = [&one, &other].iter().filter(|output| output.status.success()).count();
    assert_eq!(got, 1, "{one}\n{other}");
    // What was taken away is free.
    made(&platform, &format!("{dev} --no-host")).await?;
    let words = ["--no-host", "--host"];
    refused(&eve.bash(&format!("{dev} --no-host --host x")).await?, 2, &words);
    let status = made(&platform, "eve deploy status --app api --env dev").await?;
    assert_eq!(status["urls"], json!([]));
    made(&platform, &format!("{} --host api", deploy("next", "dev"))).await?;
    Ok(())
}

#[tokio::test]
async fn a_canary_has_one_main_app_beside_it() -> Result<()> {
    let platform = platform("").await?;
    let eve = platform.eve();
    let deploy =
        |app: &str, env: &str| format!("eve deploy create --app {app} --env {env} --image a:1");
    let next = deploy("next", "dev");
    let of = |app: &str, percent: &str| format!("{next} --canary-of {app} --traffic {percent}");
    refused(&eve.bash(&of("api", "10")).await?, 2, &["`api` is not deployed in `dev`"]);
    made(&platform, &deploy("api", "prod")).await?;
    refused(&eve.bash(&of("api", "10")).await?, 2, &["but in prod", "own environment"]);
    made(&platform, &format!("{} --replicas 9", deploy("api", "dev"))).await?;
    for (line, words) in [
        (of("next", "10"), &["canary of itself"][..]),
        (of("nothing", "10"), &["`nothing` is not deployed"]),
        (of("api", "0"), &["1 to 100"]),
        (of("api", "101"), &["1 to 100"]),
        (of("api", "-1"), &["1 to 100"]),
        (of("api", "ten"), &["--traffic"]),
        (of("'A B'", "10"), &["DNS label"]),
        (of("api", "100"), &["--replicas"]),
        (of("api", "99"), &["more than 100"]),
        (format!("{next} --canary-of api"), &["--traffic"]),
        (format!("{next} --traffic 10"), &["--canary-of"]),
    ] {
        refused(&eve.bash(&line).await?, 2, words);
    }
    // As many as come nearest to the share, unless it is said how many.
    for (percent, replicas) in [("10", 1), ("25", 3), ("50", 9), ("90", 81)] {
        let status = made(&platform, &of("api", percent)).await?;
        assert_eq!(status["replicas"]["desired"], replicas, "{percent}: {status}");
    }
    let status = made(&platform, &format!("{} --replicas 2", of("api", "100"))).await?;
    assert_eq!(status["replicas"]["desired"], 2, "{status}");
    let status = made(&platform, &next).await?;
    assert_eq!(status["config"]["canary"], json!({ "of": "api", "percent": 100 }), "{status}");
    assert_eq!(status["replicas"]["desired"], 2, "what is not said stays");

    let web = deploy("web", "dev");
    let second = |of: &str, percent: u32| format!("{web} --canary-of {of} --traffic {percent}");
    refused(&eve.bash(&second("api", 1)).await?, 2, &["100 % together", "`next` 100 %"]);
    refused(&eve.bash(&second("next", 1)).await?, 2, &["`next` is a canary itself, of `api`"]);
    made(&platform, &of("api", "60")).await?;
    made(&platform, &second("api", 40)).await?;
    let status = made(&platform, "eve deploy status --app api --env dev").await?;
    let asked: Vec<&Value> = status["traffic"]["shares"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| &it["asked"])
        .collect();
    assert_eq!(asked, [&json!(0), &json!(60), &json!(40)], "{status}");

    // The main app neither goes nor becomes a canary while it has some.
    let delete = |app: &str| format!("eve deploy delete --app {app} --env dev --no-wait");
    refused(&eve.bash(&delete("api")).await?, 1, &["`next` is a canary of `api`"]);
    made(&platform, &delete("web")).await?;
    let main = format!("{} --canary-of next --traffic 5", deploy("api", "dev"));
    refused(&eve.bash(&main).await?, 2, &["`next` is a canary itself"]);
    made(&platform, &deploy("web", "prod")).await?;
    made(&platform, &delete("next")).await?;
    // Of what is being deleted nobody becomes a canary.
    refused(&eve.bash(&second("next", 5)).await?, 2, &["`next` is not deployed in `dev`"]);
    made(&platform, &delete("api")).await?;
    refused(
        &eve.bash(&second("api", 5)).await?,
        2,
        &["`api` is not deployed in `dev`, but in prod"],
    );
    Ok(())
}

/// A canary is made while its main app is deleted, again and again: never are both done.
#[tokio::test]
async fn no_canary_outlives_its_main_app() -> Result<()> {
    let platform = platform("").await?;
    let eve = platform.eve();
    for round in 0..8 {
        made(&platform, "eve deploy create --app api --env dev --image a:1").await?;
        let canary =
            "eve deploy create --app next --env dev --image a:1 --canary-of api --traffic 10";
        let delete = "eve deploy delete --app api --env dev --no-wait";
        let (canary, delete) = tokio::try_join!(eve.bash(canary), eve.bash(delete))?;
        let done = [&canary, &delete].iter().filter(|output| output.status.success()).count();
        assert_eq!(done, 1, "round {round}: {canary}\n{delete}");
        if canary.status.success() {
            made(&platform, "eve deploy delete --app next --env dev --no-wait").await?;
        }
    }
    Ok(())
}
