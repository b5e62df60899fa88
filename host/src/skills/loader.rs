//! From a version's id to something that can be run: the worker's side of skills.
//!
//! Prepared skills are kept in memory, their machine code in a directory of mapped files. What is in
//! neither is fetched from the database, verified, and kept. Several runs that miss at once load once.
//!
//! Invariant: what cannot be trusted never runs. A file that is not what was signed is fetched again;
//! what the database has is refused, and marked there, so that a control plane compiles it again.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::artifact::{ArtifactCache, ArtifactError, Claim};
use super::store::{self, StoredArtifact};
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
        "the skill has not been compiled for this worker's engine yet; a control plane of the same \
         version does that"
    )]
    NotCompiled,
    /// What the database has is not what a control plane has signed.
    #[error(
        "the skill's machine code was refused, because it is not what a key of this worker's \
         EVE_VERIFY_KEYS has signed; if it is not what the control plane has signed either, that compiles \
         it again"
    )]
    Refused(#[source] ArtifactError),
    /// This worker cannot keep it.
    #[error("the worker could not keep the skill's machine code")]
    Cache(#[source] ArtifactError),
    /// It was signed, and wasmtime will not have it.
    #[error("the skill's machine code cannot be used")]
    Unusable(#[source] ArtifactError),
    /// It does not fit, or imports what it is not granted.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<ArtifactError> for LoaderError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Signature
            | ArtifactError::Content(_)
            | ArtifactError::Unpack(_)
            | ArtifactError::Fingerprint { .. } => LoaderError::Refused(error),
            ArtifactError::File { .. } | ArtifactError::Unsafe { .. } => LoaderError::Cache(error),
            ArtifactError::Load(_) | ArtifactError::Key(_) => LoaderError::Unusable(error),
        }
    }
}

impl LoaderError {
    /// How a run fails because of it, and whether another attempt may help.
    pub fn failure(&self) -> (FailureCode, bool) {
        match self {
            // Outages, what is compiled meanwhile, and what another worker may be able to do.
            LoaderError::Database(_)
            | LoaderError::NotCompiled
            | LoaderError::Refused(_)
            | LoaderError::Cache(_) => (FailureCode::SkillUnloadable, true),
            LoaderError::Unusable(_) | LoaderError::Load(LoadError::Unfit(_)) => {
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
        self.inner.prepared.get_or_insert_async(&key, self.load(version, grants)).await
    }

    async fn load(&self, version: VersionId, grants: &Grants) -> Result<Skill, LoaderError> {
        let mut tx = self.inner.db.begin(Scope::Engine).await?;
        let stored = store::artifact(&mut tx, version, self.inner.runtime.fingerprint()).await?;
        drop(tx);
        let stored = stored.ok_or(LoaderError::NotCompiled)?;
        let loaded = self.verified(version, &stored, grants).await;
        if let Err(LoaderError::Refused(why)) = &loaded {
            self.report(version, &stored, why).await;
        }
        loaded
    }

    async fn verified(
        &self,
        version: VersionId,
        stored: &StoredArtifact,
        grants: &Grants,
    ) -> Result<Skill, LoaderError> {
        let claim = stored.claim(self.inner.runtime.fingerprint());
        let claim = claim.ok_or(ArtifactError::Content("its hashes have the wrong length"))?;
        let on_disk = {
            let (inner, claim, grants) = (self.inner.clone(), claim.clone(), grants.clone());
            blocking(move || inner.map(&claim, &grants)).await?
        };
        if let Some(skill) = on_disk {
            return Ok(skill);
        }
        let packed = self.fetch(version).await?;
        let (inner, grants) = (self.inner.clone(), grants.clone());
        blocking(move || {
            inner.files.put(&claim, &packed)?;
            let vanished = ArtifactError::Unsafe {
                path: inner.files.path().into(),
                problem: "loses its files at once",
            };
            inner.map(&claim, &grants)?.ok_or(LoaderError::Cache(vanished))
        })
        .await
    }

    /// Tells the control planes. If that fails, the next attempt does it.
    async fn report(&self, version: VersionId, stored: &StoredArtifact, why: &ArtifactError) {
        tracing::error!(
            %version,
            error = why as &dyn std::error::Error,
            "machine code in the database cannot be trusted: refused, and marked to be compiled again"
        );
        let fingerprint = self.inner.runtime.fingerprint();
        let marked = async {
            let mut tx = self.inner.db.begin(Scope::Engine).await?;
            let (at, why) = (stored.stored_at, why.to_string());
            store::refuse(&mut tx, version, fingerprint, at, &why).await?;
            tx.commit().await
        };
        if let Err(error) = marked.await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, %version, "refused machine code could not be marked");
        }
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
