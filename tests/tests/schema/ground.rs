//! Two organisations that have everything, on a Postgres of either kind.

use std::str::FromStr;

use anyhow::{Result, ensure};
use eve_tests::{Database, Org};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, Postgres};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

/// Who owns the tables where that is no superuser.
const OWNER: &str = "eve_test_owner";

/// A table whose rows belong to organisations.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Table {
    /// Its name in the schema `eve`.
    pub name: String,
    /// The column that says whose a row is.
    pub org: String,
}

/// Organisations themselves, and whatever has a column `org_id`; partitions left out.
const TABLES: &str = "
    SELECT c.relname::text AS name, a.attname::text AS org
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
     WHERE c.relnamespace = 'eve'::regnamespace
       AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND a.attname = CASE c.relname WHEN 'organizations' THEN 'id' ELSE 'org_id' END
     ORDER BY c.relname";

/// What a database is before we come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A Postgres of our own: nothing is there, and we are a superuser.
    Plain,
    /// As Supabase hands one out: `auth` is there and not ours, whoever migrates is no superuser, and
    /// what is made in `public` is for everybody.
    Supabase,
}

/// A migrated database with two organisations that have a row of everything.
pub struct Ground {
    /// Its tables of tenants.
    pub tables: Vec<Table>,
    /// Who owns them.
    pub owner: String,
    pub acme: Org,
    pub corp: Org,
    session: PoolConnection<Postgres>,
    // Last: nobody is connected any more when it is dropped.
    _database: Database,
}

impl Ground {
    pub async fn on(host: Host) -> Result<Ground> {
        let database = match host {
            Host::Plain => Database::fresh().await?,
            Host::Supabase => supabase().await?,
        };
        let pool = database.pool();
        let acme = Org::create(&database, "acme").await?;
        let corp = Org::create(&database, "corp").await?;
        let mut session = pool.acquire().await?;
        let tables: Vec<Table> = sqlx::query_as(TABLES).fetch_all(&mut *session).await?;
        ensure!(tables.len() >= 27, "the catalogue is not read rightly: {tables:?}");
        push_skill(&mut session, Uuid::nil()).await?;
        for org in [&acme, &corp] {
            furnish(&mut session, org.id).await?;
            for Table { name, org: column } in &tables {
                let count = format!("SELECT count(*) FROM eve.{name} WHERE {column} = $1");
                let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count))
                    .bind(org.id)
                    .fetch_one(&mut *session)
                    .await?;
                ensure!(rows > 0, "`furnish` has no row for eve.{name}: add one");
            }
        }
        let owner = match host {
            Host::Plain => sqlx::query_scalar("SELECT current_user::text").fetch_one(&pool).await?,
            Host::Supabase => OWNER.to_owned(),
        };
        Ok(Ground { tables, owner, acme, corp, session, _database: database })
    }

    /// A session past every wall, to enter roles from.
    pub fn session(&mut self) -> &mut PgConnection {
        &mut self.session
    }

    /// Begins a transaction as a role, with an organisation set or none.
    pub async fn enter(&mut self, role: &str, org: Option<Uuid>) -> Result<()> {
        self.leave().await?;
        self.session.execute("BEGIN").await?;
        self.become_role(role, org).await
    }

    /// Switches to a role within the transaction.
    pub async fn become_role(&mut self, role: &str, org: Option<Uuid>) -> Result<()> {
        let role = format!("SET LOCAL ROLE {role}");
        self.session.execute(AssertSqlSafe(role)).await?;
        if let Some(org) = org {
            let set = format!("SET LOCAL eve.org_id = '{org}'");
            self.session.execute(AssertSqlSafe(set)).await?;
        }
        Ok(())
    }

    /// Ends the transaction, if there is one; nothing of it stays.
    pub async fn leave(&mut self) -> Result<()> {
        // Outside a transaction this is a warning.
        self.session.execute("ROLLBACK").await?;
        Ok(())
    }

    /// Runs a statement of which nothing stays if it fails: how many rows it touched.
    pub async fn attempt(&mut self, statement: &str) -> Result<Result<u64, Refusal>> {
        self.session.execute("SAVEPOINT attempt").await?;
        let done = self.session.execute(AssertSqlSafe(statement.to_owned())).await;
        self.settle(done.map(|done| done.rows_affected())).await
    }

    /// Inserts a row that is given as JSON, as [`Ground::attempt`] would.
    pub async fn insert(
        &mut self,
        table: &Table,
        row: &serde_json::Value,
    ) -> Result<Result<u64, Refusal>> {
        let name = &table.name;
        let statement = format!(
            "INSERT INTO eve.{name} SELECT * FROM jsonb_populate_record(NULL::eve.{name}, $1)"
        );
        self.session.execute("SAVEPOINT attempt").await?;
        let done =
            sqlx::query(AssertSqlSafe(statement)).bind(row).execute(&mut *self.session).await;
        self.settle(done.map(|done| done.rows_affected())).await
    }

    /// The organisations whose rows a statement that yields ids shows, in order.
    pub async fn orgs(&mut self, statement: &str) -> Result<Result<Vec<Uuid>, Refusal>> {
        self.session.execute("SAVEPOINT attempt").await?;
        let statement = AssertSqlSafe(statement.to_owned());
        let seen = sqlx::query_scalar(statement).fetch_all(&mut *self.session).await;
        let seen = self.settle(seen).await?;
        Ok(seen.map(|mut orgs: Vec<Uuid>| {
            orgs.sort_unstable();
            orgs.dedup();
            orgs
        }))
    }

    async fn settle<T>(&mut self, done: Result<T, sqlx::Error>) -> Result<Result<T, Refusal>> {
        match done {
            Ok(done) => {
                self.session.execute("RELEASE attempt").await?;
                Ok(Ok(done))
            }
            Err(sqlx::Error::Database(error)) => {
                self.session.execute("ROLLBACK TO attempt").await?;
                let code = error.code().unwrap_or_default().into_owned();
                Ok(Err(Refusal { code, message: error.message().to_owned() }))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What Postgres says when it does not do something.
#[derive(Debug)]
pub struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    /// Whether the role has not been granted it.
    pub fn is_denied(&self) -> bool {
        self.code == "42501" && self.message.starts_with("permission denied")
    }

    /// Whether a policy was in the way.
    pub fn is_policy(&self) -> bool {
        self.code == "42501" && self.message.contains("violates row-level security policy")
    }
}

/// One row of everything that an organisation can have, beside what `Org::create` makes.
pub async fn furnish(session: &mut PgConnection, org: Uuid) -> Result<()> {
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
         INSERT INTO eve.clusters (id, name, provider) VALUES ('local', 'Local', 'local')
             ON CONFLICT DO NOTHING;
         INSERT INTO eve.environments (id, org_id, name, cluster_id, namespace)
              VALUES ('{id}', '{org}', 'dev', 'local', 'ns-{id}');
         INSERT INTO eve.apps (id, org_id, name) VALUES ('{id}', '{org}', 'api');
         INSERT INTO eve.deployments (id, org_id, app_id, environment_id, image)
              VALUES ('{id}', '{org}', '{id}', '{id}', 'api:1');
         INSERT INTO eve.deployment_revisions
                (deployment_id, revision, org_id, kind, template, image, replicas, config, created_by)
              VALUES ('{id}', 1, '{org}', 'created', 1, 'api:1', 1, '{{}}', '{{}}');
         INSERT INTO eve.deployment_events (id, deployment_id, org_id, event_type)
              VALUES ('{id}', '{id}', '{org}', 'created');
         INSERT INTO eve.deployment_orders
                (id, org_id, request_id, worker_type, environment, app, kind, body, told_id)
              VALUES ('{id}', '{org}', '{id}', 'general', 'dev', 'api', 'delete', '{{}}', '{id}');
         INSERT INTO eve.cluster_asks (id, org_id, worker_type, environment, body)
              VALUES ('{id}', '{org}', 'general', 'dev', '{{}}');
         INSERT INTO eve.environment_secrets (org_id, environment_id, name, value, created_by, updated_by)
              VALUES ('{org}', '{id}', 'API_KEY', '{{}}', '{{}}', '{{}}');
         INSERT INTO eve.audit_log (id, org_id, actor, action, target)
              VALUES ('{id}', '{org}', '{{}}', 'look', 'wall');"
    );
    session.execute(AssertSqlSafe(statements)).await?;
    let skill = push_skill(session, org).await?;
    let approval = format!(
        "INSERT INTO eve.schema_approvals (org_id, skill_id, schema_name, approved_by)
              VALUES ('{org}', '{skill}', 'state', '{{}}');
         INSERT INTO eve.revoked_capabilities (org_id, skill_id, capability, revoked_by)
              VALUES ('{org}', '{skill}', 'db', '{{}}');"
    );
    session.execute(AssertSqlSafe(approval)).await?;
    Ok(())
}

/// A skill with a version and its machine code.
async fn push_skill(session: &mut PgConnection, org: Uuid) -> Result<Uuid> {
    let (skill, version) = (Uuid::now_v7(), Uuid::now_v7());
    let statements = format!(
        "INSERT INTO eve.skills (id, org_id, name) VALUES ('{skill}', '{org}', 'tool');
         INSERT INTO eve.skill_versions (id, org_id, skill_id, version, sha256, size_bytes, wasm, imports,
                                         capabilities, created_by)
              VALUES ('{version}', '{org}', '{skill}', '1', sha256('{skill}'), 1, '\\x00', '{{}}', '{{}}',
                      '{{}}');
         INSERT INTO eve.artifacts (version_id, org_id, fingerprint, bytes, length, sha256, signature)
              VALUES ('{version}', '{org}', 'engine', '\\x00', 1, sha256('code'),
                      decode(repeat('00', 64), 'hex'));"
    );
    session.execute(AssertSqlSafe(statements)).await?;
    Ok(skill)
}

/// A database as Supabase hands one out, migrated by who it is handed to.
async fn supabase() -> Result<Database> {
    // Whoever migrated this server first has made the roles.
    drop(Database::fresh().await?);
    let database = Database::empty().await?;
    let (name, url) = (database.name(), database.url());
    let prepare = format!(
        "DO $$
         DECLARE
             membership text;
         BEGIN
             IF to_regrole('{OWNER}') IS NULL THEN
                 CREATE ROLE {OWNER} NOLOGIN CREATEROLE;
             END IF;
             FOR membership IN
                 SELECT format('GRANT %I TO {OWNER} WITH ADMIN OPTION', r.rolname)
                   FROM pg_roles r
                  WHERE r.rolname IN ('eve_control', 'eve_tenant', 'eve_guest', 'eve_engine', 'eve_worker',
                                      'eve_metrics', 'eve_views')
                    AND NOT pg_has_role('{OWNER}', r.oid, 'MEMBER WITH ADMIN OPTION')
             LOOP
                 EXECUTE membership;
             END LOOP;
         -- Another test was quicker.
         EXCEPTION WHEN duplicate_object OR unique_violation OR internal_error THEN
             NULL;
         END
         $$;
         ALTER DATABASE {name} OWNER TO {OWNER};
         ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public GRANT ALL ON TABLES TO authenticated;
         CREATE SCHEMA auth;
         CREATE TABLE auth.users (
             instance_id         uuid,
             id                  uuid PRIMARY KEY,
             aud                 varchar(255),
             role                varchar(255),
             email               varchar(255) UNIQUE,
             encrypted_password  varchar(255),
             created_at          timestamptz
         );
         CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
             SELECT coalesce(
                 nullif(current_setting('request.jwt.claim.sub', true), ''),
                 (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
             )::uuid
         $$;
         GRANT USAGE ON SCHEMA auth TO authenticated, {OWNER};"
    );
    let pool = database.pool();
    pool.execute(AssertSqlSafe(prepare)).await?;
    pool.close().await;
    let owners = PgPoolOptions::new()
        .max_connections(1)
        .after_connect(|session, _| {
            Box::pin(async move {
                let owner = format!("SET SESSION AUTHORIZATION {OWNER}");
                session.execute(AssertSqlSafe(owner)).await?;
                Ok(())
            })
        })
        .connect_with(PgConnectOptions::from_str(url)?)
        .await?;
    eve_host::db::migrate(&owners).await?;
    owners.close().await;
    Ok(database)
}
