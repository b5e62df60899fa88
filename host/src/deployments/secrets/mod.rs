//! Secrets of environments: set by members, referred to by apps, never read back.
//!
//! Flow: somebody sets a secret (`store`), which is sealed for its row. A deployment names the secrets that
//! it wants, each as an environment variable or as a file (`references`). With every revision that makes
//! pods anew, their values of that moment are sealed once more for the deployment (`held`): that is what
//! the reconciler puts into the cluster, whatever is set meanwhile. Setting a secret makes a revision of
//! every deployment that refers to it, in the same transaction.
//!
//! An environment may keep its secrets elsewhere: in a store that External Secrets reads. Then nothing of
//! them is here, and its apps get an ExternalSecret (`kubernetes::secrets`).
//!
//! Invariants:
//! - A value is in no answer, event, log or error, and in no `Debug`.
//! - Whoever sets or deletes a secret holds the environment's row for themselves, whoever deploys shares
//!   it: so every deployment has the values of before or those of afterwards, and none is left out.
//! - A rollback, as any other new template, takes the values of now.

mod held;
mod references;
mod store;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::requests::Invalid;

pub use held::Held;
pub(super) use held::Resolved;
pub(super) use references::check;
pub use references::{Place, SecretReference};
pub(super) use store::settled;

/// Most bytes of a value. Of an environment variable Linux takes 128 KiB.
pub const MAX_VALUE: usize = 64 << 10;
/// Most secrets of an environment.
pub const MAX_SECRETS: i64 = 100;
/// Longest name.
pub const MAX_NAME: usize = 63;
/// Most bytes of all the values that an app refers to: they live in one Secret, which may have 1 MiB.
const MAX_TOGETHER: usize = 768 << 10;
/// Most deployments that setting a secret makes a revision of, since that is one transaction.
const MAX_ROLLED: usize = 200;

/// A value for a secret.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    /// The value: 1 to 65536 bytes of text without U+0000. It is kept sealed, and never shown.
    #[serde(deserialize_with = "silently")]
    #[schema(value_type = String, write_only)]
    pub value: SecretString,
    /// Whether the deployments that refer to it get a revision, and so pods with the new value. Otherwise
    /// they keep the old one until something else makes their pods anew.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub restart: bool,
}

fn yes() -> bool {
    true
}

/// What is not a text is not repeated in the error.
fn silently<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text.into()),
        _ => Err(serde::de::Error::custom("must be a string")),
    }
}

impl NewSecret {
    fn check(&self) -> Result<(), Invalid> {
        let value = self.value.expose_secret();
        if value.is_empty() {
            return Err(Invalid::new("value", "must not be empty"));
        }
        if value.len() > MAX_VALUE {
            let bytes = value.len();
            return Err(Invalid::new(
                "value",
                format_args!("may be at most {MAX_VALUE} bytes, and is {bytes}"),
            ));
        }
        if value.contains('\0') {
            return Err(Invalid::new(
                "value",
                "may not contain the character U+0000: encode what is binary, such as with base64",
            ));
        }
        Ok(())
    }
}

/// Whether a secret can have this name, which becomes that of an environment variable:
/// `[A-Za-z_][A-Za-z0-9_]*`, at most 63 characters.
pub fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    if is_name(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(MAX_NAME).collect();
    Err(Invalid::new(
        field,
        format_args!(
            "`{}` is not the name of a secret: letters, digits and `_`, no digit first, at most {MAX_NAME}",
            shown.escape_default()
        ),
    ))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Where an environment's secrets are kept, if that is elsewhere: a store that External Secrets
/// (https://external-secrets.io) reads in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretStore {
    /// The ClusterSecretStore. It has to be one of the cluster's `secret-stores`.
    pub name: String,
    /// What the keys of this environment's secrets begin with: words of lower-case letters, digits and `-`,
    /// each with a `/` behind it. `eve-horizon/<organisation>/<environment>/` when empty.
    #[serde(default)]
    pub prefix: String,
}

impl SecretStore {
    /// The key under which a secret's value has to be.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The same with a prefix of the environment's own, where none was given; checked.
    pub(super) fn of(&self, org: &str, env: &str) -> Result<SecretStore, Invalid> {
        let word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('-')
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let name = &self.name;
        if name.len() > 253 || !name.split('.').all(|part| word(part) && !part.ends_with('-')) {
            return Err(Invalid::new(
                "config.secret_store.name",
                "must be the name of a ClusterSecretStore, such as eve-tenants",
            ));
        }
        let prefix = match self.prefix.is_empty() {
            true => format!("eve-horizon/{org}/{env}/"),
            false => self.prefix.clone(),
        };
        let words = prefix.strip_suffix('/');
        if prefix.len() > 200 || !words.is_some_and(|words| words.split('/').all(word)) {
            return Err(Invalid::new(
                "config.secret_store.prefix",
                "must be words of lower-case letters, digits and `-`, each with a `/` behind it, such as \
                 eve-horizon/acme/prod/",
            ));
        }
        Ok(SecretStore { name: self.name.clone(), prefix })
    }
}

/// A secret, without its value.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentSecret {
    /// Its name.
    pub name: String,
    /// How many values it has had; none where it is kept elsewhere.
    pub version: Option<i32>,
    /// Its key in the environment's store; none where it is kept here.
    pub key: Option<String>,
    /// The deployments that refer to it, by app.
    pub apps: Vec<SecretUse>,
    /// When it was first set; none where it is kept elsewhere.
    pub created_at: Option<DateTime<Utc>>,
    /// When it got its present value; none where it is kept elsewhere.
    pub updated_at: Option<DateTime<Utc>>,
}

/// A deployment that refers to a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretUse {
    /// Its app.
    pub app: String,
    /// The version of the secret that its pods have; none where it is kept elsewhere.
    pub version: Option<i32>,
}

/// The secrets of an environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretList {
    /// By name. Of an environment that keeps them elsewhere: those that are referred to.
    pub items: Vec<EnvironmentSecret>,
    /// Where they are kept, if that is elsewhere.
    pub store: Option<SecretStore>,
}

/// What setting a secret has done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretSet {
    /// Its name.
    pub name: String,
    /// How many values it has had.
    pub version: i32,
    /// Whether the value is another than before.
    pub changed: bool,
    /// The apps whose deployments have a new revision.
    pub restarted: Vec<String>,
    /// The apps whose deployments refer to it and were left with another value.
    pub left: Vec<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_never_repeated() {
        for bad in [json!({"value": 271828}), json!({"value": ["hush"]}), json!({"value": true})] {
            let refused = serde_json::from_value::<NewSecret>(bad).expect_err("no text");
            let said = refused.to_string();
            assert!(said.contains("string") && !said.contains("271828"), "{said}");
            assert!(!said.contains("hush"), "{said}");
        }
        let new: NewSecret = serde_json::from_value(json!({"value": "hush"})).expect("a value");
        assert!(new.restart && !format!("{new:?}").contains("hush"));
        for (bad, word) in
            [("", "empty"), ("a\0b", "U+0000"), (&*"x".repeat(MAX_VALUE + 1), "65536")]
        {
            let new = NewSecret { value: bad.to_owned().into(), restart: true };
            let refused = new.check().expect_err("too little or too much");
            assert!(refused.message.contains(word), "{refused:?}");
        }
        let largest = NewSecret { value: "x".repeat(MAX_VALUE).into(), restart: true };
        assert_eq!(largest.check(), Ok(()));
    }

    #[test]
    fn names_are_those_of_variables() {
        for good in ["A", "_", "database_url", "A1", &"x".repeat(63)] {
            assert_eq!(check_name("name", good), Ok(()), "{good}");
        }
        for bad in ["", "1A", "A-B", "A.B", "A B", "Ä", "A=B", "a\0", "../a", &"x".repeat(64)] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_store_has_a_prefix_of_the_environments_own() {
        let store = |name: &str, prefix: &str| {
            SecretStore { name: name.into(), prefix: prefix.into() }.of("acme", "prod")
        };
        let own = store("eve-tenants", "").expect("a store");
        assert_eq!(own.key("DATABASE_URL"), "eve-horizon/acme/prod/DATABASE_URL");
        assert_eq!(store("a.b-c", "x/y/").expect("a store").prefix, "x/y/");
        for (name, prefix) in [
            ("", ""),
            ("A", ""),
            ("a..b", ""),
            ("-a", ""),
            ("a", "/"),
            ("a", "x"),
            ("a", "x//"),
            ("a", "../x/"),
            ("a", "X/"),
            ("a", "-x/"),
            ("a", &"x/".repeat(101)),
        ] {
            assert!(store(name, prefix).is_err(), "{name} {prefix}");
        }
    }
}
