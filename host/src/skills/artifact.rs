//! Artifacts: a skill's machine code, signed by the control plane and mapped by workers.
//!
//! wasmtime checks next to nothing of an artifact: flipped machine code loads and runs. So the
//! signature is the wall. It covers the code's bytes and length, the wasm that it came from, and
//! the engine that it was made for; workers hold public keys only.
//!
//! Invariants:
//! - A file is opened once, without following links, in a directory that is ours alone; what is
//!   verified is what is mapped.
//! - Files are replaced by rename only and never written again: a mapped file that changes changes
//!   running code.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use crate::runtime::Runtime;

/// The largest artifact that is unpacked: JavaScript's are 35 MB, and machine code is about three
/// times the size of its wasm, of which 64 MiB can be uploaded.
pub const MAX_ARTIFACT: u64 = 256 << 20;

/// Sets our statements apart from anything else that the same key might ever sign.
const DOMAIN: &[u8] = b"eve-horizon artifact v1\0";

/// Level 3: a third of the size, 200 MB/s.
const ZSTD_LEVEL: i32 = 3;

/// Why an artifact, a key or the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No accepted key has signed the statement.
    #[error("the artifact's signature is by none of the accepted keys")]
    Signature,
    /// The bytes are not the ones that were signed.
    #[error("the artifact is not what was signed: {0}")]
    Content(&'static str),
    /// It was made for another engine.
    #[error("the artifact is for `{artifact}`; this is `{runtime}`")]
    Fingerprint {
        /// What it was made for.
        artifact: String,
        /// What this process runs.
        runtime: String,
    },
    /// It is packed wrongly, or is larger than was said.
    #[error("unpacking the artifact")]
    Unpack(#[source] std::io::Error),
    /// A key is malformed.
    #[error("{0}")]
    Key(&'static str),
    /// A file or directory is not ours alone.
    #[error("`{}` {problem}", path.display())]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file could not be read or written.
    #[error("{doing} `{}`", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// wasmtime would not have it.
    #[error("loading the artifact")]
    Load(#[source] wasmtime::Error),
}

/// What the control plane vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// SHA-256 of the machine code.
    pub artifact_sha256: [u8; 32],
    /// Its length in bytes.
    pub artifact_len: u64,
    /// SHA-256 of the component that it was compiled from.
    pub wasm_sha256: [u8; 32],
    /// The engine that it was compiled for: see [`crate::runtime::engine::fingerprint`].
    pub fingerprint: String,
}

impl Statement {
    /// A statement about `artifact`, compiled from `wasm` for the engine `fingerprint`.
    pub fn about(artifact: &[u8], wasm: &[u8], fingerprint: &str) -> Self {
        Self {
            artifact_sha256: Sha256::digest(artifact).into(),
            artifact_len: artifact.len() as u64,
            wasm_sha256: Sha256::digest(wasm).into(),
            fingerprint: fingerprint.to_owned(),
        }
    }

    /// The bytes that are signed. Fields of fixed length first, so that no two statements agree.
    fn message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + 72 + self.fingerprint.len());
        message.extend_from_slice(DOMAIN);
        message.extend_from_slice(&self.artifact_sha256);
        message.extend_from_slice(&self.artifact_len.to_le_bytes());
        message.extend_from_slice(&self.wasm_sha256);
        message.extend_from_slice(self.fingerprint.as_bytes());
        message
    }

    /// Its name in a cache: code for another engine is other code, and so has another name.
    fn file_name(&self) -> String {
        hex::encode(self.artifact_sha256)
    }
}

/// A statement with its signature: what a worker needs to know besides the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed.
    pub statement: Statement,
    /// Ed25519 over it.
    pub signature: [u8; 64],
}

/// Signs what this process has compiled. Only the control plane has one.
pub struct Signer {
    key: SigningKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

impl Signer {
    /// A new key.
    pub fn generate() -> Self {
        Self::from_seed(&rand::random())
    }

    /// The key of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// The key of a seed in base64.
    pub fn from_base64(text: &str) -> Result<Self, ArtifactError> {
        let seed = decode(text, "a signing key is 32 bytes in base64")?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a seed in base64 in a file that nobody else may read.
    pub fn from_file(path: &Path) -> Result<Self, ArtifactError> {
        let doing = "reading the signing key";
        let failed = |source| ArtifactError::File { doing, path: path.into(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 != 0 {
            let problem = "must be a file that its owner alone can read (chmod 600)";
            return Err(ArtifactError::Unsafe { path: path.into(), problem });
        }
        let mut text = String::new();
        file.take(1_024).read_to_string(&mut text).map_err(failed)?;
        Self::from_base64(text.trim())
    }

    /// Writes the seed to a new file that its owner alone can read.
    pub fn save(&self, path: &Path) -> Result<(), ArtifactError> {
        let doing = "writing the signing key";
        let failed = |source| ArtifactError::File { doing, path: path.into(), source };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        writeln!(file, "{}", BASE64.encode(self.key.to_bytes())).map_err(failed)?;
        file.sync_all().map_err(failed)
    }

    /// The seed in base64, as [`Signer::from_base64`] takes it. Secret.
    pub fn seed(&self) -> String {
        BASE64.encode(self.key.to_bytes())
    }

    /// What workers need to verify: 32 bytes in base64.
    pub fn public_key(&self) -> String {
        BASE64.encode(self.key.verifying_key().to_bytes())
    }

    /// Vouches for a statement.
    pub fn sign(&self, statement: Statement) -> Claim {
        let signature = self.key.sign(&statement.message()).to_bytes();
        Claim { statement, signature }
    }
}

/// Knows whose signatures count.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<VerifyingKey>,
}

impl Verifier {
    /// Accepts signatures by any of these public keys in base64: several while keys rotate.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, ArtifactError> {
        let malformed = "a public key is 32 bytes in base64";
        let keys: Vec<_> = keys
            .into_iter()
            .map(|text| {
                let bytes = decode(text, malformed)?;
                VerifyingKey::from_bytes(&bytes).map_err(|_| ArtifactError::Key(malformed))
            })
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(ArtifactError::Key("at least one public key is needed"));
        }
        Ok(Self { keys })
    }

    /// Whether an accepted key has signed the claim.
    pub fn verify(&self, claim: &Claim) -> Result<(), ArtifactError> {
        let message = claim.statement.message();
        let signature = Signature::from_bytes(&claim.signature);
        // Strict: no malleable signatures, no weak keys.
        match self.keys.iter().any(|key| key.verify_strict(&message, &signature).is_ok()) {
            true => Ok(()),
            false => Err(ArtifactError::Signature),
        }
    }
}

fn decode(text: &str, malformed: &'static str) -> Result<[u8; 32], ArtifactError> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| ArtifactError::Key(malformed))?;
    bytes.try_into().map_err(|_| ArtifactError::Key(malformed))
}

/// Packs machine code for storage.
pub fn pack(artifact: &[u8]) -> Result<Vec<u8>, ArtifactError> {
    zstd::bulk::compress(artifact, ZSTD_LEVEL).map_err(ArtifactError::Unpack)
}

/// Unpacks what [`pack`] made, never to more than the claim says, and checks it against the claim.
fn unpack(packed: &[u8], statement: &Statement) -> Result<Vec<u8>, ArtifactError> {
    if statement.artifact_len > MAX_ARTIFACT {
        return Err(ArtifactError::Content("it is larger than any artifact may be"));
    }
    let capacity = usize::try_from(statement.artifact_len)
        .map_err(|_| ArtifactError::Content("it is larger than this machine's memory"))?;
    let artifact = zstd::bulk::decompress(packed, capacity).map_err(ArtifactError::Unpack)?;
    if artifact.len() != capacity {
        return Err(ArtifactError::Content("its length is another"));
    }
    if <[u8; 32]>::from(Sha256::digest(&artifact)) != statement.artifact_sha256 {
        return Err(ArtifactError::Content("its hash is another"));
    }
    Ok(artifact)
}

fn sha256(file: &mut std::fs::File) -> std::io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Machine code that was verified and is mapped: the only kind that a [`Runtime`] loads.
#[derive(Clone, Debug)]
pub struct VerifiedArtifact {
    component: Component,
}

impl VerifiedArtifact {
    pub(crate) fn component(&self) -> &Component {
        &self.component
    }
}

/// A directory of artifacts, ours alone. Everything in it can be fetched again.
///
/// All methods do file I/O and hashing (1 ms to 0.2 s): call them where blocking is allowed.
#[derive(Debug)]
pub struct ArtifactCache {
    dir: Dir,
    path: PathBuf,
    verifier: Verifier,
}

impl ArtifactCache {
    /// Opens `path`, making it if need be; refuses a directory that others can enter.
    pub fn open(path: &Path, verifier: Verifier) -> Result<Self, ArtifactError> {
        let failed = |source| ArtifactError::File {
            doing: "opening the artifact cache",
            path: path.into(),
            source,
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let dir = Dir::from_std_file(descriptor.into());
        let metadata = dir.dir_metadata().map_err(failed)?;
        let refused = |problem| Err(ArtifactError::Unsafe { path: path.into(), problem });
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return refused("belongs to another user");
        }
        if metadata.mode() & 0o077 != 0 {
            return refused("can be entered by others (it must have mode 700)");
        }
        let cache = Self { dir, path: path.into(), verifier };
        cache.sweep().map_err(failed)?;
        Ok(cache)
    }

    /// Removes what a process left half-written when it died. Younger files may be another
    /// process's work.
    fn sweep(&self) -> std::io::Result<()> {
        const ABANDONED: Duration = Duration::from_secs(3_600);
        for entry in self.dir.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.ends_with(".tmp")) {
                let written = entry.metadata()?.modified()?.into_std();
                if written.elapsed().is_ok_and(|age| age > ABANDONED) {
                    self.dir.remove_file(name)?;
                }
            }
        }
        Ok(())
    }

    /// Verifies packed machine code against its claim and keeps it.
    pub fn put(&self, claim: &Claim, packed: &[u8]) -> Result<(), ArtifactError> {
        self.verifier.verify(claim)?;
        let artifact = unpack(packed, &claim.statement)?;
        let name = claim.statement.file_name();
        let temporary = format!("{name}.{:016x}.tmp", rand::random::<u64>());
        self.write(&temporary, &artifact)
            .and_then(|()| self.dir.rename(&temporary, &self.dir, &name))
            .map_err(|source| {
                // Nothing depends on it; a leftover is swept at the next start.
                let _ = self.dir.remove_file(&temporary);
                self.failed("writing", &name, source)
            })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an accepted key has signed the claim.
    pub fn accepts(&self, claim: &Claim) -> bool {
        self.verifier.verify(claim).is_ok()
    }

    /// Checks packed machine code as [`put`](Self::put) does, and keeps nothing.
    pub fn check(&self, claim: &Claim, packed: &[u8]) -> Result<(), ArtifactError> {
        self.verifier.verify(claim)?;
        unpack(packed, &claim.statement).map(drop)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o400);
        let mut file = self.dir.open_with(name, &options)?;
        file.write_all(bytes)
    }

    /// Maps what is kept for a claim; none if there is nothing, or nothing usable: then fetch it,
    /// [`put`](Self::put) it and try again. An error means that the claim itself is no good, or
    /// that what it vouches for does not load.
    pub fn get(
        &self,
        runtime: &Runtime,
        claim: &Claim,
    ) -> Result<Option<VerifiedArtifact>, ArtifactError> {
        self.verifier.verify(claim)?;
        if claim.statement.fingerprint != runtime.fingerprint() {
            return Err(ArtifactError::Fingerprint {
                artifact: claim.statement.fingerprint.clone(),
                runtime: runtime.fingerprint().to_owned(),
            });
        }
        let name = claim.statement.file_name();
        match self.map(runtime, &claim.statement, &name) {
            Ok(artifact) => Ok(artifact),
            // These are the right bytes, so others would be no better.
            Err(error @ ArtifactError::Load(_)) => Err(error),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    artifact = name,
                    "discarding a cached artifact that cannot be trusted"
                );
                self.discard(&name)?;
                Ok(None)
            }
        }
    }

    fn map(
        &self,
        runtime: &Runtime,
        statement: &Statement,
        name: &str,
    ) -> Result<Option<VerifiedArtifact>, ArtifactError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let descriptor = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("opening", name, error.into())),
        };
        let mut file = std::fs::File::from(descriptor);
        let metadata = file.metadata().map_err(|error| self.failed("reading", name, error))?;
        let refused = |problem| Err(ArtifactError::Unsafe { path: self.path.join(name), problem });
        if !metadata.is_file() {
            return refused("is not a regular file");
        }
        if std::os::unix::fs::MetadataExt::uid(&metadata) != rustix::process::geteuid().as_raw() {
            return refused("belongs to another user");
        }
        if std::os::unix::fs::MetadataExt::mode(&metadata) & 0o277 != 0 {
            return refused("can be written");
        }
        if metadata.len() != statement.artifact_len {
            return Err(ArtifactError::Content("its length is another"));
        }
        let digest = sha256(&mut file).map_err(|error| self.failed("reading", name, error))?;
        if digest != statement.artifact_sha256 {
            return Err(ArtifactError::Content("its hash is another"));
        }

        let mapped = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        // SAFETY: `deserialize_file` wants bytes that wasmtime itself has made, and that nobody
        // changes while they are mapped.
        // - Made: the signature covers the hash of all bytes, read through the descriptor that is
        //   mapped here; only our control plane signs, and only what its own child has compiled
        //   with this engine's exact fingerprint.
        // - Unchanged: the file is regular, ours, read-only, in a directory that only we can
        //   enter, and we replace files by rename, which leaves a mapped one as it is.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize_file(runtime.engine(), &mapped) }
            .map_err(ArtifactError::Load)?;
        Ok(Some(VerifiedArtifact { component }))
    }

    fn discard(&self, name: &str) -> Result<(), ArtifactError> {
        match self.dir.symlink_metadata(name) {
            Ok(metadata) if metadata.is_dir() => self.dir.remove_dir_all(name),
            Ok(_) => self.dir.remove_file(name),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|error| self.failed("discarding", name, error))
    }

    fn failed(&self, doing: &'static str, name: &str, source: std::io::Error) -> ArtifactError {
        ArtifactError::File { doing, path: self.path.join(name), source }
    }
}

#[cfg(test)]
mod tests;
