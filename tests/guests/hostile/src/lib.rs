//! Misbehaves in the way that the context's `do` names, and otherwise does what tests need done.
//!
//! Built for wasm32-unknown-unknown (`hostile`) and for wasm32-wasip2 (`hostile-wasi`); what only
//! the latter can do is marked WASI, and fails for good in the former.
//!
//! | `do` | what happens | further fields |
//! |---|---|---|
//! | `noop` | completes; the default | |
//! | `describe` | completes with every getter of `request` as data | |
//! | `look` | completes with `get`, `result`, `children`, `blockers` of a request | `id` |
//! | `loop` | spins for ever | |
//! | `spin` | spins, then completes; in `hostile` about that long, having no clock | `spin_ms` |
//! | `sleep-busy` | asks the host the same thing for ever | |
//! | `sleep` | sleeps, then completes (WASI) | `ms`, an hour if absent |
//! | `allocate` | takes memory until there is none, and aborts | |
//! | `allocate-gently` | the same, but completes with the MiB that it got | |
//! | `recurse` | overflows its stack | |
//! | `recurse-in-memory` | overflows the stack that the compiler keeps in linear memory | |
//! | `trap` | executes `unreachable` | |
//! | `panic` | panics with a message | |
//! | `print`, `print-error` | prints (WASI) | `lines`, for ever if absent |
//! | `log` | logs | `lines`, for ever if absent |
//! | `big-log` | logs one line that is too long | `bytes` |
//! | `fail-retryable`, `fail-permanent` | fails | |
//! | `fail-until` | fails retryably before this attempt | `attempt` |
//! | `waiting` | creates replying children, waits, and completes when all have ended | `create`; `tokens`, `cost` |
//! | `spend` | completes, and says what it has used | `tokens`, `cost` |
//! | `create` | creates requests, then spins | `create`, `skill`, `to`, `reply`, `key`, `spin_ms`: 0 if absent |
//! | `create-then-trap`, `create-then-fail`, `create-then-loop` | the same, and does not survive it | the same |
//! | `create-raw` | one request with this text as its context; completes with the error, if any | `raw` |
//! | `cancel` | cancels a request; completes with the error, if any | `cancel` |
//! | `shout` | passes a text to the named argument of a host function; completes with the error, if any | `to`: `log.message`, `queue.create.prompt`, …; `bytes`, 1 MiB and 1 if absent |
//! | `bulk` | fills and copies its memory for ever | |
//! | `big-output` | completes with a string as data | `bytes`, 2 MiB if absent |
//! | `big-summary` | completes with a long summary | `bytes` |
//! | `invalid-json`, `nul-output`, `invalid-cost`, `invalid-utf8` | completes with an output that is not valid | |
//!
//! A `key` makes creating idempotent: `KEY-0`, `KEY-1`, ...
//! `create`, `cancel` and `spin_ms` also choose what is done when there is no `do`.
#![cfg(target_arch = "wasm32")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eve_sdk::__export;
use eve_sdk::bindings::eve::skill::{queue as raw_queue, types};
use eve_sdk::prelude::*;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Orders {
    r#do: Option<String>,
    create: Option<u32>,
    cancel: Option<RequestId>,
    spin_ms: Option<u64>,
    ms: Option<u64>,
    lines: Option<u64>,
    bytes: Option<usize>,
    attempt: Option<u32>,
    id: Option<RequestId>,
    skill: Option<String>,
    /// The worker type of what is created; this run's own if absent.
    to: Option<String>,
    reply: bool,
    key: Option<String>,
    tokens: Option<u64>,
    cost: Option<f64>,
    /// Context of what is created.
    context: Option<Value>,
    raw: String,
}

struct Hostile;

// By hand, not by the attribute: some of what is returned here the SDK would never let through.
impl __export::Guest for Hostile {
    fn run() -> Result<types::Outcome, types::Failure> {
        let output = |summary: String, data: Option<String>, cost: Option<f64>| {
            Ok(types::Outcome::Completed(types::Output { summary, data, tokens_used: None, cost }))
        };
        let orders: Orders =
            serde_json::from_str(&eve_sdk::bindings::eve::skill::request::context())
                .unwrap_or_default();
        match orders.r#do.as_deref() {
            Some("invalid-json") => output(String::new(), Some("{\"half\": ".into()), None),
            Some("nul-output") => output(String::new(), Some("{\"a\": \"\\u0000\"}".into()), None),
            Some("invalid-cost") => output(String::new(), None, Some(f64::NAN)),
            // SAFETY: none; it breaks what `String` promises, which is the point, and the text is
            // not looked at again on this side.
            Some("invalid-utf8") => {
                output(unsafe { String::from_utf8_unchecked(vec![b'a', 0xff]) }, None, None)
            }
            _ => __export::run(obey),
        }
    }
}

__export::export_skill!(Hostile with_types_in eve_sdk::bindings);

fn obey(request: Request) -> Result<Outcome, Failure> {
    let orders: Orders = request.context()?;
    let action = match &orders.r#do {
        Some(action) => action.as_str(),
        None if orders.spin_ms.is_some() => "spin",
        None if orders.create.is_some() => "create",
        None if orders.cancel.is_some() => "cancel",
        None => "noop",
    };
    match action {
        "noop" => Ok(Outcome::completed("")),
        "spend" => Ok(spent(Outcome::completed("spent"), &orders)),
        "describe" => describe(&request),
        "look" => look(orders.id.as_ref().unwrap_or(&request.id())),
        "loop" => spin_for_ever(),
        "spin" => {
            spin(orders.spin_ms.unwrap_or(100));
            Ok(Outcome::completed("spun"))
        }
        "sleep-busy" => loop {
            black_box(request.attempt());
        },
        "sleep" => sleep(orders.ms.unwrap_or(3_600_000)),
        "allocate" => allocate(),
        "allocate-gently" => allocate_gently(),
        "recurse" => Ok(Outcome::completed(recurse(1).to_string())),
        "recurse-in-memory" => Ok(Outcome::completed(recurse_in_memory(1).to_string())),
        "trap" => core::arch::wasm32::unreachable(),
        "panic" => panic!("as told"),
        "print" => print(orders.lines, false),
        "print-error" => print(orders.lines, true),
        "log" => {
            times(orders.lines, |n| log::info!("line {n} of a flood"; n = n));
            Ok(Outcome::completed("logged"))
        }
        "big-log" => {
            log::info("x".repeat(orders.bytes.unwrap_or(2 << 20)));
            Ok(Outcome::completed("logged"))
        }
        "fail-retryable" => Err(Failure::retryable("as told")),
        "fail-permanent" => Err(Failure::permanent("as told")),
        "fail-until" if request.attempt() < orders.attempt.unwrap_or(2) => {
            Err(Failure::retryable(format_args!("attempt {} is too early", request.attempt())))
        }
        "fail-until" => Ok(Outcome::completed(format!("attempt {}", request.attempt()))),
        "waiting" => wait(&request, &orders),
        "create" => {
            let ids = create(&request, &orders, orders.reply)?;
            spin(orders.spin_ms.unwrap_or(0));
            created(ids)
        }
        "create-then-trap" => {
            create(&request, &orders, orders.reply)?;
            core::arch::wasm32::unreachable()
        }
        "create-then-fail" => {
            create(&request, &orders, orders.reply)?;
            Err(Failure::permanent("as told, after creating"))
        }
        "create-then-loop" => {
            create(&request, &orders, orders.reply)?;
            spin_for_ever()
        }
        "create-raw" => create_raw(&request, orders),
        "cancel" => {
            let id = orders.cancel.ok_or_else(|| Failure::permanent("`cancel` is missing"))?;
            reported(queue::cancel(&id, Some("as told")))
        }
        "shout" => shout(&request, &orders),
        "bulk" => loop {
            let half = vec![1u8; 32 << 20];
            black_box(half.clone());
        },
        "big-output" => {
            Ok(Outcome::completed("big").data(&"x".repeat(orders.bytes.unwrap_or(2 << 20))))
        }
        "big-summary" => Ok(Outcome::completed("x".repeat(orders.bytes.unwrap_or(128 << 10)))),
        unknown => Err(Failure::permanent(format_args!("`do` is unknown: {unknown}"))),
    }
}

fn describe(request: &Request) -> Result<Outcome, Failure> {
    Ok(Outcome::completed("described").data(&json!({
        "id": request.id(),
        "attempt": request.attempt(),
        "prompt": request.prompt(),
        "context": request.context::<Value>()?,
        "repo_url": request.repo_url(),
        "branch": request.branch(),
        "config": request.config::<Value>()?,
        "metadata": request.metadata::<Value>()?,
        "trigger": format!("{:?}", request.trigger()),
        "additional_triggers": request.additional_triggers().len(),
        "parent_id": request.parent_id(),
        "worker_type": request.worker_type(),
        "org_slug": request.org_slug(),
        "user_id": request.user_id(),
    })))
}

fn look(id: &RequestId) -> Result<Outcome, Failure> {
    let info = queue::get(id)?;
    let blockers: Vec<Value> = queue::blockers(id)?
        .iter()
        .map(|b| json!({ "id": b.id, "status": format!("{:?}", b.status), "open": b.is_open }))
        .collect();
    Ok(Outcome::completed("looked").data(&json!({
        "status": format!("{:?}", info.status),
        "prompt": info.prompt,
        "context": info.context::<Value>()?,
        "result": queue::result(id)?.map(|ended| json!({
            "status": format!("{:?}", ended.status),
            "summary": ended.summary,
            "data": ended.output::<Value>().ok(),
            "problem": ended.problem.as_ref().map(|problem| &problem.code),
        })),
        "children": queue::children_of(id)?.iter().map(|child| child.id().clone()).collect::<Vec<_>>(),
        "blockers": blockers,
    })))
}

/// Says what the run is told to have used.
fn spent(mut outcome: Outcome, orders: &Orders) -> Outcome {
    if let Some(tokens) = orders.tokens {
        outcome = outcome.tokens(tokens);
    }
    if let Some(cost) = orders.cost {
        outcome = outcome.cost(cost);
    }
    outcome
}

fn spin_for_ever() -> ! {
    let mut state = 1u64;
    loop {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

#[cfg(target_os = "wasi")]
fn spin(milliseconds: u64) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(milliseconds) {
        black_box(start);
    }
}

/// Steps a millisecond on a machine of 2024, more or less.
#[cfg(not(target_os = "wasi"))]
fn spin(milliseconds: u64) {
    let mut state = 1u64;
    for _ in 0..milliseconds.saturating_mul(1_000_000) {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

#[cfg(target_os = "wasi")]
fn sleep(milliseconds: u64) -> Result<Outcome, Failure> {
    std::thread::sleep(Duration::from_millis(milliseconds));
    Ok(Outcome::completed("slept"))
}

#[cfg(not(target_os = "wasi"))]
fn sleep(milliseconds: u64) -> Result<Outcome, Failure> {
    Err(only_wasi(format_args!("sleep {:?}", Duration::from_millis(milliseconds))))
}

#[cfg(target_os = "wasi")]
fn print(lines: Option<u64>, to_error: bool) -> Result<Outcome, Failure> {
    times(lines, |n| {
        if to_error {
            eprintln!("line {n} of a flood");
        } else {
            println!("line {n} of a flood");
        }
    });
    Ok(Outcome::completed("printed"))
}

#[cfg(not(target_os = "wasi"))]
fn print(lines: Option<u64>, to_error: bool) -> Result<Outcome, Failure> {
    Err(only_wasi(format_args!("print {lines:?} lines, to stderr: {to_error}")))
}

#[cfg(not(target_os = "wasi"))]
fn only_wasi(what: std::fmt::Arguments<'_>) -> Failure {
    Failure::permanent(format_args!("only hostile-wasi can do this: {what}"))
}

fn times(count: Option<u64>, mut act: impl FnMut(u64)) {
    let mut n = 0;
    while count.is_none_or(|count| n < count) {
        n += 1;
        act(n);
    }
}

const CHUNK: usize = 1 << 20;

fn allocate() -> Result<Outcome, Failure> {
    let mut chunks = Vec::new();
    loop {
        chunks.push(vec![1u8; CHUNK]);
        black_box(&chunks);
    }
}

fn allocate_gently() -> Result<Outcome, Failure> {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut chunk = Vec::new();
        if chunks.try_reserve(1).is_err() || chunk.try_reserve_exact(CHUNK).is_err() {
            break;
        }
        chunk.resize(CHUNK, 1u8);
        chunks.push(chunk);
    }
    let mebibytes = black_box(&chunks).len();
    // There has to be room again for what is returned.
    drop(chunks);
    Ok(Outcome::completed("refused").data(&json!({ "mebibytes": mebibytes })))
}

/// Read where the compiler cannot know it, so that the recursion below stays one.
static STEP: AtomicU64 = AtomicU64::new(1);

/// Keeps nothing in memory: what runs out is the stack that the runtime keeps.
#[expect(unconditional_recursion, reason = "it is told to")]
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    recurse(depth + STEP.load(Ordering::Relaxed)).rotate_left(5) ^ depth
}

/// Keeps an array in every frame: what runs out is the megabyte of linear memory that the compiler
/// uses as a second stack, below which there is nothing. To the runtime it is an access out of
/// bounds like any other.
#[expect(unconditional_recursion, reason = "it is told to")]
#[inline(never)]
fn recurse_in_memory(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    recurse_in_memory(depth + 1) + frame[3]
}

fn create(request: &Request, orders: &Orders, reply: bool) -> Result<Vec<RequestId>, Failure> {
    let worker_type = orders.to.clone().unwrap_or_else(|| request.worker_type());
    let mut ids = Vec::new();
    for n in 0..orders.create.unwrap_or(1) {
        let mut new = queue::request(&worker_type).prompt(format!("child {n}"));
        if let Some(skill) = &orders.skill {
            new = new.skill(skill);
        }
        if let Some(context) = &orders.context {
            new = new.context(context);
        }
        if reply {
            new = new.reply_to_me();
        }
        if let Some(key) = &orders.key {
            new = new.idempotency_key(format!("{key}-{n}"));
        }
        ids.push(new.create()?);
    }
    Ok(ids)
}

fn created(ids: Vec<RequestId>) -> Result<Outcome, Failure> {
    Ok(Outcome::completed(format!("created {}", ids.len())).data(&json!({ "ids": ids })))
}

/// A request of this run's own worker type that asks for nothing.
fn bare(request: &Request) -> raw_queue::NewRequest {
    raw_queue::NewRequest {
        worker_type: request.worker_type(),
        skill: None,
        prompt: String::new(),
        context: None,
        repo_url: None,
        branch: None,
        config: None,
        metadata: None,
        blocked_by: Vec::new(),
        reply_to_me: false,
        detached: false,
        delay: None,
        priority: None,
        max_attempts: None,
        timeout: None,
        idempotency_key: None,
    }
}

fn create_raw(request: &Request, orders: Orders) -> Result<Outcome, Failure> {
    let new = raw_queue::NewRequest {
        worker_type: orders.to.unwrap_or_else(|| request.worker_type()),
        skill: orders.skill,
        context: Some(orders.raw),
        ..bare(request)
    };
    reported(raw_queue::create(&new).map(|_| ()).map_err(Error::from))
}

/// One argument of one host function that is as long as it is told.
fn shout(request: &Request, orders: &Orders) -> Result<Outcome, Failure> {
    use eve_sdk::bindings::eve::skill::{db, log};

    let text = "x".repeat(orders.bytes.unwrap_or((1 << 20) + 1));
    let new = || bare(request);
    let blocker = |id: String| raw_queue::Blocker { id, on_failure: types::OnFailure::Run };
    let filter = || raw_queue::Filter {
        context: None,
        statuses: Vec::new(),
        worker_type: None,
        limit: None,
        before: None,
    };
    let question = || raw_queue::Question {
        text: "?".into(),
        options: Vec::new(),
        details: None,
        expires_in: None,
    };
    let sql = |sql: &str, parameters: Vec<db::Value>| db::Statement {
        sql: sql.into(),
        parameters,
        expected_rows: None,
    };
    let created = |new: raw_queue::NewRequest| done(raw_queue::create(&new));
    let asked = |question: raw_queue::Question| done(raw_queue::ask(&question));
    let listed = |filter: raw_queue::Filter| done(raw_queue::list(&filter));
    let parameter = |value: db::Value| done(db::query("state", &sql("SELECT $1", vec![value])));
    let to = orders.to.as_deref().unwrap_or("log.message");
    let answer: Result<(), String> = match to {
        "log.message" => Ok(log::log(log::Level::Info, &text, &[])),
        "log.fields" => Ok(log::log(log::Level::Info, "", &[(text.clone(), text)])),
        "queue.create.worker-type" => created(raw_queue::NewRequest { worker_type: text, ..new() }),
        "queue.create.skill" => created(raw_queue::NewRequest { skill: Some(text), ..new() }),
        "queue.create.prompt" => created(raw_queue::NewRequest { prompt: text, ..new() }),
        "queue.create.context" => {
            let context = Some(format!("{{\"a\": \"{text}\"}}"));
            created(raw_queue::NewRequest { context, ..new() })
        }
        "queue.create.repo-url" => created(raw_queue::NewRequest { repo_url: Some(text), ..new() }),
        "queue.create.branch" => created(raw_queue::NewRequest { branch: Some(text), ..new() }),
        "queue.create.config" => created(raw_queue::NewRequest { config: Some(text), ..new() }),
        "queue.create.metadata" => created(raw_queue::NewRequest { metadata: Some(text), ..new() }),
        "queue.create.blocked-by" => {
            created(raw_queue::NewRequest { blocked_by: vec![blocker(text)], ..new() })
        }
        "queue.create.idempotency-key" => {
            created(raw_queue::NewRequest { idempotency_key: Some(text), ..new() })
        }
        "queue.create-many" => {
            let many: Vec<_> = (0..text.len() / 64).map(|_| new()).collect();
            done(raw_queue::create_many(&many))
        }
        "queue.get" => done(raw_queue::get(&text)),
        "queue.result" => done(raw_queue::result(&text)),
        "queue.list.context" => listed(raw_queue::Filter { context: Some(text), ..filter() }),
        "queue.list.statuses" => {
            let statuses = vec![types::Status::Pending; text.len()];
            listed(raw_queue::Filter { statuses, ..filter() })
        }
        "queue.list.worker-type" => {
            listed(raw_queue::Filter { worker_type: Some(text), ..filter() })
        }
        "queue.list.before" => listed(raw_queue::Filter { before: Some(text), ..filter() }),
        "queue.children" => done(raw_queue::children(&text)),
        "queue.blockers" => done(raw_queue::blockers(&text)),
        "queue.cancel.id" => done(raw_queue::cancel(&text, None)),
        "queue.cancel.reason" => {
            done(raw_queue::cancel("01890000-0000-7000-8000-000000000000", Some(&text)))
        }
        "queue.ask.text" => asked(raw_queue::Question { text, ..question() }),
        "queue.ask.options" => asked(raw_queue::Question { options: vec![text], ..question() }),
        "queue.ask.many-options" => asked(raw_queue::Question {
            options: vec![String::new(); text.len() / 8],
            ..question()
        }),
        "queue.ask.details" => asked(raw_queue::Question { details: Some(text), ..question() }),
        "queue.wake-after" => done(raw_queue::wake_after(5_000, &text)),
        "db.query.schema" => done(db::query(&text, &sql("SELECT 1", Vec::new()))),
        "db.query.sql" => done(db::query("state", &sql(&text, Vec::new()))),
        "db.query.text" => parameter(db::Value::Text(text)),
        "db.query.bytes" => parameter(db::Value::Bytes(text.into_bytes())),
        "db.query.json" => parameter(db::Value::Json(text)),
        "db.query.numeric" => parameter(db::Value::Numeric("9".repeat(text.len()))),
        "db.query.uuid" => parameter(db::Value::Uuid(text)),
        "db.query.texts" => parameter(db::Value::Array(db::Array::Texts(vec![Some(text)]))),
        "db.query.booleans" => {
            parameter(db::Value::Array(db::Array::Booleans(vec![None; text.len()])))
        }
        "db.query.type-name" => {
            parameter(db::Value::Other(db::OtherValue { type_name: text, text: String::new() }))
        }
        "db.query.parameters" => {
            done(db::query("state", &sql("SELECT 1", vec![db::Value::Null; text.len() / 16])))
        }
        "db.execute.sql" => done(db::execute("state", &sql(&text, Vec::new()))),
        "db.transaction" => {
            let many = vec![sql("SELECT 1", Vec::new()); text.len() / 64];
            done(db::transaction("state", &many))
        }
        "db.migrate.name" => done(db::migrate(
            "state",
            &[db::Migration { number: 1, name: text, sql: "SELECT 1".into() }],
        )),
        "db.migrate.sql" => done(db::migrate(
            "state",
            &[db::Migration { number: 1, name: "one".into(), sql: text }],
        )),
        unknown => return Err(Failure::permanent(format_args!("`to` is unknown: {unknown}"))),
    };
    Ok(Outcome::completed("shouted").data(&json!({ "error": answer.err() })))
}

/// What the host answered, if it was a refusal: its beginning.
fn done<T, E: std::fmt::Debug>(answer: Result<T, E>) -> Result<(), String> {
    answer.map(|_| ()).map_err(|error| format!("{error:?}").chars().take(500).collect())
}

/// A refused call is what some tests are after: it is the output, not a failure.
fn reported(result: Result<(), Error>) -> Result<Outcome, Failure> {
    let error = result.err().map(|error| error.to_string());
    Ok(Outcome::completed("asked").data(&json!({ "error": error })))
}

fn wait(request: &Request, orders: &Orders) -> Result<Outcome, Failure> {
    if request.trigger() == Trigger::Initial {
        if orders.create.is_some() {
            create(request, orders, true)?;
        }
        return Ok(Outcome::waiting());
    }
    let children = queue::children()?;
    if children.iter().any(|child| child.is_open()) {
        return Ok(Outcome::waiting());
    }
    let completed = children.iter().filter(|child| {
        child.ended.as_ref().is_some_and(|ended| ended.status == Status::Completed)
    });
    let data = json!({ "children": children.len(), "completed": completed.count() });
    Ok(spent(Outcome::completed("woken"), orders).data(&data))
}
