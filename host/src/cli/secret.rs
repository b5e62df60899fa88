//! `eve secret …`: secrets of environments. A value comes from standard input, a file or a prompt, never from
//! the command line, where other users and the shell's history would see it.

use std::io::{IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::Globals;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional};
use crate::deployments::secrets::{MAX_VALUE, SecretList, SecretSet, SecretUse, check_name};

/// Set, list and delete secrets of an environment: values that apps refer to
///
/// A secret is set once and never shown again. Apps refer to it by its name: `eve deploy create --secret`.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Set(Set),
    /// List the secrets of an environment: their names and versions, and the apps that refer to them
    ///
    /// Of an environment that keeps its secrets in a store: those that apps refer to, and their keys there.
    #[command(after_help = "Example:\n  eve secret list --env prod")]
    List {
        /// The environment
        #[arg(long, value_name = "NAME")]
        env: String,
    },
    Delete(Delete),
}

/// Set a secret: make it, or give it another value
///
/// The value comes from standard input, without the line break at its end; on a terminal it is asked for. A
/// file is taken as it is. Apps that refer to the secret get pods with the new value, a revision each; the same
/// value once more changes nothing.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve secret set DATABASE_URL --env prod                          on a terminal: asks for it
  pass show prod/database | eve secret set DATABASE_URL --env prod
  eve secret set TLS_KEY --env prod --from-file key.pem
  eve secret set API_KEY --env prod --no-restart < api-key.txt

A value is 1 byte to 64 KiB of text; what is binary is encoded first, such as with base64.
An environment has at most 100 secrets.")]
pub struct Set {
    /// Its name: letters, digits and _, no digit first, at most 63
    name: String,
    /// What somebody took for the place of the value
    #[arg(hide = true)]
    misplaced: Vec<String>,
    /// The environment
    #[arg(long, value_name = "NAME")]
    env: String,
    /// Take the value from a file, as it is; - is standard input, as it is
    #[arg(long, value_name = "FILE|-")]
    from_file: Option<PathBuf>,
    /// Leave the apps that refer to it with the value that they have, until they are deployed again
    #[arg(long)]
    no_restart: bool,
}

/// Delete a secret
///
/// Refused while apps refer to it. With --force they keep its value until they are deployed again; then they
/// must do without, or it has to be set again.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve secret delete API_KEY --env prod
  eve secret delete API_KEY --env prod --force    although apps refer to it")]
pub struct Delete {
    /// Its name
    name: String,
    /// The environment
    #[arg(long, value_name = "NAME")]
    env: String,
    /// Although apps refer to it
    #[arg(long)]
    force: bool,
}

impl Render for SecretList {
    fn render(&self, view: &View) -> String {
        let place = self.store.as_ref().map(|store| {
            format!("Kept in the store {}, under keys that begin with {}", store.name, store.prefix)
        });
        if self.items.is_empty() {
            let none = match place {
                Some(place) => format!("{place}\nNo app refers to one."),
                None => "No secrets. `eve secret set NAME --env ENV` makes one.".to_owned(),
            };
            return super::output::plain_text(&none);
        }
        match place {
            Some(place) => {
                let rows = self.items.iter().map(|secret| {
                    [cell(&secret.name), optional(secret.key.as_ref()), apps(None, &secret.apps)]
                });
                let table = view.table(["NAME", "KEY", "APPS"], 2, rows);
                format!("{}\n\n{table}", super::output::plain_text(&place))
            }
            None => {
                let rows = self.items.iter().map(|secret| {
                    [
                        cell(&secret.name),
                        optional(secret.version.map(|version| version.to_string())),
                        optional(secret.updated_at.map(|at| view.ago(at))),
                        apps(secret.version, &secret.apps),
                    ]
                });
                view.table(["NAME", "VERSION", "SET", "APPS"], 3, rows)
            }
        }
    }
}

/// Apps, and which version those have that do not have this one.
fn apps(version: Option<i32>, uses: &[SecretUse]) -> comfy_table::Cell {
    let shown = uses.iter().map(|used| match (version, used.version) {
        (Some(now), Some(theirs)) if now != theirs => format!("{} (version {theirs})", used.app),
        (Some(_), None) => format!("{} (one that was deleted)", used.app),
        _ => used.app.clone(),
    });
    let shown: Vec<String> = shown.collect();
    optional((!shown.is_empty()).then(|| shown.join(", ")))
}

impl Render for SecretSet {
    fn render(&self, view: &View) -> String {
        let some = |apps: &[String]| (!apps.is_empty()).then(|| apps.join(", "));
        let mut pairs = vec![
            ("name", cell(&self.name)),
            ("version", cell(self.version.to_string())),
            ("changed", cell(if self.changed { "yes" } else { "no: it is the same value" })),
        ];
        pairs.extend(some(&self.restarted).map(|apps| ("restarting", cell(apps))));
        pairs.extend(some(&self.left).map(|apps| ("left as they are", cell(apps))));
        view.details(pairs)
    }
}

/// Runs `eve secret …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Set(command) => {
            // Before anything is typed or read. What may be a value is not repeated.
            if command.name.contains('=') || !command.misplaced.is_empty() {
                return Err(Error::usage_hint(
                    "a value is not given on the command line, where others see it",
                    "give it on standard input, or with --from-file FILE; what stood here is known to the \
                     shell's history by now",
                ));
            }
            check_name("NAME", &command.name).map_err(|invalid| Error::usage(invalid.message))?;
            let client = globals.connect()?;
            let value = command.value()?;
            let body = json!({ "value": value.expose_secret(), "restart": !command.no_restart });
            let path = ["envs", &*command.env, "secrets", &*command.name];
            out.show(&client.put::<SecretSet>(&path, &body).await?)?;
        }
        Command::List { env } => {
            let client = globals.connect()?;
            out.show(&client.get::<SecretList>(&["envs", &env, "secrets"]).await?)?;
        }
        Command::Delete(Delete { name, env, force }) => {
            let client = globals.connect()?;
            let query = [("force", force.to_string())];
            client.remove_where(&["envs", &env, "secrets", &name], &query).await?;
            out.note(&format!("deleted {name}"));
        }
    }
    Ok(Exit::Ok)
}

impl Set {
    fn value(&self) -> Result<SecretString, Error> {
        match &self.from_file {
            Some(file) if file == Path::new("-") => {
                text(read(std::io::stdin().lock(), Error::Stdin)?)
            }
            Some(file) => {
                let failed = |source| Error::File { doing: "read", path: file.clone(), source };
                text(read(std::fs::File::open(file).map_err(failed)?, failed)?)
            }
            None if std::io::stdin().is_terminal() => self.ask(),
            None => text(without_line_break(read(std::io::stdin().lock(), Error::Stdin)?)),
        }
    }

    /// Asks somebody, who does not see what they type.
    fn ask(&self) -> Result<SecretString, Error> {
        let terminal = console::Term::stderr();
        let prompt = format!("Value of {} in {}: ", self.name, self.env);
        terminal.write_str(&prompt).map_err(Error::Stdin)?;
        let typed = terminal.read_secure_line().map_err(Error::Stdin)?;
        text(Zeroizing::new(typed.into_bytes()))
    }
}

/// What can be a value: the server would say no to everything else, after it was sent.
fn text(bytes: Zeroizing<Vec<u8>>) -> Result<SecretString, Error> {
    if bytes.is_empty() {
        return Err(Error::usage_hint(
            "the value is empty",
            "give it on standard input, or with --from-file FILE",
        ));
    }
    if bytes.len() > MAX_VALUE {
        return Err(Error::usage(format!("the value is larger than {MAX_VALUE} bytes")));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.into()),
        _ => Err(Error::usage_hint(
            "the value is not text (UTF-8 without U+0000)",
            "encode it, such as with base64, and have the app decode it",
        )),
    }
}

/// Everything, up to what is too much with a line break behind it.
fn read(
    source: impl Read,
    failed: impl Fn(std::io::Error) -> Error,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // With room for all of it: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 4));
    source.take(MAX_VALUE as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// One line break less: `echo`, here-documents and most programs that print a value add one.
fn without_line_break(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::cli::output::tests::view;
    use crate::deployments::secrets::{EnvironmentSecret, SecretStore};

    fn of_stdin(bytes: &[u8]) -> Result<String, String> {
        let read = read(bytes, Error::Stdin).and_then(|bytes| text(without_line_break(bytes)));
        read.map(|value| value.expose_secret().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_break_at_the_end_is_not_the_values() {
        for (given, value) in [
            (&b"hush"[..], "hush"),
            (b"hush\n", "hush"),
            (b"hush\r\n", "hush"),
            (b"hush\n\n", "hush\n"),
            (b" a\nb \n", " a\nb "),
            (b"hush\r", "hush\r"),
        ] {
            assert_eq!(of_stdin(given).as_deref(), Ok(value), "{given:?}");
        }
        let largest = vec![b'x'; MAX_VALUE];
        assert!(of_stdin(&[&largest[..], b"\r\n"].concat()).is_ok());
        for (given, word) in [
            (&b""[..], "empty"),
            (b"\n", "empty"),
            (b"a\0b", "not text"),
            (b"\xff\xfe", "not text"),
            (&[&largest[..], b"x\n"].concat(), "65536"),
            (&[&largest[..], &largest[..]].concat(), "65536"),
        ] {
            assert!(of_stdin(given).is_err_and(|why| why.contains(word)), "{word}");
        }
    }

    #[test]
    fn secrets_for_people() {
        let view = view();
        let used = |app: &str, version| SecretUse { app: app.into(), version };
        let secret = |name: &str, version, apps| EnvironmentSecret {
            name: name.into(),
            version,
            key: None,
            apps,
            created_at: Some(view.now),
            updated_at: Some(view.now - TimeDelta::hours(2)),
        };
        let items = vec![
            secret(
                "API_KEY",
                Some(3),
                vec![used("api", Some(3)), used("worker", Some(2)), used("old", None)],
            ),
            secret("TLS_KEY", Some(1), Vec::new()),
        ];
        insta::assert_snapshot!(SecretList { items, store: None }.render(&view));
        let store =
            SecretStore { name: "eve-tenants".into(), prefix: "eve-horizon/acme/prod/".into() };
        let elsewhere = EnvironmentSecret {
            key: Some(store.key("API_KEY")),
            ..secret("API_KEY", None, vec![used("api", None)])
        };
        insta::assert_snapshot!(
            SecretList { items: vec![elsewhere], store: Some(store) }.render(&view)
        );
    }
}
