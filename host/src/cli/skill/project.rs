//! A skill's folder: what it is called, what it is written in, and where its component goes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::error::Error;
use super::build::Language;
use crate::skills::manifest::{Manifest, ManifestError};

/// Where builds leave the component and its SKILL.md, under the skill's folder.
pub const OUTPUT: &str = "target/eve";

/// Folders whose content is made from the sources, or is none of them. Hidden ones besides.
const NOT_SOURCES: [&str; 5] = ["target", "node_modules", "dist", "__pycache__", "venv"];

/// Files that are looked at: a skill has tens, and what has this many is something else.
const MOST_FILES: usize = 20_000;

/// A folder with a SKILL.md that is fine.
#[derive(Debug)]
pub struct Project {
    /// Absolute, without links.
    pub folder: PathBuf,
    /// What SKILL.md says.
    pub manifest: Manifest,
    /// SKILL.md as it stands.
    pub manifest_text: String,
    /// What it is written in.
    pub language: Language,
}

impl Project {
    /// Reads the folder of a skill.
    pub fn open(path: &Path) -> Result<Project, Error> {
        let failed = |source| Error::File { doing: "read", path: path.into(), source };
        let folder = path.canonicalize().map_err(failed)?;
        if !folder.is_dir() {
            return Err(Error::usage_hint(
                format!("{} is a file, and not a skill's folder", path.display()),
                "give the folder that holds SKILL.md",
            ));
        }
        let (manifest_text, manifest) = read_manifest(path)?.ok_or_else(|| {
            Error::usage_hint(
                format!("{} holds no SKILL.md", path.display()),
                "go to a skill's folder or give its path; `eve skill new NAME` makes one",
            )
        })?;
        let language = Language::of(&folder).ok_or_else(|| {
            Error::usage_hint(
                format!("{} holds nothing to build a skill from", path.display()),
                "a skill in Rust has a Cargo.toml, in JavaScript a package.json, in Python a \
                 pyproject.toml or .py files",
            )
        })?;
        Ok(Project { folder, manifest, manifest_text, language })
    }

    /// Where builds leave the component.
    pub fn component(&self) -> PathBuf {
        self.folder.join(OUTPUT).join(format!("{}.wasm", self.manifest.name))
    }

    /// A path as short as it can be written here, for people.
    pub fn shown(&self, path: &Path) -> String {
        let here = std::env::current_dir().and_then(|here| here.canonicalize());
        let relative = here.ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
        match relative {
            Some(relative) if relative == Path::new("") => ".".to_owned(),
            Some(relative) => relative.display().to_string(),
            None => path.display().to_string(),
        }
    }
}

/// The text of a folder's SKILL.md and what it says; none if there is no such file.
pub fn read_manifest(folder: &Path) -> Result<Option<(String, Manifest)>, Error> {
    let path = folder.join("SKILL.md");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { doing: "read", path, source }),
    };
    match Manifest::parse(&text) {
        Ok(manifest) => Ok(Some((text, manifest))),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// The error for a SKILL.md that is no good.
pub fn unreadable(path: &Path, error: &ManifestError) -> Error {
    let place = error.line().map(|line| format!(":{line}")).unwrap_or_default();
    let message = format!("{}{place}: {}", path.display(), error.problem());
    match error {
        // What is wrong with a value says what would be right.
        ManifestError::Value { .. } | ManifestError::TooLarge(_) => Error::usage(message),
        ManifestError::NoFrontMatter | ManifestError::Yaml { .. } => Error::usage_hint(
            message,
            "SKILL.md begins with `---`, `name: my-skill`, `description: What it does`, `---`",
        ),
    }
}

/// A source file, as far as can be seen without reading it.
pub type Stamp = (PathBuf, SystemTime, u64);

/// The source files of a skill, in a fixed order, with when they were changed and how long they are.
/// What cannot be looked at is left out: a file may vanish while an editor saves.
pub fn sources(folder: &Path) -> Vec<Stamp> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(metadata) = entry.metadata() else { continue };
            // Links are not followed: they may lead in circles, or to the whole disk.
            if metadata.is_dir() {
                if !name.starts_with('.') && !NOT_SOURCES.contains(&name.as_ref()) {
                    folders.push(entry.path());
                }
            } else if metadata.is_file() && is_source(&name) {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((entry.path(), modified, metadata.len()));
            }
            if found.len() > MOST_FILES {
                return found;
            }
        }
    }
    found.sort();
    found
}

/// Components are what comes out; editors leave backups and swap files beside what they edit.
fn is_source(name: &str) -> bool {
    !name.starts_with('.') && !name.ends_with('~') && !name.ends_with(".wasm")
}

/// The source file that was changed after `component` was made, if there is one: the latest.
/// Lock files do not count, since the tools that build write them.
pub fn newer_than(component: &Path, folder: &Path) -> Option<PathBuf> {
    let built = std::fs::metadata(component).and_then(|metadata| metadata.modified()).ok()?;
    let is_lock = |path: &Path| {
        path.file_name().is_some_and(|name| name == "Cargo.lock" || name == "package-lock.json")
    };
    let sources = sources(folder).into_iter();
    let newer = sources.filter(|(path, changed, _)| *changed > built && !is_lock(path));
    newer.max_by_key(|(_, changed, _)| *changed).map(|(path, ..)| path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn said(path: &Path) -> String {
        super::super::super::output::explain(&Project::open(path).expect_err("refused"), false)
    }

    #[test]
    fn only_sources_are_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [
            "SKILL.md",
            "src/lib.rs",
            "src/.lib.rs.swp",
            "src/lib.rs~",
            "target/eve/x.wasm",
            "x.wasm",
            ".git/HEAD",
            ".eve/sdk/Cargo.toml",
            "node_modules/a/index.js",
        ] {
            write(&folder.path().join(name), "");
        }
        let found: Vec<_> = sources(folder.path())
            .into_iter()
            .map(|(path, ..)| {
                path.strip_prefix(folder.path()).expect("inside").display().to_string()
            })
            .collect();
        assert_eq!(found, ["SKILL.md", "src/lib.rs"]);
    }

    #[test]
    fn a_component_is_old_when_a_source_is_younger() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str, seconds| {
            let path = folder.path().join(name);
            write(&path, "");
            let file = std::fs::File::options().write(true).open(&path).expect("opened");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
            path
        };
        let component = at("target/eve/x.wasm", 100);
        at("SKILL.md", 50);
        at("Cargo.lock", 200);
        assert_eq!(newer_than(&component, folder.path()), None);
        let source = at("src/lib.rs", 101);
        assert_eq!(newer_than(&component, folder.path()), Some(source));
        assert_eq!(newer_than(&folder.path().join("none.wasm"), folder.path()), None);
    }

    #[test]
    fn what_is_no_skill_is_explained() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(said(folder.path()).contains("holds no SKILL.md"));
        let manifest = folder.path().join("SKILL.md");
        write(&manifest, "---\nname: x\ndescription: y\ncapabilities: [magic]\n---\n");
        let text = said(folder.path());
        assert!(text.contains("SKILL.md:4: ") && text.contains("magic"), "{text}");
        write(&manifest, "---\nname: x\ndescription: y\n---\n");
        assert!(said(folder.path()).contains("holds nothing to build a skill from"));
        assert!(said(&manifest).contains("is a file"));
        write(&folder.path().join("main.py"), "");
        assert_eq!(Project::open(folder.path()).expect("open").language, Language::Python);
        write(&folder.path().join("package.json"), "{}");
        assert_eq!(Project::open(folder.path()).expect("open").language, Language::Js);
        write(&folder.path().join("Cargo.toml"), "");
        let project = Project::open(folder.path()).expect("open");
        assert_eq!(project.language, Language::Rust);
        assert!(project.component().ends_with("target/eve/x.wasm"));
    }
}
