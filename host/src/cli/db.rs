//! `eve db …`: what skills keep in the organisation's schemas.

use clap::Args;
use serde::Serialize;

use super::Globals;
use super::client::Client;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::http::{Items, SqlAnswer, SqlCall};
use crate::schemas::{AppliedMigration, Schema, Shell};

/// Look at and change what skills keep in their schemas
///
/// A schema is made when a skill first uses it, and shaped by that skill's migrations.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Run one statement and show its rows
    #[command(after_help = "\
Example:
  eve db query --schema devops_projects 'SELECT app, status FROM deployments WHERE env = $1' prod")]
    Query(Statement),
    /// Run one statement and show how many rows it affected
    #[command(after_help = "\
Example:
  eve db execute --schema devops_projects \\
    'INSERT INTO deployments (app, env, image, status) VALUES ($1, $2, $3, $4)' \\
    api-service prod v1.2.3 in_progress")]
    Execute(Statement),
    /// Open psql in a schema, with a role that lives for an hour
    ///
    /// For administrators. What skills may not do is not kept from you here: sessions and what they change
    /// are yours. The skills database has to be reachable from this machine.
    #[command(after_help = "\
Examples:
  eve db shell --schema devops_projects
  eve db shell --schema devops_projects -- -c 'TABLE deployments' --csv")]
    Shell(ShellArgs),
    /// List what has been migrated in a schema
    #[command(after_help = "Example:\n  eve db migrations --schema devops_projects")]
    Migrations(OfSchema),
    /// List the organisation's schemas
    #[command(after_help = "Example:\n  eve db list")]
    List,
}

/// A statement with its parameters.
#[derive(Args, Debug)]
pub struct Statement {
    #[command(flatten)]
    of: OfSchema,
    /// SQL with $1, $2, …; quote it, so that the shell leaves them alone
    #[arg(value_name = "SQL", allow_hyphen_values = true)]
    sql: String,
    /// The values of $1, $2, …; they adapt to what they are compared with or stored in. After `--` one may
    /// begin with a hyphen
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    values: Vec<String>,
}

/// Which schema.
#[derive(Args, Debug)]
pub struct OfSchema {
    /// The schema's name, as skills name it
    #[arg(long, value_name = "NAME")]
    schema: String,
}

/// A shell, and what psql is told.
#[derive(Args, Debug)]
pub struct ShellArgs {
    #[command(flatten)]
    of: OfSchema,
    /// More for psql, after `--`
    #[arg(last = true, value_name = "PSQL ARGUMENTS")]
    psql: Vec<std::ffi::OsString>,
}

/// How many rows a statement affected.
#[derive(Serialize)]
struct Affected {
    affected: u64,
}

impl Render for Affected {
    fn render(&self, _: &View) -> String {
        match self.affected {
            1 => "1 row affected".into(),
            count => format!("{count} rows affected"),
        }
    }
}

impl Render for SqlAnswer {
    fn render(&self, view: &View) -> String {
        if self.columns.is_empty() {
            return Affected { affected: self.affected }.render(view);
        }
        let header = self.columns.iter().map(|column| column.name.as_str());
        let rows = self.rows.iter().map(|row| {
            row.iter()
                .map(|value| match value {
                    serde_json::Value::Null => optional(None::<&str>),
                    serde_json::Value::String(text) => text_cell(text),
                    other => text_cell(other.to_string()),
                })
                .collect()
        });
        view.grid(header, rows)
    }
}

impl Render for Items<AppliedMigration> {
    fn render(&self, view: &View) -> String {
        view.table(
            ["NUMBER", "NAME", "STATUS", "APPLIED"],
            1,
            self.items.iter().map(|migration| {
                [
                    cell(migration.number.to_string()),
                    text_cell(&migration.name),
                    cell(&migration.status),
                    migration
                        .applied_at
                        .map_or_else(|| optional(None::<&str>), |at| view.moment(at)),
                ]
            }),
        )
    }
}

impl Render for Items<Schema> {
    fn render(&self, view: &View) -> String {
        view.table(
            ["SCHEMA", "STATUS", "MIGRATED TO", "MADE"],
            0,
            self.items.iter().map(|schema| {
                [
                    cell(&schema.name),
                    cell(&schema.status),
                    optional(schema.migration.map(|number| number.to_string())),
                    view.moment(schema.created_at),
                ]
            }),
        )
    }
}

/// Runs one of them.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    let ask = async |statement: Statement| -> Result<SqlAnswer, Error> {
        let sql = unswallowed(statement.sql, statement.values.len(), out)?;
        let parameters = statement.values.into_iter().map(Into::into).collect();
        let call = SqlCall { sql, parameters };
        client.post(&["schemas", &statement.of.schema, "query"], &call).await
    };
    match command {
        Command::Query(statement) => out.show(&ask(statement).await?)?,
        Command::Execute(statement) => {
            out.show(&Affected { affected: ask(statement).await?.affected })?;
        }
        Command::Shell(args) => return shell(&client, args).await,
        Command::Migrations(OfSchema { schema }) => {
            let path = ["schemas", schema.as_str(), "migrations"];
            out.show(&client.get::<Items<AppliedMigration>>(&path).await?)?;
        }
        Command::List => out.show(&client.get::<Items<Schema>>(&["schemas"]).await?)?,
    }
    Ok(Exit::Ok)
}

async fn shell(client: &Client, ShellArgs { of, psql }: ShellArgs) -> Result<Exit, Error> {
    const INSTALL: &str =
        "install it: it comes with Postgres (Debian: apt-get install postgresql-client)";
    // Before a role is made for nothing.
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join("psql").is_file());
    if !found {
        return Err(Error::local_hint("there is no `psql` on the PATH", INSTALL));
    }
    let shell: Shell =
        client.post(&["schemas", &of.schema, "shell"], &serde_json::json!({})).await?;
    // The environment, not arguments: those are there for everybody on this machine to read.
    let status = tokio::process::Command::new("psql")
        .env("PGHOST", &shell.host)
        .env("PGPORT", shell.port.to_string())
        .env("PGDATABASE", &shell.database)
        .env("PGUSER", &shell.user)
        .env("PGPASSWORD", &shell.password)
        .env("PGAPPNAME", "eve db shell")
        .args(&psql)
        .status()
        .await
        .map_err(|error| Error::local(format!("cannot run psql: {error}")))?;
    Ok(if status.success() { Exit::Ok } else { Exit::Failed })
}

/// Within double quotes a shell takes `$1` for a variable of its own, which is empty. Where exactly as many
/// places of a list are empty as there are values, there is no doubt what stood there; where there is,
/// the statement is not sent.
fn unswallowed(sql: String, values: usize, out: &Output) -> Result<String, Error> {
    if values == 0 || sql.contains('$') {
        return Ok(sql);
    }
    let (restored, places) = fill_places(&sql);
    if places != values {
        return Err(Error::usage_hint(
            format!("the statement has no `$1`, and {values} values were given"),
            "quote it with '…': within \"…\" the shell takes $1 for itself",
        ));
    }
    out.note(
        "note: the shell took $1 and the like away, and they were put back; quote SQL with '…'",
    );
    Ok(restored)
}

/// Puts `$1`, `$2`, … where something is missing between `(`, `,` and `)`, and counts them.
fn fill_places(sql: &str) -> (String, usize) {
    let (mut text, mut places) = (String::new(), 0);
    let mut quote = None;
    // The last thing that was no space; `()` alone is a call.
    let mut before = ' ';
    let chars: Vec<char> = sql.chars().collect();
    for (index, &c) in chars.iter().enumerate() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None => {
                let is_empty = (before == ',' && (c == ',' || c == ')'))
                    || (before == '(' && c == ',')
                    // One place alone: only if nothing calls.
                    || (before == '(' && c == ')' && is_list(&chars[..index]));
                if is_empty {
                    places += 1;
                    text.push_str(&format!("${places}"));
                }
            }
            Some(_) => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
        text.push(c);
    }
    (text, places)
}

/// Whether what ends with `(` is `VALUES (` or `IN (`.
fn is_list(before: &[char]) -> bool {
    let text: String = before.iter().collect();
    let word = text.trim_end().trim_end_matches('(').trim_end();
    let word = word.rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    word.eq_ignore_ascii_case("values") || word.eq_ignore_ascii_case("in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_swallowed_is_put_back() {
        for (sql, expected, places) in [
            (
                "INSERT INTO t (a, b) VALUES (, , , )",
                "INSERT INTO t (a, b) VALUES ($1, $2, $3, $4)",
                4,
            ),
            ("INSERT INTO t VALUES (,now(),'a,,b')", "INSERT INTO t VALUES ($1,now(),'a,,b')", 1),
            ("INSERT INTO t VALUES ()", "INSERT INTO t VALUES ($1)", 1),
            ("SELECT now(), count(*) FROM t", "SELECT now(), count(*) FROM t", 0),
            ("SELECT * FROM t WHERE a = ", "SELECT * FROM t WHERE a = ", 0),
        ] {
            assert_eq!(fill_places(sql), (expected.to_owned(), places), "{sql}");
        }
    }
}
