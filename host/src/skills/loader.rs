//! From a version's id to something that can be run: the worker's side of skills.
//!
//! Prepared skills are kept in memory, their machine code in a directory of mapped files. What is in
//! neither is fetched from the database, verified, and kept. Several runs that miss at once load once.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::artifact::{ArtifactCache, ArtifactError, Claim};
use super::store;
use crate::db::{Db, Scope};
use crate::ids::VersionId;
use crate::requests::FailureCode;
use crate::runtime::{Grants, LoadError, Runtime, Skill};

/// Prepared skills kept in memory. A prepared skill is small; its code is mapped, not copied.
const PREPARED: usize = 512;

/// Why a skill could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// The database could not be asked.
    #[error("fetching the skill's machine code failed")]
    Database(#[from] sqlx::Error),
    /// It was compiled for other engines only, so far.
    #[error(
        "the skill has not been compiled for this worker's engine yet; the control plane does that \
         when it starts"
    )]
    NotCompiled,
    /// What is stored cannot be trusted, or not be kept.
    #[error("the skill's machine code cannot be used")]
    Artifact(#[from] ArtifactError),
    /// It does not fit, or imports what it is not granted.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl LoaderError {
    /// How a run fails because of it, and whether another attempt may help.
    pub fn failure(&self) -> (FailureCode, bool) {
        match self {
            LoaderError::Database(_) | LoaderError::NotCompiled => {
                (FailureCode::SkillUnloadable, true)
            }
            LoaderError::Artifact(_) | LoaderError::Load(LoadError::Unfit(_)) => {
                (FailureCode::SkillUnloadable, false)
            }
            LoaderError::Load(LoadError::Refused(_)) => (FailureCode::NotGranted, false),
        }
    }
}

/// Loads skills for one worker process.
#[derive(Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    runtime: Runtime,
    files: ArtifactCache,
    /// By version and by what it is granted: grants decide what is linked.
    prepared: Cache<(VersionId, String), Skill>,
}

impl Loader {
    /// Loads from `db` into `runtime`, and keeps machine code in `files`.
    pub fn new(db: Db, runtime: Runtime, files: ArtifactCache) -> Loader {
        Loader { inner: Arc::new(Inner { db, runtime, files, prepared: Cache::new(PREPARED) }) }
    }

    /// A version, granted no more than `grants`.
    pub async fn get(&self, version: VersionId, grants: &Grants) -> Result<Skill, LoaderError> {
        let key = (version, grants.to_string());
        if let Some(skill) = self.inner.prepared.get(&key) {
            return Ok(skill);
        }
        self.inner
            .prepared
            .get_or_insert_async(&key, async {
                let claim = self.claim(version).await?;
                let inner = self.inner.clone();
                let grants = grants.clone();
                let on_disk = {
                    let (inner, claim, grants) = (inner.clone(), claim.clone(), grants.clone());
                    blocking(move || inner.map(&claim, &grants)).await?
                };
                if let Some(skill) = on_disk {
                    return Ok(skill);
                }
                let packed = self.fetch(version).await?;
                blocking(move || {
                    inner.files.put(&claim, &packed)?;
                    inner.map(&claim, &grants)?.ok_or(LoaderError::Artifact(
                        ArtifactError::Content("it vanished from the cache at once"),
                    ))
                })
                .await
            })
            .await
    }

    async fn claim(&self, version: VersionId) -> Result<Claim, LoaderError> {
        let mut tx = self.inner.db.begin(Scope::Engine).await?;
        let fingerprint = self.inner.runtime.fingerprint();
        let stored = store::artifact(&mut tx, version, fingerprint).await?;
        let claim = stored.ok_or(LoaderError::NotCompiled)?.claim(fingerprint);
        let malformed = ArtifactError::Content("its stored hashes have the wrong length");
        claim.ok_or(LoaderError::Artifact(malformed))
    }

    async fn fetch(&self, version: VersionId) -> Result<Vec<u8>, LoaderError> {
        let mut tx = self.inner.db.begin(Scope::Engine).await?;
        let packed =
            store::artifact_bytes(&mut tx, version, self.inner.runtime.fingerprint()).await?;
        packed.ok_or(LoaderError::NotCompiled)
    }
}

impl Inner {
    fn map(&self, claim: &Claim, grants: &Grants) -> Result<Option<Skill>, LoaderError> {
        match self.files.get(&self.runtime, claim)? {
            Some(artifact) => Ok(Some(self.runtime.load(&artifact, grants)?)),
            None => Ok(None),
        }
    }
}

/// Hashing and mapping megabytes is not for the threads that keep heartbeats.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoaderError> + Send + 'static,
) -> Result<T, LoaderError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
