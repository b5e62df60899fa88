//! An order: what is understood, with the one deployment that it is about. Here the platform is asked
//! what there is; nothing is changed.

use std::collections::BTreeSet;

use eve_sdk::deploy::Deployment;
use eve_sdk::prelude::*;

use crate::image::{Image, is_app};
use crate::prompt::Verb;
use crate::understood::Understood;

/// What is to be done, where.
#[derive(Debug)]
pub struct Order {
    pub understood: Understood,
    pub env: String,
    /// The app; of a canary, the app that it is one of.
    pub app: String,
    /// What was taken as meant without being said, for the summary.
    pub notes: Vec<String>,
}

/// What a canary's app is called.
fn canary_of(app: &str) -> String {
    format!("{app}-canary")
}

impl Order {
    /// What a request asks for, of one deployment.
    pub fn of(mut understood: Understood) -> Result<Order, Failure> {
        let mut notes = Vec::new();
        let mut app = app(&understood, &mut notes)?;
        if understood.canary {
            // `api-canary` is said where `api` is meant.
            match app.strip_suffix("-canary") {
                Some(main) => app = main.to_owned(),
                None if understood.implies_canary => {
                    let problem = "what is promoted or aborted is a canary: say so".to_owned();
                    return Err(understood.unclear(problem).into());
                }
                None => {}
            }
            if !is_app(&canary_of(&app)) {
                let problem =
                    format!("a canary of `{app}` would have a name of more than 50 letters");
                return Err(understood.unclear(problem).into());
            }
        }
        // `to prodd` is no extra word.
        let stray = understood.strays.iter().find(|stray| **stray != app);
        if let Some(stray) = stray.filter(|_| understood.verb == Verb::Deploy) {
            return Err(understood.no_environment(stray).into());
        }
        understood.app = Some(app.clone());
        let env = env(&understood, &app, &mut notes)?;
        understood.env = Some(env.clone());
        Ok(Order { understood, env, app, notes })
    }

    /// The name of the deployment that is changed.
    pub fn deployment(&self) -> String {
        let promotes = self.understood.verb == Verb::Promote;
        match self.understood.canary && !promotes {
            true => canary_of(&self.app),
            false => self.app.clone(),
        }
    }

    /// The name of the canary.
    pub fn canary(&self) -> String {
        canary_of(&self.app)
    }

    /// A deployment of the order's environment that is there; none if it is not.
    pub fn standing(&self, app: &str) -> Result<Option<Deployment>, Failure> {
        match deploy::status(&self.env, app) {
            Ok(found) if found.state == deploy::State::Stopped => Ok(None),
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The image to deploy, with its version.
    pub fn image(&mut self) -> Result<String, Failure> {
        let said = &self.understood;
        let (image, version) = match (&said.image, &said.version) {
            (Some(image), Some(version)) if image.tag() == Some(version) => {
                return Ok(image.to_string());
            }
            (Some(image), Some(version)) => return Ok(image.tagged(version).to_string()),
            (Some(image), None) if !image.rest.is_empty() => return Ok(image.to_string()),
            (image, version) => (image, version.clone()),
        };
        let Some(version) = version else {
            let problem = match image {
                Some(image) => format!("it is not said which version of `{image}`"),
                None => format!("it is not said which image of `{}`, or which version", self.app),
            };
            return Err(said.unclear(problem).into());
        };
        let image = self.repository()?;
        Ok(image.tagged(&version).to_string())
    }

    /// Where the images of the app come from: from where they came until now.
    fn repository(&mut self) -> Result<Image, Failure> {
        let here = self.standing(&self.app)?;
        let deployed = match here {
            Some(here) => vec![here],
            None => deploy::list()?.into_iter().filter(|one| one.app == self.app).collect(),
        };
        let images: BTreeSet<String> = deployed
            .iter()
            .filter_map(|one| Image::read(&one.image))
            .map(|image| image.name)
            .collect();
        let mut images = images.into_iter();
        match (images.next(), images.next()) {
            (Some(name), None) => {
                self.notes.push(format!("the image is `{name}`, as it was"));
                Ok(Image { name, rest: String::new() })
            }
            (None, _) => Ok(Image { name: self.app.clone(), rest: String::new() }),
            (Some(one), Some(other)) => {
                let problem = format!(
                    "it is not said which image: `{}` runs from `{one}` and from `{other}`",
                    self.app
                );
                Err(self.understood.unclear(problem).into())
            }
        }
    }
}

/// The app that is named; none if there is none. A word may be an app's name if something of that name
/// is deployed somewhere, or if it stands where one stands. Who wants to change something has to be
/// clear: `Delete thing from dev, says web` is not. Who only wants to know means what there is.
pub fn named(understood: &Understood) -> Result<Option<String>, Failure> {
    if understood.app.is_some() || understood.candidates.is_empty() {
        return Ok(understood.app.clone());
    }
    let candidates = &understood.candidates;
    let known = deployed()?;
    let mut found: Vec<&str> = Vec::new();
    for candidate in candidates.iter().filter(|candidate| known.contains(&candidate.name)) {
        // `api and web`: that one of them is not there yet makes them no less two.
        let joined = candidates.iter().filter(|other| other.group == candidate.group);
        found.extend(joined.map(|other| other.name.as_str()));
    }
    if found.is_empty() || understood.verb != Verb::Status {
        let expected = candidates.iter().filter(|candidate| candidate.expected);
        found.extend(expected.map(|candidate| candidate.name.as_str()));
    }
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [] => Ok(None),
        [app] => Ok(Some(app.to_owned())),
        _ => {
            let found = found.join("` or `");
            let problem = format!("it is not clear which app, `{found}`: one request has one");
            Err(understood.unclear(problem).into())
        }
    }
}

/// Every app that is deployed somewhere.
fn deployed() -> Result<BTreeSet<String>, Failure> {
    Ok(deploy::list()?.into_iter().map(|one| one.app).collect())
}

/// The app. Only to deploy a version of the one app that there is takes no name.
fn app(understood: &Understood, notes: &mut Vec<String>) -> Result<String, Failure> {
    if let Some(app) = named(understood)? {
        return Ok(app);
    }
    if understood.verb == Verb::Deploy {
        let mut mains = deployed()?.into_iter().filter(|app| !app.ends_with("-canary"));
        if let (Some(only), None) = (mains.next(), mains.next()) {
            notes.push(format!("`{only}` is the only app that is deployed"));
            return Ok(only);
        }
    }
    Err(understood.unclear("it is not said which app".to_owned()).into())
}

/// The environment. It is not guessed: it is said, or it is the only one, or the only one in which
/// there can be a canary.
fn env(understood: &Understood, app: &str, notes: &mut Vec<String>) -> Result<String, Failure> {
    if let Some(env) = &understood.env {
        return Ok(env.clone());
    }
    if let [only] = &understood.envs[..] {
        notes.push(format!("`{}` is the only environment", only.name));
        return Ok(only.name.clone());
    }
    if understood.canary && understood.verb == Verb::Deploy {
        let runs = |one: &Deployment| one.app == app && one.is_running();
        let mut envs = deploy::list()?.into_iter().filter(runs);
        if let (Some(only), None) = (envs.next(), envs.next()) {
            notes.push(format!("`{}` is the only environment in which `{app}` runs", only.env));
            return Ok(only.env);
        }
    }
    let problem = format!("it is not said in which environment; {}", understood.places());
    Err(understood.unclear(problem).into())
}
