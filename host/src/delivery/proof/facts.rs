//! What can be said about one organisation's queue at one moment, in the same words by the model and
//! by the database.

use std::fmt;

/// A request, by the order in which the case came across it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub usize);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A question, likewise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionNo(pub usize);

impl fmt::Debug for QuestionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.0)
    }
}

/// What an orchestration heard of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Child(Id),
    Answer(QuestionNo),
    Timer(String),
}

/// What became of a row of the inbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Unread,
    ReadBy(Id),
    Discarded,
}

/// One row of the database, as far as section 2 of the design decides it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    Asked {
        id: Id,
        /// With the generation that created it; a wake-up has none.
        parent: Option<(Id, Option<i32>)>,
        root: Id,
        orchestration: Id,
    },
    Open {
        id: Id,
        status: String,
        generation: i32,
        attempt: i16,
        rescues: i16,
        drains: i16,
        open_blockers: i32,
        /// Its time has not come yet.
        delayed: bool,
        reply_to: Option<Id>,
        wakes: Option<Id>,
    },
    Ended {
        id: Id,
        status: String,
        generation: i32,
        attempt: i16,
        code: Option<String>,
        cancelled_by: Option<(Id, i32)>,
    },
    Edge {
        blocker: Id,
        dependent: Id,
        on_failure: String,
        state: String,
    },
    Letter {
        to: Id,
        source: Source,
        generation: i32,
        fate: Fate,
    },
    Question {
        question: QuestionNo,
        /// None if the run that asked has completed.
        of: Option<Id>,
        status: String,
    },
    Timer {
        of: Id,
        name: String,
    },
    Attempt {
        id: Id,
        generation: i32,
        attempt: i16,
        kind: String,
    },
}

/// What is said by one side only; nothing if both say the same. Both must be sorted.
pub fn difference(model: &[Fact], database: &[Fact]) -> Option<String> {
    let only = |these: &[Fact], those: &[Fact]| -> Vec<String> {
        let mut left: Vec<&Fact> = those.iter().collect();
        let mut alone = Vec::new();
        for fact in these {
            match left.iter().position(|other| *other == fact) {
                Some(place) => {
                    left.swap_remove(place);
                }
                None => alone.push(format!("    {fact:?}")),
            }
        }
        alone
    };
    if model == database {
        return None;
    }
    Some(format!(
        "  the model says, and the database does not:\n{}\n  the database says, and the model does not:\n{}",
        only(model, database).join("\n"),
        only(database, model).join("\n")
    ))
}
