//! Where the server's programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{OLDEST_MAJOR, PostgresError};

/// Folders that hold one folder per version, with the path from there to the programs. A version is
/// whatever the programs say it is, never read from the folder's name.
const PER_VERSION: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"), // Debian, Ubuntu
    ("/opt/homebrew/opt", "bin"),   // Homebrew on Apple silicon
    ("/usr/local/opt", "bin"),      // Homebrew on Intel
    ("/home/linuxbrew/.linuxbrew/opt", "bin"),
    ("/usr", "bin"), // Red Hat's packages from postgresql.org: /usr/pgsql-16
];

/// What to type to get a server.
const INSTALL: &str = if cfg!(target_os = "macos") {
    "brew install postgresql@17"
} else {
    "sudo apt-get install postgresql"
};

/// One installed server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// The newest installed server that can run `cluster`: one of version `wanted` if the cluster
    /// was made by that version, any from [`OLDEST_MAJOR`] on if there is none yet.
    pub fn find(wanted: Option<u32>, cluster: &Path) -> Result<Self, PostgresError> {
        let folders = folders();
        let mut installed: Vec<Binaries> =
            folders.iter().filter_map(|folder| probe(folder)).collect();
        installed.sort_by_key(|binaries| binaries.major);
        let usable = installed.iter().rev().find(|binaries| match wanted {
            Some(major) => binaries.major == major,
            None => binaries.major >= OLDEST_MAJOR,
        });
        match (usable, wanted) {
            (Some(binaries), _) => Ok(binaries.clone()),
            (None, Some(major)) => Err(PostgresError::OtherMajor {
                cluster: cluster.to_owned(),
                major,
                found: join(installed.iter().map(|binaries| binaries.major.to_string())),
            }),
            (None, None) => Err(PostgresError::NoBinaries {
                looked_in: looked_in(),
                found: join(installed.iter().map(|binaries| binaries.major.to_string())),
                command: INSTALL,
            }),
        }
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The same as [`folders`] in words.
fn looked_in() -> String {
    match chosen_folder() {
        Some(folder) => format!("{}, which EVE_POSTGRES_BIN names", folder.display()),
        None => {
            "/usr/lib/postgresql/*/bin, Homebrew's folders, `pg_config --bindir` and PATH".into()
        }
    }
}

fn chosen_folder() -> Option<PathBuf> {
    std::env::var_os("EVE_POSTGRES_BIN").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Folders that may hold a server, each once. What the user names in `EVE_POSTGRES_BIN` goes alone.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = chosen_folder() {
        return vec![folder];
    }
    let mut folders = Vec::new();
    for (parent, below) in PER_VERSION {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| {
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    parent == "/usr/lib/postgresql"
                        || name.starts_with("postgresql")
                        || name.starts_with("pgsql-")
                })
                .map(|entry| entry.path().join(below)),
        );
    }
    folders
        .extend(output(Path::new("pg_config"), "--bindir").map(|line| PathBuf::from(line.trim())));
    folders.extend(
        std::env::var_os("PATH").iter().flat_map(std::env::split_paths).filter(|f| f.is_absolute()),
    );
    folders.retain(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

/// The server in `folder`, if it has one that can be run.
fn probe(folder: &Path) -> Option<Binaries> {
    let version = output(&folder.join("postgres"), "--version")?;
    Some(Binaries { folder: folder.to_owned(), major: parse_major(&version)? })
}

/// What `program` prints when it is asked a question.
fn output(program: &Path, question: &str) -> Option<String> {
    let output = Command::new(program).arg(question).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The major version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`, `… 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

fn join(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_server_says() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(parse_major(debian), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) 17"), Some(17));
        assert_eq!(parse_major("something else 15"), None);
    }

    #[test]
    fn a_cluster_of_a_version_that_is_not_installed_is_refused() {
        let error = Binaries::find(Some(9), Path::new("/data/postgres")).unwrap_err();
        assert!(matches!(error, PostgresError::OtherMajor { major: 9, .. }), "{error}");
    }
}
