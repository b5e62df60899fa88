//! `eve token …`: API tokens of the organisation, for machines.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::Globals;
use super::duration;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};
use crate::http::{IssuedToken, Items};
use crate::ids::TokenId;
use crate::tenancy::OrgRole;
use crate::tenancy::tokens::{NewToken, Token, TokenScope};

const DAY: u64 = 24 * 60 * 60;

/// List, create and revoke API tokens of the organisation
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the tokens; the secrets themselves are not kept by anybody
    #[command(after_help = "Example:\n  eve token list")]
    List,
    /// Create a token and show it, this once; for admins
    #[command(after_help = "\
Examples:
  eve token create ci --role member --expires-in 90d
  EVE_TOKEN=$(eve token create ci | jq -r .token) eve request list")]
    Create {
        /// What it is for, in a word or two
        name: String,
        /// What it may do [default: what a member may]
        #[arg(long)]
        role: Option<OrgRole>,
        /// Only this part of the API; repeatable, or separated by commas [default: all]
        #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', value_parser = scope())]
        scopes: Vec<TokenScope>,
        /// For how long it is valid, in whole days such as 90d [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = days)]
        expires_in: Option<Days>,
    },
    /// Revoke a token, at once
    #[command(after_help = "Example:\n  eve token revoke 0199c7a1-5d3e-7c44-9b1a-3f2f6f0d8e11")]
    Revoke {
        /// The token's id, as `eve token list` shows it
        id: TokenId,
    },
}

/// The scopes, by their words in the API.
fn scope() -> impl TypedValueParser<Value = TokenScope> {
    PossibleValuesParser::new(TokenScope::ALL.map(TokenScope::as_str))
        .try_map(|word| TokenScope::parse(&word).ok_or("this is no scope"))
}

/// A number of whole days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u32);

fn days(text: &str) -> Result<Days, String> {
    let length: Duration = duration::parse(text)?;
    if length.subsec_nanos() != 0 || !length.as_secs().is_multiple_of(DAY) || length.is_zero() {
        return Err("tokens are valid for whole days: 30d, 90d, 365d".to_owned());
    }
    u32::try_from(length.as_secs() / DAY).map(Days).map_err(|_| "that is too long".to_owned())
}

impl Render for IssuedToken {
    fn render(&self, view: &View) -> String {
        let mut pairs = vec![
            ("token", cell(&self.token)),
            ("id", cell(self.info.id.to_string())),
            ("name", cell(&self.info.name)),
            ("role", cell(self.info.role.as_str())),
        ];
        pairs.extend(self.info.expires_at.map(|at| ("expires", view.moment(at))));
        format!("{}\n\nKeep it now: it is not shown again.", view.details(pairs))
    }
}

impl Render for Items<Token> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No tokens. `eve token create NAME` makes one.".to_owned();
        }
        let rows = self.items.iter().map(|token| {
            let scopes =
                if token.scopes.is_empty() { "all".into() } else { token.scopes.join(",") };
            [
                cell(token.id.to_string()),
                cell(format!("{}…", token.prefix)),
                cell(token.role.as_str()),
                optional(token.expires_at.map(|at| view.ago(at))),
                optional(token.last_used_at.map(|at| format!("{} ago", view.ago(at)))),
                cell(scopes),
                cell(&token.name),
            ]
        });
        view.table(["ID", "PREFIX", "ROLE", "EXPIRES", "LAST USED", "SCOPES", "NAME"], 6, rows)
    }
}

/// Runs `eve token …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    match command {
        Command::List => out.show(&client.get::<Items<Token>>(&["tokens"]).await?)?,
        Command::Create { name, role, scopes, expires_in } => {
            let body =
                NewToken { name, role, scopes, expires_in_days: expires_in.map(|days| days.0) };
            out.show(&client.post::<IssuedToken>(&["tokens"], &body).await?)?;
        }
        Command::Revoke { id } => {
            client.delete(&["tokens", &id.to_string()]).await?;
            out.note(&format!("revoked {id}"));
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_only() {
        assert_eq!(days("90d"), Ok(Days(90)));
        assert_eq!(days("48h"), Ok(Days(2)));
        for text in ["0d", "12h", "90", "1d1ms"] {
            assert!(days(text).is_err(), "{text}");
        }
    }
}
