//! Health, readiness, metrics, and the API's own description. None of them asks who is calling.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use tokio::sync::Mutex;

use crate::db::{self, Db, SchemaState, Scope};
use crate::http::AppState;
use crate::http::problem::{Kind, Problem};

/// How long the database may take to prove that it is there.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// That it was there holds for so long: anybody may ask, and as often as they like, so the database is
/// not asked each time.
const READY_INTERVAL: Duration = Duration::from_secs(1);
/// Counts are taken at most this often, however many scrape.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// A count that takes longer is left out of this scrape.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "meta",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"))
)]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether requests can be served: the database answers with a schema that we know, and we are not
/// shutting down.
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
    text.push_str(&state.gauges.text(&state.db).await);
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
#[derive(Clone, Default)]
pub struct Gauges {
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Gauges {
    async fn text(&self, db: &Db) -> String {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < COUNT_INTERVAL
        {
            return text.clone();
        }
        let counted = tokio::time::timeout(COUNT_TIMEOUT, pending(db)).await;
        let text = match counted {
            Ok(Ok(pending)) => render(&pending),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "counting pending requests failed"
                );
                DATABASE_DOWN.to_owned()
            }
            Err(_) => DATABASE_DOWN.to_owned(),
        };
        *last = Some((Instant::now(), text.clone()));
        text
    }
}

const DATABASE_DOWN: &str = "# TYPE eve_database_up gauge\neve_database_up 0\n";

/// Pending requests by worker type, zeros included: an autoscaler must see a pool run dry.
async fn pending(db: &Db) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let mut tx = db.begin(Scope::Control).await?;
    let types = sqlx::query_scalar!("SELECT id FROM eve.worker_types ORDER BY id")
        .fetch_all(&mut *tx)
        .await?;
    tx.commit().await?;
    let mut tx = db.begin(Scope::Metrics).await?;
    let counts = sqlx::query!(
        r#"SELECT worker_type AS "worker_type!", count(*) AS "pending!"
             FROM eve.orchestration_requests
            WHERE status = 'pending'
            GROUP BY worker_type"#,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let mut all: std::collections::BTreeMap<String, i64> =
        types.into_iter().map(|id| (id, 0)).collect();
    all.extend(counts.into_iter().map(|row| (row.worker_type, row.pending)));
    Ok(all.into_iter().collect())
}

fn render(pending: &[(String, i64)]) -> String {
    let mut text = String::from("# TYPE eve_database_up gauge\neve_database_up 1\n");
    text.push_str("# HELP eve_pending_requests Requests that a worker could claim now.\n");
    text.push_str("# TYPE eve_pending_requests gauge\n");
    for (worker_type, count) in pending {
        // Worker types are letters, digits and hyphens: nothing to escape. Writing to a String
        // cannot fail.
        let _ = writeln!(text, "eve_pending_requests{{worker_type=\"{worker_type}\"}} {count}");
    }
    text
}
