//! The processes that are measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use eve_host::skills::artifact::Signer;
use serde_json::Value;
use tokio::process::Child;
use uuid::Uuid;

/// How to start `eve`.
pub struct Eve {
    binary: PathBuf,
    folder: PathBuf,
    database: String,
    token: String,
    signer: Signer,
    address: String,
}

/// A running `eve`.
pub struct Running(Child);

/// A client of the server.
pub struct Client {
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
}

impl Eve {
    pub fn new(binary: PathBuf, folder: &Path, database: &str, token: &str) -> Result<Eve> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Eve {
            binary,
            folder: folder.to_owned(),
            database: database.to_owned(),
            token: token.to_owned(),
            signer: Signer::generate(),
            address: format!("127.0.0.1:{port}"),
        })
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.binary);
        command
            .env("DATABASE_URL", &self.database)
            .env("EVE_SIGNING_KEY", self.signer.seed())
            .env("EVE_VERIFY_KEYS", self.signer.public_key())
            .env("EVE_LISTEN", &self.address)
            .env("EVE_URL", format!("http://{}", self.address))
            .env("EVE_TOKEN", &self.token)
            .env("EVE_CONTEXT_FILE", self.folder.join("context.json"))
            // What is measured is the platform, and not how long it lets one caller wait.
            .env("EVE_RATE_LIMIT", "off")
            .env("EVE_LOG", "warn")
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub async fn serve(&self) -> Result<Running> {
        let cache = self.folder.join("server-cache");
        let child = self.command().arg("serve").arg("--cache-dir").arg(cache).spawn()?;
        self.ready().await?;
        Ok(Running(child))
    }

    pub async fn worker(&self) -> Result<Running> {
        let cache = self.folder.join("worker-cache");
        let child = self
            .command()
            .args(["worker", "--type", "general", "--cache-dir"])
            .arg(cache)
            .spawn()?;
        Ok(Running(child))
    }

    pub async fn dev(&self, data: &Path) -> Result<Running> {
        let child = self
            .command()
            .env_remove("DATABASE_URL")
            .arg("dev")
            .arg("--data-dir")
            .arg(data)
            .spawn()?;
        self.ready().await?;
        Ok(Running(child))
    }

    pub async fn push(&self, skill: &Path) -> Result<()> {
        let status = self.command().args(["skill", "push", "--quiet"]).arg(skill).status().await?;
        if !status.success() {
            bail!("pushing {} failed", skill.display());
        }
        Ok(())
    }

    pub fn client(&self) -> Client {
        Client {
            http: reqwest::Client::new(),
            url: format!("http://{}", self.address),
            token: self.token.clone(),
        }
    }

    async fn ready(&self) -> Result<()> {
        let url = format!("http://{}/readyz", self.address);
        for _ in 0..600 {
            if reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        bail!("{url} never answered");
    }
}

impl Client {
    /// Creates a request, and has its id.
    pub async fn create(&self, request: &Value) -> Result<Uuid> {
        let answer: Value = self
            .http
            .post(format!("{}/v1/requests", self.url))
            .bearer_auth(&self.token)
            .json(request)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        Ok(answer["id"].as_str().context("no id")?.parse()?)
    }
}

impl Running {
    pub fn id(&self) -> u32 {
        self.0.id().unwrap_or_default()
    }

    /// SIGTERM, and the wait for its end.
    pub async fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").arg(self.id().to_string()).status()?;
        if !status.success() {
            bail!("it had ended by itself");
        }
        self.0.wait().await?;
        Ok(())
    }
}

/// Resident bytes of a process.
pub fn resident(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Proportional resident bytes of a process and its descendants: what they share counts once.
pub fn proportional_tree(pid: u32) -> Result<u64> {
    let mut total = field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = std::fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_whitespace() {
            total += proportional_tree(child.parse()?)?;
        }
    }
    Ok(total)
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let line = text.lines().find(|line| line.starts_with(name)).context("no such field")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
    Ok(kilobytes << 10)
}

/// What the figures were measured on.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split(':').nth(1)?.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown CPU".into());
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}
