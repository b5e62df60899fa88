//! Making, showing, pausing and deleting schedules.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use super::{NewSchedule, Overlap, Schedule, ScheduleError, Schedules, Timetable};
use crate::db::{Scope, Tx, is_duplicate};
use crate::ids::{RequestId, ScheduleId};
use crate::requests::read::Reader;
use crate::requests::validate::name as valid_name;
use crate::requests::{Invalid, NewRequest};
use crate::tenancy::{Actor, Tenant, audit};

/// Schedules of one organisation: each may cost a creation a minute.
pub const MAX_SCHEDULES: i64 = 1_000;
/// Ticks that are shown.
const UPCOMING: usize = 3;

impl Schedules {
    /// Makes a schedule, which begins at once.
    pub async fn create(
        &self,
        tenant: Tenant,
        actor: &Actor,
        new: &NewSchedule,
    ) -> Result<Schedule, ScheduleError> {
        valid_name("name", &new.name)?;
        let timetable = Timetable::parse(&new.cron, &new.timezone)?;
        template(&new.request)?;
        self.requests
            .known(Reader::Member, tenant, std::slice::from_ref(&new.request))
            .await
            .map_err(ScheduleError::of_template)?;

        let failed = ScheduleError::database("creating a schedule");
        let mut tx = self.requests.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let now = now(&mut tx).await.map_err(failed)?;
        let next = timetable.next(now).ok_or_else(|| {
            Invalid::new("cron", format_args!("`{}` never comes", new.cron.escape_debug()))
        })?;
        let id = ScheduleId::generate();
        let request = serde_json::to_value(&new.request).expect("a NewRequest always serialises");
        let creator = actor.to_json();
        // Two at the same time may both be the last: the limit is no promise to anybody.
        let made = sqlx::query!(
            r#"
            INSERT INTO eve.schedules
                   (id, org_id, name, cron, timezone, template, overlap, next_at, created_by)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
             WHERE (SELECT count(*) FROM eve.schedules WHERE org_id = $2) < $10
            "#,
            id.0,
            tenant.org().0,
            new.name,
            new.cron.trim(),
            timetable.zone(),
            request,
            new.overlap.as_str(),
            next,
            creator,
            MAX_SCHEDULES,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => ScheduleError::Conflict(format!(
                "there is a schedule `{}` already: delete it first, or choose another name",
                new.name
            )),
            false => failed(error),
        })?;
        if made.rows_affected() == 0 {
            return Err(ScheduleError::Conflict(format!(
                "the organisation has {MAX_SCHEDULES} schedules, and may have no more"
            )));
        }
        let details = json!({ "id": id, "cron": new.cron, "timezone": timetable.zone() });
        audit::record_details(&mut tx, tenant, actor, "schedule.create", &new.name, details)
            .await
            .map_err(failed)?;
        let made = one(&mut tx, tenant, &new.name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        made.ok_or_else(|| not_found(&new.name))
    }

    /// One schedule.
    pub async fn get(&self, tenant: Tenant, name: &str) -> Result<Schedule, ScheduleError> {
        let failed = ScheduleError::database("reading a schedule");
        named(name)?;
        let mut tx = self.requests.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        one(&mut tx, tenant, name).await.map_err(failed)?.ok_or_else(|| not_found(name))
    }

    /// At most `limit` schedules of the organisation, newest first, only older than `before`.
    pub async fn list(
        &self,
        tenant: Tenant,
        before: Option<ScheduleId>,
        limit: u32,
    ) -> Result<Vec<Schedule>, ScheduleError> {
        let failed = ScheduleError::database("listing schedules");
        let mut tx = self.requests.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let rows = sqlx::query_as!(
            Row,
            r#"
            SELECT id, name, cron, timezone, template, overlap AS "overlap: Overlap", paused, next_at,
                   last_tick, last_request, last_error, created_by AS "created_by: Json<Actor>",
                   created_at
              FROM eve.schedules
             WHERE org_id = $1
               AND ($2::uuid IS NULL OR id < $2)
             ORDER BY id DESC
             LIMIT $3
            "#,
            tenant.org().0,
            before.map(|id| id.0),
            i64::from(limit),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        Ok(rows.into_iter().map(Schedule::from).collect())
    }

    /// Has it create nothing until it is resumed. What it has created goes on.
    pub async fn pause(
        &self,
        tenant: Tenant,
        actor: &Actor,
        name: &str,
    ) -> Result<Schedule, ScheduleError> {
        named(name)?;
        let failed = ScheduleError::database("pausing a schedule");
        let mut tx = self.requests.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let paused = sqlx::query!(
            r#"
            UPDATE eve.schedules
               SET paused = true, next_at = NULL
             WHERE org_id = $1 AND name = $2 AND NOT paused
            "#,
            tenant.org().0,
            name
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        if paused.rows_affected() > 0 {
            audit::record(&mut tx, tenant, actor, "schedule.pause", name).await.map_err(failed)?;
        }
        let found = one(&mut tx, tenant, name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        found.ok_or_else(|| not_found(name))
    }

    /// Has a paused schedule go on from now: what it missed is not made up for.
    pub async fn resume(
        &self,
        tenant: Tenant,
        actor: &Actor,
        name: &str,
    ) -> Result<Schedule, ScheduleError> {
        named(name)?;
        let failed = ScheduleError::database("resuming a schedule");
        let mut tx = self.requests.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let stopped = sqlx::query!(
            r#"
            SELECT cron, timezone
              FROM eve.schedules
             WHERE org_id = $1 AND name = $2 AND next_at IS NULL
               FOR NO KEY UPDATE
            "#,
            tenant.org().0,
            name
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        if let Some(stopped) = stopped {
            let timetable = Timetable::parse(&stopped.cron, &stopped.timezone)?;
            let next = timetable.next(now(&mut tx).await.map_err(failed)?);
            sqlx::query!(
                r#"
                UPDATE eve.schedules
                   SET paused = false, next_at = $3
                 WHERE org_id = $1 AND name = $2
                "#,
                tenant.org().0,
                name,
                next
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            audit::record(&mut tx, tenant, actor, "schedule.resume", name).await.map_err(failed)?;
        }
        let found = one(&mut tx, tenant, name).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        found.ok_or_else(|| not_found(name))
    }

    /// Deletes a schedule. What it has created goes on.
    pub async fn delete(
        &self,
        tenant: Tenant,
        actor: &Actor,
        name: &str,
    ) -> Result<(), ScheduleError> {
        named(name)?;
        let failed = ScheduleError::database("deleting a schedule");
        let mut tx = self.requests.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let deleted = sqlx::query_scalar!(
            "DELETE FROM eve.schedules WHERE org_id = $1 AND name = $2 RETURNING id",
            tenant.org().0,
            name
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?
        .ok_or_else(|| not_found(name))?;
        let details = json!({ "id": deleted });
        audit::record_details(&mut tx, tenant, actor, "schedule.delete", name, details)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }
}

/// What is no name is no schedule's.
fn named(name: &str) -> Result<(), ScheduleError> {
    valid_name("name", name).map_err(|_| not_found(name))
}

fn not_found(name: &str) -> ScheduleError {
    ScheduleError::NotFound(name.chars().take(64).collect())
}

/// Whether a request can be created again and again as it is.
fn template(request: &NewRequest) -> Result<(), Invalid> {
    let refused = |field: &str, why: &str| {
        Err(Invalid::new(
            &format!("request.{field}"),
            format_args!("does not go with a schedule: {why}"),
        ))
    };
    if !request.blocked_by.is_empty() {
        return refused("blocked_by", "every tick would wait for the same requests");
    }
    if request.reply_to.is_some() {
        return refused("reply_to", "the orchestration would end, and the schedule go on");
    }
    if request.detached {
        return refused("detached", "what it creates belongs to no orchestration");
    }
    if request.delay_ms.is_some() {
        return refused("delay_ms", "the cron expression says when");
    }
    if request.idempotency_key.is_some() {
        return refused("idempotency_key", "it would create one request only");
    }
    request.validate(0).map_err(|invalid| Invalid {
        field: format!("request.{}", invalid.field),
        message: invalid.message,
    })
}

async fn now(tx: &mut Tx) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(&mut **tx).await
}

/// One schedule as it stands in this transaction.
async fn one(tx: &mut Tx, tenant: Tenant, name: &str) -> Result<Option<Schedule>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"
        SELECT id, name, cron, timezone, template, overlap AS "overlap: Overlap", paused, next_at,
               last_tick, last_request, last_error, created_by AS "created_by: Json<Actor>", created_at
          FROM eve.schedules
         WHERE org_id = $1 AND name = $2
        "#,
        tenant.org().0,
        name
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(Schedule::from))
}

struct Row {
    id: Uuid,
    name: String,
    cron: String,
    timezone: String,
    template: Value,
    overlap: Overlap,
    paused: bool,
    next_at: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    last_request: Option<Uuid>,
    last_error: Option<String>,
    created_by: Json<Actor>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Schedule {
    fn from(row: Row) -> Self {
        let timetable = Timetable::parse(&row.cron, &row.timezone).ok();
        let upcoming = match (row.next_at, timetable) {
            (Some(next), Some(timetable)) => {
                let after = timetable.upcoming(next, UPCOMING - 1);
                std::iter::once(next).chain(after).collect()
            }
            _ => Vec::new(),
        };
        Schedule {
            id: ScheduleId(row.id),
            name: row.name,
            cron: row.cron,
            timezone: row.timezone,
            request: row.template,
            overlap: row.overlap,
            paused: row.paused,
            next_at: row.next_at,
            upcoming,
            last_tick: row.last_tick,
            last_request_id: row.last_request.map(RequestId),
            last_error: row.last_error,
            created_by: row.created_by.0,
            created_at: row.created_at,
        }
    }
}
