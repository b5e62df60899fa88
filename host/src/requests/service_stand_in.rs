//! Stand-in with the signatures of the real service.
#![allow(missing_docs, unused_variables, clippy::unused_async)]
use super::*;
use crate::db::Db;
use crate::ids::RequestId;
use crate::tenancy::{Actor, Tenant};
use serde_json::Value;

#[derive(Clone)]
pub struct Requests {
    db: Db,
}
pub struct Origin {
    pub actor: Actor,
}
pub struct Created {
    pub requests: Vec<Request>,
    pub replayed: bool,
}
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub context: Option<Value>,
    pub statuses: Vec<Status>,
    pub worker_type: Option<String>,
    pub skill: Option<String>,
    pub root: Option<RequestId>,
    pub parent: Option<RequestId>,
    pub before: Option<RequestId>,
    pub limit: u32,
}
fn absent<T>() -> Result<T, RequestError> {
    Err(RequestError::Conflict("not built in".into()))
}
impl Requests {
    pub fn stand_in(db: Db) -> Self {
        Self { db }
    }
    pub async fn create(
        &self,
        tenant: Tenant,
        origin: &Origin,
        requests: Vec<NewRequest>,
        key: Option<&str>,
    ) -> Result<Created, RequestError> {
        absent()
    }
    pub async fn get(&self, tenant: Tenant, id: RequestId) -> Result<Request, RequestError> {
        Err(RequestError::NotFound(id))
    }
    pub async fn list(
        &self,
        tenant: Tenant,
        filter: &Filter,
    ) -> Result<Vec<Request>, RequestError> {
        Ok(Vec::new())
    }
    pub async fn result(
        &self,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<RequestResult, RequestError> {
        Err(RequestError::NotFound(id))
    }
    pub async fn blockers(
        &self,
        tenant: Tenant,
        id: RequestId,
    ) -> Result<Vec<BlockerState>, RequestError> {
        Err(RequestError::NotFound(id))
    }
    pub async fn logs(&self, tenant: Tenant, id: RequestId) -> Result<Vec<RunLog>, RequestError> {
        Err(RequestError::NotFound(id))
    }
    pub async fn cancel(
        &self,
        tenant: Tenant,
        actor: &Actor,
        id: RequestId,
        reason: Option<&str>,
    ) -> Result<Request, RequestError> {
        Err(RequestError::NotFound(id))
    }
    pub async fn retry(
        &self,
        tenant: Tenant,
        actor: &Actor,
        id: RequestId,
    ) -> Result<Request, RequestError> {
        Err(RequestError::NotFound(id))
    }
    pub async fn snapshot(
        &self,
        tenant: Tenant,
        ids: &[RequestId],
    ) -> Result<Vec<Request>, RequestError> {
        Ok(Vec::new())
    }
}
