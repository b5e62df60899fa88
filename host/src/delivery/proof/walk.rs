//! Random operations on the model and on the database at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::facts::{Fact, difference};
use super::invariants;
use super::machine::{Answer, Machine, furnish};
use super::model::{Model, Refused, RunNo};
use super::operations::{Action, Operation, operations};
use crate::notify::Bell;
use crate::testing::TestDatabase;

/// Cases, unless `EVE_MODEL_CASES` says how many.
const CASES: u32 = 250;
/// What decides the operations, unless `EVE_MODEL_SEED` says another.
const SEED: u64 = 1;

#[test]
fn the_database_does_what_the_design_says() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = runtime.block_on(async {
        let database = TestDatabase::fresh().await;
        furnish(&database).await;
        database
    });
    let bell = {
        let _entered = runtime.enter();
        Bell::start(database.db.pool().clone())
    };
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
    };
    let cases = number("EVE_MODEL_CASES").map_or(CASES, |cases| cases as u32);
    let seed = number("EVE_MODEL_SEED").unwrap_or(SEED);
    println!("EVE_MODEL_SEED={seed} EVE_MODEL_CASES={cases}");
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4_000,
        // In milliseconds.
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let seen = RefCell::new(Seen::new());
    let outcome = runner.run(&operations(), |operations| {
        let end = runtime.block_on(walk(&database, &bell, &operations));
        end.map(|model| note(&mut seen.borrow_mut(), &model)).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {
            println!("what the cases ended in, and how often: {:#?}", seen.borrow());
            let missing: Vec<&str> =
                MUST.into_iter().filter(|what| !seen.borrow().contains_key(*what)).collect();
            assert!(
                seed != SEED || cases < CASES || missing.is_empty(),
                "no case came across {missing:?}"
            );
        }
        // The operations are in the reason, with everything looked up.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(error) => panic!("{error}"),
    }
}

/// What the cases of [`SEED`] come across, unless something is wrong with how they are made.
const MUST: [&str; 22] = [
    "attempt failed",
    "attempt rescued",
    "attempt retried",
    "attempt waited",
    "cancelled blocker_failed",
    "cancelled cancelled",
    "cancelled orchestration_ended",
    "completed",
    "completed wake-up",
    "edge cancel met",
    "edge hold held",
    "edge run met",
    "failed effects_invalid",
    "failed failed",
    "failed nothing_to_wait_for",
    "letter Answer ReadBy",
    "letter Child Discarded",
    "letter Child ReadBy",
    "letter Timer ReadBy",
    "question answered",
    "question expired",
    "wake-up processing",
];

/// What has been seen at the ends of cases, and how often: a walk that goes nowhere proves nothing.
type Seen = BTreeMap<String, usize>;

fn note(seen: &mut Seen, model: &Model) {
    for fact in model.facts() {
        let what = match fact {
            Fact::Asked { .. } => continue,
            Fact::Open { status, wakes, .. } => {
                format!("{} {status}", if wakes.is_some() { "wake-up" } else { "request" })
            }
            Fact::Ended { id, status, code: None, .. } => {
                let is_wakeup = model.orchestration(id) != id;
                format!("{status}{}", if is_wakeup { " wake-up" } else { "" })
            }
            Fact::Ended { status, code: Some(code), .. } => format!("{status} {code}"),
            Fact::Edge { on_failure, state, .. } => format!("edge {on_failure} {state}"),
            Fact::Letter { source, fate, .. } => {
                let [source, fate] = [format!("{source:?}"), format!("{fate:?}")];
                let word = |text: &str| text.split('(').next().unwrap_or_default().to_owned();
                format!("letter {} {}", word(&source), word(&fate))
            }
            Fact::Question { status, .. } => format!("question {status}"),
            Fact::Timer { .. } => "timer".into(),
            Fact::Attempt { kind, .. } => format!("attempt {kind}"),
        };
        *seen.entry(what).or_default() += 1;
    }
}

/// Does all of it on both sides. An error tells the story up to where they part.
async fn walk(
    database: &TestDatabase,
    bell: &Bell,
    operations: &[Operation],
) -> Result<Model, String> {
    let mut model = Model::default();
    let mut machine = Machine::fresh(database, bell).await;
    let mut story = String::from("the database and the model part:\n");
    for operation in operations {
        let Some(action) = operation.resolve(&mut model) else { continue };
        let _ = writeln!(story, "  {action:?}");
        if let Err(difference) = step(database, &mut model, &mut machine, &action).await {
            return Err(format!("{story}\n{difference}"));
        }
    }
    Ok(model)
}

async fn step(
    database: &TestDatabase,
    model: &mut Model,
    machine: &mut Machine<'_>,
    action: &Action,
) -> Result<(), String> {
    let failed = |error: sqlx::Error| format!("  Postgres says: {error}");
    let answer = machine.act(action).await.map_err(failed)?;
    match (action, &answer) {
        (Action::Claim { worker, batch, suspect }, Answer::Claimed(claimed)) => {
            model.claim(*worker, *batch, *suspect, claimed)?;
        }
        (Action::Finish { reports, .. }, Answer::Written(order)) => {
            for together in order {
                match together[..] {
                    [place] => model.finish(&reports[place]),
                    _ => {
                        let reports: Vec<_> = together.iter().map(|n| &reports[*n]).collect();
                        model.finish_together(&reports);
                    }
                }
            }
        }
        _ => {
            let expected = match expect(model, action) {
                Ok(()) => Answer::Done,
                Err(Refused) => Answer::Refused,
            };
            if answer != expected {
                return Err(format!("  the model says {expected:?}, and the database {answer:?}"));
            }
        }
    }
    recognise(model, machine).await?;
    let database_says = machine.facts().await.map_err(failed)?;
    model.adopt_causes(&database_says);
    if let Some(difference) = difference(&model.facts(), &database_says) {
        return Err(difference);
    }
    for run in (0..machine.claims()).map(RunNo).filter(|run| model.holds_lease(*run)) {
        let heard = machine.told(run).unwrap_or(0);
        if heard != model.letters_of(run) {
            return Err(format!(
                "  a wake-up was told {heard} events, not {}",
                model.letters_of(run)
            ));
        }
    }
    let broken = invariants::broken(&database.db).await;
    if !broken.is_empty() {
        return Err(format!("  {broken:?}"));
    }
    Ok(())
}

/// What the model makes of actions that are done or refused.
fn expect(model: &mut Model, action: &Action) -> Result<(), Refused> {
    match action {
        Action::Create(batch) => model.create(batch)?,
        Action::Cancel(id) => model.cancel(*id)?,
        Action::Retry(id) => model.retry(*id)?,
        Action::Rescue { worker } => model.rescue(*worker),
        Action::GiveBack { runs, .. } => model.give_back(runs),
        Action::Promote(due) => model.promote(due),
        Action::ExpireHeld(edges) => model.expire_held(edges),
        Action::Answer(question) => model.settle(*question, "answered")?,
        Action::ExpireQuestions(due) => {
            for question in due {
                model.settle(*question, "expired")?;
            }
        }
        Action::Fire(timers) => model.fire(timers),
        Action::Overdue(due) => model.overdue(due),
        Action::Claim { .. } | Action::Finish { .. } => {}
    }
    Ok(())
}

/// Finds out which of the model's new wake-ups is which of the database's.
async fn recognise(model: &Model, machine: &mut Machine<'_>) -> Result<(), String> {
    let unnamed = machine.unnamed().await.map_err(|error| error.to_string())?;
    for (uuid, orchestration) in unnamed {
        let expected = model.wakeups(orchestration).find(|id| !machine.is_named(*id));
        let Some(id) = expected else {
            return Err(format!(
                "  the database has a wake-up of {orchestration} that nobody expected"
            ));
        };
        machine.recognise(uuid, id);
    }
    Ok(())
}
