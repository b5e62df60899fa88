//! What kind of change a commit is: by the prefix that it carries, else by its words.
//!
//! Prefixes are those of Conventional Commits 1.0 and what is commonly written beside them
//! (<https://www.conventionalcommits.org/en/v1.0.0/>).

use eve_sdk::prelude::*;

use crate::commit::{Commit, one_line};

/// A section of the notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Feature,
    Fix,
    Security,
    Performance,
    Documentation,
    Refactoring,
    Test,
    Build,
    Dependency,
    Revert,
    Other,
}

/// A change, ready for the notes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub breaking: bool,
    /// What was changed, without prefix.
    pub text: String,
    /// What a breaking change means, in its author's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// Issues and pull requests that the text does not name, such as `#12`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    pub hashes: Vec<String>,
    /// The whole subject, where something refers to it: a revert names what it reverts.
    pub subject: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_bot: bool,
    /// Whether the kind comes from the words, not from a prefix.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guessed: bool,
}

/// What a commit is to the notes.
#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    Change(Change),
    /// It only joins branches: what it brings is there as commits of its own.
    Merge,
    /// Says nothing to readers: a version number, a leftover of rewriting history, no words.
    Noise,
}

/// A subject's prefix: `kind(scope)!: text`.
struct Prefix<'a> {
    word: &'a str,
    scope: Option<&'a str>,
    breaking: bool,
    text: &'a str,
}

pub fn classify(commit: &Commit) -> Class {
    let subject = one_line(&commit.subject);
    if is_merge(&subject) {
        return Class::Merge;
    }
    if is_noise(&subject) {
        return Class::Noise;
    }
    let body = commit.body.as_deref().unwrap_or("");
    let notice = breaking_notice(body);
    let prefix = prefix(&subject);
    let known = prefix.as_ref().and_then(|prefix| kind_of_prefix(prefix.word));
    let (text, scope) = match (&prefix, known) {
        (Some(prefix), Some(_)) => (prefix.text, prefix.scope),
        // `net: fix a leak`: the part that was changed, as in the Linux kernel.
        (Some(prefix), None) => (prefix.text, Some(prefix.word)),
        (None, _) => (subject.as_str(), None),
    };
    let mut kind = known.unwrap_or_else(|| kind_of_words(text));
    let by_bot = is_bot(&commit.author);
    let dependencies = scope.is_some_and(|scope| matches!(scope, "deps" | "deps-dev"));
    if dependencies || (by_bot && matches!(kind, Kind::Build | Kind::Other)) {
        kind = Kind::Dependency;
    }
    let marked = prefix.as_ref().is_some_and(|prefix| prefix.breaking);
    let mut references = footer_references(body);
    references.retain(|reference| !names(&subject, reference));
    let text = text.to_owned();
    let hashes = Some(commit.hash.clone()).filter(|hash| !hash.is_empty());
    Class::Change(Change {
        kind,
        scope: scope.map(str::to_owned),
        breaking: marked || notice.is_some() || subject.contains("BREAKING"),
        text,
        notice: notice.filter(|notice| !notice.is_empty()),
        references,
        hashes: hashes.into_iter().collect(),
        by_bot,
        guessed: known.is_none(),
        subject,
    })
}

fn is_merge(subject: &str) -> bool {
    const MERGES: [&str; 6] = [
        "Merge pull request ",
        "Merge branch",
        "Merge remote-tracking branch",
        "Merge tag ",
        "Merge commit ",
        "Merged in ",
    ];
    MERGES.iter().any(|merge| subject.starts_with(merge)) || subject == "Merge"
}

fn is_noise(subject: &str) -> bool {
    let lower = subject.to_lowercase();
    let rewritten = ["fixup!", "squash!", "amend!"].iter().any(|mark| lower.starts_with(mark));
    let unfinished = matches!(lower.trim_end_matches(['.', '!']), "wip" | "tmp" | "temp" | ".");
    let release = ["chore(release)", "release ", "release: ", "prepare release", "version bump"];
    let version = lower.strip_prefix('v').unwrap_or(&lower);
    let is_version = version.starts_with(|c: char| c.is_ascii_digit())
        && version.contains('.')
        && !version.contains(' ');
    // `Release the lock` is a change, `Release v2` is not.
    let released = release.iter().any(|mark| {
        lower.strip_prefix(mark).map(str::trim_start).is_some_and(|rest| {
            let rest = rest.trim_start_matches([':', ' ', 'v']);
            rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit())
        })
    });
    !lower.chars().any(char::is_alphanumeric) || rewritten || unfinished || is_version || released
}

pub fn is_bot(author: &str) -> bool {
    const BOTS: [&str; 9] = [
        "dependabot",
        "renovate",
        "github-actions",
        "github actions",
        "greenkeeper",
        "pre-commit-ci",
        "snyk-bot",
        "semantic-release-bot",
        "weblate",
    ];
    let lower = author.to_lowercase();
    lower.ends_with("[bot]") || BOTS.iter().any(|bot| lower.starts_with(bot))
}

fn prefix(subject: &str) -> Option<Prefix<'_>> {
    let (head, text) = subject.split_once(':')?;
    let text = text.strip_prefix(' ').unwrap_or(text).trim();
    let (head, breaking) = match head.strip_suffix('!') {
        Some(head) => (head, true),
        None => (head, false),
    };
    let (word, scope) = match head.split_once('(') {
        Some((word, scope)) => (word, Some(scope.strip_suffix(')')?.trim())),
        None => (head, None),
    };
    // One word, or it is the beginning of a sentence that has a colon in it; and `std::fmt` or
    // `http://…` is no prefix either.
    let is_word = (1..=30).contains(&word.len())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    let is_text = !text.is_empty() && !text.starts_with([':', '/']);
    let scope = scope.filter(|scope| !scope.is_empty());
    (is_word && is_text).then_some(Prefix { word, scope, breaking, text })
}

fn kind_of_prefix(word: &str) -> Option<Kind> {
    Some(match word.to_ascii_lowercase().as_str() {
        "feat" | "feature" | "features" => Kind::Feature,
        "fix" | "fixes" | "bugfix" | "hotfix" | "bug" => Kind::Fix,
        "security" | "sec" => Kind::Security,
        "perf" | "performance" => Kind::Performance,
        "docs" | "doc" | "documentation" => Kind::Documentation,
        "refactor" | "refactoring" | "style" | "cleanup" => Kind::Refactoring,
        "test" | "tests" | "testing" => Kind::Test,
        "build" | "ci" | "chore" => Kind::Build,
        "deps" | "dependencies" => Kind::Dependency,
        "revert" => Kind::Revert,
        "breaking" => Kind::Other,
        _ => return None,
    })
}

/// An honest guess: the first word says most, then some words wherever they stand.
fn kind_of_words(text: &str) -> Kind {
    if reverted(text).is_some() {
        return Kind::Revert;
    }
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .collect();
    let has = |any: &[&str]| words.iter().any(|word| any.contains(word));
    if has(&["cve", "vulnerability", "vulnerabilities"]) {
        return Kind::Security;
    }
    let first = words.first().copied().unwrap_or("");
    if matches!(first, "bump" | "bumps") {
        return Kind::Dependency;
    }
    if has(&["readme", "changelog", "documentation", "docs", "typo", "typos", "javadoc", "rustdoc"])
        || matches!(first, "document" | "documents" | "documented" | "doc")
    {
        return Kind::Documentation;
    }
    match first {
        "fix" | "fixes" | "fixed" | "fixing" | "repair" | "correct" | "corrects" | "corrected"
        | "resolve" | "resolves" | "resolved" | "prevent" | "prevents" | "avoid" | "avoids"
        | "don't" | "hotfix" | "bugfix" => return Kind::Fix,
        "optimize" | "optimise" | "optimized" | "optimised" | "optimizes" | "speed" => {
            return Kind::Performance;
        }
        "test" | "tests" | "testing" => return Kind::Test,
        "refactor" | "refactors" | "refactored" | "rename" | "renames" | "renamed" | "move"
        | "moves" | "moved" | "clean" | "cleanup" | "simplify" | "simplifies" | "extract"
        | "reformat" | "format" | "reorganize" | "reorganise" | "inline" | "tidy" => {
            return Kind::Refactoring;
        }
        _ => {}
    }
    if has(&["performance", "faster", "optimization", "optimisation", "speedup"])
        || lower.contains("speed up")
    {
        return Kind::Performance;
    }
    if matches!(first, "add" | "adds" | "added" | "adding")
        && has(&["test", "tests", "testcase", "benchmark", "benchmarks"])
    {
        return Kind::Test;
    }
    match first {
        "add" | "adds" | "added" | "adding" | "implement" | "implements" | "implemented"
        | "introduce" | "introduces" | "introduced" | "support" | "supports" | "allow"
        | "allows" | "enable" | "enables" | "new" | "create" | "creates" | "provide"
        | "provides" => {
            return Kind::Feature;
        }
        "update" | "updates" | "updated" | "upgrade" | "upgrades" | "upgraded"
            if has(&["dependency", "dependencies", "deps", "lockfile"]) =>
        {
            return Kind::Dependency;
        }
        _ => {}
    }
    if has(&["fix", "fixes", "fixed", "bug", "bugs", "regression", "crash", "crashes", "leak"]) {
        return Kind::Fix;
    }
    if has(&["ci", "workflow", "makefile", "dockerfile", "gitignore", "travis"]) {
        return Kind::Build;
    }
    if has(&["test", "tests"]) {
        return Kind::Test;
    }
    Kind::Other
}

/// The subject that a `Revert "…"` takes back.
pub fn reverted(subject: &str) -> Option<&str> {
    let quoted = subject.strip_prefix("Revert \"")?;
    quoted.rfind('"').map(|end| &quoted[..end])
}

/// The text of a `BREAKING CHANGE:` footer.
fn breaking_notice(body: &str) -> Option<String> {
    let mut lines = body.lines().skip_while(|line| notice_start(line).is_none());
    let mut notice = one_line(notice_start(lines.next()?)?);
    for line in lines.take_while(|line| !line.trim().is_empty() && !is_footer(line)) {
        notice.push(' ');
        notice.push_str(&one_line(line));
    }
    Some(crate::commit::head(notice.trim(), 500))
}

fn notice_start(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("BREAKING CHANGE:").or_else(|| line.strip_prefix("BREAKING-CHANGE:"))
}

/// `Signed-off-by: …`, `Refs #12`.
fn is_footer(line: &str) -> bool {
    let token = line.split([':', ' ']).next().unwrap_or("");
    line.contains(": ")
        && token.contains('-')
        && token.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
}

/// Numbers that a body's lines say it closes or is about.
fn footer_references(body: &str) -> Vec<String> {
    const WORDS: [&str; 8] =
        ["close", "closes", "closed", "fix", "fixes", "fixed", "resolves", "refs"];
    let mut found: Vec<String> = Vec::new();
    for line in body.lines() {
        let lower = line.trim().to_lowercase();
        let first = lower.split([' ', ':']).next().unwrap_or("");
        if WORDS.contains(&first) {
            for reference in references(line) {
                if !found.contains(&reference) {
                    found.push(reference);
                }
            }
        }
    }
    found
}

/// Every `#12` of a text.
pub fn references(text: &str) -> Vec<String> {
    text.split('#')
        .skip(1)
        .filter_map(|after| {
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            let rest = after[digits.len()..].chars().next();
            let ends = !rest.is_some_and(|c| c.is_alphanumeric() || c == '_');
            (ends && (1..=9).contains(&digits.len())).then(|| format!("#{digits}"))
        })
        .collect()
}

fn names(subject: &str, reference: &str) -> bool {
    references(subject).iter().any(|named| named == reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(subject: &str) -> Change {
        with_body(subject, None)
    }

    fn with_body(subject: &str, body: Option<&str>) -> Change {
        let commit =
            Commit { subject: subject.into(), body: body.map(str::to_owned), ..Commit::default() };
        match classify(&commit) {
            Class::Change(change) => change,
            other => panic!("{subject}: {other:?}"),
        }
    }

    #[test]
    fn prefixes_are_read() {
        let full = change("feat(api)!: drop  the old endpoint (#12)");
        assert_eq!((full.kind, full.scope.as_deref()), (Kind::Feature, Some("api")));
        assert_eq!(full.text, "drop the old endpoint (#12)");
        assert!(full.breaking && !full.guessed);
        assert_eq!(change("Fix: x").kind, Kind::Fix);
        assert_eq!(change("chore(deps): y").kind, Kind::Dependency);
        let kernel = change("net: fix a leak in the ring");
        assert_eq!((kernel.kind, kernel.scope.as_deref()), (Kind::Fix, Some("net")));
        assert!(kernel.guessed);
    }

    #[test]
    fn what_only_looks_like_a_prefix_is_text() {
        for subject in ["std::fmt for ids", "See http://example.com", "Two words: text", "x(y: z"] {
            let change = change(subject);
            assert_eq!((change.text.as_str(), change.scope), (subject, None));
        }
        assert_eq!(change("feat:").text, "feat:");
    }

    #[test]
    fn words_decide_where_there_is_no_prefix() {
        for (subject, kind) in [
            ("Add a retry button", Kind::Feature),
            ("Add tests for retries", Kind::Test),
            ("Fixed crash on start", Kind::Fix),
            ("Crash when the list is empty", Kind::Fix),
            ("Make parsing 2x faster", Kind::Performance),
            ("Fix typo in README", Kind::Documentation),
            ("Rename a module", Kind::Refactoring),
            ("Bump serde from 1.0.1 to 1.0.2", Kind::Dependency),
            ("Patch CVE-2024-1234", Kind::Security),
            ("Revert \"Add a retry button\"", Kind::Revert),
            ("Prefix handling", Kind::Other),
            ("日本語の件名", Kind::Other),
        ] {
            assert_eq!(change(subject).kind, kind, "{subject}");
            assert!(change(subject).guessed);
        }
    }

    #[test]
    fn merges_and_noise_are_told_apart() {
        let class =
            |subject: &str| classify(&Commit { subject: subject.into(), ..Commit::default() });
        for merge in ["Merge pull request #1 from a/b", "Merge branch 'main' into x"] {
            assert_eq!(class(merge), Class::Merge);
        }
        for noise in [
            "",
            "...",
            "v1.2.3",
            "1.2.3-rc.1",
            "chore(release): 1.2.3",
            "Release 2.0",
            "fixup! feat: x",
            "WIP",
            "\u{1}\u{2}",
        ] {
            assert_eq!(class(noise), Class::Noise, "{noise:?}");
        }
        for change in [
            "Merge sort is stable now",
            "Release the lock after 3 retries",
            "2 workers",
            "wip handling",
        ] {
            assert!(matches!(class(change), Class::Change(_)), "{change}");
        }
    }

    #[test]
    fn footers_say_what_breaks_and_what_is_closed() {
        let body = "Text.\n\nBREAKING CHANGE: the flag\n  is gone\nSigned-off-by: A <a@b>\nCloses #7, #8\nsee #9";
        let change = with_body("feat: x (#8)", Some(body));
        assert!(change.breaking);
        assert_eq!(change.notice.as_deref(), Some("the flag is gone"));
        assert_eq!(change.references, ["#7"]);
        assert_eq!(references("#1, a#2b #345678901234 (#6)"), ["#1", "#6"]);
    }
}
