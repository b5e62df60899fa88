//! Every target for a moment: its corpus, then mutations of that. A seed decides them.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Seen;
use super::mutate::{Random, mutate};

/// What decides the mutations, unless `EVE_FUZZ_SEED` says another.
const SEED: u64 = 1;

/// Declares a test for each target, with the cases that take it about half a second, unless
/// `EVE_FUZZ_CASES` says how many.
macro_rules! targets {
    ($($name:ident: $cases:literal,)*) => {
        $(
            #[test]
            fn $name() {
                short(stringify!($name), super::$name, $cases);
            }
        )*

        const TARGETS: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    boundary: 300,
    cron: 2_000,
    cursor: 20_000,
    duration: 20_000,
    import: 10_000,
    jwt: 10_000,
    manifest: 8_000,
    output: 20_000,
    statement: 20_000,
    token: 20_000,
    upload: 2_000,
    value: 20_000,
}

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(of)
}

/// The names of what is in a folder, without their extensions.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn every_target_has_a_fuzzer_and_a_corpus() {
    assert_eq!(names(&folder("fuzz_targets")), TARGETS);
    assert_eq!(names(&folder("corpus")), TARGETS);
}

fn short(name: &str, target: fn(&[u8]) -> Seen, cases: u64) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
    };
    let seed = number("EVE_FUZZ_SEED").unwrap_or(SEED);
    let cases = number("EVE_FUZZ_CASES").unwrap_or(cases);
    println!("EVE_FUZZ_SEED={seed} EVE_FUZZ_CASES={cases}");

    let mut files: Vec<PathBuf> = std::fs::read_dir(folder("corpus").join(name))
        .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_unstable();
    let mut tally = Tally { name, target, accepted: 0, refused: 0, slowest: Default::default() };
    let mut seeds = Vec::new();
    for file in files {
        let input = std::fs::read(&file).unwrap();
        tally.look_at(&input, &file.display().to_string());
        seeds.push(input);
    }
    let mut random = Random::new(seed);
    for case in 0..cases {
        tally.look_at(&mutate(&mut random, &seeds), &format!("case {case}"));
    }
    let Tally { accepted, refused, slowest: (slowest, input), .. } = tally;
    println!("{accepted} accepted, {refused} refused; the slowest, of {slowest:?}: {input}");
    // A corpus that goes nowhere proves nothing.
    assert!(accepted > 0 && refused > 0, "{accepted} were accepted, {refused} refused");
}

struct Tally<'a> {
    name: &'a str,
    target: fn(&[u8]) -> Seen,
    accepted: u64,
    refused: u64,
    slowest: (Duration, String),
}

impl Tally<'_> {
    fn look_at(&mut self, input: &[u8], which: &str) {
        let began = Instant::now();
        let seen = panic::catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        let took = began.elapsed();
        if took > self.slowest.0 {
            let shown = &input[..input.len().min(200)];
            self.slowest = (took, shown.escape_ascii().to_string());
        }
        match seen {
            Ok(Seen::Accepted) => self.accepted += 1,
            Ok(Seen::Refused) => self.refused += 1,
            Err(panicked) => self.report(input, which, &*panicked),
        }
    }

    /// Keeps the input where it can be had again, and ends the test.
    fn report(&self, input: &[u8], which: &str, panicked: &(dyn Any + Send)) -> ! {
        let why = panicked
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panicked.downcast_ref::<&str>().copied())
            .unwrap_or("it panicked");
        let file = std::env::temp_dir().join(format!("eve-fuzz-{}", self.name));
        let kept = match std::fs::write(&file, input) {
            Ok(()) => {
                format!("it is in {}; once mended, it belongs into the corpus", file.display())
            }
            Err(error) => format!("it could not be kept: {error}"),
        };
        let name = self.name;
        panic!("{name}, {which}: {why}\nthe input: {}\n{kept}", input.escape_ascii());
    }
}
