//! Schemas for skills that run on this machine: the platform's own code, on a Postgres that is started for
//! the purpose.
//!
//! In a skill's folder they stay, in `target/eve/state`, so that one run finds what the one before it has
//! left; everywhere else they are gone afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::error::Error;
use super::local::failed;
use crate::db::{self, Db, DbConfig};
use crate::dev::bootstrap;
use crate::dev::postgres::PrivatePostgres;
use crate::runtime::capabilities::db::{Answer, DbHost};
use crate::runtime::{Capability, NoDb};
use crate::schemas::{self, Migration, Rows, SchemaError, SchemaName, Schemas, Server, Statement};
use crate::skills::compile::Compiled;
use crate::tenancy::Tenant;

/// Sessions at one time: a run has one, and what it gave up may have another.
const SESSIONS: usize = 4;

/// A Postgres with a platform's tables in it and one organisation.
struct State {
    postgres: PrivatePostgres,
    schemas: Schemas,
    tenant: Tenant,
    stop: CancellationToken,
    making: tokio::task::JoinHandle<()>,
    _folder: Option<TempDir>,
}

impl State {
    /// Opens what is in `folder`, which is made if need be; without one, something that is gone afterwards.
    async fn open(folder: Option<&Path>) -> Result<State, Error> {
        let kept = |source| Error::File {
            doing: "make",
            path: folder.unwrap_or(Path::new("a temporary folder")).into(),
            source,
        };
        let temporary = match folder {
            Some(folder) => std::fs::create_dir_all(folder).map(|()| None),
            None => TempDir::new().map(Some),
        }
        .map_err(kept)?;
        let folder = temporary.as_ref().map(TempDir::path).or(folder).unwrap_or(Path::new("."));
        let postgres = PrivatePostgres::start(folder).await.map_err(|error| unusable(&error))?;
        match Self::within(&postgres, folder).await {
            Ok((schemas, tenant, stop, making)) => {
                Ok(State { postgres, schemas, tenant, stop, making, _folder: temporary })
            }
            Err(error) => Err(unusable(&*error)),
        }
    }

    async fn within(
        postgres: &PrivatePostgres,
        folder: &Path,
    ) -> Result<
        (Schemas, Tenant, CancellationToken, tokio::task::JoinHandle<()>),
        Box<dyn std::error::Error + Send + Sync>,
    > {
        let url = postgres.url();
        let platform = Db::connect(&DbConfig {
            url: url.clone(),
            max_connections: SESSIONS as u32,
            application_name: "eve skill run".to_owned(),
        })?;
        db::migrate(platform.pool()).await?;
        let tenant = bootstrap::organisation(&platform).await?;
        let key = crate::dev::key(&folder.join("skills.key"))?;
        let server = Server::new(&url, key)?;
        let stop = CancellationToken::new();
        let schemas = Schemas::new(platform, server, SESSIONS);
        let (maker, stopped) = (schemas.clone(), stop.clone());
        let making = tokio::spawn(async move { maker.provision(stopped).await });
        Ok((schemas, tenant, stop, making))
    }

    /// What a run reaches: the schemas that its SKILL.md names, or any where there is none.
    fn host(&self, named: Option<BTreeSet<String>>) -> Arc<dyn DbHost> {
        Arc::new(LocalDb {
            schemas: self.schemas.clone(),
            tenant: self.tenant,
            named,
            user: schemas::new_user(),
        })
    }

    /// Stops Postgres.
    async fn close(self) -> Result<(), Error> {
        self.stop.cancel();
        // It has nothing left to do; that it ended by a panic was logged.
        let _ = self.making.await;
        self.postgres.stop().await.map_err(|error| unusable(&error))
    }
}

fn unusable(error: &dyn std::error::Error) -> Error {
    failed("starting a database for the skill", error)
}

/// Runs something with the schemas that a component can use, of which `named` may be reached; with none where
/// it uses none. In `folder` they stay.
pub async fn around<T>(
    compiled: &Compiled,
    folder: Option<&Path>,
    named: Option<BTreeSet<String>>,
    run: impl AsyncFnOnce(Arc<dyn DbHost>) -> Result<T, Error>,
) -> Result<T, Error> {
    if !compiled.capabilities.contains(&Capability::Db) {
        return run(Arc::new(NoDb)).await;
    }
    let state = State::open(folder).await?;
    let done = run(state.host(named)).await;
    state.close().await?;
    done
}

/// The schemas of a run on this machine.
struct LocalDb {
    schemas: Schemas,
    tenant: Tenant,
    named: Option<BTreeSet<String>>,
    user: u64,
}

impl LocalDb {
    fn admit(&self, schema: &str) -> Result<SchemaName, SchemaError> {
        let name = SchemaName::named(schema)?;
        match &self.named {
            Some(named) if !named.contains(schema) => Err(schemas::grants::not_named(&name, named)),
            _ => Ok(name),
        }
    }
}

impl DbHost for LocalDb {
    fn call<'a>(&'a self, schema: &'a str, calls: Vec<Statement>) -> Answer<'a, Vec<Rows>> {
        Box::pin(async move {
            let schema = self.admit(schema)?;
            self.schemas.call_apart(self.tenant, &schema, &calls, self.user).await
        })
    }

    fn migrate<'a>(&'a self, schema: &'a str, migrations: Vec<Migration>) -> Answer<'a, Vec<u32>> {
        Box::pin(async move {
            let schema = self.admit(schema)?;
            self.schemas.migrate_apart(self.tenant, &schema, &migrations, self.user).await
        })
    }
}
