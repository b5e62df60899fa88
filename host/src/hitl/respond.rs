//! Answering.

use serde_json::{Value, json};

use super::read::one;
use super::{Answerer, HitlError, Question, QuestionStatus, Questions, who};
use crate::db::{Scope, Tx, is_deadlock};
use crate::ids::QuestionId;
use crate::requests::Invalid;
use crate::requests::graph::{Graph, Reach, Ripple};
use crate::requests::orchestration::{Event, EventKind, deliver};
use crate::requests::validate::json as bounded;
use crate::tenancy::{Actor, Tenant, audit};

/// An answer, as much as a request's settings.
pub const RESPONSE_BYTES: usize = 64 << 10;

impl Questions {
    /// Answers an open question, once. The orchestration that it was asked for is woken in the same
    /// transaction. Some questions take more than any member has.
    pub async fn respond(
        &self,
        tenant: Tenant,
        actor: &Actor,
        answerer: impl Into<Answerer>,
        id: QuestionId,
        response: &Value,
    ) -> Result<Question, HitlError> {
        let answerer = answerer.into();
        bounded("response", response, RESPONSE_BYTES)?;
        let mut tries = 0;
        loop {
            match self.try_respond(tenant, actor, answerer, id, response).await {
                Err(HitlError::Database { source, .. }) if is_deadlock(&source) && tries < 5 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
                Ok((question, ripple)) => {
                    self.bell.ripple(&ripple);
                    return Ok(question);
                }
            }
        }
    }

    async fn try_respond(
        &self,
        tenant: Tenant,
        actor: &Actor,
        answerer: Answerer,
        id: QuestionId,
        response: &Value,
    ) -> Result<(Question, Ripple), HitlError> {
        let failed = HitlError::database("answering");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        // What was asked, and for whom, never changes: only the status must be read under locks.
        let asked = one(&mut tx, tenant, id).await.map_err(failed)?;
        let asked = asked.ok_or(HitlError::NotFound(id))?;
        if !answerer.deploys && is_about_deploying(&mut tx, id).await.map_err(failed)? {
            return Err(HitlError::Forbidden(format!(
                "answering question {id} takes a token that may deploy (`deployments:write`)"
            )));
        }
        if answerer.role < asked.least_role {
            return Err(HitlError::Forbidden(format!(
                "answering question {id} takes the role {}: ask one of them",
                asked.least_role
            )));
        }
        fits(&asked, response)?;
        let orchestration = asked.request_id.map(|request| request.0);
        let reach = Reach { rows: orchestration.into_iter().collect(), ..Reach::default() };
        let graph = Graph::lock(&mut tx, &reach).await.map_err(failed)?;

        let responder = actor.to_json();
        let answered = sqlx::query_scalar!(
            r#"
            UPDATE eve.hitl_requests
               SET status = 'answered', response = $3, responded_by = $4, ended_at = clock_timestamp()
             WHERE id = $1 AND org_id = $2
               AND status = 'open' AND expires_at > clock_timestamp()
            RETURNING id
            "#,
            id.0,
            tenant.org().0,
            response,
            responder,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let now = one(&mut tx, tenant, id).await.map_err(failed)?.ok_or(HitlError::NotFound(id))?;
        if answered.is_none() {
            return Err(HitlError::Conflict(too_late(&now)));
        }
        audit::record(&mut tx, tenant, actor, "hitl.respond", &id.to_string())
            .await
            .map_err(failed)?;
        let mut ripple = Ripple::default();
        if let Some(orchestration) = orchestration {
            let mut payload = json!({ "response": response });
            if let Some(user) = actor.user() {
                payload["answered_by"] = json!(user);
            }
            let event = Event {
                orchestration,
                org: tenant.org().0,
                kind: EventKind::Answer,
                source: id.0,
                generation: 1,
                payload,
            };
            ripple = deliver(&mut tx, &graph, &[event]).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok((now, ripple))
    }
}

/// Whether a question asks if something may be deployed.
async fn is_about_deploying(tx: &mut Tx, id: QuestionId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.deployment_orders WHERE question_id = $1) AS "is!""#,
        id.0
    )
    .fetch_one(&mut **tx)
    .await
}

/// Whether an answer is one that was asked for.
fn fits(question: &Question, response: &Value) -> Result<(), Invalid> {
    if question.options.is_empty() {
        // For the orchestration it would be the same as no answer.
        return match response.is_null() {
            true => Err(Invalid::new("response", "must not be null")),
            false => Ok(()),
        };
    }
    let chosen = response.as_str();
    if question.options.iter().any(|option| Some(option.as_str()) == chosen) {
        return Ok(());
    }
    let known: Vec<String> =
        question.options.iter().map(|option| format!("`{}`", option.escape_debug())).collect();
    Err(Invalid::new(
        "response",
        format_args!("is none of the answers to choose from: {}", known.join(", ")),
    ))
}

/// Why a question cannot be answered any more.
fn too_late(question: &Question) -> String {
    let id = question.id;
    let at = |moment: Option<chrono::DateTime<chrono::Utc>>| {
        moment.unwrap_or(question.expires_at).format("%FT%TZ")
    };
    match question.status {
        QuestionStatus::Answered => {
            let by = question.responded_by.as_ref().map(|actor| format!(", by {}", who(actor)));
            format!(
                "question {id} was answered at {} already{}",
                at(question.ended_at),
                by.unwrap_or_default()
            )
        }
        QuestionStatus::Cancelled => format!(
            "question {id} was cancelled at {}: the request that it was asked for has ended",
            at(question.ended_at)
        ),
        // One that is overdue expires within seconds.
        QuestionStatus::Expired | QuestionStatus::Open => {
            format!("question {id} expired at {}", at(Some(question.expires_at)))
        }
    }
}
