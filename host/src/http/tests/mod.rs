//! The API as a client sees it: the whole router on a real database.

mod coverage;
mod environments;
mod grants;
mod hitl;
mod kube;
mod meta;
mod problems;
mod rates;
mod requests;
mod schedules;
mod skills;
mod tenancy;
mod uploads;

use std::path::PathBuf;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use futures::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use super::rates::{RateLimits, Rates};
use super::*;
use crate::autoscaling::counts::Counter;
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
    headers: http::HeaderMap,
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
        Self::compiling_by(database, binary())
    }

    /// With another program in the compiler's place.
    fn compiling_by(database: TestDatabase, exe: PathBuf) -> Self {
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
            exe,
            signer: Arc::new(signer),
            cache: Arc::new(
                ArtifactCache::open(&cache.path().join("artifacts"), verifier).unwrap(),
            ),
            runtime: Runtime::new(config).unwrap(),
        };
        let requests = Requests::new(db.clone(), Bell::start(db.pool().clone()));
        let uploads = Uploads::new(db.clone(), workshop);
        let shutdown = CancellationToken::new();
        let schemas = Schemas::none(db.clone());
        let rates = RateLimits::off();
        let deployments = Deployments::new(db.clone(), requests.bell.clone(), None);
        let counter = Counter::new(db.clone());
        let started = CancellationToken::new();
        started.cancel();
        let parts =
            Parts { requests, auth, uploads, schemas, deployments, counter, started, rates };
        let state = AppState::new(db, parts, None, shutdown.clone());
        Self { database, router: router(state.clone()), state, shutdown, _cache: cache }
    }

    /// The same API with other limits.
    fn limited(mut self, rates: Rates) -> Self {
        self.state.rates = rates;
        self.router = router(self.state.clone());
        self
    }

    /// The same API with something that has yet to start, which is cancelled when it has.
    fn starting(mut self) -> (Self, CancellationToken) {
        let started = CancellationToken::new();
        self.state.started = started.clone();
        self.router = router(self.state.clone());
        (self, started)
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
        let echo = skills::version("echo", "1", 0xec);
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

fn request(method: Method, path: &str) -> http::request::Builder {
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
                assert!(operation["security"][0]["bearer"].is_array(), "{name}");
                for status in ["401", "403", "429", "500", "503"] {
                    assert!(
                        operation["responses"][status]["content"].is_object(),
                        "{name} {status}"
                    );
                }
                for status in ["429", "503"] {
                    let headers = &operation["responses"][status]["headers"];
                    assert!(headers["Retry-After"].is_object(), "{name} {status}");
                }
            }
        }
    }
}
