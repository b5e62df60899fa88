//! Schedules over HTTP.

use super::*;

#[tokio::test]
async fn a_schedule_is_made_paused_resumed_and_deleted() {
    let api = Api::start().await;
    api.echo().await;
    let (tenant, _, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("other").await;
    let new = json!({
        "name": "standup", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin",
        "request": { "worker_type": "general", "skill": "echo", "prompt": "Good morning" },
    });
    let made = api.post("/v1/schedules", &ada, new.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.json());
    let made = made.json();
    assert_eq!((&made["overlap"], &made["paused"]), (&json!("skip"), &json!(false)));
    assert_eq!(made["upcoming"].as_array().map(Vec::len), Some(3));
    assert_eq!(made["next_at"], made["upcoming"][0]);
    assert_eq!(api.get("/v1/schedules/standup", &ada).await.json(), made);
    api.post("/v1/schedules", &ada, new.clone()).await.problem(409, "conflict");
    // Names are an organisation's own.
    assert_eq!(api.post("/v1/schedules", &eve, new).await.status, StatusCode::CREATED);

    let call = |verb: &str| format!("/v1/schedules/standup/{verb}");
    let paused = api.call(Method::POST, &call("pause"), &ada, None).await.json();
    assert_eq!((&paused["paused"], &paused["next_at"]), (&json!(true), &Value::Null));
    let resumed = api.call(Method::POST, &call("resume"), &ada, None).await.json();
    assert_eq!((&resumed["paused"], &resumed["next_at"]), (&json!(false), &made["next_at"]));

    for n in 0..3 {
        let request = json!({ "worker_type": "general", "skill": "echo" });
        let new = json!({ "name": format!("s{n}"), "cron": "@daily", "request": request });
        api.post("/v1/schedules", &ada, new).await;
    }
    let page = api.get("/v1/schedules?limit=3", &ada).await.json();
    let rest = format!("/v1/schedules?cursor={}", page["next_cursor"].as_str().unwrap());
    let rest = api.get(&rest, &ada).await.json();
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&page), ["s2", "s1", "s0"]);
    assert_eq!((names(&rest), &rest["next_cursor"]), (vec!["standup".to_owned()], &Value::Null));

    let gone = api.call(Method::DELETE, "/v1/schedules/standup", &ada, None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    for (method, path) in [
        (Method::GET, "/v1/schedules/standup".to_owned()),
        (Method::DELETE, "/v1/schedules/standup".to_owned()),
        (Method::POST, call("pause")),
        (Method::POST, call("resume")),
        (Method::GET, "/v1/schedules/%00".to_owned()),
    ] {
        api.call(method, &path, &ada, None).await.problem(404, "not-found");
    }
    assert_eq!(api.get("/v1/schedules/standup", &eve).await.status, StatusCode::OK);
    let audited = api.audited(tenant).await;
    let changes: Vec<&str> =
        audited.iter().filter_map(|action| action.strip_prefix("schedule.")).take(3).collect();
    assert_eq!(changes, ["create", "pause", "resume"]);
}

#[tokio::test]
async fn nonsense_about_schedules_is_refused() {
    let api = Api::start().await;
    api.echo().await;
    let (_, _, ada) = api.org("acme").await;
    for (name, value, field) in [
        ("cron", json!("every day"), "cron"),
        ("timezone", json!("Mars/Olympus"), "timezone"),
        ("overlap", json!("queue"), "overlap"),
        ("name", json!("A B"), "name"),
        ("seconds", json!(true), "seconds"),
        ("request", json!({ "worker_type": "general", "delay_ms": 5 }), "request.delay_ms"),
        ("request", json!({ "worker_type": "nope" }), "request.worker_type"),
        ("request", json!({ "worker_type": "general", "promt": "x" }), "request.promt"),
    ] {
        let mut new = json!({
            "name": "x", "cron": "@daily", "request": { "worker_type": "general", "skill": "echo" },
        });
        new[name] = value;
        let problem = api.post("/v1/schedules", &ada, new).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{problem}");
    }
    let token = json!({ "name": "reader", "scopes": ["requests:read"] });
    let token = api.post("/v1/tokens", &ada, token).await.json();
    let reader = token["token"].as_str().unwrap_or_else(|| panic!("{token}"));
    assert_eq!(api.get("/v1/schedules", reader).await.status, StatusCode::OK);
    let pause = api.call(Method::POST, "/v1/schedules/x/pause", reader, None).await;
    pause.problem(403, "forbidden");
}
