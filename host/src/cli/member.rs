//! `eve member …`: who belongs to the organisation, and as what.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};
use crate::ids::UserId;

/// What a member may do. The words are the API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Creates and reads requests and skills
    Member,
    /// Also manages members, tokens and skills' activation
    Admin,
    /// Also manages owners and the organisation itself
    Owner,
}

/// List, add and remove members of the organisation
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the members
    #[command(after_help = "Example:\n  eve member list --org acme")]
    List,
    /// Add a user, or change a member's role; for admins, and owners where owners are concerned
    #[command(after_help = "\
Example:
  eve member set 5b0c2a3e-8f4d-4f0e-9a55-0d9f3c1f7b21 --role admin")]
    Set {
        /// The user's id
        user: UserId,
        /// What the user may do
        #[arg(long)]
        role: Role,
    },
    /// Remove a member; the last owner cannot go
    #[command(after_help = "\
Example:
  eve member remove 5b0c2a3e-8f4d-4f0e-9a55-0d9f3c1f7b21")]
    Remove {
        /// The user's id
        user: UserId,
    },
}

#[derive(Serialize, Deserialize)]
struct Member {
    user_id: UserId,
    #[serde(default)]
    email: Option<String>,
    role: String,
    #[serde(default)]
    created_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
struct Members {
    items: Vec<Member>,
}

impl Render for Member {
    fn render(&self, view: &View) -> String {
        let mut pairs = vec![
            ("user", cell(self.user_id.to_string())),
            ("role", cell(&self.role)),
            ("email", optional(self.email.as_ref())),
        ];
        pairs.extend(self.created_at.map(|at| ("since", view.moment(at))));
        view.details(pairs)
    }
}

impl Render for Members {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No members.".to_owned();
        }
        let rows = self.items.iter().map(|member| {
            [cell(member.user_id.to_string()), cell(&member.role), optional(member.email.as_ref())]
        });
        view.table(["USER", "ROLE", "EMAIL"], 2, rows)
    }
}

/// Runs `eve member …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    match command {
        Command::List => out.show(&client.get::<Members>(&["members"]).await?)?,
        Command::Set { user, role } => {
            let body = serde_json::json!({ "role": role });
            let member: Member = client.put(&["members", &user.to_string()], &body).await?;
            out.show(&member)?;
        }
        Command::Remove { user } => {
            client.delete(&["members", &user.to_string()]).await?;
            out.note(&format!("removed {user}"));
        }
    }
    Ok(Exit::Ok)
}
