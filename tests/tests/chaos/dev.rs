//! `eve dev` survives `kill -9`, and one data directory has one process.

use std::path::Path;

use anyhow::{Context, Result};
use eve_tests::{Eve, Process, skill, wait_for};

fn start(eve: &Eve, data: &Path) -> Result<Process> {
    eve.start(["dev", "--listen", "127.0.0.1:0", "--data-dir", &data.to_string_lossy()])
}

async fn ready(process: &mut Process) {
    wait_for("eve dev to be ready", async || {
        let ended = process.ended().expect("a child can be waited for");
        assert_eq!(ended, None, "{}", process.log());
        process.log().contains("is ready at").then_some(())
    })
    .await;
}

async fn push_echo(eve: &Eve) -> Result<()> {
    let echo = skill("echo")?;
    let pushed = eve.run(["skill", "push", &echo.to_string_lossy()]).await?;
    assert!(pushed.status.success(), "{pushed}");
    Ok(())
}

#[tokio::test]
async fn data_survives_a_kill_and_nobody_shares_it() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let data = folder.path().join("data");
    let eve = Eve::without_database()?;
    let mut dev = start(&eve, &data)?;
    ready(&mut dev).await;
    push_echo(&eve).await?;
    let create = ["request", "create", "--worker-type", "general", "--skill", "echo", "--prompt"];
    let before = eve.run(create.iter().copied().chain(["before", "--wait"])).await?;
    assert!(before.status.success(), "{before}");

    // A second one on the same data is told why not, and harms nothing.
    let mut second = start(&eve, &data)?;
    assert!(!second.wait().await.success());
    let complaint = second.log();
    assert!(complaint.contains("in use by process"), "{complaint}");
    assert!(complaint.contains(&dev.id().to_string()), "{complaint}");

    dev.kill();
    let mut dev = start(&eve, &data)?;
    ready(&mut dev).await;
    let after = eve.run(create.iter().copied().chain(["after", "--wait"])).await?;
    assert!(after.status.success(), "{after}");
    let list = eve.run(["request", "list"]).await?;
    for prompt in ["before", "after"] {
        assert!(list.stdout.contains(prompt), "{list}");
    }

    dev.terminate();
    let status = dev.wait().await;
    assert!(status.success(), "{status}: {}", dev.log());
    let left = data.join("postgres/postmaster.pid");
    assert!(!left.try_exists().context("looking for Postgres's own lock")?, "Postgres still runs");
    Ok(())
}

/// A Postgres that ends by itself is started again, and work goes on.
#[tokio::test]
async fn a_killed_postgres_comes_back() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let data = folder.path().join("data");
    let eve = Eve::without_database()?;
    let mut dev = start(&eve, &data)?;
    ready(&mut dev).await;
    push_echo(&eve).await?;

    let pid = std::fs::read_to_string(data.join("postgres/postmaster.pid"))?;
    let pid: i32 = pid.lines().next().context("no process id")?.trim().parse()?;
    let pid = rustix::process::Pid::from_raw(pid).context("a process id is not zero")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;

    wait_for("a request to complete after the crash", async || {
        let create = ["request", "create", "--worker-type", "general", "--skill", "echo", "--wait"];
        let run = eve.run(create.iter().copied().chain(["--prompt", "after"])).await;
        run.is_ok_and(|run| run.status.success()).then_some(())
    })
    .await;
    dev.terminate();
    let status = dev.wait().await;
    assert!(status.success(), "{status}: {}", dev.log());
    Ok(())
}

/// Both at one address: https for whoever sends a token by kubectl, http for a quick `curl`.
#[tokio::test]
async fn https_is_spoken_and_http_as_well() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let data = folder.path().join("data");
    let eve = Eve::without_database()?;
    let mut dev = start(&eve, &data)?;
    ready(&mut dev).await;
    let context = eve.json(["context", "show", "dev"]).await?;
    let url = context["url"].as_str().context("a url")?;
    assert!(url.starts_with("https://127.0.0.1:"), "{context}");
    let authority = std::fs::read_to_string(data.join("tls/ca.crt"))?;
    assert_eq!(context["certificate_authority"], authority.as_str());
    assert!(eve.run(["whoami"]).await?.status.success());

    let plain = url.replace("https", "http");
    let answer = eve_tests::http_client()?.get(format!("{plain}/healthz")).send().await?;
    assert!(answer.status().is_success());
    // No other server's authority is believed, and this one's is for nobody else.
    let other = eve.run(["--url", &url.replace("127.0.0.1", "localhost"), "whoami"]).await?;
    assert_eq!(other.code(), Some(5), "{other}");

    // A restart keeps what contexts and kubeconfigs carry.
    dev.terminate();
    assert!(dev.wait().await.success(), "{}", dev.log());
    let mut dev = start(&eve, &data)?;
    ready(&mut dev).await;
    let again = eve.json(["context", "show", "dev"]).await?;
    assert_eq!(again["certificate_authority"], context["certificate_authority"]);
    dev.terminate();
    assert!(dev.wait().await.success(), "{}", dev.log());
    Ok(())
}
