//! The door to Kubernetes's API, as far as it can be tried without a cluster: who gets through it, and what
//! of what they send.

use super::*;

const PODS: &str = "api/v1/namespaces/acme-dev/pods";

/// An environment of an organisation in a cluster at whose address nobody listens.
async fn environment(api: &Api, tenant: Tenant, config: Value) {
    let org = tenant.org();
    api.database
        .execute(
            "INSERT INTO eve.clusters (id, name, provider, endpoint)
             VALUES ('away', 'Away', 'local', 'https://127.0.0.1:1')"
                .to_owned(),
        )
        .await;
    api.database
        .execute(format!(
            "INSERT INTO eve.environments (org_id, name, cluster_id, namespace, config, status, provisioned_at)
             VALUES ('{org}', 'dev', 'away', 'acme-dev', '{config}', 'ready', now())"
        ))
        .await;
}

impl Answer {
    /// Checks that this is a `Status` of Kubernetes, and returns what it says.
    fn status(&self, code: u16, reason: &str) -> String {
        let body = self.json();
        assert_eq!(
            (self.status.as_u16(), body["code"].as_u64()),
            (code, Some(code.into())),
            "{body}"
        );
        assert_eq!(
            (&body["kind"], &body["apiVersion"]),
            (&json!("Status"), &json!("v1")),
            "{body}"
        );
        assert_eq!(
            (&body["status"], &body["reason"]),
            (&json!("Failure"), &json!(reason)),
            "{body}"
        );
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        assert!(self.headers.contains_key("x-request-id"));
        body["message"].as_str().unwrap().to_owned()
    }
}

async fn with(api: &Api, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = request(method, &format!("/v1/envs/dev/kube/{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn only_bearers_of_the_organisation_get_through() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("corp").await;
    environment(&api, acme, json!({})).await;
    let bearer = format!("Bearer {ada}");
    let authorized = ("Authorization", bearer.as_str());

    with(&api, Method::GET, PODS, &[]).await.status(401, "Unauthorized");
    with(&api, Method::GET, PODS, &[authorized, authorized]).await.status(401, "Unauthorized");
    with(&api, Method::GET, PODS, &[("Authorization", "Basic eDp5")])
        .await
        .status(401, "Unauthorized");
    with(&api, Method::GET, PODS, &[authorized, ("Cookie", "a=b")]).await.status(400, "BadRequest");
    let foreign = api.get(&format!("/v1/envs/dev/kube/{PODS}"), &eve).await;
    assert_eq!(foreign.status(404, "NotFound"), "there is no environment `dev`");
    for org in ["acme", "corp"] {
        let path = format!("/v1/orgs/{org}/envs/dev/kube/{PODS}");
        api.get(&path, &eve).await.status(404, "NotFound");
    }
    let both =
        api.call_in(Some("corp"), Method::GET, "/v1/orgs/acme/envs/dev/kube/api", &ada, None);
    both.await.status(400, "BadRequest");
    for env in ["nowhere", "d%65v", "..", "dev%2f..", "%00"] {
        api.get(&format!("/v1/envs/{env}/kube/api"), &ada).await.status(404, "NotFound");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_not_passed_on() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    environment(&api, acme, json!({})).await;
    let get = async |path: &str| api.get(&format!("/v1/envs/dev/kube/{path}"), &ada).await;
    for path in
        ["api//v1", "/api", "api/../api", "api/%2e%2e/v1", "api/v1/", "api%2fv1", "api/v1/%00"]
    {
        get(path).await.status(400, "BadRequest");
    }
    get("metrics").await.status(403, "Forbidden");
    let elsewhere = get("api/v1/namespaces/kube-system/pods").await.status(403, "Forbidden");
    assert!(elsewhere.contains("which is `acme-dev`"), "{elsewhere}");
    get(&format!("{PODS}/x/proxy")).await.status(403, "Forbidden");
    get(&format!("{PODS}/x/exec")).await.status(400, "BadRequest");
    let bearer = format!("Bearer {ada}");
    let authorized = ("Authorization", bearer.as_str());
    let head = with(&api, Method::OPTIONS, PODS, &[authorized]).await;
    head.status(405, "MethodNotAllowed");
    let somebody = [authorized, ("Impersonate-User", "admin")];
    with(&api, Method::GET, PODS, &somebody).await.status(403, "Forbidden");
    // A connection of the tests cannot be upgraded; whatever it is, nothing is sent.
    let upgrade = [authorized, ("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let exec = format!("{PODS}/x/exec");
    with(&api, Method::GET, &exec, &upgrade).await.status(400, "BadRequest");
    let large = request(Method::POST, &format!("/v1/envs/dev/kube/{PODS}"))
        .header(header::AUTHORIZATION, &bearer)
        .body(Body::from(vec![b' '; 4 << 20]))
        .unwrap();
    api.send(large).await.status(413, "RequestEntityTooLarge");
    assert_eq!(api.audited(acme).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_cluster_that_is_away_is_said_to_be_and_changes_are_written_down_before() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    environment(&api, acme, json!({ "deployers": "admin" })).await;
    let bob = sign_in(api.database.member(acme, "member").await);
    let pods = format!("/v1/envs/dev/kube/{PODS}");

    let away = api.get(&pods, &ada).await;
    let said = away.status(503, "ServiceUnavailable");
    assert!(said.contains("the cluster `away` cannot be asked"), "{said}");
    assert!(said.contains(away.headers["x-request-id"].to_str().unwrap()), "{said}");
    assert!(!away.headers.contains_key(header::RETRY_AFTER), "kubectl would try ten times");
    assert_eq!(api.audited(acme).await, Vec::<String>::new());

    for credential in [&ada, &bob] {
        api.post(&pods, credential, json!({})).await.status(503, "ServiceUnavailable");
    }
    let rows: Vec<Value> = sqlx::query_scalar(
        "SELECT details FROM eve.audit_log WHERE action = 'kube.create' ORDER BY id",
    )
    .fetch_all(api.database.db.pool())
    .await
    .unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["phase"].as_str().unwrap(),
                row["identity"].as_str().unwrap(),
                row["code"].as_u64(),
            )
        })
        .collect();
    let editor = [("begun", "editor", None), ("ended", "editor", Some(503))];
    // Who may not deploy to the environment may look, whatever they try.
    let viewer = [("begun", "viewer", None), ("ended", "viewer", Some(503))];
    assert_eq!(shown, [editor, viewer].concat());
}

#[tokio::test]
async fn an_environment_that_is_not_there_yet_or_no_more_is_not_entered() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    environment(&api, acme, json!({})).await;
    for change in ["status = 'deleting'", "status = 'provisioning', provisioned_at = NULL"] {
        api.database.execute(format!("UPDATE eve.environments SET {change}")).await;
        let refused = api.get(&format!("/v1/envs/dev/kube/{PODS}"), &ada).await;
        refused.status(409, "Conflict");
    }
}
