//! Uploads that are meant to do harm: bodies, names, front matters, and compilers that die of them. Each
//! gets an answer that says what is wrong, is short and can be shown; and what was active stays so.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::skills::{multipart, push, version};
use super::*;

const PATH: &str = "/v1/skills/words/versions";
const PUSH: &str = "/v1/skills/words/versions?activate=false";

/// An organisation whose skill `words` has an active version, and its owner's credential.
async fn with_words(api: &Api) -> (Tenant, String) {
    let (acme, owner, ada) = api.org("acme").await;
    let actor = Actor::User { user: owner };
    let words = version("words", "1", 0xa1);
    store::push(&api.database.db, acme, &actor, &words, Activation::Activate).await.unwrap();
    (acme, ada)
}

/// Checks that a refusal is fit to be shown, and returns what it says.
fn polite(answer: &Answer) -> String {
    let shown = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status.is_client_error(), "{}: {shown}", answer.status);
    let body = answer.json();
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json", "{shown}");
    assert!(answer.body.len() < 16_000, "{} bytes", answer.body.len());
    for text in [&body["detail"], &body["field"]].into_iter().filter_map(Value::as_str) {
        assert!(text.len() <= 4_200 && !text.contains(is_harmful), "{text:?}");
    }
    assert!(!shown.contains(".rs:") && !shown.contains("panicked"), "{shown}");
    body["detail"].as_str().unwrap().to_owned()
}

fn is_harmful(char: char) -> bool {
    (char.is_control() && char != '\n') || "\u{202a}\u{202e}\u{2066}\u{200b}\u{200f}".contains(char)
}

/// Nothing of it is there, and what was there is as it was.
async fn is_unchanged(api: &Api, ada: &str) {
    let items = api.get("/v1/skills", ada).await.json()["items"].clone();
    let names: Vec<_> = items.as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["words"]);
    let words = api.get("/v1/skills/words", ada).await.json();
    assert_eq!(
        (&words["active_version"], words["versions"].as_array().unwrap().len()),
        (&json!("1"), 1)
    );
}

async fn send(api: &Api, ada: &str, content_type: &str, body: Body) -> Answer {
    let request = request(Method::POST, PUSH)
        .header(header::AUTHORIZATION, format!("Bearer {ada}"))
        .header(header::CONTENT_TYPE, content_type);
    api.send(request.body(body).unwrap()).await
}

/// Ten gigabytes of zeroes are ten megabytes of gzip, and a kilobyte of gzip in gzip.
#[tokio::test]
async fn what_is_compressed_is_not_taken_apart() {
    let api = Api::start().await;
    let (_, ada) = with_words(&api).await;
    let (content_type, upload) = multipart(&[("component", b"x")]);
    for coding in
        ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "\u{fffd}"]
    {
        for (path, content_type, body) in [
            (PATH, content_type.as_str(), upload.clone()),
            ("/v1/requests", "application/json", b"{\"worker_type\": \"general\"}".to_vec()),
        ] {
            let request = request(Method::POST, path)
                .header(header::AUTHORIZATION, format!("Bearer {ada}"))
                .header(header::CONTENT_TYPE, content_type)
                .header(header::CONTENT_ENCODING, coding.as_bytes());
            let answer = api.send(request.body(Body::from(body)).unwrap()).await;
            let problem = answer.problem(415, "unsupported-media-type");
            assert!(polite(&answer).contains("Content-Encoding"), "{problem}");
            assert_eq!(answer.headers[header::ACCEPT_ENCODING], "identity");
        }
    }
    let plain = request(Method::POST, PATH)
        .header(header::AUTHORIZATION, format!("Bearer {ada}"))
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONTENT_ENCODING, "identity");
    // It is read, and then it is no component.
    api.send(plain.body(Body::from(upload)).unwrap()).await.problem(422, "invalid");
    is_unchanged(&api, &ada).await;
}

#[tokio::test]
async fn a_form_that_is_none_is_refused() {
    let api = Api::start().await;
    let (_, ada) = with_words(&api).await;
    let part = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let end = "--b--\r\n";
    let many = part("x", "").repeat(100_000);
    let evil = "a\u{202e}\u{200b}";
    for (what, body, said) in [
        ("nothing", String::new(), "breaks off"),
        ("only its end", end.to_owned(), "component"),
        ("no end", part("component", "x"), "breaks off"),
        ("no end of its head", "--b\r\nContent-Disposition: form-data".to_owned(), "breaks off"),
        ("no head", format!("--b\r\n\r\nx\r\n{end}"), "breaks off"),
        ("no name", format!("--b\r\nA: b\r\n\r\nx\r\n{end}"), "the part `` is not expected"),
        ("another boundary", part("component", "x").replace("--b", "--c"), "breaks off"),
        ("an empty component", part("component", "") + end, "is missing"),
        (
            "twice the component",
            part("component", "x").repeat(2) + end,
            "`component` is not expected",
        ),
        ("twice the manifest", part("manifest", "x").repeat(2) + end, "`manifest` is not expected"),
        ("a hundred thousand parts", many.clone() + end, "the part `x` is not expected"),
        ("and no end", many, "the part `x` is not expected"),
        ("a name of a megabyte", part(&"n".repeat(1_000_000), "x") + end, "the part `nnn"),
        ("a name that is not harmless", part(evil, "x") + end, "is not expected"),
        (
            "a hundred heads",
            format!("--b\r\n{}\r\nx\r\n{end}", "A: b\r\n".repeat(100)),
            "breaks off",
        ),
    ] {
        let answer = send(&api, &ada, "multipart/form-data; boundary=b", Body::from(body)).await;
        let detail = polite(&answer);
        assert!(detail.contains(said), "{what}: {detail}");
    }
    for content_type in ["multipart/form-data", "multipart/mixed; boundary=b", "text/plain", ""] {
        let body = Body::from(part("component", "x") + end);
        assert!(
            polite(&send(&api, &ada, content_type, body).await).contains("multipart/form-data")
        );
    }
    is_unchanged(&api, &ada).await;
}

/// A head that never ends, or no part at all: the parser would keep all of it, and look at it again and
/// again.
#[tokio::test]
async fn what_leads_to_nothing_is_not_read_for_long() {
    const CHUNK: usize = 16 << 10;
    let api = Api::start().await;
    let (_, ada) = with_words(&api).await;
    let open = "--b\r\nContent-Disposition: form-data; name=\"component\"\r\n";
    for (what, beginning) in [
        ("before the first part", String::new()),
        ("a name", "--b\r\nContent-Disposition: form-data; name=\"".to_owned()),
        ("a head", format!("{open}X: ")),
        ("behind a part", format!("{open}\r\nx\r\n--b")),
    ] {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let endless = stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, io::Error>(Bytes::from_static(&[b'y'; CHUNK]))
        });
        let first = stream::iter([Ok(Bytes::from(beginning))]);
        let body = Body::from_stream(first.chain(endless));
        let answer = send(&api, &ada, "multipart/form-data; boundary=b", body).await;
        assert!(polite(&answer).contains("breaks off"), "{what}");
        let taken = taken.load(Ordering::Relaxed) * CHUNK;
        assert!(taken < 4 << 20, "{what}: {taken} bytes were taken");
    }
    // Contents are another matter: they are counted, and thrown away.
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; CHUNK])));
    let first = stream::iter([Ok(Bytes::from(format!("{open}\r\n")))]);
    let body = Body::from_stream(first.chain(endless));
    send(&api, &ada, "multipart/form-data; boundary=b", body).await.problem(413, "too-large");
    is_unchanged(&api, &ada).await;
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let api = Api::start().await;
    let (_, ada) = with_words(&api).await;
    let long = "a".repeat(60_000);
    for name in [
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f",
        "a%2fb",
        "a%5cb",
        ".",
        "-words",
        "words-",
        "%00",
        "words%00",
        "wo%0ards",
        "wo%1b%5b31mrds",
        "Words",
        "w%C3%B6rds",
        "w%D0%BErds", // о
        "%E2%80%AEsdrow",
        "words%E2%80%8B",
        "wor%20ds",
        "%ff%fe",
        "words.wasm",
        &long,
        &"%00".repeat(20_000),
    ] {
        let path = format!("/v1/skills/{name}/versions");
        let answer = push(&api, &ada, &path, &[("component", b"x")]).await;
        let detail = polite(&answer);
        assert!([400, 422].contains(&answer.status.as_u16()), "{name}: {detail}");
        assert!(detail.contains("name") || detail.contains("UTF-8"), "{name}: {detail}");
        // Where something is looked up, it is not there.
        let paths =
            ["", "/versions", "/versions/1/activate", "/capabilities/queue", "/schemas/state"];
        for (rest, method) in paths.into_iter().zip(["GET", "GET", "POST", "DELETE", "PUT"]) {
            let path = format!("/v1/skills/{name}{rest}");
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let body = (method == Method::POST).then(|| json!({}));
            let answer = api.call(method, &path, &ada, body).await;
            assert!([400, 404, 422].contains(&answer.status.as_u16()), "{path}");
            polite(&answer);
        }
    }
    for label in ["..", "%2e%2e%2f", "%00", "1%0a", "%E2%80%AE1", "%D0%B0", &long] {
        let path = format!("/v1/skills/words/versions/{label}/activate");
        polite(&api.post(&path, &ada, json!({})).await);
    }
    is_unchanged(&api, &ada).await;
}

#[tokio::test]
async fn a_front_matter_that_is_a_bomb_is_refused() {
    let api = Api::start().await;
    let (_, ada) = with_words(&api).await;
    let matter = |lines: &str| format!("---\nname: words\ndescription: x\n{lines}\n---\n# Words\n");
    let laughs: String =
        (1..30).map(|n| format!("l{n}: &l{n} [*l{0}, *l{0}, *l{0}, *l{0}]\n", n - 1)).collect();
    let keys: String = (0..7_000).map(|n| format!("k{n}: 1\n")).collect();
    let list = format!("worker_types: [{}]", "a, ".repeat(20_000));
    let deep = |open: &str, close: &str| {
        format!("worker_types: {}{}", open.repeat(10_000), close.repeat(10_000))
    };
    for (what, text) in [
        ("aliases of aliases", matter(&format!("l0: &l0 [lol]\n{laughs}"))),
        ("an alias of itself", matter("schemas: &a [*a]")),
        ("a merge", matter("<<: {version: \"1\"}")),
        ("lists in lists", matter(&deep("[", "]"))),
        ("maps in maps", matter(&deep("{a: ", "}"))),
        (
            "indentation",
            matter(&(0..300).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>()),
        ),
        ("many keys", matter(&keys)),
        ("a long list", matter(&list)),
        ("a key of 60 KB", matter(&format!("{}: 1", "k".repeat(60_000)))),
        ("a key that is not harmless", matter("\"a\\e[31m\\u202e\": 1")),
        ("a tag", matter("version: !!python/object/apply:os.system [\"true\"]")),
        ("two documents", matter("...\n--- \nname: other")),
        ("a version with a slash", matter("version: ../1")),
        ("a version of the next line", matter("version: \"1\\n2\"")),
        ("a version of other letters", matter("version: \"\u{430}\"")),
        ("a version of a kilobyte", matter(&format!("version: \"{}\"", "1".repeat(1_000)))),
        ("another name", matter("").replace("name: words", "name: w\u{43e}rds")),
        ("a name with marks", matter("").replace("name: words", "name: \"words\\u202e\"")),
        ("a description that turns around", matter("").replace("x\n", "\"a\\u202eb\"\n")),
        ("a schema of another", matter("schemas: [\"a\\\"; DROP SCHEMA x\"]")),
        ("a capability that is none", matter("capabilities: [\"qu\\u0435ue\"]")),
        ("U+0000", matter("version: \"\\0\"")),
        ("U+0000 below", format!("{}\0", matter(""))),
        ("no end", "---\n".to_owned() + &"a: b\n".repeat(10_000)),
        ("a text without its end", "---\nname: words\ndescription: \"x\n---\n".to_owned()),
    ] {
        let parts = [("component", b"x".as_slice()), ("manifest", text.as_bytes())];
        let answer = push(&api, &ada, PUSH, &parts).await;
        let detail = polite(&answer);
        assert_eq!(answer.problem(422, "invalid")["field"], "manifest", "{what}: {detail}");
        assert!(detail.len() < 1_000, "{what}: {detail}");
    }
    is_unchanged(&api, &ada).await;
}

/// However many an organisation sends, and however slowly: others find room.
#[tokio::test]
async fn an_organisation_does_not_take_every_place() {
    let api = Api::start().await;
    let (acme, ada) = with_words(&api).await;
    let (_, _, eve) = api.org("corp").await;
    let mut places: Vec<_> = std::iter::from_fn(|| api.state.uploads.admit(acme).ok()).collect();
    assert!((1..8).contains(&places.len()), "{}", places.len());
    let busy = push(&api, &ada, PATH, &[("component", b"x")]).await;
    busy.problem(503, "unavailable");
    assert!(busy.headers.contains_key(header::RETRY_AFTER));
    push(&api, &eve, PATH, &[("component", b"x")]).await.problem(422, "invalid");
    places.pop();
    push(&api, &ada, PATH, &[("component", b"x")]).await.problem(422, "invalid");
    drop(places);
    let again: Vec<_> = std::iter::from_fn(|| api.state.uploads.admit(acme).ok()).collect();
    assert!(again.len() > 1, "places are given back");
}

/// The compiler dies of an upload, or of something else; the API goes on.
#[tokio::test]
async fn a_compiler_that_dies_takes_nobody_along() {
    for (script, status) in [
        ("kill -SEGV $$", 422),
        ("kill -XCPU $$", 422),
        ("head -c 1 >/dev/null; kill -ABRT $$", 422),
        ("kill -KILL $$", 500),
        ("exit 1", 500),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (text, exe) = (folder.path().join("text"), folder.path().join("eve"));
        std::fs::write(&text, format!("#!/bin/bash\n{script}\n")).unwrap();
        // By somebody else: what this process has had open cannot be run while another test forks.
        let mut install = std::process::Command::new("install");
        assert!(install.args(["-m", "755"]).args([&text, &exe]).status().unwrap().success());
        let api = Api::compiling_by(TestDatabase::fresh().await, exe);
        let (_, ada) = with_words(&api).await;
        let answer = push(&api, &ada, PATH, &[("component", b"x")]).await;
        match status {
            422 => {
                let problem = answer.problem(422, "invalid");
                assert_eq!(problem["field"], "component", "{script}: {problem}");
                polite(&answer);
            }
            // What it was is in the log, not in the answer.
            _ => {
                let problem = answer.problem(500, "internal");
                assert!(!problem.to_string().contains("compiler"), "{script}: {problem}");
            }
        }
        is_unchanged(&api, &ada).await;
    }
}

/// What somebody does who has said all that there is to say.
#[derive(PartialEq)]
enum Then {
    Listen,
    HangUp,
}

/// What a server answers to these bytes, until it hangs up.
async fn raw(address: SocketAddr, head: &str, body: &[u8], then: Then) -> String {
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = connection.split();
    let say = async {
        // It may well hang up before it has heard everything.
        let _ = to.write_all(head.as_bytes()).await;
        let _ = to.write_all(body).await;
        if then == Then::HangUp {
            let _ = to.shutdown().await;
        }
    };
    let mut answer = Vec::new();
    let hear = async {
        let _ = from.read_to_end(&mut answer).await;
    };
    tokio::join!(say, hear);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_connection_that_lies_is_ended_and_others_are_served() {
    let api = Api::start().await;
    let (_, ada) = with_words(&api).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, api.state.clone(), api.shutdown.clone()));
    let (content_type, body) = multipart(&[("component", b"no component")]);
    let head = |more: &str| {
        format!(
            "POST {PUSH} HTTP/1.1\r\nHost: eve\r\nAuthorization: Bearer {ada}\r\n\
             Content-Type: {content_type}\r\nConnection: close\r\n{more}\r\n"
        )
    };
    let honest = head(&format!("Content-Length: {}\r\n", body.len()));
    let name = "a".repeat(10 << 20);
    let long_name = format!("POST /v1/skills/{name}/versions HTTP/1.1\r\nHost: eve\r\n\r\n");
    let long_header = format!("GET /v1/skills HTTP/1.1\r\nHost: eve\r\nX: {name}\r\n\r\n");
    for (what, head) in [
        ("less than there is", head("Content-Length: 20\r\n")),
        ("more than there is", head("Content-Length: 100000\r\n")),
        ("more than can be", head("Content-Length: 99999999999999999999999\r\n")),
        ("two lengths", head("Content-Length: 5\r\nContent-Length: 6\r\n")),
        ("a length and chunks", head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("chunks that are none", head("Transfer-Encoding: chunked\r\n")),
        ("no length", head("")),
        ("a name of 10 MB", long_name),
        ("a header of 10 MB", long_header),
    ] {
        // Whoever goes on talking may find that the server has hung up before it could be heard.
        let answer = raw(address, &head, &body, Then::HangUp).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        let answer = raw(address, &honest, &body, Then::Listen).await;
        assert!(answer.starts_with("HTTP/1.1 422"), "after {what}: {answer}");
    }
    is_unchanged(&api, &ada).await;
    api.shutdown.cancel();
    serving.await.unwrap().unwrap();
}
