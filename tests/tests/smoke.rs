//! The spine, once through: a request goes in by the command line, a worker claims it, a component
//! runs in the sandbox, the result comes out.

use eve_tests::{Database, Eve, Org, skill};
use serde_json::json;

#[tokio::test]
async fn a_request_goes_in_and_its_result_comes_out() -> anyhow::Result<()> {
    let database = Database::empty().await?;
    let eve = Eve::on(&database)?;
    eve.migrate().await?;
    eve.migrate().await?;
    let org = Org::create(&database, "acme").await?;
    let server = eve.serve().await?;
    let mut worker = eve.worker("general", 2)?;
    let client = Eve::without_database()?.as_client_of(&server, &org.token);

    let folder = skill("text-stats")?;
    let pushed = client.run(["skill".as_ref(), "push".as_ref(), folder.as_os_str()]).await?;
    assert!(pushed.status.success(), "{pushed}");
    let context = json!({ "text": "one two three" }).to_string();
    let request = client
        .json([
            "request",
            "create",
            "--worker-type",
            "general",
            "--skill",
            "text-stats",
            "--prompt",
            "count",
            "--context",
            &context,
        ])
        .await?;
    let id = request["id"].as_str().expect("a request has an id");
    let watched = client.run(["request", "watch", id]).await?;
    assert!(watched.status.success(), "{watched}");
    let result = client.json(["result", "get", id]).await?;
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["data"]["words"], 3, "{result}");

    worker.terminate();
    let status = worker.wait().await;
    assert!(status.success(), "{status}: {}", worker.log());
    Ok(())
}
