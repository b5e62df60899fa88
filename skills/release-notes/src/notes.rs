//! Release notes in Markdown.

use std::fmt::Write as _;

use eve_sdk::prelude::*;

use crate::classify::{Change, Kind};
use crate::commit::{head, one_line};
use crate::digest::Digest;

/// What the notes may take as JSON: an output holds 1 MiB, and the counts have to fit as well.
const BYTES: usize = 960 << 10;
/// Of that, what is kept for the end: contributors, what is missing.
const BYTES_OF_END: usize = 64 << 10;
/// People who are named.
const NAMES: usize = 500;
/// Hashes of one entry.
const HASHES: usize = 5;
/// Dependencies that are named.
const DEPENDENCIES: usize = 30;
/// Chunks that are named one by one.
const MISSING: usize = 50;
/// Text of an entry.
const ENTRY_BYTES: usize = 300;

/// Commits that are not in the notes because their chunk failed.
#[derive(Debug)]
pub struct Missing {
    /// Which one is the first, counted from 1.
    pub first: usize,
    pub commits: usize,
    pub newest: String,
    pub oldest: String,
    pub reason: String,
}

pub struct Notes<'a> {
    title: String,
    digest: &'a Digest,
    missing: &'a [Missing],
}

/// The sections below the breaking changes, in their order.
const SECTIONS: [(Kind, &str); 9] = [
    (Kind::Feature, "Features"),
    (Kind::Fix, "Fixes"),
    (Kind::Security, "Security"),
    (Kind::Performance, "Performance"),
    (Kind::Documentation, "Documentation"),
    (Kind::Refactoring, "Refactoring"),
    (Kind::Test, "Tests"),
    (Kind::Build, "Build and CI"),
    (Kind::Revert, "Reverts"),
];

impl<'a> Notes<'a> {
    pub fn new(title: Option<&str>, digest: &'a Digest, missing: &'a [Missing]) -> Self {
        let title = title.map(|title| head(&one_line(title), 200));
        let title = title.filter(|title| !title.is_empty());
        Self { title: title.unwrap_or_else(|| "Release notes".into()), digest, missing }
    }

    /// One line.
    pub fn summary(&self) -> String {
        if self.digest.commits == 0 {
            return format!("{}: no commits", self.title);
        }
        let breaking = self.changes(|change| change.breaking).count();
        let of = |kind| self.changes(|change| change.kind == kind).count();
        let mut summary = format!(
            "{}: {}, {}, {} from {}",
            self.title,
            many(breaking, "breaking change"),
            many(of(Kind::Feature), "feature"),
            many_with(of(Kind::Fix), "fix", "fixes"),
            many(self.digest.commits, "commit"),
        );
        if !self.missing.is_empty() {
            let lost: usize = self.missing.iter().map(|missing| missing.commits).sum();
            let _ = write!(summary, "; {} could not be classified", many(lost, "commit"));
        }
        summary
    }

    /// For programs.
    pub fn counts(&self) -> Value {
        let of = |kind| self.changes(|change| change.kind == kind).count();
        let lost: usize = self.missing.iter().map(|missing| missing.commits).sum();
        json!({
            "commits": self.digest.commits,
            "chunks": self.digest.chunks,
            "failed_chunks": self.missing.len(),
            "lost_commits": lost,
            "changes": self.digest.changes.len(),
            "breaking": self.changes(|change| change.breaking).count(),
            "features": of(Kind::Feature),
            "fixes": of(Kind::Fix),
            "security": of(Kind::Security),
            "performance": of(Kind::Performance),
            "documentation": of(Kind::Documentation),
            "refactoring": of(Kind::Refactoring),
            "tests": of(Kind::Test),
            "build": of(Kind::Build),
            "dependencies": of(Kind::Dependency),
            "reverts": of(Kind::Revert),
            "other": of(Kind::Other),
            "merges": self.digest.merges,
            "noise": self.digest.noise,
            "reverted": self.digest.reverted,
            "guessed": self.changes(|change| change.guessed).count(),
            "contributors": self.digest.authors.len(),
        })
    }

    pub fn markdown(&self) -> String {
        let mut page = Page { text: String::new(), left: BYTES - BYTES_OF_END };
        page.line(&format!("# {}", escape(&self.title)));
        page.line("");
        if self.digest.commits == 0 {
            page.line("No commits.");
            return page.text;
        }
        page.line(&self.headline());
        page.section("Breaking changes", self.changes(|change| change.breaking));
        for (kind, name) in SECTIONS {
            page.section(name, self.changes(|change| change.kind == kind && !change.breaking));
        }
        page.section(
            "Other changes",
            self.changes(|change| change.kind == Kind::Other && !change.breaking),
        );
        // From here on everything is bounded, and fits into what was kept.
        page.left += BYTES_OF_END;
        self.dependencies(&mut page);
        self.contributors(&mut page);
        self.end(&mut page);
        page.text
    }

    fn changes(&self, fits: impl Fn(&Change) -> bool) -> impl Iterator<Item = &Change> {
        self.digest.changes.iter().filter(move |change| fits(change))
    }

    fn headline(&self) -> String {
        let mut line = many(self.digest.commits, "commit");
        let people = self.digest.authors.len();
        if people > 0 {
            let _ = write!(line, " by {}", many_with(people, "contributor", "contributors"));
        }
        match &self.digest.days {
            Some((first, last)) if first == last => {
                let _ = write!(line, ", {first}");
            }
            Some((first, last)) => {
                let _ = write!(line, ", {first} to {last}");
            }
            None => {}
        }
        line + "."
    }

    /// Nobody reads these one by one.
    fn dependencies(&self, page: &mut Page) {
        let updates: Vec<&Change> =
            self.changes(|change| change.kind == Kind::Dependency && !change.breaking).collect();
        if updates.is_empty() {
            return;
        }
        let mut named: Vec<String> =
            updates.iter().map(|change| dependency(&change.text)).collect();
        named.sort();
        named.dedup();
        let more = named.len().saturating_sub(DEPENDENCIES);
        named.truncate(DEPENDENCIES);
        let mut line = format!("- {}: {}", many(updates.len(), "update"), named.join(", "));
        if more > 0 {
            let _ = write!(line, " and {more} more");
        }
        page.head("Dependencies");
        page.line(&line);
    }

    fn contributors(&self, page: &mut Page) {
        let mut people: Vec<(&String, &usize)> = self.digest.authors.iter().collect();
        if people.is_empty() {
            return;
        }
        people.sort_by_key(|(name, commits)| (std::cmp::Reverse(**commits), name.to_lowercase()));
        let more = people.len().saturating_sub(NAMES);
        people.truncate(NAMES);
        let named: Vec<String> = people
            .into_iter()
            .map(|(name, commits)| format!("{} ({commits})", escape(name)))
            .collect();
        page.head("Contributors");
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        page.line(&format!("{}{rest}", named.join(", ")));
    }

    /// What the reader should know about the notes themselves.
    fn end(&self, page: &mut Page) {
        let Digest { merges, noise, reverted, .. } = *self.digest;
        let guessed = self.changes(|change| change.guessed).count();
        let mut remarks = Vec::new();
        if guessed > 0 {
            let all = self.digest.changes.len();
            remarks.push(format!("{guessed} of {all} changes were sorted by their words"));
        }
        for (count, what, many) in [
            (merges, "merge", "merges"),
            (noise, "commit that says nothing", "commits that say nothing"),
            (
                reverted,
                "commit that took another back or was taken back",
                "commits that took others back or were taken back",
            ),
        ] {
            if count > 0 {
                remarks.push(format!("{} left out", many_with(count, what, many)));
            }
        }
        if !remarks.is_empty() {
            page.line("");
            page.line(&format!("*{}.*", remarks.join("; ")));
        }
        if self.missing.is_empty() {
            return;
        }
        page.head("Not included");
        for missing in self.missing.iter().take(MISSING) {
            let Missing { first, commits, newest, oldest, reason } = missing;
            let last = first + commits - 1;
            let reason = escape(&head(&one_line(reason), 200));
            let (newest, oldest) = (code(newest), code(oldest));
            page.line(&format!("- Commits {first} to {last} ({newest} to {oldest}): {reason}"));
        }
        let more = self.missing.len().saturating_sub(MISSING);
        if more > 0 {
            page.line(&format!("- … and {more} more chunks"));
        }
    }
}

/// Text that must not grow without end.
struct Page {
    text: String,
    /// Bytes of JSON that may still be written.
    left: usize,
}

impl Page {
    fn line(&mut self, line: &str) -> bool {
        let bytes = json_bytes(line) + 2;
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                self.text.push_str(line);
                self.text.push('\n');
                true
            }
            None => false,
        }
    }

    fn head(&mut self, name: &str) {
        self.line("");
        self.line(&format!("## {name}"));
        self.line("");
    }

    fn section<'a>(&mut self, name: &str, changes: impl Iterator<Item = &'a Change>) {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return;
        }
        self.head(name);
        // Room for the line that says what was left out.
        let rest = 100;
        while let Some(change) = changes.next() {
            let entry = entry(change);
            if self.left < json_bytes(&entry) + rest {
                self.line(&format!("- … and {} more", changes.count() + 1));
                return;
            }
            self.line(&entry);
        }
    }
}

fn entry(change: &Change) -> String {
    let mut line = String::from("- ");
    if let Some(scope) = &change.scope {
        let _ = write!(line, "**{}:** ", escape(&head(scope, 60)));
    }
    line.push_str(&escape(&capitalised(&head(&change.text, ENTRY_BYTES))));
    if !change.references.is_empty() {
        let references: Vec<&str> =
            change.references.iter().take(HASHES).map(String::as_str).collect();
        let _ = write!(line, " ({})", references.join(", "));
    }
    let mut hashes: Vec<String> =
        change.hashes.iter().take(HASHES).map(|hash| code(&head(hash, 12))).collect();
    if change.hashes.len() > HASHES {
        hashes.push("…".into());
    }
    if !hashes.is_empty() {
        let _ = write!(line, " {}", hashes.join(" "));
    }
    if let Some(notice) = change.notice.as_ref().filter(|_| change.breaking) {
        let _ = write!(line, "\n  {}", escape(notice));
    }
    line
}

/// What was updated: `serde` of `Bump serde from 1 to 2`.
fn dependency(text: &str) -> String {
    let mut words = text.split(' ').skip_while(|word| {
        let verbs =
            ["bump", "bumps", "update", "updates", "upgrade", "dependency", "the", "module"];
        verbs.contains(&word.to_lowercase().as_str())
    });
    escape(&head(words.next().unwrap_or(text), 60))
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    // A name of the code stays as it is.
    let is_name = text.split(' ').next().is_some_and(|word| word.contains(['_', '`', '(', '.']));
    match characters.next() {
        Some(first) if first.is_lowercase() && !is_name => {
            first.to_uppercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'"))
}

/// Text that Markdown shows as it is. What stands between backticks is code already.
fn escape(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let mut escaped = String::with_capacity(text.len());
    // An odd backtick opens nothing.
    let pairs = parts.len() - (parts.len() + 1) % 2;
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            escaped.push_str(if place < pairs { "`" } else { "\\`" });
        }
        let is_code = place % 2 == 1 && place < pairs;
        for character in part.chars() {
            if !is_code && matches!(character, '\\' | '*' | '_' | '<' | '[' | ']') {
                escaped.push('\\');
            }
            escaped.push(character);
        }
    }
    escaped
}

fn json_bytes(text: &str) -> usize {
    text.bytes().map(|byte| if matches!(byte, b'"' | b'\\' | b'\n') { 2 } else { 1 }).sum()
}

fn many(count: usize, one: &str) -> String {
    many_with(count, one, &format!("{one}s"))
}

fn many_with(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_is() {
        for (text, shown) in [
            ("a_b *c* <d>", "a\\_b \\*c\\* \\<d>"),
            ("use `a_b` here_", "use `a_b` here\\_"),
            ("odd ` one_", "odd \\` one\\_"),
            ("`a` and ` b", "`a` and \\` b"),
            ("[x](y)", "\\[x\\](y)"),
        ] {
            assert_eq!(escape(text), shown);
        }
        assert_eq!(capitalised("äh"), "Äh");
        assert_eq!(capitalised("run_all is gone"), "run_all is gone");
        assert_eq!(dependency("Bump the serde from 1 to 2"), "serde");
    }
}
