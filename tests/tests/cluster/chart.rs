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

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eve_host::db::{Db, DbConfig};
use eve_host::dev::{bootstrap, postgres::PrivatePostgres};
use eve_tests::{Eve, http_client, skill, wait_for};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixStream};
use uuid::Uuid;

use crate::api::{Caller, Cluster, path};
use crate::wall;

/// The machine's address on the cluster's bridge, which pods reach.
const BRIDGE: &str = "172.30.255.1";
/// How long an installation may take: images are pulled and Postgres migrated, beside other tests.
const TIMEOUT: &str = "5m";
/// The namespace by which environments know the platform. One test at a time uses it.
const PLATFORM: &str = "eve-horizon";
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
        Ok(Eve::without_database()?.env("EVE_URL", url).env("EVE_TOKEN", token))
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

#[tokio::test]
async fn the_chart_brings_what_eve_cluster_manifest_prints() -> Result<()> {
    let Some(helm) = helm_of_environment("the chart's walls") else { return Ok(()) };
    let values = format!("{}/ci/external-values.yaml", chart());
    let text = rendered(&helm, "eve-horizon", &values).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let same = |one: &Value, other: &Value| {
        path(one, "", true) == path(other, "", true)
            && one["metadata"]["namespace"] == other["metadata"]["namespace"]
    };
    let printed = Eve::without_database()?.run(["cluster", "manifest", "--in-cluster"]).await?;
    ensure!(printed.status.success(), "{printed}");
    let printed: Vec<Value> = serde_saphyr::from_multiple(&printed.stdout)?;
    for wanted in printed {
        if wanted["kind"] == "Namespace" && wanted["metadata"]["name"] == "eve-horizon" {
            continue;
        }
        let mut found = objects
            .iter()
            .find(|object| same(object, &wanted))
            .cloned()
            .with_context(|| format!("the chart lacks {}", path(&wanted, "", true)))?;
        // What the chart adds: whose it is, and that it stays.
        let labels = wanted["metadata"]["labels"].clone();
        found["metadata"]["labels"] = labels.clone();
        if let Some(metadata) = found["metadata"].as_object_mut() {
            metadata.remove("annotations");
            if labels.is_null() {
                metadata.remove("labels");
            }
        }
        assert_eq!(found, wanted);
    }
    Ok(())
}

#[tokio::test]
async fn every_object_is_admitted() -> Result<()> {
    let Some(cluster) = Cluster::of_environment("admitting the chart").await? else {
        return Ok(());
    };
    let Some(helm) = helm_of_environment("admitting the chart") else { return Ok(()) };
    let admin = cluster.admin()?;
    let id = Uuid::new_v4().simple().to_string();
    let namespace = format!("chart-{}", &id[..12]);
    wall::stand(&admin, &namespace).await?;
    define_missing_kinds(&admin).await?;
    // Templates of pods are not refused, but warned about.
    let made = admin
        .create(
            "api/v1/namespaces",
            &json!({ "metadata": {
                "name": namespace, "labels": { "pod-security.kubernetes.io/warn": "restricted" },
            }}),
        )
        .await?;
    ensure!(made.is_success(), "{made}");
    let mut outcome = Ok(());
    for (name, values) in examples()? {
        let text = rendered(&helm, &namespace, &values).await?;
        if let Err(error) = dry_run(&text).await {
            outcome = Err(error.context(name));
            break;
        }
    }
    admin.delete(&format!("api/v1/namespaces/{namespace}")).await?;
    outcome
}

/// Applies objects without anything coming of it, and takes warnings for errors.
async fn dry_run(text: &str) -> Result<()> {
    let mut command = tokio::process::Command::from(kubectl());
    command.args(["apply", "--server-side", "--dry-run=server", "--force-conflicts"]);
    command.args(["--field-manager=eve-tests-chart", "--validate=strict", "--filename=-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}");
    Ok(())
}

/// The operators' kinds that the chart makes objects of, where the cluster does not have them.
async fn define_missing_kinds(admin: &Caller) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/chart");
    let output = tokio::process::Command::new(script).arg("definitions").output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in String::from_utf8(output.stdout)?.lines() {
        let definitions: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(file)?)?;
        for definition in definitions.into_iter().filter(|object| object.is_object()) {
            let place = path(&definition, "", true);
            if admin.get(&place).await?.status == 404 {
                let made = admin.apply(&place, &definition).await?;
                ensure!(made.is_success(), "{made}");
            }
            wait_for(&format!("{place} to be served"), async || {
                let found = admin.get(&place).await.ok()?.json().ok()?;
                let conditions = found["status"]["conditions"].as_array()?.clone();
                conditions
                    .iter()
                    .any(|c| c["type"] == "Established" && c["status"] == "True")
                    .then_some(())
            })
            .await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn skills_run_in_pods_of_the_chart() -> Result<()> {
    let Some(ground) = Ground::lay("installing the chart").await? else { return Ok(()) };
    let chart = chart();
    let values = ground.values();
    let wait = ["--wait", "--timeout", TIMEOUT];
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    let secret = ground.secret().await?;

    // Everybody runs as who they should, and the database knows them apart.
    let pods = ground.list("api/v1", "pods").await?;
    ensure!(
        pods.len() == 6,
        "two control planes, two workers, and one of each other type: {pods:#?}"
    );
    for pod in &pods {
        let worker = pod["metadata"]["labels"]["app"] == "eve-worker";
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let tokens = volumes.filter(|volume| volume["projected"].is_object()).count();
        ensure!(tokens == usize::from(!worker), "{pod:#}");
    }
    let logins: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE usename LIKE 'eve%' ORDER BY 1",
    )
    .fetch_all(&ground.pool)
    .await?;
    assert_eq!(logins, ["eve_cp", "eve_pool"]);

    let eve = ground.client().await?;
    eve.push(&skill("echo")?).await?;
    let create = "eve request create --worker-type general --skill echo --prompt hello";
    let request = eve.bash(&format!("{create} --wait")).await?.json()?;
    let pod = ground.pod_of(&request).await?;
    ensure!(pod.starts_with("eve-worker-general-"), "it ran in {pod}");
    let request = eve
        .bash("eve request create --worker-type deployment --skill echo --prompt hello --wait")
        .await?
        .json()?;
    let pod = ground.pod_of(&request).await?;
    ensure!(pod.starts_with("eve-worker-deployment-"), "it ran in {pod}");

    // An upgrade makes every pod anew, and nobody who asks in the meantime notices.
    let mut other = values.clone();
    other["workers"] = json!({ "general": { "replicas": 1 } });
    other["workerDefaults"]["slots"] = json!(5);
    other["controlPlane"]["retention"] = json!("31d");
    let arguments = [&["upgrade", "eve", &chart], &wait[..]].concat();
    let upgraded = ground.helm(&arguments, Some(&other));
    let mut asked: Vec<Value> = Vec::new();
    {
        tokio::pin!(upgraded);
        loop {
            tokio::select! {
                done = &mut upgraded => { done?; break }
                request = eve.bash(create) => asked.push(request?.json()?),
            }
        }
    }
    ensure!(!asked.is_empty(), "nothing was asked during the upgrade");
    for request in &asked {
        assert_eq!(ground.status_of(request).await?, "completed", "{request}");
    }
    assert_eq!(ground.secret().await?, secret, "keys and passwords stay");
    let general = ground.deployment("eve-worker-general").await?;
    assert_eq!(general["spec"]["replicas"], 1);
    assert_eq!(general["status"]["updatedReplicas"], 1, "{general:#}");

    ground.helm(&[&["rollback", "eve", "1"], &wait[..]].concat(), None).await?;
    let general = ground.deployment("eve-worker-general").await?;
    assert_eq!(general["spec"]["replicas"], 2);
    // Exit code 0 says that it has completed.
    eve.bash(&format!("{create} --wait")).await?.json()?;

    // Whoever comes back finds their keys: what was signed and sealed with them still holds.
    ground.uninstall().await?;
    assert_eq!(ground.secret().await?, secret);
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    assert_eq!(ground.secret().await?, secret);
    let eve = ground.client().await?;
    // Exit code 0 says that it has completed.
    eve.bash(&format!("{create} --wait")).await?.json()?;
    ground.uninstall().await
}

#[tokio::test]
async fn everything_can_be_switched_on() -> Result<()> {
    let Some(ground) = Ground::lay("installing all of the chart").await? else { return Ok(()) };
    define_missing_kinds(&ground.admin).await?;
    let text = std::fs::read_to_string(format!("{}/ci/all-on-values.yaml", chart()))?;
    let mut values: Value = serde_saphyr::from_str(&text)?;
    merge(&mut values, ground.values());
    values["controlPlane"]["replicas"] = json!(1);
    // It is no worker type of a new installation.
    values["workers"]["reports"] = Value::Null;
    values["skillsDatabase"]["url"] =
        json!(format!("postgres://postgres@{BRIDGE}:{}/postgres", ground.port));
    let chart = chart();
    let wait = ["--wait", "--timeout", TIMEOUT];
    ground.helm(&[&["install", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    for (api, kind, count) in [
        ("apis/keda.sh/v1alpha1", "scaledobjects", 3),
        ("apis/keda.sh/v1alpha1", "triggerauthentications", 1),
        ("apis/monitoring.coreos.com/v1", "servicemonitors", 1),
        ("apis/monitoring.coreos.com/v1", "prometheusrules", 1),
        ("apis/gateway.networking.k8s.io/v1", "httproutes", 1),
        ("apis/networking.k8s.io/v1", "ingresses", 1),
        ("apis/networking.k8s.io/v1", "networkpolicies", 2),
    ] {
        let found = ground.list(api, kind).await?;
        ensure!(found.len() == count, "{kind}: {found:#?}");
    }
    let eve = ground.client().await?;
    eve.push(&skill("echo")?).await?;
    let create = "eve request create --worker-type general --skill echo --prompt hello --wait";
    let request = eve.bash(create).await?.json()?;
    ground.pod_of(&request).await?;

    // What KEDA is given can count, and do nothing else.
    let secret = ground.secret().await?;
    let url = secret["metrics-database-url"].as_str().context("a URL for KEDA")?;
    let url = String::from_utf8(base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        url,
    )?)?;
    let scaler = ground.list("apis/keda.sh/v1alpha1", "scaledobjects").await?;
    let keda = PgPool::connect(&url).await?;
    for trigger in scaler.iter().flat_map(|scaler| scaler["spec"]["triggers"].as_array()).flatten()
    {
        let query = trigger["metadata"]["query"].as_str().context("a query")?.to_owned();
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&keda).await?;
        assert_eq!(count, 0);
    }
    let refused =
        sqlx::query("SELECT prompt FROM eve.orchestration_requests").fetch_optional(&keda).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("permission denied")));
    keda.close().await;

    // Whoever scales has the last word: an upgrade leaves the number of replicas alone.
    let place =
        format!("apis/apps/v1/namespaces/{}/deployments/eve-worker-general", ground.namespace);
    let scaled = ground
        .admin
        .send(
            http::Method::PATCH,
            &place,
            "application/merge-patch+json",
            Some(&json!({ "spec": { "replicas": 2 } })),
        )
        .await?;
    ensure!(scaled.is_success(), "{scaled}");
    values["controlPlane"]["retention"] = json!("31d");
    ground.helm(&[&["upgrade", "eve", &chart], &wait[..]].concat(), Some(&values)).await?;
    assert_eq!(ground.deployment("eve-worker-general").await?["spec"]["replicas"], 2);
    ground.helm(&[&["rollback", "eve"], &wait[..]].concat(), None).await?;
    ground.uninstall().await
}

#[tokio::test]
async fn apps_are_deployed_in_the_cluster_that_the_chart_is_in() -> Result<()> {
    let test = "deploying from a pod";
    let Some(ground) = Ground::lay_in(PLATFORM, test).await? else { return Ok(()) };
    let mut values = ground.values();
    // The account and what confines it are there, as `eve cluster manifest` makes them.
    values["controlPlane"]["serviceAccount"] = json!({ "create": false });
    values["workers"] = json!({ "deployment": null, "devops-orchestrator": null });
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    let eve = ground.client().await?;
    let added = eve.json(["cluster", "add", "--id", "local", "--provider", "local"]).await?;
    assert_eq!(added["status"], "ready", "{added}");
    assert_eq!(added["message"], Value::Null, "{added}");
    let id = Uuid::new_v4().simple().to_string();
    let namespace = format!("test-{}", &id[..12]);
    let environment =
        ["env", "create", "--name", "dev", "--cluster", "local", "--namespace", &namespace];
    let made = eve.json(environment).await?;
    assert_eq!(made["status"], "ready", "{made}");
    let deployed = eve
        .bash_for(
            Duration::from_secs(180),
            "eve app create --name api-service
             eve deploy create --app api-service --env dev --image acme/api:v1.2.3 --cpu 5m --wait
             eve deploy delete --app api-service --env dev
             eve env delete dev --force",
        )
        .await?;
    if !deployed.status.success() {
        kubectl().args(["delete", "namespace", &namespace, "--wait=false"]).output()?;
        bail!("{deployed}");
    }
    ground.uninstall().await?;
    Ok(ground.cleared()?)
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
