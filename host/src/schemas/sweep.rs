//! What is swept from the skills server now and then: shells whose hour is over, and workers of the server's
//! own that are stuck. Safe to do again, and by two at once.

use tokio_postgres::Client;

use super::SchemaError;
use super::server::{Server, code};
use super::shell::PREFIX;

const DOING: &str = "sweeping the skills server";

/// Sweeps once.
pub(super) async fn sweep(server: &Server) -> Result<(), SchemaError> {
    let session = server.provision("postgres", DOING).await?;
    end_shells(server, &session.client).await?;
    end_stuck_workers(&session.client).await
}

fn failed(error: tokio_postgres::Error) -> SchemaError {
    SchemaError::unavailable(DOING, error)
}

/// Ends the sessions of shells that have expired, then their roles.
async fn end_shells(server: &Server, client: &Client) -> Result<(), SchemaError> {
    let expired = client
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
    for row in expired {
        let (role, database): (String, Option<String>) = (row.get(0), row.get(1));
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        client.execute(terminate, &[&role]).await.map_err(failed)?;
        // Somebody else may be at it; and one that cannot be removed keeps no other from it.
        if let Err(error) = drop_role(server, client, &role, database.as_deref()).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(role, error, "a shell's role could not be removed; trying again");
        }
    }
    Ok(())
}

async fn drop_role(
    server: &Server,
    client: &Client,
    role: &str,
    database: Option<&str>,
) -> Result<(), SchemaError> {
    if let Some(database) = database {
        let inside = server.provision(database, DOING).await?;
        // What it was granted, its right to connect too, and what it owns after all: nobody could drop it.
        inside.client.batch_execute(&format!("DROP OWNED BY {role}")).await.map_err(failed)?;
    }
    client.batch_execute(&format!("DROP ROLE IF EXISTS {role}")).await.map_err(failed)
}

/// Ends the server's own workers that have been at an organisation's table for very long: they evaluate what
/// its authors have put into indexes, without any of our limits.
async fn end_stuck_workers(client: &Client) -> Result<(), SchemaError> {
    let ended = client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE backend_type = 'autovacuum worker' AND datname LIKE 'eve\\_org\\_%'
                AND xact_start < now() - interval '10 minutes'",
            &[],
        )
        .await;
    match ended {
        Ok(0) => {}
        Ok(count) => tracing::warn!(
            count,
            "autovacuum workers were ended that had been at a tenant's table for very long"
        ),
        // Only a superuser, or a member of pg_signal_backend from Postgres 18 on, may.
        Err(error) if code(&error) == Some("42501") => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}
