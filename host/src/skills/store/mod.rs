//! Skills in the database: versions and which one is active here, their machine code in `artifacts`.
//!
//! Invariants:
//! - A version's content never changes: the same label with another content is a conflict, the same
//!   content again is the version that is there.
//! - Whoever pushes or activates locks the skill's row first: of two uploads of one label at the
//!   same time, one wins and the other is told so.
//! - Nothing is compiled inside a transaction.

mod artifacts;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::types::Json;
use utoipa::ToSchema;

use crate::db::{Db, Scope, Tx};
use crate::ids::{OrgId, SkillId, VersionId};
use crate::schemas::SchemaName;
use crate::schemas::grants::{self, SchemaGrant};
use crate::skills::capabilities::{self, CapabilityGrant, Place};
use crate::tenancy::{Actor, PLATFORM_ORG, Tenant, audit};

pub use artifacts::{
    NewArtifact, StoredArtifact, artifact, artifact_bytes, replace_artifact, store_artifact,
};
pub(super) use artifacts::{Suspect, Suspicion, acquit, missing_artifacts, refuse, suspects};

/// Most skills that are listed, the platform's included.
const MAX_SKILLS: i64 = 1_000;
/// Most versions that are listed.
const MAX_VERSIONS: i64 = 1_000;
/// Fewest hexadecimal digits by which a version may be named.
const MIN_SHA_DIGITS: usize = 8;

/// Why something asked of a skill was not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SkillError {
    /// It does not exist, or belongs to another organisation.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// `skill`, `version`.
        what: &'static str,
        /// As it was asked for.
        name: String,
    },
    /// What was sent cannot be accepted.
    #[error("{field}: {message}")]
    Invalid {
        /// Which part of the upload.
        field: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// What was asked contradicts the state that things are in.
    #[error("{0}")]
    Conflict(String),
    /// What is stored is not what was uploaded, or cannot be read back.
    #[error("a stored component is damaged")]
    Corrupt(#[source] std::io::Error),
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

impl SkillError {
    pub(super) fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> SkillError + Copy {
        move |source| SkillError::Database { doing, source }
    }

    fn no_skill(name: &str) -> SkillError {
        SkillError::NotFound { what: "skill", name: name.to_owned() }
    }
}

/// Whose a skill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The organisation's own.
    Org,
    /// The platform's, for everybody to run.
    Platform,
}

impl Owner {
    fn of(org: OrgId) -> Self {
        if org == PLATFORM_ORG { Owner::Platform } else { Owner::Org }
    }
}

/// A skill.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Skill {
    /// Its id.
    pub id: SkillId,
    /// Its name, by which requests ask for it.
    pub name: String,
    /// Whose it is. An organisation's own skill goes before the platform's of the same name.
    pub owner: Owner,
    /// What it does, in a sentence.
    pub description: String,
    /// The label of the version that runs; none yet if it was never activated.
    pub active_version: Option<String>,
    /// When its first version was pushed.
    pub created_at: DateTime<Utc>,
    /// When a version was last pushed or activated.
    pub updated_at: DateTime<Utc>,
}

/// A skill with its versions.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SkillDetail {
    /// The skill itself.
    #[serde(flatten)]
    pub skill: Skill,
    /// Its versions, newest first.
    pub versions: Vec<Version>,
    /// The front matter of SKILL.md, of the active version or else the newest.
    #[schema(value_type = Object)]
    pub manifest: Value,
    /// The rest of SKILL.md.
    pub readme: String,
    /// The capabilities that it needs, that version, and those that were revoked from the skill.
    pub capabilities: Vec<CapabilityGrant>,
    /// The worker types that it is for: where it can run, and where not, and why.
    pub worker_types: Vec<Place>,
    /// The schemas that the active version names, and those that are approved for the skill.
    pub schemas: Vec<SchemaGrant>,
}

/// One immutable version of a skill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Its label: the manifest's version, or the beginning of its SHA-256.
    pub version: String,
    /// SHA-256 of the component, in hexadecimal.
    pub sha256: String,
    /// Size of the component.
    pub size_bytes: i64,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The capabilities that its worker type must grant.
    pub capabilities: Vec<String>,
    /// Whether it is the one that runs.
    pub active: bool,
    /// When it was pushed.
    pub created_at: DateTime<Utc>,
    /// Who pushed it.
    #[schema(value_type = Object)]
    pub created_by: Value,
}

/// A version to store, compiled and signed.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The skill's name.
    pub name: String,
    /// What the skill does.
    pub description: String,
    /// The label.
    pub version: String,
    /// SHA-256 of the component.
    pub sha256: [u8; 32],
    /// Size of the component.
    pub size_bytes: i64,
    /// The component, packed with zstd.
    pub packed_wasm: Vec<u8>,
    /// The front matter of SKILL.md.
    pub manifest: Value,
    /// The rest of it.
    pub readme: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The capabilities that its worker type must grant.
    pub capabilities: Vec<String>,
    /// Its machine code.
    pub artifact: NewArtifact,
}

/// Whether a pushed version is to run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// It becomes the active one.
    Activate,
    /// It is kept, and the active one stays.
    Keep,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    /// It is a new version.
    Created(Version),
    /// The same content was there already.
    Existing(Version),
}

/// The organisation's skills and the platform's, by name.
pub async fn list(db: &Db, tenant: Tenant) -> Result<Vec<Skill>, SkillError> {
    let failed = SkillError::database("listing skills");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    sqlx::query!(
        r#"SELECT s.id AS "id: SkillId", s.org_id AS "org_id: OrgId", s.name, s.description,
                  v.version AS "active_version?", s.created_at, s.updated_at
             FROM eve.skills s
             LEFT JOIN eve.skill_versions v ON v.id = s.active_version
            WHERE s.org_id IN ($1, $2)
            ORDER BY s.name, s.org_id = $2
            LIMIT $3"#,
        tenant.org().0,
        PLATFORM_ORG.0,
        MAX_SKILLS,
    )
    .map(|row| Skill {
        id: row.id,
        name: row.name,
        owner: Owner::of(row.org_id),
        description: row.description,
        active_version: row.active_version,
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}

/// One skill with its versions; the organisation's own goes before the platform's.
pub async fn get(db: &Db, tenant: Tenant, name: &str) -> Result<SkillDetail, SkillError> {
    let failed = SkillError::database("reading a skill");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let found = find(&mut tx, tenant, name).await.map_err(failed)?;
    let found = found.ok_or_else(|| SkillError::no_skill(name))?;
    let versions = versions_of(&mut tx, &found).await.map_err(failed)?;
    let active = versions.iter().find(|version| version.active);
    let shown = active.or(versions.first());
    let id = shown.map(|version| version.id.0);
    let document =
        sqlx::query!("SELECT manifest, readme FROM eve.skill_versions WHERE id = $1", id)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
    let (manifest, readme) = match document {
        Some(row) => (row.manifest, row.readme),
        None => (json!({}), String::new()),
    };
    let needed = shown.map_or(&[][..], |version| &version.capabilities);
    let wanted = manifest["worker_types"].as_array().into_iter().flatten();
    let wanted: Vec<String> = wanted.filter_map(|id| id.as_str().map(str::to_owned)).collect();
    let standing = capabilities::standing(&mut tx, tenant, found.id, name, needed, &wanted);
    let standing = standing.await.map_err(failed)?;
    let schemas = grants::of_skill(&mut tx, tenant, found.id).await.map_err(failed)?;
    let active_version = active.map(|version| version.version.clone());
    Ok(SkillDetail {
        skill: Skill {
            id: found.id,
            name: name.to_owned(),
            owner: Owner::of(found.org),
            description: found.description,
            active_version,
            created_at: found.created_at,
            updated_at: found.updated_at,
        },
        versions,
        manifest,
        readme,
        capabilities: standing.capabilities,
        worker_types: standing.places,
        schemas,
    })
}

/// A skill's versions, newest first.
pub async fn versions(db: &Db, tenant: Tenant, name: &str) -> Result<Vec<Version>, SkillError> {
    let failed = SkillError::database("listing a skill's versions");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let found = find(&mut tx, tenant, name).await.map_err(failed)?;
    let found = found.ok_or_else(|| SkillError::no_skill(name))?;
    versions_of(&mut tx, &found).await.map_err(failed)
}

/// A skill that this organisation can name: its own, else the platform's.
pub(super) async fn skill_id(
    tx: &mut Tx,
    tenant: Tenant,
    name: &str,
) -> Result<SkillId, SkillError> {
    let found =
        find(tx, tenant, name).await.map_err(SkillError::database("looking for a skill"))?;
    found.map(|found| found.id).ok_or_else(|| SkillError::no_skill(name))
}

struct Found {
    id: SkillId,
    org: OrgId,
    description: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

async fn find(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<Option<Found>, sqlx::Error> {
    sqlx::query_as!(
        Found,
        r#"SELECT id AS "id: SkillId", org_id AS "org: OrgId", description, created_at, updated_at
             FROM eve.skills
            WHERE org_id IN ($1, $2)
              AND name = $3
            ORDER BY org_id = $2
            LIMIT 1"#,
        tenant.org().0,
        PLATFORM_ORG.0,
        name,
    )
    .fetch_optional(&mut **tx)
    .await
}

async fn versions_of(tx: &mut Tx, skill: &Found) -> Result<Vec<Version>, sqlx::Error> {
    sqlx::query_as!(
        Version,
        r#"SELECT v.id AS "id: VersionId", v.version, encode(v.sha256, 'hex') AS "sha256!",
                  v.size_bytes, v.imports, v.capabilities,
                  coalesce(s.active_version = v.id, false) AS "active!", v.created_at, v.created_by
             FROM eve.skill_versions v
             JOIN eve.skills s ON s.id = v.skill_id
            WHERE v.skill_id = $1
              AND v.org_id = $2
            ORDER BY v.id DESC
            LIMIT $3"#,
        skill.id.0,
        skill.org.0,
        MAX_VERSIONS,
    )
    .fetch_all(&mut **tx)
    .await
}

async fn version_by_id(tx: &mut Tx, tenant: Tenant, id: VersionId) -> Result<Version, sqlx::Error> {
    sqlx::query_as!(
        Version,
        r#"SELECT v.id AS "id: VersionId", v.version, encode(v.sha256, 'hex') AS "sha256!",
                  v.size_bytes, v.imports, v.capabilities,
                  coalesce(s.active_version = v.id, false) AS "active!", v.created_at, v.created_by
             FROM eve.skill_versions v
             JOIN eve.skills s ON s.id = v.skill_id
            WHERE v.id = $1
              AND v.org_id = $2"#,
        id.0,
        tenant.org().0,
    )
    .fetch_one(&mut **tx)
    .await
}

/// Before anything is compiled: the version with this content if it is there already, activated if
/// that is asked; a conflict if the label stands for another content.
pub async fn push_again(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    name: &str,
    label: &str,
    sha256: &[u8; 32],
    activation: Activation,
) -> Result<Option<Version>, SkillError> {
    let failed = SkillError::database("looking for a version");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = sqlx::query_scalar!(
        r#"SELECT id AS "id: SkillId" FROM eve.skills WHERE org_id = $1 AND name = $2 FOR NO KEY UPDATE"#,
        tenant.org().0,
        name,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    let Some(skill) = skill else {
        return Ok(None);
    };
    let found = same_version(&mut tx, tenant, skill, name, label, sha256).await?;
    let Some(version) = found else {
        return Ok(None);
    };
    if activation == Activation::Activate {
        make_active(&mut tx, tenant, actor, skill, name, version).await.map_err(failed)?;
    }
    let version = version_by_id(&mut tx, tenant, version).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(Some(version))
}

/// The version with this content; a conflict if the label is another content's.
async fn same_version(
    tx: &mut Tx,
    tenant: Tenant,
    skill: SkillId,
    name: &str,
    label: &str,
    sha256: &[u8; 32],
) -> Result<Option<VersionId>, SkillError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: VersionId", sha256
             FROM eve.skill_versions
            WHERE org_id = $1
              AND skill_id = $2
              AND (sha256 = $3 OR version = $4)"#,
        tenant.org().0,
        skill.0,
        &sha256[..],
        label,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(SkillError::database("looking for a version"))?;
    let same = rows.iter().find(|row| row.sha256 == sha256).map(|row| row.id);
    if same.is_none() && !rows.is_empty() {
        return Err(SkillError::Conflict(format!(
            "`{name}` has a version {label} already, with another content: versions never change, \
             so give this one another version in SKILL.md"
        )));
    }
    Ok(same)
}

/// Stores a compiled version, and makes it the active one if that is asked.
pub async fn push(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    new: &NewVersion,
    activation: Activation,
) -> Result<Pushed, SkillError> {
    let failed = SkillError::database("storing a version");
    let org = tenant.org();
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    // Locks the skill's row, whether it is new or not: pushes of one skill go one after another.
    let skill = sqlx::query_scalar!(
        r#"INSERT INTO eve.skills (id, org_id, name, description)
           VALUES ($1, $2, $3, $4)
           ON CONFLICT (org_id, name) DO UPDATE
              SET updated_at = now()
           RETURNING id AS "id: SkillId""#,
        SkillId::generate().0,
        org.0,
        new.name,
        new.description,
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    // A statement of its own, after the lock: it sees what the one before us has committed.
    let same = same_version(&mut tx, tenant, skill, &new.name, &new.version, &new.sha256).await?;
    let version = match same {
        Some(version) => version,
        None => insert_version(&mut tx, tenant, actor, skill, new).await.map_err(failed)?,
    };
    store_artifact(&mut tx, org, version, &new.artifact).await.map_err(failed)?;
    if activation == Activation::Activate {
        make_active(&mut tx, tenant, actor, skill, &new.name, version).await.map_err(failed)?;
    }
    let stored = version_by_id(&mut tx, tenant, version).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(if same.is_some() { Pushed::Existing(stored) } else { Pushed::Created(stored) })
}

async fn insert_version(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    skill: SkillId,
    new: &NewVersion,
) -> Result<VersionId, sqlx::Error> {
    let id = VersionId::generate();
    sqlx::query!(
        "INSERT INTO eve.skill_versions (id, org_id, skill_id, version, sha256, size_bytes, wasm,
                                         manifest, readme, imports, capabilities, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        id.0,
        tenant.org().0,
        skill.0,
        new.version,
        &new.sha256[..],
        new.size_bytes,
        new.packed_wasm,
        new.manifest,
        new.readme,
        &new.imports,
        &new.capabilities,
        Json(actor) as _,
    )
    .execute(&mut **tx)
    .await?;
    let details = json!({ "version": new.version, "sha256": hex::encode(new.sha256) });
    audit::record_details(tx, tenant, actor, "skill.push", &new.name, details).await?;
    Ok(id)
}

/// The description that is shown goes with the version that runs.
async fn make_active(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    skill: SkillId,
    name: &str,
    version: VersionId,
) -> Result<(), sqlx::Error> {
    let changed = sqlx::query_scalar!(
        "UPDATE eve.skills s
            SET active_version = v.id,
                description = coalesce(v.manifest ->> 'description', s.description),
                updated_at = now()
           FROM eve.skill_versions v
          WHERE s.org_id = $1
            AND s.id = $2
            AND v.id = $3
            AND s.active_version IS DISTINCT FROM v.id
        RETURNING v.version",
        tenant.org().0,
        skill.0,
        version.0,
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(label) = changed {
        let details = json!({ "version": label });
        audit::record_details(tx, tenant, actor, "skill.activate", name, details).await?;
    }
    // Only an administrator activates, and with it approves what its manifest names.
    let named: Vec<String> = sqlx::query_scalar!(
        r#"SELECT jsonb_array_elements_text(manifest -> 'schemas') AS "name!"
             FROM eve.skill_versions WHERE id = $1"#,
        version.0,
    )
    .fetch_all(&mut **tx)
    .await?;
    grants::approve(tx, tenant, actor, skill, name, &named).await?;
    Ok(())
}

/// Makes a version of the organisation's own skill the one that runs: `version` is its label, or at
/// least eight digits of its SHA-256.
pub async fn activate(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    name: &str,
    version: &str,
) -> Result<Version, SkillError> {
    let failed = SkillError::database("activating a version");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = lock_own(&mut tx, tenant, name).await?;
    let is_sha = (MIN_SHA_DIGITS..=64).contains(&version.len())
        && version.bytes().all(|b| b.is_ascii_hexdigit());
    let sha_prefix = is_sha.then(|| version.to_ascii_lowercase());
    let rows = sqlx::query!(
        r#"SELECT id AS "id: VersionId", version = $3 AS "by_label!"
             FROM eve.skill_versions
            WHERE org_id = $1
              AND skill_id = $2
              AND (version = $3 OR starts_with(encode(sha256, 'hex'), $4))
            LIMIT 3"#,
        tenant.org().0,
        skill.0,
        version,
        sha_prefix,
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    let chosen = match (&rows[..], rows.iter().find(|row| row.by_label)) {
        (_, Some(row)) => row.id,
        ([row], None) => row.id,
        ([], None) => {
            return Err(SkillError::NotFound {
                what: "version",
                name: format!("{name} {version}"),
            });
        }
        _ => {
            return Err(SkillError::Conflict(format!(
                "several versions of `{name}` begin with {version}: give more digits"
            )));
        }
    };
    make_active(&mut tx, tenant, actor, skill, name, chosen).await.map_err(failed)?;
    let version = version_by_id(&mut tx, tenant, chosen).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(version)
}

/// Deletes the organisation's own skill with all its versions. Requests that name it and have not
/// begun fail as `skill_not_found`; runs in progress end as they would have.
pub async fn delete(db: &Db, tenant: Tenant, actor: &Actor, name: &str) -> Result<(), SkillError> {
    let failed = SkillError::database("deleting a skill");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = lock_own(&mut tx, tenant, name).await?;
    sqlx::query!("DELETE FROM eve.skills WHERE org_id = $1 AND id = $2", tenant.org().0, skill.0)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    audit::record_details(&mut tx, tenant, actor, "skill.delete", name, json!({ "id": skill }))
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// Lets a skill, the organisation's own or the platform's, reach a schema of the organisation.
pub async fn approve(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    name: &str,
    schema: &SchemaName,
) -> Result<Vec<SchemaGrant>, SkillError> {
    let failed = SkillError::database("approving a schema");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = skill_id(&mut tx, tenant, name).await?;
    let schemas = [schema.to_string()];
    grants::approve(&mut tx, tenant, actor, skill, name, &schemas).await.map_err(failed)?;
    let all = grants::of_skill(&mut tx, tenant, skill).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(all)
}

/// Takes that back.
pub async fn withdraw(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    name: &str,
    schema: &SchemaName,
) -> Result<(), SkillError> {
    let failed = SkillError::database("withdrawing a schema");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let skill = skill_id(&mut tx, tenant, name).await?;
    match grants::withdraw(&mut tx, tenant, actor, skill, name, schema).await.map_err(failed)? {
        true => tx.commit().await.map_err(failed),
        false => Err(SkillError::NotFound {
            what: "approval",
            name: format!("of schema {schema} for {name}"),
        }),
    }
}

async fn lock_own(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<SkillId, SkillError> {
    sqlx::query_scalar!(
        r#"SELECT id AS "id: SkillId" FROM eve.skills WHERE org_id = $1 AND name = $2 FOR UPDATE"#,
        tenant.org().0,
        name,
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(SkillError::database("locking a skill"))?
    .ok_or_else(|| SkillError::no_skill(name))
}

/// A version's component as it is stored.
#[derive(Clone, Debug)]
pub struct StoredComponent {
    packed: Vec<u8>,
    size: i64,
    sha256: Vec<u8>,
}

impl StoredComponent {
    /// The very bytes that were uploaded. Takes up to a second: call it where blocking is allowed.
    pub fn unpack(&self) -> Result<Vec<u8>, SkillError> {
        // Never to more than what was uploaded.
        let size = usize::try_from(self.size).unwrap_or(0);
        let wasm = zstd::bulk::decompress(&self.packed, size).map_err(SkillError::Corrupt)?;
        if Sha256::digest(&wasm)[..] == self.sha256 {
            return Ok(wasm);
        }
        let another = "its SHA-256 is another than that of the upload";
        Err(SkillError::Corrupt(std::io::Error::other(another)))
    }
}

/// A version's component.
pub async fn wasm(tx: &mut Tx, version: VersionId) -> Result<Option<StoredComponent>, SkillError> {
    sqlx::query_as!(
        StoredComponent,
        "SELECT wasm AS packed, size_bytes AS size, sha256 FROM eve.skill_versions WHERE id = $1",
        version.0
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(SkillError::database("reading a component"))
}
