//! The real thing, driven through the functions that workers, people and duties use.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::facts::{Fact, Fate, Id, QuestionNo, Source};
use super::model::RunNo;
use super::operations::{Action, Effects, How, New, Path, Reply, Report, WORKERS};
use crate::db::{Db, Scope};
use crate::delivery::claim::{Appetite, Claimed, Cursor};
use crate::delivery::finish::{self, Finished, Outcome};
use crate::delivery::lease::{self, Rescuer};
use crate::hitl::{self, NewQuestion, Questions};
use crate::ids::{QuestionId, RequestId, WorkerId};
use crate::notify::Bell;
use crate::requests::{
    Blocker, BlockerRef, FailureCode, NewRequest, Origin, ReplyTo, RequestError, Requests,
};
use crate::runtime::Effects as RunEffects;
use crate::scheduler::{self, Leadership};
use crate::tenancy::{Actor, OrgRole, Tenant};
use crate::testing::TestDatabase;

/// Long enough never to pass by itself.
const LATER: Duration = Duration::from_secs(3600);
/// Who does the duties.
const LEADER: Uuid = Uuid::from_u128(1);
/// The pool that everything is for.
const POOL: &str = "general";

/// What came of an action.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused,
    /// What a claim was given.
    Claimed(Vec<Id>),
    /// The places of the reports in the order in which they were written; together which were.
    Written(Vec<Vec<usize>>),
}

/// The pool's default skill, so that requests can be created.
pub async fn furnish(database: &TestDatabase) {
    database
        .execute(
            "WITH skill AS (
                 INSERT INTO eve.skills (id, org_id, name, active_version)
                 VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'echo',
                         gen_random_uuid())
                 RETURNING id, org_id, active_version)
             INSERT INTO eve.skill_versions
                    (id, org_id, skill_id, version, sha256, size_bytes, wasm, imports, capabilities,
                     created_by)
             SELECT active_version, org_id, id, '1', sha256(''), 1, '', '{}', '{}', '{}' FROM skill"
                .into(),
        )
        .await;
}

/// A request that any worker of the pool could run.
pub fn plain_request() -> NewRequest {
    serde_json::from_value(json!({ "worker_type": POOL })).expect("a request")
}

/// A run that ended so, with what it asked for.
pub fn finished(run: Claimed, outcome: Outcome, effects: RunEffects) -> Finished {
    Finished {
        run,
        outcome,
        effects,
        log: Vec::new(),
        log_dropped: 0,
        wall: Duration::from_millis(1),
        cpu: Duration::from_millis(1),
        memory_peak: 1,
    }
}

/// An outcome of this kind.
pub fn outcome(how: How) -> Outcome {
    let failed = |retryable| Outcome::Failed {
        code: FailureCode::Failed,
        message: "it was meant to".into(),
        retryable,
    };
    match how {
        How::Completed => {
            Outcome::Completed { summary: "done".into(), data: None, tokens_used: None, cost: None }
        }
        How::Failed => failed(false),
        How::Again => failed(true),
        How::Waiting => Outcome::Waiting { deadline: None },
    }
}

/// One organisation's queue in the database, and the names that the model has for what is in it.
pub struct Machine<'a> {
    db: &'a Db,
    tenant: Tenant,
    requests: Requests,
    questions: Questions,
    bell: Bell,
    workers: Vec<WorkerId>,
    /// By [`RunNo`].
    runs: Vec<Claimed>,
    names: HashMap<Uuid, Id>,
    ids: HashMap<Id, Uuid>,
    question_names: HashMap<Uuid, QuestionNo>,
    question_ids: HashMap<QuestionNo, Uuid>,
}

impl<'a> Machine<'a> {
    /// An organisation of its own, on a queue that nobody else uses.
    pub async fn fresh(database: &'a TestDatabase, bell: &Bell) -> Machine<'a> {
        // Claims and duties look at every organisation: what earlier cases have left would be in the way.
        database
            .execute(
                "DELETE FROM eve.queue; DELETE FROM eve.timers; DELETE FROM eve.hitl_requests;
                 DELETE FROM eve.dependencies; DELETE FROM eve.requests; DELETE FROM eve.inbox;
                 DELETE FROM eve.orchestration_results; DELETE FROM eve.attempts"
                    .into(),
            )
            .await;
        let tenant = database.org(&format!("case-{}", Uuid::new_v4().simple())).await;
        Machine {
            db: &database.db,
            tenant,
            requests: Requests::new(database.db.clone(), bell.clone()),
            questions: Questions::new(database.db.clone(), bell.clone()),
            bell: bell.clone(),
            workers: (0..WORKERS).map(|_| WorkerId(Uuid::new_v4())).collect(),
            runs: Vec::new(),
            names: HashMap::new(),
            ids: HashMap::new(),
            question_names: HashMap::new(),
            question_ids: HashMap::new(),
        }
    }

    fn name(&mut self, id: Id, uuid: Uuid) {
        self.names.insert(uuid, id);
        self.ids.insert(id, uuid);
    }

    fn request_id(&self, id: Id) -> RequestId {
        RequestId(self.ids[&id])
    }

    /// Does it. What Postgres says no to is an error.
    pub async fn act(&mut self, action: &Action) -> Result<Answer, sqlx::Error> {
        // Transactions that came to nothing are rolled back after their callers have gone on. What they
        // still lock would be skipped, rightly, by a claim: here it is waited for.
        sqlx::query("SELECT FROM eve.queue FOR NO KEY UPDATE").execute(self.db.pool()).await?;
        Ok(match action {
            Action::Create(batch) => return self.create(batch).await,
            Action::Claim { worker, batch, suspect } => {
                return self.claim(*worker, *batch, *suspect).await;
            }
            Action::Finish { worker, reports, path } => {
                return self.finish(*worker, reports, *path).await;
            }
            Action::Cancel(id) => {
                let id = self.request_id(*id);
                let done = self.requests.cancel(self.tenant, &Actor::Platform, id, None).await;
                answer(done)?
            }
            Action::Retry(id) => {
                let id = self.request_id(*id);
                answer(self.requests.retry(self.tenant, &Actor::Platform, id).await)?
            }
            Action::Rescue { worker } => {
                let mut rescuer = Rescuer::default();
                loop {
                    let mut tx = self.db.begin(Scope::Engine).await?;
                    let more = rescuer.rescue(&mut tx, self.workers[*worker]).await?;
                    tx.commit().await?;
                    if more.is_none() {
                        break Answer::Done;
                    }
                }
            }
            Action::GiveBack { worker, runs } => {
                let leases = |started: bool| -> Vec<(Uuid, i64)> {
                    let runs = runs.iter().filter(|(_, of)| *of == started);
                    runs.map(|(run, _)| (self.runs[run.0].id.0, self.runs[run.0].lease)).collect()
                };
                let worker = self.workers[*worker];
                lease::give_back(self.db, worker, &leases(false), &leases(true)).await?;
                Answer::Done
            }
            Action::Promote(due) => {
                // What is backing off, for a second or so, must not come back by itself.
                self.run(
                    "UPDATE eve.queue SET run_at = now() + interval '1 hour'
                      WHERE status = 'scheduled' AND id <> ALL ($1)",
                    due,
                )
                .await?;
                self.run("UPDATE eve.queue SET run_at = now() WHERE id = ANY ($1)", due).await?;
                scheduler::promote(self.db).await?;
                Answer::Done
            }
            Action::ExpireHeld(edges) => {
                for (blocker, dependent) in edges {
                    sqlx::query(
                        "UPDATE eve.dependencies SET held_until = now()
                          WHERE blocker_id = $1 AND dependent_id = $2",
                    )
                    .bind(self.ids[blocker])
                    .bind(self.ids[dependent])
                    .execute(self.db.pool())
                    .await?;
                }
                scheduler::expire_held(self.db, &self.bell, self.lead().await?).await?;
                Answer::Done
            }
            Action::Answer(question) => {
                let id = QuestionId(self.question_ids[question]);
                let actor = Actor::Platform;
                match self
                    .questions
                    .respond(self.tenant, &actor, OrgRole::Member, id, &json!("yes"))
                    .await
                {
                    Ok(_) => Answer::Done,
                    Err(hitl::HitlError::Conflict(_)) => Answer::Refused,
                    Err(hitl::HitlError::Database { source, .. }) => return Err(source),
                    Err(other) => return Err(sqlx::Error::Protocol(other.to_string())),
                }
            }
            Action::ExpireQuestions(due) => {
                let due: Vec<Uuid> = due.iter().map(|no| self.question_ids[no]).collect();
                sqlx::query("UPDATE eve.hitl_requests SET expires_at = now() WHERE id = ANY ($1)")
                    .bind(&due)
                    .execute(self.db.pool())
                    .await?;
                loop {
                    let mut tx = self.db.begin(Scope::Engine).await?;
                    let more = hitl::expire::expire(&mut tx, 100).await?;
                    tx.commit().await?;
                    if more.is_none() {
                        break Answer::Done;
                    }
                }
            }
            Action::Fire(timers) => {
                for (of, name) in timers {
                    sqlx::query(
                        "UPDATE eve.timers SET due_at = now()
                          WHERE orchestration_id = $1 AND name = $2",
                    )
                    .bind(self.ids[of])
                    .bind(name)
                    .execute(self.db.pool())
                    .await?;
                }
                scheduler::waits::fire_timers(self.db).await?;
                Answer::Done
            }
            Action::Overdue(due) => {
                self.run("UPDATE eve.queue SET wait_until = now() WHERE id = ANY ($1)", due)
                    .await?;
                scheduler::expire_waits(self.db, &self.bell, self.lead().await?).await?;
                Answer::Done
            }
        })
    }

    /// The leadership under which duties are done.
    async fn lead(&self) -> Result<Leadership, sqlx::Error> {
        let term = scheduler::lead(self.db, scheduler::DUTIES, LEADER).await?;
        term.ok_or_else(|| sqlx::Error::Protocol("somebody else leads".into()))
    }

    /// A statement about some requests.
    async fn run(&self, sql: &'static str, ids: &[Id]) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = ids.iter().map(|id| self.ids[id]).collect();
        sqlx::query(sql).bind(&ids).execute(self.db.pool()).await?;
        Ok(())
    }

    fn new_request(&self, new: &New, blocker: impl Fn(Id) -> BlockerRef) -> NewRequest {
        NewRequest {
            blocked_by: new
                .blockers
                .iter()
                .map(|(id, on_failure)| Blocker { on: blocker(*id), on_failure: *on_failure })
                .collect(),
            delay_ms: new.delayed.then_some(LATER.as_millis() as u64),
            priority: new.priority,
            max_attempts: Some(new.max_attempts as u16),
            reply_to: match new.reply {
                Reply::Nobody => None,
                Reply::OwnRun => Some(ReplyTo::Orchestrator { request_id: None }),
                Reply::To(id) => {
                    Some(ReplyTo::Orchestrator { request_id: Some(self.request_id(id)) })
                }
            },
            detached: new.detached,
            ..plain_request()
        }
    }

    async fn create(&mut self, batch: &[New]) -> Result<Answer, sqlx::Error> {
        let places: HashMap<Id, usize> =
            batch.iter().enumerate().map(|(place, new)| (new.id, place)).collect();
        let blocker = |id: Id| match places.get(&id) {
            Some(place) => BlockerRef::Entry(*place),
            None => BlockerRef::Id(self.request_id(id)),
        };
        let wanted = batch.iter().map(|new| self.new_request(new, blocker)).collect();
        let origin = Origin { actor: Actor::Platform, schedule: None };
        match self.requests.create(self.tenant, &origin, wanted, None).await {
            Ok(created) => {
                for (new, created) in batch.iter().zip(created.requests) {
                    self.name(new.id, created.id.0);
                }
                Ok(Answer::Done)
            }
            Err(error) => refused(error),
        }
    }

    async fn claim(
        &mut self,
        worker: usize,
        batch: usize,
        suspect: bool,
    ) -> Result<Answer, sqlx::Error> {
        let appetite =
            Appetite { batch, org_cap: 1_000, held: HashMap::new(), last_slot: false, suspect };
        let mut tx = self.db.begin(Scope::Engine).await?;
        let mut cursor = Cursor::new(self.workers[worker], POOL.into());
        let claimed = cursor.claim(&mut tx, &appetite).await?;
        tx.commit().await?;
        let ids = claimed.iter().map(|run| self.names[&run.id.0]).collect();
        self.runs.extend(claimed);
        Ok(Answer::Claimed(ids))
    }

    async fn finish(
        &mut self,
        worker: usize,
        reports: &[Report],
        path: Path,
    ) -> Result<Answer, sqlx::Error> {
        let worker = self.workers[worker];
        let batch: Vec<Finished> = reports.iter().map(|report| self.finished(report)).collect();
        let mut order: Vec<Vec<usize>> = Vec::new();
        let mut left: Vec<usize> = (0..batch.len()).collect();
        if path == Path::Worker {
            let mut tx = self.db.begin(Scope::Engine).await?;
            left = finish::plain(&mut tx, worker, &batch).await?;
            tx.commit().await?;
            order.extend((0..batch.len()).filter(|n| !left.contains(n)).map(|n| vec![n]));
        }
        if path != Path::Alone {
            let simple: Vec<usize> =
                left.iter().copied().filter(|n| batch[*n].is_simple()).collect();
            let runs: Vec<Finished> = simple.iter().map(|n| batch[*n].clone()).collect();
            let written = finish::batch_with_graph(self.db, worker, &runs).await?;
            let done = simple.iter().zip(written).filter(|(_, written)| written.is_some());
            let done: Vec<usize> = done.map(|(place, _)| *place).collect();
            left.retain(|place| !done.contains(place));
            order.push(done);
        }
        for place in left {
            finish::with_graph(self.db, worker, &batch[place]).await?;
            order.push(vec![place]);
        }
        Ok(Answer::Written(order))
    }

    fn finished(&mut self, report: &Report) -> Finished {
        let Effects { creates, cancels, questions, timers } = &report.effects;
        for new in creates {
            self.name(new.id, RequestId::generate().0);
        }
        for no in questions {
            let id = QuestionId::generate().0;
            self.question_names.insert(id, *no);
            self.question_ids.insert(*no, id);
        }
        let blocker = |id: Id| BlockerRef::Id(self.request_id(id));
        let effects = RunEffects {
            creates: creates
                .iter()
                .map(|new| (self.request_id(new.id), self.new_request(new, blocker)))
                .collect(),
            cancels: cancels.iter().map(|id| (self.request_id(*id), None)).collect(),
            questions: questions
                .iter()
                .map(|no| (QuestionId(self.question_ids[no]), question()))
                .collect(),
            timers: timers.iter().map(|name| (name.clone(), LATER)).collect(),
            orders: Vec::new(),
        };
        finished(self.runs[report.run.0].clone(), outcome(report.how), effects)
    }

    /// Wake-ups that the database has and nobody has named yet, with their orchestrations.
    pub async fn unnamed(&self) -> Result<Vec<(Uuid, Id)>, sqlx::Error> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT id, orchestration_id FROM eve.requests
              WHERE org_id = $1 AND id <> orchestration_id
              ORDER BY id",
        )
        .bind(self.tenant.org().0)
        .fetch_all(self.db.pool())
        .await?;
        let rows = rows.into_iter().filter(|(id, _)| !self.names.contains_key(id));
        Ok(rows.map(|(id, of)| (id, self.names[&of])).collect())
    }

    /// Gives a wake-up the model's name for it.
    pub fn recognise(&mut self, uuid: Uuid, id: Id) {
        self.name(id, uuid);
    }

    pub fn is_named(&self, id: Id) -> bool {
        self.ids.contains_key(&id)
    }

    /// How many runs were claimed.
    pub fn claims(&self) -> usize {
        self.runs.len()
    }

    /// What a wake-up was told when it was claimed.
    pub fn told(&self, run: RunNo) -> Option<usize> {
        self.runs[run.0].wake.as_ref().map(|wake| wake.events.len())
    }

    /// Everything that the database says.
    pub async fn facts(&self) -> Result<Vec<Fact>, sqlx::Error> {
        let org = self.tenant.org().0;
        let pool = self.db.pool();
        let mut facts = Vec::new();

        type Asked = (Uuid, Option<Uuid>, Option<i32>, Uuid, Uuid);
        let rows: Vec<Asked> = sqlx::query_as(
            "SELECT id, parent_request_id, parent_generation, root_request_id, orchestration_id
               FROM eve.requests WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(|(id, parent, generation, root, orchestration)| {
            Fact::Asked {
                id: self.names[&id],
                parent: parent.map(|parent| (self.names[&parent], generation)),
                root: self.names[&root],
                orchestration: self.names[&orchestration],
            }
        }));

        #[derive(sqlx::FromRow)]
        struct Queued {
            id: Uuid,
            status: String,
            generation: i32,
            attempt: i16,
            rescues: i16,
            drains: i16,
            open_blockers: i32,
            delayed: bool,
            reply_to: Option<Uuid>,
            wakes: Option<Uuid>,
        }
        let rows: Vec<Queued> = sqlx::query_as(
            "SELECT id, status, generation, attempt, rescues, drains, open_blockers,
                    status = 'scheduled' OR coalesce(run_at > now(), false) AS delayed, reply_to, wakes
               FROM eve.queue WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(|row| Fact::Open {
            id: self.names[&row.id],
            status: row.status,
            generation: row.generation,
            attempt: row.attempt,
            rescues: row.rescues,
            drains: row.drains,
            open_blockers: row.open_blockers,
            delayed: row.delayed,
            reply_to: row.reply_to.map(|id| self.names[&id]),
            wakes: row.wakes.map(|id| self.names[&id]),
        }));

        type Ended = (Uuid, String, i32, i16, Option<String>, Option<Uuid>, Option<i32>);
        let rows: Vec<Ended> = sqlx::query_as(
            "SELECT request_id, status, generation, attempt, error_code, cancelled_by,
                    cancelled_by_generation
               FROM eve.orchestration_results WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(
            |(id, status, generation, attempt, code, cause, cause_generation)| Fact::Ended {
                id: self.names[&id],
                status,
                generation,
                attempt,
                code,
                cancelled_by: cause.map(|id| self.names[&id]).zip(cause_generation),
            },
        ));

        let rows: Vec<(Uuid, Uuid, String, String)> = sqlx::query_as(
            "SELECT blocker_id, dependent_id, on_failure, state
               FROM eve.dependencies WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(|(blocker, dependent, on_failure, state)| Fact::Edge {
            blocker: self.names[&blocker],
            dependent: self.names[&dependent],
            on_failure,
            state,
        }));

        type Letter = (Uuid, String, Uuid, i32, Option<String>, Option<Uuid>, bool);
        let rows: Vec<Letter> = sqlx::query_as(
            "SELECT orchestration_id, source_kind, source_id, generation, payload ->> 'name', wakeup_id,
                    discarded IS NOT NULL
               FROM eve.inbox WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(
            |(to, kind, source, generation, name, wakeup, discarded)| Fact::Letter {
                to: self.names[&to],
                source: match kind.as_str() {
                    "child" => Source::Child(self.names[&source]),
                    "answer" => Source::Answer(self.question_names[&source]),
                    _ => Source::Timer(name.unwrap_or_default()),
                },
                generation,
                fate: match (wakeup, discarded) {
                    (Some(wakeup), _) => Fate::ReadBy(self.names[&wakeup]),
                    (None, true) => Fate::Discarded,
                    (None, false) => Fate::Unread,
                },
            },
        ));

        let rows: Vec<(Uuid, Option<Uuid>, String)> = sqlx::query_as(
            "SELECT id, request_id, status FROM eve.hitl_requests WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(|(id, of, status)| Fact::Question {
            question: self.question_names[&id],
            of: of.map(|of| self.names[&of]),
            status,
        }));

        let rows: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT orchestration_id, name FROM eve.timers WHERE org_id = $1")
                .bind(org)
                .fetch_all(pool)
                .await?;
        facts.extend(rows.into_iter().map(|(of, name)| Fact::Timer { of: self.names[&of], name }));

        let rows: Vec<(Uuid, i32, i16, String)> = sqlx::query_as(
            "SELECT request_id, generation, attempt, kind FROM eve.attempts WHERE org_id = $1",
        )
        .bind(org)
        .fetch_all(pool)
        .await?;
        facts.extend(rows.into_iter().map(|(id, generation, attempt, kind)| Fact::Attempt {
            id: self.names[&id],
            generation,
            attempt,
            kind,
        }));
        facts.sort();
        Ok(facts)
    }
}

/// A question that anything answers.
pub fn question() -> NewQuestion {
    NewQuestion {
        question: "Shall we?".into(),
        options: Vec::new(),
        details: json!({}),
        expires_in_ms: None,
    }
}

fn answer<T>(done: Result<T, RequestError>) -> Result<Answer, sqlx::Error> {
    match done {
        Ok(_) => Ok(Answer::Done),
        Err(error) => refused(error),
    }
}

fn refused(error: RequestError) -> Result<Answer, sqlx::Error> {
    match error {
        RequestError::Conflict(_) => Ok(Answer::Refused),
        RequestError::Database { source, .. } => Err(source),
        other => Err(sqlx::Error::Protocol(other.to_string())),
    }
}
