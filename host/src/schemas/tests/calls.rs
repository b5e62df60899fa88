//! Calls: what they answer, and that none outlasts its time.

use super::*;

#[tokio::test]
async fn errors_say_what_was_wrong() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    let table = "CREATE TABLE t (a int PRIMARY KEY, b text CHECK (b <> 'no'))";
    stage.migrate(acme, &schema, &[(1, table)]).await.expect("a migration");
    let big = "SELECT repeat('x', 100000000)";
    for (sql, parameters, expected) in [
        ("SELEC 1", vec![], "42601"),
        ("SELECT * FROM nowhere", vec![], "42P01"),
        ("SELECT $1", vec![], "invalid"),
        ("SELECT 1", vec![Value::Int(1)], "invalid"),
        ("SELECT $1::int", vec![text("one")], "22P02"),
        ("SELECT $1 + 1", vec![Value::Bool(true)], "42883"),
        ("SELECT 1 / $1", vec![Value::Int(0)], "22012"),
        ("INSERT INTO t VALUES (1, 'no')", vec![], "23514"),
        ("SELECT $1", vec![text("a\0b")], "invalid"),
        ("SELECT point '(1,2)'", vec![], "invalid"),
        ("SELECT generate_series(1, 10001)", vec![], "limit"),
        (big, vec![], "limit"),
        ("INSERT INTO t SELECT g FROM generate_series(1, 10001) g RETURNING a", vec![], "limit"),
    ] {
        let error = stage.run(acme, &schema, sql, parameters).await.expect_err(sql);
        assert_eq!(code(&error), expected, "{sql}: {error}");
    }
    let count = stage.run(acme, &schema, "SELECT count(*) FROM t", vec![]).await.expect("a count");
    assert_eq!(count.rows, [[Value::Int(0)]], "what was too much was not done either");
    let error = stage.run(acme, &schema, "INSERT INTO t VALUES (1, 'no')", vec![]).await;
    let Err(SchemaError::Sql(said)) = error else { panic!("{error:?}") };
    assert_eq!(said.constraint.as_deref(), Some("t_b_check"));

    // All or nothing, and only if it is what was expected.
    let insert = |a: i64, expected_rows| Statement {
        sql: "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING".into(),
        parameters: vec![Value::Int(a)],
        expected_rows,
    };
    stage
        .schemas
        .call(acme, &Actor::Platform, &schema, &[insert(1, Some(1)), insert(2, None)])
        .await
        .expect("both");
    let error = stage
        .schemas
        .call(acme, &Actor::Platform, &schema, &[insert(3, None), insert(1, Some(1))])
        .await;
    assert_eq!(code(&error.expect_err("a conflict")), "row count");
    let bad = Statement { sql: "INSERT INTO t VALUES (4, 'no')".into(), ..Statement::default() };
    let error = stage.schemas.call(acme, &Actor::Platform, &schema, &[insert(3, None), bad]).await;
    let Err(SchemaError::Sql(said)) = error else { panic!("{error:?}") };
    assert_eq!((said.code.as_str(), said.statement), ("23514", 1));
    let count = stage.run(acme, &schema, "SELECT count(*) FROM t", vec![]).await.expect("a count");
    assert_eq!(count.rows, [[Value::Int(2)]]);
    let missing: SchemaName = "missing".parse().expect("a name");
    let error = stage.run(acme, &missing, "SELECT 1", vec![]).await.expect_err("no schema");
    assert_eq!(code(&error), "not found");
}

#[tokio::test]
async fn a_call_that_is_given_up_is_stopped_on_the_server() {
    let stage = Arc::new(Stage::set(2).await);
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    let running = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND usename LIKE 'eve\\_%' AND state = 'active'
                      AND query LIKE '%generate_series%'";
    for sql in [
        "SELECT count(*) FROM generate_series(1, 1000000000000), pg_sleep(3600)",
        "SELECT count(*) FROM generate_series(1, 10000000000) a, generate_series(1, 1000) b",
    ] {
        let call = {
            let (stage, schema) = (stage.clone(), schema.clone());
            tokio::spawn(async move { stage.run(acme, &schema, sql, vec![]).await })
        };
        stage.until(acme, running, |count| count > 0).await;
        call.abort();
        stage.until(acme, running, |count| count == 0).await;
    }
    // Their places are free again: two calls at once go through.
    let (one, other) = tokio::join!(
        stage.run(acme, &schema, "SELECT 1", vec![]),
        stage.run(acme, &schema, "SELECT 2", vec![])
    );
    assert_eq!((one.expect("a row").rows.len(), other.expect("a row").rows.len()), (1, 1));
}

#[tokio::test]
async fn what_takes_too_long_is_stopped_even_if_it_will_not_hear() {
    let mut stage = Stage::set(2).await;
    stage.schemas.patience = Duration::from_millis(300);
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    // No skill can write this: the language is taken away. What if there were another way?
    stage
        .change(
            acme,
            "CREATE EXTENSION plpgsql; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
             CREATE FUNCTION state.stubborn() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LOOP
                 BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END;
             END LOOP; END $$",
        )
        .await;
    let busy = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND usename LIKE 'eve\\_%' AND state = 'active'";
    for sql in ["SELECT pg_sleep(3600)", "SELECT stubborn()"] {
        let error = stage.run(acme, &schema, sql, vec![]).await.expect_err(sql);
        assert!(matches!(&error, SchemaError::Limit(said) if said.contains("0.3 s")), "{error}");
        stage.until(acme, busy, |count| count == 0).await;
    }
}
