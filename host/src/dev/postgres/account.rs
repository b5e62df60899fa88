//! As whom the server runs.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::PostgresError;

/// The user that the server's processes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// Whoever we are.
    Ourselves,
    /// We are root, and this is who we become for the server.
    Dropped {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Account {
    /// Root hands a cluster that exists to its owner, so that it need not change hands when users
    /// come and go, and a new one to the first of `postgres` and `nobody` that the system has.
    pub fn for_cluster(cluster: &Path) -> Result<Self, PostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::Ourselves);
        }
        if let Ok(metadata) = std::fs::metadata(cluster)
            && metadata.uid() != 0
        {
            return Ok(Account::Dropped { uid: metadata.uid(), gid: metadata.gid() });
        }
        let users = std::fs::read_to_string("/etc/passwd")
            .map_err(PostgresError::io("read /etc/passwd"))?;
        // `initdb` asks for the name of its user, so an id that stands for nobody will not do.
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| find(&users, name))
            .ok_or(PostgresError::NoAccount)
    }

    /// Makes `command` run as this user, without our supplementary groups.
    pub fn apply(self, command: &mut Command) {
        if let Account::Dropped { uid, gid } = self {
            // Setting the uid as root makes std clear the supplementary groups.
            command.gid(gid).uid(uid);
        }
    }

    /// Gives `path`, and nothing below it, to this user.
    pub fn own(self, path: &Path) -> Result<(), PostgresError> {
        match self {
            Account::Ourselves => Ok(()),
            Account::Dropped { uid, gid } => std::os::unix::fs::lchown(path, Some(uid), Some(gid))
                .map_err(PostgresError::io(format!("give {} to user {uid}", path.display()))),
        }
    }

    /// The user id that files of the server have.
    pub fn uid(self) -> u32 {
        match self {
            Account::Ourselves => rustix::process::geteuid().as_raw(),
            Account::Dropped { uid, .. } => uid,
        }
    }
}

/// Finds `name` in the text of a passwd(5) file. Root in disguise does not count.
fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(Account::Dropped { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres-old:x:7:7::/:/bin/sh\n\
                      toor:x:0:0::/:/bin/sh\npostgres:x:101:104:admin,,,:/var/lib/postgresql:/bin/sh\n";
        assert_eq!(find(passwd, "postgres"), Some(Account::Dropped { uid: 101, gid: 104 }));
        assert_eq!(find(passwd, "toor"), None);
        assert_eq!(find(passwd, "nobody"), None);
    }
}
