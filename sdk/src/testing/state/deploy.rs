//! Deployments, as a run sees and changes them.

use serde_json::Value;

use super::State;
use crate::DeploymentId;
use crate::bindings::eve::skill::deploy as contract;
use crate::bindings::eve::skill::types::Error;
use crate::testing::validate::{self, deploy::Asked};
use crate::testing::{Change, Changed, limits, weight};

impl State {
    pub fn deploy(&mut self, new: &contract::NewDeployment) -> Result<DeploymentId, Error> {
        let asked = Asked::read(new)?;
        let bytes = weight::deployment(new, &asked);
        self.afford_change(bytes)?;
        self.fleet.permitted(&new.env, &self.me.worker_type)?;
        self.fleet.registered(&new.app, new.register)?;
        // An id that an existing deployment does not take is given to nobody.
        let fresh = DeploymentId::from(self.next_id().as_str());
        let id = self.fleet.deploy(new, &asked, || fresh);
        let what = Changed::Deploy {
            image: new.image.clone(),
            replicas: new.replicas,
            env_vars: asked.env_vars,
            settings: Value::Object(asked.settings),
            register: new.register,
        };
        Ok(self.changed(id, &new.env, &new.app, what, bytes))
    }

    pub fn scale(&mut self, env: &str, app: &str, replicas: u32) -> Result<DeploymentId, Error> {
        validate::deploy::replicas(replicas)?;
        let bytes = weight::change(env, app);
        self.afford_change(bytes)?;
        self.fleet.permitted(env, &self.me.worker_type)?;
        let id = self.fleet.scale(env, app, replicas)?;
        Ok(self.changed(id, env, app, Changed::Scale(replicas), bytes))
    }

    pub fn rollback(
        &mut self,
        env: &str,
        app: &str,
        to: &contract::Target,
    ) -> Result<DeploymentId, Error> {
        validate::deploy::target(to)?;
        let bytes = weight::change(env, app);
        self.afford_change(bytes)?;
        self.fleet.permitted(env, &self.me.worker_type)?;
        let id = self.fleet.rollback(env, app, to)?;
        Ok(self.changed(id, env, app, Changed::Rollback(to.clone()), bytes))
    }

    pub fn undeploy(&mut self, env: &str, app: &str) -> Result<DeploymentId, Error> {
        let bytes = weight::change(env, app);
        self.afford_change(bytes)?;
        self.fleet.permitted(env, &self.me.worker_type)?;
        let id = self.fleet.delete(env, app)?;
        Ok(self.changed(id, env, app, Changed::Delete, bytes))
    }

    fn afford_change(&self, bytes: usize) -> Result<(), Error> {
        if self.changes.len() >= limits::CHANGES {
            let most = limits::CHANGES;
            return Err(Error::Limit(format!("a run asks for at most {most} changes")));
        }
        self.afford(bytes)
    }

    fn changed(
        &mut self,
        id: DeploymentId,
        env: &str,
        app: &str,
        what: Changed,
        bytes: usize,
    ) -> DeploymentId {
        self.bytes += bytes;
        let (env, app) = (env.to_owned(), app.to_owned());
        self.changes.push(Change { id: id.clone(), env, app, what });
        id
    }
}
