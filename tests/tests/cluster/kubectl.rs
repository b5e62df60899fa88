//! `eve kubectl` with the real kubectl, and what somebody does to the proxy behind it who wants more.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use eve_host::dev::certificate;
use eve_tests::{Database, Eve, Org, Output, Platform, Process, wait_for};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::api::Cluster;
use crate::{stage, tls, wall};

const CONFIG_MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: greeting}\ndata: {text: TEXT}\n";

#[tokio::test(flavor = "multi_thread")]
async fn people_use_their_own_kubectl_and_get_no_further() -> Result<()> {
    let Some(cluster) = Cluster::of_environment("eve kubectl").await? else { return Ok(()) };
    let Some(kubectl) = std::env::var_os("EVE_TEST_KUBECTL") else {
        eprintln!("SKIPPED: eve kubectl needs a kubectl: name one in EVE_TEST_KUBECTL");
        return Ok(());
    };
    let ground = Ground::prepare(&cluster, Path::new(&kubectl)).await?;
    let went = attempt(&ground).await;
    let struck = ground.strike().await;
    went?;
    struck
}

async fn attempt(ground: &Ground) -> Result<()> {
    reading(ground).await.context("reading")?;
    changing(ground).await.context("changing")?;
    entering(ground).await.context("entering")?;
    refusals(ground).await.context("refusals")?;
    viewers(ground).await.context("viewers")?;
    others(ground).await.context("others")?;
    tricks(ground).await.context("tricks")?;
    other_tools(ground).await.context("other tools")?;
    upgrades(ground).await.context("upgrades")?;
    revoking(ground).await.context("revoking")
}

/// A platform with the environment `dev`, in which the app `api` runs.
struct Ground {
    platform: Platform,
    database: Database,
    address: String,
    token: String,
    namespace: String,
    /// Where `eve kubectl` may leave things.
    folder: tempfile::TempDir,
}

impl Ground {
    async fn prepare(cluster: &Cluster, kubectl: &Path) -> Result<Ground> {
        let admin = cluster.admin()?;
        let id = Uuid::new_v4().simple().to_string();
        let namespace = format!("kubectl-{}", &id[..8]);
        wall::stand(&admin, &namespace).await?;
        let database = Database::fresh().await?;
        let folder = tempfile::tempdir()?;
        let eve = Eve::on(&database)?
            .env("EVE_SEALING_KEY", "HRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEAHh8=")
            .env("EVE_KUBECTL", kubectl.to_string_lossy())
            .env("TMPDIR", folder.path().to_string_lossy());
        let mut platform = Platform::of(eve, database.url(), &[]).await?;
        let address = platform.servers()[0].url().replace("http://", "");
        let token = folder.path().join("account-token").to_string_lossy().into_owned();
        std::fs::write(&token, stage::account_token(&admin).await?)?;
        let script = format!(
            "eve cluster add --id local --kubeconfig '{}' --token-file '{token}' >/dev/null
             eve env create --name dev --cluster local --namespace {namespace} >/dev/null
             eve app create --name api >/dev/null
             eve deploy create --app api --env dev --image acme/api:v1.2.3 --wait >/dev/null",
            std::env::var("EVE_TEST_KUBECONFIG")?
        );
        let mut ground =
            Ground { platform, database, address, token: String::new(), namespace, folder };
        ground.run(&script).await?;
        std::fs::remove_file(&token)?;
        ground.token = ground.new_token("--role owner").await?;
        Ok(ground)
    }

    fn eve(&self) -> &Eve {
        self.platform.eve()
    }

    /// A script that has to succeed.
    async fn run(&self, script: &str) -> Result<Output> {
        let output = self.eve().bash(script).await?;
        ensure!(output.status.success(), "{script}\n{output}");
        Ok(output)
    }

    /// `eve kubectl --env dev`, which has to succeed; what it answers.
    async fn kubectl(&self, arguments: &str) -> Result<String> {
        Ok(self.run(&format!("eve kubectl --env dev {arguments}")).await?.stdout)
    }

    /// The same, which has to fail; what it says.
    async fn refused(&self, arguments: &str) -> Result<String> {
        let script = format!("eve kubectl --env dev {arguments}");
        let output = self.eve().bash(&script).await?;
        ensure!(!output.status.success(), "{script} succeeded:\n{output}");
        Ok(output.stderr)
    }

    /// One that goes on, with the token of somebody.
    fn start(&self, token: &str, arguments: &[&str]) -> Result<Process> {
        let head = ["kubectl", "--token", token, "--env", "dev"];
        self.eve().start(head.iter().chain(arguments))
    }

    async fn new_token(&self, flags: &str) -> Result<String> {
        let made =
            self.run(&format!("eve token create t-{} {flags}", Uuid::new_v4())).await?.json()?;
        Ok(made["token"].as_str().or(made["secret"].as_str()).context("a token")?.to_owned())
    }

    /// Sends bytes to the server, and takes what comes back until it hangs up.
    async fn raw(&self, request: &[u8]) -> Result<String> {
        self.raw_until(request, |_| false).await
    }

    /// The same, until it is enough.
    async fn raw_until(&self, request: &[u8], enough: fn(&str) -> bool) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        // It may have had enough before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let patience = std::time::Duration::from_secs(20);
        loop {
            match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
                Ok(Ok(count)) if count > 0 => answer.extend_from_slice(&buffer[..count]),
                _ => break,
            }
            if enough(&String::from_utf8_lossy(&answer)) {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A request with these headers; its status and its body.
    async fn ask(&self, line: &str, headers: &[(&str, &str)]) -> Result<(u16, Value)> {
        let mut text =
            format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        answer(&self.raw(format!("{text}\r\n").as_bytes()).await?)
    }

    async fn ask_as(&self, token: &str, line: &str) -> Result<(u16, Value)> {
        self.ask(line, &[("Authorization", &format!("Bearer {token}"))]).await
    }

    /// The audit log's rows of an action: target, phase, code and how it ended.
    async fn audited(&self, action: &str) -> Result<Vec<(String, Value)>> {
        let rows: Vec<(String, Value)> = sqlx::query_as(
            "SELECT target, details FROM eve.audit_log WHERE action = $1 ORDER BY id",
        )
        .bind(action)
        .fetch_all(self.platform.pool())
        .await?;
        Ok(rows)
    }

    async fn strike(self) -> Result<()> {
        let deleted = self.run("eve env delete dev --force").await;
        drop(self.platform);
        drop(self.database);
        deleted.map(drop)
    }
}

/// Status and JSON of an answer.
fn answer(text: &str) -> Result<(u16, Value)> {
    let status = text.split(' ').nth(1).with_context(|| format!("no answer: {text:?}"))?.parse()?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => joined(body),
        false => body.to_owned(),
    };
    Ok((status, serde_json::from_str(&body).unwrap_or_default()))
}

/// A body that has come in chunks.
fn joined(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, chunk)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or_default();
        let Some(part) = chunk.get(..size).filter(|part| !part.is_empty()) else { break };
        whole += part;
        rest = chunk[size..].trim_start_matches("\r\n");
    }
    whole
}

async fn reading(ground: &Ground) -> Result<()> {
    let pods = ground.kubectl("get pods -o name").await?;
    ensure!(pods.starts_with("pod/api-"), "{pods}");
    let described = ground.kubectl("describe deployment api").await?;
    ensure!(described.contains("acme/api:v1.2.3"), "{described}");
    let rollout = ground.kubectl("rollout status deployment/api --timeout=60s").await?;
    ensure!(rollout.contains("successfully rolled out"), "{rollout}");
    let logs = ground.kubectl("logs deployment/api --tail=-1").await?;
    ensure!(logs.contains("web v1.2.3: starting"), "{logs}");
    let may = ground.kubectl("auth can-i create deployments").await?;
    ensure!(may.trim() == "yes", "{may}");
    let explained = ground.kubectl("explain deployment.spec.replicas").await?;
    ensure!(explained.contains("replicas <integer>"), "{explained}");
    // Exit codes are kubectl's, and nothing is left behind.
    let missing = ground.eve().bash("eve kubectl --env dev get pod nobody").await?;
    ensure!(missing.status.code() == Some(1), "{missing}");
    ensure!(missing.stderr.contains("pods \"nobody\" not found"), "{missing}");
    let left: Vec<_> = std::fs::read_dir(ground.folder.path())?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with("eve-kubectl-"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    // No token is in what kubectl has.
    let config = ground.kubectl("config view --raw -o json").await?;
    ensure!(!config.contains("eve_"), "{config}");
    // Reads are in no audit log.
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM eve.audit_log WHERE action LIKE 'kube.%'")
            .fetch_one(ground.platform.pool())
            .await?;
    ensure!(rows == 0, "{rows} rows for reads");
    Ok(())
}

async fn changing(ground: &Ground) -> Result<()> {
    let apply = async |text: &str, flags: &str| {
        let manifest = CONFIG_MAP.replace("TEXT", text);
        ground
            .run(&format!("eve kubectl --env dev apply {flags} -f - <<'END'\n{manifest}END"))
            .await
    };
    let text = "get configmap greeting -o 'jsonpath={.data.text}'";
    apply("hello", "").await?;
    ensure!(ground.kubectl(text).await? == "hello");
    apply("hullo", "").await?;
    ensure!(ground.kubectl(text).await? == "hullo");
    apply("hi", "--server-side --force-conflicts").await?;
    ensure!(ground.kubectl(text).await? == "hi");
    apply("nothing", "--server-side --force-conflicts --dry-run=server").await?;
    ensure!(ground.kubectl(text).await? == "hi");
    ground.kubectl("delete configmap greeting").await?;

    let created = ground.audited("kube.create").await?;
    ensure!(created.len() == 2, "{created:?}");
    let (target, begun) = &created[0];
    ensure!(target == "dev/configmaps" && begun["phase"] == "begun", "{created:?}");
    let ended = &created[1].1;
    ensure!(ended["phase"] == "ended" && ended["code"] == 201, "{ended}");
    ensure!(ended["namespace"] == ground.namespace && ended["identity"] == "editor", "{ended}");
    ensure!(ended["milliseconds"].is_u64(), "{ended}");
    let patched = ground.audited("kube.patch").await?;
    // kubectl takes over its own fields of before with a patch more.
    ensure!(patched.len() >= 6 && patched.len() % 2 == 0, "{patched:?}");
    ensure!(patched.iter().all(|(target, _)| target == "dev/configmaps/greeting"), "{patched:?}");
    let last = patched.last().map(|(_, row)| row["dry_run"] == true);
    ensure!(last == Some(true), "{patched:?}");
    let deleted = ground.audited("kube.delete").await?;
    ensure!(deleted.len() == 2 && deleted[1].1["code"] == 200, "{deleted:?}");
    Ok(())
}

async fn entering(ground: &Ground) -> Result<()> {
    let version = ground.kubectl("exec deployment/api -- /web version").await?;
    ensure!(version.trim() == "v1.2.3", "{version}");
    let env = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false";
    let spdy = format!("{env} eve kubectl --env dev exec deployment/api -- /web version");
    let version = ground.run(&spdy).await?.stdout;
    ensure!(version.trim() == "v1.2.3", "over SPDY: {version}");
    let terminal =
        ground.eve().on_terminal(100, "kubectl --env dev exec -it deployment/api -- /web version");
    let terminal = terminal.await?;
    ensure!(terminal.stdout.contains("v1.2.3"), "on a terminal: {terminal}");
    let failed =
        ground.eve().bash("eve kubectl --env dev exec deployment/api -- /web what").await?;
    ensure!(failed.status.code() == Some(2), "the code of the command: {failed}");

    let mut logs = ground.start(&ground.token, &["logs", "-f", "deployment/api"])?;
    wait_for("the log's beginning", async || logs.log().contains("starting").then_some(())).await;
    let mut forward = ground.start(&ground.token, &["port-forward", "deployment/api", ":8080"])?;
    let port = wait_for("a forwarded port", async || forwarded(&forward)).await;
    let answer: Value = eve_tests::http_client()?
        .get(format!("http://127.0.0.1:{port}/through-the-proxy"))
        .send()
        .await?
        .json()
        .await?;
    ensure!(answer["version"] == "v1.2.3", "{answer}");
    wait_for("the line in the log", async || {
        logs.log().contains("GET /through-the-proxy").then_some(())
    })
    .await;
    // Signals reach kubectl: it ends, and eve with it.
    forward.interrupt();
    forward.wait().await;
    logs.terminate();
    logs.wait().await;

    let entered = wait_for("the ends in the audit log", async || {
        let rows = ground.audited("kube.exec").await.ok()?;
        (rows.iter().filter(|(_, row)| row["phase"] == "ended").count() >= 4).then_some(rows)
    })
    .await;
    let codes = entered.iter().filter(|(_, row)| row["code"] == 101 && row["how"] == "closed");
    ensure!(codes.count() >= 4, "{entered:?}");
    ensure!(entered.iter().all(|(target, _)| target.starts_with("dev/pods/api-")), "{entered:?}");
    ensure!(!format!("{entered:?}").contains("version"), "words of commands: {entered:?}");
    ensure!(!ground.audited("kube.port_forward").await?.is_empty());
    Ok(())
}

fn forwarded(process: &Process) -> Option<u16> {
    let log = process.log();
    let (_, rest) = log.split_once("Forwarding from 127.0.0.1:")?;
    rest.split_once(" ->")?.0.parse().ok()
}

async fn refusals(ground: &Ground) -> Result<()> {
    let secrets = ground.refused("get secrets").await?;
    ensure!(secrets.contains("Forbidden") && secrets.contains("cannot list resource"), "{secrets}");
    let nodes = ground.refused("get nodes").await?;
    ensure!(nodes.contains("Forbidden"), "{nodes}");
    let all = ground.refused("get pods --all-namespaces").await?;
    ensure!(all.contains("Forbidden"), "{all}");
    let elsewhere = ground.refused("get pods --namespace kube-system").await?;
    ensure!(elsewhere.contains("is not this environment's namespace"), "{elsewhere}");
    let managed = ground.refused("label deployment api colour=red").await?;
    ensure!(managed.contains("managed by Eve Horizon, use `eve deploy`"), "{managed}");
    let somebody = ground.refused("get pods --as system:admin").await?;
    ensure!(somebody.contains("nobody can act as somebody else"), "{somebody}");
    let created = ground.refused("create namespace mine").await?;
    ensure!(created.contains("nothing outside this environment's namespace"), "{created}");
    let raw = format!("get --raw /api/v1/namespaces/{}/services/api/proxy", ground.namespace);
    let proxied = ground.refused(&raw).await?;
    ensure!(proxied.contains("use `port-forward`"), "{proxied}");
    // A change that was refused is in the log as well.
    let patched = ground.audited("kube.patch").await?;
    let denied = patched.iter().any(|(target, row)| {
        target == "dev/deployments/api" && row["code"].as_u64().is_some_and(|code| code >= 400)
    });
    ensure!(denied, "{patched:?}");
    // Without a kubectl there is advice.
    let absent =
        ground.eve().bash("EVE_KUBECTL=no-such-kubectl eve kubectl --env dev get pods").await?;
    ensure!(absent.status.code() == Some(1), "{absent}");
    ensure!(absent.stderr.contains("install kubectl"), "{absent}");
    let nowhere = ground.eve().bash("eve kubectl --env nowhere get pods").await?;
    ensure!(nowhere.status.code() == Some(3), "{nowhere}");
    let plain = ground.eve().bash("eve env kubeconfig dev").await?;
    ensure!(plain.status.code() == Some(2) && plain.stderr.contains("is not https"), "{plain}");
    let credential = ground.run("eve env credential").await?.json()?;
    ensure!(credential["kind"] == "ExecCredential", "{credential}");
    ensure!(credential["status"]["token"].as_str().is_some_and(|it| it.starts_with("eve_")));
    Ok(())
}

async fn viewers(ground: &Ground) -> Result<()> {
    let token = ground.new_token("--scope deployments:read").await?;
    let as_viewer = async |arguments: &str| {
        let script = format!("EVE_TOKEN={token} eve kubectl --env dev {arguments}");
        ground.eve().bash(&script).await
    };
    let pods = as_viewer("get pods").await?;
    ensure!(pods.status.success(), "{pods}");
    for arguments in [
        "create configmap mine --from-literal=a=b",
        "delete pod --all",
        "exec deployment/api -- /web version",
        "port-forward deployment/api :8080",
        "get secrets",
    ] {
        let refused = as_viewer(arguments).await?;
        ensure!(!refused.status.success(), "{arguments}: {refused}");
        ensure!(refused.stderr.to_lowercase().contains("forbidden"), "{arguments}: {refused}");
    }
    let blind = ground.new_token("--scope requests:read").await?;
    let (status, said) = ground.ask_as(&blind, "GET /v1/envs/dev/kube/api").await?;
    ensure!(status == 403 && said["kind"] == "Status", "{status} {said}");
    ensure!(said["message"] == "this token lacks the scope `deployments:read`", "{said}");
    Ok(())
}

async fn others(ground: &Ground) -> Result<()> {
    let other = Org::create_in(ground.platform.pool(), "other").await?;
    let script = format!("EVE_TOKEN={} eve kubectl --env dev get pods", other.token);
    let output = ground.eve().bash(&script).await?;
    ensure!(output.status.code() == Some(3), "{output}");
    let pods = format!("api/v1/namespaces/{}/pods", ground.namespace);
    for place in ["/v1/envs/dev/kube", "/v1/orgs/dev/envs/dev/kube", "/v1/orgs/other/envs/dev/kube"]
    {
        let (status, said) = ground.ask_as(&other.token, &format!("GET {place}/{pods}")).await?;
        ensure!(status == 404 && said["kind"] == "Status", "{place}: {status} {said}");
    }
    // The organisation can stand in the path, and only agree with a header.
    let own = format!("GET /v1/orgs/dev/envs/dev/kube/{pods}");
    let (status, said) = ground.ask_as(&ground.token, &own).await?;
    ensure!(status == 200 && said["kind"] == "PodList", "{status} {said}");
    let bearer = format!("Bearer {}", ground.token);
    let both = [("Authorization", bearer.as_str()), ("Eve-Org", "other")];
    ensure!(ground.ask(&own, &both).await?.0 == 400);
    Ok(())
}

/// A kubeconfig, used by kubectl alone, against a control plane that has a certificate.
async fn other_tools(ground: &Ground) -> Result<()> {
    let folder = ground.folder.path();
    let made = certificate::ensure(folder, [127, 0, 0, 1].into())?;
    let files = made.files.key.to_string_lossy();
    let address = eve_tests::free_address()?;
    let serve = ["serve", "--listen", &address, "--tls-cert", &files, "--tls-key", &files];
    let mut server = ground.eve().start(serve)?;
    wait_for("a control plane with a certificate", async || {
        assert_eq!(server.ended().ok().flatten(), None, "{}", server.log());
        TcpStream::connect(&address).await.ok()
    })
    .await;
    let authority = made.authority_file.display();
    let login =
        format!("eve --url https://{address} login --name tls --ca-file '{authority}' >/dev/null");
    ground.run(&login).await?;
    tls::tools(ground.eve(), folder, &format!("--url https://{address}")).await?;
    server.terminate();
    let status = server.wait().await;
    ensure!(status.success(), "{status}: {}", server.log());
    Ok(())
}

async fn tricks(ground: &Ground) -> Result<()> {
    let ns = ground.namespace.as_str();
    let bearer = format!("Bearer {}", ground.token);
    let authorized = ("Authorization", bearer.as_str());
    for (path, expected) in [
        (format!("api/v1/namespaces/{ns}/../kube-system/secrets"), 400),
        (format!("api/v1/namespaces/{ns}/%2e%2e/kube-system/secrets"), 400),
        (format!("api/v1/namespaces/{ns}/..%2fkube-system%2fsecrets"), 400),
        (format!("api/v1/namespaces/{ns}/pods%00"), 400),
        (format!("api/v1/namespaces/{ns}/pods%252f"), 400),
        (format!("api/v1/namespaces/{ns}//pods"), 400),
        (format!("/api/v1/namespaces/{ns}/pods"), 400),
        (format!("api/v1/namespaces/{ns}/pods/"), 400),
        (format!("api/v1/namespaces/{ns}/./pods"), 400),
        (format!("api/v1/namespaces/{ns}/pods;a=b"), 400),
        (format!("api/v1/namespaces/{ns}\\pods"), 400),
        ("api/v1/namespaces/kube-system/secrets".to_owned(), 403),
        ("../../../me".to_owned(), 400),
        ("%2e%2e/%2e%2e/me".to_owned(), 400),
        ("metrics".to_owned(), 403),
        ("api/v1/nodes/node-1/proxy/logs".to_owned(), 403),
        (format!("api/v1/namespaces/{ns}/pods/x/proxy"), 403),
        (format!("api/v1/watch/namespaces/{ns}/secrets"), 403),
        // RBAC's own answers.
        ("api/v1/secrets".to_owned(), 403),
        ("api/v1/nodes".to_owned(), 403),
        (format!("api/v1/namespaces/{ns}/secrets"), 403),
        (format!("api/v1/namespaces/{ns}/serviceaccounts/default"), 403),
    ] {
        let line = format!("GET /v1/envs/dev/kube/{path}");
        let (status, said) = ground.ask(&line, &[authorized]).await?;
        ensure!(status == expected, "{line}: {status} {said}");
        ensure!(said["kind"] == "Status" && said["code"] == expected, "{line}: {said}");
    }
    let pods = format!("GET /v1/envs/dev/kube/api/v1/namespaces/{ns}/pods");
    for (headers, expected) in [
        (vec![], 401),
        (vec![("Cookie", "session=x")], 400),
        (vec![authorized, ("Cookie", "session=x")], 400),
        (vec![authorized, authorized], 401),
        (vec![("Authorization", "Basic eDp5")], 401),
        (vec![authorized, ("Impersonate-User", "system:admin")], 403),
        (vec![authorized, ("Impersonate-Group", "system:masters")], 403),
        (vec![authorized, ("Content-Encoding", "gzip")], 415),
        // Nothing of these arrives: the answer is the caller's own.
        (
            vec![
                authorized,
                ("X-Remote-User", "system:admin"),
                ("X-Remote-Group", "system:masters"),
            ],
            200,
        ),
        (
            vec![authorized, ("X-Http-Method-Override", "DELETE"), ("X-Original-Url", "/metrics")],
            200,
        ),
        (vec![authorized, ("Connection", "Authorization")], 200),
    ] {
        let (status, said) = ground.ask(&pods, &headers).await?;
        ensure!(status == expected, "{headers:?}: {status} {said}");
    }
    let remote = [authorized, ("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")];
    let secrets = format!("GET /v1/envs/dev/kube/api/v1/namespaces/{ns}/secrets");
    ensure!(ground.ask(&secrets, &remote).await?.0 == 403);
    for method in ["HEAD", "OPTIONS", "TRACE", "PROPFIND"] {
        let line = format!("{method} /v1/envs/dev/kube/api");
        ensure!(ground.ask(&line, &[authorized]).await?.0 == 405, "{method}");
    }

    // Too much, and two requests in one.
    let long = "a".repeat(5_000);
    ensure!(ground.ask(&pods, &[authorized, ("Accept", &long)]).await?.0 == 400);
    let huge = "a".repeat(600_000);
    ensure!([400, 431].contains(&ground.ask(&pods, &[authorized, ("X", &huge)]).await?.0));
    let post = format!("POST /v1/envs/dev/kube/api/v1/namespaces/{ns}/configmaps");
    let big = "a".repeat(4 << 20);
    let head =
        format!("{post} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {bearer}\r\n");
    let body = format!(
        "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{big}",
        big.len()
    );
    let (status, said) = answer(&ground.raw(body.as_bytes()).await?)?;
    ensure!(status == 413 && said["kind"] == "Status", "{status} {said}");
    let inner = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let smuggled =
        format!("{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",);
    let text = ground.raw(smuggled.as_bytes()).await?;
    ensure!(!text.contains("apiserver_") && !text.contains(" 200 "), "{text}");
    let spaced = format!("{head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}");
    let text = ground.raw(spaced.as_bytes()).await?;
    ensure!(!text.contains(" 200 "), "{text}");
    Ok(())
}

async fn upgrades(ground: &Ground) -> Result<()> {
    let ns = ground.namespace.as_str();
    let pod = ground.kubectl("get pods -o name").await?;
    let pod = pod.lines().next().unwrap_or_default().replace("pod/", "pods/");
    let send = async |path: &str, upgrade: &str, protocol: &str, then: &str| {
        let text = format!(
            "GET /v1/envs/dev/kube/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Connection: Upgrade\r\nUpgrade: {upgrade}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n{then}",
            ground.token
        );
        ground.raw_until(text.as_bytes(), |said| said.contains("v1.2.3")).await
    };
    let own = format!("api/v1/namespaces/{ns}");
    let exec = format!("{own}/{pod}/exec?command=/web&command=version&stdout=true");
    let v5 = "v5.channel.k8s.io";
    let done = send(&exec, "websocket", v5, "").await?;
    ensure!(done.starts_with("HTTP/1.1 101 ") && done.contains("v1.2.3"), "{done:?}");
    let next = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (path, upgrade, protocol, expected) in [
        (exec.as_str(), "h2c", v5, 400),
        (&exec, "websocket", "base64url.bearer.authorization.k8s.io.c2VjcmV0", 400),
        (
            &exec,
            "websocket",
            "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0",
            400,
        ),
        (&format!("{own}/pods?watch=true"), "websocket", v5, 400),
        (&format!("{own}/{pod}/log?follow=true"), "websocket", v5, 400),
        // The cluster does not agree: what follows is a request to us, and not to it.
        (&format!("{own}/pods/nobody/exec?command=x&stdout=true"), "websocket", v5, 404),
        (&format!("{own}/{pod}/exec"), "websocket", v5, 400),
    ] {
        let text = send(path, upgrade, protocol, next).await?;
        ensure!(text.starts_with(&format!("HTTP/1.1 {expected} ")), "{path} {upgrade}: {text}");
        ensure!(!text.contains("apiserver_"), "{path}: {text}");
    }
    let (status, said) =
        ground.ask_as(&ground.token, &format!("GET /v1/envs/dev/kube/{exec}")).await?;
    ensure!(status == 400 && said["kind"] == "Status", "{status} {said}");
    Ok(())
}

async fn revoking(ground: &Ground) -> Result<()> {
    let made = ground.run("eve token create leaving --role member").await?.json()?;
    let secret = made["token"].as_str().or(made["secret"].as_str()).context("a token")?.to_owned();
    let listed = ground.run("eve token list").await?.json()?;
    let id = listed["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|token| token["name"] == "leaving")
        .and_then(|token| token["id"].as_str())
        .context("its id")?
        .to_owned();
    let mut logs = ground.start(&secret, &["logs", "-f", "deployment/api"])?;
    let mut attached = ground.start(&secret, &["attach", "deployment/api"])?;
    wait_for("the log's beginning", async || logs.log().contains("starting").then_some(())).await;
    wait_for("the attachment", async || {
        let rows = ground.audited("kube.attach").await.ok()?;
        (!rows.is_empty()).then_some(())
    })
    .await;
    ensure!(logs.ended()?.is_none(), "{}", logs.log());
    ground.run(&format!("eve token revoke {id}")).await?;
    let status = logs.wait().await;
    ensure!(!status.success(), "what was cut off passed for the whole: {}", logs.log());
    attached.wait().await;
    wait_for("how it ended in the audit log", async || {
        let rows = ground.audited("kube.attach").await.ok()?;
        rows.iter().any(|(_, row)| row["how"] == "revoked").then_some(())
    })
    .await;
    let (status, _) = ground.ask_as(&secret, "GET /v1/envs/dev/kube/api").await?;
    ensure!(status == 401);

    // The environment goes, and what is open in it.
    let mut watch = ground.start(&ground.token, &["get", "configmaps", "--watch", "-o", "name"])?;
    wait_for("the watch", async || watch.log().contains("configmap/").then_some(())).await;
    ground.run("eve env delete dev --force --no-wait").await?;
    watch.wait().await;
    Ok(())
}
