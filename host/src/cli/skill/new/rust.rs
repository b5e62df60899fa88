//! A new skill in Rust: a crate, and what it needs of the SDK.
//!
//! Three kinds of places: in `skills/` of a checkout it is a member of the workspace; elsewhere in a
//! checkout it is a workspace of its own that uses the checkout's SDK; anywhere else the SDK's sources
//! come with it, in `.eve/`, with a Cargo.lock of the versions that this binary was tested with.

use std::fmt::Write as _;
use std::path::Path;

use super::super::super::error::Error;
use super::super::sdk::{EMBEDDED, RUST_SDK, checkout, upwards};
use super::{File, Skill, Template, fill, lock};

const CARGO: &str = include_str!("../templates/rust/Cargo.toml");
const MEMBER: &str = include_str!("../templates/rust/member.toml");
const TEMPLATE: Template = Template {
    common: &[
        ("README.md", include_str!("../templates/rust/README.md")),
        (".gitignore", include_str!("../templates/rust/gitignore")),
    ],
    stateless: &[
        ("SKILL.md", include_str!("../templates/rust/SKILL.md")),
        ("src/lib.rs", include_str!("../templates/rust/lib.rs")),
    ],
    stateful: &[("src/lib.rs", include_str!("../templates/rust/stateful/lib.rs"))],
};

/// What this binary was built from: the SDK's manifests refer to the one, its versions are in the other.
const WORKSPACE: &str = include_str!("../../../../../Cargo.toml");
const LOCK: &str = include_str!("../../../../../Cargo.lock");

/// Its files.
pub fn files(new: &Skill<'_>) -> Result<Vec<File>, Error> {
    let Skill { name, folder, .. } = *new;
    let mut files: Vec<File> = Vec::new();
    match checkout(folder) {
        Some(root) if folder.parent() == Some(&root.join("skills")) => {
            files.push(("Cargo.toml".into(), fill(MEMBER, &[("name", name)])));
        }
        Some(root) => {
            let sdk = upwards(folder, root).join("sdk");
            let sdk = sdk.to_string_lossy();
            files.push(("Cargo.toml".into(), fill(CARGO, &[("name", name), ("sdk", &sdk)])));
            files.extend(locked(name));
        }
        None => {
            let sdk = format!("{EMBEDDED}/sdk");
            files.push(("Cargo.toml".into(), fill(CARGO, &[("name", name), ("sdk", &sdk)])));
            files.extend(embedded()?);
            files.extend(locked(name));
        }
    }
    files.extend(new.fill(&TEMPLATE, Path::new("")));
    Ok(files)
}

/// The SDK's sources, their manifests made to stand without the repository's.
fn embedded() -> Result<Vec<File>, Error> {
    RUST_SDK
        .iter()
        .map(|(path, text)| {
            let text = match path.ends_with("Cargo.toml") {
                true => standalone(text, WORKSPACE)?,
                false => (*text).to_owned(),
            };
            Ok((Path::new(EMBEDDED).join(path), text))
        })
        .collect()
}

/// A lock file of the versions that the repository's own has; none if that was of no use, and cargo
/// makes one then.
fn locked(name: &str) -> Option<File> {
    let (_, sdk) = RUST_SDK.iter().find(|(path, _)| *path == "sdk/Cargo.toml")?;
    let for_tests: Vec<_> = table(sdk, "[dev-dependencies]")
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .collect();
    let lock = lock::of_skill(LOCK, name, &["eve-sdk", "serde"], &for_tests)?;
    Some(("Cargo.lock".into(), lock))
}

/// A manifest of the repository with the values of `[workspace]` in place of references to them, and
/// without what only the repository's own tests need.
fn standalone(manifest: &str, workspace: &str) -> Result<String, Error> {
    let mut text = String::new();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        if matches!(section, "[dev-dependencies]" | "[lints]") {
            continue;
        }
        let line = match line.split_once(".workspace = true") {
            Some((name, "")) => {
                let table = match section {
                    "[package]" => "[workspace.package]",
                    _ => "[workspace.dependencies]",
                };
                let value = value_in(workspace, table, name).ok_or_else(|| {
                    Error::local(format!("the embedded SDK refers to `{name}`, which is not there"))
                })?;
                // The one crate of the SDK that another one uses.
                format!("{name} = {}", value.replace("\"sdk/macros\"", "\"macros\""))
            }
            _ => line.to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    Ok(text)
}

/// The value of a name in a table of a manifest that has each on one line.
fn value_in<'a>(manifest: &'a str, table: &str, name: &str) -> Option<&'a str> {
    self::table(manifest, table).find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == name).then_some(value.trim())
    })
}

/// The lines of a table.
fn table<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = manifest.lines().skip_while(move |line| line.trim() != name).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_stands_alone() {
        for (path, text) in RUST_SDK.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
            let text = standalone(text, WORKSPACE).expect("everything is known");
            assert!(!text.contains("workspace"), "{path}: {text}");
            assert!(!text.contains("dev-dependencies"), "{path}: {text}");
        }
        let macros = |text: &str| standalone(text, WORKSPACE).is_err();
        assert!(macros("[dependencies]\nnowhere.workspace = true\n"));
    }

    #[test]
    fn three_kinds_of_places() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let names = |at: &str| -> Vec<String> {
            let new = Skill { name: "x", folder: &root.join(at), stateful: false };
            let files = files(&new).expect("files");
            files.into_iter().map(|(path, _)| path.display().to_string()).collect()
        };
        let manifest = |at: &str| {
            let new = Skill { name: "x", folder: &root.join(at), stateful: false };
            files(&new).expect("files").remove(0).1
        };

        let alone = names("x");
        for file in ["Cargo.toml", "Cargo.lock", ".eve/sdk/src/lib.rs", ".eve/wit/skill.wit"] {
            assert!(alone.iter().any(|name| name == file), "{file}: {alone:?}");
        }
        assert!(manifest("x").contains("path = \".eve/sdk\""));

        std::fs::create_dir(root.join("sdk")).expect("made");
        std::fs::write(root.join("sdk/Cargo.toml"), "name = \"eve-sdk\"\n").expect("written");
        assert!(manifest("examples/x").contains("path = \"../../sdk\""));
        assert!(!names("examples/x").iter().any(|name| name.starts_with(".eve")));
        assert!(manifest("skills/x").contains("eve-sdk.workspace = true"));
        assert!(!names("skills/x").contains(&"Cargo.lock".to_owned()));
    }
}
