//! What is changed: asked of the platform, to be done when the run commits.

use std::time::Duration;

use eve_sdk::deploy::{Deployment, State};
use eve_sdk::prelude::*;

use crate::order::Order;
use crate::prompt::Verb;

/// How long a change may take, beside its own deadline.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Asks for what is to be done, and waits for it.
pub fn begin(mut order: Order) -> Result<Outcome, Failure> {
    let verb = order.understood.verb;
    let id = match (verb, order.understood.canary) {
        (Verb::Deploy, false) => deploy_app(&mut order)?,
        (Verb::Deploy, true) => deploy_canary(&mut order)?,
        (Verb::Scale, _) => scale(&order)?,
        (Verb::Rollback, _) => roll_back(&order)?,
        (Verb::Promote, _) => promote(&order)?,
        (Verb::Delete | Verb::Abort | Verb::Status, _) => delete(&order)?,
    };
    let Order { env, .. } = &order;
    log::info!("asked for it"; deployment = id, app = order.deployment(), env = env);
    for note in &order.notes {
        log::info!("{note}");
    }
    Ok(waiting(&order))
}

/// Waits for what was asked for: an hour and the change's own deadline; where a person is asked first,
/// as long as the platform waits.
pub fn waiting(order: &Order) -> Outcome {
    let env = order.understood.envs.iter().find(|env| env.name == order.env);
    if env.is_some_and(|env| env.approval) {
        log::info!("a person is asked first");
        return Outcome::waiting();
    }
    if let Some(env) = env.filter(|env| !env.is_ready()) {
        let message = env.message.as_deref().unwrap_or_default();
        log::warn!("the environment is not ready: it waits"; status = env.status, message = message);
    }
    let settings = order.understood.settings.as_ref();
    let deadline = settings.and_then(|settings| settings["deadline_s"].as_u64()).unwrap_or(0);
    Outcome::waiting().deadline(PATIENCE + Duration::from_secs(deadline.min(3_600)))
}

fn deploy_app(order: &mut Order) -> Result<DeploymentId, Failure> {
    if order.understood.percent.is_some() {
        let problem = "a share of the traffic is a canary's: say `canary`, or leave the share out";
        return Err(order.understood.unclear(problem.to_owned()).into());
    }
    let image = order.image()?;
    let mut new = with_options(order, &order.app).image(&image);
    if let Some(settings) = &order.understood.settings {
        new = new.settings(settings);
    }
    if order.understood.register {
        new = new.register();
    }
    new.create().map_err(|error| refused(order, &format!("deploy {image}"), error))
}

/// What context and prompt say of a deployment, its image and settings excepted.
fn with_options(order: &Order, app: &str) -> deploy::NewDeployment {
    let mut new = deploy::app(app).env(&order.env);
    if let Some(replicas) = replicas(order) {
        new = new.replicas(replicas);
    }
    match &order.understood.env_vars {
        Some(variables) => new.env_vars(variables),
        None => new,
    }
}

fn replicas(order: &Order) -> Option<u32> {
    order.understood.replicas.and_then(|replicas| u32::try_from(replicas).ok())
}

/// A canary is an app of its own. The platform sets it up as the app that it takes a share of.
fn deploy_canary(order: &mut Order) -> Result<DeploymentId, Failure> {
    let (app, env, canary) = (order.app.clone(), order.env.clone(), order.canary());
    let Some(percent) = order.understood.percent.and_then(|share| u32::try_from(share).ok()) else {
        let problem = "it is not said which share of the traffic the canary takes, such as 10%";
        return Err(order.understood.unclear(problem.to_owned()).into());
    };
    match order.standing(&app)? {
        Some(main) if main.is_running() => {}
        Some(main) => {
            return Err(Failure::permanent(format_args!(
                "a canary of `{app}` takes a share of what `{app}` gets, and that does not run in `{env}`: \
                 it is {}. Ask again when it runs",
                standing(&main)
            )));
        }
        None => {
            return Err(Failure::permanent(format_args!(
                "there can be no canary of `{app}` in `{env}`: `{app}` is not deployed there. Deploy it \
                 first"
            )));
        }
    }
    let own = order.standing(&canary)?;
    let said = &order.understood;
    let image = match &own {
        // Another share for the canary that is there.
        Some(own) if said.image.is_none() && said.version.is_none() => own.image.clone(),
        _ => order.image()?,
    };
    let mut new = with_options(order, &canary).image(&image).register();
    if let Some(settings) = &order.understood.settings {
        new = new.settings(settings);
    }
    new.canary_of(&app, percent)
        .create()
        .map_err(|error| refused(order, &format!("deploy {image} as a canary"), error))
}

fn scale(order: &Order) -> Result<DeploymentId, Failure> {
    let Some(replicas) = replicas(order) else {
        let problem = "it is not said how many replicas there shall be".to_owned();
        return Err(order.understood.unclear(problem).into());
    };
    deploy::scale(&order.env, order.deployment(), replicas)
        .map_err(|error| refused(order, &format!("scale to {replicas}"), error))
}

fn roll_back(order: &Order) -> Result<DeploymentId, Failure> {
    let back = deploy::rollback(&order.env, order.deployment());
    let asked = match (order.understood.revision, &order.understood.version) {
        (Some(_), Some(_)) => {
            let problem = "it names a version and a revision to go back to: say one".to_owned();
            return Err(order.understood.unclear(problem).into());
        }
        (Some(revision), None) => back.to_revision(revision),
        (None, Some(version)) => back.to_version(version),
        (None, None) => back.to_previous(),
    };
    asked.map_err(|error| refused(order, "roll back", error))
}

/// The app gets the canary's image. The canary goes once that runs.
fn promote(order: &Order) -> Result<DeploymentId, Failure> {
    let canary = match order.standing(&order.canary())? {
        Some(canary) if canary.is_running() => canary,
        Some(canary) => {
            return Err(Failure::permanent(format_args!(
                "the canary of `{}` in `{}` does not run, so it is not promoted: it is {}",
                order.app,
                order.env,
                standing(&canary)
            )));
        }
        None => return Err(no_canary(order)),
    };
    deploy::app(&order.app)
        .env(&order.env)
        .image(&canary.image)
        .create()
        .map_err(|error| refused(order, &format!("deploy {}", canary.image), error))
}

/// The second half of a promotion, or an abort.
pub fn delete(order: &Order) -> Result<DeploymentId, Failure> {
    let app = match order.understood.verb {
        Verb::Promote => order.canary(),
        _ => order.deployment(),
    };
    match deploy::delete(&order.env, app) {
        Err(Error::NotFound(_)) if order.understood.canary => Err(no_canary(order)),
        asked => asked.map_err(|error| refused(order, "delete", error)),
    }
}

fn no_canary(order: &Order) -> Failure {
    Failure::permanent(format_args!("there is no canary of `{}` in `{}`", order.app, order.env))
}

/// Where a deployment stands, in words.
pub fn standing(deployment: &Deployment) -> String {
    let state = match deployment.state {
        State::Pending => "pending".to_owned(),
        state => state.to_string(),
    };
    match (&deployment.reason, &deployment.message) {
        (Some(reason), Some(message)) => format!("{state} ({reason}: {message})"),
        (Some(reason), None) => format!("{state} ({reason})"),
        _ => state,
    }
}

/// What the platform did not accept, with what was meant.
fn refused(order: &Order, what: &str, error: Error) -> Failure {
    let (app, env) = (order.deployment(), &order.env);
    let next = match &error {
        Error::NotFound(text) if text.starts_with("there is no app ") => {
            format!(
                ". `eve app create --name {app}` registers it, as does `\"register\": true` in the context"
            )
        }
        Error::NotFound(_) => {
            format!(". `eve deploy status --env {env} --app {app}` tells how it stands")
        }
        Error::Denied(_) => ". An admin of the organisation says who may deploy there".to_owned(),
        _ => String::new(),
    };
    let message = format!("could not {what}, `{app}` in `{env}`: {error}{next}");
    match error.is_retryable() {
        true => Failure::retryable(message),
        false => Failure::permanent(message),
    }
}
