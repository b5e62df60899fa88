//! Who answers the requests of an app: host names lead to it from outside, and canaries take a share.
//!
//! Flow: whoever deploys has hosts and canaries looked at beside those of the environment's other apps
//! (`check`). The reconciler asks what an app's traffic is to be at the moment ([`wanted`]), applies it with
//! the app's objects, and writes down what it applied; when a canary comes up, fails or goes, the app that
//! it is one of is looked at again ([`unsettled`]). `split` says which share everybody really has.
//!
//! Invariants:
//! - A split is in the objects of the main app alone, its Service and its route: whatever becomes of a
//!   canary, one app has to be applied for the requests to return to it.
//! - A canary takes its share only while a pod of it is ready, and it has neither failed nor is to go.
//! - A host leads to one app of an environment.

mod check;
mod hosts;
mod share;
mod split;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use split::{Share, SplitBy, Traffic as Shown};

pub(super) use check::{canaries, check};
pub(super) use hosts::{Place, urls};
pub(super) use split::of as split;

use super::Settings;
use super::clusters::Gateway;
use crate::db::Tx;

/// What leads requests from outside to an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// A Gateway, by an HTTPRoute.
    Gateway(Gateway),
    /// The controller of a class, by an Ingress.
    Ingress(String),
}

/// A canary that takes a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The app.
    pub app: String,
    /// The share that was asked for, in percent.
    pub percent: i32,
}

/// What a cluster is told of an app's traffic, and was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Whole names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// What leads from the hosts to the app; none without hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub door: Option<Door>,
    /// The door has certificates for the hosts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
    /// Those that take a share now, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<Canary>,
}

impl Traffic {
    /// As it is stored: none while there is nothing to say.
    pub(super) fn stored(&self) -> Option<Value> {
        (*self != Traffic::default())
            .then(|| serde_json::to_value(self).expect("texts always serialise"))
    }

    /// As it was stored.
    pub(super) fn of_stored(stored: Option<&Value>) -> Traffic {
        stored.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
    }

    /// Whether requests are split by weights: else they are split among replicas.
    pub fn is_weighed(&self) -> bool {
        matches!(self.door, Some(Door::Gateway(_)))
    }

    /// What is left for the app itself, in percent.
    pub fn own_percent(&self) -> i32 {
        (100 - self.canaries.iter().map(|canary| canary.percent).sum::<i32>()).max(0)
    }
}

/// What the traffic of an app is to be at the moment; or why it cannot be as its settings say.
pub(super) async fn wanted(
    tx: &mut Tx,
    environment: Uuid,
    app: &str,
    settings: &Settings,
    place: &Place,
) -> Result<Result<Traffic, String>, sqlx::Error> {
    // While new pods replace old ones these still answer: any pod that is ready will do.
    let canaries = sqlx::query!(
        r#"SELECT a.name AS app, (d.config #>> '{canary,percent}')::int AS "percent!"
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
            WHERE d.environment_id = $1
              AND d.config #>> '{canary,of}' = $2
              AND NOT d.stopping
              AND d.status NOT IN ('failed', 'stopped')
              AND (d.ready_replicas > 0 OR d.pods @> '[{"ready": true}]')
            ORDER BY a.name"#,
        environment,
        app,
    )
    .fetch_all(&mut **tx)
    .await?
    .into_iter()
    .map(|row| Canary { app: row.app, percent: row.percent })
    .collect();
    let hosts = settings.hosts.as_deref().unwrap_or_default();
    Ok(place.outside(hosts).map(|(hosts, door)| Traffic {
        https: door.is_some() && place.is_https(),
        hosts,
        door,
        canaries,
    }))
}

/// Apps whose traffic is another than was applied, because of what became of this one: the one that it is a
/// canary of, and any that still has it for one.
pub(super) async fn unsettled(
    tx: &mut Tx,
    environment: Uuid,
    app: &str,
    place: &Place,
) -> Result<Vec<String>, sqlx::Error> {
    let mains = sqlx::query!(
        r#"SELECT m.name AS app, d.config, d.applied_traffic
             FROM eve.deployments d
             JOIN eve.apps m ON m.id = d.app_id
            WHERE d.environment_id = $1
              AND NOT d.stopping
              AND d.status <> 'stopped'
              AND (d.applied_traffic @> jsonb_build_object(
                       'canaries', jsonb_build_array(jsonb_build_object('app', $2::text)))
                   OR m.name = (SELECT c.config #>> '{canary,of}'
                                  FROM eve.deployments c
                                  JOIN eve.apps a ON a.id = c.app_id
                                 WHERE c.environment_id = $1 AND a.name = $2))"#,
        environment,
        app,
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut unsettled = Vec::new();
    for main in mains {
        let settings = super::settings::settings_of(&main.config);
        let applied = Traffic::of_stored(main.applied_traffic.as_ref());
        if let Ok(wanted) = wanted(tx, environment, &main.app, &settings, place).await?
            && wanted != applied
        {
            unsettled.push(main.app);
        }
    }
    Ok(unsettled)
}

/// Whether requests of another app are still led to this one.
pub(super) async fn takes_a_share(
    tx: &mut Tx,
    environment: Uuid,
    app: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM eve.deployments d
                WHERE d.environment_id = $1
                  AND NOT d.stopping
                  AND d.status <> 'stopped'
                  AND d.applied_traffic @> jsonb_build_object(
                          'canaries', jsonb_build_array(jsonb_build_object('app', $2::text)))
           ) AS "takes!""#,
        environment,
        app,
    )
    .fetch_one(&mut **tx)
    .await
}
