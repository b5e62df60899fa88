//! NetworkPolicies: whom they select, and whom they mean. That they are enforced is for a network plugin, which
//! this cluster has only while [`enforced`] runs; that they say what they should is seen here, on pods of the real
//! chart and of a real environment. `scripts/network-proof` tries the connections themselves.

mod enforced;

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use eve_tests::wait_for;
use serde_json::{Value, json};

use super::{Ground, TIMEOUT, chart, kubectl, rendered};
use crate::api::{Caller, Cluster, path};
use crate::environment;
use crate::wall;

const POLICIES: &str = "apis/networking.k8s.io/v1";

/// Of what the chart runs, by how the pods of each are named: not by their labels, which are what is tried.
const KINDS: [&str; 3] = ["eve-control-plane-", "eve-worker-", "eve-postgres-"];

/// What a selector selects, as the API server understands it.
async fn selected(
    admin: &Caller,
    kind: &str,
    within: &str,
    selector: &Value,
) -> Result<BTreeSet<String>> {
    let mut terms: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().context("a label")?));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        ensure!(expression["operator"] == "In", "this test does not know {expression}");
        let values = expression["values"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let key = expression["key"].as_str().context("a key")?;
        terms.push(format!("{key} in ({})", values.join(",")));
    }
    let place = if within.is_empty() {
        format!("api/v1/{kind}")
    } else {
        format!("api/v1/namespaces/{within}/{kind}")
    };
    let query: String =
        terms.join(",").bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let found = admin.get(&format!("{place}?labelSelector={query}")).await?.json()?;
    let items = found["items"].as_array().context("a list")?;
    Ok(items
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

/// Every pod of these kinds, by their names.
fn of_kinds(pods: &[Value], kinds: &[&str]) -> BTreeSet<String> {
    let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    names
        .filter(|name| kinds.iter().any(|kind| name.starts_with(kind)))
        .map(str::to_owned)
        .collect()
}

/// Who may have anybody for a peer, on ports that are named: clients and API servers have no labels to go by, and
/// databases are wherever the operator says.
const OPEN: [(&str, &str); 3] =
    [("eve-control-plane", "ingress"), ("eve-control-plane", "egress"), ("eve-worker", "egress")];

/// The peers of all rules of one direction. A rule that names none means everybody.
fn peers(policy: &Value, direction: &str) -> Result<Vec<Value>> {
    let side = if direction == "ingress" { "from" } else { "to" };
    let name = policy["metadata"]["name"].as_str().unwrap_or_default();
    let mut all = Vec::new();
    for rule in policy["spec"][direction].as_array().into_iter().flatten() {
        match rule[side].as_array() {
            Some(peers) if !peers.is_empty() => all.extend(peers.iter().cloned()),
            _ => ensure!(
                OPEN.contains(&(name, direction)) && rule["ports"].is_array(),
                "{name} is open to everybody, {direction}: {rule}"
            ),
        }
    }
    Ok(all)
}

/// A pod as the chart would make it of the Postgres that comes along, which nobody need run to be selected.
async fn bundled(ground: &Ground) -> Result<(Value, Value)> {
    let values = format!("{}/ci/bundled-values.yaml", chart());
    let text = rendered(&ground.helm, &ground.namespace, &values).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let find = |kind: &str, name: &str| {
        let mut all = objects.iter();
        all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .cloned()
            .with_context(|| format!("{kind} {name} is not rendered"))
    };
    let set = find("StatefulSet", "eve-postgres")?;
    let mut spec = set["spec"]["template"]["spec"].clone();
    spec["containers"][0]["image"] = json!("eve.local/pause:1");
    spec["containers"][0]["command"] = Value::Null;
    spec["containers"][0]["args"] = Value::Null;
    spec["containers"][0]["startupProbe"] = Value::Null;
    spec["containers"][0]["readinessProbe"] = Value::Null;
    let volumes = spec["volumes"].as_array_mut().context("volumes")?;
    volumes.push(json!({ "name": "data", "emptyDir": {} }));
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "eve-postgres-0",
            "namespace": ground.namespace,
            "labels": set["spec"]["template"]["metadata"]["labels"],
        },
        "spec": spec,
    });
    Ok((find("NetworkPolicy", "eve-postgres")?, pod))
}

#[tokio::test]
async fn policies_of_the_chart_select_and_mean_the_pods_that_they_should() -> Result<()> {
    let Some(ground) = Ground::lay("reading the chart's NetworkPolicies").await? else {
        return Ok(());
    };
    let mut values = ground.values();
    let scraper = json!({ "namespaceSelector": { "matchLabels": {
        "kubernetes.io/metadata.name": ground.namespace,
    }}});
    values["networkPolicy"] = json!({ "metricsFrom": [scraper] });
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    let (policy, postgres) = bundled(&ground).await?;
    // And somebody who has nothing to do with it.
    let stranger = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "stranger",
            "namespace": ground.namespace,
            "labels": { "app": "stranger", "app.kubernetes.io/name": "stranger" },
        },
        "spec": postgres["spec"],
    });
    for object in [&policy, &postgres, &stranger] {
        let made = ground.admin.apply(&path(object, &ground.namespace, true), object).await?;
        ensure!(made.is_success(), "{made}");
    }
    let admin = &ground.admin;
    let here = ground.namespace.as_str();
    let pods = ground.list("api/v1", "pods").await?;
    for kind in KINDS {
        ensure!(!of_kinds(&pods, &[kind]).is_empty(), "there is no {kind}: {pods:#?}");
    }
    let policies = ground.list(POLICIES, "networkpolicies").await?;
    let names: Vec<_> = policies.iter().filter_map(|it| it["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["eve-control-plane", "eve-postgres", "eve-worker"]);
    for policy in &policies {
        let name = policy["metadata"]["name"].as_str().context("a name")?;
        let meant = of_kinds(&pods, &[&format!("{name}-")]);
        let subject = selected(admin, "pods", here, &policy["spec"]["podSelector"]).await?;
        assert_eq!(subject, meant, "{name} selects");
        ports_exist(policy, &pods, &subject)?;
        for direction in ["ingress", "egress"] {
            for peer in peers(policy, direction)? {
                let whom = format!("{name}, {direction}: {peer}");
                if let Some(cidr) = peer["ipBlock"]["cidr"].as_str() {
                    assert_eq!(cidr, "169.254.20.10/32", "{whom}");
                    continue;
                }
                let namespaces = match &peer["namespaceSelector"] {
                    Value::Null => BTreeSet::from([here.to_owned()]),
                    selector => selected(admin, "namespaces", "", selector).await?,
                };
                let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                match (name, direction) {
                    ("eve-postgres", "ingress") => {
                        assert_eq!(namespaces, [here], "{whom}");
                        let keepers = of_kinds(&pods, &KINDS[..2]);
                        let found = selected(admin, "pods", here, &peer["podSelector"]).await?;
                        assert_eq!(found, keepers, "{whom}");
                    }
                    ("eve-worker", "ingress") => assert_eq!(namespaces, [here], "{whom}"),
                    (_, "egress") => {
                        assert_eq!(namespaces, ["kube-system"], "{whom}");
                        names_service(admin, &peer["podSelector"]).await?;
                    }
                    _ => bail!("nobody said that this is right: {whom}"),
                }
            }
        }
    }
    ground
        .uninstall_beside(&["pod/stranger", "pod/eve-postgres-0", "networkpolicy/eve-postgres"])
        .await
}

/// Ports that a policy names are ports of every pod that it lets in there; `metrics-api`, of control planes
/// that serve it.
fn ports_exist(policy: &Value, pods: &[Value], subject: &BTreeSet<String>) -> Result<()> {
    for rule in policy["spec"]["ingress"].as_array().into_iter().flatten() {
        for port in rule["ports"].as_array().into_iter().flatten() {
            for pod in pods {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                if !subject.contains(name) {
                    continue;
                }
                let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
                let mut ports = containers.filter_map(|it| it["ports"].as_array()).flatten();
                let found = ports.any(|it| {
                    (it["name"] == port["port"] || it["containerPort"] == port["port"])
                        && it["protocol"] == port["protocol"]
                });
                ensure!(found, "{name} has no port {port}");
            }
        }
    }
    Ok(())
}

/// The pods of the cluster's DNS are behind the Service that everybody asks; where it is no pods, as here
/// unless somebody gives the cluster some, the Service is all there is to compare with.
async fn names_service(admin: &Caller, selector: &Value) -> Result<()> {
    assert_eq!(*selector, json!({ "matchLabels": { "k8s-app": "kube-dns" } }));
    let found = selected(admin, "pods", "kube-system", selector).await?;
    let pods = admin.get("api/v1/namespaces/kube-system/pods").await?.json()?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let resolves = name.starts_with("coredns") || name.starts_with("kube-dns");
        assert_eq!(found.contains(name), resolves, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn control_planes_that_serve_metrics_have_the_port_that_is_opened() -> Result<()> {
    let test = "reading policies of control planes that serve metrics";
    let Some(helm) = super::helm_of_environment(test) else { return Ok(()) };
    let values = format!("{}/ci/hpa-values.yaml", chart());
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(&rendered(&helm, "eve-horizon", &values).await?)?;
    let find = |kind: &str| {
        objects
            .iter()
            .find(|it| it["kind"] == kind && it["metadata"]["name"] == "eve-control-plane")
            .with_context(|| format!("{kind} eve-control-plane"))
    };
    let (policy, deployment) = (find("NetworkPolicy")?, find("Deployment")?);
    let mut pod = deployment["spec"]["template"].clone();
    pod["metadata"]["name"] = json!("eve-control-plane-0");
    let opened: Vec<_> = policy["spec"]["ingress"].as_array().into_iter().flatten().collect();
    assert_eq!(opened.len(), 2);
    assert_eq!(opened[1]["ports"][0]["port"], "metrics-api");
    ports_exist(policy, &[pod], &BTreeSet::from(["eve-control-plane-0".to_owned()]))
}

#[tokio::test]
async fn policies_of_an_environment_select_all_of_it_and_mean_the_platform() -> Result<()> {
    let test = "reading an environment's NetworkPolicies";
    let Some(ground) = Ground::lay(test).await? else { return Ok(()) };
    let Some(cluster) = Cluster::of_environment(test).await? else { return Ok(()) };
    let admin = &ground.admin;
    let mut values = ground.values();
    values["workers"] = json!({ "deployment": null, "devops-orchestrator": null });
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    let environment = ground.namespace.replace("chart-", "test-");
    wall::stand(admin, &environment).await?;
    let plane = environment::control_plane(&cluster).await?;
    environment::provision(&plane, &environment).await?;
    let outcome = policies_of(&ground, admin, &environment).await;
    environment::remove(&plane, &environment).await?;
    outcome?;
    ground.uninstall().await
}

/// A pod such as environments admit, which does nothing.
fn pod(name: &str, namespace: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532,
                                 "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "pause",
                "image": "acme/web:v1",
                "imagePullPolicy": "Always",
                "resources": { "requests": { "cpu": "1m", "memory": "8Mi" },
                               "limits": { "cpu": "10m", "memory": "16Mi" } },
                "securityContext": { "allowPrivilegeEscalation": false,
                                     "readOnlyRootFilesystem": true,
                                     "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}

async fn policies_of(ground: &Ground, admin: &Caller, environment: &str) -> Result<()> {
    for (name, labels) in [("one", json!({})), ("other", json!({ "app": "eve-worker" }))] {
        let pod = pod(name, environment, &labels);
        let made = admin.apply(&path(&pod, environment, true), &pod).await?;
        ensure!(made.is_success(), "{made}");
    }
    let place = format!("{POLICIES}/namespaces/{environment}/networkpolicies");
    let policies =
        admin.get(&place).await?.json()?["items"].as_array().cloned().context("a list")?;
    let names: Vec<_> = policies.iter().filter_map(|it| it["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["default-deny", "tenant-isolation"]);
    let everybody = BTreeSet::from(["one".to_owned(), "other".to_owned()]);
    let planes = of_kinds(&ground.list("api/v1", "pods").await?, &KINDS[..1]);
    let mut meant = Vec::new();
    for policy in &policies {
        let subject = selected(admin, "pods", environment, &policy["spec"]["podSelector"]).await?;
        assert_eq!(subject, everybody);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        for direction in ["ingress", "egress"] {
            for peer in peers(policy, direction)? {
                if peer["ipBlock"].is_object() {
                    continue;
                }
                if peer["namespaceSelector"].is_null() {
                    let found = selected(admin, "pods", environment, &peer["podSelector"]).await?;
                    assert_eq!(found, everybody, "{direction}: {peer}");
                    continue;
                }
                // One namespace, by the name that nobody else can have.
                let labels = &peer["namespaceSelector"]["matchLabels"];
                let name = labels["kubernetes.io/metadata.name"].as_str().context("a name")?;
                assert_eq!(labels.as_object().map(serde_json::Map::len), Some(1), "{peer}");
                let found = selected(admin, "namespaces", "", &peer["namespaceSelector"]).await?;
                ensure!(found.iter().all(|it| it == name), "{peer} means {found:?}");
                match name {
                    "kube-system" => names_service(admin, &peer["podSelector"]).await?,
                    // The release of this test is elsewhere; its pods have the same labels.
                    "eve-horizon" => {
                        assert_eq!(found.len(), 1, "{peer}");
                        let found =
                            selected(admin, "pods", &ground.namespace, &peer["podSelector"])
                                .await?;
                        assert_eq!(found, planes, "{peer}");
                    }
                    "ingress-nginx" => {}
                    other => bail!("nobody said that {other} is right"),
                }
                meant.push(format!("{direction} {name}"));
            }
        }
    }
    assert_eq!(meant, ["ingress ingress-nginx", "ingress eve-horizon", "egress kube-system"]);
    Ok(())
}

/// The network plugin of this cluster enforces nothing: what should be open is, and the script says that
/// nothing is shut.
#[tokio::test]
async fn the_proof_says_so_where_nothing_is_enforced() -> Result<()> {
    if let Ok(enforcer) = std::env::var("EVE_TEST_ENFORCING") {
        eprintln!("SKIPPED: {enforcer} enforces NetworkPolicies here");
        return Ok(());
    }
    let Some(ground) = Ground::lay("scripts/network-proof").await? else { return Ok(()) };
    let pulled = std::process::Command::new("busybox").output();
    if pulled.is_err() {
        eprintln!("SKIPPED: scripts/network-proof needs a BusyBox here: apt-get install busybox");
        return Ok(());
    }
    let mut values = ground.values();
    values["workers"] = json!({ "deployment": null, "devops-orchestrator": null });
    let chart = chart();
    let install = ["install", "eve", &chart, "--wait", "--timeout", TIMEOUT];
    ground.helm(&install, Some(&values)).await?;
    let database = format!("{}:{}", super::BRIDGE, ground.port);
    let output = proof(&ground, &["--database", &database, "--patience", "20"]).await?;
    let (said, noted) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{said}\n{noted}");
    ensure!(said.contains("nothing is enforced here"), "{said}");
    let mut open = 0;
    let table = said.lines().skip_while(|line| !line.starts_with("FROM")).skip(1);
    for line in table.take_while(|line| !line.is_empty()) {
        ensure!(!line.contains("unknown"), "{line}");
        if line.contains(" open      open") {
            open += 1;
        } else {
            ensure!(line.contains(" shut      open  <- wrong"), "{line}");
        }
    }
    // Outside to control plane, control plane to API server, environment to itself, two to the database.
    assert_eq!(open, 5, "{said}");

    // It takes away what it made.
    let left = "api/v1/pods?labelSelector=eve-horizon.dev%2Fproof";
    wait_for("its pods to go", async || {
        let pods = ground.admin.get(left).await.ok()?.json().ok()?;
        let ours = |pod: &Value| {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            namespace == ground.namespace
        };
        (!pods["items"].as_array()?.iter().any(ours)).then_some(())
    })
    .await;

    // Without the policies there is nothing to prove.
    values["networkPolicy"] = json!({ "enabled": false });
    ground.helm(&["upgrade", "eve", &chart, "--wait", "--timeout", TIMEOUT], Some(&values)).await?;
    let output = proof(&ground, &[]).await?;
    let noted = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{noted}");
    ensure!(noted.contains("install the chart with networkPolicy.enabled=true"), "{noted}");
    ground.uninstall().await
}

async fn proof(ground: &Ground, options: &[&str]) -> Result<std::process::Output> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/network-proof");
    let mut command = tokio::process::Command::new(script);
    command.args(["--namespace", &ground.namespace, "--image", "eve.local/busybox:1"]);
    command.args(options);
    command.env("KUBECTL", kubectl().get_program());
    command.env("KUBECONFIG", std::env::var("EVE_TEST_KUBECONFIG")?);
    Ok(command.stdin(Stdio::null()).kill_on_drop(true).output().await?)
}
