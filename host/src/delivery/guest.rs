//! What a running skill's `queue` calls reach: its organisation's requests, under the guest's role.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::db::is_connection_loss;
use crate::ids::RequestId;
use crate::requests::children::Children;
use crate::requests::read::Reader;
use crate::requests::{
    BlockerState, Filter, NewRequest, Request, RequestError, RequestResult, Requests, Status,
};
use crate::runtime::limits;
use crate::runtime::{QueueError, QueueFilter, QueueHost, Reservation};
use crate::tenancy::Tenant;

/// Waits between two questions while Postgres is away: the first, and the longest.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The queue of one organisation, for one run of it.
#[derive(Debug)]
pub struct GuestQueue {
    requests: Requests,
    tenant: Tenant,
    run: RequestId,
}

impl GuestQueue {
    /// For the run of `run`, whose lease the caller holds.
    pub fn new(requests: Requests, tenant: Tenant, run: RequestId) -> GuestQueue {
        GuestQueue { requests, tenant, run }
    }

    async fn states(&self, ids: &[RequestId]) -> Result<HashMap<RequestId, Request>, QueueError> {
        let found =
            patiently(|| self.requests.snapshot_for(Reader::Guest, self.tenant, ids)).await?;
        Ok(found.into_iter().map(|request| (request.id, request)).collect())
    }
}

/// Asks again while Postgres is away: everything here reads, or may be done twice. The run's wall-clock
/// limit, and its cancellation, end it.
async fn patiently<T, F: Future<Output = Result<T, RequestError>>>(
    ask: impl FnMut() -> F,
) -> Result<T, RequestError> {
    let lost = |error: &RequestError| match error {
        RequestError::Database { source, .. } => is_connection_loss(source),
        _ => false,
    };
    patient(lost, ask).await
}

/// Asks again for as long as the answer is an error that says that Postgres is away.
pub(super) async fn patient<T, E, F: Future<Output = Result<T, E>>>(
    lost: impl Fn(&E) -> bool,
    mut ask: impl FnMut() -> F,
) -> Result<T, E> {
    let mut wait = PATIENCE.0;
    loop {
        match ask().await {
            Err(error) if lost(&error) => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PATIENCE.1);
            }
            other => return other,
        }
    }
}

impl From<RequestError> for QueueError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotFound(_) => QueueError::NotFound(error.to_string()),
            RequestError::Invalid { .. } => QueueError::Invalid(error.to_string()),
            RequestError::Open(_) | RequestError::Conflict(_) | RequestError::NothingToWaitFor => {
                QueueError::Conflict(error.to_string())
            }
            RequestError::Database { .. } => QueueError::Unavailable(Box::new(error)),
        }
    }
}

impl QueueHost for GuestQueue {
    fn check<'a>(
        &'a self,
        requests: &'a [NewRequest],
        blockers: &'a [RequestId],
    ) -> BoxFuture<'a, Result<Vec<(RequestId, Status)>, QueueError>> {
        Box::pin(async move {
            patiently(|| self.requests.known(Reader::Guest, self.tenant, requests)).await?;
            if blockers.is_empty() {
                return Ok(Vec::new());
            }
            let found = self.states(blockers).await?;
            blockers
                .iter()
                .map(|id| match found.get(id) {
                    Some(request) => Ok((*id, request.status)),
                    None => {
                        Err(QueueError::NotFound(format!("there is no request {id} to wait for")))
                    }
                })
                .collect()
        })
    }

    fn reserve<'a>(
        &'a self,
        key: &'a str,
        body_hash: [u8; 32],
        proposed: RequestId,
    ) -> BoxFuture<'a, Result<Reservation, QueueError>> {
        Box::pin(async move {
            let proposed = [proposed];
            let ids = patiently(|| {
                self.requests.reserve(Reader::Guest, self.tenant, key, &body_hash, &proposed)
            })
            .await?;
            let [id] = ids[..] else {
                return Err(QueueError::Conflict(format!(
                    "the idempotency key `{key}` stands for a batch"
                )));
            };
            Ok(match self.states(&[id]).await?.contains_key(&id) {
                true => Reservation::Exists(id),
                false => Reservation::Open(id),
            })
        })
    }

    fn get(&self, id: RequestId) -> BoxFuture<'_, Result<Request, QueueError>> {
        Box::pin(async move {
            self.states(&[id])
                .await?
                .remove(&id)
                .ok_or_else(|| QueueError::NotFound(RequestError::NotFound(id).to_string()))
        })
    }

    fn result(&self, id: RequestId) -> BoxFuture<'_, Result<Option<RequestResult>, QueueError>> {
        Box::pin(async move {
            let ids = [id];
            let found = patiently(|| self.requests.results_for(Reader::Guest, self.tenant, &ids))
                .await?
                .pop();
            if found.is_none() {
                self.get(id).await?;
            }
            Ok(found)
        })
    }

    fn list<'a>(
        &'a self,
        filter: &'a QueueFilter,
    ) -> BoxFuture<'a, Result<Vec<Request>, QueueError>> {
        Box::pin(async move {
            let filter = Filter {
                context: filter.context.clone(),
                statuses: filter.statuses.clone(),
                worker_type: filter.worker_type.clone(),
                before: filter.before,
                limit: filter.limit,
                ..Filter::default()
            };
            Ok(patiently(|| self.requests.list_for(Reader::Guest, self.tenant, &filter)).await?)
        })
    }

    fn children(
        &self,
        of: RequestId,
    ) -> BoxFuture<'_, Result<Vec<(Request, Option<RequestResult>)>, QueueError>> {
        Box::pin(async move {
            let children = patiently(|| {
                let (most, bytes) = (limits::CREATES, limits::QUEUE_ANSWER);
                self.requests.children_for(Reader::Guest, self.tenant, of, most, bytes)
            })
            .await?;
            match children {
                Children::All(children) => Ok(children),
                Children::TooMany => Err(QueueError::Limit(format!(
                    "it has more than {} children; get those that you need by their ids",
                    limits::CREATES
                ))),
                Children::TooLarge => Err(QueueError::Limit(format!(
                    "its children and their results are larger than {} bytes; get those that you \
                     need by their ids",
                    limits::QUEUE_ANSWER
                ))),
            }
        })
    }

    fn blockers(&self, of: RequestId) -> BoxFuture<'_, Result<Vec<BlockerState>, QueueError>> {
        Box::pin(async move {
            Ok(patiently(|| self.requests.blockers_for(Reader::Guest, self.tenant, of)).await?)
        })
    }

    fn cancellable(&self, id: RequestId) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            if id == self.run {
                return Err(QueueError::Invalid(
                    "a run cannot cancel itself: return a failure instead".into(),
                ));
            }
            let (status, orchestration) =
                patiently(|| self.requests.standing(Reader::Guest, self.tenant, id)).await?;
            if orchestration != id {
                return Err(QueueError::Conflict(format!(
                    "request {id} is a wake-up of {orchestration}: cancel that one"
                )));
            }
            match status.is_terminal() {
                false => Ok(()),
                true => Err(QueueError::Conflict(format!("request {id} is {status} already"))),
            }
        })
    }
}
