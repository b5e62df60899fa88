//! A Postgres of one's own: found, initialised, started, supervised and stopped by this process.
//!
//! Flow: take the data directory's lock -> stop what an earlier run left behind -> `initdb`, once
//! -> start the postmaster under supervision -> wait until it answers -> make the database.
//!
//! ```text
//! DATA/lock           held with flock(2) while somebody uses DATA; contains that process's id
//! DATA/postgres/      the cluster
//! DATA/postgres.log   what the server said
//! /tmp/eve-pg-HASH/   its socket, in a directory that only its user and root can enter
//! ```
//!
//! Invariants:
//! - Nothing listens on TCP. Whoever can enter the socket's directory is trusted, nobody else can
//!   connect.
//! - Data survives `kill -9` of this process, of the postmaster, and a loss of power: fsync is on,
//!   and the cluster appears under its name only once `initdb` is through.
//! - The server dies with this process, and in an orderly way: the kernel sends it the signal for a
//!   fast shutdown when its parent is gone. Where the kernel cannot (only Linux does), or before it
//!   has finished, the next start finds it, *stops* it and starts its own. It is not adopted: a
//!   server that we did not start is one that we cannot supervise and whose settings we do not know.
//! - One process per data directory. The second is refused and told who has it.
//! - Postgres refuses to run as root. Started by root, it runs as whoever owns the cluster, which
//!   for a new one is `postgres` or else `nobody`, and only the cluster is given to that user. The
//!   directories above it may stay closed (`/root` is): the server reaches the cluster through a
//!   descriptor that it inherits.

mod account;
mod binaries;
mod cluster;
mod server;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use self::account::Account;
use self::binaries::Binaries;
use self::cluster::Cluster;
use self::server::Server;

/// The oldest major version that the schema works with.
pub const OLDEST_MAJOR: u32 = 15;

/// The database that [`PrivatePostgres::url`] names.
const DATABASE: &str = "eve";
/// The superuser that `initdb` makes.
const SUPERUSER: &str = "postgres";

/// A running Postgres that belongs to this process.
///
/// Dropping it asks the server to shut down and does not wait; [`PrivatePostgres::stop`] waits.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Declared before the lock, so that it is told to stop before the directory is free again.
    server: Server,
    socket_dir: PathBuf,
    _lock: DataDirLock,
}

/// What went wrong with the private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No server binaries, or none that is new enough.
    #[error(
        "no Postgres server of version {OLDEST_MAJOR} or later is installed (found: {found}; looked in \
         {looked_in}).\n\
         Install one: `{command}`; or set EVE_POSTGRES_BIN to the folder that has `initdb` and \
         `postgres`; or use a database that you have: set DATABASE_URL"
    )]
    NoBinaries {
        /// Where binaries were looked for.
        looked_in: String,
        /// The versions that were found and are too old.
        found: String,
        /// What to type.
        command: &'static str,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "{} was made by Postgres {major}, which is not installed (found: {found}). Install \
         `postgresql-{major}`, or use another data directory", cluster.display()
    )]
    OtherMajor {
        /// The cluster's folder.
        cluster: PathBuf,
        /// Its version.
        major: u32,
        /// The versions that are installed.
        found: String,
    },
    /// Another process uses the data directory.
    #[error("{} is in use by {holder}; stop that first, or use another data directory", data_dir.display())]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
        /// Who has it, in words, with its process id.
        holder: String,
    },
    /// Root started us, and there is nobody to hand the server to.
    #[error(
        "Postgres refuses to run as root, and this system has neither a user `postgres` nor a user \
         `nobody` to run it as"
    )]
    NoAccount,
    /// A socket directory that somebody else has made under our name.
    #[error("{} is not ours: remove it, or use another data directory", path.display())]
    ForeignSocketDir {
        /// The directory.
        path: PathBuf,
    },
    /// A server of an earlier run is still there and does not stop.
    #[error(
        "a Postgres left over from an earlier run (process {pid}) does not stop; stop it by hand"
    )]
    LeftoverKeepsRunning {
        /// Its process id.
        pid: i32,
    },
    /// `initdb` failed.
    #[error("initdb failed ({status}):\n{output}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The server ended instead of answering.
    #[error("Postgres ended while it was starting ({status}); the end of {}:\n{tail}", log.display())]
    EndedEarly {
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The server runs and does not answer.
    #[error("Postgres does not answer; the end of {}:\n{tail}", log.display())]
    Unresponsive {
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
        /// What the last attempt to connect ended with.
        source: sqlx::Error,
    },
    /// The server did not stop when it was told to.
    #[error("Postgres (process {pid}) does not stop")]
    KeepsRunning {
        /// Its process id.
        pid: i32,
    },
    /// Making the database failed.
    #[error("could not create the database `{DATABASE}`")]
    Database(#[source] sqlx::Error),
    /// The operating system refused something.
    #[error("could not {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it could not.
        source: io::Error,
    },
}

impl PostgresError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| PostgresError::Io { doing, source }
    }
}

impl PrivatePostgres {
    /// Starts the Postgres of `data_dir`, which is made if need be, and waits until it answers.
    ///
    /// Dropping the future half-way leaves nothing running and nothing that a later start would
    /// stumble over.
    pub async fn start(data_dir: &Path) -> Result<PrivatePostgres, PostgresError> {
        let data_dir = create_data_dir(data_dir)?;
        let lock = DataDirLock::acquire(&data_dir)?;
        let cluster = Cluster::at(data_dir.join("postgres"));
        cluster.stop_leftover().await?;

        let account = Account::for_cluster(cluster.path())?;
        let binaries = Binaries::find(cluster.major()?, cluster.path())?;
        if cluster.major()?.is_none() {
            tracing::info!(cluster = %cluster.path().display(), "initialising a Postgres cluster");
            cluster.initialise(&binaries, account).await?;
        }
        let socket_dir = server::socket_dir(&data_dir, account)?;
        let log = data_dir.join("postgres.log");
        let server = match Server::start(&binaries, &cluster, account, &socket_dir, log).await {
            Ok(server) => server,
            Err(error) => {
                remove_socket_dir(&socket_dir);
                return Err(error);
            }
        };
        tracing::info!(
            version = binaries.major(),
            socket = %socket_dir.display(),
            pid = server.pid(),
            "Postgres is ready"
        );
        Ok(PrivatePostgres { server, socket_dir, _lock: lock })
    }

    /// A URL of the database `eve` for [`sqlx::postgres::PgConnectOptions`] and for `psql`, as the
    /// cluster's superuser.
    pub fn url(&self) -> String {
        server::url(&self.socket_dir, DATABASE)
    }

    /// The directory of the server's socket: the `host` that libpq wants.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Returns once the server has ended by itself. The next start recovers whatever had been
    /// committed.
    pub async fn ended(&self) {
        self.server.ended().await;
    }

    /// Shuts the server down: sessions are ended, everything is written, the socket is removed.
    pub async fn stop(self) -> Result<(), PostgresError> {
        self.server.stop().await?;
        remove_socket_dir(&self.socket_dir);
        Ok(())
    }
}

/// Tidies up. An empty folder that stays does no harm: the next start uses it again.
fn remove_socket_dir(path: &Path) {
    if let Err(error) = std::fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, path = %path.display(), "the socket's folder stays");
    }
}

/// Makes the data directory, closed to others, and returns its path without symbolic links: the
/// name of the socket's directory depends on it.
fn create_data_dir(data_dir: &Path) -> Result<PathBuf, PostgresError> {
    use std::os::unix::fs::DirBuilderExt;

    let doing = || format!("make the data directory {}", data_dir.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(PostgresError::io(doing()))?;
    data_dir.canonicalize().map_err(PostgresError::io(doing()))
}

/// Says that this process uses a data directory. The kernel lets go of it when the process ends,
/// however it ends.
#[derive(Debug)]
struct DataDirLock {
    file: File,
}

impl Drop for DataDirLock {
    /// Closing the file would not do: a child that somebody is just starting holds a copy of it until it
    /// becomes its own program, and the lock with it.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the data directory's lock is released when this process ends");
        }
    }
}

impl DataDirLock {
    fn acquire(data_dir: &Path) -> Result<Self, PostgresError> {
        let path = data_dir.join("lock");
        let doing = || format!("lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(PostgresError::io(doing()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PostgresError::InUse {
                    data_dir: data_dir.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(PostgresError::io(doing())(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(PostgresError::io(doing()))?;
        Ok(Self { file })
    }
}

/// Who holds the lock, in words.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        // It has the lock and has not come to write its id.
        _ => "another process".to_owned(),
    }
}
