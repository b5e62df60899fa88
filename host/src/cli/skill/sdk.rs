//! The SDKs that this binary carries, and where a skill's own is.
//!
//! Three kinds of places: in a checkout of this repository a skill uses the checkout's SDK; elsewhere the
//! one that `eve skill new` has put into its `.eve/`; where there is none either, what builds a skill in
//! JavaScript or Python comes out of this binary.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::error::Error;

// The lists of files that `build.rs` has made, their paths relative to the repository: RUST_SDK, JS_SDK,
// PYTHON_SDK.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Paths in the repository, and the texts of the files.
pub type Files = &'static [(&'static str, &'static str)];

/// Where a new skill's copy goes. Its sources find `wit/` beside `sdk/`, as in the repository.
pub const EMBEDDED: &str = ".eve";

/// The SDK that a skill in JavaScript or Python is built with.
#[derive(Debug)]
pub struct Sdk {
    /// `sdk/js` or `sdk/python`.
    pub folder: PathBuf,
    /// The contract that goes with it.
    pub wit: PathBuf,
    /// Where it came out of this binary: until it is dropped.
    _unpacked: Option<TempDir>,
}

impl Sdk {
    /// The SDK at `path` below the repository's root (`sdk/js`) for a skill's folder; `files` is the one
    /// that this binary carries.
    pub fn of(skill: &Path, path: &str, files: Files) -> Result<Sdk, Error> {
        let within =
            |root: &Path| Sdk { folder: root.join(path), wit: root.join("wit"), _unpacked: None };
        let own = skill.join(EMBEDDED);
        if own.join(path).is_dir() {
            return Ok(within(&own));
        }
        if let Some(root) = checkout(skill) {
            return Ok(within(root));
        }
        let unpacked = unpack(files)?;
        let sdk = within(unpacked.path());
        Ok(Sdk { _unpacked: Some(unpacked), ..sdk })
    }
}

/// Writes the files to a folder that lives as long as its handle.
fn unpack(files: Files) -> Result<TempDir, Error> {
    let at = |path: PathBuf| move |source| Error::File { doing: "write", path, source };
    let folder =
        tempfile::Builder::new().prefix("eve-sdk-").tempdir().map_err(at(std::env::temp_dir()))?;
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(folder.path()))
            .map_err(at(path.clone()))?;
        std::fs::write(&path, text).map_err(at(path.clone()))?;
    }
    Ok(folder)
}

/// The checkout of this repository that a folder lies in, if it lies in one.
pub fn checkout(folder: &Path) -> Option<&Path> {
    folder.ancestors().skip(1).find(|above| {
        let manifest = std::fs::read_to_string(above.join("sdk/Cargo.toml"));
        manifest.is_ok_and(|text| text.lines().any(|line| line.trim() == "name = \"eve-sdk\""))
    })
}

/// The way from a folder to one above it: `../..`.
pub fn upwards(folder: &Path, above: &Path) -> PathBuf {
    let depth = folder.strip_prefix(above).map_or(0, |below| below.components().count());
    std::iter::repeat_n("..", depth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn a_checkout_is_known_by_its_sdk() {
        let folder = tempfile::tempdir().expect("a folder");
        let skill = folder.path().join("a/b/skill");
        assert_eq!(checkout(&skill), None);
        write(&folder.path().join("sdk/Cargo.toml"), "[package]\nname = \"other\"\n");
        assert_eq!(checkout(&skill), None);
        write(&folder.path().join("a/sdk/Cargo.toml"), "[package]\nname = \"eve-sdk\"\n");
        assert_eq!(checkout(&skill), Some(folder.path().join("a").as_path()));
    }

    #[test]
    fn a_skill_is_built_with_the_sdk_that_is_nearest() {
        let folder = tempfile::tempdir().expect("a folder");
        let skill = folder.path().join("skills/x");
        let find = || Sdk::of(&skill, "sdk/js", JS_SDK).expect("there is always one");

        let carried = find();
        assert!(
            carried.folder.join("build.mjs").is_file() && carried.wit.join("skill.wit").is_file()
        );
        let unpacked = carried.folder.clone();
        drop(carried);
        assert!(!unpacked.exists(), "it is removed again");

        write(&folder.path().join("sdk/Cargo.toml"), "name = \"eve-sdk\"\n");
        assert_eq!(find().folder, folder.path().join("sdk/js"));
        write(&skill.join(".eve/sdk/js/build.mjs"), "");
        assert_eq!(find().folder, skill.join(".eve/sdk/js"));
        assert_eq!(find().wit, skill.join(".eve/wit"));
    }
}
