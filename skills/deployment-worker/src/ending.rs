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

/// That something has settled, with what the wake-up's context says besides.
pub struct News {
    settlement: Settlement,
    /// Why, in a sentence.
    message: Option<String>,
    /// Environment and app.
    about: Option<(String, String)>,
}

/// What a wake-up's context says of a deployment.
#[derive(Deserialize)]
struct Described {
    deployment_id: Option<String>,
    env: Option<String>,
    app: Option<String>,
    message: Option<String>,
    #[serde(default)]
    additional_completions: Vec<Described>,
}

impl News {
    /// The last that this run is woken with, if it is woken with any.
    pub fn of(request: &Request) -> Result<Option<News>, Failure> {
        let settled = |trigger| match trigger {
            Trigger::DeploymentSettled(settled) => Some(settled),
            _ => None,
        };
        let Some(settlement) = request.triggers().into_iter().filter_map(settled).next_back()
        else {
            return Ok(None);
        };
        let mut first: Described = request.raw_context()?;
        let mut described = std::mem::take(&mut first.additional_completions);
        described.insert(0, first);
        let is_it =
            |one: &Described| one.deployment_id.as_deref() == Some(&settlement.deployment_id);
        let described = described.into_iter().rfind(is_it);
        let (about, message) = match described {
            Some(one) => (one.env.zip(one.app), one.message),
            None => (None, None),
        };
        Ok(Some(News { settlement, message, about }))
    }

    /// Whether it is this deployment that has settled. Its id may be another than was told, if somebody
    /// else deployed the app first.
    fn is_of(&self, deployment: &Deployment) -> bool {
        match &self.about {
            Some((env, app)) => *env == deployment.env && *app == deployment.app,
            None => self.settlement.id() == deployment.id,
        }
    }
}

/// Something that was asked for has settled.
pub fn settled(order: Order, news: &News) -> Result<Outcome, Failure> {
    let changed = match deploy::status(&order.env, order.deployment()) {
        Err(Error::NotFound(_)) => return unknown(news),
        changed => changed?,
    };
    if order.understood.verb == Verb::Promote {
        return promoted(&order, news, changed);
    }
    if !news.is_of(&changed) {
        return unknown(news);
    }
    if news.settlement.is_failed() {
        return Err(failed(news, &changed));
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
    Ok(completed(&order, summary, &changed, news))
}

/// First the app runs the canary's image, then the canary goes.
fn promoted(order: &Order, news: &News, main: Deployment) -> Result<Outcome, Failure> {
    if news.is_of(&main) {
        if news.settlement.is_failed() {
            let failure = failed(news, &main);
            return Err(Failure::permanent(format_args!(
                "the canary was not promoted, and is still there: {failure}"
            )));
        }
        if order.standing(&order.canary())?.is_some() {
            let id = change::delete(order)?;
            log::info!("the app runs the canary's image; the canary goes"; deployment = id);
            return Ok(change::waiting(order));
        }
    } else if news.settlement.is_failed() {
        let canary = deploy::status(&order.env, order.canary())?;
        let failure = failed(news, &canary);
        return Err(Failure::permanent(format_args!(
            "{} runs {}, but the canary was not deleted: {failure}",
            main.app, main.image
        )));
    }
    let summary = format!("the canary is promoted and gone: {}", runs(&main));
    Ok(completed(order, summary, &main, news))
}

fn completed(order: &Order, mut summary: String, changed: &Deployment, news: &News) -> Outcome {
    for note in &order.notes {
        summary.push_str(&format!("; {note}"));
    }
    let mut data = of(changed);
    data["action"] = json!(action(&order.understood));
    // Of a promotion the app counts, not the canary that went last.
    if news.is_of(changed) {
        data["status"] = json!(news.settlement.status);
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
fn failed(news: &News, deployment: &Deployment) -> Failure {
    let Deployment { app, env, .. } = deployment;
    let News { settlement, message, .. } = news;
    if settlement.is_superseded() {
        return Failure::permanent(format_args!(
            "{app} in {env}: superseded: something else was asked for before this was there; `eve deploy \
             history --app {app} --env {env}` shows by whom"
        ));
    }
    let reason = settlement.reason.as_deref().unwrap_or("failed");
    // Something else may have happened since.
    let is_same = deployment.reason.as_deref() == Some(reason);
    let message = message.as_deref().or(deployment.message.as_deref().filter(|_| is_same));
    let message = message.map_or_else(String::new, |message| format!(": {message}"));
    if let "rejected" | "not_approved" | "not_found" | "forbidden" | "conflict" | "invalid" = reason
    {
        return Failure::permanent(format_args!(
            "nothing was changed of {app} in {env}: {reason}{message}"
        ));
    }
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
pub fn unknown(news: &News) -> Result<Outcome, Failure> {
    let News { settlement, message, about } = news;
    let found = deploy::list()?.into_iter().find(|one| news.is_of(one));
    if let Some(found) = &found {
        if settlement.is_failed() {
            return Err(failed(news, found));
        }
    }
    let name = match about {
        Some((env, app)) => format!("{app} in {env}"),
        None => "the deployment".to_owned(),
    };
    if settlement.is_failed() {
        let reason = settlement.reason.as_deref().unwrap_or("failed");
        let message = message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        return Err(Failure::permanent(format_args!("{name} failed: {reason}{message}")));
    }
    let mut data = match &found {
        Some(found) => of(found),
        None => json!({ "deployment_id": settlement.deployment_id }),
    };
    data["status"] = json!(settlement.status);
    Ok(Outcome::completed(format!("{name} is {}", settlement.status)).data(&data))
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
