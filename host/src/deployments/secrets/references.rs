//! How an app gets a secret: as an environment variable, or as a file.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check_name;
use crate::requests::Invalid;

/// Most references of an app.
const MAX_REFERENCES: usize = 100;
/// Longest path of a file.
const MAX_PATH: usize = 255;
/// Variables that the platform sets itself, besides what begins with `EVE_`.
const OWN_VARIABLE: &str = "PORT";
/// Where an image's own programs are, and what is no file: a secret put there by mistake would keep the
/// container from starting, and the error would not say why.
const SYSTEM: [&str; 11] = [
    "/bin",
    "/boot",
    "/dev",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/var/run/secrets/kubernetes.io",
];
/// Files that Kubernetes writes into every container, or without which nobody has a name.
const SYSTEM_FILES: [&str; 5] =
    ["/etc/group", "/etc/hostname", "/etc/hosts", "/etc/passwd", "/etc/resolv.conf"];

/// A secret of the environment that an app refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretReference {
    /// The secret's name.
    pub name: String,
    /// The environment variable that has its value: as the secret is called, when neither this nor `file` is
    /// given. `PORT` and `EVE_…` are the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Instead of a variable: the file that has its value, which everybody in the container may read and
    /// nobody may write. An absolute path of at most 255 bytes, outside the system's folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Where an app finds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place<'a> {
    /// In this environment variable.
    Variable(&'a str),
    /// In this file.
    File(&'a str),
}

impl SecretReference {
    /// Where the app finds it.
    pub fn place(&self) -> Place<'_> {
        match (&self.file, &self.variable) {
            (Some(file), _) => Place::File(file),
            (None, Some(variable)) => Place::Variable(variable),
            (None, None) => Place::Variable(&self.name),
        }
    }

    /// `NAME` or `VARIABLE=NAME`, as the command line has it.
    pub fn of_variable(text: &str) -> SecretReference {
        let (variable, name) = match text.split_once('=') {
            Some((variable, name)) => (Some(variable.to_owned()), name),
            None => (None, text),
        };
        SecretReference { name: name.to_owned(), variable, file: None }
    }

    /// `PATH=NAME`, as the command line has it.
    pub fn of_file(text: &str) -> Result<SecretReference, String> {
        let (file, name) = text.rsplit_once('=').ok_or_else(|| {
            format!("`{text}` is not PATH=NAME, such as /etc/tls/key.pem=TLS_KEY")
        })?;
        Ok(SecretReference { name: name.to_owned(), variable: None, file: Some(file.to_owned()) })
    }
}

/// Whether an app can have all of these.
pub(in crate::deployments) fn check(references: &[SecretReference]) -> Result<(), Invalid> {
    const FIELD: &str = "settings.secrets";
    if references.len() > MAX_REFERENCES {
        return Err(Invalid::new(FIELD, format_args!("may be at most {MAX_REFERENCES}")));
    }
    let mut places = BTreeSet::new();
    for reference in references {
        check_name(FIELD, &reference.name)?;
        if reference.variable.is_some() && reference.file.is_some() {
            return Err(Invalid::new(
                FIELD,
                format_args!("{}: give a variable or a file, not both", reference.name),
            ));
        }
        let place = reference.place();
        match place {
            Place::Variable(variable) => {
                check_name(FIELD, variable)?;
                if variable == OWN_VARIABLE || variable.starts_with("EVE_") {
                    return Err(Invalid::new(
                        FIELD,
                        format_args!(
                            "the variable {variable} is the platform's: choose another for the secret {}, as \
                             VARIABLE=NAME",
                            reference.name
                        ),
                    ));
                }
            }
            Place::File(file) => check_file(FIELD, file)?,
        }
        if !places.insert(place) {
            let what = match place {
                Place::Variable(variable) => format!("the variable {variable}"),
                Place::File(file) => format!("the file {file}"),
            };
            return Err(Invalid::new(FIELD, format_args!("{what} can have one secret only")));
        }
    }
    // A file cannot be a folder as well.
    let files = || {
        places.iter().filter_map(|place| match place {
            Place::File(file) => Some(*file),
            Place::Variable(_) => None,
        })
    };
    for file in files() {
        if let Some(below) = files().find(|other| is_below(other, file)) {
            return Err(Invalid::new(
                FIELD,
                format_args!("{below} cannot be below {file}, which is a file"),
            ));
        }
    }
    Ok(())
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn check_file(field: &str, file: &str) -> Result<(), Invalid> {
    let shown: String = file.chars().take(MAX_PATH).collect();
    let shown = shown.escape_default();
    let parts = file.strip_prefix('/').map(|rest| rest.split('/'));
    let fits = file.len() <= MAX_PATH
        // A colon separates paths in a mount.
        && file.bytes().all(|b| b.is_ascii_graphic() && b != b':' && b != b'\\')
        && parts.is_some_and(|mut parts| parts.all(|part| !matches!(part, "" | "." | "..")));
    if !fits {
        return Err(Invalid::new(
            field,
            format_args!(
                "`{shown}` is not the path of a file: absolute, at most {MAX_PATH} visible characters, without \
                 `:`, `.` and `..`, such as /etc/tls/key.pem"
            ),
        ));
    }
    let in_system = SYSTEM.iter().any(|folder| file == *folder || is_below(file, folder));
    if in_system || SYSTEM_FILES.contains(&file) {
        return Err(Invalid::new(
            field,
            format_args!(
                "`{shown}` is the system's: choose another path, such as /run/secrets/NAME"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(references: &[SecretReference]) -> Result<(), String> {
        check(references).map_err(|invalid| invalid.message)
    }

    fn variable(text: &str) -> SecretReference {
        SecretReference::of_variable(text)
    }

    fn file(text: &str) -> SecretReference {
        SecretReference::of_file(text).expect("a path and a name")
    }

    #[test]
    fn a_secret_is_a_variable_or_a_file() {
        let references = [
            variable("DATABASE_URL"),
            variable("PGPASSWORD=DATABASE_PASSWORD"),
            file("/etc/tls/key.pem=TLS_KEY"),
            file("/run/secrets/a=b=TLS_KEY"),
            file("/app.conf=CONFIG"),
        ];
        assert_eq!(said(&references), Ok(()));
        let places: Vec<_> = references.iter().map(SecretReference::place).collect();
        assert_eq!(
            places,
            [
                Place::Variable("DATABASE_URL"),
                Place::Variable("PGPASSWORD"),
                Place::File("/etc/tls/key.pem"),
                Place::File("/run/secrets/a=b"),
                Place::File("/app.conf"),
            ]
        );
        assert!(SecretReference::of_file("/etc/key").is_err_and(|why| why.contains("PATH=NAME")));
    }

    #[test]
    fn what_an_app_cannot_have_is_refused() {
        for (bad, word) in [
            (vec![variable("A-B")], "A-B"),
            (vec![variable("A=")], "name of a secret"),
            (vec![variable("=A")], "name of a secret"),
            (vec![variable("PORT")], "platform's"),
            (vec![variable("EVE_APP=A")], "platform's"),
            (vec![variable("A"), variable("A")], "one secret only"),
            (vec![variable("X=A"), variable("X=B")], "one secret only"),
            (vec![file("/a=A"), file("/a=B")], "one secret only"),
            (vec![file("/a=A"), file("/a/b=B")], "below /a"),
            (vec![file("a=A")], "absolute"),
            (vec![file("/=A")], "absolute"),
            (vec![file("/a/=A")], "absolute"),
            (vec![file("/a//b=A")], "absolute"),
            (vec![file("/a/../b=A")], "absolute"),
            (vec![file("/a:b=A")], "without `:`"),
            (vec![file("/a b=A")], "visible"),
            (vec![file(&format!("/{}=A", "x".repeat(255)))], "255"),
            (vec![file("/proc/1/x=A")], "system's"),
            (vec![file("/usr/bin/env=A")], "system's"),
            (vec![file("/dev=A")], "system's"),
            (vec![file("/etc/passwd=A")], "system's"),
            (vec![file("/var/run/secrets/kubernetes.io/serviceaccount/token=A")], "system's"),
            (vec![variable("A"); 101], "at most 100"),
            (vec![SecretReference { variable: Some("B".into()), ..file("/a=A") }], "not both"),
        ] {
            let refused = said(&bad).expect_err(word);
            assert!(refused.contains(word), "{bad:?}: {refused}");
        }
    }
}
