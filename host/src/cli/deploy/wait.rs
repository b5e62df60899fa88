//! Waiting for what was asked of a deployment.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::client::Client;
use super::super::error::{Error, Exit};
use super::super::output::{Output, plain};
use super::Patience;
use crate::deployments::{Deployment, DeploymentStatus};

/// How often the server is asked how far it is.
const PACE: Duration = Duration::from_millis(500);
/// How long a server that does not answer is put up with.
const SILENCE: Duration = Duration::from_secs(60);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// That it runs, or has failed.
    Settled,
    /// That nothing is left of it.
    Gone,
}

/// Shows a deployment, once it has settled if that is wanted.
pub async fn show(
    client: &Client,
    deployment: Deployment,
    patience: Patience,
    out: &Output,
) -> Result<Exit, Error> {
    if !patience.wait {
        out.show(&deployment)?;
        return Ok(Exit::Ok);
    }
    let deployment = until(client, deployment, Wanted::Settled, patience.timeout, out).await?;
    out.show(&deployment)?;
    Ok(exit(&deployment, Wanted::Settled))
}

/// Whether it came to what was waited for.
pub fn exit(deployment: &Deployment, wanted: Wanted) -> Exit {
    let status = match wanted {
        Wanted::Settled => DeploymentStatus::Running,
        Wanted::Gone => DeploymentStatus::Stopped,
    };
    if deployment.status == status { Exit::Ok } else { Exit::Failed }
}

fn is_there(deployment: &Deployment, wanted: Wanted) -> bool {
    use DeploymentStatus::{Failed, Running, Stopped};
    match wanted {
        Wanted::Settled => matches!(deployment.status, Running | Failed | Stopped),
        Wanted::Gone => deployment.status == Stopped,
    }
}

/// Asks again and again, until it is there or the time is over.
pub async fn until(
    client: &Client,
    mut deployment: Deployment,
    wanted: Wanted,
    patience: Duration,
    out: &Output,
) -> Result<Deployment, Error> {
    let begun = Instant::now();
    let mut heard = Instant::now();
    let bar = match out.is_live() {
        true => ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        ),
        false => ProgressBar::hidden(),
    };
    bar.enable_steady_tick(Duration::from_millis(120));
    let path = [
        "envs".to_owned(),
        deployment.env.clone(),
        "deployments".to_owned(),
        deployment.app.clone(),
    ];
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    while !is_there(&deployment, wanted) {
        if begun.elapsed() > patience {
            bar.finish_and_clear();
            out.note(&format!("not there after {} s", patience.as_secs()));
            return Ok(deployment);
        }
        bar.set_message(plain(&progress(&deployment)).to_string());
        tokio::time::sleep(PACE).await;
        match client.get(&path).await {
            Ok(found) => {
                heard = Instant::now();
                deployment = found;
            }
            Err(error) if error.is_passing() && heard.elapsed() < SILENCE => {}
            Err(error) => {
                bar.finish_and_clear();
                return Err(error);
            }
        }
    }
    bar.finish_and_clear();
    Ok(deployment)
}

fn progress(deployment: &Deployment) -> String {
    let Deployment { app, env, status, replicas, .. } = deployment;
    let mut text = format!(
        "{app} in {env}: {}, {}/{} ready",
        status.as_str(),
        replicas.ready,
        replicas.desired
    );
    if let Some(message) = &deployment.message {
        text.push_str(&format!(", {}", message.chars().take(100).collect::<String>()));
    }
    text
}
