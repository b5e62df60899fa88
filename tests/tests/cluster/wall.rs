//! Installing the wall, and waiting until it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use eve_tests::wait_for;
use serde_json::{Value, json};

use crate::api::{Caller, path};

/// The manifests that a cluster needs before environments may be made in it.
pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src/deployments/kubernetes/manifests")
}

/// Every document of the YAML files in a folder, in the order of their names.
pub fn documents(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            files.push(file);
        }
    }
    files.sort();
    let mut documents = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let of_file: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| file.display().to_string())?;
        documents.extend(of_file);
    }
    Ok(documents)
}

/// Applies the manifests, and waits until the API server has compiled every policy without a warning
/// and refuses by them. `name` is a name of the test's own.
pub async fn stand(admin: &Caller, name: &str) -> anyhow::Result<()> {
    let mut documents = documents(&manifests())?;
    // What lives in a namespace comes after it.
    documents.sort_by_key(|document| document["kind"] != "Namespace");
    for document in &documents {
        apply(admin, document).await?;
    }
    for document in &missing_kinds(admin).await? {
        apply(admin, document).await?;
    }
    let policies =
        documents.iter().filter(|document| document["kind"] == "ValidatingAdmissionPolicy");
    for policy in policies {
        compiled(admin, policy).await?;
    }
    in_force(admin, name).await
}

async fn apply(admin: &Caller, document: &Value) -> anyhow::Result<()> {
    let namespace = document["metadata"]["namespace"].as_str().unwrap_or_default();
    apply_in(admin, document, namespace).await
}

async fn apply_in(admin: &Caller, document: &Value, namespace: &str) -> anyhow::Result<()> {
    let answer = admin.apply(&path(document, namespace, true), document).await?;
    anyhow::ensure!(answer.is_success(), "{answer}");
    Ok(())
}

/// The kinds that attacks need and this cluster does not have.
async fn missing_kinds(admin: &Caller) -> anyhow::Result<Vec<Value>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/crds");
    let mut missing = Vec::new();
    for kind in documents(&folder)? {
        let there = admin.get(&path(&kind, "", true)).await?;
        if there.status == 404 {
            missing.push(kind);
        }
    }
    Ok(missing)
}

/// A policy with a typing error is accepted, warned about in its status, and holds nobody back.
async fn compiled(admin: &Caller, policy: &Value) -> anyhow::Result<()> {
    let place = path(policy, "", true);
    let status = wait_for(&format!("{place} to be checked"), async || {
        let policy = admin.get(&place).await.ok()?.json().ok()?;
        let status = policy["status"].clone();
        (status["observedGeneration"] == policy["metadata"]["generation"]).then_some(status)
    })
    .await;
    let warnings = &status["typeChecking"]["expressionWarnings"];
    anyhow::ensure!(warnings.is_null(), "{place} has warnings: {warnings:#}");
    Ok(())
}

/// The API server takes up policies in the order of their making: once one that came after all others
/// refuses what it is about, they do too. What it says comes from params, so those are read as well: an
/// API server from which every policy with params was deleted reads them no more until it is restarted.
async fn in_force(admin: &Caller, name: &str) -> anyhow::Result<()> {
    let params = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "default" },
        "data": { "says": "in force" },
    });
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"], "resourceNames": [name],
            }] },
            "validations": [{ "expression": "false", "messageExpression": "string(params.data['says'])" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "paramRef": { "name": name, "namespace": "default", "parameterNotFoundAction": "Deny" },
        },
    });
    for document in [&params, &policy, &binding] {
        apply(admin, document).await?;
    }
    wait_for("policies to be in force", async || {
        let place = "api/v1/namespaces/default/configmaps?dryRun=All";
        let answer = admin.create(place, &params).await.ok()?;
        answer.message().contains("in force").then_some(())
    })
    .await;
    for document in [&binding, &policy] {
        admin.delete(&path(document, "", true)).await?;
    }
    admin.delete(&path(&params, "default", true)).await?;
    Ok(())
}

/// Waits until quotas count the kinds that were just installed. The controller looks for new kinds every
/// half minute; a quota that is older than a kind's discovery refuses all of that kind for five minutes.
pub async fn counted(admin: &Caller, name: &str) -> anyhow::Result<()> {
    let kinds =
        ["count/externalsecrets.external-secrets.io", "count/httproutes.gateway.networking.k8s.io"];
    let quota = json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": { "name": name },
        "spec": { "hard": kinds.iter().map(|kind| (*kind, "1000000")).collect::<BTreeMap<_, _>>() },
    });
    let place = path(&quota, "default", true);
    wait_for("quotas to count every kind", async || {
        apply_in(admin, &quota, "default").await.ok()?;
        let used = wait_for("a quota to be counted", async || {
            let quota = admin.get(&place).await.ok()?.json().ok()?;
            quota["status"]["hard"].is_object().then(|| quota["status"]["used"].clone())
        })
        .await;
        admin.delete(&place).await.ok()?;
        kinds.iter().all(|kind| used[*kind].is_string()).then_some(())
    })
    .await;
    Ok(())
}
