//! What a request has created, with what became of it, in one go.

use super::read::{Reader, problem};
use super::{Request, RequestError, RequestResult, Requests, Status};
use crate::ids::{RequestId, UserId, WorkerId};
use crate::tenancy::Tenant;

/// A request, with its end if it has ended.
pub(crate) type Child = (Request, Option<RequestResult>);

/// What a parent's children come to.
pub(crate) enum Children {
    /// All of them, the oldest first.
    All(Vec<Child>),
    /// There are more than was asked for.
    TooMany,
    /// They take more bytes than was asked for.
    TooLarge,
}

impl Requests {
    /// The requests that `of` has created in its present generation, with their results: at most
    /// `most` of them, of at most `bytes` bytes of text and JSON together. A retried request begins
    /// with none. Its wake-ups are not its children.
    ///
    /// Two statements however many they are: the first measures, so that nothing large is read in
    /// vain. Children are found by the index on their parent, in every partition: their ids are not
    /// always greater than the parent's, since an idempotency key keeps the id that it was first
    /// reserved with.
    pub(crate) async fn children_for(
        &self,
        reader: Reader,
        tenant: Tenant,
        of: RequestId,
        most: usize,
        bytes: usize,
    ) -> Result<Children, RequestError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            let measured = sqlx::query!(
                r#"
                SELECT p.generation AS "generation!", m.count AS "count!", m.stored AS "stored!"
                  FROM (
                        SELECT coalesce(
                                   (SELECT generation FROM eve.queue WHERE id = $1 AND org_id = $2),
                                   (SELECT generation FROM eve.orchestration_results
                                     WHERE request_id = $1 AND org_id = $2),
                                   1) AS generation
                       ) p
                 CROSS JOIN LATERAL (
                        -- As it is stored, TOAST left unread: at least the bytes that compression left.
                        SELECT count(*) AS count,
                               coalesce(sum(pg_column_size(c.prompt) + pg_column_size(c.context)
                                            + coalesce(pg_column_size(x.data), 0)), 0)::bigint AS stored
                          FROM (
                                SELECT r.id, r.prompt, r.context
                                  FROM eve.requests r
                                 WHERE r.parent_request_id = $1 AND r.org_id = $2
                                   AND r.orchestration_id = r.id
                                   AND coalesce(r.parent_generation, 1) = p.generation
                                 LIMIT $3::bigint + 1
                               ) c
                          LEFT JOIN eve.orchestration_results x ON x.request_id = c.id
                       ) m
                "#,
                of.0,
                tenant.org().0,
                most
            )
            .fetch_one(&mut *tx)
            .await?;
            if measured.count > most {
                return Ok(Children::TooMany);
            }
            if measured.stored > bytes {
                return Ok(Children::TooLarge);
            }
            let rows = sqlx::query!(
                r#"
                SELECT c.id AS "id!", c.worker_type AS "worker_type!", c.skill, c.prompt AS "prompt!",
                       c.context AS "context!", c.repo_url, c.branch, c.config AS "config!",
                       c.metadata AS "metadata!", c.priority AS "priority!",
                       c.max_attempts AS "max_attempts!", c.timeout_ms,
                       c.root_request_id AS "root_request_id!", c.user_id,
                       c.created_at AS "created_at!", c.status AS "status!: Status",
                       c.attempt AS "attempt!", c.generation AS "generation!", c.run_at AS "run_at?",
                       c.open_blockers AS "open_blockers?", c.worker_id AS "worker_id?",
                       c.started_at AS "started_at?", c.ended AS "ended?",
                       c.finished_at AS "finished_at?", c.error_code AS "error_code?",
                       c.error_message AS "error_message?", c.summary AS "summary?",
                       c.data AS "data?", c.tokens_used AS "tokens_used?", c.cost AS "cost?",
                       c.duration_us AS "duration_us?", c.cpu_us AS "cpu_us?",
                       c.memory_peak_bytes AS "memory_peak_bytes?"
                  FROM (
                        SELECT r.id, r.worker_type, r.skill, r.prompt, r.context, r.repo_url, r.branch,
                               r.config, r.metadata, r.priority, r.max_attempts, r.timeout_ms,
                               r.root_request_id, r.user_id, r.created_at,
                               coalesce(q.status, x.status) AS status,
                               coalesce(q.attempt, x.attempt) AS attempt,
                               coalesce(q.generation, x.generation) AS generation,
                               q.run_at, q.open_blockers,
                               coalesce(q.worker_id, x.worker_id) AS worker_id,
                               coalesce(q.claimed_at, x.started_at) AS started_at,
                               x.request_id AS ended, x.finished_at, x.error_code, x.error_message,
                               x.summary, x.data, x.tokens_used, x.cost, x.duration_us, x.cpu_us,
                               x.memory_peak_bytes,
                               sum(octet_length(r.prompt) + octet_length(r.context::text)
                                   + octet_length(r.config::text) + octet_length(r.metadata::text)
                                   + coalesce(octet_length(x.summary), 0)
                                   + coalesce(octet_length(x.data::text), 0)
                                   + coalesce(octet_length(x.error_message), 0))
                                   OVER (ORDER BY r.id)::bigint AS bytes
                          FROM eve.requests r
                          LEFT JOIN eve.queue q ON q.id = r.id
                          LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
                         WHERE r.parent_request_id = $1 AND r.org_id = $2
                           AND r.orchestration_id = r.id
                           AND coalesce(r.parent_generation, 1) = $3
                           AND coalesce(q.status, x.status) IS NOT NULL
                       ) c
                 WHERE c.bytes <= $4
                 ORDER BY c.id
                 LIMIT $5
                "#,
                of.0,
                tenant.org().0,
                measured.generation,
                bytes,
                most
            )
            .fetch_all(&mut *tx)
            .await?;
            if (rows.len() as i64) < measured.count {
                return Ok(Children::TooLarge);
            }
            let children = rows.into_iter().map(|row| {
                let id = RequestId(row.id);
                let error = problem(row.error_code, row.error_message);
                let ended = row.ended.zip(row.finished_at).map(|(_, finished_at)| RequestResult {
                    request_id: id,
                    status: row.status,
                    generation: row.generation,
                    summary: row.summary.clone(),
                    data: row.data,
                    error: error.clone(),
                    tokens_used: row.tokens_used,
                    cost: row.cost,
                    attempt: row.attempt,
                    started_at: row.started_at,
                    finished_at,
                    duration_us: row.duration_us,
                    cpu_us: row.cpu_us,
                    memory_peak_bytes: row.memory_peak_bytes,
                });
                let request = Request {
                    id,
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
                    run_at: row
                        .run_at
                        .filter(|_| matches!(row.status, Status::Scheduled | Status::Blocked)),
                    open_blockers: row.open_blockers.unwrap_or(0),
                    worker_id: row.worker_id.map(WorkerId),
                    parent_request_id: Some(of),
                    root_request_id: RequestId(row.root_request_id),
                    user_id: row.user_id.map(UserId),
                    created_at: row.created_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    error,
                    summary: row.summary,
                };
                (request, ended)
            });
            Ok(Children::All(children.collect()))
        }
        .await
        .map_err(RequestError::database("reading children"))
    }
}
