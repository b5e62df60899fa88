//! Runs the tables.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use base64::Engine as _;
use eve_tests::wait_for;
use futures::StreamExt as _;
use serde_json::json;
use uuid::Uuid;

use crate::api::{Answer, Caller, Cluster, path};
use crate::table::{self, Case, End, Given};
use crate::{environment, wall};

/// What the policy says about an object that would be in everybody's way here: where pools are scaled it is there,
/// and attacked.
pub const ABOUT_METRICS: &str =
    "of the external metrics API the control plane writes only what its own Service is known by";
/// Requests on their way at once.
const AT_ONCE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_is_refused_and_its_innocent_twin_is_not() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::of_environment("the table of attacks").await? else {
        return Ok(());
    };
    let admin = cluster.admin()?;
    let name = format!("attacked-{}", &Uuid::new_v4().simple().to_string()[..8]);
    wall::stand(&admin, &name).await?;
    let names = BTreeMap::from([
        ("ns", name.clone()),
        ("other", format!("{name}-b")),
        ("foreign", format!("{name}-f")),
    ]);
    let (given, cases) = table::read(&names)?;
    let failures = run(&cluster, &names, &given, &cases).await;
    let removed = remove(&cluster, &names, &given).await;

    let failures = failures?;
    removed?;
    let attacks = cases.iter().filter(|case| matches!(case.end, End::Refused { .. })).count();
    let twins = cases.len() - attacks;
    eprintln!("{attacks} attacks, {twins} innocent twins");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Makes two environments and a namespace of others, then runs all cases: what failed.
async fn run(
    cluster: &Cluster,
    names: &BTreeMap<&str, String>,
    given: &[Given],
    cases: &[Case],
) -> anyhow::Result<Vec<String>> {
    let admin = cluster.admin()?;
    let foreign = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": names["foreign"] } });
    let answer = admin.create("api/v1/namespaces", &foreign).await?;
    anyhow::ensure!(answer.is_success(), "{answer}");
    wall::counted(&admin, &names["ns"]).await?;
    let control_plane = environment::control_plane(cluster).await?;
    environment::provision(&control_plane, &names["ns"]).await?;
    environment::provision(&control_plane, &names["other"]).await?;
    let callers = callers(cluster, &control_plane, &names["ns"]).await?;

    for given in given {
        make(caller(&callers, &given.by)?, given).await?;
    }
    // The policies let controllers make what they let tenants describe.
    let pods = format!(
        "api/v1/namespaces/{}/pods?labelSelector=app.kubernetes.io%2Fname%3Dmanaged",
        names["ns"]
    );
    wait_for("a pod of a Deployment", async || {
        let pods = admin.get(&pods).await.ok()?.json().ok()?;
        pods["items"].as_array().is_some_and(|pods| !pods.is_empty()).then_some(())
    })
    .await;

    let mut failures = Vec::new();
    let mut said = BTreeSet::new();
    let mut outcomes = futures::stream::iter(cases)
        .map(async |case| (case, attempt(&callers, case).await))
        .buffer_unordered(AT_ONCE);
    while let Some((case, outcome)) = outcomes.next().await {
        match outcome {
            Ok(answer) => {
                failures.extend(wrong(case, &answer).map(|it| format!("{}: {it}", case.name)));
                said.insert(answer.message());
            }
            Err(error) => failures.push(format!("{}: {error:#}", case.name)),
        }
    }
    failures.extend(unsaid(&said)?);
    Ok(failures)
}

/// Makes what is there beforehand. A new quota refuses everything until it has been counted once.
async fn make(caller: &Caller, given: &Given) -> anyhow::Result<()> {
    let answer = wait_for(&given.path, async || {
        let answer = caller.create(&given.path, &given.object).await;
        let uncounted = |answer: &Answer| answer.message().contains("status unknown for quota");
        (!answer.as_ref().is_ok_and(uncounted)).then_some(answer)
    })
    .await?;
    // Somebody else's test, or the cluster's own.
    anyhow::ensure!(answer.is_success() || answer.status == 409, "given: {answer}");
    Ok(())
}

/// What policies have to say and nobody heard: a rule that no attack has tried, or one that cannot refuse.
fn unsaid(said: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let mut unsaid = Vec::new();
    for policy in wall::documents(&wall::manifests())? {
        let name = policy["metadata"]["name"].as_str().unwrap_or_default();
        for rule in policy["spec"]["validations"].as_array().into_iter().flatten() {
            let Some(message) = rule["message"].as_str() else { continue };
            let end = format!("binding '{name}' denied request: {message}");
            if message != ABOUT_METRICS && !said.iter().any(|said| said.ends_with(&end)) {
                unsaid.push(format!("no attack has {name} say: {message}"));
            }
        }
    }
    Ok(unsaid)
}

/// The callers that tables name.
async fn callers(
    cluster: &Cluster,
    control_plane: &Caller,
    namespace: &str,
) -> anyhow::Result<BTreeMap<&'static str, Caller>> {
    let admin = cluster.admin()?;
    let identity =
        async |suffix| environment::identity(cluster, control_plane, namespace, suffix).await;
    let tenant = format!("system:serviceaccount:eve-deployers:{namespace}-owner");
    // What policies hold when RBAC holds nothing: a tenant, and the control plane, with every right.
    let owner = admin.with_every_right_as(&tenant, &["system:serviceaccounts:eve-deployers"]);
    let crowned = "system:serviceaccount:eve-horizon:eve-control-plane";
    let crowned = admin.with_every_right_as(crowned, &[]);
    Ok(BTreeMap::from([
        ("deployer", identity("").await?),
        ("editor", identity("-edit").await?),
        ("viewer", identity("-view").await?),
        ("control-plane", control_plane.clone()),
        ("owner", owner),
        ("crowned", crowned),
        ("admin", admin),
    ]))
}

fn caller<'a>(callers: &'a BTreeMap<&str, Caller>, name: &str) -> anyhow::Result<&'a Caller> {
    callers.get(name).with_context(|| format!("nobody is called {name}"))
}

/// Makes the request.
async fn attempt(callers: &BTreeMap<&str, Caller>, case: &Case) -> anyhow::Result<Answer> {
    let mut caller = caller(callers, &case.by)?.clone();
    if let Some((user, group)) = &case.impersonate {
        caller = caller.impersonating(user, group.as_deref());
    }
    let method = case.method.clone();
    caller.send(method, &case.path, case.content_type, case.body.as_ref()).await
}

/// What is wrong with the answer, if anything.
fn wrong(case: &Case, answer: &Answer) -> Option<String> {
    match &case.end {
        End::LetThrough { answers, silent } => {
            let as_it_should = answers.map_or(answer.is_success(), |it| answer.status == it);
            let disclosed = silent.as_ref().is_some_and(|secret| discloses(answer, secret));
            match (as_it_should, disclosed) {
                (false, _) => Some(format!("an innocent is refused: {answer}")),
                (true, true) => Some(format!("the answer discloses a secret: {}", answer.text)),
                (true, false) => None,
            }
        }
        End::Refused { .. } if answer.is_success() => Some(format!("GOT THROUGH: {answer}")),
        End::Refused { by, saying } => {
            let layer = layer(answer);
            let as_it_should = by.contains(&layer) && answer.message().contains(saying);
            (!as_it_should)
                .then(|| format!("refused by {layer}, not by {by:?}, {saying:?}: {answer}"))
        }
    }
}

fn discloses(answer: &Answer, secret: &str) -> bool {
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
    answer.text.contains(secret) || answer.text.contains(&encoded)
}

/// Who refused.
fn layer(answer: &Answer) -> String {
    let message = answer.message();
    let policy = message
        .split_once("ValidatingAdmissionPolicy '")
        .and_then(|(_, rest)| rest.split_once('\''));
    match policy {
        Some((policy, rest)) if rest.contains("denied request") => format!("policy {policy}"),
        _ if message.contains("violates PodSecurity") => "pod-security".into(),
        _ if message.contains("exceeded quota") || message.contains("failed quota") => {
            "quota".into()
        }
        // The second one is RBAC's own admission: nobody gives what they do not have.
        _ if message.contains(" cannot ") || message.contains("attempting to grant") => {
            "rbac".into()
        }
        _ => "api".into(),
    }
}

async fn remove(
    cluster: &Cluster,
    names: &BTreeMap<&str, String>,
    given: &[Given],
) -> anyhow::Result<()> {
    let admin = cluster.admin()?;
    for Given { object, .. } in given.iter().filter(|given| !given.namespaced) {
        // What bears another name is the cluster's, or serves the next test.
        if object["metadata"]["name"].as_str().is_some_and(|name| name.contains(&names["ns"])) {
            admin.delete(&path(object, "", true)).await?;
        }
    }
    admin.delete(&format!("api/v1/namespaces/{}", names["foreign"])).await?;
    let control_plane = environment::control_plane(cluster).await?;
    environment::remove(&control_plane, &names["ns"]).await?;
    environment::remove(&control_plane, &names["other"]).await
}
