//! One platform for all tests of a file, and an organisation for each of them.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::database::Database;
use crate::eve::{Eve, Output, http_client};
use crate::platform::Platform;
use crate::process::Process;
use crate::tenant::Org;
use crate::wait::wait_for;

/// What every organisation can run.
const SKILLS: [&str; 7] =
    ["anthology", "echo", "text-stats", "noop", "hostile", "hostile-wasi", "orchestrator"];
/// The pools that have a worker; `nobody` has none.
const POOLS: [&str; 3] = ["general", "deployment", "devops-orchestrator"];

/// Started by whichever test comes first, ended by whichever is the last to use it.
static RUNNING: Mutex<Weak<Running>> = Mutex::const_new(Weak::new());

/// A control plane, and a worker for each pool.
#[derive(Debug)]
struct Running {
    workers: Vec<Process>,
    // After the workers, and before the database that all of them are connected to.
    platform: Platform,
    database: Database,
    url: String,
    server: u32,
}

/// The platform that the tests of a file share: one test cannot see another's organisation, so what
/// they would disturb one another by is only load.
#[derive(Debug)]
pub struct Shared {
    running: Arc<Running>,
    /// The database, past every wall. Connections belong to a test's runtime, so each test has its own.
    pub pool: PgPool,
}

/// An organisation on a shared platform, and its owner at the command line.
#[derive(Debug)]
pub struct Member {
    /// The organisation.
    pub org: Org,
    eve: Eve,
    url: String,
    http: reqwest::Client,
    pool: PgPool,
    /// The platform goes on for as long as somebody is a member of something on it.
    _running: Arc<Running>,
}

impl Shared {
    /// The platform of this file's tests.
    pub async fn platform() -> Result<Shared> {
        let mut known = RUNNING.lock().await;
        let running = match known.upgrade() {
            Some(running) => running,
            None => {
                let running = Arc::new(Running::start().await?);
                *known = Arc::downgrade(&running);
                running
            }
        };
        let pool = running.database.pool();
        Ok(Shared { running, pool })
    }

    /// A new organisation.
    pub async fn org(&self) -> Result<Member> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let slug = format!("org-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let org = Org::create(&self.running.database, &slug).await?;
        self.as_token(org.clone(), &org.token)
    }

    /// Somebody who presents this token.
    pub fn as_token(&self, org: Org, token: &str) -> Result<Member> {
        let url = self.running.url.clone();
        Ok(Member {
            org: Org { token: token.to_owned(), ..org },
            eve: Eve::without_database()?.env("EVE_URL", &url).env("EVE_TOKEN", token),
            url,
            http: http_client()?,
            pool: self.pool.clone(),
            _running: self.running.clone(),
        })
    }

    /// The control plane's address.
    pub fn url(&self) -> &str {
        &self.running.url
    }

    /// The token of `eve dev`'s user, who administers the platform.
    pub fn admin(&self) -> &Eve {
        self.running.platform.eve()
    }

    /// The control plane's process id.
    pub fn server(&self) -> u32 {
        self.running.server
    }
}

impl Running {
    async fn start() -> Result<Running> {
        let database = Database::fresh().await?;
        let mut platform = Platform::on(database.url(), &SKILLS).await?;
        let server = &mut platform.servers()[0];
        let (url, server) = (server.url().to_owned(), server.process().id());
        let nobody = "INSERT INTO eve.worker_types (id, name, default_skill)
                      VALUES ('nobody', 'Nobody works here', 'noop')";
        let pool = database.pool();
        sqlx::query(nobody).execute(&pool).await?;
        // Most tests are about requests: a deployment's would take a cluster.
        let echo = "UPDATE eve.worker_types SET default_skill = 'echo' WHERE id = 'deployment'";
        sqlx::query(echo).execute(&pool).await?;
        pool.close().await;
        let workers = POOLS.map(|pool| platform.eve().worker(pool, 8));
        let workers = workers.into_iter().collect::<Result<_>>()?;
        Ok(Running { workers, platform, database, url, server })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for worker in &self.running.workers {
                eprintln!("---- worker {} said so far:\n{}", worker.id(), worker.log());
            }
        }
    }
}

impl Deref for Member {
    type Target = Eve;

    fn deref(&self) -> &Eve {
        &self.eve
    }
}

impl Member {
    /// A call of the API with this member's token.
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.org.token)
    }

    /// Sends JSON; status and answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        answer(self.call(Method::POST, path).json(body)).await
    }

    /// Asks; status and answer.
    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        answer(self.call(Method::GET, path)).await
    }

    /// Creates requests by the API, all in one call.
    pub async fn create_all(&self, requests: Value) -> Result<Vec<Uuid>> {
        let (status, answer) =
            self.post("/v1/requests/batch", &json!({ "requests": requests })).await?;
        ensure!(status == 201, "{status}: {answer}");
        let created = answer["requests"].as_array().context("no requests came back")?;
        created.iter().map(id).collect()
    }

    /// Creates a request by the API.
    pub async fn create(&self, request: Value) -> Result<Uuid> {
        Ok(self.create_all(json!([request])).await?[0])
    }

    /// The request as it stands.
    pub async fn request(&self, id: Uuid) -> Result<Value> {
        let (status, request) = self.get(&format!("/v1/requests/{id}")).await?;
        ensure!(status == 200, "{status}: {request}");
        Ok(request)
    }

    /// The status of a request.
    pub async fn status(&self, id: Uuid) -> Result<String> {
        Ok(self.request(id).await?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a request has this status; an error if it ends with another one.
    pub async fn until(&self, id: Uuid, status: &str) -> Result<Value> {
        let what = format!("request {id} to be {status}");
        wait_for(&what, async || match self.request(id).await {
            Ok(request) if request["status"] == status => Some(Ok(request)),
            Ok(request) if !request["finished_at"].is_null() => {
                Some(Err(anyhow::anyhow!("it should be {status}, and has ended: {request}")))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .await
    }

    /// How much of everything the organisation has: the same before and after what changes nothing.
    pub async fn belongings(&self) -> Result<Value> {
        let counts = sqlx::query_scalar(
            "SELECT jsonb_build_object(
                'requests', (SELECT count(*) FROM eve.requests WHERE org_id = $1),
                'queue', (SELECT count(*) FROM eve.queue WHERE org_id = $1),
                'edges', (SELECT count(*) FROM eve.dependencies WHERE org_id = $1),
                'skills', (SELECT coalesce(jsonb_agg(to_jsonb(s)), '[]') FROM eve.skills s WHERE org_id = $1),
                'versions', (SELECT count(*) FROM eve.skill_versions WHERE org_id = $1),
                'artifacts', (SELECT count(*) FROM eve.artifacts WHERE org_id = $1),
                'keys', (SELECT count(*) FROM eve.idempotency_keys WHERE org_id = $1),
                'tokens', (SELECT count(*) FROM eve.api_tokens WHERE org_id = $1),
                'members', (SELECT count(*) FROM eve.org_members WHERE org_id = $1),
                'audit', (SELECT count(*) FROM eve.audit_log WHERE org_id = $1))",
        )
        .bind(self.org.id);
        Ok(counts.fetch_one(&self.pool).await?)
    }
}

async fn answer(call: RequestBuilder) -> Result<(u16, Value)> {
    let answer = call.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
    Ok((status, value))
}

fn id(request: &Value) -> Result<Uuid> {
    Ok(request["id"].as_str().context("a request without an id")?.parse()?)
}

impl Output {
    /// The exit code; none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The `id` of what was answered.
    pub fn id(&self) -> Result<Uuid> {
        id(&self.json()?)
    }
}
