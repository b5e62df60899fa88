//! Firing: the request of a schedule that is due.

use chrono::{DateTime, Utc};
use sqlx::Executor;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Overlap, Timetable};
use crate::db::{Scope, Tx, is_connection_loss, is_deadlock};
use crate::ids::{OrgId, RequestId, ScheduleId};
use crate::requests::graph::{Ending, Graph, Reach, Ripple};
use crate::requests::insert::{Prepared, insert};
use crate::requests::read::Reader;
use crate::requests::{NewRequest, Origin, RequestError, Requests, Status};
use crate::tenancy::{Actor, Tenant, audit};

/// For how many days rows of ticks are kept: they guard against firing twice, and show what happened.
const KEEP_DAYS: i32 = 30;
/// What is kept of an error, in characters.
const ERROR_CHARS: usize = 1_000;

/// A schedule that is due, locked.
struct Due {
    id: Uuid,
    org_id: Uuid,
    name: String,
    cron: String,
    timezone: String,
    template: serde_json::Value,
    overlap: Overlap,
    next_at: DateTime<Utc>,
    last_request: Option<Uuid>,
    created_by: Json<Actor>,
    now: DateTime<Utc>,
}

/// What came of a tick.
enum Outcome {
    Created(Uuid),
    Skipped,
    Failed(String),
}

impl Outcome {
    fn as_str(&self) -> &'static str {
        match self {
            Outcome::Created(_) => "created",
            Outcome::Skipped => "skipped",
            Outcome::Failed(_) => "failed",
        }
    }
}

/// Fires the schedule that has been due for the longest, if nobody else is at it; none if none is due.
/// One transaction each: whoever dies before its end has fired nothing, and the next one who looks
/// does; a schedule in trouble holds up no other.
pub(crate) async fn tick(requests: &Requests) -> Result<Option<Ripple>, sqlx::Error> {
    let mut tries = 0;
    loop {
        match try_tick(requests).await {
            Err(error) if is_deadlock(&error) && tries < 5 => tries += 1,
            other => return other,
        }
    }
}

async fn try_tick(requests: &Requests) -> Result<Option<Ripple>, sqlx::Error> {
    let mut tx = requests.db.begin(Scope::Engine).await?;
    // now() and not clock_timestamp(): only what is stable within a statement can use the index.
    let due = sqlx::query_as!(
        Due,
        r#"
        SELECT id, org_id, name, cron, timezone, template, overlap AS "overlap: Overlap",
               next_at AS "next_at!", last_request, created_by AS "created_by: Json<Actor>",
               now() AS "now!"
          FROM eve.schedules
         WHERE next_at <= now()
         ORDER BY next_at
         LIMIT 1
           FOR NO KEY UPDATE SKIP LOCKED
        "#
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(due) = due else { return Ok(None) };
    let timetable = match Timetable::parse(&due.cron, &due.timezone) {
        Ok(timetable) => timetable,
        // It was one when it was made: this version, or its time zones, know it no more.
        Err(invalid) => {
            let outcome = Outcome::Failed(invalid.to_string());
            advance(&mut tx, &due, due.next_at, None, &outcome).await?;
            tx.commit().await?;
            return Ok(Some(Ripple::default()));
        }
    };
    let tick = timetable.latest(due.next_at, due.now);
    let next = timetable.next(due.now);
    let mut ripple = Ripple::default();
    let outcome = match has_fired(&mut tx, &due, tick).await? {
        // The clock went back, or a time zone's: what is not to happen twice is passed over.
        true => Outcome::Skipped,
        false => fire(requests, &mut tx, &due, &mut ripple).await?,
    };
    advance(&mut tx, &due, tick, next, &outcome).await?;
    tx.commit().await?;
    if let Outcome::Failed(error) = &outcome {
        tracing::info!(schedule = %due.id, error, "a schedule could not create its request");
    }
    Ok(Some(ripple))
}

async fn has_fired(tx: &mut Tx, due: &Due, tick: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM eve.schedule_ticks WHERE schedule_id = $1 AND tick = $2) AS "fired!"
        "#,
        due.id,
        tick
    )
    .fetch_one(&mut **tx)
    .await
}

/// Creates the request, as the policy has it. What Postgres refuses is undone and told; when it is
/// away, or chose this transaction to break a deadlock, all of it is tried again.
async fn fire(
    requests: &Requests,
    tx: &mut Tx,
    due: &Due,
    ripple: &mut Ripple,
) -> Result<Outcome, sqlx::Error> {
    let open = match due.last_request {
        Some(last) => is_open(tx, last).await?.then_some(last),
        None => None,
    };
    let replaced = match (open, due.overlap) {
        (Some(_), Overlap::Skip) => return Ok(Outcome::Skipped),
        (Some(last), Overlap::Replace) => Some(last),
        _ => None,
    };
    // Known since this row is locked: the schedule is its organisation's.
    let tenant = Tenant::proven(OrgId(due.org_id));
    let new: NewRequest = match serde_json::from_value(due.template.clone()) {
        Ok(new) => new,
        Err(error) => return Ok(Outcome::Failed(format!("request: {error}"))),
    };
    let template = std::slice::from_ref(&new);
    if let Err(error) = requests.known(Reader::Member, tenant, template).await {
        return refused(error);
    }
    tx.execute("SAVEPOINT fire").await?;
    match create(tx, tenant, due, new, replaced).await {
        Ok((id, made)) => {
            tx.execute("RELEASE SAVEPOINT fire").await?;
            ripple.absorb(made);
            Ok(Outcome::Created(id))
        }
        Err(error) => {
            let outcome = refused(error)?;
            tx.execute("ROLLBACK TO SAVEPOINT fire").await?;
            Ok(outcome)
        }
    }
}

/// What is told of a refusal; an error if trying again is likely to help.
fn refused(error: RequestError) -> Result<Outcome, sqlx::Error> {
    let text = match error {
        RequestError::Database { source, .. }
            if is_connection_loss(&source) || is_deadlock(&source) =>
        {
            return Err(source);
        }
        RequestError::Database { doing, source } => format!("{doing} failed: {source}"),
        RequestError::Invalid { field, message } => format!("request.{field}: {message}"),
        other => other.to_string(),
    };
    Ok(Outcome::Failed(text.chars().take(ERROR_CHARS).collect()))
}

async fn is_open(tx: &mut Tx, request: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.queue WHERE id = $1) AS "open!""#,
        request
    )
    .fetch_one(&mut **tx)
    .await
}

async fn create(
    tx: &mut Tx,
    tenant: Tenant,
    due: &Due,
    new: NewRequest,
    replaced: Option<Uuid>,
) -> Result<(Uuid, Ripple), RequestError> {
    let user = due.created_by.0.user();
    let actor = Actor::Schedule { schedule: ScheduleId(due.id), user };
    let mut ripple = Ripple::default();
    let failed = || RequestError::database("replacing the request of the tick before");
    if let Some(last) = replaced {
        let reach = Reach { failing: vec![last], ..Reach::default() };
        let mut graph = Graph::lock(tx, &reach).await.map_err(failed())?;
        if graph.live.contains_key(&last) {
            let message = format!("replaced: the schedule `{}` was due again", due.name);
            let ending = Ending::without_run(last, Status::Cancelled, "cancelled", message);
            ripple.absorb(graph.end(tx, vec![ending]).await.map_err(failed())?);
            audit::record(tx, tenant, &actor, "request.cancel", &last.to_string())
                .await
                .map_err(failed())?;
        }
    }
    let id = RequestId::generate();
    let origin = Origin { actor, schedule: Some(due.name.clone()) };
    let prepared = [Prepared { id, new, parent: None }];
    ripple.absorb(insert(tx, tenant, &origin, &prepared, &mut Graph::default()).await?);
    Ok((id.0, ripple))
}

/// Writes what came of a tick, and when the next one is.
async fn advance(
    tx: &mut Tx,
    due: &Due,
    tick: DateTime<Utc>,
    next: Option<DateTime<Utc>>,
    outcome: &Outcome,
) -> Result<(), sqlx::Error> {
    let created = match outcome {
        Outcome::Created(id) => Some(*id),
        _ => None,
    };
    let error = match outcome {
        Outcome::Failed(error) => Some(error.as_str()),
        _ => None,
    };
    sqlx::query!(
        r#"
        WITH noted AS (
            INSERT INTO eve.schedule_ticks (schedule_id, tick, org_id, outcome, request_id)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT DO NOTHING
        ), forgotten AS (
            DELETE FROM eve.schedule_ticks
             WHERE schedule_id = $1 AND tick < $2 - make_interval(days => $8)
        )
        UPDATE eve.schedules
           SET next_at = $6, last_tick = $2, last_request = coalesce($5, last_request), last_error = $7
         WHERE id = $1
        "#,
        due.id,
        tick,
        due.org_id,
        outcome.as_str(),
        created,
        next,
        error,
        KEEP_DAYS,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
