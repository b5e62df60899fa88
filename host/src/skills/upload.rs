//! Uploads: from the bytes that a client sent to an active version.
//!
//! Flow: [`Uploads::admit`] before the bytes are read; then names and labels are checked, the
//! component is compiled in a child process, signed, packed, and stored in one transaction. `recompile`
//! does the middle part again where machine code is missing or cannot be trusted.
//!
//! Invariant: what is refused changes nothing, and the version that was active stays so.

mod recompile;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::compile::{self, CompileError, Workshop};
use super::manifest::{self, Manifest};
use super::store::{self, Activation, NewArtifact, NewVersion, Pushed, SkillError};
use crate::db::Db;
use crate::ids::OrgId;
use crate::requests::validate;
use crate::tenancy::{Actor, Tenant};

/// Largest component.
pub const MAX_COMPONENT_BYTES: usize = compile::MAX_COMPONENT;
/// Largest SKILL.md.
pub const MAX_MANIFEST_BYTES: usize = manifest::MAX_BYTES;
/// Compilations at a time: each may take a core for a minute and 1 GiB of address space.
const COMPILING_MOST: usize = 2;
/// Uploads at a time, waiting ones included: each holds its component in memory.
const ADMITTED_MOST: usize = 8;
/// Of those, uploads of one organisation: however slow or many its uploads are, others find room.
const ADMITTED_EACH: usize = 4;
/// Digits of the SHA-256 that serve as a label where the manifest gives none.
const LABEL_DIGITS: usize = 12;
/// The level packs a component to a third at some 200 MB/s.
const ZSTD_LEVEL: i32 = 3;

/// Why an upload was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Too many at one time.
    #[error("too many uploads are being compiled: try again in a few seconds")]
    Busy,
    /// The component or its SKILL.md is not acceptable.
    #[error("{field}: {message}")]
    Refused {
        /// `component`, `manifest` or `name`.
        field: &'static str,
        /// What is wrong, in words for its author.
        message: String,
    },
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] SkillError),
    /// A failure of ours, not of the component.
    #[error("{doing} failed")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a client sent.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The skill's name, from the path.
    pub name: String,
    /// The component.
    pub component: Bytes,
    /// SKILL.md, if there is one.
    pub manifest: Option<String>,
}

/// Compiles and stores uploads. Cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    workshop: Workshop,
    admitted: Arc<Semaphore>,
    admitted_of: Mutex<HashMap<OrgId, usize>>,
    compiling: Semaphore,
}

/// A place among the uploads; given back when it is dropped.
pub struct Place {
    uploads: Uploads,
    org: OrgId,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut admitted = self.uploads.inner.admitted_of();
        if let Some(count @ 2..) = admitted.get_mut(&self.org) {
            *count -= 1;
        } else {
            admitted.remove(&self.org);
        }
    }
}

impl Inner {
    fn admitted_of(&self) -> MutexGuard<'_, HashMap<OrgId, usize>> {
        self.admitted_of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A component that was compiled.
struct Built {
    imports: Vec<String>,
    capabilities: Vec<String>,
    artifact: NewArtifact,
}

impl Uploads {
    /// Compiles in `workshop`.
    pub fn new(db: Db, workshop: Workshop) -> Self {
        let admitted = Arc::new(Semaphore::new(ADMITTED_MOST));
        let admitted_of = Mutex::default();
        let compiling = Semaphore::new(COMPILING_MOST);
        Self { inner: Arc::new(Inner { db, workshop, admitted, admitted_of, compiling }) }
    }

    /// A place in the queue, to be had before the upload is read and kept until it is stored.
    pub fn admit(&self, tenant: Tenant) -> Result<Place, UploadError> {
        let org = tenant.org();
        let mut admitted = self.inner.admitted_of();
        if admitted.get(&org).is_some_and(|count| *count >= ADMITTED_EACH) {
            return Err(UploadError::Busy);
        }
        let permit = self.inner.admitted.clone().try_acquire_owned();
        let permit = permit.map_err(|_| UploadError::Busy)?;
        *admitted.entry(org).or_default() += 1;
        Ok(Place { uploads: self.clone(), org, _permit: permit })
    }

    /// Checks, compiles, signs and stores. The same content again is the version that is there.
    pub async fn push(
        &self,
        tenant: Tenant,
        actor: &Actor,
        upload: Upload,
        activation: Activation,
    ) -> Result<Pushed, UploadError> {
        let db = &self.inner.db;
        validate::name("name", &upload.name)
            .map_err(|invalid| UploadError::Refused { field: "name", message: invalid.message })?;
        let document = Document::read(&upload)?;
        let component = upload.component;
        let hashed = component.clone();
        let sha256: [u8; 32] =
            blocking("hashing", move || Ok(Sha256::digest(&hashed).into())).await?;
        let label =
            document.version.unwrap_or_else(|| hex::encode(sha256)[..LABEL_DIGITS].to_owned());
        let again = store::push_again(db, tenant, actor, &upload.name, &label, &sha256, activation);
        if let Some(version) = again.await? {
            return Ok(Pushed::Existing(version));
        }
        let built = self.build(component.clone()).await?;
        let size_bytes = component.len() as i64;
        let packed_wasm = blocking("packing the component", move || {
            Ok(zstd::bulk::compress(&component, ZSTD_LEVEL)?)
        })
        .await?;
        let new = NewVersion {
            name: upload.name,
            description: document.description,
            version: label,
            sha256,
            size_bytes,
            packed_wasm,
            manifest: document.front_matter,
            readme: document.readme,
            imports: built.imports,
            capabilities: built.capabilities,
            artifact: built.artifact,
        };
        Ok(store::push(db, tenant, actor, &new, activation).await?)
    }

    /// Compiles in a child process, signs and packs; a few at a time.
    async fn build(&self, wasm: Bytes) -> Result<Built, UploadError> {
        let internal = |source: Box<dyn std::error::Error + Send + Sync>| UploadError::Internal {
            doing: "compiling a component",
            source,
        };
        let _permit =
            self.inner.compiling.acquire().await.map_err(|error| internal(error.into()))?;
        let built = self.inner.workshop.build(wasm).await.map_err(|error| match error {
            CompileError::Rejected(message) => UploadError::Refused { field: "component", message },
            ours => internal(ours.into()),
        })?;
        let statement = built.claim.statement;
        Ok(Built {
            imports: built.imports,
            capabilities: built.capabilities.iter().map(ToString::to_string).collect(),
            artifact: NewArtifact {
                fingerprint: statement.fingerprint,
                packed: built.packed,
                length: i64::try_from(statement.artifact_len).unwrap_or(i64::MAX),
                sha256: statement.artifact_sha256,
                signature: built.claim.signature,
            },
        })
    }
}

/// What SKILL.md says.
struct Document {
    description: String,
    version: Option<String>,
    front_matter: Value,
    readme: String,
}

impl Document {
    fn read(upload: &Upload) -> Result<Self, UploadError> {
        let refused = |message: String| UploadError::Refused { field: "manifest", message };
        let Some(text) = &upload.manifest else {
            let (description, readme) = (String::new(), String::new());
            return Ok(Self { description, version: None, front_matter: json!({}), readme });
        };
        let manifest = Manifest::parse(text).map_err(|error| refused(error.to_string()))?;
        if manifest.name != upload.name {
            return Err(refused(format!(
                "SKILL.md is of the skill `{}`, but it was pushed as `{}`",
                manifest.name, upload.name
            )));
        }
        if manifest.version.as_ref().is_some_and(|label| !is_label(label)) {
            return Err(refused(
                "version: must be 1 to 64 letters, digits, dots, hyphens, underscores or pluses"
                    .into(),
            ));
        }
        let mut front_matter =
            serde_json::to_value(&manifest).map_err(|error| refused(error.to_string()))?;
        // Kept apart, as the readme.
        if let Some(members) = front_matter.as_object_mut() {
            members.remove("body");
        }
        Ok(Self {
            description: manifest.description,
            version: manifest.version,
            front_matter,
            readme: manifest.body,
        })
    }
}

/// A label stands in URLs and on the command line.
fn is_label(label: &str) -> bool {
    (1..=64).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
}

/// Work that would hold up other requests: done where blocking is allowed.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
) -> Result<T, UploadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|source| UploadError::Internal { doing, source }),
        Err(error) => Err(UploadError::Internal { doing, source: error.into() }),
    }
}
