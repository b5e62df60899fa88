//! What a running skill's `db` calls reach: its organisation's schemas, while it holds its lease.

use crate::runtime::capabilities::db::{Answer, DbHost};
use crate::schemas::{self, Migration, Rows, Run, SchemaName, Schemas, Statement};
use crate::tenancy::Tenant;

/// The schemas of one organisation, for one run of it.
#[derive(Debug)]
pub struct GuestDb {
    schemas: Schemas,
    tenant: Tenant,
    run: Run,
    /// The same for all calls of the run: a session that it used is not reset between two of them.
    user: u64,
}

impl GuestDb {
    /// For a run whose lease the caller holds.
    pub fn new(schemas: Schemas, tenant: Tenant, run: Run) -> GuestDb {
        GuestDb { schemas, tenant, run, user: schemas::new_user() }
    }
}

impl DbHost for GuestDb {
    fn call<'a>(&'a self, schema: &'a str, calls: Vec<Statement>) -> Answer<'a, Vec<Rows>> {
        Box::pin(async move {
            let schema = SchemaName::named(schema)?;
            self.schemas.call_for(self.tenant, &self.run, &schema, &calls, self.user).await
        })
    }

    fn migrate<'a>(&'a self, schema: &'a str, migrations: Vec<Migration>) -> Answer<'a, Vec<u32>> {
        Box::pin(async move {
            let schema = SchemaName::named(schema)?;
            self.schemas.migrate_for(self.tenant, &self.run, &schema, &migrations, self.user).await
        })
    }
}
