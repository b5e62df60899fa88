//! Skills in JavaScript and Python: built with their SDKs, pushed, and run by the real platform.
//!
//! Skipped, with a line that no test harness swallows, only where node, python or their packages are
//! not to be had.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eve_tests::{Platform, skills_folder, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

/// What `scripts/languages` says where a language cannot be had.
const ABSENT: i32 = 3;

/// Calls `scripts/languages`; whether the languages are there.
fn languages(args: &[&str]) -> Result<bool> {
    // One at a time: they share two cores, and 200 MB of tools.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().expect("nobody panics with it");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let output = Command::new(root.join("scripts/languages"))
        .args(args)
        .env("EVE_SKILLS_OUT", skills_folder()?)
        .stdin(Stdio::null())
        .output()
        .context("scripts/languages cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(ABSENT) {
        // Past the harness, which keeps what a passing test prints to itself.
        let _ =
            writeln!(std::io::stderr(), "\n==== SKIPPED: scripts/languages {args:?}: {said}====");
        return Ok(false);
    }
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "scripts/languages {args:?}: {}\n{shown}\n{said}",
        output.status
    );
    Ok(true)
}

/// A platform with these skills, which are built first; none where that cannot be done.
async fn platform(skills: &'static [&'static str]) -> Result<Option<Platform>> {
    let args: Vec<&str> = ["build"].into_iter().chain(skills.iter().copied()).collect();
    if !tokio::task::spawn_blocking(move || languages(&args)).await?? {
        return Ok(None);
    }
    Platform::start(skills).await.map(Some)
}

#[test]
fn javascript_passes_its_native_tests() -> Result<()> {
    languages(&["test", "js"]).map(drop)
}

#[test]
fn python_passes_its_native_tests() -> Result<()> {
    languages(&["test", "python"]).map(drop)
}

#[tokio::test]
async fn a_skill_in_javascript_does_what_one_in_rust_does() -> Result<()> {
    let Some(platform) = platform(&["probe-js"]).await? else { return Ok(()) };
    probe(&platform, "probe-js").await
}

#[tokio::test]
async fn a_skill_in_python_does_what_one_in_rust_does() -> Result<()> {
    let Some(platform) = platform(&["probe-py"]).await? else { return Ok(()) };
    probe(&platform, "probe-py").await
}

#[tokio::test]
async fn a_csv_is_read_in_parallel_by_javascript() -> Result<()> {
    let Some(platform) = platform(&["csv-profile"]).await? else { return Ok(()) };
    let _worker = platform.worker(4)?;
    let rows: Vec<String> = (0..2_500).map(|n| format!("{n},\"city, {}\"", n % 7)).collect();
    let csv = format!("number,city\n{}", rows.join("\n"));
    let id = platform.create(json!({ "skill": "csv-profile", "context": { "csv": csv } })).await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed", "{:?}", lines(&platform, id).await?);
    let data = end.data.context("no data")?;
    assert_eq!((&data["rows"], &data["lost_rows"]), (&json!(2_500), &json!(0)));
    let number = &data["columns"][0];
    assert_eq!(
        (&number["type"], &number["min"], &number["max"]),
        (&json!("number"), &json!(0), &json!(2_499))
    );
    assert_eq!(data["columns"][1]["distinct"], 7);
    // The request and three parts; wake-ups are rows too.
    let asked = "SELECT count(*) FROM eve.requests WHERE orchestration_id = id";
    assert_eq!(platform.count(asked).await, 4);
    Ok(())
}

#[tokio::test]
async fn texts_are_summarized_side_by_side_by_python() -> Result<()> {
    let Some(platform) = platform(&["summarize"]).await? else { return Ok(()) };
    let _worker = platform.worker(4)?;
    let text = "Queues hold requests. The weather was nice. Workers take requests from queues.";
    let context = json!({ "texts": [text, "One sentence."], "sentences": 1 });
    let id = platform.create(json!({ "skill": "summarize", "context": context })).await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed", "{:?}", lines(&platform, id).await?);
    let data = end.data.context("no data")?;
    assert_eq!(data["failed"], 0);
    assert_eq!(data["texts"][1]["sentences"], json!(["One sentence."]));
    assert_eq!(data["texts"][0]["keywords"][0], "queues");
    Ok(())
}

#[tokio::test]
async fn a_backlog_is_kept_in_the_database_by_python() -> Result<()> {
    let Some(platform) = platform(&["backlog"]).await? else { return Ok(()) };
    platform.eve().json(["skill", "approve", "backlog", "--schema", "backlog"]).await?;
    let _worker = platform.worker(4)?;
    let ask = async |context: Value| -> Result<Value> {
        let id = platform.create(json!({ "skill": "backlog", "context": context })).await?;
        let end = platform.end_of(id).await;
        ensure!(end.code() == "completed", "{end:?}: {:?}", lines(&platform, id).await?);
        end.data.context("no data")
    };
    let added =
        ask(json!({ "add": "write ü", "labels": ["docs"], "due": "2026-12-24" })).await?["entry"]
            .clone();
    assert_eq!((&added["text"], &added["labels"]), (&json!("write ü"), &json!(["docs"])));
    assert_eq!((&added["due"], &added["done_at"]), (&json!("2026-12-24"), &Value::Null));
    let other = ask(json!({ "add": "test" })).await?["entry"].clone();
    assert_eq!(other["labels"], json!([]));
    assert_eq!(ask(json!({ "label": "docs" })).await?["entries"], json!([added]));
    let done = ask(json!({ "done": added["id"] })).await?["entry"].clone();
    assert!(done["done_at"].is_string(), "{done}");
    assert_eq!(ask(json!({})).await?["entries"], json!([other]));
    let missing = json!({ "skill": "backlog", "context": { "done": 999 }, "max_attempts": 1 });
    let missing = platform.create(missing).await?;
    assert_eq!(platform.end_of(missing).await.code(), "failed");
    Ok(())
}

#[tokio::test]
async fn a_new_skill_in_javascript_works_as_it_is() -> Result<()> {
    from_nothing("js").await
}

#[tokio::test]
async fn a_new_skill_in_python_works_as_it_is() -> Result<()> {
    from_nothing("python").await
}

/// `eve skill new`, `test`, `run`, `push` far from this repository, and a request.
async fn from_nothing(lang: &'static str) -> Result<()> {
    if !tokio::task::spawn_blocking(move || languages(&["setup", lang])).await?? {
        return Ok(());
    }
    let platform = Platform::start(&[]).await?;
    let _worker = platform.worker(4)?;
    let at = tempfile::tempdir()?;
    let script = format!(
        r#"cd {at}
           eve skill new plain --lang {lang}
           eve skill test plain
           eve skill new tally --lang {lang} --stateful
           cd tally
           eve skill test
           first=$(sha256sum < target/eve/tally.wasm)
           eve skill run --context '{{"text": "One fish, two fish"}}'
           eve skill run --context '{{"text": "red fish"}}'
           [ "$first" = "$(sha256sum < target/eve/tally.wasm)" ]
           eve skill push
           eve request create --worker-type general --skill tally --context '{{"text": "a a b"}}' --wait
           eve db query --schema tally 'SELECT word, times FROM words ORDER BY times DESC'"#,
        at = at.path().display()
    );
    let output = platform.eve().bash_for(Duration::from_secs(900), &script).await?;
    ensure!(output.status.success(), "{output}");
    let answers: Vec<Value> =
        serde_json::Deserializer::from_str(&output.stdout).into_iter().collect::<Result<_, _>>()?;
    let summaries: Vec<_> =
        answers.iter().filter_map(|answer| answer["summary"].as_str()).collect();
    // The second run finds what the first has kept.
    let expected = [
        "most often: fish (2), one (1), two (1)",
        "most often: fish (3), one (1), red (1)",
        "most often: a (2), b (1)",
    ];
    assert_eq!(summaries, expected, "{output}");
    assert_eq!(answers.last().context("an answer")?["rows"], json!([["a", 2], ["b", 1]]));
    let checks: Vec<_> = answers.iter().filter(|answer| answer["checks"].is_array()).collect();
    assert!(
        checks.len() == 2 && checks.iter().all(|c| c["checks"][0]["result"] == "ok"),
        "{output}"
    );
    Ok(())
}

/// Everything that the guests `probe-js` and `probe-py` can be told to do.
async fn probe(platform: &Platform, skill: &str) -> Result<()> {
    let nobody = "INSERT INTO eve.worker_types (id, name, default_skill)
                  VALUES ('nobody', 'Nobody works here', $1)";
    sqlx::query(nobody).bind(skill).execute(platform.pool()).await?;
    // Not `db`, and `deploy`, which nothing grants to those of the type `general` by itself.
    platform.eve().json(["worker-type", "set", "general", "--grant", "queue,deploy"]).await?;
    let _worker = platform.worker(4)?;
    let order = async |context: Value, attempts: u32| {
        platform
            .create(json!({ "skill": skill, "prompt": "ü", "context": context, "max_attempts": attempts }))
            .await
    };

    // What it sees, and that no two runs see the same random numbers or the same time.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let id = order(json!({ "do": "look", "text": "日本 \u{1f980}" }), 1).await?;
        let end = platform.end_of(id).await;
        assert_eq!(end.code(), "completed", "{:?}", lines(platform, id).await?);
        let result = platform.get(&format!("/v1/requests/{id}/result")).await?;
        assert_eq!(
            (&result["summary"], &result["tokens_used"]),
            (&json!("ü ✓"), &json!(7)),
            "{result}"
        );
        let data = end.data.context("no data")?;
        assert_eq!(data["context"], json!({ "do": "look", "text": "日本 \u{1f980}" }));
        assert_eq!((&data["trigger"], &data["attempt"]), (&json!("initial"), &json!(1)));
        assert_eq!((&data["worker_type"], &data["org"]), (&json!("general"), &json!("dev")));
        assert_eq!((&data["parent"], &data["deadline"]), (&Value::Null, &json!(true)));
        seen.push(data);
    }
    for name in ["random", "now", "uuid"] {
        assert_ne!(seen[0][name], seen[1][name], "{name} repeats itself");
    }

    // Lines, of the log and of the two streams.
    let id = order(json!({ "do": "log" }), 1).await?;
    assert_eq!(platform.end_of(id).await.code(), "completed");
    let found = lines(platform, id).await?;
    let line = |level: &str, message: &str| {
        found.iter().find(|line| line["level"] == level && line["message"] == message)
    };
    assert!(line("info", "plain").is_some(), "{found:?}");
    let fields = &line("warn", "with fields ü").context("no line")?["fields"];
    assert!(fields.to_string().contains("words") && fields.to_string().contains('3'), "{fields}");
    assert!(line("info", "to standard output").is_some(), "{found:?}");
    assert!(line("warn", "to standard error").is_some(), "{found:?}");

    // How it fails: on purpose, once, and by an exception.
    let id = order(json!({ "do": "permanent" }), 3).await?;
    let end = platform.end_of(id).await;
    assert_eq!((end.code(), end.attempt), ("failed", 1));
    let result = platform.get(&format!("/v1/requests/{id}/result")).await?;
    assert!(result.to_string().contains("asked to fail"), "{result}");
    assert_eq!(
        platform.count("SELECT count(*) FROM eve.requests WHERE prompt = 'never seen'").await,
        0
    );
    let id = order(json!({ "do": "retryable" }), 3).await?;
    let end = platform.end_of(id).await;
    assert_eq!((end.code(), end.attempt), ("completed", 2));
    let id = order(json!({ "do": "raise" }), 1).await?;
    assert_eq!(platform.end_of(id).await.code(), "failed");
    let result = platform.get(&format!("/v1/requests/{id}/result")).await?;
    assert!(result.to_string().contains("TypeError: boom"), "{result}");
    let found = lines(platform, id).await?;
    let traced = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "error" && message.contains("boom") && message.contains("skill.")
    };
    assert!(found.iter().any(traced), "{found:?}");
    let id = order(json!({ "do": "nothing that there is" }), 1).await?;
    assert_eq!(platform.end_of(id).await.code(), "failed");

    let id = order(json!({ "do": "errors" }), 1).await?;
    let codes = platform.end_of(id).await.data.context("no data")?;
    let expected = json!({
        "not_found": "not_found", "malformed": "invalid", "context": "invalid", "ours": "invalid",
        "not_granted": "denied",
    });
    assert_eq!(codes, expected);
    let id = order(json!({ "do": "late" }), 1).await?;
    assert_eq!(platform.end_of(id).await.code(), "completed");

    orchestrate(platform, order(json!({ "do": "orchestrate" }), 1).await?).await?;
    deployments(platform, async |what: &str| order(json!({ "do": what }), 1).await).await
}

/// Everything about deployments, in an environment whose cluster does not answer: what is asked for stays
/// on its way. How deployments settle, the tests beside a real cluster show.
async fn deployments(platform: &Platform, order: impl AsyncFn(&str) -> Result<Uuid>) -> Result<()> {
    for line in [
        "eve cluster add --id nowhere --provider eks --endpoint https://127.0.0.1:9",
        "eve env create --name dev --cluster nowhere --no-wait",
        r#"eve env create --name closed --cluster nowhere --no-wait --config '{"worker_types": ["deployment"]}'"#,
    ] {
        let output = platform.eve().bash(line).await?;
        ensure!(output.status.success(), "{line}: {output}");
    }
    // The control plane takes what a run has asked for once that has ended.
    let probe = async |what: &str, is: fn(&Value) -> bool| {
        wait_for(what, async || {
            platform.get("/v1/envs/dev/deployments/probe").await.ok().filter(is)
        })
        .await
    };

    // What a run asks for it sees itself, and others once it has ended.
    let id = order("deploy").await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed", "{:?}", lines(platform, id).await?);
    let expected = json!({
        "same": true, "state": "pending", "settled": false, "version": "v1", "revision": 0, "desired": 2,
        "ready": 0, "pods": 0, "port": 9000, "variables": ["GREETING"], "updated": true, "listed": ["probe"],
    });
    assert_eq!(end.data, Some(expected));
    let found = probe("the first revision", |found| found["revision"] == 1).await;
    assert_eq!(found["image"], "acme/probe:v1", "{found}");
    assert_eq!((&found["replicas"]["desired"], &found["status"]), (&json!(2), &json!("pending")));
    assert_eq!(
        (&found["config"]["variables"], &found["request_id"]),
        (&json!(["GREETING"]), &json!(id.to_string()))
    );

    let id = order("deployed").await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed", "{:?}", lines(platform, id).await?);
    let expected = json!({
        "environments": [["closed", false, false], ["dev", true, false]],
        "codes": {
            "environment": "not_found", "app": "not_found", "closed": "denied", "image": "invalid",
            "settings": "invalid", "variables": "invalid", "ours": "invalid", "deployment": "not_found",
            "previous": "conflict", "version": "conflict", "revision": "conflict", "logs": "not_found",
            "tail": "invalid", "path": "invalid", "read": "denied",
        },
        "revision": 1, "state": "pending", "history": [[1, "created", "v1", 2, null, null]], "scaled": 3, "all": 1,
    });
    assert_eq!(end.data, Some(expected));
    let found = probe("the second revision", |found| found["revision"] == 2).await;
    assert_eq!(found["replicas"]["desired"], 3, "{found}");

    // A deployment is something to wait for, for as long as the run says.
    let id = order("wait").await?;
    let found = probe("the third revision", |found| found["revision"] == 3).await;
    assert_eq!(found["version"], "v2", "{found}");
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "wait_timed_out", "{:?}", lines(platform, id).await?);

    let id = order("undeploy").await?;
    let end = platform.end_of(id).await;
    assert_eq!(end.code(), "completed", "{:?}", lines(platform, id).await?);
    probe("the deployment to be taken away", |found| found["reason"] == "stopping").await;
    Ok(())
}

/// Children, a question and a timer, one after the other.
async fn orchestrate(platform: &Platform, id: Uuid) -> Result<()> {
    let question = wait_for("a question", async || {
        let open = platform.get("/v1/hitl?status=open").await.ok()?;
        open["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let answer = json!({ "response": "yes" });
    platform.post(&format!("/v1/hitl/{question}/respond"), &answer).await?;
    let end = platform.end_of(id).await;
    let woken = lines(platform, id).await?;
    assert_eq!(end.code(), "completed", "{woken:?}");
    let data = end.data.context("no data")?;
    assert_eq!(data["context"], json!({ "do": "orchestrate" }));
    let looked = json!("initial");
    let expected = json!([
        { "prompt": "a", "status": "completed", "trigger": looked, "problem": null, "metadata": { "n": 1 } },
        { "prompt": "b", "status": "failed", "trigger": null, "problem": "asked to fail", "metadata": {} },
        { "prompt": "c", "status": "completed", "trigger": looked, "problem": null, "metadata": {} },
    ]);
    assert_eq!(data["children"], expected);
    assert_eq!(data["blockers"], json!([["completed", "cancel", false], ["failed", "run", false]]));
    assert_eq!((&data["listed"], &data["result"]), (&json!(2), &json!(7)), "{data}");
    for trigger in ["initial", "child_complete", "hitl_response", "timer"] {
        let message = format!("woken by {trigger}");
        assert!(woken.iter().any(|line| line["message"] == message), "{message}: {woken:?}");
    }
    Ok(())
}

/// Every line of every run of a request.
async fn lines(platform: &Platform, id: Uuid) -> Result<Vec<Value>> {
    let logs = platform.get(&format!("/v1/requests/{id}/logs")).await?;
    let runs = logs["runs"].as_array().context("no runs")?;
    Ok(runs.iter().filter_map(|run| run["lines"].as_array()).flatten().cloned().collect())
}
