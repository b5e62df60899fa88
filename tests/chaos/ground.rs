//! A Postgres of our own, to be taken away from everybody.

use std::time::Duration;

use anyhow::{Context, Result};
use eve_host::dev::postgres::PrivatePostgres;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tempfile::TempDir;

/// The server, and our own connections to it: past every wall, and never cut by us.
pub struct Ground {
    // Before the folder that it runs in.
    postgres: Option<PrivatePostgres>,
    pool: PgPool,
    url: String,
    folder: TempDir,
}

impl Ground {
    /// Starts an empty one.
    pub async fn start() -> Result<Ground> {
        let folder = tempfile::Builder::new().prefix("eve-chaos-").tempdir()?;
        let postgres = PrivatePostgres::start(folder.path()).await?;
        let url = postgres.url();
        let options: PgConnectOptions = url.parse()?;
        let pool = PgPoolOptions::new()
            .max_connections(6)
            .acquire_timeout(Duration::from_secs(60))
            .connect_lazy_with(options.application_name("chaos"));
        Ok(Ground { postgres: Some(postgres), pool, url, folder })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// `pg_ctl stop -m immediate`: no session is told, nothing is written.
    pub async fn crash(&mut self) -> Result<()> {
        let Some(postgres) = self.postgres.take() else { return Ok(()) };
        let pid =
            i32::try_from(postgres.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::QUIT)?;
        postgres.ended().await;
        Ok(())
    }

    /// Starts it again on what it had written.
    pub async fn recover(&mut self) -> Result<()> {
        if self.postgres.is_none() {
            self.postgres = Some(PrivatePostgres::start(self.folder.path()).await?);
        }
        Ok(())
    }

    /// Cuts up to `count` connections of the platform's processes; `pick` chooses among the ids of
    /// their backends. Returns how many were cut.
    pub async fn cut(&self, pick: impl FnOnce(&mut Vec<i32>)) -> Result<usize, sqlx::Error> {
        let mut backends: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity
              WHERE backend_type = 'client backend' AND application_name LIKE 'eve %'
              ORDER BY pid",
        )
        .fetch_all(&self.pool)
        .await?;
        pick(&mut backends);
        sqlx::query("SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS b (pid)")
            .bind(&backends)
            .execute(&self.pool)
            .await?;
        Ok(backends.len())
    }

    /// Leaves the database where it is, for whoever looks into what happened.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
        println!("the database stays in {}", self.folder.path().display());
    }

    /// Stops it in an orderly way.
    pub async fn stop(mut self) -> Result<()> {
        self.pool.close().await;
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await?;
        }
        Ok(())
    }
}
