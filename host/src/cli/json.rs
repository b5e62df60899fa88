//! JSON on the command line: as it stands, `@file`, or `-` (or `@-`) for standard input.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Error;

/// What a file or standard input may hold; the server's limit for a batch.
const LARGEST: u64 = 16 * 1024 * 1024;

/// How much of a faulty line is shown on either side of the fault, in bytes.
const EXCERPT: usize = 36;

/// Reads the JSON arguments of one command; standard input can be given once only.
#[derive(Default)]
pub struct Inputs {
    stdin_taken_by: Option<&'static str>,
}

/// The text of an argument, and where it came from.
pub struct Document {
    origin: Origin,
    text: String,
}

/// Where a text came from, as errors name it.
enum Origin {
    Flag(&'static str),
    File(PathBuf),
    Stdin,
}

impl Inputs {
    /// Fetches the text behind an argument.
    pub fn read(&mut self, flag: &'static str, argument: &str) -> Result<Document, Error> {
        let (origin, text) = if matches!(argument, "-" | "@-") {
            if let Some(other) = self.stdin_taken_by.replace(flag) {
                return Err(Error::usage_hint(
                    format!("{other} and {flag} cannot both be read from standard input"),
                    "put one of them into a file and write @file",
                ));
            }
            (Origin::Stdin, read_all(std::io::stdin().lock(), flag, Error::Stdin)?)
        } else if let Some(path) = argument.strip_prefix('@') {
            let path = PathBuf::from(path);
            let failed = |source| Error::File { doing: "read", path: path.clone(), source };
            let file = std::fs::File::open(&path).map_err(failed)?;
            let text = read_all(file, flag, failed)?;
            (Origin::File(path), text)
        } else {
            (Origin::Flag(flag), argument.to_owned())
        };
        Ok(Document { origin, text })
    }

    /// Reads a JSON object.
    pub fn object(&mut self, flag: &'static str, argument: &str) -> Result<Value, Error> {
        let document = self.read(flag, argument)?;
        let value: Value = document.parse()?;
        if value.is_object() {
            return Ok(value);
        }
        Err(Error::usage_hint(
            format!("{flag} must be a JSON object, not {}", kind(&value)),
            format!("write it like this: {flag} '{{\"name\": \"value\"}}', @file, or - for stdin"),
        ))
    }

    /// Reads a JSON object if one was given.
    pub fn optional_object(
        &mut self,
        flag: &'static str,
        argument: Option<&str>,
    ) -> Result<Option<Value>, Error> {
        argument.map(|argument| self.object(flag, argument)).transpose()
    }
}

fn read_all(
    from: impl Read,
    flag: &str,
    failed: impl FnOnce(std::io::Error) -> Error,
) -> Result<String, Error> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::usage(format!("{flag} holds more than {} MiB", LARGEST >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::usage(format!("{flag} is not UTF-8 text (byte {at})"))
    })?;
    // Editors on some systems begin a file with a byte order mark; JSON has none.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

impl Document {
    /// Parses the text; an error says file, line and column and shows the place.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(&self.text).map_err(|error| self.fault(&error, None))
    }

    /// Parses the text; an error also names the part that `within` finds to be at fault.
    pub fn parse_typed<T: DeserializeOwned>(
        &self,
        within: impl FnOnce() -> Option<String>,
    ) -> Result<T, Error> {
        serde_json::from_str(&self.text).map_err(|error| self.fault(&error, within().as_deref()))
    }

    /// The error for a fault at the place that `error` names, in the part that `within` names.
    fn fault(&self, error: &serde_json::Error, within: Option<&str>) -> Error {
        let (line, column) = (error.line(), error.column());
        let full = error.to_string();
        let said = full.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&full);
        let part = within.map(|within| format!("{within}: ")).unwrap_or_default();
        let shown = self.excerpt(line, column);
        let message = match &self.origin {
            Origin::Flag(_) if self.text.trim().is_empty() => {
                format!("{}: {part}it is empty, and JSON is not", self.origin)
            }
            // Typed errors without a place (a missing field at the end of its object has one).
            _ if line == 0 => format!("{}: {part}{said}", self.origin),
            _ => format!("{}:{line}:{column}: {part}{said}{shown}", self.origin),
        };
        let next = match &self.origin {
            Origin::Flag(_) if !self.text.trim_start().starts_with(['{', '[']) => {
                Some("quote JSON for the shell: '{\"name\": \"value\"}'; @file reads a file, - standard input".to_owned())
            }
            _ => None,
        };
        Error::Usage { message, next }
    }

    /// The faulty line, or the part of it around the fault, and a mark beneath.
    fn excerpt(&self, line: usize, column: usize) -> String {
        let Some(text) = line.checked_sub(1).and_then(|index| self.text.lines().nth(index)) else {
            return String::new();
        };
        let at = floor_char(text, column.saturating_sub(1));
        let start = floor_char(text, at.saturating_sub(EXCERPT));
        let end = floor_char(text, at.saturating_add(EXCERPT));
        if start == end {
            return String::new();
        }
        let before = text[start..at].chars().count();
        format!("\n    {}\n    {:before$}^", super::output::plain(&text[start..end]), "")
    }
}

/// The nearest character boundary at or before a byte index.
fn floor_char(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::File(path) => path.display().fmt(f),
            Origin::Stdin => f.write_str("<stdin>"),
        }
    }
}

/// A JSON value's kind, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(error: Error) -> String {
        error.to_string()
    }

    #[test]
    fn an_object_as_it_stands_or_from_a_file() {
        let mut inputs = Inputs::default();
        assert_eq!(inputs.object("--context", r#"{"a": 1}"#).ok(), Some(json!({"a": 1})));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("context.json");
        std::fs::write(&path, "\u{feff}{\"b\": 2}").expect("written");
        let argument = format!("@{}", path.display());
        assert_eq!(inputs.object("--context", &argument).ok(), Some(json!({"b": 2})));
    }

    #[test]
    fn errors_name_file_line_and_column_and_show_the_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tasks.json");
        std::fs::write(&path, "{\n  \"a\": 1,\n  \"b\": oops\n}").expect("written");
        let error = Inputs::default().object("--tasks", &format!("@{}", path.display()));
        let text = said(error.expect_err("refused")).replace(&path.display().to_string(), "FILE");
        insta::assert_snapshot!(text, @r#"
        FILE:3:8: expected value
              "b": oops
                   ^
        "#);
        let error = Inputs::default().object("--context", r#"{"env": prod}"#);
        insta::assert_snapshot!(said(error.expect_err("refused")), @r#"
        --context:1:9: expected value
            {"env": prod}
                    ^
        "#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let mut inputs = Inputs::default();
        for (text, kind) in [("[1]", "an array"), ("\"a\"", "a string"), ("null", "null")] {
            let error = inputs.object("--context", text).expect_err("refused");
            assert_eq!(said(error), format!("--context must be a JSON object, not {kind}"));
        }
        assert!(said(inputs.object("--context", "").expect_err("empty")).contains("empty"));
        assert!(matches!(inputs.object("--context", "@/nowhere"), Err(Error::File { .. })));
    }

    #[test]
    fn standard_input_is_read_once_only() {
        let mut inputs = Inputs { stdin_taken_by: Some("--tasks") };
        for argument in ["-", "@-"] {
            let error = inputs.read("--context", argument).err().expect("refused");
            assert!(said(error).contains("--context cannot both"));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_answer_or_an_error(text in "[^@-].*") {
            let _ = Inputs::default().object("--context", &text);
        }
    }
}
