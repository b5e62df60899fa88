//! `eve login` and `eve whoami`.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use url::Url;

use super::Globals;
use super::client::Client;
use super::context::{self, Contexts, Server, Token, default_path};
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};
use crate::http::Me;

/// No token is longer: JWTs with many claims have a few thousand characters.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// Log in to a server and remember it
///
/// Checks the token with the server and keeps address, token and organisation as a context, the
/// current one from now on. Without --token (or EVE_TOKEN) the token is asked for, or read from
/// standard input when that is no terminal: so it stays out of the shell's history.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve login --url https://eve.example.com
  eve login --url https://eve.example.com --org acme --name acme-prod < token.txt
  eve login --url https://eve.internal --ca-file internal-ca.crt

`eve dev` logs you in to itself. `eve context list` shows what is remembered.")]
pub struct Login {
    /// What to call the context [default: the server's host name]
    #[arg(long)]
    name: Option<String>,
    /// What the server's certificate is verified by, PEM; kept in the context [default: that of a context
    /// of the same server, else what this machine trusts] [env: EVE_CA_FILE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Show who you are, for which organisation you act, and as what
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  eve whoami\n  eve whoami --org acme | jq -r .org.role")]
pub struct Whoami {}

impl Render for Me {
    fn render(&self, view: &View) -> String {
        let org = self.org.as_ref().map(|org| format!("{} ({})", org.slug, org.role));
        let user = self.email.clone().or_else(|| self.user_id.map(|id| id.to_string()));
        let mut pairs = vec![("user", optional(user)), ("org", optional(org))];
        pairs.extend(self.token_id.as_ref().map(|id| ("token", cell(id.to_string()))));
        if self.orgs.len() > 1 {
            let all: Vec<_> =
                self.orgs.iter().map(|org| format!("{} ({})", org.slug, org.role)).collect();
            pairs.push(("member of", cell(all.join(", "))));
        }
        if self.platform_admin {
            pairs.push(("platform", cell("administrator")));
        }
        view.details(pairs)
    }
}

/// Runs `eve whoami`.
pub async fn whoami(_: Whoami, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let me: Me = globals.connect()?.get(&["me"]).await?;
    out.show(&me)?;
    Ok(Exit::Ok)
}

/// Runs `eve login`.
pub async fn run(command: Login, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let url = globals.url.as_deref().ok_or_else(|| {
        Error::usage_hint(
            "to which server?",
            "eve login --url https://eve.example.com (`eve dev` logs you in to itself)",
        )
    })?;
    let url = context::address(url)?;
    let path = default_path()?;
    let mut contexts = Contexts::load(&path)?;
    let certificate_authority = match command.ca_file.or_else(context::authority_file) {
        Some(file) => Some(context::read_authority(&file)?),
        None => contexts.authority_of(&url),
    };
    let token = match &globals.token {
        Some(token) => token.clone(),
        None => ask_token(&url)?,
    };
    let org = globals.org.clone();
    let mut server = Server { url, certificate_authority, token: Some(token), org };
    warn_if_in_the_clear(&server.url, out);

    let me: Me = Client::new(server.clone())?.get(&["me"]).await?;
    if let (None, Some(org)) = (&server.org, &me.org) {
        server.org = Some(org.slug.clone());
    }
    let name = command.name.unwrap_or_else(|| host(&server.url));
    contexts.choose(&name, server);
    contexts.save(&path)?;
    out.note(&format!("logged in; `{name}` is the current context"));
    if me.org.is_none() && !me.orgs.is_empty() {
        let slugs: Vec<_> = me.orgs.iter().map(|org| org.slug.as_str()).collect();
        let all = slugs.join(", ");
        out.note(&format!("you belong to several organisations ({all}): choose with --org"));
    }
    out.show(&me)?;
    Ok(Exit::Ok)
}

fn ask_token(url: &str) -> Result<Token, Error> {
    let text = if std::io::stdin().is_terminal() {
        let terminal = console::Term::stderr();
        terminal.write_str(&format!("Token for {url}: ")).map_err(Error::Stdin)?;
        terminal.read_secure_line().map_err(Error::Stdin)?
    } else {
        let mut text = String::new();
        let mut stdin = std::io::stdin().lock().take(LONGEST_TOKEN);
        stdin.read_to_string(&mut text).map_err(Error::Stdin)?;
        text
    };
    text.parse().map_err(|error| {
        Error::usage_hint(
            format!("that is no token: {error}"),
            "give it by --token, by EVE_TOKEN, or on standard input",
        )
    })
}

/// A token that crosses a network unencrypted belongs to everybody on the way.
fn warn_if_in_the_clear(url: &str, out: &Output) {
    let Ok(url) = Url::parse(url) else { return };
    if url.scheme() == "http" && !super::client::is_local(&url) {
        out.note("warning: http sends the token unencrypted; use https");
    }
}

fn host(url: &str) -> String {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_else(|| "default".to_owned())
}
