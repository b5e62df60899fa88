//! The template that organisations' databases are copied from, and the doors that it shuts.
//!
//! A role of a schema owns tables in one schema of one database. What Postgres grants to PUBLIC besides
//! would still let it see or disturb others on the same server, so the template takes that away, and
//! every session is asked whether it really is gone ([`open_doors`]) before it is used: a server that was
//! prepared by hand, restored, or upgraded does not open a door unseen.
//!
//! Only a superuser can prepare a server: what is revoked belongs to Postgres itself.

use super::server::{OpenError, Server, TEMPLATE, change, code};

/// Functions that nobody needs and that reach beyond a schema, by how their names begin: locks,
/// notifications and messages fill shared memory; settings undo limits; statistics show others; large
/// objects have no owner's schema; the XML functions run statements that nobody has looked at, or cannot be
/// interrupted; some name what other databases hold.
const FUNCTIONS: &str = r"^(pg_(try_)?advisory_.*|pg_notify|pg_listening_channels|pg_notification_queue_usage|set_config|pg_logical_emit_message|pg_export_snapshot|pg_stat_get_.*|pg_lock_status|pg_blocking_pids|pg_safe_snapshot_blocking_pids|pg_isolation_test_session_is_blocked|pg_prepared_xact|pg_cursor|pg_prepared_statement|lo_.*|loread|lowrite|query_to_xml.*|cursor_to_xml.*|table_to_xml.*|schema_to_xml.*|database_to_xml.*|ts_stat|pg_database_size|pg_tablespace_size|pg_tablespace_databases|pg_create_.*|pg_replication_.*|pg_show_replication_origin_status|pg_hba_file_rules|pg_file_settings|pg_current_logfile|pg_ls_.*|pg_read_.*|pg_stat_file|pg_relation_filepath|pg_filenode_relation|inet_server_addr|inet_client_addr|setseed|xpath.*|xmlexists|xml_is_well_formed.*|xmlvalidate|pg_describe_object|pg_identify_object.*|pg_get_object_address|pg_control_.*|pg_current_wal_.*)$";

/// Catalogues that show other databases, roles, sessions and what they do.
const RELATIONS: &str = r"^(pg_database|pg_authid|pg_roles|pg_user|pg_shadow|pg_group|pg_auth_members|pg_db_role_setting|pg_shdescription|pg_shseclabel|pg_shdepend|pg_tablespace|pg_parameter_acl|pg_locks|pg_prepared_xacts|pg_prepared_statements|pg_cursors|pg_settings|pg_file_settings|pg_hba_file_rules|pg_ident_file_mappings|pg_user_mapping|pg_user_mappings|pg_foreign_server|pg_largeobject|pg_largeobject_metadata|pg_subscription|pg_replication_.*|pg_stat_.*|pg_statio_.*|pg_shmem_allocations|pg_backend_memory_contexts|pg_config|pg_seclabels)$";

/// Prepares the server, as a superuser: the template, and the databases that are there for everybody.
/// Safe to run again, and from several places at once.
pub(super) async fn prepare(server: &Server) -> Result<(), PrepareError> {
    let maintenance = server.open(&server.provisioner("postgres")).await?;
    let client = maintenance.client;
    let there = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    if !client.query_one(there, &[&TEMPLATE]).await?.get::<_, bool>(0) {
        match client.batch_execute(&format!("CREATE DATABASE {TEMPLATE} TEMPLATE template0")).await
        {
            // Somebody else has made it at this moment.
            Err(error) if matches!(code(&error), Some("42P04" | "23505")) => {}
            other => other?,
        }
    }
    // The URL's own database is the platform's, where both are on one server.
    let named = server.config.get_dbname().unwrap_or("postgres").replace('"', "\"\"");
    for database in ["postgres", "template1", TEMPLATE, &format!("\"{named}\"")] {
        change(&client, &format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC")).await?;
    }
    let session = server.open(&server.provisioner(TEMPLATE)).await?;
    let shut = "DROP EXTENSION IF EXISTS plpgsql; REVOKE ALL ON SCHEMA public FROM PUBLIC";
    change(&session.client, shut).await?;
    // Without plpgsql there is no loop on the server, so the statements are made here.
    let revokes: Vec<String> = session
        .client
        .query(
            "SELECT format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', p.oid::regprocedure)
               FROM pg_proc p
              WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ $1
                AND p.prokind = 'f' AND has_function_privilege('public', p.oid, 'EXECUTE')
             UNION ALL
             SELECT format('REVOKE ALL ON pg_catalog.%I FROM PUBLIC', c.relname)
               FROM pg_class c
              WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname ~ $2
                AND c.relkind IN ('r', 'v')
                AND has_any_column_privilege('public', c.oid, 'SELECT')",
            &[&FUNCTIONS, &RELATIONS],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    change(&session.client, &revokes.join(";\n")).await?;
    drop(session);
    change(&client, &format!("ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")).await?;
    Ok(())
}

/// Why a server could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It cannot be reached, or refuses the session.
    #[error("opening a session")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused a statement.
    #[error("preparing the template")]
    Refused(#[from] tokio_postgres::Error),
}

impl From<OpenError> for PrepareError {
    fn from(error: OpenError) -> Self {
        PrepareError::Open(Box::new(error))
    }
}

/// The doors that are open to the session's role, one row each; none is what every session must answer.
pub(super) fn open_doors() -> String {
    format!(
        "SELECT 'EXECUTE on ' || p.oid::regprocedure
           FROM pg_catalog.pg_proc p
          WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '{FUNCTIONS}'
            AND p.prokind = 'f' AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
         UNION ALL
         SELECT 'SELECT on ' || c.oid::regclass
           FROM pg_catalog.pg_class c
          WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname ~ '{RELATIONS}'
            AND c.relkind IN ('r', 'v') AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
         UNION ALL
         SELECT 'USAGE on language ' || l.lanname FROM pg_catalog.pg_language l
          WHERE l.lanname NOT IN ('sql', 'internal', 'c') AND pg_catalog.has_language_privilege(l.oid, 'USAGE')
         UNION ALL
         SELECT 'CREATE on schema ' || n.nspname FROM pg_catalog.pg_namespace n
          WHERE n.nspname IN ('public', 'pg_catalog', 'information_schema')
            AND pg_catalog.has_schema_privilege(n.oid, 'CREATE')
         UNION ALL
         SELECT privilege || ' on its database'
           FROM pg_catalog.unnest(ARRAY['CREATE', 'TEMP']) AS privilege
          WHERE pg_catalog.has_database_privilege(pg_catalog.current_database(), privilege)
         LIMIT 5"
    )
}
