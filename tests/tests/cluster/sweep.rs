//! Every verb on every resource that the API server has, as every identity of an environment, everywhere
//! but in its own namespace: denied, except what whoever is known to the server may ask about himself.

use std::collections::BTreeSet;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Caller, Cluster};
use crate::{environment, wall};

/// Requests on their way at once.
const AT_ONCE: usize = 32;

const VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// Rights that are not requests: group, resource, verb.
const OTHER_RIGHTS: [(&str, &str, &str); 14] = [
    ("*", "*", "*"),
    ("", "users", "impersonate"),
    ("", "groups", "impersonate"),
    ("", "serviceaccounts", "impersonate"),
    ("authentication.k8s.io", "uids", "impersonate"),
    ("authentication.k8s.io", "userextras/scopes", "impersonate"),
    ("rbac.authorization.k8s.io", "clusterroles", "bind"),
    ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
    ("rbac.authorization.k8s.io", "roles", "bind"),
    ("rbac.authorization.k8s.io", "roles", "escalate"),
    ("certificates.k8s.io", "signers", "approve"),
    ("certificates.k8s.io", "signers", "sign"),
    ("certificates.k8s.io", "signers", "attest"),
    ("policy", "podsecuritypolicies", "use"),
];

const OTHER_PATHS: [&str; 8] =
    ["/", "/metrics", "/logs/", "/debug/pprof/", "/configz", "/flagz", "/statusz", "/readyz/etcd"];

/// What whoever has a token may do: ask about himself.
const EVERYBODY: [(&str, &str); 3] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// A right: group, resource (with its part), verb.
type Right = (String, String, String);

#[tokio::test(flavor = "multi_thread")]
async fn identities_may_do_nothing_outside_their_environment() -> anyhow::Result<()> {
    let Some(cluster) = Cluster::of_environment("the sweep of all resources").await? else {
        return Ok(());
    };
    let admin = cluster.admin()?;
    let name = format!("swept-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let other = format!("{name}-b");
    wall::stand(&admin, &name).await?;
    let control_plane = environment::control_plane(&cluster).await?;
    let failures = sweep(&cluster, &control_plane, &name, &other).await;
    environment::remove(&control_plane, &name).await?;
    environment::remove(&control_plane, &other).await?;
    let failures = failures?;
    assert!(failures.is_empty(), "{} allowed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

async fn sweep(
    cluster: &Cluster,
    control_plane: &Caller,
    own: &str,
    other: &str,
) -> anyhow::Result<Vec<String>> {
    environment::provision(control_plane, own).await?;
    environment::provision(control_plane, other).await?;
    let (rights, lists) = discover(&cluster.admin()?).await?;
    let mut failures = Vec::new();
    for suffix in environment::SUFFIXES {
        let caller = environment::identity(cluster, control_plane, own, suffix).await?;
        // The question is asked rightly: at home the answer is another.
        let at_home = allowed(&caller, own, &rights).await?;
        let pods = (String::new(), "pods".to_owned(), "list".to_owned());
        anyhow::ensure!(at_home.contains(&pods), "{own}{suffix} may not list its own pods");
        for place in [other, "kube-system", "eve-deployers", "eve-horizon", "default", ""] {
            let allowed = allowed(&caller, place, &rights).await?;
            failures.extend(allowed.iter().filter(|right| !everybodys(right)).map(
                |(group, resource, verb)| {
                    format!("{own}{suffix}: {verb} {resource}.{group} in {place:?}")
                },
            ));
        }
        for path in OTHER_PATHS {
            let attributes = json!({ "path": path, "verb": "get" });
            if may(&caller, json!({ "nonResourceAttributes": attributes })).await? {
                failures.push(format!("{own}{suffix}: get {path}"));
            }
        }
        failures.extend(really(&caller, other, &lists).await?);
    }
    Ok(failures)
}

/// Every right there is, by what the server serves, and the paths of what can be listed, with `{}` for
/// the part of the path that names the namespace.
async fn discover(admin: &Caller) -> anyhow::Result<(BTreeSet<Right>, Vec<String>)> {
    let mut versions = vec![("api/v1".to_owned(), String::new())];
    let groups = admin.get("apis").await?.json()?;
    for group in groups["groups"].as_array().context("groups")? {
        let name = group["name"].as_str().context("name of a group")?;
        for version in group["versions"].as_array().context("versions")? {
            let version = version["groupVersion"].as_str().context("version of a group")?;
            versions.push((format!("apis/{version}"), name.to_owned()));
        }
    }
    let mut rights: BTreeSet<Right> = BTreeSet::new();
    let mut lists = Vec::new();
    for (path, group) in versions {
        let served = admin.get(&path).await?.json()?;
        for resource in served["resources"].as_array().context("resources")? {
            let name = resource["name"].as_str().context("name of a resource")?;
            let own = resource["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for verb in own.chain(VERBS) {
                rights.insert((group.clone(), name.to_owned(), verb.to_owned()));
            }
            if resource["verbs"].as_array().is_some_and(|verbs| verbs.contains(&"list".into())) {
                let within = if resource["namespaced"] == true { "{}" } else { "" };
                lists.push(format!("{path}/{within}{name}"));
            }
        }
    }
    let other =
        OTHER_RIGHTS.map(|(group, resource, verb)| (group.into(), resource.into(), verb.into()));
    rights.extend(other);
    Ok((rights, lists))
}

fn everybodys((group, resource, verb): &Right) -> bool {
    verb == "create" && EVERYBODY.contains(&(group.as_str(), resource.as_str()))
}

/// The rights that the caller has in a namespace, or in none.
async fn allowed(
    caller: &Caller,
    namespace: &str,
    rights: &BTreeSet<Right>,
) -> anyhow::Result<BTreeSet<Right>> {
    futures::stream::iter(rights)
        .map(async |right| {
            let (group, resource, verb) = right;
            let (resource, part) = resource.split_once('/').unwrap_or((resource.as_str(), ""));
            let attributes = json!({
                "namespace": namespace, "verb": verb, "group": group,
                "resource": resource, "subresource": part,
            });
            let may = may(caller, json!({ "resourceAttributes": attributes })).await?;
            anyhow::Ok(may.then(|| right.clone()))
        })
        .buffer_unordered(AT_ONCE)
        .try_filter_map(async |right| Ok(right))
        .try_collect()
        .await
}

async fn may(caller: &Caller, spec: Value) -> anyhow::Result<bool> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": spec,
    });
    let place = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = caller.create(place, &review).await?.json()?;
    review["status"]["allowed"].as_bool().context("no answer")
}

/// Lists what can be listed, in the other environment and in the whole cluster: what was answered.
async fn really(caller: &Caller, other: &str, lists: &[String]) -> anyhow::Result<Vec<String>> {
    let within = format!("namespaces/{other}/");
    let paths = lists.iter().flat_map(|path| {
        let everywhere = path.replace("{}", "");
        let there = path.contains("{}").then(|| path.replace("{}", &within));
        std::iter::once(everywhere).chain(there)
    });
    futures::stream::iter(paths)
        .map(async |path| {
            let answer = caller.get(&path).await?;
            anyhow::Ok((answer.status != 403).then(|| answer.to_string()))
        })
        .buffer_unordered(AT_ONCE)
        .try_filter_map(async |failure| Ok(failure))
        .try_collect()
        .await
}
