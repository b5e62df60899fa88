//! `eve app …`: what can be deployed.

use super::Globals;
use super::error::{Error, Exit};
use super::json::Inputs;
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::deployments::apps::{App, NewApp};
use crate::http::{AppPage, Items};
use crate::requests::empty_object;

/// What one page holds at most.
const PAGE: &str = "500";

/// Register apps, which can then be deployed
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Create(Create),
    /// List the apps
    #[command(after_help = "Example:\n  eve app list")]
    List,
    /// Show an app, and where it is deployed
    #[command(after_help = "Example:\n  eve app show api-service")]
    Show {
        /// Its name
        name: String,
    },
    /// Delete an app that is deployed nowhere, and its history
    #[command(after_help = "Example:\n  eve app delete api-service")]
    Delete {
        /// Its name
        name: String,
    },
}

/// Register an app
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  eve app create --name api-service --repo-url git@github.com:acme/api.git")]
pub struct Create {
    /// Its name: lower-case letters, digits and -, at most 50; its service has it as well
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The repository of its source
    #[arg(long, value_name = "URL")]
    repo_url: Option<String>,
    /// Whatever skills want to know of it: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    config: Option<String>,
}

impl Render for App {
    fn render(&self, view: &View) -> String {
        let config = serde_json::to_string_pretty(&self.config).unwrap_or_default();
        view.details([
            ("name", cell(&self.name)),
            ("repository", optional(self.repo_url.as_ref())),
            ("deployed in", places(self)),
            ("config", text_cell(config)),
            ("created", view.moment(self.created_at)),
        ])
    }
}

fn places(app: &App) -> comfy_table::Cell {
    optional((!app.environments.is_empty()).then(|| app.environments.join(", ")))
}

impl Render for Items<App> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No apps. `eve app create --name NAME` registers one.".to_owned();
        }
        let rows = self.items.iter().map(|app| {
            [
                cell(&app.name),
                places(app),
                cell(view.ago(app.created_at)),
                optional(app.repo_url.as_ref()),
            ]
        });
        view.table(["NAME", "DEPLOYED IN", "AGE", "REPOSITORY"], 3, rows)
    }
}

/// Runs `eve app …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Create(command) => {
            let config =
                Inputs::default().optional_object("--config", command.config.as_deref())?;
            let new = NewApp {
                name: command.name,
                repo_url: command.repo_url,
                config: config.unwrap_or_else(empty_object),
            };
            out.show(&globals.connect()?.post::<App>(&["apps"], &new).await?)?;
        }
        Command::List => {
            let client = globals.connect()?;
            let mut cursor = None;
            let mut items = Vec::new();
            loop {
                let mut query = vec![("limit", PAGE.to_owned())];
                query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
                let page: AppPage = client.get_where(&["apps"], &query).await?;
                let empty = page.items.is_empty();
                items.extend(page.items);
                // An empty page ends it whatever its cursor says: a list must not go on for ever.
                if page.next_cursor.is_none() || empty {
                    break;
                }
                cursor = page.next_cursor;
            }
            out.show(&Items { items })?;
        }
        Command::Show { name } => {
            out.show(&globals.connect()?.get::<App>(&["apps", &name]).await?)?;
        }
        Command::Delete { name } => {
            globals.connect()?.delete(&["apps", &name]).await?;
            out.note(&format!("deleted {name}"));
        }
    }
    Ok(Exit::Ok)
}
