//! Lists, watching, logs, results; JSON for programs and tables for people.

use std::collections::HashSet;

use eve_tests::Shared;
use serde_json::{Value, json};
use uuid::Uuid;

fn ids(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn lists_are_filtered_and_paged() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    let many: Vec<Value> = (0..230)
        .map(|n| {
            json!({ "worker_type": "nobody", "skill": if n % 2 == 0 { "noop" } else { "echo" },
                    "context": { "n": n, "tags": ["a", n % 5], "deep": { "env": "dev" } },
                    "delay_ms": if n % 10 == 0 { json!(3_600_000) } else { Value::Null } })
        })
        .collect();
    let created = acme.create_all(json!(many)).await?;
    corp.create(json!({ "worker_type": "nobody", "context": { "deep": { "env": "dev" } } }))
        .await?;

    // Page after page, newest first, each once.
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut command = vec!["request", "list", "--limit", "100"];
        if let Some(cursor) = &cursor {
            command.extend(["--cursor", cursor]);
        }
        let page = acme.json(command).await?;
        seen.extend(ids(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let expected: Vec<String> = created.iter().rev().map(Uuid::to_string).collect();
    assert_eq!(seen, expected);
    let all = acme.json(["request", "list", "--all"]).await?;
    assert_eq!(ids(&all), expected);
    assert_eq!(all["next_cursor"], Value::Null);

    let count = async |filter: &[&str]| -> anyhow::Result<usize> {
        let command = ["request", "list", "--all"].iter().chain(filter);
        Ok(ids(&acme.json(command).await?).len())
    };
    assert_eq!(count(&["--status", "scheduled"]).await?, 23);
    assert_eq!(count(&["--status", "pending,scheduled"]).await?, 230);
    assert_eq!(count(&["--status", "pending", "--status", "scheduled"]).await?, 230);
    assert_eq!(count(&["--status", "completed,failed"]).await?, 0);
    assert_eq!(count(&["--skill", "echo"]).await?, 115);
    assert_eq!(count(&["--worker-type", "general"]).await?, 0);
    assert_eq!(count(&["--context-filter", r#"{"deep": {"env": "dev"}}"#]).await?, 230);
    assert_eq!(count(&["--context-filter", r#"{"n": 7}"#]).await?, 1);
    assert_eq!(count(&["--context-filter", r#"{"tags": [3]}"#, "--skill", "noop"]).await?, 23);
    assert_eq!(count(&["--root", &created[4].to_string()]).await?, 1);
    assert_eq!(count(&["--parent", &created[4].to_string()]).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_request_is_watched_until_it_has_ended() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let ids = acme
        .create_all(json!([
            { "worker_type": "nobody" },
            { "worker_type": "general", "blocked_by": [{ "id": "#0", "on_failure": "run" }] },
        ]))
        .await?;
    let last = &*ids[1].to_string();

    let path = format!("/v1/requests/{last}/watch");
    let mut stream = acme.call(reqwest::Method::GET, &path).send().await?;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().await? {
        if text.is_empty() {
            // It is blocked, and stays so until now.
            acme.json(["request", "cancel", &ids[0].to_string()]).await?;
        }
        text.push_str(std::str::from_utf8(&chunk)?);
    }
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let statuses: Vec<&str> = events.iter().filter_map(|event| event["status"].as_str()).collect();
    assert_eq!(
        (statuses.first(), statuses.last()),
        (Some(&"blocked"), Some(&"completed")),
        "{text}"
    );
    assert_eq!(statuses.iter().collect::<HashSet<_>>().len(), statuses.len(), "{text}");

    // Several at the command line: one JSON line for each change, and 1 unless all completed.
    let failing = acme
        .create(json!({ "worker_type": "general", "skill": "hostile", "context": { "do": "panic" }, "max_attempts": 1 }))
        .await?
        .to_string();
    let watched = acme.run(["request", "watch", last, &failing, last]).await?;
    assert_eq!(watched.code(), Some(1), "{watched}");
    let ends: Vec<Value> =
        watched.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let failed = ends.iter().find(|end| end["status"] == "failed").expect("the one that fails");
    assert_eq!(
        (failed["id"].as_str(), failed["error"]["code"].as_str()),
        (Some(&*failing), Some("trapped"))
    );
    assert_eq!(ends.iter().filter(|end| end["id"] == last).count(), 1);
    let unknown = acme.run(["request", "watch", &Uuid::now_v7().to_string()]).await?;
    assert_eq!(unknown.code(), Some(3), "{unknown}");
    Ok(())
}

#[tokio::test]
async fn logs_are_shown_and_followed() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let order = |context: Value| json!({ "worker_type": "general", "skill": "hostile", "context": context });
    let id = acme.create(order(json!({ "do": "log", "lines": 3 }))).await?.to_string();
    let followed = acme.run(["request", "logs", "-f", &id]).await?;
    assert_eq!(followed.code(), Some(0), "{followed}");
    let lines: Vec<Value> =
        followed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let messages: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(messages, ["line 1 of a flood", "line 2 of a flood", "line 3 of a flood"]);
    assert_eq!(lines[2]["fields"], json!([["n", "3"]]));
    let logs = acme.json(["request", "logs", &id]).await?;
    assert_eq!(logs["runs"][0]["lines"].as_array().map(Vec::len), Some(3), "{logs}");

    // A flood is cut, and that is said.
    let flood = acme.create(order(json!({ "do": "log", "lines": 1_500 }))).await?;
    acme.until(flood, "completed").await?;
    let logs = acme.json(["request", "logs", &flood.to_string()]).await?;
    assert_eq!(logs["runs"][0]["lines"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(logs["runs"][0]["dropped"], 500);
    let text = acme.run(["request", "logs", &flood.to_string(), "-o", "table"]).await?;
    assert!(
        text.stdout.ends_with("(500 more lines were not kept: the run logged too much)\n"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn results_are_for_programs_and_for_people() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let id = acme
        .create(json!({ "worker_type": "general", "prompt": "a \u{1b}[2Jtext", "context": { "a": [1, null, 0.5] } }))
        .await?;
    acme.until(id, "completed").await?;
    let id = id.to_string();
    let result = acme.json(["result", "get", &id]).await?;
    assert_eq!(result["data"]["context"], json!({ "a": [1, null, 0.5] }));
    assert_eq!(
        (result["status"].as_str(), result["attempt"].as_i64()),
        (Some("completed"), Some(1))
    );
    let text = acme.run(["result", "get", &id, "--output", "table"]).await?;
    assert!(text.stdout.contains("status:       completed\n"), "{text}");
    assert!(!text.stdout.contains('\u{1b}'), "what a guest writes cannot steer a terminal: {text}");

    let open = acme.create(json!({ "worker_type": "nobody" })).await?.to_string();
    let refused = acme.run(["result", "get", &open]).await?;
    assert_eq!(refused.code(), Some(3), "{refused}");
    assert!(refused.stderr.contains("has not ended yet"), "{refused}");
    let refused = acme.run(["-o", "json", "result", "get", &open]).await?;
    let problem: Value = serde_json::from_str(&refused.stderr)?;
    assert_eq!(problem["type"], "https://eve-horizon.dev/problems/result-not-ready");
    Ok(())
}

#[tokio::test]
async fn a_terminal_gets_tables_that_fit() -> anyhow::Result<()> {
    if !std::process::Command::new("script")
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success())
    {
        eprintln!("SKIPPED: there is no `script` here to make a terminal with");
        return Ok(());
    }
    let acme = Shared::platform().await?.org().await?;
    let empty = acme.on_terminal(100, "request list").await?;
    assert_eq!(empty.stdout, "No requests.\r\n", "{empty}");
    let long =
        "Say hello to everybody who reads this, and then say it again, and once more, please";
    acme.create(json!({ "worker_type": "nobody", "prompt": long })).await?;
    let wide = acme.on_terminal(200, "request list").await?;
    assert!(wide.stdout.contains(long), "{wide}");
    let narrow = acme.on_terminal(100, "request list").await?;
    let lines: Vec<&str> = narrow.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{narrow}");
    assert!(lines[0].starts_with("ID ") && lines[1].contains('…'), "{narrow}");
    assert!(lines.iter().all(|line| line.trim_end().chars().count() <= 100), "{narrow}");

    // Waiting shows progress, and then the result.
    let waited =
        acme.on_terminal(100, "request create --worker-type general --prompt hello --wait").await?;
    assert_eq!(waited.code(), Some(0), "{waited}");
    assert!(waited.stdout.contains("summary:") && waited.stdout.contains("hello"), "{waited}");
    let json = acme.on_terminal(100, "request list -o json").await?;
    assert_eq!(json.json()?["items"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test]
async fn waiting_ends_with_what_came_out() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let create = [
        "request",
        "create",
        "--worker-type",
        "general",
        "--skill",
        "hostile",
        "--wait",
        "--max-attempts",
        "1",
        "--context",
    ];
    for (orders, code, error) in [
        (r#"{"do": "noop"}"#, 0, Value::Null),
        (r#"{"do": "fail-permanent"}"#, 1, json!("failed")),
        (r#"{"do": "trap"}"#, 1, json!("trapped")),
    ] {
        let output = acme.run(create.into_iter().chain([orders])).await?;
        assert_eq!(output.code(), Some(code), "{output}");
        let result: Value = serde_json::from_str(&output.stdout)?;
        assert_eq!(result["error"]["code"], error, "{output}");
        assert!(output.stderr.starts_with("created "), "{output}");
    }
    let quiet = acme.run(["-q", "request", "create", "--worker-type", "general", "--wait"]).await?;
    assert_eq!((quiet.code(), quiet.stderr.as_str()), (Some(0), ""), "{quiet}");
    Ok(())
}
