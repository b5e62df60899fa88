//! Requests as they would stand had they been made some time ago.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::{NoContext, Timestamp, Uuid};

use super::TestDatabase;
use crate::tenancy::Tenant;

const DAY: u64 = 86_400;

/// Ids made so far: each gets a millisecond of its own.
static MADE: AtomicU64 = AtomicU64::new(0);

/// An id made at noon (UTC) `days` days ago, greater than those that were made for that day before.
pub fn id_of_day(days: u64) -> Uuid {
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let seconds = now - now % DAY - days * DAY + DAY / 2 + made / 1_000;
    let nanos = u32::try_from(made % 1_000).unwrap_or(0) * 1_000_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, nanos))
}

/// Where a request stands.
#[derive(Clone, Copy)]
pub enum Stands {
    /// In the queue, with this status.
    Open(&'static str),
    /// Ended with this status, so many hours ago.
    Ended(&'static str, u32),
}

/// A request to write down.
#[derive(Clone, Copy)]
pub struct Old {
    pub id: Uuid,
    pub parent: Option<Uuid>,
    pub root: Uuid,
    /// Whether it is a wake-up of its parent.
    pub wake_up: bool,
    pub stands: Stands,
}

impl Old {
    /// One without a parent.
    pub fn alone(id: Uuid, stands: Stands) -> Old {
        Old { id, parent: None, root: id, wake_up: false, stands }
    }

    /// One that this has created.
    pub fn child(&self, id: Uuid, stands: Stands) -> Old {
        Old { id, parent: Some(self.id), root: self.root, wake_up: false, stands }
    }
}

impl TestDatabase {
    /// Makes the partitions of the days from `most` to `least` days ago.
    pub async fn days_ago(&self, most: u32, least: u32) {
        for table in ["requests", "orchestration_results", "attempts", "run_logs"] {
            self.execute(format!(
                "DO $$
                 DECLARE
                     today constant date := (now() AT TIME ZONE 'UTC')::date;
                 BEGIN
                     FOR ago IN {least} .. {most} LOOP
                         EXECUTE format(
                             'CREATE TABLE eve.%I PARTITION OF eve.{table} FOR VALUES FROM (%L) TO (%L)',
                             '{table}' || to_char(today - ago, '_YYYYMMDD'),
                             eve.uuid_at(eve.day_begins(today - ago)),
                             eve.uuid_at(eve.day_begins(today - ago + 1)));
                     END LOOP;
                 END $$"
            ))
            .await;
        }
    }

    /// Writes a request down, with an attempt that failed and a log.
    pub async fn old(&self, tenant: Tenant, old: &Old) {
        let Old { id, root, .. } = old;
        let org = tenant.org();
        let parent = old.parent.map_or("NULL".to_owned(), |parent| format!("'{parent}'"));
        let orchestration = old.parent.filter(|_| old.wake_up).unwrap_or(*id);
        let stands = match old.stands {
            Stands::Open(status) => {
                let waits = match status {
                    "waiting" => "true, now() + interval '1 day', 0",
                    "blocked" => "false, NULL, 1",
                    _ => "false, NULL, 0",
                };
                format!(
                    "INSERT INTO eve.queue (id, org_id, worker_type, status, priority, orchestrates,
                                            wait_until, open_blockers)
                     VALUES ('{id}', '{org}', 'general', '{status}', 0, {waits})"
                )
            }
            Stands::Ended(status, hours) => {
                let code = if status == "completed" { "NULL" } else { "'failed'" };
                format!(
                    "INSERT INTO eve.orchestration_results
                            (request_id, org_id, status, generation, attempt, error_code, tokens_used,
                             cost, started_at, finished_at, duration_us, cpu_us, memory_peak_bytes)
                     VALUES ('{id}', '{org}', '{status}', 1, 2, {code}, 100, 0.1,
                             now() - interval '{hours} hours', now() - interval '{hours} hours',
                             2000, 1000, 4096)"
                )
            }
        };
        self.execute(format!(
            "INSERT INTO eve.requests (id, org_id, worker_type, root_request_id, orchestration_id,
                                       parent_request_id, parent_generation, created_by)
             VALUES ('{id}', '{org}', 'general', '{root}', '{orchestration}', {parent},
                     CASE WHEN {parent} IS NOT NULL THEN 1 END, '{{}}');
             {stands};
             INSERT INTO eve.attempts (request_id, id, org_id, generation, attempt, kind, code, message,
                                       started_at, duration_us, cpu_us, memory_peak_bytes)
             VALUES ('{id}', gen_random_uuid(), '{org}', 1, 1, 'failed', 'failed', 'once', now(),
                     1000, 500, 8192);
             INSERT INTO eve.run_logs (request_id, org_id, generation, attempt, id, lines)
             VALUES ('{id}', '{org}', 1, 1, gen_random_uuid(), '[]')"
        ))
        .await;
    }

    /// A new one, written down.
    pub async fn alone(&self, tenant: Tenant, days: u64, stands: Stands) -> Old {
        let old = Old::alone(id_of_day(days), stands);
        self.old(tenant, &old).await;
        old
    }

    /// A child of `parent`, written down.
    pub async fn below(&self, tenant: Tenant, parent: &Old, days: u64, stands: Stands) -> Old {
        let old = parent.child(id_of_day(days), stands);
        self.old(tenant, &old).await;
        old
    }
}
