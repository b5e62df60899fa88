//! Schedules at the command line, and the requests that they create.

use eve_tests::{Shared, wait_for};
use serde_json::json;

const CREATE: &str = r#"eve schedule create standup --cron '0 9 * * 1-5' --timezone Europe/Berlin \
  --worker-type general --skill echo --prompt "Good morning" --context '{"team": "x"}' \
  --overlap skip"#;

#[tokio::test]
async fn a_schedule_is_made_shown_and_deleted() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let made = acme.bash(CREATE).await?.json()?;
    assert_eq!((&made["timezone"], &made["overlap"]), (&json!("Europe/Berlin"), &json!("skip")));
    assert_eq!(made["upcoming"].as_array().map(Vec::len), Some(3), "{made}");
    let again = acme.bash(CREATE).await?;
    assert_eq!(again.code(), Some(1), "{again}");
    assert!(again.stderr.contains("there is a schedule `standup` already"), "{again}");

    let shown = acme.on_terminal(120, "schedule show standup").await?;
    let nines = shown.stdout.matches(" 09:00 CE").count();
    assert_eq!(nines, 3, "the next three, by the clock on the wall: {shown}");
    let table = acme.on_terminal(120, "schedule list").await?;
    assert!(table.stdout.contains("standup") && table.stdout.contains("active"), "{table}");

    assert_eq!(acme.json(["schedule", "pause", "standup"]).await?["paused"], true);
    let paused = acme.on_terminal(120, "schedule list").await?;
    assert!(paused.stdout.contains("paused"), "{paused}");
    let resumed = acme.json(["schedule", "resume", "standup"]).await?;
    assert_eq!(resumed["next_at"], made["next_at"], "{resumed}");

    let gone = acme.run(["schedule", "delete", "standup"]).await?;
    assert_eq!((gone.code(), &*gone.stdout), (Some(0), ""), "{gone}");
    for verb in ["show", "pause", "resume", "delete"] {
        let missing = acme.run(["schedule", verb, "standup"]).await?;
        assert_eq!(missing.code(), Some(3), "{missing}");
    }
    assert_eq!(acme.json(["schedule", "list"]).await?["items"], json!([]));
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_said() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    for (wrong, said) in [
        (["--cron", "0 9 * *"], "has 4 of five fields"),
        (["--timezone", "Berlin"], "did you mean `Europe/Berlin`?"),
        (["--worker-type", "nope"], "`eve worker-type list` shows the worker types"),
        (["--skill", "nope"], "`eve skill list` shows the skills"),
        (["--overlap", "queue"], "skip, allow, replace"),
    ] {
        let usual = [["--cron", "@daily"], ["--worker-type", "general"]];
        let rest = usual.into_iter().filter(|[flag, _]| *flag != wrong[0]).chain([wrong]);
        let args = ["schedule", "create", "x"].into_iter().chain(rest.flatten());
        let refused = acme.run(args).await?;
        assert_eq!(refused.code(), Some(2), "{refused}");
        assert!(refused.stderr.contains(said), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_due_schedule_creates_a_request() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let acme = platform.org().await?;
    acme.bash(CREATE).await?.json()?;
    // Nobody waits for nine o'clock.
    sqlx::query("UPDATE eve.schedules SET next_at = now() - interval '3 days' WHERE org_id = $1")
        .bind(acme.org.id)
        .execute(&platform.pool)
        .await?;
    let id = wait_for("the schedule to fire", async || {
        let shown = acme.json(["schedule", "show", "standup"]).await.ok()?;
        shown["last_request_id"].as_str().map(str::to_owned)
    })
    .await;
    let request = acme.until(id.parse()?, "completed").await?;
    assert_eq!(request["prompt"], "Good morning");
    assert_eq!(request["context"], json!({ "team": "x" }));
    // Days of downtime are one request.
    let list = acme.json(["request", "list", "--context-filter", r#"{"team": "x"}"#]).await?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    Ok(())
}
