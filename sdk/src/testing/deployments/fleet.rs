//! All environments, apps and deployments of the organisation, and how they change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Api, Change, Changed, Deployment, Environment, Revision, Settled, Target};
use crate::DeploymentId;
use crate::bindings::eve::skill::deploy as contract;
use crate::bindings::eve::skill::types::Error;
use crate::deploy::State;
use crate::request::Settlement;
use crate::testing::state::NOW;
use crate::testing::validate::deploy::{Asked, Settings, version};
use crate::testing::{limits, validate};

/// What there is to deploy to, and what is deployed there: one run's view of it, with what that has
/// asked for.
#[derive(Clone, Debug, Default)]
pub(in crate::testing) struct Fleet {
    environments: BTreeMap<String, Environment>,
    apps: BTreeSet<String>,
    /// By environment and app.
    deployments: BTreeMap<(String, String), Deployment>,
    /// What answers reads of the Kubernetes API.
    pub api: Api,
}

pub(super) fn not_found(what: &str, name: &str) -> Error {
    let name: String = name.chars().take(64).collect();
    Error::NotFound(validate::storable(&format!("there is no {what} `{name}`")))
}

impl Revision {
    fn config(&self) -> Value {
        let mut config = Value::Object(self.settings.clone());
        config["variables"] = json!(self.variables);
        config
    }
}

impl Deployment {
    /// What it is to be.
    fn present(&self) -> &Revision {
        &self.revisions[self.revisions.len() - 1]
    }

    /// Nothing of it is there, or shall be.
    fn is_gone(&self) -> bool {
        self.stopping || self.state == State::Stopped
    }

    /// Whether something was asked for of it that has not settled yet.
    fn is_under_way(&self) -> bool {
        !self.state.is_settled()
    }

    /// Comes to rest, or is seen to.
    pub(super) fn come_to(
        &mut self,
        state: State,
        reason: Option<String>,
        message: Option<String>,
    ) {
        self.state = state;
        (self.reason, self.message) = (reason.clone(), message.clone());
        let present = self.present_mut();
        if present.outcome.is_none() {
            present.outcome = Some(state.as_str());
            (present.reason, present.message) = (reason, message);
            present.ran = state == State::Running;
        }
        match state {
            State::Running => self.ready = self.present().replicas,
            State::Stopped => (self.ready, self.pods) = (0, Vec::new()),
            _ => {}
        }
    }

    fn revise(&mut self, revision: Revision) {
        self.revisions.push(revision);
        // One that was deleted is there again.
        (self.state, self.stopping, self.changed) = (State::Pending, false, true);
    }

    fn contract(&self, pods: usize) -> contract::Deployment {
        let present = self.present();
        let pod = |pod: &crate::deploy::Pod| contract::Pod {
            name: pod.name.clone(),
            status: pod.status.clone(),
            ready: pod.ready,
            restarts: pod.restarts,
            version: pod.version.clone(),
        };
        let mut shown: Vec<_> = self.pods.iter().map(pod).collect();
        shown.sort_by_key(|pod| pod.ready);
        shown.truncate(pods);
        let leaving = || Some("stopping".to_owned());
        contract::Deployment {
            id: self.id.to_string(),
            app: self.app.clone(),
            env: self.env.clone(),
            state: if self.changed { State::Pending } else { self.state },
            image: present.image.clone(),
            version: version(&present.image).to_owned(),
            revision: self.committed as u32,
            desired: present.replicas,
            ready: self.ready,
            pods: shown,
            reason: match self.changed {
                true => self.stopping.then(leaving).flatten(),
                false => self.reason.clone(),
            },
            message: match self.changed {
                true => self.stopping.then(|| "it is being deleted".to_owned()),
                false => self.message.clone(),
            },
            config: present.config().to_string(),
            updated_at: NOW,
        }
    }
}

impl Fleet {
    pub fn add_environment(&mut self, environment: Environment) {
        self.environments.insert(environment.name.clone(), environment);
    }

    pub fn add_app(&mut self, app: String) {
        self.apps.insert(app);
    }

    pub fn add(&mut self, deployment: Deployment) {
        if !self.environments.contains_key(&deployment.env) {
            self.add_environment(Environment::new(deployment.env.clone()));
        }
        self.add_app(deployment.app.clone());
        self.deployments.insert((deployment.env.clone(), deployment.app.clone()), deployment);
    }

    /// The deployments whose settling wakes the request, by id.
    pub fn asked_for(&self) -> impl Iterator<Item = &DeploymentId> {
        self.deployments
            .values()
            .filter(|one| one.asked_for && one.is_under_way())
            .map(|one| &one.id)
    }

    pub fn environments(&self) -> Vec<contract::Environment> {
        let environment = |environment: &Environment| contract::Environment {
            name: environment.name.clone(),
            status: environment.status.to_owned(),
            message: environment.message.clone(),
            allowed: environment.allowed,
            approval: environment.approval,
        };
        self.environments.values().map(environment).collect()
    }

    fn environment(&self, name: &str) -> Result<&Environment, Error> {
        self.environments.get(name).ok_or_else(|| not_found("environment", name))
    }

    pub fn status(&self, env: &str, app: &str) -> Result<contract::Deployment, Error> {
        Ok(self.seen(env, app)?.contract(limits::PODS))
    }

    pub fn list(&self, env: Option<&str>) -> Result<Vec<contract::Deployment>, Error> {
        if let Some(env) = env {
            self.environment(env)?;
        }
        let wanted = |one: &&Deployment| {
            env.is_none_or(|env| one.env == env) && (one.changed || one.state != State::Stopped)
        };
        let found = self.deployments.values().filter(wanted).take(limits::DEPLOYMENTS);
        Ok(found.map(|one| one.contract(0)).collect())
    }

    pub fn history(
        &self,
        env: &str,
        app: &str,
        limit: u32,
    ) -> Result<Vec<contract::Revision>, Error> {
        let limit = validate::deploy::history(limit)?;
        let one = self.seen(env, app)?;
        let committed = one.revisions[..one.committed].iter().enumerate().rev();
        let revision = |(place, revision): (usize, &Revision)| contract::Revision {
            revision: place as u32 + 1,
            kind: revision.kind.to_owned(),
            image: revision.image.clone(),
            version: version(&revision.image).to_owned(),
            replicas: revision.replicas,
            outcome: revision.outcome.map(str::to_owned),
            reason: revision.reason.clone(),
            message: revision.message.clone(),
            created_at: NOW,
            settled_at: revision.outcome.map(|_| NOW),
        };
        Ok(committed.take(limit).map(revision).collect())
    }

    /// A deployment that somebody looks at; one that was deleted as well.
    pub(super) fn seen(&self, env: &str, app: &str) -> Result<&Deployment, Error> {
        self.environment(env)?;
        let found = self.deployments.get(&(env.to_owned(), app.to_owned()));
        found.ok_or_else(|| not_found("deployment", &format!("{app} in {env}")))
    }

    /// The environment, if it is open to a worker type's skills.
    pub(super) fn open(&self, env: &str, worker_type: &str) -> Result<&Environment, Error> {
        let environment = self.environment(env)?;
        if !environment.allowed {
            return Err(Error::Denied(format!(
                "skills of the worker type `{worker_type}` may not deploy to `{env}`"
            )));
        }
        Ok(environment)
    }

    /// Whether a worker type's skills may deploy to an environment that is there to stay.
    pub fn permitted(&self, env: &str, worker_type: &str) -> Result<(), Error> {
        let environment = self.open(env, worker_type)?;
        if environment.status == "deleting" {
            return Err(Error::Conflict(format!("the environment `{env}` is being deleted")));
        }
        Ok(())
    }

    /// A deployment that somebody changes: one that is there.
    fn existing(&mut self, env: &str, app: &str) -> Result<&mut Deployment, Error> {
        let found = self.deployments.get_mut(&(env.to_owned(), app.to_owned()));
        found.filter(|one| !one.is_gone()).ok_or_else(|| not_found("deployment", app))
    }

    /// Whether there is the app, or it is to be registered.
    pub fn registered(&self, app: &str, register: bool) -> Result<(), Error> {
        match (register || self.apps.contains(app), not_found("app", app)) {
            (false, Error::NotFound(text)) => Err(Error::NotFound(format!(
                "{text}: register it with `register`, or have a member do it (`eve app create`)"
            ))),
            _ => Ok(()),
        }
    }

    /// Deploys. `id` is for a deployment that there has never been.
    pub fn deploy(
        &mut self,
        new: &contract::NewDeployment,
        asked: &Asked,
        id: impl FnOnce() -> DeploymentId,
    ) -> DeploymentId {
        self.apps.insert(new.app.clone());
        let place = (new.env.clone(), new.app.clone());
        let mut revision = Revision {
            kind: "created",
            image: new.image.clone(),
            replicas: 1,
            settings: merged(&Settings::new(), &asked.settings),
            variables: asked.env_vars.iter().flat_map(BTreeMap::keys).cloned().collect(),
            template: 1,
            outcome: None,
            reason: None,
            message: None,
            ran: false,
        };
        let known = self.deployments.get(&place);
        // What it was before it was deleted is no reason to be so again.
        let before = known.filter(|known| !known.is_gone()).map(Deployment::present);
        if let Some(before) = before {
            revision.kind = "updated";
            revision.settings = merged(&before.settings, &asked.settings);
            if asked.env_vars.is_none() {
                revision.variables.clone_from(&before.variables);
            }
        }
        // Whoever says how many replicas there shall be does not want the load to say so.
        if new.replicas.is_some() && asked.settings.get("autoscale").is_none_or(Value::is_null) {
            revision.settings.remove("autoscale");
        }
        let least = revision.settings.get("autoscale").and_then(|scale| scale["min"].as_u64());
        revision.replicas = new
            .replicas
            .or(before.map(|before| before.replicas))
            .or(least.map(|least| least as u32))
            .unwrap_or(1);
        let deployment = self.deployments.entry(place).or_insert_with(|| Deployment {
            id: id(),
            state: State::Pending,
            revisions: Vec::new(),
            committed: 0,
            ..Deployment::new(new.env.clone(), new.app.clone(), "")
        });
        revision.template = deployment.revisions.len() + 1;
        deployment.revise(revision);
        deployment.id.clone()
    }

    pub fn scale(&mut self, env: &str, app: &str, replicas: u32) -> Result<DeploymentId, Error> {
        let one = self.existing(env, app)?;
        if let Some(scale) = one.present().settings.get("autoscale") {
            return Err(Error::Conflict(format!(
                "`{app}` has {} to {} replicas, as its load wants: deploy it without autoscaling to say \
                 how many",
                scale["min"], scale["max"]
            )));
        }
        let scaled = Revision {
            kind: "scaled",
            replicas,
            outcome: None,
            reason: None,
            message: None,
            ran: false,
            ..one.present().clone()
        };
        one.revise(scaled);
        Ok(one.id.clone())
    }

    pub fn rollback(&mut self, env: &str, app: &str, to: &Target) -> Result<DeploymentId, Error> {
        let one = self.existing(env, app)?;
        let now = one.present().template;
        let ran = || {
            let committed = one.revisions[..one.committed].iter().enumerate().rev();
            committed.filter(|(_, revision)| revision.ran)
        };
        let wanted = |(place, revision): &(usize, &Revision)| match to {
            Target::Previous => revision.template != now,
            Target::Version(wanted) => version(&revision.image) == wanted,
            Target::Revision(wanted) => place + 1 == *wanted as usize,
        };
        let Some((_, target)) = ran().find(wanted) else {
            let what = match to {
                Target::Previous => format!("other version of `{app}`"),
                Target::Version(version) => {
                    let version: String = version.chars().take(128).collect();
                    format!("version `{}` of `{app}`", version.escape_default())
                }
                Target::Revision(revision) => format!("revision {revision} of `{app}`"),
            };
            let others: Vec<String> = match to {
                Target::Revision(_) => ran().map(|(place, _)| (place + 1).to_string()).collect(),
                _ => ran().map(|(_, revision)| version(&revision.image).to_owned()).collect(),
            };
            let mut seen = BTreeSet::new();
            let others: Vec<String> =
                others.into_iter().filter(|other| seen.insert(other.clone())).take(20).collect();
            return Err(Error::Conflict(match others.is_empty() {
                true => format!("no {what} ever ran in `{env}`"),
                false => format!("no {what} ever ran in `{env}`; these did: {}", others.join(", ")),
            }));
        };
        let back = Revision {
            kind: "rolled_back",
            replicas: one.present().replicas,
            template: one.revisions.len() + 1,
            outcome: None,
            reason: None,
            message: None,
            ran: false,
            ..target.clone()
        };
        one.revise(back);
        Ok(one.id.clone())
    }

    pub fn delete(&mut self, env: &str, app: &str) -> Result<DeploymentId, Error> {
        let one = self.existing(env, app)?;
        (one.stopping, one.changed) = (true, true);
        Ok(one.id.clone())
    }

    /// Takes what a run has asked for as asked.
    pub fn commit(&mut self) {
        for one in self.deployments.values_mut().filter(|one| one.changed) {
            let given_up = if one.stopping { "stopped" } else { "superseded" };
            let last = one.revisions.len() - usize::from(!one.stopping);
            for revision in &mut one.revisions[..last] {
                revision.outcome.get_or_insert(given_up);
            }
            one.state = if one.stopping { State::Deploying } else { State::Pending };
            (one.reason, one.message) = (None, None);
            if one.stopping {
                (one.reason, one.message) =
                    (Some("stopping".into()), Some("it is being deleted".into()));
            }
            (one.committed, one.changed) = (one.revisions.len(), false);
        }
    }

    /// A deployment comes to rest. Returns what whoever asked for it is told.
    #[track_caller]
    pub fn settle(&mut self, id: &DeploymentId, how: &Settled) -> Settlement {
        let Some(one) = self.deployments.values_mut().find(|one| one.id == *id) else {
            panic!("there is no deployment {id}");
        };
        let (env, app, state) = (&one.env, &one.app, one.state);
        assert!(one.is_under_way(), "nothing is under way of `{app}` in `{env}`: it is {state}");
        match how.state {
            State::Running => assert!(!one.stopping, "`{app}` in `{env}` is being deleted"),
            State::Stopped => assert!(one.stopping, "`{app}` in `{env}` is not being deleted"),
            _ => {}
        }
        if how.reason.as_deref() == Some("superseded") {
            // What somebody else has asked for is on its way.
            one.stopping = false;
            let mut theirs = one.present().clone();
            one.present_mut().outcome = Some("superseded");
            (theirs.outcome, theirs.template) = (None, one.revisions.len() + 1);
            one.revisions.push(theirs);
            one.committed = one.revisions.len();
            one.state = State::Deploying;
        } else {
            one.come_to(how.state, how.reason.clone(), how.message.clone());
        }
        Settlement {
            deployment_id: id.to_string(),
            status: how.state.as_str().to_owned(),
            reason: how.reason.clone(),
        }
    }

    /// What a wake-up's context says of a deployment that has settled.
    pub fn described(&self, settled: &Settlement) -> Settings {
        let mut deployments = self.deployments.values();
        let found = deployments.find(|one| one.id.as_str() == settled.deployment_id);
        let Some(one) = found else { return Settings::new() };
        let same = |revision: &&Revision| revision.reason == settled.reason;
        let message = one.revisions.iter().rev().find(same).and_then(|one| one.message.clone());
        let said = [
            ("env", json!(one.env)),
            ("app", json!(one.app)),
            ("revision", json!(one.committed)),
            ("message", json!(message.filter(|_| settled.reason.is_some()))),
        ];
        said.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What whoever asked for a deployment before is told when a run has asked for this.
    pub fn superseded(change: &Change) -> Settlement {
        let (status, reason) = match change.what {
            Changed::Delete => (State::Stopped, None),
            _ => (State::Failed, Some("superseded".to_owned())),
        };
        Settlement {
            deployment_id: change.id.to_string(),
            status: status.as_str().to_owned(),
            reason,
        }
    }
}

/// What is said now over what was said before: what is null, and a command without words, is no longer said.
fn merged(before: &Settings, now: &Settings) -> Settings {
    let mut merged = before.clone();
    let none = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    for (name, value) in now {
        match value.is_null() || (name == "command" && none(value)) {
            true => drop(merged.remove(name)),
            false => drop(merged.insert(name.clone(), value.clone())),
        }
    }
    merged
}
