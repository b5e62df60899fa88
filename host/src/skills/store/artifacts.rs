//! Machine code in the database: one artifact for a version and an engine.

use uuid::Uuid;

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
        "SELECT a.length, a.sha256, a.signature, v.sha256 AS wasm_sha256
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

/// Active versions that have no machine code for an engine.
pub(in crate::skills) async fn missing_artifacts(
    db: &Db,
    fingerprint: &str,
) -> Result<Vec<(OrgId, VersionId)>, SkillError> {
    let failed = SkillError::database("looking for versions to compile");
    let mut tx = db.begin(Scope::Control).await.map_err(failed)?;
    let rows: Vec<(Uuid, Uuid)> = sqlx::query!(
        "SELECT s.org_id, v.id
           FROM eve.skills s
           JOIN eve.skill_versions v ON v.id = s.active_version
          WHERE NOT EXISTS (
                    SELECT FROM eve.artifacts a WHERE a.version_id = v.id AND a.fingerprint = $1
                )
          ORDER BY v.id",
        fingerprint,
    )
    .map(|row| (row.org_id, row.id))
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    Ok(rows.into_iter().map(|(org, version)| (org.into(), version.into())).collect())
}
