//! `eve org …`: the organisations that the caller belongs to.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};

/// List, create and show organisations
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the organisations that you belong to
    #[command(after_help = "Example:\n  eve org list")]
    List,
    /// Create an organisation, with you as its owner; for platform administrators
    #[command(after_help = "\
Example:
  eve org create acme --name 'Acme Corporation'
  eve --org acme token create ci --role member")]
    Create {
        /// Its short name: lower-case letters, digits and hyphens
        slug: String,
        /// Its name for people [default: the short name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Show an organisation
    #[command(after_help = "Example:\n  eve org show acme")]
    Show {
        /// Its short name
        slug: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Org {
    id: String,
    slug: String,
    name: String,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    created_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
struct Orgs {
    items: Vec<Org>,
}

impl Render for Org {
    fn render(&self, view: &View) -> String {
        let mut pairs = vec![
            ("slug", cell(&self.slug)),
            ("name", cell(&self.name)),
            ("id", cell(&self.id)),
            ("your role", optional(self.role.as_ref())),
        ];
        pairs.extend(self.created_at.map(|at| ("created", view.moment(at))));
        view.details(pairs)
    }
}

impl Render for Orgs {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "You belong to no organisation.".to_owned();
        }
        let rows = self.items.iter().map(|org| {
            [cell(&org.slug), optional(org.role.as_ref()), cell(&org.id), cell(&org.name)]
        });
        view.table(["SLUG", "YOUR ROLE", "ID", "NAME"], 3, rows)
    }
}

/// Runs `eve org …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    match command {
        Command::List => out.show(&client.get::<Orgs>(&["orgs"]).await?)?,
        Command::Show { slug } => out.show(&client.get::<Org>(&["orgs", &slug]).await?)?,
        Command::Create { slug, name } => {
            let name = name.unwrap_or_else(|| slug.clone());
            let body = serde_json::json!({ "slug": slug, "name": name });
            out.show(&client.post::<Org>(&["orgs"], &body).await?)?;
        }
    }
    Ok(Exit::Ok)
}
