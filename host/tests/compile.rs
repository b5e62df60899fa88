//! Uploads, good and bad, through the real compiler process.

#[path = "../src/runtime/guests.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
mod guests;

use std::path::Path;
use std::sync::Arc;

use eve_host::runtime::{Capability, Runtime, RuntimeConfig};
use eve_host::skills::artifact::{ArtifactCache, Signer, Verifier};
use eve_host::skills::compile::{CompileError, Workshop, compile};

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_eve"))
}

async fn rejection(wasm: &[u8]) -> String {
    match compile(wasm, exe()).await {
        Err(CompileError::Rejected(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_upload_is_said() {
    let escape = r#"(component (core module $m (import "\1b[2J" "\0a" (func)))
        (core instance (instantiate $m)))"#;
    let wit_0_2 = guests::importing("eve:skill/queue@0.2.0");
    for (wasm, reason) in [
        (Vec::new(), "is empty"),
        (b"#!/bin/sh\n".to_vec(), "not a WebAssembly component"),
        (b"(component)".to_vec(), "as text"),
        (guests::module(), "core WebAssembly module"),
        (guests::nothing(), "exports nothing"),
        (guests::wrong_type(), "`run` is `func() -> u32`"),
        (
            guests::importing("eve:skill/deploy@0.1.0"),
            "imports `eve:skill/deploy@0.1.0`, which this",
        ),
        (guests::importing("wasi:http/types@0.2.0"), "no network"),
        (guests::importing("eve:skill/log@0.1.0"), "imports do not match"),
        (wit_0_2, "another version of the contract"),
        (guests::noop()[..300].to_vec(), "not valid"),
        (wat::parse_str(escape).unwrap(), "argument named `\\u{1b}[2J`"),
        (guests::body("(i32.const 0) (i32.const 0)"), "not valid"),
    ] {
        let said = rejection(&wasm).await;
        assert!(said.contains(reason), "{said}\nshould contain {reason}");
        assert!(said.len() < 2_048 && !said.contains(char::is_control), "{said}");
    }
}

#[tokio::test]
async fn features_that_are_off_are_off() {
    let memory64 = wat::parse_str("(component (core module (memory i64 1)))").unwrap();
    let said = rejection(&memory64).await;
    assert!(said.contains("not valid"), "{said}");
}

#[tokio::test]
async fn a_good_upload_is_ready_to_run() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::generate();
    let verifier = Verifier::new([signer.public_key().as_str()]).unwrap();
    let workshop = Workshop {
        exe: exe().into(),
        signer: Arc::new(signer),
        cache: Arc::new(ArtifactCache::open(&directory.path().join("cache"), verifier).unwrap()),
        runtime: Runtime::new(RuntimeConfig {
            max_concurrent: 2,
            memory_budget: 1 << 30,
            threads: 1,
            io: tokio::runtime::Handle::current(),
        })
        .unwrap(),
    };
    let plain = workshop.build(guests::noop().into()).await.unwrap();
    assert!(plain.imports.is_empty() && plain.capabilities.is_empty());
    assert_eq!(plain.claim.statement.fingerprint, workshop.runtime.fingerprint());

    let queueing = workshop.build(guests::queue_get().into()).await.unwrap();
    assert_eq!(queueing.imports, ["eve:skill/queue@0.1.0"]);
    assert_eq!(queueing.capabilities, [Capability::Queue]);

    match workshop.build(guests::with_pages(4_097).into()).await {
        Err(CompileError::Rejected(reason)) => {
            assert!(reason.contains("does not fit into a worker"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_program_that_is_not_ours_is_our_problem() {
    for exe in ["/nonexistent/eve", "/bin/echo"] {
        let failed = compile(&guests::noop(), Path::new(exe)).await;
        assert!(matches!(failed, Err(CompileError::Child(..))), "{failed:?}");
    }
}

/// The child gets its three pipes and nothing that this process happens to have open.
#[tokio::test]
async fn the_compiler_inherits_no_descriptor_and_no_environment() {
    use std::os::fd::AsRawFd as _;
    let folder = tempfile::tempdir().unwrap();
    let (script, seen) = (folder.path().join("eve"), folder.path().join("seen"));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/etc/hostname").unwrap();
    let ours = [socket.as_raw_fd(), file.as_raw_fd()]
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string());
    let text = format!("#!/bin/bash\n(readlink /proc/$$/fd/*; env) > {}\n", seen.display());
    std::fs::write(&script, text).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).unwrap();
    assert!(compile(&guests::noop(), &script).await.is_err(), "it does not answer");
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert!(seen.contains("pipe:["), "{seen}");
    for open in &ours {
        assert!(!seen.lines().any(|line| line == open), "{open}: {seen}");
    }
    // What bash sets by itself.
    for line in seen.lines().filter(|line| line.contains('=')) {
        let name = line.split('=').next().unwrap_or_default();
        assert!(["PWD", "OLDPWD", "SHLVL", "_"].contains(&name), "{line}");
    }
}
