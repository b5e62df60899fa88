//! Capabilities: who grants them, who takes them away, who sees it.

use super::*;

const WORDS: &str = "/v1/skills/words/capabilities/queue";

impl Api {
    /// The details of the audit log's latest row.
    async fn last_audited(&self, tenant: Tenant) -> (String, Value, Value) {
        sqlx::query_as(
            "SELECT action || ' ' || target, details, actor
               FROM eve.audit_log WHERE org_id = $1 ORDER BY id DESC LIMIT 1",
        )
        .bind(tenant.org().0)
        .fetch_one(self.database.db.pool())
        .await
        .unwrap()
    }

    async fn delete(&self, path: &str, credential: &str) -> Answer {
        self.call(Method::DELETE, path, credential, None).await
    }

    async fn put(&self, path: &str, credential: &str) -> Answer {
        self.call(Method::PUT, path, credential, None).await
    }
}

/// The names of worker types, and what they deny.
fn places(skill: &Value) -> Vec<(String, Vec<(String, String)>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let denied = |place: &Value| {
        let denied = place["denied"].as_array().unwrap();
        assert_eq!(place["runs"], denied.is_empty());
        denied.iter().map(|d| (text(&d["capability"]), text(&d["by"]))).collect()
    };
    let places = skill["worker_types"].as_array().unwrap();
    places.iter().map(|place| (text(&place["worker_type"]), denied(place))).collect()
}

#[tokio::test]
async fn an_admin_revokes_a_capability_and_gives_it_back() {
    let api = Api::start().await;
    let (acme, owner, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("corp").await;
    let bob = sign_in(api.database.member(acme, "member").await);
    let actor = Actor::User { user: owner };
    let words = skills::version("words", "1", 0xa1);
    store::push(&api.database.db, acme, &actor, &words, Activation::Activate).await.unwrap();

    for call in [api.delete(WORDS, &bob).await, api.put(WORDS, &bob).await] {
        call.problem(403, "forbidden");
    }
    for call in [api.delete(WORDS, &eve).await, api.put(WORDS, &eve).await] {
        call.problem(404, "not-found");
    }
    for word in ["moon", "Queue", "%00", "..", "qu%D0%B5ue"] {
        let path = format!("/v1/skills/words/capabilities/{word}");
        let problem = api.delete(&path, &ada).await.problem(422, "invalid");
        assert_eq!(problem["field"], "capability", "{problem}");
    }
    let granted = api.get("/v1/skills/words", &bob).await.json();
    assert_eq!(granted["capabilities"][0]["revoked"], Value::Null, "{granted}");
    let fine = |id: &str| (id.to_owned(), Vec::new());
    let everywhere = [fine("deployment"), fine("devops-orchestrator"), fine("general")];
    assert_eq!(places(&granted), everywhere);

    // Once is enough, and twice changes nothing.
    for _ in 0..2 {
        assert_eq!(api.delete(WORDS, &ada).await.status, StatusCode::NO_CONTENT);
        let (action, details, by) = api.last_audited(acme).await;
        assert_eq!(
            (action.as_str(), &details["capability"]),
            ("capability.revoke words", &json!("queue"))
        );
        assert_eq!(by, serde_json::to_value(actor).unwrap());
    }
    let revoked = api.get("/v1/skills/words", &bob).await.json();
    let grant = &revoked["capabilities"][0];
    assert_eq!((&grant["capability"], &grant["needed"]), (&json!("queue"), &json!(true)));
    assert_eq!(grant["revoked"]["by"], serde_json::to_value(actor).unwrap());
    assert!(
        places(&revoked)
            .iter()
            .all(|(_, denied)| { *denied == [("queue".to_owned(), "organization".to_owned())] })
    );
    let reason = revoked["worker_types"][0]["denied"][0]["reason"].as_str().unwrap();
    assert!(reason.ends_with("with: eve skill grant words queue"), "{reason}");

    // Another version, activated by whom it may: what was revoked stays so.
    let second = skills::version("words", "2", 0xb2);
    store::push(&api.database.db, acme, &actor, &second, Activation::Activate).await.unwrap();
    assert!(
        api.get("/v1/skills/words", &ada).await.json()["capabilities"][0]["revoked"].is_object()
    );

    let answer = api.put(WORDS, &ada).await.json();
    assert_eq!(
        answer["items"],
        json!([{ "capability": "queue", "needed": true, "revoked": null }])
    );
    assert_eq!(api.last_audited(acme).await.0, "capability.grant words");
    api.put(WORDS, &ada).await;
    assert_eq!(places(&api.get("/v1/skills/words", &bob).await.json()), everywhere);
    let all = api.audited(acme).await;
    let count = |action: &str| all.iter().filter(|done| *done == action).count();
    assert_eq!((count("capability.revoke"), count("capability.grant")), (1, 1), "{all:?}");
}

/// An organisation decides for itself, about the platform's skills too.
#[tokio::test]
async fn a_revocation_is_for_one_organisation() {
    let api = Api::start().await;
    api.echo().await;
    let (acme, _, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("corp").await;
    let path = "/v1/skills/echo/capabilities/db";
    assert_eq!(api.delete(path, &ada).await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.last_audited(acme).await.0, "capability.revoke echo");
    let shown = api.get("/v1/skills/echo", &ada).await.json();
    let words: Vec<_> =
        shown["capabilities"].as_array().unwrap().iter().map(|c| &c["capability"]).collect();
    assert_eq!(words, ["db", "queue"]);
    // It does not need it, so it still runs.
    assert!(places(&shown).iter().all(|(_, denied)| denied.is_empty()));
    let theirs = api.get("/v1/skills/echo", &eve).await.json();
    assert_eq!(theirs["capabilities"].as_array().unwrap().len(), 1, "{theirs}");
    // What is deleted takes its revocations along.
    let root = api.database.member(acme, "owner").await;
    api.platform_admin(root).await;
    api.delete("/v1/skills/echo?platform=true", &sign_in(root)).await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM eve.revoked_capabilities")
        .fetch_one(api.database.db.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_a_worker_type_grants_is_set_by_platform_admins_and_audited() {
    let api = Api::start().await;
    api.echo().await;
    let (acme, _, ada) = api.org("acme").await;
    let root = api.database.member(acme, "member").await;
    api.platform_admin(root).await;
    let (root_id, root) = (root, sign_in(root));
    let platform = Tenant::proven(crate::tenancy::PLATFORM_ORG);
    let set = async |credential: &str, grants: Value| {
        let spec = json!({ "name": "Bare", "grants": grants });
        api.call(Method::PUT, "/v1/worker-types/bare", credential, Some(spec)).await
    };
    set(&ada, json!([])).await.problem(403, "forbidden");
    assert_eq!(set(&root, json!(["queue", "db"])).await.status, StatusCode::CREATED);
    let (action, details, _) = api.last_audited(platform).await;
    assert_eq!((action.as_str(), &details["before"]), ("worker_type.set bare", &Value::Null));
    assert_eq!(set(&root, json!(["db"])).await.status, StatusCode::OK);
    let (_, details, by) = api.last_audited(platform).await;
    assert_eq!(details["before"]["grants"], json!(["queue", "db"]));
    assert_eq!(details["after"]["grants"], json!(["db"]));
    assert_eq!(by, serde_json::to_value(Actor::User { user: root_id }).unwrap());

    let shown = api.get("/v1/skills/echo", &ada).await.json();
    let bare = &places(&shown)[0];
    assert_eq!(bare.1, [("queue".to_owned(), "worker_type".to_owned())], "{shown}");
    let reason = shown["worker_types"][0]["denied"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("worker type `bare` does not grant `queue`"), "{reason}");

    api.delete("/v1/worker-types/bare", &root).await;
    let (action, details, _) = api.last_audited(platform).await;
    assert_eq!((action.as_str(), &details["after"]), ("worker_type.delete bare", &Value::Null));
    assert_eq!(details["before"]["grants"], json!(["db"]));
}

/// What the front matter names, and nothing else.
#[tokio::test]
async fn a_skill_is_shown_on_the_worker_types_that_it_is_for() {
    let api = Api::start().await;
    let (acme, owner, ada) = api.org("acme").await;
    let actor = Actor::User { user: owner };
    let mut words = skills::version("words", "1", 0xa1);
    words.manifest = json!({ "worker_types": ["general", "gone"], "schemas": ["shelf", "attic"] });
    // Not active yet: whoever decides that sees what it would need.
    store::push(&api.database.db, acme, &actor, &words, Activation::Keep).await.unwrap();
    let shown = api.get("/v1/skills/words", &ada).await.json();
    assert_eq!(places(&shown), [("general".to_owned(), Vec::new())]);
    assert_eq!(shown["schemas"], json!([]));
    api.post("/v1/skills/words/versions/1/activate", &ada, json!({})).await;
    api.delete("/v1/skills/words/schemas/attic", &ada).await;
    let shown = api.get("/v1/skills/words", &ada).await.json();
    let schema = |name: &str, approved: bool| json!({ "schema": name, "approved": approved });
    assert_eq!(shown["schemas"], json!([schema("attic", false), schema("shelf", true)]));
}
