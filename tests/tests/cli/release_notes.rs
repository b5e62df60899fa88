//! The one-liner of `skills/release-notes/SKILL.md`, as it stands there, on a history of 5,000 commits.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use eve_tests::{Shared, skill};
use serde_json::json;

/// As many as the one-liner takes.
const COMMITS: usize = 5_000;
/// Subjects that something on the way may spoil; the first is looked for in the notes.
const SUBJECTS: [&str; 8] = [
    "feat(解析器): 変更履歴をまとめて読み込み、文字化けを直す",
    "fix: escape \"quotes\", back\\slashes and 'apostrophes'",
    "fix:\ttabs\tin\ta subject",
    "feat: 🚀 emoji 👩‍👩‍👧 of several characters",
    "",
    "docs: größere Übersicht – naïve façade",
    "perf: \u{1f} a separator, and a \u{7f} control character",
    "Add a sentence of no kind",
];

/// The first block of commands below `## In a repository`.
fn one_liner(page: &str) -> Result<String> {
    let section = page.split("## In a repository").nth(1).context("the section is gone")?;
    let block = section.split("```sh\n").nth(1).and_then(|block| block.split("```").next());
    Ok(block.context("there are no commands")?.to_owned())
}

/// What `git fast-import` makes a history of: every seventh commit is a merge, and some subjects are
/// long.
fn history() -> Vec<u8> {
    let mut stream = Vec::new();
    for n in 1..=COMMITS {
        let mut subject = SUBJECTS[n % SUBJECTS.len()].to_owned();
        match n % SUBJECTS.len() {
            // Each its own, or they would be one entry of the notes.
            0 if n > SUBJECTS.len() => write!(subject, " {n}").unwrap_or_default(),
            5 => subject.push_str(&" и ещё".repeat(n % 700)),
            _ => {}
        }
        let is_merge = n % 7 == 0;
        let message = match subject.as_str() {
            _ if is_merge => format!("Merge branch 'topic-{n}'\n\nBodies are not asked for.\n"),
            "" => String::new(),
            _ => format!("{subject}\n\nA body,\nof two lines.\n"),
        };
        let mut message = message.into_bytes();
        if n % 500 == 1 && !is_merge {
            message.splice(..0, *b"fix: caf\xe9 is not UTF-8 ");
        }
        let author = ["Anna Müller", "李雷", "O\"Brien \\ Sons", "dependabot[bot]"][n % 4];
        let when = 1_700_000_000 + n * 3_600;
        let mut head = format!("commit refs/heads/main\nmark :{n}\n");
        for role in ["author", "committer"] {
            let _ = writeln!(head, "{role} {author} <someone@example.com> {when} +0000");
        }
        let _ = writeln!(head, "data {}", message.len());
        stream.extend(head.into_bytes());
        stream.extend(message);
        if n > 1 {
            stream.extend(format!("from :{}\n", n - 1).into_bytes());
        }
        if is_merge {
            stream.extend(format!("merge :{}\n", n - 2).into_bytes());
        }
        stream.push(b'\n');
    }
    stream
}

fn git(at: &Path, arguments: &[&str], input: &[u8]) -> Result<()> {
    let mut git = Command::new("git")
        .arg("-C")
        .arg(at)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    std::io::Write::write_all(&mut git.stdin.take().context("no stdin")?, input)?;
    ensure!(git.wait()?.success(), "git {arguments:?} failed");
    Ok(())
}

#[tokio::test]
async fn a_history_of_5000_commits_becomes_notes() -> Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let folder = skill("release-notes")?;
    acme.json(["skill", "push", &folder.to_string_lossy()]).await?;
    let page = std::fs::read_to_string(folder.join("SKILL.md"))?;
    let script = one_liner(&page)?;
    ensure!(script.contains(" v1.0..HEAD |"), "the range is gone: {script}");
    let script = script.replace(" v1.0..HEAD |", " |");

    let repository = tempfile::tempdir()?;
    git(repository.path(), &["init", "--quiet", "--initial-branch=main"], b"")?;
    git(repository.path(), &["fast-import", "--quiet"], &history())?;
    let notes = acme.bash(&format!("cd '{}'\n{script}", repository.path().display())).await?;
    assert_eq!(notes.code(), Some(0), "{notes}");

    let list = ["request", "list", "--skill", "release-notes", "--all"];
    let list = acme.json(list).await?;
    let requests = list["items"].as_array().context("no list")?;
    let root = requests.iter().find(|request| request["parent_request_id"].is_null());
    let root = root.and_then(|root| root["id"].as_str()).context("no root")?;
    let data = acme.json(["result", "get", root]).await?["data"].clone();
    let counts = &data["counts"];
    assert_eq!(counts["commits"], json!(COMMITS), "{counts}");
    assert_eq!((&counts["lost_commits"], &counts["failed_chunks"]), (&json!(0), &json!(0)));
    assert_eq!(counts["chunks"], json!(25), "{counts}");
    assert_eq!(counts["merges"], json!(COMMITS / 7), "{counts}");
    let empty = (1..=COMMITS).filter(|n| n % SUBJECTS.len() == 4 && n % 7 != 0).count();
    assert_eq!(counts["noise"], json!(empty), "{counts}");

    let markdown = data["markdown"].as_str().context("no notes")?;
    assert_eq!(notes.stdout.trim_end(), markdown.trim_end());
    assert!(markdown.starts_with("# v2.0\n\n5000 commits by "), "{}", &markdown[..200]);
    let lines: HashSet<&str> = markdown.lines().collect();
    let whole = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(whole("**解析器:** 変更履歴をまとめて読み込み、文字化けを直す"), "{markdown}");
    assert!(whole("escape \"quotes\", back\\\\slashes and 'apostrophes'"), "{markdown}");
    assert!(whole("🚀 emoji 👩‍👩‍👧 of several characters"), "{markdown}");
    assert!(whole("größere Übersicht – naïve façade"), "{markdown}");
    assert!(whole("李雷 ("), "{markdown}");
    // Only what was no UTF-8 in the first place is replaced.
    let broken = |line: &&&str| line.contains('\u{fffd}') && !line.contains("af\u{fffd} is not");
    assert_eq!(lines.iter().find(broken), None);
    Ok(())
}
