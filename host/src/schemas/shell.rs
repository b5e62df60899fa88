//! Shells: sessions of a person's own tools in a schema, with a role that lives for an hour.
//!
//! The role can log in, has the rights of the schema's role by becoming it at log-in, and owns nothing:
//! what is made in a shell belongs to the schema's role, as what skills make does. What a shell may say is
//! not looked at (`statements` is for calls); that is why it is for administrators, and audited.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::config::Host;
use utoipa::ToSchema;

use super::server::Server;
use super::template::code;
use super::{SchemaError, SchemaName, Schemas, provision};
use crate::db::Scope;
use crate::ids::OrgId;
use crate::tenancy::{Actor, Tenant, audit};

/// How long a role lives, and the longest that a session of it can.
pub(super) const LIFE: Duration = Duration::from_secs(3600);
/// Sessions of one shell: `\connect`, and a tool that opens a second one.
const SESSIONS: u32 = 3;
/// What their names begin with.
const PREFIX: &str = "eve_shell_";

/// Where a shell connects to, and as whom.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Shell {
    /// A host name, an address, or the folder of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The organisation's database.
    pub database: String,
    /// A role of its own, which ends at `expires_at`, and its sessions with it.
    pub user: String,
    /// Its password. It is shown this once.
    pub password: String,
    /// An hour from now.
    pub expires_at: DateTime<Utc>,
}

impl Schemas {
    /// Makes a role for a person's own tools. The schema must be there.
    pub async fn open_shell(
        &self,
        tenant: Tenant,
        actor: &Actor,
        schema: &SchemaName,
    ) -> Result<Shell, SchemaError> {
        self.exists(tenant, schema).await?;
        let server = self.connections()?.server();
        provision::want(&self.db, || Scope::Tenant(tenant), tenant.org().0, schema).await?;
        let failed = SchemaError::database("writing the audit log");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        audit::record(&mut tx, tenant, actor, "schema.shell", schema.as_str())
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        open(server, tenant.org(), schema).await
    }
}

async fn open(server: &Server, org: OrgId, schema: &SchemaName) -> Result<Shell, SchemaError> {
    const DOING: &str = "making a role for a shell";
    let failed = |error: tokio_postgres::Error| SchemaError::unavailable(DOING, error);
    let database = Server::database(org);
    let tenant = Server::role(org, schema);
    let user = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 8]>()));
    let password = hex::encode(rand::random::<[u8; 24]>());
    let session = server
        .open(&server.provisioner(&database))
        .await
        .map_err(|error| SchemaError::unavailable(DOING, error))?;
    // By the server's own clock, which is the one that ends it.
    let seconds: f64 = session
        .client
        .query_one(
            "SELECT trunc(extract(epoch FROM now()) + $1::float8)::float8",
            &[&LIFE.as_secs_f64()],
        )
        .await
        .map_err(failed)?
        .get(0);
    let expires_at = DateTime::from_timestamp(seconds as i64, 0).unwrap_or_default();
    let scram = postgres_protocol::password::scram_sha_256(password.as_bytes());
    // All or nothing, and in no privileged role's name.
    let sql = format!(
        "BEGIN;
         CREATE ROLE {user} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
                CONNECTION LIMIT {SESSIONS} VALID UNTIL '{until}' PASSWORD '{scram}';
         GRANT {tenant} TO {user};
         GRANT CONNECT ON DATABASE {database} TO {user};
         ALTER ROLE {user} SET role = '{tenant}';
         ALTER ROLE {user} SET search_path = \"{schema}\";
         ALTER ROLE {user} SET statement_timeout = '5min';
         ALTER ROLE {user} SET idle_in_transaction_session_timeout = '5min';
         COMMIT",
        until = expires_at.to_rfc3339(),
    );
    session.client.batch_execute(&sql).await.map_err(failed)?;
    let host = match server.config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = server.config.get_ports().first().copied().unwrap_or(5432);
    Ok(Shell { host, port, database, user, password, expires_at })
}

/// Ends what has expired: sessions first, then the roles. Safe to do again, and by two at once.
pub(super) async fn sweep(server: &Server) -> Result<u64, SchemaError> {
    const DOING: &str = "removing the roles of shells";
    let failed = |error: tokio_postgres::Error| SchemaError::unavailable(DOING, error);
    let session = server
        .open(&server.provisioner("postgres"))
        .await
        .map_err(|error| SchemaError::unavailable(DOING, error))?;
    // Where they stood in privileges that they were granted, nobody could drop them.
    let expired = session
        .client
        .query(
            "SELECT r.rolname::text, d.datname::text
               FROM pg_roles r
               LEFT JOIN pg_database d
                 ON EXISTS (SELECT FROM aclexplode(d.datacl) a WHERE a.grantee = r.oid)
              WHERE starts_with(r.rolname, $1) AND r.rolvaliduntil <= now()",
            &[&PREFIX],
        )
        .await
        .map_err(failed)?;
    let mut removed = 0;
    for row in expired {
        let (role, database): (String, Option<String>) = (row.get(0), row.get(1));
        session
            .client
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
                &[&role],
            )
            .await
            .map_err(failed)?;
        match drop_role(server, &session.client, &role, database.as_deref()).await {
            Ok(()) => removed += 1,
            // Somebody else is at it, or was; or it stands in the way of nobody but itself.
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(role, error, "a shell's role could not be removed; trying again");
            }
        }
    }
    Ok(removed)
}

async fn drop_role(
    server: &Server,
    client: &tokio_postgres::Client,
    role: &str,
    database: Option<&str>,
) -> Result<(), SchemaError> {
    const DOING: &str = "removing the role of a shell";
    let failed = |error: tokio_postgres::Error| SchemaError::unavailable(DOING, error);
    if let Some(database) = database {
        let inside = server
            .open(&server.provisioner(database))
            .await
            .map_err(|error| SchemaError::unavailable(DOING, error))?;
        // What it was granted, and what it owns after all; its right to connect too.
        inside.client.batch_execute(&format!("DROP OWNED BY {role}")).await.map_err(failed)?;
    }
    client.batch_execute(&format!("DROP ROLE IF EXISTS {role}")).await.map_err(failed)
}

/// Ends the server's own workers that have been at an organisation's table for very long: they evaluate what
/// its authors have put into indexes, without any of our limits.
pub(super) async fn end_stuck_workers(server: &Server) -> Result<(), SchemaError> {
    const DOING: &str = "ending workers that are stuck";
    let session = server
        .open(&server.provisioner("postgres"))
        .await
        .map_err(|error| SchemaError::unavailable(DOING, error))?;
    let ended = session
        .client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE backend_type = 'autovacuum worker' AND datname LIKE 'eve\\_org\\_%'
                AND xact_start < now() - interval '10 minutes'",
            &[],
        )
        .await;
    match ended {
        Ok(0) => Ok(()),
        Ok(count) => {
            tracing::warn!(
                count,
                "autovacuum workers were ended that had been at a tenant's table for very long"
            );
            Ok(())
        }
        // Only a superuser, or a member of pg_signal_backend from Postgres 18 on, may.
        Err(error) if code(&error) == Some("42501") => Ok(()),
        Err(error) => Err(SchemaError::unavailable(DOING, error)),
    }
}
