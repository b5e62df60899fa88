//! The binary: its roles as processes, its command line as calls.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eve_host::skills::artifact::Signer;
use serde_json::Value;
use tempfile::TempDir;

use crate::database::Database;
use crate::process::Process;
use crate::wait::PATIENCE;

/// How long a push may take: a component in JavaScript or Python is compiled in 10 s of CPU time,
/// which beside a build of the workspace is more than a minute.
const COMPILING: Duration = Duration::from_secs(300);

/// The platform on one database: starts its processes and calls its command line.
#[derive(Debug)]
pub struct Eve {
    database_url: Option<String>,
    env: Vec<(String, String)>,
    /// Logs, and the command line's context: never the user's own.
    folder: TempDir,
}

impl Eve {
    /// On a database, with a signing key and a cache of its own.
    pub fn on(database: &Database) -> Result<Eve> {
        Self::on_url(database.url())
    }

    /// The same on a database that somebody else looks after.
    pub fn on_url(url: &str) -> Result<Eve> {
        let eve = Eve { database_url: Some(url.to_owned()), ..Self::without_database()? };
        let signer = Signer::generate();
        let cache = eve.cache().to_string_lossy().into_owned();
        Ok(eve
            .env("EVE_SIGNING_KEY", signer.seed())
            .env("EVE_VERIFY_KEYS", signer.public_key())
            // The same server: what an organisation has there goes with the test's database.
            .env("SKILLS_DATABASE_URL", url)
            .env("EVE_SKILLS_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
            .env("EVE_SEALING_KEY", "HRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEAHh8=")
            .env("EVE_CACHE_DIR", cache))
    }

    /// Without one: for `eve dev`, and for a command line far from any server.
    pub fn without_database() -> Result<Eve> {
        Ok(Eve { database_url: None, env: Vec::new(), folder: TempDir::new()? })
    }

    /// Where the processes keep machine code.
    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("artifacts")
    }

    /// Leaves what the processes have written where it is, and says where.
    pub fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// Sets a variable for whatever is started afterwards.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Eve {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Has the command line talk to `server` with `token`.
    pub fn as_client_of(self, server: &Server, token: &str) -> Eve {
        let url = server.url().to_owned();
        self.env("EVE_URL", url).env("EVE_TOKEN", token)
    }

    /// Has the command line talk to another server from now on.
    pub fn point_at(&mut self, server: &Server) {
        self.env.push(("EVE_URL".to_owned(), server.url().to_owned()));
    }

    /// A command that runs the binary in this surrounding, and in no other: variables of whoever
    /// runs the tests that are meant for `eve` or for Postgres's clients do not reach it.
    pub fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        let mut command = Command::new(binary()?);
        self.surround(&mut command);
        command.args(args);
        Ok(command)
    }

    fn surround(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("EVE_") || text.starts_with("PG") || text.ends_with("DATABASE_URL")
            {
                command.env_remove(&name);
            }
        }
        command.env("EVE_CONTEXT_FILE", self.folder.path().join("context"));
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
    }

    /// `eve migrate`, which must succeed.
    pub async fn migrate(&self) -> Result<()> {
        let output = self.run(["migrate"]).await?;
        ensure!(output.status.success(), "eve migrate failed: {output}");
        Ok(())
    }

    /// Calls the command line and waits for its end.
    pub async fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Output> {
        finish(self.command(args)?, PATIENCE).await
    }

    /// Pushes a skill for every organisation, which must succeed.
    pub async fn push(&self, folder: &Path) -> Result<()> {
        let args = ["skill", "push", "--platform"].map(std::ffi::OsStr::new);
        let command = self.command(args.into_iter().chain([folder.as_os_str()]))?;
        let output = finish(command, COMPILING).await?;
        ensure!(output.status.success(), "pushing {} failed: {output}", folder.display());
        Ok(())
    }

    /// Runs a script with bash, in which `eve` is the binary; it stops at the first command that
    /// fails.
    pub async fn bash(&self, script: &str) -> Result<Output> {
        finish(self.bash_command(script)?, PATIENCE).await
    }

    /// The same for what takes longer than most.
    pub async fn bash_for(&self, patience: Duration, script: &str) -> Result<Output> {
        finish(self.bash_command(script)?, patience).await
    }

    /// The same, for the caller to run.
    pub fn bash_command(&self, script: &str) -> Result<Command> {
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(&bin)?;
        let link = bin.join("eve");
        if !link.exists() {
            std::os::unix::fs::symlink(binary()?.canonicalize()?, link)?;
        }
        let mut path = bin.into_os_string();
        if let Some(others) = std::env::var_os("PATH") {
            path.push(":");
            path.push(others);
        }
        let mut command = Command::new("bash");
        self.surround(&mut command);
        command.env("PATH", path).args(["-euo", "pipefail", "-c", script]);
        Ok(command)
    }

    /// Calls the command line on a terminal of `columns`, and returns what it shows there: answers
    /// and notes together, without colours.
    pub async fn on_terminal(&self, columns: u16, arguments: &str) -> Result<Output> {
        self.bash(&format!(
            "export NO_COLOR=1; script -qec 'stty cols {columns} rows 50; eve {arguments}' /dev/null"
        ))
        .await
    }
    /// Calls the command line, which must succeed and print JSON.
    pub async fn json<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Value> {
        self.run(args).await?.json()
    }

    /// Starts a long-running command.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Process> {
        self.start_with(args, [])
    }

    /// The same with variables that are of use to nothing else.
    pub fn start_with<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        env: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Result<Process> {
        let args: Vec<_> = args.into_iter().collect();
        let name = args.first().map_or("eve".into(), |arg| arg.as_ref().to_string_lossy());
        let name = format!("eve {name}");
        let mut command = self.command(args)?;
        command.envs(env);
        Process::start(name, command, self.folder.path())
    }

    /// `eve worker`, with room for `slots` runs at a time.
    pub fn worker(&self, worker_type: &str, slots: u32) -> Result<Process> {
        self.start(["worker", "--type", worker_type, "--slots", &slots.to_string()])
    }

    /// `eve serve` on a port of its own; returns once it is ready.
    pub async fn serve(&self) -> Result<Server> {
        // Between finding a free port and using it somebody else may be quicker.
        for _ in 0..5 {
            let address = free_address()?;
            let process = self.start(["serve", "--listen", &address])?;
            let mut server = Server { process, url: format!("http://{address}") };
            match server.become_ready().await {
                Ok(()) => return Ok(server),
                Err(_) if server.process.log().contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("there was no port for eve serve");
    }
}

async fn finish(command: Command, patience: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(patience, command.output())
        .await
        .with_context(|| format!("{shown} does not end"))?
        .with_context(|| shown)?;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A control plane that is ready.
#[derive(Debug)]
pub struct Server {
    process: Process,
    url: String,
}

impl Server {
    /// Where it listens: `http://127.0.0.1:…`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process, to kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until `/readyz` says so.
    async fn become_ready(&mut self) -> Result<()> {
        let client = http_client()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = client.get(format!("{}/readyz", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.process.ended()? {
                bail!("eve serve ended ({status}):\n{}", self.process.log());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "eve serve is not ready:\n{}",
                self.process.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A client for the API, for what the command line cannot do.
pub fn http_client() -> Result<reqwest::Client> {
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(PATIENCE).build()?)
}

/// An address of this machine on which nobody listens now.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// What a call of the command line came to.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The answer.
    pub stdout: String,
    /// Notes and errors.
    pub stderr: String,
}

impl Output {
    /// The answer as JSON, of a call that succeeded.
    pub fn json(&self) -> Result<Value> {
        ensure!(self.status.success(), "it failed: {self}");
        serde_json::from_str(&self.stdout).with_context(|| format!("it is not JSON: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n-- stdout:\n{}\n-- stderr:\n{}", self.status, self.stdout, self.stderr)
    }
}

/// The binary that is tested: `EVE_BIN`, or the one that lies where cargo puts it.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("EVE_BIN") {
        Some(path) => path.into(),
        None => profile_folder()?.join("eve"),
    };
    ensure!(
        path.is_file(),
        "{} is not there; build it: cargo build -p eve-host --bin eve",
        path.display()
    );
    Ok(path)
}

/// Where `scripts/skills` and `scripts/languages` put what they build.
pub fn skills_folder() -> Result<PathBuf> {
    if let Some(out) = std::env::var_os("EVE_SKILLS_OUT") {
        return Ok(out.into());
    }
    let profile = profile_folder()?;
    Ok(profile.parent().unwrap_or(Path::new(".")).join("skills"))
}

/// The folder of a skill or guest that `scripts/skills` has built: NAME.wasm and SKILL.md.
pub fn skill(name: &str) -> Result<PathBuf> {
    let folder = skills_folder()?.join(name);
    let wasm = folder.join(format!("{name}.wasm"));
    ensure!(wasm.is_file(), "{} is not there; build it: scripts/skills {name}", wasm.display());
    Ok(folder)
}

/// `target/debug`: tests run from `target/debug/deps`, programs from where they are.
fn profile_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("the program lies nowhere")?;
    let folder = match folder.file_name() {
        Some(name) if name == "deps" => folder.parent(),
        _ => Some(folder),
    };
    Ok(folder.context("the program lies nowhere")?.to_owned())
}
