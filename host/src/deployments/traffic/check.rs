//! Whether hosts and canaries make sense beside those of the environment's other apps. Whoever asks before
//! writing holds the environment's lock alone: nobody else deploys there meanwhile.

use uuid::Uuid;

use super::hosts::Place;
use super::share::replicas_for;
use crate::db::Tx;
use crate::deployments::{DeployError, Settings};
use crate::requests::Invalid;
use crate::tenancy::Tenant;

/// A canary of an app.
pub struct CanaryOf {
    pub app: String,
    pub percent: i32,
    pub replicas: i32,
}

/// Completes what was said of hosts, sees whether all of it fits, and says with how many replicas the app
/// takes the share that was asked for; none if a Gateway sees to that, or there is none to take.
pub async fn check(
    tx: &mut Tx,
    tenant: Tenant,
    env: &str,
    app: &str,
    settings: &mut Settings,
) -> Result<Option<Result<i32, DeployError>>, DeployError> {
    if settings.hosts.as_ref().is_some_and(Vec::is_empty) {
        settings.hosts = None;
    }
    if settings.hosts.is_none() && settings.canary.is_none() {
        return Ok(None);
    }
    let (environment, place) = place(tx, tenant, env).await?;
    if let Some(hosts) = &mut settings.hosts {
        *hosts = labels(&place, hosts)?;
        place.outside(hosts).map_err(DeployError::Conflict)?;
        free(tx, environment, app, hosts).await?;
    }
    match settings.canary.is_some() {
        true => canary(tx, tenant, environment, env, app, settings, &place).await,
        false => Ok(None),
    }
}

/// What is kept of hosts, each once.
fn labels(place: &Place, hosts: &[String]) -> Result<Vec<String>, DeployError> {
    let mut labels = Vec::with_capacity(hosts.len());
    for host in hosts {
        let label = place.label(host).map_err(DeployError::Conflict)??;
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    Ok(labels)
}

/// A host that leads to another app is not given twice. One that is being deleted has it until it is gone.
async fn free(
    tx: &mut Tx,
    environment: Uuid,
    app: &str,
    hosts: &[String],
) -> Result<(), DeployError> {
    let taken = sqlx::query!(
        r#"SELECT a.name AS app, h.host AS "host!"
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id,
                  jsonb_array_elements_text(coalesce(d.config -> 'hosts', '[]')) AS h (host)
            WHERE d.environment_id = $1
              AND a.name <> $2
              AND d.status <> 'stopped'
              AND h.host = ANY ($3)
            ORDER BY h.host
            LIMIT 1"#,
        environment,
        app,
        hosts,
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(DeployError::database("looking for a host"))?;
    match taken {
        None => Ok(()),
        Some(taken) => Err(DeployError::Conflict(format!(
            "the host `{}` leads to `{}` in this environment: take it away there first (`eve deploy create \
             --no-host`), or choose another",
            taken.host, taken.app
        ))),
    }
}

async fn canary(
    tx: &mut Tx,
    tenant: Tenant,
    environment: Uuid,
    env: &str,
    app: &str,
    settings: &Settings,
    place: &Place,
) -> Result<Option<Result<i32, DeployError>>, DeployError> {
    let Some(canary) = &settings.canary else { return Ok(None) };
    let of = &canary.of;
    let wrong = |why: String| DeployError::from(Invalid::new("settings.canary.of", why));
    if of == app {
        return Err(wrong(format!(
            "`{app}` cannot be a canary of itself: register an app for it (`eve app create`)"
        )));
    }
    let failed = DeployError::database("looking for what a canary is of");
    let main = sqlx::query!(
        r#"SELECT d.replicas, d.config
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
            WHERE d.environment_id = $1 AND a.name = $2
              AND NOT d.stopping AND d.status <> 'stopped'"#,
        environment,
        of,
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?;
    let Some(main) = main else {
        let elsewhere = sqlx::query_scalar!(
            "SELECT e.name
               FROM eve.deployments d
               JOIN eve.apps a ON a.id = d.app_id
               JOIN eve.environments e ON e.id = d.environment_id
              WHERE d.org_id = $1 AND a.name = $2
                AND NOT d.stopping AND d.status <> 'stopped'
              ORDER BY e.name
              LIMIT 5",
            tenant.org().0,
            of,
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(failed)?;
        return Err(wrong(match elsewhere.is_empty() {
            true => format!("`{of}` is not deployed in `{env}`: deploy it first"),
            false => format!(
                "`{of}` is not deployed in `{env}`, but in {}: a canary is in its app's own environment",
                elsewhere.join(", ")
            ),
        }));
    };
    let mains = crate::deployments::settings::settings_of(&main.config);
    if let Some(other) = &mains.canary {
        return Err(wrong(format!(
            "`{of}` is a canary itself, of `{}`: a canary has none",
            other.of
        )));
    }
    let own = canaries(tx, environment, app).await?;
    if let Some(first) = own.first() {
        return Err(wrong(format!(
            "`{app}` has the canary `{}`, and so cannot be one itself",
            first.app
        )));
    }
    let others: Vec<CanaryOf> =
        canaries(tx, environment, of).await?.into_iter().filter(|it| it.app != app).collect();
    let taken: i32 = others.iter().map(|other| other.percent).sum();
    if taken + canary.percent > 100 {
        let others: Vec<String> =
            others.iter().map(|other| format!("`{}` {} %", other.app, other.percent)).collect();
        return Err(Invalid::new(
            "settings.canary.percent",
            format_args!(
                "canaries of `{of}` may have 100 % together, and these have theirs: {}",
                others.join(", ")
            ),
        )
        .into());
    }
    if place.has_gateway() && mains.hosts.is_some() {
        return Ok(None);
    }
    let beside = main.replicas + others.iter().map(|other| other.replicas).sum::<i32>();
    Ok(Some(replicas_for(canary.percent, beside).ok_or_else(|| {
        Invalid::new(
            "settings.canary.percent",
            format_args!(
                "without a Gateway and a host of `{of}` requests are split among replicas, and {} % beside \
                 {beside} of others would take more than 100: say how many with --replicas, or scale `{of}`",
                canary.percent
            ),
        )
        .into()
    })))
}

/// The canaries of an app that are there, or are to be.
pub async fn canaries(
    tx: &mut Tx,
    environment: Uuid,
    app: &str,
) -> Result<Vec<CanaryOf>, DeployError> {
    sqlx::query_as!(
        CanaryOf,
        r#"SELECT a.name AS app, d.replicas, (d.config #>> '{canary,percent}')::int AS "percent!"
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
            WHERE d.environment_id = $1
              AND d.config #>> '{canary,of}' = $2
              AND NOT d.stopping AND d.status <> 'stopped'
            ORDER BY a.name"#,
        environment,
        app,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(DeployError::database("looking for canaries"))
}

/// An environment's id, and what its hosts are made of.
async fn place(tx: &mut Tx, tenant: Tenant, env: &str) -> Result<(Uuid, Place), DeployError> {
    let row = sqlx::query!(
        "SELECT e.id, o.slug, c.id AS cluster, c.config
           FROM eve.environments e
           JOIN eve.organizations o ON o.id = e.org_id
           JOIN eve.clusters c ON c.id = e.cluster_id
          WHERE e.org_id = $1 AND e.name = $2",
        tenant.org().0,
        env,
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(DeployError::database("reading an environment"))?
    .ok_or_else(|| DeployError::not_found("environment", env))?;
    let config = serde_json::from_value(row.config).unwrap_or_default();
    Ok((row.id, Place::new(env, &row.slug, &row.cluster, config)))
}
