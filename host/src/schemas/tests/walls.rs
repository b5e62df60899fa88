//! Walls: what Postgres lets everybody do, and what nobody may here.

use super::*;

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
    let key: SkillsKey = KEY.parse().expect("a key");
    let server = Server::new(&stage.url, key).expect("a server");
    for database in [Server::database(corp.org()), "postgres".into(), "template1".into()] {
        let mut config = server.tenant(acme.org(), &schema);
        config.dbname(&database);
        let refused = server.open(&config).await.map(|_| ()).expect_err(&database);
        let server::OpenError::Postgres(said) = &refused else { panic!("{database}: {refused}") };
        assert_eq!(server::code(said), Some("42501"), "{database}: {refused}");
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
    sweep::sweep(server).await.expect("swept");
    assert!(session.execute("SELECT 1").await.is_err(), "its session is ended");
    let left = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", shell.user);
    assert_eq!(stage.look(acme, &left).await, 0);
    let rows = stage.run(acme, &schema, "SELECT a FROM u", vec![]).await.expect("rows");
    assert_eq!(rows.rows.len(), 1, "what it made stays");
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
        match approve {
            true => {
                let schemas = ["state".to_owned()];
                grants::approve(&mut tx, acme, &actor, skill, "keeper", &schemas).await
            }
            false => {
                let schema = "state".parse().expect("a name");
                grants::withdraw(&mut tx, acme, &actor, skill, "keeper", &schema).await.map(drop)
            }
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
