//! Machine code in the database: one artifact for a version and an engine.
//!
//! A worker that refuses one says so in its row ([`refuse`]); a control plane replaces it, or takes the
//! mark away because it finds nothing wrong ([`acquit`]).

use chrono::{DateTime, Utc};

use super::SkillError;
use crate::db::{Db, Scope, Tx};
use crate::ids::{OrgId, VersionId};
use crate::skills::artifact::{Claim, Statement};

/// Machine code to store.
#[derive(Clone, Debug)]
pub struct NewArtifact {
    /// The engine that it is for.
    pub fingerprint: String,
    /// Packed with zstd.
    pub packed: Vec<u8>,
    /// Bytes when unpacked.
    pub length: i64,
    /// SHA-256 when unpacked.
    pub sha256: [u8; 32],
    /// Ed25519 over it and its origin.
    pub signature: [u8; 64],
}

/// What is said of stored machine code. Nothing here is to be believed before the signature is.
#[derive(Clone, Debug)]
pub struct StoredArtifact {
    /// Bytes when unpacked.
    pub length: i64,
    /// SHA-256 when unpacked.
    pub sha256: Vec<u8>,
    /// Ed25519 over it and its origin.
    pub signature: Vec<u8>,
    /// SHA-256 of the component that it was compiled from.
    pub wasm_sha256: Vec<u8>,
    /// Since when it is there: compiled again, it is another.
    pub stored_at: DateTime<Utc>,
}

/// An active version whose machine code is to be looked at.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Whose.
    pub org: OrgId,
    /// Which.
    pub version: VersionId,
    /// What is said of its machine code.
    pub stored: StoredArtifact,
    /// Why a worker would not run it, if one has refused it.
    pub refused: Option<String>,
}

impl StoredArtifact {
    /// What the control plane is said to vouch for; none if a column has not the right length, and
    /// then no signature could hold.
    pub fn claim(&self, fingerprint: &str) -> Option<Claim> {
        Some(Claim {
            statement: Statement {
                artifact_sha256: self.sha256.as_slice().try_into().ok()?,
                artifact_len: self.length.try_into().ok()?,
                wasm_sha256: self.wasm_sha256.as_slice().try_into().ok()?,
                fingerprint: fingerprint.to_owned(),
            },
            signature: self.signature.as_slice().try_into().ok()?,
        })
    }
}

/// What is said of the machine code of a version for an engine, if it was compiled for that. Any scope
/// that may read artifacts; a worker's takes the version from a leased row.
pub async fn artifact(
    tx: &mut Tx,
    version: VersionId,
    fingerprint: &str,
) -> Result<Option<StoredArtifact>, sqlx::Error> {
    sqlx::query_as!(
        StoredArtifact,
        "SELECT a.length, a.sha256, a.signature, v.sha256 AS wasm_sha256, a.created_at AS stored_at
           FROM eve.artifacts a
           JOIN eve.skill_versions v ON v.id = a.version_id
          WHERE a.version_id = $1
            AND a.fingerprint = $2",
        version.0,
        fingerprint,
    )
    .fetch_optional(&mut **tx)
    .await
}

/// The machine code itself, packed with zstd: apart, because megabytes are fetched only by who has
/// them not.
pub async fn artifact_bytes(
    tx: &mut Tx,
    version: VersionId,
    fingerprint: &str,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT bytes FROM eve.artifacts WHERE version_id = $1 AND fingerprint = $2",
        version.0,
        fingerprint,
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Keeps machine code; what is there already for the same engine is left as it is.
pub async fn store_artifact(
    tx: &mut Tx,
    org: OrgId,
    version: VersionId,
    artifact: &NewArtifact,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO eve.artifacts (version_id, org_id, fingerprint, bytes, length, sha256, signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (version_id, fingerprint) DO NOTHING",
        version.0,
        org.0,
        artifact.fingerprint,
        artifact.packed,
        artifact.length,
        &artifact.sha256[..],
        &artifact.signature[..],
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Puts machine code in the place of what cannot be trusted; takes a mark away with it.
pub async fn replace_artifact(
    tx: &mut Tx,
    org: OrgId,
    version: VersionId,
    artifact: &NewArtifact,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO eve.artifacts (version_id, org_id, fingerprint, bytes, length, sha256, signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (version_id, fingerprint) DO UPDATE
            SET bytes = excluded.bytes, length = excluded.length, sha256 = excluded.sha256,
                signature = excluded.signature, created_at = clock_timestamp(),
                refused_at = NULL, refused_why = NULL",
        version.0,
        org.0,
        artifact.fingerprint,
        artifact.packed,
        artifact.length,
        &artifact.sha256[..],
        &artifact.signature[..],
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Marks machine code as refused, unless it has been compiled again since it was read.
pub(in crate::skills) async fn refuse(
    tx: &mut Tx,
    version: VersionId,
    fingerprint: &str,
    stored_at: DateTime<Utc>,
    why: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE eve.artifacts
            SET refused_at = clock_timestamp(), refused_why = left($4, 500)
          WHERE version_id = $1
            AND fingerprint = $2
            AND created_at = $3
            AND refused_at IS NULL",
        version.0,
        fingerprint,
        stored_at,
        why,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes the mark away: nothing was found wrong.
pub(in crate::skills) async fn acquit(
    tx: &mut Tx,
    version: VersionId,
    fingerprint: &str,
    stored_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE eve.artifacts
            SET refused_at = NULL, refused_why = NULL
          WHERE version_id = $1
            AND fingerprint = $2
            AND created_at = $3",
        version.0,
        fingerprint,
        stored_at,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Which of the active versions' machine code is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::skills) enum Suspicion {
    /// All of it.
    Everything,
    /// What a worker has refused.
    Refused,
}

/// Active versions with what is said of their machine code for an engine.
pub(in crate::skills) async fn suspects(
    db: &Db,
    fingerprint: &str,
    suspicion: Suspicion,
) -> Result<Vec<Suspect>, SkillError> {
    let failed = SkillError::database("looking for machine code that was refused");
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    sqlx::query!(
        r#"SELECT s.org_id AS "org: OrgId", v.id AS "version: VersionId", a.length, a.sha256,
                  a.signature, v.sha256 AS wasm_sha256, a.created_at, a.refused_why
             FROM eve.artifacts a
             JOIN eve.skills s ON s.active_version = a.version_id
             JOIN eve.skill_versions v ON v.id = a.version_id
            WHERE a.fingerprint = $1
              AND ($2 OR a.refused_at IS NOT NULL)
            ORDER BY v.id"#,
        fingerprint,
        suspicion == Suspicion::Everything,
    )
    .map(|row| Suspect {
        org: row.org,
        version: row.version,
        stored: StoredArtifact {
            length: row.length,
            sha256: row.sha256,
            signature: row.signature,
            wasm_sha256: row.wasm_sha256,
            stored_at: row.created_at,
        },
        refused: row.refused_why,
    })
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}

/// Active versions that have no machine code for an engine.
pub(in crate::skills) async fn missing_artifacts(
    db: &Db,
    fingerprint: &str,
) -> Result<Vec<(OrgId, VersionId)>, SkillError> {
    let failed = SkillError::database("looking for versions to compile");
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    sqlx::query!(
        r#"SELECT s.org_id AS "org: OrgId", v.id AS "version: VersionId"
             FROM eve.skills s
             JOIN eve.skill_versions v ON v.id = s.active_version
            WHERE NOT EXISTS (
                      SELECT FROM eve.artifacts a WHERE a.version_id = v.id AND a.fingerprint = $1
                  )
            ORDER BY v.id"#,
        fingerprint,
    )
    .map(|row| (row.org, row.version))
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}
