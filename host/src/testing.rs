//! What tests of SQL stand on: a database of their own, migrated, on a real Postgres.

pub mod past;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::db::{self, Db, DbConfig};
use crate::ids::{OrgId, UserId};
use crate::tenancy::Tenant;

/// A database that is dropped at the end of the test.
pub struct TestDatabase {
    /// Open to the test.
    pub db: Db,
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes and migrates one on the server of `EVE_TEST_DATABASE_URL`.
    pub async fn fresh() -> Self {
        let database = Self::empty().await;
        db::migrate(database.db.pool()).await.expect("migrating the test's database");
        database
    }

    /// Makes one with nothing in it.
    pub async fn empty() -> Self {
        let server = std::env::var("EVE_TEST_DATABASE_URL").expect(
            "EVE_TEST_DATABASE_URL names a Postgres for tests, as a superuser; scripts/test sets it",
        );
        let name = format!("eve_unit_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server).await.expect("reaching Postgres");
        let create = format!("CREATE DATABASE {name}");
        connection.execute(AssertSqlSafe(create)).await.expect("making the test's database");
        let mut url: url::Url = server.parse().expect("EVE_TEST_DATABASE_URL is a URL");
        url.set_path(&name);
        let config =
            DbConfig { url: url.into(), max_connections: 8, application_name: "eve-test".into() };
        Self { db: Db::connect(&config).expect("a valid URL"), server, name }
    }

    /// Runs statements as the owner of the database.
    pub async fn execute(&self, sql: String) {
        self.db.pool().execute(AssertSqlSafe(sql)).await.expect("a statement of the test's own");
    }

    /// An organisation with this slug.
    pub async fn org(&self, slug: &str) -> Tenant {
        let id = Uuid::new_v4();
        self.execute(format!(
            "INSERT INTO eve.organizations (id, slug, name) VALUES ('{id}', '{slug}', '{slug}')"
        ))
        .await;
        Tenant::proven(OrgId(id))
    }

    /// A new person who is a member with this role.
    pub async fn member(&self, tenant: Tenant, role: &str) -> UserId {
        let user = UserId(Uuid::new_v4());
        self.join(tenant, user, role).await;
        user
    }

    /// Makes a person a member of one more organisation.
    pub async fn join(&self, tenant: Tenant, user: UserId, role: &str) {
        let org = tenant.org();
        self.execute(format!(
            "INSERT INTO eve.org_members (org_id, user_id, role) VALUES ('{org}', '{user}', '{role}')"
        ))
        .await;
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime of its own: the test's is being torn down. What is left over harms nobody.
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&server).await.ok()?;
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                connection.execute(AssertSqlSafe(drop)).await.ok()
            })
        });
        let _ = dropped.join();
    }
}
