//! `eve org …`: the organisations that the caller belongs to.

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell};
use crate::http::Items;
use crate::tenancy::orgs::{NewOrg, Org};

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

impl Render for Org {
    fn render(&self, view: &View) -> String {
        view.details([
            ("slug", cell(&self.slug)),
            ("name", cell(&self.name)),
            ("id", cell(self.id.to_string())),
            ("your role", cell(self.role.as_str())),
            ("created", view.moment(self.created_at)),
        ])
    }
}

impl Render for Items<Org> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "You belong to no organisation.".to_owned();
        }
        let rows = self.items.iter().map(|org| {
            [cell(&org.slug), cell(org.role.as_str()), cell(org.id.to_string()), cell(&org.name)]
        });
        view.table(["SLUG", "YOUR ROLE", "ID", "NAME"], 3, rows)
    }
}

/// Runs `eve org …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    match command {
        Command::List => out.show(&client.get::<Items<Org>>(&["orgs"]).await?)?,
        Command::Show { slug } => out.show(&client.get::<Org>(&["orgs", &slug]).await?)?,
        Command::Create { slug, name } => {
            let name = name.unwrap_or_else(|| slug.clone());
            out.show(&client.post::<Org>(&["orgs"], &NewOrg { slug, name }).await?)?;
        }
    }
    Ok(Exit::Ok)
}
