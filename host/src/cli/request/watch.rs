//! `eve request watch`: every change of a request's status, until it has ended.
//!
//! The server sends changes as events. A connection that breaks, or falls silent for longer than the
//! server's keep-alive, is made anew after a back-off; when nothing has come for a minute, this
//! gives up. The first event of a connection is the present state, so nothing is missed by it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::super::Globals;
use super::super::client::Client;
use super::super::error::{Error, Exit};
use super::super::output::{Format, Output, plain};
use super::create::request_id;
use crate::ids::RequestId;
use crate::requests::{Request, Status};

/// Connections held open at once. More ids wait their turn: every request ends.
const CONNECTIONS: usize = 64;

/// Requests that get a line of their own on a terminal; more would only scroll.
const BARS: usize = 20;

/// The largest event that is read: a request with its context, prompt, config and labels.
const LARGEST_EVENT: usize = 8 * 1024 * 1024;

/// Follow requests until they have ended
///
/// On a terminal each request has a line that shows where it stands. Piped, every change of a status
/// is one line with the request as JSON. A lost connection is made anew.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve request watch \"$ID\" && eve result get \"$ID\"
  eve request watch $(eve request list --status pending | jq -r '.items[].id')

Exit codes: 0 all have completed, 1 one has failed or was cancelled, 3 there is no such request,
5 the server could not be reached for a minute.")]
pub struct Watch {
    /// The requests' ids
    #[arg(required = true, value_name = "ID", value_parser = request_id)]
    ids: Vec<RequestId>,
}

/// How long to put up with a server that does not answer.
#[derive(Clone, Debug)]
pub struct Patience {
    /// The pause before the first new try; it doubles from there.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// The longest time without any sign of the server.
    pub give_up: Duration,
    /// The longest silence of a connection that should carry a keep-alive every 15 s.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(5),
            give_up: Duration::from_secs(60),
            silence: Duration::from_secs(45),
        }
    }
}

impl Patience {
    /// Passes over an error that may pass, while there was contact not long ago. Without any contact
    /// so far the error stands: an address that is wrong does not get better by waiting.
    pub fn bear(
        &self,
        error: Error,
        contact: Option<Instant>,
        client: &Client,
    ) -> Result<(), Error> {
        let Some(contact) = contact.filter(|_| error.is_passing()) else { return Err(error) };
        if contact.elapsed() < self.give_up {
            return Ok(());
        }
        Err(Error::GaveUp {
            url: client.url().to_owned(),
            seconds: self.give_up.as_secs(),
            source: Some(Box::new(error)),
        })
    }
}

/// What is shown of the watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Every change, as the command's answer.
    Changes,
    /// Progress on a terminal; the answer is something else.
    Progress,
}

/// Runs `eve request watch`.
pub async fn run(command: Watch, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    let mut ids = command.ids;
    let mut known = HashSet::new();
    ids.retain(|&id| known.insert(id));
    ended(&client, &ids, Shown::Changes, out).await
}

/// Waits until every request has ended: [`Exit::Ok`] if all of them completed.
pub async fn ended(
    client: &Client,
    ids: &[RequestId],
    shown: Shown,
    out: &Output,
) -> Result<Exit, Error> {
    let patience = Patience::default();
    let board = Board::new(ids.len(), shown, out);
    let mut all = stream::iter(ids)
        .map(|&id| {
            let line = board.line(id);
            let patience = &patience;
            async move {
                let seen = |request: &Request| line.show(request);
                until_terminal(client, id, patience, seen).await.map(|request| request.status)
            }
        })
        .buffer_unordered(CONNECTIONS);
    let mut exit = Exit::Ok;
    while let Some(status) = all.try_next().await? {
        if status != Status::Completed {
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

/// Follows one request to its end, through as many connections as it takes.
pub async fn until_terminal(
    client: &Client,
    id: RequestId,
    patience: &Patience,
    mut seen: impl FnMut(&Request) -> Result<(), Error>,
) -> Result<Request, Error> {
    let mut contact = None;
    let mut pause = patience.first;
    let mut last = None;
    loop {
        let before = contact;
        let mut on_request = |request: &Request| {
            let state = (request.status, request.generation, request.attempt);
            // A new connection begins with the present state, which may be known already.
            if last.replace(state) == Some(state) { Ok(()) } else { seen(request) }
        };
        match one_connection(client, id, patience, &mut contact, &mut on_request).await {
            Ok(Some(request)) => return Ok(request),
            Ok(None) => patience.bear(client.silent(), contact, client)?,
            Err(error) => patience.bear(error, contact, client)?,
        }
        if contact > before {
            pause = patience.first;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(patience.longest);
    }
}

/// Reads one connection's events: the request if it has ended, none if the connection has.
async fn one_connection(
    client: &Client,
    id: RequestId,
    patience: &Patience,
    contact: &mut Option<Instant>,
    on_request: &mut impl FnMut(&Request) -> Result<(), Error>,
) -> Result<Option<Request>, Error> {
    let mut response = client.events(&["requests", &id.to_string(), "watch"]).await?;
    let mut events = Events::default();
    loop {
        let chunk = match tokio::time::timeout(patience.silence, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) | Err(_) => return Ok(None),
            Ok(Err(error)) => return Err(client.interrupted(error.without_url())),
        };
        *contact = Some(Instant::now());
        for event in events.push(&chunk).map_err(|problem| foreign(&response, problem))? {
            if event.name != "request" {
                continue;
            }
            let request: Request = serde_json::from_str(&event.data)
                .map_err(|error| foreign(&response, error.to_string()))?;
            on_request(&request)?;
            if request.status.is_terminal() {
                return Ok(Some(request));
            }
        }
    }
}

fn foreign(response: &reqwest::Response, detail: String) -> Error {
    Error::Foreign { url: response.url().to_string(), status: response.status(), detail }
}

/// One event of a stream of server-sent events.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Cuts a stream of bytes into events, as the HTML standard has them under "Server-sent events".
/// Lines may end in LF or CR LF; a lone CR, which our server never sends, is not taken for an end.
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    name: String,
    data: String,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + self.data.len() + part.len() > LARGEST_EVENT {
                return Err(format!("an event larger than {} MiB", LARGEST_EVENT >> 20));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8(line).map_err(|error| error.to_string())?;
                events.extend(self.take_line(line.trim_end_matches(['\n', '\r'])));
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let mut data = std::mem::take(&mut self.data);
            data.pop();
            return (!data.is_empty()).then_some(Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            // A comment (no field name) is a keep-alive; ids and retry times are not used.
            _ => {}
        }
        None
    }
}

/// Where changes are shown.
enum Board<'a> {
    /// A JSON line a change.
    Json(&'a Output),
    /// A line of text a change.
    Lines(&'a Output),
    /// A moving line for each open request; what has ended is left as a line of the answer, where
    /// the changes are the answer.
    Bars(MultiProgress, Option<&'a Output>),
    /// Nothing.
    Silent,
}

impl<'a> Board<'a> {
    fn new(requests: usize, shown: Shown, out: &'a Output) -> Self {
        match (shown, out.format()) {
            (Shown::Changes, Format::Json) => Board::Json(out),
            (Shown::Changes, Format::Table) if !out.is_terminal() => Board::Lines(out),
            _ if out.is_live() && requests <= BARS => {
                Board::Bars(MultiProgress::new(), (shown == Shown::Changes).then_some(out))
            }
            (Shown::Changes, Format::Table) if !out.is_quiet() => Board::Lines(out),
            _ => Board::Silent,
        }
    }

    fn line(&self, id: RequestId) -> Line<'a> {
        match self {
            Board::Json(out) => Line::Json(out),
            Board::Lines(out) => Line::Text(out),
            Board::Silent => Line::Silent,
            Board::Bars(all, out) => {
                let bar = all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}") {
                    bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
                }
                bar.set_prefix(id.to_string());
                bar.set_message("…");
                bar.enable_steady_tick(Duration::from_millis(100));
                Line::Bar { bar, all: all.clone(), out: *out }
            }
        }
    }
}

/// Where one request's changes are shown.
enum Line<'a> {
    Json(&'a Output),
    Text(&'a Output),
    Bar { bar: ProgressBar, all: MultiProgress, out: Option<&'a Output> },
    Silent,
}

impl Line<'_> {
    fn show(&self, request: &Request) -> Result<(), Error> {
        match self {
            Line::Json(out) => out.json_line(request),
            Line::Text(out) => out.text(&format!("{} {}", request.id, state(request))),
            Line::Bar { bar, .. } if !request.status.is_terminal() => {
                bar.set_message(state(request));
                Ok(())
            }
            Line::Bar { bar, all, out } => {
                bar.finish_and_clear();
                let mark = if request.status == Status::Completed { "✓" } else { "✗" };
                let line = format!("{mark} {} {}", request.id, state(request));
                out.map_or(Ok(()), |out| all.suspend(|| out.text(&line)))
            }
            Line::Silent => Ok(()),
        }
    }
}

/// A request's state in a few words.
fn state(request: &Request) -> String {
    let mut text = request.status.to_string();
    match request.status {
        Status::Blocked => text.push_str(&format!(" by {}", request.open_blockers)),
        Status::Claimed | Status::Processing if request.attempt > 1 => {
            text.push_str(&format!(", attempt {} of {}", request.attempt, request.max_attempts));
        }
        Status::Scheduled => {
            if let Some(at) = request.run_at {
                text.push_str(&format!(" for {}", at.format("%Y-%m-%d %H:%M:%S UTC")));
            }
        }
        _ => {}
    }
    if let (Some(started), Some(finished)) = (request.started_at, request.finished_at) {
        let milliseconds = (finished - started).num_milliseconds().max(0);
        text.push_str(&format!(" in {:.1} s", milliseconds as f64 / 1_000.0));
    }
    let said = request.error.as_ref().map(|error| &error.message).or(request.summary.as_ref());
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        text.push_str(&format!(": {}", plain(said)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[Event]) -> Vec<(&str, &str)> {
        events.iter().map(|event| (&*event.name, &*event.data)).collect()
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = b": keep-alive\n\nevent: request\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:x\n\n";
        let whole = Events::default().push(text).expect("events");
        assert_eq!(names(&whole), [("request", "{\"a\":\n1}"), ("", "x")]);
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut found = events.push(&text[..cut]).expect("events");
            found.extend(events.push(&text[cut..]).expect("events"));
            assert_eq!(found, whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        let chunk = vec![b'x'; 1024 * 1024];
        let refused = (0..16).any(|_| events.push(&chunk).is_err());
        assert!(refused);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_events_or_an_error(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = Events::default().push(&bytes);
        }
    }
}
