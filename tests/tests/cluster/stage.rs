//! The whole platform beside a real cluster: a control plane, the cluster registered as an operator would
//! register it, and an environment of the organisation `dev`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use eve_tests::{Eve, Output, Platform, wait_for};
use serde_json::Value;
use uuid::Uuid;

use crate::api::{Caller, Cluster};
use crate::wall;

/// How long a rollout may take before something hangs: pods are pulled and started beside other tests.
const ROLLOUT: Duration = Duration::from_secs(180);

/// A platform with the cluster `local`.
pub struct Stage {
    pub platform: Platform,
    pub admin: Caller,
    /// Of this stage alone.
    pub namespace: String,
    struck: bool,
    files: tempfile::TempDir,
}

/// What a test that has failed leaves would take the node's room from others.
impl Drop for Stage {
    fn drop(&mut self) {
        if self.struck {
            return;
        }
        let (Ok(kubectl), Ok(kubeconfig)) =
            (std::env::var("EVE_TEST_KUBECTL"), std::env::var("EVE_TEST_KUBECONFIG"))
        else {
            return;
        };
        let arguments = ["--kubeconfig", &kubeconfig, "delete", "namespace", &self.namespace];
        let deleted = std::process::Command::new(kubectl)
            .args(arguments)
            .args(["--wait=false", "--ignore-not-found"])
            .output();
        if let Err(error) = deleted {
            eprintln!("the namespace {} stays: {error}", self.namespace);
        }
    }
}

impl Stage {
    /// With the environment `dev`; none, said aloud, without a cluster.
    pub async fn set(test: &str) -> Result<Option<Stage>> {
        Self::set_with(test, "{}").await
    }

    /// The same with a config of the environment.
    pub async fn set_with(test: &str, config: &str) -> Result<Option<Stage>> {
        let Some(stage) = Self::bare(test).await? else { return Ok(None) };
        let namespace = stage.namespace.clone();
        let create = ["env", "create", "--name", "dev", "--cluster", "local", "--namespace"];
        let rest = [namespace.as_str(), "--config", config];
        let made = stage.eve().json(create.iter().chain(&rest)).await?;
        ensure!(made["status"] == "ready", "{made}");
        Ok(Some(stage))
    }

    /// Without an environment.
    pub async fn bare(test: &str) -> Result<Option<Stage>> {
        let Some(cluster) = Cluster::of_environment(test).await? else { return Ok(None) };
        let admin = cluster.admin()?;
        let id = Uuid::new_v4().simple().to_string();
        let namespace = format!("test-{}", &id[..12]);
        wall::stand(&admin, &namespace).await?;
        let platform = Platform::start(&[]).await?;
        let files = tempfile::tempdir()?;
        let token = files.path().join("token");
        std::fs::write(&token, account_token(&admin).await?)?;
        let kubeconfig = std::env::var("EVE_TEST_KUBECONFIG")?;
        let token = token.to_string_lossy().into_owned();
        let add = ["cluster", "add", "--id", "local", "--kubeconfig", &kubeconfig, "--token-file"];
        let added = platform.eve().json(add.iter().chain(&[token.as_str()])).await?;
        ensure!(added["status"] == "ready", "{added}");
        Ok(Some(Stage { platform, admin, namespace, struck: false, files }))
    }

    /// A file with the token of the control plane's account.
    pub fn token_file(&self) -> String {
        self.files.path().join("token").to_string_lossy().into_owned()
    }

    /// The command line.
    pub fn eve(&self) -> &Eve {
        self.platform.eve()
    }

    /// A command line, which may wait for a rollout.
    pub async fn bash(&self, line: &str) -> Result<Output> {
        self.eve().bash_for(ROLLOUT, line).await
    }

    /// A command line that has to succeed.
    pub async fn run(&self, line: &str) -> Result<Output> {
        let output = self.bash(line).await?;
        ensure!(output.status.success(), "{line}\n{output}");
        Ok(output)
    }

    /// Registers apps.
    pub async fn apps(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.eve().json(["app", "create", "--name", name]).await?;
        }
        Ok(())
    }

    /// A deployment as the API shows it.
    pub async fn status(&self, app: &str) -> Result<Value> {
        self.platform.get(&format!("/v1/envs/dev/deployments/{app}")).await
    }

    /// Waits until a deployment is as it should be.
    pub async fn until(
        &self,
        app: &str,
        what: &str,
        mut right: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let begun = Instant::now();
        let mut last = Value::Null;
        while begun.elapsed() < ROLLOUT {
            // A control plane may be down at the moment: tests kill them.
            if let Ok(found) = self.status(app).await {
                if right(&found) {
                    return Ok(found);
                }
                last = found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("{app} is not {what} after {} s: {last:#}", ROLLOUT.as_secs())
    }

    /// Waits until an environment is as it should be.
    pub async fn until_env(
        &self,
        env: &str,
        what: &str,
        mut right: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let found = self.platform.get(&format!("/v1/envs/{env}")).await?;
            if right(&found) {
                return Ok(found);
            }
            ensure!(begun.elapsed() < ROLLOUT, "{env} is not {what}: {found:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The namespace was taken away otherwise.
    pub fn leave(mut self) {
        self.struck = true;
    }

    /// Waits until a revision has settled.
    pub async fn settled(&self, app: &str, revision: i64) -> Result<Value> {
        self.until(app, &format!("settled at revision {revision}"), |found| {
            found["revision"] == revision
                && (found["status"] == "running" || found["status"] == "failed")
        })
        .await
    }

    /// Something in the namespace, as the cluster has it: `apis/apps/v1`, `deployments/api`.
    pub async fn object(&self, api: &str, rest: &str) -> Result<Value> {
        let path = format!("{api}/namespaces/{}/{rest}", self.namespace);
        self.admin.get(&path).await?.json()
    }

    /// What an app answers, through its Service.
    pub async fn answer(&self, app: &str) -> Result<Value> {
        let service = self.object("api/v1", &format!("services/{app}")).await?;
        let address = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?.to_owned();
        let http = eve_tests::http_client()?;
        let url = format!("http://{address}/");
        // Rules for a new Service take kube-proxy a moment.
        let answer = wait_for(&format!("an answer of {app}"), async || {
            let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await.ok()?;
            answer.json::<Value>().await.ok()
        })
        .await;
        Ok(answer)
    }

    /// Takes the environment away again.
    pub async fn strike(mut self) -> Result<()> {
        self.run("eve env delete dev --force").await?;
        let there = self.admin.get(&format!("api/v1/namespaces/{}", self.namespace)).await?;
        ensure!(there.status == 404, "{there}");
        self.struck = true;
        Ok(())
    }
}

/// The token that `eve cluster manifest` makes for a control plane that is elsewhere.
pub async fn account_token(admin: &Caller) -> Result<String> {
    let name = "eve-control-plane-token";
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": name,
            "annotations": { "kubernetes.io/service-account.name": "eve-control-plane" },
        },
    });
    let place = format!("api/v1/namespaces/eve-horizon/secrets/{name}");
    let made = admin.apply(&place, &secret).await?;
    ensure!(made.is_success(), "{made}");
    let token = wait_for("the account's token", async || {
        let secret = admin.get(&place).await.ok()?.json().ok()?;
        secret["data"]["token"].as_str().map(str::to_owned)
    })
    .await;
    let bytes = base64::engine::general_purpose::STANDARD.decode(token)?;
    Ok(String::from_utf8(bytes)?)
}
