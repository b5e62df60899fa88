//! What the design says, in memory: one organisation's requests, edges, orchestrations, questions and
//! timers, and the rules by which they change. Nothing here calls what is put to the proof.
//!
//! Where the design leaves a choice (which of two failed blockers a dependent is cancelled because of),
//! the model keeps every answer that would do, and takes the one that was given.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Fact, Fate, Id, QuestionNo, Source};
use super::operations::{Effects, How, New, Reply, Report};
use crate::delivery::lease::{MAX_DRAINS, MAX_RESCUES};
use crate::requests::OnFailure;

/// A claim: which run of which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunNo(pub usize);

#[derive(Clone, Debug)]
pub struct Request {
    pub parent: Option<(Id, i32)>,
    pub root: Id,
    /// The orchestration that this is a wake-up of.
    pub wakes: Option<Id>,
    pub replies: bool,
    pub detached: bool,
    pub max_attempts: i16,
    pub generation: i32,
    pub attempt: i16,
    pub life: Life,
}

#[derive(Clone, Debug)]
pub enum Life {
    Open(Open),
    Ended(Ended),
}

#[derive(Clone, Debug)]
pub struct Open {
    pub status: Status,
    pub rescues: i16,
    pub drains: i16,
    /// Its time has not come.
    pub delayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Scheduled,
    Blocked,
    Pending,
    Processing(RunNo),
    Waiting,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Blocked => "blocked",
            Status::Pending => "pending",
            Status::Processing(_) => "processing",
            Status::Waiting => "waiting",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Ended {
    pub status: &'static str,
    /// Why it did not complete: everything that may be said. The first is what is said.
    pub whys: Vec<Why>,
}

/// A code, and the blocker with its generation where one is the cause.
type Why = (&'static str, Option<(Id, i32)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeState {
    Open,
    Met,
    Held,
}

#[derive(Clone, Debug)]
pub struct Edge {
    pub on_failure: OnFailure,
    pub state: EdgeState,
}

#[derive(Clone, Debug)]
pub struct Letter {
    pub to: Id,
    pub source: Source,
    pub generation: i32,
    pub fate: Fate,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub of: Option<Id>,
    pub status: &'static str,
}

/// How a request is to end, before it is known what follows.
#[derive(Clone, Debug)]
struct Ending {
    id: Id,
    status: &'static str,
    code: Option<&'static str>,
}

impl Ending {
    fn new(id: Id, status: &'static str, code: Option<&'static str>) -> Ending {
        Ending { id, status, code }
    }

    fn is_bad(&self) -> bool {
        self.status != "completed"
    }
}

/// Why an operation changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused;

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub requests: BTreeMap<Id, Request>,
    pub edges: BTreeMap<(Id, Id), Edge>,
    pub letters: Vec<Letter>,
    pub questions: BTreeMap<QuestionNo, Question>,
    pub timers: BTreeSet<(Id, String)>,
    pub attempts: Vec<(Id, i32, i16, &'static str)>,
    /// Every claim ever made: of which request, by which worker.
    pub runs: Vec<(Id, usize)>,
    /// The next request's number.
    next: usize,
    /// The next question's.
    next_question: usize,
}

impl Model {
    pub fn fresh(&mut self) -> Id {
        self.next += 1;
        Id(self.next - 1)
    }

    pub fn fresh_question(&mut self) -> QuestionNo {
        self.next_question += 1;
        QuestionNo(self.next_question - 1)
    }

    pub fn open(&self, id: Id) -> Option<&Open> {
        match &self.requests.get(&id)?.life {
            Life::Open(open) => Some(open),
            Life::Ended(_) => None,
        }
    }

    fn open_mut(&mut self, id: Id) -> Option<&mut Open> {
        match &mut self.requests.get_mut(&id)?.life {
            Life::Open(open) => Some(open),
            Life::Ended(_) => None,
        }
    }

    pub fn ended(&self, id: Id) -> Option<&Ended> {
        match &self.requests.get(&id)?.life {
            Life::Open(_) => None,
            Life::Ended(ended) => Some(ended),
        }
    }

    pub fn status(&self, id: Id) -> Option<Status> {
        self.open(id).map(|open| open.status)
    }

    pub fn open_ids(&self) -> Vec<Id> {
        self.requests.keys().copied().filter(|id| self.open(*id).is_some()).collect()
    }

    /// Itself, or what it is a wake-up of.
    pub fn orchestration(&self, id: Id) -> Id {
        self.requests[&id].wakes.unwrap_or(id)
    }

    pub fn holds_lease(&self, run: RunNo) -> bool {
        self.status(self.runs[run.0].0) == Some(Status::Processing(run))
    }

    /// Runs of a worker that have not been taken from it.
    pub fn held_by(&self, worker: usize) -> Vec<RunNo> {
        let runs = (0..self.runs.len()).map(RunNo);
        runs.filter(|run| self.runs[run.0].1 == worker && self.holds_lease(*run)).collect()
    }

    fn open_blockers(&self, id: Id) -> i32 {
        let holding = self.edges.iter().filter(|((_, dependent), edge)| {
            *dependent == id && matches!(edge.state, EdgeState::Open | EdgeState::Held)
        });
        holding.count() as i32
    }

    pub fn open_wakeup(&self, orchestration: Id) -> Option<Id> {
        let mut ids = self.requests.iter().filter(|(id, request)| {
            request.wakes == Some(orchestration) && self.open(**id).is_some()
        });
        ids.next().map(|(id, _)| *id)
    }

    /// Every wake-up of an orchestration, oldest first.
    pub fn wakeups(&self, orchestration: Id) -> impl Iterator<Item = Id> + '_ {
        let all = self.requests.iter().filter(move |(_, one)| one.wakes == Some(orchestration));
        all.map(|(id, _)| *id)
    }

    /// How many events a run has been given.
    pub fn letters_of(&self, run: RunNo) -> usize {
        let read = Fate::ReadBy(self.runs[run.0].0);
        self.letters.iter().filter(|letter| letter.fate == read).count()
    }

    fn has_unread(&self, orchestration: Id) -> bool {
        self.letters.iter().any(|letter| letter.to == orchestration && letter.fate == Fate::Unread)
    }

    // ---- creating ---------------------------------------------------------------------------------

    /// From outside.
    pub fn create(&mut self, batch: &[New]) -> Result<(), Refused> {
        let before = self.clone();
        let told: Vec<Option<Id>> = batch
            .iter()
            .map(|new| match new.reply {
                Reply::To(id) => Some(self.orchestration(id)),
                Reply::Nobody | Reply::OwnRun => None,
            })
            .collect();
        if told.iter().flatten().any(|orchestration| self.open(*orchestration).is_none()) {
            return Err(Refused);
        }
        let outcome = self.insert(batch, &told);
        if outcome.is_err() {
            *self = before;
        }
        outcome
    }

    /// Inserts a batch, each with its parent; those that have one and are to reply, reply to it.
    fn insert(&mut self, batch: &[New], parents: &[Option<Id>]) -> Result<(), Refused> {
        for (new, parent) in batch.iter().zip(parents) {
            let replies = new.reply != Reply::Nobody;
            let mut whys = Vec::new();
            for (blocker, on_failure) in &new.blockers {
                let state = match (self.ended(*blocker), on_failure) {
                    (None, _) => EdgeState::Open,
                    (Some(ended), _) if ended.status == "completed" => EdgeState::Met,
                    (Some(_), OnFailure::Run) => EdgeState::Met,
                    (Some(_), OnFailure::Hold) => EdgeState::Held,
                    (Some(_), OnFailure::Cancel) => {
                        let generation = self.requests[blocker].generation;
                        whys.push(("blocker_failed", Some((*blocker, generation))));
                        EdgeState::Open
                    }
                };
                let edge = Edge { on_failure: *on_failure, state };
                self.edges.insert((*blocker, new.id), edge);
            }
            let status = match (self.open_blockers(new.id) > 0, new.delayed) {
                (true, _) => Status::Blocked,
                (false, true) => Status::Scheduled,
                (false, false) => Status::Pending,
            };
            let life = match whys.is_empty() {
                true => Life::Open(Open { status, rescues: 0, drains: 0, delayed: new.delayed }),
                false => Life::Ended(Ended { status: "cancelled", whys }),
            };
            let request = Request {
                parent: parent.map(|parent| (parent, self.requests[&parent].generation)),
                root: parent.map_or(new.id, |parent| self.requests[&parent].root),
                wakes: None,
                replies,
                detached: new.detached,
                max_attempts: new.max_attempts,
                generation: 1,
                attempt: 0,
                life,
            };
            self.requests.insert(new.id, request);
        }
        for (new, parent) in batch.iter().zip(parents) {
            let Some(parent) = parent.filter(|_| new.reply != Reply::Nobody) else { continue };
            if self.open(new.id).is_some() && self.waits_for(new.id, parent) {
                return Err(Refused);
            }
        }
        for (new, parent) in batch.iter().zip(parents) {
            if self.ended(new.id).is_some() && new.reply != Reply::Nobody {
                self.tell(*parent, Source::Child(new.id), 1);
            }
        }
        Ok(())
    }

    /// Whether `from` waits, in the end, for `target`: through edges that hold (those of a dead
    /// request too, which a retry could bring back), and from an orchestration to the open children
    /// that reply to it.
    fn waits_for(&self, from: Id, target: Id) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut next = vec![from];
        while let Some(id) = next.pop() {
            if id == target {
                return true;
            }
            let blockers = self
                .edges
                .iter()
                .filter(|((_, dependent), edge)| *dependent == id && edge.state != EdgeState::Met);
            let blockers = blockers.map(|((blocker, _), _)| *blocker);
            let children = self.replying_children(id);
            for found in blockers.chain(children).collect::<Vec<_>>() {
                if seen.insert(found) {
                    next.push(found);
                }
            }
        }
        false
    }

    /// Open children that reply to it.
    fn replying_children(&self, of: Id) -> Vec<Id> {
        let all = self.requests.iter().filter(|(id, child)| {
            child.replies
                && child.parent.is_some_and(|(parent, _)| parent == of)
                && self.open(**id).is_some()
        });
        all.map(|(id, _)| *id).collect()
    }

    // ---- telling orchestrations -------------------------------------------------------------------

    fn tell(&mut self, to: Option<Id>, source: Source, generation: i32) {
        let Some(to) = to else { return };
        let fate = match self.open(to) {
            Some(_) => Fate::Unread,
            None => Fate::Discarded,
        };
        self.letters.push(Letter { to, source, generation, fate });
        self.wake(to);
    }

    /// Makes a wake-up if one is due.
    fn wake(&mut self, orchestration: Id) {
        let due = self.status(orchestration) == Some(Status::Waiting)
            && self.open_wakeup(orchestration).is_none()
            && self.has_unread(orchestration);
        if !due {
            return;
        }
        let id = self.fresh();
        let of = &self.requests[&orchestration];
        let request = Request {
            parent: Some((orchestration, of.generation)),
            root: of.root,
            wakes: Some(orchestration),
            replies: false,
            detached: false,
            max_attempts: of.max_attempts,
            generation: 1,
            attempt: 0,
            life: Life::Open(Open {
                status: Status::Pending,
                rescues: 0,
                drains: 0,
                delayed: false,
            }),
        };
        self.requests.insert(id, request);
    }

    // ---- ending -----------------------------------------------------------------------------------

    /// Ends requests in one go, with everything that follows. The completion of whoever has created
    /// them spares `created`.
    fn end(&mut self, endings: Vec<Ending>, created: &BTreeSet<Id>) {
        let mut ending: BTreeMap<Id, (Ending, Vec<Why>)> = BTreeMap::new();
        for one in endings {
            if self.open(one.id).is_some() {
                let whys = one.code.map(|code| (code, None)).into_iter().collect();
                ending.entry(one.id).or_insert((one, whys));
            }
        }
        // An orchestration fails with its wake-up.
        let failed_wakeups: Vec<Ending> = ending
            .values()
            .filter(|(one, _)| one.status == "failed")
            .filter_map(|(one, _)| {
                Some(Ending { id: self.requests[&one.id].wakes?, ..one.clone() })
            })
            .collect();
        for one in failed_wakeups {
            let whys = one.code.map(|code| (code, None)).into_iter().collect();
            ending.entry(one.id).or_insert((one, whys));
        }
        // Who is cancelled along: again and again until nobody is added.
        let own: BTreeSet<Id> = ending.keys().copied().collect();
        loop {
            let mut along: Vec<(Id, Why)> = Vec::new();
            for ((blocker, dependent), edge) in &self.edges {
                let falls = edge.state == EdgeState::Open
                    && edge.on_failure == OnFailure::Cancel
                    && ending.get(blocker).is_some_and(|(one, _)| one.is_bad());
                if falls {
                    let generation = self.requests[blocker].generation;
                    along.push((*dependent, ("blocker_failed", Some((*blocker, generation)))));
                }
            }
            for (one, _) in ending.values() {
                for id in self.goes_with(one, created) {
                    along.push((id, ("orchestration_ended", None)));
                }
            }
            let mut grown = false;
            for (id, why) in along {
                if self.open(id).is_none() || own.contains(&id) {
                    continue;
                }
                let cancelled = Ending::new(id, "cancelled", Some(why.0));
                let (_, whys) = ending.entry(id).or_insert((cancelled, Vec::new()));
                if !whys.contains(&why) {
                    whys.push(why);
                    grown = true;
                }
            }
            if !grown {
                break;
            }
        }
        self.write(ending);
    }

    /// Open requests that end because this one does, as an orchestration.
    fn goes_with(&self, one: &Ending, created: &BTreeSet<Id>) -> BTreeSet<Id> {
        let mut found = BTreeSet::new();
        // Each with whether it takes everything along. A child that is cancelled does.
        let mut parents = vec![(one.id, one.is_bad())];
        while let Some((parent, all)) = parents.pop() {
            for (id, child) in &self.requests {
                if child.parent.is_none_or(|(of, _)| of != parent) {
                    continue;
                }
                if all || !child.detached && !created.contains(id) {
                    let open = self.open(*id).is_some();
                    parents.push((*id, all || open));
                    if open {
                        found.insert(*id);
                    }
                }
            }
        }
        found
    }

    fn write(&mut self, ending: BTreeMap<Id, (Ending, Vec<Why>)>) {
        let mut met = Vec::new();
        for ((blocker, dependent), edge) in &mut self.edges {
            let Some((one, _)) = ending.get(blocker) else { continue };
            let lives = matches!(self.requests[dependent].life, Life::Open(_));
            if edge.state != EdgeState::Open || ending.contains_key(dependent) || !lives {
                continue;
            }
            if !one.is_bad() || edge.on_failure == OnFailure::Run {
                edge.state = EdgeState::Met;
                met.push(*dependent);
            } else {
                edge.state = EdgeState::Held;
            }
        }
        for (id, (one, whys)) in &ending {
            if let Some(request) = self.requests.get_mut(id) {
                request.life = Life::Ended(Ended { status: one.status, whys: whys.clone() });
            }
            self.timers.retain(|(of, _)| of != id);
            for question in self.questions.values_mut() {
                if question.of == Some(*id) && question.status == "open" {
                    question.status = "cancelled";
                }
            }
            for letter in &mut self.letters {
                if letter.to == *id && letter.fate == Fate::Unread {
                    letter.fate = Fate::Discarded;
                }
            }
        }
        for dependent in met {
            let free = self.open_blockers(dependent) == 0;
            if let Some(open) = self.open_mut(dependent)
                && free
            {
                open.status = if open.delayed { Status::Scheduled } else { Status::Pending };
            }
        }
        // Whoever ends with its orchestration has nobody to tell.
        for id in ending.keys() {
            let request = &self.requests[id];
            let told = request.parent.filter(|_| request.replies).map(|(parent, _)| parent);
            if let Some(told) = told.filter(|told| !ending.contains_key(told)) {
                self.tell(Some(told), Source::Child(*id), request.generation);
            }
        }
    }

    // ---- runs -------------------------------------------------------------------------------------

    /// Takes over what was claimed, or says what is wrong with it. `asked` is how many were asked for;
    /// `suspect` whether one under which a worker has died was.
    pub fn claim(
        &mut self,
        worker: usize,
        asked: usize,
        suspect: bool,
        claimed: &[Id],
    ) -> Result<(), String> {
        let pending = |suspects: bool| -> BTreeSet<Id> {
            let all = self.requests.keys().copied().filter(|id| {
                self.open(*id).is_some_and(|open| {
                    open.status == Status::Pending && (open.rescues > 0) == suspects
                })
            });
            all.collect()
        };
        let (plain, suspects) = (pending(false), pending(true));
        let of_suspects = claimed.iter().filter(|id| suspects.contains(id)).count();
        let due = usize::from(suspect && asked > 0).min(suspects.len());
        let rest = (asked - due).min(plain.len());
        let right = of_suspects == due
            && claimed.len() == due + rest
            && claimed.iter().all(|id| suspects.contains(id) || plain.contains(id));
        if !right {
            return Err(format!(
                "  claimed were {claimed:?}; pending were {plain:?}, and {suspects:?} under which \
                 workers had died"
            ));
        }
        for id in claimed {
            let run = RunNo(self.runs.len());
            self.runs.push((*id, worker));
            if let Some(request) = self.requests.get_mut(id) {
                request.attempt += 1;
            }
            if let Some(open) = self.open_mut(*id) {
                open.status = Status::Processing(run);
                open.delayed = false;
            }
            if let Some(orchestration) = self.requests[id].wakes {
                for letter in &mut self.letters {
                    if letter.to == orchestration && letter.fate == Fate::Unread {
                        letter.fate = Fate::ReadBy(*id);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs that are reported together, none of which does more than end.
    pub fn finish_together(&mut self, reports: &[&Report]) {
        let mut endings = Vec::new();
        for report in reports {
            let id = self.runs[report.run.0].0;
            if self.holds_lease(report.run) {
                endings.push(match report.how {
                    How::Completed => Ending::new(id, "completed", None),
                    _ => Ending::new(id, "failed", Some("failed")),
                });
            }
        }
        self.end(endings, &BTreeSet::new());
    }

    /// One run, with its effects.
    pub fn finish(&mut self, report: &Report) {
        if !self.holds_lease(report.run) {
            return;
        }
        let id = self.runs[report.run.0].0;
        if report.how == How::Again && self.requests[&id].attempt < self.requests[&id].max_attempts
        {
            self.note(id, "failed");
            if let Some(open) = self.open_mut(id) {
                open.status = Status::Scheduled;
                open.delayed = true;
            }
            return;
        }
        let before = self.clone();
        let code = match report.how {
            How::Completed | How::Waiting => match self.commit(id, report) {
                Ok(()) => return,
                Err(code) => code,
            },
            How::Failed | How::Again => "failed",
        };
        // Nothing of what it asked for.
        let next = self.next;
        *self = before;
        self.next = next;
        self.end(vec![Ending::new(id, "failed", Some(code))], &BTreeSet::new());
    }

    /// The effects of a run and what it decides. An error is the code with which it fails instead.
    fn commit(&mut self, id: Id, report: &Report) -> Result<(), &'static str> {
        let Effects { creates, cancels, questions, timers } = &report.effects;
        let orchestration = self.orchestration(id);
        let parents = vec![Some(orchestration); creates.len()];
        let waits = report.how == How::Waiting;
        self.insert(creates, &parents).map_err(|Refused| "effects_invalid")?;

        let mut endings = Vec::new();
        if !waits {
            endings.push(Ending::new(orchestration, "completed", None));
        }
        if !waits || orchestration != id {
            endings.push(Ending::new(id, "completed", None));
        }
        for target in cancels {
            if *target != orchestration && self.requests[target].wakes.is_none() {
                endings.push(Ending::new(*target, "cancelled", Some("cancelled")));
            }
        }
        let created: BTreeSet<Id> = creates.iter().map(|new| new.id).collect();
        self.end(endings, &created);

        // Unless what it has cancelled has taken it along.
        let waits = waits && self.open(orchestration).is_some();
        for question in questions {
            let of = waits.then_some(orchestration);
            self.questions.insert(*question, Question { of, status: "open" });
        }
        if !waits {
            return Ok(());
        }
        self.timers.extend(timers.iter().map(|name| (orchestration, name.clone())));
        let outstanding = !self.replying_children(orchestration).is_empty()
            || self.has_unread(orchestration)
            || self.timers.iter().any(|(of, _)| *of == orchestration)
            || self
                .questions
                .values()
                .any(|question| question.of == Some(orchestration) && question.status == "open");
        if !outstanding {
            return Err("nothing_to_wait_for");
        }
        if orchestration == id {
            self.note(id, "waited");
        }
        if let Some(open) = self.open_mut(orchestration) {
            open.status = Status::Waiting;
        }
        self.wake(orchestration);
        Ok(())
    }

    fn note(&mut self, id: Id, kind: &'static str) {
        let request = &self.requests[&id];
        self.attempts.push((id, request.generation, request.attempt, kind));
    }

    fn back(&mut self, id: Id) {
        if let Some(open) = self.open_mut(id) {
            open.status = Status::Pending;
        }
    }

    fn take_back_attempt(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.attempt -= 1;
        }
    }

    /// A worker is dead.
    pub fn rescue(&mut self, worker: usize) {
        let held = self.held_by(worker);
        let ids: Vec<Id> = held.iter().map(|run| self.runs[run.0].0).collect();
        let poison = |id: &&Id| self.open(**id).is_some_and(|open| open.rescues + 1 >= MAX_RESCUES);
        let endings = ids.iter().filter(poison);
        let endings = endings.map(|id| Ending::new(*id, "failed", Some("worker_lost"))).collect();
        self.end(endings, &BTreeSet::new());
        for run in held {
            if self.holds_lease(run) {
                let id = self.runs[run.0].0;
                self.note(id, "rescued");
                self.take_back_attempt(id);
                if let Some(open) = self.open_mut(id) {
                    open.rescues += 1;
                }
                self.back(id);
            }
        }
    }

    /// A worker is stopped, and hands back what it has not finished; `true` for what had started.
    pub fn give_back(&mut self, runs: &[(RunNo, bool)]) {
        let held: Vec<(RunNo, bool)> =
            runs.iter().copied().filter(|(run, _)| self.holds_lease(*run)).collect();
        let third = |model: &Model, id: Id| {
            model.open(id).is_some_and(|open| open.drains + 1 >= MAX_DRAINS)
        };
        let endings = held
            .iter()
            .filter(|(_, started)| *started)
            .map(|(run, _)| self.runs[run.0].0)
            .filter(|id| third(self, *id))
            .filter(|id| self.requests[id].attempt >= self.requests[id].max_attempts)
            .map(|id| Ending::new(id, "failed", Some("worker_lost")))
            .collect();
        self.end(endings, &BTreeSet::new());
        for (run, started) in held {
            if !self.holds_lease(run) {
                continue;
            }
            let id = self.runs[run.0].0;
            let counts = started && third(self, id);
            match counts {
                true => self.note(id, "drained"),
                false => self.take_back_attempt(id),
            }
            if let Some(open) = self.open_mut(id) {
                match (counts, started) {
                    (true, _) => open.drains = 0,
                    (false, true) => open.drains += 1,
                    (false, false) => {}
                }
            }
            self.back(id);
        }
    }

    // ---- people and time --------------------------------------------------------------------------

    pub fn cancel(&mut self, id: Id) -> Result<(), Refused> {
        if self.open(id).is_none() || self.requests[&id].wakes.is_some() {
            return Err(Refused);
        }
        self.end(vec![Ending::new(id, "cancelled", Some("cancelled"))], &BTreeSet::new());
        Ok(())
    }

    pub fn retry(&mut self, id: Id) -> Result<(), Refused> {
        let ended = self.ended(id).ok_or(Refused)?;
        let request = &self.requests[&id];
        let because = ended.whys.first().and_then(|why| why.1);
        let blocker_is_bad = because.is_some_and(|(blocker, _)| {
            self.ended(blocker).is_some_and(|blocker| blocker.status != "completed")
        });
        if ended.status == "completed" || request.wakes.is_some() || blocker_is_bad {
            return Err(Refused);
        }
        if !self.is_heard(id) {
            return Err(Refused);
        }
        // Exactly those that were cancelled because this generation did not complete, and so on down.
        let mut revived = BTreeSet::from([id]);
        let mut next = vec![id];
        while let Some(cause) = next.pop() {
            let because = Some((cause, self.requests[&cause].generation));
            for other in self.requests.keys().copied().collect::<Vec<_>>() {
                let follows = self
                    .ended(other)
                    .and_then(|ended| ended.whys.first())
                    .is_some_and(|why| why.1 == because);
                if follows && self.is_heard(other) && revived.insert(other) {
                    next.push(other);
                }
            }
        }
        let before = self.clone();
        for id in &revived {
            self.note(*id, "retried");
            if let Some(request) = self.requests.get_mut(id) {
                request.generation += 1;
                request.attempt = 0;
                let status = Status::Pending;
                request.life = Life::Open(Open { status, rescues: 0, drains: 0, delayed: false });
            }
        }
        let states: BTreeMap<Id, Option<bool>> = self
            .requests
            .keys()
            .map(|id| (*id, self.ended(*id).map(|ended| ended.status == "completed")))
            .collect();
        for ((blocker, dependent), edge) in &mut self.edges {
            if revived.contains(blocker) && edge.state == EdgeState::Held {
                edge.state = EdgeState::Open;
            }
            if revived.contains(dependent) && edge.state != EdgeState::Met {
                edge.state = match (states[blocker], edge.on_failure) {
                    (None, _) => EdgeState::Open,
                    (Some(true), _) | (Some(false), OnFailure::Run) => EdgeState::Met,
                    // A second blocker failed too: that one has to be retried as well.
                    (Some(false), OnFailure::Cancel | OnFailure::Hold) => EdgeState::Held,
                };
            }
        }
        let parents: Vec<(Id, Id)> = revived
            .iter()
            .filter(|id| self.requests[id].replies)
            .filter_map(|id| Some((*id, self.requests[id].parent?.0)))
            .collect();
        if parents.iter().any(|(id, parent)| self.waits_for(*id, *parent)) {
            *self = before;
            return Err(Refused);
        }
        for id in revived {
            if self.open_blockers(id) > 0
                && let Some(open) = self.open_mut(id)
            {
                open.status = Status::Blocked;
            }
        }
        Ok(())
    }

    /// Whether nobody has to be told of its end, or whoever has to still waits for it.
    fn is_heard(&self, id: Id) -> bool {
        let request = &self.requests[&id];
        match request.parent.filter(|_| request.replies) {
            Some((parent, generation)) => {
                self.open(parent).is_some() && self.requests[&parent].generation == generation
            }
            None => true,
        }
    }

    /// Their time has come.
    pub fn promote(&mut self, due: &[Id]) {
        for id in due {
            if let Some(open) = self.open_mut(*id) {
                open.delayed = false;
                if open.status == Status::Scheduled {
                    open.status = Status::Pending;
                }
            }
        }
    }

    /// These were held for too long.
    pub fn expire_held(&mut self, edges: &[(Id, Id)]) {
        let endings = edges
            .iter()
            .map(|(_, dependent)| Ending::new(*dependent, "cancelled", Some("blocker_failed")))
            .collect();
        self.end(endings, &BTreeSet::new());
    }

    /// A question is answered, or expires.
    pub fn settle(&mut self, no: QuestionNo, status: &'static str) -> Result<(), Refused> {
        let question = self.questions.get_mut(&no).ok_or(Refused)?;
        if question.status != "open" {
            return Err(Refused);
        }
        question.status = status;
        let of = question.of;
        self.tell(of, Source::Answer(no), 1);
        Ok(())
    }

    pub fn fire(&mut self, timers: &[(Id, String)]) {
        for (of, name) in timers {
            if self.timers.remove(&(*of, name.clone())) {
                self.tell(Some(*of), Source::Timer(name.clone()), 1);
            }
        }
    }

    /// These orchestrations have waited for too long.
    pub fn overdue(&mut self, orchestrations: &[Id]) {
        let endings = orchestrations
            .iter()
            .map(|id| Ending::new(*id, "failed", Some("wait_timed_out")))
            .collect();
        self.end(endings, &BTreeSet::new());
    }

    // ---- comparing --------------------------------------------------------------------------------

    /// Where several causes would do, takes the one that was given.
    pub fn adopt_causes(&mut self, database: &[Fact]) {
        for fact in database {
            let Fact::Ended { id, code, cancelled_by, .. } = fact else { continue };
            let Some(Request { life: Life::Ended(ended), .. }) = self.requests.get_mut(id) else {
                continue;
            };
            let given = ended
                .whys
                .iter()
                .position(|(word, by)| Some(*word) == code.as_deref() && by == cancelled_by);
            if let Some(given) = given {
                ended.whys = vec![ended.whys[given]];
            }
        }
    }

    pub fn facts(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (id, request) in &self.requests {
            facts.push(Fact::Asked {
                id: *id,
                parent: request
                    .parent
                    .map(|(id, generation)| (id, request.wakes.is_none().then_some(generation))),
                root: request.root,
                orchestration: self.orchestration(*id),
            });
            facts.push(match &request.life {
                Life::Open(open) => Fact::Open {
                    id: *id,
                    status: open.status.word().to_owned(),
                    generation: request.generation,
                    attempt: request.attempt,
                    rescues: open.rescues,
                    drains: open.drains,
                    open_blockers: self.open_blockers(*id),
                    delayed: open.delayed,
                    reply_to: request.parent.filter(|_| request.replies).map(|(id, _)| id),
                    wakes: request.wakes,
                },
                Life::Ended(ended) => Fact::Ended {
                    id: *id,
                    status: ended.status.to_owned(),
                    generation: request.generation,
                    attempt: request.attempt,
                    code: ended.whys.first().map(|why| why.0.to_owned()),
                    cancelled_by: ended.whys.first().and_then(|why| why.1),
                },
            });
        }
        facts.extend(self.edges.iter().map(|((blocker, dependent), edge)| {
            Fact::Edge {
                blocker: *blocker,
                dependent: *dependent,
                on_failure: match edge.on_failure {
                    OnFailure::Cancel => "cancel",
                    OnFailure::Run => "run",
                    OnFailure::Hold => "hold",
                }
                .to_owned(),
                state: match edge.state {
                    EdgeState::Open => "open",
                    EdgeState::Met => "met",
                    EdgeState::Held => "held",
                }
                .to_owned(),
            }
        }));
        facts.extend(self.letters.iter().map(|letter| Fact::Letter {
            to: letter.to,
            source: letter.source.clone(),
            generation: letter.generation,
            fate: letter.fate.clone(),
        }));
        facts.extend(self.questions.iter().map(|(question, of)| Fact::Question {
            question: *question,
            of: of.of,
            status: of.status.to_owned(),
        }));
        let timers = self.timers.iter();
        facts.extend(timers.map(|(of, name)| Fact::Timer { of: *of, name: name.clone() }));
        facts.extend(self.attempts.iter().map(|(id, generation, attempt, kind)| Fact::Attempt {
            id: *id,
            generation: *generation,
            attempt: *attempt,
            kind: (*kind).to_owned(),
        }));
        facts.sort();
        facts
    }
}
