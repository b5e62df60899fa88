//! `eve skill build`: from a skill's folder to a component, whatever it is written in.
//!
//! Flow: [`make`] has the language's module build a component (`rust`, `js`, `python`), puts it
//! where `eve skill push` finds it, with its SKILL.md beside it, and has it checked exactly as a
//! server would check it (`local`).
//!
//! Invariants:
//! - The same sources and the same tools give the same bytes, wherever the folder lies.
//! - What a tool says goes to standard error; standard output is for our answer.
//! - The component that was there before stays until the new one is whole.

mod js;
mod python;
mod rust;
mod script;
pub mod tool;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::super::error::{Error, Exit};
use super::super::output::{Output, Render, View, cell, optional, size};
use super::local;
use super::project::Project;
use crate::runtime::Capability;
use crate::skills::compile::Compiled;

/// What a skill is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Rust, with cargo
    Rust,
    /// JavaScript, with componentize-js
    Js,
    /// Python, with componentize-py
    Python,
}

impl Language {
    /// What a folder is written in, by what lies in it. A crate may keep scripts of other languages
    /// beside it, so the order matters.
    pub fn of(folder: &Path) -> Option<Language> {
        let has = |name: &str| folder.join(name).is_file();
        if has("Cargo.toml") {
            return Some(Language::Rust);
        }
        if has("package.json") {
            return Some(Language::Js);
        }
        let is_python =
            |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "py");
        let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        (has("pyproject.toml") || entries.any(is_python)).then_some(Language::Python)
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::Js => "JavaScript",
            Language::Python => "Python",
        }
    }
}

/// Build a skill's component
///
/// Finds out what the skill is written in, finds the tools for it or says what to install, and
/// leaves the component in target/eve/ of the skill's folder, with its SKILL.md, where
/// `eve skill push` finds it. In Rust the same sources give the same bytes; in JavaScript and Python a
/// component holds the memory of a begun interpreter, and no two builds are the same.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve skill build
  eve skill build skills/echo | jq -r .component

In Rust the target is wasm32-unknown-unknown. A skill that uses Rust's own clocks, random numbers or
standard output says so in its Cargo.toml:

  [package.metadata.eve]
  target = \"wasm32-wasip2\"")]
pub struct Build {
    /// The skill's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// How to build.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// Fail if the lock file does not fit, instead of bringing it up to date
    #[arg(long)]
    pub locked: bool,
    /// What was built of the same sources before will do.
    #[arg(skip)]
    pub reuse: bool,
}

/// A component that was built and checked, as it is shown.
#[derive(Debug, Serialize)]
pub struct Built {
    /// The skill's name.
    pub skill: String,
    /// What it is written in.
    pub language: Language,
    /// Where the component is.
    pub component: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// What it has to be granted for these.
    pub capabilities: Vec<Capability>,
}

impl Render for Built {
    fn render(&self, view: &View) -> String {
        view.details([
            ("skill", cell(&self.skill)),
            ("component", cell(self.component.display().to_string())),
            ("size", cell(size(self.size_bytes))),
            ("sha256", cell(&self.sha256)),
            ("imports", optional((!self.imports.is_empty()).then(|| self.imports.join(", ")))),
            ("needs", cell(needs(&self.capabilities))),
        ])
    }
}

/// What a component has to be granted, in words.
pub fn needs(capabilities: &[Capability]) -> String {
    let words: Vec<_> = capabilities.iter().map(|capability| capability.as_str()).collect();
    match words.as_slice() {
        [] => "no grants".to_owned(),
        words => words.join(", "),
    }
}

/// A component in memory, with what the check of it brought.
pub struct Made {
    /// As it is shown.
    pub built: Built,
    /// The component.
    pub wasm: Bytes,
    /// Its machine code.
    pub compiled: Compiled,
}

/// Runs `eve skill build`.
pub async fn run(command: Build, out: &Output) -> Result<Exit, Error> {
    let project = Project::open(&command.path)?;
    let made = make(&project, &command.options, out).await?;
    advise(&project, &made.compiled, out);
    out.show(&made.built)?;
    Ok(Exit::Ok)
}

/// Builds, puts the component and SKILL.md where they belong, and checks the component.
pub async fn make(project: &Project, options: &Options, out: &Output) -> Result<Made, Error> {
    let wasm = match project.language {
        Language::Rust => rust::build(project, options, out).await?,
        Language::Js => js::build(project, options, out).await?,
        Language::Python => python::build(project, options, out).await?,
    };
    let component = project.component();
    put(&component, &wasm)?;
    put(&component.with_file_name("SKILL.md"), project.manifest_text.as_bytes())?;
    let wasm = Bytes::from(wasm);
    let compiled = local::check(&wasm, &component).await?;
    let built = Built {
        skill: project.manifest.name.clone(),
        language: project.language,
        component: PathBuf::from(project.shown(&component)),
        size_bytes: wasm.len() as u64,
        sha256: hex::encode(Sha256::digest(&wasm)),
        imports: compiled.imports.clone(),
        capabilities: compiled.capabilities.clone(),
    };
    Ok(Made { built, wasm, compiled })
}

/// Runs the skill's own tests natively.
pub async fn test(project: &Project, options: &Options, out: &Output) -> Result<Tested, Error> {
    match project.language {
        Language::Rust => rust::test(project, options, out).await,
        Language::Js => js::test(project, out).await,
        Language::Python => python::test(project, out).await,
    }
}

/// How a skill's own tests ended. What they said is on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tested {
    /// All passed.
    Passed,
    /// Some did not, or could not be built.
    Failed,
    /// There are none, or no way to run them, for this reason.
    Skipped(String),
}

/// Says where SKILL.md and the component disagree. Neither stops a build: what a skill may do is
/// decided where it runs.
pub fn advise(project: &Project, compiled: &Compiled, out: &Output) {
    let unnamed = unnamed(project, compiled);
    if !unnamed.is_empty() {
        out.note(&format!(
            "note: the component needs {}, which SKILL.md does not name: add it to `capabilities`",
            needs(&unnamed)
        ));
    }
}

/// What a component needs and SKILL.md does not say.
pub fn unnamed(project: &Project, compiled: &Compiled) -> Vec<Capability> {
    let named = &project.manifest.capabilities;
    compiled.capabilities.iter().copied().filter(|needed| !named.contains(needed)).collect()
}

/// Writes a file whole or not at all: whoever reads the old one keeps what it opened.
fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::File { doing: "write", path: path.into(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The error for a tool that did not do its work, which has said why.
fn gave_up(what: &str, project: &Project) -> Error {
    Error::local(format!("{what} in {} failed", project.shown(&project.folder)))
}
