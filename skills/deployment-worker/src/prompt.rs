//! What a prompt asks for.
//!
//! A prompt is read by its words, in one pass: verbs say what is to be done, `to` and `in` stand before
//! environments, an image is known by its colon, a version by its form. Words that say nothing are
//! passed over. Everything that is said is kept, twice if it is said twice: whoever acts on it refuses
//! what has two meanings. Nothing here guesses, and nothing here asks the platform.

mod words;

#[cfg(test)]
mod tests;

use crate::image::{Image, is_app, is_tag, is_version};
use words::{
    Kind, Word, cut, is_determiner, is_greeting, is_question, kind, number_word, performs,
};

/// Longest prompt that is read, in characters. Who writes more does not give an order.
pub const LONGEST: usize = 2_000;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Deploy,
    Scale,
    Rollback,
    Delete,
    Promote,
    Abort,
    Status,
}

/// A word that may be an app's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    /// It stands where an app's name stands: behind the verb, or behind `of`.
    pub expected: bool,
    /// Those that `and` joins have the same number.
    pub group: usize,
}

/// What a prompt says. Every list has each thing once, in the order of the prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// It is longer than [`LONGEST`], and was not read.
    pub too_long: bool,
    pub verbs: Vec<Verb>,
    pub canary: bool,
    pub envs: Vec<String>,
    /// What stands behind `to` and is no environment, while the one that is said stands elsewhere.
    pub strays: Vec<String>,
    /// Apps that are called so: `app api`.
    pub apps: Vec<String>,
    pub candidates: Vec<Candidate>,
    pub images: Vec<Image>,
    /// Images without a version: `acme/api`.
    pub repositories: Vec<Image>,
    pub versions: Vec<String>,
    pub revisions: Vec<u32>,
    pub replicas: Vec<u64>,
    pub percents: Vec<u64>,
    /// Why nothing may be changed on its account.
    pub doubts: Vec<String>,
}

/// Reads a prompt. `envs` are the names of the environments that there are.
pub fn read(prompt: &str, envs: &[String]) -> Said {
    if prompt.chars().nth(LONGEST).is_some() {
        return Said { too_long: true, ..Said::default() };
    }
    let words = cut(prompt);
    let mut reader = Reader { words: &words, envs, at: 0, ..Reader::default() };
    while reader.at < words.len() {
        reader.step();
    }
    reader.finish()
}

/// An environment in the prompt's words, as it is called among `envs`: `production` is `prod` where
/// there is no `production`.
pub fn environment(word: &str, envs: &[String]) -> Option<String> {
    const SAME: [&[&str]; 4] = [
        &["prod", "production", "prd"],
        &["dev", "development"],
        &["staging", "stage", "stg"],
        &["test", "testing"],
    ];
    if envs.iter().any(|env| env == word) {
        return Some(word.to_owned());
    }
    let same = SAME.iter().find(|same| same.contains(&word))?;
    let mut found = envs.iter().filter(|env| same.contains(&env.as_str()));
    match (found.next(), found.next()) {
        (Some(env), None) => Some(env.clone()),
        _ => None,
    }
}

#[derive(Default)]
struct Reader<'a> {
    words: &'a [Word],
    envs: &'a [String],
    at: usize,
    said: Said,
    /// Whether it asks how things stand, as far as nothing else is asked for.
    looks: bool,
    /// What stands where an environment stands, and is none.
    unknown: Vec<String>,
    /// Whether an environment stands behind `to`.
    aimed: bool,
    /// Numbers of nothing in particular.
    loose: Vec<u64>,
    /// Whether it speaks of replicas.
    counts: bool,
    /// Whether something is to be set.
    sets: bool,
    /// An app's name is expected here.
    expects: bool,
    /// The group of the candidate just before, if `and` may join another to it.
    joins: Option<usize>,
    /// The group that `and` has just joined to.
    joined: Option<usize>,
    groups: usize,
}

impl Reader<'_> {
    fn lower(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |word| word.lower.as_str())
    }

    /// What a word is; an environment may be called `live`.
    fn kind(&self, at: usize) -> Option<Kind> {
        let word = self.lower(at);
        kind(word).filter(|kind| *kind != Kind::Filler || !self.envs.iter().any(|env| env == word))
    }

    /// The place of the first word from `at` on that says something.
    fn past_fillers(&self, mut at: usize) -> usize {
        while self.kind(at) == Some(Kind::Filler) {
            at += 1;
        }
        at
    }

    /// The place of the first word behind what is said for courtesy.
    fn past_greetings(&self) -> usize {
        let says = |word: &Word| !is_greeting(&word.lower);
        self.words.iter().position(says).unwrap_or_default()
    }

    /// A word that is a name, and not one of those that mean something else.
    fn name(&self, at: usize) -> Option<&str> {
        let word = self.lower(at);
        let means_more = self.kind(at).is_some() || is_version(word) || number_word(word).is_some();
        (is_app(word) && !means_more).then_some(word)
    }

    fn number(&self, at: usize) -> Option<u64> {
        let word = self.lower(at);
        let word = word.strip_prefix('#').unwrap_or(word);
        let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        // More than fits is more than there may be.
        is_number.then(|| word.parse().unwrap_or(u64::MAX))
    }

    fn doubt(&mut self, doubt: String) {
        once(&mut self.said.doubts, doubt);
    }

    fn step(&mut self) {
        let at = self.at;
        self.at += 1;
        let (expects, joined) = (self.expects, self.joined);
        let keeps_expecting = matches!(
            self.kind(at),
            Some(Kind::Filler | Kind::App | Kind::Canary | Kind::Of | Kind::And | Kind::Previous)
        );
        if !keeps_expecting {
            (self.expects, self.joins, self.joined) = (false, None, None);
        }
        match self.kind(at) {
            Some(Kind::Verb(verb)) => self.verb(verb, at),
            Some(Kind::Back) => self.back(),
            Some(Kind::Env) => self.env_marker(at),
            Some(Kind::App) => self.app_marker(at, expects, joined),
            Some(Kind::Image) => self.image_marker(at),
            Some(Kind::Version) => self.version_marker(at),
            Some(Kind::Revision) => {
                if let Some(number) = self.number(at + 1) {
                    once(&mut self.said.revisions, u32::try_from(number).unwrap_or(u32::MAX));
                    self.at = at + 2;
                }
            }
            Some(Kind::Replicas) => self.replicas_marker(at),
            Some(Kind::Into) => self.into(at),
            Some(Kind::Of) => self.expects = true,
            Some(Kind::And) => self.joined = self.joins.take(),
            Some(Kind::Canary) => self.said.canary = true,
            Some(Kind::Unless) => {
                let word = self.lower(at).to_owned();
                self.doubt(format!(
                    "`{word}`: conditions, times and what shall not be done are not understood"
                ));
            }
            Some(Kind::Everything) => {
                let word = self.lower(at).to_owned();
                self.doubt(format!("`{word}`: a request is about one app"));
            }
            Some(Kind::Setting) => {
                let word = self.lower(at).to_owned();
                self.doubt(format!(
                    "`{word}`: how it is to run is said in the context, as `settings`"
                ));
            }
            Some(Kind::Filler) => self.pair_of_words(at),
            Some(Kind::Previous | Kind::Percent | Kind::By | Kind::More) => {}
            None => self.other(at, expects, joined),
        }
    }

    fn verb(&mut self, verb: Verb, at: usize) {
        self.expects = true;
        // `status` and `is` ask for nothing where something else is asked for.
        if verb == Verb::Status {
            self.looks = true;
        } else if !self.is_noun(at) {
            once(&mut self.said.verbs, verb);
        }
    }

    /// `the deploy`, `that rollback of api`: it is spoken of, not asked for, unless somebody is to do it.
    fn is_noun(&self, at: usize) -> bool {
        let word = |back: usize| at.checked_sub(back).map_or("", |at| self.lower(at));
        let of = self.lower(at + 1) == "of";
        match is_determiner(word(1)) {
            true => !performs(word(2)),
            false => of && self.past_greetings() != at,
        }
    }

    /// `roll out`, `take down`.
    fn pair_of_words(&mut self, at: usize) {
        let verb = match (self.lower(at), self.lower(at + 1)) {
            ("roll" | "rolling", "out") => Verb::Deploy,
            ("take" | "tear", "down") => Verb::Delete,
            (
                "set" | "increase" | "decrease" | "raise" | "lower" | "reduce" | "change"
                | "adjust",
                _,
            ) => {
                self.sets = true;
                return;
            }
            ("roll" | "rolling" | "rolled", _) => {
                self.expects = true;
                return;
            }
            _ => return,
        };
        once(&mut self.said.verbs, verb);
        (self.at, self.expects) = (at + 2, true);
    }

    /// `roll api back`, `go back`; but to `scale back` is to scale.
    fn back(&mut self) {
        if !self.said.verbs.contains(&Verb::Scale) {
            once(&mut self.said.verbs, Verb::Rollback);
        }
        self.expects = true;
    }

    fn env(&mut self, word: &str) {
        match environment(word, self.envs) {
            Some(env) => once(&mut self.said.envs, env),
            None => once(&mut self.unknown, word.to_owned()),
        }
    }

    /// `environment staging`, `staging environment`.
    fn env_marker(&mut self, at: usize) {
        let before =
            at.checked_sub(1).map(|before| self.lower(before).to_owned()).unwrap_or_default();
        let is_said = |word: &str| {
            self.unknown.iter().any(|env| env == word) || environment(word, self.envs).is_some()
        };
        if !before.is_empty() && is_said(&before) {
            return;
        }
        let next = self.past_fillers(at + 1);
        if let Some(name) = self.name(next).map(str::to_owned) {
            self.env(&name);
            self.at = next + 1;
        } else if let Some(last) = self.said.candidates.pop_if_last(&before) {
            self.env(&last);
        }
    }

    /// `to staging`, `in the environment staging`.
    fn into(&mut self, at: usize) {
        let next = self.past_fillers(at + 1);
        let Some(name) = self.name(next).map(str::to_owned) else { return };
        self.at = next + 1;
        let aims = matches!(self.lower(at), "to" | "into" | "onto");
        match environment(&name, self.envs) {
            Some(_) => self.aimed |= aims,
            None => {
                // It may be an app after all, if an environment is said elsewhere.
                self.candidate(name.clone(), false, None);
                if aims {
                    once(&mut self.said.strays, name.clone());
                }
            }
        }
        self.env(&name);
    }

    /// `app api`, `api app`.
    fn app_marker(&mut self, at: usize, expects: bool, joined: Option<usize>) {
        (self.expects, self.joined) = (expects, joined);
        let before =
            at.checked_sub(1).map(|before| self.lower(before).to_owned()).unwrap_or_default();
        if let Some(name) = self.name(at + 1).map(str::to_owned) {
            once(&mut self.said.apps, name);
            self.at = at + 2;
        } else if let Some(name) = self.said.candidates.pop_if_last(&before) {
            once(&mut self.said.apps, name);
        }
    }

    fn image_marker(&mut self, at: usize) {
        let next = self.past_fillers(at + 1);
        let Some(word) = self.words.get(next) else { return };
        if kind(&word.lower).is_some() || is_version(&word.lower) {
            return;
        }
        if let Some(image) = Image::read(&word.text) {
            once(&mut self.said.images, image);
            self.at = next + 1;
        }
    }

    fn version_marker(&mut self, at: usize) {
        let Some(word) = self.words.get(at + 1) else { return };
        if is_tag(&word.text) && kind(&word.lower).is_none() {
            once(&mut self.said.versions, word.text.clone());
            self.at = at + 2;
        }
    }

    /// `replicas 5`, `replicas to 5`. A number before it was seen with that.
    fn replicas_marker(&mut self, at: usize) {
        let mut next = at + 1;
        while matches!(self.lower(next), "to" | "is" | "=") {
            next += 1;
        }
        self.counts = true;
        if let Some(number) = self.number(next) {
            once(&mut self.said.replicas, number);
            self.at = next + 1;
        }
    }

    fn candidate(&mut self, name: String, expected: bool, group: Option<usize>) {
        let group = group.unwrap_or_else(|| {
            self.groups += 1;
            self.groups
        });
        self.joins = Some(group);
        let known = self.said.candidates.iter_mut().find(|known| known.name == name);
        match known {
            Some(known) => known.expected |= expected,
            None => self.said.candidates.push(Candidate { name, expected, group }),
        }
    }

    /// A word that is known by its form alone.
    fn other(&mut self, at: usize, expects: bool, joined: Option<usize>) {
        let Word { text, lower } = &self.words[at];
        let (text, lower) = (text.clone(), lower.clone());
        let after_to = at.checked_sub(1).is_some_and(|before| self.lower(before) == "to");
        let worded =
            number_word(&lower).filter(|_| after_to || self.kind(at + 1) == Some(Kind::Replicas));
        if let Some(number) = self.number(at).or(worded) {
            return self.quantity(at, number);
        }
        if let Some(percent) = lower.strip_suffix('%') {
            return match percent.parse() {
                Ok(percent) => once(&mut self.said.percents, percent),
                Err(_) => self.doubt(format!("`{lower}` is no whole number of percent")),
            };
        }
        if lower.starts_with(['-', '+']) && lower[1..].starts_with(|c: char| c.is_ascii_digit()) {
            return self
                .doubt(format!("`{lower}`: say how many there shall be, not how many more"));
        }
        if is_version(&lower) {
            return once(&mut self.said.versions, text);
        }
        if let Some(env) = environment(&lower, self.envs) {
            return once(&mut self.said.envs, env);
        }
        match Image::read(&text) {
            Some(image) if !image.rest.is_empty() => once(&mut self.said.images, image),
            Some(image) if text.contains('/') => once(&mut self.said.repositories, image),
            _ if is_app(&lower) => {
                let others = self.said.candidates.iter();
                let mut others = others.filter(|other| Some(other.group) == joined);
                let expected = expects || others.any(|other| other.expected);
                self.candidate(lower, expected, joined);
            }
            _ => {}
        }
    }

    fn quantity(&mut self, at: usize, number: u64) {
        let before = at.checked_sub(1).map_or("", |before| self.lower(before));
        if before == "from" {
            return;
        }
        let by = kind(before) == Some(Kind::By);
        if by || self.kind(at + 1) == Some(Kind::More) {
            let doubt = format!("`{number}`: say how many there shall be, not how many more");
            return self.doubt(doubt);
        }
        match self.kind(at + 1) {
            Some(Kind::Replicas) => once(&mut self.said.replicas, number),
            Some(Kind::Percent) => once(&mut self.said.percents, number),
            _ => return once(&mut self.loose, number),
        }
        self.at = at + 2;
    }

    fn finish(mut self) -> Said {
        let said = &mut self.said;
        if said.verbs.is_empty() && !self.looks {
            let is_canary = said.canary && !said.images.is_empty() && !said.percents.is_empty();
            said.verbs.extend(is_canary.then_some(Verb::Deploy));
        }
        // `set replicas of api to 5`.
        let counts = !self.said.replicas.is_empty() || (self.counts && !self.loose.is_empty());
        if counts && self.sets && self.said.verbs.is_empty() {
            self.said.verbs.push(Verb::Scale);
        }
        // Whoever asks `is the rollback of api done?` wants to know, not to have it done.
        let first = self.lower(self.past_greetings()).to_owned();
        let looks = self.looks && self.said.verbs.is_empty();
        if looks || is_question(&first) {
            self.said.verbs = vec![Verb::Status];
        }
        if self.said.envs.is_empty() {
            self.said.envs = self.unknown.clone();
            let is_env = |candidate: &Candidate| self.unknown.contains(&candidate.name);
            self.said.candidates.retain(|candidate| !is_env(candidate));
        }
        if self.aimed || self.unknown == self.said.envs {
            self.said.strays.clear();
        }
        match self.said.verbs[..] {
            [Verb::Scale] => {
                if self.said.replicas.is_empty() {
                    self.said.replicas = self.loose;
                }
                if !self.said.percents.is_empty() {
                    let doubt = "a share: say how many replicas there shall be";
                    once(&mut self.said.doubts, doubt.to_owned());
                }
            }
            [Verb::Rollback] if self.said.versions.is_empty() && self.said.revisions.is_empty() => {
                if let Some(number) = self.loose.first() {
                    let doubt = format!(
                        "`{number}` may be a version or a revision: say `version {number}` or \
                         `revision {number}`"
                    );
                    once(&mut self.said.doubts, doubt);
                }
            }
            _ => {}
        }
        self.said
    }
}

/// Adds what is not there yet.
fn once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Candidates, of which a word behind them may say that the last is something else.
trait LastCandidate {
    /// Takes the last candidate away, if that is its name.
    fn pop_if_last(&mut self, name: &str) -> Option<String>;
}

impl LastCandidate for Vec<Candidate> {
    fn pop_if_last(&mut self, name: &str) -> Option<String> {
        match self.last() {
            Some(last) if last.name == name => self.pop().map(|last| last.name),
            _ => None,
        }
    }
}
