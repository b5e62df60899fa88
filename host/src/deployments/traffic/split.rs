//! Which share of an app's requests everybody has, in truth.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::share::percent;
use crate::db::Tx;
use crate::deployments::settings::settings_of;

/// What splits requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// A Gateway: those that come from outside, exactly as was asked for. Inside the environment the app's
    /// name leads to the app alone.
    Weights,
    /// The app's service: all of them, evenly among the replicas that are ready.
    Replicas,
}

/// How the requests of an app are split between it and its canaries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// The app.
    pub of: String,
    /// What splits them.
    pub by: SplitBy,
    /// The app first.
    pub shares: Vec<Share>,
}

/// What one of them takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Share {
    /// Which app.
    pub app: String,
    /// The share that was asked for, in percent.
    pub asked: i32,
    /// The share that it has at the moment, in percent.
    pub percent: f64,
}

/// One of them as it is stored.
struct Part {
    app: String,
    ready: i32,
    config: Value,
    applied: Option<Value>,
}

/// How the requests of an app, or of what it is a canary of, are split; none if they are not.
pub async fn of(
    tx: &mut Tx,
    environment: Uuid,
    app: &str,
    config: &Value,
) -> Result<Option<Traffic>, sqlx::Error> {
    let main = settings_of(config).canary.map_or_else(|| app.to_owned(), |canary| canary.of);
    let parts = sqlx::query_as!(
        Part,
        "SELECT a.name AS app, d.ready_replicas AS ready, d.config, d.applied_traffic AS applied
           FROM eve.deployments d
           JOIN eve.apps a ON a.id = d.app_id
          WHERE d.environment_id = $1
            AND NOT d.stopping AND d.status <> 'stopped'
            AND (a.name = $2 OR d.config #>> '{canary,of}' = $2)
          ORDER BY a.name",
        environment,
        main,
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(split(&main, parts))
}

fn split(main: &str, parts: Vec<Part>) -> Option<Traffic> {
    let (own, canaries): (Vec<Part>, Vec<Part>) =
        parts.into_iter().partition(|part| part.app == main);
    let own = own.into_iter().next()?;
    if canaries.is_empty() {
        return None;
    }
    let applied = super::Traffic::of_stored(own.applied.as_ref());
    let taking = |app: &str| applied.canaries.iter().find(|canary| canary.app == app);
    let ready: i32 =
        canaries.iter().filter(|it| taking(&it.app).is_some()).map(|it| it.ready).sum();
    let all = own.ready + ready;
    let mut asked_of_others = 0;
    let mut shares: Vec<Share> = canaries
        .iter()
        .map(|part| {
            let asked = settings_of(&part.config).canary.map_or(0, |canary| canary.percent);
            asked_of_others += asked;
            let percent = match (taking(&part.app), applied.is_weighed()) {
                (None, _) => 0.0,
                (Some(canary), true) => f64::from(canary.percent),
                (Some(_), false) => percent(part.ready, all),
            };
            Share { app: part.app.clone(), asked, percent }
        })
        .collect();
    let percent = match applied.is_weighed() {
        true => f64::from(applied.own_percent()),
        false => percent(own.ready, all),
    };
    shares.insert(0, Share { app: own.app, asked: (100 - asked_of_others).max(0), percent });
    let by = if applied.is_weighed() { SplitBy::Weights } else { SplitBy::Replicas };
    Some(Traffic { of: main.to_owned(), by, shares })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(app: &str, ready: i32, config: Value, applied: Option<Value>) -> Part {
        Part { app: app.into(), ready, config, applied }
    }

    fn canary(app: &str, ready: i32, percent: i32) -> Part {
        part(app, ready, json!({ "canary": {"of": "api", "percent": percent} }), None)
    }

    fn shares(parts: Vec<Part>) -> Vec<(String, i32, f64)> {
        let split = split("api", parts).expect("a split");
        split.shares.into_iter().map(|it| (it.app, it.asked, it.percent)).collect()
    }

    #[test]
    fn shares_are_those_that_the_cluster_was_told() {
        assert_eq!(split("api", vec![part("api", 3, json!({}), None)]), None);
        let told = json!({ "canaries": [{"app": "next", "percent": 10}] });
        let main = |told: &Value| part("api", 3, json!({}), Some(told.clone()));
        // Among replicas: what is ready counts.
        assert_eq!(
            shares(vec![main(&told), canary("next", 1, 10)]),
            [("api".into(), 90, 75.0), ("next".into(), 10, 25.0)]
        );
        // A canary that the cluster was not told of takes nothing.
        assert_eq!(
            shares(vec![main(&json!({})), canary("next", 1, 10)]),
            [("api".into(), 90, 100.0), ("next".into(), 10, 0.0)]
        );
        // By weights: as it was told.
        let weighed = json!({
            "hosts": ["api.x.org"], "door": {"gateway": {"namespace": "a", "name": "b"}},
            "canaries": [{"app": "next", "percent": 10}],
        });
        let parts = vec![main(&weighed), canary("last", 2, 5), canary("next", 1, 20)];
        assert_eq!(
            shares(parts),
            [("api".into(), 75, 90.0), ("last".into(), 5, 0.0), ("next".into(), 20, 10.0)]
        );
    }
}
