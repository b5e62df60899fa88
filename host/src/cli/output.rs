//! What the user sees: JSON for programs, tables for people, errors for both.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};
use console::Term;
use serde::Serialize;

use super::Globals;
use super::error::{Error, Exit};
use crate::requests::Status;

/// Columns that the one that gives way keeps: less of it says nothing, and then lines may wrap.
const LEAST_WIDE: u16 = 16;

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables for people, as wide as the terminal
    Table,
    /// JSON for programs
    Json,
}

/// What can be shown to people.
pub trait Render {
    /// The text, without a line feed at its end.
    fn render(&self, view: &View) -> String;
}

/// What a text for people has to fit.
#[derive(Clone, Debug)]
pub struct View {
    /// Columns of the terminal; none when there is no terminal, and nothing is cut then.
    pub width: Option<u16>,
    /// Whether colours may be used.
    pub colour: bool,
    /// What "3m ago" counts from.
    pub now: DateTime<Utc>,
}

/// Where a command's answers go, and in which form.
pub struct Output {
    format: Format,
    view: View,
    errors_as_json: bool,
    quiet: bool,
    terminal: bool,
    /// Whether progress can be drawn: on standard error, where it never mixes with an answer.
    live: bool,
}

impl Output {
    /// As flags, environment and terminal have it. NO_COLOR and CLICOLOR are respected.
    pub fn new(globals: &Globals) -> Self {
        let terminal = io::stdout().is_terminal();
        let format = globals.output.unwrap_or(if terminal { Format::Table } else { Format::Json });
        let width = terminal.then(|| Term::stdout().size_checked()).flatten().map(|(_, w)| w);
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            format,
            view: View {
                width: width.filter(|&width| width > 0),
                colour: terminal && !no_colour && console::colors_enabled(),
                now: Utc::now(),
            },
            errors_as_json: globals.output == Some(Format::Json),
            quiet: globals.quiet,
            terminal,
            live: !globals.quiet && io::stderr().is_terminal(),
        }
    }

    /// How answers are printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether answers go to a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether progress can be drawn on standard error.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether only answers and errors are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints an answer.
    pub fn show<T: Serialize + Render>(&self, answer: &T) -> Result<(), Error> {
        match self.format {
            Format::Json => self.json(answer),
            // What a command has waited for happened after it began.
            Format::Table => {
                self.text(&answer.render(&View { now: Utc::now(), ..self.view.clone() }))
            }
        }
    }

    /// Prints JSON on lines of its own, indented.
    pub fn json<T: Serialize>(&self, answer: &T) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(answer).map_err(io::Error::from);
        self.text(&text.map_err(Error::Stdout)?)
    }

    /// Prints JSON on one line: a stream of them is read line by line.
    pub fn json_line<T: Serialize>(&self, answer: &T) -> Result<(), Error> {
        let text = serde_json::to_string(answer).map_err(io::Error::from);
        self.text(&text.map_err(Error::Stdout)?)
    }

    /// Prints a text and a line feed.
    pub fn text(&self, text: &str) -> Result<(), Error> {
        self.bytes(text.as_bytes())?;
        if text.is_empty() { Ok(()) } else { self.bytes(b"\n") }
    }

    /// Prints bytes as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error::Stdout)
    }

    /// Tells people something that is no answer.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // A note that cannot be written is not worth an error.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Passes on what a program said that failed: without it nobody could tell why.
    pub fn complain(&self, said: &[u8]) {
        // Nothing can be done about an error.
        let _ = io::stderr().lock().write_all(said);
    }

    /// The same without progress and notes.
    pub fn hushed(&self) -> Output {
        Output { view: self.view.clone(), quiet: true, live: false, ..*self }
    }

    /// Tells that a command failed, and why.
    pub fn fail(&self, error: &Error) -> Exit {
        if error.is_broken_pipe() {
            return Exit::Ok;
        }
        let exit = error.exit();
        let text = match error {
            Error::Refused(refusal) if self.errors_as_json => {
                serde_json::to_string(refusal).unwrap_or_else(|_| explain(error, false))
            }
            _ if self.errors_as_json => serde_json::json!({
                "title": error.to_string(), "detail": error.cause(), "next": error.next(),
                "exit": exit as u8,
            })
            .to_string(),
            _ => explain(error, io::stderr().is_terminal() && console::colors_enabled_stderr()),
        };
        let _ = writeln!(io::stderr(), "{text}");
        exit
    }
}

/// An error for people: what was wrong, where, why, and what to do next.
pub fn explain(error: &Error, colour: bool) -> String {
    let (red, bold, off) = if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{off} {}", plain_text(&error.to_string()));
    let mut add = |label: &str, said: Option<String>| {
        if let Some(said) = said {
            text.push_str(&format!("\n  {bold}{label}:{off} {}", plain_text(&said)));
        }
    };
    add("where", error.place());
    add("cause", error.cause());
    add("id", error.instance().map(str::to_owned));
    add("next", error.next());
    text
}

impl View {
    /// A table: the column `wide` gives way when the terminal is narrow, the others never do.
    pub fn table<const N: usize>(
        &self,
        header: [&str; N],
        wide: usize,
        rows: impl IntoIterator<Item = [Cell; N]>,
    ) -> String {
        let mut table = self.bare_table();
        let header = header.map(|name| Cell::new(name).add_attribute(Attribute::Bold));
        let mut header = Row::from(header.to_vec());
        header.max_height(1);
        table.set_header(header);
        for cells in rows {
            let mut row = Row::from(cells.to_vec());
            if self.width.is_some() {
                row.max_height(1);
            }
            table.add_row(row);
        }
        if self.width.is_some() {
            for index in 0..N {
                if let Some(column) = table.column_mut(index) {
                    column.set_constraint(match index == wide {
                        true => ColumnConstraint::LowerBoundary(Width::Fixed(LEAST_WIDE)),
                        false => ColumnConstraint::ContentWidth,
                    });
                }
            }
        }
        self.finish(table)
    }

    /// A table whose columns are only known when it is shown.
    pub fn grid<'a>(
        &self,
        header: impl Iterator<Item = &'a str>,
        rows: impl Iterator<Item = Vec<Cell>>,
    ) -> String {
        let mut table = self.bare_table();
        let header =
            header.map(|name| Cell::new(plain(name)).add_attribute(Attribute::Bold)).collect();
        table.set_header::<Vec<Cell>>(header);
        for row in rows {
            table.add_row(row);
        }
        self.finish(table)
    }

    /// Rows without a header.
    pub fn list<const N: usize>(&self, rows: impl IntoIterator<Item = [Cell; N]>) -> String {
        let mut table = self.bare_table();
        for cells in rows {
            table.add_row(cells);
        }
        self.finish(table)
    }

    /// Names and values, one pair a line.
    pub fn details(&self, pairs: impl IntoIterator<Item = (&'static str, Cell)>) -> String {
        let mut table = self.bare_table();
        for (name, value) in pairs {
            table.add_row([Cell::new(format!("{name}:")).add_attribute(Attribute::Bold), value]);
        }
        if let Some(column) = table.column_mut(0) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        self.finish(table)
    }

    fn bare_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    fn finish(&self, mut table: Table) -> String {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    }

    /// How long ago something was, roughly.
    pub fn ago(&self, then: DateTime<Utc>) -> String {
        let seconds = (self.now - then).num_seconds();
        if seconds < 0 { format!("in {}", rough(-seconds)) } else { rough(seconds) }
    }

    /// A moment in full, and how long ago it was.
    pub fn moment(&self, then: DateTime<Utc>) -> Cell {
        let ago = self.ago(then);
        let suffix = if then > self.now { ago } else { format!("{ago} ago") };
        Cell::new(format!("{} ({suffix})", then.format("%Y-%m-%d %H:%M:%S UTC")))
    }

    /// A status in its colour.
    pub fn status(&self, status: Status) -> Cell {
        let cell = Cell::new(status);
        match status {
            Status::Completed => cell.fg(Color::Green),
            Status::Failed => cell.fg(Color::Red),
            Status::Cancelled => cell.fg(Color::Yellow),
            Status::Claimed | Status::Processing => cell.fg(Color::Cyan),
            Status::Waiting => cell.fg(Color::Blue),
            Status::Scheduled | Status::Blocked => cell.fg(Color::DarkGrey),
            Status::Pending => cell,
        }
    }
}

fn rough(seconds: i64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A cell with a text that others wrote, on one line.
pub fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new_owned(plain(text.as_ref()))
}

/// A cell with a text of several lines that others wrote.
pub fn text_cell(text: impl AsRef<str>) -> Cell {
    Cell::new_owned(plain_text(text.as_ref()))
}

/// A cell for what may be absent.
pub fn optional(text: Option<impl AsRef<str>>) -> Cell {
    match text {
        Some(text) => cell(text),
        None => Cell::new("-"),
    }
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A text on one line that cannot steer a terminal. Guests write logs and summaries, and other
/// members prompts: an escape sequence in them could rewrite what the reader sees.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { visible(c) }).collect()
}

/// Like [`plain`], with line feeds and tabs left in place.
pub fn plain_text(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { visible(c) }).collect()
}

/// Controls and characters that reorder text become a replacement character.
fn visible(c: char) -> char {
    match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A terminal of 100 columns without colours, at a fixed moment.
    pub fn view() -> View {
        let now = "2026-03-01T12:00:00Z".parse().expect("a moment");
        View { width: Some(100), colour: false, now }
    }

    #[test]
    fn escape_sequences_never_reach_a_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{202e}d"), "a [2Jb c\u{fffd}d");
        assert_eq!(plain_text("a\tb\n\x1b]0;t\x07"), "a\tb\n\u{fffd}]0;t\u{fffd}");
    }

    #[test]
    fn ages_are_rough() {
        let view = view();
        let at = |seconds: i64| view.ago(view.now - chrono::TimeDelta::seconds(seconds));
        assert_eq!(
            [at(5), at(119), at(120), at(7_200), at(200_000), at(-90)].join(" "),
            "5s 119s 2m 2h 2d in 90s"
        );
    }

    #[test]
    fn narrow_terminals_cut_only_the_wide_column() {
        let view = View { width: Some(30), ..view() };
        let rows = [[cell("0199-0199-0199"), cell("a long prompt that does not fit")]];
        insta::assert_snapshot!(view.table(["ID", "PROMPT"], 1, rows), @r"
        ID              PROMPT
        0199-0199-0199  a long prompt…
        ");
    }

    #[test]
    fn errors_say_what_where_and_what_next() {
        let refusal = serde_json::from_value(serde_json::json!({
            "type": "https://eve-horizon.dev/problems/invalid", "title": "Invalid", "status": 422,
            "detail": "worker type `nope` does not exist", "instance": "0199", "field": "worker_type",
        }));
        let error = Error::Refused(refusal.expect("a problem"));
        insta::assert_snapshot!(explain(&error, false), @r"
        error: worker type `nope` does not exist
          where: worker_type
          next: `eve worker-type list` shows the worker types
        ");
        let error = Error::Refused(Box::new(super::super::error::Refusal {
            status: 500,
            kind: "x/internal".into(),
            title: "Internal error".into(),
            detail: None,
            instance: Some("0199".into()),
            field: None,
            more: Default::default(),
        }));
        insta::assert_snapshot!(explain(&error, false), @r"
        error: Internal error
          id: 0199
          next: it is a fault of the server: report it with the id
        ");
    }
}
