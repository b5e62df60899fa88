//! SKILL.md: `skills/manifest.rs`.

use serde_json::json;

use super::{Seen, is_presentable};
use crate::requests::validate;
use crate::schemas::SchemaName;
use crate::skills::manifest::{MAX_BYTES, Manifest};

/// A SKILL.md.
pub fn manifest(data: &[u8]) -> Seen {
    let Ok(text) = std::str::from_utf8(data) else { return Seen::Refused };
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(error) => {
            is_presentable(&error.to_string(), 2 << 10);
            // To YAML, each of these ends a line.
            let lines = 1 + text.matches(['\n', '\r']).count() as u64;
            assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            return Seen::Refused;
        }
    };
    is_within_limits(&manifest);
    // JSON is YAML too: what was read, written down, is read as the same.
    let Manifest { name, description, version, worker_types, schemas, capabilities, body } =
        &manifest;
    let front = json!({
        "name": name, "description": description, "version": version,
        "worker_types": worker_types, "schemas": schemas, "capabilities": capabilities,
    });
    let again = format!("---\n{front}\n---\n{body}");
    match Manifest::parse(&again) {
        Ok(again) => assert_eq!(again, manifest),
        // The two marks and the JSON may take more room than the YAML did.
        Err(error) => assert!(again.len() > MAX_BYTES, "{error}: {again}"),
    }
    Seen::Accepted
}

fn is_within_limits(manifest: &Manifest) {
    assert_eq!(validate::name("name", &manifest.name), Ok(()));
    is_presentable(&manifest.description, 1 << 10);
    if let Some(version) = &manifest.version {
        is_presentable(version, 64);
    }
    for name in &manifest.worker_types {
        assert_eq!(validate::name("worker_types", name), Ok(()));
    }
    for name in &manifest.schemas {
        // What an author may ask for is what can be made.
        assert!(name.parse::<SchemaName>().is_ok(), "`{name}` is no schema");
    }
    for list in [&manifest.worker_types, &manifest.schemas] {
        assert!(list.len() <= 32 && are_different(list), "{list:?}");
    }
    assert!(are_different(&manifest.capabilities), "{:?}", manifest.capabilities);
    assert!(manifest.body.len() <= MAX_BYTES && !manifest.body.contains('\0'));
}

fn are_different<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().all(|(index, one)| !list[..index].contains(one))
}
