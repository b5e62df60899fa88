//! Counting one text, and adding up what was counted.

use std::collections::BTreeMap;

use eve_sdk::prelude::*;

/// How many of its most frequent words a result lists. Sums are made from these lists, so a word
/// that is below this in every part is missing from the sum; its occurrences are in `words`.
const FREQUENT_WORDS: usize = 100;

/// What was counted in one text or in several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// How many texts.
    pub documents: u64,
    /// In UTF-8.
    pub bytes: u64,
    /// Unicode scalar values.
    pub characters: u64,
    /// Runs of letters and digits, apostrophes and hyphens inside them included.
    pub words: u64,
    pub lines: u64,
    /// What ends in `.`, `!`, `?` or `…` before a space or the end, and has a word in it.
    pub sentences: u64,
    /// The first one if several are as long.
    pub longest_word: String,
    /// In lower case, most frequent first, then by the alphabet.
    pub most_frequent: Vec<Frequency>,
}

/// A word and how often it occurs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frequency {
    pub word: String,
    pub count: u64,
}

impl Stats {
    /// Counts one text.
    pub fn of(text: &str) -> Self {
        let mut stats = Self {
            documents: 1,
            bytes: text.len() as u64,
            characters: text.chars().count() as u64,
            lines: text.lines().count() as u64,
            sentences: sentences(text),
            ..Self::default()
        };
        let mut frequencies = BTreeMap::new();
        for word in words(text) {
            stats.words += 1;
            if word.chars().count() > stats.longest_word.chars().count() {
                stats.longest_word = word.to_owned();
            }
            *frequencies.entry(word.to_lowercase()).or_insert(0) += 1;
        }
        stats.most_frequent = ranked(frequencies);
        stats
    }

    /// Adds what was counted in other texts.
    pub fn add(&mut self, other: &Stats) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.characters += other.characters;
        self.words += other.words;
        self.lines += other.lines;
        self.sentences += other.sentences;
        if other.longest_word.chars().count() > self.longest_word.chars().count() {
            self.longest_word.clone_from(&other.longest_word);
        }
        let mut frequencies = BTreeMap::new();
        for Frequency { word, count } in
            self.most_frequent.drain(..).chain(other.most_frequent.clone())
        {
            *frequencies.entry(word).or_insert(0) += count;
        }
        self.most_frequent = ranked(frequencies);
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let Self { words, sentences, lines, documents, .. } = self;
        let mut summary = format!("{words} words in {sentences} sentences and {lines} lines");
        if *documents > 1 {
            summary.push_str(&format!(" of {documents} texts"));
        }
        if let Some(Frequency { word, count }) = self.most_frequent.first() {
            summary.push_str(&format!("; most often \"{word}\" ({count})"));
        }
        summary
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_inside = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '’' | '-');
    text.split(move |c| !is_inside(c))
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
}

fn sentences(text: &str) -> u64 {
    let (mut count, mut has_word) = (0, false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        has_word |= c.is_alphanumeric();
        let ends = matches!(c, '.' | '!' | '?' | '…')
            && characters.peek().is_none_or(|next| next.is_whitespace());
        if ends && has_word {
            count += 1;
            has_word = false;
        }
    }
    count + u64::from(has_word)
}

fn ranked(frequencies: BTreeMap<String, u64>) -> Vec<Frequency> {
    let mut ranked: Vec<Frequency> =
        frequencies.into_iter().map(|(word, count)| Frequency { word, count }).collect();
    // Stable, and the map was in the alphabet's order.
    ranked.sort_by_key(|entry| std::cmp::Reverse(entry.count));
    ranked.truncate(FREQUENT_WORDS);
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let stats = Stats::of("Don't panic – it's well-known… v1.2 works!\n\nÜber-Straße?");
        assert_eq!(stats.words, 8); // Don't panic it's well-known v1 2 works Über-Straße
        assert_eq!((stats.lines, stats.sentences), (3, 3));
        assert_eq!(stats.longest_word, "Über-Straße");
        assert_eq!(stats.characters, 56);
        assert_eq!(stats.bytes, 62);
    }

    #[test]
    fn nothing_is_in_an_empty_text() {
        assert_eq!(Stats::of(""), Stats { documents: 1, ..Stats::default() });
        assert_eq!(Stats::of(" \n… - '").words, 0);
        assert_eq!(Stats::of("...").sentences, 0);
    }

    #[test]
    fn a_list_is_bounded() {
        let text: Vec<String> = (0..500).map(|n| format!("word{n}")).collect();
        let stats = Stats::of(&text.join(" "));
        assert_eq!((stats.words, stats.most_frequent.len()), (500, FREQUENT_WORDS));
    }
}
