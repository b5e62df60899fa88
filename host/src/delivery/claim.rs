//! Claiming: fair between organisations, and as cheap with a million waiting as with ten.
//!
//! A recursive skip-scan over the partial index `queue_pending` visits the next organisations beyond
//! the worker's rotating cursor, takes an equal share from each, and fills up in a second pass. An
//! organisation takes at most three quarters of a worker's slots, and never the last slot if it holds
//! one already.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{OrgId, RequestId, UserId, VersionId, WorkerId};
use crate::requests::orchestration::{EVENTS_PER_WAKEUP, EventKind};
use crate::runtime::Capability;

/// Organisations visited by one claim: more would make a claim O(organisations).
const ORGS_PER_CLAIM: i64 = 64;

/// A request that this worker holds the lease of, with what running it needs.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The request.
    pub id: RequestId,
    /// Its organisation.
    pub org_id: OrgId,
    /// The fencing token: what finishes this run has to bring it.
    pub lease: i64,
    /// Which attempt this is, from 1.
    pub attempt: i16,
    /// Its generation.
    pub generation: i32,
    /// Workers that died under it.
    pub rescues: i16,
    /// The pool that claimed it.
    pub worker_type: String,
    /// The organisation's short name.
    pub org_slug: String,
    /// On whose behalf.
    pub user_id: Option<UserId>,
    /// What is wanted, in words.
    pub prompt: String,
    /// A JSON object as text.
    pub context: String,
    /// A repository.
    pub repo_url: Option<String>,
    /// A branch.
    pub branch: Option<String>,
    /// A JSON object as text.
    pub config: String,
    /// A JSON object as text.
    pub metadata: String,
    /// Attempts in all.
    pub max_attempts: i16,
    /// Wall-clock limit in milliseconds.
    pub timeout_ms: Option<i64>,
    /// Its first ancestor.
    pub root_request_id: RequestId,
    /// The request that created it.
    pub parent_request_id: Option<RequestId>,
    /// The skill's name: its own, or the worker type's default.
    pub skill: Option<String>,
    /// The version of that skill that is active now.
    pub version: Option<VersionId>,
    /// What the organisation denies the skill, whatever the worker type grants.
    pub revoked: Vec<Capability>,
    /// When it was claimed, by the database's clock.
    pub claimed_at: DateTime<Utc>,
    /// The schedule that created it, by name.
    pub schedule: Option<String>,
    /// Set if it is a wake-up. What is asked for is then its orchestration's.
    pub wake: Option<Wake>,
}

/// What a wake-up is about.
#[derive(Debug, Clone)]
pub struct Wake {
    /// The request that is woken.
    pub orchestration: RequestId,
    /// Its generation.
    pub generation: i32,
    /// What has happened, oldest first; bound to this wake-up.
    pub events: Vec<WakeEvent>,
}

/// Something that has happened to an orchestration.
#[derive(Debug, Clone)]
pub struct WakeEvent {
    /// What.
    pub kind: EventKind,
    /// The child, the question, the timer.
    pub source: Uuid,
    /// What is said about it.
    pub payload: Value,
}

/// What a worker may take.
#[derive(Debug)]
pub struct Appetite {
    /// At most so many in all.
    pub batch: usize,
    /// At most so many of one organisation, held ones included.
    pub org_cap: usize,
    /// How many it holds of each organisation.
    pub held: HashMap<OrgId, usize>,
    /// Whether only the last free slot is left: it is for organisations that hold none.
    pub last_slot: bool,
    /// Whether one request under which a worker has died may be taken.
    pub suspect: bool,
}

/// How long claims may start beyond what was claimed last, before the whole index is looked at again.
const RESCAN: Duration = Duration::from_secs(1);

/// A worker's place in the rotation.
#[derive(Debug, Clone)]
pub struct Cursor {
    worker_id: WorkerId,
    worker_type: String,
    after: Uuid,
    /// Where the scan of an organisation with a backlog goes on: beyond the last claimed key. What was
    /// claimed leaves dead index entries behind, and while somebody holds an old snapshot every scan
    /// from the beginning would walk over all of them.
    floors: HashMap<Uuid, (i16, Uuid)>,
    rescan_at: Instant,
}

/// A claimed row's key in the index.
struct Taken {
    id: Uuid,
    org_id: Uuid,
    priority: i16,
}

impl Cursor {
    /// At the beginning.
    pub fn new(worker_id: WorkerId, worker_type: String) -> Cursor {
        Cursor {
            worker_id,
            worker_type,
            after: Uuid::nil(),
            floors: HashMap::new(),
            rescan_at: Instant::now(),
        }
    }

    /// Claims up to `appetite.batch` requests under a new lease, in the caller's transaction. An
    /// empty answer means that nothing may be taken now.
    pub async fn claim(
        &mut self,
        tx: &mut PgConnection,
        appetite: &Appetite,
    ) -> Result<Vec<Claimed>, sqlx::Error> {
        let lease: i64 = rand::random_range(1..i64::MAX);
        if self.rescan_at <= Instant::now() {
            self.floors.clear();
        }
        let mut ids: Vec<Uuid> = Vec::new();
        // First: a backlog would fill every batch before its turn.
        if appetite.suspect {
            ids.extend(self.take_suspect(tx, lease).await?);
        }
        let mut held = appetite.held.clone();
        // The second pass gives to organisations that have more what others did not need. If floors
        // were in the way, it begins at the beginning.
        for _pass in 0..2 {
            let want = appetite.batch - ids.len();
            if want == 0 {
                break;
            }
            let from_the_beginning = self.floors.is_empty();
            if from_the_beginning {
                self.rescan_at = Instant::now() + RESCAN;
            }
            let taken = self.take(tx, lease, want, appetite, &held).await?;
            let nothing_left = taken.is_empty() && from_the_beginning;
            let short = taken.len() < want;
            for row in taken {
                let floor = self.floors.entry(row.org_id).or_insert((row.priority, row.id));
                *floor = (*floor).max((row.priority, row.id));
                *held.entry(OrgId(row.org_id)).or_default() += 1;
                ids.push(row.id);
            }
            if nothing_left {
                break;
            }
            if short {
                self.floors.clear();
            }
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        load(tx, &ids, lease).await
    }

    async fn take(
        &mut self,
        tx: &mut PgConnection,
        lease: i64,
        want: usize,
        appetite: &Appetite,
        held: &HashMap<OrgId, usize>,
    ) -> Result<Vec<Taken>, sqlx::Error> {
        let (orgs, counts): (Vec<Uuid>, Vec<i64>) = held
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(org, count)| (org.0, *count as i64))
            .unzip();
        let mut floored = Vec::new();
        let mut floor_priorities = Vec::new();
        let mut floor_ids = Vec::new();
        for (org, (priority, id)) in &self.floors {
            floored.push(*org);
            floor_priorities.push(*priority);
            floor_ids.push(*id);
        }
        // With the last slot only organisations that hold nothing are served.
        let cap = if appetite.last_slot { 1 } else { appetite.org_cap as i64 };
        // Not even visited, or a rotation that ends at one of them would stay there.
        let full: Vec<Uuid> =
            held.iter().filter(|(_, count)| **count as i64 >= cap).map(|(org, _)| org.0).collect();
        let rows = sqlx::query!(
            r#"
            WITH RECURSIVE ahead (org_id, place) AS (
                -- One index probe an organisation, however many requests it has. An organisation with
                -- a floor is not probed for, because its dead entries lie at its beginning: the scan
                -- goes up to it, takes it as found, and goes on beyond it.
                SELECT $2::uuid, -1
                 UNION ALL
                SELECT coalesce(
                           (SELECT q.org_id FROM eve.queue q
                             WHERE q.status = 'pending' AND q.worker_type = $1 AND q.org_id > a.org_id
                               AND q.org_id < coalesce(f.org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                             ORDER BY q.org_id LIMIT 1),
                           f.org_id),
                       a.place + 1
                  FROM ahead a
                  LEFT JOIN LATERAL (SELECT u AS org_id FROM unnest($10::uuid[]) u
                                      WHERE u > a.org_id ORDER BY u LIMIT 1) f ON true
                 WHERE a.org_id IS NOT NULL
            ), behind (org_id, place) AS (
                -- Round the corner, up to and including the cursor.
                SELECT '00000000-0000-0000-0000-000000000000'::uuid, 999999
                 UNION ALL
                SELECT coalesce(
                           (SELECT q.org_id FROM eve.queue q
                             WHERE q.status = 'pending' AND q.worker_type = $1 AND q.org_id > b.org_id
                               AND q.org_id < coalesce(f.org_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                               AND q.org_id <= $2
                             ORDER BY q.org_id LIMIT 1),
                           f.org_id),
                       b.place + 1
                  FROM behind b
                  LEFT JOIN LATERAL (SELECT u AS org_id FROM unnest($10::uuid[]) u
                                      WHERE u > b.org_id AND u <= $2 ORDER BY u LIMIT 1) f ON true
                 WHERE b.org_id IS NOT NULL
            ), visited AS MATERIALIZED (
                SELECT o.org_id, o.place, coalesce(h.count, 0) AS held, f.priority, f.id
                  FROM (SELECT * FROM ahead
                         WHERE place >= 0 AND org_id IS NOT NULL AND org_id <> ALL ($13)
                         UNION ALL
                        SELECT * FROM behind
                         WHERE place >= 1000000 AND org_id IS NOT NULL AND org_id <> ALL ($13)
                         LIMIT $3) o
                  LEFT JOIN unnest($4::uuid[], $5::bigint[]) AS h (org_id, count) ON h.org_id = o.org_id
                  LEFT JOIN unnest($10::uuid[], $11::smallint[], $12::uuid[]) AS f (org_id, priority, id)
                         ON f.org_id = o.org_id
            ), picked AS MATERIALIZED (
                SELECT p.id
                  FROM visited s
                 CROSS JOIN LATERAL (
                       SELECT q.id
                         FROM eve.queue q
                        WHERE q.status = 'pending' AND q.worker_type = $1 AND q.org_id = s.org_id
                          AND q.rescues = 0
                          AND (q.priority, q.id)
                              > (coalesce(s.priority, -32768), coalesce(s.id, '00000000-0000-0000-0000-000000000000'))
                        ORDER BY q.priority, q.id
                        LIMIT least(($7 + (SELECT count(*) FROM visited) - 1) / (SELECT count(*) FROM visited),
                                    $6 - s.held)
                          FOR NO KEY UPDATE SKIP LOCKED
                       ) p
                 LIMIT $7
            )
            UPDATE eve.queue q
               SET status = 'processing', attempt = q.attempt + 1, worker_id = $8, lease = $9,
                   claimed_at = clock_timestamp(), run_at = NULL
              FROM picked p
             WHERE q.id = p.id
            RETURNING q.id, q.org_id, q.priority,
                      (SELECT org_id FROM visited ORDER BY place DESC LIMIT 1) AS last_org
            "#,
            self.worker_type,
            self.after,
            ORGS_PER_CLAIM.min(want as i64),
            &orgs,
            &counts,
            cap,
            want as i64,
            self.worker_id.0,
            lease,
            &floored,
            &floor_priorities,
            &floor_ids,
            &full,
        )
        .fetch_all(&mut *tx)
        .await?;
        self.after = match rows.first() {
            Some(row) => row.last_org.unwrap_or(self.after),
            // Those that were visited have suspects only, or others are claiming them: next time from
            // somewhere else.
            None => Uuid::new_v4(),
        };
        Ok(rows
            .into_iter()
            .map(|row| Taken { id: row.id, org_id: row.org_id, priority: row.priority })
            .collect())
    }

    /// One request under which a worker died: alone, so that if it is poison it takes nobody along.
    async fn take_suspect(
        &self,
        tx: &mut PgConnection,
        lease: i64,
    ) -> Result<Option<Uuid>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"
            UPDATE eve.queue q
               SET status = 'processing', attempt = q.attempt + 1, worker_id = $2, lease = $3,
                   claimed_at = clock_timestamp(), run_at = NULL
             WHERE q.id = (SELECT id FROM eve.queue
                            WHERE status = 'pending' AND rescues > 0 AND worker_type = $1
                            ORDER BY id LIMIT 1
                              FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING q.id
            "#,
            self.worker_type,
            self.worker_id.0,
            lease
        )
        .fetch_optional(&mut *tx)
        .await
    }
}

/// What the claimed requests ask for, in the order in which they were created. The skill is resolved
/// here and now: a version that is activated, or a capability that is revoked, counts from the next claim
/// on.
async fn load(
    tx: &mut PgConnection,
    ids: &[Uuid],
    lease: i64,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT q.id, q.org_id, q.worker_type, q.attempt, q.generation, q.rescues, q.claimed_at AS "claimed_at!",
               o.slug, r.user_id, r.prompt, r.context::text AS "context!", r.repo_url, r.branch,
               r.config::text AS "config!", r.metadata::text AS "metadata!", r.max_attempts,
               r.timeout_ms, r.root_request_id, r.parent_request_id, r.schedule, q.wakes,
               coalesce(r.skill, t.default_skill) AS skill, s.active_version AS "active_version?",
               ARRAY (SELECT c.capability FROM eve.revoked_capabilities c
                       WHERE c.org_id = q.org_id AND c.skill_id = s.id) AS "revoked!"
          FROM eve.queue q
          JOIN eve.requests r ON r.id = q.id
          JOIN eve.organizations o ON o.id = q.org_id
          LEFT JOIN eve.worker_types t ON t.id = q.worker_type
          -- The organisation's own skill of that name, else the platform's (the nil id sorts last).
          LEFT JOIN LATERAL (
               SELECT id, active_version
                 FROM eve.skills
                WHERE name = coalesce(r.skill, t.default_skill)
                  AND org_id IN (q.org_id, '00000000-0000-0000-0000-000000000000')
                  AND active_version IS NOT NULL
                ORDER BY org_id DESC LIMIT 1
               ) s ON true
         WHERE q.id = ANY ($1) AND r.id = ANY ($1)
         ORDER BY q.priority, q.id
        "#,
        ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let wakeups: Vec<Uuid> =
        rows.iter().filter(|row| row.wakes.is_some()).map(|row| row.id).collect();
    let mut claimed: Vec<Claimed> = rows
        .into_iter()
        .map(|row| Claimed {
            id: RequestId(row.id),
            org_id: OrgId(row.org_id),
            lease,
            attempt: row.attempt,
            generation: row.generation,
            rescues: row.rescues,
            worker_type: row.worker_type,
            org_slug: row.slug,
            user_id: row.user_id.map(UserId),
            prompt: row.prompt,
            context: row.context,
            repo_url: row.repo_url,
            branch: row.branch,
            config: row.config,
            metadata: row.metadata,
            max_attempts: row.max_attempts,
            timeout_ms: row.timeout_ms,
            root_request_id: RequestId(row.root_request_id),
            parent_request_id: row.parent_request_id.map(RequestId),
            skill: row.skill,
            version: row.active_version.map(VersionId),
            // Nothing is granted by a word that this version does not know.
            revoked: row.revoked.iter().filter_map(|word| word.parse().ok()).collect(),
            claimed_at: row.claimed_at,
            schedule: row.schedule,
            wake: None,
        })
        .collect();
    if !wakeups.is_empty() {
        let mut woken = bind(tx, &wakeups).await?;
        for run in &mut claimed {
            let Some(woken) = woken.remove(&run.id.0) else { continue };
            run.prompt = woken.prompt;
            run.context = woken.context;
            run.repo_url = woken.repo_url;
            run.branch = woken.branch;
            run.config = woken.config;
            run.metadata = woken.metadata;
            run.parent_request_id = woken.parent_request_id;
            run.wake = Some(woken.wake);
        }
    }
    Ok(claimed)
}

/// What a wake-up finds with its orchestration.
struct Woken {
    prompt: String,
    context: String,
    repo_url: Option<String>,
    branch: Option<String>,
    config: String,
    metadata: String,
    parent_request_id: Option<RequestId>,
    wake: Wake,
}

/// Binds what has not been delivered yet to wake-ups that have just been claimed, and reads what they
/// are about. What another attempt had been given stays with it.
async fn bind(
    tx: &mut PgConnection,
    wakeups: &[Uuid],
) -> Result<HashMap<Uuid, Woken>, sqlx::Error> {
    sqlx::query!(
        r#"
        UPDATE eve.inbox i
           SET wakeup_id = due.wakeup_id
          FROM (SELECT q.id AS wakeup_id, n.*
                  FROM eve.queue q
                 CROSS JOIN LATERAL (
                       SELECT e.orchestration_id, e.source_kind, e.source_id, e.generation
                         FROM eve.inbox e
                        WHERE e.orchestration_id = q.wakes AND e.wakeup_id IS NULL
                          AND e.discarded IS NULL
                        ORDER BY e.created_at
                        LIMIT greatest($2 - (SELECT count(*) FROM eve.inbox b WHERE b.wakeup_id = q.id), 0)
                       ) n
                 WHERE q.id = ANY ($1)) due
         WHERE i.orchestration_id = due.orchestration_id AND i.source_kind = due.source_kind
           AND i.source_id = due.source_id AND i.generation = due.generation
        "#,
        wakeups,
        EVENTS_PER_WAKEUP
    )
    .execute(&mut *tx)
    .await?;
    let mut woken: HashMap<Uuid, Woken> = sqlx::query!(
        r#"
        SELECT q.id, o.generation, r.id AS orchestration, r.prompt, r.context::text AS "context!",
               r.repo_url, r.branch, r.config::text AS "config!", r.metadata::text AS "metadata!",
               r.parent_request_id
          FROM eve.queue q
          JOIN eve.queue o ON o.id = q.wakes
          JOIN eve.requests r ON r.id = q.wakes
         WHERE q.id = ANY ($1)
        "#,
        wakeups
    )
    .fetch_all(&mut *tx)
    .await?
    .into_iter()
    .map(|row| {
        let wake = Wake {
            orchestration: RequestId(row.orchestration),
            generation: row.generation,
            events: Vec::new(),
        };
        let woken = Woken {
            prompt: row.prompt,
            context: row.context,
            repo_url: row.repo_url,
            branch: row.branch,
            config: row.config,
            metadata: row.metadata,
            parent_request_id: row.parent_request_id.map(RequestId),
            wake,
        };
        (row.id, woken)
    })
    .collect();
    let events = sqlx::query!(
        r#"
        SELECT wakeup_id AS "wakeup_id!", source_kind AS "kind: EventKind", source_id, payload
          FROM eve.inbox
         WHERE wakeup_id = ANY ($1)
         ORDER BY created_at, source_id
        "#,
        wakeups
    )
    .fetch_all(&mut *tx)
    .await?;
    for row in events {
        if let Some(woken) = woken.get_mut(&row.wakeup_id) {
            let event = WakeEvent { kind: row.kind, source: row.source_id, payload: row.payload };
            woken.wake.events.push(event);
        }
    }
    Ok(woken)
}
