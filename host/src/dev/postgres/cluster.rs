//! A cluster on disk: made once, and freed of a server that an earlier run left behind.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::account::Account;
use super::binaries::Binaries;
use super::server::{CHECK_EVERY, STOP_WITHIN};
use super::{PostgresError, SUPERUSER};

/// The folder that Postgres calls its data directory.
#[derive(Debug)]
pub(super) struct Cluster {
    path: PathBuf,
}

impl Cluster {
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version that made the cluster; none if there is no cluster yet.
    pub fn major(&self) -> Result<Option<u32>, PostgresError> {
        let path = self.path.join("PG_VERSION");
        let doing = || format!("read {}", path.display());
        match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|error| {
                PostgresError::io(doing())(io::Error::new(io::ErrorKind::InvalidData, error))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PostgresError::io(doing())(error)),
        }
    }

    /// Runs `initdb`, in a folder beside the cluster that takes its name at the end: whoever is
    /// killed in between leaves a folder that the next start throws away.
    pub async fn initialise(
        &self,
        binaries: &Binaries,
        account: Account,
    ) -> Result<(), PostgresError> {
        let unfinished = self.path.with_extension("unfinished");
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PostgresError::io(format!("remove {}", unfinished.display()))(error));
            }
            _ => {}
        }
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&unfinished)
            .map_err(PostgresError::io(format!("make {}", unfinished.display())))?;
        account.own(&unfinished)?;

        let reach = Reach::open(&unfinished, account)?;
        let mut command = postgres_command(&binaries.program("initdb"), account, &reach);
        command
            .arg("--pgdata")
            .arg(reach.path())
            .args(["--username", SUPERUSER, "--auth-local", "trust", "--auth-host", "reject"])
            .args(["--encoding", "UTF8", "--locale", "C"])
            .stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let output = command
            .kill_on_drop(true)
            .output()
            .await
            .map_err(PostgresError::io(format!("run {}", binaries.program("initdb").display())))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(PostgresError::Initdb {
                status: output.status,
                output: String::from_utf8_lossy(&said).trim_end().to_owned(),
            });
        }
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::rename(&unfinished, &self.path)
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(PostgresError::io(format!("name the new cluster {}", self.path.display())))
    }

    /// Stops a server that still runs on this cluster. We hold the data directory's lock, so
    /// whoever started that server is gone; mostly it is on its way out by itself.
    pub async fn stop_leftover(&self) -> Result<(), PostgresError> {
        let Some(pid) = self.running_postmaster() else { return self.disown_lock_file() };
        tracing::warn!(pid = pid.as_raw_pid(), "stopping the Postgres that an earlier run left");
        let deadline = Instant::now() + STOP_WITHIN;
        // A second one while it is shutting down does no harm.
        match rustix::process::kill_process(pid, Signal::INT) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                let doing = format!("stop the leftover Postgres (process {})", pid.as_raw_pid());
                return Err(PostgresError::io(doing)(error.into()));
            }
        }
        while self.running_postmaster() == Some(pid) {
            if Instant::now() >= deadline {
                return Err(PostgresError::LeftoverKeepsRunning { pid: pid.as_raw_pid() });
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
        Ok(())
    }

    /// After a crash `postmaster.pid` may name a process that has nothing to do with Postgres, in a
    /// restarted container most likely, and Postgres would refuse to start because of it. Our own
    /// id is one that it ignores there, its parent's. The rest of the file stays: by the segment of
    /// shared memory that it names, Postgres finds backends that outlived their postmaster.
    fn disown_lock_file(&self) -> Result<(), PostgresError> {
        let path = self.path.join("postmaster.pid");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
        let Some((_, rest)) = text.split_once('\n') else { return Ok(()) };
        std::fs::write(&path, format!("{}\n{rest}", std::process::id()))
            .map_err(PostgresError::io(format!("correct {}", path.display())))
    }

    /// The postmaster that `postmaster.pid` names, if it is one and runs on this cluster. After a
    /// crash the file names a process that is gone, or one that has nothing to do with us.
    fn running_postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.path.join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        let works_here = if cfg!(target_os = "linux") {
            // Servers work in their data directory.
            let theirs = std::fs::metadata(format!("/proc/{}/cwd", pid.as_raw_pid())).ok()?;
            let ours = std::fs::metadata(&self.path).ok()?;
            (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())
        } else {
            let output = Command::new("ps")
                .args(["-o", "comm=", "-p", &pid.as_raw_pid().to_string()])
                .output()
                .ok()?;
            String::from_utf8_lossy(&output.stdout).contains("postgres")
        };
        works_here.then_some(pid)
    }
}

/// How a program that runs as another user gets to a folder below folders that are closed to it.
///
/// On Linux by a descriptor: `/proc/self/fd/N` leads to the open folder itself, not along the path
/// to it. (The current directory would do as well, if Postgres 15 did not leave it while it looks
/// for its own binary, and then fail to come back.)
#[derive(Debug)]
pub(super) struct Reach {
    folder: File,
    path: PathBuf,
}

impl Reach {
    pub fn open(path: &Path, account: Account) -> Result<Self, PostgresError> {
        let folder =
            File::open(path).map_err(PostgresError::io(format!("open {}", path.display())))?;
        let path = match account {
            Account::Dropped { .. } if cfg!(target_os = "linux") => {
                PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
            }
            _ => path.to_owned(),
        };
        Ok(Self { folder, path })
    }

    /// The folder's path as the program has to write it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A command that runs one of Postgres's programs as `account`, in an environment without our
/// settings for clients, in `/`, and with `reach` kept open.
pub(super) fn postgres_command(program: &Path, account: Account, reach: &Reach) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
    account.apply(&mut command);
    let fd = reach.folder.as_raw_fd();
    // SAFETY: the closure runs between fork and exec and only makes a system call, on a descriptor
    // that the child has a copy of whatever the parent does with its own.
    unsafe {
        command.pre_exec(move || {
            let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            Ok(())
        });
    }
    command
}
