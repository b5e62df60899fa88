//! Calls of `queue`, and ends of runs, that the platform refuses, and what it says to them; and the
//! largest that it takes. `parity_tests` runs them against the fake host, and `queue_parity_tests` in
//! `host/src/runtime/capabilities`, which reads this very file, against the real one: a limit or a rule
//! that is changed on one side only fails there.

use serde_json::{Value, json};

/// The request that runs.
pub const RUN: &str = "019b7654-0000-7000-8000-f0000000000a";
/// A request that exists and is pending.
pub const OPEN: &str = "019b7654-0000-7000-8000-f0000000000b";
/// A request that exists and has completed.
pub const ENDED: &str = "019b7654-0000-7000-8000-f0000000000c";
/// A request that does not exist.
pub const MISSING: &str = "019b7654-0000-7000-8000-f0000000000d";

/// A call of a run. What is absent in the JSON of a record is absent or empty in the contract's. A
/// text `$0`, `$1`, … stands for what the run was given as the first, second, … id.
#[derive(Clone, Debug)]
pub enum Call {
    /// `create` and `create-many`.
    Create(Value),
    CreateMany(Vec<Value>),
    Cancel(String, Option<String>),
    Ask(Value),
    WakeAfter(u64, String),
    Get(String),
    List(Value),
}

/// Calls of one run. All but the last succeed.
pub struct Row {
    pub calls: Vec<Call>,
    /// How what is said to the last begins: its kind, `: `, a text; none if it succeeds too.
    pub said: Option<&'static str>,
}

/// How a run completes, and with which code and message it fails nevertheless.
pub struct Ending {
    pub summary: String,
    pub data: Option<String>,
    pub tokens_used: Option<u64>,
    pub cost: Option<f64>,
    pub failed: Option<(&'static str, &'static str)>,
}

/// What can be done with a call.
pub trait Platform {
    /// Returns the ids that were given out, or the kind of error, `: ` and its text.
    fn call(&mut self, call: &Call) -> Result<Vec<String>, String>;
}

/// Runs a row on a platform that has just been made; says what is not as it should be.
pub fn check(row: &Row, platform: &mut impl Platform) -> Result<(), String> {
    let mut ids = Vec::new();
    let last = row.calls.len() - 1;
    for (place, call) in row.calls.iter().enumerate() {
        let answer = platform.call(&filled(call, &ids));
        let expected = row.said.filter(|_| place == last);
        match (answer, expected) {
            (Ok(given), None) => ids.extend(given),
            (Err(said), Some(begins)) if said.starts_with(begins) => {}
            (answer, expected) => {
                let mut call = format!("{call:?}");
                call.truncate(call.floor_char_boundary(200));
                return Err(format!("call {place}, {call}: {answer:?}, not {expected:?}"));
            }
        }
    }
    Ok(())
}

fn filled(call: &Call, ids: &[String]) -> Call {
    let text = |text: &String| match text.strip_prefix('$').map(str::parse::<usize>) {
        Some(Ok(place)) => ids[place].clone(),
        _ => text.clone(),
    };
    fn value(given: &Value, text: &impl Fn(&String) -> String) -> Value {
        match given {
            Value::String(given) => text(given).into(),
            Value::Array(items) => items.iter().map(|item| value(item, text)).collect(),
            Value::Object(members) => {
                members.iter().map(|(key, member)| (key.clone(), value(member, text))).collect()
            }
            other => other.clone(),
        }
    }
    match call {
        Call::Create(request) => Call::Create(value(request, &text)),
        Call::CreateMany(requests) => {
            Call::CreateMany(requests.iter().map(|request| value(request, &text)).collect())
        }
        Call::Cancel(id, reason) => Call::Cancel(text(id), reason.clone()),
        Call::Get(id) => Call::Get(text(id)),
        other => other.clone(),
    }
}

/// Every row.
pub fn rows() -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    names(&mut rows);
    texts(&mut rows);
    json_texts(&mut rows);
    numbers(&mut rows);
    blockers(&mut rows);
    keys(&mut rows);
    cancels(&mut rows);
    questions(&mut rows);
    timers(&mut rows);
    reads(&mut rows);
    quotas(&mut rows);
    rows.0
}

struct Rows(Vec<Row>);

impl Rows {
    fn refused(&mut self, call: Call, said: &'static str) {
        self.after([], call, said);
    }

    fn taken(&mut self, call: Call) {
        self.0.push(Row { calls: vec![call], said: None });
    }

    fn after(&mut self, before: impl IntoIterator<Item = Call>, call: Call, said: &'static str) {
        let calls = before.into_iter().chain([call]).collect();
        self.0.push(Row { calls, said: Some(said) });
    }
}

/// A request with these fields.
fn with(fields: Value) -> Value {
    let mut request = json!({ "worker_type": "general" });
    if let (Value::Object(request), Value::Object(fields)) = (&mut request, fields) {
        request.extend(fields);
    }
    request
}

fn create(fields: Value) -> Call {
    Call::Create(with(fields))
}

fn ask(fields: Value) -> Call {
    let mut question = json!({ "text": "?" });
    if let (Value::Object(question), Value::Object(fields)) = (&mut question, fields) {
        question.extend(fields);
    }
    Call::Ask(question)
}

fn names(rows: &mut Rows) {
    for field in ["worker_type", "skill"] {
        for name in ["a", "0-9", &"x".repeat(63)] {
            rows.taken(create(json!({ field: name })));
        }
    }
    rows.refused(create(json!({ "worker_type": "" })), "invalid: worker_type: must not be empty");
    rows.refused(create(json!({ "skill": "" })), "invalid: skill: must not be empty");
    let said = "invalid: worker_type: `A` is not a name: lower-case letters, digits and `-`, at most 63, no `-` at either end";
    rows.refused(create(json!({ "worker_type": "A" })), said);
    for name in ["-a", "a-", "a_b", "ä", "a b", "a/b", "a\0", &"x".repeat(64)] {
        rows.refused(create(json!({ "worker_type": name })), "invalid: worker_type: `");
        rows.refused(create(json!({ "skill": name })), "invalid: skill: `");
    }
}

fn texts(rows: &mut Rows) {
    rows.taken(create(json!({ "prompt": "x".repeat(256 << 10) })));
    let said = "invalid: prompt: 262145 bytes; at most 262144 are allowed";
    rows.refused(create(json!({ "prompt": "x".repeat((256 << 10) + 1) })), said);
    let said = "invalid: prompt: contains the character U+0000";
    rows.refused(create(json!({ "prompt": "a\0" })), said);
    for (field, said, nul) in [
        (
            "repo_url",
            "invalid: repo_url: 2049 bytes; at most 2048 are allowed",
            "invalid: repo_url: contains the character U+0000",
        ),
        (
            "branch",
            "invalid: branch: 2049 bytes; at most 2048 are allowed",
            "invalid: branch: contains the character U+0000",
        ),
    ] {
        rows.taken(create(json!({ field: "x".repeat(2 << 10) })));
        rows.refused(create(json!({ field: "x".repeat((2 << 10) + 1) })), said);
        rows.refused(create(json!({ field: "a\0" })), nul);
    }
}

/// Nested so deep, as text.
fn nested(levels: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(levels - 1), "}".repeat(levels - 1))
}

fn json_texts(rows: &mut Rows) {
    let object = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    for (field, bytes) in [("context", 1 << 20), ("config", 64 << 10), ("metadata", 64 << 10)] {
        rows.taken(create(json!({ field: object(bytes) })));
        rows.taken(create(json!({ field: nested(64) })));
    }
    for (call, too_long, deep, text) in [
        (
            "context",
            "invalid: context: 1048577 bytes; at most 1048576 are allowed",
            "invalid: context: nested deeper than 64 levels",
            (1 << 20) + 1,
        ),
        (
            "config",
            "invalid: config: 65537 bytes; at most 65536 are allowed",
            "invalid: config: nested deeper than 64 levels",
            (64 << 10) + 1,
        ),
        (
            "metadata",
            "invalid: metadata: 65537 bytes; at most 65536 are allowed",
            "invalid: metadata: nested deeper than 64 levels",
            (64 << 10) + 1,
        ),
    ] {
        rows.refused(create(json!({ call: object(text) })), too_long);
        rows.refused(create(json!({ call: nested(65) })), deep);
    }
    for (text, said) in [
        ("[]", "invalid: context: must be a JSON object"),
        ("null", "invalid: context: must be a JSON object"),
        ("{", "invalid: context: not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("", "invalid: context: not valid JSON: EOF while parsing a value"),
        ("{\"a\": 1e999}", "invalid: context: not valid JSON: number out of range"),
        (&nested(200), "invalid: context: not valid JSON: recursion limit exceeded"),
        ("{\"a\": [\"\\u0000\"]}", "invalid: context: contains the character U+0000"),
        ("{\"a\": {\"b\\u0000\": 1}}", "invalid: context: contains the character U+0000"),
        // Numbers are kept as floats, and weigh what they are printed as.
    ] {
        rows.refused(create(json!({ "context": text })), said);
    }
    rows.refused(
        create(json!({ "config": format!("{{\"a\":[{}1]}}", "1e15,".repeat(13_000)) })),
        "invalid: config: more than 65536 bytes of JSON",
    );
}

fn numbers(rows: &mut Rows) {
    const DAY: u64 = 24 * 3_600 * 1_000;
    for fields in [
        json!({ "delay": 0 }),
        json!({ "delay": 365 * DAY }),
        json!({ "priority": -100 }),
        json!({ "priority": 100 }),
        json!({ "max_attempts": 1 }),
        json!({ "max_attempts": 25 }),
        json!({ "timeout": 100 }),
        json!({ "timeout": DAY }),
    ] {
        rows.taken(create(fields));
    }
    for (fields, said) in [
        (json!({ "delay": 365 * DAY + 1 }), "invalid: delay_ms: 31536000001 is more than 365 days"),
        (
            json!({ "delay": u64::MAX }),
            "invalid: delay_ms: 18446744073709551615 is more than 365 days",
        ),
        (json!({ "priority": -101 }), "invalid: priority: -101 is not between -100 and 100"),
        (json!({ "priority": 101 }), "invalid: priority: 101 is not between -100 and 100"),
        (json!({ "max_attempts": 0 }), "invalid: max_attempts: 0 is not between 1 and 25"),
        (json!({ "max_attempts": 26 }), "invalid: max_attempts: 26 is not between 1 and 25"),
        (json!({ "timeout": 99 }), "invalid: timeout_ms: 99 is not between 100 and 86400000"),
        (json!({ "timeout": 0 }), "invalid: timeout_ms: 0 is not between 100 and 86400000"),
        (
            json!({ "timeout": DAY + 1 }),
            "invalid: timeout_ms: 86400001 is not between 100 and 86400000",
        ),
    ] {
        rows.refused(create(fields), said);
    }
}

fn blockers(rows: &mut Rows) {
    rows.taken(create(json!({ "blocked_by": [OPEN, ENDED, RUN] })));
    // Other ways to write an id.
    rows.taken(create(json!({ "blocked_by": [OPEN.to_uppercase()] })));
    rows.taken(create(json!({ "blocked_by": [OPEN.replace('-', "")] })));
    for (blocked_by, said) in [
        (
            json!([OPEN, OPEN]),
            "invalid: blocked_by: `019b7654-0000-7000-8000-f0000000000b` is named twice",
        ),
        (
            json!([OPEN, OPEN.to_uppercase()]),
            "invalid: blocked_by: `019b7654-0000-7000-8000-f0000000000b` is named twice",
        ),
        (json!([MISSING]), "not found: there is no request 019b7654-0000-7000-8000-f0000000000d"),
        (json!(["nobody"]), "invalid: blocked_by: `nobody` is not a request id (a UUID)"),
        (json!([""]), "invalid: blocked_by: `` is not a request id (a UUID)"),
        (json!(["x".repeat(65)]), "invalid: blocked_by: an id is longer than an id can be"),
        (json!(["#0"]), "invalid: blocked_by: `#0` is not an earlier entry of the batch"),
        (json!(["#x"]), "invalid: blocked_by: `#x` is not `#` and the index of an earlier entry"),
        (json!(vec![MISSING; 10_001]), "invalid: blocked_by: at most 10000 requests are allowed"),
    ] {
        rows.refused(create(json!({ "blocked_by": blocked_by })), said);
    }
    let circle = json!({ "blocked_by": [RUN], "reply_to_me": true });
    rows.refused(create(circle), "conflict: blocked_by: a request that replies to 019b7654-0000-7000-8000-f0000000000a cannot wait for it");
    let batch = |last: Value| Call::CreateMany(vec![with(json!({})), with(last)]);
    rows.taken(batch(json!({ "blocked_by": ["#0"] })));
    rows.refused(
        batch(json!({ "blocked_by": ["#1"] })),
        "invalid: requests[1].blocked_by: `#1` is not an earlier entry of the batch",
    );
    rows.refused(
        batch(json!({ "priority": 101 })),
        "invalid: requests[1].priority: 101 is not between -100 and 100",
    );
    let missing = "not found: there is no request 019b7654-0000-7000-8000-f0000000000d";
    rows.refused(batch(json!({ "blocked_by": ["#0", MISSING] })), missing);
    // All or none.
    let refused = batch(json!({ "blocked_by": ["#0"], "idempotency_key": "k" }));
    rows.0.push(Row {
        calls: vec![refused, create(json!({ "blocked_by": ["$0", "$1"] }))],
        said: None,
    });
}

fn keys(rows: &mut Rows) {
    rows.taken(create(json!({ "idempotency_key": "x".repeat(255) })));
    for (key, said) in [
        ("", "invalid: idempotency_key: must not be empty"),
        (&"ä".repeat(256), "invalid: idempotency_key: longer than 255 characters"),
        ("a\n", "invalid: idempotency_key: contains a control character"),
        ("a\0", "invalid: idempotency_key: contains a control character"),
        ("a\u{85}", "invalid: idempotency_key: contains a control character"),
    ] {
        rows.refused(create(json!({ "idempotency_key": key })), said);
    }
    let keyed = |mut fields: Value| {
        fields["idempotency_key"] = json!("k");
        create(fields)
    };
    let conflict = "conflict: idempotency_key: `k` was used for another request of this run";
    for (one, other) in [
        (json!({}), json!({ "prompt": "other" })),
        (json!({}), json!({ "max_attempts": 3 })),
        (json!({}), json!({ "delay": 0 })),
        (json!({}), json!({ "reply_to_me": true })),
        (json!({}), json!({ "blocked_by": [OPEN] })),
        (json!({ "blocked_by": [OPEN] }), json!({ "blocked_by": [ENDED] })),
        (json!({ "blocked_by": [OPEN, ENDED] }), json!({ "blocked_by": [ENDED, OPEN] })),
        (
            json!({ "blocked_by": [{ "id": OPEN, "on_failure": "run" }] }),
            json!({ "blocked_by": [{ "id": OPEN, "on_failure": "hold" }] }),
        ),
    ] {
        rows.after([keyed(one)], keyed(other), conflict);
    }
    for (one, other) in [
        (json!({}), json!({})),
        (json!({}), json!({ "context": "{ }", "priority": 0 })),
        (json!({ "context": "{\"a\":1,\"b\":2}" }), json!({ "context": "{\"b\": 2, \"a\": 1}" })),
        (json!({ "blocked_by": [OPEN] }), json!({ "blocked_by": [OPEN.to_uppercase()] })),
    ] {
        rows.0.push(Row { calls: vec![keyed(one), keyed(other)], said: None });
    }
    // Requests of the run itself, by their places.
    let twice = [create(json!({})), create(json!({})), keyed(json!({ "blocked_by": ["$0"] }))];
    rows.after(twice, keyed(json!({ "blocked_by": ["$1"] })), conflict);
}

fn cancels(rows: &mut Rows) {
    let cancel = |id: &str, reason: Option<String>| Call::Cancel(id.to_owned(), reason);
    rows.taken(cancel(OPEN, None));
    rows.taken(cancel(OPEN, Some("x".repeat(8 << 10))));
    for (id, reason, said) in [
        (RUN, None, "invalid: id: a run cannot cancel its own request; return a failure instead"),
        (
            ENDED,
            None,
            "conflict: request 019b7654-0000-7000-8000-f0000000000c is completed already",
        ),
        (MISSING, None, "not found: there is no request 019b7654-0000-7000-8000-f0000000000d"),
        ("nobody", None, "invalid: id: `nobody` is not a request id"),
        (
            OPEN,
            Some("x".repeat((8 << 10) + 1)),
            "invalid: reason: 8193 bytes; at most 8192 are allowed",
        ),
        (OPEN, Some("a\0".to_owned()), "invalid: reason: contains the character U+0000"),
    ] {
        rows.refused(cancel(id, reason), said);
    }
    let gone = "conflict: request 019b7654-0000-7000-8000-f0000000000b is cancelled already";
    rows.after([cancel(OPEN, None)], cancel(OPEN, None), gone);
    // And what goes with it.
    let dependent = create(json!({ "blocked_by": [OPEN] }));
    rows.after([dependent, cancel(OPEN, None)], cancel("$0", None), "conflict: request ");
}

fn questions(rows: &mut Rows) {
    const DAY: u64 = 24 * 3_600 * 1_000;
    let options = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    for fields in [
        json!({ "text": "x".repeat(16 << 10) }),
        json!({ "options": options(100) }),
        json!({ "options": ["ä".repeat(256)] }),
        json!({ "details": nested(64) }),
        json!({ "expires_in": 1_000 }),
        json!({ "expires_in": 30 * DAY }),
    ] {
        rows.taken(ask(fields));
    }
    for (fields, said) in [
        (json!({ "text": "" }), "invalid: question: must not be empty"),
        (
            json!({ "text": "x".repeat((16 << 10) + 1) }),
            "invalid: question: 16385 bytes; at most 16384 are allowed",
        ),
        (json!({ "text": "a\0" }), "invalid: question: contains the character U+0000"),
        (
            json!({ "options": options(101) }),
            "invalid: options: 101 answers; at most 100 are allowed",
        ),
        (json!({ "options": [""] }), "invalid: options: an answer must not be empty"),
        (
            json!({ "options": ["ä".repeat(257)] }),
            "invalid: options: an answer has more than 256 characters",
        ),
        (json!({ "options": ["a\0"] }), "invalid: options: contains the character U+0000"),
        (json!({ "options": ["a", "b", "a"] }), "invalid: options: `a` stands there twice"),
        (json!({ "details": "[]" }), "invalid: details: must be a JSON object"),
        (json!({ "details": nested(65) }), "invalid: details: nested deeper than 64 levels"),
        (
            json!({ "details": format!("{{\"a\":\"{}\"}}", "x".repeat(64 << 10)) }),
            "invalid: details: 65544 bytes; at most 65536 are allowed",
        ),
        (
            json!({ "expires_in": 999 }),
            "invalid: expires_in_ms: 999 is not between a second and 30 days",
        ),
        (
            json!({ "expires_in": 30 * DAY + 1 }),
            "invalid: expires_in_ms: 2592000001 is not between a second and 30 days",
        ),
    ] {
        rows.refused(ask(fields), said);
    }
}

fn timers(rows: &mut Rows) {
    const YEAR: u64 = 365 * 24 * 3_600 * 1_000;
    let timer = |delay: u64, name: &str| Call::WakeAfter(delay, name.to_owned());
    rows.taken(timer(1_000, &"ä".repeat(255)));
    rows.taken(timer(YEAR, "t"));
    for (delay, name, said) in [
        (999, "t", "invalid: delay: 999 ms is not between a second and 365 days"),
        (YEAR + 1, "t", "invalid: delay: 31536000001 ms is not between a second and 365 days"),
        (1_000, "", "invalid: name: must not be empty"),
        (1_000, &"ä".repeat(256), "invalid: name: longer than 255 characters"),
        (1_000, "a\0", "invalid: name: contains the character U+0000"),
    ] {
        rows.refused(timer(delay, name), said);
    }
}

fn reads(rows: &mut Rows) {
    rows.taken(Call::Get(RUN.to_owned()));
    rows.taken(Call::Get(OPEN.to_uppercase()));
    rows.refused(
        Call::Get(MISSING.to_owned()),
        "not found: there is no request 019b7654-0000-7000-8000-f0000000000d",
    );
    rows.refused(Call::Get("nobody".to_owned()), "invalid: id: `nobody` is not a request id");
    rows.refused(Call::Get(String::new()), "invalid: id: `` is not a request id");
    rows.taken(Call::List(json!({ "limit": 100, "before": MISSING })));
    for (filter, said) in [
        (json!({ "limit": 0 }), "invalid: limit: 0 is not between 1 and 100"),
        (json!({ "limit": 101 }), "invalid: limit: 101 is not between 1 and 100"),
        (json!({ "worker_type": "A" }), "invalid: worker_type: `A` is not a name"),
        (json!({ "before": "nobody" }), "invalid: before: `nobody` is not a request id"),
        (json!({ "context": "[]" }), "invalid: context: must be a JSON object"),
        (
            json!({ "context": format!("{{\"a\":\"{}\"}}", "x".repeat(64 << 10)) }),
            "invalid: context: 65544 bytes; at most 65536 are allowed",
        ),
    ] {
        rows.refused(Call::List(filter), said);
    }
    let numbers: Vec<u32> = (0..1_000).collect();
    let wanted: Vec<u32> = (0..1_000).rev().collect();
    let text = |numbers: Vec<u32>| json!({ "n": numbers }).to_string();
    rows.after(
        [create(json!({ "context": text(numbers) }))],
        Call::List(json!({ "context": text(wanted) })),
        "limit: the filter takes too long to compare with this run's own requests",
    );
    // Nine answers of a megabyte: two runs' worth of effects would be needed to have them listed, but a
    // prompt counts with them.
    let large = || create(json!({ "context": megabyte(), "blocked_by": [OPEN] }));
    rows.0.push(Row {
        calls: (0..8).map(|_| large()).chain([Call::List(json!({}))]).collect(),
        said: None,
    });
}

/// A context of a megabyte.
fn megabyte() -> String {
    json!({ "a": "x".repeat(1_000_000) }).to_string()
}

fn quotas(rows: &mut Rows) {
    let many = |count: usize| Call::CreateMany(vec![with(json!({})); count]);
    let thousands = || (0..10).map(move |_| many(1_000));
    let said = "limit: a run creates at most 10000 requests";
    rows.after(thousands(), many(1), said);
    // More than there is room for at all, and wrong besides: what is wrong is not looked at.
    let wrong = Call::CreateMany(vec![json!({ "worker_type": "" }); 10_001]);
    rows.refused(wrong, said);
    let said = "limit: a run asks at most 100 questions";
    rows.after((0..100).map(|_| ask(json!({}))), ask(json!({})), said);
    let timer = |n: usize| Call::WakeAfter(1_000, n.to_string());
    rows.after((0..100).map(timer), timer(100), "limit: a run sets at most 100 timers");
    rows.0.push(Row { calls: (0..100).chain([7]).map(timer).collect(), said: None });

    // Everything that a run asks for shares a budget of bytes.
    let full = "limit: what a run asks for may take 8388608 bytes in all";
    let large = || create(json!({ "context": megabyte() }));
    let almost = || (0..8).map(move |_| large());
    rows.after(almost(), large(), full);
    // What is left, to the byte: eight requests take 352 + 1,000,033 each, with the texts below.
    let rest = (8 << 20) - 8 * (256 + 3 * 32 + 1 + 32 + 1_000_000);
    let fits = |prompt: usize| create(json!({ "prompt": "x".repeat(prompt) }));
    let parts = |last: usize| {
        let first = (rest - 2 * 352) / 2;
        almost().chain([fits(first), fits(rest - 2 * 352 - first + last)]).collect::<Vec<_>>()
    };
    rows.0.push(Row { calls: parts(0), said: None });
    let mut over = parts(1);
    let last = over.pop().into_iter();
    for last in last {
        rows.after(over.clone(), last, full);
    }
    let mut exact = parts(0);
    exact.push(Call::Cancel(OPEN.to_owned(), None));
    rows.0.push(Row { calls: exact, said: Some(full) });
    let mut exact = parts(0);
    exact.push(Call::WakeAfter(1_000, "t".to_owned()));
    rows.0.push(Row { calls: exact, said: Some(full) });
    let mut exact = parts(0);
    exact.push(ask(json!({})));
    rows.0.push(Row { calls: exact, said: Some(full) });
    // Small values weigh ten times their text.
    let bulky = || create(json!({ "context": format!("{{\"a\":[{}1]}}", "1,".repeat(200_000)) }));
    rows.after([bulky()], bulky(), full);
}

/// Every ending.
pub fn endings() -> Vec<Ending> {
    let ending = |failed| Ending {
        summary: String::new(),
        data: None,
        tokens_used: None,
        cost: None,
        failed,
    };
    let of_data = |data: String, failed| Ending { data: Some(data), ..ending(failed) };
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    // Data is kept as it is written, and `jsonb` reads the numbers in it.
    let unkept = Some((
        "output_invalid",
        "data: a number has more than 16383 digits after the point, or as large an exponent",
    ));
    vec![
        Ending { summary: "x".repeat(64 << 10), ..ending(None) },
        Ending {
            summary: "x".repeat((64 << 10) + 1),
            ..ending(Some((
                "output_too_large",
                "the output's summary has 65537 bytes; at most 65536 are kept",
            )))
        },
        Ending {
            summary: "a\0".into(),
            ..ending(Some(("output_invalid", "summary: contains the character U+0000")))
        },
        of_data(text(1 << 20), None),
        of_data(
            text((1 << 20) + 1),
            Some((
                "output_too_large",
                "the output's data has 1048577 bytes; at most 1048576 are kept",
            )),
        ),
        of_data(deep(64), None),
        of_data(deep(65), Some(("output_invalid", "data: nested deeper than 64 levels"))),
        of_data(
            "{\"half\": ".into(),
            Some(("output_invalid", "data: not valid JSON: EOF while parsing a value")),
        ),
        of_data(
            "[\"\\u0000\"]".into(),
            Some(("output_invalid", "data: contains the character U+0000")),
        ),
        of_data("[1e-16383, 0e16383, 1.5e-16382, \"1e-20000\"]".into(), None),
        of_data("{\"a\": 1e-16384}".into(), unkept),
        of_data("[\"\\\"\", 0e20000]".into(), unkept),
        of_data(format!("0.{}", "0".repeat(16_384)), unkept),
        Ending { tokens_used: Some(i64::MAX as u64), cost: Some(0.0), ..ending(None) },
        Ending {
            tokens_used: Some(i64::MAX as u64 + 1),
            ..ending(Some(("output_invalid", "tokens_used: more than 2^63 - 1")))
        },
        Ending {
            cost: Some(f64::NAN),
            ..ending(Some(("output_invalid", "cost: NaN is not a sum of money")))
        },
        Ending {
            cost: Some(f64::INFINITY),
            ..ending(Some(("output_invalid", "cost: inf is not a sum of money")))
        },
        Ending {
            cost: Some(-0.01),
            ..ending(Some(("output_invalid", "cost: -0.01 is not a sum of money")))
        },
    ]
}

/// Both sides have the contract's types from generators of their own, with the same names: this makes
/// them of a table's JSON, in a module where `contract` and `types` are those of one side.
macro_rules! conversions {
    () => {
        fn text(value: &Value) -> Option<String> {
            value.as_str().map(str::to_owned)
        }

        fn texts(value: &Value) -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(text).collect()
        }

        fn new_request(value: &Value) -> contract::NewRequest {
            let blocker = |value: &Value| contract::Blocker {
                id: text(value).or_else(|| text(&value["id"])).unwrap_or_default(),
                on_failure: match value["on_failure"].as_str() {
                    Some("run") => types::OnFailure::Run,
                    Some("hold") => types::OnFailure::Hold,
                    _ => types::OnFailure::Cancel,
                },
            };
            contract::NewRequest {
                worker_type: text(&value["worker_type"]).unwrap_or_default(),
                skill: text(&value["skill"]),
                prompt: text(&value["prompt"]).unwrap_or_default(),
                context: text(&value["context"]),
                repo_url: text(&value["repo_url"]),
                branch: text(&value["branch"]),
                config: text(&value["config"]),
                metadata: text(&value["metadata"]),
                blocked_by: value["blocked_by"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(blocker)
                    .collect(),
                reply_to_me: value["reply_to_me"] == true,
                detached: value["detached"] == true,
                delay: value["delay"].as_u64(),
                priority: value["priority"].as_i64().map(|n| n as i16),
                max_attempts: value["max_attempts"].as_u64().map(|n| n as u16),
                timeout: value["timeout"].as_u64(),
                idempotency_key: text(&value["idempotency_key"]),
            }
        }

        fn question(value: &Value) -> contract::Question {
            contract::Question {
                text: text(&value["text"]).unwrap_or_default(),
                options: texts(&value["options"]),
                details: text(&value["details"]),
                expires_in: value["expires_in"].as_u64(),
            }
        }

        fn filter(value: &Value) -> contract::Filter {
            contract::Filter {
                context: text(&value["context"]),
                statuses: Vec::new(),
                worker_type: text(&value["worker_type"]),
                limit: value["limit"].as_u64().map(|n| n as u32),
                before: text(&value["before"]),
            }
        }

        fn said(error: types::Error) -> String {
            match error {
                types::Error::Invalid(text) => format!("invalid: {text}"),
                types::Error::NotFound(text) => format!("not found: {text}"),
                types::Error::Conflict(text) => format!("conflict: {text}"),
                types::Error::Limit(text) => format!("limit: {text}"),
                types::Error::Denied(text) => format!("denied: {text}"),
                types::Error::Unavailable(text) => format!("unavailable: {text}"),
                types::Error::Other(text) => format!("other: {text}"),
            }
        }
    };
}
pub(crate) use conversions;
