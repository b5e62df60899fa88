//! Reading requests, their results, blockers and logs. Every function filters the organisation, and
//! runs under row-level security besides.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{
    BlockerState, LogLine, OnFailure, Problem, Request, RequestError, RequestResult, Requests,
    RunLog, Status,
};
use crate::db::{Scope, Tx};
use crate::ids::{RequestId, UserId, WorkerId};
use crate::tenancy::Tenant;

/// What to list. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A JSON object that the context contains.
    pub context: Option<Value>,
    /// Any of these; every status when empty.
    pub statuses: Vec<Status>,
    /// Of this worker type.
    pub worker_type: Option<String>,
    /// Naming this skill.
    pub skill: Option<String>,
    /// Descending from this request.
    pub root: Option<RequestId>,
    /// Created by this request.
    pub parent: Option<RequestId>,
    /// Only older than this one.
    pub before: Option<RequestId>,
    /// At most so many.
    pub limit: u32,
}

/// Who reads: a member through the API, or a running skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Through the API.
    Member,
    /// A running skill.
    Guest,
}

impl Reader {
    pub(crate) fn scope(self, tenant: Tenant) -> Scope {
        match self {
            Reader::Member => Scope::Tenant(tenant),
            Reader::Guest => Scope::Guest(tenant),
        }
    }
}

/// Runs whose logs are shown together: 256 KiB each.
const RUN_LOGS: i64 = 50;

impl Requests {
    /// One request.
    pub async fn get(&self, tenant: Tenant, id: RequestId) -> Result<Request, RequestError> {
        self.snapshot(tenant, &[id]).await?.pop().ok_or(RequestError::NotFound(id))
    }

    /// Those of `ids` that exist in the organisation, in the order of `ids`.
    pub async fn snapshot(
        &self,
        tenant: Tenant,
        ids: &[RequestId],
    ) -> Result<Vec<Request>, RequestError> {
        self.snapshot_for(Reader::Member, tenant, ids).await
    }

    /// As [`Requests::snapshot`], for a reader of a kind.
    pub(crate) async fn snapshot_for(
        &self,
        reader: Reader,
        tenant: Tenant,
        ids: &[RequestId],
    ) -> Result<Vec<Request>, RequestError> {
        async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            rows(&mut tx, tenant, ids).await
        }
        .await
        .map_err(RequestError::database("reading requests"))
    }

    /// Where a request stands, and the orchestration that it is a wake-up of: itself if it is none.
    pub(crate) async fn standing(
        &self,
        reader: Reader,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<(Status, RequestId), RequestError> {
        let row = async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            sqlx::query!(
                r#"
                SELECT coalesce(q.status, x.status) AS "status!: Status",
                       r.orchestration_id AS "orchestration: RequestId"
                  FROM eve.requests r
                  LEFT JOIN eve.queue q ON q.id = r.id
                  LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
                 WHERE r.id = $1 AND r.org_id = $2
                "#,
                id.0,
                tenant.org().0
            )
            .fetch_optional(&mut *tx)
            .await
        }
        .await
        .map_err(RequestError::database("reading a request"))?
        .ok_or(RequestError::NotFound(id))?;
        Ok((row.status, row.orchestration))
    }

    /// Requests of the organisation, newest first.
    pub async fn list(
        &self,
        tenant: Tenant,
        filter: &Filter,
    ) -> Result<Vec<Request>, RequestError> {
        self.list_for(Reader::Member, tenant, filter).await
    }

    /// As [`Requests::list`], for a reader of a kind.
    pub(crate) async fn list_for(
        &self,
        reader: Reader,
        tenant: Tenant,
        filter: &Filter,
    ) -> Result<Vec<Request>, RequestError> {
        let statuses: Option<Vec<&str>> = match filter.statuses.is_empty() {
            true => None,
            false => Some(filter.statuses.iter().map(|status| status.as_str()).collect()),
        };
        async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            let ids: Vec<RequestId> = sqlx::query_scalar!(
                r#"SELECT id AS "id!" FROM eve.find_requests($1, $2, $3, $4, $5, $6, $7, $8) AS id"#,
                filter.context,
                statuses.as_deref() as Option<&[&str]>,
                filter.worker_type,
                filter.skill,
                filter.root.map(|id| id.0),
                filter.parent.map(|id| id.0),
                filter.before.map(|id| id.0),
                i32::try_from(filter.limit).unwrap_or(i32::MAX),
            )
            .fetch_all(&mut *tx)
            .await?
            .into_iter()
            .map(RequestId)
            .collect();
            rows(&mut tx, tenant, &ids).await
        }
        .await
        .map_err(RequestError::database("listing requests"))
    }

    /// What a request ended with.
    pub async fn result(
        &self,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<RequestResult, RequestError> {
        match self.results_for(Reader::Member, tenant, &[id]).await?.pop() {
            Some(result) => Ok(result),
            // Missing because it is open, or because it is not there at all.
            None => self.get(tenant, id).await.and(Err(RequestError::Open(id))),
        }
    }

    /// The results of those of `ids` that have ended.
    pub(crate) async fn results_for(
        &self,
        reader: Reader,
        tenant: Tenant,
        ids: &[RequestId],
    ) -> Result<Vec<RequestResult>, RequestError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            let rows = sqlx::query!(
                r#"
                SELECT request_id, status AS "status: Status", generation, summary, data, error_code,
                       error_message, tokens_used, cost, attempt, started_at, finished_at, duration_us,
                       cpu_us, memory_peak_bytes
                  FROM eve.orchestration_results
                 WHERE request_id = ANY ($1) AND org_id = $2
                 ORDER BY request_id
                "#,
                &ids,
                tenant.org().0
            )
            .fetch_all(&mut *tx)
            .await?;
            Ok(rows
                .into_iter()
                .map(|row| RequestResult {
                    request_id: RequestId(row.request_id),
                    status: row.status,
                    generation: row.generation,
                    summary: row.summary,
                    data: row.data,
                    error: problem(row.error_code, row.error_message),
                    tokens_used: row.tokens_used,
                    cost: row.cost,
                    attempt: row.attempt,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    duration_us: row.duration_us,
                    cpu_us: row.cpu_us,
                    memory_peak_bytes: row.memory_peak_bytes,
                })
                .collect())
        }
        .await
        .map_err(RequestError::database("reading results"))
    }

    /// What a request waits for, or has waited for.
    pub async fn blockers(
        &self,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<Vec<BlockerState>, RequestError> {
        self.blockers_for(Reader::Member, tenant, id).await
    }

    /// As [`Requests::blockers`], for a reader of a kind.
    pub(crate) async fn blockers_for(
        &self,
        reader: Reader,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<Vec<BlockerState>, RequestError> {
        let found = async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            let exists = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM eve.requests WHERE id = $1 AND org_id = $2) AS "exists!""#,
                id.0,
                tenant.org().0
            )
            .fetch_one(&mut *tx)
            .await?;
            if !exists {
                return Ok(None);
            }
            let rows = sqlx::query!(
                r#"
                SELECT d.blocker_id, d.on_failure AS "on_failure: OnFailure", d.state, d.held_until,
                       coalesce(q.status, x.status) AS "status!: Status",
                       EXISTS (SELECT FROM eve.queue own WHERE own.id = d.dependent_id) AS "waiting!"
                  FROM eve.dependencies d
                  LEFT JOIN eve.queue q ON q.id = d.blocker_id
                  LEFT JOIN eve.orchestration_results x ON x.request_id = d.blocker_id
                 -- A blocker that is past retention holds nobody back, and is no more.
                 WHERE d.dependent_id = $1 AND d.org_id = $2 AND coalesce(q.status, x.status) IS NOT NULL
                 ORDER BY d.blocker_id
                "#,
                id.0,
                tenant.org().0
            )
            .fetch_all(&mut *tx)
            .await?;
            Ok(Some(rows))
        }
        .await
        .map_err(RequestError::database("reading blockers"))?;
        let rows = found.ok_or(RequestError::NotFound(id))?;
        Ok(rows
            .into_iter()
            .map(|row| BlockerState {
                id: RequestId(row.blocker_id),
                status: row.status,
                on_failure: row.on_failure,
                open: row.waiting && row.state != "met",
                reason: row.held_until.map(|until| {
                    format!("held: it did not complete; retry it before {}", until.format("%FT%TZ"))
                }),
            })
            .collect())
    }

    /// What the request's runs have written, those that woke it included: the last [`RUN_LOGS`] of them,
    /// oldest first.
    pub async fn logs(&self, tenant: Tenant, id: RequestId) -> Result<Vec<RunLog>, RequestError> {
        // An unknown id is an error, a request that has not written anything an empty list.
        self.get(tenant, id).await?;
        async {
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await?;
            let rows = sqlx::query!(
                r#"
                SELECT l.request_id, l.generation, l.attempt,
                       l.lines AS "lines: sqlx::types::Json<Vec<LogLine>>", l.dropped
                  FROM (SELECT $1::uuid AS id
                         UNION ALL
                        SELECT r.id FROM eve.requests r
                         WHERE r.parent_request_id = $1 AND r.org_id = $2
                           AND r.orchestration_id = $1) AS runs
                  JOIN eve.run_logs l ON l.request_id = runs.id AND l.org_id = $2
                 ORDER BY l.created_at DESC, l.id DESC
                 LIMIT $3
                "#,
                id.0,
                tenant.org().0,
                RUN_LOGS
            )
            .fetch_all(&mut *tx)
            .await?;
            Ok(rows
                .into_iter()
                .rev()
                .map(|row| RunLog {
                    request_id: RequestId(row.request_id),
                    generation: row.generation,
                    attempt: row.attempt,
                    lines: row.lines.0,
                    dropped: row.dropped,
                })
                .collect())
        }
        .await
        .map_err(RequestError::database("reading logs"))
    }
}

pub(super) fn problem(code: Option<String>, message: Option<String>) -> Option<Problem> {
    code.map(|code| Problem { code, message: message.unwrap_or_default() })
}

/// Requests by id, as they stand, in the order of `ids`.
async fn rows(tx: &mut Tx, tenant: Tenant, ids: &[RequestId]) -> Result<Vec<Request>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"
        SELECT r.id, r.worker_type, r.skill, r.prompt, r.context, r.repo_url, r.branch, r.config,
               r.metadata, r.priority, r.max_attempts, r.timeout_ms, r.parent_request_id,
               r.root_request_id, r.user_id, r.created_at,
               coalesce(q.status, x.status) AS "status!: Status",
               coalesce(q.attempt, x.attempt) AS "attempt!",
               coalesce(q.generation, x.generation) AS "generation!",
               q.run_at AS "run_at?", q.open_blockers AS "open_blockers?",
               coalesce(q.worker_id, x.worker_id) AS "worker_id?",
               coalesce(q.claimed_at, x.started_at) AS "started_at?: DateTime<Utc>",
               x.finished_at AS "finished_at?", x.error_code AS "error_code?",
               x.error_message AS "error_message?", x.summary AS "summary?"
          FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, position)
          JOIN eve.requests r ON r.id = wanted.id
          LEFT JOIN eve.queue q ON q.id = r.id
          LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
         WHERE r.org_id = $2 AND coalesce(q.status, x.status) IS NOT NULL
         ORDER BY wanted.position
        "#,
        &ids,
        tenant.org().0
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Request {
            id: RequestId(row.id),
            status: row.status,
            worker_type: row.worker_type,
            skill: row.skill,
            prompt: row.prompt,
            context: row.context,
            repo_url: row.repo_url,
            branch: row.branch,
            config: row.config,
            metadata: row.metadata,
            priority: row.priority,
            max_attempts: row.max_attempts,
            timeout_ms: row.timeout_ms,
            attempt: row.attempt,
            generation: row.generation,
            // Once it is not scheduled any more, the time is of no meaning.
            run_at: row
                .run_at
                .filter(|_| matches!(row.status, Status::Scheduled | Status::Blocked)),
            open_blockers: row.open_blockers.unwrap_or(0),
            worker_id: row.worker_id.map(WorkerId),
            parent_request_id: row.parent_request_id.map(RequestId),
            root_request_id: RequestId(row.root_request_id),
            user_id: row.user_id.map(UserId),
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            error: problem(row.error_code, row.error_message),
            summary: row.summary,
        })
        .collect())
}
