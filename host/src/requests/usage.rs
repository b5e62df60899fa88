//! What runs have used, rolled up over a request and everything below it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Request, RequestError, Requests};
use crate::db::{Scope, Tx};
use crate::ids::RequestId;
use crate::tenancy::Tenant;

/// Requests of a tree that are counted: past them the figures say that they are incomplete.
pub(super) const MOST: i64 = 100_000;

/// What some runs have used together: those that ended a request, and those that did not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Runs: attempts that failed, runs that ended in waiting, and lost ones included.
    pub runs: i64,
    /// Wall-clock time of all of them in microseconds.
    pub duration_us: i64,
    /// CPU time of all of them in microseconds.
    pub cpu_us: i64,
    /// Most memory that any of them had at one time, in bytes.
    pub memory_peak_bytes: i64,
    /// Language-model tokens that they say they used; none if none says so.
    pub tokens_used: Option<i64>,
    /// US dollars that they say they cost; none if none says so.
    pub cost: Option<f64>,
}

impl Usage {
    /// Adds what other runs have used.
    pub fn add(&mut self, other: &Usage) {
        self.runs += other.runs;
        self.duration_us = self.duration_us.saturating_add(other.duration_us);
        self.cpu_us = self.cpu_us.saturating_add(other.cpu_us);
        self.memory_peak_bytes = self.memory_peak_bytes.max(other.memory_peak_bytes);
        if let Some(tokens) = other.tokens_used {
            self.tokens_used = Some(self.tokens_used.unwrap_or(0).saturating_add(tokens));
        }
        if let Some(cost) = other.cost {
            self.cost = Some((self.cost.unwrap_or(0.0) + cost).min(f64::MAX));
        }
    }
}

/// What a request and everything below it has used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeUsage {
    /// Of all runs.
    #[serde(flatten)]
    pub usage: Usage,
    /// The request itself, its descendants and all their wake-ups.
    pub requests: i64,
    /// Whether there are more requests than are counted: 100,000.
    pub truncated: bool,
}

/// A request with what it and everything below it has used.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestDetails {
    /// The request.
    #[serde(flatten)]
    pub request: Request,
    /// Rolled up over the request and everything below it.
    pub usage: TreeUsage,
}

impl Requests {
    /// One request with the usage of its tree.
    pub async fn details(
        &self,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<RequestDetails, RequestError> {
        let request = self.get(tenant, id).await?;
        let usage = async {
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await?;
            tree_usage(&mut tx, tenant, id).await
        }
        .await
        .map_err(RequestError::database("adding usage up"))?;
        Ok(RequestDetails { request, usage })
    }
}

/// Adds up what `id` and everything below it has used.
///
/// The walk goes down by the index on the parent. OFFSET 0 keeps it to that: the planner knows nothing
/// of the size of a tree, and would hash every request there is. Guests say what tokens and costs they
/// like, so sums are made as numeric and cut to what fits.
pub(super) async fn tree_usage(
    tx: &mut Tx,
    tenant: Tenant,
    id: RequestId,
) -> Result<TreeUsage, sqlx::Error> {
    let row = sqlx::query!(
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
            SELECT id FROM tree LIMIT $3::bigint + 1
        ), runs AS (
            SELECT x.*
              FROM (SELECT id FROM nodes LIMIT $3::bigint) n
             CROSS JOIN LATERAL (
                       SELECT started_at, duration_us, cpu_us, memory_peak_bytes, tokens_used, cost
                         FROM eve.orchestration_results
                        WHERE request_id = n.id AND org_id = $2
                        UNION ALL
                       SELECT started_at, duration_us, cpu_us, memory_peak_bytes, tokens_used, cost
                         FROM eve.attempts
                        WHERE request_id = n.id AND org_id = $2
                       OFFSET 0
                   ) x
        )
        SELECT count(started_at) AS "runs!",
               coalesce(sum(duration_us), 0)::bigint AS "duration_us!",
               coalesce(sum(cpu_us), 0)::bigint AS "cpu_us!",
               coalesce(max(memory_peak_bytes), 0) AS "memory_peak_bytes!",
               CASE WHEN sum(tokens_used) > 9223372036854775807 THEN 9223372036854775807
                    ELSE sum(tokens_used) END::bigint AS tokens_used,
               CASE WHEN sum(cost::numeric) > 1e300 THEN 1e300
                    ELSE sum(cost::numeric) END::float8 AS cost,
               (SELECT count(*) FROM nodes) AS "requests!"
          FROM runs
        "#,
        id.0,
        tenant.org().0,
        MOST
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(TreeUsage {
        usage: Usage {
            runs: row.runs,
            duration_us: row.duration_us,
            cpu_us: row.cpu_us,
            memory_peak_bytes: row.memory_peak_bytes,
            tokens_used: row.tokens_used,
            cost: row.cost,
        },
        requests: row.requests.min(MOST),
        truncated: row.requests > MOST,
    })
}
