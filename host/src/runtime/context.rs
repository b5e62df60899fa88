//! What a store carries: everything that host functions of one run work on.

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::capabilities::db::Database;
use super::capabilities::deploy::Deploys;
use super::capabilities::log::SharedLog;
use super::capabilities::queue::Queue;
use super::job::Job;
use super::limits::{self, StoreLimiter};
use super::wasi;

/// The data of one run's store.
pub struct Context {
    pub(super) job: Box<Job>,
    pub(crate) log: SharedLog,
    pub(crate) queue: Queue,
    pub(super) db: Database,
    pub(super) deploys: Deploys,
    pub(super) limiter: StoreLimiter,
    /// Made at the first call: a guest without WASI imports, or one that never uses them, does not
    /// pay for two seeded random generators and eight boxes.
    wasi: Option<WasiCtx>,
    resources: ResourceTable,
}

impl Context {
    pub(crate) fn new(
        job: Box<Job>,
        log: SharedLog,
        queue: Queue,
        db: Database,
        deploys: Deploys,
        limiter: StoreLimiter,
    ) -> Self {
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(limits::RESOURCES);
        Self { job, log, queue, db, deploys, limiter, wasi: None, resources }
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        WasiCtxView {
            ctx: self.wasi.get_or_insert_with(|| wasi::inert(log)),
            table: &mut self.resources,
        }
    }
}
