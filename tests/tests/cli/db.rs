//! What skills keep: `eve db`, and what it takes for a skill to reach a schema.

use anyhow::{Context, Result};
use eve_tests::{Member, Shared, wait_for};
use serde_json::{Value, json};

/// An anthology of the platform's skill: its request.
async fn anthology(member: &Member, title: &str) -> Result<String> {
    let context = json!({ "title": title, "texts": ["one two", "three"] }).to_string();
    let args = ["request", "create", "--worker-type", "general", "--skill", "anthology"];
    let made = member.json([&args[..], &["--context", &context]].concat()).await?;
    Ok(made["id"].as_str().context("an id")?.to_owned())
}

/// The same, accepted by its editor.
async fn accepted(member: &Member, title: &str) -> Result<Value> {
    let id = anthology(member, title).await?;
    let question = wait_for("the editor's question", async || {
        let open = member.json(["hitl", "list", "--request", &id]).await.ok()?;
        Some(open["items"][0]["id"].as_str()?.to_owned())
    });
    member.json(["hitl", "respond", &question.await, "yes"]).await?;
    member.run(["request", "watch", &id]).await?;
    member.json(["result", "get", &id]).await
}

#[tokio::test]
async fn a_schema_is_reached_by_those_whom_its_organisation_lets() -> Result<()> {
    let shared = Shared::platform().await?;
    let (member, other) = (shared.org().await?, shared.org().await?);
    let shelf = ["--schema", "shelf"];

    // The platform's skill names it; that does not yet make it this organisation's wish.
    let id = anthology(&member, "Too early").await?;
    let watched = member.run(["request", "watch", &id]).await?;
    assert_eq!(watched.status.code(), Some(1), "{watched}");
    let result = member.json(["result", "get", &id]).await?;
    let said = result["error"]["message"].as_str().context("a message")?;
    assert!(said.contains("eve skill approve anthology --schema shelf"), "{said}");
    assert_eq!(member.json(["db", "list"]).await?["items"], json!([]), "nothing was made for it");

    let approved = member.json(["skill", "approve", "anthology", "--schema", "shelf"]).await?;
    assert!(approved.to_string().contains("shelf"), "{approved}");
    let result = accepted(&member, "Sea").await?;
    assert_eq!(result["data"]["shelf"], json!({ "titles": 1, "words": 3 }), "{result}");

    // Its state is a query away.
    let listed = member.json(["db", "list"]).await?;
    assert_eq!(listed["items"][0]["name"], "shelf");
    assert_eq!(listed["items"][0]["migration"], 1);
    let migrations = member.json([&["db", "migrations"], &shelf[..]].concat()).await?;
    assert_eq!(migrations["items"][0]["name"], "anthologies");
    assert_eq!(migrations["items"][0]["status"], "applied");
    let execute = async |sql: &str, values: &[&str]| {
        member.run([&["db", "execute"], &shelf[..], &[sql], values].concat()).await
    };
    let uuid = "0190b1a2-0000-7000-8000-000000000001";
    let insert = "INSERT INTO anthologies (request_id, title, words) VALUES ($1, $2, $3)";
    let inserted = execute(insert, &[uuid, "Hills", "7"]).await?;
    assert_eq!(inserted.json()?["affected"], 1, "{inserted}");
    // As a shell leaves a statement in double quotes.
    let swallowed = "INSERT INTO anthologies (request_id, title, words) VALUES (, , )";
    let inserted = execute(swallowed, &[&uuid.replace("01", "02"), "Woods", "2"]).await?;
    assert!(inserted.stderr.contains("were put back"), "{inserted}");
    assert_eq!(inserted.json()?["affected"], 1, "{inserted}");
    let query = "SELECT title, words FROM anthologies WHERE words > $1 ORDER BY title";
    let found = member.json([&["db", "query"], &shelf[..], &[query, "2"]].concat()).await?;
    assert_eq!(found["rows"], json!([["Hills", 7], ["Sea", 3]]));
    // Within the quotes of the terminal's own shell.
    // Options may come after values, and numbers may be negative.
    let args = ["db", "query", "--schema", "shelf", "SELECT $1::int + 1", "-3", "-o", "json"];
    assert_eq!(member.json(args).await?["rows"], json!([[-2]]));
    let shown = member.on_terminal(80, "db query --schema shelf \"TABLE anthologies\"").await?;
    assert!(shown.stdout.contains("Hills") && shown.stdout.contains("title"), "{shown}");

    // Everything that is refused says why.
    for (sql, values, code, said) in [
        (insert, &[uuid, "Hills", "7"][..], 2, "SQLSTATE 23505"),
        ("SELEC 1", &[], 2, "SQLSTATE 42601"),
        ("SELECT $1", &[], 2, "takes 1 parameters, and 0 were given"),
        ("SELECT title FROM anthologies WHERE words = ", &["1"], 2, "quote it with '…'"),
        ("COMMIT", &[], 2, "not allowed"),
        ("DROP TABLE anthologies", &[], 2, "belongs into a migration"),
        ("SELECT pg_sleep(0); SELECT 1", &[], 2, "one statement a call"),
        ("SELECT * FROM pg_stat_activity", &[], 2, "SQLSTATE 42501"),
    ] {
        let refused = execute(sql, values).await?;
        assert_eq!(refused.status.code(), Some(code), "{sql}: {refused}");
        assert!(refused.stderr.contains(said), "{sql}: {said}: {refused}");
    }
    for (args, code) in [
        (["db", "query", "--schema", "nowhere", "SELECT 1"], 3),
        (["db", "query", "--schema", "Sh-elf", "SELECT 1"], 2),
    ] {
        assert_eq!(member.run(args).await?.status.code(), Some(code), "{args:?}");
    }
    let elsewhere = other.run([&["db", "query"], &shelf[..], &["SELECT 1"]].concat()).await?;
    assert_eq!(elsewhere.status.code(), Some(3), "{elsewhere}");

    // psql, as the schema's own role.
    let count = ["--", "-Atc", "SELECT count(*) FROM anthologies"];
    let shell = member.run([&["db", "shell"], &shelf[..], &count].concat()).await?;
    assert_eq!(shell.stdout.trim(), "3", "{shell}");
    let failed = ["--", "-c", "SELECT * FROM pg_authid"];
    let shell = member.run([&["db", "shell"], &shelf[..], &failed].concat()).await?;
    assert_eq!(shell.status.code(), Some(1), "{shell}");
    assert!(shell.stderr.contains("permission denied"), "{shell}");
    let elsewhere = other.run([&["db", "shell"], &shelf[..]].concat()).await?;
    assert_eq!(elsewhere.status.code(), Some(3), "{elsewhere}");

    // Withdrawn is withdrawn, and what was kept stays.
    let withdraw = ["skill", "approve", "anthology", "--schema", "shelf", "--withdraw"];
    let withdrawn = member.run(withdraw).await?;
    assert!(withdrawn.stderr.contains("may not reach shelf any more"), "{withdrawn}");
    let id = anthology(&member, "Too late").await?;
    assert_eq!(member.run(["request", "watch", &id]).await?.status.code(), Some(1));
    let found = member.json([&["db", "query"], &shelf[..], &[query, "2"]].concat()).await?;
    assert_eq!(found["rows"].as_array().map(Vec::len), Some(2));
    Ok(())
}
