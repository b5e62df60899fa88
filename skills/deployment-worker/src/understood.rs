//! What prompt and context ask for together, and what is missing: all that can be said without asking
//! what is deployed.

use std::collections::BTreeMap;

use eve_sdk::deploy::Environment;
use eve_sdk::prelude::*;

use crate::context::{Context, Fields, shown};
use crate::image::{Image, is_app};
use crate::prompt::{self, Candidate, Verb};

/// What is to be done, with everything that is said about it.
#[derive(Debug)]
pub struct Understood {
    pub verb: Verb,
    pub canary: bool,
    /// It has to be about a canary, and does not say so.
    pub implies_canary: bool,
    pub percent: Option<u64>,
    pub env: Option<String>,
    /// Every environment that there is.
    pub envs: Vec<Environment>,
    /// What stands where an environment should, and is none.
    pub strays: Vec<String>,
    pub app: Option<String>,
    pub candidates: Vec<Candidate>,
    pub image: Option<Image>,
    pub version: Option<String>,
    pub revision: Option<u32>,
    pub replicas: Option<u64>,
    pub env_vars: Option<BTreeMap<String, String>>,
    pub settings: Option<Value>,
    pub register: bool,
}

/// Why nothing can be done: what was understood, and what is missing or has two meanings.
#[derive(Debug)]
pub struct Unclear {
    understood: Vec<String>,
    problem: String,
    examples: [String; 2],
}

impl From<Unclear> for Failure {
    fn from(unclear: Unclear) -> Self {
        let understood = match unclear.understood.is_empty() {
            true => "nothing".to_owned(),
            false => unclear.understood.join(", "),
        };
        let Unclear { problem, examples: [sentence, context], .. } = unclear;
        Failure::permanent(format_args!(
            "{problem}. Understood: {understood}. Say for example `{sentence}`, or give a context such \
             as {context}"
        ))
    }
}

impl Understood {
    pub fn of(request: &Request) -> Result<Understood, Failure> {
        let fields = Fields::read(request.context::<Context>()?).map_err(|problem| {
            Failure::permanent(format_args!("the context is not understood: {problem}"))
        })?;
        let envs = deploy::environments()?;
        let names: Vec<String> = envs.iter().map(|env| env.name.clone()).collect();
        let said = prompt::read(&request.prompt(), &names);
        Ok(Self::merged(fields, said, envs)?)
    }

    fn merged(
        fields: Fields,
        said: prompt::Said,
        envs: Vec<Environment>,
    ) -> Result<Understood, Unclear> {
        let names: Vec<String> = envs.iter().map(|env| env.name.clone()).collect();
        let mut understood = Understood {
            // Until it is known: what examples are made of.
            verb: Verb::Deploy,
            canary: fields.canary.unwrap_or(said.canary),
            implies_canary: false,
            percent: fields.percent.map(u64::from),
            env: fields.env.map(|env| prompt::environment(&env, &names).unwrap_or(env)),
            envs,
            strays: said.strays,
            app: fields.app,
            candidates: said.candidates,
            image: None,
            version: fields.version,
            revision: fields.revision,
            replicas: fields.replicas.map(u64::from),
            env_vars: fields.env_vars,
            settings: fields.settings,
            register: fields.register,
        };
        let implied = match (&fields.image, &understood.version, understood.replicas) {
            (Some(_), ..) | (_, Some(_), _) => Some(Verb::Deploy),
            (None, None, Some(_)) => Some(Verb::Scale),
            _ => None,
        };
        let verbs = match fields.verb {
            Some(verb) => vec![verb],
            // A context alone says by what it holds what is to be done with it.
            None if said.verbs.is_empty() => implied.into_iter().collect(),
            None => said.verbs,
        };
        understood.verb = match verbs[..] {
            [verb] => verb,
            [] => {
                let only = |mut said: Vec<String>| said.pop().filter(|_| said.is_empty());
                understood.env = understood.env.take().or_else(|| only(said.envs));
                understood.app = understood.app.take().or_else(|| only(said.apps));
                understood.image = fields.image.or(said.images.into_iter().next());
                return Err(understood.unclear_verb(said.too_long));
            }
            _ => {
                let verbs: Vec<String> =
                    verbs.iter().map(|verb| format!("`{}`", word(*verb))).collect();
                let verbs = verbs.join(" and ");
                let problem = format!("it asks for {verbs}: ask for one thing at a time");
                return Err(understood.unclear(problem));
            }
        };
        // To delete a canary, or to roll it back, is to abort it.
        if understood.canary && matches!(understood.verb, Verb::Delete | Verb::Rollback) {
            understood.verb = Verb::Abort;
        }
        if matches!(understood.verb, Verb::Promote | Verb::Abort) {
            understood.implies_canary = !understood.canary;
            understood.canary = true;
        }
        // The context gives an order without doubts.
        if fields.verb.is_none() && understood.verb != Verb::Status {
            if let Some(doubt) = said.doubts.first() {
                return Err(understood.unclear(doubt.clone()));
            }
        }
        if understood.env.is_some() {
            understood.strays.clear();
        }
        understood.env = understood.one("environments", understood.env.clone(), said.envs)?;
        understood.fill_image(fields.image, said.images, said.repositories, said.versions)?;
        understood.fill_app(said.apps)?;
        understood.percent = understood.one("percentages", understood.percent, said.percents)?;
        understood.replicas =
            understood.one("numbers of replicas", understood.replicas, said.replicas)?;
        understood.revision = understood.one("revisions", understood.revision, said.revisions)?;
        understood.check_numbers()?;
        understood.check_env()?;
        Ok(understood)
    }

    /// What the context says, else the one thing that the prompt says.
    fn one<T: std::fmt::Display>(
        &self,
        what: &str,
        given: Option<T>,
        mut said: Vec<T>,
    ) -> Result<Option<T>, Unclear> {
        if given.is_some() || said.is_empty() {
            return Ok(given);
        }
        if said.len() > 1 {
            let said: Vec<String> =
                said.iter().map(|one| format!("`{}`", shown(&one.to_string()))).collect();
            let said = said.join(" and ");
            return Err(self.unclear(format!("it names two {what}, {said}: one request has one")));
        }
        Ok(said.pop())
    }

    fn check_env(&mut self) -> Result<(), Unclear> {
        match self.env.take_if(|env| self.envs.iter().all(|known| known.name != *env)) {
            Some(env) => Err(self.no_environment(&env)),
            None => Ok(()),
        }
    }

    /// There is none of this name.
    pub fn no_environment(&self, name: &str) -> Unclear {
        self.unclear(format!("there is no environment `{}`; {}", shown(name), self.places()))
    }

    /// A version of the context goes with an image of the prompt.
    fn fill_image(
        &mut self,
        given: Option<Image>,
        said: Vec<Image>,
        repositories: Vec<Image>,
        versions: Vec<String>,
    ) -> Result<(), Unclear> {
        let is_whole = given.as_ref().is_some_and(|image| !image.rest.is_empty());
        self.image = self.one("images", given, said)?;
        if is_whole {
            return Ok(());
        }
        if self.image.is_none() {
            self.image = self.one("images", None, repositories)?;
        }
        let tag = self.image.as_ref().and_then(Image::tag).map(str::to_owned);
        if self.version.is_none() {
            let mut versions = versions;
            versions.retain(|version| Some(version) != tag.as_ref());
            versions.extend(tag);
            self.version = self.one("versions", None, versions)?;
        }
        Ok(())
    }

    fn fill_app(&mut self, said: Vec<String>) -> Result<(), Unclear> {
        self.app = self.one("apps", self.app.clone(), said)?;
        if self.app.is_some() {
            return Ok(());
        }
        let Some(image) = &self.image else { return Ok(()) };
        let name = image.last_part().to_owned();
        if !is_app(&name) {
            let problem = format!("`{name}` is an image's name and can be no app's: say which app");
            return Err(self.unclear(problem));
        }
        self.app = Some(name);
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), Unclear> {
        if let Some(replicas) = self.replicas.filter(|replicas| *replicas > 1_000) {
            let problem = format!("{replicas} replicas are too many: there can be 0 to 1000");
            return Err(self.unclear(problem));
        }
        if let Some(percent) = self.percent.filter(|percent| !(1..=100).contains(percent)) {
            let problem = format!("{percent} % is no share of the traffic: it can be 1 to 100");
            return Err(self.unclear(problem));
        }
        Ok(())
    }

    /// The environments that there are, in words.
    pub fn places(&self) -> String {
        let names: Vec<&str> = self.envs.iter().map(|env| env.name.as_str()).take(20).collect();
        match names[..] {
            [] => "the organisation has none: an admin makes one with `eve env create`".to_owned(),
            [only] => format!("there is only `{only}`"),
            _ => format!("there are `{}`", names.join("`, `")),
        }
    }

    fn unclear_verb(&self, too_long: bool) -> Unclear {
        let mut unclear = self.unclear(match too_long {
            true => format!(
                "the prompt is longer than {} characters and was not read, and the context says no \
                 `action`",
                prompt::LONGEST
            ),
            false => {
                "it is not said what is to be done: deploy, scale, roll back, delete, promote or \
                      abort a canary, or status"
                    .to_owned()
            }
        });
        // That something is to be deployed is only assumed.
        unclear.understood.remove(0);
        unclear
    }

    /// Something is missing, or has two meanings.
    pub fn unclear(&self, problem: String) -> Unclear {
        let what = match (self.verb, self.canary) {
            (Verb::Deploy, true) => "deploy a canary".to_owned(),
            (verb, _) => word(verb).to_owned(),
        };
        let mut understood = vec![what];
        let mut tell = |name: &str, value: Option<String>| {
            understood.extend(value.map(|value| format!("{name} `{}`", shown(&value))));
        };
        tell("app", self.app.clone());
        tell("image", self.image.as_ref().map(Image::to_string));
        tell("version", self.version.clone());
        tell("environment", self.env.clone());
        tell("replicas", self.replicas.map(|replicas| replicas.to_string()));
        tell("percent", self.percent.map(|percent| percent.to_string()));
        Unclear { understood, problem, examples: self.examples() }
    }

    fn examples(&self) -> [String; 2] {
        let app = self.app.as_deref().unwrap_or("api-service");
        let env = self.env.as_deref().or(self.envs.first().map(|env| env.name.as_str()));
        let env = env.unwrap_or("dev");
        let image = match &self.image {
            Some(image) if !image.rest.is_empty() => image.clone(),
            Some(image) => image.tagged("v1.2.3"),
            None => Image { name: app.to_owned(), rest: ":v1.2.3".to_owned() },
        };
        let (sentence, context) = match (self.verb, self.canary) {
            (Verb::Deploy, true) => (
                format!("Deploy canary: {image}, 10% traffic in {env}"),
                json!({ "action": "canary", "app": app, "env": env, "image": image.to_string(),
                        "canary": { "percent": 10 } }),
            ),
            (Verb::Deploy, false) => (
                format!("Deploy {image} to {env}"),
                json!({ "app": app, "env": env, "image": image.to_string() }),
            ),
            (Verb::Scale, _) => (
                format!("Scale {app} to 5 replicas in {env}"),
                json!({ "action": "scale", "app": app, "env": env, "replicas": 5 }),
            ),
            (Verb::Rollback, _) => (
                format!("Roll back {app} to v1.2.2 in {env}"),
                json!({ "action": "rollback", "app": app, "env": env, "version": "v1.2.2" }),
            ),
            (Verb::Delete, _) => (
                format!("Delete {app} from {env}"),
                json!({ "action": "delete", "app": app, "env": env }),
            ),
            (Verb::Promote, _) => (
                format!("Promote canary of {app} in {env}"),
                json!({ "action": "promote", "app": app, "env": env }),
            ),
            (Verb::Abort, _) => (
                format!("Abort canary of {app} in {env}"),
                json!({ "action": "abort", "app": app, "env": env }),
            ),
            (Verb::Status, _) => (
                format!("Status of {app} in {env}"),
                json!({ "action": "status", "app": app, "env": env }),
            ),
        };
        [shown_whole(&sentence), context.to_string()]
    }
}

fn shown_whole(sentence: &str) -> String {
    sentence.chars().take(700).collect()
}

/// What is done, in a word.
pub fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Deploy => "deploy",
        Verb::Scale => "scale",
        Verb::Rollback => "roll back",
        Verb::Delete => "delete",
        Verb::Promote => "promote a canary",
        Verb::Abort => "abort a canary",
        Verb::Status => "status",
    }
}
