//! `eve skill new`: a folder with a skill in it that builds, passes its own tests and can be pushed.
//!
//! Flow: the name and the folder are checked, the language's module says which files there are to be
//! (`rust`, `js`, `python`), and they are written. Templates are in `../templates`, and the SDKs come
//! out of this binary (`build.rs`), so a new skill builds without this repository.
//!
//! Invariant: nothing that exists is overwritten.

mod js;
mod lock;
mod python;
mod rust;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::error::{Error, Exit};
use super::super::output::{Output, Render, View};
use super::build::Language;
use super::sdk::{EMBEDDED, Files, checkout, upwards};
use crate::requests::validate;

/// Start a new skill
///
/// Makes a folder with a small skill, its tests and its SKILL.md. It builds and passes its tests as it
/// is, wherever it lies: what it needs of the SDK comes with it, in .eve/, to be committed. Inside a
/// checkout of Eve Horizon it uses that checkout's SDK.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve skill new word-count
  eve skill new word-count --lang python --path ~/skills/word-count
  eve skill new tally --stateful")]
pub struct New {
    /// The skill's name: lower-case letters, digits and `-`
    name: String,
    /// What to write it in
    #[arg(long, value_enum, default_value_t = Language::Rust, hide_possible_values = true, value_name = "rust|js|python")]
    lang: Language,
    /// Begin with a skill that keeps state: a schema of its own, and its first migration
    #[arg(long)]
    stateful: bool,
    /// The folder to make [default: the skill's name, here]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// What every new skill can be tried with.
const CONTEXT: &str = r#"{"text": "one two two"}"#;

/// What is to be made.
struct Skill<'a> {
    name: &'a str,
    /// Absolute.
    folder: &'a Path,
    stateful: bool,
}

impl Skill<'_> {
    /// The name of its schema.
    fn schema(&self) -> String {
        // A name has more room than a schema, and may begin with a digit.
        let name: String = self.name.replace('-', "_").chars().take(38).collect();
        if name.starts_with(|c: char| c.is_ascii_lowercase()) { name } else { format!("s_{name}") }
    }

    /// Its files of a template.
    fn fill(&self, template: &Template, sdk: &Path) -> Vec<File> {
        let (schema, sdk) = (self.schema(), sdk.to_string_lossy());
        let values = [("name", self.name), ("schema", &*schema), ("sdk", &*sdk)];
        let own = if self.stateful { template.stateful } else { template.stateless };
        let state = if self.stateful { STATE } else { &[] };
        let files = template.common.iter().chain(own).chain(state);
        files.map(|(path, text)| (path.into(), fill(text, &values))).collect()
    }
}

/// Paths within a skill's folder, and texts with `{{name}}`, `{{schema}}` and `{{sdk}}` in them.
type Texts = &'static [(&'static str, &'static str)];

/// What a language's skills begin with.
struct Template {
    common: Texts,
    /// A skill that keeps nothing.
    stateless: Texts,
    /// A skill with a schema of its own; with [`STATE`].
    stateful: Texts,
}

/// What skills with state have in all languages.
const STATE: Texts = &[
    ("SKILL.md", include_str!("../templates/stateful/SKILL.md")),
    ("migrations/0001_words.sql", include_str!("../templates/stateful/0001_words.sql")),
];

/// A file of a new skill: its path within the folder, and its text.
type File = (PathBuf, String);

/// What was made.
#[derive(Serialize)]
struct Created {
    skill: String,
    language: Language,
    folder: PathBuf,
    files: usize,
}

impl Render for Created {
    fn render(&self, _: &View) -> String {
        let folder = self.folder.display();
        let skill = &self.skill;
        let language = self.language.name();
        format!(
            "Made {folder}, a skill in {language}. Next:\n\n  cd {folder}\n  eve skill test\n  \
             eve skill run --context '{CONTEXT}'\n  eve skill push\n  eve request create \
             --worker-type general --skill {skill} --context '{CONTEXT}' --wait"
        )
    }
}

/// Makes the folder.
pub fn run(command: New, out: &Output) -> Result<Exit, Error> {
    let New { name, lang, stateful, path } = command;
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
    let new = Skill { name: &name, folder: &absolute, stateful };
    let files = match lang {
        Language::Rust => rust::files(&new)?,
        Language::Js => js::files(&new),
        Language::Python => python::files(&new),
    };
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    let files = files.len();
    out.show(&Created { skill: name, language: lang, folder, files })?;
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

/// The files of a skill whose SDK is used as it lies: those of a template, and the SDK unless a checkout
/// has it.
fn plain(new: &Skill<'_>, template: &Template, sdk: Files, path: &str) -> Vec<File> {
    let (at, embedded): (PathBuf, Files) = match checkout(new.folder) {
        Some(root) => (upwards(new.folder, root).join(path), &[]),
        None => (Path::new(EMBEDDED).join(path), sdk),
    };
    let embedded =
        embedded.iter().map(|(path, text)| (Path::new(EMBEDDED).join(path), (*text).into()));
    new.fill(template, &at).into_iter().chain(embedded).collect()
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
    fn a_schema_has_a_name_that_postgres_takes() {
        for (name, schema) in [
            ("word-count", "word_count"),
            ("7-seas", "s_7_seas"),
            ("a23456789-123456789-123456789-123456789-x", "a23456789_123456789_123456789_12345678"),
        ] {
            let new = Skill { name, folder: Path::new("/"), stateful: true };
            assert_eq!(new.schema(), schema);
            assert!(new.schema().parse::<crate::schemas::SchemaName>().is_ok());
        }
    }
}
