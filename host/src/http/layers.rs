//! What surrounds every handler: the request's id, the shape of errors, time limits, panics.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::{Kind, Problem};
use super::rates::Told;

/// Names a request in responses and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a client.
const MAX_REQUEST_ID: usize = 64;

/// The outermost layer: gives the request its id, errors their shape, and says what a caller has left.
pub async fn frame(mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let method = request.method().clone();
    // The route, not the path: what counts requests must not grow with what clients make up.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let span = tracing::info_span!("http", %method, route, request_id = id);
    let told = Told::default();
    request.extensions_mut().insert(told.clone());
    let started = Instant::now();
    let mut response = next.run(request).instrument(span).await;
    if let Some(problem) = Problem::of(&mut response) {
        problem.log(&id);
        response = problem.render(&id, response);
    }
    let labels = [
        ("method", method.as_str().to_owned()),
        ("route", route.unwrap_or_else(|| "none".to_owned())),
        ("status", response.status().as_u16().to_string()),
    ];
    metrics::counter!("eve_http_requests_total", &labels).increment(1);
    metrics::histogram!("eve_http_request_duration_seconds", &labels).record(started.elapsed());
    told.write(response.headers_mut());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's own id if it is a harmless one, else a new one.
fn request_id(request: &Request) -> String {
    request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()))
        .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Ends a handler that takes longer than `limit`. A stream that it has begun goes on.
pub async fn time_limit(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("this took longer than {} seconds", limit.as_secs());
            Problem::new(Kind::Unavailable, detail).into_response()
        }
    }
}

/// Refuses a body that is compressed: a kilobyte of it can be a gigabyte, and nobody needs it.
pub async fn plain_body(request: Request, next: Next) -> Response {
    let mut codings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return next.run(request).await;
    }
    let detail = "send the body as it is, without `Content-Encoding`";
    let mut response = Problem::new(Kind::UnsupportedMediaType, detail).into_response();
    // RFC 9110, section 15.5.16: says what would have been understood.
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

/// A panic is a bug: the client gets an internal error, the log the message.
pub fn caught_panic(panic: Box<dyn Any + Send>) -> Response {
    #[derive(Debug, thiserror::Error)]
    #[error("a handler panicked: {0}")]
    struct Panicked(String);

    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let source: std::sync::Arc<dyn std::error::Error + Send + Sync> =
        std::sync::Arc::new(Panicked(message));
    Problem::internal(source).into_response()
}
