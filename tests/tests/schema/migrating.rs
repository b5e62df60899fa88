//! Migrations: run twice, run late, not run.

use eve_tests::{Database, Eve};
use sqlx::Executor;

#[tokio::test]
async fn two_who_migrate_at_once_both_succeed() -> anyhow::Result<()> {
    let database = Database::empty().await?;
    let eve = Eve::on(&database)?;
    let (one, other) = tokio::join!(eve.run(["migrate"]), eve.run(["migrate"]));
    for output in [one?, other?] {
        assert!(output.status.success(), "{output}");
    }
    let versions: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(&database.pool())
            .await?;
    let each_once: Vec<i64> = (1..=i64::try_from(versions.len())?).collect();
    assert_eq!(versions, each_once);
    Ok(())
}

#[tokio::test]
async fn a_newer_database_is_left_alone() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let later =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99999999, 'from the future', true, '\\x00', 0)";
    database.pool().execute(later).await?;
    let output = Eve::on(&database)?.run(["migrate"]).await?;
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(output.stderr.contains("migrated by a newer eve"), "{output}");
    // A release that comes back: its processes go on with what there is.
    let output = Eve::on(&database)?.run(["migrate", "--accept-newer"]).await?;
    assert_eq!(output.code(), Some(0), "{output}");
    assert!(output.stdout.contains("is newer (99999999) than this eve"), "{output}");
    Ok(())
}

#[tokio::test]
async fn an_empty_database_is_not_served() -> anyhow::Result<()> {
    let database = Database::empty().await?;
    let eve = Eve::on(&database)?;
    let output = eve.run(["serve", "--listen", "127.0.0.1:0"]).await?;
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(output.stderr.contains("run `eve migrate` first"), "{output}");
    Ok(())
}
