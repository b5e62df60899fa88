//! The one locking routine for every change of the graph.
//!
//! Ending a request changes others: dependents start, are held, or are cancelled and end in turn; what
//! an orchestration has started is cancelled with it; the orchestration that a request replies to is
//! told. Whoever changes the graph (a finishing run, a creation with blockers, a cancel, a retry):
//! 1. *discovers*, without locks, which live requests it may touch;
//! 2. *locks* them all in one statement, in the order of their ids;
//! 3. *discovers again* in a later statement: an edge inserted meanwhile was outside the first
//!    snapshot. If the set grew, it gives its locks back and starts over;
//! 4. decides what follows (`propagate`) and *applies* it set-based.
//!
//! Locks are `FOR NO KEY UPDATE`: `FOR SHARE` lets a stream of inserters on one blocker starve its
//! finisher; unsorted locks deadlock.

mod propagate;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sqlx::Executor;
use uuid::Uuid;

use super::orchestration::{self, Event, EventKind};
use super::{OnFailure, Problem, Status};
use crate::db::Tx;
use propagate::{Cause, Edge, Link, Propagation, propagate};

/// How long a dependent is held after its blocker failed, in hours.
pub const HOLD_HOURS: i32 = 24;

/// What a change of the graph means to touch.
#[derive(Debug, Default, Clone)]
pub struct Reach {
    /// Requests to lock as they are: own rows, blockers to be.
    pub rows: Vec<Uuid>,
    /// Requests that complete: their dependents are touched.
    pub completing: Vec<Uuid>,
    /// Requests that fail or are cancelled: the cascade below them is touched.
    pub failing: Vec<Uuid>,
}

/// A live request, locked.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its organisation.
    pub org_id: Uuid,
    /// Its generation.
    pub generation: i32,
    /// The worker that has it.
    pub worker_id: Option<Uuid>,
    /// The lease under which it has it; none while it does not run.
    pub lease: Option<i64>,
    /// The orchestration that is told when it ends.
    pub reply_to: Option<Uuid>,
    /// The orchestration that it is a wake-up of.
    pub wakes: Option<Uuid>,
    /// Whether its end ends what it has started.
    pub orchestrates: bool,
}

/// How a request ends.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Which.
    pub id: Uuid,
    /// `Completed`, `Failed` or `Cancelled`.
    pub status: Status,
    /// A line for people.
    pub summary: Option<String>,
    /// JSON for programs.
    pub data: Option<String>,
    /// Why it did not complete.
    pub error: Option<Problem>,
    /// What the run says it used.
    pub tokens_used: Option<i64>,
    /// What the run says it cost.
    pub cost: Option<f64>,
    /// Wall-clock time of the run.
    pub duration_us: Option<i64>,
    /// CPU time of the run.
    pub cpu_us: Option<i64>,
    /// Peak memory of the run.
    pub memory_peak_bytes: Option<i64>,
}

impl Ending {
    /// The end of a wake-up as that of its orchestration. What the run has used stands with the wake-up.
    pub fn of_orchestration(&self, orchestration: Uuid) -> Ending {
        Ending {
            id: orchestration,
            duration_us: None,
            cpu_us: None,
            memory_peak_bytes: None,
            ..self.clone()
        }
    }

    /// The end of a run whose output is another request's.
    pub fn without_output(self) -> Ending {
        Ending { summary: None, data: None, tokens_used: None, cost: None, ..self }
    }

    /// An ending without a run: cancelled, or failed by the platform.
    pub fn without_run(id: Uuid, status: Status, code: &str, message: impl Into<String>) -> Ending {
        Ending {
            id,
            status,
            summary: None,
            data: None,
            error: Some(Problem { code: code.into(), message: message.into() }),
            tokens_used: None,
            cost: None,
            duration_us: None,
            cpu_us: None,
            memory_peak_bytes: None,
        }
    }
}

/// What a committed change means for others: whom to wake, whom to stop.
#[derive(Debug, Default)]
pub struct Ripple {
    /// Worker types that have new pending requests.
    pub pending: BTreeSet<String>,
    /// Requests that were running when they ended from outside.
    pub interrupted: Vec<Uuid>,
}

impl Ripple {
    /// Adds what another change means.
    pub fn absorb(&mut self, other: Ripple) {
        self.pending.extend(other.pending);
        self.interrupted.extend(other.interrupted);
    }
}

/// Locked rows of the graph, inside a transaction that goes on to change them.
#[derive(Debug, Default)]
pub struct Graph {
    /// The live requests among those that were asked for; what is missing has ended or never was.
    pub live: BTreeMap<Uuid, Live>,
    /// What the transaction itself has inserted: the completion of its creator spares it, for nobody
    /// creates a request in order to cancel it.
    pub created: Vec<Uuid>,
}

impl Graph {
    /// Locks everything within `reach`.
    pub async fn lock(tx: &mut Tx, reach: &Reach) -> Result<Graph, sqlx::Error> {
        let mut wanted = discover(tx, reach).await?;
        loop {
            tx.execute("SAVEPOINT graph").await?;
            let live = lock_rows(tx, &wanted).await?;
            let found = discover(tx, reach).await?;
            let complete = found.is_subset(&wanted) && !appeared(tx, &wanted, &live).await?;
            if complete {
                tx.execute("RELEASE SAVEPOINT graph").await?;
                return Ok(Graph { live, created: Vec::new() });
            }
            // Rolling back gives the locks back, so that the larger set is again locked in order.
            tx.execute("ROLLBACK TO SAVEPOINT graph").await?;
            wanted.extend(found);
        }
    }

    /// Ends requests that this holds the locks of, with everything that follows: their dependents,
    /// what they have started, the orchestrations that are told. Edges that the transaction itself
    /// has inserted count. Of several endings of one request the first counts.
    pub async fn end(&mut self, tx: &mut Tx, endings: Vec<Ending>) -> Result<Ripple, sqlx::Error> {
        let mut seen = HashSet::new();
        let mut all: Vec<Ending> =
            endings.into_iter().filter(|ending| seen.insert(ending.id)).collect();
        // An orchestration fails with its wake-up.
        let with_them: Vec<Ending> = all
            .iter()
            .filter(|ending| ending.status == Status::Failed)
            .filter_map(|ending| {
                let orchestration = self.live.get(&ending.id)?.wakes?;
                let open = self.live.contains_key(&orchestration) && seen.insert(orchestration);
                open.then(|| ending.of_orchestration(orchestration))
            })
            .collect();
        all.extend(with_them);
        let (completing, failing): (Vec<&Ending>, Vec<&Ending>) =
            all.iter().partition(|ending| ending.status == Status::Completed);
        let completing: Vec<Uuid> = completing.iter().map(|ending| ending.id).collect();
        let failing: Vec<Uuid> = failing.iter().map(|ending| ending.id).collect();
        let below = below(tx, &completing, &failing, &self.created).await?;
        // What this transaction has inserted is locked by being invisible to everybody else.
        let unknown: BTreeSet<Uuid> = below
            .requests()
            .chain(all.iter().map(|ending| ending.id))
            .filter(|id| !self.live.contains_key(id))
            .collect();
        if !unknown.is_empty() {
            self.live.extend(lock_rows(tx, &unknown).await?);
        }
        let live: HashSet<Uuid> = self.live.keys().copied().collect();
        let follows = propagate(&completing, &failing, &below.edges, &below.links, &live);

        let mut causes: HashMap<Uuid, (Uuid, i32)> = HashMap::new();
        for (id, cause) in &follows.cancelled {
            let (code, message) = match cause {
                Cause::Blocker(blocker) => {
                    let generation = self.live.get(blocker).map_or(1, |live| live.generation);
                    causes.insert(*id, (*blocker, generation));
                    ("blocker_failed", blocker_failed(*blocker))
                }
                Cause::Orchestration(parent) => (
                    "orchestration_ended",
                    format!("cancelled because request {parent}, which had started it, ended"),
                ),
            };
            all.push(Ending::without_run(*id, Status::Cancelled, code, message));
        }
        let ended: Vec<(&Ending, &Live)> =
            all.iter().filter_map(|ending| Some((ending, self.live.get(&ending.id)?))).collect();
        let mut ripple = Ripple::default();
        ripple.interrupted.extend(
            ended.iter().filter(|(_, live)| live.lease.is_some()).map(|(ending, _)| ending.id),
        );
        let gone: HashSet<Uuid> = ended.iter().map(|(ending, _)| ending.id).collect();
        let closing: Vec<Uuid> = ended
            .iter()
            // Who has just created something may have been told of its end already.
            .filter(|(_, live)| live.orchestrates || !self.created.is_empty())
            .map(|(ending, _)| ending.id)
            .collect();
        let events: Vec<Event> = ended
            .iter()
            .filter_map(|(ending, live)| {
                // Whoever ends with its orchestration has nobody to tell.
                let orchestration = live.reply_to.filter(|to| !gone.contains(to))?;
                Some(Event {
                    orchestration,
                    org: live.org_id,
                    kind: EventKind::Child,
                    source: ending.id,
                    generation: live.generation,
                    payload: serde_json::json!({ "status": ending.status }),
                })
            })
            .collect();
        write_endings(tx, &all, &causes).await?;
        settle_edges(tx, &follows).await?;
        ripple.pending = release(tx, &follows.released).await?;
        for id in gone {
            self.live.remove(&id);
        }
        orchestration::close(tx, &closing).await?;
        ripple.absorb(orchestration::deliver(tx, self, &events).await?);
        Ok(ripple)
    }
}

/// Why a dependent is cancelled, in words.
pub(super) fn blocker_failed(blocker: Uuid) -> String {
    format!("cancelled because request {blocker}, which it waited for, did not complete")
}

/// The live requests within reach, without locking any.
async fn discover(tx: &mut Tx, reach: &Reach) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    let mut found: BTreeSet<Uuid> =
        reach.rows.iter().chain(&reach.completing).chain(&reach.failing).copied().collect();
    found.extend(below(tx, &reach.completing, &reach.failing, &[]).await?.requests());
    Ok(found)
}

/// Whether one of those that were wanted and not there is there now: a retry revived it while the
/// others' locks were waited for. Unlocked, it would get dependents that nobody hears of.
async fn appeared(
    tx: &mut Tx,
    wanted: &BTreeSet<Uuid>,
    live: &BTreeMap<Uuid, Live>,
) -> Result<bool, sqlx::Error> {
    let absent: Vec<Uuid> = wanted.iter().filter(|id| !live.contains_key(id)).copied().collect();
    if absent.is_empty() {
        return Ok(false);
    }
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.queue WHERE id = ANY ($1)) AS "appeared!""#,
        &absent
    )
    .fetch_one(&mut **tx)
    .await
}

/// What hangs on requests that end.
#[derive(Debug, Default)]
struct Below {
    /// Open edges from them, and from whoever is cancelled along.
    edges: Vec<Edge>,
    /// What orchestrations among them have started.
    links: Vec<Link>,
    /// Orchestrations that are told of somebody's end, and those whose wake-up fails.
    told: Vec<Uuid>,
}

impl Below {
    fn requests(&self) -> impl Iterator<Item = Uuid> + '_ {
        let dependents = self.edges.iter().map(|edge| edge.dependent);
        let children = self.links.iter().map(|link| link.child);
        dependents.chain(children).chain(self.told.iter().copied())
    }
}

/// Everything below requests that end: dependents one level below those that complete, and below those
/// that fail as far down as `cancel` edges lead; what orchestrations among all these have started;
/// with every edge that leaves the cascade, and whoever is to be told.
///
/// The completion of whoever has started them spares `created`.
async fn below(
    tx: &mut Tx,
    completing: &[Uuid],
    failing: &[Uuid],
    created: &[Uuid],
) -> Result<Below, sqlx::Error> {
    let mut below = Below::default();
    if completing.is_empty() && failing.is_empty() {
        return Ok(below);
    }
    let rows = sqlx::query!(
        r#"
        WITH RECURSIVE ending (id, parent, spared, walks, open, fails) AS (
            SELECT s.id, NULL::uuid, false,
                   coalesce((SELECT q.orchestrates FROM eve.queue q WHERE q.id = s.id), false), true,
                   s.fails
              FROM (SELECT unnest($1::uuid[]), false
                     UNION
                    SELECT unnest($2::uuid[]), true
                     UNION
                    -- An orchestration fails with its wake-up.
                    SELECT q.wakes, true FROM eve.queue q WHERE q.id = ANY ($2) AND q.wakes IS NOT NULL
                   ) s (id, fails)
             UNION
            -- Who is cancelled along takes everything along; below a child that has ended, what its
            -- creator's completion spares is spared still.
            SELECT n.id, n.parent, n.spared, n.walks, n.open, n.open OR e.fails
              FROM ending e
             CROSS JOIN LATERAL (
                   SELECT d.dependent_id, NULL::uuid, false,
                          coalesce((SELECT q.orchestrates FROM eve.queue q WHERE q.id = d.dependent_id), false),
                          true
                     FROM eve.dependencies d
                    WHERE e.fails AND d.blocker_id = e.id AND d.state = 'open' AND d.on_failure = 'cancel'
                    UNION ALL
                   -- The floor leaves out the partitions of the days before: of parents that have
                   -- ended there are many. Where another run had reserved its key, a child can be
                   -- older than its parent; only below one that has ended is it missed for that.
                   -- OFFSET 0, because with the statistics of a day that is nearly all one fan-out the
                   -- planner reads all the day's rows for each node.
                   SELECT c.id, e.id, c.detached OR c.id = ANY ($3), true,
                          EXISTS (SELECT FROM eve.queue q WHERE q.id = c.id)
                     FROM (SELECT r.id, r.detached FROM eve.requests r
                            WHERE r.parent_request_id = e.id
                           OFFSET 0) c
                    WHERE e.walks
                      AND c.id > CASE WHEN e.open THEN '00000000-0000-0000-0000-000000000000'::uuid
                                      ELSE eve.uuid_floor(e.id) END
                      AND (e.fails OR NOT c.detached AND c.id <> ALL ($3))
                   ) n (id, parent, spared, walks, open)
        ), ids AS MATERIALIZED (
            SELECT DISTINCT id FROM ending
        )
        SELECT 'link' AS "kind!", e.parent AS "above", e.id AS "below!", e.spared AS "spared!",
               NULL AS "on_failure: OnFailure"
          FROM ending e
         WHERE e.parent IS NOT NULL
         UNION ALL
        SELECT 'edge', d.blocker_id, d.dependent_id, false, d.on_failure
          FROM ids
          JOIN eve.dependencies d ON d.blocker_id = ids.id
         WHERE d.state = 'open'
         UNION ALL
        SELECT 'told', NULL, q.reply_to, false, NULL
          FROM ids
          JOIN eve.queue q ON q.id = ids.id
         WHERE q.reply_to IS NOT NULL
         UNION ALL
        SELECT 'told', NULL, q.wakes, false, NULL
          FROM eve.queue q
         WHERE q.id = ANY ($2) AND q.wakes IS NOT NULL
        "#,
        completing,
        failing,
        created
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in rows {
        match (row.kind.as_str(), row.above, row.on_failure) {
            ("link", Some(parent), _) => {
                below.links.push(Link { parent, child: row.below, spared: row.spared });
            }
            ("edge", Some(blocker), Some(on_failure)) => {
                below.edges.push(Edge { blocker, dependent: row.below, on_failure });
            }
            _ => below.told.push(row.below),
        }
    }
    Ok(below)
}

/// Locks rows in the order of their ids, the order of everybody.
async fn lock_rows(tx: &mut Tx, ids: &BTreeSet<Uuid>) -> Result<BTreeMap<Uuid, Live>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    let rows = sqlx::query!(
        r#"
        SELECT id, org_id, generation, worker_id, lease, reply_to, wakes, orchestrates
          FROM eve.queue
         WHERE id = ANY ($1)
         ORDER BY id
           FOR NO KEY UPDATE
        "#,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let live = Live {
                org_id: row.org_id,
                generation: row.generation,
                worker_id: row.worker_id,
                lease: row.lease,
                reply_to: row.reply_to,
                wakes: row.wakes,
                orchestrates: row.orchestrates,
            };
            (row.id, live)
        })
        .collect())
}

/// Endings column by column, as statements take them.
pub(crate) struct Columns<'a> {
    pub ids: Vec<Uuid>,
    pub statuses: Vec<&'a str>,
    pub summaries: Vec<Option<&'a str>>,
    pub data: Vec<Option<&'a str>>,
    pub codes: Vec<Option<&'a str>>,
    pub messages: Vec<Option<&'a str>>,
    pub tokens: Vec<Option<i64>>,
    pub costs: Vec<Option<f64>>,
    pub durations: Vec<Option<i64>>,
    pub cpu: Vec<Option<i64>>,
    pub peaks: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    pub fn of(endings: &'a [Ending]) -> Columns<'a> {
        fn column<'a, T>(endings: &'a [Ending], get: impl Fn(&'a Ending) -> T) -> Vec<T> {
            endings.iter().map(get).collect()
        }
        Columns {
            ids: column(endings, |e| e.id),
            statuses: column(endings, |e| e.status.as_str()),
            summaries: column(endings, |e| e.summary.as_deref()),
            data: column(endings, |e| e.data.as_deref()),
            codes: column(endings, |e| e.error.as_ref().map(|problem| problem.code.as_str())),
            messages: column(endings, |e| e.error.as_ref().map(|problem| problem.message.as_str())),
            tokens: column(endings, |e| e.tokens_used),
            costs: column(endings, |e| e.cost),
            durations: column(endings, |e| e.duration_us),
            cpu: column(endings, |e| e.cpu_us),
            peaks: column(endings, |e| e.memory_peak_bytes),
        }
    }
}

/// Moves requests from the queue to the results. The organisation comes from the row.
async fn write_endings(
    tx: &mut Tx,
    endings: &[Ending],
    causes: &HashMap<Uuid, (Uuid, i32)>,
) -> Result<(), sqlx::Error> {
    if endings.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(endings);
    let by: Vec<Option<Uuid>> = columns.ids.iter().map(|id| causes.get(id).map(|c| c.0)).collect();
    let by_generation: Vec<Option<i32>> =
        columns.ids.iter().map(|id| causes.get(id).map(|c| c.1)).collect();
    sqlx::query!(
        r#"
        WITH ended AS (
            SELECT *
              FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                          $7::bigint[], $8::float8[], $9::bigint[], $10::bigint[], $11::bigint[],
                          $12::uuid[], $13::integer[])
                AS e (id, status, summary, data, code, message, tokens, cost, duration, cpu, peak,
                      cancelled_by, cancelled_by_generation)
        ), gone AS (
            DELETE FROM eve.queue q
             USING ended e
             WHERE q.id = e.id
            RETURNING q.id, q.org_id, q.generation, q.attempt, q.worker_id, q.claimed_at
        )
        INSERT INTO eve.orchestration_results
               (request_id, org_id, status, generation, attempt, summary, data, error_code, error_message,
                cancelled_by, cancelled_by_generation, tokens_used, cost, worker_id, started_at,
                duration_us, cpu_us, memory_peak_bytes)
        SELECT g.id, g.org_id, e.status, g.generation, g.attempt, e.summary, e.data::jsonb, e.code,
               e.message, e.cancelled_by, e.cancelled_by_generation, e.tokens, e.cost, g.worker_id,
               g.claimed_at, e.duration, e.cpu, e.peak
          FROM gone g
          JOIN ended e ON e.id = g.id
        "#,
        &columns.ids,
        &columns.statuses as &[&str],
        &columns.summaries as &[Option<&str>],
        &columns.data as &[Option<&str>],
        &columns.codes as &[Option<&str>],
        &columns.messages as &[Option<&str>],
        &columns.tokens as &[Option<i64>],
        &columns.costs as &[Option<f64>],
        &columns.durations as &[Option<i64>],
        &columns.cpu as &[Option<i64>],
        &columns.peaks as &[Option<i64>],
        &by as &[Option<Uuid>],
        &by_generation as &[Option<i32>],
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Marks edges as met or held.
async fn settle_edges(tx: &mut Tx, follows: &Propagation) -> Result<(), sqlx::Error> {
    if !follows.met.is_empty() {
        let (blockers, dependents): (Vec<Uuid>, Vec<Uuid>) = follows.met.iter().copied().unzip();
        sqlx::query!(
            r#"
            UPDATE eve.dependencies d
               SET state = 'met'
              FROM unnest($1::uuid[], $2::uuid[]) AS e (blocker, dependent)
             WHERE d.blocker_id = e.blocker AND d.dependent_id = e.dependent
            "#,
            &blockers,
            &dependents
        )
        .execute(&mut **tx)
        .await?;
    }
    if !follows.held.is_empty() {
        let (blockers, dependents): (Vec<Uuid>, Vec<Uuid>) = follows.held.iter().copied().unzip();
        sqlx::query!(
            r#"
            UPDATE eve.dependencies d
               SET state = 'held', held_until = clock_timestamp() + make_interval(hours => $3)
              FROM unnest($1::uuid[], $2::uuid[]) AS e (blocker, dependent)
             WHERE d.blocker_id = e.blocker AND d.dependent_id = e.dependent
            "#,
            &blockers,
            &dependents,
            HOLD_HOURS
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Takes open blockers off dependents; whoever has none left becomes pending, or scheduled if its
/// time has not come. Counted per dependent first: an UPDATE … FROM applies a double match once.
async fn release(
    tx: &mut Tx,
    released: &BTreeMap<Uuid, i32>,
) -> Result<BTreeSet<String>, sqlx::Error> {
    if released.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ids: Vec<Uuid> = released.keys().copied().collect();
    let counts: Vec<i32> = released.values().copied().collect();
    let rows = sqlx::query!(
        r#"
        UPDATE eve.queue q
           SET open_blockers = q.open_blockers - r.count,
               status = CASE WHEN q.open_blockers > r.count THEN q.status
                             WHEN q.run_at > clock_timestamp() THEN 'scheduled'
                             ELSE 'pending' END
          FROM unnest($1::uuid[], $2::integer[]) AS r (id, count)
         WHERE q.id = r.id AND q.status = 'blocked'
        RETURNING q.worker_type, q.status
        "#,
        &ids,
        &counts
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().filter(|row| row.status == "pending").map(|row| row.worker_type).collect())
}
