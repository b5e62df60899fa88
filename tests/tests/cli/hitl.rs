//! Questions at the command line: asked, listed, shown and answered, once.

use eve_tests::Shared;
use serde_json::json;

#[tokio::test]
async fn a_person_asks_and_another_answers() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let asked = acme
        .bash(
            r#"eve hitl ask "Promote api-service:v1.2.3 to prod?" \
  --option yes --option no --details '{"app": "api-service"}' --expires-in 2h"#,
        )
        .await?;
    let id = asked.id()?.to_string();
    let question = asked.json()?;
    assert_eq!(
        (&question["status"], &question["options"]),
        (&json!("open"), &json!(["yes", "no"]))
    );

    let open = acme.json(["hitl", "list", "--status", "open"]).await?;
    assert_eq!(open["items"][0]["id"], json!(id), "{open}");
    let table = acme.on_terminal(120, "hitl list --status open").await?;
    assert!(table.stdout.contains("Promote api-service"), "{table}");
    let shown = acme.on_terminal(120, &format!("hitl show {id}")).await?;
    assert!(shown.stdout.contains("options:") && shown.stdout.contains("yes, no"), "{shown}");

    let maybe = acme.run(["hitl", "respond", &id, "maybe"]).await?;
    assert_eq!(maybe.code(), Some(2), "{maybe}");
    assert!(maybe.stderr.contains("`yes`, `no`"), "{maybe}");
    let answered = acme.json(["hitl", "respond", &id, "yes"]).await?;
    assert_eq!((&answered["status"], &answered["response"]), (&json!("answered"), &json!("yes")));
    assert_eq!(answered["responded_by"]["via"], "token", "{answered}");
    let again = acme.run(["hitl", "respond", &id, "no"]).await?;
    assert_eq!(again.code(), Some(1), "{again}");
    assert!(again.stderr.contains("was answered at"), "{again}");
    let next = format!("`eve hitl show {id}` shows the question and its answer");
    assert!(again.stderr.contains("already, by ") && again.stderr.contains(&next), "{again}");
    let none = acme.json(["hitl", "list", "--status", "open"]).await?;
    assert_eq!(none["items"], json!([]));

    // Nobody else sees any of it.
    let corp = Shared::platform().await?.org().await?;
    for args in [vec!["hitl", "show", &id], vec!["hitl", "respond", &id, "no"]] {
        let refused = corp.run(args).await?;
        assert_eq!(refused.code(), Some(3), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn answers_are_json_where_nothing_is_to_choose_from() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let respond = async |answer: &str| {
        let script = format!(r#"eve hitl respond "$(eve hitl ask 'Which?' | jq -r .id)" {answer}"#);
        anyhow::Ok(acme.bash(&script).await?.json()?["response"].clone())
    };
    assert_eq!(respond("v1.2.3").await?, json!("v1.2.3"));
    assert_eq!(respond(r#"--response '{"replicas": 3}'"#).await?, json!({ "replicas": 3 }));
    assert_eq!(respond(r#"--response @- <<< '[1, "a"]'"#).await?, json!([1, "a"]));
    Ok(())
}

#[tokio::test]
async fn a_question_ends_with_the_request_that_it_was_asked_for() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let request = acme.create(json!({ "worker_type": "nobody" })).await?.to_string();
    let ask = ["hitl", "ask", "Go on?", "--request", &request];
    let question = acme.json(ask).await?;
    assert_eq!(question["request_id"], json!(request), "{question}");
    acme.json(["request", "cancel", &request]).await?;
    let id = question["id"].as_str().unwrap_or_default();
    assert_eq!(acme.json(["hitl", "show", id]).await?["status"], "cancelled");
    for args in [vec!["hitl", "respond", id, "yes"], ask.to_vec()] {
        let late = acme.run(args).await?;
        assert_eq!(late.code(), Some(1), "{late}");
        assert!(late.stderr.contains("has ended"), "{late}");
    }
    Ok(())
}

#[tokio::test]
async fn a_question_expires() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let question = acme.json(["hitl", "ask", "Now?", "--expires-in", "1s"]).await?;
    let id = question["id"].as_str().unwrap_or_default().to_owned();
    eve_tests::wait_for("the question to expire", async || {
        let shown = acme.json(["hitl", "show", &id]).await.ok()?;
        (shown["status"] == "expired").then_some(())
    })
    .await;
    let late = acme.run(["hitl", "respond", &id, "yes"]).await?;
    assert_eq!(late.code(), Some(1), "{late}");
    assert!(late.stderr.contains("expired at"), "{late}");
    Ok(())
}
