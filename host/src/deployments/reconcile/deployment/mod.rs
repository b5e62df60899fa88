//! Reconciling one deployment: apply what is asked for, look, judge, write.

mod row;

use std::time::Duration;

use kube::Client;
use uuid::Uuid;

use super::environment::Environment;
use super::judge::{Asked, Verdict, Why, judge};
use super::next::{LEAST, Look, Next, next, parting};
use super::{Context, Trouble};
use crate::db::Scope;
use crate::deployments::kubernetes::apply::{self, Before, External, Leading};
use crate::deployments::kubernetes::failure::{Failure, in_words};
use crate::deployments::kubernetes::objects::Spec;
use crate::deployments::kubernetes::observe::{Seen, TroubleKind, observe};
use crate::deployments::kubernetes::secrets::{Secrets, Source, Sync, sync};
use crate::deployments::settings::{DEFAULT_DEADLINE_S, settings_of, understood};
use crate::deployments::traffic::{self, Traffic};
use crate::deployments::{DeployError, DeploymentStatus, Image, Settings};
use row::{Row, at, load, refused, stopped, taken, tell, waiting, write};

/// How often what is being deleted is looked at.
const DELETION: Duration = Duration::from_secs(1);
/// How long what a later version has deployed is left alone.
const LATER_VERSION: Duration = Duration::from_secs(30);
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

/// What came of reconciling.
pub(super) struct Done {
    /// When to look at it again.
    pub next: Next,
    /// Apps to look at because of what became of this one.
    pub also: Vec<String>,
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
) -> Result<Done, Trouble> {
    let next = one(context, environment, client, app, ask).await?;
    // Whoever dies here leaves it to whoever leads next, who looks at all of them.
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    let also = traffic::unsettled(&mut tx, environment.id, app, &environment.place()).await?;
    Ok(Done { next, also })
}

async fn one(
    context: &Context,
    environment: &Environment,
    client: &Client,
    app: &str,
    ask: Ask,
) -> Result<Next, Trouble> {
    let namespace = &environment.namespace;
    let external = match environment.config.secret_store {
        Some(_) => External::Secrets,
        None => External::Nothing,
    };
    let row = match load(context, environment.id, app).await? {
        Some(row) if row.status != DeploymentStatus::Stopped => row,
        // What carries our label and is nobody's any more was left by a control plane that was left behind.
        other => {
            let latest = other.map_or(i32::MAX, |row| row.revision);
            return match apply::remove(client, namespace, app, latest, external).await? {
                true => Ok(Next::Idle),
                false => Ok(Next::In(DELETION)),
            };
        }
    };
    if row.cluster_config != environment.cluster.config {
        // The cluster is to be another: the environment is looked after anew in a moment.
        return Ok(Next::In(LEAST));
    }
    if row.stopping {
        let led = is_led(context, environment, app).await?;
        if let Some(next) = parting(led, Duration::from_secs_f64(row.underway_s.max(0.0))) {
            return Ok(next);
        }
        if !apply::remove(client, namespace, app, row.revision, external).await? {
            return Ok(Next::In(DELETION));
        }
        stopped(context, &row).await?;
        return Ok(Next::Idle);
    }
    let mut row = row;
    let settings = match understood(&row.config) {
        Ok(settings) => settings,
        Err(unknown) => {
            // While versions change. What is left out would be taken away in the cluster.
            let why = Why::new(
                "later_version",
                format!(
                    "a later version of eve has deployed this, and it is left for a control plane of that \
                     version: {unknown}"
                ),
            );
            let patience = Duration::from_secs(DEFAULT_DEADLINE_S.into());
            let overdue = Duration::from_secs_f64(row.underway_s.max(0.0)) > patience;
            match row.settled_revision < row.revision && overdue {
                true => refused(context, &row, &why).await?,
                false => waiting(context, &row, &why).await?,
            }
            return Ok(Next::In(LATER_VERSION));
        }
    };
    let traffic = traffic_of(context, environment, app, &settings).await?;
    let leading = match &traffic {
        Ok(traffic) if *traffic != Traffic::of_stored(row.applied_traffic.as_ref()) => {
            Leading::Otherwise
        }
        _ => Leading::AsBefore,
    };
    let diverted = leading == Leading::Otherwise;
    if ask.again || diverted || row.revision > row.applied_revision {
        let bring = bring(context, environment, client, app, &mut row, ask, (traffic, leading));
        if let Err(next) = bring.await? {
            return Ok(next);
        }
    } else if row.settled_revision == row.revision && row.applied_generation.is_none() {
        // The cluster would not have it. Whoever changes that deploys again.
        return Ok(Next::Idle);
    }
    let Some(generation) = row.applied_generation else { return Ok(Next::Again) };
    let Some(mut seen) = observe(client, namespace, app).await? else {
        // Somebody has deleted it: whoever applies it tells.
        return Ok(Next::Again);
    };
    if seen.generation != generation {
        // Somebody has changed it: an autoscaler, or whoever should not.
        return Ok(Next::Again);
    }
    if external == External::Secrets && waits_for_config(&seen, row.template) {
        match unsynced(context, environment, client, app, &row).await? {
            // As above.
            Sync::Gone => return Ok(Next::Again),
            Sync::Done => {}
            Sync::Waiting(why) => seen.secrets = Some(why),
        }
    }
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
        if let Ok(spec) = spec(context, environment, app, &row, Ok(Traffic::default())) {
            used.extend([spec.secret_name(), spec.secrets_name()].into_iter().flatten());
        }
        apply::tidy(client, namespace, app, &used, row.revision, external).await?;
    }
    Ok(next(Look {
        verdict: &verdict,
        before: row.status,
        shaky: seen.pods.iter().any(|pod| pod.shaky_since.is_some()),
        syncing: seen.secrets.is_some(),
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
    (traffic, leading): (Result<Traffic, String>, Leading),
) -> Result<Result<(), Next>, Trouble> {
    let spec = match spec(context, environment, app, row, traffic) {
        Ok(spec) => spec,
        Err(why) => return unfit(context, app, row, &why).await,
    };
    let before = match row.applied_generation {
        Some(_) if row.applied_revision == row.revision => Before::Whole,
        _ => Before::New,
    };
    let applied = apply::apply(client, &environment.namespace, &spec, before, leading).await;
    let (drift, failure) = match (applied.drift, applied.outcome) {
        (mut drift, Ok(generation)) => {
            if before == Before::Whole
                && row.applied_generation != Some(generation)
                && spec.settings.autoscale.is_none()
                && drift.is_empty()
            {
                drift.push(something(app));
            }
            let traffic = spec.traffic.stored();
            if !taken(context, app, row, generation, traffic, &drift, ask).await? {
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
        tell(&mut tx, app, row, &drift, ask).await?;
        tx.commit().await?;
    }
    let why = match &failure {
        Failure::Refused { reason, message } => {
            return unfit(context, app, row, &Why::new(reason, message.clone())).await;
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

/// What is told where it is not known what of a Deployment was changed, nor by whom.
fn something(app: &str) -> String {
    format!("Deployment {app}: fields of ours were changed")
}

/// Whether a container of the latest template cannot be made because of what it is given.
fn waits_for_config(seen: &Seen, template: i32) -> bool {
    seen.pods.iter().any(|pod| {
        pod.template == template
            && pod.trouble.as_ref().is_some_and(|trouble| trouble.kind == TroubleKind::Config)
    })
}

/// How far the secrets are that somebody else puts there.
async fn unsynced(
    context: &Context,
    environment: &Environment,
    client: &Client,
    app: &str,
    row: &Row,
) -> Result<Sync, Failure> {
    let spec = spec(context, environment, app, row, Ok(Traffic::default())).ok();
    match spec.as_ref().and_then(Spec::external) {
        Some((name, store)) => sync(client, &environment.namespace, &name, store).await,
        None => Ok(Sync::Done),
    }
}

/// It cannot be as it is to be. What runs goes on running: that it could not be made anew is said, and tried
/// again.
async fn unfit(
    context: &Context,
    app: &str,
    row: &Row,
    why: &Why,
) -> Result<Result<(), Next>, Trouble> {
    if row.applied_revision == row.revision && row.applied_generation.is_some() {
        let Why { reason, message } = why;
        tracing::warn!(app, reason, why = message, "what runs could not be applied again");
        return Ok(Ok(()));
    }
    refused(context, row, why).await?;
    Ok(Err(Next::Idle))
}

/// What its traffic is to be; or why it cannot be as its settings say.
async fn traffic_of(
    context: &Context,
    environment: &Environment,
    app: &str,
    settings: &Settings,
) -> Result<Result<Traffic, String>, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    traffic::wanted(&mut tx, environment.id, app, settings, &environment.place()).await
}

/// Whether requests of another app are still led to it.
async fn is_led(
    context: &Context,
    environment: &Environment,
    app: &str,
) -> Result<bool, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    traffic::takes_a_share(&mut tx, environment.id, app).await
}

fn spec(
    context: &Context,
    environment: &Environment,
    app: &str,
    row: &Row,
    traffic: Result<Traffic, String>,
) -> Result<Spec, Why> {
    let deployments = &context.deployments;
    let traffic = traffic.map_err(|why| Why::new("route", why))?;
    let image: Image = row.image.parse().map_err(|why: String| Why::new("invalid", why))?;
    let sealed = |error: DeployError| Why::new("sealed", in_words(&error));
    let variables = deployments.unseal(row.id, row.variables.as_ref()).map_err(sealed)?;
    let fingerprint =
        deployments.fingerprint(row.variables.as_ref(), &variables).map_err(sealed)?;
    let settings = settings_of(&row.config);
    let secrets = match settings.secrets.clone().filter(|references| !references.is_empty()) {
        None => None,
        Some(references) => {
            let source = match &environment.config.secret_store {
                Some(store) => Source::Store(store.clone()),
                None => {
                    let (held, fingerprint) =
                        deployments.held(row.id, row.secrets.as_ref()).map_err(sealed)?;
                    Source::Held { held, fingerprint }
                }
            };
            Some(Secrets { references, source })
        }
    };
    Ok(Spec {
        id: row.id,
        app: app.to_owned(),
        env: environment.name.clone(),
        revision: row.revision,
        template: row.template,
        image,
        digest: row.digest.clone().filter(|_| row.pinned),
        replicas: row.replicas,
        settings,
        variables,
        fingerprint,
        secrets,
        traffic,
    })
}
