//! How a request ends: what came of the change that it asked for, or how things stand.

use eve_sdk::Settlement;
use eve_sdk::deploy::{Deployment, State};
use eve_sdk::prelude::*;

use crate::change;
use crate::order::{self, Order};
use crate::prompt::Verb;
use crate::understood::{Understood, word};

/// Most deployments that a summary names.
const NAMED: usize = 20;

/// Something that was asked for has settled.
pub fn settled(order: Order, settlement: &Settlement) -> Result<Outcome, Failure> {
    let changed = match deploy::status(&order.env, order.deployment()) {
        Err(Error::NotFound(_)) => return unknown(settlement),
        changed => changed?,
    };
    if order.understood.verb == Verb::Promote {
        return promoted(&order, settlement, changed);
    }
    if changed.id != settlement.id() {
        return unknown(settlement);
    }
    if settlement.is_failed() {
        return Err(failed(settlement, &changed));
    }
    let summary = match (order.understood.verb, order.understood.canary) {
        (Verb::Deploy, true) => canary_runs(&order, &changed),
        (Verb::Delete, _) => format!("{} is gone from {}", changed.app, changed.env),
        (Verb::Abort, _) => format!("the canary of {} is gone from {}", order.app, order.env),
        (Verb::Rollback, _) => format!(
            "{} is back at {} in {}: {}",
            changed.app,
            changed.version,
            changed.env,
            ready(&changed)
        ),
        (Verb::Scale, _) => {
            format!("{} in {} is scaled: {}", changed.app, changed.env, ready(&changed))
        }
        _ => runs(&changed),
    };
    Ok(completed(&order, summary, &changed, settlement))
}

/// First the app runs the canary's image, then the canary goes.
fn promoted(order: &Order, settlement: &Settlement, main: Deployment) -> Result<Outcome, Failure> {
    if main.id == settlement.id() {
        if settlement.is_failed() {
            let failure = failed(settlement, &main);
            return Err(Failure::permanent(format_args!(
                "the canary was not promoted, and is still there: {failure}"
            )));
        }
        if order.standing(&order.canary())?.is_some() {
            let id = change::delete(order)?;
            log::info!("the app runs the canary's image; the canary goes"; deployment = id);
            return Ok(change::waiting(order));
        }
    } else if settlement.is_failed() {
        let canary = deploy::status(&order.env, order.canary())?;
        let failure = failed(settlement, &canary);
        return Err(Failure::permanent(format_args!(
            "{} runs {}, but the canary was not deleted: {failure}",
            main.app, main.image
        )));
    }
    let summary = format!("the canary is promoted and gone: {}", runs(&main));
    Ok(completed(order, summary, &main, settlement))
}

fn completed(
    order: &Order,
    mut summary: String,
    changed: &Deployment,
    settlement: &Settlement,
) -> Outcome {
    for note in &order.notes {
        summary.push_str(&format!("; {note}"));
    }
    let mut data = of(changed);
    data["action"] = json!(action(&order.understood));
    // Of a promotion the app counts, not the canary that went last.
    if changed.id == settlement.id() {
        data["status"] = json!(settlement.status);
    }
    if order.understood.canary {
        data["canary"] = json!({ "of": order.app, "percent": order.understood.percent });
    }
    Outcome::completed(summary).data(&data)
}

/// What a program may want to know of a deployment.
fn of(deployment: &Deployment) -> Value {
    json!({
        "env": deployment.env,
        "app": deployment.app,
        "image": deployment.image,
        "version": deployment.version,
        "revision": deployment.revision,
        "deployment_id": deployment.id,
        "status": deployment.state,
        "replicas": deployment.replicas,
    })
}

fn action(understood: &Understood) -> &'static str {
    match (understood.verb, understood.canary) {
        (Verb::Deploy, true) => "canary",
        (Verb::Rollback, _) => "rollback",
        (Verb::Promote, _) => "promote",
        (Verb::Abort, _) => "abort",
        (verb, _) => word(verb),
    }
}

fn ready(deployment: &Deployment) -> String {
    let deploy::Replicas { desired, ready } = deployment.replicas;
    format!("{ready} of {desired} replicas are ready (revision {})", deployment.revision)
}

fn runs(deployment: &Deployment) -> String {
    let Deployment { app, version, env, .. } = deployment;
    format!("{app} {version} runs in {env}: {}", ready(deployment))
}

fn canary_runs(order: &Order, canary: &Deployment) -> String {
    let Order { app, env, .. } = order;
    let percent = order.understood.percent.unwrap_or_default();
    format!(
        "the canary of {app} runs {} in {env} and takes {percent} % of its traffic: {}. To go on: `Promote \
         canary of {app} in {env}` deploys {} as {app} and deletes the canary, `Abort canary of {app} in \
         {env}` deletes it",
        canary.version,
        ready(canary),
        canary.image
    )
}

/// Why a change did not come to be, and what to do next.
fn failed(settlement: &Settlement, deployment: &Deployment) -> Failure {
    let Deployment { app, env, .. } = deployment;
    if settlement.is_superseded() {
        return Failure::permanent(format_args!(
            "{app} in {env}: superseded: something else was asked for before this was there; `eve deploy \
             history --app {app} --env {env}` shows by whom"
        ));
    }
    let reason = settlement.reason.as_deref().unwrap_or("failed");
    // Something else may have happened since.
    let message =
        deployment.message.as_deref().filter(|_| deployment.reason.as_deref() == Some(reason));
    let message = message.map_or_else(String::new, |message| format!(": {message}"));
    let logs = format!("`eve deploy logs --app {app} --env {env}` shows what it wrote");
    let next = match reason {
        "image_pull" => {
            "See whether the image exists under this name, and whether the cluster may pull it".into()
        }
        "crash_loop" => logs,
        "not_ready" => format!("{logs}; or its `health_path` or `port` is another one"),
        "container_config" => "See its command, its user and its variables".into(),
        "quota" | "unschedulable" => {
            "Ask for fewer replicas, less `cpu` or less `memory`, or have the environment's quota raised"
                .into()
        }
        "admission" => "The environment's rules do not allow it: see its settings".into(),
        _ => format!("`eve deploy status --app {app} --env {env}` tells more"),
    };
    Failure::permanent(format_args!(
        "{app} in {env} does not run {}: {reason}{message}. {next}. What ran before stays until something \
         else is ready; `Roll back {app} in {env}` goes back to it",
        deployment.image
    ))
}

/// Something that was asked for has settled, and what it was cannot be found out any more: the
/// environments are others now.
pub fn unknown(settlement: &Settlement) -> Result<Outcome, Failure> {
    let found = deploy::list()?.into_iter().find(|one| one.id == settlement.id());
    match found {
        Some(found) if settlement.is_failed() => Err(failed(settlement, &found)),
        Some(found) => {
            let mut data = of(&found);
            data["status"] = json!(settlement.status);
            let summary = format!("{} in {} is {}", found.app, found.env, settlement.status);
            Ok(Outcome::completed(summary).data(&data))
        }
        None if settlement.is_failed() => {
            let reason = settlement.reason.as_deref().unwrap_or("failed");
            Err(Failure::permanent(format_args!("the deployment failed: {reason}")))
        }
        None => {
            let data = json!({ "deployment_id": settlement.id(), "status": settlement.status });
            Ok(Outcome::completed(format!("the deployment is {}", settlement.status)).data(&data))
        }
    }
}

/// How things stand: of an app in an environment, of an app, of an environment, or of everything.
pub fn status(understood: Understood) -> Result<Outcome, Failure> {
    let app = order::named(&understood)?;
    let is_one = understood.env.is_some() || understood.envs.len() == 1;
    if app.is_none() || !is_one {
        return list(&understood, app.as_deref());
    }
    let order = Order::of(understood)?;
    let name = order.deployment();
    let found = match deploy::status(&order.env, &name) {
        Err(Error::NotFound(_)) => {
            let there: Vec<String> =
                deploy::list_in(&order.env)?.into_iter().map(|one| one.app).take(NAMED).collect();
            let there = match there.is_empty() {
                true => "nothing is".to_owned(),
                false => format!("deployed there: {}", there.join(", ")),
            };
            return Err(Failure::permanent(format_args!(
                "`{name}` is not deployed in `{}`; {there}",
                order.env
            )));
        }
        found => found?,
    };
    let mut summary = match found.state {
        State::Running => runs(&found),
        _ => format!(
            "{} in {} is {}, {}: {}",
            found.app,
            found.env,
            change::standing(&found),
            found.image,
            ready(&found)
        ),
    };
    for note in &order.notes {
        summary.push_str(&format!("; {note}"));
    }
    let mut data = of(&found);
    data["action"] = json!("status");
    data["pods"] = json!(found.pods);
    data["reason"] = json!(found.reason);
    data["message"] = json!(found.message);
    Ok(Outcome::completed(summary).data(&data))
}

fn list(understood: &Understood, app: Option<&str>) -> Result<Outcome, Failure> {
    let env = understood.env.as_deref();
    let mut found = match env {
        Some(env) => deploy::list_in(env)?,
        None => deploy::list()?,
    };
    if let Some(app) = app {
        found.retain(|one| one.app == app);
    }
    let place = env.map(|env| format!(" in {env}")).unwrap_or_default();
    let what = app.map_or_else(|| "nothing".to_owned(), |app| format!("no {app}"));
    let named = found.iter().take(NAMED).map(|one| {
        let Deployment { app, version, env, state, .. } = one;
        format!("{app} {version} in {env} ({state})")
    });
    let mut summary = match found.is_empty() {
        true => format!("{what} is deployed{place}"),
        false => named.collect::<Vec<_>>().join(", "),
    };
    if found.len() > NAMED {
        summary.push_str(&format!(" and {} more", found.len() - NAMED));
    }
    let deployments: Vec<Value> = found.iter().map(of).collect();
    let data = json!({ "action": "status", "env": env, "app": app, "deployments": deployments });
    Ok(Outcome::completed(summary).data(&data))
}
