//! The skill whole: orchestrator and workers, run natively against the fake platform.

use eve_sdk::prelude::*;
use eve_sdk::testing::{Orchestration, Run};

use super::run;

fn notes(context: Value) -> Run {
    Orchestration::new(run).context(context).skill("release-notes", run).run_to_end()
}

fn markdown(run: &Run) -> String {
    run.output::<Value>()["markdown"].as_str().unwrap().to_owned()
}

fn commit(hash: &str, author: &str, date: &str, subject: &str) -> Value {
    json!({ "hash": hash, "author": author, "date": date, "subject": subject })
}

#[test]
fn a_small_history() {
    let run = notes(json!({ "title": "v2.0", "chunk_size": 3, "commits": [
        commit("a1", "Ada", "2026-03-02", "feat(api)!: drop v1 (#12)"),
        commit("a2", "Ada", "2026-03-01", "Add a \"retry\" button"),
        commit("a3", "Bob", "2026-02-28T10:00:00+01:00", "fix: start_up on C:\\temp (#13)"),
        commit("a4", "Bob", "2026-02-27", "Merge pull request #13 from bob/fix"),
        commit("a5", "dependabot[bot]", "2026-02-26", "Bump serde from 1.0 to 1.1"),
        commit("a6", "Cleo", "2026-02-25", "fix: start_up on C:\\temp (#14)"),
        commit("a7", "Cleo", "2026-02-24", "Revert \"feat: oops\""),
        commit("a8", "Cleo", "2026-02-23", "feat: oops"),
        commit("a9", "Cleo", "2026-02-22", "docs: say more"),
        json!({ "hash": "b1", "author": "Bob", "date": "2026-02-21", "subject": "perf: cache",
                "body": "Closes #20\n\nBREAKING CHANGE: needs *more* memory" }),
    ]}));
    let expected = r#"# v2.0

10 commits by 3 contributors, 2026-02-21 to 2026-03-02.

## Breaking changes

- **api:** Drop v1 (#12) `a1`
- Cache (#20) `b1`
  needs \*more\* memory

## Features

- Add a "retry" button `a2`

## Fixes

- start\_up on C:\\temp (#13) (#14) `a3` `a6`

## Documentation

- Say more `a9`

## Dependencies

- 1 update: serde

## Contributors

Cleo (4), Ada (2), Bob (2)

*2 of 6 changes were sorted by their words; 1 merge left out; 2 commits that took others back or were taken back left out.*
"#;
    assert_eq!(markdown(&run), expected);
    assert_eq!(run.summary(), "v2.0: 2 breaking changes, 2 features, 1 fix from 10 commits");
    let counts = &run.output::<Value>()["counts"];
    assert_eq!((&counts["chunks"], &counts["merges"]), (&json!(4), &json!(1)));
}

#[test]
fn chunks_are_cut_and_waited_for() {
    let commits: Vec<Value> = (0..450)
        .map(|n| commit(&n.to_string(), "A", "2026-01-01", &format!("feat: {n}")))
        .collect();
    let mut orchestration = Orchestration::new(run).context(json!({ "commits": commits }));
    let first = orchestration.start();
    let sizes: Vec<usize> =
        first.created().iter().map(|c| c.context["commits"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [200, 200, 50]);
    assert!(first.created().iter().all(|c| c.reply_to_me && c.worker_type == "general"));

    let mut orchestration = orchestration.skill("release-notes", run);
    orchestration.run_child().unwrap();
    assert!(orchestration.wake().is_waiting());
    assert_eq!(orchestration.run_to_end().output::<Value>()["counts"]["features"], 450);
}

#[test]
fn a_failed_chunk_is_named() {
    let commits: Vec<Value> =
        (0..6).map(|n| commit(&format!("c{n}"), "A", "", &format!("feat: {n}"))).collect();
    let mut orchestration = Orchestration::new(run)
        .context(json!({ "commits": commits, "chunk_size": 2 }))
        .skill("release-notes", run);
    orchestration.start();
    let children = orchestration.children();
    orchestration.fail(&children[1], "cpu_exhausted", "more than 10 s");
    let end = orchestration.run_to_end();
    let text = markdown(&end);
    assert!(text.contains("- 5 `c5`") && !text.contains("`c2`\n"), "{text}");
    let said =
        "## Not included\n\n- Commits 3 to 4 (`c2` to `c3`): cpu\\_exhausted: more than 10 s\n";
    assert!(text.ends_with(said), "{text}");
    assert!(end.summary().ends_with("; 2 commits could not be classified"), "{}", end.summary());

    let mut lost = Orchestration::new(run).context(json!({ "commits": [{ "subject": "x" }] }));
    lost.start();
    let child = lost.children().remove(0);
    assert!(
        lost.fail(&child, "trapped", "unreachable").wake().failure().message().contains("trapped")
    );
}

#[test]
fn odd_input_is_no_trouble() {
    assert_eq!(markdown(&notes(json!({ "commits": [] }))), "# Release notes\n\nNo commits.\n");
    let wrong = Orchestration::new(run).context(json!({ "commits": "all" })).start();
    assert!(matches!(wrong.failure(), Failure::Permanent(_)));

    let odd = notes(json!({ "unknown": 1, "title": " \n", "chunk_size": 0, "commits": [
        {},
        { "subject": "\u{1}\u{1b}[31m", "more": [1] },
        { "subject": "feat: ".to_owned() + &"ü".repeat(5_000), "hash": "`h`" },
        { "subject": "fix: \"quotes\" \\ back\tslash \u{202e} 日本語 🎉", "author": "Zoë \\ \"Q\"" },
        { "subject": "fix(): x", "date": "yesterday", "body": "\u{0}é".repeat(5_000) },
        { "subject": "\\".repeat(10_000) + "x" },
    ]}));
    let text = markdown(&odd);
    assert!(text.starts_with("# Release notes\n\n6 commits by 1 contributor.\n"), "{text}");
    assert!(text.contains("\"quotes\" \\\\ back slash \u{202e} 日本語 🎉"), "{text}");
    assert!(text.lines().all(|line| line.len() < 2_000));
}

/// A history such as a few years of a busy project leave.
fn history(commits: usize) -> Vec<Value> {
    let kinds = ["feat", "fix", "docs", "perf", "chore", "refactor", "test"];
    let mut state = 1_u64;
    let mut chance = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..commits)
        .map(|n| {
            let words =
                format!("part {} of the {n}th thing, as discussed at length", chance(1_000));
            let subject = match chance(10) {
                0 => format!("Merge pull request #{n} from somebody/branch-{n}"),
                1 => format!("Fix {words} (#{n})"),
                2 => format!("Add {words}"),
                3 => format!("Bump library-{} from 1.{n} to 1.{}", chance(50), n + 1),
                _ => format!("{}(part-{}): {words} (#{n})", kinds[chance(7)], chance(20)),
            };
            let author = format!("Author Number {}", chance(60));
            let day =
                format!("20{:02}-{:02}-{:02}", 20 + n / 1_000, 1 + chance(12), 1 + chance(28));
            commit(&format!("{:010x}", n * 7_919), &author, &day, &subject)
        })
        .collect()
}

#[test]
fn five_thousand_commits() {
    let context = json!({ "commits": history(5_000) });
    assert!(context.to_string().len() <= 1 << 20, "{}", context.to_string().len());
    let mut orchestration = Orchestration::new(run).context(context).skill("release-notes", run);
    let end = orchestration.run_to_end();
    assert_eq!(orchestration.children().len(), 25);
    let output: Value = end.output();
    let counts = &output["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(count("commits"), 5_000);
    assert_eq!(count("changes") + count("merges"), 5_000);
    assert_eq!(count("contributors"), 60);
    assert!(output.to_string().len() < 1 << 20);
    let text = markdown(&end);
    assert!(!text.contains("- … and "), "something was cut");
    let listed = text.lines().filter(|line| line.starts_with("- ")).count() as u64;
    assert_eq!(listed, count("changes") - count("dependencies") + 1);
}

#[test]
fn notes_fit_into_an_output_whatever_comes() {
    // Each subject is as long as is kept, and twice as long as JSON: 4,000 of them are 4 MB.
    let digest = crate::digest::Digest::of(
        &(0..4_000)
            .map(|n| {
                let subject = format!("feat: {n} {}", "\\\"".repeat(240));
                crate::commit::Commit { subject, ..Default::default() }
            })
            .collect::<Vec<_>>(),
    );
    let notes = crate::notes::Notes::new(None, &digest, &[]);
    let data = json!({ "markdown": notes.markdown(), "counts": notes.counts() });
    assert!(data.to_string().len() <= 1 << 20, "{}", data.to_string().len());
    assert!(notes.markdown().contains("- … and "));
}
