//! The fake host says of deployments what the platform says: the table of
//! [`deploy_refusals`](super::deploy_refusals).

use serde_json::{Value, json};

use super::deploy_refusals::{
    self, APPS, Call, DEPLOYED, ENVIRONMENTS, Platform, WORKER_TYPE, deploy_conversions,
};
use super::state::State;
use super::{Deployment, Environment};
use crate::bindings::eve::skill::{deploy as contract, types};

deploy_conversions!();

/// A run that has just begun.
fn begun() -> State {
    let mut state = State::new();
    state.me.worker_type = WORKER_TYPE.into();
    for place in ENVIRONMENTS {
        let mut environment = Environment::new(place.name);
        if !place.allowed {
            environment = environment.closed();
        }
        if place.deleting {
            environment = environment.deleting();
        }
        state.fleet.add_environment(environment);
    }
    for app in APPS {
        state.fleet.add_app(app.into());
    }
    for deployed in DEPLOYED {
        let [earlier @ .., last] = deployed.images else { panic!("no image") };
        let mut deployment = match deployed.stopped {
            true => Deployment::stopped(deployed.env, deployed.app, *last),
            false => Deployment::running(deployed.env, deployed.app, *last),
        };
        for image in earlier {
            deployment = deployment.after(*image);
        }
        if deployed.autoscale {
            deployment = deployment.settings(json!({ "autoscale": { "min": 1, "max": 5 } }));
        }
        state.fleet.add(deployment.id(format!("{} in {}", deployed.app, deployed.env)));
    }
    state
}

impl Platform for State {
    fn call(&mut self, call: &Call) -> Result<Option<String>, String> {
        let id = |id: crate::DeploymentId| Some(id.to_string());
        match call {
            Call::Environments => Ok(None),
            Call::Create(new) => self.deploy(&new_deployment(new)).map(id),
            Call::Scale(env, app, replicas) => State::scale(self, env, app, *replicas).map(id),
            Call::Rollback(env, app, to) => State::rollback(self, env, app, &target(to)).map(id),
            Call::Delete(env, app) => self.undeploy(env, app).map(id),
            Call::Status(env, app) => self.fleet.status(env, app).map(|one| Some(one.id)),
            Call::List(env) => self.fleet.list(env.as_deref()).map(|_| None),
            Call::History(env, app, limit) => self.fleet.history(env, app, *limit).map(|_| None),
        }
        .map_err(said)
    }
}

#[test]
fn the_fake_host_refuses_of_deployments_what_the_platform_refuses() {
    let wrong: Vec<String> = deploy_refusals::rows()
        .iter()
        .filter_map(|row| deploy_refusals::check(row, &mut begun()).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
