//! What a number of commits come to, of one chunk or of all.

use std::collections::{BTreeMap, HashMap, HashSet};

use eve_sdk::prelude::*;

use crate::classify::{Change, Class, classify, is_bot, references, reverted};
use crate::commit::Commit;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Digest {
    /// How many chunks this is the sum of.
    pub chunks: usize,
    pub commits: usize,
    pub merges: usize,
    pub noise: usize,
    /// Commits that a revert in the same history takes back, with the reverts themselves.
    #[serde(default)]
    pub reverted: usize,
    /// In the order of the history.
    pub changes: Vec<Change>,
    /// People, with how many commits each.
    pub authors: BTreeMap<String, usize>,
    /// The first and the last day.
    pub days: Option<(String, String)>,
}

impl Digest {
    pub fn of(commits: &[Commit]) -> Self {
        let mut digest = Self { chunks: 1, commits: commits.len(), ..Self::default() };
        for commit in commits {
            digest.add_day(&commit.date);
            match classify(commit) {
                Class::Merge => {
                    digest.merges += 1;
                    // Whoever merges has not written it.
                    continue;
                }
                Class::Noise => digest.noise += 1,
                Class::Change(change) => digest.changes.push(change),
            }
            if !commit.author.is_empty() && !is_bot(&commit.author) {
                *digest.authors.entry(commit.author.clone()).or_default() += 1;
            }
        }
        digest
    }

    /// Adds what comes after this in the history.
    pub fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.commits += other.commits;
        self.merges += other.merges;
        self.noise += other.noise;
        self.reverted += other.reverted;
        self.changes.extend(other.changes);
        for (author, commits) in other.authors {
            *self.authors.entry(author).or_default() += commits;
        }
        if let Some((first, last)) = other.days {
            self.add_day(&first);
            self.add_day(&last);
        }
    }

    fn add_day(&mut self, date: &str) {
        let Some(day) = date.get(..10).filter(|day| is_day(day)) else { return };
        match &mut self.days {
            None => self.days = Some((day.to_owned(), day.to_owned())),
            Some((first, last)) => {
                if day < first.as_str() {
                    *first = day.to_owned();
                } else if day > last.as_str() {
                    *last = day.to_owned();
                }
            }
        }
    }

    /// Takes out what was reverted, and says the same thing once.
    pub fn tidy(&mut self) {
        self.drop_reverted();
        self.merge_duplicates();
    }

    fn drop_reverted(&mut self) {
        let mut by_subject: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, change) in self.changes.iter().enumerate() {
            by_subject.entry(&change.subject).or_default().push(index);
        }
        // A revert of a revert first: it is the longer one.
        let mut reverts: Vec<usize> = (0..self.changes.len())
            .filter(|index| reverted(&self.changes[*index].subject).is_some())
            .collect();
        reverts.sort_by_key(|index| std::cmp::Reverse(self.changes[*index].subject.len()));
        let mut gone: HashSet<usize> = HashSet::new();
        for revert in reverts {
            let Some(subject) = reverted(&self.changes[revert].subject) else { continue };
            if gone.contains(&revert) {
                continue;
            }
            let named = by_subject.get(subject).into_iter().flatten();
            if let Some(original) = named.copied().find(|index| !gone.contains(index)) {
                gone.extend([revert, original]);
            }
        }
        self.reverted += gone.len();
        let mut index = 0;
        self.changes.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
    }

    /// The same change on several branches is one entry with several hashes.
    fn merge_duplicates(&mut self) {
        let mut kept: Vec<Change> = Vec::with_capacity(self.changes.len());
        let mut places: HashMap<(String, Option<String>), usize> = HashMap::new();
        for change in self.changes.drain(..) {
            let key = (plain(&change.text), change.scope.as_deref().map(str::to_lowercase));
            match places.get(&key) {
                Some(place) => absorb(&mut kept[*place], change),
                None => {
                    places.insert(key, kept.len());
                    kept.push(change);
                }
            }
        }
        self.changes = kept;
    }
}

fn absorb(kept: &mut Change, change: Change) {
    kept.breaking |= change.breaking;
    if kept.notice.is_none() {
        kept.notice = change.notice;
    }
    let named = references(&kept.text);
    for reference in references(&change.text).into_iter().chain(change.references) {
        if !named.contains(&reference) && !kept.references.contains(&reference) {
            kept.references.push(reference);
        }
    }
    kept.hashes.extend(change.hashes);
}

/// A text without the number of its pull request, for comparing.
fn plain(text: &str) -> String {
    let text = match text.rfind(" (#") {
        Some(at) if text.ends_with(')') => &text[..at],
        _ => text,
    };
    text.trim_end_matches('.').to_lowercase()
}

fn is_day(day: &str) -> bool {
    day.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    })
}
