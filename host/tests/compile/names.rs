//! Names that try to be others, or too much.

use super::encode::{component, core, importing, list, module, name, section};
use super::*;

#[tokio::test]
async fn imports_that_are_not_ours_are_named() {
    let long = format!("acme:tools/{}", "a".repeat(99_000));
    for (import, reason) in [
        // Other versions of the contract, later and earlier, and those that only look like this one.
        ("eve:skill/queue@0.2.0", "another version of the contract"),
        ("eve:skill/queue@1.0.0", "another version of the contract"),
        ("eve:skill/queue@0.0.1", "another version of the contract"),
        ("eve:skill/queue@0.1.0-rc.1", "another version of the contract"),
        ("eve:skill/queue@0.1.0+build", "another version of the contract"),
        ("eve:skill/queue", "another version of the contract"),
        // Others.
        ("eve:skill/shell@0.1.0", "imports `eve:skill/shell@0.1.0`, which this"),
        ("eve:skill/handler@0.1.0", "which this version does not offer"),
        ("eve:skills/queue@0.1.0", "which this version does not offer"),
        ("wasi:http/types@0.2.0", "no network"),
        ("wasi:io/streams@0.3.0", "another version of WASI"),
        ("wasi:keyvalue/store@0.2.0", "which this version does not offer"),
        ("run", "no skill can have"),
        ("url=<https://example.com/eve:skill/queue>", "imports `url=<https"),
        ("locked-dep=<eve:skill/queue@0.1.0>", "imports `locked-dep=<"),
        ("unlocked-dep=<eve:skill/queue@{>=0.1.0}>", "imports `unlocked-dep=<"),
        ("integrity=<sha256-AAAA>", "no skill can have"),
        // Tricks.
        ("../../etc/passwd", "imports `../../etc/passwd`"),
        ("eve:skill/../queue@0.1.0", "which this version does not offer"),
        ("EVE:SKILL/QUEUE@0.1.0", "imports `EVE:SKILL/QUEUE@0.1.0`"),
        ("eve:skill/qu\u{435}ue@0.1.0", r"imports `eve:skill/qu\u{435}ue@0.1.0`"),
        ("\u{435}ve:skill/queue@0.1.0", r"imports `\u{435}ve:skill/queue@0.1.0`"),
        ("eve:skill/\u{202e}queue@0.1.0", r"imports `eve:skill/\u{202e}queue@0.1.0`"),
        ("eve:skill/queue\u{200b}@0.1.0", r"queue\u{200b}@0.1.0`"),
        ("eve:skill/queue\0@0.1.0", r"imports `eve:skill/queue\u{0}@0.1.0`"),
        ("eve:skill/queue\r\n@0.1.0", r"imports `eve:skill/queue\r\n@0.1.0`"),
        (&long, "aaaa`, which this version does not offer"),
    ] {
        let said = rejection(&importing(&[import.as_bytes()])).await;
        assert!(said.contains(reason), "{import:?}: {said}");
    }
    for (import, reason) in [
        (&b"eve:skill/\xff\xfe@0.1.0"[..], "malformed UTF-8"),
        (&b"a".repeat(10_000_000), "string size out of bounds"),
        (b"", ""),
    ] {
        let said = rejection(&importing(&[import])).await;
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test]
async fn the_same_import_twice_and_too_many_are_refused() {
    let queue = &b"eve:skill/queue@0.1.0"[..];
    let said = rejection(&importing(&[queue, queue])).await;
    assert!(said.contains("conflicts with previous name"), "{said}");
    let names: Vec<_> = (0..101).map(|patch| format!("wasi:io/streams@0.2.{patch}")).collect();
    let names: Vec<_> = names.iter().map(String::as_bytes).collect();
    let said = rejection(&importing(&names)).await;
    assert!(said.contains("101 imports; at most 100"), "{said}");
    let said = rejection(&importing(&names[..100])).await;
    assert!(!said.contains("at most"), "{said}");
}

/// Names inside, which end up in what the compiler says about them.
#[tokio::test]
async fn names_are_shown_without_harm() {
    let evil = format!("a\n\u{1b}[31m\u{202e}\0{}", "x".repeat(50_000));
    let types = section(1, &list(&[b"\x60\0\0".to_vec()]));
    let import = section(2, &list(&[[name(&evil), name(&evil), vec![0, 0]].concat()]));
    let unmet = module(&[types, import]);
    let said = rejection(&component(&[section(1, &unmet), section(2, b"\x01\0\0\0")])).await;
    assert!(said.contains(r"`a\n\u{1b}[31m\u{202e}\0xxx"), "{said}");

    let exports: Vec<_> = (0..7)
        .map(|n| [vec![0], name(format!("acme:tools/{}{n}", "b".repeat(90_000))), vec![5, 0, 0]])
        .map(|parts| parts.concat())
        .collect();
    let instance = section(5, b"\x01\x01\0");
    let said = rejection(&component(&[instance, section(11, &list(&exports))])).await;
    assert!(said.contains("exports only acme:tools/bbb") && said.contains("and 2 more"), "{said}");
    let nothing = component(&[core(&[])]);
    assert!(rejection(&nothing).await.contains("exports nothing"));
}
