//! Finds a skill's component and its SKILL.md on this machine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::error::Error;
use super::project;
use crate::skills::manifest::Manifest;

/// What is to be pushed.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The skill's name.
    pub name: String,
    /// The component.
    pub component: PathBuf,
    /// The text of SKILL.md, if there is one.
    pub manifest: Option<String>,
}

/// Looks for a skill at a path: a component, or a folder with SKILL.md.
pub fn find(path: &Path, name: Option<&str>, target_dir: Option<&Path>) -> Result<Found, Error> {
    let failed = |source| Error::File { doing: "read", path: path.into(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let manifest = read_manifest(path)?;
        let name = match (name, &manifest) {
            (Some(name), _) => name.to_owned(),
            (None, Some(text)) => named_in(text, &path.join("SKILL.md"))?,
            (None, None) => {
                return Err(Error::usage_hint(
                    format!("{} holds no SKILL.md to take the skill's name from", path.display()),
                    "add one that begins with a front matter (`---`, `name: …`, `---`), or give \
                     --name",
                ));
            }
        };
        let component = component_of(path, &name, target_dir)?;
        return Ok(Found { name, component, manifest });
    }
    let beside = path.parent().filter(|folder| *folder != Path::new(""));
    let manifest = read_manifest(beside.unwrap_or(Path::new(".")))?;
    let name = match (name, &manifest) {
        (Some(name), _) => name.to_owned(),
        (None, Some(text)) => named_in(text, &path.with_file_name("SKILL.md"))?,
        // Cargo writes `text_stats.wasm` for a package `text-stats`.
        (None, None) => path.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-"),
    };
    Ok(Found { name, component: path.into(), manifest })
}

fn read_manifest(folder: &Path) -> Result<Option<String>, Error> {
    let path = folder.join("SKILL.md");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { doing: "read", path, source }),
    }
}

/// The name that a SKILL.md gives, which has to be one that the server would accept.
fn named_in(manifest: &str, path: &Path) -> Result<String, Error> {
    match Manifest::parse(manifest) {
        Ok(manifest) => Ok(manifest.name),
        Err(error) => Err(project::unreadable(path, &error)),
    }
}

/// The component that belongs to a folder: beside SKILL.md, or where builds leave it. Of several
/// builds the latest, since an older one is what is left of another profile.
fn component_of(folder: &Path, name: &str, target_dir: Option<&Path>) -> Result<PathBuf, Error> {
    let file = format!("{name}.wasm");
    let snake = format!("{}.wasm", name.replace('-', "_"));
    let mut looked = vec![folder.join(&file), folder.join(&snake)];
    if let Some(path) = looked.iter().find(|path| path.is_file()) {
        return Ok(path.clone());
    }
    if let Some(only) = only_component_in(folder)? {
        return Ok(only);
    }
    let mut builds = vec![folder.join(project::OUTPUT).join(&file)];
    for target in target_folders(folder, target_dir) {
        builds.push(target.join("skills").join(name).join(&file));
        for triple in ["wasm32-wasip2", "wasm32-unknown-unknown"] {
            for profile in ["skill", "release", "debug"] {
                builds.push(target.join(triple).join(profile).join(&snake));
            }
        }
    }
    let built = |path: &PathBuf| -> Option<SystemTime> {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        metadata.modified().ok()
    };
    let latest = builds.iter().filter_map(|path| Some((built(path)?, path))).max();
    if let Some((_, path)) = latest {
        return Ok(path.clone());
    }
    looked.extend(builds);
    let places: Vec<_> = looked.iter().map(|path| format!("\n    {}", path.display())).collect();
    Err(Error::usage_hint(
        format!("found no component for skill `{name}`; looked for{}", places.concat()),
        "build it first with `eve skill build`, or give the path of the .wasm file",
    ))
}

fn only_component_in(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |source| Error::File { doing: "read", path: folder.into(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") && path.is_file() {
            found.push(path);
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => Err(Error::usage_hint(
            format!("{} holds {} .wasm files", folder.display(), several.len()),
            "give the path of the one to push",
        )),
    }
}

/// `$CARGO_TARGET_DIR` if it is set, and the `target` folders here and above.
fn target_folders(folder: &Path, target_dir: Option<&Path>) -> Vec<PathBuf> {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    let above = absolute.ancestors().map(|ancestor| ancestor.join("target"));
    target_dir.map(PathBuf::from).into_iter().chain(above.filter(|path| path.is_dir())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "---\nname: text-stats\ndescription: Counts\n---\n# Text stats\n";

    fn write(path: PathBuf) -> PathBuf {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, b"\0asm").expect("written");
        path
    }

    #[test]
    fn a_folder_with_its_component_beside_or_built() {
        let folder = tempfile::tempdir().expect("a folder");
        let skill = folder.path().join("skills/text-stats");
        std::fs::create_dir_all(&skill).expect("made");
        std::fs::write(skill.join("SKILL.md"), MANIFEST).expect("written");

        let error = find(&skill, None, None).expect_err("nothing built").to_string();
        assert!(error.contains("found no component for skill `text-stats`"), "{error}");

        let built = write(folder.path().join("target/wasm32-wasip2/skill/text_stats.wasm"));
        let found = find(&skill, None, None).expect("found");
        assert_eq!((found.name.as_str(), &found.component), ("text-stats", &built));
        assert_eq!(found.manifest.as_deref(), Some(MANIFEST));

        let elsewhere = folder.path().join("elsewhere");
        std::fs::remove_file(built).expect("removed");
        let built = write(elsewhere.join("skills/text-stats/text-stats.wasm"));
        let found = find(&skill, None, Some(&elsewhere)).expect("found");
        assert_eq!(found.component, built);

        let beside = write(skill.join("text_stats.wasm"));
        assert_eq!(find(&skill, None, Some(&elsewhere)).expect("found").component, beside);
    }

    #[test]
    fn a_file_is_named_by_flag_manifest_or_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = write(folder.path().join("text_count.wasm"));
        assert_eq!(find(&file, None, None).expect("found").name, "text-count");
        assert_eq!(find(&file, Some("other"), None).expect("found").name, "other");
        std::fs::write(folder.path().join("SKILL.md"), MANIFEST).expect("written");
        assert_eq!(find(&file, None, None).expect("found").name, "text-stats");
    }

    #[test]
    fn a_front_matter_that_is_none_is_explained() {
        let said = |text| {
            let error = named_in(text, Path::new("a/SKILL.md"));
            error.expect_err("refused").to_string()
        };
        let none = "a/SKILL.md: SKILL.md must begin with front matter";
        assert!(said("# Title").starts_with(none), "{}", said("# Title"));
        assert!(said("---\nname: x\n").starts_with(none));
        assert!(said("---\ndescription: x\n---\n").contains("name"));
        assert!(said("---\nname: [\n---\n").starts_with("a/SKILL.md:"));
    }

    #[test]
    fn what_is_missing_or_ambiguous_is_explained() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(find(&folder.path().join("no"), None, None), Err(Error::File { .. })));
        let error = find(folder.path(), None, None).expect_err("no manifest").to_string();
        assert!(error.contains("no SKILL.md"), "{error}");
        write(folder.path().join("a.wasm"));
        write(folder.path().join("b.wasm"));
        let error = find(folder.path(), Some("c"), None).expect_err("two").to_string();
        assert!(error.contains("holds 2 .wasm files"), "{error}");
    }
}
