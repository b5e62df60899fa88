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

#[tokio::test]
async fn a_root_sums_the_tokens_and_the_cost_of_all_below_it() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    // Three orchestrators of four leaves each; both kinds, and the root, say what they have used.
    let leaf = json!({ "do": "spend", "tokens": 1_000, "cost": 0.25 });
    let middle = json!({ "do": "waiting", "create": 4, "skill": "hostile", "context": leaf,
                         "tokens": 20, "cost": 0.5 });
    let root = acme
        .create(json!({ "worker_type": "general", "skill": "hostile",
                        "context": { "do": "waiting", "create": 3, "skill": "hostile",
                                     "context": middle, "tokens": 7 } }))
        .await?;
    acme.until(root, "completed").await?;
    let id = root.to_string();

    let (tokens, cost) = (json!(12 * 1_000 + 3 * 20 + 7), json!(12.0 * 0.25 + 3.0 * 0.5));
    let got = acme.json(["request", "get", &id]).await?;
    assert_eq!((&got["usage"]["tokens_used"], &got["usage"]["cost"]), (&tokens, &cost), "{got}");
    let tree = acme.json(["request", "tree", &id]).await?;
    assert_eq!(tree["usage"], got["usage"]);

    // What each of them has used itself, and what is below one of them.
    let requests = tree["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asked: Vec<&Value> =
        requests.iter().filter(|request| request["wake_up"] == json!(false)).collect();
    assert_eq!(asked.len(), 16, "{tree}");
    let own: u64 =
        requests.iter().filter_map(|request| request["usage"]["tokens_used"].as_u64()).sum();
    assert_eq!(json!(own), tokens, "{tree}");
    let child = asked.iter().find(|request| request["parent_request_id"] == json!(root));
    let child = child.and_then(|child| child["id"].as_str()).unwrap_or_default();
    let got = acme.json(["request", "get", child]).await?;
    assert_eq!(
        (&got["usage"]["tokens_used"], &got["usage"]["cost"]),
        (&json!(4_020), &json!(1.5)),
        "{got}"
    );

    // A run that says nothing of either leaves them open.
    let silent = acme.create(json!({ "worker_type": "general", "skill": "noop" })).await?;
    acme.until(silent, "completed").await?;
    let got = acme.json(["request", "get", &silent.to_string()]).await?;
    assert_eq!((&got["usage"]["tokens_used"], &got["usage"]["cost"]), (&Value::Null, &Value::Null));
    let shown = acme.on_terminal(200, &format!("request get {id}")).await?.stdout;
    assert!(shown.contains("12067 tokens") || shown.contains("12,067 tokens"), "{shown}");
    Ok(())
}
