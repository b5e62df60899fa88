//! SKILL.md: what a skill says about itself. YAML front matter between two lines of `---`, then
//! Markdown for people.
//!
//! ```text
//! ---
//! name: text-stats
//! description: Counts lines, words and characters.
//! worker_types: [general]
//! capabilities: [queue]
//! ---
//! Send it a text …
//! ```

use serde::{Deserialize, Serialize};

use crate::requests::validate::{self, Invalid};
use crate::runtime::Capability;
use crate::schemas::SchemaName;

/// The whole file.
pub const MAX_BYTES: usize = 64 << 10;
/// The line that lists of skills show.
const DESCRIPTION_BYTES: usize = 1_024;
/// A version's label, such as `1.4.0`.
const VERSION_BYTES: usize = 64;
/// Worker types, schemas.
const LIST: usize = 32;
/// What is said of a front matter that is wrong, in bytes; it may repeat what stands there.
const PROBLEM: usize = 300;

/// Why a SKILL.md is no good, for its author.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Too much of it.
    #[error("SKILL.md has {0} bytes; at most {MAX_BYTES} are allowed")]
    TooLarge(usize),
    /// No front matter.
    #[error("SKILL.md must begin with front matter: a line `---`, YAML, and another line `---`")]
    NoFrontMatter,
    /// The front matter is not what it should be.
    #[error("SKILL.md{}: {message}", at(*line))]
    Yaml {
        /// The line of the file, from 1.
        line: Option<u64>,
        /// What the YAML library says.
        message: String,
    },
    /// A value is not what it should be.
    #[error("SKILL.md{}: {problem}", at(*line))]
    Value {
        /// The line of the file, from 1.
        line: Option<u64>,
        /// Which value, and what is wrong with it.
        problem: Invalid,
    },
}

fn at(line: Option<u64>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

impl ManifestError {
    /// The line of the file that is wrong, from 1, where that is known.
    pub fn line(&self) -> Option<u64> {
        match self {
            ManifestError::TooLarge(_) | ManifestError::NoFrontMatter => None,
            ManifestError::Yaml { line, .. } | ManifestError::Value { line, .. } => *line,
        }
    }

    /// What is wrong, without saying where.
    pub fn problem(&self) -> String {
        match self {
            ManifestError::TooLarge(_) | ManifestError::NoFrontMatter => self.to_string(),
            ManifestError::Yaml { message, .. } => message.clone(),
            ManifestError::Value { problem, .. } => problem.to_string(),
        }
    }
}

/// A SKILL.md that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The skill's name: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
    pub name: String,
    /// One line about it.
    pub description: String,
    /// The author's own label for the version, if any; ours is the content's hash.
    pub version: Option<String>,
    /// The pools that may run it; none means any.
    pub worker_types: Vec<String>,
    /// Logical database schemas that it uses.
    pub schemas: Vec<String>,
    /// What it needs to be granted.
    pub capabilities: Vec<Capability>,
    /// The Markdown below the front matter.
    pub body: String,
}

/// The front matter as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontMatter {
    name: String,
    description: String,
    version: Option<String>,
    #[serde(default)]
    worker_types: Vec<String>,
    schema: Option<String>,
    #[serde(default)]
    schemas: Vec<String>,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// Interfaces that every skill may import: naming them asks for nothing.
const ALWAYS_GRANTED: [&str; 2] = ["log", "request"];

impl Manifest {
    /// Reads a SKILL.md.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge(text.len()));
        }
        let (yaml, body) = split(text).ok_or(ManifestError::NoFrontMatter)?;
        let front: FrontMatter =
            serde_saphyr::from_str_with_options(yaml, options()).map_err(|error| {
                let line = error.location().map(|location| location.line());
                let message = validate::shown(&without_place(&error.to_string()), PROBLEM);
                ManifestError::Yaml { line, message }
            })?;
        Self::checked(front, body).map_err(|problem| {
            let line = line_of(yaml, &problem.field);
            ManifestError::Value { line, problem }
        })
    }

    fn checked(front: FrontMatter, body: &str) -> Result<Self, Invalid> {
        validate::name("name", &front.name)?;
        one_line("description", &front.description, DESCRIPTION_BYTES)?;
        if let Some(version) = &front.version {
            one_line("version", version, VERSION_BYTES)?;
        }
        names("worker_types", &front.worker_types, validate::name)?;
        let mut schemas = front.schemas;
        schemas.extend(front.schema);
        names("schemas", &schemas, schema_name)?;
        names("capabilities", &front.capabilities, capability)?;
        let capabilities = front
            .capabilities
            .iter()
            // What every skill has may be named, and needs no grant.
            .filter(|name| !ALWAYS_GRANTED.contains(&name.as_str()))
            .filter_map(|name| name.parse().ok())
            .collect();
        validate::text("body", body, MAX_BYTES)?;
        Ok(Self {
            name: front.name,
            description: front.description.trim().to_owned(),
            version: front.version.map(|version| version.trim().to_owned()),
            worker_types: front.worker_types,
            schemas,
            capabilities,
            body: body.to_owned(),
        })
    }
}

/// Front matter and body. Lines may end in CRLF, and a byte order mark may come first. The front
/// matter begins with its `---`, which YAML allows, so that its lines count as those of the file.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_mark = |line: &str| line.trim_end_matches(['\r', '\n']) == "---";
    let mut lines = text.split_inclusive('\n');
    let mut start = lines.next().filter(|line| is_mark(line))?.len();
    for line in lines {
        if is_mark(line) {
            return Some((&text[..start], &text[start + line.len()..]));
        }
        start += line.len();
    }
    None
}

/// The YAML library's sentence without its place, which is told apart. It quotes the file at length.
fn without_place(message: &str) -> String {
    let place = message.rfind(" at line ").filter(|at| !message[*at..].contains('\n'));
    let message = place.map_or(message, |at| &message[..at]);
    let before = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    before.map_or(message, |(_, said)| said).to_owned()
}

/// The line, from 1, on which a field of the front matter begins.
fn line_of(yaml: &str, field: &str) -> Option<u64> {
    let index = yaml.lines().position(|line| {
        // `schema` and `schemas` are one list to us.
        let name = line.split(':').next().unwrap_or_default();
        name == field || (field == "schemas" && name == "schema")
    })?;
    u64::try_from(index + 1).ok()
}

/// Anchors, aliases and merge keys are for tricks, not for six lines of front matter.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.strict_booleans = true;
    options.merge_keys = serde_saphyr::MergeKeyPolicy::Error;
    if let Some(budget) = &mut options.budget {
        budget.max_anchors = 0;
        budget.max_aliases = 0;
        budget.max_depth = 8;
        budget.max_nodes = 500;
        budget.max_documents = 1;
    }
    options
}

fn one_line(field: &str, text: &str, bytes: usize) -> Result<(), Invalid> {
    validate::text(field, text, bytes)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Invalid { field: field.into(), message: "must not be empty".into() });
    }
    if text.chars().any(|char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')) {
        return Err(Invalid { field: field.into(), message: "must be one line".into() });
    }
    if text.chars().any(reorders) {
        let message = "must not hold marks that change the direction of text".into();
        return Err(Invalid { field: field.into(), message });
    }
    Ok(())
}

/// Marks that make a line look like another: <https://www.unicode.org/reports/tr9/>, section 2.
fn reorders(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn names(
    field: &str,
    list: &[String],
    check: impl Fn(&str, &str) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    if list.len() > LIST {
        return Err(Invalid {
            field: field.into(),
            message: format!("at most {LIST} are allowed"),
        });
    }
    for (index, name) in list.iter().enumerate() {
        check(field, name)?;
        if list[..index].contains(name) {
            return Err(Invalid {
                field: field.into(),
                message: format!("`{name}` is named twice"),
            });
        }
    }
    Ok(())
}

/// A logical schema, such as `devops_projects`.
fn schema_name(field: &str, name: &str) -> Result<(), Invalid> {
    name.parse::<SchemaName>().map(|_| ()).map_err(|problem| Invalid::new(field, problem))
}

/// Something that can be granted, or that every skill has.
fn capability(field: &str, name: &str) -> Result<(), Invalid> {
    if ALWAYS_GRANTED.contains(&name) {
        return Ok(());
    }
    name.parse::<Capability>().map(|_| ()).map_err(|problem| Invalid::new(field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "---\nname: text-stats\ndescription: Counts words.\nversion: \"1.0\"\n\
                        worker_types: [general]\nschema: devops_projects\n\
                        capabilities:\n  - queue\n---\n# Body\n---\nmore\n";

    #[test]
    fn a_whole_manifest() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!(manifest.name, "text-stats");
        assert_eq!(manifest.version.as_deref(), Some("1.0"));
        assert_eq!(manifest.worker_types, ["general"]);
        assert_eq!(manifest.schemas, ["devops_projects"]);
        assert_eq!(manifest.capabilities, [Capability::Queue]);
        assert_eq!(manifest.body, "# Body\n---\nmore\n");
        let windows = Manifest::parse(&GOOD.replace('\n', "\r\n")).unwrap();
        assert_eq!(windows.name, manifest.name);
        assert_eq!(Manifest::parse(&format!("\u{feff}{GOOD}")).unwrap(), manifest);
        let block = Manifest::parse(&GOOD.replace("\"1.0\"", "|\n  1.0")).unwrap();
        assert_eq!(block, manifest);
    }

    #[test]
    fn the_line_is_said() {
        for (text, line, problem) in [
            (
                "---\nname: a\ndescription: x\ncapabilities: [magic]\n---\n",
                Some(4),
                "capabilities: ",
            ),
            ("---\nname: A b\ndescription: x\n---\n", Some(2), "name: "),
            ("---\nname: a\ndescription: x\nschema: Bad-Name\n---\n", Some(4), "schemas: "),
            ("---\nname: a\ndescription: x\ncolour: red\n---\n", Some(4), "colour"),
            ("---\r\nname: a\r\ndescription: [x\r\n---\r\n", None, ""),
            ("---\nname: a\nname: b\ndescription: x\n---\n", Some(3), "uplicate"),
            ("# Hello", None, "front matter"),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            let said = error.problem();
            assert!(said.contains(problem) && !said.contains(" at line "), "{text:?}: {said}");
            if let Some(number) = line {
                assert_eq!(error.line(), line, "{text:?}: {error}");
                assert!(error.to_string().starts_with(&format!("SKILL.md:{number}: ")));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("", "front matter"),
            ("# Hello", "front matter"),
            ("---\nname: a\n", "front matter"),
            ("---\nname: a\n---\n", "description"),
            ("---\nname: A b\ndescription: x\n---\n", "not a name"),
            ("---\nname: a\ndescription: x\ncolour: red\n---\n", "colour"),
            ("---\nname: a\nname: b\ndescription: x\n---\n", "uplicate"),
            ("---\nname: a\ndescription: \"\"\n---\n", "empty"),
            ("---\nname: a\ndescription: \"x\\ny\"\n---\n", "one line"),
            ("---\nname: a\ndescription: \"x\\u2028y\"\n---\n", "one line"),
            ("---\nname: a\ndescription: x\u{202e}y\n---\n", "direction"),
            ("---\nname: a\ndescription: x\ncapabilities: [magic]\n---\n", "not a capability"),
            ("---\nname: a\ndescription: x\nworker_types: [a, a]\n---\n", "twice"),
            ("---\nname: a\ndescription: x\ncapabilities: [db, db]\n---\n", "twice"),
            ("---\nname: a\ndescription: x\nschema: Bad-Name\n---\n", "schema"),
            // What Postgres keeps for itself, and what is longer than a schema's name can be.
            ("---\nname: a\ndescription: x\nschema: public\n---\n", "not the name of a schema"),
            (
                "---\nname: a\ndescription: x\nschema: a23456789_b23456789_c23456789_d23456789_e\n---\n",
                "up to 39",
            ),
            ("---\nname: &a x\ndescription: *a\n---\n", "nchor"),
            ("---\nname: a\ndescription: x\n<<: {version: \"1\"}\n---\n", "erge"),
            ("---\n- a\n---\n", ""),
        ] {
            let message = Manifest::parse(text).unwrap_err().to_string();
            assert!(message.contains(problem), "{text:?}: {message}");
        }
        // What it repeats of the file is cut, and does nothing to a terminal.
        for key in ["x".repeat(60_000), "\\e[2J".repeat(300), "\\0".into()] {
            let text = format!("---\nname: a\ndescription: x\n\"{key}\": 1\n---\n");
            let message = Manifest::parse(&text).unwrap_err().to_string();
            assert!(message.len() < 1_200 && !message.contains(char::is_control), "{message:?}");
        }
        let large = format!("{GOOD}{}", "x".repeat(MAX_BYTES));
        assert!(matches!(Manifest::parse(&large), Err(ManifestError::TooLarge(_))));
    }
}
