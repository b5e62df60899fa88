//! A pool that follows its queue: the cluster's own HPA controller, with what the control plane counts.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eve_tests::{http_client, skill, wait_for};
use http::Method;
use serde_json::{Value, json};

use super::{Ground, PLATFORM, TIMEOUT, ask, chart, kubectl};
use crate::attacks::ABOUT_METRICS;

const METRICS: &str = "apis/external.metrics.k8s.io/v1beta1";
const API_SERVICE: &str =
    "apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io";
/// How many workers the pool may have, unless `EVE_TEST_POOL` says otherwise.
const MOST: usize = 5;
/// How long the pool may take to grow, and to shrink.
const PATIENCE: Duration = Duration::from_secs(240);

/// From one worker to all and back, by the backlog; no run is lost or done twice by those that are taken away.
#[tokio::test]
async fn a_pool_follows_its_queue() -> Result<()> {
    let Some(ground) = Ground::lay_in(PLATFORM, "scaling by external metrics").await? else {
        return Ok(());
    };
    let most = match std::env::var("EVE_TEST_POOL") {
        Ok(most) => most.parse()?,
        Err(_) => MOST,
    };
    let mut values = ground.values_of_one_pool();
    values["workerDefaults"]["slots"] = json!(2);
    values["workerDefaults"]["graceSeconds"] = json!(60);
    values["autoscaling"] = json!({
        "mode": "hpa", "busySlots": 2, "hpa": { "maxReplicas": most },
        "scaleDown": { "stabilizationWindowSeconds": 0, "pods": 4, "periodSeconds": 5 },
    });
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    // Another token takes the place of this one.
    ground.client().await?.push(&skill("hostile-wasi")?).await?;
    let pool = Pool { ground: &ground, door: ground.door().await? };
    pool.is_served().await?;
    pool.answers_nobody_but_the_api_server().await?;
    pool.keeps_its_door_to_itself().await?;
    // A second one could not serve them too, and is told before it breaks the first.
    let second = ["install", "second", &chart, "--namespace", "default", "--dry-run=server"];
    let refused = ground.helm(&second, Some(&values)).await.map_err(|error| error.to_string());
    let already = "served by eve-external-metrics in the namespace eve-horizon already";
    ensure!(refused.as_ref().is_err_and(|why| why.contains(already)), "{refused:?}");

    ensure!(pool.wanted().await? == 1, "an idle pool has one worker");
    // The first worker has two under way, and each gets five that wait: enough for all of them, for a while.
    let backlog = most * 16;
    ask(&pool.door, backlog, 3_000).await?;
    let counted = pool.counted("eve_pending_requests").await?;
    ensure!(counted > 5, "only {counted} of {backlog} wait");
    pool.until(&format!("{most} workers"), async |wanted| Ok(wanted == most)).await?;

    // Then just enough for two, while the others are taken away: some are in the middle of a run.
    let mut asked = backlog;
    let mut interrupted = HashSet::new();
    pool.until("two workers", async |wanted| {
        interrupted.extend(pool.ground.working_while_they_end().await?);
        let (pending, busy) = pool.under_way().await?;
        if pending == 0 && busy < 4 {
            ask(&pool.door, 4 - busy, 4_000).await?;
            asked += 4 - busy;
        }
        Ok(wanted == 2 && !interrupted.is_empty())
    })
    .await?;
    pool.until("one worker", async |wanted| Ok(wanted == 1)).await?;

    wait_for("everything to be done", async || {
        (pool.under_way().await.ok()? == (0, 0)).then_some(())
    })
    .await;
    let done: i64 = ground
        .count("SELECT count(*) FROM eve.orchestration_results WHERE status = 'completed' AND attempt = 1")
        .await?;
    assert_eq!(usize::try_from(done)?, asked, "each is done, the first time");
    let again = ground.count("SELECT count(*) FROM eve.attempts").await?;
    assert_eq!(again, 0, "nothing was handed back, and nobody had to be rescued");

    ground.uninstall().await?;
    let left = ground.admin.get(API_SERVICE).await?;
    let ours = left.is_success() && left.json()?["spec"]["service"]["namespace"] == PLATFORM;
    ensure!(!ours, "a dead APIService blocks every namespace that is deleted");
    Ok(ground.cleared()?)
}

struct Pool<'a> {
    ground: &'a Ground,
    door: (String, String),
}

impl Pool<'_> {
    /// Waits until the API server has found us.
    async fn is_served(&self) -> Result<()> {
        let admin = &self.ground.admin;
        wait_for("the external metrics to be served", async || {
            let service = admin.get(API_SERVICE).await.ok()?.json().ok()?;
            let conditions = service["status"]["conditions"].as_array()?.clone();
            let available = |c: &Value| c["type"] == "Available" && c["status"] == "True";
            conditions.iter().any(available).then_some(())
        })
        .await;
        let resources = admin.get(METRICS).await?.json()?;
        assert_eq!(resources["resources"][0]["name"], "eve_pending_requests", "{resources:#}");
        // As newer clients ask for everything at once: the API server knows of it too.
        let listed = kubectl()
            .args(["api-resources", "--api-group=external.metrics.k8s.io", "--no-headers"])
            .output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        ensure!(listed.contains("eve_busy_slots"), "kubectl knows of no metric: {listed}");
        let values =
            self.values("eve_pending_requests", "worker_type+in+(general,deployment)").await?;
        assert_eq!(values["items"].as_array().map(Vec::len), Some(2), "{values:#}");
        for (place, status, words) in [
            (format!("{PLATFORM}/eve_pending_requests?labelSelector=a%20b"), 400, "no selector"),
            (format!("{PLATFORM}/requests_per_second"), 404, "eve_busy_slots are in eve-horizon"),
            ("default/eve_pending_requests".to_owned(), 404, "are in eve-horizon"),
        ] {
            let refused = admin.get(&format!("{METRICS}/namespaces/{place}")).await?;
            assert_eq!(refused.status, status, "{refused}");
            ensure!(refused.message().contains(words), "{refused}");
        }
        Ok(())
    }

    /// Whoever has no certificate of the API server's, or may not read metrics, is told nothing.
    async fn answers_nobody_but_the_api_server(&self) -> Result<()> {
        let admin = &self.ground.admin;
        let place = format!("api/v1/namespaces/{PLATFORM}/services/eve-external-metrics");
        let service = admin.get(&place).await?.json()?;
        let address = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?;
        let url = format!("https://{address}/{METRICS}/namespaces/{PLATFORM}/eve_pending_requests");
        let masters = [("X-Remote-User", "thief"), ("X-Remote-Group", "system:masters")];
        let _ = http_client()?;
        let keys = std::env::var("EVE_TEST_KUBECONFIG")?;
        let keys = Path::new(&keys).parent().context("a folder")?.join("pki");
        let identity = |name: &str| -> Result<reqwest::Identity> {
            let mut pem = std::fs::read(keys.join(format!("{name}.crt")))?;
            pem.extend(std::fs::read(keys.join(format!("{name}.key")))?);
            Ok(reqwest::Identity::from_pem(&pem)?)
        };
        // Rules for a new Service take kube-proxy a moment, and until then it refuses everybody.
        wait_for("the Service of external metrics to be reached", async || {
            tokio::net::TcpStream::connect((address, 443)).await.ok()
        })
        .await;
        let ask = async |identity: Option<reqwest::Identity>, headers: &[(&'static str, &str)]| {
            // Who the server is does not matter to a thief.
            let mut client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
            if let Some(identity) = identity {
                client = client.identity(identity);
            }
            let mut request = client.build()?.get(&url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            match request.send().await {
                Ok(answer) => anyhow::Ok(Some(answer.status().as_u16())),
                // It has to be the handshake that fails: whoever is not there refuses nobody.
                Err(error) => {
                    let why = format!("{:#}", anyhow::Error::new(error));
                    ensure!(!why.contains("Connection refused"), "{why}");
                    Ok(None)
                }
            }
        };
        assert_eq!(ask(None, &masters).await?, None, "without a certificate");
        let cluster = identity("apiserver-of-kubelet")?;
        assert_eq!(
            ask(Some(cluster), &masters).await?,
            None,
            "of the cluster, but not the front proxy's"
        );
        let proxy = identity("front-proxy")?;
        assert_eq!(ask(Some(proxy.clone()), &[]).await?, Some(401), "for nobody");
        assert_eq!(ask(Some(proxy.clone()), &[("X-Remote-User", "somebody")]).await?, Some(403));
        assert_eq!(ask(Some(proxy), &masters).await?, Some(200));
        let pod = admin.impersonating(&format!("system:serviceaccount:{PLATFORM}:default"), None);
        let refused =
            pod.get(&format!("{METRICS}/namespaces/{PLATFORM}/eve_pending_requests")).await?;
        assert_eq!(refused.status, 403, "{refused}");
        Ok(())
    }

    /// A thief of the control plane's account cannot have what the API is asked sent to themselves.
    async fn keeps_its_door_to_itself(&self) -> Result<()> {
        let account = format!("system:serviceaccount:{PLATFORM}:eve-control-plane");
        let thief = self.ground.admin.with_every_right_as(&account, &[]);
        let elsewhere = json!({ "namespace": "default", "name": "kubernetes", "port": 443 });
        for change in [
            json!({ "service": elsewhere }),
            json!({ "insecureSkipTLSVerify": true, "caBundle": null }),
        ] {
            let patch = json!({ "spec": change });
            let kind = "application/merge-patch+json";
            let refused = thief.send(Method::PATCH, API_SERVICE, kind, Some(&patch)).await?;
            ensure!(refused.message().contains(ABOUT_METRICS), "{refused}");
        }
        Ok(())
    }

    /// `selector` as it is in a URL.
    async fn values(&self, metric: &str, selector: &str) -> Result<Value> {
        let place = format!("{METRICS}/namespaces/{PLATFORM}/{metric}?labelSelector={selector}");
        self.ground.admin.get(&place).await?.json()
    }

    /// What the API server is told about the pool.
    async fn counted(&self, metric: &str) -> Result<usize> {
        let begun = Instant::now();
        loop {
            let values = self.values(metric, "worker_type%3Dgeneral").await?;
            let value: usize = values["items"][0]["value"].as_str().context("a value")?.parse()?;
            if value > 0 || begun.elapsed() > PATIENCE {
                return Ok(value);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// How many workers the autoscaler wants.
    async fn wanted(&self) -> Result<usize> {
        let deployment = self.ground.deployment("eve-worker-general").await?;
        Ok(usize::try_from(deployment["spec"]["replicas"].as_u64().context("replicas")?)?)
    }

    async fn until(
        &self,
        what: &str,
        mut right: impl AsyncFnMut(usize) -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            let wanted = self.wanted().await?;
            if right(wanted).await? {
                println!("{what} after {} s", begun.elapsed().as_secs());
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{what}: {wanted} are wanted after {} s\n{}\n{}",
                PATIENCE.as_secs(),
                String::from_utf8_lossy(
                    &kubectl().args(["-n", PLATFORM, "describe", "hpa"]).output()?.stdout
                ),
                self.ground.state().await?
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Requests that wait, and that workers have.
    async fn under_way(&self) -> Result<(usize, usize)> {
        let (pending, busy): (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status <> 'pending')
               FROM eve.queue",
        )
        .fetch_one(&self.ground.pool)
        .await?;
        Ok((usize::try_from(pending)?, usize::try_from(busy)?))
    }
}
