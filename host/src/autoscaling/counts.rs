//! How much there is to do, by worker type. Counted when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use crate::db::{Db, Scope};

/// Counts are taken at most this often, however many ask.
const INTERVAL: Duration = Duration::from_secs(5);
/// A count that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What one pool has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that a worker could claim now.
    pub pending: i64,
    /// Requests that workers have claimed and not finished: each has a slot, or waits for one in its worker.
    pub busy: i64,
}

/// What is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// [`Count::pending`].
    Pending,
    /// [`Count::busy`].
    Busy,
}

impl Metric {
    /// Both.
    pub const ALL: [Metric; 2] = [Metric::Pending, Metric::Busy];

    /// Its name, for Prometheus and for autoscalers.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Pending => "eve_pending_requests",
            Metric::Busy => "eve_busy_slots",
        }
    }

    /// What it is, in words.
    pub fn help(self) -> &'static str {
        match self {
            Metric::Pending => "Requests that a worker could claim now.",
            Metric::Busy => "Requests that workers have claimed and not finished.",
        }
    }

    /// Its value.
    pub fn of(self, count: &Count) -> i64 {
        match self {
            Metric::Pending => count.pending,
            Metric::Busy => count.busy,
        }
    }
}

/// What there was at one moment.
#[derive(Debug)]
pub struct Counts {
    /// By worker type, those with nothing to do included: an autoscaler must see a pool run dry.
    pub by_type: BTreeMap<String, Count>,
    /// When, by this machine's clock.
    pub at: DateTime<Utc>,
}

/// Counts. Cheap to clone; clones share what was counted.
#[derive(Clone)]
pub struct Counter {
    db: Db,
    last: Arc<Mutex<Option<Last>>>,
}

/// What came of counting, and when that was.
struct Last {
    at: Instant,
    counts: Option<Arc<Counts>>,
}

impl Counter {
    /// Nothing is counted yet.
    pub fn new(db: Db) -> Counter {
        Counter { db, last: Arc::default() }
    }

    /// What there is now, or was less than five seconds ago; none if the database cannot tell, which the log
    /// says.
    pub async fn counts(&self) -> Option<Arc<Counts>> {
        // One counts for all who ask meanwhile.
        let mut last = self.last.lock().await;
        if let Some(Last { at, counts }) = &*last
            && at.elapsed() < INTERVAL
        {
            return counts.clone();
        }
        let counts = match tokio::time::timeout(TIMEOUT, count(&self.db)).await {
            Ok(Ok(by_type)) => Some(Arc::new(Counts { by_type, at: Utc::now() })),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "counting requests failed"
                );
                None
            }
            Err(_) => {
                tracing::warn!(seconds = TIMEOUT.as_secs(), "counting requests took too long");
                None
            }
        };
        *last = Some(Last { at: Instant::now(), counts: counts.clone() });
        counts
    }
}

async fn count(db: &Db) -> Result<BTreeMap<String, Count>, sqlx::Error> {
    let mut tx = db.begin(Scope::Control).await?;
    let types = sqlx::query_scalar!("SELECT id FROM eve.worker_types").fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let mut tx = db.begin(Scope::Metrics).await?;
    let rows = sqlx::query!(
        r#"SELECT worker_type AS "worker_type!",
                  count(*) FILTER (WHERE status = 'pending') AS "pending!",
                  count(*) FILTER (WHERE status <> 'pending') AS "busy!"
             FROM eve.orchestration_requests
            WHERE status IN ('pending', 'claimed', 'processing')
            GROUP BY worker_type"#,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let mut all: BTreeMap<String, Count> =
        types.into_iter().map(|id| (id, Count::default())).collect();
    all.extend(
        rows.into_iter()
            .map(|row| (row.worker_type, Count { pending: row.pending, busy: row.busy })),
    );
    Ok(all)
}
