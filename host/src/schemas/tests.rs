//! Schemas on a real Postgres: what they do, and what they keep out.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::testing::TestDatabase;

/// A database of the platform, the test server as skills server, and somebody who makes schemas.
struct Stage {
    database: TestDatabase,
    schemas: Schemas,
    url: String,
    stop: CancellationToken,
    orgs: std::sync::Mutex<Vec<Tenant>>,
}

impl Stage {
    async fn set(cap: usize) -> Stage {
        let database = TestDatabase::fresh().await;
        let url = std::env::var("EVE_TEST_DATABASE_URL").expect("EVE_TEST_DATABASE_URL");
        let key: SkillsKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().expect("a key");
        let server = Server::new(&url, key).expect("a server");
        let stop = CancellationToken::new();
        let making = provision::run(database.db.clone(), server.clone(), stop.clone());
        tokio::spawn(making);
        let schemas = Schemas::new(database.db.clone(), server, cap);
        Stage { database, schemas, url, stop, orgs: Default::default() }
    }

    async fn org(&self, slug: &str) -> Tenant {
        let tenant = self.database.org(slug).await;
        self.orgs.lock().expect("no panic").push(tenant);
        tenant
    }

    /// A schema that is there.
    async fn schema(&self, tenant: Tenant, name: &str) -> SchemaName {
        let name: SchemaName = name.parse().expect("a name");
        provision::want(&self.database.db, || Scope::Tenant(tenant), tenant.org().0, &name)
            .await
            .expect("a schema");
        name
    }

    async fn run(
        &self,
        tenant: Tenant,
        schema: &SchemaName,
        sql: &str,
        parameters: Vec<Value>,
    ) -> Result<Rows, SchemaError> {
        let call = Statement { sql: sql.into(), parameters, expected_rows: None };
        let mut answers = self.schemas.call(tenant, &Actor::Platform, schema, &[call]).await?;
        Ok(answers.remove(0))
    }

    /// Migrates as a run would, without one.
    async fn migrate(
        &self,
        tenant: Tenant,
        schema: &SchemaName,
        shipped: &[(u32, &str)],
    ) -> Result<Vec<u32>, SchemaError> {
        let shipped: Vec<Migration> = shipped
            .iter()
            .map(|(number, sql)| Migration {
                number: *number,
                name: format!("step{number}"),
                sql: (*sql).to_owned(),
            })
            .collect();
        let access = Access { tenant, run: None };
        let parts = migrations::check(&shipped)?;
        let mut lease = self.schemas.lease(&access, schema, new_user()).await?;
        let db = &self.database.db;
        let applied = migrations::apply(db, &access, schema, &mut lease, &shipped, &parts).await;
        match &applied {
            Ok(_) | Err(SchemaError::Sql(_) | SchemaError::Migration(_)) => lease.done(),
            Err(_) => drop(lease),
        }
        applied
    }

    /// As the superuser, in an organisation's database.
    async fn change(&self, tenant: Tenant, sql: &str) {
        let mut connection = self.superuser(tenant).await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.expect(sql);
    }

    async fn superuser(&self, tenant: Tenant) -> PgConnection {
        let mut url: url::Url = self.url.parse().expect("a URL");
        url.set_path(&Server::database(tenant.org()));
        PgConnection::connect(url.as_str()).await.expect("a session")
    }

    /// A number, as the superuser, in an organisation's database.
    async fn look(&self, tenant: Tenant, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut self.superuser(tenant).await)
            .await
            .expect("a count")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
        let orgs = std::mem::take(&mut *self.orgs.lock().expect("no panic"));
        let url = self.url.clone();
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await.ok()?;
                for tenant in orgs {
                    let database = Server::database(tenant.org());
                    let sql = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
                    connection.execute(AssertSqlSafe(sql)).await.ok()?;
                }
                Some(())
            })
        });
        let _ = dropped.join();
    }
}

fn code(error: &SchemaError) -> &str {
    match error {
        SchemaError::Sql(said) => &said.code,
        SchemaError::Invalid(_) => "invalid",
        SchemaError::Denied(_) => "denied",
        SchemaError::NotFound(_) => "not found",
        SchemaError::Limit(_) => "limit",
        SchemaError::RowCount(_) => "row count",
        SchemaError::Migration(_) => "migration",
        SchemaError::LeaseLost => "lease lost",
        SchemaError::Unavailable { .. } => "unavailable",
        SchemaError::Database { .. } => "database",
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    stage
        .migrate(
            acme,
            &schema,
            &[(
                1,
                "CREATE TYPE mood AS ENUM ('sad', 'happy');
                 CREATE TABLE everything (
                     b boolean, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision,
                     n numeric, t text, v varchar(10), y bytea, j json, jb jsonb, u uuid,
                     tz timestamptz, d date, m mood, bs boolean[], i4s integer[], ts text[],
                     us uuid[], ys bytea[], ns numeric[], jbs jsonb[], tzs timestamptz[], ds date[],
                     f8s double precision[])",
            )],
        )
        .await
        .expect("a migration");
    let id = "0190b1a2-0000-7000-8000-000000000001";
    let row = vec![
        Value::Bool(true),
        Value::Int(-7),
        Value::Int(70_000),
        Value::Int(5_000_000_000),
        Value::Float(1.5),
        Value::Float(-0.1),
        Value::Numeric("-12345678901234567890.000123400".into()),
        text("it's \"quoted\" \\ 𝄞"),
        text("short"),
        Value::Bytes(vec![0, 1, 255]),
        Value::Json(r#"{"a": [1, null]}"#.into()),
        Value::Json(r#"{"a": [1, null]}"#.into()),
        Value::Uuid(id.into()),
        Value::Timestamp("2026-11-24T16:30:00.123456Z".into()),
        Value::Date("2026-02-28".into()),
        text("happy"),
        Value::Array(Element::Bool, vec![Value::Bool(false), Value::Null]),
        Value::Array(Element::Int, vec![Value::Int(1), Value::Null, Value::Int(-3)]),
        Value::Array(
            Element::Text,
            vec![text("a,b"), text("NULL"), text(""), text("\"\\"), Value::Null],
        ),
        Value::Array(Element::Uuid, vec![Value::Uuid(id.into())]),
        Value::Array(Element::Bytes, vec![Value::Bytes(vec![92, 34, 0])]),
        Value::Array(
            Element::Numeric,
            vec![Value::Numeric("0.10".into()), Value::Numeric("NaN".into())],
        ),
        Value::Array(Element::Json, vec![Value::Json(r#"{"a": "\""}"#.into())]),
        Value::Array(Element::Timestamp, vec![Value::Timestamp("1999-12-31T23:59:59Z".into())]),
        Value::Array(Element::Date, vec![Value::Date("0001-01-01".into())]),
        Value::Array(Element::Float, vec![Value::Float(0.25)]),
    ];
    let places: Vec<String> = (1..=row.len()).map(|n| format!("${n}")).collect();
    let insert = format!("INSERT INTO everything VALUES ({})", places.join(", "));
    let inserted = stage.run(acme, &schema, &insert, row.clone()).await.expect("an insertion");
    assert_eq!((inserted.affected, inserted.rows.len()), (1, 0));
    let nulls = format!("INSERT INTO everything VALUES ({})", places.join(", "));
    stage.run(acme, &schema, &nulls, vec![Value::Null; row.len()]).await.expect("nulls");
    let found = stage
        .run(acme, &schema, "SELECT * FROM everything ORDER BY b NULLS LAST", vec![])
        .await
        .expect("rows");
    assert_eq!(found.rows[0], row);
    assert_eq!(found.rows[1], vec![Value::Null; row.len()]);
    assert_eq!(found.columns[2], Column { name: "i4".into(), type_name: "int4".into() });

    let odd = stage
        .run(
            acme,
            &schema,
            "SELECT time '01:02:03.5', interval '1 year 2 months 3 days -04:05:06.7', timestamp '2026-01-02 03:04:05',
                    inet '10.0.0.1/8', 'infinity'::timestamptz, '-infinity'::date, 'NaN'::float8,
                    1e-10::numeric, 1e20::numeric, 0::numeric, '10000.5'::numeric, array[]::int[], $1, $2 + 1",
            vec![text("x"), Value::Int(2)],
        )
        .await
        .expect("values");
    let shown: Vec<serde_json::Value> = odd.rows[0].iter().map(Value::to_json).collect();
    assert_eq!(
        serde_json::Value::from(shown),
        serde_json::json!([
            "01:02:03.500",
            "P1Y2M3DT-4H-5M-6.7S",
            "2026-01-02 03:04:05",
            "10.0.0.1/8",
            "infinity",
            "-infinity",
            "NaN",
            "0.0000000001",
            "100000000000000000000",
            "0",
            "10000.5",
            [],
            "x",
            3
        ])
    );
    // A text is whatever it is compared with.
    let found = stage
        .run(
            acme,
            &schema,
            "SELECT count(*) FROM everything WHERE u = $1 AND tz < $2 AND m = $3 AND i8 > $4",
            vec![text(id), text("2030-01-01"), text("happy"), text("4")],
        )
        .await
        .expect("a count");
    assert_eq!(found.rows, [[Value::Int(1)]]);
}

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

/// What Postgres lets everybody do by default, and what a neighbour must not be able to.
#[tokio::test]
async fn the_walls_hold() {
    let stage = Stage::set(4).await;
    let (acme, corp) = (stage.org("acme").await, stage.org("corp").await);
    let schema = stage.schema(acme, "state").await;
    let other = stage.schema(acme, "other").await;
    stage.schema(corp, "state").await;
    stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)")]).await.expect("a migration");
    stage.migrate(acme, &other, &[(1, "CREATE TABLE t (a int)")]).await.expect("a migration");
    for sql in [
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_ls_dir('/')",
        "SELECT pg_notify('a', repeat('x', 7000))",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT set_config('role', 'postgres', false)",
        "SELECT lo_creat(-1)",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_logical_emit_message(false, 'a', 'b')",
        "SELECT pg_export_snapshot()",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "SELECT * FROM dblink('', 'SELECT 1') AS x (a int)",
        "SELECT * FROM pg_stat_activity",
        "SELECT pg_stat_get_activity(NULL)",
        "SELECT * FROM pg_locks",
        "SELECT * FROM pg_database",
        "SELECT * FROM pg_roles",
        "SELECT * FROM pg_authid",
        "SELECT passwd FROM pg_shadow",
        "SELECT * FROM pg_settings",
        "SELECT * FROM pg_tablespace",
        "SELECT * FROM pg_auth_members",
        "SELECT pg_reload_conf()",
        "SELECT pg_promote()",
        "SELECT * FROM other.t",
        "INSERT INTO other.t VALUES (1)",
        "UPDATE pg_class SET relname = 'x'",
        "DELETE FROM pg_proc",
    ] {
        let error = stage.run(acme, &schema, sql, vec![]).await.expect_err(sql);
        assert!(["42501", "42883", "42P01"].contains(&code(&error)), "{sql}: {error}");
    }
    for sql in [
        "CREATE TABLE public.x (a int)",
        "CREATE TABLE other.x (a int)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'getpid'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'pg_backend_pid'",
        "CREATE TRIGGER x BEFORE INSERT ON other.t EXECUTE FUNCTION f()",
        "ALTER TABLE other.t ADD COLUMN b int",
        "DROP TABLE other.t",
        "DROP SCHEMA state CASCADE",
        "ALTER TABLE t SET SCHEMA public",
        "ALTER TABLE t OWNER TO postgres",
        "CREATE TEMP TABLE x (a int)",
        "TRUNCATE other.t",
    ] {
        let error = stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)"), (2, sql)]).await;
        let error = error.expect_err(sql);
        assert!(
            ["42501", "42883", "42P01", "42704", "3F000", "invalid"].contains(&code(&error)),
            "{sql}: {error}"
        );
    }
    // Its own database is the only one that lets it in.
    let key: SkillsKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().expect("a key");
    let server = Server::new(&stage.url, key).expect("a server");
    for database in [Server::database(corp.org()), "postgres".into(), "template1".into()] {
        let mut config = server.tenant(acme.org(), &schema);
        config.dbname(&database);
        let refused = server.open(&config).await.map(|_| ()).expect_err(&database);
        let server::OpenError::Postgres(said) = &refused else { panic!("{database}: {refused}") };
        assert_eq!(template::code(said), Some("42501"), "{database}: {refused}");
    }
}

/// What a tenant makes in its schema never stands in for what Postgres has.
#[tokio::test]
async fn nothing_of_a_tenant_is_taken_for_postgres_own() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    let shadows = "CREATE FUNCTION pg_terminate_backend(int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
                   CREATE FUNCTION pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';
                   CREATE FUNCTION pg_current_xact_id() RETURNS int LANGUAGE sql AS 'SELECT 1';
                   CREATE TABLE pg_proc (oid int); CREATE TABLE pg_class (oid int, relnamespace int)";
    stage.migrate(acme, &schema, &[(1, shadows)]).await.expect("a migration");
    let sql = "SELECT pg_backend_pid() > 1, count(*) > 1000 FROM pg_proc";
    let found = stage.run(acme, &schema, sql, vec![]).await.expect("a row");
    assert_eq!(found.rows, [[Value::Bool(true), Value::Bool(true)]]);
    let two = [(1, shadows), (2, "CREATE TABLE t (a int)")];
    assert_eq!(stage.migrate(acme, &schema, &two).await.expect("a migration"), [2]);
}

/// A few bytes that would take very many of ours, and types that nobody could follow down.
#[tokio::test]
async fn answers_take_no_more_memory_than_they_may() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let schema = stage.schema(acme, "state").await;
    stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)")]).await.expect("a migration");
    let nulls = vec!["NULL::int"; 1_600].join(", ");
    for sql in [
        "SELECT array_fill(10::numeric ^ 131071, ARRAY[500000])".to_owned(),
        "SELECT array_fill(NULL::int, ARRAY[4000000])".to_owned(),
        format!("SELECT {nulls} FROM generate_series(1, 3600)"),
    ] {
        let error = stage.run(acme, &schema, &sql, vec![]).await.expect_err("too much");
        assert_eq!(code(&error), "limit", "{error}");
    }
    let many = "SELECT g, 'row ' || g FROM generate_series(1, 10000) g";
    assert_eq!(stage.run(acme, &schema, many, vec![]).await.expect("rows").rows.len(), 10_000);

    for (sql, expected) in [
        ("CREATE DOMAIN d1 AS int; CREATE DOMAIN d2 AS d1", "invalid"),
        ("CREATE DOMAIN d1 AS int; CREATE DOMAIN d2 AS d1[]", "invalid"),
        ("CREATE TYPE c AS (a int); CREATE TABLE u (c c)", "invalid"),
        ("CREATE TYPE c AS (a int); CREATE TABLE u (c c[])", "invalid"),
        ("CREATE TABLE u (t t)", "invalid"),
        (
            "CREATE DOMAIN d1 AS int; CREATE TYPE e AS ENUM ('x'); CREATE TABLE u (d d1, e e, es e[])",
            "fine",
        ),
    ] {
        let done = stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)"), (2, sql)]).await;
        assert_eq!(done.as_ref().map_or_else(code, |_| "fine"), expected, "{sql}: {done:?}");
    }
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
        while stage.look(acme, running).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        call.abort();
        while stage.look(acme, running).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
        while stage.look(acme, busy).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_shell_is_its_schemas_role_for_an_hour() {
    let stage = Stage::set(2).await;
    let (acme, corp) = (stage.org("acme").await, stage.org("corp").await);
    let schema = stage.schema(acme, "state").await;
    stage.schema(corp, "state").await;
    stage.migrate(acme, &schema, &[(1, "CREATE TABLE t (a int)")]).await.expect("a migration");
    let missing = "missing".parse().expect("a name");
    let error = stage.schemas.open_shell(acme, &Actor::Platform, &missing).await;
    assert_eq!(code(&error.expect_err("no schema")), "not found");

    let shell = stage.schemas.open_shell(acme, &Actor::Platform, &schema).await.expect("a shell");
    let hour = shell.expires_at - Utc::now();
    assert!((3_500..=3_600).contains(&hour.num_seconds()), "{hour}");
    let options = |database: &str| {
        let url: url::Url = stage.url.parse().expect("a URL");
        let port = url.port().unwrap_or(5432).max(shell.port);
        sqlx::postgres::PgConnectOptions::new()
            .host(&shell.host)
            .port(port)
            .username(&shell.user)
            .password(&shell.password)
            .database(database)
    };
    let mut session =
        PgConnection::connect_with(&options(&shell.database)).await.expect("a session");
    // Whatever it changes of its role, sessions of skills begin as they always do.
    for sql in [
        "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
        "ALTER ROLE CURRENT_USER SET statement_timeout = 0",
        "ALTER ROLE CURRENT_USER SET search_path = pg_catalog",
    ] {
        session.execute(sql).await.expect("its own role is its own");
    }
    let grant = format!("GRANT SELECT ON t TO {}", shell.user);
    session.execute(AssertSqlSafe(grant)).await.expect("granted to itself");
    let settings = "SELECT current_setting('statement_timeout'), current_setting('search_path')";
    let settings = stage.run(acme, &schema, settings, vec![]).await.expect("settings");
    assert_eq!(settings.rows, [[text("31s"), text("state")]]);
    // What it makes belongs to the schema, where skills find it.
    session
        .execute("INSERT INTO t VALUES (7); CREATE TABLE u AS SELECT * FROM t")
        .await
        .expect("done");
    let found = stage.run(acme, &schema, "SELECT a FROM u", vec![]).await.expect("rows");
    assert_eq!(found.rows, [[Value::Int(7)]]);
    for sql in [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_stat_activity",
        "CREATE ROLE x",
        "COPY t TO PROGRAM 'id'",
        "SET ROLE NONE; CREATE TABLE state.v (a int)",
    ] {
        let refused = session.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        let refused = refused.expect_err(sql).into_database_error().expect("from Postgres");
        assert_eq!(refused.code().as_deref(), Some("42501"), "{sql}: {refused}");
        session.execute("ROLLBACK; SET ROLE NONE").await.expect("it is still itself");
        session.execute(sqlx::raw_sql("RESET ROLE")).await.expect("its own role");
    }
    for database in [Server::database(corp.org()), "postgres".into()] {
        assert!(PgConnection::connect_with(&options(&database)).await.is_err(), "{database}");
    }

    // Its hour is over.
    let server = stage.schemas.connections.as_ref().expect("sessions").server();
    let end = format!("ALTER ROLE {} VALID UNTIL '{}'", shell.user, "2020-01-01");
    stage.change(acme, &end).await;
    shell::sweep(server).await.expect("swept");
    assert!(session.execute("SELECT 1").await.is_err(), "its session is ended");
    let left = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", shell.user);
    assert_eq!(stage.look(acme, &left).await, 0);
    let rows = stage.run(acme, &schema, "SELECT a FROM u", vec![]).await.expect("rows");
    assert_eq!(rows.rows.len(), 1, "what it made stays");
}

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
    while stage.look(acme, left).await > 0 {
        tokio::task::yield_now().await;
    }
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

#[tokio::test]
async fn a_run_reaches_what_is_named_and_approved_while_it_holds_its_lease() {
    let stage = Stage::set(4).await;
    let acme = stage.org("acme").await;
    let org = acme.org();
    let (skill, version, request, worker) =
        (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    stage
        .database
        .execute(format!(
            "INSERT INTO eve.skills (id, org_id, name, active_version) VALUES ('{skill}', '{org}', 'keeper', '{version}');
             INSERT INTO eve.skill_versions
                    (id, org_id, skill_id, version, sha256, size_bytes, wasm, manifest, imports, capabilities, created_by)
             VALUES ('{version}', '{org}', '{skill}', '1', sha256('x'), 1, '\\x00',
                     '{{\"schemas\": [\"state\"]}}', '{{}}', '{{db}}', '{{}}');
             INSERT INTO eve.requests (id, org_id, worker_type, root_request_id, orchestration_id, created_by)
             VALUES ('{request}', '{org}', 'general', '{request}', '{request}', '{{}}');
             INSERT INTO eve.queue (id, org_id, worker_type, status, priority, worker_id, lease, claimed_at)
             VALUES ('{request}', '{org}', 'general', 'processing', 0, '{worker}', 5, now())"
        ))
        .await;
    let run = Run {
        request: RequestId(request),
        worker: WorkerId(worker),
        lease: 5,
        version: VersionId(version),
        skill: "keeper".into(),
        worker_type: "general".into(),
    };
    let ask = async |run: &Run, schema: &str| {
        let schema = schema.parse().expect("a name");
        let call = Statement { sql: "SELECT 1".into(), ..Statement::default() };
        stage.schemas.call_for(acme, run, &schema, &[call], 1).await.map(|rows| rows[0].rows.len())
    };
    let denied = ask(&run, "state").await.expect_err("not approved");
    assert!(denied.to_string().contains("eve skill approve keeper --schema state"), "{denied}");
    let denied = ask(&run, "other").await.expect_err("not named");
    assert!(denied.to_string().contains("name only state"), "{denied}");

    let approve = async |approve: bool| {
        let mut tx = stage.database.db.begin(Scope::Tenant(acme)).await.expect("a transaction");
        let (actor, skill) = (Actor::Platform, crate::ids::SkillId(skill));
        let schema = "state".parse().expect("a name");
        match approve {
            true => grants::approve(&mut tx, acme, &actor, skill, "keeper", &schema).await,
            false => grants::withdraw(&mut tx, acme, &actor, skill, "keeper", &schema).await,
        }
        .expect("a change");
        tx.commit().await.expect("a commit");
    };
    approve(true).await;
    assert_eq!(ask(&run, "state").await.expect("a row"), 1);
    let stale = Run { lease: 4, ..run.clone() };
    assert_eq!(code(&ask(&stale, "state").await.expect_err("a lost lease")), "lease lost");
    approve(false).await;
    assert_eq!(code(&ask(&run, "state").await.expect_err("withdrawn")), "denied");
}
