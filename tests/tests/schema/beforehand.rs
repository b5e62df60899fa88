//! What processes do whose database is not as it should be yet: it is away, too old, half-way, or does not
//! know them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use eve_host::dev::postgres::PrivatePostgres;
use eve_tests::{Database, Eve, free_address, http_client, wait_for};
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};

/// A Postgres that asks everybody but its superuser for a password, and is reached over TCP.
struct Server {
    postgres: PrivatePostgres,
    folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Result<Server> {
        let folder = tempfile::TempDir::new()?;
        let postgres = PrivatePostgres::start(folder.path()).await?;
        let hba = "local all postgres trust\nlocal all all scram-sha-256\n";
        std::fs::write(folder.path().join("postgres/pg_hba.conf"), hba)?;
        let server = Server { postgres, folder };
        server.run("SELECT pg_reload_conf()").await?;
        Ok(server)
    }

    async fn run(&self, statement: &'static str) -> Result<()> {
        let mut owner = PgConnection::connect(&self.postgres.url()).await?;
        owner.execute(statement).await?;
        Ok(owner.close().await?)
    }

    /// Lets connections in at an address; `lie` is what is done to what the server says first.
    async fn open(&self, address: &str, lie: fn(&mut [u8])) -> Result<()> {
        let listener = TcpListener::bind(address).await?;
        let folder = std::fs::read_dir(self.postgres.socket_dir())?;
        let mut files = folder.map(|entry| Ok::<PathBuf, anyhow::Error>(entry?.path()));
        let socket = files.find_map(|file| {
            let name = file.as_ref().ok()?.file_name()?.to_string_lossy().into_owned();
            (name.starts_with(".s.PGSQL.") && !name.ends_with(".lock")).then_some(file)
        });
        let socket = socket.context("there is no socket")??;
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = UnixStream::connect(&socket).await else { continue };
                let (mut hear, mut say) = near.into_split();
                let (mut ask, mut answer) = far.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut hear, &mut answer).await });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = ask.read(&mut buffer).await {
                        lie(&mut buffer[..count]);
                        if say.write_all(&buffer[..count]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(())
    }
}

fn honest(_: &mut [u8]) {}

/// Has the server say that it is of version 14.
fn old(said: &mut [u8]) {
    let name = b"server_version\0";
    if let Some(at) = said.windows(name.len()).position(|window| window == name) {
        said[at + name.len()..][..2].copy_from_slice(b"14");
    }
}

#[tokio::test]
async fn a_worker_waits_for_its_database_its_login_and_the_schema() -> Result<()> {
    let server = Server::start().await?;
    let (database, health) = (free_address()?, free_address()?);
    let eve = Eve::on_url(&format!("postgres://eve_pool:secret@{database}/eve"))?;
    let mut worker =
        eve.start(["worker", "--type", "general", "--slots", "1", "--health-listen", &health])?;
    let http = http_client()?;
    let says = async |status: u16, what: &str| {
        wait_for(&format!("a worker that says: {what}"), async || {
            let answer = http.get(format!("http://{health}/readyz")).send().await.ok()?;
            let right = answer.status() == status;
            (right && answer.text().await.ok()?.contains(what)).then_some(())
        })
        .await;
        let live = http.get(format!("http://{health}/healthz")).send().await?;
        ensure!(live.status() == 200, "what waits lives: {}", live.text().await?);
        Ok(())
    };
    says(503, "cannot be reached").await?;
    server.open(&database, honest).await?;
    says(503, "turns this login away").await?;
    server.run("CREATE ROLE eve_pool LOGIN NOINHERIT PASSWORD 'secret'").await?;
    says(503, "waiting for `eve migrate`").await?;
    let owner = Eve::on_url(&server.postgres.url())?;
    owner.migrate().await?;
    // It may not act for anybody yet.
    says(503, "may not be read").await?;
    server.run("GRANT eve_worker TO eve_pool").await?;
    says(200, "ready").await?;

    let log = worker.log();
    for once in ["cannot be reached", "turns this login away", "waiting for `eve migrate`"] {
        assert_eq!(log.matches(once).count(), 1, "{once}: {log}");
    }
    worker.terminate();
    let status = worker.wait().await;
    ensure!(status.success(), "{status}: {}", worker.log());
    drop(server.folder);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_waits_ends_when_it_is_told_to() -> Result<()> {
    let database = free_address()?;
    let eve = Eve::on_url(&format!("postgres://eve_pool:secret@{database}/eve"))?;
    let mut worker = eve.worker("general", 1)?;
    wait_for("a worker that misses its database", async || {
        worker.log().contains("cannot be reached").then_some(())
    })
    .await;
    worker.terminate();
    let status = worker.wait().await;
    ensure!(worker.log().contains("stopped before the database could be used"), "{status}");
    Ok(())
}

#[tokio::test]
async fn migrating_says_what_is_wrong_with_the_database() -> Result<()> {
    let server = Server::start().await?;
    let (away, there, ancient) = (free_address()?, free_address()?, free_address()?);
    server.open(&there, honest).await?;
    server.open(&ancient, old).await?;
    for (url, said) in [
        (
            format!("postgres://postgres@{away}/eve"),
            format!("the database at {away}/eve cannot be reached: "),
        ),
        (
            format!("postgres://nobody:x@{there}/eve"),
            "turns this login away: look at DATABASE_URL".to_owned(),
        ),
        (format!("postgres://postgres@{there}/other"), "\"other\" does not exist".to_owned()),
        (
            format!("postgres://postgres@{ancient}/eve"),
            "this Postgres is version 14, and 15 or later is needed".to_owned(),
        ),
    ] {
        let output = Eve::on_url(&url)?.run(["migrate"]).await?;
        assert_eq!(output.code(), Some(1), "{output}");
        assert!(output.stderr.contains(&said), "{said}: {output}");
    }
    Ok(())
}

#[tokio::test]
async fn migrating_waits_for_a_database_as_long_as_it_is_told() -> Result<()> {
    let server = Server::start().await?;
    let address = free_address()?;
    let eve = Eve::on_url(&format!("postgres://postgres@{address}/eve"))?;
    let gave_up = eve.run(["migrate", "--wait", "2"]).await?;
    assert_eq!(gave_up.code(), Some(1), "{gave_up}");
    assert_eq!(gave_up.stderr.matches("trying again").count(), 1, "{gave_up}");
    assert!(gave_up.stderr.contains("error: the database at"), "{gave_up}");
    let mut waiting = eve.start(["migrate", "--wait", "600"])?;
    wait_for("it to miss the database", async || {
        waiting.log().contains("trying again").then_some(())
    })
    .await;
    server.open(&address, honest).await?;
    let status = waiting.wait().await;
    ensure!(status.success(), "{status}: {}", waiting.log());
    Ok(())
}

#[tokio::test]
async fn migrations_that_were_cut_off_are_taken_up_again() -> Result<()> {
    let database = Database::empty().await?;
    let pool = database.pool();
    // As far as a process had come that was killed: every migration is a transaction.
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"));
    let all = Migrator::new(folder).await?;
    Migrator::with_migrations(all.iter().take(2).cloned().collect()).run(&pool).await?;
    let eve = Eve::on(&database)?;
    let refused = eve.run(["serve", "--listen", "127.0.0.1:0"]).await?;
    assert!(refused.stderr.contains("run `eve migrate` first"), "{refused}");
    // And one that is killed in the middle of the third.
    let mut other = pool.acquire().await?;
    other.execute("BEGIN; LOCK TABLE eve.organizations IN ACCESS EXCLUSIVE MODE").await?;
    let mut killed = eve.start(["migrate"])?;
    wait_for("it to be in the middle", async || {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted
                                       AND relation = to_regclass('eve.organizations'))";
        sqlx::query_scalar::<_, bool>(waits).fetch_one(&pool).await.ok()?.then_some(())
    })
    .await;
    killed.kill();
    other.execute("ROLLBACK").await?;
    let output = eve.run(["migrate"]).await?;
    ensure!(output.status.success(), "{output}");
    let versions: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(&pool)
            .await?;
    assert_eq!(versions.len(), all.iter().count());

    // What is no transaction may be half done, and only a person can tell how far.
    pool.execute("UPDATE _sqlx_migrations SET success = false WHERE version = 16").await?;
    let output = eve.run(["migrate"]).await?;
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(output.stderr.contains("DELETE FROM _sqlx_migrations WHERE version = 16"), "{output}");
    Ok(())
}
