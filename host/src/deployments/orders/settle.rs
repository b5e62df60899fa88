//! What became of orders, and telling those who wait for it.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use crate::db::{Db, Scope};
use crate::requests::graph::{Graph, Reach, Ripple};
use crate::requests::orchestration::{Event, EventKind, deliver};

/// Orders that are settled in one transaction.
const SETTLED: i64 = 1_000;
/// Orders that are told in one transaction, which holds the locks of their orchestrations.
const TOLD: i64 = 100;

/// Settles the orders whose revisions are. One that gave way to a later order of the same orchestration,
/// be it to delete it, is not told: it waits for that one.
pub(crate) async fn settle(db: &Db) -> Result<(), sqlx::Error> {
    loop {
        let mut tx = db.begin(Scope::Control).await?;
        let settled = sqlx::query!(
            r#"
            UPDATE eve.deployment_orders o
               SET state = 'settled', outcome = s.outcome, reason = s.reason, message = s.message,
                   settled_at = clock_timestamp(),
                   told_at = CASE WHEN o.orchestration_id IS NULL
                                    OR (s.reason = 'superseded'
                                        OR o.kind <> 'delete' AND s.outcome = 'stopped')
                                       AND EXISTS (SELECT FROM eve.deployment_orders l
                                                    WHERE l.orchestration_id = o.orchestration_id
                                                      AND l.deployment_id = o.deployment_id
                                                      AND (l.revision, l.id) > (o.revision, o.id))
                                  THEN clock_timestamp() END
              FROM (SELECT o.id,
                           CASE WHEN d.id IS NULL THEN 'stopped'
                                WHEN o.kind = 'delete' AND d.revision = o.revision THEN 'stopped'
                                WHEN o.kind = 'delete' THEN 'failed'
                                WHEN r.outcome IN ('running', 'stopped') THEN r.outcome
                                ELSE 'failed' END AS outcome,
                           CASE WHEN d.id IS NULL THEN 'deleted'
                                WHEN o.kind = 'delete' AND d.revision > o.revision
                                     OR r.outcome = 'superseded' AND o.kind <> 'delete' THEN 'superseded'
                                WHEN o.kind <> 'delete' AND r.outcome = 'failed' THEN coalesce(r.reason, 'failed')
                                END AS reason,
                           CASE WHEN d.id IS NULL THEN 'the environment was deleted'
                                WHEN o.kind = 'delete' AND d.revision > o.revision
                                     OR r.outcome = 'superseded' AND o.kind <> 'delete'
                                THEN 'another change was asked for meanwhile: revision ' || d.revision
                                WHEN o.kind <> 'delete' THEN r.message END AS message
                      FROM eve.deployment_orders o
                      LEFT JOIN eve.deployments d ON d.id = o.deployment_id
                      LEFT JOIN eve.deployment_revisions r
                             ON r.deployment_id = o.deployment_id AND r.revision = o.revision
                     WHERE o.state = 'taken'
                       AND (d.id IS NULL
                            OR CASE o.kind WHEN 'delete' THEN d.status = 'stopped' AND NOT d.stopping
                                                              OR d.revision > o.revision
                                           ELSE r.outcome IS NOT NULL OR r.revision IS NULL END)
                     ORDER BY o.id
                     LIMIT $1) s
             WHERE o.id = s.id AND o.state = 'taken'
            "#,
            SETTLED
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        if settled < SETTLED as u64 {
            return Ok(());
        }
    }
}

/// Wakes the orchestrations that wait for orders that are settled. `None` if there are none.
pub(crate) async fn tell(db: &Db) -> Result<Option<Ripple>, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let untold = sqlx::query!(
        r#"
        SELECT id, orchestration_id AS "orchestration!"
          FROM eve.deployment_orders
         WHERE told_at IS NULL AND orchestration_id IS NOT NULL AND state = 'settled'
         ORDER BY id
         LIMIT $1
        "#,
        TOLD
    )
    .fetch_all(&mut *tx)
    .await?;
    if untold.is_empty() {
        return Ok(None);
    }
    // Orchestrations before orders, as whoever ends one has it.
    let rows = untold.iter().map(|order| order.orchestration).collect();
    let graph = Graph::lock(&mut tx, &Reach { rows, ..Reach::default() }).await?;
    let ids: Vec<Uuid> = untold.iter().map(|order| order.id).collect();
    let mut told = sqlx::query!(
        r#"
        UPDATE eve.deployment_orders o
           SET told_at = clock_timestamp()
         WHERE o.id = ANY ($1) AND o.told_at IS NULL AND o.orchestration_id IS NOT NULL
        RETURNING o.id, o.orchestration_id AS "orchestration!", o.org_id, o.told_id, o.environment, o.app,
                  o.revision, o.outcome AS "outcome!", o.reason, o.message,
                  -- How often it was told of this deployment before. Orders do not stay as long as that.
                  coalesce((SELECT max(i.generation) FROM eve.inbox i
                             WHERE i.orchestration_id = o.orchestration_id
                               AND i.source_kind = 'deployment' AND i.source_id = o.told_id), 0)
                      AS "before!"
        "#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    told.sort_by_key(|order| order.id);
    let mut numbers: HashMap<(Uuid, Uuid), i32> = HashMap::new();
    let events: Vec<Event> = told
        .into_iter()
        .map(|order| {
            let key = (order.orchestration, order.told_id);
            let number = numbers.entry(key).or_insert(order.before);
            *number = number.saturating_add(1);
            Event {
                orchestration: order.orchestration,
                org: order.org_id,
                kind: EventKind::Deployment,
                source: order.told_id,
                generation: *number,
                payload: json!({
                    "status": order.outcome, "reason": order.reason, "message": order.message,
                    "env": order.environment, "app": order.app, "revision": order.revision,
                }),
            }
        })
        .collect();
    let ripple = deliver(&mut tx, &graph, &events).await?;
    tx.commit().await?;
    Ok(Some(ripple))
}
