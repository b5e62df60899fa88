//! Asking: a run's questions, in the commit that ends it, and a person's own.

use serde_json::Value;
use uuid::Uuid;

use super::validate::EXPIRES_MS_DEFAULT;
use super::{HitlError, NewQuestion, Question, Questions};
use crate::db::{Scope, Tx, is_deadlock};
use crate::ids::{QuestionId, RequestId};
use crate::requests::graph::{Graph, Reach};
use crate::requests::{Invalid, orchestration};
use crate::tenancy::{Actor, OrgRole, Tenant, audit};

/// Inserts questions, which have been validated when they were asked. `orchestration` hears the
/// answers; the caller holds the lock of its row, so that it does not end without cancelling them.
/// Members with at least the role `answerers` may answer.
pub(crate) async fn insert(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    orchestration: Option<RequestId>,
    answerers: OrgRole,
    questions: &[(QuestionId, NewQuestion)],
) -> Result<(), sqlx::Error> {
    if questions.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = questions.iter().map(|(id, _)| id.0).collect();
    let texts: Vec<&str> = questions.iter().map(|(_, new)| new.question.as_str()).collect();
    // An array of arrays must be a rectangle in Postgres: as JSON each list has its own length.
    let options: Vec<Value> =
        questions.iter().map(|(_, new)| Value::from(new.options.clone())).collect();
    let details: Vec<&Value> = questions.iter().map(|(_, new)| &new.details).collect();
    let lives: Vec<i64> = questions
        .iter()
        .map(|(_, new)| new.expires_in_ms.unwrap_or(EXPIRES_MS_DEFAULT))
        // Validated: at most 30 days.
        .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX))
        .collect();
    let creator = actor.to_json();
    sqlx::query!(
        r#"
        INSERT INTO eve.hitl_requests
               (id, org_id, request_id, question, options, details, created_by, created_at, expires_at,
                least_role)
        SELECT n.id, $1, $2, n.question,
               ARRAY (SELECT o.text
                        FROM jsonb_array_elements_text(n.options) WITH ORDINALITY AS o (text, place)
                       ORDER BY o.place),
               n.details, $3, clock.now, clock.now + n.lives_ms * interval '1 millisecond', $9
          FROM unnest($4::uuid[], $5::text[], $6::jsonb[], $7::jsonb[], $8::bigint[])
            AS n (id, question, options, details, lives_ms),
               (SELECT clock_timestamp() AS now) clock
        "#,
        tenant.org().0,
        orchestration.map(|id| id.0),
        creator,
        &ids,
        &texts as &[&str],
        &options,
        &details as &[&Value],
        &lives,
        answerers.as_str(),
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Questions {
    /// Asks for a person: just so, or so that an open request of the organisation hears the answer,
    /// as an orchestration (for a wake-up's id its orchestration's).
    pub async fn ask(
        &self,
        tenant: Tenant,
        actor: &Actor,
        new: NewQuestion,
        request: Option<RequestId>,
    ) -> Result<Question, HitlError> {
        new.validate()?;
        let asked = (QuestionId::generate(), new);
        let mut tries = 0;
        loop {
            match self.try_ask(tenant, actor, &asked, request).await {
                Err(HitlError::Database { source, .. }) if is_deadlock(&source) && tries < 5 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
                Ok(()) => return self.get(tenant, asked.0).await,
            }
        }
    }

    async fn try_ask(
        &self,
        tenant: Tenant,
        actor: &Actor,
        asked: &(QuestionId, NewQuestion),
        request: Option<RequestId>,
    ) -> Result<(), HitlError> {
        let failed = HitlError::database("asking");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let orchestration = match request {
            Some(request) => Some(listener(&mut tx, tenant, request).await?),
            None => None,
        };
        insert(&mut tx, tenant, actor, orchestration, OrgRole::Member, std::slice::from_ref(asked))
            .await
            .map_err(failed)?;
        audit::record(&mut tx, tenant, actor, "hitl.ask", &asked.0.to_string())
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }
}

/// Locks the orchestration that shall hear an answer, and has its end cancel the question.
async fn listener(tx: &mut Tx, tenant: Tenant, request: RequestId) -> Result<RequestId, HitlError> {
    let failed = HitlError::database("looking for who shall hear the answer");
    let listening = sqlx::query_scalar!(
        "SELECT orchestration_id FROM eve.requests WHERE id = $1 AND org_id = $2",
        request.0,
        tenant.org().0
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed)?
    .ok_or_else(|| Invalid::new("request_id", format_args!("there is no request {request}")))?;
    let reach = Reach { rows: vec![listening], ..Reach::default() };
    let graph = Graph::lock(tx, &reach).await.map_err(failed)?;
    if !graph.live.contains_key(&listening) {
        return Err(HitlError::Conflict(format!(
            "request {listening} has ended already: nobody would hear the answer"
        )));
    }
    orchestration::adopt(tx, [listening]).await.map_err(failed)?;
    Ok(RequestId(listening))
}
