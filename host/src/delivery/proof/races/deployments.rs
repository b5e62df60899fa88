//! What runs want of deployments: ordered with their commits, taken once, told once. No cluster is needed:
//! what a reconciler would find is written down here.

use serde_json::{Value, json};

use super::*;
use crate::deployments::orders::{self, Change, Order};
use crate::deployments::{Deployments, NewDeployment, Scale};
use crate::hitl::{HitlError, Question, QuestionFilter, QuestionStatus, Questions};
use crate::requests::orchestration::EventKind;

/// An organisation with an environment and an app, and a control plane that has no key to seal with.
struct Ground {
    stage: Stage,
    deployments: Deployments,
    questions: Questions,
}

impl Ground {
    async fn set(config: Value) -> Ground {
        let stage = Stage::set().await;
        let org = stage.tenant.org();
        let statement = format!(
            "INSERT INTO eve.clusters (id, name, provider) VALUES ('local', 'Local', 'local');
             INSERT INTO eve.environments (org_id, name, cluster_id, namespace, status, config)
             VALUES ('{org}', 'dev', 'local', 'acme-dev', 'ready', '{config}');
             INSERT INTO eve.apps (org_id, name) VALUES ('{org}', 'api')"
        );
        stage.database.execute(statement).await;
        let deployments = Deployments::new(stage.database.db.clone(), stage.bell.clone(), None);
        let questions = Questions::new(stage.database.db.clone(), stage.bell.clone());
        Ground { stage, deployments, questions }
    }

    /// A run that wants this and waits: its orchestration.
    async fn ordered(&self, orders: Vec<Order>) -> RequestId {
        let id = self.stage.one(plain_request()).await;
        let run = self.stage.claim_one().await;
        self.stage.finish(&run, How::Waiting, Effects { orders, ..Effects::default() }).await;
        id
    }

    async fn take(&self) {
        orders::take_all(&self.deployments).await.expect("orders are taken");
    }

    /// What a reconciler finds.
    async fn found(&self, revision: i32, outcome: &str) {
        let statement = format!(
            "UPDATE eve.deployment_revisions
                SET outcome = '{outcome}', settled_at = now(), reason = 'image_pull', message = 'not there'
              WHERE revision = {revision}"
        );
        self.stage.database.execute(statement).await;
    }

    /// Settles and tells: the events of the wake-up that comes of it, if one does.
    async fn told(&self) -> Vec<(Uuid, Value)> {
        let db = &self.stage.database.db;
        orders::settle(db).await.expect("orders are settled");
        while orders::tell(db).await.expect("orders are told").is_some() {}
        let mut told = Vec::new();
        for run in self.stage.claim().await {
            let wake = run.wake.expect("a wake-up");
            assert!(wake.events.iter().all(|event| event.kind == EventKind::Deployment));
            told.extend(wake.events.into_iter().map(|event| (event.source, event.payload)));
        }
        told
    }

    async fn states(&self) -> Vec<String> {
        self.column("SELECT state FROM eve.deployment_orders ORDER BY id").await
    }

    async fn column(&self, statement: &'static str) -> Vec<String> {
        sqlx::query_scalar(statement)
            .fetch_all(self.stage.database.db.pool())
            .await
            .expect("a column")
    }

    async fn question(&self) -> Question {
        let filter = QuestionFilter {
            statuses: vec![QuestionStatus::Open],
            limit: 10,
            ..QuestionFilter::default()
        };
        let mut open = self.questions.list(self.stage.tenant, &filter).await.expect("questions");
        assert_eq!(open.len(), 1, "{open:?}");
        open.remove(0)
    }

    async fn answer(&self, role: OrgRole, answer: &str) -> Result<Question, HitlError> {
        let id = self.question().await.id;
        let (tenant, actor) = (self.stage.tenant, Actor::Platform);
        self.questions.respond(tenant, &actor, role, id, &json!(answer)).await
    }
}

fn order(change: Change) -> Order {
    Order { id: Uuid::now_v7(), env: "dev".into(), app: "api".into(), told: Uuid::now_v7(), change }
}

fn create(image: &str) -> Order {
    order(Change::Create(NewDeployment {
        app: "api".into(),
        image: image.into(),
        ..NewDeployment::default()
    }))
}

#[tokio::test]
async fn an_order_is_taken_once_and_wakes_its_orchestration_once() {
    let ground = Ground::set(json!({})).await;
    let asked = create("acme/api:v1");
    let request = ground.ordered(vec![asked.clone()]).await;
    assert_eq!(ground.states().await, ["asked"]);
    // Two who lead, for a moment.
    tokio::join!(ground.take(), ground.take());
    assert_eq!(ground.states().await, ["taken"]);
    let there = ground
        .deployments
        .deployment(ground.stage.tenant, "dev", "api")
        .await
        .expect("a deployment");
    assert_eq!((there.id, there.revision), (asked.told, 1));
    assert_eq!(there.request_id, Some(request), "it is the request's");
    // What was wanted may hold variables: it is not kept.
    let left =
        ground.column("SELECT id::text FROM eve.deployment_orders WHERE body IS NOT NULL").await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(ground.told().await, [], "nothing is settled yet");
    ground.found(1, "failed").await;
    let told = ground.told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    let (source, payload) = &told[0];
    assert_eq!(*source, asked.told);
    assert_eq!(payload["status"], "failed");
    assert_eq!(payload["reason"], "image_pull");
    assert_eq!(payload["message"], "not there");
    assert_eq!(ground.told().await, [], "it was told");
}

/// The deployment of a run's first order is there already when the order is taken.
#[tokio::test]
async fn two_runs_deploy_the_same_app_for_the_first_time() {
    let ground = Ground::set(json!({})).await;
    let (one, two) = (create("acme/api:v1"), create("acme/api:v2"));
    ground.ordered(vec![one.clone()]).await;
    ground.ordered(vec![two.clone()]).await;
    ground.take().await;
    ground.found(2, "running").await;
    let mut told = ground.told().await;
    told.sort_by_key(|(source, _)| *source);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((told[0].0, &told[0].1["reason"]), (one.told, &json!("superseded")));
    // Under the id that its run was told.
    assert_eq!((told[1].0, &told[1].1["status"]), (two.told, &json!("running")));
}

#[tokio::test]
async fn a_run_is_woken_for_the_last_of_its_changes() {
    let ground = Ground::set(json!({})).await;
    let first = create("acme/api:v1");
    let told = first.told;
    let scale = Order { told, ..order(Change::Scale(Scale { replicas: 3 })) };
    ground.ordered(vec![first, scale]).await;
    ground.take().await;
    assert_eq!(ground.told().await, [], "the first is superseded by the run's own second");
    ground.found(2, "running").await;
    let told = ground.told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1["revision"], 2);
}

#[tokio::test]
async fn what_may_not_be_done_is_told_as_a_failure() {
    let ground = Ground::set(json!({ "worker_types": ["deployment"] })).await;
    let scale = order(Change::Scale(Scale { replicas: 3 }));
    let nowhere = Order { env: "prod".into(), ..create("acme/api:v1") };
    ground.ordered(vec![create("acme/api:v1"), scale, nowhere]).await;
    ground.take().await;
    assert_eq!(ground.states().await, ["settled", "settled", "settled"]);
    let told = ground.told().await;
    let mut reasons: Vec<(&str, &str)> = told
        .iter()
        .map(|(_, payload)| {
            let text = |name: &str| payload[name].as_str().unwrap_or_default();
            (text("reason"), text("message"))
        })
        .collect();
    reasons.sort_unstable();
    let forbidden = "skills of the worker type `general` may not deploy to `dev`";
    let nowhere = "there is no environment `prod`";
    assert_eq!(
        reasons,
        [("forbidden", forbidden), ("forbidden", forbidden), ("not_found", nowhere)]
    );
    assert!(ground.deployments.deployment(ground.stage.tenant, "dev", "api").await.is_err());
}

#[tokio::test]
async fn who_may_deploy_approves_what_a_skill_wants() {
    let ground = Ground::set(json!({ "approval": true, "deployers": "admin" })).await;
    ground.ordered(vec![create("acme/api:v1")]).await;
    tokio::join!(ground.take(), ground.take());
    ground.take().await;
    assert_eq!(ground.states().await, ["approval"]);
    let question = ground.question().await;
    assert_eq!(question.question, "Deploy `acme/api:v1` as `api` to `dev`?");
    assert_eq!(question.least_role, OrgRole::Admin);
    let refused = ground.answer(OrgRole::Member, "approve").await;
    assert!(matches!(refused, Err(HitlError::Forbidden(_))), "{refused:?}");
    ground.answer(OrgRole::Admin, "approve").await.expect("an admin may");
    ground.take().await;
    assert_eq!(ground.states().await, ["taken"]);

    ground.ordered(vec![order(Change::Delete)]).await;
    ground.take().await;
    ground.answer(OrgRole::Owner, "reject").await.expect("an owner may");
    ground.take().await;
    let told = ground.told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1["reason"], "rejected");
    assert_eq!(ground.states().await, ["taken", "settled"]);
}

#[tokio::test]
async fn what_nobody_has_approved_goes_with_the_request_that_wanted_it() {
    let ground = Ground::set(json!({ "approval": true })).await;
    let request = ground.ordered(vec![create("acme/api:v1")]).await;
    ground.take().await;
    let question = ground.question().await;
    let (tenant, actor) = (ground.stage.tenant, Actor::Platform);
    ground.stage.requests.cancel(tenant, &actor, request, None).await.expect("a cancellation");
    assert_eq!(ground.states().await, ["settled"]);
    let now = ground.questions.get(tenant, question.id).await.expect("the question");
    assert_eq!(now.status, QuestionStatus::Cancelled);
    ground.take().await;
    assert!(ground.deployments.deployment(tenant, "dev", "api").await.is_err());
}

/// A run that waits for nothing is not waited for: its order stands by itself.
#[tokio::test]
async fn a_run_that_has_ended_is_not_told() {
    let ground = Ground::set(json!({})).await;
    ground.stage.one(plain_request()).await;
    let run = ground.stage.claim_one().await;
    let effects = Effects { orders: vec![create("acme/api:v1")], ..Effects::default() };
    ground.stage.finish(&run, How::Completed, effects).await;
    ground.take().await;
    ground.found(1, "running").await;
    assert_eq!(ground.told().await, []);
    assert_eq!(ground.states().await, ["settled"]);
}

#[tokio::test]
async fn what_is_wanted_later_does_not_overtake_what_was_wanted_first() {
    let ground = Ground::set(json!({ "approval": true })).await;
    let first = create("acme/api:v1");
    let scale = Order { told: first.told, ..order(Change::Scale(Scale { replicas: 3 })) };
    ground.ordered(vec![first, scale]).await;
    ground.take().await;
    assert_eq!(ground.states().await, ["approval", "asked"]);
    ground.answer(OrgRole::Member, "approve").await.expect("a member may");
    ground.take().await;
    assert_eq!(ground.states().await, ["taken", "approval"]);
    ground.answer(OrgRole::Member, "approve").await.expect("a member may");
    ground.take().await;
    assert_eq!(ground.states().await, ["taken", "taken"]);
}

#[tokio::test]
async fn who_may_not_deploy_does_not_approve() {
    let ground = Ground::set(json!({ "approval": true })).await;
    ground.ordered(vec![create("acme/api:v1")]).await;
    ground.take().await;
    let question = ground.question().await.id;
    let answerer = crate::hitl::Answerer { role: OrgRole::Owner, deploys: false };
    let (tenant, actor) = (ground.stage.tenant, Actor::Platform);
    let answer =
        ground.questions.respond(tenant, &actor, answerer, question, &json!("approve")).await;
    assert!(matches!(answer, Err(HitlError::Forbidden(_))), "{answer:?}");
}

/// What a run has deleted again before it was there is told when it is gone, and not before.
#[tokio::test]
async fn deployed_and_deleted_by_one_run_is_told_once() {
    let ground = Ground::set(json!({})).await;
    let first = create("acme/api:v1");
    let delete = Order { told: first.told, ..order(Change::Delete) };
    ground.ordered(vec![first, delete]).await;
    ground.take().await;
    assert_eq!(ground.told().await, [], "its pods may still be there");
    let gone = "UPDATE eve.deployments SET status = 'stopped', stopping = false";
    ground.stage.database.execute(gone.to_owned()).await;
    let told = ground.told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1["status"], "stopped");
}

/// A request that is retried is not told what became of what it wanted before.
#[tokio::test]
async fn an_ended_request_is_told_nothing_more() {
    let ground = Ground::set(json!({})).await;
    let request = ground.ordered(vec![create("acme/api:v1")]).await;
    ground.take().await;
    let (tenant, actor) = (ground.stage.tenant, Actor::Platform);
    ground.stage.requests.cancel(tenant, &actor, request, None).await.expect("a cancellation");
    ground.found(1, "failed").await;
    assert_eq!(ground.told().await, []);
    assert_eq!(ground.states().await, ["settled"]);
    let untold =
        ground.column("SELECT id::text FROM eve.deployment_orders WHERE told_at IS NULL").await;
    assert!(untold.is_empty(), "{untold:?}");
}
