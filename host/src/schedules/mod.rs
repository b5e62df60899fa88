//! Schedules: requests that are created again and again, at the times that a cron expression says.
//!
//! Flow: a person makes a schedule (`store`), whose cron expression and time zone (`timetable`) say
//! when it is due next. Every control plane looks for due ones once a second and fires them (`tick`):
//! the request is created, and the next time is written, in one transaction.
//!
//! Invariants:
//! - Whoever fires a tick, pauses or resumes holds the lock of the schedule's row. A tick's row is in
//!   the transaction that creates its request: no tick fires twice, whatever dies.
//! - Ticks that were missed are made up for by one, the latest; the next one is always ahead.
//! - A schedule that cannot create its request says why (`last_error`) and goes on; it stops no other.
//! - The database's clock says what is due.

mod error;
mod store;
#[cfg(test)]
mod tests;
pub(crate) mod tick;
mod timetable;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::ids::{RequestId, ScheduleId};
use crate::requests::{NewRequest, Requests};
use crate::tenancy::Actor;

pub use error::ScheduleError;
pub use store::MAX_SCHEDULES;
pub use timetable::Timetable;

/// Everything that members do with schedules.
#[derive(Clone, Debug)]
pub struct Schedules {
    requests: Requests,
}

impl Schedules {
    /// Of requests that are created by these.
    pub fn new(requests: Requests) -> Schedules {
        Schedules { requests }
    }
}

/// What becomes of a tick while the request of the one before is still open.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Overlap {
    /// It creates nothing.
    #[default]
    Skip,
    /// It creates another one.
    Allow,
    /// It cancels that one, and creates another.
    Replace,
}

impl Overlap {
    /// Every policy.
    pub const ALL: [Overlap; 3] = [Overlap::Skip, Overlap::Allow, Overlap::Replace];

    /// The word in the database, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Overlap::Skip => "skip",
            Overlap::Allow => "allow",
            Overlap::Replace => "replace",
        }
    }
}

/// UTC, where no time zone is given.
fn utc() -> String {
    "UTC".to_owned()
}

/// A schedule to make.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSchedule {
    /// Its name, unique in the organisation: lower-case letters, digits and `-`, at most 63.
    pub name: String,
    /// When, as a cron expression of five fields: minute, hour, day of the month, month, day of the
    /// week; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// The time zone of the IANA database whose clock on the wall the expression means, such as
    /// `Europe/Berlin`; `UTC` when absent.
    #[serde(default = "utc")]
    pub timezone: String,
    /// The request to create: without blockers, reply, delay or idempotency key.
    pub request: NewRequest,
    /// What becomes of a tick while the request of the one before is still open.
    #[serde(default)]
    pub overlap: Overlap,
}

/// A schedule as members of its organisation see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    /// Its id.
    pub id: ScheduleId,
    /// Its name, by which it is addressed.
    pub name: String,
    /// When, as a cron expression.
    pub cron: String,
    /// The time zone whose clock on the wall the expression means.
    pub timezone: String,
    /// The request that every tick creates.
    #[schema(value_type = NewRequest)]
    pub request: Value,
    /// What becomes of a tick while the request of the one before is still open.
    pub overlap: Overlap,
    /// Whether it creates nothing until it is resumed.
    pub paused: bool,
    /// The next tick; none while it is paused.
    pub next_at: Option<DateTime<Utc>>,
    /// The next three ticks.
    pub upcoming: Vec<DateTime<Utc>>,
    /// The last tick that fired, whatever came of it.
    pub last_tick: Option<DateTime<Utc>>,
    /// The last request that it created.
    pub last_request_id: Option<RequestId>,
    /// Why the last tick could not create a request; none if it could.
    pub last_error: Option<String>,
    /// Who made it.
    #[schema(value_type = Object)]
    pub created_by: Actor,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
