//! What the other tests stand on holds.

use std::str::FromStr;

use eve_tests::Database;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

#[tokio::test]
async fn databases_are_migrated_of_their_own_and_gone_at_the_end() -> anyhow::Result<()> {
    let (one, other) = tokio::try_join!(Database::fresh(), Database::fresh())?;
    assert_ne!(one.name(), other.name());

    sqlx::query("INSERT INTO eve.organizations (slug, name) VALUES ('acme', 'Acme')")
        .execute(&one.pool())
        .await?;
    let count = "SELECT count(*) FROM eve.organizations WHERE slug = 'acme'";
    let there: i64 = sqlx::query_scalar(count).fetch_one(&one.pool()).await?;
    let not_there: i64 = sqlx::query_scalar(count).fetch_one(&other.pool()).await?;
    assert_eq!((there, not_there), (1, 0));

    let url = one.url().to_owned();
    drop(one);
    let error = PgConnectOptions::from_str(&url)?.connect().await.err();
    let code = error.as_ref().and_then(|error| error.as_database_error()?.code());
    assert_eq!(code.as_deref(), Some("3D000"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn an_empty_database_can_be_migrated() -> anyhow::Result<()> {
    let database = Database::empty().await?;
    let pool = database.pool();
    assert!(!eve_host::db::migrate(&pool).await?.is_empty());
    assert!(eve_host::db::migrate(&pool).await?.is_empty(), "the second time does nothing");
    Ok(())
}
