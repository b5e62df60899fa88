//! The API as a client sees it: the whole router on a real database.

use std::path::PathBuf;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use futures::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use super::*;
use crate::ids::UserId;
use crate::notify::Bell;
use crate::runtime::{Runtime, RuntimeConfig};
use crate::skills::artifact::{ArtifactCache, Signer, Verifier};
use crate::skills::compile::Workshop;
use crate::skills::store::{self, Activation, NewArtifact, NewVersion, Pushed};
use crate::tenancy::auth::AuthConfig;
use crate::tenancy::{Actor, JwtConfig, Tenant};
use crate::testing::TestDatabase;

const SECRET: &str = "a secret that only the tests know, long enough";
const ISSUER: &str = "https://project.example/auth/v1";

/// The API on a database of its own.
struct Api {
    database: TestDatabase,
    state: AppState,
    router: Router,
    shutdown: CancellationToken,
    _cache: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Checks that this is problem details as they should be, and returns them.
    fn problem(&self, status: u16, slug: &str) -> Value {
        let body = self.json();
        assert_eq!(
            (self.status.as_u16(), body["status"].as_u64()),
            (status, Some(status.into())),
            "{body}"
        );
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(body["type"], format!("https://eve-horizon.dev/problems/{slug}"), "{body}");
        assert_eq!(body["instance"], self.headers["x-request-id"].to_str().unwrap());
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }
}

/// The binary that compiles: named by `scripts/test`, or beside the tests.
fn binary() -> PathBuf {
    std::env::var_os("EVE_BIN").map_or_else(
        || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("eve"),
        PathBuf::from,
    )
}

impl Api {
    async fn start() -> Self {
        let database = TestDatabase::fresh().await;
        Self::on(database)
    }

    fn on(database: TestDatabase) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let db = database.db.clone();
        let jwt = JwtConfig {
            audience: "authenticated".into(),
            issuer: ISSUER.into(),
            hs256_secret: Some(SECRET.into()),
            jwks_url: None,
        };
        let auth = Authenticator::new(db.clone(), &AuthConfig { jwt: Some(jwt) }).unwrap();
        let signer = Signer::generate();
        let verifier = Verifier::new([signer.public_key().as_str()]).unwrap();
        let io = tokio::runtime::Handle::current();
        let config = RuntimeConfig { max_concurrent: 2, memory_budget: 64 << 20, threads: 1, io };
        let workshop = Workshop {
            exe: binary(),
            signer: Arc::new(signer),
            cache: Arc::new(
                ArtifactCache::open(&cache.path().join("artifacts"), verifier).unwrap(),
            ),
            runtime: Runtime::new(config).unwrap(),
        };
        let requests = Requests::new(db.clone(), Bell::start(db.pool().clone()));
        let uploads = Uploads::new(db.clone(), workshop);
        let shutdown = CancellationToken::new();
        let state = AppState::new(db, requests, auth, uploads, None, shutdown.clone());
        Self { database, router: router(state.clone()), state, shutdown, _cache: cache }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        credential: &str,
        body: Option<Value>,
    ) -> Answer {
        self.call_in(None, method, path, credential, body).await
    }

    async fn call_in(
        &self,
        org: Option<&str>,
        method: Method,
        path: &str,
        credential: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {credential}"));
        if let Some(org) = org {
            request = request.header("Eve-Org", org);
        }
        let request = match body {
            Some(body) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    async fn get(&self, path: &str, credential: &str) -> Answer {
        self.call(Method::GET, path, credential, None).await
    }

    async fn post(&self, path: &str, credential: &str, body: Value) -> Answer {
        self.call(Method::POST, path, credential, Some(body)).await
    }

    /// An organisation and its owner's sign-in token.
    async fn org(&self, slug: &str) -> (Tenant, UserId, String) {
        let tenant = self.database.org(slug).await;
        let owner = self.database.member(tenant, "owner").await;
        (tenant, owner, sign_in(owner))
    }

    /// The platform's skill `echo`, for requests to name.
    async fn echo(&self) {
        let platform = Tenant::proven(crate::tenancy::PLATFORM_ORG);
        let echo = version("echo", "1", 0xec);
        store::push(&self.database.db, platform, &Actor::Platform, &echo, Activation::Activate)
            .await
            .unwrap();
    }

    async fn platform_admin(&self, user: UserId) {
        self.database
            .execute(format!("INSERT INTO eve.platform_admins (user_id) VALUES ('{user}')"))
            .await;
    }

    /// The actions in an organisation's audit log.
    async fn audited(&self, tenant: Tenant) -> Vec<String> {
        sqlx::query_scalar("SELECT action FROM eve.audit_log WHERE org_id = $1 ORDER BY id")
            .bind(tenant.org().0)
            .fetch_all(self.database.db.pool())
            .await
            .unwrap()
    }
}

fn sign_in(user: UserId) -> String {
    let claims = json!({
        "sub": user, "aud": "authenticated", "iss": ISSUER, "exp": get_current_timestamp() + 600,
    });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .unwrap()
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

#[test]
fn the_openapi_document_is_as_published() {
    insta::assert_json_snapshot!("openapi", document());
}

#[test]
fn every_operation_is_documented_and_guarded() {
    let document = serde_json::to_value(document()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{name} has no summary");
            if path.starts_with("/v1/") && path != "/v1/openapi.json" {
                assert_eq!(operation["security"], json!([{ "bearer": [] }]), "{name}");
                for status in ["401", "403", "500", "503"] {
                    assert!(
                        operation["responses"][status]["content"].is_object(),
                        "{name} {status}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn without_a_credential_nothing_is_served_but_meta() {
    let api = Api::start().await;
    let document = serde_json::to_value(document()).unwrap();
    let id = Uuid::now_v7().to_string();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let uri = path
                .replace("{id}", &id)
                .replace("{user_id}", &id)
                .replace("{name}", "x")
                .replace("{version}", "1")
                .replace("{slug}", "x");
            let answer = api.send(request(method.clone(), &uri).body(Body::empty()).unwrap()).await;
            if path.starts_with("/v1/") && path != "/v1/openapi.json" {
                answer.problem(401, "unauthenticated");
                assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer", "{method} {path}");
            } else {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_is_malformed_is_a_problem() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    api.get("/", &ada).await.problem(404, "not-found");
    api.get("/v1/nowhere", &ada).await.problem(404, "not-found");
    api.call(Method::PATCH, "/v1/requests", &ada, None).await.problem(405, "method-not-allowed");
    let wrong_id = api.get("/v1/requests/seven", &ada).await.problem(422, "invalid");
    assert_eq!(wrong_id["field"], "id");
    let id = Uuid::now_v7();
    api.get(&format!("/v1/requests/{id}"), &ada).await.problem(404, "not-found");
    api.get("/v1/requests/%ff", &ada).await.problem(400, "malformed");

    let post = |body: &str, kind: &str| {
        request(Method::POST, "/v1/requests")
            .header(header::AUTHORIZATION, format!("Bearer {ada}"))
            .header(header::CONTENT_TYPE, kind)
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let syntax = api.send(post("{\n  \"worker_type\": general}", "application/json")).await;
    let syntax = syntax.problem(400, "malformed");
    assert_eq!((syntax["line"].as_u64(), syntax["column"].is_u64()), (Some(2), true));
    api.send(post("", "application/json")).await.problem(400, "malformed");
    api.send(post("{}", "text/plain")).await.problem(415, "unsupported-media-type");
    for (body, field) in [
        (json!({}), "worker_type"),
        (json!([]), ""),
        (json!({ "worker_type": 7 }), "worker_type"),
        (json!({ "worker_type": "general", "nonsense": 1 }), "nonsense"),
        (json!({ "worker_type": "general", "blocked_by": ["x"] }), "blocked_by[0]"),
        (json!({ "worker_type": "general", "priority": "high" }), "priority"),
        (json!({ "worker_type": "general", "context": [] }), "context"),
    ] {
        let problem = api.post("/v1/requests", &ada, body.clone()).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let large = json!({ "worker_type": "general", "prompt": "x".repeat(BODY_LIMIT) });
    let large = api.post("/v1/requests", &ada, large).await.problem(413, "too-large");
    assert_eq!(large["limit"], BODY_LIMIT);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("status=done", "status"),
        ("cursor=x", "cursor"),
        ("context=%5B%5D", "context"),
        ("context=%7B", "context"),
        ("context=%7B%22a%22%3A%22%5Cu0000%22%7D", "context"),
        ("colour=red", "colour"),
    ] {
        let problem = api.get(&format!("/v1/requests?{query}"), &ada).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{query}: {problem}");
    }
}

#[tokio::test]
async fn a_request_id_is_taken_over_if_it_is_harmless() {
    let api = Api::start().await;
    let with_id = |id: &str| {
        request(Method::GET, "/healthz").header("x-request-id", id).body(Body::empty()).unwrap()
    };
    assert_eq!(api.send(with_id("trace-7")).await.headers["x-request-id"], "trace-7");
    for odd in ["", "a b", "<script>", &"x".repeat(65)] {
        let id = api.send(with_id(odd)).await.headers["x-request-id"].to_str().unwrap().to_owned();
        assert!(id.parse::<Uuid>().is_ok(), "{odd} became {id}");
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_without_its_message() {
    async fn handler() -> &'static str {
        panic!("the password is swordfish")
    }
    let router = Router::<()>::new()
        .route("/", axum::routing::get(handler))
        .layer(CatchPanicLayer::custom(layers::caught_panic))
        .layer(middleware::from_fn(layers::frame));
    let response =
        router.oneshot(request(Method::GET, "/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains("problems/internal") && !body.contains("swordfish"), "{body}");
}

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

#[tokio::test]
async fn requests_are_created_listed_and_ended() {
    let api = Api::start().await;
    api.echo().await;
    let (_, _, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("other").await;
    let new = json!({ "worker_type": "general", "skill": "echo", "context": { "team": { "name": "x" }, "n": 1 } });
    let created = api.post("/v1/requests", &ada, new.clone()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.json());
    let id = created.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("/v1/requests/{id}"), &ada).await.json()["status"], "pending");
    api.get(&format!("/v1/requests/{id}/result"), &ada).await.problem(404, "result-not-ready");
    api.get(&format!("/v1/results/{id}"), &ada).await.problem(404, "result-not-ready");
    for path in ["", "/result", "/blockers", "/logs", "/watch"] {
        api.get(&format!("/v1/requests/{id}{path}"), &eve).await.problem(404, "not-found");
    }
    for path in ["cancel", "retry"] {
        api.call(Method::POST, &format!("/v1/requests/{id}/{path}"), &eve, None)
            .await
            .problem(404, "not-found");
    }

    let batch = json!({ "requests": [new, { "worker_type": "general", "skill": "echo", "blocked_by": ["#0"] }] });
    let batch = api.post("/v1/requests/batch", &ada, batch).await;
    assert_eq!(batch.status, StatusCode::CREATED, "{}", batch.json());
    let blocked = batch.json()["requests"][1]["id"].as_str().unwrap().to_owned();
    let blockers = api.get(&format!("/v1/requests/{blocked}/blockers"), &ada).await.json();
    assert_eq!(blockers["items"][0]["id"], batch.json()["requests"][0]["id"]);
    let empty = api.post("/v1/requests/batch", &ada, json!({ "requests": [] })).await;
    assert_eq!(empty.problem(422, "invalid")["field"], "requests");

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/v1/requests?limit=2{cursor}"), &ada).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), &seen[2]), (3, &json!(id)));
    let count = |path: String| {
        let api = &api;
        let ada = &ada;
        async move { api.get(&path, ada).await.json()["items"].as_array().unwrap().len() }
    };
    assert_eq!(
        count("/v1/requests?context=%7B%22team%22%3A%7B%22name%22%3A%22x%22%7D%7D".into()).await,
        2
    );
    assert_eq!(count("/v1/requests?status=blocked,failed".into()).await, 1);
    assert_eq!(count(format!("/v1/requests?root={id}")).await, 1);

    let cancel = format!("/v1/requests/{id}/cancel");
    let cancelled = api.post(&cancel, &ada, json!({ "reason": "not needed" })).await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    api.post(&cancel, &ada, json!({})).await.problem(409, "conflict");
    assert_eq!(api.get(&format!("/v1/results/{id}"), &ada).await.json()["status"], "cancelled");
    let retried = api.call(Method::POST, &format!("/v1/requests/{id}/retry"), &ada, None).await;
    assert_eq!((retried.status, &retried.json()["generation"]), (StatusCode::OK, &json!(2)));
}

#[tokio::test]
async fn an_idempotency_key_creates_one_request() {
    let api = Api::start().await;
    api.echo().await;
    let (_, _, ada) = api.org("acme").await;
    let post = |key: &str, body: Value| {
        request(Method::POST, "/v1/requests")
            .header(header::AUTHORIZATION, format!("Bearer {ada}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key)
            .body(Body::from(body.to_string()))
            .unwrap()
    };
    let new = json!({ "worker_type": "general", "skill": "echo" });
    let (first, again) = (api.send(post("k", new.clone())).await, api.send(post("k", new)).await);
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let contradiction = json!({ "worker_type": "general", "idempotency_key": "other" });
    let problem = api.send(post("k", contradiction)).await.problem(422, "invalid");
    assert_eq!(problem["field"], "idempotency_key");
    api.send(post("", json!({ "worker_type": "general" }))).await.problem(422, "invalid");
}

/// The next `request` event of a stream; none at its end.
async fn next_status(
    events: &mut axum::body::BodyDataStream,
    buffer: &mut String,
) -> Option<String> {
    loop {
        if let Some((event, rest)) = buffer.split_once("\n\n") {
            let data =
                event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
            *buffer = rest.to_owned();
            if let Some(data) = data {
                let request: Value = serde_json::from_str(&data).unwrap();
                return Some(request["status"].as_str().unwrap().to_owned());
            }
        } else {
            let chunk = events.next().await?.unwrap();
            buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_request_is_watched_until_it_ends() {
    let api = Api::start().await;
    api.echo().await;
    let (_, _, ada) = api.org("acme").await;
    let watch = async |id: &str| {
        let request = request(Method::GET, &format!("/v1/requests/{id}/watch"))
            .header(header::AUTHORIZATION, format!("Bearer {ada}"))
            .body(Body::empty())
            .unwrap();
        let response = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        (response.into_body().into_data_stream(), String::new())
    };
    let new = json!({ "worker_type": "general", "skill": "echo" });
    let create = async || {
        api.post("/v1/requests", &ada, new.clone()).await.json()["id"].as_str().unwrap().to_owned()
    };
    let id = create().await;
    let (mut events, mut buffer) = watch(&id).await;
    assert_eq!(next_status(&mut events, &mut buffer).await.as_deref(), Some("pending"));
    api.call(Method::POST, &format!("/v1/requests/{id}/cancel"), &ada, None).await;
    assert_eq!(next_status(&mut events, &mut buffer).await.as_deref(), Some("cancelled"));
    assert_eq!(next_status(&mut events, &mut buffer).await, None);
    // One that has ended is told at once.
    let (mut events, mut buffer) = watch(&id).await;
    assert_eq!(next_status(&mut events, &mut buffer).await.as_deref(), Some("cancelled"));
    assert_eq!(next_status(&mut events, &mut buffer).await, None);
    // A shutdown ends streams, and readiness.
    let (mut events, mut buffer) = watch(&create().await).await;
    assert_eq!(next_status(&mut events, &mut buffer).await.as_deref(), Some("pending"));
    api.shutdown.cancel();
    assert_eq!(next_status(&mut events, &mut buffer).await, None);
    api.get("/readyz", &ada).await.problem(503, "unavailable");
}

fn multipart(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let boundary = "----eve-test-boundary";
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

async fn push(api: &Api, credential: &str, path: &str, parts: &[(&str, &[u8])]) -> Answer {
    let (content_type, body) = multipart(parts);
    let request = request(Method::POST, path)
        .header(header::AUTHORIZATION, format!("Bearer {credential}"))
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(body))
        .unwrap();
    api.send(request).await
}

#[tokio::test]
async fn bad_uploads_are_refused_and_change_nothing() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    let bob = sign_in(api.database.member(acme, "member").await);
    let path = "/v1/skills/words/versions";
    let manifest = b"---\nname: other\ndescription: Counts.\n---\n".as_slice();
    let large_manifest = vec![b'x'; crate::skills::upload::MAX_MANIFEST_BYTES + 1];
    let large = vec![0; crate::skills::upload::MAX_COMPONENT_BYTES + 1];
    for (parts, field) in [
        (vec![], "component"),
        (vec![("component", b"".as_slice())], "component"),
        (vec![("manifest", manifest)], "component"),
        (vec![("component", b"x".as_slice()), ("manifest", manifest)], "manifest"),
        (vec![("component", b"x"), ("manifest", b"no front matter")], "manifest"),
        (vec![("component", b"x"), ("manifest", b"\xff")], "manifest"),
        (vec![("component", b"x"), ("component", b"y")], "parts"),
        (vec![("readme", b"x")], "parts"),
    ] {
        let problem = push(&api, &ada, path, &parts).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{problem}");
    }
    for parts in [
        vec![("component", large.as_slice())],
        vec![("component", b"x".as_slice()), ("manifest", &large_manifest)],
    ] {
        push(&api, &ada, path, &parts).await.problem(413, "too-large");
    }
    push(&api, &ada, "/v1/skills/No%20Name/versions", &[("component", b"x")])
        .await
        .problem(422, "invalid");
    api.post(path, &ada, json!({})).await.problem(415, "unsupported-media-type");
    push(&api, &bob, path, &[("component", b"x")]).await.problem(403, "forbidden");
    push(&api, &ada, &format!("{path}?platform=true"), &[("component", b"x")])
        .await
        .problem(403, "forbidden");
    let cut_off = request(Method::POST, path)
        .header(header::AUTHORIZATION, format!("Bearer {ada}"))
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=b")
        .body(Body::from("--b\r\nContent-Disposition: form-data; name=\"component\"\r\n\r\nabc"))
        .unwrap();
    api.send(cut_off).await.problem(400, "malformed");
    assert_eq!(api.get("/v1/skills", &ada).await.json()["items"], json!([]));
    assert!(api.audited(acme).await.is_empty());
}

#[tokio::test]
async fn what_is_no_component_is_refused_by_the_compiler() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let module = wat::parse_str("(module)").unwrap();
    for component in [b"not wasm at all".as_slice(), &module] {
        let answer =
            push(&api, &ada, "/v1/skills/words/versions", &[("component", component)]).await;
        assert_eq!(answer.problem(422, "invalid")["field"], "component");
    }
}

fn version(name: &str, label: &str, content: u8) -> NewVersion {
    NewVersion {
        name: name.into(),
        description: "Counts words.".into(),
        version: label.into(),
        sha256: [content; 32],
        size_bytes: 3,
        packed_wasm: zstd::bulk::compress(b"abc", 3).unwrap(),
        manifest: json!({ "description": format!("Counts words, {label}.") }),
        readme: "# Words".into(),
        imports: vec!["eve:skill/queue@0.1.0".into()],
        capabilities: vec!["queue".into()],
        artifact: NewArtifact {
            fingerprint: "engine".into(),
            packed: vec![1, 2, 3],
            length: 9,
            sha256: [content; 32],
            signature: [7; 64],
        },
    }
}

#[tokio::test]
async fn versions_are_pushed_activated_and_deleted() {
    let api = Api::start().await;
    let (acme, owner, ada) = api.org("acme").await;
    let (other, _, eve) = api.org("other").await;
    let (db, actor) = (&api.database.db, Actor::User { user: owner });
    let push =
        async |new: NewVersion, activation| store::push(db, acme, &actor, &new, activation).await;

    assert!(
        matches!(push(version("words", "1", 0xa1), Activation::Activate).await.unwrap(), Pushed::Created(v) if v.active)
    );
    assert!(matches!(
        push(version("words", "1", 0xa1), Activation::Keep).await.unwrap(),
        Pushed::Existing(_)
    ));
    assert!(push(version("words", "1", 0xb2), Activation::Activate).await.is_err());
    assert!(
        matches!(push(version("words", "2", 0xb2), Activation::Keep).await.unwrap(), Pushed::Created(v) if !v.active)
    );

    let shown = api.get("/v1/skills/words", &ada).await.json();
    assert_eq!((&shown["active_version"], &shown["owner"]), (&json!("1"), &json!("org")));
    assert_eq!(
        (&shown["versions"][0]["version"], &shown["readme"]),
        (&json!("2"), &json!("# Words"))
    );
    let activate = |version: &str| {
        api.call(
            Method::POST,
            &format!("/v1/skills/words/versions/{version}/activate").leak()[..],
            &ada,
            None,
        )
    };
    assert_eq!(activate("b2b2b2b2").await.json()["active"], true);
    assert_eq!(api.get("/v1/skills/words", &ada).await.json()["description"], "Counts words, 2.");
    activate("b2b2b2b").await.problem(404, "not-found");
    activate("3").await.problem(404, "not-found");
    assert_eq!(activate("1").await.json()["version"], "1");

    // Nobody else's; unless it is the platform's.
    api.get("/v1/skills/words", &eve).await.problem(404, "not-found");
    let platform = Tenant::proven(crate::tenancy::PLATFORM_ORG);
    store::push(db, platform, &Actor::Platform, &version("echo", "1", 0xc3), Activation::Activate)
        .await
        .unwrap();
    assert_eq!(api.get("/v1/skills/echo", &eve).await.json()["owner"], "platform");
    api.call(Method::DELETE, "/v1/skills/echo", &eve, None).await.problem(404, "not-found");
    api.call(Method::DELETE, "/v1/skills/echo?platform=true", &eve, None)
        .await
        .problem(403, "forbidden");
    store::push(db, other, &Actor::Platform, &version("echo", "mine", 0xd4), Activation::Activate)
        .await
        .unwrap();
    assert_eq!(api.get("/v1/skills/echo", &eve).await.json()["active_version"], "mine");

    assert_eq!(
        api.call(Method::DELETE, "/v1/skills/words", &ada, None).await.status,
        StatusCode::NO_CONTENT
    );
    api.get("/v1/skills/words", &ada).await.problem(404, "not-found");
    let artifacts: i64 = sqlx::query_scalar("SELECT count(*) FROM eve.artifacts WHERE org_id = $1")
        .bind(acme.org().0)
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(artifacts, 0);
    let expected = [
        "skill.push",
        "skill.activate",
        "skill.push",
        "skill.activate",
        "skill.activate",
        "skill.delete",
    ];
    assert_eq!(api.audited(acme).await, expected);
}

#[tokio::test]
async fn of_two_uploads_of_one_label_one_wins() {
    let api = Api::start().await;
    let (acme, owner, _) = api.org("acme").await;
    let (db, actor) = (&api.database.db, Actor::User { user: owner });
    let push = async |content| {
        store::push(db, acme, &actor, &version("words", "1", content), Activation::Activate).await
    };
    let (a, b, c) = tokio::join!(push(1), push(2), push(3));
    let won =
        [&a, &b, &c].iter().filter(|outcome| matches!(outcome, Ok(Pushed::Created(_)))).count();
    let told = [&a, &b, &c]
        .iter()
        .filter(|outcome| matches!(outcome, Err(store::SkillError::Conflict(_))))
        .count();
    assert_eq!((won, told), (1, 2), "{a:?} {b:?} {c:?}");
    let (a, b) = tokio::join!(push(9), push(9));
    assert!(a.is_err() && b.is_err());
}

#[tokio::test]
async fn artifacts_come_back_as_they_were_stored() {
    let api = Api::start().await;
    let (acme, owner, _) = api.org("acme").await;
    let db = &api.database.db;
    let Pushed::Created(stored) = store::push(
        db,
        acme,
        &Actor::User { user: owner },
        &version("words", "1", 0xa1),
        Activation::Activate,
    )
    .await
    .unwrap() else {
        panic!("it is new")
    };
    let mut tx = db.begin(crate::db::Scope::Engine).await.unwrap();
    let artifact = store::artifact(&mut tx, stored.id, "engine").await.unwrap().unwrap();
    let claim = artifact.claim("engine").unwrap();
    assert_eq!((artifact.bytes, claim.signature), (vec![1, 2, 3], [7; 64]));
    assert_eq!((claim.statement.wasm_sha256, claim.statement.artifact_len), ([0xa1; 32], 9));
    assert!(store::artifact(&mut tx, stored.id, "another engine").await.unwrap().is_none());
    assert_eq!(store::wasm(&mut tx, stored.id).await.unwrap().unwrap(), b"abc");
}

#[tokio::test]
async fn metrics_count_pending_requests_by_worker_type() {
    let api = Api::start().await;
    api.echo().await;
    let (_, _, ada) = api.org("acme").await;
    for _ in 0..3 {
        api.post("/v1/requests", &ada, json!({ "worker_type": "general", "skill": "echo" })).await;
    }
    let text = String::from_utf8(api.get("/metrics", &ada).await.body).unwrap();
    assert!(text.contains("eve_pending_requests{worker_type=\"general\"} 3"), "{text}");
    assert!(text.contains("eve_pending_requests{worker_type=\"deployment\"} 0"), "{text}");
}

#[tokio::test]
async fn readiness_needs_a_schema_that_is_known() {
    let api = Api::on(TestDatabase::empty().await);
    let problem = api.get("/readyz", "").await.problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("eve migrate"));
    crate::db::migrate(api.database.db.pool()).await.unwrap();
    assert_eq!(api.get("/readyz", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_its_database_the_api_says_when_to_come_back() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    api.database.db.pool().close().await;
    let answer = api.get("/v1/requests", &ada).await;
    answer.problem(503, "unavailable");
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    api.get("/readyz", &ada).await.problem(503, "unavailable");
    assert_eq!(api.get("/healthz", &ada).await.status, StatusCode::OK);
    assert!(
        String::from_utf8(api.get("/metrics", &ada).await.body)
            .unwrap()
            .contains("eve_database_up 0")
    );
}

#[tokio::test]
async fn a_server_drains_and_stops() {
    let api = Api::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, api.state.clone(), CancellationToken::new()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{address}/healthz")).await.unwrap();
    assert_eq!(answer.status(), 200);
    api.shutdown.cancel();
    server.await.unwrap().unwrap();
    assert!(reqwest::get(format!("http://{address}/healthz")).await.is_err());
}
