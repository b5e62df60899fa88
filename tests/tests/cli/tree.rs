//! What became of a request and of everything below it: `request tree`, and what all of it used.

use eve_tests::Shared;
use serde_json::{Value, json};

#[tokio::test]
async fn a_tree_shows_who_created_whom_and_what_it_cost() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let corp = Shared::platform().await?.org().await?;
    // Its run creates as many requests, which run the default skill.
    let parent = acme
        .create(json!({ "worker_type": "general", "skill": "hostile",
                        "context": { "do": "create", "create": 30 } }))
        .await?;
    acme.until(parent, "completed").await?;
    let id = parent.to_string();

    let tree = acme.json(["request", "tree", &id]).await?;
    let requests = tree["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(requests.len(), 31, "{tree}");
    assert_eq!(requests[0]["id"], json!(parent), "{tree}");
    assert!(requests[1..].iter().all(|child| child["parent_request_id"] == json!(parent)));
    for child in requests.iter().skip(1) {
        let child = child["id"].as_str().unwrap_or_default().parse()?;
        acme.until(child, "completed").await?;
    }
    let got = acme.json(["request", "get", &id]).await?;
    assert_eq!((&got["usage"]["requests"], &got["usage"]["runs"]), (&json!(31), &json!(31)));
    assert_ne!(got["usage"]["cpu_us"], json!(0), "{got}");
    let tree = acme.json(["request", "tree", &id]).await?;
    assert_eq!(tree["usage"], got["usage"]);

    let drawn = acme.on_terminal(200, &format!("request tree {id}")).await?.stdout;
    let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
    assert!(lines[0].starts_with(&format!("{id} completed  hostile")), "{drawn}");
    assert!(lines[1].starts_with("├── "), "{drawn}");
    assert!(lines[21].starts_with("└── … 10 more: 10 completed"), "{drawn}");
    assert!(drawn.contains("In all: 31 requests, 31 runs, "), "{drawn}");
    let all = acme.on_terminal(200, &format!("request tree {id} --all")).await?.stdout;
    assert_eq!(all.lines().filter(|line| line.contains("── ")).count(), 30, "{all}");
    let shown = acme.on_terminal(200, &format!("request get {id}")).await?.stdout;
    assert!(shown.contains("31 requests, 31 runs, "), "{shown}");

    // A leaf is a tree too; what is not ours is none.
    let leaf = requests[1]["id"].as_str().unwrap_or_default();
    let tree: Value = acme.json(["request", "tree", leaf]).await?;
    assert_eq!(tree["requests"].as_array().map(Vec::len), Some(1), "{tree}");
    let theirs = corp.run(["request", "tree", &id]).await?;
    assert_eq!(theirs.code(), Some(3), "{theirs}");
    Ok(())
}
