//! Uploads, versions and what is kept of them.

use sha2::{Digest as _, Sha256};

use super::*;

pub(super) fn multipart(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let boundary = "----eve-test-boundary";
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

pub(super) async fn push(
    api: &Api,
    credential: &str,
    path: &str,
    parts: &[(&str, &[u8])],
) -> Answer {
    let (content_type, body) = multipart(parts);
    let request = request(Method::POST, path)
        .header(header::AUTHORIZATION, format!("Bearer {credential}"))
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(body))
        .unwrap();
    api.send(request).await
}

#[tokio::test]
async fn bad_uploads_are_refused_and_change_nothing() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    let bob = sign_in(api.database.member(acme, "member").await);
    let path = "/v1/skills/words/versions";
    let manifest = b"---\nname: other\ndescription: Counts.\n---\n".as_slice();
    let large_manifest = vec![b'x'; crate::skills::upload::MAX_MANIFEST_BYTES + 1];
    let large = vec![0; crate::skills::upload::MAX_COMPONENT_BYTES + 1];
    for (parts, field) in [
        (vec![], "component"),
        (vec![("component", b"".as_slice())], "component"),
        (vec![("manifest", manifest)], "component"),
        (vec![("component", b"x".as_slice()), ("manifest", manifest)], "manifest"),
        (vec![("component", b"x"), ("manifest", b"no front matter")], "manifest"),
        (vec![("component", b"x"), ("manifest", b"\xff")], "manifest"),
        (vec![("component", b"x"), ("component", b"y")], "parts"),
        (vec![("readme", b"x")], "parts"),
    ] {
        let problem = push(&api, &ada, path, &parts).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{problem}");
    }
    for parts in [
        vec![("component", large.as_slice())],
        vec![("component", b"x".as_slice()), ("manifest", &large_manifest)],
    ] {
        push(&api, &ada, path, &parts).await.problem(413, "too-large");
    }
    push(&api, &ada, "/v1/skills/No%20Name/versions", &[("component", b"x")])
        .await
        .problem(422, "invalid");
    api.post(path, &ada, json!({})).await.problem(415, "unsupported-media-type");
    push(&api, &bob, path, &[("component", b"x")]).await.problem(403, "forbidden");
    push(&api, &ada, &format!("{path}?platform=true"), &[("component", b"x")])
        .await
        .problem(403, "forbidden");
    let cut_off = request(Method::POST, path)
        .header(header::AUTHORIZATION, format!("Bearer {ada}"))
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=b")
        .body(Body::from("--b\r\nContent-Disposition: form-data; name=\"component\"\r\n\r\nabc"))
        .unwrap();
    api.send(cut_off).await.problem(400, "malformed");
    assert_eq!(api.get("/v1/skills", &ada).await.json()["items"], json!([]));
    assert!(api.audited(acme).await.is_empty());
}

#[tokio::test]
async fn what_is_no_component_is_refused_by_the_compiler() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let module = wat::parse_str("(module)").unwrap();
    for component in [b"not wasm at all".as_slice(), &module] {
        let answer =
            push(&api, &ada, "/v1/skills/words/versions", &[("component", component)]).await;
        assert_eq!(answer.problem(422, "invalid")["field"], "component");
    }
}

pub(super) fn version(name: &str, label: &str, content: u8) -> NewVersion {
    NewVersion {
        name: name.into(),
        description: "Counts words.".into(),
        version: label.into(),
        sha256: [content; 32],
        size_bytes: 3,
        packed_wasm: zstd::bulk::compress(b"abc", 3).unwrap(),
        manifest: json!({ "description": format!("Counts words, {label}.") }),
        readme: "# Words".into(),
        imports: vec!["eve:skill/queue@0.1.0".into()],
        capabilities: vec!["queue".into()],
        artifact: NewArtifact {
            fingerprint: "engine".into(),
            packed: vec![1, 2, 3],
            length: 9,
            sha256: [content; 32],
            signature: [7; 64],
        },
    }
}

#[tokio::test]
async fn versions_are_pushed_activated_and_deleted() {
    let api = Api::start().await;
    let (acme, owner, ada) = api.org("acme").await;
    let (other, _, eve) = api.org("other").await;
    let (db, actor) = (&api.database.db, Actor::User { user: owner });
    let push =
        async |new: NewVersion, activation| store::push(db, acme, &actor, &new, activation).await;

    assert!(
        matches!(push(version("words", "1", 0xa1), Activation::Activate).await.unwrap(), Pushed::Created(v) if v.active)
    );
    assert!(matches!(
        push(version("words", "1", 0xa1), Activation::Keep).await.unwrap(),
        Pushed::Existing(_)
    ));
    assert!(push(version("words", "1", 0xb2), Activation::Activate).await.is_err());
    assert!(
        matches!(push(version("words", "2", 0xb2), Activation::Keep).await.unwrap(), Pushed::Created(v) if !v.active)
    );

    let shown = api.get("/v1/skills/words", &ada).await.json();
    assert_eq!((&shown["active_version"], &shown["owner"]), (&json!("1"), &json!("org")));
    assert_eq!(
        (&shown["versions"][0]["version"], &shown["readme"]),
        (&json!("2"), &json!("# Words"))
    );
    let activate = |version: &str| {
        api.call(
            Method::POST,
            &format!("/v1/skills/words/versions/{version}/activate").leak()[..],
            &ada,
            None,
        )
    };
    assert_eq!(activate("b2b2b2b2").await.json()["active"], true);
    assert_eq!(api.get("/v1/skills/words", &ada).await.json()["description"], "Counts words, 2.");
    activate("b2b2b2b").await.problem(404, "not-found");
    activate("3").await.problem(404, "not-found");
    assert_eq!(activate("1").await.json()["version"], "1");

    // Nobody else's; unless it is the platform's.
    api.get("/v1/skills/words", &eve).await.problem(404, "not-found");
    let platform = Tenant::proven(crate::tenancy::PLATFORM_ORG);
    store::push(db, platform, &Actor::Platform, &version("echo", "1", 0xc3), Activation::Activate)
        .await
        .unwrap();
    assert_eq!(api.get("/v1/skills/echo", &eve).await.json()["owner"], "platform");
    api.call(Method::DELETE, "/v1/skills/echo", &eve, None).await.problem(404, "not-found");
    api.call(Method::DELETE, "/v1/skills/echo?platform=true", &eve, None)
        .await
        .problem(403, "forbidden");
    store::push(db, other, &Actor::Platform, &version("echo", "mine", 0xd4), Activation::Activate)
        .await
        .unwrap();
    assert_eq!(api.get("/v1/skills/echo", &eve).await.json()["active_version"], "mine");

    assert_eq!(
        api.call(Method::DELETE, "/v1/skills/words", &ada, None).await.status,
        StatusCode::NO_CONTENT
    );
    api.get("/v1/skills/words", &ada).await.problem(404, "not-found");
    let artifacts: i64 = sqlx::query_scalar("SELECT count(*) FROM eve.artifacts WHERE org_id = $1")
        .bind(acme.org().0)
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(artifacts, 0);
    let expected = [
        "skill.push",
        "skill.activate",
        "skill.push",
        "skill.activate",
        "skill.activate",
        "skill.delete",
    ];
    assert_eq!(api.audited(acme).await, expected);
}

#[tokio::test]
async fn of_two_uploads_of_one_label_one_wins() {
    let api = Api::start().await;
    let (acme, owner, _) = api.org("acme").await;
    let (db, actor) = (&api.database.db, Actor::User { user: owner });
    let push = async |content| {
        store::push(db, acme, &actor, &version("words", "1", content), Activation::Activate).await
    };
    let (a, b, c) = tokio::join!(push(1), push(2), push(3));
    let won =
        [&a, &b, &c].iter().filter(|outcome| matches!(outcome, Ok(Pushed::Created(_)))).count();
    let told = [&a, &b, &c]
        .iter()
        .filter(|outcome| matches!(outcome, Err(store::SkillError::Conflict(_))))
        .count();
    assert_eq!((won, told), (1, 2), "{a:?} {b:?} {c:?}");
    let (a, b) = tokio::join!(push(9), push(9));
    assert!(a.is_err() && b.is_err());
}

#[tokio::test]
async fn artifacts_come_back_as_they_were_stored() {
    let api = Api::start().await;
    let (acme, owner, _) = api.org("acme").await;
    let db = &api.database.db;
    let actor = Actor::User { user: owner };
    let digest: [u8; 32] = Sha256::digest(b"abc").into();
    let words = NewVersion { sha256: digest, ..version("words", "1", 0xa1) };
    let pushed = store::push(db, acme, &actor, &words, Activation::Activate).await.unwrap();
    let Pushed::Created(stored) = pushed else { panic!("it is new") };
    let mut tx = db.begin(crate::db::Scope::Engine).await.unwrap();
    let artifact = store::artifact(&mut tx, stored.id, "engine").await.unwrap().unwrap();
    let claim = artifact.claim("engine").unwrap();
    let bytes = store::artifact_bytes(&mut tx, stored.id, "engine").await.unwrap().unwrap();
    assert_eq!((bytes, claim.signature), (vec![1, 2, 3], [7; 64]));
    assert_eq!((claim.statement.wasm_sha256, claim.statement.artifact_len), (digest, 9));
    assert!(store::artifact(&mut tx, stored.id, "another engine").await.unwrap().is_none());
    let wasm =
        async |tx: &mut crate::db::Tx, id| store::wasm(tx, id).await.unwrap().unwrap().unpack();
    assert_eq!(wasm(&mut tx, stored.id).await.unwrap(), b"abc");

    // Somebody has changed what is stored: it is not taken for what was uploaded.
    let other = version("words", "2", 0xb2);
    let pushed = store::push(db, acme, &actor, &other, Activation::Keep).await.unwrap();
    let Pushed::Created(other) = pushed else { panic!("it is new") };
    let damaged = wasm(&mut tx, other.id).await;
    assert!(matches!(damaged, Err(store::SkillError::Corrupt(_))), "{damaged:?}");
}
