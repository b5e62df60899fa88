//! The schema: its migrations, its walls between organisations, and the brief's own SQL.

use eve_tests::{Database, Eve, Org};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

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

/// Tables with a column `org_id`, partitions left out.
const TENANT_TABLES: &str = "
    SELECT c.relname::text
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped
     WHERE n.nspname = 'eve' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     ORDER BY c.relname";

/// A table that somebody adds tomorrow without a wall fails here.
#[tokio::test]
async fn every_tenant_table_has_its_wall() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    let tables: Vec<String> = sqlx::query_scalar(TENANT_TABLES).fetch_all(&pool).await?;
    assert!(tables.len() >= 14, "{tables:?}");
    let unwalled = "
        SELECT c.relname::text
          FROM pg_class c
         WHERE c.relnamespace = 'eve'::regnamespace
           AND c.relname = ANY ($1)
           AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
                   SELECT FROM pg_policies p
                    WHERE p.schemaname = 'eve' AND p.tablename = c.relname AND p.policyname = 'tenant'
                      AND p.roles = '{eve_tenant}' AND p.qual LIKE '%eve.org_id%'
                      AND p.with_check LIKE '%eve.org_id%'))";
    let unwalled: Vec<String> = sqlx::query_scalar(unwalled).bind(&tables).fetch_all(&pool).await?;
    assert!(unwalled.is_empty(), "no wall around {unwalled:?}");

    // A policy for everybody would open a wall to roles that nobody thought of.
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT tablename || '.' || policyname FROM pg_policies
          WHERE schemaname = 'eve' AND 'public' = ANY (roles)",
    )
    .fetch_all(&pool)
    .await?;
    assert!(open.is_empty(), "{open:?}");

    // The walls stand on the parents: nobody gets at a partition by its own name.
    let doors: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || ' to ' || r.rolname
           FROM pg_class c, pg_roles r
          WHERE c.relnamespace = 'eve'::regnamespace AND c.relispartition AND c.relkind = 'r'
            AND r.rolname IN ('eve_tenant', 'eve_guest', 'eve_engine', 'eve_control', 'eve_worker',
                              'eve_metrics', 'eve_views')
            AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE')",
    )
    .fetch_all(&pool)
    .await?;
    assert!(doors.is_empty(), "{doors:?}");
    Ok(())
}

async fn count(session: &mut PgConnection, table: &str) -> anyhow::Result<i64> {
    let statement = format!("SELECT count(*) FROM eve.{table}");
    Ok(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(session).await?)
}

/// One row of everything that an organisation can have.
async fn furnish(session: &mut PgConnection, org: Uuid) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let statements = format!(
        "INSERT INTO eve.requests (id, org_id, worker_type, root_request_id, orchestration_id, created_by)
              VALUES ('{id}', '{org}', 'general', '{id}', '{id}', '{{}}');
         INSERT INTO eve.queue (id, org_id, worker_type, status, priority)
              VALUES ('{id}', '{org}', 'general', 'pending', 0);
         INSERT INTO eve.orchestration_results (request_id, org_id, status, generation, attempt)
              VALUES ('{id}', '{org}', 'completed', 1, 1);
         INSERT INTO eve.attempts (request_id, id, org_id, generation, attempt, kind, code, message)
              VALUES ('{id}', '{id}', '{org}', 1, 1, 'failed', 'failed', '');
         INSERT INTO eve.run_logs (request_id, org_id, generation, attempt, id, lines)
              VALUES ('{id}', '{org}', 1, 1, '{id}', '[]');
         INSERT INTO eve.dependencies (org_id, blocker_id, dependent_id)
              VALUES ('{org}', '{id}', gen_random_uuid());
         INSERT INTO eve.inbox (orchestration_id, org_id, source_kind, source_id)
              VALUES ('{id}', '{org}', 'child', '{id}');
         INSERT INTO eve.timers (orchestration_id, org_id, id, name, due_at)
              VALUES ('{id}', '{org}', '{id}', 'later', now());
         INSERT INTO eve.hitl_requests (id, org_id, question, created_by, expires_at)
              VALUES ('{id}', '{org}', '?', '{{}}', now());
         INSERT INTO eve.schedules (id, org_id, name, cron, timezone, template, created_by)
              VALUES ('{id}', '{org}', 'daily', '@daily', 'UTC', '{{}}', '{{}}');
         INSERT INTO eve.schedule_ticks (schedule_id, tick, org_id, outcome)
              VALUES ('{id}', now(), '{org}', 'skipped');
         INSERT INTO eve.idempotency_keys (org_id, key, body_hash, request_ids)
              VALUES ('{org}', 'key', sha256('body'), '{{}}');
         INSERT INTO eve.skill_schemas (org_id, name) VALUES ('{org}', 'state');
         INSERT INTO eve.skill_migrations
                (org_id, schema_name, number, name, checksum, status, transaction)
              VALUES ('{org}', 'state', 1, 'one', sha256('x'), 'applying', '1');
         WITH s AS (INSERT INTO eve.skills (id, org_id, name) VALUES ('{id}', '{org}', 'one') RETURNING id)
         INSERT INTO eve.revoked_capabilities SELECT '{org}', id, 'db', '{{}}' FROM s;
         INSERT INTO eve.audit_log (id, org_id, actor, action, target)
              VALUES ('{id}', '{org}', '{{}}', 'look', 'wall');"
    );
    session.execute(AssertSqlSafe(statements)).await?;
    Ok(())
}

#[tokio::test]
async fn one_organisation_does_not_see_another() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    let acme = Org::create(&database, "acme").await?;
    let corp = Org::create(&database, "corp").await?;
    let mut session = pool.acquire().await?;
    for org in [&acme, &corp] {
        furnish(&mut session, org.id).await?;
    }
    let tables: Vec<String> = sqlx::query_scalar(TENANT_TABLES).fetch_all(&mut *session).await?;

    for role in ["eve_tenant", "eve_guest"] {
        let enter = format!("BEGIN; SET LOCAL ROLE {role}");
        session.execute(AssertSqlSafe(enter.clone())).await?;
        let readable: Vec<String> = sqlx::query_scalar(
            "SELECT t FROM unnest($1::text[]) t WHERE has_table_privilege('eve.' || t, 'SELECT')",
        )
        .bind(&tables)
        .fetch_all(&mut *session)
        .await?;
        assert!(readable.contains(&"requests".to_owned()), "{readable:?}");
        for table in &readable {
            let seen = count(&mut session, table).await?;
            assert_eq!(seen, 0, "{role} without an organisation sees rows of {table}");
        }
        session.execute("ROLLBACK").await?;

        session.execute(AssertSqlSafe(enter)).await?;
        sqlx::query("SELECT set_config('eve.org_id', $1, true)")
            .bind(acme.id.to_string())
            .execute(&mut *session)
            .await?;
        for table in &readable {
            let statement = format!("SELECT DISTINCT org_id FROM eve.{table}");
            let orgs: Vec<Uuid> =
                sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(&mut *session).await?;
            let empty = ["skills", "skill_versions", "artifacts", "schema_approvals"]
                .contains(&table.as_str());
            assert!(orgs == [acme.id] || (empty && orgs.is_empty()), "{role} in {table}: {orgs:?}");
        }
        session.execute("ROLLBACK").await?;
    }

    // Nor can it write for another, or hand its own rows over.
    for (statement, code) in [
        (
            format!(
                "INSERT INTO eve.idempotency_keys (org_id, key, body_hash, request_ids)
                  VALUES ('{}', 'stolen', sha256('x'), '{{}}')",
                corp.id
            ),
            Some("42501"),
        ),
        (format!("UPDATE eve.queue SET org_id = '{}'", corp.id), Some("42501")),
        ("DELETE FROM eve.audit_log".to_owned(), Some("42501")),
        ("UPDATE eve.audit_log SET action = 'nothing'".to_owned(), Some("42501")),
        (format!("DELETE FROM eve.queue WHERE org_id = '{}'", corp.id), None),
    ] {
        session.execute("BEGIN; SET LOCAL ROLE eve_tenant").await?;
        sqlx::query("SELECT set_config('eve.org_id', $1, true)")
            .bind(acme.id.to_string())
            .execute(&mut *session)
            .await?;
        let done = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut *session).await;
        match code {
            Some(code) => {
                let error = done.err();
                let said = error.as_ref().and_then(|error| error.as_database_error()?.code());
                assert_eq!(said.as_deref(), Some(code), "{statement}: {error:?}");
            }
            None => assert_eq!(done?.rows_affected(), 0, "{statement}"),
        }
        session.execute("ROLLBACK").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_briefs_worker_types_take_the_place_of_ours() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    pool.execute(
        r#"INSERT INTO eve.worker_types (id, name, docker_image, capabilities, config) VALUES (
  'deployment',
  'Deployment Worker',
  'eve-horizon/worker-deployment:latest',
  '{"kubernetes", "helm", "kubectl", "docker"}',
  '{"service_account": "eve-deployment-worker"}'
);"#,
    )
    .await?;
    pool.execute(
        r#"INSERT INTO eve.worker_types (id, name, docker_image, schema_name, capabilities) VALUES (
  'devops-orchestrator',
  'DevOps Project Orchestrator',
  'eve-horizon/worker-devops-orchestrator:latest',
  'devops_projects',
  '{"deployment", "ci-cd", "multi-env", "rollout-strategies"}'
);"#,
    )
    .await?;
    let types: Vec<(String, Option<String>, Vec<String>)> = sqlx::query_as(
        "SELECT id, config ->> 'service_account', grants FROM eve.worker_types ORDER BY id",
    )
    .fetch_all(&pool)
    .await?;
    let ids: Vec<&str> = types.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!(ids, ["deployment", "devops-orchestrator", "general"]);
    assert_eq!(types[0].1.as_deref(), Some("eve-deployment-worker"));
    assert_eq!(types[0].2, ["queue", "db", "deploy"], "it keeps what the seed was granted");
    // Only a seed gives way.
    let again = pool
        .execute("INSERT INTO eve.worker_types (id, name) VALUES ('deployment', 'Another')")
        .await;
    assert!(again.is_err());
    Ok(())
}

#[tokio::test]
async fn keda_counts_as_it_is_written() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let mut session = database.pool().acquire().await?;
    for slug in ["acme", "corp"] {
        let org = Org::create(&database, slug).await?;
        for (worker_type, status) in
            [("general", "pending"), ("general", "scheduled"), ("other", "pending")]
        {
            let insert = format!(
                "INSERT INTO eve.queue (id, org_id, worker_type, status, priority, run_at)
                 VALUES (gen_random_uuid(), '{}', '{worker_type}', '{status}', 0, now())",
                org.id
            );
            session.execute(AssertSqlSafe(insert)).await?;
        }
    }
    session.execute("SET ROLE eve_metrics").await?;
    let pending: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM eve.orchestration_requests
        WHERE worker_type = 'general' AND status = 'pending'",
    )
    .fetch_one(&mut *session)
    .await?;
    assert_eq!(pending, 2);
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT COUNT(*) FROM eve.orchestration_requests
        WHERE worker_type = 'general' AND status = 'pending'",
    )
    .fetch_all(&mut *session)
    .await
    .or_else(|error| match error {
        // EXPLAIN shows what a role may not see only to those who own the view.
        sqlx::Error::Database(_) => Ok(Vec::new()),
        error => Err(error),
    })?;
    let plan = plan.join("\n");
    assert!(!plan.contains("results"), "a count of what is pending reads history:\n{plan}");
    Ok(())
}
