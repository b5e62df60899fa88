//! What a guest can do: one file per interface of `eve:skill`, and which of them it may import.
//!
//! Flow: [`Import::of`] sorts the imports of a component, [`Grants::check`] refuses what is not
//! granted, in our own words, [`super::linker`] links what is and nothing else, and each call lands in the
//! file of its interface.
//!
//! Invariants:
//! - Whom a run acts for comes from its [`Job`](super::Job), never from an argument.
//! - What comes from a guest is checked where it arrives: an error for the guest, nothing changed.
//! - A call that needs I/O runs on the I/O runtime; a guest's thread never blocks.

pub mod db;
pub mod deploy;
#[cfg(test)]
mod deploy_parity_tests;
pub mod log;
pub mod memory_queue;
pub mod queue;
#[cfg(test)]
mod queue_parity_tests;
#[cfg(test)]
mod queue_tests;
pub mod request;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Something that a skill may be granted. What is not listed here is granted to every skill (its
/// own request, its log, shared types, inert WASI) or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Create, read and cancel requests of the organisation.
    Queue,
    /// Keep state in schemas of the organisation.
    Db,
    /// Deploy apps to the environments of the organisation.
    Deploy,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Capability; 3] = [Capability::Queue, Capability::Db, Capability::Deploy];

    /// The word in SKILL.md, in the database and in `eve:skill`.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Queue => "queue",
            Capability::Db => "db",
            Capability::Deploy => "deploy",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Capability::ALL.into_iter().find(|capability| capability.as_str() == text).ok_or_else(
            || {
                let known: Vec<_> = Capability::ALL.iter().map(|c| c.as_str()).collect();
                format!("`{}` is not a capability; there is {}", shown(text), known.join(", "))
            },
        )
    }
}

/// What a skill may import besides what every skill may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Capability>);

impl Grants {
    /// Nothing beyond what every skill has.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything that there is.
    pub fn all() -> Self {
        Self(Capability::ALL.to_vec())
    }

    /// Whether `capability` is among them.
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// These, but none of `revoked`.
    pub fn without(&self, revoked: &[Capability]) -> Self {
        self.0.iter().copied().filter(|capability| !revoked.contains(capability)).collect()
    }

    /// Refuses the first of `imports` (names as in the component) that is unknown or not granted.
    pub fn check<'a>(
        &self,
        imports: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), RefusedImport> {
        for name in imports {
            if let Import::Capability(capability) = Import::of(name)?
                && !self.has(capability)
            {
                return Err(RefusedImport::NotGranted { import: shown(name), capability });
            }
        }
        Ok(())
    }
}

/// As words, sorted: equal grants look equal.
impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<&str> = self.0.iter().map(|capability| capability.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        f.write_str(&words.join(" "))
    }
}

impl FromIterator<Capability> for Grants {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().collect())
    }
}

/// An import that a skill must not have, named in our words: the linker's would be "wrong type".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedImport {
    /// There is no such interface, in this version.
    #[error("imports `{import}`, {why}")]
    Unknown {
        /// The import, as the component names it.
        import: String,
        /// Why it is not to be had.
        why: &'static str,
    },
    /// There is one, but not for this skill.
    #[error("imports `{import}`, but the capability `{capability}` is not granted to it")]
    NotGranted {
        /// The import, as the component names it.
        import: String,
        /// What would have to be granted.
        capability: Capability,
    },
}

/// What an import of a component is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// Every skill may import it.
    Always,
    /// Part of WASI 0.2, which we link inertly.
    Wasi,
    /// Needs a grant.
    Capability(Capability),
}

impl Import {
    /// Sorts one import by its name, such as `eve:skill/queue@0.1.0`.
    pub fn of(name: &str) -> Result<Self, RefusedImport> {
        let refused = |why| Err(RefusedImport::Unknown { import: shown(name), why });
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let Some((package, interface)) = interface.split_once('/') else {
            return refused("which no skill can have: skills import interfaces of `eve:skill`");
        };
        match package {
            "eve:skill" if !is_patch_of("0.1.", version) => {
                refused("another version of the contract than this host's 0.1")
            }
            "eve:skill" => match interface {
                "types" | "request" | "log" => Ok(Import::Always),
                other => match other.parse() {
                    Ok(capability) => Ok(Import::Capability(capability)),
                    Err(_) => refused("which this version does not offer"),
                },
            },
            "wasi:cli" | "wasi:clocks" | "wasi:filesystem" | "wasi:io" | "wasi:random"
            | "wasi:sockets" => {
                if is_patch_of("0.2.", version) {
                    Ok(Import::Wasi)
                } else {
                    refused("another version of WASI than this host's 0.2")
                }
            }
            "wasi:http" => refused("but skills have no network"),
            _ => refused("which this version does not offer"),
        }
    }
}

/// Whether `version` is `line` and a plain number: no pre-release, and nothing that somebody has appended.
fn is_patch_of(line: &str, version: &str) -> bool {
    let patch = version.strip_prefix(line).unwrap_or_default();
    (1..=9).contains(&patch.len()) && patch.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name as the uploader may see it: of bounded length, and letters of other scripts told apart from
/// those that they look like.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_sorted_by_name() {
        assert_eq!(Import::of("eve:skill/types@0.1.0"), Ok(Import::Always));
        assert_eq!(Import::of("eve:skill/log@0.1.3"), Ok(Import::Always));
        assert_eq!(Import::of("eve:skill/queue@0.1.0"), Ok(Import::Capability(Capability::Queue)));
        assert_eq!(Import::of("wasi:io/streams@0.2.6"), Ok(Import::Wasi));
    }

    #[test]
    fn refusals_name_the_import() {
        for (import, why) in [
            ("eve:skill/shell@0.1.0", "does not offer"),
            ("eve:skill/queue@0.2.0", "another version of the contract"),
            ("eve:skill/queue", "another version of the contract"),
            ("wasi:http/outgoing-handler@0.2.0", "no network"),
            ("wasi:cli/stdout@0.3.0", "another version of WASI"),
            ("acme:tools/hammer@1.0.0", "does not offer"),
            ("env", "no skill can have"),
            ("eve:skill/queue@0.1.0-rc.1", "another version of the contract"),
            ("eve:skill/queue@0.1.0+mine", "another version of the contract"),
            ("eve:skill/queue@0.1.", "another version of the contract"),
            ("wasi:io/streams@0.2.0-rc-2023-11-10", "another version of WASI"),
            ("wasi:io/streams@0.2.+5", "another version of WASI"),
            ("eve:skill/queue/db@0.1.0", "does not offer"),
        ] {
            let problem = Import::of(import).unwrap_err().to_string();
            assert!(problem.contains(import) && problem.contains(why), "{problem}");
        }
        let problem = Grants::none().check(["eve:skill/queue@0.1.0"]).unwrap_err().to_string();
        assert!(problem.contains("not granted"), "{problem}");
        for import in ["eve:skill/db@0.1.\u{1b}[2J", "env\u{1b}[2J"] {
            let problem = Grants::none().check([import]).unwrap_err().to_string();
            assert!(problem.contains("\\u{1b}[2J"), "{problem}");
        }
        assert_eq!(Grants::all().check(["eve:skill/queue@0.1.0"]), Ok(()));
        // A Cyrillic letter among the others.
        let problem = Import::of("eve:skill/qu\u{435}ue@0.1.0").unwrap_err().to_string();
        assert!(problem.contains(r"qu\u{435}ue"), "{problem}");
        let without = Grants::all().without(&[Capability::Queue]);
        assert!(without.check(["eve:skill/queue@0.1.0"]).is_err() && without.has(Capability::Db));
    }

    /// Should a name ever slip past the check, there is nothing behind it.
    #[test]
    fn what_is_not_granted_is_not_linked() {
        let engine = crate::runtime::engine::compiling().unwrap();
        let component =
            wasmtime::component::Component::new(&engine, crate::runtime::guests::queue_get())
                .unwrap();
        let linked = |grants: &Grants| {
            crate::runtime::linker(&engine, grants).unwrap().instantiate_pre(&component).is_ok()
        };
        assert!(linked(&Grants::all()));
        assert!(!linked(&Grants::none()));
        assert!(!linked(&[Capability::Db].into_iter().collect()));
    }
}
