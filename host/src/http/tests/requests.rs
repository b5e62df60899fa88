//! Requests over HTTP, and watching them.

use super::*;

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

#[tokio::test]
async fn a_tree_and_its_usage_are_shown_to_their_organisation() {
    use crate::testing::past::Stands;

    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("other").await;
    let top = api.database.alone(acme, 1, Stands::Open("waiting")).await;
    let child = api.database.below(acme, &top, 1, Stands::Ended("completed", 1)).await;
    let path = format!("/v1/requests/{}", top.id);

    let shown = api.get(&path, &ada).await.json();
    assert_eq!((&shown["id"], &shown["status"]), (&json!(top.id), &json!("waiting")));
    let usage = &shown["usage"];
    assert_eq!((&usage["requests"], &usage["runs"]), (&json!(2), &json!(3)), "{usage}");
    assert_eq!((&usage["duration_us"], &usage["tokens_used"]), (&json!(4_000), &json!(100)));
    let listed = api.get("/v1/requests", &ada).await.json();
    assert!(listed["items"][0].get("usage").is_none(), "a list stays cheap: {listed}");

    let tree = api.get(&format!("{path}/tree"), &ada).await.json();
    assert_eq!(tree["requests"][1]["id"], json!(child.id), "{tree}");
    assert_eq!(tree["requests"][1]["parent_request_id"], json!(top.id));
    assert_eq!(tree["usage"], *usage);
    api.get(&format!("{path}/tree"), &eve).await.problem(404, "not-found");
    api.get(&path, &eve).await.problem(404, "not-found");
}
