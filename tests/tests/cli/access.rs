//! Who may do what: organisations, members, tokens, worker types, contexts; and the exit codes.

use eve_tests::{Eve, Shared};
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn an_organisation_is_made_and_acted_for() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let admin = platform.admin();
    let slug = format!("made-{}", Uuid::new_v4().simple());
    let org = admin.json(["org", "create", &slug, "--name", "Acme Corporation"]).await?;
    assert_eq!((org["slug"].as_str(), org["role"].as_str()), (Some(&*slug), Some("owner")));
    let taken = admin.run(["org", "create", &slug]).await?;
    assert_eq!(taken.code(), Some(1), "{taken}");

    // Whoever has made it acts for it with the same token; without --org, for the token's own.
    let me = admin.json(["--org", &slug, "whoami"]).await?;
    assert_eq!(me["org"]["slug"], json!(slug), "{me}");
    assert_eq!(admin.json(["whoami"]).await?["org"]["slug"], "dev");
    let created =
        admin.json(["--org", &slug, "token", "create", "ci", "--expires-in", "90d"]).await?;
    let ci = Eve::without_database()?
        .env("EVE_URL", platform.url())
        .env("EVE_TOKEN", created["token"].as_str().expect("a token"));
    let me = ci.json(["whoami"]).await?;
    assert_eq!(
        (me["org"]["slug"].as_str(), me["org"]["role"].as_str()),
        (Some(&*slug), Some("member"))
    );
    assert_eq!(me["orgs"].as_array().map(Vec::len), Some(1), "an ordinary token has one: {me}");
    assert_eq!(me["platform_admin"], false, "{me}");
    let id = ci.run(["request", "create", "--worker-type", "nobody"]).await?.id()?;
    let elsewhere = admin.run(["request", "get", &id.to_string()]).await?;
    assert_eq!(elsewhere.code(), Some(3), "{elsewhere}");
    let there = admin.json(["--org", &slug, "request", "get", &id.to_string()]).await?;
    assert_eq!(there["id"], json!(id));
    Ok(())
}

#[tokio::test]
async fn members_come_and_go() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let other = Uuid::new_v4().to_string();
    let member = acme.json(["member", "set", &other, "--role", "admin"]).await?;
    assert_eq!(
        (member["user_id"].as_str(), member["role"].as_str()),
        (Some(&*other), Some("admin"))
    );
    let list = acme.json(["member", "list"]).await?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    assert!(acme.run(["member", "remove", &other]).await?.status.success());
    assert_eq!(acme.run(["member", "remove", &other]).await?.code(), Some(3));
    let last = acme.run(["member", "remove", &acme.org.owner.to_string()]).await?;
    assert_eq!(last.code(), Some(1), "{last}");
    assert!(last.stderr.contains("last owner"), "{last}");
    Ok(())
}

#[tokio::test]
async fn tokens_are_shown_once_and_revoked_at_once() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let acme = platform.org().await?;
    let create = ["token", "create", "reader", "--scope", "requests:read", "--expires-in", "1d"];
    let created = acme.json(create).await?;
    let secret = created["token"].as_str().expect("a token").to_owned();
    let list = acme.run(["token", "list"]).await?;
    assert!(!list.stdout.contains(&secret), "{list}");
    let reader = platform.as_token(acme.org.clone(), &secret)?;
    assert!(reader.run(["request", "list"]).await?.status.success());
    for denied in [
        &["request", "create", "--worker-type", "nobody"][..],
        &["token", "list"],
        &["member", "list", "--org", "dev"],
        &["org", "create", "mine"],
        &["worker-type", "delete", "general"],
        &["skill", "delete", "echo"],
    ] {
        let output = reader.run(denied).await?;
        let expected = if denied.contains(&"dev") { 3 } else { 4 };
        assert_eq!(output.code(), Some(expected), "{denied:?}: {output}");
    }
    let id = created["id"].as_str().expect("an id");
    assert!(acme.run(["token", "revoke", id]).await?.status.success());
    let revoked = reader.run(["request", "list"]).await?;
    assert_eq!(revoked.code(), Some(4), "{revoked}");
    assert!(revoked.stderr.contains("revoked"), "{revoked}");
    assert_eq!(acme.run(["token", "revoke", id]).await?.code(), Some(3));
    Ok(())
}

#[tokio::test]
async fn worker_types_are_set_and_deleted() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (admin, acme) = (platform.admin(), platform.org().await?);
    let id = format!("t{}", Uuid::new_v4().simple());
    let made = admin
        .json(["worker-type", "set", &id, "--default-skill", "noop", "--grant", "queue"])
        .await?;
    assert_eq!((made["name"].as_str(), made["grants"].clone()), (Some(&*id), json!(["queue"])));
    let changed = admin.json(["worker-type", "set", &id, "--limits", r#"{"cpu_ms": 100}"#]).await?;
    assert_eq!(changed["default_skill"], "noop", "what is not named stays: {changed}");
    assert_eq!(changed["limits"], json!({ "cpu_ms": 100 }));
    let shown = acme.json(["worker-type", "show", &id]).await?;
    assert_eq!(shown, changed, "members may look");
    let list = acme.json(["worker-type", "list"]).await?;
    assert!(list["items"].as_array().is_some_and(|items| items.contains(&changed)));
    assert_eq!(acme.run(["worker-type", "set", &id, "--name", "mine"]).await?.code(), Some(4));

    for limits in
        [r#"{"cpu": 1}"#, r#"{"cpu_ms": "1 s"}"#, r#"{"wall_ms": 0}"#, r#"{"memory_bytes": -1}"#]
    {
        let refused = admin.run(["worker-type", "set", &id, "--limits", limits]).await?;
        assert_eq!(refused.code(), Some(2), "{refused}");
        assert!(refused.stderr.contains("limits: `"), "{refused}");
    }

    acme.create(json!({ "worker_type": id })).await?;
    let used = admin.run(["worker-type", "delete", &id]).await?;
    assert_eq!(used.code(), Some(1), "{used}");
    let request =
        acme.json(["request", "list", "--worker-type", &id]).await?["items"][0]["id"].clone();
    let request = request.as_str().expect("an id");
    assert!(acme.run(["request", "cancel", request]).await?.status.success());
    assert!(admin.run(["worker-type", "delete", &id]).await?.status.success());
    assert_eq!(admin.run(["worker-type", "show", &id]).await?.code(), Some(3));
    Ok(())
}

#[tokio::test]
async fn logging_in_makes_a_context() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let acme = platform.org().await?;
    let user = Eve::without_database()?;
    let nothing = user.run(["whoami"]).await?;
    assert_eq!(nothing.code(), Some(2), "{nothing}");
    assert!(nothing.stderr.contains("eve dev"), "{nothing}");
    let script = format!(
        "printf '%s\\n' '{}' | eve login --url {} --name here",
        acme.org.token,
        platform.url()
    );
    let me = user.bash(&script).await?.json()?;
    assert_eq!(me["org"]["slug"], json!(acme.org.slug));
    assert_eq!(user.json(["whoami"]).await?["org"]["slug"], json!(acme.org.slug));
    let list = user.run(["context", "list"]).await?;
    assert!(!list.stdout.contains(&acme.org.token), "{list}");
    let shown = user.json(["context", "show"]).await?;
    assert_eq!((shown["name"].as_str(), shown["current"].as_bool()), (Some("here"), Some(true)));
    // The context's token goes nowhere else.
    let stranger = user.run(["--url", "http://127.0.0.1:1", "whoami"]).await?;
    assert_eq!(stranger.code(), Some(5), "{stranger}");
    assert_eq!(user.run(["context", "use", "nope"]).await?.code(), Some(2));
    assert!(user.run(["context", "delete", "here"]).await?.status.success());
    assert_eq!(user.run(["whoami"]).await?.code(), Some(2));
    let wrong = format!("echo wrong | eve login --url {} --name here", platform.url());
    assert_eq!(user.bash(&wrong).await?.code(), Some(4));
    assert_eq!(user.json(["context", "list"]).await?["items"], json!([]), "nothing is kept");
    Ok(())
}

#[tokio::test]
async fn every_exit_code_has_its_meaning() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let id = Uuid::now_v7().to_string();
    for (command, code) in [
        (&["request", "list"][..], 0),
        (&["--help"], 0),
        (
            &[
                "request",
                "create",
                "--worker-type",
                "general",
                "--skill",
                "hostile",
                "--context",
                r#"{"do": "fail-permanent"}"#,
                "--wait",
            ],
            1,
        ),
        (&["bogus"], 2),
        (&["request", "get"], 2),
        (&["request", "get", "not-a-uuid"], 2),
        (&["request", "get", ""], 2),
        (&["request", "list", "--status", "done"], 2),
        (&["request", "create", "--worker-type", "general", "--context", "{"], 2),
        (&["request", "create", "--worker-type", "nope"], 2),
        (&["request", "get", &id], 3),
        (&["result", "get", &id], 3),
        (&["request", "logs", &id], 3),
        (&["request", "blockers", &id], 3),
        (&["request", "cancel", &id], 3),
        (&["request", "retry", &id], 3),
        (&["skill", "show", "nope"], 3),
        (&["--org", "nope", "request", "list"], 3),
        (&["--token", "eve_nonsense", "request", "list"], 4),
        (&["--url", "http://127.0.0.1:1", "request", "list"], 5),
    ] {
        let output = acme.run(command).await?;
        assert_eq!(output.code(), Some(code), "{command:?}: {output}");
        if code > 1 {
            assert!(output.stdout.is_empty(), "{command:?}: {output}");
            assert!(output.stderr.starts_with("error: "), "{command:?}: {output}");
        }
        let mut json = vec!["-o", "json"];
        json.extend(command);
        if code > 2 {
            let error: Value = serde_json::from_str(&acme.run(json).await?.stderr)?;
            assert!(error["title"].is_string(), "{command:?}: {error}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn completions_are_scripts() -> anyhow::Result<()> {
    let eve = Eve::without_database()?;
    let script = eve
        .bash(
            "eve completions bash > s; bash -n s; rm s; eve completions zsh; eve completions fish",
        )
        .await?;
    assert!(script.status.success(), "{script}");
    assert!(script.stdout.contains("worker-type"), "{script}");
    Ok(())
}
