//! `eve worker-type …`: the pools of workers, what they may run and what that may do.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Globals;
use super::client::Client;
use super::error::{Error, Exit};
use super::json::Inputs;
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::requests::empty_object;

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
  eve worker-type set reports --name 'Reports' --default-skill report --grant log,queue
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
    #[arg(long = "grant", value_name = "NAME", value_delimiter = ',')]
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

/// A worker type without its id, which is in the path.
#[derive(Serialize, Deserialize)]
struct Definition {
    name: String,
    #[serde(default)]
    docker_image: Option<String>,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    grants: Vec<String>,
    #[serde(default)]
    default_skill: Option<String>,
    #[serde(default = "empty_object")]
    config: Value,
    #[serde(default = "empty_object")]
    limits: Value,
    #[serde(default)]
    schema_name: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WorkerType {
    id: String,
    #[serde(flatten)]
    definition: Definition,
}

#[derive(Serialize, Deserialize)]
struct WorkerTypes {
    items: Vec<WorkerType>,
}

impl Render for WorkerType {
    fn render(&self, view: &View) -> String {
        let definition = &self.definition;
        let json =
            |value: &Value| text_cell(serde_json::to_string_pretty(value).unwrap_or_default());
        view.details([
            ("id", cell(&self.id)),
            ("name", cell(&definition.name)),
            ("default skill", optional(definition.default_skill.as_ref())),
            ("grants", words(&definition.grants)),
            ("capabilities", words(&definition.capabilities)),
            ("limits", json(&definition.limits)),
            ("config", json(&definition.config)),
            ("schema", optional(definition.schema_name.as_ref())),
            ("image", optional(definition.docker_image.as_ref())),
        ])
    }
}

fn words(words: &[String]) -> comfy_table::Cell {
    optional((!words.is_empty()).then(|| words.join(", ")))
}

impl Render for WorkerTypes {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No worker types.".to_owned();
        }
        let rows = self.items.iter().map(|item| {
            [
                cell(&item.id),
                optional(item.definition.default_skill.as_ref()),
                words(&item.definition.grants),
                cell(&item.definition.name),
            ]
        });
        view.table(["ID", "DEFAULT SKILL", "GRANTS", "NAME"], 3, rows)
    }
}

/// Runs `eve worker-type …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::List => {
            out.show(&globals.connect()?.get::<WorkerTypes>(&["worker-types"]).await?)?;
        }
        Command::Show { id } => {
            out.show(&globals.connect()?.get::<WorkerType>(&["worker-types", &id]).await?)?;
        }
        Command::Set(command) => {
            let mut inputs = Inputs::default();
            let config = inputs.optional_object("--config", command.config.as_deref())?;
            let limits = inputs.optional_object("--limits", command.limits.as_deref())?;
            let client = globals.connect()?;
            let mut definition = present(&client, &command.id).await?;
            definition.change(&command, config, limits);
            let path = ["worker-types", &command.id];
            out.show(&client.put::<WorkerType>(&path, &definition).await?)?;
        }
        Command::Delete { id } => {
            globals.connect()?.delete(&["worker-types", &id]).await?;
            out.note(&format!("deleted {id}"));
        }
    }
    Ok(Exit::Ok)
}

/// The definition as it stands, or an empty one. The API replaces a definition as a whole.
async fn present(client: &Client, id: &str) -> Result<Definition, Error> {
    match client.get::<WorkerType>(&["worker-types", id]).await {
        Ok(found) => Ok(found.definition),
        Err(error) if error.exit() == Exit::NotFound => Ok(Definition {
            name: id.to_owned(),
            docker_image: None,
            capabilities: Vec::new(),
            grants: Vec::new(),
            default_skill: None,
            config: empty_object(),
            limits: empty_object(),
            schema_name: None,
        }),
        Err(error) => Err(error),
    }
}

impl Definition {
    fn change(&mut self, flags: &Set, config: Option<Value>, limits: Option<Value>) {
        fn set<T>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        set(&mut self.name, flags.name.clone());
        set(&mut self.grants, flags.grants.clone());
        set(&mut self.capabilities, flags.capabilities.clone());
        set(&mut self.config, config);
        set(&mut self.limits, limits);
        set(&mut self.default_skill, flags.default_skill.clone().map(Some));
        set(&mut self.schema_name, flags.schema_name.clone().map(Some));
        set(&mut self.docker_image, flags.docker_image.clone().map(Some));
    }
}
