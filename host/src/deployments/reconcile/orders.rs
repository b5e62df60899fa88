//! Attending to what skills want: taking orders, and telling what became of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::db::is_connection_loss;
use crate::deployments::DeployError;
use crate::deployments::orders::{settle, take_all, tell};
use crate::scheduler::report;

/// How often orders are looked at without a bell.
const SCAN: Duration = Duration::from_secs(1);

/// Rings within this process when a revision has been settled.
pub(super) type Settled = Arc<Notify>;

/// Takes, settles and tells orders until `over`. Each is a transaction: whoever leads next goes on.
pub(super) async fn attend(context: Context, over: CancellationToken) {
    let mut bell = context.bell.clone();
    while !over.is_cancelled() {
        let round = async {
            // Whatever hinders one of the three hinders the others no longer than it has to.
            let taken = take_all(&context.deployments).await;
            let failed = DeployError::database("settling orders");
            let db = &context.deployments.db;
            settle(db).await.map_err(failed)?;
            while let Some(ripple) = tell(db).await.map_err(failed)? {
                context.deployments.bell.ripple(&ripple);
            }
            taken
        };
        tokio::select! {
            () = over.cancelled() => return,
            done = round => if let Err(error) = done {
                match &error {
                    DeployError::Database { source, doing } if is_connection_loss(source) => report(doing, source),
                    error => tracing::error!(
                        error = error as &dyn std::error::Error,
                        "orders of skills cannot be attended to"
                    ),
                }
                // At the next look, and not at the next bell: whatever is wrong takes a moment.
                tokio::time::sleep(SCAN).await;
            }
        }
        tokio::select! {
            () = over.cancelled() => return,
            changed = bell.changed() => if changed.is_err() { return },
            () = context.settled.notified() => {}
            () = tokio::time::sleep(SCAN) => {}
        }
    }
}
