//! The HTTP API: thin handlers over the nouns' modules, and what they share.
//!
//! Flow: `layers` give a request its id and its limits; an extractor authenticates the caller and
//! checks what the operation asks of them (`extract`); a handler in `routes` calls one function of a
//! noun's module; whatever goes wrong becomes a problem document (`problem`).
//!
//! Invariants:
//! - Every error is problem details, with the request's id and nothing of our insides.
//! - Every operation under `/v1` but the document itself asks for a credential.
//! - Every body, wait and stream has a limit, and so has the rate at which anybody calls. Bodies are
//!   taken as they are: nothing is decompressed.

pub(crate) mod cursor;
mod extract;
mod form;
mod layers;
pub mod listener;
mod openapi;
mod problem;
pub mod rates;
mod routes;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::serve::ListenerExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;

pub use problem::{Kind, Problem, ProblemDetails};
pub(crate) use routes::exposition;
pub use routes::{
    Answer, AppPage, Ask, Batch, CreatedBatch, DeploymentPage, EventPage, History, IssuedToken,
    Items, Logs, Me, QuestionPage, RequestPage, SchedulePage, SqlAnswer, SqlCall, SqlColumn,
};

use crate::autoscaling::counts::Counter;
use crate::db::Db;
use crate::deployments::Deployments;
use crate::hitl::Questions;
use crate::requests::Requests;
use crate::schedules::Schedules;
use crate::schemas::Schemas;
use crate::skills::upload::Uploads;
use crate::tenancy::auth::Authenticator;
use extract::BodyLimit;
use listener::Listener;
use rates::{RateLimits, Rates};
use watch::Hub;

/// Largest JSON body of a single thing: a request's context may have 1 MiB, its prompt 256 KiB.
const BODY_LIMIT: usize = 2 << 20;
/// Largest JSON body of a batch.
const BATCH_BODY_LIMIT: usize = 16 << 20;
/// Most of an upload's body that is read at all: past the component's own limit the rest is thrown
/// away, so that the client hears why instead of a broken pipe.
const UPLOAD_BODY_LIMIT: usize = 256 << 20;
/// How long a handler may take, reading the body included.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long a batch may take.
const BATCH_TIME_LIMIT: Duration = Duration::from_secs(60);
/// How long a statement in a schema may take: its own limit comes first, and says what happened.
const STATEMENT_TIME_LIMIT: Duration = Duration::from_secs(45);
/// How long an upload may take: slow lines, the wait for other compilations, its own.
const UPLOAD_TIME_LIMIT: Duration = Duration::from_secs(300);
/// How long requests in progress may go on after a shutdown was asked for.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub(crate) db: Db,
    pub(crate) requests: Requests,
    pub(crate) questions: Questions,
    pub(crate) schedules: Schedules,
    pub(crate) schemas: Schemas,
    pub(crate) deployments: Deployments,
    pub(crate) auth: Authenticator,
    pub(crate) uploads: Uploads,
    rates: Rates,
    hub: Hub,
    counter: Counter,
    started: CancellationToken,
    readiness: routes::Readiness,
    prometheus: Option<PrometheusHandle>,
    document: Arc<OpenApi>,
    shutdown: CancellationToken,
}

/// The nouns' doors that handlers call.
pub struct Parts {
    /// Requests.
    pub requests: Requests,
    /// Who asks.
    pub auth: Authenticator,
    /// Skills that come in.
    pub uploads: Uploads,
    /// Where skills keep state.
    pub schemas: Schemas,
    /// What is deployed.
    pub deployments: Deployments,
    /// How much there is to do.
    pub counter: Counter,
    /// Cancelled once all else serves that callers are sent to: not ready before.
    pub started: CancellationToken,
    /// How often clients may call.
    pub rates: RateLimits,
}

impl AppState {
    /// Starts what runs beside the handlers: the hub that watches requests. It, event streams and
    /// readiness end with `shutdown`. Must be called inside a tokio runtime.
    pub fn new(
        db: Db,
        parts: Parts,
        prometheus: Option<PrometheusHandle>,
        shutdown: CancellationToken,
    ) -> Self {
        let Parts { requests, auth, uploads, schemas, deployments, counter, started, rates } =
            parts;
        let hub = Hub::start(db.clone(), requests.clone(), shutdown.clone());
        let document = Arc::new(document());
        let questions = Questions::new(db.clone(), requests.bell.clone());
        let schedules = Schedules::new(requests.clone());
        Self {
            db,
            requests,
            questions,
            schedules,
            schemas,
            deployments,
            auth,
            uploads,
            rates: Rates::new(rates),
            hub,
            counter,
            started,
            readiness: routes::Readiness::default(),
            prometheus,
            document,
            shutdown,
        }
    }
}

/// The OpenAPI document of all operations.
pub fn document() -> OpenApi {
    let mut document = routes::all().into_openapi();
    openapi::complete(&mut document);
    document
}

/// The whole API.
pub fn router(state: AppState) -> Router {
    let (router, _) = routes::all().split_for_parts();
    router
        .layer(middleware::from_fn(layers::plain_body))
        .layer(CatchPanicLayer::custom(layers::caught_panic))
        .layer(middleware::from_fn(layers::frame))
        .with_state(state)
}

/// Serves until `shutdown`; then accepts no more, ends event streams, and lets what is in progress
/// finish for a while.
pub async fn serve(
    listener: impl Into<Listener>,
    state: AppState,
    shutdown: CancellationToken,
) -> io::Result<()> {
    // Whichever of the two is cancelled, both are: streams and readiness hang on the state's.
    let streams = state.shutdown.clone();
    let stopped = shutdown.clone();
    let cancelled = async move {
        tokio::select! {
            () = stopped.cancelled() => streams.cancel(),
            () = streams.cancelled() => stopped.cancel(),
        }
    };
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.into().tap_io(listener::Stream::without_delay);
    let serving = axum::serve(listener, service).with_graceful_shutdown(cancelled);
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        served = serving => served,
        () = overdue => {
            tracing::warn!("some requests did not end in time; they are cut off");
            Ok(())
        }
    }
}

/// Limits of a group of routes.
fn limited<S>(
    router: utoipa_axum::router::OpenApiRouter<S>,
    body: usize,
    time: Duration,
) -> utoipa_axum::router::OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    router
        .route_layer(DefaultBodyLimit::max(body))
        .route_layer(axum::Extension(BodyLimit(body)))
        .route_layer(middleware::from_fn(move |request, next| {
            layers::time_limit(time, request, next)
        }))
}

#[cfg(test)]
mod tests;
