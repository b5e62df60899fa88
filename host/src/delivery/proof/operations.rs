//! What happens in a case. An [`Operation`] is data with numbers in it; what it does it to is looked up
//! when its turn comes, by those numbers modulo what there is then ([`Operation::resolve`]). So any
//! list of operations is a case, and proptest can shorten a failing one as it likes.

use std::fmt;

use proptest::prelude::*;

use super::facts::{Id, QuestionNo};
use super::model::{EdgeState, Model, RunNo, Status};
use crate::requests::OnFailure;

/// Worker processes of a case.
pub const WORKERS: usize = 2;

/// A number that chooses among whatever there is.
#[derive(Clone, Copy)]
pub struct Choice(u16);

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Choice {
    fn of<T: Clone>(self, all: &[T]) -> Option<T> {
        match all.is_empty() {
            true => None,
            false => Some(all[self.0 as usize % all.len()].clone()),
        }
    }

    /// Some of these, by its bits.
    fn some<T: Clone>(self, all: &[T]) -> Vec<T> {
        let chosen = |place: usize| self.0 & (1 << (place % 16)) != 0;
        all.iter()
            .enumerate()
            .filter(|(place, _)| chosen(*place))
            .map(|(_, one)| one.clone())
            .collect()
    }
}

fn choice() -> impl Strategy<Value = Choice> {
    any::<u16>().prop_map(Choice)
}

/// A request to be created.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `true`: an earlier entry of the batch, if there is one.
    blockers: Vec<(bool, Choice, OnFailure)>,
    delayed: bool,
    priority: i16,
    max_attempts: i16,
    /// Inside a run: whether to its own orchestration. Outside: to which open request.
    reply: Option<Choice>,
    detached: bool,
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct RunEnd {
    run: Choice,
    how: How,
    creates: Vec<Asked>,
    /// `true`: something that the run itself has just created, if there is.
    cancels: Vec<(bool, Choice)>,
    questions: usize,
    timers: Vec<u8>,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Completed,
    Failed,
    /// Failed, and may be tried again.
    Again,
    Waiting,
}

/// One step of a case.
#[derive(Clone, Debug)]
pub enum Operation {
    Create(Vec<Asked>),
    Claim {
        worker: usize,
        batch: usize,
        suspect: bool,
    },
    Finish {
        worker: usize,
        ends: Vec<RunEnd>,
        path: Path,
    },
    /// A worker reports a run that was taken from it long ago.
    Late(RunEnd),
    Cancel(Choice),
    Retry(Choice),
    Rescue {
        worker: usize,
    },
    GiveBack {
        worker: usize,
        which: Choice,
        started: Choice,
    },
    Promote(Choice),
    ExpireHeld(Choice),
    Answer(Choice),
    ExpireQuestions(Choice),
    Fire(Choice),
    Overdue(Choice),
}

/// Which way a batch of reports goes, until a run is found that it is not for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// As a worker does it: the fast path, the graph for many, the graph for one.
    Worker,
    /// The graph for many, the graph for one.
    Together,
    /// The graph for one.
    Alone,
}

fn asked(replies: f64) -> impl Strategy<Value = Asked> {
    let policy = prop_oneof![Just(OnFailure::Cancel), Just(OnFailure::Run), Just(OnFailure::Hold)];
    let blockers = prop_oneof![
        2 => prop::collection::vec((any::<bool>(), choice(), policy.clone()), 0..1),
        1 => prop::collection::vec((any::<bool>(), choice(), policy), 1..3),
    ];
    (
        blockers,
        prop::bool::weighted(0.05),
        -1..2i16,
        1..4i16,
        prop::option::weighted(replies, choice()),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(blockers, delayed, priority, max_attempts, reply, detached)| Asked {
            blockers,
            delayed,
            priority,
            max_attempts,
            reply,
            detached,
        })
}

fn run_end() -> impl Strategy<Value = RunEnd> {
    let idle = |how| {
        choice().prop_map(move |run| RunEnd {
            run,
            how,
            creates: Vec::new(),
            cancels: Vec::new(),
            questions: 0,
            timers: Vec::new(),
        })
    };
    let cancels = || {
        prop_oneof![
            4 => Just(Vec::new()),
            1 => prop::collection::vec((any::<bool>(), choice()), 1..3),
        ]
    };
    let completes = (choice(), prop::collection::vec(asked(0.5), 0..2), cancels(), 0..2usize);
    let waits = (
        choice(),
        prop::collection::vec(asked(0.9), 0..3),
        cancels(),
        prop::sample::select(vec![0usize, 0, 0, 1, 2]),
        prop::sample::select(vec![vec![], vec![], vec![], vec![0u8], vec![0, 1]]),
    );
    prop_oneof![
        6 => idle(How::Completed),
        2 => idle(How::Failed),
        1 => idle(How::Again),
        2 => completes.prop_map(|(run, creates, cancels, questions)| RunEnd {
            run,
            how: How::Completed,
            creates,
            cancels,
            questions,
            timers: Vec::new(),
        }),
        7 => waits.prop_map(|(run, creates, cancels, questions, timers)| RunEnd {
            run,
            how: How::Waiting,
            creates,
            cancels,
            questions,
            timers,
        }),
    ]
}

fn create() -> impl Strategy<Value = Operation> {
    prop::collection::vec(asked(0.5), 1..4).prop_map(Operation::Create)
}

fn claim() -> impl Strategy<Value = Operation> {
    (0..WORKERS, 1..6usize, any::<bool>()).prop_map(|(worker, batch, suspect)| Operation::Claim {
        worker,
        batch,
        suspect,
    })
}

fn finish() -> impl Strategy<Value = Operation> {
    let path =
        prop_oneof![3 => Just(Path::Worker), 1 => Just(Path::Together), 1 => Just(Path::Alone)];
    (0..WORKERS, prop::collection::vec(run_end(), 1..4), path)
        .prop_map(|(worker, ends, path)| Operation::Finish { worker, ends, path })
}

fn disturbance() -> impl Strategy<Value = Operation> {
    let worker = || 0..WORKERS;
    prop_oneof![
        1 => run_end().prop_map(Operation::Late),
        2 => choice().prop_map(Operation::Cancel),
        4 => choice().prop_map(Operation::Retry),
        3 => worker().prop_map(|worker| Operation::Rescue { worker }),
        3 => (worker(), choice(), choice())
            .prop_map(|(worker, which, started)| Operation::GiveBack { worker, which, started }),
        2 => choice().prop_map(Operation::Promote),
        1 => choice().prop_map(Operation::ExpireHeld),
        2 => choice().prop_map(Operation::Answer),
        1 => choice().prop_map(Operation::ExpireQuestions),
        2 => choice().prop_map(Operation::Fire),
        1 => choice().prop_map(Operation::Overdue),
    ]
}

/// A case: something to do, then work, with now and then something else.
pub fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let step = prop_oneof![1 => create(), 6 => claim(), 7 => finish(), 4 => disturbance()];
    (create(), prop::collection::vec(step, 8..30)).prop_map(|(first, rest)| {
        let mut all = vec![first];
        all.extend(rest);
        all
    })
}

/// Who is told of a new request's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Nobody,
    /// The orchestration whose run creates it.
    OwnRun,
    /// This one.
    To(Id),
}

/// A request to be created, with everything looked up.
#[derive(Clone)]
pub struct New {
    pub id: Id,
    pub blockers: Vec<(Id, OnFailure)>,
    pub delayed: bool,
    pub priority: i16,
    pub max_attempts: i16,
    pub reply: Reply,
    pub detached: bool,
}

impl fmt::Debug for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        for (blocker, on_failure) in &self.blockers {
            write!(f, " after {blocker} ({on_failure:?})")?;
        }
        match self.reply {
            Reply::Nobody => {}
            Reply::OwnRun => write!(f, " replying")?,
            Reply::To(id) => write!(f, " replying to {id}")?,
        }
        for (is, word) in [(self.delayed, " delayed"), (self.detached, " detached")] {
            if is {
                f.write_str(word)?;
            }
        }
        write!(f, " x{}", self.max_attempts)
    }
}

/// What a run asks for.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub creates: Vec<New>,
    pub cancels: Vec<Id>,
    pub questions: Vec<QuestionNo>,
    pub timers: Vec<String>,
}

/// What a worker reports.
#[derive(Clone)]
pub struct Report {
    pub run: RunNo,
    pub how: How,
    pub effects: Effects,
    /// For people who read a failing case.
    request: Id,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.request, self.how)?;
        let Effects { creates, cancels, questions, timers } = &self.effects;
        if !creates.is_empty() {
            write!(f, " creates {creates:?}")?;
        }
        if !cancels.is_empty() {
            write!(f, " cancels {cancels:?}")?;
        }
        if !questions.is_empty() {
            write!(f, " asks {questions:?}")?;
        }
        if !timers.is_empty() {
            write!(f, " sets {timers:?}")?;
        }
        Ok(())
    }
}

/// An operation with everything looked up: what both sides do.
#[derive(Clone, Debug)]
pub enum Action {
    Create(Vec<New>),
    Claim {
        worker: usize,
        batch: usize,
        suspect: bool,
    },
    Finish {
        worker: usize,
        reports: Vec<Report>,
        path: Path,
    },
    Cancel(Id),
    Retry(Id),
    Rescue {
        worker: usize,
    },
    /// `true` for what had started.
    GiveBack {
        worker: usize,
        runs: Vec<(RunNo, bool)>,
    },
    Promote(Vec<Id>),
    ExpireHeld(Vec<(Id, Id)>),
    Answer(QuestionNo),
    ExpireQuestions(Vec<QuestionNo>),
    Fire(Vec<(Id, String)>),
    Overdue(Vec<Id>),
}

impl Operation {
    /// What it comes to as things stand; nothing where there is nothing that it could be done to. Takes
    /// the numbers of what it creates.
    pub fn resolve(&self, model: &mut Model) -> Option<Action> {
        Some(match self {
            Operation::Create(batch) => Action::Create(news(model, batch, false)),
            Operation::Claim { worker, batch, suspect } => {
                Action::Claim { worker: *worker, batch: *batch, suspect: *suspect }
            }
            Operation::Finish { worker, ends, path } => {
                let mut left = model.held_by(*worker);
                let mut reports = Vec::new();
                for end in ends {
                    let Some(run) = end.run.of(&left) else { break };
                    left.retain(|other| *other != run);
                    reports.push(report(model, run, end));
                }
                if reports.is_empty() {
                    return None;
                }
                Action::Finish { worker: *worker, reports, path: *path }
            }
            Operation::Late(end) => {
                let all = (0..model.runs.len()).map(RunNo);
                let stale: Vec<RunNo> = all.filter(|run| !model.holds_lease(*run)).collect();
                let run = end.run.of(&stale)?;
                let reports = vec![report(model, run, end)];
                Action::Finish { worker: model.runs[run.0].1, reports, path: Path::Worker }
            }
            Operation::Cancel(choice) => {
                let open = model.open_ids();
                // Now and then something that has ended.
                let all: Vec<Id> = model.requests.keys().copied().collect();
                Action::Cancel(choice.of(if choice.0 % 5 == 0 { &all } else { &open })?)
            }
            Operation::Retry(choice) => {
                let all: Vec<Id> = model.requests.keys().copied().collect();
                let is_bad = |id: &Id| model.ended(*id).is_some_and(|e| e.status != "completed");
                let bad: Vec<Id> = all.iter().copied().filter(is_bad).collect();
                Action::Retry(choice.of(if choice.0 % 5 == 0 { &all } else { &bad })?)
            }
            Operation::Rescue { worker } => Action::Rescue { worker: *worker },
            Operation::GiveBack { worker, which, started } => {
                let runs = which.some(&model.held_by(*worker));
                let started = |place: usize| started.0 & (1 << (place % 16)) != 0;
                let runs = runs.into_iter().enumerate().map(|(n, run)| (run, started(n))).collect();
                Action::GiveBack { worker: *worker, runs }
            }
            Operation::Promote(choice) => {
                let delayed = |id: &Id| model.open(*id).is_some_and(|open| open.delayed);
                let delayed: Vec<Id> = model.open_ids().into_iter().filter(delayed).collect();
                Action::Promote(choice.some(&delayed))
            }
            Operation::ExpireHeld(choice) => {
                let held: Vec<(Id, Id)> = model
                    .edges
                    .iter()
                    .filter(|((_, dependent), edge)| {
                        edge.state == EdgeState::Held && model.open(*dependent).is_some()
                    })
                    .map(|(edge, _)| *edge)
                    .collect();
                Action::ExpireHeld(choice.some(&held))
            }
            Operation::Answer(choice) => {
                let all: Vec<QuestionNo> = model.questions.keys().copied().collect();
                Action::Answer(choice.of(&all)?)
            }
            Operation::ExpireQuestions(choice) => {
                let open = model.questions.iter().filter(|(_, q)| q.status == "open");
                let open: Vec<QuestionNo> = open.map(|(no, _)| *no).collect();
                Action::ExpireQuestions(choice.some(&open))
            }
            Operation::Fire(choice) => {
                let all: Vec<(Id, String)> = model.timers.iter().cloned().collect();
                Action::Fire(choice.some(&all))
            }
            Operation::Overdue(choice) => {
                // What is being woken at the moment goes on.
                let waiting = |id: &Id| {
                    model.status(*id) == Some(Status::Waiting) && model.open_wakeup(*id).is_none()
                };
                let waiting: Vec<Id> = model.open_ids().into_iter().filter(waiting).collect();
                Action::Overdue(choice.of(&waiting).into_iter().collect())
            }
        })
    }
}

fn news(model: &mut Model, batch: &[Asked], in_run: bool) -> Vec<New> {
    let existing: Vec<Id> = model.requests.keys().copied().collect();
    let listeners = model.open_ids();
    let mut made: Vec<New> = Vec::new();
    for asked in batch {
        let own: Vec<Id> = made.iter().map(|new| new.id).collect();
        let mut blockers: Vec<(Id, OnFailure)> = Vec::new();
        for (entry, choice, on_failure) in &asked.blockers {
            let among = if *entry && !own.is_empty() { &own } else { &existing };
            // Naming one twice is refused before anything is looked at.
            let new = choice.of(among).filter(|id| blockers.iter().all(|(other, _)| other != id));
            blockers.extend(new.map(|id| (id, *on_failure)));
        }
        let reply = match (asked.reply, in_run) {
            (None, _) => Reply::Nobody,
            (Some(_), true) => Reply::OwnRun,
            // From outside, less often.
            (Some(choice), false) if choice.0 % 3 == 0 => {
                choice.of(&listeners).map_or(Reply::Nobody, Reply::To)
            }
            (Some(_), false) => Reply::Nobody,
        };
        made.push(New {
            id: model.fresh(),
            blockers,
            delayed: asked.delayed,
            priority: asked.priority,
            max_attempts: asked.max_attempts,
            reply,
            detached: asked.detached,
        });
    }
    made
}

fn report(model: &mut Model, run: RunNo, end: &RunEnd) -> Report {
    let creates = news(model, &end.creates, true);
    let own: Vec<Id> = creates.iter().map(|new| new.id).collect();
    let mut cancels: Vec<Id> = Vec::new();
    for (created, choice) in &end.cancels {
        let open = model.open_ids();
        let target = choice.of(if *created && !own.is_empty() { &own } else { &open });
        cancels.extend(target.filter(|target| !cancels.contains(target)));
    }
    Report {
        run,
        how: end.how,
        effects: Effects {
            creates,
            cancels,
            questions: (0..end.questions).map(|_| model.fresh_question()).collect(),
            timers: end.timers.iter().map(|name| format!("t{name}")).collect(),
        },
        request: model.runs[run.0].0,
    }
}
