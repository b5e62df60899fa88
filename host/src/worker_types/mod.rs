//! Worker types: the pools that requests are sent to, and what each grants its skills.
//!
//! Everybody may read them; platform administrators set them. Three are there from the start, until
//! somebody sets their own in their place.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::db::{Db, Scope, Tx};
use crate::requests::validate::is_label;
use crate::tenancy::{Actor, PLATFORM_ORG, Tenant, audit};

/// Most worker types that are listed.
const MAX_WORKER_TYPES: i64 = 1_000;
/// Most words in a list of capabilities.
const MAX_CAPABILITIES: usize = 100;
/// Largest `config` or `limits`.
const MAX_SETTINGS_BYTES: usize = 64 << 10;

/// What a worker type can grant.
pub const GRANTS: [&str; 3] = ["queue", "db", "deploy"];

/// Why something asked of a worker type was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerTypeError {
    /// It does not exist.
    #[error("there is no worker type `{0}`")]
    NotFound(String),
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// Requests wait for it.
    #[error("requests of worker type `{0}` are open: let them end, or cancel them first")]
    InUse(String),
    /// Postgres did not do it.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What Postgres or the connection said.
        #[source]
        source: sqlx::Error,
    },
}

impl WorkerTypeError {
    fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> WorkerTypeError + Copy {
        move |source| WorkerTypeError::Database { doing, source }
    }
}

/// A pool of workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerType {
    /// Its id, which requests name.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The image that its pods run.
    pub docker_image: Option<String>,
    /// What it says of itself, for people.
    pub capabilities: Vec<String>,
    /// What its skills may import: `queue`, `db`, `deploy`.
    pub grants: Vec<String>,
    /// The skill that runs requests which name none.
    pub default_skill: Option<String>,
    /// Settings.
    #[schema(value_type = Object)]
    pub config: Value,
    /// Limits of a run where they are not the defaults.
    #[schema(value_type = Object)]
    pub limits: Value,
    /// The database schema of its skills.
    pub schema_name: Option<String>,
}

/// A worker type as it is to be.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerTypeSpec {
    /// Its name for people: 1 to 200 characters.
    pub name: String,
    /// The image that its pods run.
    #[serde(default)]
    pub docker_image: Option<String>,
    /// What it says of itself, for people.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What its skills may import: `queue`, `db`, `deploy`; `queue` and `db` when absent.
    #[serde(default = "default_grants")]
    pub grants: Vec<String>,
    /// The skill that runs requests which name none.
    #[serde(default)]
    pub default_skill: Option<String>,
    /// Settings: a JSON object of at most 64 KiB.
    #[serde(default = "crate::requests::empty_object")]
    #[schema(value_type = Object)]
    pub config: Value,
    /// Limits of a run where they are not the defaults: a JSON object of at most 64 KiB.
    #[serde(default = "crate::requests::empty_object")]
    #[schema(value_type = Object)]
    pub limits: Value,
    /// The database schema of its skills.
    #[serde(default)]
    pub schema_name: Option<String>,
}

fn default_grants() -> Vec<String> {
    vec!["queue".into(), "db".into()]
}

impl WorkerTypeSpec {
    /// A worker type with this name, and the defaults for everything else.
    pub fn named(name: &str) -> Self {
        WorkerTypeSpec {
            name: name.to_owned(),
            docker_image: None,
            capabilities: Vec::new(),
            grants: default_grants(),
            default_skill: None,
            config: crate::requests::empty_object(),
            limits: crate::requests::empty_object(),
            schema_name: None,
        }
    }
}

impl From<WorkerType> for WorkerTypeSpec {
    fn from(stored: WorkerType) -> Self {
        let WorkerType {
            id: _,
            name,
            docker_image,
            capabilities,
            grants,
            default_skill,
            config,
            limits,
            schema_name,
        } = stored;
        WorkerTypeSpec {
            name,
            docker_image,
            capabilities,
            grants,
            default_skill,
            config,
            limits,
            schema_name,
        }
    }
}

/// Whether a worker type was made or changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Put {
    /// It is new.
    Created(WorkerType),
    /// It was there.
    Replaced(WorkerType),
}

/// All worker types, by id.
pub async fn list(db: &Db) -> Result<Vec<WorkerType>, WorkerTypeError> {
    let failed = WorkerTypeError::database("listing worker types");
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    sqlx::query_as!(
        WorkerType,
        r#"SELECT id, name, docker_image, capabilities, coalesce(grants, '{}') AS "grants!",
                  default_skill, config, limits, schema_name
             FROM eve.worker_types
            ORDER BY id
            LIMIT $1"#,
        MAX_WORKER_TYPES,
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}

/// One worker type.
pub async fn get(db: &Db, id: &str) -> Result<WorkerType, WorkerTypeError> {
    let failed = WorkerTypeError::database("reading a worker type");
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    sqlx::query_as!(
        WorkerType,
        r#"SELECT id, name, docker_image, capabilities, coalesce(grants, '{}') AS "grants!",
                  default_skill, config, limits, schema_name
             FROM eve.worker_types
            WHERE id = $1"#,
        id,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?
    .ok_or_else(|| WorkerTypeError::NotFound(id.to_owned()))
}

/// Makes a worker type, or puts another in its place.
pub async fn put(
    db: &Db,
    actor: &Actor,
    id: &str,
    spec: &WorkerTypeSpec,
) -> Result<Put, WorkerTypeError> {
    check(id, spec)?;
    let failed = WorkerTypeError::database("setting a worker type");
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    let before = replace(&mut tx, id, spec).await.map_err(failed)?;
    let details = json!({ "before": before, "after": spec });
    record(&mut tx, actor, "worker_type.set", id, details).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    let stored = get(db, id).await?;
    Ok(if before.is_none() { Put::Created(stored) } else { Put::Replaced(stored) })
}

/// Writes a worker type, and returns what was there before.
async fn replace(
    tx: &mut Tx,
    id: &str,
    spec: &WorkerTypeSpec,
) -> Result<Option<WorkerTypeSpec>, sqlx::Error> {
    loop {
        if let Some(before) = lock(tx, id).await? {
            sqlx::query!(
                "UPDATE eve.worker_types
                    SET name = $2, docker_image = $3, capabilities = $4, grants = $5,
                        default_skill = $6, config = $7, limits = $8, schema_name = $9,
                        seeded = false
                  WHERE id = $1",
                id,
                spec.name,
                spec.docker_image,
                &spec.capabilities,
                &spec.grants,
                spec.default_skill,
                spec.config,
                spec.limits,
                spec.schema_name,
            )
            .execute(&mut **tx)
            .await?;
            return Ok(Some(before));
        }
        let made = sqlx::query!(
            "INSERT INTO eve.worker_types (id, name, docker_image, capabilities, grants,
                                           default_skill, config, limits, schema_name)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (id) DO NOTHING",
            id,
            spec.name,
            spec.docker_image,
            &spec.capabilities,
            &spec.grants,
            spec.default_skill,
            spec.config,
            spec.limits,
            spec.schema_name,
        )
        .execute(&mut **tx)
        .await?
        .rows_affected();
        if made == 1 {
            return Ok(None);
        }
        // Two who make it at once: the later one has waited for the other, and now finds it.
    }
}

/// A worker type as it is, locked until the transaction ends.
async fn lock(tx: &mut Tx, id: &str) -> Result<Option<WorkerTypeSpec>, sqlx::Error> {
    let stored = sqlx::query_as!(
        WorkerType,
        r#"SELECT id, name, docker_image, capabilities, coalesce(grants, '{}') AS "grants!",
                  default_skill, config, limits, schema_name
             FROM eve.worker_types
            WHERE id = $1
              FOR UPDATE"#,
        id,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(stored.map(WorkerTypeSpec::from))
}

/// In the audit log of the platform, with how it was before and how it is.
async fn record(
    tx: &mut Tx,
    actor: &Actor,
    action: &'static str,
    id: &str,
    details: Value,
) -> Result<(), sqlx::Error> {
    let platform = Tenant::proven(PLATFORM_ORG);
    audit::record_details(tx, platform, actor, action, id, details).await
}

/// Deletes a worker type that no open request is sent to.
pub async fn delete(db: &Db, actor: &Actor, id: &str) -> Result<(), WorkerTypeError> {
    let failed = WorkerTypeError::database("deleting a worker type");
    let mut tx = db.begin(Scope::Engine).await.map_err(failed)?;
    let in_use = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.queue WHERE worker_type = $1) AS "in_use!""#,
        id,
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    if in_use {
        return Err(WorkerTypeError::InUse(id.to_owned()));
    }
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    let before = lock(&mut tx, id).await.map_err(failed)?;
    let before = before.ok_or_else(|| WorkerTypeError::NotFound(id.to_owned()))?;
    sqlx::query!("DELETE FROM eve.worker_types WHERE id = $1", id)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    let details = json!({ "before": before, "after": null });
    record(&mut tx, actor, "worker_type.delete", id, details).await.map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// What workers read of `limits`: a worker that could not would go on with those it had before.
fn check_limits(limits: &Value) -> Result<(), WorkerTypeError> {
    const KNOWN: [&str; 3] = ["wall_ms", "cpu_ms", "memory_bytes"];
    for (name, value) in limits.as_object().into_iter().flatten() {
        let message = match value.as_u64() {
            _ if !KNOWN.contains(&name.as_str()) => {
                format!("`{name}` is not a limit; there are {}", KNOWN.join(", "))
            }
            Some(1..) => continue,
            _ => format!("`{name}` must be a whole number above 0"),
        };
        return Err(WorkerTypeError::Invalid { field: "limits", message });
    }
    Ok(())
}

fn check(id: &str, spec: &WorkerTypeSpec) -> Result<(), WorkerTypeError> {
    let invalid = |field, message: String| Err(WorkerTypeError::Invalid { field, message });
    let fine = |name: &str| is_label(name, 63);
    let shape = "must be 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end";
    if !fine(id) {
        return invalid("id", shape.into());
    }
    if spec.name.trim().is_empty() || spec.name.chars().count() > 200 {
        return invalid("name", "must be 1 to 200 characters".into());
    }
    if spec.default_skill.as_ref().is_some_and(|skill| !fine(skill)) {
        return invalid("default_skill", shape.into());
    }
    if let Some(unknown) = spec.grants.iter().find(|grant| !GRANTS.contains(&grant.as_str())) {
        return invalid(
            "grants",
            format!("`{unknown}` cannot be granted; {} can", GRANTS.join(", ")),
        );
    }
    let words = &spec.capabilities;
    if words.len() > MAX_CAPABILITIES || words.iter().any(|word| word.len() > 100) {
        let message = format!("must be at most {MAX_CAPABILITIES} words of at most 100 characters");
        return invalid("capabilities", message);
    }
    for (field, value) in [("config", &spec.config), ("limits", &spec.limits)] {
        if !value.is_object() || value.to_string().len() > MAX_SETTINGS_BYTES {
            return invalid(
                field,
                format!("must be a JSON object of at most {MAX_SETTINGS_BYTES} bytes"),
            );
        }
    }
    check_limits(&spec.limits)?;
    let texts = [("docker_image", &spec.docker_image), ("schema_name", &spec.schema_name)];
    for (field, text) in texts {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > 500) {
            return invalid(field, "must be 1 to 500 characters".into());
        }
    }
    // Postgres keeps no U+0000, in texts or in JSON; serde_json writes it escaped.
    if json!(spec).to_string().contains("\\u0000") {
        return invalid("name", "no text may contain the character U+0000".into());
    }
    Ok(())
}
