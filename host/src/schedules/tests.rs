//! Schedules on a real database. Time passes by moving what is due into the past.

use serde_json::{Value, json};

use super::tick::tick;
use super::*;
use crate::notify::Bell;
use crate::tenancy::Tenant;
use crate::testing::TestDatabase;

struct Fixture {
    database: TestDatabase,
    schedules: Schedules,
    requests: Requests,
    tenant: Tenant,
    ada: Actor,
    /// At which minute hourly schedules tick: half an hour from now, so that none does meanwhile.
    minute: u32,
}

impl Fixture {
    async fn new() -> Fixture {
        let database = TestDatabase::fresh().await;
        let tenant = database.org("acme").await;
        let ada = Actor::User { user: database.member(tenant, "member").await };
        let (id, org) = (uuid::Uuid::now_v7(), tenant.org());
        database
            .execute(format!(
                "INSERT INTO eve.skills (id, org_id, name, active_version)
                 VALUES ('{id}', '{org}', 'echo', '{id}');
                 INSERT INTO eve.skill_versions
                        (id, org_id, skill_id, version, sha256, size_bytes, wasm, imports,
                         capabilities, created_by)
                 VALUES ('{id}', '{org}', '{id}', '1', sha256('echo'), 1, '\\x00', '{{}}', '{{}}', '{{}}');
                 INSERT INTO eve.worker_types (id, name, default_skill)
                 VALUES ('reports', 'Reports', 'echo')"
            ))
            .await;
        let requests = Requests::new(database.db.clone(), Bell::start(database.db.pool().clone()));
        let schedules = Schedules::new(requests.clone());
        let minute = (chrono::Timelike::minute(&Utc::now()) + 30) % 60;
        Fixture { schedules, requests, database, tenant, ada, minute }
    }

    async fn create(&self, new: Value) -> Result<Schedule, ScheduleError> {
        let new = serde_json::from_value(new).unwrap();
        self.schedules.create(self.tenant, &self.ada, &new).await
    }

    /// Every hour, with an overlap policy.
    async fn hourly(&self, name: &str, overlap: &str) -> Schedule {
        let request = json!({ "worker_type": "reports", "prompt": name });
        let cron = format!("{} * * * *", self.minute);
        let new = json!({ "name": name, "cron": cron, "overlap": overlap, "request": request });
        self.create(new).await.unwrap()
    }

    async fn get(&self, name: &str) -> Schedule {
        self.schedules.get(self.tenant, name).await.unwrap()
    }

    /// Makes a schedule due as if nobody had looked for some hours.
    async fn hours_pass(&self, name: &str, hours: u32) {
        let minute = self.minute;
        self.database
            .execute(format!(
                "DELETE FROM eve.schedule_ticks
                  WHERE schedule_id = (SELECT id FROM eve.schedules WHERE name = '{name}');
                 UPDATE eve.schedules
                    SET next_at = date_trunc('hour', now() - make_interval(mins => {minute}))
                                  + make_interval(mins => {minute}, hours => -{hours})
                  WHERE name = '{name}' AND NOT paused"
            ))
            .await;
    }

    /// Fires everything that is due; returns how many ticks there were.
    async fn fire(&self) -> usize {
        let mut ticks = 0;
        while tick(&self.requests).await.unwrap().is_some() {
            ticks += 1;
        }
        ticks
    }

    /// The requests of a schedule, oldest first, with their statuses.
    async fn made(&self, name: &str) -> Vec<(RequestId, String)> {
        let rows: Vec<(uuid::Uuid, String)> = sqlx::query_as(
            "SELECT r.id, coalesce(q.status, x.status)
               FROM eve.requests r
               LEFT JOIN eve.queue q ON q.id = r.id
               LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
              WHERE r.schedule = $1
              ORDER BY r.id",
        )
        .bind(name)
        .fetch_all(self.database.db.pool())
        .await
        .unwrap();
        rows.into_iter().map(|(id, status)| (RequestId(id), status)).collect()
    }

    async fn statuses(&self, name: &str) -> Vec<String> {
        self.made(name).await.into_iter().map(|(_, status)| status).collect()
    }

    async fn outcomes(&self, name: &str) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT t.outcome FROM eve.schedule_ticks t JOIN eve.schedules s ON s.id = t.schedule_id
              WHERE s.name = $1 ORDER BY t.tick",
        )
        .bind(name)
        .fetch_all(self.database.db.pool())
        .await
        .unwrap()
    }
}

fn invalid(outcome: Result<Schedule, ScheduleError>) -> String {
    match outcome {
        Err(ScheduleError::Invalid { field, message }) => format!("{field}: {message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_schedule_is_made_shown_listed_and_deleted() {
    let fixture = Fixture::new().await;
    let made = fixture
        .create(json!({
            "name": "standup", "cron": " 0 9 * * 1-5 ", "timezone": "Europe/Berlin",
            "request": { "worker_type": "reports", "context": { "n": 1 } },
        }))
        .await
        .unwrap();
    assert_eq!((made.cron.as_str(), made.timezone.as_str()), ("0 9 * * 1-5", "Europe/Berlin"));
    assert_eq!((made.overlap, made.paused, made.created_by), (Overlap::Skip, false, fixture.ada));
    assert_eq!(made.request["context"], json!({ "n": 1 }));
    assert_eq!((made.upcoming.len(), made.next_at), (3, made.upcoming.first().copied()));
    assert!(made.upcoming.is_sorted() && made.last_tick.is_none());
    assert_eq!(fixture.fire().await, 0, "nothing is due yet");

    let request = json!({ "worker_type": "reports" });
    let same = json!({ "name": "standup", "cron": "@daily", "request": request });
    let again = fixture.create(same).await;
    assert!(matches!(again, Err(ScheduleError::Conflict(said)) if said.contains("`standup`")));
    fixture.hourly("other", "allow").await;
    let names = |list: Vec<Schedule>| -> Vec<String> {
        list.into_iter().map(|schedule| schedule.name).collect()
    };
    let list = fixture.schedules.list(fixture.tenant, None, 10).await.unwrap();
    assert_eq!(names(list), ["other", "standup"]);
    let newest = fixture.get("other").await.id;
    let list = fixture.schedules.list(fixture.tenant, Some(newest), 10).await.unwrap();
    assert_eq!(names(list), ["standup"]);

    let corp = fixture.database.org("corp").await;
    let gone = |outcome| matches!(outcome, Err(ScheduleError::NotFound(_)));
    assert!(gone(fixture.schedules.get(corp, "standup").await));
    assert!(gone(fixture.schedules.pause(corp, &fixture.ada, "standup").await));
    assert!(gone(fixture.schedules.resume(corp, &fixture.ada, "standup").await));
    assert!(fixture.schedules.delete(corp, &fixture.ada, "standup").await.is_err());
    assert!(gone(fixture.schedules.get(fixture.tenant, "no\0name").await));
    assert!(fixture.schedules.list(corp, None, 10).await.unwrap().is_empty());

    fixture.schedules.delete(fixture.tenant, &fixture.ada, "standup").await.unwrap();
    assert!(gone(fixture.schedules.get(fixture.tenant, "standup").await));
    let audited: Vec<String> =
        sqlx::query_scalar("SELECT action FROM eve.audit_log WHERE target = 'standup' ORDER BY id")
            .fetch_all(fixture.database.db.pool())
            .await
            .unwrap();
    assert_eq!(audited, ["schedule.create", "schedule.delete"]);
}

#[tokio::test]
async fn what_cannot_be_scheduled_is_refused() {
    let fixture = Fixture::new().await;
    for (field, value, said) in [
        ("name", json!("No Name"), "is not a name"),
        ("cron", json!("0 9 * *"), "has 4 of five fields"),
        ("cron", json!("0 0 30 2 *"), "never comes"),
        ("timezone", json!("Berlin"), "did you mean `Europe/Berlin`?"),
        (
            "request",
            json!({ "worker_type": "nope" }),
            "request.worker_type: there is no worker type",
        ),
        (
            "request",
            json!({ "worker_type": "reports", "skill": "nope" }),
            "request.skill: there is no",
        ),
        ("request", json!({ "worker_type": "reports", "priority": 101 }), "request.priority"),
        ("request", json!({ "worker_type": "reports", "delay_ms": 1 }), "request.delay_ms"),
        ("request", json!({ "worker_type": "reports", "detached": true }), "request.detached"),
        (
            "request",
            json!({ "worker_type": "reports", "idempotency_key": "k" }),
            "one request only",
        ),
        (
            "request",
            json!({ "worker_type": "reports", "blocked_by": [RequestId::generate()] }),
            "request.blocked_by",
        ),
        (
            "request",
            json!({ "worker_type": "reports", "reply_to": { "type": "orchestrator" } }),
            "request.reply_to",
        ),
    ] {
        let mut new = json!({
            "name": "x", "cron": "@daily", "request": { "worker_type": "reports" },
        });
        new[field] = value;
        let problem = invalid(fixture.create(new).await);
        assert!(problem.starts_with(field) && problem.contains(said), "{problem}");
    }
    assert!(fixture.schedules.list(fixture.tenant, None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn hours_of_downtime_are_made_up_for_by_one_request() {
    let fixture = Fixture::new().await;
    fixture.hourly("report", "skip").await;
    fixture.hours_pass("report", 7).await;
    assert_eq!(fixture.fire().await, 1);
    let made = fixture.made("report").await;
    let schedule = fixture.get("report").await;
    assert_eq!((made.len(), schedule.last_request_id), (1, Some(made[0].0)));
    let (last, next) = (schedule.last_tick.unwrap(), schedule.next_at.unwrap());
    assert_eq!(next - last, chrono::TimeDelta::hours(1), "the latest one that was missed");
    let ahead: bool = sqlx::query_scalar("SELECT $1 > now()")
        .bind(next)
        .fetch_one(fixture.database.db.pool())
        .await
        .unwrap();
    assert!(ahead);
    assert_eq!(fixture.outcomes("report").await, ["created"]);

    let request = fixture.requests.get(fixture.tenant, made[0].0).await.unwrap();
    assert_eq!((request.prompt.as_str(), request.worker_type.as_str()), ("report", "reports"));
    assert_eq!(request.user_id, fixture.ada.user());
    let creator: Value = sqlx::query_scalar("SELECT created_by FROM eve.requests WHERE id = $1")
        .bind(made[0].0.0)
        .fetch_one(fixture.database.db.pool())
        .await
        .unwrap();
    assert_eq!(
        creator,
        json!({ "via": "schedule", "schedule": schedule.id, "user": fixture.ada.user() })
    );
}

#[tokio::test]
async fn several_tickers_fire_each_schedule_once() {
    let fixture = Fixture::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    for name in &names {
        fixture.hourly(name, "allow").await;
        fixture.hours_pass(name, 2).await;
    }
    let fired: (usize, usize, usize) = tokio::join!(fixture.fire(), fixture.fire(), fixture.fire());
    assert_eq!(fired.0 + fired.1 + fired.2, names.len());
    for name in &names {
        assert_eq!(fixture.made(name).await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_tick_never_fires_twice() {
    let fixture = Fixture::new().await;
    fixture.hourly("report", "allow").await;
    fixture.hours_pass("report", 0).await;
    // Somebody who dies in the middle of it has done nothing.
    let mut dying = fixture.database.db.begin(crate::db::Scope::Engine).await.unwrap();
    sqlx::query("SELECT id FROM eve.schedules FOR NO KEY UPDATE")
        .execute(&mut *dying)
        .await
        .unwrap();
    assert_eq!(fixture.fire().await, 0, "somebody else is at it");
    // Awaited, because a dropped transaction is rolled back at some later time.
    dying.rollback().await.unwrap();
    assert_eq!(fixture.fire().await, 1);
    // The clock goes back.
    fixture.database.execute("UPDATE eve.schedules SET next_at = last_tick".into()).await;
    assert_eq!(fixture.fire().await, 1);
    assert_eq!(fixture.made("report").await.len(), 1);
    assert_eq!(fixture.outcomes("report").await, ["created"]);
    assert!(fixture.get("report").await.next_at > fixture.get("report").await.last_tick);
}

#[tokio::test]
async fn overlap_is_skipped_allowed_or_replaced() {
    let fixture = Fixture::new().await;
    for policy in ["skip", "allow", "replace"] {
        fixture.hourly(policy, policy).await;
        fixture.hours_pass(policy, 0).await;
    }
    assert_eq!(fixture.fire().await, 3);
    let first = fixture.made("skip").await[0].0;
    for policy in ["skip", "allow", "replace"] {
        assert_eq!(fixture.statuses(policy).await, ["pending"]);
        fixture.hours_pass(policy, 0).await;
    }
    assert_eq!(fixture.fire().await, 3);
    assert_eq!(fixture.statuses("skip").await, ["pending"]);
    assert_eq!(fixture.outcomes("skip").await, ["skipped"]);
    let skipped = fixture.get("skip").await;
    assert_eq!((skipped.last_request_id, skipped.last_error), (Some(first), None));
    assert_eq!(fixture.statuses("allow").await, ["pending", "pending"]);
    assert_eq!(fixture.statuses("replace").await, ["cancelled", "pending"]);
    let replaced = fixture.made("replace").await[0].0;
    let result = fixture.requests.result(fixture.tenant, replaced).await.unwrap();
    let message = result.error.unwrap().message;
    assert!(message.contains("the schedule `replace` was due again"), "{message}");

    // Once the first has ended, there is nothing to skip.
    fixture.requests.cancel(fixture.tenant, &fixture.ada, first, None).await.unwrap();
    fixture.hours_pass("skip", 0).await;
    assert_eq!(fixture.fire().await, 1);
    assert_eq!(fixture.statuses("skip").await, ["cancelled", "pending"]);
}

#[tokio::test]
async fn a_paused_schedule_waits_and_makes_nothing_up() {
    let fixture = Fixture::new().await;
    fixture.hourly("report", "allow").await;
    let pause = async || fixture.schedules.pause(fixture.tenant, &fixture.ada, "report").await;
    let resume = async || fixture.schedules.resume(fixture.tenant, &fixture.ada, "report").await;
    fixture.hours_pass("report", 3).await;
    let paused = pause().await.unwrap();
    assert!(paused.paused && paused.next_at.is_none() && paused.upcoming.is_empty());
    assert!(pause().await.unwrap().paused);
    fixture.hours_pass("report", 3).await;
    assert_eq!(fixture.fire().await, 0);
    let resumed = resume().await.unwrap();
    assert!(!resumed.paused && resumed.upcoming.len() == 3);
    assert_eq!(fixture.fire().await, 0, "what was missed is gone");
    assert!(fixture.made("report").await.is_empty());
    assert_eq!(resume().await.unwrap().next_at, resumed.next_at);
    fixture.hours_pass("report", 0).await;
    assert_eq!(fixture.fire().await, 1);
    let audited: Vec<String> =
        sqlx::query_scalar("SELECT action FROM eve.audit_log WHERE target = 'report' ORDER BY id")
            .fetch_all(fixture.database.db.pool())
            .await
            .unwrap();
    assert_eq!(audited, ["schedule.create", "schedule.pause", "schedule.resume"]);
}

#[tokio::test]
async fn one_in_trouble_says_why_and_holds_up_nobody() {
    let fixture = Fixture::new().await;
    for name in ["gone", "refused", "unreadable", "clockless", "fine"] {
        fixture.hourly(name, "skip").await;
    }
    fixture
        .database
        .execute(
            r#"UPDATE eve.schedules SET template = '{"worker_type": "nope"}' WHERE name = 'gone';
               UPDATE eve.schedules SET template = '{"worker_type": "reports", "priority": 3000}'
                WHERE name = 'refused';
               UPDATE eve.schedules SET template = '{"worker": "reports"}' WHERE name = 'unreadable';
               UPDATE eve.schedules SET timezone = 'Atlantis/Capital' WHERE name = 'clockless'"#
                .into(),
        )
        .await;
    for name in ["gone", "refused", "unreadable", "clockless", "fine"] {
        fixture.hours_pass(name, 1).await;
    }
    assert_eq!(fixture.fire().await, 5);
    assert_eq!(fixture.statuses("fine").await, ["pending"]);
    for (name, said) in [
        ("gone", "request.worker_type: there is no worker type `nope`"),
        ("refused", "inserting requests failed"),
        ("unreadable", "unknown field `worker`"),
        ("clockless", "timezone: "),
    ] {
        let schedule = fixture.get(name).await;
        let error = schedule.last_error.unwrap_or_default();
        assert!(error.contains(said), "{name}: {error}");
        assert_eq!(fixture.outcomes(name).await, ["failed"]);
        assert!(fixture.made(name).await.is_empty());
        // They go on, but for the one whose next time nobody can tell.
        assert_eq!(schedule.next_at.is_some(), name != "clockless");
    }
    // Once it is mended, it says so no more.
    fixture
        .database
        .execute(
            r#"UPDATE eve.schedules SET template = '{"worker_type": "reports"}' WHERE name = 'gone'"#
                .into(),
        )
        .await;
    fixture.hours_pass("gone", 0).await;
    assert_eq!(fixture.fire().await, 1);
    assert_eq!(fixture.get("gone").await.last_error, None);
}
