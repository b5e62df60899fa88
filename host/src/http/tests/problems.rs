//! What cannot be answered is a problem document, without our insides.

use super::*;

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
