//! What is answered: `external.metrics.k8s.io/v1beta1`, in the shapes of
//! [k8s.io/metrics](https://github.com/kubernetes/metrics/blob/master/pkg/apis/external_metrics/v1beta1/types.go).

use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, Query, Request, State as Of};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http::{HeaderMap, StatusCode, header};
use kube::core::SelectorExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::counts::{Counter, Counts, Metric};
use super::front_proxy::{Caller, Peer, Trust};
use super::review::Reviews;
use super::selector;

pub const GROUP: &str = "external.metrics.k8s.io";
pub const VERSION: &str = "v1beta1";
/// The label of each value.
const WORKER_TYPE: &str = "worker_type";

/// What handlers work with.
#[derive(Clone)]
pub struct State {
    pub namespace: Arc<str>,
    pub counter: Counter,
    pub trust: watch::Receiver<Arc<Trust>>,
    pub reviews: Reviews,
}

pub fn router(state: State) -> Router {
    Router::new()
        .route("/apis", get(groups))
        .route("/apis/external.metrics.k8s.io", get(group))
        .route("/apis/external.metrics.k8s.io/v1beta1", get(resources))
        .route("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}", get(values))
        .fallback(async || Refusal::missing("there is nothing here".to_owned()))
        .layer(middleware::from_fn_with_state(state.clone(), authenticated))
        .with_state(state)
}

/// Lets the API server in, and notes for whom it asks.
async fn authenticated(
    Of(state): Of<State>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = state.trust.borrow().caller(&peer, request.headers());
    let Some(caller) = caller else {
        return Refusal {
            code: StatusCode::UNAUTHORIZED,
            reason: "Unauthorized",
            message: "only the API server is answered, and it says who asks".to_owned(),
        }
        .into_response();
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// All that there is, as newer API servers ask for it in one go, or the names of groups as everybody may.
async fn groups(headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let whole = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let wants = |part: &str| part.split(';').map(str::trim).eq(whole.split(';'));
    if accepted.flat_map(|value| value.split(',')).any(wants) {
        return ([(header::CONTENT_TYPE, whole)], discovery().to_string()).into_response();
    }
    Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group_of()] }))
        .into_response()
}

async fn group() -> Json<Value> {
    let mut group = group_of();
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Json(group)
}

fn group_of() -> Value {
    let version = json!({ "groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION });
    json!({ "name": GROUP, "versions": [version], "preferredVersion": version })
}

async fn resources() -> Json<Value> {
    let resources = Metric::ALL.map(|metric| {
        json!({
            "name": metric.name(), "singularName": "", "namespaced": true,
            "kind": "ExternalMetricValueList", "verbs": ["get"],
        })
    });
    Json(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"), "resources": resources,
    }))
}

fn discovery() -> Value {
    let kind = json!({ "group": GROUP, "version": VERSION, "kind": "ExternalMetricValueList" });
    let resources = Metric::ALL.map(|metric| {
        json!({
            "resource": metric.name(), "responseKind": kind, "scope": "Namespaced",
            "singularResource": "", "verbs": ["get"],
        })
    });
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{
            "metadata": { "name": GROUP },
            "versions": [{ "version": VERSION, "freshness": "Current", "resources": resources }],
        }],
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chosen {
    #[serde(default)]
    label_selector: String,
}

/// The values of a metric that a selector chooses. An autoscaler adds them up.
async fn values(
    Of(state): Of<State>,
    Extension(caller): Extension<Caller>,
    Path((namespace, name)): Path<(String, String)>,
    Query(chosen): Query<Chosen>,
) -> Result<Json<Value>, Refusal> {
    // First of all: who may not read a metric is not told whether there is one.
    match state.reviews.allows(&caller, &namespace, &name).await {
        Ok(true) => {}
        Ok(false) => {
            return Err(Refusal {
                code: StatusCode::FORBIDDEN,
                reason: "Forbidden",
                message: format!(
                    "{} may not list {name} of {GROUP} in the namespace {namespace}",
                    caller.user
                ),
            });
        }
        Err(error) => {
            tracing::warn!(%error, "the API server does not say who may read external metrics");
            return Err(Refusal::unavailable(
                "the API server does not say whether you may read this",
            ));
        }
    }
    let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name);
    let (Some(metric), true) = (metric, *namespace == *state.namespace) else {
        return Err(Refusal::missing(format!(
            "there is no metric {name} in the namespace {namespace}: {} and {} are in {}",
            Metric::Pending.name(),
            Metric::Busy.name(),
            state.namespace
        )));
    };
    let selector = selector::parse(&chosen.label_selector).map_err(|message| Refusal {
        code: StatusCode::BAD_REQUEST,
        reason: "BadRequest",
        message,
    })?;
    let Some(counts) = state.counter.counts().await else {
        return Err(Refusal::unavailable(
            "the database does not answer, so nothing can be counted",
        ));
    };
    Ok(Json(listed(metric, &counts, &selector)))
}

fn listed(metric: Metric, counts: &Counts, selector: &kube::core::Selector) -> Value {
    let timestamp = counts.at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let items: Vec<Value> = counts
        .by_type
        .iter()
        .map(|(worker_type, count)| {
            ([(WORKER_TYPE.to_owned(), worker_type.clone())].into(), metric.of(count))
        })
        .filter(|(labels, _)| selector.matches(labels))
        .map(|(labels, value)| {
            json!({
                "metricName": metric.name(), "metricLabels": labels, "timestamp": timestamp,
                "value": value.to_string(),
            })
        })
        .collect();
    json!({
        "kind": "ExternalMetricValueList", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {}, "items": items,
    })
}

/// Why there is no answer, as Kubernetes says it.
struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn missing(message: String) -> Refusal {
        Refusal { code: StatusCode::NOT_FOUND, reason: "NotFound", message }
    }

    fn unavailable(message: &str) -> Refusal {
        Refusal {
            code: StatusCode::SERVICE_UNAVAILABLE,
            reason: "ServiceUnavailable",
            message: message.to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        (self.code, Json(status)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::Count;
    use super::*;

    #[test]
    fn values_are_listed_by_worker_type_zeros_included() {
        let counts = Counts {
            by_type: [
                ("deployment".to_owned(), Count::default()),
                ("general".to_owned(), Count { pending: 12, busy: 3 }),
            ]
            .into(),
            at: "2026-11-30T12:00:00Z".parse().expect("a time"),
        };
        let values = |metric, text: &str| {
            listed(metric, &counts, &selector::parse(text).expect("a selector"))["items"].clone()
        };
        assert_eq!(
            values(Metric::Pending, "worker_type=general"),
            json!([{
                "metricName": "eve_pending_requests", "metricLabels": { "worker_type": "general" },
                "timestamp": "2026-11-30T12:00:00Z", "value": "12",
            }])
        );
        assert_eq!(values(Metric::Busy, "worker_type=general")[0]["value"], "3");
        assert_eq!(values(Metric::Busy, "worker_type=deployment")[0]["value"], "0");
        assert_eq!(values(Metric::Pending, "worker_type=other"), json!([]));
        assert_eq!(values(Metric::Pending, "").as_array().map(Vec::len), Some(2));
    }
}
