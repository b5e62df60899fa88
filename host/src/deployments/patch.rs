//! Changes to settings: merge patches ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)). What is left out
//! stays as it is, and what is null is no longer said: it is as if it never had been.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::{Autoscale, Canary, MAX_AUTOSCALED, Settings};
use crate::requests::Invalid;

/// What of the settings is to be different.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Patch(Map<String, Value>);

impl Patch {
    /// Whether a setting is given a value.
    pub fn sets(&self, setting: &str) -> bool {
        self.0.get(setting).is_some_and(|value| !value.is_null())
    }

    /// The app whose canary it makes one.
    pub fn canary_of(&self) -> Option<&str> {
        self.0.get("canary")?.get("of")?.as_str()
    }

    /// Checks what can be checked without knowing what was said before.
    pub fn check(&self) -> Result<(), Invalid> {
        // Of what has parts, a part may be changed: the others are then as wide as they can be.
        let widest = Settings {
            autoscale: Some(Autoscale { min: 1, max: MAX_AUTOSCALED, cpu_percent: 80 }),
            canary: Some(Canary { of: "a".to_owned(), percent: 1 }),
            ..Settings::default()
        };
        self.apply(&widest)?.check()
    }

    /// Changes settings as they are shown, as applying this would.
    pub fn merge_into(&self, shown: &mut Value) {
        merge(shown, &self.0);
    }

    /// Has a setting no longer be said; fails if there is none of the name, or it is said here.
    pub fn unset(&mut self, setting: &str) -> Result<(), String> {
        is_setting(setting)?;
        match self.0.insert(setting.to_owned(), Value::Null) {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(format!("`{setting}` cannot be set and unset at once")),
        }
    }

    /// The settings that come of these.
    pub fn apply(&self, before: &Settings) -> Result<Settings, Invalid> {
        for (name, value) in &self.0 {
            if value.is_null() {
                is_setting(name).map_err(|why| Invalid::new(&format!("settings.{name}"), why))?;
            }
        }
        let mut whole = serde_json::to_value(before).expect("settings always serialise");
        merge(&mut whole, &self.0);
        serde_path_to_error::deserialize(whole).map_err(|error| {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            // Serde says which field it does not know; the path does not.
            let field = match message.strip_prefix("unknown field `") {
                Some(rest) => rest.split('`').next().unwrap_or_default().to_owned(),
                None => path,
            };
            Invalid::new(&format!("settings.{field}"), message)
        })
    }
}

impl From<Settings> for Patch {
    fn from(settings: Settings) -> Self {
        match serde_json::to_value(settings) {
            Ok(Value::Object(fields)) => Patch(fields),
            _ => unreachable!("settings always serialise as an object"),
        }
    }
}

/// Whether there is a setting of that name; else which there are.
pub fn is_setting(name: &str) -> Result<(), String> {
    let only = Map::from_iter([(name.to_owned(), Value::Null)]);
    match serde_json::from_value::<Settings>(Value::Object(only)) {
        // Whether it may be null is not the question.
        Err(error) if error.to_string().starts_with("unknown field") => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// RFC 7396, section 2. No deeper than JSON that was parsed: 128.
fn merge(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, value) in patch {
        match value {
            Value::Null => {
                fields.remove(name);
            }
            Value::Object(below) => merge(fields.entry(name).or_insert(Value::Null), below),
            value => {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(before: Value, patch: Value) -> Result<Value, String> {
        let before: Settings = serde_json::from_value(before).expect("settings");
        let patch: Patch = serde_json::from_value(patch).expect("an object");
        let after =
            patch.apply(&before).map_err(|bad| format!("{}: {}", bad.field, bad.message))?;
        Ok(serde_json::to_value(after).expect("JSON"))
    }

    #[test]
    fn what_is_left_out_stays_and_what_is_null_goes() {
        let before = json!({
            "port": 80, "health_path": "/up", "cpu": "1", "memory": "1Gi", "command": ["/app"],
            "autoscale": { "min": 2, "max": 10, "cpu_percent": 50 }, "run_as_user": 1000,
            "deadline_s": 60,
        });
        let patched = |patch| applied(before.clone(), patch);
        assert_eq!(patched(json!({})), Ok(before.clone()));
        let mut expected = before.clone();
        expected["cpu"] = json!("2");
        expected["autoscale"]["max"] = json!(20);
        expected["command"] = json!(["/app", "-x"]);
        let patch = json!({ "cpu": "2", "autoscale": { "max": 20 }, "command": ["/app", "-x"] });
        assert_eq!(patched(patch), Ok(expected));
        // Every setting can be unset.
        for name in before.as_object().expect("an object").keys() {
            let mut expected = before.clone();
            expected.as_object_mut().expect("an object").remove(name);
            assert_eq!(patched(json!({ name: null })), Ok(expected), "{name}");
        }
        // Within one as well, as far as there is something that it then is.
        let mut expected = before.clone();
        expected["autoscale"]["cpu_percent"] = json!(80);
        assert_eq!(patched(json!({ "autoscale": { "cpu_percent": null } })), Ok(expected));
        assert_eq!(applied(json!({}), json!({ "port": null })), Ok(json!({})), "it was not set");
    }

    #[test]
    fn what_leads_to_an_app_and_its_secrets_are_patched_likewise() {
        let before = json!({
            "secrets": [{ "name": "A" }], "hosts": ["api"], "canary": { "of": "api", "percent": 10 },
        });
        let patched = |patch| applied(before.clone(), patch);
        assert_eq!(patched(json!({})), Ok(before.clone()));
        let mut expected = before.clone();
        expected["canary"]["percent"] = json!(50);
        expected["hosts"] = json!(["www"]);
        assert_eq!(patched(json!({ "canary": { "percent": 50 }, "hosts": ["www"] })), Ok(expected));
        for name in ["secrets", "hosts", "canary"] {
            let mut expected = before.clone();
            expected.as_object_mut().expect("an object").remove(name);
            assert_eq!(patched(json!({ name: null })), Ok(expected), "{name}");
        }
    }

    #[test]
    fn a_patch_is_checked_without_what_was_said_before() {
        let check = |patch: Value| {
            let patch: Patch = serde_json::from_value(patch).expect("an object");
            patch.check().map_err(|bad| bad.field)
        };
        for good in [
            json!({}),
            json!({ "autoscale": { "max": 3 }, "canary": { "percent": 50 }, "cpu": null }),
            json!({ "autoscale": { "min": 3 } }),
        ] {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        for (bad, field) in [
            (json!({ "autoscale": { "max": 1_000 } }), "settings.autoscale"),
            (json!({ "canary": { "percent": 0 } }), "settings.canary.percent"),
            (json!({ "privileged": true }), "settings.privileged"),
            (json!({ "cpu": "lots" }), "settings.cpu"),
        ] {
            assert_eq!(check(bad.clone()), Err(field.to_owned()), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (patch, field) in [
            (json!({ "port": "x" }), "settings.port: "),
            (json!({ "port": 70_000 }), "settings.port: "),
            (json!({ "privileged": true }), "settings.privileged: unknown field"),
            (json!({ "privileged": null }), "settings.privileged: unknown field"),
            (json!({ "autoscale": { "max": 3 } }), "settings.autoscale: missing field `min`"),
            (json!({ "autoscale": { "most": 3, "min": 1, "max": 1 } }), "settings."),
            (json!({ "command": "x" }), "settings.command: "),
        ] {
            let refused = applied(json!({}), patch.clone()).expect_err(&patch.to_string());
            assert!(refused.starts_with(field), "{patch}: {refused}");
        }
        assert!(serde_json::from_value::<Patch>(json!([])).is_err());
    }

    #[test]
    fn unsetting_names_a_setting_that_is_not_set_at_once() {
        let mut patch = Patch::from(Settings { port: Some(80), ..Settings::default() });
        assert_eq!(patch.unset("health_path"), Ok(()));
        assert_eq!(patch.unset("health_path"), Ok(()), "twice is once");
        assert!(patch.unset("port").is_err_and(|why| why.contains("at once")));
        assert!(patch.unset("x").is_err_and(|why| why.contains("`health_path`")));
        assert_eq!(
            serde_json::to_value(&patch).expect("JSON"),
            json!({ "port": null, "health_path": null })
        );
    }
}
