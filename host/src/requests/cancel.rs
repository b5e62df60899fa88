//! Cancelling an open request: its dependents by the policies of their edges, and what it has started.

use uuid::Uuid;

use super::graph::{Ending, Graph, Reach, Ripple};
use super::{Request, RequestError, Requests, Status};
use crate::db::{Scope, is_deadlock};
use crate::ids::RequestId;
use crate::tenancy::{Actor, Tenant, audit};

/// The longest reason that is kept, in bytes.
pub const MAX_REASON: usize = 4096;

/// What came of it.
enum Cancelled {
    Done(Ripple),
    Ended,
    WakeUp(Uuid),
}

impl Requests {
    /// Cancels an open request. A running one loses its lease here and now: whatever its worker still
    /// does commits nothing.
    pub async fn cancel(
        &self,
        tenant: Tenant,
        actor: &Actor,
        id: RequestId,
        reason: Option<&str>,
    ) -> Result<Request, RequestError> {
        if reason.is_some_and(|reason| reason.len() > MAX_REASON || reason.contains('\0')) {
            return Err(RequestError::Invalid {
                field: "reason".into(),
                message: format!("must have at most {MAX_REASON} bytes, none of them U+0000"),
            });
        }
        let mut tries = 0;
        loop {
            match self.try_cancel(tenant, actor, id, reason).await {
                Err(RequestError::Database { source, .. }) if is_deadlock(&source) && tries < 5 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
                Ok(()) => return self.get(tenant, id).await,
            }
        }
    }

    async fn try_cancel(
        &self,
        tenant: Tenant,
        actor: &Actor,
        id: RequestId,
        reason: Option<&str>,
    ) -> Result<(), RequestError> {
        let failed = RequestError::database("cancelling");
        let outcome = async {
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await?;
            let reach = Reach { failing: vec![id.0], ..Reach::default() };
            let mut graph = Graph::lock(&mut tx, &reach).await?;
            let Some(live) = graph.live.get(&id.0) else { return Ok(Cancelled::Ended) };
            if let Some(orchestration) = live.wakes {
                return Ok(Cancelled::WakeUp(orchestration));
            }
            let message = reason.unwrap_or("cancelled on request");
            let ending = Ending::without_run(id.0, Status::Cancelled, "cancelled", message);
            let ripple = graph.end(&mut tx, vec![ending]).await?;
            audit::record(&mut tx, tenant, actor, "request.cancel", &id.to_string()).await?;
            tx.commit().await?;
            Ok(Cancelled::Done(ripple))
        }
        .await
        .map_err(failed)?;
        match outcome {
            Cancelled::Done(ripple) => {
                self.bell.ripple(&ripple);
                Ok(())
            }
            Cancelled::WakeUp(orchestration) => Err(RequestError::Conflict(format!(
                "request {id} is a wake-up of {orchestration}: cancel that one"
            ))),
            Cancelled::Ended => {
                let request = self.get(tenant, id).await?;
                Err(RequestError::Conflict(format!(
                    "request {id} has ended already: it is {}",
                    request.status
                )))
            }
        }
    }
}
