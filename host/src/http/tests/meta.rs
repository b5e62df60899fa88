//! What operators ask: metrics, readiness, shutdown.

use tokio::net::TcpListener;

use super::*;

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
async fn readiness_waits_for_what_is_asked_elsewhere() {
    let (api, started) = Api::start().await.starting();
    let problem = api.get("/readyz", "").await.problem(503, "unavailable");
    assert_eq!(problem["detail"], "external metrics are not served yet");
    assert_eq!(api.get("/healthz", "").await.status, StatusCode::OK);
    started.cancel();
    assert_eq!(api.get("/readyz", "").await.status, StatusCode::OK);
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
