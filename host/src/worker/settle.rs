//! Settlements: one transaction writes what has finished and claims what comes next.

use crate::db::{Db, Scope, is_refusal};
use crate::delivery::claim::{Appetite, Claimed, Cursor};
use crate::delivery::finish::{self, Finished};
use crate::ids::WorkerId;

/// What one brings back, when Postgres has it.
#[derive(Default)]
pub(super) struct Settlement {
    /// Indices into the batch: not written, for the graph.
    pub(super) left: Vec<usize>,
    pub(super) claimed: Option<Vec<Claimed>>,
}

/// One transaction: writes a batch, claims the next.
pub(super) async fn settle(
    db: &Db,
    worker: WorkerId,
    cursor: &mut Cursor,
    batch: &[Finished],
    appetite: Option<&Appetite>,
) -> Result<Settlement, sqlx::Error> {
    match settle_once(db, worker, cursor, batch, appetite).await {
        Err(error) if !batch.is_empty() && is_refusal(&error) => {
            // One run of the batch is what Postgres does not take. Alone, each shows whether it is
            // the one; the others are written.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a batch was refused; writing its runs one by one"
            );
            one_by_one(db, worker, cursor, batch).await
        }
        other => other,
    }
}

async fn settle_once(
    db: &Db,
    worker: WorkerId,
    cursor: &mut Cursor,
    batch: &[Finished],
    appetite: Option<&Appetite>,
) -> Result<Settlement, sqlx::Error> {
    let mut tx = db.begin(Scope::Engine).await?;
    let left = match batch.is_empty() {
        true => Vec::new(),
        false => finish::plain(&mut tx, worker, batch).await?,
    };
    let claimed = match appetite {
        Some(appetite) => Some(cursor.claim(&mut tx, appetite).await?),
        None => None,
    };
    tx.commit().await?;
    Ok(Settlement { left, claimed })
}

async fn one_by_one(
    db: &Db,
    worker: WorkerId,
    cursor: &mut Cursor,
    batch: &[Finished],
) -> Result<Settlement, sqlx::Error> {
    let mut settlement = Settlement::default();
    for (index, finished) in batch.iter().enumerate() {
        let one = std::slice::from_ref(finished);
        let outcome = settle_once(db, worker, cursor, one, None).await;
        let left = match outcome {
            Ok(written) => written.left,
            // A full disk or a deadlock is nothing that a run could be blamed for.
            Err(error) if !is_refusal(&error) => return Err(error),
            Err(error) => {
                let failed = finished.not_stored(&error);
                settle_once(db, worker, cursor, &[failed], None).await?.left
            }
        };
        if !left.is_empty() {
            settlement.left.push(index);
        }
    }
    Ok(settlement)
}
