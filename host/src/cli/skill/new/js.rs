//! A new skill in JavaScript.

use std::path::Path;

use super::super::super::error::Error;
use super::File;

/// What to try it with.
pub const CONTEXT: &str = r#"{"text": "one two two"}"#;

/// Its files.
pub fn files(_name: &str, _folder: &Path) -> Result<Vec<File>, Error> {
    Err(Error::local_hint(
        "there is no template for JavaScript in this version yet",
        "`--lang rust` makes a skill in Rust",
    ))
}
