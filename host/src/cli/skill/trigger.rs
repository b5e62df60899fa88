//! `--trigger`: why a run takes place, written on the command line.

use std::str::FromStr;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::delivery::claim::WakeEvent;
use crate::requests::Status;
use crate::requests::orchestration::EventKind;

/// How it is written, for people.
pub const FORMS: &str = "\
initial                    its first run, which is the default
  cron:NAME                  its first run, of a request that a schedule has created
  timer:NAME                 a timer that it had set has gone off
  child                      a child has completed; also child:ID, child:ID=failed, =cancelled, or
                             ={\"words\": 3}: with this data
  answer=yes                 a question was answered; also answer:ID=VALUE
  expired                    nobody answered a question in time; also expired:ID
  deployment=running         a deployment has settled: running, failed or stopped";

/// Why a run takes place: KIND, KIND:NAME, KIND=VALUE or KIND:NAME=VALUE.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// Its first run.
    Initial,
    /// A schedule has created the request, or wakes it.
    Cron { name: String },
    /// A timer has gone off.
    Timer { name: String },
    /// A child has ended.
    Child { id: Uuid, status: Status, data: Option<Value> },
    /// A question was answered; without a response it expired.
    Answer { id: Uuid, response: Option<Value> },
    /// A deployment has settled.
    Deployment { id: Uuid, status: String },
}

impl Trigger {
    /// What an orchestration's inbox would hold; nothing for a first run.
    pub fn event(&self) -> Option<WakeEvent> {
        let (kind, source, payload) = match self {
            Trigger::Initial => return None,
            Trigger::Cron { name } => (EventKind::Cron, Uuid::now_v7(), json!({ "name": name })),
            Trigger::Timer { name } => (EventKind::Timer, Uuid::now_v7(), json!({ "name": name })),
            Trigger::Child { id, status, data } => {
                (EventKind::Child, *id, json!({ "status": status, "data": data }))
            }
            Trigger::Answer { id, response: Some(response) } => {
                let payload = json!({ "response": response, "answered_by": Uuid::nil() });
                (EventKind::Answer, *id, payload)
            }
            Trigger::Answer { id, response: None } => (EventKind::Answer, *id, json!({})),
            Trigger::Deployment { id, status } => {
                (EventKind::Deployment, *id, json!({ "status": status }))
            }
        };
        Some(WakeEvent { kind, source, payload })
    }
}

impl FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (subject, value) = match text.split_once('=') {
            Some((subject, value)) => (subject, Some(value)),
            None => (text, None),
        };
        let (kind, name) = match subject.split_once(':') {
            Some((kind, name)) => (kind, Some(name)),
            None => (subject, None),
        };
        let none = |part: Option<&str>| match part {
            None => Ok(()),
            Some(part) => Err(format!("`{kind}` takes no `{part}`")),
        };
        let named = || match name {
            Some(name) if !name.is_empty() && value.is_none() => Ok(name.to_owned()),
            _ => Err(format!("write it as {kind}:NAME")),
        };
        let id = || match name {
            None => Ok(Uuid::now_v7()),
            Some(name) => name.parse().map_err(|_| format!("`{name}` is not an id: ids are UUIDs")),
        };
        match kind {
            "initial" => {
                none(name)?;
                none(value)?;
                Ok(Trigger::Initial)
            }
            "cron" => Ok(Trigger::Cron { name: named()? }),
            "timer" => Ok(Trigger::Timer { name: named()? }),
            "child" => {
                let (status, data) = match value {
                    None | Some("completed") => (Status::Completed, None),
                    Some("failed") => (Status::Failed, None),
                    Some("cancelled") => (Status::Cancelled, None),
                    Some(text) => (Status::Completed, Some(text)),
                };
                let data = data.map(serde_json::from_str).transpose().map_err(|error| {
                    format!(
                        "a child has completed, failed, was cancelled, or its data is JSON: {error}"
                    )
                })?;
                Ok(Trigger::Child { id: id()?, status, data })
            }
            "answer" => {
                let text = value.ok_or("write it as answer=VALUE")?;
                // What is no JSON is a text: people choose from options such as yes and no.
                let response = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
                Ok(Trigger::Answer { id: id()?, response: Some(response) })
            }
            "expired" => {
                none(value)?;
                Ok(Trigger::Answer { id: id()?, response: None })
            }
            "deployment" => match value {
                Some(status @ ("running" | "failed" | "stopped")) => {
                    Ok(Trigger::Deployment { id: id()?, status: status.to_owned() })
                }
                _ => Err("write it as deployment=running, =failed or =stopped".to_owned()),
            },
            _ => Err(format!(
                "`{kind}` is no trigger; there are initial, cron:NAME, timer:NAME, child, \
                 answer=VALUE, expired, deployment=STATUS"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01990000-0000-7000-8000-000000000001";

    #[test]
    fn every_form() {
        let id: Uuid = ID.parse().expect("an id");
        let read = |text: &str| text.parse::<Trigger>().expect("a trigger");
        let child = |status, data| Trigger::Child { id, status, data };
        let answer = |response| Trigger::Answer { id, response };
        assert_eq!(read("initial"), Trigger::Initial);
        assert_eq!(read("cron:nightly"), Trigger::Cron { name: "nightly".into() });
        assert_eq!(read("timer:a:b"), Trigger::Timer { name: "a:b".into() });
        assert_eq!(read(&format!("child:{ID}")), child(Status::Completed, None));
        assert_eq!(read(&format!("child:{ID}=failed")), child(Status::Failed, None));
        let data = Some(json!({ "a": "x=y:z" }));
        assert_eq!(
            read(&format!("child:{ID}={{\"a\": \"x=y:z\"}}")),
            child(Status::Completed, data)
        );
        assert_eq!(read(&format!("answer:{ID}=yes")), answer(Some(json!("yes"))));
        assert_eq!(read(&format!("answer:{ID}=7")), answer(Some(json!(7))));
        assert_eq!(read(&format!("expired:{ID}")), answer(None));
        assert!(
            matches!(read("deployment=failed"), Trigger::Deployment { status, .. } if status == "failed")
        );
        assert!(matches!(read("child"), Trigger::Child { .. }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("", "is no trigger"),
            ("birthday", "is no trigger"),
            ("timer", "write it as timer:NAME"),
            ("cron:", "write it as cron:NAME"),
            ("timer:a=b", "write it as timer:NAME"),
            ("child:7", "ids are UUIDs"),
            ("child=oops", "its data is JSON"),
            ("answer", "write it as answer=VALUE"),
            ("initial:x", "takes no `x`"),
            ("deployment=gone", "write it as deployment=running"),
        ] {
            let said = text.parse::<Trigger>().expect_err("refused");
            assert!(said.contains(problem), "{text}: {said}");
        }
    }
}
