//! Credentials, organisations, members and tokens.

use super::*;

#[tokio::test]
async fn credentials_are_refused_with_the_reason() {
    let api = Api::start().await;
    let (tenant, _, ada) = api.org("acme").await;
    let detail = |answer: Answer| {
        answer.problem(401, "unauthenticated")["detail"].as_str().unwrap().to_owned()
    };

    let issued =
        api.post("/v1/tokens", &ada, json!({ "name": "ci", "expires_in_days": 1 })).await.json();
    let token = issued["token"].as_str().unwrap().to_owned();
    let typo =
        format!("{}{}", &token[..token.len() - 1], if token.ends_with('A') { 'B' } else { 'A' });
    assert!(detail(api.get("/v1/me", &typo).await).contains("checksum"));
    assert!(detail(api.get("/v1/me", "eve_short").await).contains("not an API token"));
    let foreign = crate::tenancy::tokens::TokenSecret::generate();
    assert!(detail(api.get("/v1/me", foreign.expose()).await).contains("not known"));
    api.database
        .execute("UPDATE eve.api_tokens SET expires_at = now() - interval '1 second'".into())
        .await;
    assert!(detail(api.get("/v1/me", &token).await).contains("expired"));

    for wrong in ["Basic eve", "Bearer", "Bearer ", "eve_x"] {
        let header = request(Method::GET, "/v1/me").header(header::AUTHORIZATION, wrong);
        api.send(header.body(Body::empty()).unwrap()).await.problem(401, "unauthenticated");
    }
    let somebody = UserId(Uuid::new_v4());
    api.get("/v1/requests", &sign_in(somebody)).await.problem(403, "forbidden");
    assert_eq!(api.get("/v1/me", &sign_in(somebody)).await.json()["org"], Value::Null);
    let _ = tenant;
}

/// By another control plane, in the moment after this one has looked.
#[tokio::test]
async fn an_organisation_is_there_as_soon_as_it_is_somebodys() {
    let api = Api::start().await;
    let (acme, _, _) = api.org("acme").await;
    let (other, _, _) = api.org("other").await;
    let bob = UserId(Uuid::new_v4());
    let credential = sign_in(bob);
    api.get("/v1/requests", &credential).await.problem(403, "forbidden");
    api.database.join(acme, bob, "member").await;
    assert_eq!(api.get("/v1/requests", &credential).await.status, StatusCode::OK);
    let in_other = || api.call_in(Some("other"), Method::GET, "/v1/requests", &credential, None);
    in_other().await.problem(404, "not-found");
    api.database.join(other, bob, "member").await;
    assert_eq!(in_other().await.status, StatusCode::OK);
    let shown = api.call_in(Some("other"), Method::GET, "/v1/me", &credential, None).await.json();
    assert_eq!(shown["org"]["slug"], "other");
}

#[tokio::test]
async fn an_organisation_is_chosen_and_foreign_ones_do_not_exist() {
    let api = Api::start().await;
    let (acme, ada_id, ada) = api.org("acme").await;
    let (other, _, _) = api.org("other").await;
    assert_eq!(api.get("/v1/me", &ada).await.json()["org"]["slug"], "acme");
    for foreign in [
        "other",
        &other.org().to_string(),
        "nowhere",
        "platform",
        "00000000-0000-0000-0000-000000000000",
    ] {
        api.call_in(Some(foreign), Method::GET, "/v1/requests", &ada, None)
            .await
            .problem(404, "not-found");
        api.get(&format!("/v1/orgs/{foreign}"), &ada).await.problem(404, "not-found");
    }
    for own in ["acme", &acme.org().to_string()] {
        let answer = api.call_in(Some(own), Method::GET, "/v1/requests", &ada, None).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    // A token stays with its organisation, whatever its person may do elsewhere.
    let token = api.post("/v1/tokens", &ada, json!({ "name": "ci" })).await.json()["token"].clone();
    let token = token.as_str().unwrap();
    let both = api.database.member(acme, "member").await;
    api.database.join(other, both, "member").await;
    api.database.join(other, ada_id, "member").await;
    let problem = api.get("/v1/requests", &sign_in(both)).await.problem(422, "invalid");
    assert_eq!(problem["field"], "Eve-Org");
    api.call_in(Some("other"), Method::GET, "/v1/requests", token, None)
        .await
        .problem(404, "not-found");
    assert_eq!(
        api.get("/v1/orgs", &sign_in(both)).await.json()["items"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test]
async fn tokens_live_and_die() {
    let api = Api::start().await;
    let (acme, ada_id, ada) = api.org("acme").await;
    let new = json!({ "name": "ci", "role": "admin", "scopes": ["requests:write"], "expires_in_days": 30 });
    let created = api.post("/v1/tokens", &ada, new).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let created = created.json();
    let (id, token) = (created["id"].as_str().unwrap(), created["token"].as_str().unwrap());
    assert!(token.starts_with(created["prefix"].as_str().unwrap()) && token.len() == 53);

    let me = api.get("/v1/me", token).await.json();
    assert_eq!((&me["token_id"], &me["user_id"]), (&json!(id), &json!(ada_id)));
    assert_eq!(api.get("/v1/requests", token).await.status, StatusCode::OK);
    // Scopes hold even where the role would do.
    api.get("/v1/tokens", token).await.problem(403, "forbidden");
    api.call(Method::DELETE, "/v1/skills/x", token, None).await.problem(403, "forbidden");

    let listed = api.get("/v1/tokens", &ada).await.json();
    assert_eq!(listed["items"][0]["id"], id);
    assert!(!listed.to_string().contains(token));
    let stored: String = sqlx::query_scalar("SELECT to_jsonb(t)::text FROM eve.api_tokens t")
        .fetch_one(api.database.db.pool())
        .await
        .unwrap();
    assert!(!stored.contains(&token[12..]));

    let path = format!("/v1/tokens/{id}");
    assert_eq!(api.call(Method::DELETE, &path, &ada, None).await.status, StatusCode::NO_CONTENT);
    let revoked = api.get("/v1/me", token).await.problem(401, "unauthenticated");
    assert_eq!(revoked["detail"], "the API token was revoked");
    api.call(Method::DELETE, &path, &ada, None).await.problem(404, "not-found");
    assert_eq!(api.audited(acme).await, ["token.create", "token.revoke"]);

    for (body, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": "x", "expires_in_days": 0 }), "expires_in_days"),
        (json!({ "name": "x", "scopes": ["everything"] }), "scopes[0]"),
        (json!({ "name": "x", "role": "god" }), "role"),
    ] {
        let problem = api.post("/v1/tokens", &ada, body).await.problem(422, "invalid");
        assert_eq!(problem["field"], field);
    }
}

#[tokio::test]
async fn a_token_does_no_more_than_its_person_or_its_maker() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    let admin_id = api.database.member(acme, "admin").await;
    let admin = sign_in(admin_id);
    api.post("/v1/tokens", &admin, json!({ "name": "x", "role": "owner" }))
        .await
        .problem(403, "forbidden");
    let token = api
        .post("/v1/tokens", &admin, json!({ "name": "x", "role": "admin", "scopes": ["admin"] }))
        .await;
    let token = token.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(api.get("/v1/tokens", &token).await.status, StatusCode::OK);

    let path = format!("/v1/members/{admin_id}");
    let demoted = api.call(Method::PUT, &path, &ada, Some(json!({ "role": "member" }))).await;
    assert_eq!(demoted.status, StatusCode::OK);
    api.get("/v1/tokens", &token).await.problem(403, "forbidden");
    assert_eq!(api.call(Method::DELETE, &path, &ada, None).await.status, StatusCode::NO_CONTENT);
    let gone = api.get("/v1/me", &token).await.problem(401, "unauthenticated");
    assert!(gone["detail"].as_str().unwrap().contains("no longer a member"));
}

#[tokio::test]
async fn members_come_and_go_but_an_owner_stays() {
    let api = Api::start().await;
    let (acme, ada_id, ada) = api.org("acme").await;
    let (other, other_id, _) = api.org("other").await;
    let bob_id = UserId(Uuid::new_v4());
    let bob = sign_in(bob_id);
    let (bob_path, ada_path) = (format!("/v1/members/{bob_id}"), format!("/v1/members/{ada_id}"));
    let role = |role: &str| Some(json!({ "role": role }));

    assert_eq!(
        api.call(Method::PUT, &bob_path, &ada, role("member")).await.json()["role"],
        "member"
    );
    // A member reads, and manages nothing.
    assert_eq!(api.get("/v1/members", &bob).await.json()["items"].as_array().unwrap().len(), 2);
    for (method, path, body) in [
        (Method::PUT, bob_path.as_str(), role("admin")),
        (Method::DELETE, ada_path.as_str(), None),
        (Method::POST, "/v1/tokens", Some(json!({ "name": "x" }))),
        (Method::GET, "/v1/tokens", None),
        (Method::DELETE, "/v1/skills/x", None),
        (Method::POST, "/v1/skills/x/versions/1/activate", None),
        (Method::POST, "/v1/orgs", Some(json!({ "slug": "mine", "name": "Mine" }))),
        (Method::PUT, "/v1/worker-types/mine", Some(json!({ "name": "Mine" }))),
    ] {
        api.call(method, path, &bob, body).await.problem(403, "forbidden");
    }
    // An admin manages, but not owners.
    api.call(Method::PUT, &bob_path, &ada, role("admin")).await;
    api.call(Method::PUT, &bob_path, &bob, role("owner")).await.problem(403, "forbidden");
    api.call(Method::PUT, &ada_path, &bob, role("member")).await.problem(403, "forbidden");
    api.call(Method::DELETE, &ada_path, &bob, None).await.problem(403, "forbidden");
    // The last owner cannot go, nor be made less.
    api.call(Method::PUT, &ada_path, &ada, role("admin")).await.problem(409, "conflict");
    api.call(Method::DELETE, &ada_path, &ada, None).await.problem(409, "conflict");
    api.call(Method::PUT, &bob_path, &ada, role("owner")).await;
    assert_eq!(
        api.call(Method::DELETE, &ada_path, &bob, None).await.status,
        StatusCode::NO_CONTENT
    );
    api.get("/v1/members", &ada).await.problem(403, "forbidden");
    // Somebody else's member does not exist.
    api.call(Method::DELETE, &format!("/v1/members/{other_id}"), &bob, None)
        .await
        .problem(404, "not-found");
    assert_eq!(
        api.audited(acme).await,
        ["member.set", "member.set", "member.set", "member.remove"]
    );
    assert!(api.audited(other).await.is_empty());
}

#[tokio::test]
async fn two_owners_cannot_remove_each_other_at_once() {
    let api = Api::start().await;
    let (acme, ada_id, ada) = api.org("acme").await;
    let bob_id = api.database.member(acme, "owner").await;
    let bob = sign_in(bob_id);
    let (bob_path, ada_path) = (format!("/v1/members/{bob_id}"), format!("/v1/members/{ada_id}"));
    let (first, second) = tokio::join!(
        api.call(Method::DELETE, &bob_path, &ada, None),
        api.call(Method::DELETE, &ada_path, &bob, None),
    );
    let gone = [first.status, second.status]
        .iter()
        .filter(|status| **status == StatusCode::NO_CONTENT)
        .count();
    assert_eq!(gone, 1, "{} {}", first.status, second.status);
}

#[tokio::test]
async fn platform_administrators_make_organisations_and_worker_types() {
    let api = Api::start().await;
    api.echo().await;
    let (_, root_id, root) = api.org("acme").await;
    api.platform_admin(root_id).await;
    let created = api.post("/v1/orgs", &root, json!({ "slug": "new-org", "name": "New" })).await;
    assert_eq!((created.status, &created.json()["role"]), (StatusCode::CREATED, &json!("owner")));
    api.post("/v1/orgs", &root, json!({ "slug": "new-org", "name": "Again" }))
        .await
        .problem(409, "conflict");
    api.post("/v1/orgs", &root, json!({ "slug": "platform", "name": "Ours" }))
        .await
        .problem(409, "conflict");
    let problem = api
        .post("/v1/orgs", &root, json!({ "slug": "New Org", "name": "x" }))
        .await
        .problem(422, "invalid");
    assert_eq!(problem["field"], "slug");
    assert_eq!(api.get("/v1/orgs", &root).await.json()["items"].as_array().unwrap().len(), 2);

    let spec = json!({ "name": "Mine", "grants": ["queue"], "config": { "a": 1 } });
    let put = |body: Value| api.call(Method::PUT, "/v1/worker-types/mine", &root, Some(body));
    assert_eq!(put(spec.clone()).await.status, StatusCode::CREATED);
    assert_eq!(put(spec).await.status, StatusCode::OK);
    assert_eq!(
        put(json!({ "name": "x", "grants": ["moon"] })).await.problem(422, "invalid")["field"],
        "grants"
    );
    assert_eq!(
        put(json!({ "name": "x", "config": 7 })).await.problem(422, "invalid")["field"],
        "config"
    );
    let ids: Vec<_> = api.get("/v1/worker-types", &root).await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["deployment", "devops-orchestrator", "general", "mine"]);
    // A seeded one that is set is nobody's seed any more: what was left out is left out.
    api.call(Method::PUT, "/v1/worker-types/general", &root, Some(json!({ "name": "G" }))).await;
    assert_eq!(
        api.get("/v1/worker-types/general", &root).await.json()["default_skill"],
        Value::Null
    );
    api.get("/v1/worker-types/nothing", &root).await.problem(404, "not-found");

    let open = api
        .call_in(
            Some("acme"),
            Method::POST,
            "/v1/requests",
            &root,
            Some(json!({ "worker_type": "mine", "skill": "echo" })),
        )
        .await;
    assert_eq!(open.status, StatusCode::CREATED, "{}", open.json());
    api.call(Method::DELETE, "/v1/worker-types/mine", &root, None).await.problem(409, "conflict");
    let path = format!("/v1/requests/{}/cancel", open.json()["id"].as_str().unwrap());
    api.call_in(Some("acme"), Method::POST, &path, &root, None).await;
    assert_eq!(
        api.call(Method::DELETE, "/v1/worker-types/mine", &root, None).await.status,
        StatusCode::NO_CONTENT
    );
    // Owning an organisation is not administering the platform; nor is a member's token of one who does.
    let token = api
        .call_in(Some("acme"), Method::POST, "/v1/tokens", &root, Some(json!({ "name": "x" })))
        .await
        .json();
    api.post("/v1/orgs", token["token"].as_str().unwrap(), json!({ "slug": "x", "name": "x" }))
        .await
        .problem(403, "forbidden");
}
