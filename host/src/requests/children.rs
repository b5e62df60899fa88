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

#[cfg(test)]
mod tests {
    use sqlx::Executor;

    use super::*;
    use crate::db::Scope;
    use crate::notify::Bell;
    use crate::testing::TestDatabase;
    use crate::testing::past::{Old, Stands, id_of_day};

    fn requests(database: &TestDatabase) -> Requests {
        Requests::new(database.db.clone(), Bell::start(database.db.pool().clone()))
    }

    /// As a guest sees them: id, status, whether it has a result.
    async fn seen(
        database: &TestDatabase,
        tenant: Tenant,
        of: &Old,
    ) -> Vec<(uuid::Uuid, Status, Option<i64>)> {
        let limits = (10_000, 1 << 20);
        let children = requests(database)
            .children_for(Reader::Guest, tenant, RequestId(of.id), limits.0, limits.1)
            .await
            .expect("children");
        let Children::All(children) = children else { panic!("not all of them") };
        children
            .into_iter()
            .map(|(child, end)| (child.id.0, child.status, end.and_then(|end| end.tokens_used)))
            .collect()
    }

    #[tokio::test]
    async fn those_of_the_present_generation_come_with_their_results() {
        let database = TestDatabase::fresh().await;
        let acme = database.org("acme").await;
        let corp = database.org("corp").await;
        let parent = database.alone(acme, 2, Stands::Open("waiting")).await;
        let first = database.below(acme, &parent, 2, Stands::Ended("completed", 1)).await;
        let second = database.below(acme, &parent, 1, Stands::Open("pending")).await;
        let third = database.below(acme, &parent, 1, Stands::Ended("cancelled", 1)).await;
        let wakeup =
            Old { wake_up: true, ..parent.child(id_of_day(1), Stands::Ended("completed", 1)) };
        database.old(acme, &wakeup).await;
        database.below(acme, &first, 1, Stands::Open("pending")).await;
        // Its key was reserved before the parent existed, by a run that came to nothing.
        let keyed = database.below(acme, &parent, 3, Stands::Ended("failed", 1)).await;
        let expected = [
            (keyed.id, Status::Failed, Some(100)),
            (first.id, Status::Completed, Some(100)),
            (second.id, Status::Pending, None),
            (third.id, Status::Cancelled, Some(100)),
        ];
        assert_eq!(seen(&database, acme, &parent).await, expected);
        assert!(seen(&database, corp, &parent).await.is_empty(), "another organisation's");

        // A retry starts with none; children of before the column existed are the first generation's.
        database.execute("UPDATE eve.queue SET generation = 2".to_owned()).await;
        assert!(seen(&database, acme, &parent).await.is_empty());
        database
            .execute(format!(
                "UPDATE eve.requests SET parent_generation = 2 WHERE id = '{}';
                 UPDATE eve.requests SET parent_generation = NULL WHERE id = '{}'",
                second.id, third.id
            ))
            .await;
        assert_eq!(seen(&database, acme, &parent).await, expected[2..3]);
        database.execute("UPDATE eve.queue SET generation = 1".to_owned()).await;
        assert_eq!(seen(&database, acme, &parent).await.len(), 3);
    }

    #[tokio::test]
    async fn more_than_fits_is_not_read() {
        let database = TestDatabase::fresh().await;
        let acme = database.org("acme").await;
        let parent = database.alone(acme, 1, Stands::Open("waiting")).await;
        for _ in 0..3 {
            database.below(acme, &parent, 1, Stands::Ended("completed", 1)).await;
        }
        let requests = requests(&database);
        let of = RequestId(parent.id);
        let ask = async |most, bytes| {
            requests.children_for(Reader::Guest, acme, of, most, bytes).await.expect("an answer")
        };
        assert!(matches!(ask(2, 1 << 20).await, Children::TooMany));
        assert!(matches!(ask(3, 1 << 20).await, Children::All(all) if all.len() == 3));
        // It compresses to a fraction of what it takes.
        database
            .execute(
                "UPDATE eve.orchestration_results SET data = to_jsonb(repeat('a', 500000))"
                    .to_owned(),
            )
            .await;
        assert!(matches!(ask(3, 1 << 20).await, Children::TooLarge));
        assert!(matches!(ask(3, 2 << 20).await, Children::All(all) if all.len() == 3));
        assert!(matches!(ask(3, 1).await, Children::TooLarge));
    }

    /// However large the table is: no partition is read whole that has rows to speak of.
    #[tokio::test]
    async fn they_are_found_by_their_parent() {
        let database = TestDatabase::fresh().await;
        let acme = database.org("acme").await;
        let parent = database.alone(acme, 0, Stands::Open("waiting")).await;
        database
            .execute(format!(
                "INSERT INTO eve.requests (id, org_id, worker_type, root_request_id, orchestration_id,
                                           parent_request_id, parent_generation, created_by)
                 SELECT n.id, '{org}', 'general', n.id, n.id,
                        CASE WHEN n.index <= 1000 THEN '{parent}'::uuid END,
                        CASE WHEN n.index <= 1000 THEN 1 END, '{{}}'
                   FROM (SELECT index, (left('{parent}', 14) || '7' || right(gen_random_uuid()::text, 21))::uuid
                           FROM generate_series(1, 30000) index) n (index, id);
                 INSERT INTO eve.orchestration_results (request_id, org_id, status, generation, attempt)
                 SELECT id, org_id, 'completed', 1, 1 FROM eve.requests WHERE id <> '{parent}';
                 ANALYZE eve.requests, eve.orchestration_results",
                org = acme.org(),
                parent = parent.id
            ))
            .await;
        let mut tx = database.db.begin(Scope::Guest(acme)).await.unwrap();
        let plan: Vec<String> = sqlx::query_scalar(
            "EXPLAIN SELECT r.id FROM eve.requests r
              WHERE r.parent_request_id = $1 AND r.org_id = $2 AND r.orchestration_id = r.id
                AND coalesce(r.parent_generation, 1) = 1",
        )
        .bind(parent.id)
        .bind(acme.org().0)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
        let today: String =
            sqlx::query_scalar("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
        let plan = plan.join("\n");
        assert!(
            plan.contains(&format!("requests_{today}_parent_request_id_org_id_id_idx")),
            "{plan}"
        );
        assert!(!plan.contains(&format!("Seq Scan on requests_{today}")), "{plan}");
        tx.execute("ROLLBACK").await.unwrap();
        assert_eq!(seen(&database, acme, &parent).await.len(), 1000);
    }
}
