//! People who read the database themselves, as Supabase lets them: the role `authenticated`, and who they
//! are in the settings of the request.

use anyhow::Result;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use super::ground::{Ground, Host, Table};

/// What any member of an organisation reads of it.
const MEMBERS_SEE: [&str; 24] = [
    "apps",
    "attempts",
    "dependencies",
    "deployment_events",
    "deployment_orders",
    "deployment_revisions",
    "deployments",
    "environment_secrets",
    "environments",
    "hitl_requests",
    "orchestration_results",
    "org_members",
    "organizations",
    "queue",
    "requests",
    "revoked_capabilities",
    "run_logs",
    "schedule_ticks",
    "schedules",
    "schema_approvals",
    "skill_migrations",
    "skill_schemas",
    "skill_versions",
    "skills",
];
/// What only its admins and owners read. Whatever is in neither list nobody reads.
const ADMINS_SEE: [&str; 2] = ["api_tokens", "audit_log"];

/// Somebody's request, as PostgREST tells the database of it.
#[derive(Clone, Debug)]
enum Claims {
    /// As it does now.
    Json(String),
    /// As it did before version 9.
    Single(String),
    None,
}

fn person(user: Uuid) -> Claims {
    Claims::Json(json!({ "sub": user, "role": "authenticated" }).to_string())
}

async fn sign_in(ground: &mut Ground, claims: &Claims) -> Result<()> {
    ground.enter("authenticated", None).await?;
    let (setting, value) = match claims {
        Claims::Json(claims) => ("request.jwt.claims", claims),
        Claims::Single(subject) => ("request.jwt.claim.sub", subject),
        Claims::None => return Ok(()),
    };
    sqlx::query("SELECT set_config($1, $2, true)")
        .bind(setting)
        .bind(value)
        .execute(ground.session())
        .await?;
    Ok(())
}

async fn join(ground: &mut Ground, org: Uuid, role: &str) -> Result<Uuid> {
    ground.leave().await?;
    let user = Uuid::now_v7();
    also_join(ground, org, user, role).await?;
    Ok(user)
}

async fn also_join(ground: &mut Ground, org: Uuid, user: Uuid, role: &str) -> Result<()> {
    sqlx::query("INSERT INTO eve.org_members (org_id, user_id, role) VALUES ($1, $2, $3)")
        .bind(org)
        .bind(user)
        .bind(role)
        .execute(ground.session())
        .await?;
    Ok(())
}

async fn sees(host: Host) -> Result<()> {
    let mut ground = Ground::on(host).await?;
    let (acme, corp) = (ground.acme.id, ground.corp.id);
    let owner = ground.acme.owner;
    let admin = join(&mut ground, acme, "admin").await?;
    let member = join(&mut ground, acme, "member").await?;
    let both = join(&mut ground, acme, "member").await?;
    also_join(&mut ground, corp, both, "owner").await?;
    let mut each = vec![acme, corp];
    each.sort_unstable();

    // Who, the organisations that they are members of, and those that they administer.
    let people: [(Claims, &[Uuid], &[Uuid]); 9] = [
        (person(owner), &[acme], &[acme]),
        (person(admin), &[acme], &[acme]),
        (person(member), &[acme], &[]),
        (person(both), &each, &[corp]),
        (Claims::Single(both.to_string()), &each, &[corp]),
        (person(Uuid::now_v7()), &[], &[]),
        (Claims::None, &[], &[]),
        (Claims::Json(String::new()), &[], &[]),
        (
            Claims::Json(json!({ "role": "service_role", "email": "ada@acme.test" }).to_string()),
            &[],
            &[],
        ),
    ];
    for Table { name, org } in ground.tables.clone() {
        let select = format!("SELECT {org} FROM eve.{name}");
        for (claims, member_of, admin_of) in &people {
            sign_in(&mut ground, claims).await?;
            let seen = ground.orgs(&select).await?;
            match (MEMBERS_SEE.contains(&&*name), ADMINS_SEE.contains(&&*name)) {
                (true, _) => {
                    assert_eq!(seen.ok().as_deref(), Some(*member_of), "{name}: {claims:?}")
                }
                (_, true) => {
                    assert_eq!(seen.ok().as_deref(), Some(*admin_of), "{name}: {claims:?}")
                }
                _ => assert!(seen.is_err_and(|refusal| refusal.is_denied()), "{name}: {claims:?}"),
            }
        }
        // To set the organisation, as our own roles do, says nothing about a person.
        sign_in(&mut ground, &person(member)).await?;
        ground.become_role("authenticated", Some(corp)).await?;
        let seen = ground.orgs(&select).await?.ok().unwrap_or_default();
        assert!(!seen.contains(&corp), "{name}: {seen:?}");
    }

    // A subject that is none is an error, not somebody.
    for claims in ["{", "[]x", "{\"sub\": \"root\"}", "{\"sub\": 7}"] {
        sign_in(&mut ground, &Claims::Json(claims.to_owned())).await?;
        assert!(ground.orgs("SELECT org_id FROM eve.requests").await?.is_err(), "{claims}");
    }
    // Nobody asks for the organisations of others, nor for roles that do not exist.
    sign_in(&mut ground, &person(member)).await?;
    assert_eq!(ground.orgs("SELECT eve.own_orgs()").await?.ok(), Some(vec![acme]));
    for none in ["'{owner}'", "'{}'", "NULL", "'{everything}'"] {
        let asked = ground.orgs(&format!("SELECT eve.own_orgs({none})")).await?;
        assert_eq!(asked.ok(), Some(Vec::new()), "{none}");
    }
    // Whoever has left sees nothing from then on.
    ground.leave().await?;
    sqlx::query("DELETE FROM eve.org_members WHERE user_id = $1")
        .bind(member)
        .execute(ground.session())
        .await?;
    sign_in(&mut ground, &person(member)).await?;
    assert_eq!(ground.orgs("SELECT org_id FROM eve.requests").await?.ok(), Some(Vec::new()));
    ground.leave().await
}

#[tokio::test]
async fn people_see_their_organisations_on_supabase() -> Result<()> {
    sees(Host::Supabase).await
}

#[tokio::test]
async fn people_see_the_same_on_a_postgres_of_our_own() -> Result<()> {
    sees(Host::Plain).await
}

/// No code, no hash, no key, no signature, no lease: by type and by name, so that the next one of them is
/// found here too.
#[tokio::test]
async fn nothing_sealed_is_for_people_to_read() -> Result<()> {
    let mut ground = Ground::on(Host::Supabase).await?;
    let readable = "
        SELECT c.relname || '.' || a.attname
          FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'eve'::regnamespace
           AND c.relkind IN ('r', 'p', 'v', 'm')
           AND has_column_privilege('authenticated', c.oid, a.attnum, 'SELECT')
           AND (a.atttypid = 'bytea'::regtype
                OR a.attname ~ '(hash|secret|seal|key|password|credential|signature|checksum|lease|sha256)')
         ORDER BY 1";
    let readable: Vec<String> = sqlx::query_scalar(readable).fetch_all(ground.session()).await?;
    assert!(readable.is_empty(), "{readable:?}");
    // Whoever asks for everything of a table that has such a column is refused.
    let owner = person(ground.acme.owner);
    for table in [
        "api_tokens",
        "artifacts",
        "deployment_revisions",
        "deployments",
        "environment_secrets",
        "queue",
        "skill_migrations",
        "skill_versions",
    ] {
        sign_in(&mut ground, &owner).await?;
        let all = ground.attempt(&format!("SELECT * FROM eve.{table}")).await?;
        assert!(all.is_err_and(|refusal| refusal.is_denied()), "{table}");
        // Nor does a whole row in any other form show it.
        let row = ground.attempt(&format!("SELECT to_jsonb(t) FROM eve.{table} t")).await?;
        assert!(row.is_err_and(|refusal| refusal.is_denied()), "{table}");
    }
    // Names and versions of secrets are for members, whoever else may guess at values.
    sign_in(&mut ground, &owner).await?;
    let named =
        ground.attempt("SELECT name, version, updated_at FROM eve.environment_secrets").await?;
    assert_eq!(named.ok(), Some(1));
    for column in ["value", "value ->> 'sealed'", "created_by", "updated_by"] {
        sign_in(&mut ground, &owner).await?;
        let read = ground.attempt(&format!("SELECT {column} FROM eve.environment_secrets")).await?;
        assert!(read.is_err_and(|refusal| refusal.is_denied()), "{column}");
    }
    for filter in ["token_hash = '\\x00'", "token_hash IS NOT NULL ORDER BY id"] {
        sign_in(&mut ground, &owner).await?;
        let guess =
            ground.attempt(&format!("SELECT id FROM eve.api_tokens WHERE {filter}")).await?;
        assert!(guess.is_err_and(|refusal| refusal.is_denied()), "{filter}");
    }
    ground.leave().await
}

/// People change things through the API, where there are rules and an audit log.
#[tokio::test]
async fn people_change_nothing() -> Result<()> {
    let mut ground = Ground::on(Host::Supabase).await?;
    let may = "
        SELECT c.relname || ': ' || p.privilege
          FROM pg_class c
         CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                    AS p (privilege)
         WHERE c.relnamespace IN ('eve'::regnamespace, 'public'::regnamespace)
           AND c.relkind IN ('r', 'p', 'v', 'm')
           AND (has_table_privilege('authenticated', c.oid, p.privilege)
                OR CASE WHEN p.privilege IN ('INSERT', 'UPDATE', 'REFERENCES')
                        THEN has_any_column_privilege('authenticated', c.oid, p.privilege)
                        ELSE false END)";
    let may: Vec<String> = sqlx::query_scalar(may).fetch_all(ground.session()).await?;
    assert!(may.is_empty(), "{may:?}");
    let owner = person(ground.acme.owner);
    for statement in [
        "DELETE FROM eve.requests",
        "UPDATE eve.queue SET status = 'pending'",
        "INSERT INTO eve.org_members (org_id, user_id, role) SELECT id, gen_random_uuid(), 'owner'
           FROM eve.organizations",
        "SELECT id FROM eve.requests FOR UPDATE",
        "DELETE FROM _sqlx_migrations",
        "SELECT eve.ensure_partitions(1)",
        "SELECT eve.drop_day(current_date, '30 days')",
    ] {
        sign_in(&mut ground, &owner).await?;
        let done = ground.attempt(statement).await?;
        assert!(done.is_err_and(|refusal| refusal.is_denied()), "{statement}");
    }
    ground.leave().await
}

/// Who somebody is is found out once a query, and not for every row; and an index serves it.
#[tokio::test]
async fn who_somebody_is_is_asked_once_a_query() -> Result<()> {
    let mut ground = Ground::on(Host::Supabase).await?;
    ground.session().execute("SET enable_seqscan = off").await?;
    let owner = person(ground.acme.owner);
    for Table { name, org } in ground.tables.clone() {
        if !MEMBERS_SEE.contains(&&*name) && !ADMINS_SEE.contains(&&*name) {
            continue;
        }
        sign_in(&mut ground, &owner).await?;
        let explain = format!("EXPLAIN SELECT {org} FROM eve.{name}");
        let plan: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(ground.session()).await?;
        let plan = plan.join("\n");
        assert!(plan.contains("InitPlan"), "{name}:\n{plan}");
        let filters =
            plan.lines().filter(|line| line.contains("Filter:") || line.contains("Cond:"));
        assert!(!filters.clone().any(|line| line.contains("own_orgs")), "{name}:\n{plan}");
    }
    sign_in(&mut ground, &owner).await?;
    let newest = "EXPLAIN SELECT id FROM eve.requests ORDER BY id DESC LIMIT 20";
    let plan: Vec<String> = sqlx::query_scalar(newest).fetch_all(ground.session()).await?;
    assert!(plan.iter().any(|line| line.contains("Index")), "{plan:?}");
    ground.leave().await
}
