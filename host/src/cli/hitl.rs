//! `eve hitl …`: questions to people, and their answers.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use comfy_table::Cell;
use serde::Serialize;
use serde_json::Value;

use super::Globals;
use super::duration;
use super::error::{Error, Exit};
use super::json::Inputs;
use super::output::{Output, Render, View, cell, optional, text_cell};
use super::request::create::request_id;
use crate::hitl::{Question, QuestionStatus, who};
use crate::http::{Answer, Ask, QuestionPage};
use crate::ids::{QuestionId, RequestId};
use crate::requests::empty_object;

/// What one page holds at most.
const PAGE: u16 = 100;

/// Ask people, and answer what runs and people ask
///
/// Runs put questions to the people of the organisation, and wait for the answer. A question is
/// `open` until somebody has `answered` it, or until it has `expired`; it is `cancelled` when the
/// request that it was asked for ends.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Ask(AskQuestion),
    List(List),
    /// Show a question, and its answer
    #[command(after_help = "\
Examples:
  eve hitl show 0199c7a1-5d3e-7c44-9b1a-3f2f6f0d8e11
  eve hitl show \"$ID\" | jq -r .response")]
    Show {
        /// The question's id
        #[arg(value_parser = question_id)]
        id: QuestionId,
    },
    Respond(Respond),
}

/// Put a question to the people of the organisation
///
/// Prints the new question. With --request the answer wakes that request, as an orchestration, and
/// the question is cancelled when it ends; else whoever wants the answer looks with `eve hitl show`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve hitl ask 'Promote v1.2.3 to prod?' --option yes --option no --expires-in 2h
  eve hitl ask 'Which version?' --details '{\"app\": \"api\"}' --request \"$EVE_REQUEST_ID\"")]
pub struct AskQuestion {
    /// What is asked, in words
    #[arg(value_name = "QUESTION", allow_hyphen_values = true)]
    question: String,
    /// An answer to choose from; repeatable. Any answer is taken when there are none
    #[arg(long = "option", value_name = "TEXT", allow_hyphen_values = true)]
    options: Vec<String>,
    /// What helps to answer: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    details: Option<String>,
    /// For how long it can be answered, such as 30m, 2h or 7d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expires_in: Option<Duration>,
    /// The open request that hears the answer
    #[arg(long, value_name = "ID", value_parser = request_id)]
    request: Option<RequestId>,
}

/// List questions, newest first
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve hitl list --status open
  eve hitl list --request \"$ID\" --all")]
pub struct List {
    /// Only in these statuses; repeatable, or separated by commas
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status())]
    status: Vec<QuestionStatus>,
    /// Only what was asked for this request
    #[arg(long, value_name = "ID", value_parser = request_id)]
    request: Option<RequestId>,
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

/// Answer an open question
///
/// A question can be answered once. What waits for it goes on at once.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve hitl respond \"$ID\" yes
  eve hitl respond \"$ID\" --response '{\"version\": \"v1.2.3\", \"replicas\": 3}'")]
pub struct Respond {
    /// The question's id
    #[arg(value_parser = question_id)]
    id: QuestionId,
    /// The answer in words: one of the options if there are any
    #[arg(value_name = "ANSWER", required_unless_present = "response", allow_hyphen_values = true)]
    answer: Option<String>,
    /// The answer as JSON, instead
    #[arg(
        long,
        value_name = "JSON|@FILE|-",
        allow_hyphen_values = true,
        conflicts_with = "answer"
    )]
    response: Option<String>,
}

/// Reads a question's id. An empty one is what a failed command in `$(…)` leaves behind.
fn question_id(text: &str) -> Result<QuestionId, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty; did the command that should have printed the id fail?".into());
    }
    text.parse().map_err(|_| "an id is a UUID, as `eve hitl list` prints it".into())
}

/// The statuses, by their words in the API.
fn status() -> impl TypedValueParser<Value = QuestionStatus> {
    PossibleValuesParser::new(QuestionStatus::ALL.map(QuestionStatus::as_str))
        .try_map(|word| word.parse::<QuestionStatus>())
}

/// A question that has just been asked: for people, its id and how it is answered.
#[derive(Serialize)]
#[serde(transparent)]
struct Asked(Question);

impl Render for Asked {
    fn render(&self, view: &View) -> String {
        let id = self.0.id;
        format!(
            "{}\n\nAnswer it: eve hitl respond {id} ANSWER",
            table(std::slice::from_ref(&self.0), view)
        )
    }
}

impl Render for Question {
    fn render(&self, view: &View) -> String {
        let json =
            |value: &Value| text_cell(serde_json::to_string_pretty(value).unwrap_or_default());
        let mut pairs = vec![
            ("id", cell(self.id.to_string())),
            ("status", cell(self.status.as_str())),
            ("question", text_cell(&self.question)),
        ];
        let mut add = |name, value: Option<Cell>| {
            if let Some(value) = value {
                pairs.push((name, value));
            }
        };
        add("options", (!self.options.is_empty()).then(|| cell(self.options.join(", "))));
        let details = self.details.as_object().is_none_or(|details| !details.is_empty());
        add("details", details.then(|| json(&self.details)));
        add("response", self.response.as_ref().map(|response| text_cell(words(response))));
        add("answered by", self.responded_by.as_ref().map(|actor| cell(who(actor))));
        add("asked by", Some(cell(who(&self.created_by))));
        add("request", self.request_id.map(|id| cell(id.to_string())));
        add("asked", Some(view.moment(self.created_at)));
        let open = self.status == QuestionStatus::Open;
        add("expires", open.then(|| view.moment(self.expires_at)));
        add("ended", self.ended_at.map(|at| view.moment(at)));
        view.details(pairs)
    }
}

impl Render for QuestionPage {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No questions.".to_owned();
        }
        let table = table(&self.items, view);
        match &self.next_cursor {
            Some(cursor) => format!("{table}\n\nThere are more: --all, or --cursor {cursor}"),
            None => table,
        }
    }
}

/// Questions, one a line.
fn table(questions: &[Question], view: &View) -> String {
    let rows = questions.iter().map(|question| {
        let expires =
            (question.status == QuestionStatus::Open).then(|| view.ago(question.expires_at));
        [
            cell(question.id.to_string()),
            cell(question.status.as_str()),
            cell(view.ago(question.created_at)),
            optional(expires),
            optional(question.response.as_ref().map(words)),
            cell(&question.question),
        ]
    });
    view.table(["ID", "STATUS", "AGE", "EXPIRES", "ANSWER", "QUESTION"], 5, rows)
}

/// An answer for people: text as it is, everything else as JSON.
fn words(response: &Value) -> String {
    match response {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl AskQuestion {
    fn ask(self, inputs: &mut Inputs) -> Result<Ask, Error> {
        Ok(Ask {
            question: self.question,
            options: self.options,
            details: inputs
                .optional_object("--details", self.details.as_deref())?
                .unwrap_or_else(empty_object),
            expires_in_ms: self.expires_in.map(duration::milliseconds),
            request_id: self.request,
        })
    }
}

impl Respond {
    fn answer(self, inputs: &mut Inputs) -> Result<Answer, Error> {
        let response = match (self.answer, self.response) {
            (_, Some(json)) => inputs.read("--response", &json)?.parse()?,
            (answer, None) => Value::String(answer.unwrap_or_default()),
        };
        Ok(Answer { response })
    }
}

impl List {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        if !self.status.is_empty() {
            let words: Vec<_> = self.status.iter().map(|status| status.as_str()).collect();
            query.push(("status", words.join(",")));
        }
        query.extend(self.request.map(|id| ("request", id.to_string())));
        let limit = if self.all { PAGE } else { self.limit };
        query.push(("limit", limit.to_string()));
        query
    }
}

/// Runs `eve hitl …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::Ask(command) => {
            let ask = command.ask(&mut Inputs::default())?;
            let asked: Question = globals.connect()?.post(&["hitl"], &ask).await?;
            out.show(&Asked(asked))?;
        }
        Command::List(command) => list(command, globals, out).await?,
        Command::Show { id } => {
            let question: Question = globals.connect()?.get(&["hitl", &id.to_string()]).await?;
            out.show(&question)?;
        }
        Command::Respond(command) => {
            let path = ["hitl", &command.id.to_string(), "respond"];
            let answer = command.answer(&mut Inputs::default())?;
            let question: Question = globals.connect()?.post(&path, &answer).await?;
            out.show(&question)?;
        }
    }
    Ok(Exit::Ok)
}

/// Lists one page, or all of them.
async fn list(command: List, globals: &Globals, out: &Output) -> Result<(), Error> {
    let query = command.query();
    let client = globals.connect()?;
    let mut cursor = command.cursor;
    let mut items = Vec::new();
    let next_cursor = loop {
        let mut query = query.clone();
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: QuestionPage = client.get_where(&["hitl"], &query).await?;
        let empty = page.items.is_empty();
        items.extend(page.items);
        // An empty page ends it whatever its cursor says: a list must not go on for ever.
        if !command.all || page.next_cursor.is_none() || empty {
            break page.next_cursor.filter(|_| !command.all);
        }
        cursor = page.next_cursor;
    };
    out.show(&QuestionPage { items, next_cursor })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::super::output::tests::view;
    use super::*;

    const ID: &str = "01990000-0000-7000-8000-000000000001";

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        Line::try_parse_from(["hitl"].iter().chain(arguments))
            .map(|line| line.command)
            .map_err(|error| error.to_string())
    }

    fn answer(arguments: &[&str]) -> Result<Value, String> {
        match parsed(&[&["respond", ID], arguments].concat())? {
            Command::Respond(command) => command
                .answer(&mut Inputs::default())
                .map(|answer| answer.response)
                .map_err(|error| error.to_string()),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn flags_become_a_question() {
        let command = parsed(&[
            "ask",
            "- Promote?",
            "--option",
            "yes",
            "--option",
            "-1",
            "--details",
            r#"{"a": 1}"#,
            "--expires-in",
            "2h",
            "--request",
            ID,
        ]);
        let Ok(Command::Ask(command)) = command else { panic!("{command:?}") };
        let ask = command.ask(&mut Inputs::default()).expect("a question");
        assert_eq!(
            serde_json::to_value(ask).expect("JSON"),
            json!({
                "question": "- Promote?", "options": ["yes", "-1"], "details": {"a": 1},
                "expires_in_ms": 7_200_000, "request_id": ID,
            })
        );
    }

    #[test]
    fn plain_text_is_an_answer_and_json_is_another() {
        assert_eq!(answer(&["yes"]), Ok(json!("yes")));
        assert_eq!(answer(&["3"]), Ok(json!("3")), "text, whatever it looks like");
        assert_eq!(answer(&["--response", "3"]), Ok(json!(3)));
        assert_eq!(answer(&["--response", r#"{"n": [1]}"#]), Ok(json!({"n": [1]})));
        assert!(answer(&["--response", "yes"]).is_err_and(|said| said.contains("--response")));
        assert!(answer(&["yes", "--response", "1"]).is_err());
        assert!(answer(&[]).is_err());
        assert!(parsed(&["show", ""]).is_err_and(|said| said.contains("did the command")));
        assert!(parsed(&["list", "--status", "done"]).is_err_and(|said| said.contains("expired")));
    }

    fn question(status: &str) -> Question {
        let ended = status != "open";
        let value = json!({
            "id": ID, "status": status, "question": "Promote v1.2.3 to prod?\nIt is Friday.",
            "options": ["yes", "no"], "details": {"app": "api"}, "request_id": ID,
            "least_role": "member", "response": (status == "answered").then_some("no"),
            "responded_by": (status == "answered").then_some(json!({"via": "token", "token": ID, "user": ID})),
            "created_by": {"via": "run", "request": ID, "user": null},
            "created_at": "2026-03-01T11:57:00Z", "expires_at": "2026-03-01T13:57:00Z",
            "ended_at": ended.then_some("2026-03-01T11:58:00Z"),
        });
        serde_json::from_value(value).expect("a question")
    }

    #[test]
    fn questions_for_people() {
        insta::assert_snapshot!(question("answered").render(&view()), @r#"
        id:           01990000-0000-7000-8000-000000000001
        status:       answered
        question:     Promote v1.2.3 to prod?
                      It is Friday.
        options:      yes, no
        details:      {
                        "app": "api"
                      }
        response:     no
        answered by:  user 01990000-0000-7000-8000-000000000001 (token
                      01990000-0000-7000-8000-000000000001)
        asked by:     request 01990000-0000-7000-8000-000000000001
        request:      01990000-0000-7000-8000-000000000001
        asked:        2026-03-01 11:57:00 UTC (3m ago)
        ended:        2026-03-01 11:58:00 UTC (2m ago)
        "#);
        let page = ["open", "answered", "expired"].map(question);
        let page = QuestionPage { items: page.into(), next_cursor: Some("next".into()) };
        insta::assert_snapshot!(page.render(&view()), @r"
        ID                                    STATUS    AGE  EXPIRES  ANSWER  QUESTION
        01990000-0000-7000-8000-000000000001  open      3m   in 117m  -       Promote v1.2.3 to prod? It…
        01990000-0000-7000-8000-000000000001  answered  3m   -        no      Promote v1.2.3 to prod? It…
        01990000-0000-7000-8000-000000000001  expired   3m   -        -       Promote v1.2.3 to prod? It…

        There are more: --all, or --cursor next
        ");
    }
}
