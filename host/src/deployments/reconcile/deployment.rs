//! Reconciling one deployment: apply what is asked for, look, judge, write.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::Client;
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::environment::Environment;
use super::judge::{Asked, Verdict, Why, judge, ready};
use super::next::{LEAST, Look, Next, next};
use super::{Context, Trouble};
use crate::db::{Scope, Tx};
use crate::deployments::desired::settings_of;
use crate::deployments::kubernetes::apply::{self, Before};
use crate::deployments::kubernetes::failure::{Failure, in_words};
use crate::deployments::kubernetes::objects::Spec;
use crate::deployments::kubernetes::observe::{Seen, observe};
use crate::deployments::{DeployError, DeploymentStatus, Image, MAX_REPLICAS, Outcome, Pod};

/// Pods that are written down.
const SHOWN_PODS: usize = 100;
/// Of what others have changed, what is told of one look.
const MOST_DRIFT: usize = 50;
/// How often what is being deleted is looked at.
const DELETION: Duration = Duration::from_secs(1);
/// After how many failures in a row it is said that others change it all the time.
const PATIENCE: u32 = 3;

/// What is to be done with a deployment beside looking at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    /// Apply it, whatever is known of it.
    pub again: bool,
    /// How often in a row it has failed.
    pub failures: u32,
}

/// A deployment at its latest revision.
struct Row {
    id: Uuid,
    org_id: Uuid,
    status: DeploymentStatus,
    stopping: bool,
    revision: i32,
    applied_revision: i32,
    applied_generation: Option<i64>,
    settled_revision: i32,
    replicas: i32,
    ready_replicas: i32,
    pods: Json<Vec<Pod>>,
    reason: Option<String>,
    message: Option<String>,
    underway_s: f64,
    template: i32,
    image: String,
    digest: Option<String>,
    pinned: bool,
    ran_at: Option<DateTime<Utc>>,
    config: Value,
    variables: Option<Value>,
}

/// The apps that are deployed in an environment; only those that the cluster has not heard the last of.
pub(super) async fn names(
    context: &Context,
    environment: Uuid,
    unheard: bool,
) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    sqlx::query_scalar!(
        "SELECT a.name
           FROM eve.deployments d
           JOIN eve.apps a ON a.id = d.app_id
          WHERE d.environment_id = $1
            AND d.status <> 'stopped'
            AND (NOT $2 OR d.stopping OR d.revision > d.applied_revision)",
        environment,
        unheard,
    )
    .fetch_all(&mut *tx)
    .await
}

/// Makes it be as it is to be, as far as that can be done now.
pub(super) async fn reconcile(
    context: &Context,
    environment: &Environment,
    client: &Client,
    app: &str,
    ask: Ask,
) -> Result<Next, Trouble> {
    let namespace = &environment.namespace;
    let row = match load(context, environment.id, app).await? {
        Some(row) if row.status != DeploymentStatus::Stopped => row,
        // What carries our label and is nobody's any more was left by a control plane that was left behind.
        other => {
            let latest = other.map_or(i32::MAX, |row| row.revision);
            return match apply::remove(client, namespace, app, latest).await? {
                true => Ok(Next::Idle),
                false => Ok(Next::In(DELETION)),
            };
        }
    };
    if row.stopping {
        if !apply::remove(client, namespace, app, row.revision).await? {
            return Ok(Next::In(DELETION));
        }
        stopped(context, &row).await?;
        return Ok(Next::Idle);
    }
    let mut row = row;
    if ask.again || row.revision > row.applied_revision {
        if let Err(next) = bring(context, environment, client, app, &mut row, ask).await? {
            return Ok(next);
        }
    } else if row.settled_revision == row.revision && row.applied_generation.is_none() {
        // The cluster would not have it. Whoever changes that deploys again.
        return Ok(Next::Idle);
    }
    let Some(generation) = row.applied_generation else { return Ok(Next::Again) };
    let Some(seen) = observe(client, namespace, app).await? else {
        // Somebody has deleted it: whoever applies it tells.
        return Ok(Next::Again);
    };
    if seen.generation != generation {
        // Somebody has changed it: an autoscaler, or whoever should not.
        return Ok(Next::Again);
    }
    let settings = settings_of(&row.config);
    let deadline = Duration::from_secs(settings.deadline_s().into());
    let asked = Asked {
        generation,
        template: row.template,
        // What runs is not on its way: when it no longer does, its time begins anew.
        underway: match row.status {
            DeploymentStatus::Running => Duration::ZERO,
            _ => Duration::from_secs_f64(row.underway_s.max(0.0)),
        },
        deadline,
    };
    let verdict = judge(&seen, &asked);
    if !write(context, &row, &seen, &verdict).await? {
        // Another revision was asked for meanwhile, or somebody else leads.
        return Ok(Next::In(LEAST));
    }
    if !matches!(verdict, Verdict::Deploying(_)) && row.settled_revision < row.revision {
        let mut used = apply::used_secrets(client, namespace, app).await?;
        used.extend(spec(context, environment, app, &row).ok().and_then(|spec| spec.secret_name()));
        apply::tidy(client, namespace, app, &used, row.revision).await?;
    }
    Ok(next(Look {
        verdict: &verdict,
        before: row.status,
        shaky: seen.pods.iter().any(|pod| pod.shaky_since.is_some()),
        underway: asked.underway,
        deadline,
    }))
}

/// Applies it, and writes down what came of it: when to look again if that was all.
async fn bring(
    context: &Context,
    environment: &Environment,
    client: &Client,
    app: &str,
    row: &mut Row,
    ask: Ask,
) -> Result<Result<(), Next>, Trouble> {
    let spec = match spec(context, environment, app, row) {
        Ok(spec) => spec,
        Err(why) => {
            refused(context, row, &why).await?;
            return Ok(Err(Next::Idle));
        }
    };
    let before = match row.applied_generation {
        Some(_) if row.applied_revision == row.revision => Before::Whole,
        _ => Before::New,
    };
    let applied = apply::apply(client, &environment.namespace, &spec, before).await;
    let (drift, failure) = match (applied.drift, applied.outcome) {
        (mut drift, Ok(generation)) => {
            if before == Before::Whole
                && row.applied_generation != Some(generation)
                && spec.settings.autoscale.is_none()
                && drift.is_empty()
            {
                drift.push(format!("Deployment {app}: fields of ours were changed"));
            }
            if !taken(context, row, generation, &drift, ask).await? {
                return Ok(Err(Next::In(LEAST)));
            }
            row.applied_generation = Some(generation);
            row.applied_revision = row.revision;
            if row.status == DeploymentStatus::Pending {
                row.status = DeploymentStatus::Deploying;
            }
            return Ok(Ok(()));
        }
        (drift, Err(failure)) => (drift, failure),
    };
    // What was found is told, whatever comes of it.
    if !drift.is_empty()
        && let Some(mut tx) = at(context, row).await?
    {
        tell(&mut tx, row, &drift, ask).await?;
        tx.commit().await?;
    }
    let why = match &failure {
        // What runs goes on running: that it could not be made anew is said, and tried again.
        Failure::Refused { reason, message } if before == Before::Whole => {
            tracing::warn!(app, reason, message, "what runs could not be applied again");
            return Ok(Ok(()));
        }
        Failure::Refused { reason, message } => {
            refused(context, row, &Why::new(reason, message.clone())).await?;
            return Ok(Err(Next::Idle));
        }
        Failure::Away(message) | Failure::Denied(message) => {
            Some(Why::new("cluster", message.clone()))
        }
        Failure::Conflict(message) if ask.failures >= PATIENCE => Some(Why::new(
            "conflict",
            format!("others change it in the cluster all the time; it is tried again: {message}"),
        )),
        // Nobody else leads, or this could not be written: the database has been set back.
        Failure::Behind(message) if ask.failures >= PATIENCE => Some(Why::new(
            "conflict",
            format!(
                "the cluster has a later revision than the database, so it is left alone: {message}"
            ),
        )),
        Failure::Gone(message) if ask.failures >= PATIENCE => Some(Why::new(
            "cluster",
            format!("something that it takes is not in the cluster; it is tried again: {message}"),
        )),
        // Whoever leads by now writes what there is to write.
        Failure::Conflict(_) | Failure::Gone(_) | Failure::Behind(_) => None,
    };
    if let Some(why) = why {
        waiting(context, row, &why).await?;
    }
    Err(failure.into())
}

fn spec(context: &Context, environment: &Environment, app: &str, row: &Row) -> Result<Spec, Why> {
    let deployments = &context.deployments;
    let image: Image = row.image.parse().map_err(|why: String| Why::new("invalid", why))?;
    let sealed = |error: DeployError| Why::new("sealed", in_words(&error));
    let variables = deployments.unseal(row.id, row.variables.as_ref()).map_err(sealed)?;
    let fingerprint =
        deployments.fingerprint(row.variables.as_ref(), &variables).map_err(sealed)?;
    Ok(Spec {
        id: row.id,
        app: app.to_owned(),
        env: environment.name.clone(),
        revision: row.revision,
        template: row.template,
        image,
        digest: row.digest.clone().filter(|_| row.pinned),
        replicas: row.replicas,
        settings: settings_of(&row.config),
        variables,
        fingerprint,
    })
}

async fn load(context: &Context, environment: Uuid, app: &str) -> Result<Option<Row>, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    sqlx::query_as!(
        Row,
        r#"SELECT d.id, d.org_id, d.status AS "status: DeploymentStatus", d.stopping, d.revision,
                  d.applied_revision, d.applied_generation, d.settled_revision, d.ready_replicas,
                  d.pods AS "pods: Json<Vec<Pod>>", d.reason, d.message,
                  extract(epoch FROM now() - d.underway_since)::float8 AS "underway_s!",
                  r.template, r.image, r.digest, r.pinned, r.ran_at, r.replicas, r.config, r.variables
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
             JOIN eve.deployment_revisions r ON r.deployment_id = d.id AND r.revision = d.revision
            WHERE d.environment_id = $1 AND a.name = $2"#,
        environment,
        app
    )
    .fetch_optional(&mut *tx)
    .await
}

/// A transaction with the deployment locked, if it still is at this revision and this process still leads.
async fn at(context: &Context, row: &Row) -> Result<Option<Tx>, sqlx::Error> {
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

/// What others have changed; not again what was told last, because putting it right has failed since.
async fn tell(tx: &mut Tx, row: &Row, drift: &[String], ask: Ask) -> Result<(), sqlx::Error> {
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
        if last.is_some_and(|last| last.event_type == "drifted" && last.details == details) {
            return Ok(());
        }
    }
    event(tx, row, "drifted", details).await
}

/// The cluster has taken the revision, in place of what others had made of it.
async fn taken(
    context: &Context,
    row: &Row,
    generation: i64,
    drift: &[String],
    ask: Ask,
) -> Result<bool, sqlx::Error> {
    let same = row.applied_revision == row.revision && row.applied_generation == Some(generation);
    if same && drift.is_empty() {
        return Ok(true);
    }
    let Some(mut tx) = at(context, row).await? else { return Ok(false) };
    sqlx::query!(
        "UPDATE eve.deployments
            SET applied_revision = revision, applied_generation = $2, updated_at = now(),
                status = CASE WHEN status = 'pending' THEN 'deploying' ELSE status END,
                reason = CASE WHEN $3 THEN NULL ELSE reason END,
                message = CASE WHEN $3 THEN NULL ELSE message END
          WHERE id = $1",
        row.id,
        generation,
        is_excuse(row.reason.as_deref()),
    )
    .execute(&mut *tx)
    .await?;
    tell(&mut tx, row, drift, ask).await?;
    if row.status == DeploymentStatus::Pending {
        event(&mut tx, row, "deploying", json!({ "generation": generation })).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Whether that is why the cluster has not been told: no longer so once it has.
fn is_excuse(reason: Option<&str>) -> bool {
    matches!(reason, Some("cluster" | "conflict"))
}

/// The cluster cannot be asked: it says so, and waits.
async fn waiting(context: &Context, row: &Row, why: &Why) -> Result<(), sqlx::Error> {
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
async fn refused(context: &Context, row: &Row, why: &Why) -> Result<(), sqlx::Error> {
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
    Ok(())
}

/// Nothing of it is left.
async fn stopped(context: &Context, row: &Row) -> Result<(), sqlx::Error> {
    let Some(mut tx) = at(context, row).await? else { return Ok(()) };
    sqlx::query!(
        "UPDATE eve.deployments
            SET status = 'stopped', stopping = false, ready_replicas = 0, pods = '[]', reason = NULL,
                message = NULL, applied_generation = NULL, updated_at = now()
          WHERE id = $1",
        row.id
    )
    .execute(&mut *tx)
    .await?;
    event(&mut tx, row, "stopped", json!({})).await?;
    tx.commit().await?;
    context.deployments.bell.changed();
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
async fn write(
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
    Ok(true)
}
