//! What every role may do, against a list that people have read.

use std::fmt::Write as _;

use anyhow::Result;
use eve_tests::Database;
use sqlx::PgPool;

/// Everybody who is not the owner.
const ROLES: [&str; 9] = [
    "eve_control",
    "eve_tenant",
    "eve_guest",
    "eve_engine",
    "eve_worker",
    "eve_metrics",
    "eve_views",
    "authenticated",
    "public",
];

/// Tables that belong to no organisation.
const OF_NOBODY: [&str; 5] =
    ["clusters", "leadership", "platform_admins", "worker_types", "workers"];

async fn rows(pool: &PgPool, query: &'static str) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(query).bind(ROLES.as_slice()).fetch_all(pool).await?)
}

/// What is granted on tables and views, partitions left out: by column where it is not on all.
const TABLES: &str = "
    SELECT format('%s: %s %s', CASE WHEN c.relnamespace = 'eve'::regnamespace THEN c.relname::text
                                    ELSE c.oid::regclass::text END, r.name,
                  string_agg(p.privilege || coalesce(' (' || x.columns || ')', ''), ', ' ORDER BY p.place))
      FROM pg_class c
     CROSS JOIN unnest($1) WITH ORDINALITY AS r (name, place)
     CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                WITH ORDINALITY AS p (privilege, place)
     CROSS JOIN LATERAL (SELECT has_table_privilege(r.name, c.oid, p.privilege) AS whole) t
     CROSS JOIN LATERAL (
               SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns
                 FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT t.whole
                  AND CASE WHEN p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                           THEN has_column_privilege(r.name, c.oid, a.attnum, p.privilege)
                           ELSE false END
           ) x
     WHERE (c.relnamespace IN ('eve'::regnamespace, 'auth'::regnamespace)
            OR c.oid = '_sqlx_migrations'::regclass)
       AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND NOT c.relispartition
       AND r.name <> pg_get_userbyid(c.relowner)
       AND (t.whole OR x.columns IS NOT NULL)
       -- What everybody may is said once.
       AND (r.name = 'public' OR NOT has_table_privilege('public', c.oid, p.privilege))
     GROUP BY c.oid, r.name, r.place
     ORDER BY c.relnamespace = 'eve'::regnamespace, c.relname, r.place";

/// Who may pass which rows.
const POLICIES: &str = "
    SELECT format('%s: %s, %s to %s: %s%s', p.tablename, p.policyname, p.cmd,
                  array_to_string(ARRAY(
                      SELECT CASE r.name WHEN pg_get_userbyid(c.relowner) THEN 'the owner' ELSE r.name END
                        FROM unnest(p.roles) WITH ORDINALITY AS r (name, place)
                       ORDER BY r.place), ', '),
                  regexp_replace(p.qual, '\\s+', ' ', 'g'),
                  CASE WHEN p.with_check = p.qual THEN ', written rows too'
                       WHEN p.with_check IS NOT NULL THEN ', written rows ' || p.with_check END)
      FROM pg_policies p
      JOIN pg_class c ON c.relnamespace = 'eve'::regnamespace AND c.relname = p.tablename
     WHERE p.schemaname = 'eve' AND $1::text[] IS NOT NULL
     ORDER BY p.tablename, p.policyname";

/// Who may call what, and as whom it runs.
const FUNCTIONS: &str = "
    SELECT format('%s: %s, for %s', p.oid::regprocedure,
                  CASE WHEN NOT p.prosecdef THEN 'as its caller'
                       WHEN p.proowner = n.nspowner THEN 'as the owner'
                       ELSE 'as ' || p.proowner::regrole END,
                  coalesce(nullif(array_to_string(ARRAY(
                      SELECT r.name
                        FROM unnest($1) WITH ORDINALITY AS r (name, place)
                       WHERE has_function_privilege(r.name, p.oid, 'EXECUTE')
                         AND r.name <> pg_get_userbyid(p.proowner)
                       ORDER BY r.place), ', '), ''), 'nobody else'))
      FROM pg_proc p
      JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = 'eve'
     ORDER BY p.oid::regprocedure::text";

/// Who may become whom.
const MEMBERSHIPS: &str = "
    SELECT format('%s: %s', m.name, string_agg(g.rolname, ', ' ORDER BY g.rolname))
      FROM unnest($1) AS m (name)
      JOIN pg_auth_members a ON a.member = to_regrole(m.name)
      JOIN pg_roles g ON g.oid = a.roleid
     GROUP BY m.name
     ORDER BY m.name";

const SCHEMAS: &str = "
    SELECT format('%s: %s %s', n.nspname, r.name, string_agg(p.privilege, ', ' ORDER BY p.privilege DESC))
      FROM pg_namespace n
     CROSS JOIN unnest($1) WITH ORDINALITY AS r (name, place)
     CROSS JOIN unnest(ARRAY['USAGE', 'CREATE']) AS p (privilege)
     WHERE n.nspname IN ('eve', 'auth') AND has_schema_privilege(r.name, n.oid, p.privilege)
     GROUP BY n.nspname, r.name, r.place
     ORDER BY n.nspname, r.place";

/// All of it, to be read whenever it changes: what is wider than it need be is a finding.
#[tokio::test]
async fn what_every_role_may_do() -> Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    let mut text = String::new();
    for (heading, query) in [
        ("Roles that may become others", MEMBERSHIPS),
        ("Schemas", SCHEMAS),
        ("Tables and views", TABLES),
        ("Policies", POLICIES),
        ("Functions", FUNCTIONS),
    ] {
        writeln!(text, "# {heading}")?;
        for row in rows(&pool, query).await? {
            writeln!(text, "{row}")?;
        }
    }
    insta::assert_snapshot!("privileges", text);
    Ok(())
}

/// A table that somebody adds tomorrow without a wall fails here.
#[tokio::test]
async fn every_tenant_table_has_its_wall() -> Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    let unwalled: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text
           FROM pg_class c
          WHERE c.relnamespace = 'eve'::regnamespace
            AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname <> ALL ($1)
            AND NOT (c.relrowsecurity AND c.relforcerowsecurity
                     AND EXISTS (
                         SELECT FROM pg_policies p
                          WHERE p.schemaname = 'eve' AND p.tablename = c.relname
                            AND p.policyname = 'owner' AND p.roles = ARRAY[pg_get_userbyid(c.relowner)])
                     AND EXISTS (
                         SELECT FROM pg_policies p
                          WHERE p.schemaname = 'eve' AND p.tablename = c.relname
                            AND p.policyname = 'tenant' AND p.roles = '{eve_tenant}'
                            AND p.qual LIKE '%eve.org_id%'
                            AND (p.cmd = 'SELECT' OR p.with_check LIKE '%eve.org_id%')))",
    )
    .bind(OF_NOBODY.as_slice())
    .fetch_all(&pool)
    .await?;
    assert!(unwalled.is_empty(), "no wall around {unwalled:?}");

    // What belongs to nobody has no column that says whose it is.
    let misplaced: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text
           FROM pg_class c
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id'
          WHERE c.relnamespace = 'eve'::regnamespace AND c.relname = ANY ($1)",
    )
    .bind(OF_NOBODY.as_slice())
    .fetch_all(&pool)
    .await?;
    assert!(misplaced.is_empty(), "{misplaced:?}");

    // A policy for everybody would open a wall to roles that nobody thought of; one that restricts
    // nothing belongs to those alone who span organisations.
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT tablename || '.' || policyname
           FROM pg_policies
          WHERE schemaname = 'eve'
            AND ('public' = ANY (roles)
                 OR (qual = 'true' AND policyname NOT IN ('owner', 'engine', 'control', 'views'))
                 OR (policyname IN ('engine', 'control', 'views')
                     AND roles <> ARRAY['eve_' || policyname]::name[]))",
    )
    .fetch_all(&pool)
    .await?;
    assert!(open.is_empty(), "{open:?}");
    Ok(())
}

/// Walls stand on the parents: nobody gets at a partition by its own name.
#[tokio::test]
async fn partitions_have_no_doors() -> Result<()> {
    let database = Database::fresh().await?;
    let doors = "
        SELECT c.relname || ' to ' || r.name
          FROM pg_class c, unnest($1) AS r (name)
         WHERE c.relnamespace = 'eve'::regnamespace AND c.relispartition AND c.relkind = 'r'
           AND (has_table_privilege(r.name, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
                OR has_any_column_privilege(r.name, c.oid, 'SELECT, INSERT, UPDATE'))";
    let doors = rows(&database.pool(), doors).await?;
    assert!(doors.is_empty(), "{doors:?}");
    Ok(())
}

/// What row-level security does not see: TRUNCATE and foreign keys go past it, a function for everybody is
/// one for whoever is let in tomorrow, and a definer whose search path its caller sets runs what they like.
#[tokio::test]
async fn nothing_goes_past_the_walls() -> Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    for (what, query) in [
        (
            "a role with a privilege that no policy stops",
            "SELECT c.relname || ' to ' || r.name
               FROM pg_class c, unnest($1) AS r (name)
              WHERE c.relnamespace = 'eve'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                AND r.name <> pg_get_userbyid(c.relowner)
                AND has_table_privilege(r.name, c.oid, 'TRUNCATE, REFERENCES, TRIGGER')",
        ),
        (
            "a role that walls do not stop, or that somebody can log in as",
            "SELECT rolname::text
               FROM pg_roles
              WHERE rolname = ANY ($1) AND rolname <> 'public'
                AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb
                     OR rolreplication OR rolinherit)",
        ),
        (
            "a function that everybody may call",
            "SELECT p.oid::regprocedure::text
               FROM pg_proc p
              WHERE p.pronamespace = 'eve'::regnamespace AND cardinality($1) > 0
                AND has_function_privilege('public', p.oid, 'EXECUTE')",
        ),
        (
            "a definer function without a search path of its own",
            "SELECT p.oid::regprocedure::text
               FROM pg_proc p
              WHERE p.pronamespace = 'eve'::regnamespace AND p.prosecdef AND cardinality($1) > 0
                AND NOT 'search_path=pg_catalog' = ANY (coalesce(p.proconfig, '{}'))",
        ),
        (
            "a view that shows what its reader may not see, unless it has a guard of its own",
            "SELECT c.relname::text
               FROM pg_class c
              WHERE c.relnamespace = 'eve'::regnamespace AND c.relkind IN ('v', 'm')
                AND cardinality($1) > 0
                AND NOT (c.relname = 'orchestration_requests'
                         AND 'security_barrier=true' = ANY (coalesce(c.reloptions, '{}')))",
        ),
        (
            "a role that can make things in the schema",
            "SELECT r.name FROM unnest($1) AS r (name) WHERE has_schema_privilege(r.name, 'eve', 'CREATE')",
        ),
    ] {
        let found = rows(&pool, query).await?;
        assert!(found.is_empty(), "{what}: {found:?}");
    }
    Ok(())
}
