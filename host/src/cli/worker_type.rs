//! `eve worker-type …`: the pools of workers, what they may run and what that may do.

use serde_json::Value;

use super::Globals;
use super::client::Client;
use super::error::{Error, Exit};
use super::json::Inputs;
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::http::Items;
use crate::worker_types::{GRANTS, WorkerType, WorkerTypeSpec};

/// List, show, define and delete worker types
///
/// A worker type names a pool of workers. It says which capabilities the skills on it are granted,
/// their limits, and the skill of requests that name none.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the worker types
    #[command(after_help = "Example:\n  eve worker-type list")]
    List,
    /// Show a worker type
    #[command(after_help = "Example:\n  eve worker-type show general")]
    Show {
        /// Its id, such as `general`
        id: String,
    },
    Set(Box<Set>),
    /// Delete a worker type; for platform administrators
    #[command(after_help = "Example:\n  eve worker-type delete experiments")]
    Delete {
        /// Its id
        id: String,
    },
}

/// Define a worker type, or change what is named of one; for platform administrators
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve worker-type set reports --name 'Reports' --default-skill report --grant queue
  eve worker-type set general --limits '{\"cpu_ms\": 20000}'

A worker of the new type: eve worker --type reports")]
pub struct Set {
    /// Its id, such as `general`
    id: String,
    /// Its name for people
    #[arg(long)]
    name: Option<String>,
    /// The skill of requests that name none
    #[arg(long, value_name = "NAME")]
    default_skill: Option<String>,
    /// What skills may import, all of it; repeatable, or separated by commas
    #[arg(long = "grant", value_name = "NAME", value_delimiter = ',',
          value_parser = clap::builder::PossibleValuesParser::new(GRANTS))]
    grants: Option<Vec<String>>,
    /// What it is good for, all of it, for display; repeatable, or separated by commas
    #[arg(long = "capability", value_name = "NAME", value_delimiter = ',')]
    capabilities: Option<Vec<String>>,
    /// Settings: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    config: Option<String>,
    /// Limits of a run: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    limits: Option<String>,
    /// The database schema that its skills keep their state in
    #[arg(long, value_name = "NAME")]
    schema_name: Option<String>,
    /// The container image of its workers, for display
    #[arg(long, value_name = "IMAGE")]
    docker_image: Option<String>,
}

impl Render for WorkerType {
    fn render(&self, view: &View) -> String {
        let json =
            |value: &Value| text_cell(serde_json::to_string_pretty(value).unwrap_or_default());
        view.details([
            ("id", cell(&self.id)),
            ("name", cell(&self.name)),
            ("default skill", optional(self.default_skill.as_ref())),
            ("grants", words(&self.grants)),
            ("capabilities", words(&self.capabilities)),
            ("limits", json(&self.limits)),
            ("config", json(&self.config)),
            ("schema", optional(self.schema_name.as_ref())),
            ("image", optional(self.docker_image.as_ref())),
        ])
    }
}

fn words(words: &[String]) -> comfy_table::Cell {
    optional((!words.is_empty()).then(|| words.join(", ")))
}

impl Render for Items<WorkerType> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No worker types.".to_owned();
        }
        let rows = self.items.iter().map(|item| {
            [
                cell(&item.id),
                optional(item.default_skill.as_ref()),
                words(&item.grants),
                cell(&item.name),
            ]
        });
        view.table(["ID", "DEFAULT SKILL", "GRANTS", "NAME"], 3, rows)
    }
}

/// Runs `eve worker-type …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::List => {
            out.show(&globals.connect()?.get::<Items<WorkerType>>(&["worker-types"]).await?)?;
        }
        Command::Show { id } => {
            out.show(&globals.connect()?.get::<WorkerType>(&["worker-types", &id]).await?)?;
        }
        Command::Set(command) => {
            let mut inputs = Inputs::default();
            let config = inputs.optional_object("--config", command.config.as_deref())?;
            let limits = inputs.optional_object("--limits", command.limits.as_deref())?;
            let client = globals.connect()?;
            let id = command.id.clone();
            let mut spec = present(&client, &id).await?;
            command.change(&mut spec, config, limits);
            let path = ["worker-types", &id];
            out.show(&client.put::<WorkerType>(&path, &spec).await?)?;
        }
        Command::Delete { id } => {
            globals.connect()?.delete(&["worker-types", &id]).await?;
            out.note(&format!("deleted {id}"));
        }
    }
    Ok(Exit::Ok)
}

/// The worker type as it stands, or one with the usual grants and nothing else. The API replaces a
/// worker type as a whole.
async fn present(client: &Client, id: &str) -> Result<WorkerTypeSpec, Error> {
    match client.get::<WorkerType>(&["worker-types", id]).await {
        Ok(found) => Ok(found.into()),
        Err(error) if error.exit() == Exit::NotFound => Ok(WorkerTypeSpec::named(id)),
        Err(error) => Err(error),
    }
}

impl Set {
    fn change(self, spec: &mut WorkerTypeSpec, config: Option<Value>, limits: Option<Value>) {
        fn set<T>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        set(&mut spec.name, self.name);
        set(&mut spec.grants, self.grants);
        set(&mut spec.capabilities, self.capabilities);
        set(&mut spec.config, config);
        set(&mut spec.limits, limits);
        set(&mut spec.default_skill, self.default_skill.map(Some));
        set(&mut spec.schema_name, self.schema_name.map(Some));
        set(&mut spec.docker_image, self.docker_image.map(Some));
    }
}
