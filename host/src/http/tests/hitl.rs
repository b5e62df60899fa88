//! Questions over HTTP.

use super::*;

#[tokio::test]
async fn a_question_is_asked_listed_and_answered() {
    let api = Api::start().await;
    let (_, ada_id, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("other").await;
    let ask =
        json!({ "question": "Promote?", "options": ["yes", "no"], "expires_in_ms": 3_600_000 });
    let asked = api.post("/v1/hitl", &ada, ask).await;
    assert_eq!(asked.status, StatusCode::CREATED, "{}", asked.json());
    let asked = asked.json();
    assert_eq!((&asked["status"], &asked["request_id"]), (&json!("open"), &Value::Null));
    assert_eq!(asked["created_by"], json!({ "via": "user", "user": ada_id }));
    let path = format!("/v1/hitl/{}", asked["id"].as_str().unwrap());
    assert_eq!(api.get(&path, &ada).await.json(), asked);

    let respond = format!("{path}/respond");
    let maybe = api.post(&respond, &ada, json!({ "response": "maybe" })).await;
    assert_eq!(maybe.problem(422, "invalid")["field"], "response");
    let nothing = api.post(&respond, &ada, json!({})).await;
    assert_eq!(nothing.problem(422, "invalid")["field"], "response");
    api.get(&path, &eve).await.problem(404, "not-found");
    api.post(&respond, &eve, json!({ "response": "yes" })).await.problem(404, "not-found");
    let answered = api.post(&respond, &ada, json!({ "response": "yes" })).await.json();
    assert_eq!((&answered["status"], &answered["response"]), (&json!("answered"), &json!("yes")));
    assert_eq!(answered["responded_by"]["user"], json!(ada_id));
    api.post(&respond, &ada, json!({ "response": "no" })).await.problem(409, "conflict");

    for n in 0..3 {
        api.post("/v1/hitl", &ada, json!({ "question": format!("{n}?") })).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/v1/hitl?limit=2{cursor}"), &ada).await.json();
        let questions = page["items"].as_array().unwrap().iter();
        seen.extend(questions.map(|item| item["question"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["2?", "1?", "0?", "Promote?"]);
    let open = api.get("/v1/hitl?status=open,expired", &ada).await.json();
    assert_eq!(open["items"].as_array().unwrap().len(), 3);
    let none = api.get("/v1/hitl", &eve).await.json();
    assert_eq!(none, json!({ "items": [], "next_cursor": null }));
}

#[tokio::test]
async fn nonsense_about_questions_is_refused() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    for (body, field) in [
        (json!({}), "question"),
        (json!({ "question": "" }), "question"),
        (json!({ "question": "?", "optoins": [] }), "optoins"),
        (json!({ "question": "?", "options": ["a", "a"] }), "options"),
        (json!({ "question": "?", "details": [] }), "details"),
        (json!({ "question": "?", "expires_in_ms": 1 }), "expires_in_ms"),
        (json!({ "question": "?", "request_id": Uuid::now_v7() }), "request_id"),
        (json!({ "question": "?", "request_id": "x" }), "request_id"),
    ] {
        let problem = api.post("/v1/hitl", &ada, body).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{problem}");
    }
    for (query, field) in [("status=done", "status"), ("limit=0", "limit"), ("cursor=x", "cursor")]
    {
        let problem = api.get(&format!("/v1/hitl?{query}"), &ada).await.problem(422, "invalid");
        assert_eq!(problem["field"], field);
    }
    let nowhere = format!("/v1/hitl/{}", Uuid::now_v7());
    api.get(&nowhere, &ada).await.problem(404, "not-found");
    let answer = json!({ "response": 1 });
    api.post(&format!("{nowhere}/respond"), &ada, answer).await.problem(404, "not-found");

    // Tokens that may only read do not answer.
    let token = json!({ "name": "reader", "scopes": ["requests:read"] });
    let token = api.post("/v1/tokens", &ada, token).await.json();
    let reader = token["token"].as_str().unwrap_or_else(|| panic!("{token}"));
    assert_eq!(api.get("/v1/hitl", reader).await.status, StatusCode::OK);
    api.post("/v1/hitl", reader, json!({ "question": "?" })).await.problem(403, "forbidden");
    api.post(&format!("{nowhere}/respond"), reader, json!({ "response": 1 }))
        .await
        .problem(403, "forbidden");
}
