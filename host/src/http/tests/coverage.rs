//! Every operation of the OpenAPI document against the walls that all of them have. One that is added
//! tomorrow is tried here without anybody's thinking of it.

use super::*;

/// An operation of the document.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: String,
    /// The least role that it names: none, `admin` or `platform-admin`.
    role: Option<String>,
    /// The media type of its body.
    body: Option<String>,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Operation {
    fn is_push(&self) -> bool {
        self.method == Method::POST && self.path == "/v1/skills/{name}/versions"
    }
}

/// All that somebody must be known for.
pub(super) fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(document()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"].is_null() {
                continue;
            }
            let content = operation["requestBody"]["content"].as_object();
            all.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                role: operation["security"][0]["bearer"][0].as_str().map(str::to_owned),
                body: content.and_then(|content| content.keys().next().cloned()),
            });
        }
    }
    assert!(all.len() > 40, "{}", all.len());
    all
}

/// What an organisation has, by what stands in paths.
struct Belongings {
    request: String,
    question: String,
    schedule: String,
    token: String,
    member: UserId,
}

const SKILL: &str = "secret-skill";
const SCHEMA: &str = "secret_state";

impl Belongings {
    async fn of(api: &Api, tenant: Tenant, owner: UserId, credential: &str) -> Belongings {
        let id = async |path: &str, body: Value| {
            let made = api.post(path, credential, body).await;
            assert_eq!(made.status, 201, "{path}: {}", made.json());
            let made = made.json();
            made["id"].as_str().or(made["token"]["id"].as_str()).unwrap().to_owned()
        };
        let new = json!({ "worker_type": "general", "skill": "echo" });
        let request = id("/v1/requests", new.clone()).await;
        let question = id("/v1/hitl", json!({ "question": "Really?" })).await;
        let schedule = json!({ "name": "secret", "cron": "@daily", "request": new });
        let schedule = id("/v1/schedules", schedule).await;
        let token = id("/v1/tokens", json!({ "name": "secret" })).await;
        let skill = skills::version(SKILL, "1", 0x5e);
        let actor = Actor::User { user: owner };
        store::push(&api.database.db, tenant, &actor, &skill, Activation::Activate).await.unwrap();
        let org = tenant.org();
        let schema =
            format!("INSERT INTO eve.skill_schemas (org_id, name) VALUES ('{org}', '{SCHEMA}')");
        api.database.execute(schema).await;
        api.database
            .execute(format!(
                "INSERT INTO eve.clusters (id, name, provider) VALUES ('secret', 'Secret', 'local');
                 INSERT INTO eve.environments (id, org_id, name, cluster_id, namespace)
                      VALUES ('{org}', '{org}', 'secret-env', 'secret', 'secret-ns');
                 INSERT INTO eve.apps (id, org_id, name) VALUES ('{org}', '{org}', 'secret-app');
                 INSERT INTO eve.deployments (org_id, app_id, environment_id, image)
                      VALUES ('{org}', '{org}', '{org}', 'secret:1')"
            ))
            .await;
        Belongings { request, question, schedule, token, member: owner }
    }

    /// The path with these in it.
    fn fill(&self, path: &str) -> String {
        let noun = path.split('/').nth(2).unwrap();
        let id = match noun {
            "requests" | "results" => &self.request,
            "hitl" => &self.question,
            "schedules" => &self.schedule,
            "tokens" => &self.token,
            _ => "nowhere",
        };
        let name = if noun == "schedules" { "secret" } else { SKILL };
        let filled = path
            .replace("{id}", id)
            .replace("{name}", name)
            .replace("{version}", "1")
            .replace("{schema}", SCHEMA)
            .replace("{capability}", "db")
            .replace("{env}", "secret-env")
            .replace("{app}", "secret-app")
            .replace("{secret}", "SECRET")
            .replace("{slug}", "corp")
            .replace("{user_id}", &self.member.to_string());
        assert!(!filled.contains('{'), "{path}: say here what stands for its parameters");
        filled
    }
}

/// A body that its operation can read.
fn body(path: &str) -> Value {
    match path {
        "/v1/hitl/{id}/respond" => json!({ "response": "yes" }),
        "/v1/schemas/{schema}/query" => json!({ "sql": "SELECT 1" }),
        "/v1/members/{user_id}" => json!({ "role": "member" }),
        "/v1/envs/{env}/deployments" => json!({ "app": "secret-app", "image": "secret:1" }),
        "/v1/envs/{env}/secrets/{secret}" => json!({ "value": "secret" }),
        "/v1/envs/{env}/deployments/{app}/scale" => json!({ "replicas": 1 }),
        _ => json!({}),
    }
}

#[tokio::test]
async fn every_operation_has_its_walls() {
    let api = Api::start().await;
    api.echo().await;
    let (acme, _, ada) = api.org("acme").await;
    let (corp, eve_id, eve) = api.org("corp").await;
    let theirs = Belongings::of(&api, corp, eve_id, &eve).await;
    let bob = sign_in(api.database.member(acme, "member").await);

    for operation in operations() {
        let mut path = theirs.fill(&operation.path);
        if operation.is_push() {
            // Whoever pushes without activating needs no more than to be a member.
            path.push_str("?activate=false");
        }
        let has_json = operation.body.as_deref() == Some("application/json");
        let some = || has_json.then(|| body(&operation.path));
        let call = async |org: Option<&str>, credential: &str| {
            api.call_in(org, operation.method.clone(), &path, credential, some()).await
        };

        // Nobody, and somebody whom nobody knows.
        let nobody = request(operation.method.clone(), &path).body(Body::empty()).unwrap();
        api.send(nobody).await.problem(401, "unauthenticated");
        call(None, "eve_nonsense").await.problem(401, "unauthenticated");

        // Another organisation, and what belongs to it.
        let of_an_org = !operation.path.starts_with("/v1/worker-types")
            && !operation.path.starts_with("/v1/clusters")
            && !operation.path.starts_with("/v1/orgs")
            && operation.path != "/v1/me";
        if of_an_org {
            let foreign = call(Some("corp"), &ada).await;
            assert_eq!(foreign.status, 404, "{operation} for a foreign organisation");
        }
        let names_something = operation.path.contains('{')
            // These make something of one's own, whatever others have under the name.
            && !operation.is_push()
            && !(operation.method == Method::PUT && operation.path == "/v1/members/{user_id}");
        if names_something && (of_an_org || operation.path == "/v1/orgs/{slug}") {
            let foreign = call(None, &ada).await;
            assert_eq!(foreign.status, 404, "{operation}: {}", foreign.json());
        }

        // The roles are those that are documented.
        let member = call(None, &bob).await.status;
        let owner = call(None, &ada).await.status;
        match operation.role.as_deref() {
            None => assert!(member != 403 && owner != 403, "{operation}: {member}, {owner}"),
            Some("admin") => {
                assert_eq!(member, 403, "{operation} takes an admin");
                assert_ne!(owner, 403, "{operation} is for admins");
            }
            Some("platform-admin") => assert_eq!(owner, 403, "{operation} takes a platform admin"),
            Some(other) => panic!("{operation} names the role {other}"),
        }
    }

    // Bodies, from somebody who may do everything.
    let root = api.database.member(acme, "owner").await;
    api.platform_admin(root).await;
    let root = sign_in(root);
    for operation in operations().into_iter().filter(|operation| operation.body.is_some()) {
        let path = theirs.fill(&operation.path);
        let send = async |content_type: &str, body: Vec<u8>| {
            let request = request(operation.method.clone(), &path)
                .header(header::AUTHORIZATION, format!("Bearer {root}"))
                .header(header::CONTENT_TYPE, content_type);
            api.send(request.body(Body::from(body)).unwrap()).await
        };
        let content_type = operation.body.as_deref().unwrap();
        let whole = |text: &str| -> Vec<u8> { text.as_bytes().to_vec() };
        if content_type == "application/json" {
            for malformed in ["{", "\u{0}", "{\"a\": 1}{", "[".repeat(100_000).as_str()] {
                let answer = send(content_type, whole(malformed)).await;
                let said = String::from_utf8_lossy(&answer.body).into_owned();
                assert!([400, 422].contains(&answer.status.as_u16()), "{operation}: {said}");
                assert!(!said.contains(".rs") && !said.contains("panicked"), "{operation}: {said}");
            }
            send("text/plain", whole("{}")).await.problem(415, "unsupported-media-type");
        }
        let large = vec![b' '; 40 << 20];
        let answer = send(&format!("{content_type}; boundary=x"), large).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!([400, 413].contains(&answer.status.as_u16()), "{operation}: {said}");
        if content_type == "application/json" {
            assert_eq!(answer.status, 413, "{operation}: {said}");
        }
    }
}
