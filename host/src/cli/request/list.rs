//! `eve request list`.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::super::Globals;
use super::super::error::Error;
use super::super::json::Inputs;
use super::super::output::{Output, Render, View};
use super::create::request_id;
use super::view;
use crate::http::RequestPage;
use crate::ids::RequestId;
use crate::requests::Status;

/// The most that the API hands out at once.
const PAGE: u16 = 100;

/// List requests, newest first
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve request list --status pending,processing
  eve request list --context-filter '{\"app\": \"api-service\", \"env\": \"prod\"}'
  eve request list --all --status failed | jq -r '.items[].id'

JSON output is {\"items\": [...], \"next_cursor\": ...}; give the cursor to --cursor for the next page.")]
pub struct List {
    /// Only these statuses; repeatable, or separated by commas
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status())]
    status: Vec<Status>,

    /// Only of this worker type
    #[arg(long, value_name = "TYPE")]
    worker_type: Option<String>,

    /// Only of this skill
    #[arg(long, value_name = "NAME")]
    skill: Option<String>,

    /// Only those whose context contains this JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    context_filter: Option<String>,

    /// Only what this request has brought about, directly or not
    #[arg(long, value_name = "ID", value_parser = request_id)]
    root: Option<RequestId>,

    /// Only what this request has created itself
    #[arg(long, value_name = "ID", value_parser = request_id)]
    parent: Option<RequestId>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,

    /// Continue where another page ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,

    /// Every one, however many pages
    #[arg(long, conflicts_with_all = ["limit", "cursor"])]
    all: bool,
}

/// The statuses, by their words in the API.
fn status() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str))
        .try_map(|word| word.parse::<Status>())
}

impl Render for RequestPage {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No requests.".to_owned();
        }
        let table = view::table(&self.items, view);
        match &self.next_cursor {
            Some(cursor) => format!("{table}\n\nThere are more: --all, or --cursor {cursor}"),
            None => table,
        }
    }
}

impl List {
    fn query(&self, inputs: &mut Inputs) -> Result<Vec<(&'static str, String)>, Error> {
        let mut query = Vec::new();
        if !self.status.is_empty() {
            let words: Vec<_> = self.status.iter().map(|status| status.as_str()).collect();
            query.push(("status", words.join(",")));
        }
        let context = inputs.optional_object("--context-filter", self.context_filter.as_deref())?;
        let optional = [
            ("worker_type", self.worker_type.clone()),
            ("skill", self.skill.clone()),
            ("context", context.map(|context| context.to_string())),
            ("root", self.root.map(|id| id.to_string())),
            ("parent", self.parent.map(|id| id.to_string())),
        ];
        query.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let limit = if self.all { PAGE } else { self.limit };
        query.push(("limit", limit.to_string()));
        Ok(query)
    }
}

/// Lists one page, or all of them.
pub async fn run(command: List, globals: &Globals, out: &Output) -> Result<(), Error> {
    let query = command.query(&mut Inputs::default())?;
    let client = globals.connect()?;
    let mut cursor = command.cursor;
    let mut items = Vec::new();
    let next_cursor = loop {
        let mut query = query.clone();
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: RequestPage = client.get_where(&["requests"], &query).await?;
        let empty = page.items.is_empty();
        items.extend(page.items);
        // An empty page ends it whatever its cursor says: a list must not go on for ever.
        if !command.all || page.next_cursor.is_none() || empty {
            break page.next_cursor.filter(|_| !command.all);
        }
        cursor = page.next_cursor;
    };
    out.show(&RequestPage { items, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        list: List,
    }

    fn query(arguments: &[&str]) -> Result<String, String> {
        let line = Line::try_parse_from(["list"].iter().chain(arguments))
            .map_err(|error| error.to_string())?;
        let query = line.list.query(&mut Inputs::default()).map_err(|error| error.to_string())?;
        Ok(query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("&"))
    }

    #[test]
    fn filters_become_a_query() {
        assert_eq!(query(&[]).as_deref(), Ok("limit=20"));
        let arguments =
            ["--status", "pending,failed", "--context-filter", r#"{"a": 1}"#, "--limit", "5"];
        assert_eq!(
            query(&arguments).as_deref(),
            Ok(r#"status=pending,failed&context={"a":1}&limit=5"#)
        );
        assert_eq!(query(&["--all"]).as_deref(), Ok("limit=100"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(query(&["--status", "done"]).is_err_and(|said| said.contains("completed")));
        assert!(query(&["--context-filter", "[]"]).is_err());
        assert!(query(&["--limit", "101"]).is_err());
        assert!(query(&["--all", "--limit", "5"]).is_err());
        assert!(query(&["--root", "x"]).is_err());
    }
}
