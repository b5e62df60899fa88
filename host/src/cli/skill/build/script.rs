//! What JavaScript and Python have in common: the SDK brings a script that makes the component.
//!
//! Both scripts take the same options and end alike: 0 built, 1 the skill is at fault, 2 the call is,
//! 3 a tool is missing, and what is wrong is on standard error.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::super::super::error::Error;
use super::super::super::output::Output;
use super::super::project::{Project, sources};
use super::super::sdk::Sdk;
use super::Options;
use super::tool::{self, Hearing};

/// What an interpreter is called, the oldest version that will do, and how one gets it.
pub struct Interpreter {
    /// The program.
    pub program: &'static str,
    /// Major and minor version.
    pub oldest: (u32, u32),
    /// In words.
    pub install: &'static str,
}

impl Interpreter {
    /// Looks whether it is there, and recent enough.
    pub async fn check(&self) -> Result<(), Error> {
        let mut command = Command::new(self.program);
        command.arg("--version");
        let output = tool::ask(command, Hearing::Kept, self.install).await?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let (major, minor) = self.oldest;
        match version(&said) {
            Some(found) if found >= self.oldest => Ok(()),
            _ => Err(Error::local_hint(
                format!(
                    "`{} --version` says `{said}`, and {major}.{minor} or later is needed",
                    self.program
                ),
                self.install,
            )),
        }
    }
}

/// The first two numbers of `v20.6.1` or `Python 3.11.2`.
fn version(said: &str) -> Option<(u32, u32)> {
    let digits = said.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut numbers = digits.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Has the SDK's script make the component.
///
/// Such a component holds the memory of an interpreter that has begun, so two builds of the same sources
/// differ, and take half a minute each. What was built of these sources is used again where `options` let.
pub async fn build(
    interpreter: &Interpreter,
    script: &str,
    project: &Project,
    options: &Options,
    sdk: &Sdk,
    out: &Output,
) -> Result<Vec<u8>, Error> {
    let stamp = project.component().with_file_name(STAMP);
    let inputs = inputs(project, sdk);
    if options.reuse
        && let Ok(wasm) = std::fs::read(project.component())
        && std::fs::read_to_string(&stamp).is_ok_and(|text| text == stamp_of(&inputs, &wasm))
    {
        return Ok(wasm);
    }
    interpreter.check().await?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { doing: "read", path, source }
    };
    let folder = tempfile::tempdir().map_err(failed(&std::env::temp_dir()))?;
    let component = folder.path().join("skill.wasm");
    let named: Vec<_> =
        project.manifest.capabilities.iter().map(|capability| capability.as_str()).collect();
    let mut command = Command::new(interpreter.program);
    command.arg(sdk.folder.join(script));
    command.arg("--skill").arg(&project.folder).arg("--wit").arg(&sdk.wit);
    command.arg("--out").arg(&component).args(["--capabilities", &named.join(",")]);
    out.note(&format!("making a component of {}", project.manifest.name));
    let output = tool::ask(command, Hearing::Kept, interpreter.install).await?;
    match output.status.code() {
        Some(0) => {
            let wasm = std::fs::read(&component).map_err(failed(&component))?;
            super::put(&stamp, stamp_of(&inputs, &wasm).as_bytes())?;
            Ok(wasm)
        }
        Some(3) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let said = said.split_once(": ").map_or(said.as_str(), |(_, rest)| rest);
            let (what, install) = said.split_once('\n').unwrap_or((said, interpreter.install));
            Err(Error::local_hint(what, install))
        }
        _ => {
            out.complain(&output.stderr);
            Err(super::gave_up(script, project))
        }
    }
}

/// Where it stands what the component beside it was built of.
const STAMP: &str = ".built-of";

fn stamp_of(inputs: &str, wasm: &[u8]) -> String {
    format!("{inputs} {}\n", hex::encode(Sha256::digest(wasm)))
}

/// Everything that decides what is built, in a word: the skill's sources, the SDK and the contract. A
/// file that cannot be read is a build that fails, and says so.
fn inputs(project: &Project, sdk: &Sdk) -> String {
    let mut hash = Sha256::new();
    for folder in [&project.folder, &sdk.folder, &sdk.wit] {
        for (path, ..) in sources(folder) {
            let relative = path.strip_prefix(folder).unwrap_or(&path);
            hash.update(relative.as_os_str().as_encoded_bytes());
            hash.update([0]);
            hash.update(Sha256::digest(std::fs::read(&path).unwrap_or_default()));
        }
        hash.update([1]);
    }
    hex::encode(hash.finalize())
}

/// Whether there are files in a folder, or in those directly below it, whose names `fit`.
pub fn has_tests(folder: &Path, fit: fn(&str) -> bool) -> bool {
    let within = |folder: &Path| -> Vec<std::fs::DirEntry> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().collect()
    };
    let named = |entry: &std::fs::DirEntry| fit(&entry.file_name().to_string_lossy());
    within(folder).iter().any(|entry| {
        let below = !entry.file_name().to_string_lossy().starts_with('.')
            && entry.file_name() != "node_modules"
            && entry.path().is_dir();
        named(entry) || (below && within(&entry.path()).iter().any(named))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_said() {
        assert_eq!(version("v20.6.1"), Some((20, 6)));
        assert_eq!(version("Python 3.11.2"), Some((3, 11)));
        assert_eq!(version("Python 3.14.0rc1"), Some((3, 14)));
        assert_eq!(version("what?"), None);
    }
}
