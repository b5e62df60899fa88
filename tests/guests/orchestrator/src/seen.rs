//! What a run was woken with.

use std::fmt;

use eve_sdk::prelude::*;

/// Events of one line: a line holds 16 KiB.
const EVENTS_OF_A_LINE: usize = 200;

#[derive(Debug, Default, Serialize)]
pub struct Seen {
    pub children: Vec<String>,
    pub answers: Vec<String>,
    pub timers: Vec<String>,
}

impl Seen {
    pub fn by(request: &Request) -> Self {
        let mut seen = Self::default();
        for trigger in request.triggers() {
            match trigger {
                Trigger::ChildComplete(child) => seen.children.push(child.request_id.to_string()),
                Trigger::HitlResponse(answer) => seen.answers.push(answer.question_id.to_string()),
                Trigger::Timer(name) => seen.timers.push(name),
                _ => {}
            }
        }
        seen
    }

    /// As lines that a test can read.
    pub fn log(&self) {
        for ids in self.children.chunks(EVENTS_OF_A_LINE) {
            log::info!("seen"; children = ids.join(","));
        }
        if !self.answers.is_empty() {
            log::info!("seen"; answers = self.answers.join(","));
        }
        if !self.timers.is_empty() {
            log::info!("seen"; timers = self.timers.join(","));
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [&self.children, &self.answers, &self.timers];
        for event in all.into_iter().flatten() {
            writeln!(f, "{event}")?;
        }
        Ok(())
    }
}
