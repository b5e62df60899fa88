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
use super::{SchemaError, SchemaName, Schemas, provision};
use crate::db::Scope;
use crate::ids::OrgId;
use crate::tenancy::{Actor, Tenant, audit};

/// How long a role lives, and the longest that a session of it can.
const LIFE: Duration = Duration::from_secs(3600);
/// Sessions of one shell: `\connect`, and a tool that opens a second one.
const SESSIONS: u32 = 3;
/// What their names begin with.
pub(super) const PREFIX: &str = "eve_shell_";

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
    let session = server.provision(&database, DOING).await?;
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
