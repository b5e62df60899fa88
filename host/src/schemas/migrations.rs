//! Migrations of a schema: each applied once, in order, in a transaction of its own.
//!
//! The migration commits on the skills server, and the ledger stands in the platform's database, where no
//! tenant can reach it; no transaction spans both. So the ledger's row is written first, with the id of
//! the migration's transaction, and whoever finds a row that is still `applying` asks the skills server
//! what became of that transaction:
//! - committed: it is applied, and the ledger catches up;
//! - in progress: somebody is at it, and is waited for;
//! - aborted, as that of whoever died: it was never there, and the finder begins again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;
use utoipa::ToSchema;

use super::connections::Lease;
use super::{Access, SchemaError, SchemaName, limits, statements};
use crate::db::Db;

/// A step of a schema's history, as its author ships it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// 1 and above.
    pub number: u32,
    /// For people.
    pub name: String,
    /// Statements.
    pub sql: String,
}

/// A step of a schema's history, as it was applied.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AppliedMigration {
    /// Its number.
    pub number: i32,
    /// Its name.
    pub name: String,
    /// SHA-256 of its SQL, in hexadecimal.
    pub checksum: String,
    /// `applying` or `applied`.
    pub status: String,
    /// When it was applied.
    pub applied_at: Option<chrono::DateTime<chrono::Utc>>,
}

struct Known {
    number: i32,
    name: String,
    checksum: Vec<u8>,
    applied: bool,
    transaction: String,
}

/// Checks the form of what is shipped.
pub(super) fn check(migrations: &[Migration]) -> Result<Vec<Vec<String>>, SchemaError> {
    if migrations.len() > limits::MIGRATIONS {
        return Err(SchemaError::Invalid(format!(
            "{} migrations; at most {} are allowed",
            migrations.len(),
            limits::MIGRATIONS
        )));
    }
    let mut before = 0;
    let mut all = Vec::with_capacity(migrations.len());
    for Migration { number, name, sql } in migrations {
        let invalid = |text: String| SchemaError::Invalid(format!("migration {number}: {text}"));
        if *number <= before || i32::try_from(*number).is_err() {
            return Err(invalid("numbers begin at 1 and rise".into()));
        }
        before = *number;
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !(1..=100).contains(&name.len()) || !name.bytes().all(fine) {
            return Err(invalid("a name has 1 to 100 letters, digits, `_` and `-`".into()));
        }
        all.push(statements::migration(sql).map_err(|error| match error {
            SchemaError::Invalid(text) => invalid(text),
            other => other,
        })?);
    }
    Ok(all)
}

fn checksum(migration: &Migration) -> Vec<u8> {
    Sha256::digest(&migration.sql).to_vec()
}

/// Applies what has not been applied; returns the numbers of what this call has.
pub(super) async fn apply(
    db: &Db,
    access: &Access,
    schema: &SchemaName,
    lease: &mut Lease,
    migrations: &[Migration],
    parts: &[Vec<String>],
) -> Result<Vec<u32>, SchemaError> {
    let mut applied = Vec::new();
    for (migration, parts) in migrations.iter().zip(parts) {
        if one(db, access, schema, lease, migrations, migration, parts).await? {
            applied.push(migration.number);
        }
    }
    Ok(applied)
}

/// Whether every one of them has been applied, as it is; an error if what has been does not fit.
pub(super) async fn is_done(
    db: &Db,
    access: &Access,
    schema: &SchemaName,
    migrations: &[Migration],
) -> Result<bool, SchemaError> {
    let known = known(db, access, schema).await?;
    fits(schema, &known, migrations)?;
    Ok(migrations.iter().all(|migration| {
        known.iter().any(|known| known.applied && known.number == migration.number as i32)
    }))
}

/// What was applied, and what is being applied.
async fn known(db: &Db, access: &Access, schema: &SchemaName) -> Result<Vec<Known>, SchemaError> {
    let failed = SchemaError::database("reading the ledger of migrations");
    let mut tx = db.begin(access.scope()).await.map_err(failed)?;
    sqlx::query_as!(
        Known,
        r#"
        SELECT number, name, checksum, status = 'applied' AS "applied!", transaction
          FROM eve.skill_migrations
         WHERE org_id = $1 AND schema_name = $2
         ORDER BY number
        "#,
        access.tenant.org().0,
        schema.as_str()
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}

/// What has been applied must be there, unchanged; and nothing new may come before it.
fn fits(schema: &SchemaName, known: &[Known], migrations: &[Migration]) -> Result<(), SchemaError> {
    for known in known.iter().filter(|known| known.applied) {
        let Some(shipped) = migrations.iter().find(|m| m.number as i32 == known.number) else {
            return Err(SchemaError::Migration(format!(
                "migration {} `{}` has been applied to `{schema}` and is missing here: what has been \
                 applied stays, and what is to be undone is undone by a later migration",
                known.number, known.name
            )));
        };
        if checksum(shipped) != known.checksum {
            return Err(SchemaError::Migration(format!(
                "migration {} `{}` is not what was applied to `{schema}` as `{}`: it was edited after it \
                 ran. Put it back as it was, and write a later migration",
                known.number, shipped.name, known.name
            )));
        }
    }
    let newest = known.iter().filter(|known| known.applied).map(|known| known.number).max();
    let late = migrations.iter().find(|migration| {
        newest.is_some_and(|newest| (migration.number as i32) < newest)
            && !known.iter().any(|known| known.number == migration.number as i32)
    });
    match late {
        Some(late) => Err(SchemaError::Migration(format!(
            "migration {} `{}` is new, and comes before {} that has been applied to `{schema}`: give it \
             the next number",
            late.number,
            late.name,
            newest.unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

/// Applies one migration, or finds that somebody has. `true` if this call did.
async fn one(
    db: &Db,
    access: &Access,
    schema: &SchemaName,
    lease: &mut Lease,
    migrations: &[Migration],
    migration: &Migration,
    parts: &[String],
) -> Result<bool, SchemaError> {
    const DOING: &str = "migrating";
    let client = lease.client();
    let number = migration.number as i32;
    let mut wait = Duration::from_millis(20);
    loop {
        let known = known(db, access, schema).await?;
        fits(schema, &known, migrations)?;
        let stale = match known.iter().find(|known| known.number == number) {
            Some(known) if known.applied => return Ok(false),
            Some(known) => match fate(client, &known.transaction).await? {
                Fate::Committed => {
                    settle(db, access, schema, number, &known.transaction, true).await?;
                    return Ok(false);
                }
                Fate::InProgress => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_millis(500));
                    continue;
                }
                Fate::Aborted => Some(known.transaction.clone()),
                Fate::Forgotten => {
                    return Err(SchemaError::Migration(format!(
                        "nobody knows any more whether migration {number} was applied to `{schema}`: look \
                         (eve db shell), and have an operator settle its row in eve.skill_migrations"
                    )));
                }
            },
            None => None,
        };
        let failed = |error| SchemaError::of_client(DOING, error, 0);
        client.batch_execute("BEGIN").await.map_err(failed)?;
        let transaction: String = client
            .query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[])
            .await
            .map_err(failed)?
            .get(0);
        if !claim(db, access, schema, migration, &transaction, stale.as_deref()).await? {
            client.batch_execute("ROLLBACK").await.map_err(failed)?;
            continue;
        }
        if let Err(error) = run(client, schema, parts).await {
            if matches!(
                error,
                SchemaError::Sql(_) | SchemaError::Limit(_) | SchemaError::Invalid(_)
            ) {
                // Gone before the ledger's row is: whoever looks meanwhile finds it aborted.
                client.batch_execute("ROLLBACK").await.map_err(failed)?;
                settle(db, access, schema, number, &transaction, false).await?;
            }
            return Err(match error {
                SchemaError::Sql(mut said) => {
                    said.message = format!(
                        "migration {number} `{}`, statement {}: {}",
                        migration.name, said.statement, said.message
                    );
                    SchemaError::Sql(said)
                }
                other => other,
            });
        }
        client.batch_execute("COMMIT").await.map_err(failed)?;
        settle(db, access, schema, number, &transaction, true).await?;
        return Ok(true);
    }
}

async fn run(client: &Client, schema: &SchemaName, parts: &[String]) -> Result<(), SchemaError> {
    for (index, sql) in parts.iter().enumerate() {
        let failed = |error| SchemaError::of_client("migrating", error, index);
        client.execute_typed(sql, &[]).await.map_err(failed)?;
        // After each, while what there is too much of is not yet very much.
        let row = client.query_one(CENSUS, &[&schema.as_str()]).await.map_err(failed)?;
        let (relations, objects, nested): (i64, i64, bool) = (row.get(0), row.get(1), row.get(2));
        if relations > limits::RELATIONS || objects > limits::OBJECTS {
            return Err(SchemaError::Limit(format!(
                "the schema would have {relations} tables, indexes, sequences and views, and {objects} \
                 objects with columns' defaults, constraints, functions and types; at most {} and {} \
                 are allowed",
                limits::RELATIONS,
                limits::OBJECTS
            )));
        }
        if nested {
            return Err(SchemaError::Invalid(
                "a column of a composite type, or a domain over a domain or a composite type of the \
                 schema, is not allowed"
                    .into(),
            ));
        }
    }
    Ok(())
}

/// What a schema holds, and whether types of it are nested: whoever reads a value follows them down.
const CENSUS: &str = "
    WITH here AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1),
         relations AS (SELECT c.oid FROM pg_catalog.pg_class c, here WHERE c.relnamespace = here.oid),
         types AS (SELECT t.* FROM pg_catalog.pg_type t, here WHERE t.typnamespace = here.oid),
         -- With their arrays.
         deep AS (SELECT t.oid FROM types t
                   WHERE t.typtype IN ('c', 'd')
                      OR t.typelem IN (SELECT e.oid FROM types e WHERE e.typtype IN ('c', 'd'))),
         composite AS (SELECT t.oid FROM types t
                        WHERE t.typtype = 'c'
                           OR t.typelem IN (SELECT e.oid FROM types e WHERE e.typtype = 'c'))
    SELECT (SELECT count(*) FROM relations),
           (SELECT count(*) FROM relations)
         + (SELECT count(*) FROM pg_catalog.pg_attrdef d WHERE d.adrelid IN (TABLE relations))
         + (SELECT count(*) FROM pg_catalog.pg_constraint k, here WHERE k.connamespace = here.oid)
         + (SELECT count(*) FROM pg_catalog.pg_proc p, here WHERE p.pronamespace = here.oid)
         + (SELECT count(*) FROM types t WHERE t.typrelid = 0 AND t.typelem = 0),
           EXISTS (SELECT FROM types t WHERE t.typtype = 'd' AND t.typbasetype IN (TABLE deep))
        OR EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid IN (TABLE relations) AND a.attnum > 0 AND NOT a.attisdropped
                      AND a.atttypid IN (TABLE composite))";

/// What became of a transaction.
enum Fate {
    Committed,
    InProgress,
    Aborted,
    Forgotten,
}

async fn fate(client: &Client, transaction: &str) -> Result<Fate, SchemaError> {
    let failed = |error| SchemaError::of_client("asking for a transaction", error, 0);
    let row = client
        .query_one("SELECT pg_catalog.pg_xact_status($1::text::pg_catalog.xid8)", &[&transaction])
        .await
        .map_err(failed)?;
    Ok(match row.get::<_, Option<&str>>(0) {
        Some("committed") => Fate::Committed,
        Some("in progress") => Fate::InProgress,
        Some(_) => Fate::Aborted,
        None => Fate::Forgotten,
    })
}

/// Writes that this transaction applies it, unless somebody else's does.
async fn claim(
    db: &Db,
    access: &Access,
    schema: &SchemaName,
    migration: &Migration,
    transaction: &str,
    stale: Option<&str>,
) -> Result<bool, SchemaError> {
    let failed = SchemaError::database("writing the ledger of migrations");
    let mut tx = db.begin(access.scope()).await.map_err(failed)?;
    let written = sqlx::query!(
        r#"
        INSERT INTO eve.skill_migrations AS m
               (org_id, schema_name, number, name, checksum, status, transaction, request_id)
        VALUES ($1, $2, $3, $4, $5, 'applying', $6, $7)
        ON CONFLICT (org_id, schema_name, number) DO UPDATE
           SET name = excluded.name, checksum = excluded.checksum, transaction = excluded.transaction,
               request_id = excluded.request_id, started_at = now()
         WHERE m.status = 'applying' AND m.transaction = $8
        "#,
        access.tenant.org().0,
        schema.as_str(),
        migration.number as i32,
        migration.name,
        checksum(migration),
        transaction,
        access.run.map(|request| request.0),
        stale
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?
    .rows_affected();
    tx.commit().await.map_err(failed)?;
    Ok(written == 1)
}

/// Writes what became of a migration that this transaction was applying.
async fn settle(
    db: &Db,
    access: &Access,
    schema: &SchemaName,
    number: i32,
    transaction: &str,
    committed: bool,
) -> Result<(), SchemaError> {
    let failed = SchemaError::database("writing the ledger of migrations");
    let mut tx = db.begin(access.scope()).await.map_err(failed)?;
    let org = access.tenant.org().0;
    match committed {
        true => sqlx::query!(
            "UPDATE eve.skill_migrations SET status = 'applied', applied_at = now()
              WHERE org_id = $1 AND schema_name = $2 AND number = $3 AND transaction = $4
                AND status = 'applying'",
            org,
            schema.as_str(),
            number,
            transaction
        ),
        false => sqlx::query!(
            "DELETE FROM eve.skill_migrations
              WHERE org_id = $1 AND schema_name = $2 AND number = $3 AND transaction = $4
                AND status = 'applying'",
            org,
            schema.as_str(),
            number,
            transaction
        ),
    }
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// The ledger, for people.
pub(super) async fn list(
    db: &Db,
    access: &Access,
    schema: &SchemaName,
) -> Result<Vec<AppliedMigration>, SchemaError> {
    let failed = SchemaError::database("reading the ledger of migrations");
    let mut tx = db.begin(access.scope()).await.map_err(failed)?;
    sqlx::query_as!(
        AppliedMigration,
        r#"
        SELECT number, name, encode(checksum, 'hex') AS "checksum!", status, applied_at
          FROM eve.skill_migrations
         WHERE org_id = $1 AND schema_name = $2
         ORDER BY number
        "#,
        access.tenant.org().0,
        schema.as_str()
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}
