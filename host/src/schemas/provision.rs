//! Making what is wanted: a database for an organisation, in it a schema and a role.
//!
//! Flow: whoever wants a schema writes a row (`requested`); a control plane, which alone has the
//! provisioner's credentials, finds it, makes what is missing, and writes `ready`. Every step can be
//! done again, and by two at once: who dies half-way leaves a row that the next round finds.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::server::{Server, change, code};
use super::{SchemaError, SchemaName, limits, sweep, template};
use crate::db::{Db, Scope, is_connection_loss};
use crate::ids::OrgId;

/// How often requests are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How long after a failure the same schema is tried again.
const RETRY: f64 = 5.0;
/// Schemas made at one time, by one process: copying a database takes the disk a tenth of a second.
const AT_ONCE: i64 = 4;
/// How often the server is swept.
const SWEEP: Duration = Duration::from_secs(60);
/// For errors.
const DOING: &str = "making a schema";

/// Makes what is requested, until `stop`, and sweeps the server.
pub(super) async fn run(db: Db, server: Server, stop: CancellationToken) {
    let mut prepared = false;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeps = tokio::time::interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            _ = sweeps.tick() => {
                if let Err(error) = sweep::sweep(&server).await {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "the skills server could not be swept; trying again");
                }
                continue;
            }
        }
        let wanted = match wanted(&db).await {
            Ok(wanted) => wanted,
            Err(error) => {
                crate::scheduler::report("looking for schemas to make", &error);
                continue;
            }
        };
        if !wanted.is_empty() && !prepared {
            match template::prepare(&server).await {
                Ok(()) => prepared = true,
                // Not a superuser: somebody else has to have prepared it, and every session looks.
                Err(template::PrepareError::Refused(error)) if code(&error) == Some("42501") => {
                    prepared = true;
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the skills server could not be prepared");
                }
            }
        }
        let making = wanted.into_iter().map(|(org, name)| make_and_note(&db, &server, org, name));
        futures::future::join_all(making).await;
    }
}

/// Requests that nobody has tried just now. Taking one moves its `tried_at`, so that another control
/// plane leaves it alone for a while.
async fn wanted(db: &Db) -> Result<Vec<(OrgId, SchemaName)>, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let rows = sqlx::query!(
        r#"
        UPDATE eve.skill_schemas s
           SET tried_at = now()
          FROM (SELECT org_id, name FROM eve.skill_schemas
                 WHERE status = 'requested'
                   AND (tried_at IS NULL OR tried_at <= now() - make_interval(secs => $2))
                 ORDER BY tried_at NULLS FIRST
                 LIMIT $1
                   FOR UPDATE SKIP LOCKED) w
         WHERE s.org_id = w.org_id AND s.name = w.name
        RETURNING s.org_id, s.name
        "#,
        AT_ONCE,
        RETRY
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((OrgId(row.org_id), row.name.parse().ok()?)))
        .collect())
}

async fn make_and_note(db: &Db, server: &Server, org: OrgId, name: SchemaName) {
    // One that hangs, behind a session that will not end for instance, does not keep the others.
    let made = tokio::time::timeout(limits::MAKING, make(server, org, &name)).await;
    let made = made.unwrap_or_else(|_| Err(SchemaError::unavailable(DOING, "it hangs")));
    let error = made.as_ref().err().map(|error| {
        let error: &dyn std::error::Error = error;
        tracing::error!(%org, schema = %name, error, "a schema could not be made; trying again");
        "the skills server refused to make it; the control plane's log says why"
    });
    let noted = async {
        let mut tx = db.begin(Scope::Engine).await?;
        sqlx::query!(
            r#"
            UPDATE eve.skill_schemas
               SET status = CASE WHEN $3::text IS NULL THEN 'ready' ELSE 'requested' END, error = $3,
                   ready_at = CASE WHEN $3 IS NULL THEN now() END
             WHERE org_id = $1 AND name = $2
            "#,
            org.0,
            name.as_str(),
            error
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    };
    if let Err(error) = noted.await
        && !is_connection_loss(&error)
    {
        crate::scheduler::report("noting that a schema is there", &error);
    }
}

/// Makes the organisation's database, the schema and its role, as far as they are missing.
pub(super) async fn make(
    server: &Server,
    org: OrgId,
    name: &SchemaName,
) -> Result<(), SchemaError> {
    let database = Server::database(org);
    let (role, login) = (Server::role(org, name), Server::login(org, name));
    let failed = |error: tokio_postgres::Error| SchemaError::of_client(DOING, error, 0);
    let session = server.provision("postgres", DOING).await?;
    let there: bool = session
        .client
        .query_one("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", &[&database])
        .await
        .map_err(failed)?
        .get(0);
    if !there {
        let create = format!("CREATE DATABASE {database} TEMPLATE {}", super::server::TEMPLATE);
        match change(&session.client, &create).await {
            // Two at once.
            Err(error) if matches!(code(&error), Some("42P04" | "23505")) => {}
            other => other.map_err(failed)?,
        }
    }
    // Privileges on a database are not copied with it.
    let limits = format!(
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC;
         ALTER DATABASE {database} SET search_path = pg_catalog;
         ALTER DATABASE {database} CONNECTION LIMIT {}",
        limits::DATABASE_CONNECTIONS
    );
    change(&session.client, &limits).await.map_err(failed)?;
    let password =
        postgres_protocol::password::scram_sha_256(server.password(org, name).as_bytes());
    const PLAIN: &str = "NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
    let connections = limits::ROLE_CONNECTIONS;
    // What is there already gets the password of this key, which may have been changed.
    let roles = [
        (&role, format!("NOLOGIN {PLAIN}")),
        (&login, format!("LOGIN {PLAIN} CONNECTION LIMIT {connections} PASSWORD '{password}'")),
    ];
    for (role, options) in roles {
        match session.client.batch_execute(&format!("CREATE ROLE {role} {options}")).await {
            Err(error) if matches!(code(&error), Some("42710" | "23505")) => {
                let options = options.replace(PLAIN, "");
                change(&session.client, &format!("ALTER ROLE {role} {options}"))
                    .await
                    .map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
    }
    // The schema alone is named: what Postgres has comes before it, so that nothing of a tenant's stands in
    // for it.
    let settings = format!(
        "GRANT {role} TO {login};
         GRANT CONNECT ON DATABASE {database} TO {login};
         ALTER ROLE {login} SET role = '{role}';
         ALTER ROLE {login} SET search_path = \"{name}\";
         ALTER ROLE {login} SET statement_timeout = '{timeout}ms';
         ALTER ROLE {login} SET idle_in_transaction_session_timeout = '10s';
         ALTER ROLE {login} SET work_mem = '8MB';
         ALTER ROLE {login} SET jit = off;
         ALTER ROLE {login} SET max_parallel_workers_per_gather = 0;
         ALTER ROLE {login} SET max_parallel_maintenance_workers = 0",
        timeout = (limits::CALL + limits::CANCEL).as_millis(),
    );
    change(&session.client, &settings).await.map_err(failed)?;
    // Only a superuser, or who was granted them (Postgres 15), may set these. The database's is for the
    // server's own workers, which evaluate what stands in indexes.
    for setting in [
        format!("ALTER ROLE {login} SET temp_file_limit = '{}'", limits::TEMP_FILES),
        format!("ALTER DATABASE {database} SET temp_file_limit = '{}'", limits::TEMP_FILES),
        format!("ALTER ROLE {login} SET log_min_error_statement = 'panic'"),
    ] {
        match change(&session.client, &setting).await {
            Err(error) if code(&error) == Some("42501") => {
                tracing::warn!(
                    setting,
                    "not allowed: GRANT SET ON PARAMETER temp_file_limit, log_min_error_statement TO \
                     the provisioner"
                );
            }
            other => other.map_err(failed)?,
        }
    }
    let session = server.provision(&database, DOING).await?;
    // The provisioner's own, so that the tenant can neither drop nor give away what it stands in.
    let schema = format!(
        "CREATE SCHEMA IF NOT EXISTS \"{name}\";
         GRANT USAGE, CREATE ON SCHEMA \"{name}\" TO {role}"
    );
    match change(&session.client, &schema).await {
        Err(error) if matches!(code(&error), Some("42P06" | "23505")) => {
            change(&session.client, &schema).await.map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Says that a schema is wanted, and waits until it is there.
pub(super) async fn want(
    db: &Db,
    scope: impl Fn() -> Scope,
    org: Uuid,
    name: &SchemaName,
) -> Result<(), SchemaError> {
    let failed = SchemaError::database(DOING);
    let mut wait = Duration::from_millis(20);
    loop {
        let mut tx = db.begin(scope()).await.map_err(failed)?;
        let row = sqlx::query!(
            r#"SELECT status, error FROM eve.skill_schemas WHERE org_id = $1 AND name = $2"#,
            org,
            name.as_str()
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        match row.map(|row| (row.status, row.error)) {
            Some((status, _)) if status == "ready" => return Ok(()),
            Some((_, Some(error))) => return Err(SchemaError::unavailable(DOING, error)),
            Some(_) => {}
            None => {
                sqlx::query!(
                    "INSERT INTO eve.skill_schemas (org_id, name) VALUES ($1, $2)
                     ON CONFLICT DO NOTHING",
                    org,
                    name.as_str()
                )
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            }
        }
        tx.commit().await.map_err(failed)?;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(200));
    }
}
