//! What the platform refuses of deployments before it looks anywhere else: `deployments::names`,
//! `deployments::image` and `deployments::settings` in `host/src`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{invalid, label, object, parse, text};
use crate::bindings::eve::skill::deploy as contract;
use crate::bindings::eve::skill::types::Error;
use crate::testing::limits;

/// How an app is to run, by the names of `deployments::settings`.
pub(in crate::testing) type Settings = Map<String, Value>;

/// What of an app is to be deployed, read.
pub(in crate::testing) struct Asked {
    pub settings: Settings,
    pub env_vars: Option<BTreeMap<String, String>>,
}

impl Asked {
    pub fn read(new: &contract::NewDeployment) -> Result<Self, Error> {
        app(&new.app)?;
        if let Err(problem) = image(&new.image) {
            return Err(invalid("image", problem));
        }
        new.replicas.map_or(Ok(()), replicas)?;
        let settings = settings(new.settings.as_deref())?;
        let env_vars = new.env_vars.as_deref().map(variables).transpose()?;
        Ok(Self { settings, env_vars })
    }
}

/// `names::app`: a DNS label that begins with a letter.
pub(in crate::testing) fn app(name: &str) -> Result<(), Error> {
    if !label(name, limits::APP_BYTES) {
        if name.is_empty() {
            return Err(invalid("app", "must not be empty"));
        }
        let shown: String = name.chars().take(63).collect();
        let problem = format_args!(
            "`{}` is not a DNS label: lower-case letters, digits and `-`, at most {}, no `-` at either end",
            shown.escape_default(),
            limits::APP_BYTES
        );
        return Err(invalid("app", problem));
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        let problem = format_args!("`{name}` must begin with a letter: it names a service");
        return Err(invalid("app", problem));
    }
    Ok(())
}

/// The name of an environment.
pub(in crate::testing) fn is_environment(name: &str) -> bool {
    label(name, limits::ENVIRONMENT_BYTES)
}

/// `settings::replicas`.
pub(in crate::testing) fn replicas(count: u32) -> Result<(), Error> {
    let most = limits::REPLICAS;
    if count > most {
        return Err(invalid("replicas", format_args!("must be 0 to {most}, not {count}")));
    }
    Ok(())
}

/// What to go back to.
pub(in crate::testing) fn target(to: &contract::Target) -> Result<(), Error> {
    match to {
        contract::Target::Version(version) if version.len() > 128 => {
            Err(invalid("to", "a version has at most 128 characters"))
        }
        _ => Ok(()),
    }
}

/// How many lines of each pod may be asked for.
pub(in crate::testing) fn tail(tail: u32) -> Result<(), Error> {
    let most = limits::TAIL;
    if tail == 0 || tail > most {
        return Err(invalid("tail", format_args!("{tail} is not between 1 and {most}")));
    }
    Ok(())
}

/// A path of the Kubernetes API without its namespace, as far as its first parts.
pub(in crate::testing) fn path(path: &str) -> Result<(), Error> {
    let most = limits::PATH_BYTES;
    if path.len() > most || path.contains('\0') {
        let problem = format_args!("at most {most} bytes, none of them U+0000");
        return Err(invalid("path", problem));
    }
    let plain = path.split('?').next().unwrap_or_default();
    let rest = match plain.split('/').collect::<Vec<_>>()[..] {
        ["api", "v1", ref rest @ ..] | ["apis", _, _, ref rest @ ..] => rest.to_vec(),
        _ => {
            let problem =
                "begins with neither api/v1/ nor apis/GROUP/VERSION/, such as api/v1/pods";
            return Err(invalid("path", problem));
        }
    };
    match rest.first() {
        None | Some(&"namespaces") => {
            Err(invalid("path", "names nothing in the namespace, such as api/v1/pods"))
        }
        Some(_) => Ok(()),
    }
}

/// How many revisions a history may have.
pub(in crate::testing) fn history(limit: u32) -> Result<usize, Error> {
    let most = limits::HISTORY;
    if limit == 0 || limit > most {
        return Err(invalid("limit", format_args!("{limit} is not between 1 and {most}")));
    }
    Ok(limit as usize)
}

/// The version that an image names: its tag, else its digest, else `latest`.
pub(in crate::testing) fn version(image: &str) -> &str {
    let (rest, digest) =
        image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    match rest.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => digest.unwrap_or("latest"),
    }
}

/// `Image::from_str`: what is wrong with a reference to an image.
pub(in crate::testing) fn image(reference: &str) -> Result<(), String> {
    if reference.is_empty() {
        return Err("must not be empty".into());
    }
    if reference.len() > limits::IMAGE_BYTES {
        return Err(format!("is longer than {} characters", limits::IMAGE_BYTES));
    }
    let wrong = |what: &str| {
        let shown: String = reference.chars().take(80).collect();
        Err(format!("`{}` is not an image: {what}, as in acme/api:v1.2.3", shown.escape_default()))
    };
    let rest = match reference.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => rest,
        Some(_) => return wrong("its digest must be sha256: and 64 hexadecimal digits"),
        None => reference,
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if !tag.is_none_or(is_tag) {
        return wrong("its tag may have letters, digits, `_`, `.` and `-`, at most 128");
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 1 && is_registry(parts[0]) {
        parts.remove(0);
    }
    if !parts.iter().all(|part| is_component(part)) {
        return wrong(
            "its name is parts of lower-case letters and digits, with `.`, `_` or `-` between",
        );
    }
    Ok(())
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_registry(part: &str) -> bool {
    let (host, port) = part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)));
    let host_fits = host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    host_fits && port_fits && (host.contains('.') || port.is_some() || host == "localhost")
}

fn is_component(part: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = part.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
        && !part.contains("..")
}

/// `settings::variables`. A name that stands there twice is one too many: which of the two is meant,
/// nobody knows.
fn variables(given: &[(String, String)]) -> Result<BTreeMap<String, String>, Error> {
    let wrong = |problem: String| Err(invalid("env_vars", problem));
    if given.len() > limits::VARIABLES {
        return wrong(format!("may be at most {} variables", limits::VARIABLES));
    }
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::VARIABLES_BYTES {
        return wrong(format!("may have at most {} bytes together", limits::VARIABLES_BYTES));
    }
    let mut variables = BTreeMap::new();
    for (name, value) in given {
        let fits = (1..=253).contains(&name.len())
            && !name.as_bytes()[0].is_ascii_digit()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            let shown: String = name.escape_default().to_string().chars().take(80).collect();
            return wrong(format!(
                "`{shown}` is not a variable's name: letters, digits and `_`, no digit first"
            ));
        }
        if value.contains('\0') {
            return wrong(format!("{name}: may not contain the character U+0000"));
        }
        if variables.insert(name.clone(), value.clone()).is_some() {
            return wrong(format!("`{name}` stands there twice"));
        }
    }
    Ok(variables)
}

/// `Settings::check`, of JSON.
fn settings(given: Option<&str>) -> Result<Settings, Error> {
    let value = parse("settings", given, limits::SETTINGS_BYTES)?;
    object("settings", &value, limits::SETTINGS_BYTES)?;
    let Value::Object(settings) = value else { return Ok(Settings::new()) };
    for (name, value) in &settings {
        // `null` has it no longer be said, whatever it is.
        if !value.is_null() || !SETTINGS.contains(&name.as_str()) {
            setting(name, value)?;
        }
    }
    Ok(settings)
}

/// The settings that there are.
const SETTINGS: [&str; 11] = [
    "port",
    "health_path",
    "cpu",
    "memory",
    "command",
    "autoscale",
    "run_as_user",
    "deadline_s",
    "secrets",
    "hosts",
    "canary",
];

fn setting(name: &str, value: &Value) -> Result<(), Error> {
    let wrong = |problem: &str| Err(invalid(&format!("settings.{name}"), problem));
    let within = |value: &Value, least: u64, most: u64| {
        value.as_u64().is_some_and(|number| (least..=most).contains(&number))
    };
    let text_of = |fits: fn(&str) -> bool| value.as_str().is_some_and(fits);
    match name {
        "port" if !within(value, 1, 65_535) => wrong("must be 1 to 65535"),
        "health_path" if !text_of(is_path) => {
            wrong("must be a path that begins with `/`, such as /healthz")
        }
        "cpu" if !text_of(|cpu| quantity(cpu, &["m", ""])) => {
            wrong("must be a number of cores, such as 250m or 2")
        }
        "memory" if !text_of(|memory| quantity(memory, &["Ki", "Mi", "Gi", "k", "M", "G"])) => {
            wrong("must be a number of bytes with its unit, such as 256Mi or 1Gi")
        }
        "command" if !is_command(value) => wrong("must be at most 100 words of at most 4096 bytes"),
        "autoscale" => {
            members(name, value, &["min", "max", "cpu_percent"])?;
            let least = value["min"].as_u64().unwrap_or(0);
            if !within(&value["min"], 1, 100) || !within(&value["max"], least, 100) {
                return wrong("must be at least 1 and at most 100 replicas, `min` first");
            }
            match &value["cpu_percent"] {
                Value::Null => Ok(()),
                percent if within(percent, 1, 100) => Ok(()),
                _ => Err(invalid("settings.autoscale.cpu_percent", "must be 1 to 100")),
            }
        }
        "run_as_user" if !within(value, 1, i32::MAX as u64) => {
            wrong("must be 1 to 2147483647: nothing runs as root")
        }
        "deadline_s" if !within(value, 5, 3_600) => wrong("must be 5 to 3600 seconds"),
        "hosts" => match value.as_array() {
            Some(hosts) if !hosts.iter().all(Value::is_string) => wrong("must be texts"),
            Some(hosts) if hosts.len() <= 16 => Ok(()),
            _ => wrong("may be at most 16"),
        },
        "secrets" => {
            let Some(references) = value.as_array() else { return wrong("must be a list") };
            references.iter().try_for_each(|reference| {
                members(name, reference, &["name", "variable", "file"])?;
                match reference["name"].as_str() {
                    Some(_) => Ok(()),
                    None => wrong("must name each secret"),
                }
            })
        }
        "canary" => {
            members(name, value, &["of", "percent"])?;
            if value["of"].as_str().is_none_or(|of| app(of).is_err()) {
                return Err(invalid("settings.canary.of", "must be the name of an app"));
            }
            if !within(&value["percent"], 1, 100) {
                return Err(invalid("settings.canary.percent", "must be 1 to 100"));
            }
            Ok(())
        }
        "port" | "health_path" | "cpu" | "memory" | "command" | "run_as_user" | "deadline_s" => {
            Ok(())
        }
        _ => Err(invalid("settings", format_args!("unknown field `{}`", name.escape_debug()))),
    }
}

/// An object that has no members besides these.
fn members(name: &str, value: &Value, known: &[&str]) -> Result<(), Error> {
    let field = format!("settings.{name}");
    let Some(members) = value.as_object() else {
        return Err(invalid(&field, "must be a JSON object"));
    };
    match members.keys().find(|member| !known.contains(&member.as_str())) {
        Some(member) => {
            Err(invalid(&field, format_args!("unknown field `{}`", member.escape_debug())))
        }
        None => Ok(()),
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1_024 && path.bytes().all(|b| b.is_ascii_graphic())
}

fn is_command(value: &Value) -> bool {
    let word = |word: &Value| {
        word.as_str().is_some_and(|word| word.len() <= 4_096 && text("", word, usize::MAX).is_ok())
    };
    value.as_array().is_some_and(|words| words.len() <= 100 && words.iter().all(word))
}

/// Whether it is a positive decimal number with one of these units.
fn quantity(text: &str, units: &[&str]) -> bool {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    number.len() <= 12
        && number.parse::<f64>().is_ok_and(|number| number > 0.0)
        && units.contains(&unit)
}
