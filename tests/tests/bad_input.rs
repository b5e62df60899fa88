//! Bad input gets a clear error and changes nothing.

#[path = "../../host/src/runtime/guests.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
mod guests;

use eve_host::tenancy::tokens::TokenSecret;
use eve_tests::{Eve, Member, Shared, skill};
use futures::stream;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use serde_json::{Value, json};
use uuid::Uuid;

const MIB: usize = 1 << 20;

/// Pushes a component by the API; status and answer.
async fn push(
    member: &Member,
    name: &str,
    component: Vec<u8>,
    manifest: Option<&str>,
) -> anyhow::Result<(u16, Value)> {
    let mut form = Form::new().part("component", Part::bytes(component));
    if let Some(manifest) = manifest {
        form = form.text("manifest", manifest.to_owned());
    }
    let answer = member
        .call(Method::POST, &format!("/v1/skills/{name}/versions"))
        .multipart(form)
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

fn slug(problem: &Value) -> &str {
    problem["type"].as_str().and_then(|uri| uri.rsplit('/').next()).unwrap_or_default()
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn what_is_no_skill_is_refused_and_the_old_version_stays() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let (status, first) = push(&acme, "victim", guests::noop(), None).await?;
    assert_eq!(status, 201, "{first}");
    let before = acme.belongings().await?;

    let manifest = "---\nname: victim\ndescription: x\n---\n";
    for (component, manifest, reason) in [
        (b"#!/bin/sh\necho no component\n".to_vec(), None, "not a WebAssembly component"),
        (b"\0asm".to_vec(), None, "component"),
        (guests::module(), None, "core WebAssembly module"),
        (guests::importing("acme:secrets/vault@1.0.0"), None, "acme:secrets/vault@1.0.0"),
        (guests::importing("wasi:http/types@0.2.0"), None, "no network"),
        (guests::importing("eve:skill/queue@0.2.0"), None, "another version of the contract"),
        (guests::nothing(), None, "exports nothing"),
        (guests::wrong_type(), None, "`run` is"),
        (guests::noop()[..300].to_vec(), None, "not valid"),
        (guests::noop(), Some("# No front matter"), "front matter"),
        (guests::noop(), Some("---\nname: other\ndescription: x\n---\n"), "pushed as `victim`"),
        (Vec::new(), Some(manifest), "missing"),
    ] {
        let (status, problem) = push(&acme, "victim", component, manifest).await?;
        assert_eq!((status, slug(&problem)), (422, "invalid"), "{problem}");
        assert!(detail(&problem).contains(reason), "should say `{reason}`: {problem}");
        assert_eq!(acme.belongings().await?, before, "{problem}");
    }
    let (status, problem) = push(&acme, "Not A Name", guests::noop(), None).await?;
    assert_eq!(status, 422, "{problem}");
    let shown = acme.json(["skill", "show", "victim"]).await?;
    assert_eq!(shown["active_version"], first["version"], "{shown}");

    // The command line says the same, before or after it has sent the file.
    let folder = tempfile::tempdir()?;
    for (name, component, reason) in [
        ("text.wasm", b"no component".to_vec(), "is not WebAssembly"),
        ("module.wasm", guests::module(), "is a core WebAssembly module"),
        ("nothing.wasm", guests::nothing(), "exports nothing"),
        ("greedy.wasm", guests::importing("wasi:http/types@0.2.0"), "no network"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, component)?;
        let output =
            acme.run(["skill", "push", &path.to_string_lossy(), "--name", "victim"]).await?;
        assert_eq!(output.code(), Some(2), "{output}");
        assert!(output.stderr.contains(reason), "{output}");
    }
    assert_eq!(acme.belongings().await?, before);
    Ok(())
}

#[tokio::test]
async fn an_upload_of_200_mib_is_turned_away_and_never_held() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let acme = platform.org().await?;
    let before = acme.belongings().await?;
    let memory = || -> anyhow::Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", platform.server()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.ok_or_else(|| anyhow::anyhow!("no VmHWM"))?.trim().parse::<usize>()? << 10)
    };
    let held_before = memory()?;
    let chunk = bytes_of(MIB);
    let chunks = stream::iter((0..200).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let part = Part::stream_with_length(Body::wrap_stream(chunks), 200 * MIB as u64);
    let answer = acme
        .call(Method::POST, "/v1/skills/huge/versions")
        .multipart(Form::new().part("component", part))
        .send()
        .await?;
    assert_eq!(answer.status(), 413);
    let problem: Value = answer.json().await?;
    assert_eq!(slug(&problem), "too-large", "{problem}");
    assert!(detail(&problem).contains("67108864 bytes"), "{problem}");
    // A vector that grows to the limit of 64 MiB is copied once: twice that, and what else there is.
    let held = memory()?.saturating_sub(held_before);
    assert!(held < 160 * MIB, "the control plane held {} MiB of it", held / MIB);
    assert_eq!(acme.belongings().await?, before);

    // At the command line it is not even sent.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("huge.wasm");
    std::fs::File::create(&path)?.set_len(200 * MIB as u64)?;
    let output = acme.run(["skill", "push", &path.to_string_lossy()]).await?;
    assert_eq!(output.code(), Some(2), "{output}");
    assert!(output.stderr.contains("has 200.0 MiB; a skill may have 64.0 MiB"), "{output}");

    // What is no upload at all, however large, is not read to its end either.
    let huge = vec![b' '; 3 * MIB];
    let json = acme.call(Method::POST, "/v1/requests").header("content-type", "application/json");
    assert_eq!(json.body(huge).send().await?.status(), 413);
    Ok(())
}

fn bytes_of(length: usize) -> Vec<u8> {
    vec![7; length]
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_not_created() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    let theirs = corp.create(json!({ "worker_type": "nobody" })).await?;
    let before = acme.belongings().await?;
    let absent = Uuid::now_v7();
    for (body, status, field, reason) in [
        (json!({ "worker_type": "general", "context": [1] }), 422, "context", "object"),
        (json!({ "worker_type": "general", "context": "text" }), 422, "context", "object"),
        (json!({ "worker_type": "general", "config": 7 }), 422, "config", "object"),
        (json!({ "worker_type": "nope" }), 422, "worker_type", "there is no worker type `nope`"),
        (json!({ "worker_type": "" }), 422, "worker_type", "empty"),
        (json!({}), 422, "worker_type", "missing"),
        (
            json!({ "worker_type": "general", "skill": "nope" }),
            422,
            "skill",
            "there is no skill `nope`",
        ),
        (json!({ "worker_type": "general", "promt": "x" }), 422, "promt", "unknown field"),
        (
            json!({ "worker_type": "general", "blocked_by": [absent] }),
            422,
            "blocked_by",
            &*absent.to_string(),
        ),
        // Another organisation's request does not exist: the same words.
        (
            json!({ "worker_type": "general", "blocked_by": [theirs] }),
            422,
            "blocked_by",
            &*theirs.to_string(),
        ),
        (json!({ "worker_type": "general", "blocked_by": ["x"] }), 422, "blocked_by", "UUID"),
        (
            json!({ "worker_type": "general", "blocked_by": ["#0"] }),
            422,
            "blocked_by",
            "not an earlier entry",
        ),
        (
            json!({ "worker_type": "general", "context": { "a": { "b": ["\u{0}"] } } }),
            422,
            "context",
            "U+0000",
        ),
        (json!({ "worker_type": "general", "context": { "\u{0}": 1 } }), 422, "context", "U+0000"),
        (json!({ "worker_type": "general", "prompt": "a\u{0}b" }), 422, "prompt", "U+0000"),
        (json!({ "worker_type": "general", "branch": "a\u{0}b" }), 422, "branch", "U+0000"),
        (
            json!({ "worker_type": "general", "idempotency_key": "a\u{0}b" }),
            422,
            "idempotency_key",
            "",
        ),
        (
            json!({ "worker_type": "general", "reply_to": { "type": "orchestrator" } }),
            422,
            "reply_to",
            "orchestrator",
        ),
        (json!({ "worker_type": "general", "delay_ms": -1 }), 422, "delay_ms", ""),
        (json!({ "worker_type": "general", "max_attempts": 26 }), 422, "max_attempts", ""),
        (
            json!({ "worker_type": "general", "prompt": "x".repeat(256 * 1024 + 1) }),
            422,
            "prompt",
            "",
        ),
        (
            json!({ "worker_type": "general", "context": { "x": "x".repeat(MIB) } }),
            422,
            "context",
            "",
        ),
        (json!([]), 422, "", ""),
    ] {
        let (got, problem) = acme.post("/v1/requests", &body).await?;
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!((got, slug(&problem)), (status, "invalid"), "{shown}: {problem}");
        let place = problem["field"].as_str().unwrap_or_default();
        assert!(place.starts_with(field), "{shown}: {problem}");
        assert!(detail(&problem).contains(reason), "{shown}: should say `{reason}`: {problem}");
        assert_eq!(acme.belongings().await?, before, "{shown}");
    }
    // A key is not used up by a body that was refused.
    for refused in [
        json!({ "worker_type": "nobody", "idempotency_key": "k", "blocked_by": [absent] }),
        json!({ "worker_type": "nobody", "idempotency_key": "k", "skill": "nope" }),
    ] {
        assert_eq!(acme.post("/v1/requests", &refused).await?.0, 422);
        assert_eq!(acme.belongings().await?, before, "{refused}");
    }
    // The two messages about blockers tell nothing about the other organisation.
    let said = async |id: Uuid| -> anyhow::Result<String> {
        let body = json!({ "worker_type": "general", "blocked_by": [id] });
        Ok(detail(&acme.post("/v1/requests", &body).await?.1).replace(&id.to_string(), "ID"))
    };
    assert_eq!(said(absent).await?, said(theirs).await?);

    for (body, status) in [
        ("{\"worker_type\": ", 400),
        ("", 400),
        ("nonsense", 400),
        ("{\"worker_type\": \"nobody\"}{}", 400),
    ] {
        let call =
            acme.call(Method::POST, "/v1/requests").header("content-type", "application/json");
        let answer = call.body(body).send().await?;
        assert_eq!(answer.status(), status, "{body}");
        let problem: Value = answer.json().await?;
        assert_eq!(slug(&problem), "malformed", "{problem}");
        assert!(problem["line"].is_number(), "{problem}");
    }
    let answer = acme.call(Method::POST, "/v1/requests").body("worker_type=general").send().await?;
    assert_eq!(answer.status(), 415);
    let deep = format!("{}{}", "{\"a\":".repeat(5_000), "1".to_owned() + &"}".repeat(5_000));
    let body = format!("{{\"worker_type\": \"general\", \"context\": {deep}}}");
    let call = acme.call(Method::POST, "/v1/requests").header("content-type", "application/json");
    assert!(call.body(body).send().await?.status().is_client_error());
    assert_eq!(acme.belongings().await?, before);
    Ok(())
}

#[tokio::test]
async fn an_id_that_is_none_and_a_filter_that_is_none() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    let theirs = corp.create(json!({ "worker_type": "nobody" })).await?;
    for path in ["", "/result", "/blockers", "/logs", "/watch"] {
        let (status, problem) = acme.get(&format!("/v1/requests/not-a-uuid{path}")).await?;
        assert_eq!((status, problem["field"].as_str()), (422, Some("id")), "{path}: {problem}");
        // Somebody else's request does not exist.
        let (status, problem) = acme.get(&format!("/v1/requests/{theirs}{path}")).await?;
        assert_eq!((status, slug(&problem)), (404, "not-found"), "{path}: {problem}");
    }
    for verb in ["cancel", "retry"] {
        let (status, _) = acme.post(&format!("/v1/requests/not-a-uuid/{verb}"), &json!({})).await?;
        assert_eq!(status, 422);
        let (status, _) = acme.post(&format!("/v1/requests/{theirs}/{verb}"), &json!({})).await?;
        assert_eq!(status, 404);
    }
    assert_eq!(corp.status(theirs).await?, "pending");
    for query in [
        "status=done",
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=x",
        "root=x",
        "bogus=1",
        "context=%5B1%5D",
        "context=%7B",
        "context=%7B%22a%22%3A%22%5Cu0000%22%7D",
        "skill=%00",
    ] {
        let (status, problem) = acme.get(&format!("/v1/requests?{query}")).await?;
        assert_eq!((status, slug(&problem)), (422, "invalid"), "{query}: {problem}");
    }
    for (path, status) in
        [("/v1/nothing", 404), ("/v1/skills/%00", 422), ("/v1/worker-types/%00", 422)]
    {
        let (got, problem) = acme.get(path).await?;
        assert_eq!(got, status, "{path}: {problem}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_does_not_hold_opens_nothing() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    let before = acme.belongings().await?;
    let expired = TokenSecret::generate();
    sqlx::query(
        "INSERT INTO eve.api_tokens (id, org_id, user_id, name, prefix, token_hash, role, expires_at)
         VALUES ($1, $2, $3, 'old', $4, $5, 'owner', now() - interval '1 second')",
    )
    .bind(Uuid::now_v7())
    .bind(acme.org.id)
    .bind(acme.org.owner)
    .bind(expired.shown())
    .bind(&expired.hash()[..])
    .execute(&platform.pool)
    .await?;
    let created = acme.json(["token", "create", "short-lived"]).await?;
    let revoked = created["token"].as_str().expect("a token").to_owned();
    let holder = platform.as_token(acme.org.clone(), &revoked)?;
    assert_eq!(holder.get("/v1/requests").await?.0, 200);
    acme.run(["token", "revoke", created["id"].as_str().expect("an id")]).await?;
    let mut mistyped = acme.org.token.clone();
    mistyped.replace_range(10..11, if mistyped[10..11] == *"a" { "b" } else { "a" });

    let unknown = TokenSecret::generate();
    for (token, reason) in [
        (expired.expose(), "has expired"),
        (&*revoked, "was revoked"),
        (unknown.expose(), "is not known here"),
        (&*mistyped, "checksum is wrong"),
        ("eve_", "not an API token"),
        ("x.y.z", "sign-in tokens are not accepted"),
    ] {
        let nobody = platform.as_token(acme.org.clone(), token)?;
        for path in ["/v1/me", "/v1/requests", "/v1/skills", "/v1/worker-types", "/v1/tokens"] {
            let (status, problem) = nobody.get(path).await?;
            assert_eq!((status, slug(&problem)), (401, "unauthenticated"), "{path}: {problem}");
            assert!(detail(&problem).contains(reason), "should say `{reason}`: {problem}");
        }
        let (status, _) = nobody.post("/v1/requests", &json!({ "worker_type": "general" })).await?;
        assert_eq!(status, 401);
        let (status, _) = push(&nobody, "stolen", guests::noop(), None).await?;
        assert_eq!(status, 401);
    }
    // Another organisation's token is good, and opens nothing here.
    for name in [acme.org.slug.clone(), acme.org.id.to_string()] {
        let answer = corp.call(Method::GET, "/v1/requests").header("Eve-Org", name).send().await?;
        assert_eq!(answer.status(), 404);
    }
    let after = acme.belongings().await?;
    assert_eq!((&after["requests"], &after["skills"]), (&before["requests"], &before["skills"]));
    Ok(())
}

#[tokio::test]
async fn of_two_uploads_of_one_version_one_wins() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let manifest = "---\nname: racer\ndescription: x\nversion: \"1.0.0\"\n---\n";
    let (one, other) = (guests::noop(), guests::returning_data("{}"));
    let (first, second) = tokio::join!(
        push(&acme, "racer", one.clone(), Some(manifest)),
        push(&acme, "racer", other.clone(), Some(manifest)),
    );
    let answers = [first?, second?];
    let mut statuses = answers.clone().map(|(status, _)| status);
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{answers:?}");
    let lost = answers.iter().find(|(status, _)| *status == 409).map(|(_, problem)| problem);
    let lost = lost.expect("the one that lost");
    assert_eq!(slug(lost), "conflict");
    assert!(detail(lost).contains("1.0.0"), "{lost}");
    let shown = acme.json(["skill", "show", "racer"]).await?;
    assert_eq!(shown["versions"].as_array().map(Vec::len), Some(1), "{shown}");

    // The winner's content again is no conflict; the loser's stays one.
    let mut again = [
        push(&acme, "racer", one, Some(manifest)).await?.0,
        push(&acme, "racer", other, Some(manifest)).await?.0,
    ];
    again.sort_unstable();
    assert_eq!(again, [200, 409]);
    let create = ["request", "create", "--worker-type", "general", "--skill", "racer", "--wait"];
    assert_eq!(acme.run(create).await?.code(), Some(0));
    Ok(())
}

/// The same content twice at once is one version.
#[tokio::test]
async fn of_two_equal_uploads_both_win() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let (first, second) = tokio::join!(
        push(&acme, "twin", guests::noop(), None),
        push(&acme, "twin", guests::noop(), None),
    );
    let ((one, first), (other, second)) = (first?, second?);
    let mut statuses = [one, other];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201], "{first} {second}");
    assert_eq!(first["id"], second["id"]);
    Ok(())
}

#[tokio::test]
async fn a_skill_is_granted_no_more_than_its_worker_type() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (admin, acme) = (platform.admin(), platform.org().await?);
    let id = format!("bare-{}", Uuid::new_v4().simple());
    // A worker type without grants, and a worker that reads them.
    let (admin_args, name) =
        (["worker-type", "set", &id, "--default-skill", "text-stats"], id.clone());
    admin.json(admin_args).await?;
    sqlx::query("UPDATE eve.worker_types SET grants = '{}' WHERE id = $1")
        .bind(&name)
        .execute(&platform.pool)
        .await?;
    let _worker = admin.worker(&id, 1)?;
    let request = acme.create(json!({ "worker_type": id })).await?;
    let failed = acme.until(request, "failed").await?;
    assert_eq!(failed["error"]["code"], "not_granted", "{failed}");
    assert!(
        failed["error"]["message"].as_str().is_some_and(|said| said.contains("queue")),
        "{failed}"
    );
    Ok(())
}

/// What a guest asks for is checked like what a client asks for.
#[tokio::test]
async fn a_guest_that_asks_for_nonsense_is_told_so() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    assert!(skill("hostile").is_ok());
    for (raw, reason) in [("[1]", "object"), ("{", "JSON"), ("{\"a\": \"\\u0000\"}", "U+0000")] {
        let orders = json!({ "do": "create-raw", "raw": raw });
        let id = acme
            .create(json!({ "worker_type": "general", "skill": "hostile", "context": orders }))
            .await?;
        acme.until(id, "completed").await?;
        let data = acme.json(["result", "get", &id.to_string(), "--data"]).await?;
        assert!(data["error"].as_str().is_some_and(|said| said.contains(reason)), "{raw}: {data}");
        let children = acme.json(["request", "list", "--parent", &id.to_string()]).await?;
        assert_eq!(children["items"], json!([]), "{raw}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_of_a_secret_is_not_repeated_whatever_is_wrong_with_it() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let before = acme.belongings().await?;
    for (name, body, expected, field) in [
        ("A", json!({ "value": 271_828 }), 422, "value"),
        ("A", json!({ "value": ["271828"] }), 422, "value"),
        ("A", json!({ "value": { "271828": 1 } }), 422, "value"),
        ("A", json!({ "value": "" }), 422, "value"),
        ("A", json!({ "value": "271828\u{0}" }), 422, "value"),
        ("A", json!({ "value": "271828".repeat(20_000) }), 422, "value"),
        ("A", json!({ "value": "271828", "restart": "271828" }), 422, "restart"),
        ("A", json!({ "value": "271828", "force": true }), 422, "force"),
        ("A", json!({ "text": "271828" }), 422, "text"),
        ("A-B", json!({ "value": "271828" }), 422, "name"),
        ("A", json!({ "value": "271828" }), 404, ""),
    ] {
        let call = acme.call(Method::PUT, &format!("/v1/envs/nowhere/secrets/{name}"));
        let answer = call.json(&body).send().await?;
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await?;
        assert_eq!(status, expected, "{problem}");
        assert!(expected == 404 || problem["field"] == field, "{problem}");
        let repeats = problem.to_string().contains("271828");
        // Only what stands where a value does not belong may be shown.
        assert!(!repeats || field == "restart", "{problem}");
    }
    // Nobody asks for one.
    let asked = acme.call(Method::GET, "/v1/envs/nowhere/secrets/A").send().await?;
    assert_eq!(asked.status().as_u16(), 405);
    assert_eq!(acme.belongings().await?, before);
    Ok(())
}

/// Before the database is waited for, and before anybody is told that it serves.
#[tokio::test]
async fn settings_that_cannot_be_end_a_control_plane_at_once() -> anyhow::Result<()> {
    let nowhere = "postgres://eve@127.0.0.1:9/eve";
    for (name, value, reason) in [
        ("EVE_JWT_SECRET", "short", "must have at least"),
        ("EVE_JWKS_URL", "http://example.com/keys", "https"),
        ("EVE_SEALING_KEY", "short", "EVE_SEALING_KEY: "),
        ("EVE_SIGNING_KEY", "short", "EVE_SIGNING_KEY"),
        ("EVE_SKILLS_KEY", "short", "EVE_SKILLS_KEY"),
    ] {
        let eve = Eve::on_url(nowhere)?.env("EVE_JWT_ISSUER", "https://example.com/auth/v1");
        let ended = eve.env(name, value).run(["serve", "--listen", "127.0.0.1:0"]).await?;
        assert_eq!(ended.status.code(), Some(1), "{name}: {ended}");
        assert!(ended.stderr.contains(reason), "{name}: {ended}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains("serving") && !said.contains("waiting"), "{name}: {ended}");
    }
    Ok(())
}
