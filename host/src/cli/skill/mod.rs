//! `eve skill …`: write skills, push them, choose which version runs, show what there is.
//!
//! Flow: `new` writes a skill's folder; `project` reads one, `build` makes its component with the tools
//! of its language, `local` has that checked and run by the real runtime, for `test` and `run`; `find`
//! looks for what `push` uploads, and `dev` does it all whenever a file changes. `show` is how skills
//! look.
//!
//! Invariants:
//! - `new`, `build`, `test` and `run` need no server, and talk to none.
//! - What is checked here is checked by the server's own code: a component that builds can be pushed.

mod build;
mod dev;
mod find;
mod local;
mod new;
mod project;
mod push;
mod run;
mod sdk;
mod show;
mod state;
mod test;
mod trigger;

use super::Globals;
use super::error::{Error, Exit};
use super::output::Output;
use crate::http::Items;
use crate::runtime::Capability;
use crate::schemas::grants::SchemaGrant;
use crate::skills::capabilities::CapabilityGrant;
use crate::skills::store::{Skill, SkillDetail, Version};

/// Write, test, push, list, show, activate and delete skills
///
/// A skill is a WebAssembly component with a SKILL.md beside it. Every push makes a version that never
/// changes; one version is active and runs. Activating another one takes effect at once.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    New(new::New),
    Build(build::Build),
    Test(test::Test),
    Run(Box<run::Run>),
    Dev(dev::Dev),
    Push(push::Push),
    /// List the skills: your organisation's and the platform's
    #[command(after_help = "Example:\n  eve skill list")]
    List,
    /// Show a skill: its versions, what it needs, and where it can run
    #[command(after_help = "\
Examples:
  eve skill show echo
  eve skill show echo | jq -r '.versions[].sha256'
  eve skill show echo | jq '.worker_types[] | select(.runs | not)'")]
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
    /// Let a skill reach a schema of your organisation; for admins
    ///
    /// Activating your organisation's own skill approves the schemas that its SKILL.md names. A skill of
    /// the platform needs this.
    #[command(after_help = "\
Examples:
  eve skill approve devops-orchestrator --schema devops_projects
  eve skill approve devops-orchestrator --schema devops_projects --withdraw")]
    Approve {
        /// The skill's name
        name: String,
        /// The schema's name
        #[arg(long, value_name = "NAME")]
        schema: String,
        /// Take the approval back
        #[arg(long)]
        withdraw: bool,
    },
    /// Give a capability back to a skill, in your organisation; for admins
    ///
    /// A skill has what its worker type grants, less what was revoked from it here. `eve skill show` tells
    /// what it needs, and where it can run.
    #[command(after_help = "Example:\n  eve skill grant text-stats queue")]
    Grant {
        /// The skill's name
        name: String,
        /// The capability
        #[arg(value_parser = capability_parser())]
        capability: String,
    },
    /// Revoke a capability from a skill, in your organisation; for admins
    ///
    /// Whatever its worker type grants, and whichever version is active: requests that are claimed from now
    /// on fail as `not_granted` if the skill imports it, until it is given back. Runs that are under way
    /// finish as they began.
    #[command(after_help = "Example:\n  eve skill revoke text-stats queue")]
    Revoke {
        /// The skill's name
        name: String,
        /// The capability
        #[arg(value_parser = capability_parser())]
        capability: String,
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

fn capability_parser() -> clap::builder::PossibleValuesParser {
    Capability::ALL.map(Capability::as_str).into()
}

/// Runs `eve skill …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::New(command) => return new::run(command, out),
        Command::Build(command) => return build::run(command, out).await,
        Command::Test(command) => return test::run(command, out).await,
        Command::Run(command) => return run::run(*command, out).await,
        Command::Dev(command) => return dev::run(command, globals, out).await,
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
        Command::Approve { name, schema, withdraw: true } => {
            globals.connect()?.delete(&["skills", &name, "schemas", &schema]).await?;
            out.note(&format!("{name} may not reach {schema} any more"));
        }
        Command::Approve { name, schema, withdraw: false } => {
            let path = ["skills", name.as_str(), "schemas", schema.as_str()];
            let grants: Items<SchemaGrant> = globals.connect()?.put(&path, &()).await?;
            out.json(&grants)?;
            out.note(&format!("{name} may reach {schema}"));
        }
        Command::Grant { name, capability } => {
            let path = ["skills", name.as_str(), "capabilities", capability.as_str()];
            let grants: Items<CapabilityGrant> = globals.connect()?.put(&path, &()).await?;
            out.json(&grants)?;
            out.note(&format!(
                "{name} may use {capability} again, where its worker type grants it"
            ));
        }
        Command::Revoke { name, capability } => {
            globals.connect()?.delete(&["skills", &name, "capabilities", &capability]).await?;
            out.note(&format!("{name} may not use {capability} any more"));
        }
        Command::Delete { name } => {
            globals.connect()?.delete(&["skills", &name]).await?;
            out.note(&format!("deleted {name}"));
        }
    }
    Ok(Exit::Ok)
}
