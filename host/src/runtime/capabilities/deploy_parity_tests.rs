//! The platform refuses of deployments what the SDK's fake host refuses, which native tests rely on: one
//! table, two platforms.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::db::Database;
use super::deploy::Deploys;
use super::log::SharedLog;
use super::memory_queue::MemoryQueue;
use super::queue::Queue;
use crate::delivery::guest_deploy::GuestDeployments;
use crate::deployments::Deployments;
use crate::ids::RequestId;
use crate::notify::Bell;
use crate::runtime::Job;
use crate::runtime::bindings::eve::skill::{deploy as contract, types};
use crate::runtime::context::Context;
use crate::runtime::limits::{MemoryAccount, MemoryBudget, StoreLimiter};
use crate::tenancy::Tenant;
use crate::testing::TestDatabase;

#[path = "../../../../sdk/src/testing/deploy_refusals.rs"]
mod refusals;

use refusals::{APPS, Call, DEPLOYED, ENVIRONMENTS, Platform, WORKER_TYPE, deploy_conversions};

deploy_conversions!();

static IO: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Runtime::new().expect("a runtime"));

/// The organisation that the table describes.
struct Ground {
    _database: TestDatabase,
    deployments: Deployments,
    tenant: Tenant,
}

impl Ground {
    async fn set() -> Ground {
        let database = TestDatabase::fresh().await;
        let tenant = database.org("acme").await;
        let org = tenant.org();
        let mut sql =
            "INSERT INTO eve.clusters (id, name, provider) VALUES ('local', 'Local', 'local');"
                .to_owned();
        for place in ENVIRONMENTS {
            let name = place.name;
            let config = match place.allowed {
                true => "{}",
                false => r#"{"worker_types": ["others"]}"#,
            };
            let status = if place.deleting { "deleting" } else { "ready" };
            sql += &format!(
                "INSERT INTO eve.environments (org_id, name, cluster_id, namespace, status, config)
                 VALUES ('{org}', '{name}', 'local', 'acme-{name}', '{status}', '{config}');"
            );
        }
        for app in APPS {
            sql += &format!("INSERT INTO eve.apps (org_id, name) VALUES ('{org}', '{app}');");
        }
        for deployed in DEPLOYED {
            let (env, app) = (deployed.env, deployed.app);
            let config = match deployed.autoscale {
                true => {
                    r#"{"variables": [], "autoscale": {"min": 1, "max": 5, "cpu_percent": 80}}"#
                }
                false => r#"{"variables": []}"#,
            };
            let last = deployed.images.last().expect("an image");
            let status = if deployed.stopped { "stopped" } else { "running" };
            let revisions = deployed.images.len();
            sql += &format!(
                "INSERT INTO eve.deployments
                        (org_id, app_id, environment_id, image, status, config, revision, settled_revision)
                 SELECT '{org}', a.id, e.id, '{last}', '{status}', '{config}', {revisions}, {revisions}
                   FROM eve.apps a, eve.environments e WHERE a.name = '{app}' AND e.name = '{env}';"
            );
            for (place, image) in deployed.images.iter().enumerate() {
                let revision = place + 1;
                sql += &format!(
                    "INSERT INTO eve.deployment_revisions
                            (deployment_id, revision, org_id, kind, template, image, replicas, config,
                             outcome, settled_at, ran_at, created_by)
                     SELECT d.id, {revision}, d.org_id, 'updated', {revision}, '{image}', 1, '{config}',
                            'running', now(), now(), '{{\"via\": \"platform\"}}'
                       FROM eve.deployments d
                       JOIN eve.apps a ON a.id = d.app_id
                       JOIN eve.environments e ON e.id = d.environment_id
                      WHERE a.name = '{app}' AND e.name = '{env}';"
                );
            }
        }
        database.execute(sql).await;
        let bell = Bell::start(database.db.pool().clone());
        let deployments = Deployments::new(database.db.clone(), bell, None);
        Ground { _database: database, deployments, tenant }
    }

    /// A run that has just begun.
    fn begun(&self) -> Context {
        let memory = Arc::new(MemoryQueue::default());
        let queue = Queue::new(memory.clone(), IO.handle().clone());
        let job = Job::bare(RequestId::generate(), memory);
        let db = Database::new(job.db.clone(), IO.handle().clone());
        let host =
            GuestDeployments::new(self.deployments.clone(), self.tenant, WORKER_TYPE.to_owned());
        let deploys = Deploys::new(Arc::new(host), IO.handle().clone());
        let limiter = StoreLimiter::new(Arc::new(MemoryAccount::open(&MemoryBudget::new(0, 1), 0)));
        Context::new(Box::new(job), SharedLog::default(), queue, db, deploys, limiter)
    }
}

impl Platform for Context {
    fn call(&mut self, call: &Call) -> Result<Option<String>, String> {
        use contract::Host as _;
        let answer = IO.block_on(async {
            match call.clone() {
                Call::Environments => self.environments().await.map(|answer| answer.map(|_| None)),
                Call::Create(new) => {
                    self.create(new_deployment(&new)).await.map(|answer| answer.map(Some))
                }
                Call::Scale(env, app, replicas) => {
                    self.scale(env, app, replicas).await.map(|answer| answer.map(Some))
                }
                Call::Rollback(env, app, to) => {
                    self.rollback(env, app, target(&to)).await.map(|answer| answer.map(Some))
                }
                Call::Delete(env, app) => {
                    self.delete(env, app).await.map(|answer| answer.map(Some))
                }
                Call::Status(env, app) => {
                    self.status(env, app).await.map(|answer| answer.map(|one| Some(one.id)))
                }
                Call::List(env) => self.list(env).await.map(|answer| answer.map(|_| None)),
                Call::History(env, app, limit) => {
                    self.history(env, app, limit).await.map(|answer| answer.map(|_| None))
                }
            }
        });
        answer.expect("no fault of the host").map_err(said)
    }
}

#[test]
fn the_platform_refuses_of_deployments_what_the_fake_host_refuses() {
    let ground = IO.block_on(Ground::set());
    let wrong: Vec<String> = refusals::rows()
        .iter()
        .filter_map(|row| refusals::check(row, &mut ground.begun()).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
