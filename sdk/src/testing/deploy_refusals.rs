//! Calls of `deploy` that the platform refuses, and what it says to them; and the largest that it takes.
//! `deploy_parity_tests` runs them against the fake host. A module of the host can read this very file
//! and run them against the real one, as `queue_parity_tests` there does with `refusals`: it needs a run of
//! the worker type [`WORKER_TYPE`] in the organisation that [`ENVIRONMENTS`], [`APPS`] and [`DEPLOYED`]
//! describe, and the conversions of [`deploy_conversions`].
//!
//! No row has two mistakes: which of them is told first is nobody's business.

use serde_json::{Value, json};

/// The worker type of the run.
pub const WORKER_TYPE: &str = "general";

/// An environment of the organisation.
pub struct Place {
    pub name: &'static str,
    /// Whether skills of [`WORKER_TYPE`] may deploy to it.
    pub allowed: bool,
    pub deleting: bool,
}

/// Every environment of the organisation.
pub const ENVIRONMENTS: [Place; 3] = [
    Place { name: "dev", allowed: true, deleting: false },
    Place { name: "closed", allowed: false, deleting: false },
    Place { name: "leaving", allowed: true, deleting: true },
];

/// Every app of the organisation.
pub const APPS: [&str; 4] = ["api", "web", "auto", "gone"];

/// A deployment of the organisation.
pub struct Deployed {
    pub env: &'static str,
    pub app: &'static str,
    /// The images of its revisions, oldest first, all of which ran; the last is running.
    pub images: &'static [&'static str],
    /// With 1 to 5 replicas, as its load wants.
    pub autoscale: bool,
    /// It was deleted, and is `stopped`.
    pub stopped: bool,
}

/// Every deployment of the organisation. `web` was never deployed.
pub const DEPLOYED: [Deployed; 5] = [
    Deployed {
        env: "dev",
        app: "api",
        images: &["acme/api:v1", "acme/api:v2"],
        autoscale: false,
        stopped: false,
    },
    Deployed {
        env: "dev",
        app: "auto",
        images: &["acme/auto:v1"],
        autoscale: true,
        stopped: false,
    },
    Deployed {
        env: "dev",
        app: "gone",
        images: &["acme/gone:v1"],
        autoscale: false,
        stopped: true,
    },
    Deployed {
        env: "closed",
        app: "api",
        images: &["acme/api:v1"],
        autoscale: false,
        stopped: false,
    },
    Deployed {
        env: "leaving",
        app: "api",
        images: &["acme/api:v1"],
        autoscale: false,
        stopped: false,
    },
];

/// A call of a run. What is absent in the JSON of a record is absent, empty or `false` in the contract's.
#[derive(Clone, Debug)]
pub enum Call {
    Environments,
    /// With `env_vars` as a list of pairs.
    Create(Value),
    Scale(String, String, u32),
    /// To `"previous"`, `{"version": …}` or `{"revision": …}`.
    Rollback(String, String, Value),
    Delete(String, String),
    Status(String, String),
    List(Option<String>),
    History(String, String, u32),
}

/// Calls of one run. All but the last succeed.
pub struct Row {
    pub calls: Vec<Call>,
    /// How what is said to the last begins: its kind, `: `, a text; none if it succeeds too.
    pub said: Option<&'static str>,
}

/// What can be done with a call.
pub trait Platform {
    /// Returns the id of the deployment that was changed or looked at, if it is one; or the kind of
    /// error, `: ` and its text.
    fn call(&mut self, call: &Call) -> Result<Option<String>, String>;
}

/// Runs a row on a platform that has just been made; says what is not as it should be. All changes of a
/// deployment, and looks at it, say the same id.
pub fn check(row: &Row, platform: &mut impl Platform) -> Result<(), String> {
    let mut ids: Vec<(String, String, String)> = Vec::new();
    let last = row.calls.len() - 1;
    for (place, call) in row.calls.iter().enumerate() {
        let answer = platform.call(call);
        let expected = row.said.filter(|_| place == last);
        let wrong = |what: String| {
            let mut call = format!("{call:?}");
            call.truncate(call.floor_char_boundary(200));
            Err(format!("call {place}, {call}: {what}"))
        };
        match (answer, expected) {
            (Ok(Some(id)), None) => {
                let Some((env, app)) = named(call) else {
                    return wrong(format!("names the deployment {id}"));
                };
                match ids.iter().find(|(one, other, _)| *one == env && *other == app) {
                    Some((_, _, known)) if *known != id => {
                        return wrong(format!("the deployment {id} was {known} before"));
                    }
                    _ => ids.push((env, app, id)),
                }
            }
            (Ok(None), None) => {}
            (Err(said), Some(begins)) if said.starts_with(begins) => {}
            (answer, expected) => return wrong(format!("{answer:?}, not {expected:?}")),
        }
    }
    Ok(())
}

/// The environment and the app that a call is about.
fn named(call: &Call) -> Option<(String, String)> {
    let (env, app) = match call {
        Call::Create(new) => (new["env"].as_str()?, new["app"].as_str()?),
        Call::Scale(env, app, _)
        | Call::Rollback(env, app, _)
        | Call::Delete(env, app)
        | Call::Status(env, app) => (env.as_str(), app.as_str()),
        Call::Environments | Call::List(_) | Call::History(..) => return None,
    };
    Some((env.to_owned(), app.to_owned()))
}

/// Every row.
pub fn rows() -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    apps(&mut rows);
    places(&mut rows);
    images(&mut rows);
    numbers(&mut rows);
    variables(&mut rows);
    settings(&mut rows);
    rollbacks(&mut rows);
    what_is_there(&mut rows);
    own_changes(&mut rows);
    quotas(&mut rows);
    rows.0
}

struct Rows(Vec<Row>);

impl Rows {
    fn refused(&mut self, call: Call, said: &'static str) {
        self.after([], call, said);
    }

    fn taken(&mut self, calls: impl IntoIterator<Item = Call>) {
        self.0.push(Row { calls: calls.into_iter().collect(), said: None });
    }

    fn after(&mut self, before: impl IntoIterator<Item = Call>, call: Call, said: &'static str) {
        let calls = before.into_iter().chain([call]).collect();
        self.0.push(Row { calls, said: Some(said) });
    }
}

/// `api` in `dev`, with these fields.
fn create(fields: Value) -> Call {
    let mut new = json!({ "env": "dev", "app": "api", "image": "acme/api:v3" });
    if let (Value::Object(new), Value::Object(fields)) = (&mut new, fields) {
        new.extend(fields);
    }
    Call::Create(new)
}

fn scale(env: &str, app: &str, replicas: u32) -> Call {
    Call::Scale(env.to_owned(), app.to_owned(), replicas)
}

fn rollback(env: &str, app: &str, to: Value) -> Call {
    Call::Rollback(env.to_owned(), app.to_owned(), to)
}

fn delete(env: &str, app: &str) -> Call {
    Call::Delete(env.to_owned(), app.to_owned())
}

fn status(env: &str, app: &str) -> Call {
    Call::Status(env.to_owned(), app.to_owned())
}

fn history(env: &str, app: &str, limit: u32) -> Call {
    Call::History(env.to_owned(), app.to_owned(), limit)
}

/// All that changes `app` in `env`.
fn changes(env: &str, app: &str) -> [Call; 4] {
    [
        create(json!({ "env": env, "app": app })),
        scale(env, app, 1),
        rollback(env, app, json!("previous")),
        delete(env, app),
    ]
}

fn apps(rows: &mut Rows) {
    rows.taken([create(json!({ "app": "web" }))]);
    let longest = format!("a{}", "x".repeat(49));
    for app in ["new", "a", "a-0", longest.as_str()] {
        rows.taken([create(json!({ "app": app, "register": true }))]);
    }
    rows.taken([create(json!({ "register": true }))]);
    rows.refused(create(json!({ "app": "new" })), "not found: there is no app `new`");
    let [_, others @ ..] = changes("dev", "new");
    for call in others {
        rows.refused(call, "not found: there is no deployment `new");
    }
    // Registered, and never deployed.
    let [_, others @ ..] = changes("dev", "web");
    for call in others {
        rows.refused(call, "not found: there is no deployment `web");
    }
    rows.refused(create(json!({ "app": "", "register": true })), "invalid: app: must not be empty");
    let said = "invalid: app: `A` is not a DNS label: lower-case letters, digits and `-`, at most 50, no `-` \
                at either end";
    rows.refused(create(json!({ "app": "A", "register": true })), said);
    let too_long = "x".repeat(51);
    for app in ["-a", "a-", "a_b", "ä", "a b", "a/b", "a.b", "a\0", &too_long] {
        rows.refused(create(json!({ "app": app, "register": true })), "invalid: app: `");
        let [_, others @ ..] = changes("dev", app);
        for call in others {
            rows.refused(call, "not found: there is no deployment `");
        }
        rows.refused(status("dev", app), "not found: there is no deployment `");
        rows.refused(history("dev", app, 1), "not found: there is no deployment `");
    }
    let said = "invalid: app: `2048` must begin with a letter: it names a service";
    rows.refused(create(json!({ "app": "2048", "register": true })), said);
}

fn places(rows: &mut Rows) {
    let too_long = "x".repeat(41);
    for env in ["prod", "", "DEV", "dev ", "dev\0", "ä", &too_long] {
        let reads = [status(env, "api"), Call::List(Some(env.to_owned())), history(env, "api", 1)];
        for call in changes(env, "api").into_iter().chain(reads) {
            rows.refused(call, "not found: there is no environment `");
        }
    }
    for call in changes("closed", "api") {
        let said = "denied: skills of the worker type `general` may not deploy to `closed`";
        rows.refused(call, said);
    }
    for call in changes("leaving", "api") {
        rows.refused(call, "conflict: the environment `leaving` is being deleted");
    }
    // To look is allowed.
    for env in ["dev", "closed", "leaving"] {
        rows.taken([
            status(env, "api"),
            Call::List(Some(env.to_owned())),
            history(env, "api", 100),
            Call::Environments,
            Call::List(None),
        ]);
    }
}

fn images(rows: &mut Rows) {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let longest = format!("{}:{}", "x".repeat(383), "y".repeat(128));
    for image in [
        "api",
        "registry.example.com:5000/acme/api",
        "localhost/x:1",
        "ghcr.io/a/b/c_d.e:_x",
        &format!("api@{digest}"),
        &format!("acme/api:v1@{digest}"),
        &longest,
    ] {
        rows.taken([create(json!({ "image": image }))]);
    }
    rows.refused(create(json!({ "image": "" })), "invalid: image: must not be empty");
    let said = "invalid: image: is longer than 512 characters";
    rows.refused(create(json!({ "image": "x".repeat(513) })), said);
    let long_tag = format!("a:{}", "x".repeat(129));
    for image in [
        " ",
        "A/b",
        "a:",
        "a:-x",
        "a b",
        "a@sha256:0",
        "a@md5:00",
        "/a",
        "a/",
        "a//b",
        "-a",
        "a..b",
        "http://a/b",
        "a\n",
        "a\0",
        "a:v1:v2",
        "ä",
        "host:0/a",
        "host:99999/a",
        "a:$(x)",
        &long_tag,
    ] {
        rows.refused(create(json!({ "image": image })), "invalid: image: `");
    }
}

fn numbers(rows: &mut Rows) {
    for replicas in [0, 1, 1_000] {
        rows.taken([create(json!({ "replicas": replicas })), scale("dev", "api", replicas)]);
    }
    let said = "invalid: replicas: must be 0 to 1000, not 1001";
    rows.refused(create(json!({ "replicas": 1_001 })), said);
    rows.refused(scale("dev", "api", 1_001), said);
    let said = "invalid: replicas: must be 0 to 1000, not 4294967295";
    rows.refused(create(json!({ "replicas": u32::MAX })), said);
    rows.refused(scale("dev", "api", u32::MAX), said);
    for (limit, said) in [
        (0, "invalid: limit: 0 is not between 1 and 100"),
        (101, "invalid: limit: 101 is not between 1 and 100"),
        (u32::MAX, "invalid: limit: 4294967295 is not between 1 and 100"),
    ] {
        rows.refused(history("dev", "api", limit), said);
    }
    let said = "conflict: `auto` has 1 to 5 replicas, as its load wants";
    rows.refused(scale("dev", "auto", 3), said);
    // Whoever says how many does not want the load to say so.
    let fixed = create(json!({ "app": "auto", "replicas": 2 }));
    rows.taken([fixed, scale("dev", "auto", 3)]);
}

fn variables(rows: &mut Rows) {
    let pairs = |count: usize| (0..count).map(|n| json!([format!("V{n}"), ""])).collect::<Value>();
    for env_vars in [
        json!([]),
        json!([["DATABASE_URL", "postgres://x"], ["_a1", ""]]),
        json!([["A".repeat(253), "ä"]]),
        pairs(500),
        json!([["A", "x".repeat((512 << 10) - 1)]]),
    ] {
        rows.taken([create(json!({ "env_vars": env_vars }))]);
    }
    let said = "invalid: env_vars: may be at most 500 variables";
    rows.refused(create(json!({ "env_vars": pairs(501) })), said);
    let said = "invalid: env_vars: may have at most 524288 bytes together";
    rows.refused(create(json!({ "env_vars": [["A", "x".repeat(512 << 10)]] })), said);
    for name in ["", "1A", "A-B", "A B", "Ä", "A=B", "A.B", "A\0", &"A".repeat(254)] {
        rows.refused(create(json!({ "env_vars": [[name, "x"]] })), "invalid: env_vars: `");
    }
    let said = "invalid: env_vars: A: may not contain the character U+0000";
    rows.refused(create(json!({ "env_vars": [["A", "\0"]] })), said);
    // Which of the two is meant, nobody knows.
    let said = "invalid: env_vars: `A` stands there twice";
    rows.refused(create(json!({ "env_vars": [["A", "1"], ["B", ""], ["A", "1"]] })), said);
}

fn settings(rows: &mut Rows) {
    let with = |settings: Value| create(json!({ "settings": settings.to_string() }));
    for settings in [
        json!({}),
        json!({ "port": 1, "health_path": "/healthz?x=1", "cpu": "0.5", "memory": "1.5Gi" }),
        json!({ "port": 65_535, "cpu": "250m", "memory": "256Mi" }),
        json!({ "autoscale": { "min": 1, "max": 100 } }),
        json!({ "autoscale": { "min": 5, "max": 5, "cpu_percent": 100 } }),
        json!({ "command": ["/app", "--flag"], "run_as_user": 1_000, "deadline_s": 5 }),
        json!({ "command": vec!["x"; 100], "run_as_user": i32::MAX, "deadline_s": 3_600 }),
        json!({ "port": null, "autoscale": null, "hosts": null, "canary": null, "secrets": null }),
    ] {
        rows.taken([with(settings)]);
    }
    for (settings, said) in [
        (json!({ "port": 0 }), "invalid: settings"),
        (json!({ "port": 65_536 }), "invalid: settings"),
        (json!({ "port": "80" }), "invalid: settings"),
        (json!({ "health_path": "healthz" }), "invalid: settings"),
        (json!({ "health_path": "/a b" }), "invalid: settings"),
        (json!({ "health_path": format!("/{}", "x".repeat(1_024)) }), "invalid: settings"),
        (json!({ "cpu": "1Gi" }), "invalid: settings"),
        (json!({ "cpu": "0" }), "invalid: settings"),
        (json!({ "cpu": 1 }), "invalid: settings"),
        (json!({ "memory": "256" }), "invalid: settings"),
        (json!({ "memory": "-1Mi" }), "invalid: settings"),
        (json!({ "autoscale": { "min": 0, "max": 1 } }), "invalid: settings"),
        (json!({ "autoscale": { "min": 5, "max": 4 } }), "invalid: settings"),
        (json!({ "autoscale": { "min": 1, "max": 101 } }), "invalid: settings"),
        (json!({ "autoscale": { "min": 1 } }), "invalid: settings"),
        (json!({ "autoscale": { "min": 1, "max": 2, "cpu_percent": 0 } }), "invalid: settings"),
        (json!({ "autoscale": { "min": 1, "max": 2, "up": true } }), "invalid: settings"),
        (json!({ "run_as_user": 0 }), "invalid: settings"),
        (json!({ "run_as_user": 1_u64 << 31 }), "invalid: settings"),
        (json!({ "deadline_s": 4 }), "invalid: settings"),
        (json!({ "deadline_s": 3_601 }), "invalid: settings"),
        (json!({ "command": vec!["x"; 101] }), "invalid: settings"),
        (json!({ "command": ["x".repeat(4_097)] }), "invalid: settings"),
        (json!({ "command": ["\0"] }), "invalid: settings"),
        (json!({ "privileged": true }), "invalid: settings"),
        (json!({ "privileged": null }), "invalid: settings"),
        (json!({ "variables": ["A"] }), "invalid: settings"),
        (json!([]), "invalid: settings"),
        (json!(null), "invalid: settings"),
    ] {
        rows.refused(with(settings), said);
    }
    for (text, said) in [
        ("{", "invalid: settings: not valid JSON"),
        ("", "invalid: settings: not valid JSON"),
        (
            &format!("{{\"command\":[\"{}\"]}}", "x".repeat(64 << 10)),
            "invalid: settings: 65552 bytes; at most 65536 are allowed",
        ),
    ] {
        rows.refused(create(json!({ "settings": text })), said);
    }
}

fn rollbacks(rows: &mut Rows) {
    for to in [
        json!("previous"),
        json!({ "version": "v1" }),
        json!({ "version": "v2" }),
        json!({ "revision": 1 }),
    ] {
        rows.taken([rollback("dev", "api", to)]);
    }
    for (app, to, said) in [
        (
            "api",
            json!({ "version": "v9" }),
            "conflict: no version `v9` of `api` ever ran in `dev`; these did: v2, v1",
        ),
        ("api", json!({ "version": "" }), "conflict: no version `` of `api` ever ran in `dev`"),
        (
            "api",
            json!({ "version": "a\0" }),
            "conflict: no version `a\\u{0}` of `api` ever ran in `dev`",
        ),
        (
            "api",
            json!({ "revision": 3 }),
            "conflict: no revision 3 of `api` ever ran in `dev`; these did: 2, 1",
        ),
        ("api", json!({ "revision": 0 }), "conflict: no revision 0 of `api` ever ran in `dev`"),
        (
            "api",
            json!({ "revision": u32::MAX }),
            "conflict: no revision 4294967295 of `api` ever ran in `dev`",
        ),
        (
            "auto",
            json!("previous"),
            "conflict: no other version of `auto` ever ran in `dev`; these did: v1",
        ),
    ] {
        rows.refused(rollback("dev", app, to), said);
    }
}

fn what_is_there(rows: &mut Rows) {
    // What was deleted can be looked at and deployed again, and no more.
    let [again, others @ ..] = changes("dev", "gone");
    for call in others {
        rows.refused(call, "not found: there is no deployment `gone`");
    }
    rows.taken([status("dev", "gone"), history("dev", "gone", 1), again.clone()]);
    rows.taken([again, scale("dev", "gone", 2), status("dev", "gone"), delete("dev", "gone")]);
    rows.refused(status("dev", "new"), "not found: there is no deployment `new");
    rows.refused(status("dev", "web"), "not found: there is no deployment `web");
    rows.refused(history("dev", "web", 1), "not found: there is no deployment `web");
}

/// A run sees what it has asked for.
fn own_changes(rows: &mut Rows) {
    let new = || create(json!({ "app": "new", "register": true }));
    rows.taken([
        new(),
        status("dev", "new"),
        history("dev", "new", 1),
        scale("dev", "new", 2),
        create(json!({ "app": "new" })),
        status("dev", "new"),
        Call::List(None),
    ]);
    let never = "conflict: no other version of `new` ever ran in `dev`";
    rows.after([new()], rollback("dev", "new", json!("previous")), never);
    let scaled = create(json!({
        "app": "new", "register": true, "settings": "{\"autoscale\": {\"min\": 2, \"max\": 3}}"
    }));
    let said = "conflict: `new` has 2 to 3 replicas, as its load wants";
    rows.after([scaled], scale("dev", "new", 2), said);
    // What ran before the run is what it goes back to.
    let back = rollback("dev", "api", json!("previous"));
    rows.taken([create(json!({})), back.clone(), back, status("dev", "api")]);
    let gone = "not found: there is no deployment `api`";
    for call in [scale("dev", "api", 1), delete("dev", "api")] {
        rows.after([delete("dev", "api")], call, gone);
    }
    rows.taken([
        delete("dev", "api"),
        status("dev", "api"),
        create(json!({})),
        scale("dev", "api", 1),
    ]);
    // An app that a run has registered is registered in every environment, and is no deployment there.
    rows.after([new()], delete("dev", "other"), "not found: there is no deployment `other");
    // What is refused changes nothing.
    let refused = create(json!({ "app": "late", "register": true, "env": "closed" }));
    rows.refused(refused, "denied: ");
}

fn quotas(rows: &mut Rows) {
    let scales = |count: u32| (0..count).map(|n| scale("dev", "api", n));
    rows.taken(scales(100));
    for call in changes("dev", "api") {
        rows.after(scales(100), call, "limit: a run ");
    }
    // Looking is free.
    rows.taken(scales(100).chain([status("dev", "api"), Call::List(None)]));
    // Everything that a run asks for shares a budget of bytes.
    let large = || create(json!({ "env_vars": [["A", "x".repeat(500_000)]] }));
    let full = "limit: what a run asks for may take 8388608 bytes in all";
    rows.after((0..16).map(|_| large()), large(), full);
}

/// Both sides have the contract's types from generators of their own, with the same names: this makes
/// them of a table's JSON, in a module where `contract` is the `deploy` of one side and `types` its
/// `types`.
macro_rules! deploy_conversions {
    () => {
        fn new_deployment(value: &Value) -> contract::NewDeployment {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let pair = |pair: &Value| {
                (text(&pair[0]).unwrap_or_default(), text(&pair[1]).unwrap_or_default())
            };
            contract::NewDeployment {
                env: text(&value["env"]).unwrap_or_default(),
                app: text(&value["app"]).unwrap_or_default(),
                register: value["register"] == true,
                image: text(&value["image"]).unwrap_or_default(),
                replicas: value["replicas"].as_u64().map(|n| n as u32),
                env_vars: value["env_vars"]
                    .as_array()
                    .map(|pairs| pairs.iter().map(pair).collect()),
                settings: text(&value["settings"]),
            }
        }

        fn target(value: &Value) -> contract::Target {
            match (value["version"].as_str(), value["revision"].as_u64()) {
                (Some(version), _) => contract::Target::Version(version.to_owned()),
                (None, Some(revision)) => contract::Target::Revision(revision as u32),
                (None, None) => contract::Target::Previous,
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
pub(crate) use deploy_conversions;
