//! A whole platform for one test: control planes, a token, skills, and what came of requests.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eve_host::db::{Db, DbConfig};
use eve_host::dev::bootstrap;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

use crate::database::Database;
use crate::eve::{Eve, Server, http_client, skill};
use crate::process::Process;
use crate::wait::wait_for;

/// Control planes on a database, and a client of theirs: the owner of the organisation `dev`, who
/// administers the platform too.
#[derive(Debug)]
pub struct Platform {
    servers: Vec<Server>,
    eve: Eve,
    token: String,
    http: reqwest::Client,
    pool: PgPool,
    // Last, so that nobody is connected any more when it is dropped.
    _database: Option<Database>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Ended {
    /// `completed`, `failed` or `cancelled`.
    pub status: String,
    /// Why, unless it completed.
    pub error_code: Option<String>,
    /// The attempt that ended it.
    pub attempt: i16,
    /// What it said.
    pub data: Option<Value>,
}

impl Ended {
    /// Its status and its error's code, in a word.
    pub fn code(&self) -> &str {
        self.error_code.as_deref().unwrap_or(&self.status)
    }
}

impl Platform {
    /// One control plane on a database of its own, with these skills for every organisation.
    pub async fn start(skills: &[&str]) -> Result<Platform> {
        let database = Database::fresh().await?;
        let eve = Eve::on(&database)?;
        Self::with(eve, database.url().to_owned(), Some(database), skills).await
    }

    /// The same on somebody else's database, which is migrated first.
    pub async fn on(url: &str, skills: &[&str]) -> Result<Platform> {
        Self::of(Eve::on_url(url)?, url, skills).await
    }

    /// The same with processes that are set up in a way of their own.
    pub async fn of(eve: Eve, url: &str, skills: &[&str]) -> Result<Platform> {
        eve.migrate().await?;
        Self::with(eve, url.to_owned(), None, skills).await
    }

    async fn with(
        eve: Eve,
        url: String,
        database: Option<Database>,
        skills: &[&str],
    ) -> Result<Platform> {
        let token = {
            let db = Db::connect(&DbConfig {
                url: url.clone(),
                max_connections: 1,
                application_name: "eve tests".to_owned(),
            })?;
            let token = bootstrap::run(&db).await?.expose().to_owned();
            db.pool().close().await;
            token
        };
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy(&url)?;
        let server = eve.serve().await?;
        let eve = eve.as_client_of(&server, &token);
        for name in skills {
            eve.push(&skill(name)?).await?;
        }
        Ok(Platform {
            servers: vec![server],
            eve,
            token,
            http: http_client()?,
            pool,
            _database: database,
        })
    }

    /// Starts another control plane.
    pub async fn serve(&mut self) -> Result<()> {
        self.servers.push(self.eve.serve().await?);
        Ok(())
    }

    /// Starts one in the place of the first, which was killed.
    pub async fn replace_server(&mut self) -> Result<()> {
        self.servers[0] = self.eve.serve().await?;
        self.eve.point_at(&self.servers[0]);
        Ok(())
    }

    /// The control planes, to kill them.
    pub fn servers(&mut self) -> &mut Vec<Server> {
        &mut self.servers
    }

    /// Where its processes keep machine code.
    pub fn cache(&self) -> PathBuf {
        self.eve.cache()
    }

    /// The command line.
    pub fn eve(&self) -> &Eve {
        &self.eve
    }

    /// The database, past every wall.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A worker of the type `general`.
    pub fn worker(&self, slots: u32) -> Result<Process> {
        self.eve.worker("general", slots)
    }

    /// A worker of the type `general` that gives its runs so many seconds when it is told to stop.
    pub fn worker_with_grace(&self, slots: u32, seconds: u32) -> Result<Process> {
        let (slots, grace) = (slots.to_string(), seconds.to_string());
        self.eve.start(["worker", "--type", "general", "--slots", &slots, "--grace", &grace])
    }

    /// Sets what runs of the type `general` may use, for workers that start afterwards.
    pub async fn set_limits(&self, limits: Value) -> Result<()> {
        sqlx::query("UPDATE eve.worker_types SET limits = $1 WHERE id = 'general'")
            .bind(limits)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Sends a body to the first control plane; the answer must be a success.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.servers[0].url());
        let answer = self.http.post(url).bearer_auth(&self.token).json(body).send().await?;
        Self::success(answer).await
    }

    /// Asks the first control plane; the answer must be a success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.servers[0].url());
        Self::success(self.http.get(url).bearer_auth(&self.token).send().await?).await
    }

    async fn success(answer: reqwest::Response) -> Result<Value> {
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Creates requests of the type `general`, all in one call.
    pub async fn create_all(&self, mut requests: Vec<Value>) -> Result<Vec<Uuid>> {
        for request in &mut requests {
            request["worker_type"] = json!("general");
        }
        let created = self.post("/v1/requests/batch", &json!({ "requests": requests })).await?;
        let created = created["requests"].as_array().context("no requests came back")?;
        created.iter().map(id_of).collect()
    }

    /// Creates one request of the type `general`.
    pub async fn create(&self, request: Value) -> Result<Uuid> {
        Ok(self.create_all(vec![request]).await?[0])
    }

    /// Creates one that gives the guest `hostile` these orders, and that is not tried again.
    pub async fn order(&self, orders: Value) -> Result<Uuid> {
        self.create(json!({ "skill": "hostile", "context": orders, "max_attempts": 1 })).await
    }

    /// Has another organisation, which is made if need be, wait for so many runs of a skill; past the
    /// API, whose batches are smaller.
    pub async fn flood(
        &self,
        org: &str,
        count: usize,
        skill: &str,
        context: Value,
    ) -> Result<Vec<Uuid>> {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO eve.organizations (slug, name) VALUES ($1, $1) ON CONFLICT DO NOTHING",
        )
        .bind(org)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO eve.requests
                    (id, org_id, worker_type, skill, context, root_request_id, orchestration_id, created_by)
             SELECT n.id, o.id, 'general', $3, $4, n.id, n.id, '{\"via\": \"platform\"}'
               FROM eve.organizations o, unnest($2::uuid[]) n (id)
              WHERE o.slug = $1",
        )
        .bind(org)
        .bind(&ids)
        .bind(skill)
        .bind(context)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO eve.queue (id, org_id, worker_type, status, priority)
             SELECT id, org_id, worker_type, 'pending', 0 FROM eve.requests WHERE id = ANY ($1)",
        )
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(ids)
    }

    /// How a request ended, if it has.
    pub async fn ended(&self, id: Uuid) -> Option<Ended> {
        sqlx::query_as(
            "SELECT status, error_code, attempt, data FROM eve.orchestration_results WHERE request_id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await
        .expect("results can be read")
    }

    /// Waits for a request's end.
    pub async fn end_of(&self, id: Uuid) -> Ended {
        wait_for(&format!("the end of request {id}"), async || self.ended(id).await).await
    }

    /// What a query that yields one number says.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.expect("rows can be counted")
    }

    /// Waits until a query that yields a boolean says true.
    pub async fn until(&self, what: &str, query: &'static str) {
        wait_for(what, async || {
            let yes: bool = sqlx::query_scalar(query).fetch_one(&self.pool).await.ok()?;
            yes.then_some(())
        })
        .await;
    }

    /// Waits until a worker has claimed a request.
    pub async fn claimed(&self, id: Uuid) {
        wait_for(&format!("a claim of request {id}"), async || {
            self.live(id).await.filter(|(status, _, _)| status == "processing")
        })
        .await;
    }

    /// Status, attempt and drains of a request that has not ended.
    pub async fn live(&self, id: Uuid) -> Option<(String, i16, i16)> {
        sqlx::query_as("SELECT status, attempt, drains FROM eve.queue WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .expect("the queue can be read")
    }
}

fn id_of(request: &Value) -> Result<Uuid> {
    Ok(request["id"].as_str().context("a request without an id")?.parse()?)
}
