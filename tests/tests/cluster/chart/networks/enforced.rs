//! What NetworkPolicies say, where something enforces them: `scripts/network-proof` finds it so, and the platform
//! works none the less.
//!
//! Flow: the real chart is installed, and makes an environment with an app in it; what else a cluster has - DNS,
//! an ingress controller, the public internet, a cloud's metadata, the Postgres that comes along - is played by
//! pods that answer. Then the proof, with policies as they are, looser, and tighter.
//!
//! `scripts/cluster enforcing` has kube-router enforce policies, and says who does in `EVE_TEST_ENFORCING`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eve_tests::{Eve, skill, wait_for};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{BRIDGE, Ground, PLATFORM, TIMEOUT, chart, kubectl};
use super::{POLICIES, bundled, pod, proof};
use crate::api::{Caller, Cluster, path};
use crate::environment;

/// Where the proof looks for the ingress controller. Beside it is whoever is no part of the platform.
const INGRESS: &str = "ingress-nginx";
const SYSTEM: &str = "kube-system";
/// Addresses of the node, while policies are enforced; see tests/cluster/enforcing.sh.
const PUBLIC: &str = "1.1.1.1:80";
/// Of what a test puts into namespaces that others use.
const MARK: &str = "eve-horizon.dev/test=enforced";

/// All that the proof tries, where there is everything that it looks for.
const ROWS: usize = 31;

#[tokio::test]
async fn what_is_said_is_enforced_and_the_platform_works() -> Result<()> {
    let test = "enforcing NetworkPolicies";
    if std::env::var("EVE_TEST_ENFORCING").unwrap_or_default().is_empty() {
        eprintln!("SKIPPED: {test} needs who enforces them, which `just test-enforcing` runs");
        return Ok(());
    }
    let Some(cluster) = Cluster::of_environment(test).await? else { return Ok(()) };
    let Some(ground) = Ground::lay_in(PLATFORM, test).await? else { return Ok(()) };
    let pulled = std::process::Command::new("busybox").output();
    pulled.context("scripts/network-proof needs a BusyBox here: apt-get install busybox")?;
    let id = Uuid::new_v4().simple().to_string();
    let environment = format!("test-{}", &id[..12]);
    let tight = format!("{environment}-tight");
    let around = Around { environments: [environment.clone(), tight.clone()] };
    around.cleared()?;
    let values = ground.values_of_one_pool();
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;

    let eve = ground.client().await?;
    eve.push(&skill("echo")?).await?;
    a_request_completes(&ground, &eve).await?;
    an_app_is_reached_by_whom_it_should(&ground, &eve, &environment).await?;
    surround(&ground).await?;

    let (code, rows) = tried(&ground, &environment, "30").await?;
    println!("{}", rows.join("\n"));
    assert_eq!(wrong(&rows), [] as [&str; 0]);
    assert_eq!((code, rows.len()), (Some(0), ROWS), "{rows:#?}");

    what_opens_is_noticed(&ground, &environment).await?;
    what_shuts_is_noticed(&ground, &cluster, &tight).await?;

    // Once the control plane is reached again.
    let eve = ground.client().await?;
    a_request_completes(&ground, &eve).await?;
    let deleted = eve
        .bash("eve deploy delete --app api-service --env dev && eve env delete dev --force")
        .await?;
    ensure!(deleted.status.success(), "{deleted}");
    ground.uninstall_beside(&["pod/eve-postgres-0", "networkpolicy/eve-postgres"]).await?;
    Ok(ground.cleared()?)
}

async fn what_opens_is_noticed(ground: &Ground, environment: &str) -> Result<()> {
    // Not all: where everything is open, the proof says that nothing is enforced.
    let (out, into) = (json!({ "egress": [{}] }), json!({ "ingress": [{}] }));
    let looser = [("eve-worker", &out), ("eve-control-plane", &out), ("eve-postgres", &into)];
    let mut changes = Vec::new();
    for (policy, rules) in looser {
        changes.push(Change::make(&ground.admin, PLATFORM, policy, rules).await?);
    }
    let everything = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "everything", "namespace": environment },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}] },
    });
    apply(&ground.admin, &everything).await?;
    let (code, rows) = tried(ground, environment, "3").await?;
    assert_eq!(
        wrong(&rows),
        [
            "outside to a pod of an environment is open",
            "worker to the control plane is open",
            "worker to the API server is open",
            "worker to a pod elsewhere is open",
            "worker to a pod of an environment is open",
            "control-plane to a pod elsewhere is open",
            "environment to the control plane is open",
            "environment to the API server is open",
            "environment to a pod elsewhere is open",
            "environment to the database is open",
            "outside to the database that came along is open",
            "beside to the database that came along is open",
            "worker to the cloud's metadata is open",
            "control-plane to the cloud's metadata is open",
            "environment to the cloud's metadata is open",
        ]
    );
    assert_eq!((code, rows.len()), (Some(1), ROWS));
    let deleted = ground.admin.delete(&path(&everything, environment, true)).await?;
    ensure!(deleted.is_success(), "{deleted}");
    for change in changes {
        change.undo(&ground.admin).await?;
    }
    Ok(())
}

/// In an environment of the test's own: the platform looks after what it has made, and would mend it meanwhile.
async fn what_shuts_is_noticed(ground: &Ground, cluster: &Cluster, tight: &str) -> Result<()> {
    let plane = environment::control_plane(cluster).await?;
    environment::provision(&plane, tight).await?;
    // Both directions: kube-router lets pods of one policy reach each other by either.
    let neither = json!({ "ingress": [], "egress": [] });
    let tighter =
        [(PLATFORM, "eve-worker"), (PLATFORM, "eve-control-plane"), (tight, "tenant-isolation")];
    let mut changes = Vec::new();
    for (namespace, policy) in tighter {
        changes.push(Change::make(&ground.admin, namespace, policy, &neither).await?);
    }
    let (code, rows) = tried(ground, tight, "3").await?;
    assert_eq!(
        wrong(&rows),
        [
            "outside to the control plane is shut",
            "control-plane to the API server is shut",
            "environment to another pod of it is shut",
            "worker to the database is shut",
            "control-plane to the database is shut",
            "worker to DNS is shut",
            "control-plane to DNS is shut",
            "environment to DNS is shut",
            "ingress to a pod of an environment is shut",
            "environment to the public internet is shut",
        ]
    );
    assert_eq!((code, rows.len()), (Some(1), ROWS));
    for change in changes {
        change.undo(&ground.admin).await?;
    }
    environment::remove(&plane, tight).await
}

/// Worker and control plane reach their database, and clients the control plane.
async fn a_request_completes(ground: &Ground, eve: &Eve) -> Result<()> {
    let create = "eve request create --worker-type general --skill echo --prompt hello --wait";
    let request = eve.bash(create).await?.json()?;
    let pod = ground.pod_of(&request).await?;
    ensure!(pod.starts_with("eve-worker-general-"), "it ran in {pod}");
    Ok(())
}

/// An app is deployed and ready; its neighbour reaches it, and neither a pod elsewhere nor the machine does.
async fn an_app_is_reached_by_whom_it_should(
    ground: &Ground,
    eve: &Eve,
    environment: &str,
) -> Result<()> {
    let deployed = eve
        .bash_for(
            Duration::from_secs(120),
            &format!(
                "eve cluster add --id local --provider local
                 eve env create --name dev --cluster local --namespace {environment}
                 eve app create --name api-service
                 eve deploy create --app api-service --env dev --image acme/api:v1.2.3 --cpu 5m --wait"
            ),
        )
        .await?;
    ensure!(deployed.status.success(), "{deployed}");
    let admin = &ground.admin;
    let namespace = json!({ "metadata": { "name": INGRESS } });
    let made = admin.create("api/v1/namespaces", &namespace).await?;
    ensure!(made.is_success(), "{made}");
    apply(admin, &pod("neighbour", environment, &json!({}))).await?;
    apply(admin, &pod("stranger", INGRESS, &json!({ "app": "stranger" }))).await?;
    for (namespace, name) in [(environment, "neighbour"), (INGRESS, "stranger")] {
        started(admin, namespace, name).await;
    }

    let place = format!("api/v1/namespaces/{environment}/services/api-service");
    let service = admin.get(&place).await?.json()?;
    let address = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?;
    let port = &service["spec"]["ports"][0]["port"];
    let url = format!("http://{address}:{port}/");
    wait_for("the neighbour to reach the app", async || {
        let (reached, said) = get(environment, "neighbour", &url).await.ok()?;
        (reached && said.contains("v1.2.3")).then_some(())
    })
    .await;
    let (reached, said) = get(INGRESS, "stranger", &url).await?;
    ensure!(!reached && said.contains("connection refused"), "{said}");
    let asked = eve_tests::http_client()?.get(&url).send().await;
    ensure!(asked.is_err_and(|error| error.is_connect()), "the machine reaches the app");
    Ok(())
}

/// What a pod is answered: whether it was, and what it says.
async fn get(namespace: &str, name: &str, url: &str) -> Result<(bool, String)> {
    let mut command = tokio::process::Command::from(kubectl());
    command.args(["--namespace", namespace, "exec", name, "--", "/web", "get", url]);
    let output = command.kill_on_drop(true).output().await?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Whoever answers where the proof asks, and is not of the platform.
async fn surround(ground: &Ground) -> Result<()> {
    let admin = &ground.admin;
    let (policy, mut postgres) = bundled(ground).await?;
    let container = &mut postgres["spec"]["containers"][0];
    container["image"] = json!("eve.local/busybox:1");
    container["command"] = json!(["httpd", "-f", "-p", "5432", "-h", "/"]);
    // Its password is a key of a Secret that has none here.
    container["env"] = Value::Null;
    mark(&mut postgres);
    let mut dns = answering("kube-dns-of-a-test", "53");
    dns["metadata"]["labels"] = json!({ "k8s-app": "kube-dns" });
    let mut world = answering("world-of-a-test", "80");
    world["spec"]["hostNetwork"] = json!(true);
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "kube-dns-of-a-test", "namespace": SYSTEM, "labels": { "k8s-app": "kube-dns" } },
        "spec": {
            "selector": { "k8s-app": "kube-dns" },
            "ports": [{ "name": "dns-tcp", "port": 53, "protocol": "TCP" }],
        },
    });
    for object in [&mut dns, &mut world, &mut service] {
        mark(object);
    }
    for object in [&policy, &postgres, &dns, &world, &service] {
        apply(admin, object).await?;
    }
    started(admin, PLATFORM, "eve-postgres-0").await;
    for name in ["kube-dns-of-a-test", "world-of-a-test"] {
        started(admin, SYSTEM, name).await;
    }
    Ok(())
}

/// A pod of the system's that answers on a port of TCP.
fn answering(name: &str, port: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": SYSTEM },
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "answers",
                "image": "eve.local/busybox:1",
                "command": ["httpd", "-f", "-p", port, "-h", "/"],
                "securityContext": { "runAsUser": 0 },
            }],
        },
    })
}

fn mark(object: &mut Value) {
    let (key, value) = MARK.split_once('=').unwrap_or((MARK, ""));
    object["metadata"]["labels"][key] = json!(value);
}

async fn apply(admin: &Caller, object: &Value) -> Result<()> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let made = admin.apply(&path(object, namespace, true), object).await?;
    ensure!(made.is_success(), "{made}");
    Ok(())
}

async fn started(admin: &Caller, namespace: &str, name: &str) {
    wait_for(&format!("{namespace}/{name} to run"), async || {
        let place = format!("api/v1/namespaces/{namespace}/pods/{name}");
        let pod = admin.get(&place).await.ok()?.json().ok()?;
        pod["status"]["containerStatuses"][0]["state"]["running"].is_object().then_some(())
    })
    .await;
}

/// Other rules of a policy, for as long as it takes to see what comes of them.
struct Change {
    place: String,
    before: Value,
}

impl Change {
    /// `rules` are some fields of the policy's `spec`.
    async fn make(admin: &Caller, namespace: &str, policy: &str, rules: &Value) -> Result<Change> {
        let place = format!("{POLICIES}/namespaces/{namespace}/networkpolicies/{policy}");
        let spec = admin.get(&place).await?.json()?["spec"].clone();
        let mut before = rules.clone();
        for (field, value) in before.as_object_mut().into_iter().flatten() {
            *value = spec[field].clone();
        }
        let change = Change { place, before };
        change.put(admin, rules).await?;
        Ok(change)
    }

    async fn undo(self, admin: &Caller) -> Result<()> {
        self.put(admin, &self.before).await
    }

    async fn put(&self, admin: &Caller, rules: &Value) -> Result<()> {
        let kind = "application/merge-patch+json";
        let patch = json!({ "spec": rules });
        let changed = admin.send(Method::PATCH, &self.place, kind, Some(&patch)).await?;
        ensure!(changed.is_success(), "{changed}");
        Ok(())
    }
}

/// What the proof ends with, and its rows.
async fn tried(
    ground: &Ground,
    environment: &str,
    patience: &str,
) -> Result<(Option<i32>, Vec<String>)> {
    let database = format!("{BRIDGE}:{}", ground.port);
    let options = [
        ["--database", &database],
        ["--public", PUBLIC],
        ["--environment", environment],
        ["--patience", patience],
    ];
    let output = proof(ground, &options.concat()).await?;
    let said = String::from_utf8(output.stdout)?;
    let table = said.lines().skip_while(|line| !line.starts_with("FROM")).skip(1);
    let rows: Vec<String> = table.take_while(|line| !line.is_empty()).map(str::to_owned).collect();
    ensure!(!rows.is_empty(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), rows))
}

/// The rows that the proof says are wrong, in words.
fn wrong(rows: &[String]) -> Vec<String> {
    let wrong = rows.iter().filter_map(|row| row.strip_suffix("  <- wrong"));
    wrong
        .map(|row| {
            let (from, to, found) = (&row[..14], &row[15..49], &row[84..]);
            format!("{} to {} is {}", from.trim(), to.trim(), found.trim())
        })
        .collect()
}

/// What this test makes beside its release, which goes whatever comes of the test.
struct Around {
    environments: [String; 2],
}

impl Around {
    fn cleared(&self) -> Result<()> {
        let marked = ["pods,services,networkpolicies", "--all-namespaces", "--selector", MARK];
        let [one, other] = &self.environments;
        let namespaces = ["namespace", INGRESS, one, other];
        for what in [&marked[..], &namespaces] {
            let mut command = kubectl();
            command.arg("delete").args(what).args(["--ignore-not-found", "--now"]);
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        if let Err(error) = self.cleared() {
            eprintln!("what the test has put around the platform stays: {error}");
        }
    }
}
