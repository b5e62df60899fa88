//! Migrations: once, in order, and settled whoever died.

use super::*;

#[tokio::test]
async fn migrations_are_applied_once_and_in_order() {
    let stage = Arc::new(Stage::set(8).await);
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    const ONE: (u32, &str) = (1, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    const TWO: (u32, &str) = (2, "ALTER TABLE t ADD COLUMN b int DEFAULT 7");
    // Many at once: one of them does it.
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (stage, schema) = (stage.clone(), schema.clone());
        starting.spawn(async move { stage.migrate(acme, &schema, &[ONE, TWO]).await });
    }
    let mut applied = Vec::new();
    while let Some(done) = starting.join_next().await {
        applied.extend(done.expect("no panic").expect("a migration"));
    }
    applied.sort_unstable();
    assert_eq!(applied, [1, 2]);
    assert_eq!(stage.migrate(acme, &schema, &[ONE, TWO]).await.expect("nothing"), [0u32; 0]);

    // What ran stays as it was, and in order.
    for (shipped, expected) in [
        (&[(1, "CREATE TABLE t (a bigint)"), TWO][..], "edited"),
        (&[TWO], "missing"),
        (&[ONE], "missing"),
    ] {
        let error = stage.migrate(acme, &schema, shipped).await.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    // One that fails leaves what was there, the ledger too, and can be mended.
    let broken = "CREATE TABLE u (a int); INSERT INTO u VALUES (1); SELECT 1 / 0";
    let error =
        stage.migrate(acme, &schema, &[ONE, TWO, (3, broken)]).await.expect_err("a division");
    let SchemaError::Sql(said) = &error else { panic!("{error}") };
    assert_eq!((said.code.as_str(), said.statement), ("22012", 2));
    assert!(said.message.contains("migration 3 `step3`, statement 2"), "{}", said.message);
    let list = stage.schemas.migrations(acme, &schema).await.expect("the ledger");
    let numbers: Vec<i32> = list.iter().map(|applied| applied.number).collect();
    assert_eq!(numbers, [1, 2]);
    let mended = "CREATE TABLE u (a int)";
    assert_eq!(stage.migrate(acme, &schema, &[ONE, TWO, (3, mended)]).await.expect("mended"), [3]);
    let rows = stage.run(acme, &schema, "SELECT a, b FROM t", vec![]).await.expect("rows");
    assert_eq!(rows.rows, [[Value::Int(1), Value::Int(7)]]);

    // A thousand tables are too many, and none of them stays.
    let many: Vec<String> =
        (0..199).map(|n| format!("CREATE TABLE x{n} (a int PRIMARY KEY, b text UNIQUE)")).collect();
    let error = stage
        .migrate(acme, &schema, &[ONE, TWO, (3, mended), (4, &many.join(";"))])
        .await
        .expect_err("too many");
    assert_eq!(code(&error), "limit", "{error}");
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'x0'";
    stage.until(acme, left, |count| count == 0).await;
}

/// Whoever dies between the two databases is found out by the next.
#[tokio::test]
async fn a_migration_whose_writer_died_is_settled() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    const ONE: (u32, &str) = (1, "CREATE TABLE t (a int)");
    stage.migrate(acme, &schema, &[ONE]).await.expect("a migration");
    // It had committed there, and not here.
    stage
        .database
        .execute("UPDATE eve.skill_migrations SET status = 'applying', applied_at = NULL".into())
        .await;
    assert_eq!(stage.migrate(acme, &schema, &[ONE]).await.expect("settled"), [0u32; 0]);
    let list = stage.schemas.migrations(acme, &schema).await.expect("the ledger");
    assert_eq!(list[0].status, "applied");
    // It had written here, and died there.
    const TWO: (u32, &str) = (2, "CREATE TABLE u (a int)");
    let org = acme.org();
    let mut connection = stage.superuser(acme).await;
    let mut tx = connection.begin().await.expect("a transaction");
    let lost: String = sqlx::query_scalar("SELECT pg_current_xact_id()::text")
        .fetch_one(&mut *tx)
        .await
        .expect("an id");
    stage
        .database
        .execute(format!(
            "INSERT INTO eve.skill_migrations
                    (org_id, schema_name, number, name, checksum, status, transaction)
             VALUES ('{org}', 'state', 2, 'step2', sha256('x'), 'applying', '{lost}')"
        ))
        .await;
    let waiting = stage.migrate(acme, &schema, &[ONE, TWO]);
    let (applied, rolled_back) = tokio::join!(waiting, async {
        // Meanwhile it is in progress, and is waited for.
        tx.rollback().await
    });
    rolled_back.expect("a rollback");
    assert_eq!(applied.expect("begun anew"), [2]);
}
