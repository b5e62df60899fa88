//! Inserting requests and their edges, in somebody's transaction: a creation's own, or the one that
//! ends the run which asked for them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use super::graph::{Graph, HOLD_HOURS, Ripple, blocker_failed};
use super::orchestration::{self, Event, EventKind};
use super::{BlockerRef, NewRequest, OnFailure, Origin, RequestError, Status};
use crate::db::Tx;
use crate::ids::RequestId;
use crate::tenancy::Tenant;

/// A request with its id and place in the tree, ready to be inserted.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Its id.
    pub id: RequestId,
    /// What was asked for; its blockers may point into the batch.
    pub new: NewRequest,
    /// The request that creates it, if one does; told of its end if `new.reply_to` says so.
    pub parent: Option<Parent>,
}

/// The request that creates others: never a wake-up, but its orchestration.
#[derive(Debug, Clone, Copy)]
pub struct Parent {
    /// Its id.
    pub id: Uuid,
    /// Its first ancestor.
    pub root: Uuid,
    /// Its generation.
    pub generation: i32,
}

impl Prepared {
    /// The orchestration that is told of its end.
    fn reply_to(&self) -> Option<Uuid> {
        self.new.reply_to.as_ref().and(self.parent).map(|parent| parent.id)
    }
}

/// Blockers outside the batch.
pub(crate) fn external_blockers(prepared: &[Prepared]) -> Vec<Uuid> {
    let own: HashSet<RequestId> = prepared.iter().map(|request| request.id).collect();
    let blockers: BTreeSet<Uuid> = prepared
        .iter()
        .flat_map(|request| &request.new.blocked_by)
        .filter_map(|blocker| match blocker.on {
            BlockerRef::Id(id) if !own.contains(&id) => Some(id.0),
            _ => None,
        })
        .collect();
    blockers.into_iter().collect()
}

/// How a blocker stands at the moment of the insertion.
#[derive(Clone, Copy, PartialEq)]
enum BlockerNow {
    Open,
    Completed,
    /// Failed or cancelled, in this generation.
    Bad(i32),
}

/// Inserts requests and their edges. `graph` holds the locks of the live blockers outside the batch;
/// blockers that have ended get their edge's policy there and then.
pub(crate) async fn insert(
    tx: &mut Tx,
    tenant: Tenant,
    origin: &Origin,
    prepared: &[Prepared],
    graph: &mut Graph,
) -> Result<Ripple, RequestError> {
    let index_of: HashMap<RequestId, usize> =
        prepared.iter().enumerate().map(|(index, request)| (request.id, index)).collect();
    let mut now = ended_blockers(tx, tenant, prepared, graph, &index_of).await?;
    // The engine's transactions see every organisation: what is not the tenant's does not exist here.
    let own = graph.live.iter().filter(|(_, live)| live.org_id == tenant.org().0);
    now.extend(own.map(|(id, _)| (*id, BlockerNow::Open)));

    let mut edges = Edges::default();
    let mut open_blockers = vec![0i32; prepared.len()];
    let mut stillborn: BTreeMap<usize, (Uuid, i32)> = BTreeMap::new();
    let mut blocking: BTreeSet<Uuid> = BTreeSet::new();
    let mut blocking_entries = vec![false; prepared.len()];
    for (index, request) in prepared.iter().enumerate() {
        let mut seen = HashSet::new();
        for blocker in &request.new.blocked_by {
            let id = match blocker.on {
                BlockerRef::Id(id) => id,
                BlockerRef::Entry(entry) => prepared[entry].id,
            };
            // The same blocker twice is one edge; the first policy counts.
            if !seen.insert(id) {
                continue;
            }
            let entry = index_of.get(&id).copied();
            let state = match entry {
                Some(entry) if stillborn.contains_key(&entry) => BlockerNow::Bad(1),
                Some(_) => BlockerNow::Open,
                None => {
                    let now = now.get(&id.0).copied();
                    now.ok_or_else(|| no_blocker(index, prepared.len(), id))?
                }
            };
            let edge_state = match (state, blocker.on_failure) {
                (BlockerNow::Open, _) => {
                    open_blockers[index] += 1;
                    match entry {
                        Some(entry) => blocking_entries[entry] = true,
                        None => {
                            blocking.insert(id.0);
                        }
                    }
                    "open"
                }
                (BlockerNow::Completed, _) | (BlockerNow::Bad(_), OnFailure::Run) => "met",
                (BlockerNow::Bad(_), OnFailure::Hold) => {
                    open_blockers[index] += 1;
                    "held"
                }
                (BlockerNow::Bad(generation), OnFailure::Cancel) => {
                    stillborn.entry(index).or_insert((id.0, generation));
                    "open"
                }
            };
            edges.push(id.0, request.id.0, blocker.on_failure, edge_state);
        }
    }

    if !blocking.is_empty() {
        let blocking: Vec<Uuid> = blocking.into_iter().collect();
        sqlx::query!(
            "UPDATE eve.queue SET has_dependents = true WHERE id = ANY ($1) AND NOT has_dependents",
            &blocking
        )
        .execute(&mut **tx)
        .await
        .map_err(RequestError::database("marking blockers"))?;
    }
    insert_rows(tx, tenant, origin, prepared).await?;
    let pending =
        enqueue(tx, tenant, prepared, &open_blockers, &blocking_entries, &stillborn).await?;
    edges.insert(tx, tenant).await?;
    bury(tx, tenant, prepared, &stillborn).await?;
    graph.created.extend(prepared.iter().map(|request| request.id.0));
    refuse_cycles(tx, prepared).await?;
    let mut ripple = Ripple { pending, interrupted: Vec::new() };
    // Who was cancelled before it lived has ended all the same.
    let unborn: Vec<Event> = stillborn
        .keys()
        .filter_map(|&index| {
            Some(Event {
                orchestration: prepared[index].reply_to()?,
                org: tenant.org().0,
                kind: EventKind::Child,
                source: prepared[index].id.0,
                generation: 1,
                payload: serde_json::json!({ "status": Status::Cancelled }),
            })
        })
        .collect();
    ripple.absorb(
        orchestration::deliver(tx, graph, &unborn)
            .await
            .map_err(RequestError::database("telling an orchestration"))?,
    );
    Ok(ripple)
}

/// An orchestration that waits for a child which waits for it would wait for ever. Only blockers
/// that were there before can lead back to it.
async fn refuse_cycles(tx: &mut Tx, prepared: &[Prepared]) -> Result<(), RequestError> {
    let replying: Vec<Uuid> = prepared
        .iter()
        .filter(|request| request.reply_to().is_some())
        .map(|request| request.id.0)
        .collect();
    if replying.is_empty() || external_blockers(prepared).is_empty() {
        return Ok(());
    }
    let cycle = orchestration::cycle(tx, &replying)
        .await
        .map_err(RequestError::database("looking for cycles"))?;
    match cycle {
        Some(orchestration) => Err(RequestError::Conflict(format!(
            "request {orchestration} would wait for ever: a request that replies to it waits for it"
        ))),
        None => Ok(()),
    }
}

/// How the blockers stand that were not live when the graph was locked. Rows of failed ones are locked,
/// so that a retry, which revives whom it finds cancelled, does not miss one that is being inserted.
///
/// One that was being retried has left the results by the time its row's lock is had: it lives again,
/// and may have ended again. Those are locked out of their order; a deadlock is replayed.
async fn ended_blockers(
    tx: &mut Tx,
    tenant: Tenant,
    prepared: &[Prepared],
    graph: &Graph,
    index_of: &HashMap<RequestId, usize>,
) -> Result<HashMap<Uuid, BlockerNow>, RequestError> {
    let mut missing: Vec<Uuid> = external_blockers(prepared)
        .into_iter()
        .filter(|id| !graph.live.contains_key(id) && !index_of.contains_key(&RequestId(*id)))
        .collect();
    let mut now = HashMap::new();
    for _ in 0..5 {
        if missing.is_empty() {
            break;
        }
        let ended = sqlx::query!(
            r#"
            SELECT request_id, status AS "status: Status", generation
              FROM eve.orchestration_results
             WHERE request_id = ANY ($1) AND org_id = $2
             ORDER BY request_id
               FOR NO KEY UPDATE
            "#,
            &missing,
            tenant.org().0
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(RequestError::database("looking blockers up"))?;
        now.extend(ended.into_iter().map(|row| match row.status {
            Status::Completed => (row.request_id, BlockerNow::Completed),
            _ => (row.request_id, BlockerNow::Bad(row.generation)),
        }));
        missing.retain(|id| !now.contains_key(id));
        if missing.is_empty() {
            break;
        }
        let revived = sqlx::query_scalar!(
            r#"
            SELECT id FROM eve.queue
             WHERE id = ANY ($1) AND org_id = $2
             ORDER BY id
               FOR NO KEY UPDATE
            "#,
            &missing,
            tenant.org().0
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(RequestError::database("looking blockers up"))?;
        now.extend(revived.into_iter().map(|id| (id, BlockerNow::Open)));
        missing.retain(|id| !now.contains_key(id));
    }
    Ok(now)
}

/// Edges, column by column.
#[derive(Default)]
struct Edges {
    blockers: Vec<Uuid>,
    dependents: Vec<Uuid>,
    policies: Vec<OnFailure>,
    states: Vec<&'static str>,
}

impl Edges {
    fn push(&mut self, blocker: Uuid, dependent: Uuid, policy: OnFailure, state: &'static str) {
        self.blockers.push(blocker);
        self.dependents.push(dependent);
        self.policies.push(policy);
        self.states.push(state);
    }

    async fn insert(self, tx: &mut Tx, tenant: Tenant) -> Result<(), RequestError> {
        if self.blockers.is_empty() {
            return Ok(());
        }
        let policies: Vec<&str> = self
            .policies
            .iter()
            .map(|policy| match policy {
                OnFailure::Cancel => "cancel",
                OnFailure::Run => "run",
                OnFailure::Hold => "hold",
            })
            .collect();
        sqlx::query!(
            r#"
            INSERT INTO eve.dependencies (org_id, blocker_id, dependent_id, on_failure, state, held_until)
            SELECT $1, e.blocker, e.dependent, e.policy, e.state,
                   CASE e.state WHEN 'held' THEN now() + make_interval(hours => $6) END
              FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[])
                AS e (blocker, dependent, policy, state)
            "#,
            tenant.org().0,
            &self.blockers,
            &self.dependents,
            &policies as &[&str],
            &self.states as &[&str],
            HOLD_HOURS
        )
        .execute(&mut **tx)
        .await
        .map_err(RequestError::database("inserting dependencies"))?;
        Ok(())
    }
}

async fn insert_rows(
    tx: &mut Tx,
    tenant: Tenant,
    origin: &Origin,
    prepared: &[Prepared],
) -> Result<(), RequestError> {
    let text = |get: fn(&NewRequest) -> Option<&str>| -> Vec<Option<&str>> {
        prepared.iter().map(|request| get(&request.new)).collect()
    };
    let json = |get: fn(&NewRequest) -> &Value| -> Vec<&Value> {
        prepared.iter().map(|request| get(&request.new)).collect()
    };
    let ids: Vec<Uuid> = prepared.iter().map(|request| request.id.0).collect();
    let types: Vec<&str> = prepared.iter().map(|r| r.new.worker_type.as_str()).collect();
    let prompts: Vec<&str> = prepared.iter().map(|r| r.new.prompt.as_str()).collect();
    let priorities: Vec<i16> = prepared.iter().map(|r| r.new.priority).collect();
    let attempts: Vec<i16> =
        prepared.iter().map(|r| r.new.max_attempts.map_or(3, |n| n as i16)).collect();
    let timeouts: Vec<Option<i64>> =
        prepared.iter().map(|r| r.new.timeout_ms.map(|ms| ms as i64)).collect();
    let reply: Vec<Option<Value>> = prepared
        .iter()
        .map(|r| {
            r.reply_to().map(|id| serde_json::json!({ "type": "orchestrator", "request_id": id }))
        })
        .collect();
    let parents: Vec<Option<Uuid>> =
        prepared.iter().map(|r| r.parent.map(|parent| parent.id)).collect();
    let roots: Vec<Uuid> =
        prepared.iter().map(|r| r.parent.map_or(r.id.0, |parent| parent.root)).collect();
    let parent_generations: Vec<Option<i32>> =
        prepared.iter().map(|r| r.parent.map(|parent| parent.generation)).collect();
    let detached: Vec<bool> = prepared.iter().map(|r| r.new.detached).collect();
    let creator = origin.actor.to_json();
    sqlx::query!(
        r#"
        INSERT INTO eve.requests
               (id, org_id, user_id, worker_type, skill, prompt, context, repo_url, branch, config,
                metadata, reply_to, priority, max_attempts, timeout_ms, idempotency_key,
                root_request_id, orchestration_id, parent_request_id, parent_generation, detached,
                created_by, schedule)
        SELECT n.id, $1, $2, n.worker_type, n.skill, n.prompt, n.context, n.repo_url, n.branch,
               n.config, n.metadata, n.reply_to, n.priority, n.max_attempts, n.timeout_ms,
               n.idempotency_key, n.root, n.id, n.parent, n.parent_generation, n.detached, $3, $22
          FROM unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::jsonb[], $9::text[],
                      $10::text[], $11::jsonb[], $12::jsonb[], $13::jsonb[], $14::smallint[],
                      $15::smallint[], $16::bigint[], $17::text[], $18::boolean[], $19::uuid[],
                      $20::uuid[], $21::integer[])
            AS n (id, worker_type, skill, prompt, context, repo_url, branch, config, metadata,
                  reply_to, priority, max_attempts, timeout_ms, idempotency_key, detached, root,
                  parent, parent_generation)
        "#,
        tenant.org().0,
        origin.actor.user().map(|user| user.0),
        creator,
        &ids,
        &types as &[&str],
        &text(|new| new.skill.as_deref()) as &[Option<&str>],
        &prompts as &[&str],
        &json(|new| &new.context) as &[&Value],
        &text(|new| new.repo_url.as_deref()) as &[Option<&str>],
        &text(|new| new.branch.as_deref()) as &[Option<&str>],
        &json(|new| &new.config) as &[&Value],
        &json(|new| &new.metadata) as &[&Value],
        &reply as &[Option<Value>],
        &priorities,
        &attempts,
        &timeouts as &[Option<i64>],
        &text(|new| new.idempotency_key.as_deref()) as &[Option<&str>],
        &detached,
        &roots,
        &parents as &[Option<Uuid>],
        &parent_generations as &[Option<i32>],
        origin.schedule,
    )
    .execute(&mut **tx)
    .await
    .map_err(RequestError::database("inserting requests"))?;
    Ok(())
}

/// Inserts the live rows; returns the worker types that have new pending ones.
async fn enqueue(
    tx: &mut Tx,
    tenant: Tenant,
    prepared: &[Prepared],
    open_blockers: &[i32],
    blocking: &[bool],
    stillborn: &BTreeMap<usize, (Uuid, i32)>,
) -> Result<BTreeSet<String>, RequestError> {
    let alive: Vec<usize> =
        (0..prepared.len()).filter(|index| !stillborn.contains_key(index)).collect();
    let ids: Vec<Uuid> = alive.iter().map(|&index| prepared[index].id.0).collect();
    let types: Vec<&str> =
        alive.iter().map(|&index| prepared[index].new.worker_type.as_str()).collect();
    let priorities: Vec<i16> = alive.iter().map(|&index| prepared[index].new.priority).collect();
    let blockers: Vec<i32> = alive.iter().map(|&index| open_blockers[index]).collect();
    let dependents: Vec<bool> = alive.iter().map(|&index| blocking[index]).collect();
    let delays: Vec<Option<i64>> = alive
        .iter()
        .map(|&index| prepared[index].new.delay_ms.filter(|ms| *ms > 0).map(|ms| ms as i64))
        .collect();
    let replies: Vec<Option<Uuid>> =
        alive.iter().map(|&index| prepared[index].reply_to()).collect();
    sqlx::query!(
        r#"
        INSERT INTO eve.queue
               (id, org_id, worker_type, status, priority, open_blockers, has_dependents, run_at,
                reply_to)
        SELECT n.id, $1, n.worker_type,
               CASE WHEN n.open_blockers > 0 THEN 'blocked'
                    WHEN n.delay IS NOT NULL THEN 'scheduled'
                    ELSE 'pending' END,
               n.priority, n.open_blockers, n.has_dependents,
               clock_timestamp() + n.delay * interval '1 millisecond', n.reply_to
          FROM unnest($2::uuid[], $3::text[], $4::smallint[], $5::integer[], $6::boolean[], $7::bigint[],
                      $8::uuid[])
            AS n (id, worker_type, priority, open_blockers, has_dependents, delay, reply_to)
        "#,
        tenant.org().0,
        &ids,
        &types as &[&str],
        &priorities,
        &blockers,
        &dependents,
        &delays as &[Option<i64>],
        &replies as &[Option<Uuid>],
    )
    .execute(&mut **tx)
    .await
    .map_err(RequestError::database("enqueuing requests"))?;
    Ok(alive
        .iter()
        .zip(&blockers)
        .zip(&delays)
        .filter(|((_, blockers), delay)| **blockers == 0 && delay.is_none())
        .map(|((index, _), _)| prepared[*index].new.worker_type.clone())
        .collect())
}

/// Writes the result of requests whose blocker had already failed: cancelled before they lived.
async fn bury(
    tx: &mut Tx,
    tenant: Tenant,
    prepared: &[Prepared],
    stillborn: &BTreeMap<usize, (Uuid, i32)>,
) -> Result<(), RequestError> {
    if stillborn.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = stillborn.keys().map(|&index| prepared[index].id.0).collect();
    let causes: Vec<Uuid> = stillborn.values().map(|cause| cause.0).collect();
    let generations: Vec<i32> = stillborn.values().map(|cause| cause.1).collect();
    let messages: Vec<String> = causes.iter().map(|cause| blocker_failed(*cause)).collect();
    sqlx::query!(
        r#"
        INSERT INTO eve.orchestration_results
               (request_id, org_id, status, generation, attempt, error_code, error_message,
                cancelled_by, cancelled_by_generation)
        SELECT n.id, $1, 'cancelled', 1, 0, 'blocker_failed', n.message, n.cause, n.generation
          FROM unnest($2::uuid[], $3::uuid[], $4::integer[], $5::text[])
            AS n (id, cause, generation, message)
        "#,
        tenant.org().0,
        &ids,
        &causes,
        &generations,
        &messages
    )
    .execute(&mut **tx)
    .await
    .map_err(RequestError::database("cancelling requests"))?;
    Ok(())
}

/// Another organisation's request is not there either.
pub(super) fn no_blocker(index: usize, of: usize, id: RequestId) -> RequestError {
    RequestError::Invalid {
        field: match of {
            1 => "blocked_by".into(),
            _ => format!("requests[{index}].blocked_by"),
        },
        message: format!("there is no request {id} to wait for"),
    }
}
