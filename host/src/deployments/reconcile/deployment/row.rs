//! What is written down of a deployment, as long as it is at the revision that was looked at and this process leads.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{Ask, something};
use crate::db::{Scope, Tx};
use crate::deployments::kubernetes::observe::Seen;
use crate::deployments::reconcile::Context;
use crate::deployments::reconcile::judge::{Verdict, Why, ready};
use crate::deployments::{DeploymentStatus, MAX_REPLICAS, Outcome, Pod};

/// Pods that are written down.
const SHOWN_PODS: usize = 100;
/// Of what others have changed, what is told of one look.
const MOST_DRIFT: usize = 50;

/// A deployment at its latest revision.
pub(super) struct Row {
    pub id: Uuid,
    pub org_id: Uuid,
    pub status: DeploymentStatus,
    pub stopping: bool,
    pub revision: i32,
    pub applied_revision: i32,
    pub applied_generation: Option<i64>,
    pub settled_revision: i32,
    pub replicas: i32,
    pub ready_replicas: i32,
    pub pods: Json<Vec<Pod>>,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub underway_s: f64,
    pub template: i32,
    pub image: String,
    pub digest: Option<String>,
    pub pinned: bool,
    pub ran_at: Option<DateTime<Utc>>,
    pub config: Value,
    pub variables: Option<Value>,
    pub secrets: Option<Value>,
    pub applied_traffic: Option<Value>,
    /// Of its cluster.
    pub cluster_config: Value,
}

pub(super) async fn load(
    context: &Context,
    environment: Uuid,
    app: &str,
) -> Result<Option<Row>, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    sqlx::query_as!(
        Row,
        r#"SELECT d.id, d.org_id, d.status AS "status: DeploymentStatus", d.stopping, d.revision,
                  d.applied_revision, d.applied_generation, d.settled_revision, d.ready_replicas,
                  d.pods AS "pods: Json<Vec<Pod>>", d.reason, d.message,
                  extract(epoch FROM now() - d.underway_since)::float8 AS "underway_s!",
                  r.template, r.image, r.digest, r.pinned, r.ran_at, r.replicas, r.config, r.variables,
                  d.secrets,
                  d.applied_traffic, c.config AS cluster_config
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
             JOIN eve.environments e ON e.id = d.environment_id
             JOIN eve.clusters c ON c.id = e.cluster_id
             JOIN eve.deployment_revisions r ON r.deployment_id = d.id AND r.revision = d.revision
            WHERE d.environment_id = $1 AND a.name = $2"#,
        environment,
        app
    )
    .fetch_optional(&mut *tx)
    .await
}

/// A transaction with the deployment locked, if it still is at this revision and this process still leads.
pub(super) async fn at(context: &Context, row: &Row) -> Result<Option<Tx>, sqlx::Error> {
    let begun = context.term.begin_as(&context.deployments.db, Scope::Control).await?;
    let Some(mut tx) = begun else { return Ok(None) };
    let still = sqlx::query_scalar!(
        "SELECT revision FROM eve.deployments
          WHERE id = $1 AND revision = $2 AND stopping = $3
            FOR NO KEY UPDATE",
        row.id,
        row.revision,
        row.stopping
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(still.map(|_| tx))
}

async fn event(tx: &mut Tx, row: &Row, kind: &str, details: Value) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO eve.deployment_events (id, deployment_id, org_id, event_type, revision, details)
         VALUES ($1, $2, $3, $4, $5, $6)",
        Uuid::now_v7(),
        row.id,
        row.org_id,
        kind,
        row.revision,
        details,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What others have changed; not again what was told last, because putting it right has failed since: as it was,
/// or as what is left of it when it had been put right half-way.
pub(super) async fn tell(
    tx: &mut Tx,
    app: &str,
    row: &Row,
    drift: &[String],
    ask: Ask,
) -> Result<(), sqlx::Error> {
    if drift.is_empty() {
        return Ok(());
    }
    let details = json!({ "what": drift[..drift.len().min(MOST_DRIFT)] });
    if ask.failures > 0 {
        let last = sqlx::query!(
            "SELECT event_type, details FROM eve.deployment_events
              WHERE deployment_id = $1
              ORDER BY id DESC
              LIMIT 1",
            row.id
        )
        .fetch_optional(&mut **tx)
        .await?;
        let half_way = drift == [something(app)];
        if last.is_some_and(|last| {
            last.event_type == "drifted" && (half_way || last.details == details)
        }) {
            return Ok(());
        }
    }
    event(tx, row, "drifted", details).await
}

/// The cluster has taken the revision, in place of what others had made of it.
pub(super) async fn taken(
    context: &Context,
    app: &str,
    row: &Row,
    generation: i64,
    traffic: Option<Value>,
    drift: &[String],
    ask: Ask,
) -> Result<bool, sqlx::Error> {
    let same = row.applied_revision == row.revision
        && row.applied_generation == Some(generation)
        && row.applied_traffic == traffic;
    if same && drift.is_empty() {
        return Ok(true);
    }
    let Some(mut tx) = at(context, row).await? else { return Ok(false) };
    sqlx::query!(
        "UPDATE eve.deployments
            SET applied_revision = revision, applied_generation = $2, applied_traffic = $3,
                updated_at = now(),
                status = CASE WHEN status = 'pending' THEN 'deploying' ELSE status END,
                reason = CASE WHEN $4 THEN NULL ELSE reason END,
                message = CASE WHEN $4 THEN NULL ELSE message END
          WHERE id = $1",
        row.id,
        generation,
        traffic.as_ref(),
        is_excuse(row.reason.as_deref()),
    )
    .execute(&mut *tx)
    .await?;
    tell(&mut tx, app, row, drift, ask).await?;
    if row.status == DeploymentStatus::Pending {
        event(&mut tx, row, "deploying", json!({ "generation": generation })).await?;
    }
    if row.applied_traffic != traffic {
        event(&mut tx, row, "traffic", traffic.unwrap_or_else(|| json!({}))).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Whether that is why the cluster has not been told: no longer so once it has.
fn is_excuse(reason: Option<&str>) -> bool {
    matches!(reason, Some("cluster" | "conflict"))
}

/// The cluster cannot be asked: it says so, and waits.
pub(super) async fn waiting(context: &Context, row: &Row, why: &Why) -> Result<(), sqlx::Error> {
    if row.message.as_deref() == Some(&why.message) {
        return Ok(());
    }
    let Some(mut tx) = at(context, row).await? else { return Ok(()) };
    sqlx::query!(
        "UPDATE eve.deployments SET reason = $2, message = $3, updated_at = now() WHERE id = $1",
        row.id,
        why.reason,
        why.message
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// The cluster will not have the revision.
pub(super) async fn refused(context: &Context, row: &Row, why: &Why) -> Result<(), sqlx::Error> {
    if row.settled_revision == row.revision && row.message.as_deref() == Some(&why.message) {
        return Ok(());
    }
    let Some(mut tx) = at(context, row).await? else { return Ok(()) };
    sqlx::query!(
        "UPDATE eve.deployments
            SET status = 'failed', reason = $2, message = $3, applied_revision = revision,
                applied_generation = NULL, settled_revision = revision, updated_at = now()
          WHERE id = $1",
        row.id,
        why.reason,
        why.message,
    )
    .execute(&mut *tx)
    .await?;
    settle(&mut tx, row, Outcome::Failed, Some(why)).await?;
    event(&mut tx, row, "failed", json!({ "reason": why.reason, "message": why.message })).await?;
    tx.commit().await?;
    context.deployments.bell.changed();
    context.settled.notify_one();
    Ok(())
}

/// Nothing of it is left.
pub(super) async fn stopped(context: &Context, row: &Row) -> Result<(), sqlx::Error> {
    let Some(mut tx) = at(context, row).await? else { return Ok(()) };
    sqlx::query!(
        "UPDATE eve.deployments
            SET status = 'stopped', stopping = false, ready_replicas = 0, pods = '[]', reason = NULL,
                message = NULL, applied_generation = NULL, applied_traffic = NULL, updated_at = now()
          WHERE id = $1",
        row.id
    )
    .execute(&mut *tx)
    .await?;
    event(&mut tx, row, "stopped", json!({})).await?;
    tx.commit().await?;
    context.deployments.bell.changed();
    context.settled.notify_one();
    Ok(())
}

/// What became of the revision: once.
async fn settle(
    tx: &mut Tx,
    row: &Row,
    outcome: Outcome,
    why: Option<&Why>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE eve.deployment_revisions
            SET outcome = $3, reason = $4, message = $5, settled_at = now()
          WHERE deployment_id = $1 AND revision = $2 AND outcome IS NULL",
        row.id,
        row.revision,
        outcome.as_str(),
        why.map(|why| why.reason.as_str()),
        why.map(|why| why.message.as_str()),
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What the name of its image meant, as its pods say.
fn digest(seen: &Seen, row: &Row) -> Option<String> {
    let mut latest = seen.pods.iter().filter(|pod| pod.template == row.template);
    latest.find_map(|pod| pod.digest.clone())
}

/// Writes down what was seen, and tells what changed; not if there is another revision by now.
pub(super) async fn write(
    context: &Context,
    row: &Row,
    seen: &Seen,
    verdict: &Verdict,
) -> Result<bool, sqlx::Error> {
    let (status, why) = match verdict {
        Verdict::Deploying(why) => (DeploymentStatus::Deploying, why.as_ref()),
        Verdict::Running => (DeploymentStatus::Running, None),
        Verdict::Failed(why) => (DeploymentStatus::Failed, Some(why)),
    };
    // What has failed stays so until it is there: that it is late does not become less true.
    let status = match (row.status, status) {
        (DeploymentStatus::Failed, DeploymentStatus::Deploying) => DeploymentStatus::Failed,
        (_, status) => status,
    };
    let mut pods: Vec<Pod> = seen.pods.iter().map(|seen| seen.pod.clone()).collect();
    pods.sort_by(|a, b| (a.ready, &a.name).cmp(&(b.ready, &b.name)));
    pods.truncate(SHOWN_PODS);
    let ready = ready(seen, row.template);
    let desired = seen.desired.clamp(0, MAX_REPLICAS);
    let settles = row.settled_revision < row.revision
        && matches!(status, DeploymentStatus::Running | DeploymentStatus::Failed);
    let unchanged = row.status == status
        && row.ready_replicas == ready
        && row.replicas == desired
        && row.pods.0 == pods
        && row.reason.as_deref() == why.map(|why| why.reason.as_str())
        && row.message.as_deref() == why.map(|why| why.message.as_str());
    if unchanged && !settles {
        return Ok(true);
    }
    let Some(mut tx) = at(context, row).await? else { return Ok(false) };
    let running = status == DeploymentStatus::Running;
    let degraded = row.status == DeploymentStatus::Running && !running;
    sqlx::query!(
        "UPDATE eve.deployments
            SET status = $2, ready_replicas = $3, replicas = $4, pods = $5, reason = $6, message = $7,
                deployed_at = CASE WHEN $8 THEN coalesce(deployed_at, now()) ELSE deployed_at END,
                settled_revision = CASE WHEN $9 THEN revision ELSE settled_revision END,
                underway_since = CASE WHEN $10 THEN now() ELSE underway_since END,
                updated_at = now()
          WHERE id = $1",
        row.id,
        status.as_str(),
        ready,
        desired,
        Json(&pods) as _,
        why.map(|why| why.reason.as_str()),
        why.map(|why| why.message.as_str()),
        running,
        settles,
        degraded,
    )
    .execute(&mut *tx)
    .await?;
    if running && desired > 0 && row.ran_at.is_none() {
        sqlx::query!(
            "UPDATE eve.deployment_revisions SET ran_at = now(), digest = coalesce(digest, $3)
              WHERE deployment_id = $1 AND revision = $2",
            row.id,
            row.revision,
            digest(seen, row),
        )
        .execute(&mut *tx)
        .await?;
    }
    if settles {
        let outcome = if running { Outcome::Running } else { Outcome::Failed };
        settle(&mut tx, row, outcome, why).await?;
    }
    let told = match (row.status, status) {
        (before, after) if before == after && !settles => None,
        (_, DeploymentStatus::Running) => Some("running"),
        (_, DeploymentStatus::Failed) => Some("failed"),
        (DeploymentStatus::Running, _) => Some("degraded"),
        _ => None,
    };
    if let Some(kind) = told {
        let details = json!({
            "replicas": { "desired": desired, "ready": ready },
            "reason": why.map(|why| &why.reason), "message": why.map(|why| &why.message),
        });
        event(&mut tx, row, kind, details).await?;
    }
    tx.commit().await?;
    context.deployments.bell.changed();
    context.settled.notify_one();
    Ok(true)
}
