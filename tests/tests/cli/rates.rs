//! Whoever calls more often than they may waits, and is served.

use anyhow::Result;
use eve_tests::{Database, Eve, Org, http_client};
use futures::future::try_join_all;

#[tokio::test]
async fn a_script_that_calls_too_often_is_slowed_and_served() -> Result<()> {
    let database = Database::fresh().await?;
    let eve = Eve::on(&database)?.env("EVE_RATE_LIMIT", "2/s");
    let server = eve.serve().await?;
    let (acme, corp) =
        (Org::create(&database, "acme").await?, Org::create(&database, "corp").await?);
    let eve = eve.as_client_of(&server, &acme.token);
    // Twenty are saved up; the others are told to come back, and do.
    for output in try_join_all((0..25).map(|_| eve.run(["whoami"]))).await? {
        assert!(output.status.success(), "{output}");
    }
    // A client that does not wait hears of it, and nobody else is concerned.
    let http = http_client()?;
    let url = format!("{}/v1/me", server.url());
    let mut refused = None;
    while refused.is_none() {
        let answer = http.get(&url).bearer_auth(&acme.token).send().await?;
        refused = (answer.status() == 429).then_some(answer);
    }
    let after = refused.and_then(|answer| answer.headers().get("retry-after").cloned());
    assert!(after.is_some_and(|seconds| seconds == "1"));
    let other = http.get(&url).bearer_auth(&corp.token).send().await?;
    assert_eq!(other.status(), 200);
    Ok(())
}
