//! Reading questions. Every function filters the organisation, and runs under row-level security
//! besides.

use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{HitlError, Question, QuestionStatus, Questions};
use crate::db::{Scope, Tx};
use crate::ids::{QuestionId, RequestId};
use crate::tenancy::{Actor, OrgRole, Tenant};

/// What to list. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct QuestionFilter {
    /// Any of these; every status when empty.
    pub statuses: Vec<QuestionStatus>,
    /// Asked for this orchestration.
    pub request: Option<RequestId>,
    /// Only older than this one.
    pub before: Option<QuestionId>,
    /// At most so many.
    pub limit: u32,
}

impl Questions {
    /// One question.
    pub async fn get(&self, tenant: Tenant, id: QuestionId) -> Result<Question, HitlError> {
        let failed = HitlError::database("reading a question");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        one(&mut tx, tenant, id).await.map_err(failed)?.ok_or(HitlError::NotFound(id))
    }

    /// Questions of the organisation, newest first.
    pub async fn list(
        &self,
        tenant: Tenant,
        filter: &QuestionFilter,
    ) -> Result<Vec<Question>, HitlError> {
        let failed = HitlError::database("listing questions");
        let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let rows = sqlx::query_as!(
            Row,
            r#"
            SELECT id, status AS "status: QuestionStatus", question, options, details, request_id,
                   least_role AS "least_role: OrgRole", response, responded_by AS "responded_by: Json<Actor>",
                   created_by AS "created_by: Json<Actor>", created_at, expires_at, ended_at
              FROM eve.hitl_requests
             WHERE org_id = $1
               AND (cardinality($2::text[]) = 0 OR status = ANY ($2))
               AND ($3::uuid IS NULL OR request_id = $3)
               AND ($4::uuid IS NULL OR id < $4)
             ORDER BY id DESC
             LIMIT $5
            "#,
            tenant.org().0,
            &statuses as &[&str],
            filter.request.map(|id| id.0),
            filter.before.map(|id| id.0),
            i64::from(filter.limit),
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        Ok(rows.into_iter().map(Question::from).collect())
    }
}

/// One question as it stands in this transaction.
pub(super) async fn one(
    tx: &mut Tx,
    tenant: Tenant,
    id: QuestionId,
) -> Result<Option<Question>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"
        SELECT id, status AS "status: QuestionStatus", question, options, details, request_id,
               least_role AS "least_role: OrgRole", response, responded_by AS "responded_by: Json<Actor>",
               created_by AS "created_by: Json<Actor>", created_at, expires_at, ended_at
          FROM eve.hitl_requests
         WHERE id = $1 AND org_id = $2
        "#,
        id.0,
        tenant.org().0
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(Question::from))
}

struct Row {
    id: Uuid,
    status: QuestionStatus,
    question: String,
    options: Vec<String>,
    details: Value,
    request_id: Option<Uuid>,
    least_role: OrgRole,
    response: Option<Value>,
    responded_by: Option<Json<Actor>>,
    created_by: Json<Actor>,
    created_at: chrono::DateTime<chrono::Utc>,
    expires_at: chrono::DateTime<chrono::Utc>,
    ended_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl From<Row> for Question {
    fn from(row: Row) -> Self {
        Question {
            id: QuestionId(row.id),
            status: row.status,
            question: row.question,
            options: row.options,
            details: row.details,
            request_id: row.request_id.map(RequestId),
            least_role: row.least_role,
            response: row.response,
            responded_by: row.responded_by.map(|actor| actor.0),
            created_by: row.created_by.0,
            created_at: row.created_at,
            expires_at: row.expires_at,
            ended_at: row.ended_at,
        }
    }
}
