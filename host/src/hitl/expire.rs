//! Expiry: questions that nobody has answered in time.

use serde_json::json;
use uuid::Uuid;

use crate::db::Tx;
use crate::requests::graph::{Graph, Reach, Ripple};
use crate::requests::orchestration::{Event, EventKind, deliver};

/// Expires at most `limit` due questions, and tells their orchestrations; none if nothing is due.
/// Whoever commits may die before or after: what is still open is found again.
pub(crate) async fn expire(tx: &mut Tx, limit: i64) -> Result<Option<Ripple>, sqlx::Error> {
    // now() and not clock_timestamp(): only what is stable within a statement can use the index.
    let due = sqlx::query!(
        r#"
        SELECT id, request_id
          FROM eve.hitl_requests
         WHERE status = 'open' AND expires_at <= now()
         ORDER BY expires_at
         LIMIT $1
        "#,
        limit
    )
    .fetch_all(&mut **tx)
    .await?;
    if due.is_empty() {
        return Ok(None);
    }
    // Orchestrations before questions, as whoever answers or cancels has it.
    let reach =
        Reach { rows: due.iter().filter_map(|row| row.request_id).collect(), ..Reach::default() };
    let graph = Graph::lock(tx, &reach).await?;
    let ids: Vec<Uuid> = due.iter().map(|row| row.id).collect();
    // Only now: somebody may have answered while the locks were waited for.
    let expired = sqlx::query!(
        r#"
        UPDATE eve.hitl_requests
           SET status = 'expired', ended_at = clock_timestamp()
         WHERE id = ANY ($1) AND status = 'open'
        RETURNING id, org_id, request_id
        "#,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let events: Vec<Event> = expired
        .into_iter()
        .filter_map(|row| {
            Some(Event {
                orchestration: row.request_id?,
                org: row.org_id,
                kind: EventKind::Answer,
                source: row.id,
                generation: 1,
                payload: json!({}),
            })
        })
        .collect();
    Ok(Some(deliver(tx, &graph, &events).await?))
}
