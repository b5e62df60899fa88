//! Questions on a real database, and the orchestrations that they wake.

use serde_json::{Value, json};
use uuid::Uuid;

use super::expire::expire;
use super::*;
use crate::db::Scope;
use crate::ids::UserId;
use crate::tenancy::{OrgRole, Tenant};
use crate::testing::TestDatabase;

struct Fixture {
    database: TestDatabase,
    questions: Questions,
    tenant: Tenant,
    ada: Actor,
}

impl Fixture {
    async fn new() -> Fixture {
        let database = TestDatabase::fresh().await;
        let tenant = database.org("acme").await;
        let ada = Actor::User { user: database.member(tenant, "member").await };
        let bell = Bell::start(database.db.pool().clone());
        Fixture { questions: Questions::new(database.db.clone(), bell), database, tenant, ada }
    }

    /// A request with this status; `waiting` if it is an orchestration.
    async fn request(&self, status: &str) -> RequestId {
        let (id, org) = (RequestId::generate(), self.tenant.org());
        let waiting = status == "waiting";
        let until = if waiting { "now() + interval '1 hour'" } else { "NULL" };
        self.database
            .execute(format!(
                "INSERT INTO eve.requests
                        (id, org_id, worker_type, root_request_id, orchestration_id, created_by)
                 VALUES ('{id}', '{org}', 'general', '{id}', '{id}', '{{}}');
                 INSERT INTO eve.queue (id, org_id, worker_type, status, priority, orchestrates, wait_until)
                 VALUES ('{id}', '{org}', 'general', '{status}', 0, {waiting}, {until})"
            ))
            .await;
        id
    }

    async fn ask(&self, new: Value, request: Option<RequestId>) -> Result<Question, HitlError> {
        let new = serde_json::from_value(new).unwrap();
        self.questions.ask(self.tenant, &self.ada, new, request).await
    }

    async fn respond(&self, id: QuestionId, response: Value) -> Result<Question, HitlError> {
        self.questions.respond(self.tenant, &self.ada, OrgRole::Member, id, &response).await
    }

    /// Lets a question's time run out.
    async fn overdue(&self, id: QuestionId) {
        self.database
            .execute(format!(
                "UPDATE eve.hitl_requests SET expires_at = now() - interval '1 second' WHERE id = '{id}'"
            ))
            .await;
    }

    /// The duty, as whoever leads does it: how many rounds found something.
    async fn expire_all(&self, limit: i64) -> usize {
        let mut rounds = 0;
        loop {
            let mut tx = self.database.db.begin(Scope::Engine).await.unwrap();
            if expire(&mut tx, limit).await.unwrap().is_none() {
                return rounds;
            }
            tx.commit().await.unwrap();
            rounds += 1;
        }
    }

    /// What an orchestration was told: source and payload, oldest first.
    async fn inbox(&self, orchestration: RequestId) -> Vec<(Uuid, Value)> {
        sqlx::query_as(
            "SELECT source_id, payload FROM eve.inbox
              WHERE orchestration_id = $1 AND source_kind = 'answer' AND discarded IS NULL
              ORDER BY created_at",
        )
        .bind(orchestration.0)
        .fetch_all(self.database.db.pool())
        .await
        .unwrap()
    }

    async fn wake_ups(&self, orchestration: RequestId) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM eve.queue WHERE wakes = $1 AND status = 'pending'")
            .bind(orchestration.0)
            .fetch_one(self.database.db.pool())
            .await
            .unwrap()
    }

    fn user(&self) -> UserId {
        self.ada.user().unwrap()
    }
}

fn conflict(outcome: Result<Question, HitlError>) -> String {
    match outcome {
        Err(HitlError::Conflict(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn invalid(outcome: Result<Question, HitlError>) -> String {
    match outcome {
        Err(HitlError::Invalid { field, message }) => format!("{field}: {message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_question_is_answered_once() {
    let fixture = Fixture::new().await;
    let asked = json!({ "question": "Promote?", "options": ["yes", "no"], "details": {"n": 1} });
    let question = fixture.ask(asked, None).await.unwrap();
    assert_eq!((question.status, question.request_id), (QuestionStatus::Open, None));
    assert_eq!(question.options, ["yes", "no"]);
    let lives = question.expires_at - question.created_at;
    assert_eq!(lives.num_minutes(), 24 * 60);

    for wrong in [json!("maybe"), json!("Yes"), json!(true), json!(["yes"]), Value::Null] {
        let said = invalid(fixture.respond(question.id, wrong).await);
        assert!(said.starts_with("response: ") && said.contains("`yes`, `no`"), "{said}");
    }
    let answered = fixture.respond(question.id, json!("yes")).await.unwrap();
    assert_eq!(answered.status, QuestionStatus::Answered);
    assert_eq!(answered.response, Some(json!("yes")));
    assert_eq!(answered.responded_by, Some(fixture.ada));
    assert!(answered.ended_at.is_some());
    let again = conflict(fixture.respond(question.id, json!("no")).await);
    assert!(again.contains("was answered at"), "{again}");
    assert!(again.ends_with(&format!(", by {}", who(&fixture.ada))), "{again}");
    let shown = fixture.questions.get(fixture.tenant, question.id).await.unwrap();
    assert_eq!(shown.response, Some(json!("yes")));

    let audited: Vec<String> =
        sqlx::query_scalar("SELECT action FROM eve.audit_log WHERE target = $1 ORDER BY id")
            .bind(question.id.to_string())
            .fetch_all(fixture.database.db.pool())
            .await
            .unwrap();
    assert_eq!(audited, ["hitl.ask", "hitl.respond"]);
}

#[tokio::test]
async fn without_options_any_json_is_an_answer() {
    let fixture = Fixture::new().await;
    for response in [json!("words"), json!(3.5), json!({"a": [null]}), json!(false)] {
        let question = fixture.ask(json!({ "question": "Which?" }), None).await.unwrap();
        let answered = fixture.respond(question.id, response.clone()).await.unwrap();
        assert_eq!(answered.response, Some(response));
    }
    let question = fixture.ask(json!({ "question": "Which?" }), None).await.unwrap();
    for (wrong, said) in [
        (Value::Null, "must not be null"),
        (json!("a\0"), "U+0000"),
        (json!("x".repeat(70_000)), "bytes of JSON"),
    ] {
        assert!(invalid(fixture.respond(question.id, wrong).await).contains(said));
    }
}

#[tokio::test]
async fn questions_are_listed_newest_first_and_stay_in_their_organisation() {
    let fixture = Fixture::new().await;
    let orchestration = fixture.request("waiting").await;
    let mut ids = Vec::new();
    for index in 0..5 {
        let for_it = (index % 2 == 0).then_some(orchestration);
        let question = fixture.ask(json!({ "question": format!("{index}") }), for_it).await;
        ids.push(question.unwrap().id);
    }
    fixture.respond(ids[1], json!("x")).await.unwrap();
    let list = async |filter: QuestionFilter| -> Vec<QuestionId> {
        let filter = QuestionFilter { limit: 3, ..filter };
        let found = fixture.questions.list(fixture.tenant, &filter).await.unwrap();
        found.into_iter().map(|question| question.id).collect()
    };
    assert_eq!(list(QuestionFilter::default()).await, [ids[4], ids[3], ids[2]]);
    let before = QuestionFilter { before: Some(ids[2]), ..QuestionFilter::default() };
    assert_eq!(list(before).await, [ids[1], ids[0]]);
    let statuses = vec![QuestionStatus::Answered];
    assert_eq!(list(QuestionFilter { statuses, ..QuestionFilter::default() }).await, [ids[1]]);
    let request = Some(orchestration);
    let asked = list(QuestionFilter { request, ..QuestionFilter::default() }).await;
    assert_eq!(asked, [ids[4], ids[2], ids[0]]);

    let corp = fixture.database.org("corp").await;
    let gone = |outcome| matches!(outcome, Err(HitlError::NotFound(_)));
    assert!(gone(fixture.questions.get(corp, ids[0]).await));
    assert!(gone(
        fixture.questions.respond(corp, &fixture.ada, OrgRole::Member, ids[0], &json!("x")).await
    ));
    let filter = QuestionFilter { limit: 10, ..QuestionFilter::default() };
    assert!(fixture.questions.list(corp, &filter).await.unwrap().is_empty());
    let new = serde_json::from_value(json!({ "question": "?" })).unwrap();
    let foreign = fixture.questions.ask(corp, &fixture.ada, new, Some(orchestration)).await;
    assert!(invalid(foreign).contains("there is no request"));
}

#[tokio::test]
async fn an_answer_wakes_the_orchestration() {
    let fixture = Fixture::new().await;
    let orchestration = fixture.request("waiting").await;
    let asked = json!({ "question": "Go on?" });
    let (first, second) = (
        fixture.ask(asked.clone(), Some(orchestration)).await.unwrap(),
        fixture.ask(asked, Some(orchestration)).await.unwrap(),
    );
    assert_eq!(first.request_id, Some(orchestration));
    assert_eq!(fixture.wake_ups(orchestration).await, 0);
    fixture.respond(first.id, json!({"go": true})).await.unwrap();
    fixture.respond(second.id, json!("no")).await.unwrap();
    let user = json!(fixture.user());
    assert_eq!(
        fixture.inbox(orchestration).await,
        [
            (first.id.0, json!({ "response": {"go": true}, "answered_by": user })),
            (second.id.0, json!({ "response": "no", "answered_by": user })),
        ]
    );
    assert_eq!(fixture.wake_ups(orchestration).await, 1, "one wakes it for both");
}

#[tokio::test]
async fn a_persons_question_belongs_to_an_open_request() {
    let fixture = Fixture::new().await;
    // A wake-up means its orchestration.
    let orchestration = fixture.request("waiting").await;
    let (wake_up, org) = (RequestId::generate(), fixture.tenant.org());
    fixture
        .database
        .execute(format!(
            "INSERT INTO eve.requests (id, org_id, worker_type, root_request_id, orchestration_id,
                                       parent_request_id, created_by)
             VALUES ('{wake_up}', '{org}', 'general', '{orchestration}', '{orchestration}',
                     '{orchestration}', '{{}}')"
        ))
        .await;
    let question = fixture.ask(json!({ "question": "?" }), Some(wake_up)).await.unwrap();
    assert_eq!(question.request_id, Some(orchestration));

    // Any open request becomes an orchestration, whose end cancels the question.
    let pending = fixture.request("pending").await;
    let question = fixture.ask(json!({ "question": "?" }), Some(pending)).await.unwrap();
    let requests = crate::requests::Requests::new(
        fixture.database.db.clone(),
        Bell::start(fixture.database.db.pool().clone()),
    );
    requests.cancel(fixture.tenant, &fixture.ada, pending, None).await.unwrap();
    let cancelled = fixture.questions.get(fixture.tenant, question.id).await.unwrap();
    assert_eq!(cancelled.status, QuestionStatus::Cancelled);
    let said = conflict(fixture.respond(question.id, json!("late")).await);
    assert!(said.contains("was cancelled at"), "{said}");

    let said = conflict(fixture.ask(json!({ "question": "?" }), Some(pending)).await);
    assert!(said.contains("has ended already"), "{said}");
    let nowhere = fixture.ask(json!({ "question": "?" }), Some(RequestId::generate())).await;
    assert!(invalid(nowhere).starts_with("request_id: there is no request"));
    assert!(invalid(fixture.ask(json!({ "question": "" }), None).await).starts_with("question: "));
}

#[tokio::test]
async fn what_nobody_answers_expires_and_wakes_the_orchestration() {
    let fixture = Fixture::new().await;
    let orchestration = fixture.request("waiting").await;
    let mut due = Vec::new();
    for index in 0..5 {
        let new = json!({ "question": format!("{index}"), "expires_in_ms": 60_000 });
        let question = fixture.ask(new, (index < 2).then_some(orchestration)).await.unwrap();
        due.push(question.id);
    }
    let open = fixture.ask(json!({ "question": "later" }), Some(orchestration)).await.unwrap();
    assert_eq!(fixture.expire_all(2).await, 0, "nothing is due");
    for id in &due {
        fixture.overdue(*id).await;
    }
    // Overdue and not expired yet: too late all the same.
    let said = conflict(fixture.respond(due[0], json!("late")).await);
    assert!(said.contains("expired at"), "{said}");
    assert_eq!(fixture.expire_all(2).await, 3, "in batches");
    for id in &due {
        let question = fixture.questions.get(fixture.tenant, *id).await.unwrap();
        assert_eq!(question.status, QuestionStatus::Expired);
        assert!(question.ended_at.is_some());
        conflict(fixture.respond(*id, json!("late")).await);
    }
    let still = fixture.questions.get(fixture.tenant, open.id).await.unwrap();
    assert_eq!(still.status, QuestionStatus::Open);
    let mut told = fixture.inbox(orchestration).await;
    told.sort_by_key(|(source, _)| *source);
    assert_eq!(told, [(due[0].0, json!({})), (due[1].0, json!({}))]);
    assert_eq!(fixture.wake_ups(orchestration).await, 1);
}

/// Many answers to one question and its expiry, all at once: one of them is it.
#[tokio::test]
async fn everybody_at_once_settles_a_question_once() {
    let fixture = Fixture::new().await;
    for _ in 0..10 {
        let orchestration = fixture.request("waiting").await;
        let new = json!({ "question": "?" });
        let question = fixture.ask(new, Some(orchestration)).await.unwrap();
        let respond = |n: i32| fixture.respond(question.id, json!(n));
        let expiry = async {
            fixture.overdue(question.id).await;
            fixture.expire_all(10).await
        };
        let (a, b, c, _) = tokio::join!(respond(1), respond(2), respond(3), expiry);
        let answered = [a, b, c].into_iter().filter(|outcome| match outcome {
            Ok(_) => true,
            Err(HitlError::Conflict(_)) => false,
            Err(error) => panic!("{error:?}"),
        });
        let answered = answered.count();
        let settled = fixture.questions.get(fixture.tenant, question.id).await.unwrap();
        match settled.status {
            QuestionStatus::Answered => assert_eq!(answered, 1),
            QuestionStatus::Expired => assert_eq!(answered, 0),
            other => panic!("{other}"),
        }
        assert_eq!(fixture.inbox(orchestration).await.len(), 1);
        assert_eq!(fixture.wake_ups(orchestration).await, 1);
    }
}

#[tokio::test]
async fn a_runs_questions_keep_their_options_in_order() {
    let fixture = Fixture::new().await;
    let orchestration = fixture.request("waiting").await;
    let run = Actor::Run { request: orchestration, user: None };
    let options: [&[&str]; 3] = [&["c", "a", "b"], &[], &["x"]];
    let asked: Vec<(QuestionId, NewQuestion)> = options
        .iter()
        .map(|options| {
            let new = json!({ "question": "?", "options": options, "expires_in_ms": 1_000 });
            (QuestionId::generate(), serde_json::from_value(new).unwrap())
        })
        .collect();
    let mut tx = fixture.database.db.begin(Scope::Engine).await.unwrap();
    insert(&mut tx, fixture.tenant, &run, Some(orchestration), OrgRole::Member, &asked)
        .await
        .unwrap();
    insert(&mut tx, fixture.tenant, &run, None, OrgRole::Member, &[]).await.unwrap();
    tx.commit().await.unwrap();
    for ((id, new), options) in asked.iter().zip(options) {
        let question = fixture.questions.get(fixture.tenant, *id).await.unwrap();
        assert_eq!((question.options.as_slice(), question.created_by), (&*new.options, run));
        assert_eq!(question.options, options);
    }
}
