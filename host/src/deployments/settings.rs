//! How an app is to run: what is said with a deployment, beside its image and its number of replicas.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::names;
use super::secrets::{self, SecretReference};
use crate::requests::Invalid;

/// Most replicas of a deployment.
pub const MAX_REPLICAS: i32 = 1_000;
/// The port that an app is told to listen on, and that its service leads to, when none is given.
pub const DEFAULT_PORT: u16 = 8_080;
/// How long a change may take to be there when nothing is said, in seconds.
pub const DEFAULT_DEADLINE_S: u32 = 600;
/// Longest deadline, in seconds.
const MAX_DEADLINE_S: u32 = 3_600;
/// Most replicas that the load may ask for.
pub(super) const MAX_AUTOSCALED: i32 = 100;
/// Most words of a command with its arguments.
const MAX_WORDS: usize = 100;
/// Most environment variables.
const MAX_VARIABLES: usize = 500;
/// Most bytes of all environment variables together: they live in one Secret, which may have 1 MiB.
const MAX_VARIABLES_BYTES: usize = 512 << 10;

/// Most hosts of an app: an HTTPRoute has no room for more.
const MAX_HOSTS: usize = 16;

/// Environment variables of an app.
pub type Variables = BTreeMap<String, String>;

/// How an app is to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The port that the app listens on, 8080 when absent: it is told so in `PORT`. Its service, which has
    /// the app's name, listens on port 80.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A path that answers 200 once the app can take traffic, such as `/healthz`. Without one a container
    /// that runs is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// CPU that each pod asks for, as Kubernetes writes it: `250m`, `2`. The environment's default when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory that each pod may have, as Kubernetes writes it: `256Mi`, `1Gi`. The environment's default
    /// when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// What to run instead of the image's own entry point, and with what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// A number of replicas that follows the load; `replicas` is then where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
    /// The user that the app runs as, where its image names none or one by name: 1 to 2147483647.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// How long a change may take to be there before it has failed, in seconds: 5 to 3600; 600 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u32>,
    /// The secrets of the environment that it refers to, all of them: those of before are forgotten. At most
    /// 100, and 786432 bytes of values together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<SecretReference>>,
    /// Host names that lead to it from outside: at most 16, each a name alone (`api`), which the
    /// environment's own ending completes (`api.prod.acme.apps.example.com`), or that whole name. What is
    /// said replaces what was said before; an empty list takes all hosts away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// It takes a share of another app's requests, in the same environment. Where it was not deployed before,
    /// it begins with that app's settings (hosts and autoscaling excepted), variables and secrets, and what is
    /// said with it is laid over them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// How it is to run, out of a stored config. What a later version has written and we do not know is left out:
/// good enough to show. Nothing is made so by it: see [`understood`].
pub(super) fn settings_of(config: &Value) -> Settings {
    understood(config).unwrap_or_else(|_| {
        let mut known = config.clone();
        if let Some(fields) = known.as_object_mut() {
            fields.retain(|name, value| {
                let alone = json!({ name.as_str(): value });
                serde_json::from_value::<Settings>(alone).is_ok()
            });
        }
        serde_json::from_value(known).unwrap_or_default()
    })
}

/// The same, if we know all that it says; else why not.
pub(super) fn understood(config: &Value) -> Result<Settings, String> {
    let mut config = config.clone();
    if let Some(object) = config.as_object_mut() {
        object.remove("variables");
        object.remove("secret_versions");
    }
    serde_json::from_value(config).map_err(|error| error.to_string())
}

/// A share of another app's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The app, deployed in the same environment, and no canary itself.
    pub of: String,
    /// The share, in percent: 1 to 100. A Gateway splits requests by it. Where there is none, requests are
    /// split evenly among replicas: without `replicas` the canary gets as many as come nearest to it.
    pub percent: i32,
}

/// A number of replicas that follows the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Autoscale {
    /// Least replicas, from 1.
    pub min: i32,
    /// Most replicas, to 100.
    pub max: i32,
    /// The share of the CPU asked for that pods shall use, in percent: 1 to 100; 80 when absent.
    #[serde(default = "eighty")]
    pub cpu_percent: i32,
}

fn eighty() -> i32 {
    80
}

impl Settings {
    /// The port that the app listens on.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// How long a change may take, in seconds.
    pub fn deadline_s(&self) -> u32 {
        self.deadline_s.unwrap_or(DEFAULT_DEADLINE_S)
    }

    /// Whether these can be what an app runs with.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |field: &str, why: &str| Err(Invalid::new(&format!("settings.{field}"), why));
        if self.port == Some(0) {
            return invalid("port", "must be 1 to 65535");
        }
        if let Some(path) = &self.health_path {
            let fits = path.starts_with('/')
                && path.len() <= 1_024
                && path.bytes().all(|b| b.is_ascii_graphic());
            if !fits {
                return invalid(
                    "health_path",
                    "must be a path that begins with `/`, such as /healthz",
                );
            }
        }
        if let Some(cpu) = &self.cpu
            && !quantity(cpu, &["m", ""])
        {
            return invalid("cpu", "must be a number of cores, such as 250m or 2");
        }
        if let Some(memory) = &self.memory
            && !quantity(memory, &["Ki", "Mi", "Gi", "k", "M", "G"])
        {
            return invalid(
                "memory",
                "must be a number of bytes with its unit, such as 256Mi or 1Gi",
            );
        }
        let words = &self.command;
        let word = |word: &String| word.len() <= 4_096 && !word.contains('\0');
        if words.len() > MAX_WORDS || !words.iter().all(word) {
            return invalid("command", "must be at most 100 words of at most 4096 bytes");
        }
        if let Some(scale) = self.autoscale {
            if !(1..=MAX_AUTOSCALED).contains(&scale.min)
                || !(scale.min..=MAX_AUTOSCALED).contains(&scale.max)
            {
                return invalid(
                    "autoscale",
                    "must be at least 1 and at most 100 replicas, `min` first",
                );
            }
            if !(1..=100).contains(&scale.cpu_percent) {
                return invalid("autoscale.cpu_percent", "must be 1 to 100");
            }
        }
        if self.run_as_user.is_some_and(|user| user == 0 || i32::try_from(user).is_err()) {
            return invalid("run_as_user", "must be 1 to 2147483647: nothing runs as root");
        }
        if !(5..=MAX_DEADLINE_S).contains(&self.deadline_s()) {
            return invalid("deadline_s", "must be 5 to 3600 seconds");
        }
        if self.hosts.as_ref().is_some_and(|hosts| hosts.len() > MAX_HOSTS) {
            return invalid("hosts", &format!("may be at most {MAX_HOSTS}"));
        }
        if let Some(canary) = &self.canary {
            names::app("settings.canary.of", &canary.of)?;
            if !(1..=100).contains(&canary.percent) {
                return invalid("canary.percent", "must be 1 to 100");
            }
        }
        secrets::check(self.secrets.as_deref().unwrap_or_default())
    }
}

/// Whether it is a positive decimal number with one of these units.
fn quantity(text: &str, units: &[&str]) -> bool {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    number.len() <= 12
        && number.parse::<f64>().is_ok_and(|number| number > 0.0)
        && units.contains(&unit)
}

/// Whether there can be so many replicas.
pub fn replicas(count: i64) -> Result<i32, Invalid> {
    match i32::try_from(count) {
        Ok(count) if (0..=MAX_REPLICAS).contains(&count) => Ok(count),
        _ => {
            Err(Invalid::new("replicas", format_args!("must be 0 to {MAX_REPLICAS}, not {count}")))
        }
    }
}

/// Whether these can be environment variables.
pub fn variables(variables: &Variables) -> Result<(), Invalid> {
    let invalid = |why: String| Err(Invalid::new("env_vars", why));
    if variables.len() > MAX_VARIABLES {
        return invalid(format!("may be at most {MAX_VARIABLES} variables"));
    }
    let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_VARIABLES_BYTES {
        return invalid(format!("may have at most {MAX_VARIABLES_BYTES} bytes together"));
    }
    for (name, value) in variables {
        let fits = (1..=253).contains(&name.len())
            && !name.as_bytes()[0].is_ascii_digit()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return invalid(format!(
                "`{}` is not a variable's name: letters, digits and `_`, no digit first",
                name.escape_default().to_string().chars().take(80).collect::<String>()
            ));
        }
        if value.contains('\0') {
            return invalid(format!("{name}: may not contain the character U+0000"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: Value) -> Result<(), String> {
        let settings: Settings = serde_json::from_value(settings).map_err(|e| e.to_string())?;
        settings.check().map_err(|invalid| format!("{}: {}", invalid.field, invalid.message))
    }

    #[test]
    fn settings_are_checked_before_a_cluster_is_asked() {
        for good in [
            json!({}),
            json!({"port": 80, "health_path": "/healthz?x=1", "cpu": "0.5", "memory": "1.5Gi"}),
            json!({"autoscale": {"min": 1, "max": 100}}),
            json!({"command": ["/app", "--flag"], "run_as_user": 1000, "deadline_s": 5}),
            json!({"secrets": [{"name": "A"}, {"name": "B", "file": "/run/secrets/b"}]}),
            json!({"hosts": [], "canary": {"of": "api", "percent": 100}}),
        ] {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        for (bad, field) in [
            (json!({"port": 0}), "port"),
            (json!({"health_path": "healthz"}), "health_path"),
            (json!({"health_path": "/a b"}), "health_path"),
            (json!({"cpu": "1Gi"}), "cpu"),
            (json!({"cpu": "0"}), "cpu"),
            (json!({"cpu": "1e9"}), "cpu"),
            (json!({"memory": "256"}), "memory"),
            (json!({"memory": "-1Mi"}), "memory"),
            (json!({"autoscale": {"min": 0, "max": 1}}), "autoscale"),
            (json!({"autoscale": {"min": 5, "max": 4}}), "autoscale"),
            (json!({"autoscale": {"min": 1, "max": 1000}}), "autoscale"),
            (json!({"run_as_user": 0}), "run_as_user"),
            (json!({"deadline_s": 1}), "deadline_s"),
            (json!({"hosts": vec!["a"; 17]}), "hosts"),
            (json!({"canary": {"of": "api", "percent": 0}}), "canary.percent"),
            (json!({"canary": {"of": "api", "percent": 101}}), "canary.percent"),
            (json!({"canary": {"of": "API", "percent": 1}}), "canary.of"),
            (json!({"canary": {"of": "api"}}), "percent"),
            (json!({"privileged": true}), "privileged"),
            (json!({"secrets": [{"name": "A", "value": "x"}]}), "value"),
            (json!({"secrets": [{"name": "A", "file": "/etc/passwd"}]}), "secrets"),
        ] {
            let refused = check(bad.clone()).expect_err(&bad.to_string());
            assert!(refused.contains(field), "{bad}: {refused}");
        }
    }

    #[test]
    fn what_a_later_version_has_written_is_shown_and_not_acted_upon() {
        let config = json!({
            "port": 9090, "deadline_s": 60, "variables": ["A"], "secret_versions": { "B": 1 },
        });
        let known = understood(&config).expect("settings");
        assert_eq!((known.port, known.deadline_s), (Some(9090), Some(60)));
        let mut later = config.clone();
        later["gpu"] = json!(1);
        assert!(understood(&later).is_err_and(|why| why.contains("gpu")));
        assert_eq!(settings_of(&later), known);
        later["autoscale"] = json!({ "min": 2, "max": 9, "memory_percent": 80 });
        assert!(understood(&later).is_err());
        assert_eq!(settings_of(&later), known, "half a setting is none");
    }

    #[test]
    fn replicas_and_variables_have_limits() {
        assert_eq!(replicas(0), Ok(0));
        for bad in [-1, 1_001, 1_000_000_000, i64::MAX, i64::MIN] {
            assert!(replicas(bad).is_err(), "{bad}");
        }
        let named = |name: &str| variables(&Variables::from([(name.to_owned(), "x".to_owned())]));
        assert_eq!(named("DATABASE_URL"), Ok(()));
        for bad in ["", "1A", "A-B", "A B", "Ä", "A=B", "A.B"] {
            assert!(named(bad).is_err(), "{bad}");
        }
        let huge = Variables::from([("A".to_owned(), "x".repeat(MAX_VARIABLES_BYTES))]);
        assert!(variables(&huge).is_err());
    }
}
