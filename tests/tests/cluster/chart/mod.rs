//! The Helm chart: installed, upgraded, rolled back and taken away, with pods of the real image that serve and
//! work against a Postgres outside of the cluster.
//!
//! Flow: [`Ground::lay`] makes a namespace where Pod Security is strictest and a Postgres that lets nobody in
//! without a password; pods reach it through a relay on the cluster's bridge. [`Ground::helm`] does the rest.
//!
//! Invariants:
//! - What is the whole cluster's - admission policies, roles - is not installed again: other tests have applied
//!   it, from the same files. That the chart has the same objects is a test of its own.
//! - `EVE_TEST_HELM` names helm, and `EVE_TEST_IMAGE` the tag of an image that the cluster can pull
//!   (`scripts/image cluster`). Without them the tests say that they are skipped.

mod installing;
mod keda;
mod networks;
mod refusing;
mod scaling;
mod upgrading;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use eve_host::db::{Db, DbConfig};
use eve_host::dev::{bootstrap, postgres::PrivatePostgres};
use eve_tests::{Eve, http_client, wait_for};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::api::{Caller, Cluster};
use crate::wall;

/// The machine's address on the cluster's bridge, which pods reach.
const BRIDGE: &str = "172.30.255.1";
/// How long an installation may take: images are pulled and Postgres migrated, beside other tests.
const TIMEOUT: &str = "5m";
/// The namespace by which environments know the platform. One test at a time uses it.
const PLATFORM: &str = "eve-horizon";
static PLATFORM_IN_USE: Mutex<()> = Mutex::const_new(());
/// Who owns the database.
const OWNER: &str = "eve_owner";

/// A namespace and a database for one release.
struct Ground {
    admin: Caller,
    helm: String,
    image: String,
    namespace: String,
    port: u16,
    pool: PgPool,
    postgres: PrivatePostgres,
    files: tempfile::TempDir,
    /// Held while the platform's own namespace is in use.
    _alone: Option<MutexGuard<'static, ()>>,
}

/// What a test that has failed leaves would take the node's room from others.
impl Drop for Ground {
    fn drop(&mut self) {
        let deleted = match self.namespace.as_str() {
            PLATFORM => self.cleared(),
            own => kubectl()
                .args(["delete", "namespace", own, "--wait=false", "--ignore-not-found"])
                .output()
                .map(|_| ()),
        };
        if let Err(error) = deleted {
            eprintln!("the release in {} stays: {error}", self.namespace);
        }
    }
}

impl Ground {
    /// In a namespace of its own.
    async fn lay(test: &str) -> Result<Option<Ground>> {
        let id = Uuid::new_v4().simple().to_string();
        Self::lay_in(&format!("chart-{}", &id[..12]), test).await
    }

    async fn lay_in(namespace: &str, test: &str) -> Result<Option<Ground>> {
        let Some(cluster) = Cluster::of_environment(test).await? else { return Ok(None) };
        let (Some(helm), Ok(image)) = (helm_of_environment(test), std::env::var("EVE_TEST_IMAGE"))
        else {
            eprintln!(
                "SKIPPED: {test} needs EVE_TEST_HELM and EVE_TEST_IMAGE, as scripts/test sets them"
            );
            return Ok(None);
        };
        let alone = match namespace == PLATFORM {
            true => Some(PLATFORM_IN_USE.lock().await),
            false => None,
        };
        let admin = cluster.admin()?;
        let files = tempfile::tempdir()?;
        let postgres = PrivatePostgres::start(&files.path().join("data")).await?;
        let pool = PgPool::connect(&postgres.url()).await?;
        let owner = "CREATE ROLE eve_owner LOGIN CREATEROLE PASSWORD 'owner''s'";
        for statement in [owner, "ALTER DATABASE eve OWNER TO eve_owner"] {
            sqlx::raw_sql(statement).execute(&pool).await?;
        }
        let hba = files.path().join("data/postgres/pg_hba.conf");
        std::fs::write(&hba, "local all postgres trust\nlocal all all scram-sha-256\n")?;
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(&pool).await?;
        let listener = TcpListener::bind((BRIDGE, 0)).await.context("is this the test cluster?")?;
        let port = listener.local_addr()?.port();
        tokio::spawn(relay(listener, socket(postgres.socket_dir())?));

        let ground = Ground {
            admin,
            helm,
            image,
            namespace: namespace.to_owned(),
            port,
            pool,
            postgres,
            files,
            _alone: alone,
        };
        if namespace == PLATFORM {
            wall::stand(&ground.admin, &format!("chart-{}", Uuid::new_v4().simple())).await?;
            ground.cleared()?;
            return Ok(Some(ground));
        }
        let made = ground
            .admin
            .create("api/v1/namespaces", &json!({ "metadata": {
                "name": namespace, "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
            }}))
            .await?;
        ensure!(made.is_success(), "{made}");
        Ok(Some(ground))
    }

    /// Takes away what a release has left in a namespace that stays.
    fn cleared(&self) -> std::io::Result<()> {
        let kubeconfig = std::env::var("EVE_TEST_KUBECONFIG").unwrap_or_default();
        std::process::Command::new(&self.helm)
            .args([
                "uninstall",
                "eve",
                "--namespace",
                &self.namespace,
                "--ignore-not-found",
                "--wait",
            ])
            .env("KUBECONFIG", kubeconfig)
            .output()?;
        kubectl()
            .args([
                "delete",
                "secret",
                "eve-secrets",
                "--namespace",
                &self.namespace,
                "--ignore-not-found",
            ])
            .output()?;
        Ok(())
    }

    /// Values for this ground: what the chart has by default, except where the database is, which image, and
    /// how much room pods ask for.
    fn values(&self) -> Value {
        let resources = json!({ "requests": { "cpu": "5m", "memory": "64Mi" } });
        json!({
            "image": { "repository": "eve-horizon/eve", "tag": self.image },
            "database": {
                "external": true,
                "url": format!("postgres://{OWNER}:owner%27s@{BRIDGE}:{}/eve", self.port),
                "logins": { "image": "eve.local/psql:1" },
                "connections": { "controlPlane": 5, "worker": 4 },
            },
            "cluster": { "create": false },
            "controlPlane": { "resources": resources },
            "workerDefaults": { "resources": resources, "slots": 4, "graceSeconds": 10 },
        })
    }

    /// The same with general workers only, and without what `eve cluster manifest` has made: the account, and
    /// what confines it.
    fn values_of_one_pool(&self) -> Value {
        let mut values = self.values();
        values["controlPlane"]["serviceAccount"] = json!({ "create": false });
        values["workers"] = json!({ "deployment": null, "devops-orchestrator": null });
        values
    }

    /// Runs helm in the namespace, which must succeed.
    async fn helm(&self, arguments: &[&str], values: Option<&Value>) -> Result<String> {
        let mut command = tokio::process::Command::new(&self.helm);
        command.args(["--namespace", &self.namespace]).args(arguments);
        if let Some(values) = values {
            let file = self.files.path().join("values.json");
            std::fs::write(&file, values.to_string())?;
            command.arg("--values").arg(file);
        }
        command.env("KUBECONFIG", std::env::var("EVE_TEST_KUBECONFIG")?);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        if !output.status.success() {
            bail!(
                "helm {arguments:?}: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                self.state().await?
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Pods and what happened to them, for whoever reads why a test has failed.
    async fn state(&self) -> Result<String> {
        let mut all = String::new();
        let questions: [&[&str]; 3] = [
            &["get", "pods", "-o", "wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "--selector=app.kubernetes.io/name=eve-horizon",
                "--all-containers",
                "--prefix",
                "--tail=20",
            ],
        ];
        for question in questions {
            let mut command = tokio::process::Command::from(kubectl());
            command.args(["--namespace", &self.namespace]).args(question);
            all += &String::from_utf8_lossy(&command.output().await?.stdout);
        }
        Ok(all)
    }

    async fn list(&self, api: &str, kind: &str) -> Result<Vec<Value>> {
        let place = format!("{api}/namespaces/{}/{kind}", self.namespace);
        Ok(self.admin.get(&place).await?.json()?["items"].as_array().cloned().unwrap_or_default())
    }

    async fn deployment(&self, name: &str) -> Result<Value> {
        let place = format!("apis/apps/v1/namespaces/{}/deployments/{name}", self.namespace);
        self.admin.get(&place).await?.json()
    }

    /// The Secret's data.
    async fn secret(&self) -> Result<Value> {
        let place = format!("api/v1/namespaces/{}/secrets/eve-secrets", self.namespace);
        Ok(self.admin.get(&place).await?.json()?["data"].clone())
    }

    /// A command line that talks to the control plane through its Service, as the owner of `dev`.
    async fn client(&self) -> Result<Eve> {
        let (url, token) = self.door().await?;
        Ok(Eve::without_database()?.env("EVE_URL", url).env("EVE_TOKEN", token))
    }

    /// Where the control plane's Service is, and a token of the owner of `dev`.
    async fn door(&self) -> Result<(String, String)> {
        let place = format!("api/v1/namespaces/{}/services/eve-control-plane", self.namespace);
        let service = self.admin.get(&place).await?.json()?;
        let address = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?;
        let url = format!("http://{address}");
        let db = Db::connect(&DbConfig {
            url: self.postgres.url(),
            max_connections: 1,
            application_name: "eve tests".to_owned(),
        })?;
        let token = bootstrap::run(&db).await?.expose().to_owned();
        db.pool().close().await;
        let http = http_client()?;
        // Rules for a new Service take kube-proxy a moment.
        wait_for("the control plane to be ready", async || {
            let answer = http.get(format!("{url}/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        Ok((url, token))
    }

    /// Where a request has run: the worker's host, which is its pod. Workers that are gone are forgotten.
    async fn pod_of(&self, request: &Value) -> Result<String> {
        let host: Option<String> = sqlx::query_scalar(
            "SELECT w.host FROM eve.orchestration_results r JOIN eve.workers w ON w.id = r.worker_id
              WHERE r.request_id = $1 AND r.status = 'completed'",
        )
        .bind(id_of(request)?)
        .fetch_optional(&self.pool)
        .await?;
        host.with_context(|| format!("{request} has not completed"))
    }

    /// Waits until a request has ended, wherever it ran.
    async fn status_of(&self, request: &Value) -> Result<String> {
        let id = id_of(request)?;
        let status = wait_for("a request to end", async || {
            let query = "SELECT status FROM eve.orchestration_results WHERE request_id = $1";
            let status = sqlx::query_scalar::<_, String>(query).bind(id);
            status.fetch_optional(&self.pool).await.ok()?
        })
        .await;
        Ok(status)
    }

    async fn count(&self, query: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// The same, and what a test has put beside it.
    async fn uninstall_beside(&self, others: &[&str]) -> Result<()> {
        let mut command = tokio::process::Command::from(kubectl());
        command.args(["--namespace", &self.namespace, "delete", "--grace-period=0", "--wait=true"]);
        let output = command.args(others).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.uninstall().await
    }

    /// Takes the release away; only the Secret stays, with all keys.
    async fn uninstall(&self) -> Result<()> {
        self.helm(&["uninstall", "eve", "--wait", "--timeout", TIMEOUT], None).await?;
        for (api, kind) in [
            ("apis/apps/v1", "deployments"),
            ("api/v1", "services"),
            ("apis/policy/v1", "poddisruptionbudgets"),
            ("apis/networking.k8s.io/v1", "networkpolicies"),
            ("apis/networking.k8s.io/v1", "ingresses"),
        ] {
            let left = self.list(api, kind).await?;
            ensure!(left.is_empty(), "{kind} stay: {left:?}");
        }
        let pods = wait_for("the pods to end", async || {
            let pods = self.list("api/v1", "pods").await.ok()?;
            pods.is_empty().then_some(pods.len())
        });
        pods.await;
        Ok(())
    }

    /// Workers whose pods are to end and that have a run under way.
    async fn working_while_they_end(&self) -> Result<Vec<String>> {
        let pods = self.list("api/v1", "pods").await?;
        let ending = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string());
        let ending: Vec<String> =
            ending.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
        let working = sqlx::query_scalar(
            "SELECT DISTINCT w.host FROM eve.queue q JOIN eve.workers w ON w.id = q.worker_id
              WHERE q.status = 'processing' AND w.host = ANY ($1)",
        )
        .bind(ending)
        .fetch_all(&self.pool)
        .await?;
        Ok(working)
    }
}

/// Sends many requests at once that sleep so long each; `door` is of [`Ground::door`].
async fn ask(door: &(String, String), many: usize, milliseconds: u64) -> Result<()> {
    let (url, token) = door;
    let context = json!({ "do": "sleep", "ms": milliseconds });
    let request = json!({ "worker_type": "general", "skill": "hostile-wasi", "context": context });
    let batch = json!({ "requests": vec![request; many] });
    let place = format!("{url}/v1/requests/batch");
    let answer = http_client()?.post(place).bearer_auth(token).json(&batch).send().await?;
    ensure!(answer.status().is_success(), "{}", answer.text().await?);
    Ok(())
}

/// The id of a request, as `eve request create` prints it: with `--wait` it is in the result.
fn id_of(request: &Value) -> Result<Uuid> {
    let id = request["request_id"].as_str().or(request["id"].as_str());
    Ok(id.with_context(|| format!("no id in {request}"))?.parse()?)
}

async fn relay(listener: TcpListener, socket: PathBuf) {
    while let Ok((mut near, _)) = listener.accept().await {
        let socket = socket.clone();
        tokio::spawn(async move {
            // A connection that breaks is for its two ends to notice.
            if let Ok(mut far) = UnixStream::connect(&socket).await {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

/// The socket that a server has made in a folder.
fn socket(folder: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".s.PGSQL.") && !name.ends_with(".lock") {
            return Ok(file);
        }
    }
    bail!("there is no socket in {}", folder.display())
}

fn helm_of_environment(test: &str) -> Option<String> {
    let helm = std::env::var("EVE_TEST_HELM").ok().filter(|path| !path.is_empty());
    if helm.is_none() {
        eprintln!("SKIPPED: {test} needs helm: EVE_TEST_HELM=$(scripts/chart helm)");
    }
    helm
}

fn kubectl() -> std::process::Command {
    let program = std::env::var("EVE_TEST_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let mut command = std::process::Command::new(program);
    command.env("KUBECONFIG", std::env::var("EVE_TEST_KUBECONFIG").unwrap_or_default());
    command
}

fn chart() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/eve-horizon").to_owned()
}

/// The files of values that everybody's checks use, by their names.
fn examples() -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(format!("{}/ci", chart()))? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push((name, file.to_string_lossy().into_owned()));
    }
    all.sort();
    Ok(all)
}

/// What the chart is with a file of values, without a cluster.
async fn rendered(helm: &str, namespace: &str, values: &str) -> Result<String> {
    let mut command = tokio::process::Command::new(helm);
    command.args(["template", "eve", &chart(), "--namespace", namespace, "--values", values]);
    let output = command.args(["--kube-version", "v1.36.0"]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Lays one object over another, as helm does with files of values.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}
