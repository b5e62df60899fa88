//! The whole command line as a newcomer reads it, answers as people see them, and the client against
//! a server that misbehaves. The server is a real one that serves prepared answers: what is tested
//! here is how the client takes them. The product's own server is tested end to end elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::client::Client;
use super::output::Render;
use super::output::tests::view;
use super::request::watch::{Patience, until_terminal};
use super::{Command, Error, Exit, Globals, Server};
use crate::requests::{Request, RequestDetails, RequestResult, Status};

const ID: &str = "01990000-0000-7000-8000-000000000001";

#[derive(Parser)]
#[command(name = "eve", about = "Runs skills on a queue of requests")]
struct Cli {
    #[command(flatten)]
    _globals: Globals,
    #[command(subcommand)]
    command: Command,
}

fn request(status: &str) -> Value {
    json!({
        "id": ID, "status": status, "worker_type": "general", "skill": "echo",
        "prompt": "Say hello to everybody who reads this, and then say it again, and once more",
        "context": {"text": "hello"}, "repo_url": null, "branch": null, "config": {},
        "metadata": {}, "priority": 0, "max_attempts": 3, "timeout_ms": null, "attempt": 1,
        "generation": 1, "run_at": null, "open_blockers": 0, "worker_id": null,
        "parent_request_id": null, "root_request_id": ID, "user_id": null,
        "created_at": "2026-03-01T11:57:00Z", "started_at": "2026-03-01T11:57:01Z",
        "finished_at": null, "error": null, "summary": null,
    })
}

fn rendered<T: Render + serde::de::DeserializeOwned>(answer: Value) -> String {
    serde_json::from_value::<T>(answer).expect("an answer").render(&view())
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_reads_well() {
    fn collect(command: &mut clap::Command, path: &str, text: &mut String) {
        let help = command.render_long_help().to_string();
        // The global options are the same everywhere: once is enough.
        let help = match help.split_once("Global options:\n") {
            Some((before, after)) if path.contains(' ') => {
                let rest =
                    after.split_once("answers and errors only\n").map_or("", |(_, rest)| rest);
                format!("{before}{}", rest.trim_start())
            }
            _ => help,
        };
        text.push_str(&format!("$ {path} --help\n{help}\n"));
        let names: Vec<_> =
            command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names.iter().filter(|name| *name != "help") {
            if let Some(sub) = command.find_subcommand_mut(name) {
                collect(sub, &format!("{path} {name}"), text);
            }
        }
    }
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::new();
    collect(&mut command, "eve", &mut text);
    let text: Vec<_> = text.lines().map(str::trim_end).collect();
    insta::assert_snapshot!("help", text.join("\n"));
}

#[test]
fn the_brief_commands_parse() {
    let lines: [&[&str]; 4] = [
        &[
            "eve",
            "request",
            "create",
            "--worker-type",
            "deployment",
            "--prompt",
            "Deploy api-service:v1.2.3 to staging",
            "--blocked-by",
            ID,
            "--context",
            r#"{"app": "api-service", "env": "staging", "image": "v1.2.3"}"#,
            "--reply-to-orchestrator",
        ],
        &[
            "eve",
            "request",
            "pipeline",
            "--tasks",
            r#"[{"worker_type": "general"}]"#,
            "--context",
            r#"{"app": "api-service"}"#,
            "--reply-to-orchestrator",
        ],
        &["eve", "request", "list", "--status", "pending,blocked", "--context-filter", "{}"],
        &["eve", "result", "get", ID, "--output", "json"],
    ];
    for line in lines {
        if let Err(error) = Cli::try_parse_from(line) {
            panic!("{line:?}: {error}");
        }
    }
}

/// A request with what its tree has used.
fn details(mut request: Value) -> Value {
    request["usage"] = json!({
        "requests": 3, "runs": 4, "duration_us": 1_230_000, "cpu_us": 35_000, "truncated": false,
        "memory_peak_bytes": 12 << 20, "tokens_used": 1_200, "cost": 0.02,
    });
    request
}

#[test]
fn a_request_for_people() {
    insta::assert_snapshot!(rendered::<RequestDetails>(details(request("processing"))), @r#"
    id:           01990000-0000-7000-8000-000000000001
    status:       processing
    worker type:  general
    skill:        echo
    prompt:       Say hello to everybody who reads this, and then say it again, and once more
    context:      {
                    "text": "hello"
                  }
    attempt:      1 of 3
    created:      2026-03-01 11:57:00 UTC (3m ago)
    started:      2026-03-01 11:57:01 UTC (2m ago)
    used:         3 requests, 4 runs, 1.2 s, CPU 35 ms, 1,200 tokens, $0.02, memory 12.0 MiB
    "#);
    let mut failed = request("failed");
    failed["error"] = json!({"code": "timed_out", "message": "took longer than 300 s\u{1b}[31m"});
    failed["finished_at"] = json!("2026-03-01T11:58:00Z");
    insta::assert_snapshot!(rendered::<RequestDetails>(details(failed)), @r#"
    id:           01990000-0000-7000-8000-000000000001
    status:       failed
    worker type:  general
    skill:        echo
    prompt:       Say hello to everybody who reads this, and then say it again, and once more
    context:      {
                    "text": "hello"
                  }
    error:        took longer than 300 s�[31m (timed_out)
    attempt:      1 of 3
    created:      2026-03-01 11:57:00 UTC (3m ago)
    started:      2026-03-01 11:57:01 UTC (2m ago)
    finished:     2026-03-01 11:58:00 UTC (2m ago)
    used:         3 requests, 4 runs, 1.2 s, CPU 35 ms, 1,200 tokens, $0.02, memory 12.0 MiB
    "#);
}

#[test]
fn a_table_of_requests_fits_the_terminal() {
    let requests = ["pending", "completed", "cancelled"].map(request);
    let created = json!({ "requests": requests });
    insta::assert_snapshot!(rendered::<crate::http::CreatedBatch>(created), @r#"
    ID                                    STATUS     WORKER TYPE  SKILL  AGE  ABOUT
    01990000-0000-7000-8000-000000000001  pending    general      echo   3m   Say hello to everybody…
    01990000-0000-7000-8000-000000000001  completed  general      echo   3m   Say hello to everybody…
    01990000-0000-7000-8000-000000000001  cancelled  general      echo   3m   Say hello to everybody…
    "#);
}

#[test]
fn a_result_for_people() {
    let result = json!({
        "request_id": ID, "status": "completed", "generation": 1, "summary": "2 words",
        "data": {"words": 2}, "error": null, "tokens_used": null, "cost": null, "attempt": 1,
        "started_at": "2026-03-01T11:57:01Z", "finished_at": "2026-03-01T11:57:02Z",
        "duration_us": 1234, "cpu_us": 800, "memory_peak_bytes": 1_114_112,
    });
    insta::assert_snapshot!(rendered::<RequestResult>(result), @r#"
    request:      01990000-0000-7000-8000-000000000001
    status:       completed
    summary:      2 words
    data:         {
                    "words": 2
                  }
    duration:     1.2 ms
    cpu:          0.8 ms
    peak memory:  1.1 MiB
    finished:     2026-03-01 11:57:02 UTC (2m ago)
    "#);
}

/// Serves a router on a free port for as long as the test's runtime lives.
async fn serve(router: Router) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Client::new(Server::at(&url)).expect("a client")
}

fn event(status: &str) -> String {
    format!("event: request\ndata: {}\n\n", request(status))
}

/// A watch endpoint whose first connections get these answers, and every later one the last.
fn watching(answers: Vec<(StatusCode, String)>) -> (Router, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let answer = move || {
        let index = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let (status, body) = answers[index].clone();
        async move { (status, [("content-type", "text/event-stream")], body).into_response() }
    };
    (Router::new().route("/v1/requests/{id}/watch", get(answer)), connections)
}

fn hasty() -> Patience {
    Patience {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        give_up: Duration::from_secs(20),
        silence: Duration::from_secs(20),
    }
}

async fn watch(client: &Client, patience: &Patience) -> (Result<Request, Error>, Vec<Status>) {
    let mut seen = Vec::new();
    let done = until_terminal(client, ID.parse().expect("an id"), patience, |request| {
        seen.push(request.status);
        Ok(())
    });
    (done.await, seen)
}

#[tokio::test]
async fn a_watch_survives_lost_connections_and_tells_every_change_once() {
    let (router, connections) = watching(vec![
        (StatusCode::OK, event("pending")),
        (StatusCode::SERVICE_UNAVAILABLE, "restarting".into()),
        (StatusCode::OK, format!("{}{}", event("pending"), event("processing"))),
        (StatusCode::OK, format!(": keep-alive\n\n{}", event("processing"))),
        (StatusCode::OK, event("completed")),
    ]);
    let (done, seen) = watch(&serve(router).await, &hasty()).await;
    assert_eq!(done.expect("completed").status, Status::Completed);
    assert_eq!(seen, [Status::Pending, Status::Processing, Status::Completed]);
    assert_eq!(connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_watch_gives_up_when_the_server_stays_away() {
    let (router, _) = watching(vec![
        (StatusCode::OK, event("pending")),
        (StatusCode::BAD_GATEWAY, "nobody home".into()),
    ]);
    let patience = Patience { give_up: Duration::from_millis(50), ..hasty() };
    let (done, _) = watch(&serve(router).await, &patience).await;
    let error = done.expect_err("gave up");
    assert!(matches!(error, Error::GaveUp { .. }), "{error:?}");
    assert_eq!(error.exit(), Exit::Unreachable);
}

#[tokio::test]
async fn a_watch_of_what_does_not_exist_ends_at_once() {
    let problem = json!({
        "type": "https://eve-horizon.dev/problems/not-found", "title": "Not found", "status": 404,
        "detail": "there is no such request",
    });
    let (router, connections) = watching(vec![(StatusCode::NOT_FOUND, problem.to_string())]);
    let (done, _) = watch(&serve(router).await, &hasty()).await;
    assert_eq!(done.expect_err("not found").exit(), Exit::NotFound);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let (router, connections) = watching(vec![(StatusCode::BAD_GATEWAY, String::new())]);
    let (done, _) = watch(&serve(router).await, &hasty()).await;
    assert_eq!(done.expect_err("never there").exit(), Exit::Unreachable);
    assert_eq!(connections.load(Ordering::SeqCst), 1, "no patience without any contact");
}

#[tokio::test]
async fn answers_that_are_not_ours_are_told_apart() {
    let router = Router::new()
        .route("/v1/me", get(async || "<html>hello</html>"))
        .route("/v1/orgs", get(async || axum::response::Redirect::permanent("https://other/")));
    let client = serve(router).await;
    let error = client.get::<Value>(&["me"]).await.expect_err("HTML");
    assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
    assert!(error.cause().is_some_and(|cause| cause.contains("<html>")), "{error:?}");
    let error = client.get::<Value>(&["orgs"]).await.expect_err("a redirect");
    assert!(error.cause().is_some_and(|cause| cause.contains("https://other/")), "{error:?}");
    let error = client.get::<Value>(&["nothing"]).await.expect_err("nothing there");
    assert_eq!(error.exit(), Exit::NotFound);
}

#[tokio::test]
async fn an_upload_arrives_whole() {
    use axum::extract::{DefaultBodyLimit, Request};
    let upload = async |request: Request| {
        let length = request.headers().get("content-length").cloned();
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.expect("a body");
        axum::Json(json!({ "length": body.len(), "announced": length.is_some() }))
    };
    let router = Router::new()
        .route("/v1/skills/{name}/versions", axum::routing::post(upload))
        .layer(DefaultBodyLimit::disable());
    let client = serve(router).await;
    let part = reqwest::multipart::Part::bytes(vec![7; 3_000_000]);
    let form = reqwest::multipart::Form::new().part("component", part);
    let answer: Value =
        client.upload(&["skills", "echo", "versions"], &[], form).await.expect("an answer");
    assert!(answer["length"].as_u64().is_some_and(|length| length > 3_000_000));
    assert_eq!(answer["announced"], true);
}
