//! What running skills ask of clusters: logs, and reads of the Kubernetes API.
//!
//! Flow: a worker, which cannot reach a cluster, writes the question under the guest's role and waits
//! ([`Deployments::ask`]); any control plane takes it ([`serve`]), asks the cluster with the environment's
//! viewer, and writes the answer. The worker deletes what it has read.
//!
//! Invariants:
//! - Nobody holds a transaction while a cluster is waited for.
//! - A question is answered by one, or not at all: a control plane that dies leaves it taken, and the run
//!   is told that nobody answered.
//! - An organisation has a few of them answered at one time, whatever its runs ask.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::environments::Environment;
use super::kubernetes::connection::{Identity, patiently};
use super::kubernetes::failure::Failure;
use super::kubernetes::logs::{LogLine, Wanted};
use super::kubernetes::proxy::{ProxyError, Target};
use super::orders::check;
use super::{Authority, DeployError, Deployments, names, read};
use crate::db::Scope;
use crate::ids::OrgId;
use crate::notify::{self, ASKS};
use crate::requests::Invalid;
use crate::scheduler::report;
use crate::tenancy::Tenant;

/// How long a run waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a cluster may take: the rest is for the way.
const CLUSTER: Duration = Duration::from_secs(25);
/// How often a run looks for its answer: at first, and at last.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// How often questions are looked for without a bell.
const SCAN: Duration = Duration::from_secs(2);
/// Questions that a control plane answers at one time.
const AT_ONCE: usize = 32;
/// Of one organisation.
const OF_ONE: usize = 4;
/// Largest answer.
const ANSWER: usize = 1 << 20;
/// Most lines of each pod.
const LINES: u32 = 1_000;

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The last lines of an app's pods.
    Logs {
        /// The app.
        app: String,
        /// Of each pod.
        tail: u32,
    },
    /// Something of the Kubernetes API, without the namespace.
    Read {
        /// `api/v1/pods`.
        path: String,
    },
}

/// An answer, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Ok(Value),
    NotFound(String),
    Invalid(String),
    Forbidden(String),
    Failed(String),
}

/// A question that was taken.
struct Taken {
    id: Uuid,
    org_id: Uuid,
    worker_type: String,
    environment: String,
    body: Value,
}

impl Deployments {
    /// Asks, for a running skill, and waits for the answer. Dropping the future leaves a row that is swept.
    pub(crate) async fn ask(
        &self,
        tenant: Tenant,
        worker_type: &str,
        env: &str,
        ask: &Ask,
    ) -> Result<Value, DeployError> {
        if let Ask::Logs { tail, .. } = ask
            && !(1..=LINES).contains(tail)
        {
            return Err(
                Invalid::new("tail", format_args!("{tail} is not between 1 and {LINES}")).into()
            );
        }
        let failed = DeployError::database("asking a cluster");
        let (id, org) = (Uuid::now_v7(), tenant.org().0);
        let body = serde_json::to_value(ask).expect("a question always serialises");
        let mut tx = self.db.begin(Scope::Guest(tenant)).await.map_err(failed)?;
        check::permitted(&mut tx, tenant, worker_type, env).await?;
        if let Ask::Logs { app, .. } = ask {
            let there = match names::app("app", app) {
                Ok(()) => read::one(&mut tx, tenant, env, app).await.map_err(failed)?,
                Err(_) => None,
            };
            let name = || format!("{app} in {env}");
            there.ok_or_else(|| DeployError::not_found("deployment", &name()))?;
        }
        sqlx::query!(
            "INSERT INTO eve.cluster_asks (id, org_id, worker_type, environment, body)
             VALUES ($1, $2, $3, $4, $5)",
            id,
            org,
            worker_type,
            env,
            body
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.asks();
        let begun = Instant::now();
        let mut look = LOOK.0;
        loop {
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK.1);
            let mut tx = self.db.begin(Scope::Guest(tenant)).await.map_err(failed)?;
            let answer = sqlx::query_scalar!(
                r#"DELETE FROM eve.cluster_asks
                    WHERE id = $1 AND org_id = $2 AND (answer IS NOT NULL OR $3)
                   RETURNING answer AS "answer: Json<Said>""#,
                id,
                org,
                begun.elapsed() > PATIENCE
            )
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed)?;
            tx.commit().await.map_err(failed)?;
            let late = || DeployError::Cluster {
                cluster: format!("of {env}"),
                message: "nobody answered in time".into(),
            };
            match answer {
                None if begun.elapsed() > PATIENCE => return Err(late()),
                None => {}
                Some(None) => return Err(late()),
                Some(Some(Json(Said::Ok(answer)))) => return Ok(answer),
                Some(Some(Json(Said::NotFound(name)))) => {
                    return Err(DeployError::NotFound { what: "object", name });
                }
                Some(Some(Json(Said::Invalid(message)))) => {
                    return Err(DeployError::Invalid { field: "path".into(), message });
                }
                Some(Some(Json(Said::Forbidden(message)))) => {
                    return Err(DeployError::Forbidden(message));
                }
                Some(Some(Json(Said::Failed(message)))) => {
                    return Err(DeployError::Cluster { cluster: format!("of {env}"), message });
                }
            }
        }
    }

    /// What a cluster says to a question.
    async fn said(&self, taken: &Taken) -> Said {
        let answered = tokio::time::timeout(CLUSTER, self.said_by_cluster(taken)).await;
        match answered {
            Ok(Ok(answer)) => Said::Ok(answer),
            Ok(Err(error)) => match error {
                DeployError::NotFound { name, .. } => Said::NotFound(name),
                DeployError::Invalid { message, .. } => Said::Invalid(message),
                DeployError::Forbidden(message) => Said::Forbidden(message),
                error => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "what a skill asked of a cluster could not be answered"
                    );
                    Said::Failed("the cluster cannot be asked just now".into())
                }
            },
            Err(_) => Said::Failed("the cluster did not answer in time".into()),
        }
    }

    async fn said_by_cluster(&self, taken: &Taken) -> Result<Value, DeployError> {
        // The row was written under the wall of its organisation.
        let tenant = Tenant::proven(OrgId(taken.org_id));
        let ask: Ask = serde_json::from_value(taken.body.clone())
            .map_err(|error| DeployError::Conflict(error.to_string()))?;
        let environment = self.environment(tenant, &taken.environment).await?;
        let authority = Authority::WorkerType(taken.worker_type.clone());
        environment.config.permits(&authority, &taken.environment)?;
        match ask {
            Ask::Logs { app, tail } => {
                self.last_lines(tenant, &taken.environment, &app, tail).await
            }
            Ask::Read { path } => self.read_api(&environment, &path).await,
        }
    }

    async fn last_lines(
        &self,
        tenant: Tenant,
        env: &str,
        app: &str,
        tail: u32,
    ) -> Result<Value, DeployError> {
        let wanted = Wanted { tail: tail.min(LINES), follow: false, previous: false };
        let mut lines = self.logs(tenant, env, app, wanted).await?;
        let mut kept: Vec<LogLine> = Vec::new();
        let mut bytes = 0;
        while let Some(line) = lines.next().await {
            bytes += line.line.len() + line.pod.len();
            if bytes > ANSWER {
                break;
            }
            // Postgres has no such character.
            let text = line.line.replace('\0', "\u{fffd}");
            kept.push(LogLine { pod: line.pod, line: text });
        }
        Ok(json!(kept))
    }

    async fn read_api(&self, environment: &Environment, path: &str) -> Result<Value, DeployError> {
        let namespace = &environment.namespace;
        let target = target(path, namespace)?;
        let cluster = self.cluster_row(&environment.cluster).await?;
        let failed = |failure: Failure| match failure {
            Failure::Gone(_) => DeployError::not_found("object", path),
            Failure::Denied(_) => DeployError::Forbidden("a viewer may not read that".into()),
            Failure::Refused { message, .. } => Invalid::new("path", message).into(),
            failure => DeployError::Cluster {
                cluster: environment.cluster.clone(),
                message: failure.to_string(),
            },
        };
        let client =
            self.connect(&cluster)?.identity(namespace, Identity::Viewer).map_err(failed)?;
        let uri = target.uri().map_err(|error| Invalid::new("path", error.to_string()))?;
        let request = Request::builder()
            .uri(uri)
            .header(http::header::ACCEPT, "application/json")
            .body(kube::client::Body::empty())
            .map_err(|error| Invalid::new("path", error.to_string()))?;
        let answer = patiently(client.send(request)).await.map_err(failed)?;
        let status = answer.status();
        // No more is held of it than may be answered.
        let body = axum::body::Body::new(answer.into_body());
        let bytes = axum::body::to_bytes(body, ANSWER).await.map_err(|_| {
            DeployError::from(Invalid::new(
                "path",
                format_args!(
                    "the answer has more than {ANSWER} bytes: ask for less with labelSelector, \
                     fieldSelector or limit"
                ),
            ))
        })?;
        let broken = |error: serde_json::Error| DeployError::Cluster {
            cluster: environment.cluster.clone(),
            message: format!("{status}: {error}"),
        };
        if !status.is_success() {
            let said: kube::core::Status = serde_json::from_slice(&bytes).map_err(broken)?;
            return Err(failed(kube::Error::Api(Box::new(said)).into()));
        }
        Ok(without_nul(serde_json::from_slice(&bytes).map_err(broken)?))
    }
}

/// The call that a path without a namespace stands for.
fn target(path: &str, namespace: &str) -> Result<Target, DeployError> {
    let invalid = |why: &str| DeployError::from(Invalid::new("path", why));
    let (plain, query) = match path.split_once('?') {
        Some((plain, query)) => (plain, Some(query)),
        None => (path, None),
    };
    let segments: Vec<&str> = plain.split('/').collect();
    let (api, rest) = match segments.as_slice() {
        ["api", "v1", rest @ ..] => ("api/v1".to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("apis/{group}/{version}"), rest),
        _ => {
            return Err(invalid(
                "begins with neither api/v1/ nor apis/GROUP/VERSION/, such as api/v1/pods",
            ));
        }
    };
    if rest.is_empty() || ["namespaces", "watch", "proxy"].contains(&rest[0]) {
        return Err(invalid("names nothing in the namespace, such as api/v1/pods"));
    }
    let full = format!("/{api}/namespaces/{namespace}/{}", rest.join("/"));
    let target =
        Target::parse(&Method::GET, &full, query, namespace).map_err(|error| match error {
            ProxyError::Forbidden(message) => DeployError::Forbidden(message),
            error => Invalid::new("path", error.to_string()).into(),
        })?;
    if target.is_session() || target.is_long() || target.is_watch() {
        return Err(invalid(
            "is answered for as long as somebody listens: only what ends can be read",
        ));
    }
    Ok(target)
}

/// Postgres has no U+0000 in JSON.
fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name.replace('\0', "\u{fffd}"), without_nul(value)))
            .collect(),
        other => other,
    }
}

/// Answers questions until `stop`. Everybody does: who takes one answers it.
pub async fn serve(deployments: Deployments, stop: CancellationToken) {
    let (rings, mut bell) = watch::channel(0_u64);
    let pool = deployments.db.pool().clone();
    let listening = notify::listen(pool, &[ASKS], stop.clone(), |_, _| {
        rings.send_modify(|count| *count += 1);
    });
    let answering = async {
        let mut answers: JoinSet<Uuid> = JoinSet::new();
        let mut held: HashMap<Uuid, usize> = HashMap::new();
        loop {
            match take(&deployments, &held, AT_ONCE - answers.len()).await {
                Ok(taken) => {
                    for taken in taken {
                        *held.entry(taken.org_id).or_default() += 1;
                        let deployments = deployments.clone();
                        answers.spawn(async move {
                            let said = deployments.said(&taken).await;
                            if let Err(error) = write(&deployments, &taken, &said).await {
                                report("answering what a skill asked", &error);
                            }
                            taken.org_id
                        });
                    }
                }
                Err(error) => report("looking for what skills ask", &error),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = bell.changed(), if answers.len() < AT_ONCE => {
                    if changed.is_err() { return }
                }
                Some(ended) = answers.join_next() => match ended {
                    Ok(org) => {
                        if let Some(count) = held.get_mut(&org) {
                            *count -= 1;
                        }
                        held.retain(|_, count| *count > 0);
                    }
                    // Whose it was is not known any more: nobody is held up by it.
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "answering broke off");
                        held.clear();
                    }
                },
                () = tokio::time::sleep(SCAN) => {}
            }
        }
    };
    tokio::join!(listening, answering);
}

/// Takes questions, none of an organisation that has as many as it may, and sweeps those whose run is gone.
async fn take(
    deployments: &Deployments,
    held: &HashMap<Uuid, usize>,
    free: usize,
) -> Result<Vec<Taken>, sqlx::Error> {
    if free == 0 {
        return Ok(Vec::new());
    }
    let orgs: Vec<Uuid> = held.keys().copied().collect();
    let counts: Vec<i64> = held.values().map(|count| *count as i64).collect();
    let mut tx = deployments.db.begin(Scope::Control).await?;
    let taken = sqlx::query_as!(
        Taken,
        r#"
        UPDATE eve.cluster_asks a
           SET taken_at = clock_timestamp()
         WHERE a.id IN (
               SELECT w.id
                 FROM eve.cluster_asks w
                WHERE w.taken_at IS NULL AND w.created_at > now() - $1::float8 * interval '1 second'
                  AND w.id IN (
                      SELECT o.id
                        FROM (SELECT id, org_id, row_number() OVER (PARTITION BY org_id ORDER BY id) AS place
                                FROM eve.cluster_asks
                               WHERE taken_at IS NULL
                                 AND created_at > now() - $1::float8 * interval '1 second') o
                        LEFT JOIN unnest($2::uuid[], $3::bigint[]) AS h (org_id, count) USING (org_id)
                       WHERE o.place + coalesce(h.count, 0) <= $4)
                ORDER BY w.id
                LIMIT $5
                  FOR UPDATE SKIP LOCKED)
        RETURNING a.id, a.org_id, a.worker_type, a.environment, a.body
        "#,
        PATIENCE.as_secs_f64(),
        &orgs,
        &counts,
        OF_ONE as i64,
        free as i64,
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM eve.cluster_asks WHERE created_at < now() - 4 * $1::float8 * interval '1 second'",
        PATIENCE.as_secs_f64()
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(taken)
}

async fn write(deployments: &Deployments, taken: &Taken, said: &Said) -> Result<(), sqlx::Error> {
    let mut tx = deployments.db.begin(Scope::Control).await?;
    sqlx::query!(
        "UPDATE eve.cluster_asks SET answer = $2 WHERE id = $1",
        taken.id,
        Json(said) as _
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_namespace() {
        for (path, uri) in [
            ("api/v1/pods", "/api/v1/namespaces/acme-dev/pods"),
            ("api/v1/configmaps/a.b", "/api/v1/namespaces/acme-dev/configmaps/a.b"),
            (
                "apis/apps/v1/replicasets?labelSelector=a%3Db",
                "/apis/apps/v1/namespaces/acme-dev/replicasets?labelSelector=a%3Db",
            ),
        ] {
            let target = target(path, "acme-dev").expect(path);
            assert_eq!(target.uri().expect(path).to_string(), uri);
        }
        for path in [
            "",
            "/",
            "api",
            "api/v1",
            "api/v1/",
            "/api/v1/pods",
            "api/v2/pods",
            "version",
            "api/v1/namespaces",
            "api/v1/namespaces/kube-system/pods",
            "api/v1/../../nodes",
            "api/v1/pods/../../../nodes",
            "api/v1/pods//x",
            "api/v1/pods/%2e%2e/x",
            "apis/apps/v1",
            "apis//v1/deployments",
            "apis/../api/v1/nodes",
            "api/v1/pods/x/exec",
            "api/v1/pods/x/portforward",
            "api/v1/pods/x/proxy",
            "api/v1/services/x/proxy/admin",
            "api/v1/pods?watch=true",
            "api/v1/pods?watch=1",
            "api/v1/pods/x/log?follow=true",
            "api/v1/watch/pods",
            "api/v1/pods\r\nX: y",
            "api/v1/pods#x",
        ] {
            assert!(target(path, "acme-dev").is_err(), "{path}");
        }
    }
}
