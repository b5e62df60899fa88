//! What the context asks for. It wins over the prompt, field by field.

use std::collections::BTreeMap;

use eve_sdk::prelude::*;
use serde::de::DeserializeOwned;

use crate::image::{Image, is_app, is_tag, is_version};
use crate::prompt::Verb;

/// The context as it comes in. Fields that nobody here knows are for others.
pub type Context = BTreeMap<String, Value>;

/// A field of the context, taken out of it; `what` it must be.
fn field<T: DeserializeOwned>(
    context: &mut Context,
    name: &str,
    what: &str,
) -> Result<Option<T>, String> {
    let value = match context.remove(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let wrong = format!("`{name}` must be {what}, not {}", shown(&value.to_string()));
    T::deserialize(value).map(Some).map_err(|_| wrong)
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Strategy {
    Name(String),
    Parts {
        #[serde(alias = "type")]
        name: Option<String>,
        canary: Option<Canary>,
        percent: Option<u32>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Canary {
    Is(bool),
    Share { percent: Option<u32> },
}

/// What the context asks for, each field read by itself.
#[derive(Debug, Default)]
pub struct Fields {
    pub verb: Option<Verb>,
    /// Whether it is about a canary; none if it does not say.
    pub canary: Option<bool>,
    pub percent: Option<u32>,
    pub app: Option<String>,
    pub env: Option<String>,
    /// An image, if it is more than a version.
    pub image: Option<Image>,
    pub version: Option<String>,
    pub revision: Option<u32>,
    pub replicas: Option<u32>,
    pub env_vars: Option<BTreeMap<String, String>>,
    pub settings: Option<Value>,
    pub register: bool,
}

impl Fields {
    /// Reads the fields; says what is wrong with one.
    pub fn read(mut context: Context) -> Result<Fields, String> {
        const TEXT: &str = "a text";
        const NUMBER: &str = "a whole number, not negative";
        let context = &mut context;
        let mut fields = Fields {
            percent: field(context, "percent", NUMBER)?,
            revision: field(context, "revision", NUMBER)?,
            replicas: field(context, "replicas", NUMBER)?,
            version: field(context, "version", TEXT)?,
            register: field(context, "register", "true or false")?.unwrap_or(false),
            ..Fields::default()
        };
        let settings: Option<BTreeMap<String, Value>> =
            field(context, "settings", "a JSON object")?;
        fields.settings = settings.map(|settings| json!(settings));
        if let Some(action) = field::<String>(context, "action", TEXT)? {
            let (verb, canary) = verb(&action)?;
            (fields.verb, fields.canary) = (Some(verb), canary);
        }
        let env = field(context, "env", TEXT)?;
        let env: Option<String> = env.or(field(context, "environment", TEXT)?);
        let image: Option<String> = field(context, "image", TEXT)?;
        let variables: Option<Context> = field(context, "env_vars", "a JSON object")?;
        let what = "`rolling`, `canary`, or an object with `type` and `percent`";
        let strategy: Option<Strategy> = field(context, "strategy", what)?;
        let what = "true, false, or an object with `percent`";
        let canary: Option<Canary> = field(context, "canary", what)?;
        if let Some(app) = field::<String>(context, "app", TEXT)? {
            if !is_app(&app) {
                return Err(format!(
                    "`app`: `{}` is no app's name: small letters, digits and `-`, a letter first, at \
                     most 50",
                    shown(&app)
                ));
            }
            fields.app = Some(app);
        }
        if let Some(env) = env {
            if env.trim().is_empty() {
                return Err("`env` is empty: name the environment, or leave it out".to_owned());
            }
            fields.env = Some(env);
        }
        if let Some(image) = &image {
            fields.image(image)?;
        }
        if let Some(version) = &fields.version {
            if !is_tag(version) {
                return Err(format!("`version`: `{}` is no tag of an image", shown(version)));
            }
        }
        fields.env_vars = variables.map(texts).transpose()?;
        if let Some(strategy) = strategy {
            fields.strategy(strategy)?;
        }
        if let Some(canary) = canary {
            fields.share(canary);
        }
        Ok(fields)
    }

    /// An image, or only its version: `v1.2.3`.
    fn image(&mut self, text: &str) -> Result<(), String> {
        let version = match is_version(text) {
            true => text.to_owned(),
            false => {
                let wrong = || format!("`image`: `{}` is no image, as acme/api:v1 is", shown(text));
                let image = Image::read(text).ok_or_else(wrong)?;
                let tag = image.tag().map(str::to_owned);
                self.image = Some(image);
                match tag {
                    Some(tag) => tag,
                    None => return Ok(()),
                }
            }
        };
        match &self.version {
            Some(said) if *said != version => Err(format!(
                "`image` says the version `{version}`, and `version` says `{}`",
                shown(said)
            )),
            _ => {
                self.version = Some(version);
                Ok(())
            }
        }
    }

    fn strategy(&mut self, strategy: Strategy) -> Result<(), String> {
        let name = match strategy {
            Strategy::Name(name) => name,
            Strategy::Parts { name, canary, percent } => {
                self.percent = self.percent.or(percent);
                match (name, canary) {
                    (Some(name), _) => name,
                    (None, Some(canary)) => {
                        self.share(canary);
                        return Ok(());
                    }
                    (None, None) => return Err("`strategy` names none".to_owned()),
                }
            }
        };
        match name.to_lowercase().as_str() {
            "canary" => self.canary = Some(true),
            "rolling" | "rolling_update" | "rolling-update" | "rollingupdate" => {
                self.canary = Some(false);
            }
            _ => {
                return Err(format!(
                    "`strategy`: `{}` is none of `rolling` and `canary`",
                    shown(&name)
                ));
            }
        }
        Ok(())
    }

    fn share(&mut self, canary: Canary) {
        match canary {
            Canary::Is(is) => self.canary = Some(is),
            Canary::Share { percent } => {
                self.canary = Some(true);
                self.percent = percent.or(self.percent);
            }
        }
    }
}

/// `rollback`, `roll_back`, `promote_canary`.
fn verb(action: &str) -> Result<(Verb, Option<bool>), String> {
    let word = action.to_lowercase().replace(['_', ' '], "-");
    Ok(match word.as_str() {
        "deploy" | "create" | "update" => (Verb::Deploy, None),
        "canary" | "deploy-canary" => (Verb::Deploy, Some(true)),
        "scale" => (Verb::Scale, None),
        "rollback" | "roll-back" => (Verb::Rollback, None),
        "delete" | "undeploy" | "remove" | "destroy" => (Verb::Delete, None),
        "promote" | "promote-canary" => (Verb::Promote, Some(true)),
        "abort" | "abort-canary" | "delete-canary" => (Verb::Abort, Some(true)),
        "status" | "get" | "list" => (Verb::Status, None),
        _ => {
            return Err(format!(
                "`action`: `{}` is none of `deploy`, `canary`, `promote`, `abort`, `scale`, \
                 `rollback`, `delete` and `status`",
                shown(action)
            ));
        }
    })
}

/// Numbers and truth values are what they are written as.
fn texts(given: Context) -> Result<BTreeMap<String, String>, String> {
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(number) => Ok((name, number.to_string())),
        Value::Bool(truth) => Ok((name, truth.to_string())),
        _ => Err(format!("`env_vars`: `{}` must be a text", shown(&name))),
    };
    given.into_iter().map(text).collect()
}

/// What somebody wrote, as it can be shown: short, and without what cannot be seen.
pub fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let cut = if short.len() < text.len() { "…" } else { "" };
    let seen = |letter: char| match letter {
        '"' | '\'' | '\\' => letter.to_string(),
        hidden => hidden.escape_debug().to_string(),
    };
    format!("{}{cut}", short.chars().map(seen).collect::<String>())
}
