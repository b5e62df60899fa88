//! The running server: its settings, its socket, its start, its supervision and its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::account::Account;
use super::binaries::Binaries;
use super::cluster::{Cluster, Reach, postgres_command};
use super::{DATABASE, PostgresError, SUPERUSER};

/// How often something that has no event to wait for is looked at.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(20);
/// A fast shutdown writes every dirty page; 64 MB of them take seconds on the slowest disks.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Recovery after a crash replays at most `max_wal_size`.
const START_WITHIN: Duration = Duration::from_secs(120);
/// Backends outlive a killed postmaster until they notice, and hold its shared memory meanwhile.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(20);
/// The log starts anew, keeping one old one, when it is larger than this at a start.
const LOG_LIMIT: u64 = 16 << 20;
/// How much of the log an error shows.
const LOG_TAIL_LINES: usize = 20;
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// Settings given at every start rather than written into the cluster, so that an old cluster gets
/// them too. What is not here is Postgres's default, fsync and full page writes above all.
const SETTINGS: [(&str, &str); 16] = [
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    // Small: the platform with its Postgres is to stay below 300 MiB.
    ("shared_buffers", "64MB"),
    ("max_connections", "100"),
    ("maintenance_work_mem", "32MB"),
    ("autovacuum_max_workers", "2"),
    ("max_parallel_workers_per_gather", "0"),
    ("max_worker_processes", "4"),
    // LLVM costs each backend that plans something expensive 30 MiB.
    ("jit", "off"),
    // Nobody replicates from here.
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "512MB"),
    // A transaction that nobody ends keeps vacuum from the queue's dead rows, and claims get slow.
    ("idle_in_transaction_session_timeout", "60s"),
    // Every partition that a statement touches takes a lock, and one commit ends runs of many days.
    ("max_locks_per_transaction", "256"),
    ("log_checkpoints", "off"),
    ("timezone", "UTC"),
];

/// A supervised postmaster.
///
/// A thread of its own starts it and waits for it. Not a thread of the runtime's pool: the kernel's
/// "parent died" signal comes when the *thread* that started the child ends, and pools let idle
/// threads go.
#[derive(Debug)]
pub(super) struct Server {
    pid: Pid,
    /// How it ended, once it has; shared by whoever wants to know.
    ended: watch::Receiver<Option<Ended>>,
}

/// How the server ended: `ExitStatus` in words, or why its end could not be awaited.
type Ended = String;

impl Server {
    /// Starts the server and waits until it answers and has our database.
    pub async fn start(
        binaries: &Binaries,
        cluster: &Cluster,
        account: Account,
        socket_dir: &Path,
        log: PathBuf,
    ) -> Result<Self, PostgresError> {
        let orphans_end = Instant::now() + ORPHANS_END_WITHIN;
        loop {
            let log = Log::open(&log)?;
            let server = Self::spawn(binaries, cluster, account, socket_dir, &log).await?;
            match server.answers(socket_dir, &log).await {
                Ok(()) => return Ok(server),
                Err(PostgresError::EndedEarly { tail, .. })
                    if tail.contains("pre-existing shared memory block")
                        && Instant::now() < orphans_end =>
                {
                    tokio::time::sleep(CHECK_EVERY * 5).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn spawn(
        binaries: &Binaries,
        cluster: &Cluster,
        account: Account,
        socket_dir: &Path,
        log: &Log,
    ) -> Result<Self, PostgresError> {
        let reach = Reach::open(cluster.path(), account)?;
        let program = binaries.program("postgres");
        let mut command = postgres_command(&program, account, &reach);
        command.arg("-D").arg(reach.path());
        for (name, value) in SETTINGS {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", socket_dir.display()));
        // A process group of its own: Ctrl-C at the terminal is for us, and we stop it when we are
        // done with it.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(log.handle()?).stderr(log.handle()?);
        die_with_parent(&mut command);

        let (started, start) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let doing = format!("start {}", program.display());
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || supervise(command, reach, started, end))
            .map_err(PostgresError::io(doing.clone()))?;
        match start.await {
            Ok(Ok(pid)) => Ok(Self { pid, ended }),
            Ok(Err(error)) => Err(PostgresError::io(doing)(error)),
            Err(_) => Err(PostgresError::io(doing)(io::Error::other("its supervisor is gone"))),
        }
    }

    /// Waits until the server takes connections, and makes the database if it is not there yet.
    async fn answers(&self, socket_dir: &Path, log: &Log) -> Result<(), PostgresError> {
        let options = PgConnectOptions::from_str(&url(socket_dir, "postgres"))
            .map_err(PostgresError::Database)?
            .disable_statement_logging();
        let deadline = Instant::now() + START_WITHIN;
        let mut connection = loop {
            if let Some(status) = self.how_ended() {
                return Err(PostgresError::EndedEarly {
                    status,
                    log: log.path.clone(),
                    tail: log.tail(),
                });
            }
            match options.connect().await {
                Ok(connection) => break connection,
                Err(source) if Instant::now() >= deadline => {
                    return Err(PostgresError::Unresponsive {
                        log: log.path.clone(),
                        tail: log.tail(),
                        source,
                    });
                }
                Err(_) => tokio::time::sleep(CHECK_EVERY).await,
            }
        };
        let there: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(DATABASE)
                .fetch_one(&mut connection)
                .await
                .map_err(PostgresError::Database)?;
        if !there {
            connection.execute("CREATE DATABASE eve").await.map_err(PostgresError::Database)?;
        }
        connection.close().await.map_err(PostgresError::Database)
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    fn how_ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Returns once the server has ended.
    pub async fn ended(&self) {
        // An error means that the supervisor is gone, which it is only after the server.
        let _ = self.ended.clone().wait_for(Option::is_some).await;
    }

    /// Ends it: a fast shutdown, and if that does not come to an end an immediate one, after which
    /// the next start recovers from the write-ahead log.
    pub async fn stop(&self) -> Result<(), PostgresError> {
        for signal in [Signal::INT, Signal::QUIT] {
            self.signal(signal);
            if tokio::time::timeout(STOP_WITHIN, self.ended()).await.is_ok() {
                return Ok(());
            }
            tracing::warn!(pid = self.pid(), "Postgres does not stop");
        }
        Err(PostgresError::KeepsRunning { pid: self.pid.as_raw_pid() })
    }

    fn signal(&self, signal: Signal) {
        // Once it has been waited for, its id may be somebody else's.
        if self.how_ended().is_none()
            && let Err(error) = rustix::process::kill_process(self.pid, signal)
        {
            tracing::debug!(%error, pid = self.pid(), "could not signal Postgres");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::INT);
    }
}

/// The supervising thread: starts the server, says so, and stays until it ends.
fn supervise(
    mut command: Command,
    reach: Reach,
    started: oneshot::Sender<io::Result<Pid>>,
    end: watch::Sender<Option<Ended>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    drop((command, reach));
    let pid = Pid::from_child(&child);
    if started.send(Ok(pid)).is_err() {
        // Whoever wanted it has gone away in the meantime.
        let _ = rustix::process::kill_process(pid, Signal::INT);
    }
    let status = child.wait();
    end.send_replace(Some(match status {
        Ok(status) => ExitStatus::to_string(&status),
        Err(error) => error.to_string(),
    }));
}

/// Has the kernel tell the server to shut down when we are gone, however we go.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs between fork and exec and makes two system calls. It runs after the
    // change of user, which would clear the setting.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::INT))?;
            // The parent may have gone before the kernel knew whom to tell.
            match rustix::process::getppid() {
                Some(pid) if pid == parent => Ok(()),
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        });
    }
}

/// Only Linux offers this; elsewhere the next start stops what is left.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

/// The URL of a database behind the socket.
pub(super) fn url(socket_dir: &Path, database: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("host", &socket_dir.to_string_lossy())
        .append_pair("user", SUPERUSER)
        .finish();
    format!("postgres:///{database}?{query}")
}

/// Makes the socket's directory. Its name follows from the data directory's, so that URLs stay good
/// across restarts and nothing piles up; it is short, because the path of a socket may have 107
/// bytes and data directories are often deeper than that.
pub(super) fn socket_dir(data_dir: &Path, account: Account) -> Result<PathBuf, PostgresError> {
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let name = format!("eve-pg-{}", hex::encode(&digest[..8]));
    let path = socket_base(account).join(name);
    let doing = || format!("make {} for the socket of Postgres", path.display());
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => account.own(&path)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(PostgresError::io(doing())(error)),
    }
    // In a folder where everybody may make files somebody else can have been first.
    let metadata = std::fs::symlink_metadata(&path).map_err(PostgresError::io(doing()))?;
    let ours = [account.uid(), rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if !metadata.is_dir() || !ours || metadata.permissions().mode() & 0o077 != 0 {
        return Err(PostgresError::ForeignSocketDir { path });
    }
    // We may have been killed between making it and giving it away.
    account.own(&path)?;
    Ok(path)
}

/// The user's own runtime folder, where there is one that the server can enter.
fn socket_base(account: Account) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match (account, runtime) {
        (Account::Ourselves, Some(dir))
            if dir.is_absolute() && dir.is_dir() && dir.as_os_str().len() <= 60 =>
        {
            dir
        }
        _ => PathBuf::from("/tmp"),
    }
}

/// Where the server writes what it has to say.
struct Log {
    path: PathBuf,
    file: File,
    /// How long it was when this start began.
    begins: u64,
}

impl Log {
    /// Opens the log to append to it, and puts it aside first when it has grown long.
    fn open(path: &Path) -> Result<Self, PostgresError> {
        let doing = || format!("open {}", path.display());
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            std::fs::rename(path, path.with_extension("log.old"))
                .map_err(PostgresError::io(format!("put {} aside", path.display())))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(PostgresError::io(doing()))?;
        let begins = file.metadata().map_err(PostgresError::io(doing()))?.len();
        Ok(Self { path: path.to_owned(), file, begins })
    }

    /// A handle that the server can write to.
    fn handle(&self) -> Result<File, PostgresError> {
        self.file.try_clone().map_err(PostgresError::io(format!("use {}", self.path.display())))
    }

    /// The last lines since the start began, or why there are none.
    fn tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(end.saturating_sub(LOG_TAIL_BYTES).max(self.begins)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<_> = text.lines().collect();
                lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
            }
            Err(error) => format!("(it cannot be read: {error})"),
        }
    }
}
