//! Rust: cargo builds a component, with flags that are the same everywhere.
//!
//! The target is wasm32-unknown-unknown, linked by `wasm-component-ld`: half the size of wasm32-wasip2,
//! and no WASI. What cargo builds goes to a folder of its own in cargo's target folder, so that neither
//! these flags nor an editor's checks throw out what the other has built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::process::Command;

use super::super::super::error::Error;
use super::super::super::output::Output;
use super::super::project::Project;
use super::tool::{self, Hearing};
use super::{Options, Tested};

/// How one gets cargo and rustc.
const RUST: &str = "install Rust 1.85 or later with rustup: https://rustup.rs";
/// What skills are built for unless they say otherwise.
const TARGET: &str = "wasm32-unknown-unknown";
/// Memory that is there from the start: growing one costs a run more than the rest of it.
const INITIAL_MEMORY: usize = 4 << 20;
/// The profile of skills, where the workspace has none of this name: small, and quick to instantiate.
const PROFILE: [(&str, &str); 7] = [
    ("inherits", "\"release\""),
    ("opt-level", "\"s\""),
    ("lto", "true"),
    ("codegen-units", "1"),
    ("panic", "\"abort\""),
    ("strip", "true"),
    ("debug", "false"),
];

/// Builds the component.
pub async fn build(project: &Project, options: &Options, out: &Output) -> Result<Vec<u8>, Error> {
    let krate = Krate::of(project, options, out).await?;
    let target = krate.target()?;
    let toolchain = Toolchain::find(&project.folder, target).await?;
    let mut cargo = cargo(&project.folder);
    cargo
        .args(["build", "--profile", "skill", "--message-format", "json-render-diagnostics"])
        .args(["--lib", "--target", target, "--target-dir"])
        .arg(krate.target_directory.join("eve/cargo"))
        .args(krate.locked())
        .args(krate.profile());
    if out.is_quiet() {
        cargo.arg("--quiet");
    }
    toolchain.set(&mut cargo, target, &krate);
    let output = tool::ask(cargo, Hearing::Live, RUST).await?;
    if !output.status.success() {
        return Err(super::gave_up("cargo build", project));
    }
    let component = component_in(&output.stdout, &krate.manifest_path).ok_or_else(|| {
        Error::local(format!("cargo built {}, but no component of it", krate.name))
    })?;
    std::fs::read(&component).map_err(|source| Error::File {
        doing: "read",
        path: component,
        source,
    })
}

/// Runs `cargo test`.
pub async fn test(project: &Project, options: &Options, out: &Output) -> Result<Tested, Error> {
    let krate = Krate::of(project, options, out).await?;
    let mut cargo = cargo(&project.folder);
    cargo.arg("test").args(krate.locked());
    if out.is_quiet() {
        cargo.arg("--quiet");
    }
    Ok(if tool::run(cargo, RUST, out).await? { Tested::Passed } else { Tested::Failed })
}

/// A cargo that starts in the skill's folder, so that its rust-toolchain.toml is heeded.
fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    // A macro cannot tell cargo that it has looked into a folder; it can name a variable.
    command.env("EVE_MIGRATIONS", migrations(folder));
    command
}

/// The names of the migrations in a skill's folder, one a line.
fn migrations(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder.join("migrations")).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join("\n")
}

/// What cargo says about the crate.
#[derive(Debug)]
struct Krate {
    name: String,
    manifest_path: PathBuf,
    workspace_root: PathBuf,
    target_directory: PathBuf,
    /// What the crate's `[package.metadata.eve]` asks for.
    wanted_target: Option<String>,
    /// Folders of crates that are not from a registry, and the paths that stand for them in what is
    /// built.
    remaps: Vec<(PathBuf, String)>,
    is_locked: bool,
}

/// The parts of `cargo metadata` that matter here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    metadata: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Krate {
    /// Asks cargo. Where the lock file does not fit, cargo brings it up to date, unless that is not
    /// wanted.
    async fn of(project: &Project, options: &Options, out: &Output) -> Result<Krate, Error> {
        let ask = async |locked: &[&str]| {
            let mut cargo = cargo(&project.folder);
            cargo.args(["metadata", "--format-version", "1"]).args(locked);
            // For one target only: what others need is neither there nor wanted.
            cargo.args(["--filter-platform", TARGET]);
            tool::ask(cargo, Hearing::Kept, RUST).await
        };
        let mut answer = ask(&["--locked"]).await?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        let mut is_locked = true;
        if !answer.status.success() && said.contains("--locked") {
            if options.locked {
                return Err(Error::local_hint(
                    format!(
                        "the Cargo.lock of {} does not fit its Cargo.toml",
                        project.manifest.name
                    ),
                    "`cargo update --workspace` brings it up to date; commit what it changes",
                ));
            }
            answer = ask(&[]).await?;
            out.note("note: Cargo.lock was brought up to date; commit it");
            is_locked = false;
        }
        if !answer.status.success() {
            out.complain(&answer.stderr);
            return Err(Error::local_hint(
                format!("cargo cannot read {}", project.shown(&project.folder.join("Cargo.toml"))),
                "what cargo said is above",
            ));
        }
        let metadata: Metadata = serde_json::from_slice(&answer.stdout)
            .map_err(|error| Error::local(format!("cargo metadata is not understood: {error}")))?;
        Self::from(metadata, project, is_locked)
    }

    fn from(metadata: Metadata, project: &Project, is_locked: bool) -> Result<Krate, Error> {
        let Metadata { packages, workspace_root, target_directory } = metadata;
        let manifest_path = project.folder.join("Cargo.toml");
        let mut remaps = vec![(workspace_root.clone(), "/skill".to_owned())];
        for package in &packages {
            let folder = package.manifest_path.parent().unwrap_or(Path::new("/"));
            if package.source.is_none() && !folder.starts_with(&workspace_root) {
                remaps.push((folder.to_owned(), format!("/{}", package.name)));
            }
        }
        let shown = project.shown(&manifest_path);
        let package = packages
            .into_iter()
            .find(|package| package.manifest_path == manifest_path)
            .ok_or_else(|| Error::usage(format!("{shown} describes no package")))?;
        if !package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "cdylib")) {
            return Err(Error::usage_hint(
                format!("{shown} makes no library that can be a component"),
                "add `[lib]` with `crate-type = [\"cdylib\"]`",
            ));
        }
        let eve = package.metadata.as_ref().and_then(|metadata| metadata.get("eve"));
        let wanted_target =
            eve.and_then(|eve| eve.get("target")).and_then(|target| target.as_str());
        Ok(Krate {
            wanted_target: wanted_target.map(str::to_owned),
            name: package.name,
            manifest_path,
            workspace_root,
            target_directory,
            remaps,
            is_locked,
        })
    }

    fn target(&self) -> Result<&str, Error> {
        match self.wanted_target.as_deref() {
            None => Ok(TARGET),
            Some(target @ (TARGET | "wasm32-wasip2")) => Ok(target),
            Some(other) => Err(Error::usage_hint(
                format!("{}: metadata.eve.target: `{other}`", self.manifest_path.display()),
                format!("it can be {TARGET}, which is the default, or wasm32-wasip2"),
            )),
        }
    }

    /// Nothing may change the lock file between here and the build.
    fn locked(&self) -> Option<&'static str> {
        self.is_locked.then_some("--locked")
    }

    /// The profile, unless the workspace has its own.
    fn profile(&self) -> Vec<String> {
        let manifest = std::fs::read_to_string(self.workspace_root.join("Cargo.toml"));
        if manifest.is_ok_and(|text| text.lines().any(|line| line.trim() == "[profile.skill]")) {
            return Vec::new();
        }
        let setting = |(name, value): (&str, &str)| {
            ["--config".to_owned(), format!("profile.skill.{name}={value}")]
        };
        PROFILE.into_iter().flat_map(setting).collect()
    }
}

/// The path of the component among cargo's messages.
fn component_in(messages: &[u8], manifest_path: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        #[serde(default)]
        manifest_path: PathBuf,
        #[serde(default)]
        filenames: Vec<PathBuf>,
    }
    let lines = messages.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .filter(|m| m.reason == "compiler-artifact" && m.manifest_path == manifest_path)
        .flat_map(|message| message.filenames)
        .find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
}

/// The compiler that cargo will use, and the linker for it.
#[derive(Debug)]
struct Toolchain {
    /// Folders with rustc's own tools.
    tools: Vec<PathBuf>,
    linker: PathBuf,
}

impl Toolchain {
    /// Finds the compiler in a skill's folder, and says what to install if it cannot build for
    /// `target`.
    async fn find(folder: &Path, target: &str) -> Result<Toolchain, Error> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = async |arguments: &[&str]| -> Result<String, Error> {
            let mut command = Command::new(&rustc);
            command.current_dir(folder).args(arguments);
            let output = tool::ask(command, Hearing::Kept, RUST).await?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            Err(Error::local_hint(
                format!("rustc does not work: {}", String::from_utf8_lossy(&output.stderr).trim()),
                RUST,
            ))
        };
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"]).await?.trim());
        let version = ask(&["-vV"]).await?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("");
        Self::within(&sysroot, host, target, std::env::var_os("PATH"))
    }

    fn within(
        sysroot: &Path,
        host: &str,
        target: &str,
        path: Option<OsString>,
    ) -> Result<Toolchain, Error> {
        let rustlib = sysroot.join("lib/rustlib");
        if !has_std(&rustlib.join(target).join("lib")) {
            return Err(Error::local_hint(
                format!("the Rust compiler in {} cannot build for {target}", sysroot.display()),
                format!(
                    "rustup target add {target}{}",
                    if sysroot.join("lib/rustlib/multirust-channel-manifest.toml").exists() {
                        ""
                    } else {
                        "   (this compiler is not rustup's: install Rust from https://rustup.rs first)"
                    }
                ),
            ));
        }
        let tools = rustlib.join(host).join("bin");
        let name = "wasm-component-ld";
        let on_path = || {
            let folders = path.as_ref().map(|path| std::env::split_paths(path).collect::<Vec<_>>());
            folders.unwrap_or_default().into_iter().map(|folder| folder.join(name))
        };
        let linker = std::iter::once(tools.join(name)).chain(on_path()).find(|path| path.is_file());
        let Some(linker) = linker else {
            return Err(Error::local_hint(
                format!("there is no linker {name} in {} or on the PATH", tools.display()),
                "rustup update   (Rust's own toolchains have it since 1.82), or: cargo install \
                 wasm-component-ld",
            ));
        };
        Ok(Toolchain { linker, tools: vec![tools.clone(), tools.join("gcc-ld")] })
    }

    /// Sets a cargo up for building a component. What the surroundings say about flags is for the
    /// host, and would make other bytes of the same sources.
    fn set(&self, cargo: &mut Command, target: &str, krate: &Krate) {
        for variable in
            ["RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"]
        {
            cargo.env_remove(variable);
        }
        let triple = target.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{triple}_LINKER"), &self.linker);
        cargo.env_remove(format!("CARGO_TARGET_{triple}_RUSTFLAGS"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = self.tools.iter().cloned().chain(std::env::split_paths(&path));
        if let Ok(joined) = std::env::join_paths(folders) {
            cargo.env("PATH", joined);
        }
        // Encoded, because a path may hold spaces.
        let mut flags = OsString::from(format!("-Clink-arg=--initial-memory={INITIAL_MEMORY}"));
        let registry = cargo_home().map(|home| (home.join("registry/src"), "/cargo".to_owned()));
        // Of several that fit the last one counts: the workspace may lie within another's folder.
        for (from, to) in registry.iter().chain(krate.remaps.iter().rev()) {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
}

fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    set.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

/// Whether a target's folder of libraries has the standard one.
fn has_std(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, "").expect("written");
    }

    fn said(result: Result<Toolchain, Error>) -> String {
        super::super::super::super::output::explain(&result.expect_err("refused"), false)
    }

    #[test]
    fn what_is_missing_of_the_toolchain_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let sysroot = folder.path();
        let find = || Toolchain::within(sysroot, "my-host", TARGET, None);
        write(&sysroot.join("lib/rustlib/multirust-channel-manifest.toml"));
        let text = said(find());
        assert!(text.ends_with("next: rustup target add wasm32-unknown-unknown"), "{text}");
        write(&sysroot.join("lib/rustlib/wasm32-unknown-unknown/lib/libstd-0123.rlib"));
        assert!(said(find()).contains("no linker wasm-component-ld"));
        let linker = sysroot.join("lib/rustlib/my-host/bin/wasm-component-ld");
        write(&linker);
        assert_eq!(find().expect("found").linker, linker);

        // Another compiler than rustup's may have it on the PATH.
        let elsewhere = folder.path().join("bin/wasm-component-ld");
        write(&elsewhere);
        let path = std::env::join_paths([folder.path().join("bin")]).expect("a PATH");
        let found = Toolchain::within(sysroot, "other-host", TARGET, Some(path)).expect("found");
        assert_eq!(found.linker, elsewhere);
    }

    #[test]
    fn the_component_is_found_among_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","filenames":["/t/a.rlib"]}
{"reason":"compiler-message","manifest_path":"/b/Cargo.toml"}
not JSON
{"reason":"compiler-artifact","manifest_path":"/b/Cargo.toml","filenames":["/t/b.d","/t/b.wasm"]}
{"reason":"build-finished","success":true}
"#;
        let found = |manifest: &str| component_in(messages, Path::new(manifest));
        assert_eq!(found("/b/Cargo.toml"), Some(PathBuf::from("/t/b.wasm")));
        assert_eq!(found("/a/Cargo.toml"), None);
    }
}
