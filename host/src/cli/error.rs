//! What can go wrong on the client's side of the API, and the exit code for it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How a command ended. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It did not, or what it watched failed.
    Failed = 1,
    /// What was asked makes no sense: flags, JSON, values that the server refuses.
    Usage = 2,
    /// It does not exist, for this caller at least.
    NotFound = 3,
    /// The token is missing or wrong, or its role does not allow it.
    Denied = 4,
    /// The server could not be reached, or could not answer.
    Unreachable = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked makes no sense; nothing was sent.
    #[error("{message}")]
    Usage {
        /// What is wrong, and where.
        message: String,
        /// What to do instead.
        next: Option<String>,
    },
    /// The server said no, in its own words.
    #[error("{}", .0.sentence())]
    Refused(Box<Refusal>),
    /// There was nobody to talk to.
    #[error("cannot reach {url}{}", if *local { "; is `eve dev` running?" } else { "" })]
    Unreachable {
        /// The server.
        url: String,
        /// Whether the address is this machine's own.
        local: bool,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// There was somebody, who could not show to be the server.
    #[error("the certificate of {url} cannot be verified")]
    Untrusted {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection was made, and was gone before the whole answer had come.
    #[error("lost the connection to {url} before it had answered")]
    Interrupted {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection was made and then carried nothing.
    #[error("{url} does not answer")]
    Silent {
        /// The server.
        url: String,
    },
    /// A watched connection was lost and did not come back in time.
    #[error("lost the connection to {url}, and gave up after trying again for {seconds} s")]
    GaveUp {
        /// The server.
        url: String,
        /// For how long it was tried.
        seconds: u64,
        /// What went wrong last, if anything was said.
        #[source]
        source: Option<Box<Error>>,
    },
    /// What answered does not speak this API.
    #[error("{url} answered {status}, and not as Eve Horizon does")]
    Foreign {
        /// What was called.
        url: String,
        /// The status line.
        status: reqwest::StatusCode,
        /// What was not understood.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// `read`, `write`, …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard input could not be read.
    #[error("cannot read standard input")]
    Stdin(#[source] io::Error),
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// What was asked for is not there in the answer.
    #[error("{0}")]
    Failed(String),
    /// Something on this machine is missing, or did not do its work.
    #[error("{message}")]
    Local {
        /// What, and where.
        message: String,
        /// What to do about it.
        next: Option<String>,
    },
}

/// A problem as RFC 9457 has it: what the server refused, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// A URI that ends in the problem's slug.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The kind of problem in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This problem in words.
    #[serde(default)]
    pub detail: Option<String>,
    /// The id under which the server's log has it.
    #[serde(default)]
    pub instance: Option<String>,
    /// The field that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whatever else it says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Refusal {
    /// The last part of the type.
    pub fn slug(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }

    fn sentence(&self) -> String {
        match self.detail.as_deref() {
            Some(detail) if !detail.is_empty() => detail.to_owned(),
            _ if !self.title.is_empty() => self.title.clone(),
            _ => format!("the server answered {}", self.status),
        }
    }

    fn exit(&self) -> Exit {
        exit_for(self.status)
    }

    fn next(&self) -> Option<String> {
        let detail = self.detail.as_deref().unwrap_or_default();
        let next = match (self.slug(), self.field.as_deref()) {
            ("conflict", _) => return reconcile(detail),
            ("unauthenticated", _) => {
                "log in again with `eve login --url URL`, or set EVE_TOKEN; `eve context show` \
                 shows what is used now"
            }
            ("forbidden", _) => {
                "`eve whoami` shows your role; an admin or owner of the organisation can change it"
            }
            ("result-not-ready", _) => "`eve request watch ID` waits until the request has ended",
            ("not-found", _) => {
                "check the id or name; `eve whoami` shows the organisation that was asked, and \
                 nothing of another one is ever found"
            }
            ("invalid", Some(field)) if field.ends_with("worker_type") => {
                "`eve worker-type list` shows the worker types"
            }
            ("invalid", Some(field)) if field.ends_with("skill") => {
                "`eve skill list` shows the skills"
            }
            ("invalid", Some(field)) if field.contains("blocked_by") => {
                "`eve request list` shows the requests that exist"
            }
            ("invalid", Some(field)) if field.ends_with("context") && detail.contains(" bytes") => {
                TOO_MUCH
            }
            ("too-large", _) => TOO_MUCH,
            ("too-many-requests", _) => {
                "call less often, or with a token of its own: each has a rate to itself; nothing was \
                 changed"
            }
            ("unavailable", _) => "try again in a moment; nothing was changed",
            ("internal", _) => "it is a fault of the server: report it with the id",
            _ => return None,
        };
        Some(next.to_owned())
    }
}

/// What to do about a context, or a whole call, that is larger than what is taken.
const TOO_MUCH: &str = "send less: leave out what the skill does not need, or split it over several \
                        requests (`eve request fan-out`), and have another one wait for them";

/// What to do about a conflict. The kind of problem does not say which it is: its sentence does, and
/// whose there is none of here says so itself.
fn reconcile(detail: &str) -> Option<String> {
    let mut words = detail.split([' ', ':']);
    let (subject, id) = (words.next()?, words.next().unwrap_or("ID"));
    let has = |text: &str| detail.contains(text);
    Some(match subject {
        "question" if has(" was answered ") => {
            format!("`eve hitl show {id}` shows the question and its answer")
        }
        "question" if has(" expired ") => {
            "ask again: `eve hitl ask`, with --expires-in if people need more time".to_owned()
        }
        "question" => format!("`eve hitl show {id}` shows the question, and who asked it"),
        "request" if has("nobody would hear") => {
            "ask without --request; `eve hitl show` shows the answer when there is one".to_owned()
        }
        "request" if has("nobody to reply to") => {
            format!("create it without a reply; `eve result get {id}` shows what {id} ended with")
        }
        "request" if has(" has ended already") => format!(
            "`eve result get {id}` shows what it ended with; one that failed or was cancelled can be \
             run again: `eve request retry {id}`"
        ),
        "request" if has(" is completed: only ") => {
            format!("`eve result get {id}` shows its result; to run it again, create it anew")
        }
        "request" if has(": only a failed ") => format!(
            "`eve request watch {id}` waits until it has ended; `eve request cancel {id}` ends it now"
        ),
        "request" if has(" would wait for ever") => {
            "leave out one of the two: the reply, or what it is blocked by".to_owned()
        }
        "request" => format!("`eve request get {id}` shows how it stands now"),
        "the" if has(" schedules, and may have no more") => {
            "`eve schedule list` shows them; `eve schedule delete NAME` makes room".to_owned()
        }
        "the" if has(" tokens already") => {
            "`eve token list` shows them; `eve token revoke ID` makes room".to_owned()
        }
        "the" if has(" idempotency key ") => {
            "send the same request as the first time, or choose another key".to_owned()
        }
        "the" if has(" slug ") => "choose another slug".to_owned(),
        "there" if has(" schedule ") => "`eve schedule list` shows the schedules".to_owned(),
        "this" if has(" last owner") => {
            "`eve member list` shows the members and their roles".to_owned()
        }
        _ => return None,
    })
}

fn exit_for(status: u16) -> Exit {
    match status {
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        400 | 413 | 415 | 422 => Exit::Usage,
        429 | 502..=504 => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

impl Error {
    /// A usage error without advice.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Error::Usage { message: message.into(), next: None }
    }

    /// A usage error that says what to do instead.
    pub(super) fn usage_hint(message: impl Into<String>, next: impl Into<String>) -> Self {
        Error::Usage { message: message.into(), next: Some(next.into()) }
    }

    /// An error of this machine without advice.
    pub(super) fn local(message: impl Into<String>) -> Self {
        Error::Local { message: message.into(), next: None }
    }

    /// An error of this machine that says what to do about it.
    pub(super) fn local_hint(message: impl Into<String>, next: impl Into<String>) -> Self {
        Error::Local { message: message.into(), next: Some(next.into()) }
    }

    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Usage { .. } => Exit::Usage,
            Error::Refused(refusal) => refusal.exit(),
            Error::Unreachable { .. }
            | Error::Untrusted { .. }
            | Error::Interrupted { .. }
            | Error::Silent { .. }
            | Error::GaveUp { .. } => Exit::Unreachable,
            Error::Foreign { status, .. } => exit_for(status.as_u16()),
            Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::Usage,
            Error::File { .. }
            | Error::Stdin(_)
            | Error::Stdout(_)
            | Error::Client(_)
            | Error::Failed(_)
            | Error::Local { .. } => Exit::Failed,
        }
    }

    /// Whether the same call may well succeed in a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Interrupted { .. } | Error::Silent { .. } => true,
            Error::Refused(refusal) => matches!(refusal.status, 429 | 500 | 502..=504),
            Error::Foreign { status, .. } => matches!(status.as_u16(), 429 | 500 | 502..=504),
            _ => false,
        }
    }

    /// Whether the reader of standard output has gone: no error, nobody is left to tell.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Stdout(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Where the fault lies, for people.
    pub(super) fn place(&self) -> Option<String> {
        match self {
            // Most problems name the field in their sentence already.
            Error::Refused(refusal) => {
                refusal.field.clone().filter(|field| !refusal.sentence().starts_with(field))
            }
            _ => None,
        }
    }

    /// What the server's log has it under.
    pub(super) fn instance(&self) -> Option<&str> {
        match self {
            Error::Refused(refusal) if refusal.status >= 500 => refusal.instance.as_deref(),
            _ => None,
        }
    }

    /// Why, where the message does not say: the innermost cause.
    pub(super) fn cause(&self) -> Option<String> {
        if let Error::Foreign { detail, .. } = self {
            return Some(detail.clone());
        }
        let mut cause = std::error::Error::source(self)?;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Some(cause.to_string())
    }

    /// What to do about it.
    pub(super) fn next(&self) -> Option<String> {
        let next = match self {
            Error::Usage { next, .. } | Error::Local { next, .. } => return next.clone(),
            Error::Refused(refusal) => return refusal.next(),
            Error::Unreachable { local: true, .. } => {
                "start it with `eve dev`, or name another server: --url, EVE_URL, `eve login`"
            }
            Error::Unreachable { local: false, .. } => {
                "check the address (`eve context show`, --url, EVE_URL) and the network"
            }
            Error::Untrusted { url, .. } => {
                return Some(format!(
                    "if it is of an authority of your own, name it: eve login --url {url} --ca-file FILE, \
                     or EVE_CA_FILE"
                ));
            }
            Error::Interrupted { .. } => {
                "it may or may not have been done: look before you repeat it (requests with an \
                 --idempotency-key can be repeated safely)"
            }
            Error::GaveUp { .. } => {
                "the requests go on without you; run the same command again later"
            }
            Error::Foreign { .. } => "check the address: `eve context show`, --url, EVE_URL",
            _ => return None,
        };
        Some(next.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(status: u16, slug: &str) -> Error {
        let problem = json!({
            "type": format!("https://eve-horizon.dev/problems/{slug}"),
            "title": slug, "status": status, "detail": "why", "instance": "0199", "limit": 3,
        });
        Error::Refused(serde_json::from_value(problem).expect("a problem"))
    }

    #[test]
    fn every_status_has_its_exit_code() {
        let exits = [
            (401, Exit::Denied),
            (403, Exit::Denied),
            (404, Exit::NotFound),
            (400, Exit::Usage),
            (413, Exit::Usage),
            (415, Exit::Usage),
            (422, Exit::Usage),
            (409, Exit::Failed),
            (500, Exit::Failed),
            (429, Exit::Unreachable),
            (503, Exit::Unreachable),
        ];
        for (status, exit) in exits {
            assert_eq!(refusal(status, "x").exit(), exit, "{status}");
        }
        assert_eq!(Error::usage("x").exit(), Exit::Usage);
        assert_eq!(Error::Failed("x".into()).exit(), Exit::Failed);
    }

    #[test]
    fn what_a_problem_says_besides_is_kept() {
        let Error::Refused(refusal) = refusal(413, "too-large") else { unreachable!() };
        assert_eq!(refusal.slug(), "too-large");
        assert_eq!(refusal.more["limit"], 3);
        assert_eq!(serde_json::to_value(&*refusal).expect("JSON")["limit"], 3);
    }

    #[test]
    fn advice_fits_the_problem() {
        assert!(refusal(401, "unauthenticated").next().is_some_and(|n| n.contains("eve login")));
        assert!(refusal(404, "result-not-ready").next().is_some_and(|n| n.contains("watch")));
        assert_eq!(refusal(409, "conflict").next(), None);
        let of = |slug: &str, field: Option<&str>, detail: &str| {
            let Error::Refused(mut refusal) = refusal(422, slug) else { unreachable!() };
            (refusal.field, refusal.detail) = (field.map(str::to_owned), Some(detail.to_owned()));
            Error::Refused(refusal).next().unwrap_or_default()
        };
        for (detail, advice) in [
            (
                "question 0199 was answered at 2026-11-24T09:00:00Z already, by user 7",
                "hitl show 0199`",
            ),
            ("question 0199 expired at 2026-11-24T09:00:00Z", "eve hitl ask"),
            ("question 0199 was cancelled at T: the request that it …", "eve hitl show 0199`"),
            ("request 0199 has ended already: it is failed", "eve request retry 0199`"),
            ("request 0199 has ended already: nobody would hear the answer", "without --request"),
            ("request 0199 has ended: there is nobody to reply to", "eve result get 0199`"),
            ("request 0199 is completed: only a failed or cancelled one …", "eve result get 0199`"),
            (
                "request 0199 is pending: only a failed or cancelled one …",
                "eve request watch 0199`",
            ),
            ("request 0199 would wait for ever: a request that …", "leave out one"),
            ("request 0199 is a wake-up of 0198: cancel that one", "eve request get 0199`"),
            ("the organisation has 1000 schedules, and may have no more", "schedule delete NAME"),
            ("the organisation has 1000 tokens already: revoke some first", "token revoke ID"),
            ("the idempotency key `k` was used before, for a different body", "another key"),
            ("the slug `acme` is taken", "another slug"),
            ("there is a schedule `a` already: delete it first, …", "eve schedule list"),
            ("this is the last owner: make somebody else …", "eve member list"),
        ] {
            let next = of("conflict", None, detail);
            assert!(next.contains(advice), "{detail}: {next}");
        }
        let large = "requests[3].context: more than 1048576 bytes of JSON";
        assert!(of("invalid", Some("requests[3].context"), large).contains("eve request fan-out"));
        assert!(of("too-large", None, "the body is too large").contains("send less"));
        let other = of("invalid", Some("context"), "context: must be a JSON object");
        assert_eq!(other, "");
    }
}
