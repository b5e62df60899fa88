//! Logical names of schemas.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SchemaError;

/// The logical name of a schema, such as `devops_projects`: a lower-case letter, then up to 39
/// lower-case letters, digits and `_`; no name that Postgres keeps for itself. The physical schema of
/// an organisation has the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SchemaName(String);

impl SchemaName {
    /// Reads a name that a caller gave.
    pub fn named(text: &str) -> Result<SchemaName, SchemaError> {
        text.parse().map_err(|invalid: InvalidSchemaName| {
            SchemaError::Invalid(format!("schema: {invalid}"))
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no name of a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the name of a schema: a lower-case letter, then up to 39 lower-case letters, digits \
     and `_`, and nothing that Postgres keeps for itself (pg_…, public, information_schema)"
)]
pub struct InvalidSchemaName(String);

impl FromStr for SchemaName {
    type Err = InvalidSchemaName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        let fine = first
            && text.len() <= 40
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !text.starts_with("pg_")
            && !["public", "information_schema"].contains(&text);
        match fine {
            true => Ok(SchemaName(text.to_owned())),
            false => {
                let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
                Err(InvalidSchemaName(shown))
            }
        }
    }
}

impl TryFrom<String> for SchemaName {
    type Error = InvalidSchemaName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SchemaName> for String {
    fn from(name: SchemaName) -> String {
        name.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_postgres_identifiers_that_need_no_quotes() {
        for fine in ["a", "devops_projects", "x2", &"a".repeat(40)] {
            assert!(fine.parse::<SchemaName>().is_ok(), "{fine}");
        }
        for bad in [
            "",
            "A",
            "2x",
            "_x",
            "a-b",
            "a b",
            "a\"b",
            "a\0b",
            "é",
            "pg_x",
            "public",
            "information_schema",
            &"a".repeat(41),
        ] {
            assert!(bad.parse::<SchemaName>().is_err(), "{bad:?}");
        }
    }
}
