//! `eve skill …`: push skills, choose which version runs, show what there is.

mod find;
mod push;

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional, plain_text, size};
use crate::http::Items;
use crate::skills::store::{Owner, Skill, SkillDetail, Version};

/// Push, list, show, activate and delete skills
///
/// A skill is a WebAssembly component with a SKILL.md beside it. Every push makes a version that never
/// changes; one version is active and runs. Activating another one takes effect at once.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Push(push::Push),
    /// List the skills: your organisation's and the platform's
    #[command(after_help = "Example:\n  eve skill list")]
    List,
    /// Show a skill and its versions
    #[command(after_help = "\
Examples:
  eve skill show echo
  eve skill show echo | jq -r '.versions[].sha256'")]
    Show {
        /// The skill's name
        name: String,
    },
    /// Make a version the one that runs; for admins
    ///
    /// Requests that are claimed from now on run it. Runs that are under way finish as they began.
    #[command(after_help = "\
Examples:
  eve skill activate echo 3
  eve skill activate echo 9f86d081")]
    Activate {
        /// The skill's name
        name: String,
        /// The version's label, or the first 8 or more characters of its sha256
        version: String,
    },
    /// Delete a skill and all its versions; for admins
    ///
    /// Requests that name it fail from now on.
    #[command(after_help = "Example:\n  eve skill delete echo")]
    Delete {
        /// The skill's name
        name: String,
    },
}

impl Render for Items<Skill> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No skills. `eve skill push PATH` brings one.".to_owned();
        }
        let rows = self.items.iter().map(|skill| {
            [
                cell(&skill.name),
                optional(skill.active_version.as_ref()),
                cell(owner(skill.owner)),
                cell(format!("{} ago", view.ago(skill.updated_at))),
                cell(&skill.description),
            ]
        });
        view.table(["NAME", "ACTIVE", "OWNER", "UPDATED", "DESCRIPTION"], 4, rows)
    }
}

impl Render for Version {
    fn render(&self, view: &View) -> String {
        let list = |items: &[String]| optional((!items.is_empty()).then(|| items.join(", ")));
        view.details([
            ("version", cell(&self.version)),
            ("active", cell(if self.active { "yes" } else { "no" })),
            ("sha256", cell(&self.sha256)),
            ("size", cell(bytes(self.size_bytes))),
            ("imports", list(&self.imports)),
            ("capabilities", list(&self.capabilities)),
            ("pushed", view.moment(self.created_at)),
        ])
    }
}

impl Render for SkillDetail {
    fn render(&self, view: &View) -> String {
        let skill = &self.skill;
        let mut text = view.details([
            ("name", cell(&skill.name)),
            ("description", cell(&skill.description)),
            ("owner", cell(owner(skill.owner))),
            ("active", optional(skill.active_version.as_ref())),
        ]);
        let rows = self.versions.iter().map(|version| {
            [
                cell(if version.active { "*" } else { "" }),
                cell(&version.version),
                cell(version.sha256.chars().take(12).collect::<String>()),
                cell(bytes(version.size_bytes)),
                cell(view.ago(version.created_at)),
                cell(version.imports.join(", ")),
            ]
        });
        let versions = view.table(["", "VERSION", "SHA256", "SIZE", "AGE", "IMPORTS"], 5, rows);
        text.push_str(&format!("\n\n{versions}"));
        if let Some(readme) = Some(self.readme.trim()).filter(|text| !text.is_empty()) {
            text.push_str(&format!("\n\n{}", plain_text(readme)));
        }
        text
    }
}

fn owner(owner: Owner) -> &'static str {
    match owner {
        Owner::Org => "organisation",
        Owner::Platform => "platform",
    }
}

fn bytes(count: i64) -> String {
    size(u64::try_from(count).unwrap_or(0))
}

/// Runs `eve skill …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Push(command) => push::run(command, globals, out).await?,
        Command::List => out.show(&globals.connect()?.get::<Items<Skill>>(&["skills"]).await?)?,
        Command::Show { name } => {
            out.show(&globals.connect()?.get::<SkillDetail>(&["skills", &name]).await?)?;
        }
        Command::Activate { name, version } => {
            let path = ["skills", &name, "versions", &version, "activate"];
            let body = serde_json::json!({});
            out.show(&globals.connect()?.post::<Version>(&path, &body).await?)?;
        }
        Command::Delete { name } => {
            globals.connect()?.delete(&["skills", &name]).await?;
            out.note(&format!("deleted {name}"));
        }
    }
    Ok(Exit::Ok)
}
