//! Schemas: where skills keep state, for each organisation apart.
//!
//! Flow: a call names a schema and brings statements. They are checked with Postgres' own parser
//! (`statements`); for a run, its lease and its grants are looked up (`grants`); the schema is made if it
//! is not there yet (`provision`); a session of the schema's own role is taken (`connections`, `server`)
//! and runs them (`call`, `migrations`). Answers are counted as they come in (`wire`, `limits`).
//!
//! Invariants:
//! - Whose schema it is comes from a [`Tenant`], never from an argument. One organisation, one database;
//!   one schema, one role that owns nothing else.
//! - No privileged role ever touches a tenant's table: whoever writes to one is the role that owns it, so
//!   a tenant's triggers and functions run as that.
//! - A call that is given up is stopped on the server before its place is free.
//! - What is done here takes effect at once: it is another database than the queue's.

mod call;
mod connections;
mod error;
pub mod grants;
pub mod limits;
mod migrations;
mod name;
mod provision;
mod server;
mod shell;
pub(crate) mod statements;
mod sweep;
mod template;
#[cfg(test)]
mod tests;
pub(crate) mod values;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

pub use call::{Column, Rows, Statement};
pub use error::{SchemaError, SqlError};
pub use migrations::{AppliedMigration, Migration};
pub use name::{InvalidSchemaName, SchemaName};
pub use server::{Server, ServerError, SkillsKey};
pub use shell::Shell;
pub use values::{Element, Value};

use crate::db::{Db, Scope};
use crate::ids::{RequestId, VersionId, WorkerId};
use crate::tenancy::{Actor, Tenant, audit};
use connections::Connections;
use statements::Checked;

/// What people and runs do with schemas. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schemas {
    db: Db,
    /// None: this installation has no skills server.
    connections: Option<Connections>,
    /// How long a call may take.
    patience: Duration,
}

/// A run that asks, with what proves it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The request that was claimed: for a wake-up, the wake-up itself.
    pub request: RequestId,
    /// The worker that has it.
    pub worker: WorkerId,
    /// Under which lease.
    pub lease: i64,
    /// The version of the skill that runs.
    pub version: VersionId,
    /// The skill's name, for messages.
    pub skill: String,
    /// The pool.
    pub worker_type: String,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Access {
    tenant: Tenant,
    /// The request that was claimed, if a run asks.
    run: Option<RequestId>,
}

impl Access {
    fn scope(&self) -> Scope {
        match self.run {
            Some(_) => Scope::Guest(self.tenant),
            None => Scope::Tenant(self.tenant),
        }
    }
}

/// A schema of an organisation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Schema {
    /// Its logical name.
    pub name: String,
    /// `requested` or `ready`.
    pub status: String,
    /// When it was first wanted.
    pub created_at: DateTime<Utc>,
    /// The newest migration that was applied.
    pub migration: Option<i32>,
}

/// Numbers those who use sessions: a session is reset when it changes hands.
static USERS: AtomicU64 = AtomicU64::new(1);

/// A number that nobody has had before.
pub(crate) fn new_user() -> u64 {
    USERS.fetch_add(1, Ordering::Relaxed)
}

impl Schemas {
    /// On the platform's database and a skills server, with at most `cap` sessions of it.
    pub fn new(db: Db, server: Server, cap: usize) -> Schemas {
        Schemas { db, connections: Some(Connections::new(server, cap)), patience: limits::CALL }
    }

    /// Without a skills server: every call says that there is none.
    pub fn none(db: Db) -> Schemas {
        Schemas { db, connections: None, patience: limits::CALL }
    }

    /// Makes the schemas that are wanted, until `stop`: with the provisioner's credentials, which the
    /// server's URL has where this is a control plane.
    pub async fn provision(&self, stop: CancellationToken) {
        if let Some(connections) = &self.connections {
            provision::run(self.db.clone(), connections.server().clone(), stop).await;
        }
    }

    fn connections(&self) -> Result<&Connections, SchemaError> {
        self.connections.as_ref().ok_or_else(|| {
            SchemaError::unavailable(
                "opening a session",
                "this installation has no skills database (SKILLS_DATABASE_URL)",
            )
        })
    }

    /// Runs statements for a person: all of them or none.
    pub async fn call(
        &self,
        tenant: Tenant,
        actor: &Actor,
        schema: &SchemaName,
        calls: &[Statement],
    ) -> Result<Vec<Rows>, SchemaError> {
        self.exists(tenant, schema).await?;
        let checked = call::check(calls)?;
        if checked.iter().any(|checked| checked.writes) {
            // Before it happens, for it happens in another database: better one entry too many.
            let failed = SchemaError::database("writing the audit log");
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
            audit::record(&mut tx, tenant, actor, "schema.execute", schema.as_str())
                .await
                .map_err(failed)?;
            tx.commit().await.map_err(failed)?;
        }
        let access = Access { tenant, run: None };
        self.within(self.call_as(&access, schema, calls, &checked, new_user())).await
    }

    /// Runs statements for a run: all of them or none. `user` is the same for all calls of the run.
    pub async fn call_for(
        &self,
        tenant: Tenant,
        run: &Run,
        schema: &SchemaName,
        calls: &[Statement],
        user: u64,
    ) -> Result<Vec<Rows>, SchemaError> {
        self.admit(tenant, run, schema).await?;
        let checked = call::check(calls)?;
        let access = Access { tenant, run: Some(run.request) };
        self.within(self.call_as(&access, schema, calls, &checked, user)).await
    }

    /// Runs statements for a run on its author's machine, which nobody has claimed: what admits a run of
    /// the platform is not asked.
    pub(crate) async fn call_apart(
        &self,
        tenant: Tenant,
        schema: &SchemaName,
        calls: &[Statement],
        user: u64,
    ) -> Result<Vec<Rows>, SchemaError> {
        let checked = call::check(calls)?;
        let access = Access { tenant, run: None };
        self.within(self.call_as(&access, schema, calls, &checked, user)).await
    }

    async fn call_as(
        &self,
        access: &Access,
        schema: &SchemaName,
        calls: &[Statement],
        checked: &[Checked],
        user: u64,
    ) -> Result<Vec<Rows>, SchemaError> {
        let mut lease = self.lease(access, schema, user).await?;
        let answered =
            call::run(&mut lease, calls, checked).await.map_err(|error| lease.explained(error));
        match &answered {
            // What is still on its way in, or half done, is stopped when the lease is dropped.
            Err(
                SchemaError::Limit(_) | SchemaError::Unavailable { .. } | SchemaError::Invalid(_),
            ) => {
                drop(lease);
            }
            _ => lease.done(),
        }
        answered
    }

    /// Applies a skill's migrations; returns the numbers of those that were applied now.
    pub async fn migrate_for(
        &self,
        tenant: Tenant,
        run: &Run,
        schema: &SchemaName,
        migrations: &[Migration],
        user: u64,
    ) -> Result<Vec<u32>, SchemaError> {
        self.admit(tenant, run, schema).await?;
        let access = Access { tenant, run: Some(run.request) };
        self.migrate_as(&access, schema, migrations, user).await
    }

    /// Applies migrations for a run on its author's machine.
    pub(crate) async fn migrate_apart(
        &self,
        tenant: Tenant,
        schema: &SchemaName,
        migrations: &[Migration],
        user: u64,
    ) -> Result<Vec<u32>, SchemaError> {
        self.migrate_as(&Access { tenant, run: None }, schema, migrations, user).await
    }

    async fn migrate_as(
        &self,
        access: &Access,
        schema: &SchemaName,
        migrations: &[Migration],
        user: u64,
    ) -> Result<Vec<u32>, SchemaError> {
        let parts = migrations::check(migrations)?;
        if migrations::is_done(&self.db, access, schema, migrations).await? {
            return Ok(Vec::new());
        }
        self.within(async {
            let mut lease = self.lease(access, schema, user).await?;
            let applied =
                migrations::apply(&self.db, access, schema, &mut lease, migrations, &parts).await;
            match &applied {
                Ok(_) | Err(SchemaError::Sql(_) | SchemaError::Migration(_)) => lease.done(),
                Err(_) => drop(lease),
            }
            applied
        })
        .await
    }

    async fn lease(
        &self,
        access: &Access,
        schema: &SchemaName,
        user: u64,
    ) -> Result<connections::Lease, SchemaError> {
        let connections = self.connections()?;
        let org = access.tenant.org();
        // Where there is a session, there is a schema.
        if !connections.has_idle(org, schema) {
            provision::want(&self.db, || access.scope(), org.0, schema).await?;
        }
        connections.lease(org, schema, user).await
    }

    /// Whether a run may do what it asks: it holds its lease, and reaches the schema.
    async fn admit(
        &self,
        tenant: Tenant,
        run: &Run,
        schema: &SchemaName,
    ) -> Result<(), SchemaError> {
        let standing = grants::standing(&self.db, tenant, run).await?;
        if !standing.holds_lease {
            return Err(SchemaError::LeaseLost);
        }
        standing.denies(schema, &run.skill).map_or(Ok(()), Err)
    }

    async fn exists(&self, tenant: Tenant, schema: &SchemaName) -> Result<(), SchemaError> {
        let failed = SchemaError::database("looking a schema up");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let there = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM eve.skill_schemas WHERE org_id = $1 AND name = $2) AS "there!""#,
            tenant.org().0,
            schema.as_str()
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        match there {
            true => Ok(()),
            false => Err(SchemaError::NotFound(schema.to_string())),
        }
    }

    /// The organisation's schemas, by name.
    pub async fn list(&self, tenant: Tenant) -> Result<Vec<Schema>, SchemaError> {
        let failed = SchemaError::database("listing schemas");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        sqlx::query_as!(
            Schema,
            r#"
            SELECT s.name, s.status, s.created_at,
                   (SELECT max(m.number) FROM eve.skill_migrations m
                     WHERE m.org_id = s.org_id AND m.schema_name = s.name
                       AND m.status = 'applied') AS migration
              FROM eve.skill_schemas s
             WHERE s.org_id = $1
             ORDER BY s.name
             LIMIT 1000
            "#,
            tenant.org().0
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)
    }

    /// What has been migrated in a schema.
    pub async fn migrations(
        &self,
        tenant: Tenant,
        schema: &SchemaName,
    ) -> Result<Vec<AppliedMigration>, SchemaError> {
        self.exists(tenant, schema).await?;
        migrations::list(&self.db, &Access { tenant, run: None }, schema).await
    }

    /// A call's time. What is dropped when it is over is stopped on the server.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, SchemaError>>,
    ) -> Result<T, SchemaError> {
        tokio::time::timeout(self.patience, call).await.unwrap_or_else(|_| {
            Err(SchemaError::Limit(format!(
                "the call took longer than {} s, and was stopped",
                self.patience.as_secs_f32()
            )))
        })
    }
}
