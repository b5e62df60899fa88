//! Uploads, good and bad, through the real compiler process.

#[path = "../../src/runtime/guests.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
mod guests;

mod bombs;
mod child;
mod encode;
mod names;

use std::path::Path;
use std::sync::Arc;

use eve_host::runtime::{Capability, Runtime, RuntimeConfig};
use eve_host::skills::artifact::{ArtifactCache, Signer, Verifier};
use eve_host::skills::compile::{Allowance, CompileError, Workshop, compile, compile_within};

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_eve"))
}

/// Why a component is refused, which must be fit to be shown: short, on one line, in ASCII.
async fn rejection(wasm: &[u8]) -> String {
    rejection_within(wasm, Allowance::default()).await
}

async fn rejection_within(wasm: &[u8], allowance: Allowance) -> String {
    match compile_within(wasm, exe(), allowance).await {
        Err(CompileError::Rejected(said)) => {
            assert!(said.starts_with("the "), "{said}");
            assert!(said.len() < 2_100, "{} bytes: {said}", said.len());
            assert!(said.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{said:?}");
            said
        }
        Err(error) => panic!("{error:?}"),
        Ok(compiled) => panic!("it compiles to {} bytes", compiled.artifact.len()),
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_upload_is_said() {
    let escape = r#"(component (core module $m (import "\1b[2J" "\0a" (func)))
        (core instance (instantiate $m)))"#;
    for (wasm, reason) in [
        (Vec::new(), "is empty"),
        (b"#!/bin/sh\n".to_vec(), "not a WebAssembly component"),
        (b"(component)".to_vec(), "as text"),
        (guests::module(), "core WebAssembly module"),
        (guests::nothing(), "exports nothing"),
        (guests::wrong_type(), "`run` is `func() -> u32`"),
        (guests::importing("eve:skill/log@0.1.0"), "imports do not match"),
        (guests::noop()[..300].to_vec(), "not valid"),
        (wat::parse_str(escape).unwrap(), "argument named `\\u{1b}[2J`"),
        (guests::body("(i32.const 0) (i32.const 0)"), "not valid"),
    ] {
        let said = rejection(&wasm).await;
        assert!(said.contains(reason), "{said}\nshould contain {reason}");
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
