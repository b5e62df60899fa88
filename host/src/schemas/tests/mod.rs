//! Schemas on a real Postgres: what they do, and what they keep out.

mod answers;
mod calls;
mod ledger;
mod making;
mod walls;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::testing::TestDatabase;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

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
        let key: SkillsKey = KEY.parse().expect("a key");
        let server = Server::new(&url, key).expect("a server");
        let stop = CancellationToken::new();
        let schemas = Schemas::new(database.db.clone(), server, cap);
        let (maker, stopped) = (schemas.clone(), stop.clone());
        tokio::spawn(async move { maker.provision(stopped).await });
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

    /// Waits until a number, as the superuser sees it, is what it should be.
    async fn until(&self, tenant: Tenant, sql: &str, fits: impl Fn(i64) -> bool) {
        let waiting = async {
            while !fits(self.look(tenant, sql).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect(sql);
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
                    let roles: Vec<String> = sqlx::query_scalar(
                        "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1)",
                    )
                    .bind(format!("eve_{}_", tenant.org().0.simple()))
                    .fetch_all(&mut connection)
                    .await
                    .ok()?;
                    for role in roles {
                        let sql = format!("DROP ROLE IF EXISTS {role}");
                        connection.execute(AssertSqlSafe(sql)).await.ok()?;
                    }
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
