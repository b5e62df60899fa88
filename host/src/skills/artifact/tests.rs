//! Every way in which machine code can be another than what was signed, and what becomes of it.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::runtime::{Grants, RuntimeConfig, engine, guests};

struct Bench {
    io: tokio::runtime::Runtime,
    runtime: Runtime,
    directory: tempfile::TempDir,
    signer: Signer,
    cache: ArtifactCache,
}

impl Bench {
    fn set_up() -> Self {
        let io = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let runtime = Runtime::new(RuntimeConfig {
            max_concurrent: 2,
            memory_budget: 1 << 30,
            threads: 1,
            io: io.handle().clone(),
        })
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::generate();
        let verifier = Verifier::new([signer.public_key().as_str()]).unwrap();
        let cache = ArtifactCache::open(&directory.path().join("a/b"), verifier).unwrap();
        Self { io, runtime, directory, signer, cache }
    }

    fn compiled(&self) -> (Vec<u8>, Statement) {
        self.compiled_of(guests::noop())
    }

    fn compiled_of(&self, wasm: Vec<u8>) -> (Vec<u8>, Statement) {
        let engine = engine::compiling().unwrap();
        let artifact = Component::new(&engine, &wasm).unwrap().serialize().unwrap();
        let statement = Statement::about(&artifact, &wasm, &engine::fingerprint(&engine));
        (artifact, statement)
    }

    fn kept(&self) -> (Vec<u8>, Claim, PathBuf) {
        let (artifact, statement) = self.compiled();
        let claim = self.signer.sign(statement);
        self.cache.put(&claim, &pack(&artifact).unwrap()).unwrap();
        let path = self.cache.path.join(claim.statement.file_name());
        (artifact, claim, path)
    }

    /// Replaces the kept file as somebody with our own rights could.
    fn replace(&self, path: &Path, bytes: &[u8]) {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o400)).unwrap();
    }

    /// A second version, kept beside the first.
    fn other(&self) -> (Vec<u8>, Claim, PathBuf) {
        let (artifact, statement) = self.compiled_of(guests::returning_data("{}"));
        let claim = self.signer.sign(statement);
        self.cache.put(&claim, &pack(&artifact).unwrap()).unwrap();
        let path = self.cache.path.join(claim.statement.file_name());
        (artifact, claim, path)
    }

    fn is_discarded(&self, claim: &Claim, path: &Path) {
        assert!(self.cache.get(&self.runtime, claim).unwrap().is_none());
        assert!(path.symlink_metadata().is_err(), "it is still there");
        // And can be had again.
        let (artifact, _) = self.compiled();
        self.cache.put(claim, &pack(&artifact).unwrap()).unwrap();
        assert!(self.cache.get(&self.runtime, claim).unwrap().is_some());
    }
}

#[test]
fn what_was_signed_is_mapped_and_loads() {
    let bench = Bench::set_up();
    let (_, statement) = bench.compiled();
    let claim = bench.signer.sign(statement);
    assert!(bench.cache.get(&bench.runtime, &claim).unwrap().is_none());
    let (_, claim, path) = bench.kept();
    let artifact = bench.cache.get(&bench.runtime, &claim).unwrap().unwrap();
    bench.runtime.load(&artifact, &Grants::none()).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    // A second `put` replaces the file by another; what is mapped stays.
    let (_, _, _) = bench.kept();
    bench.runtime.load(&artifact, &Grants::none()).unwrap();
    drop(bench.io);
    drop(bench.directory);
}

#[test]
fn a_tampered_file_is_discarded() {
    let bench = Bench::set_up();
    let (mut artifact, claim, path) = bench.kept();
    let middle = artifact.len() / 2;
    artifact[middle] ^= 1;
    bench.replace(&path, &artifact);
    bench.is_discarded(&claim, &path);
}

#[test]
fn a_file_that_is_too_short_or_too_long_is_discarded() {
    let bench = Bench::set_up();
    let (artifact, claim, path) = bench.kept();
    let longer = [&artifact[..], b"x"].concat();
    for bytes in [&artifact[..artifact.len() - 1], &[], &longer] {
        bench.replace(&path, bytes);
        bench.is_discarded(&claim, &path);
    }
}

#[test]
fn another_versions_file_is_discarded() {
    let bench = Bench::set_up();
    let (_, claim, path) = bench.kept();
    let (other, _, others_path) = bench.other();
    bench.replace(&path, &other);
    bench.is_discarded(&claim, &path);
    // Both are signed, and each is only what its own claim says.
    std::fs::rename(&others_path, &path).unwrap();
    bench.is_discarded(&claim, &path);
    // By a link that is none to look at.
    let (_, others_claim, others_path) = bench.other();
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(&others_path, &path).unwrap();
    bench.is_discarded(&claim, &path);
    assert!(bench.cache.get(&bench.runtime, &others_claim).unwrap().is_some());
}

/// Only root can give files away, so only root can try.
fn give_away(path: &Path) -> bool {
    const NOBODY: u32 = 65_534;
    let given = std::os::unix::fs::chown(path, Some(NOBODY), None).is_ok();
    if !given {
        eprintln!("SKIPPED: a foreign owner of {}: this takes root", path.display());
    }
    given
}

#[test]
fn a_foreign_file_is_discarded() {
    let bench = Bench::set_up();
    let (_, claim, path) = bench.kept();
    if give_away(&path) {
        bench.is_discarded(&claim, &path);
    }
}

#[test]
fn a_foreign_directory_is_refused() {
    let bench = Bench::set_up();
    if give_away(&bench.cache.path) {
        let refused = ArtifactCache::open(&bench.cache.path, bench.cache.verifier.clone());
        let said = refused.expect_err("it is somebody else's").to_string();
        assert!(said.contains("belongs to another user"), "{said}");
    }
}

#[test]
fn a_link_is_discarded_and_not_followed() {
    let bench = Bench::set_up();
    let (artifact, claim, path) = bench.kept();
    let elsewhere = bench.directory.path().join("elsewhere");
    std::fs::write(&elsewhere, &artifact).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    bench.is_discarded(&claim, &path);
    assert!(elsewhere.exists());
}

#[test]
fn a_writable_file_is_discarded() {
    let bench = Bench::set_up();
    let (_, claim, path) = bench.kept();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    bench.is_discarded(&claim, &path);
}

#[test]
fn what_is_no_file_is_discarded() {
    let bench = Bench::set_up();
    let (_, claim, path) = bench.kept();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("full"), "x").unwrap();
    bench.is_discarded(&claim, &path);
    // Whoever waits for a pipe to be written waits for ever.
    std::fs::remove_file(&path).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, Mode::RUSR, 0).unwrap();
    bench.is_discarded(&claim, &path);
}

#[test]
fn only_accepted_keys_count_and_keys_rotate() {
    let bench = Bench::set_up();
    let (artifact, statement) = bench.compiled();
    let packed = pack(&artifact).unwrap();
    let stranger = Signer::generate();
    let forged = stranger.sign(statement.clone());
    assert!(matches!(bench.cache.put(&forged, &packed), Err(ArtifactError::Signature)));
    assert!(matches!(bench.cache.get(&bench.runtime, &forged), Err(ArtifactError::Signature)));
    assert!(!bench.cache.accepts(&forged) && bench.cache.check(&forged, &packed).is_err());
    let ours = bench.signer.sign(statement.clone());
    assert!(bench.cache.accepts(&ours) && bench.cache.check(&ours, &packed).is_ok());
    assert!(matches!(bench.cache.check(&ours, &packed[1..]), Err(ArtifactError::Unpack(_))));
    let keys = [bench.signer.public_key(), stranger.public_key()];
    let both = Verifier::new(keys.iter().map(String::as_str)).unwrap();
    both.verify(&forged).unwrap();
    both.verify(&bench.signer.sign(statement)).unwrap();
    assert!(Verifier::new([]).is_err());
    assert!(Verifier::new(["AAAA"]).is_err());
}

#[test]
fn every_field_is_signed() {
    let bench = Bench::set_up();
    let (_, statement) = bench.compiled();
    let claim = bench.signer.sign(statement);
    let changes: [fn(&mut Statement); 4] = [
        |statement| statement.artifact_sha256[0] ^= 1,
        |statement| statement.artifact_len += 1,
        |statement| statement.wasm_sha256[0] ^= 1,
        |statement| statement.fingerprint.push('x'),
    ];
    for change in changes {
        let mut forged = claim.clone();
        change(&mut forged.statement);
        assert!(bench.cache.verifier.verify(&forged).is_err());
    }
}

#[test]
fn another_engine_is_told_apart() {
    let bench = Bench::set_up();
    let (artifact, mut statement) = bench.compiled();
    statement.fingerprint = "wasmtime-1.0.0".into();
    let claim = bench.signer.sign(statement);
    bench.cache.put(&claim, &pack(&artifact).unwrap()).unwrap();
    assert!(matches!(
        bench.cache.get(&bench.runtime, &claim),
        Err(ArtifactError::Fingerprint { .. })
    ));
    // Nor does it become ours by saying so.
    let mut relabelled = claim;
    relabelled.statement.fingerprint = bench.runtime.fingerprint().into();
    assert!(matches!(bench.cache.get(&bench.runtime, &relabelled), Err(ArtifactError::Signature)));
}

#[test]
fn unpacking_is_bounded_by_what_was_signed() {
    let bench = Bench::set_up();
    let bomb = pack(&vec![0; 64 << 20]).unwrap();
    let claim = bench.signer.sign(Statement::about(b"small", b"", ""));
    assert!(matches!(bench.cache.put(&claim, &bomb), Err(ArtifactError::Unpack(_))));
    let other = pack(b"other").unwrap();
    assert!(matches!(bench.cache.put(&claim, &other), Err(ArtifactError::Content(_))));
    assert!(matches!(bench.cache.put(&claim, b"zip"), Err(ArtifactError::Unpack(_))));
}

#[test]
fn an_open_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let verifier = Verifier::new([Signer::generate().public_key().as_str()]).unwrap();
    let path = directory.path().join("cache");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = ArtifactCache::open(&path, verifier.clone());
    assert!(matches!(refused, Err(ArtifactError::Unsafe { .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(ArtifactCache::open(&link, verifier.clone()).is_err());
    ArtifactCache::open(&path, verifier).unwrap();
}

#[test]
fn keys_are_kept_to_ourselves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let signer = Signer::generate();
    signer.save(&path).unwrap();
    assert_eq!(Signer::from_file(&path).unwrap().public_key(), signer.public_key());
    assert!(signer.save(&path).is_err(), "an existing key is never overwritten");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Signer::from_file(&path), Err(ArtifactError::Unsafe { .. })));
    assert!(!format!("{signer:?}").contains(&BASE64.encode(signer.key.to_bytes())));
}
