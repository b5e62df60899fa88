//! `eve deploy diff`.

use serde_json::Value;
use similar::TextDiff;

use super::super::Globals;
use super::super::error::{Error, Exit};
use super::super::output::{Output, Render, View, plain_text};
use super::Target;
use super::create::Wishes;
use crate::deployments::diff::{Change, Diff, ObjectDiff, SettingDiff, VariableDiff};

/// Unchanged lines that are shown around a change.
const AROUND: usize = 3;

/// Show what a change would alter, or what in the cluster is not as it should be
///
/// Without flags: where the cluster differs from what the latest revision says. With those of `eve deploy
/// create`: what that would alter, of what was asked for and, by a dry run, in the cluster; pods are
/// replaced by it even where nothing differs. Nothing is changed, and values of variables are never shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve deploy diff --app api-service --env prod                    what has drifted
  eve deploy diff --app api-service --env prod --image acme/api:v1.2.4 --replicas 5

Exit codes: 0, and with --exit-code 1 if anything differs, as git has it.")]
pub struct Differ {
    #[command(flatten)]
    target: Target,
    /// Another image: [registry/]repository[:tag][@digest]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    wishes: Wishes,
    /// End with 1 if anything differs
    #[arg(long)]
    exit_code: bool,
    /// What to run instead of the image's entry point, behind --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Differ {
    /// Runs it.
    pub async fn run(self, globals: &Globals, out: &Output) -> Result<Exit, Error> {
        let (env_vars, settings) = self.wishes.read(&self.command)?;
        let change = Change {
            image: self.image.clone(),
            replicas: self.wishes.replicas(),
            env_vars,
            settings,
        };
        let client = globals.connect()?;
        let diff: Diff = client.post(&self.target.path(&["diff"]), &change).await?;
        out.show(&diff)?;
        Ok(if diff.different && self.exit_code { Exit::Failed } else { Exit::Ok })
    }
}

impl Render for Diff {
    fn render(&self, view: &View) -> String {
        if !self.different {
            return "Nothing differs.".to_owned();
        }
        let mut sheet = Sheet { text: String::new(), colour: view.colour };
        if !self.settings.is_empty() || self.variables != VariableDiff::default() {
            let now = self.revision.map_or("nothing".to_owned(), |it| format!("revision {it}"));
            sheet.line(Look::Title, &format!("--- {} in {}, {now}", self.app, self.env));
            sheet.line(Look::Title, &format!("+++ {} in {}, changed", self.app, self.env));
            self.settings.iter().for_each(|setting| sheet.setting(setting));
            sheet.variables(&self.variables);
        }
        self.objects.iter().for_each(|object| sheet.object(object));
        sheet.text.trim_end().to_owned()
    }
}

/// What a line is.
#[derive(Clone, Copy)]
enum Look {
    Title,
    Place,
    Gone,
    New,
    Same,
}

struct Sheet {
    text: String,
    colour: bool,
}

impl Sheet {
    fn line(&mut self, look: Look, line: &str) {
        let code = match look {
            Look::Title => "1",
            Look::Place => "36",
            Look::Gone => "31",
            Look::New => "32",
            Look::Same => "0",
        };
        let line = plain_text(line.trim_end_matches('\n'));
        match self.colour && !matches!(look, Look::Same) {
            true => self.text.push_str(&format!("\x1b[{code}m{line}\x1b[0m\n")),
            false => self.text.push_str(&format!("{line}\n")),
        }
    }

    fn setting(&mut self, setting: &SettingDiff) {
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        for (look, sign, value) in
            [(Look::Gone, '-', &setting.before), (Look::New, '+', &setting.after)]
        {
            if let Some(value) = value {
                self.line(look, &format!("{sign}{}: {}", setting.name, shown(value)));
            }
        }
    }

    fn variables(&mut self, variables: &VariableDiff) {
        for name in &variables.removed {
            self.line(Look::Gone, &format!("-variable {name}"));
        }
        for name in &variables.changed {
            self.line(Look::Gone, &format!("-variable {name}"));
            self.line(Look::New, &format!("+variable {name} (another value)"));
        }
        for name in &variables.added {
            self.line(Look::New, &format!("+variable {name}"));
        }
    }

    fn object(&mut self, object: &ObjectDiff) {
        let name = format!("{}/{}", object.kind, object.name);
        let end = |side: char, there: bool| match there {
            true => format!("{side}/{name}"),
            false => "/dev/null".to_owned(),
        };
        let refused = object.refused.is_some();
        self.line(Look::Title, &format!("--- {}", end('a', object.before.is_some())));
        self.line(Look::Title, &format!("+++ {}", end('b', object.after.is_some() || refused)));
        for other in &object.others {
            self.line(Look::Place, &format!("# set by {other}"));
        }
        if let Some(refused) = &object.refused {
            self.line(Look::Gone, &format!("# the cluster would refuse it: {refused}"));
            return;
        }
        let (before, after) = (yaml(object.before.as_ref()), yaml(object.after.as_ref()));
        let diff = TextDiff::from_lines(&before, &after);
        for hunk in diff.unified_diff().context_radius(AROUND).iter_hunks() {
            self.line(Look::Place, &hunk.header().to_string());
            for change in hunk.iter_changes() {
                let look = match change.tag() {
                    similar::ChangeTag::Delete => Look::Gone,
                    similar::ChangeTag::Insert => Look::New,
                    similar::ChangeTag::Equal => Look::Same,
                };
                self.line(look, &format!("{}{}", change.tag(), change.value()));
            }
        }
    }
}

/// An object as people read it; nothing for none.
fn yaml(object: Option<&Value>) -> String {
    let Some(object) = object else { return String::new() };
    let mut text = serde_saphyr::to_string(object).unwrap_or_else(|_| format!("{object:#}"));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::output::tests::view;
    use super::*;

    #[test]
    fn differences_for_people() {
        let object = |replicas: i32, image: &str| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"},
                "spec": {"replicas": replicas, "template": {"spec": {"containers": [{
                    "name": "app", "image": image, "env": [{"name": "KEY", "value": "(hidden)"}],
                }]}}},
            })
        };
        let diff: Diff = serde_json::from_value(json!({
            "app": "api", "env": "prod", "revision": 3, "different": true,
            "settings": [
                {"name": "image", "before": "acme/api:v1", "after": "acme/api:v2\u{1b}[2J"},
                {"name": "settings.hosts", "before": null, "after": ["api"]},
                {"name": "settings.port", "before": 80, "after": null},
            ],
            "variables": {"added": ["NEW"], "removed": ["OLD"], "changed": ["KEY"]},
            "objects": [
                {"kind": "Deployment", "name": "api", "before": object(1, "acme/api:v1"),
                 "after": object(2, "acme/api:v2"), "others": ["kubectl-edit: replicas"],
                 "refused": null},
                {"kind": "Ingress", "name": "api", "before": null, "after": null, "others": [],
                 "refused": "denied: every rule needs a host"},
                {"kind": "Service", "name": "api", "before": {"kind": "Service"}, "after": null,
                 "others": [], "refused": null},
            ],
        }))
        .expect("a diff");
        insta::assert_snapshot!(diff.render(&view()));
        let nothing = Diff { different: false, ..diff };
        assert_eq!(nothing.render(&view()), "Nothing differs.");
    }
}
