//! What a worker says of itself over HTTP: to whoever probes it, and to Prometheus.
//!
//! Flow: the loop and the heartbeat note in [`Health`] what they do; [`serve`] answers from those notes
//! alone, so that a question costs nothing and never waits for the database.
//!
//! - `/healthz` fails when the process cannot mend itself: its loop has stood still, or a guest thread has
//!   not come back from a run, for [`HANGS`], or its heart has stopped. If the threads that do I/O hang,
//!   nothing answers, which says the same. Then killing it is right: its heart may beat on, so that nobody
//!   else takes up its runs. A database that is away is nothing that a new process would be better at.
//! - `/readyz` fails while it is of no use: before it has registered, when its heartbeats have not
//!   arrived for so long that others may take it for dead, and from the moment it drains.
//! - `/metrics` is what the process has counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::delivery::lease::SILENCE;
use crate::http::exposition;
use crate::runtime::Runtime;

/// How long the loop, which turns once a second, and a poll of a guest, which is interrupted after 10 ms,
/// may take. Machines are starved for a while, and a process that is killed for nothing loses its runs.
const HANGS: Duration = Duration::from_secs(60);

/// How a worker does. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    notes: Arc<Mutex<Notes>>,
}

struct Notes {
    stage: Stage,
    /// When the loop turned last.
    turned: Instant,
    /// The loop waits for the database's answer, for however long that takes.
    asks: bool,
    /// When a heartbeat was written last.
    beaten: Option<Instant>,
}

enum Stage {
    /// It has not begun, and why.
    Waiting(String),
    Working {
        runtime: Runtime,
        heart: AbortHandle,
    },
    Draining,
}

/// While it is held, the loop waits for the database.
pub(super) struct Asking<'a>(&'a Health);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut notes = self.0.notes();
        notes.asks = false;
        notes.turned = Instant::now();
    }
}

impl Default for Health {
    fn default() -> Self {
        let notes = Notes {
            stage: Stage::Waiting("starting".to_owned()),
            turned: Instant::now(),
            asks: false,
            beaten: None,
        };
        Health { notes: Arc::new(Mutex::new(notes)) }
    }
}

impl Health {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It cannot begin yet, and why.
    pub fn waits(&self, why: &str) {
        self.notes().stage = Stage::Waiting(why.to_owned());
    }

    /// Its loop begins, beside the task that keeps its heartbeat.
    pub(super) fn works(&self, runtime: Runtime, heart: AbortHandle) {
        let mut notes = self.notes();
        notes.turned = Instant::now();
        notes.stage = Stage::Working { runtime, heart };
    }

    /// The loop has turned once more.
    pub(super) fn turns(&self) {
        self.notes().turned = Instant::now();
    }

    /// The loop itself waits for the database.
    pub(super) fn asks(&self) -> Asking<'_> {
        self.notes().asks = true;
        Asking(self)
    }

    /// A heartbeat has been written.
    pub(super) fn beats(&self) {
        self.notes().beaten = Some(Instant::now());
    }

    /// It claims nothing more.
    pub(super) fn drains(&self) {
        self.notes().stage = Stage::Draining;
    }

    /// What hangs, if anything does.
    fn ailment(&self, now: Instant) -> Option<String> {
        let notes = self.notes();
        // Draining has an end of its own, and whoever asked for it ends what does not end.
        let Stage::Working { runtime, heart } = &notes.stage else { return None };
        if heart.is_finished() {
            return Some("the heartbeat has ended".to_owned());
        }
        let still = now.saturating_duration_since(notes.turned);
        if !notes.asks && still >= HANGS {
            return Some(format!("the loop has stood still for {} s", still.as_secs()));
        }
        let poll = runtime.longest_poll();
        (poll >= HANGS)
            .then(|| format!("a guest thread has been at one run for {} s", poll.as_secs()))
    }

    /// Why it claims nothing, if it does not.
    fn hindrance(&self, now: Instant) -> Option<String> {
        let notes = self.notes();
        match (&notes.stage, notes.beaten) {
            (Stage::Waiting(why), _) => Some(why.clone()),
            (Stage::Draining, _) => Some("draining".to_owned()),
            (Stage::Working { .. }, None) => Some("not registered yet".to_owned()),
            (Stage::Working { .. }, Some(beaten)) => {
                let silent = now.saturating_duration_since(beaten);
                (silent >= SILENCE).then(|| {
                    let seconds = silent.as_secs();
                    format!("no heartbeat has been written for {seconds} s: is the database there?")
                })
            }
        }
    }
}

/// Answers until it is dropped.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: PrometheusHandle,
) -> std::io::Result<()> {
    axum::serve(listener, router(health, metrics)).await
}

fn router(health: Health, metrics: PrometheusHandle) -> Router {
    let answer = |what: Option<String>, well: &str| match what {
        None => (StatusCode::OK, format!("{well}\n")),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let live = move |Shared(health): Shared<Health>| async move {
        answer(health.ailment(Instant::now()), "ok").into_response()
    };
    let ready = move |Shared(health): Shared<Health>| async move {
        answer(health.hindrance(Instant::now()), "ready").into_response()
    };
    Router::new()
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { exposition(metrics.render()) }))
        .with_state(health)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RuntimeConfig;

    fn working() -> Health {
        let runtime = Runtime::new(RuntimeConfig {
            max_concurrent: 1,
            memory_budget: 64 << 20,
            threads: 1,
            io: tokio::runtime::Handle::current(),
        });
        let health = Health::default();
        let heart = tokio::spawn(std::future::pending::<()>());
        health.works(runtime.unwrap(), heart.abort_handle());
        health
    }

    #[tokio::test]
    async fn a_loop_that_stands_still_is_an_ailment_and_a_database_that_is_away_is_none() {
        let health = working();
        let later = Instant::now() + HANGS + Duration::from_secs(1);
        assert_eq!(health.ailment(Instant::now()), None);
        let said = health.ailment(later).unwrap();
        assert!(said.contains("the loop has stood still for 6"), "{said}");
        let asking = health.asks();
        assert_eq!(health.ailment(later), None);
        drop(asking);
        assert!(health.ailment(later).is_some());
        health.turns();
        assert_eq!(health.ailment(Instant::now()), None);
        let panicked = tokio::spawn(async { panic!("as a bug would") });
        if let Stage::Working { heart, .. } = &mut health.notes().stage {
            *heart = panicked.abort_handle();
        }
        assert!(panicked.await.is_err());
        assert_eq!(health.ailment(Instant::now()).as_deref(), Some("the heartbeat has ended"));
        health.drains();
        assert_eq!(health.ailment(later), None);
        // What has not begun waits for others.
        assert_eq!(Health::default().ailment(later), None);
    }

    #[tokio::test]
    async fn it_is_ready_from_its_first_heartbeat_until_they_stay_away_or_it_drains() {
        let health = Health::default();
        assert_eq!(health.hindrance(Instant::now()).as_deref(), Some("starting"));
        health.waits("the schema is old");
        assert_eq!(health.hindrance(Instant::now()).as_deref(), Some("the schema is old"));
        let health = working();
        assert_eq!(health.hindrance(Instant::now()).as_deref(), Some("not registered yet"));
        health.beats();
        assert_eq!(health.hindrance(Instant::now()), None);
        let said = health.hindrance(Instant::now() + SILENCE).unwrap();
        assert!(said.starts_with("no heartbeat has been written for 15 s"), "{said}");
        health.beats();
        assert_eq!(health.hindrance(Instant::now()), None);
        health.drains();
        assert_eq!(health.hindrance(Instant::now()).as_deref(), Some("draining"));
    }
}
