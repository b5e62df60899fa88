//! On the real Postgres, and as whoever runs the tests: as root the server is handed to another user
//! and has to get past a directory that is closed to it, as anybody else it is not.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tempfile::TempDir;

use super::*;

/// Long enough for the slowest machine; nothing waits for it in vain when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary directory that only its owner can enter, as home directories are.
fn closed_dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    dir
}

async fn connect(url: &str) -> PgConnection {
    PgConnectOptions::from_str(url).unwrap().connect().await.unwrap()
}

/// Puts a row where it must be found again.
async fn note(url: &str, text: &str) {
    let mut connection = connect(url).await;
    connection.execute("CREATE TABLE IF NOT EXISTS notes (text text)").await.unwrap();
    sqlx::query("INSERT INTO notes VALUES ($1)").bind(text).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn notes(url: &str) -> Vec<String> {
    let mut connection = connect(url).await;
    sqlx::query_scalar("SELECT text FROM notes ORDER BY ctid")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

fn pid(raw: u32) -> Pid {
    Pid::from_raw(raw.try_into().unwrap()).unwrap()
}

#[tokio::test]
async fn data_survives_a_stop_and_a_killed_postmaster() {
    let dir = closed_dir();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    let url = postgres.url();
    note(&url, "before the stop").await;
    let socket_dir = postgres.socket_dir().to_owned();
    postgres.stop().await.unwrap();
    assert!(!socket_dir.exists(), "the socket's folder was left behind");

    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    assert_eq!(postgres.url(), url, "the URL changed across a restart");
    note(&url, "before the kill").await;
    kill_process(pid(postgres.pid()), Signal::KILL).unwrap();
    tokio::time::timeout(PATIENCE, postgres.ended()).await.unwrap();
    drop(postgres);

    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    assert_eq!(notes(&url).await, ["before the stop", "before the kill"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_start_is_refused_and_told_who_is_first() {
    let dir = closed_dir();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    let error = PrivatePostgres::start(dir.path()).await.unwrap_err();
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    let holder = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    note(&postgres.url(), "undisturbed").await;
    postgres.stop().await.unwrap();
    PrivatePostgres::start(dir.path()).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn it_is_durable_private_and_not_run_by_root() {
    let dir = closed_dir();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    let mut connection = connect(&postgres.url()).await;
    for (setting, value) in
        [("fsync", "on"), ("full_page_writes", "on"), ("listen_addresses", ""), ("jit", "off")]
    {
        let is: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(is, value, "{setting}");
    }
    connection.close().await.unwrap();

    let cluster = std::fs::metadata(dir.path().join("postgres")).unwrap();
    let socket_dir = std::fs::metadata(postgres.socket_dir()).unwrap();
    assert_eq!(socket_dir.mode() & 0o777, 0o700);
    assert_eq!(cluster.uid(), socket_dir.uid());
    let socket = postgres.socket_dir().join(".s.PGSQL.5432");
    assert!(socket.as_os_str().len() <= 107, "{}", socket.display());
    if cfg!(target_os = "linux") {
        let process = std::fs::metadata(format!("/proc/{}", postgres.pid())).unwrap();
        assert_eq!(process.uid(), cluster.uid());
    }
    let us = rustix::process::geteuid();
    if us.is_root() {
        assert_ne!(cluster.uid(), 0);
        let data_dir = std::fs::metadata(dir.path()).unwrap();
        assert_eq!((data_dir.uid(), data_dir.mode() & 0o777), (0, 0o700), "not ours to give away");
    } else {
        assert_eq!(cluster.uid(), us.as_raw());
    }
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn an_unfinished_initdb_is_thrown_away() {
    let dir = closed_dir();
    let unfinished = dir.path().join("postgres.unfinished");
    std::fs::create_dir(&unfinished).unwrap();
    std::fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    assert!(!unfinished.exists());
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let dir = closed_dir();
    PrivatePostgres::start(dir.path()).await.unwrap().stop().await.unwrap();
    let conf = dir.path().join("postgres/postgresql.conf");
    let mut text = std::fs::read_to_string(&conf).unwrap();
    text.push_str("\nno_such_setting = 1\n");
    std::fs::write(&conf, text).unwrap();
    let error = PrivatePostgres::start(dir.path()).await.unwrap_err();
    assert!(matches!(error, PostgresError::EndedEarly { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_foreign_postmaster_pid_is_left_alone_and_does_not_hinder() {
    let dir = closed_dir();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    kill_process(pid(postgres.pid()), Signal::KILL).unwrap();
    tokio::time::timeout(PATIENCE, postgres.ended()).await.unwrap();
    drop(postgres);
    // What a crash leaves when the id has been given to somebody else since; to somebody of the
    // same user, because anybody else's does not worry Postgres.
    let cluster = dir.path().join("postgres");
    let mut command = Command::new("sleep");
    command.arg("1000");
    Account::for_cluster(&cluster).unwrap().apply(&mut command);
    let mut bystander = command.spawn().unwrap();
    let path = cluster.join("postmaster.pid");
    let text = std::fs::read_to_string(&path).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    std::fs::write(&path, format!("{}\n{rest}", bystander.id())).unwrap();

    PrivatePostgres::start(dir.path()).await.unwrap().stop().await.unwrap();
    assert!(bystander.try_wait().unwrap().is_none(), "somebody else's process was stopped");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn a_server_that_was_left_running_is_stopped() {
    let dir = closed_dir();
    let postgres = PrivatePostgres::start(dir.path()).await.unwrap();
    Cluster::at(dir.path().join("postgres")).stop_leftover().await.unwrap();
    tokio::time::timeout(PATIENCE, postgres.ended()).await.unwrap();
    postgres.stop().await.unwrap();
}
