//! Whose rows each role sees and changes, with the WHERE left out.

use anyhow::{Context, Result};
use eve_tests::Database;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use super::ground::{Ground, Host, Table};

/// The platform, which owns the skills that everybody may run.
const PLATFORM: Uuid = Uuid::nil();

/// Whose rows of a table a role sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Those of the organisation that is set.
    Own,
    /// And the platform's, where one is set at all.
    OwnAndPlatform,
    /// Everybody's.
    All,
    /// It may not even ask.
    None,
}

/// What is not named here is [`Sight::None`]. Why: `docs/adr/0009-roles-and-row-level-security.md`.
const SIGHTS: &[(&str, Sight, &[&str])] = &[
    (
        "eve_tenant",
        Sight::Own,
        &[
            "api_tokens",
            "apps",
            "artifacts",
            "attempts",
            "audit_log",
            "dependencies",
            "deployment_events",
            "deployment_orders",
            "deployment_revisions",
            "deployments",
            "environment_secrets",
            "environments",
            "hitl_requests",
            "idempotency_keys",
            "inbox",
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
            "timers",
        ],
    ),
    ("eve_tenant", Sight::OwnAndPlatform, &["skills", "skill_versions"]),
    // What a running skill may ask for, and what is asked on its behalf: keys, schemas.
    (
        "eve_guest",
        Sight::Own,
        &[
            "apps",
            "cluster_asks",
            "dependencies",
            "deployment_revisions",
            "deployments",
            "environments",
            "idempotency_keys",
            "orchestration_results",
            "organizations",
            "queue",
            "requests",
            "schema_approvals",
            "skill_migrations",
            "skill_schemas",
        ],
    ),
    ("eve_guest", Sight::OwnAndPlatform, &["skills", "skill_versions"]),
    // The queue and what hangs on a run, and the code to run: no tokens, no members, no audit log.
    (
        "eve_engine",
        Sight::All,
        &[
            "artifacts",
            "attempts",
            "dependencies",
            "deployment_orders",
            "hitl_requests",
            "inbox",
            "orchestration_results",
            "organizations",
            "queue",
            "requests",
            "revoked_capabilities",
            "run_logs",
            "schedule_ticks",
            "schedules",
            "skill_schemas",
            "skill_versions",
            "skills",
            "timers",
        ],
    ),
    // Who somebody is, before an organisation is known; code to compile; what is to run in clusters.
    (
        "eve_control",
        Sight::All,
        &[
            "api_tokens",
            "apps",
            "artifacts",
            "cluster_asks",
            "deployment_events",
            "deployment_orders",
            "deployment_revisions",
            "deployments",
            "environments",
            "hitl_requests",
            "org_members",
            "organizations",
            "skill_versions",
            "skills",
        ],
    ),
    // What the view and the list functions are made of.
    ("eve_views", Sight::All, &["dependencies", "orchestration_results", "queue", "requests"]),
];

const ROLES: [&str; 7] = [
    "eve_tenant",
    "eve_guest",
    "eve_engine",
    "eve_control",
    "eve_worker",
    "eve_metrics",
    "eve_views",
];

fn sight(role: &str, table: &str) -> Sight {
    SIGHTS
        .iter()
        .find(|(of, _, tables)| *of == role && tables.contains(&table))
        .map_or(Sight::None, |(_, sight, _)| *sight)
}

/// The organisations of a table's rows, as the server has them.
async fn everybody(ground: &mut Ground, table: &Table) -> Result<Vec<Uuid>> {
    let Table { name, org } = table;
    let all = format!("SELECT DISTINCT {org} FROM eve.{name} ORDER BY 1");
    Ok(sqlx::query_scalar(AssertSqlSafe(all)).fetch_all(ground.session()).await?)
}

async fn reading(host: Host) -> Result<()> {
    let mut ground = Ground::on(host).await?;
    let (acme, corp, stranger) = (ground.acme.id, ground.corp.id, Uuid::now_v7());
    let owner = ground.owner.clone();
    for table in ground.tables.clone() {
        let Table { name, org } = &table;
        ground.leave().await?;
        let everybody = everybody(&mut ground, &table).await?;
        assert!(everybody.contains(&acme) && everybody.contains(&corp), "{name}");
        for role in ROLES.into_iter().chain([&*owner]) {
            let sight = if role == owner { Sight::All } else { sight(role, name) };
            for set in [Some(acme), Some(corp), Some(stranger), None] {
                ground.enter(role, set).await?;
                let seen = ground.orgs(&format!("SELECT {org} FROM eve.{name}")).await?;
                let mut own: Vec<Uuid> =
                    set.into_iter().filter(|set| everybody.contains(set)).collect();
                let expected = match sight {
                    Sight::None => {
                        let refusal = seen.err();
                        assert!(
                            refusal.as_ref().is_some_and(|refusal| refusal.is_denied()),
                            "{role} may ask for eve.{name}: {refusal:?}"
                        );
                        continue;
                    }
                    Sight::All => everybody.clone(),
                    Sight::Own => own,
                    Sight::OwnAndPlatform => {
                        own.extend(set.map(|_| PLATFORM));
                        own.sort_unstable();
                        own
                    }
                };
                let seen = seen.ok().with_context(|| format!("{role} may not ask for {name}"))?;
                assert_eq!(seen, expected, "{role} in eve.{name}, {set:?} being set");
            }
        }
    }
    ground.leave().await
}

#[tokio::test]
async fn each_role_sees_whose_rows_it_should() -> Result<()> {
    reading(Host::Plain).await
}

/// The owner is subject to row-level security there.
#[tokio::test]
async fn each_role_sees_the_same_where_the_owner_is_no_superuser() -> Result<()> {
    reading(Host::Supabase).await
}

/// What is set must be an id: anything else is an error, and no rows.
#[tokio::test]
async fn an_organisation_that_is_none_is_an_error() -> Result<()> {
    let mut ground = Ground::on(Host::Plain).await?;
    for nonsense in ["x", "%", "acme", "'; --"] {
        ground.enter("eve_tenant", None).await?;
        sqlx::query("SELECT set_config('eve.org_id', $1, true)")
            .bind(nonsense)
            .execute(ground.session())
            .await?;
        assert!(ground.orgs("SELECT org_id FROM eve.requests").await?.is_err(), "{nonsense}");
    }
    ground.enter("eve_tenant", None).await?;
    ground.session().execute("SET LOCAL eve.org_id = ''").await?;
    assert_eq!(ground.orgs("SELECT org_id FROM eve.requests").await?.ok(), Some(Vec::new()));
    ground.leave().await
}

/// Begins a transaction in which triggers are off, those of foreign keys too: what is tried here is
/// whether a policy lets a row pass, and not what else hangs on it.
async fn enter_alone(ground: &mut Ground) -> Result<()> {
    ground.leave().await?;
    ground.session().execute("BEGIN; SET LOCAL session_replication_role = replica").await?;
    Ok(())
}

/// Whether a role has been granted something on a table.
async fn granted(ground: &mut Ground, role: &str, table: &str, privilege: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT has_table_privilege($1, 'eve.' || $2, $3)")
        .bind(role)
        .bind(table)
        .bind(privilege)
        .fetch_one(ground.session())
        .await?)
}

/// How many rows an organisation has, past every wall.
async fn count(ground: &mut Ground, Table { name, org }: &Table, of: Uuid) -> Result<u64> {
    let statement = format!("SELECT count(*) FROM eve.{name} WHERE {org} = '{of}'");
    let rows: i64 =
        sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(ground.session()).await?;
    Ok(u64::try_from(rows)?)
}

/// One of an organisation's rows.
async fn row_of(ground: &mut Ground, Table { name, org }: &Table, of: Uuid) -> Result<Value> {
    let statement = format!("SELECT to_jsonb(t) FROM eve.{name} t WHERE {org} = '{of}' LIMIT 1");
    Ok(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(ground.session()).await?)
}

#[tokio::test]
async fn a_tenant_changes_its_own_rows_only() -> Result<()> {
    let mut ground = Ground::on(Host::Supabase).await?;
    let mut tried = 0;
    for role in ["eve_tenant", "eve_guest"] {
        for table in ground.tables.clone() {
            if granted(&mut ground, role, &table.name, "UPDATE").await? {
                updates(&mut ground, role, &table).await?;
                tried += 1;
            }
            if granted(&mut ground, role, &table.name, "DELETE").await? {
                deletes(&mut ground, role, &table).await?;
                tried += 1;
            }
            if granted(&mut ground, role, &table.name, "INSERT").await? {
                inserts(&mut ground, role, &table).await?;
                tried += 1;
            }
        }
    }
    assert!(tried > 40, "{tried}");
    ground.leave().await
}

/// Without a WHERE its own rows are touched; none goes to another; another's are not there.
async fn updates(ground: &mut Ground, role: &str, table: &Table) -> Result<()> {
    let (acme, corp) = (ground.acme.id, ground.corp.id);
    let Table { name, org } = table;
    let own = count(ground, table, acme).await?;
    enter_alone(ground).await?;
    ground.become_role(role, Some(acme)).await?;
    let touched = ground.attempt(&format!("UPDATE eve.{name} SET {org} = {org}")).await?;
    assert_eq!(touched.ok(), Some(own), "{role} updating all of eve.{name}");
    for taker in [corp, PLATFORM, Uuid::now_v7()] {
        let moved = ground.attempt(&format!("UPDATE eve.{name} SET {org} = '{taker}'")).await?;
        let refused = moved.as_ref().is_err_and(|refusal| refusal.is_policy());
        assert!(refused, "{role} moves rows of eve.{name} to {taker}: {moved:?}");
    }
    let theirs = format!("UPDATE eve.{name} SET {org} = '{acme}' WHERE {org} = '{corp}'");
    assert_eq!(ground.attempt(&theirs).await?.ok(), Some(0), "{role} takes rows of eve.{name}");
    // Locking them is a write as well.
    let lock = format!("SELECT {org} FROM eve.{name} WHERE {org} = '{corp}' FOR UPDATE");
    assert_eq!(ground.orgs(&lock).await?.ok(), Some(Vec::new()), "{role} locks eve.{name}");

    enter_alone(ground).await?;
    ground.become_role(role, None).await?;
    let touched = ground.attempt(&format!("UPDATE eve.{name} SET {org} = {org}")).await?;
    assert_eq!(touched.ok(), Some(0), "{role} of nobody updating eve.{name}");
    ground.leave().await
}

/// Without a WHERE its own rows go, and another's stay.
async fn deletes(ground: &mut Ground, role: &str, table: &Table) -> Result<()> {
    let (acme, corp) = (ground.acme.id, ground.corp.id);
    let Table { name, org } = table;
    let (own, theirs) = (count(ground, table, acme).await?, count(ground, table, corp).await?);
    enter_alone(ground).await?;
    ground.become_role(role, Some(acme)).await?;
    let named = format!("DELETE FROM eve.{name} WHERE {org} = '{corp}'");
    assert_eq!(ground.attempt(&named).await?.ok(), Some(0), "{role} deletes from eve.{name}");
    let gone = ground.attempt(&format!("DELETE FROM eve.{name}")).await?;
    assert_eq!(gone.ok(), Some(own), "{role} deleting all of eve.{name}");
    ground.session().execute("RESET ROLE").await?;
    assert_eq!(count(ground, table, corp).await?, theirs, "{role} deleting all of eve.{name}");

    enter_alone(ground).await?;
    ground.become_role(role, None).await?;
    let gone = ground.attempt(&format!("DELETE FROM eve.{name}")).await?;
    assert_eq!(gone.ok(), Some(0), "{role} of nobody deleting from eve.{name}");
    ground.leave().await
}

/// A row of its own goes in, and the same for anybody else does not.
async fn inserts(ground: &mut Ground, role: &str, table: &Table) -> Result<()> {
    let (acme, corp) = (ground.acme.id, ground.corp.id);
    let Table { name, org } = table;
    let row = row_of(ground, table, acme).await?;
    enter_alone(ground).await?;
    let all = format!("DELETE FROM eve.{name}");
    ground.session().execute(AssertSqlSafe(all)).await?;
    ground.become_role(role, Some(acme)).await?;
    for other in [corp, PLATFORM, Uuid::now_v7()] {
        let mut foreign = row.clone();
        foreign[org.as_str()] = other.to_string().into();
        let made = ground.insert(table, &foreign).await?;
        let refused = made.as_ref().is_err_and(|refusal| refusal.is_policy());
        assert!(refused, "{role} inserts into eve.{name} for {other}: {made:?}");
    }
    let made = ground.insert(table, &row).await?;
    assert_eq!(made.as_ref().ok(), Some(&1), "{role} inserting into eve.{name}: {made:?}");

    enter_alone(ground).await?;
    let all = format!("DELETE FROM eve.{name}");
    ground.session().execute(AssertSqlSafe(all)).await?;
    ground.become_role(role, None).await?;
    let made = ground.insert(table, &row).await?;
    let refused = made.as_ref().is_err_and(|refusal| refusal.is_policy());
    assert!(refused, "{role} of nobody inserts into eve.{name}: {made:?}");
    ground.leave().await
}

/// The audit log only grows, for every role.
#[tokio::test]
async fn what_is_in_the_audit_log_stays() -> Result<()> {
    let mut ground = Ground::on(Host::Plain).await?;
    for role in ROLES {
        ground.enter(role, Some(ground.acme.id)).await?;
        for statement in [
            "DELETE FROM eve.audit_log",
            "UPDATE eve.audit_log SET action = 'x'",
            "TRUNCATE eve.audit_log",
        ] {
            let done = ground.attempt(statement).await?;
            assert!(done.is_err_and(|refusal| refusal.is_denied()), "{role}: {statement}");
        }
    }
    ground.leave().await
}

/// The metrics role counts everybody's requests, and learns nothing else of them.
#[tokio::test]
async fn metrics_are_two_columns() -> Result<()> {
    let mut ground = Ground::on(Host::Supabase).await?;
    let view = "eve.orchestration_requests";
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0",
    )
    .bind(view)
    .fetch_all(ground.session())
    .await?;
    assert!(columns.len() > 20, "{columns:?}");
    ground.enter("eve_metrics", None).await?;
    let counted = "SELECT count(*) FROM eve.orchestration_requests WHERE worker_type = 'general'";
    // A pending and a completed one of each organisation.
    let all: i64 = sqlx::query_scalar(counted).fetch_one(ground.session()).await?;
    assert_eq!(all, 4);
    for column in columns {
        let read = ground.attempt(&format!("SELECT {column} FROM {view}")).await?;
        let counts = ["worker_type", "status"].contains(&&*column);
        assert_eq!(read.is_ok(), counts, "{column}");
    }
    ground.leave().await
}

/// The view and the functions take the organisation from the transaction.
#[tokio::test]
async fn lists_show_the_organisation_that_is_set() -> Result<()> {
    let mut ground = Ground::on(Host::Supabase).await?;
    let (acme, corp) = (ground.acme.id, ground.corp.id);
    let own: Uuid = sqlx::query_scalar("SELECT id FROM eve.requests WHERE org_id = $1")
        .bind(acme)
        .fetch_one(ground.session())
        .await?;
    let view = "SELECT org_id FROM eve.orchestration_requests";
    let found = "SELECT eve.find_requests(NULL, NULL, NULL, NULL, NULL, NULL, NULL, 100)";
    let live = "SELECT eve.find_requests('{}', '{pending}', NULL, NULL, NULL, NULL, NULL, 100)";
    let below = format!("SELECT eve.descendants('{own}', 100)");
    for (role, statement, for_acme) in [
        ("eve_tenant", view, acme),
        ("eve_tenant", found, own),
        ("eve_tenant", live, own),
        ("eve_guest", found, own),
        ("eve_guest", live, own),
        ("eve_tenant", &below, own),
    ] {
        ground.enter(role, Some(acme)).await?;
        assert_eq!(ground.orgs(statement).await?.ok(), Some(vec![for_acme]), "{role}: {statement}");
        ground.enter(role, Some(corp)).await?;
        let theirs = ground.orgs(statement).await?.ok().unwrap_or_default();
        assert!(!theirs.contains(&for_acme), "{role}: {statement}");
        ground.enter(role, None).await?;
        assert_eq!(ground.orgs(statement).await?.ok(), Some(Vec::new()), "{role}: {statement}");
    }
    // Whoever is not to list does not.
    for role in ["eve_engine", "eve_control", "eve_worker", "eve_metrics", "authenticated"] {
        for statement in [view, found, &below] {
            ground.enter(role, Some(acme)).await?;
            let seen = ground.orgs(statement).await?;
            assert!(seen.as_ref().is_err_and(|refusal| refusal.is_denied()), "{role}: {seen:?}");
        }
    }
    ground.leave().await
}

/// A login that has not switched may do nothing, and can switch to what it is for.
#[tokio::test]
async fn a_login_may_do_nothing_until_it_has_switched() -> Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    for (login, may) in [
        ("eve_worker", &["eve_engine", "eve_guest"][..]),
        ("eve_control", &["eve_engine", "eve_guest", "eve_tenant", "eve_metrics"]),
        ("authenticated", &[]),
    ] {
        for role in ROLES.into_iter().chain(["authenticated"]).filter(|role| *role != login) {
            let mut tx = pool.begin().await?;
            let login = format!("SET LOCAL SESSION AUTHORIZATION {login}");
            tx.execute(AssertSqlSafe(login.clone())).await?;
            let switch = format!("SET LOCAL ROLE {role}");
            let switched = tx.execute(AssertSqlSafe(switch)).await;
            assert_eq!(switched.is_ok(), may.contains(&role), "{login}, then {role}");
            tx.rollback().await?;
        }
    }
    let mut tx = pool.begin().await?;
    tx.execute("SET LOCAL SESSION AUTHORIZATION eve_worker").await?;
    assert!(tx.execute("SELECT FROM eve.queue").await.is_err());
    Ok(())
}
