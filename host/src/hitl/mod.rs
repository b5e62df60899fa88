//! Humans in the loop: questions that runs and people put to the people of an organisation.
//!
//! Flow: a run asks through its `queue` capability, and the question is inserted by the commit that
//! ends the run ([`insert`]); a person asks through the API. Somebody answers, or it expires; an
//! orchestration that asked is woken by either.
//!
//! Invariants:
//! - A question is settled once: answered, expired or cancelled with the orchestration that asked.
//! - Whoever settles the question of an orchestration holds the lock of that orchestration's row.

pub mod validate;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::Tx;
use crate::ids::{QuestionId, RequestId};
use crate::tenancy::{Actor, Tenant};

/// A question to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewQuestion {
    /// What is asked, in words: 1 byte to 16 KiB.
    pub question: String,
    /// The answers to choose from, each different, at most 100 of 1 to 256 characters. Any answer is
    /// taken when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// What helps to answer: a JSON object of at most 64 KiB.
    #[serde(default = "crate::requests::empty_object")]
    #[schema(value_type = Object)]
    pub details: Value,
    /// How long it stays open, in milliseconds: a second to 30 days; 24 hours when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// Inserts questions of a run, in the transaction that ends it. `orchestration` hears the answers; a run
/// that does not wait asks without hearing them.
pub(crate) async fn insert(
    tx: &mut Tx,
    tenant: Tenant,
    actor: &Actor,
    orchestration: Option<RequestId>,
    questions: &[(QuestionId, NewQuestion)],
) -> Result<(), sqlx::Error> {
    let creator = serde_json::to_value(actor).expect("an Actor always serialises");
    for (id, new) in questions {
        sqlx::query!(
            r#"
            INSERT INTO eve.hitl_requests
                   (id, org_id, request_id, question, options, details, created_by, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7,
                    clock_timestamp() + $8::bigint * interval '1 millisecond')
            "#,
            id.0,
            tenant.org().0,
            orchestration.map(|id| id.0),
            new.question,
            &new.options,
            new.details,
            creator,
            new.expires_in_ms.unwrap_or(86_400_000) as i64
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
