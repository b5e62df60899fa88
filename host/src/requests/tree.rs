//! The tree below a request: who created whom, how they stand, what they used.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::usage::tree_usage;
use super::{RequestError, Requests, Status, TreeUsage, Usage};
use crate::db::Scope;
use crate::ids::RequestId;
use crate::tenancy::Tenant;

/// Requests of a tree that are shown; level by level, so that the deepest are left out. All that one
/// run may create, and as much again.
const SHOWN: i64 = 20_000;

/// A request and everything below it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tree {
    /// The request that was asked for.
    pub id: RequestId,
    /// It and its descendants, their wake-ups included, the oldest first. A parent that is not among
    /// them is above the request.
    pub requests: Vec<Node>,
    /// Whether the deepest levels are left out: 20,000 requests are shown.
    pub truncated: bool,
    /// What all of them have used, those that are not shown included.
    pub usage: TreeUsage,
}

/// A request in a tree.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: RequestId,
    /// The request that created it, or that it wakes.
    pub parent_request_id: Option<RequestId>,
    /// Where it stands.
    pub status: Status,
    /// The pool that runs it.
    pub worker_type: String,
    /// The skill it names; none means the worker type's default.
    pub skill: Option<String>,
    /// Whether it is a wake-up of its parent.
    pub wake_up: bool,
    /// 1, and one more for every retry.
    pub generation: i32,
    /// The parent's generation that created it.
    pub parent_generation: i32,
    /// Why it failed or was cancelled, as a word.
    pub error: Option<String>,
    /// What its own runs have used.
    pub usage: Usage,
}

impl Requests {
    /// The tree below a request.
    pub async fn tree(&self, tenant: Tenant, id: RequestId) -> Result<Tree, RequestError> {
        let (requests, usage) = async {
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await?;
            // As in `usage`: level by level, by index, whatever the planner thinks of it.
            let rows = sqlx::query!(
                r#"
                WITH RECURSIVE tree (id) AS (
                    SELECT $1::uuid
                     UNION ALL
                    SELECT r.id
                      FROM tree
                     CROSS JOIN LATERAL (
                               SELECT r.id FROM eve.requests r
                                WHERE r.parent_request_id = tree.id AND r.org_id = $2
                               OFFSET 0
                           ) r
                ), nodes AS MATERIALIZED (
                    SELECT id FROM tree LIMIT $3::bigint
                )
                SELECT r.id AS "id!", r.parent_request_id, r.worker_type AS "worker_type!", r.skill,
                       r.orchestration_id <> r.id AS "wake_up!",
                       coalesce(r.parent_generation, 1) AS "parent_generation!",
                       coalesce(q.status, x.status) AS "status!: Status",
                       coalesce(q.generation, x.generation) AS "generation!", x.error_code AS "error?",
                       u.runs AS "runs!", u.duration_us AS "duration_us!", u.cpu_us AS "cpu_us!",
                       u.memory_peak_bytes AS "memory_peak_bytes!", u.tokens_used, u.cost
                  FROM nodes n
                 CROSS JOIN LATERAL (
                           SELECT * FROM eve.requests r WHERE r.id = n.id AND r.org_id = $2 OFFSET 0
                       ) r
                  LEFT JOIN eve.queue q ON q.id = n.id
                  LEFT JOIN LATERAL (
                           SELECT x.request_id, x.status, x.generation, x.error_code
                             FROM eve.orchestration_results x
                            WHERE x.request_id = n.id
                           OFFSET 0
                       ) x ON true
                 CROSS JOIN LATERAL (
                           SELECT count(a.started_at) AS runs,
                                  coalesce(sum(a.duration_us), 0)::bigint AS duration_us,
                                  coalesce(sum(a.cpu_us), 0)::bigint AS cpu_us,
                                  coalesce(max(a.memory_peak_bytes), 0) AS memory_peak_bytes,
                                  CASE WHEN sum(a.tokens_used) > 9223372036854775807 THEN 9223372036854775807
                    ELSE sum(a.tokens_used) END::bigint AS tokens_used,
                                  CASE WHEN sum(a.cost::numeric) > 1e300 THEN 1e300
                    ELSE sum(a.cost::numeric) END::float8 AS cost
                             FROM (
                                   SELECT started_at, duration_us, cpu_us, memory_peak_bytes,
                                          tokens_used, cost
                                     FROM eve.orchestration_results
                                    WHERE request_id = n.id
                                    UNION ALL
                                   SELECT started_at, duration_us, cpu_us, memory_peak_bytes,
                                          tokens_used, cost
                                     FROM eve.attempts
                                    WHERE request_id = n.id
                                  ) a
                       ) u
                 WHERE coalesce(q.status, x.status) IS NOT NULL
                 ORDER BY r.id
                "#,
                id.0,
                tenant.org().0,
                SHOWN
            )
            .fetch_all(&mut *tx)
            .await?;
            let requests: Vec<Node> = rows
                .into_iter()
                .map(|row| Node {
                    id: RequestId(row.id),
                    parent_request_id: row.parent_request_id.map(RequestId),
                    status: row.status,
                    worker_type: row.worker_type,
                    skill: row.skill,
                    wake_up: row.wake_up,
                    generation: row.generation,
                    parent_generation: row.parent_generation,
                    error: row.error,
                    usage: Usage {
                        runs: row.runs,
                        duration_us: row.duration_us,
                        cpu_us: row.cpu_us,
                        memory_peak_bytes: row.memory_peak_bytes,
                        tokens_used: row.tokens_used,
                        cost: row.cost,
                    },
                })
                .collect();
            let shown = i64::try_from(requests.len()).unwrap_or(i64::MAX);
            let usage = match shown < SHOWN {
                true => {
                    let mut usage = Usage::default();
                    requests.iter().for_each(|request| usage.add(&request.usage));
                    TreeUsage { usage, requests: shown, truncated: false }
                }
                false => tree_usage(&mut tx, tenant, id).await?,
            };
            Ok((requests, usage))
        }
        .await
        .map_err(RequestError::database("reading a tree"))?;
        if !requests.iter().any(|request| request.id == id) {
            return Err(RequestError::NotFound(id));
        }
        let truncated = usage.truncated || usage.requests > SHOWN;
        Ok(Tree { id, requests, truncated, usage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::Bell;
    use crate::testing::TestDatabase;
    use crate::testing::past::{Old, Stands, id_of_day};

    fn requests(database: &TestDatabase) -> Requests {
        Requests::new(database.db.clone(), Bell::start(database.db.pool().clone()))
    }

    #[tokio::test]
    async fn a_tree_is_everything_below_with_what_it_used() {
        let database = TestDatabase::fresh().await;
        let acme = database.org("acme").await;
        let corp = database.org("corp").await;
        let done = Stands::Ended("completed", 1);
        let above = database.alone(acme, 3, done).await;
        let top = database.below(acme, &above, 2, Stands::Open("waiting")).await;
        let child = database.below(acme, &top, 1, Stands::Ended("failed", 1)).await;
        let leaf = database.below(acme, &child, 0, done).await;
        let wakeup = Old { wake_up: true, ..top.child(id_of_day(0), done) };
        database.old(acme, &wakeup).await;
        database.below(acme, &above, 2, done).await;

        let requests = requests(&database);
        let tree = requests.tree(acme, RequestId(top.id)).await.unwrap();
        let nodes: Vec<_> = tree
            .requests
            .iter()
            .map(|node| (node.id.0, node.parent_request_id.map(|id| id.0), node.wake_up))
            .collect();
        assert_eq!(
            nodes,
            [
                (top.id, Some(above.id), false),
                (child.id, Some(top.id), false),
                (leaf.id, Some(child.id), false),
                (wakeup.id, Some(top.id), true),
            ]
        );
        // Of each an attempt that failed; of those that have ended, the run that ended them.
        let one = Usage {
            runs: 2,
            duration_us: 3_000,
            cpu_us: 1_500,
            memory_peak_bytes: 8_192,
            tokens_used: Some(100),
            cost: Some(0.1),
        };
        assert_eq!(tree.requests[1].usage, one);
        assert_eq!(tree.requests[1].error.as_deref(), Some("failed"));
        let open = &tree.requests[0];
        assert_eq!((open.usage.runs, open.usage.tokens_used, open.usage.cost), (1, None, None));
        assert_eq!((tree.usage.requests, tree.truncated), (4, false));
        assert_eq!((tree.usage.usage.runs, tree.usage.usage.duration_us), (7, 10_000));

        // The same from the other way of adding up, on the request itself.
        let mut details = requests.details(acme, RequestId(top.id)).await.unwrap().usage;
        let cost = details.usage.cost.take().zip(tree.usage.usage.cost);
        assert!(cost.is_some_and(|(one, other)| (one - other).abs() < 1e-9), "{cost:?}");
        assert_eq!(details.usage, Usage { cost: None, ..tree.usage.usage });
        assert_eq!(details.requests, 4);

        for other in [requests.tree(corp, RequestId(top.id)).await.err()] {
            assert!(matches!(other, Some(RequestError::NotFound(_))));
        }
    }

    /// Guests say what they like of tokens and costs: no sum of theirs breaks an answer.
    #[tokio::test]
    async fn absurd_figures_are_cut_to_what_fits() {
        let database = TestDatabase::fresh().await;
        let acme = database.org("acme").await;
        let top = database.alone(acme, 1, Stands::Ended("completed", 1)).await;
        database.below(acme, &top, 1, Stands::Ended("completed", 1)).await;
        database
            .execute(
                "UPDATE eve.orchestration_results
                    SET tokens_used = 9223372036854775807, cost = 1.7e308"
                    .to_owned(),
            )
            .await;
        let requests = requests(&database);
        let id = RequestId(top.id);
        for usage in [
            requests.tree(acme, id).await.unwrap().usage,
            requests.details(acme, id).await.unwrap().usage,
        ] {
            assert_eq!(usage.usage.tokens_used, Some(i64::MAX));
            assert!(usage.usage.cost.is_some_and(|cost| cost.is_finite() && cost >= 1e300));
        }
    }

    #[tokio::test]
    async fn ten_thousand_children_are_shown_and_more_are_cut() {
        let database = TestDatabase::fresh().await;
        let acme = database.org("acme").await;
        let top = database.alone(acme, 0, Stands::Open("waiting")).await;
        let children = async |count: u32| {
            database
                .execute(format!(
                    "WITH made AS (
                         INSERT INTO eve.requests (id, org_id, worker_type, root_request_id,
                                                   orchestration_id, parent_request_id, created_by)
                         SELECT n.id, '{org}', 'general', '{top}', n.id, '{top}', '{{}}'
                           FROM (SELECT (left('{top}', 14) || '7'
                                         || right(gen_random_uuid()::text, 21))::uuid
                                   FROM generate_series(1, {count})) n (id)
                         RETURNING id, org_id
                     )
                     INSERT INTO eve.orchestration_results
                            (request_id, org_id, status, generation, attempt, started_at, duration_us)
                     SELECT id, org_id, 'completed', 1, 1, now(), 1 FROM made",
                    org = acme.org(),
                    top = top.id
                ))
                .await;
        };
        children(10_000).await;
        let requests = requests(&database);
        let tree = requests.tree(acme, RequestId(top.id)).await.unwrap();
        assert_eq!((tree.requests.len(), tree.truncated), (10_001, false));
        children(15_000).await;
        let tree = requests.tree(acme, RequestId(top.id)).await.unwrap();
        assert_eq!((tree.requests.len(), tree.truncated), (20_000, true));
        assert_eq!((tree.usage.requests, tree.usage.usage.runs), (25_001, 25_001));
        assert!(!tree.usage.truncated);
    }
}
