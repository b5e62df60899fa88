//! The plans, played natively.

use eve_sdk::prelude::*;
use eve_sdk::testing::Orchestration;

use super::run;

fn plan(plan: Value) -> Orchestration {
    Orchestration::new(run).context(plan).skill("orchestrator", run)
}

#[test]
fn waves_follow_one_another() {
    for blocked in ["none", "chain", "diamond"] {
        let end = plan(json!({ "children": 5, "waves": 3, "blocked": blocked })).run_to_end();
        let output: Value = end.output();
        let counts = (&output["children"], &output["completed"], &output["waves"]);
        assert_eq!(counts, (&json!(15), &json!(15), &json!(3)), "{blocked}");
        assert_eq!(output["seen"]["children"].as_array().map(Vec::len), Some(5));
        assert_eq!(end.lines().last().map(|line| line.message.as_str()), Some("seen"));
    }
}

#[test]
fn orchestrators_nest() {
    let mut tree = plan(json!({ "children": 3, "depth": 2, "width": 2 }));
    assert_eq!(tree.run_to_end().output::<Value>()["completed"], 3);
    let nested = tree.children_of(&tree.children()[1]);
    assert_eq!(nested.len(), 3);
    assert_eq!(tree.children_of(&nested[0]).len(), 3);
    assert!(tree.children_of(&nested[2]).is_empty());
}

#[test]
fn failures_and_second_attempts_are_counted() {
    let plan_of = |seed: u64| {
        json!({ "children": 40, "waves": 2, "blocked": "chain", "fail_percent": 20,
                "retry_percent": 20, "seed": seed })
    };
    for seed in 0..20 {
        let output: Value = plan(plan_of(seed)).run_to_end().output();
        let count = |name: &str| output[name].as_u64().unwrap_or(0);
        assert_eq!(count("completed") + count("failed") + count("cancelled"), 80, "seed {seed}");
    }
}

#[test]
fn answers_and_timers_are_waited_for() {
    let mut asked = plan(json!({ "children": 2, "ask": true, "timer_ms": 5 }));
    asked.start();
    assert_eq!(asked.timers()[0].1.as_millis(), 1_000);
    let question = asked.questions()[0].id.clone();
    asked.run_children();
    assert!(asked.wake().is_waiting());
    assert!(asked.answer(&question, "no").wake().is_waiting());
    let end = asked.fire("tick").wake();
    let output: Value = end.output();
    assert_eq!((&output["answers"], &output["timers"]), (&json!(1), &json!(1)));
    assert_eq!(output["seen"]["timers"], json!(["tick"]));
}

#[test]
fn a_race_is_won_once() {
    let mut race = plan(json!({ "children": 4, "race": true, "detached": true }));
    race.start();
    race.run_child();
    let end = race.wake();
    let output: Value = end.output();
    assert_eq!((&output["completed"], &output["cancelled"]), (&json!(1), &json!(3)));
    assert_eq!(race.open_children().len(), 1, "the detached one goes on");
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let end = plan(json!({ "children": 0 })).run_to_end();
    assert_eq!(end.output::<Value>()["children"], 0);
    assert!(plan(json!({ "childrn": 1 })).start().failure().message().contains("childrn"));
}
