//! `eve member …`: who belongs to the organisation, and as what.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};
use crate::http::Items;
use crate::ids::UserId;
use crate::tenancy::OrgRole;
use crate::tenancy::members::Member;

impl ValueEnum for OrgRole {
    fn value_variants<'a>() -> &'a [Self] {
        &OrgRole::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            OrgRole::Member => "Creates and reads requests and skills",
            OrgRole::Admin => "Also manages members, tokens and skills' activation",
            OrgRole::Owner => "Also manages owners and the organisation itself",
        };
        Some(PossibleValue::new(self.as_str()).help(help))
    }
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
        role: OrgRole,
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

impl Render for Member {
    fn render(&self, view: &View) -> String {
        view.details([
            ("user", cell(self.user_id.to_string())),
            ("role", cell(self.role.as_str())),
            ("email", optional(self.email.as_ref())),
            ("since", view.moment(self.created_at)),
        ])
    }
}

impl Render for Items<Member> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No members.".to_owned();
        }
        let rows = self.items.iter().map(|member| {
            [
                cell(member.user_id.to_string()),
                cell(member.role.as_str()),
                optional(member.email.as_ref()),
            ]
        });
        view.table(["USER", "ROLE", "EMAIL"], 2, rows)
    }
}

/// Runs `eve member …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    match command {
        Command::List => out.show(&client.get::<Items<Member>>(&["members"]).await?)?,
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
