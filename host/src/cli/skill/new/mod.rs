//! `eve skill new`: a folder with a skill in it that builds, passes its own tests and can be pushed.
//!
//! Flow: the name and the folder are checked, the language's module says which files there are to be
//! (`rust`; there is none for the others yet), and they are written. Templates are in `../templates`, and the SDKs come
//! out of this binary (`build.rs`), so a new skill builds without this repository.
//!
//! Invariant: nothing that exists is overwritten.

mod lock;
mod rust;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::error::{Error, Exit};
use super::super::output::{Output, Render, View};
use super::build::Language;
use crate::requests::validate;

// The lists of files that `build.rs` has made: RUST_SDK.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Start a new skill
///
/// Makes a folder with a small skill, its tests and its SKILL.md. It builds and passes its tests as it
/// is, wherever it lies: what it needs of the SDK comes with it, in .eve/, to be committed. Inside a
/// checkout of Eve Horizon it uses that checkout's SDK.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve skill new word-count
  eve skill new word-count --path ~/skills/word-count")]
pub struct New {
    /// The skill's name: lower-case letters, digits and `-`
    name: String,
    /// What to write it in
    #[arg(long, value_enum, default_value_t = Language::Rust, hide_possible_values = true, value_name = "rust|js|python")]
    lang: Language,
    /// The folder to make [default: the skill's name, here]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// A file of a new skill: its path within the folder, and its text.
type File = (PathBuf, String);

/// What was made.
#[derive(Serialize)]
struct Created {
    skill: String,
    language: Language,
    folder: PathBuf,
    files: usize,
    #[serde(skip)]
    try_with: &'static str,
}

impl Render for Created {
    fn render(&self, _: &View) -> String {
        let folder = self.folder.display();
        let Created { skill, try_with, .. } = self;
        let language = self.language.name();
        format!(
            "Made {folder}, a skill in {language}. Next:\n\n  cd {folder}\n  eve skill test\n  \
             eve skill run --context '{try_with}'\n  eve skill push\n  eve request create \
             --worker-type general --skill {skill} --context '{try_with}' --wait"
        )
    }
}

/// Makes the folder.
pub fn run(command: New, out: &Output) -> Result<Exit, Error> {
    let New { name, lang, path } = command;
    let folder = path.unwrap_or_else(|| PathBuf::from(&name));
    validate::name("name", &name).map_err(|invalid| {
        Error::usage_hint(
            invalid.to_string(),
            format!("such as `eve skill new {}`", suggestion(&name)),
        )
    })?;
    check_empty(&folder)?;
    let absolute = std::path::absolute(&folder).map_err(|source| Error::File {
        doing: "find",
        path: folder.clone(),
        source,
    })?;
    let (files, try_with) = match lang {
        Language::Rust => (rust::files(&name, &absolute)?, rust::CONTEXT),
        language => {
            return Err(Error::local_hint(
                format!("there is no template for {} in this version yet", language.name()),
                "`--lang rust` makes a skill in Rust",
            ));
        }
    };
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    let files = files.len();
    out.show(&Created { skill: name, language: lang, folder, files, try_with })?;
    Ok(Exit::Ok)
}

/// The nearest thing to a name that was refused.
fn suggestion(name: &str) -> String {
    let plain: String = name
        .chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let words: Vec<_> = plain.split('-').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "word-count".to_owned() } else { words.join("-") }
}

/// Refuses a folder that holds something.
fn check_empty(folder: &Path) -> Result<(), Error> {
    let next = "give another --path, or another name";
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::usage_hint(
                format!("{} exists, and is not empty", folder.display()),
                next,
            )),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err(Error::usage_hint(format!("{} is not a folder", folder.display()), next))
        }
        Err(source) => Err(Error::File { doing: "read", path: folder.into(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { doing: "write", path: path.into(), source };
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let mut file = std::fs::File::create_new(path).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
}

/// Fills in a template: `{{name}}` for each pair.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    })
}

/// The checkout of this repository that a folder lies in, if it lies in one.
fn checkout(folder: &Path) -> Option<&Path> {
    folder.ancestors().skip(1).find(|above| {
        let manifest = std::fs::read_to_string(above.join("sdk/Cargo.toml"));
        manifest.is_ok_and(|text| text.lines().any(|line| line.trim() == "name = \"eve-sdk\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_is_filled() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(check_empty(folder.path()).is_ok());
        assert!(check_empty(&folder.path().join("new")).is_ok());
        let file = folder.path().join("file");
        write(&file, "x").expect("written");
        assert!(write(&file, "y").is_err(), "nothing is overwritten");
        let said = |path: &Path| check_empty(path).expect_err("refused").to_string();
        assert!(said(folder.path()).contains("is not empty"));
        assert!(said(&file).contains("is not a folder"));
    }

    #[test]
    fn a_bad_name_gets_a_good_one() {
        assert_eq!(suggestion("My Skill_2"), "my-skill-2");
        assert_eq!(suggestion("../../etc"), "etc");
        assert_eq!(suggestion("äöü"), "word-count");
    }

    #[test]
    fn a_checkout_is_known_by_its_sdk() {
        let folder = tempfile::tempdir().expect("a folder");
        let skill = folder.path().join("a/b/skill");
        assert_eq!(checkout(&skill), None);
        write(&folder.path().join("sdk/Cargo.toml"), "[package]\nname = \"other\"\n")
            .expect("written");
        assert_eq!(checkout(&skill), None);
        let sdk = folder.path().join("a/sdk/Cargo.toml");
        write(&sdk, "[package]\nname = \"eve-sdk\"\n").expect("written");
        assert_eq!(checkout(&skill), Some(folder.path().join("a").as_path()));
    }
}
