//! Health, readiness, metrics, and the API's own description. None of them asks who is calling.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use tokio::sync::Mutex;

use crate::autoscaling::counts::{Counts, Metric};
use crate::db::{self, SchemaState};
use crate::http::AppState;
use crate::http::problem::{Kind, Problem};

/// How long the database may take to prove that it is there.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// That it was there holds for so long: anybody may ask, and as often as they like, so the database is
/// not asked each time.
const READY_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "meta",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"))
)]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether requests can be served: the database answers with a schema that we know, and we are neither
/// starting nor shutting down.
#[utoipa::path(
    get, path = "/readyz", tag = "meta",
    responses(
        (status = 200, description = "They can", body = String, content_type = "text/plain"),
        (status = 503, description = "They cannot", body = crate::http::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub async fn readyz(State(state): State<AppState>) -> Result<&'static str, Problem> {
    let not_ready = |why: &str| Err(Problem::new(Kind::Unavailable, why));
    if state.shutdown.is_cancelled() {
        return not_ready("shutting down");
    }
    if !state.started.is_cancelled() {
        return not_ready("external metrics are not served yet");
    }
    // One asks for all who ask meanwhile.
    let mut seen = state.readiness.seen.lock().await;
    if seen.is_some_and(|at| at.elapsed() < READY_INTERVAL) {
        return Ok("ready\n");
    }
    match tokio::time::timeout(READY_TIMEOUT, db::schema_state(state.db.pool())).await {
        // Schemas are expanded before they are contracted: ours may serve with a later one.
        Ok(Ok(SchemaState::Current | SchemaState::Ahead)) => {
            *seen = Some(Instant::now());
            Ok("ready\n")
        }
        Ok(Ok(SchemaState::Behind)) => {
            not_ready("the database's schema is behind: run `eve migrate`")
        }
        Ok(Err(_)) | Err(_) => not_ready("the database cannot be reached"),
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "meta",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let mut text = state.prometheus.as_ref().map(|handle| handle.render()).unwrap_or_default();
    text.push_str(&gauges(state.counter.counts().await.as_deref()));
    exposition(text)
}

/// Metrics as Prometheus takes them.
pub(crate) fn exposition(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// This API's description.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "meta",
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object, content_type = "application/json"))
)]
pub async fn openapi(State(state): State<AppState>) -> impl IntoResponse {
    axum::Json(state.document.as_ref()).into_response()
}

/// When the database was last seen to be as it should.
#[derive(Clone, Default)]
pub struct Readiness {
    seen: Arc<Mutex<Option<Instant>>>,
}

/// Gauges that are counted when somebody scrapes.
fn gauges(counts: Option<&Counts>) -> String {
    let mut text = String::from("# TYPE eve_database_up gauge\n");
    let Some(counts) = counts else {
        text.push_str("eve_database_up 0\n");
        return text;
    };
    text.push_str("eve_database_up 1\n");
    for metric in Metric::ALL {
        // Worker types are letters, digits and hyphens: nothing to escape. Writing to a String
        // cannot fail.
        let (name, help) = (metric.name(), metric.help());
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (worker_type, count) in &counts.by_type {
            let _ = writeln!(text, "{name}{{worker_type=\"{worker_type}\"}} {}", metric.of(count));
        }
    }
    text
}
