//! Making: by many at once, and for many.

use super::*;

#[tokio::test]
async fn first_use_by_many_at_once_makes_one_schema_each() {
    let stage = Arc::new(Stage::set(6).await);
    let mut calls = tokio::task::JoinSet::new();
    for org in 0..6 {
        let tenant = stage.org(&format!("org{org}")).await;
        for name in ["one", "order"] {
            for _ in 0..4 {
                let stage = stage.clone();
                calls.spawn(async move {
                    let schema = stage.schema(tenant, name).await;
                    let sql = "SELECT current_schema()::text, current_database()::text";
                    let rows = stage.run(tenant, &schema, sql, vec![]).await.expect("a row");
                    assert_eq!(rows.rows[0][0], text(name));
                    assert_eq!(rows.rows[0][1], text(&Server::database(tenant.org())));
                });
            }
        }
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no panic");
    }
}

/// Many more roles than sessions: nobody is starved, and the server never sees more than the cap.
/// `EVE_TEST_ORGS=200` takes a minute.
#[tokio::test]
async fn many_organisations_share_a_few_sessions() {
    const CAP: usize = 8;
    let count = std::env::var("EVE_TEST_ORGS").ok().map_or(20, |n| n.parse().expect("a number"));
    let stage = Arc::new(Stage::set(CAP).await);
    let mut orgs = Vec::new();
    for number in 0..count {
        orgs.push(stage.org(&format!("org-{number}")).await);
    }
    let mut made = tokio::task::JoinSet::new();
    for &tenant in &orgs {
        for name in ["one", "two"] {
            let stage = stage.clone();
            made.spawn(async move { stage.schema(tenant, name).await });
        }
    }
    while let Some(schema) = made.join_next().await {
        schema.expect("no panic");
    }
    let mut calls = tokio::task::JoinSet::new();
    for &tenant in &orgs {
        for name in ["one", "two"] {
            let stage = stage.clone();
            calls.spawn(async move {
                let schema = name.parse().expect("a name");
                let table = [(1, "CREATE TABLE t (a int)")];
                stage.migrate(tenant, &schema, &table).await.expect("a migration");
                for a in 0..3 {
                    let sql = "INSERT INTO t VALUES ($1)";
                    stage.run(tenant, &schema, sql, vec![Value::Int(a)]).await.expect("a row");
                }
                let count = "SELECT count(*) FROM t";
                let count = stage.run(tenant, &schema, count, vec![]).await.expect("a count");
                assert_eq!(count.rows, [[Value::Int(3)]]);
            });
        }
    }
    let databases: Vec<String> =
        orgs.iter().map(|tenant| format!("'{}'", Server::database(tenant.org()))).collect();
    let sessions = format!(
        "SELECT count(*) FROM pg_stat_activity
          WHERE application_name = 'eve skill' AND datname IN ({})",
        databases.join(", ")
    );
    while let Some(call) = calls.join_next().await {
        call.expect("no panic");
        if calls.len() % 10 == 0 {
            // One more is being closed, now and then, when its successor opens.
            let open = stage.look(orgs[0], &sessions).await;
            assert!(open <= CAP as i64 + 1, "{open} sessions");
        }
    }
}
