//! The harness for orchestrators keeps to the platform's rules.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use eve_sdk::prelude::*;
use eve_sdk::testing::{Orchestration, Run};

/// Does in its first run what the context's `do` says, and then waits for all children.
fn skill(request: Request) -> Result<Outcome, Failure> {
    let orders: Value = request.context()?;
    if request.trigger() == Trigger::Initial {
        first(&request, &orders)?;
    }
    for trigger in request.triggers() {
        log::info!("{trigger:?}");
    }
    match orders["then"].as_str() {
        Some("complete") => return Ok(Outcome::completed("done")),
        Some("retry") if request.attempt() < 3 => return Err(Failure::retryable("later")),
        Some("panic") => panic!("as told"),
        _ => {}
    }
    match queue::children()?.iter().filter(|child| child.is_open()).count() {
        0 => Ok(Outcome::completed("all ended")),
        _ => Ok(Outcome::waiting()),
    }
}

fn first(request: &Request, orders: &Value) -> Result<(), Failure> {
    let child = |prompt: &str| queue::request("general").prompt(prompt).reply_to_me();
    match orders["do"].as_str() {
        Some("chain") => {
            let first = child("first").create()?;
            let policy = match orders["policy"].as_str() {
                Some("run") => OnFailure::Run,
                Some("hold") => OnFailure::Hold,
                _ => OnFailure::Cancel,
            };
            child("second").blocked_by([&first]).on_failure(policy).create()?;
        }
        Some("detach") => {
            child("mine").create()?;
            child("its own").detached().create()?;
        }
        Some("circle") => {
            child("never").blocked_by([request.id()]).create()?;
        }
        Some("key") => {
            child("keyed").idempotency_key("once").create()?;
        }
        Some("three") => {
            for prompt in ["one", "two", "three"] {
                child(prompt).create()?;
            }
        }
        _ => {
            child("one").create()?;
            child("two").create()?;
        }
    }
    Ok(())
}

fn orchestration(orders: Value) -> Orchestration {
    Orchestration::new(skill).context(orders)
}

fn refused(act: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("it should have been refused");
    match panic.downcast::<String>() {
        Ok(said) => *said,
        Err(panic) => (*panic.downcast::<&str>().expect("a panic says something")).to_owned(),
    }
}

fn triggers(run: &Run) -> usize {
    run.lines().len()
}

#[test]
fn what_arrives_is_delivered_once() {
    let mut orchestration = orchestration(json!({}));
    assert!(orchestration.start().is_waiting());
    let children = orchestration.children();
    orchestration.complete(&children[0], &json!(1)).cancel(&children[1]);
    let run = orchestration.wake();
    assert_eq!((triggers(&run), run.summary()), (2, "all ended"));
    assert_eq!(orchestration.status(), Status::Completed);

    let mut slow = self::orchestration(json!({}));
    slow.start();
    let children = slow.children();
    assert_eq!(triggers(&slow.complete(&children[0], &json!(1)).wake()), 1);
    assert_eq!(refused(|| drop(slow.wake())), "nothing has happened that wakes it");
    assert_eq!(triggers(&slow.fail(&children[1], "failed", "x").wake()), 1);
}

#[test]
fn a_wake_up_sees_its_own_context_and_the_platforms() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        let mine: Value = request.context()?;
        let raw: Value = request.raw_context()?;
        if request.trigger() == Trigger::Initial {
            assert_eq!(mine, raw);
            queue::request("general").reply_to_me().create()?;
            queue::wake_after(Duration::from_secs(5), "tick")?;
            return Ok(Outcome::waiting());
        }
        Ok(Outcome::completed("").data(&json!({ "mine": mine, "raw": raw })))
    }
    let mut orchestration = Orchestration::new(skill).context(json!({ "parent_context": 7 }));
    orchestration.start();
    let child = orchestration.children().remove(0);
    let run = orchestration.complete(&child, &json!(0)).fire("tick").wake();
    let output: Value = run.output();
    assert_eq!(output["mine"], json!({ "parent_context": 7 }));
    let raw = json!({
        "trigger": "child_complete",
        "completed_request_id": child,
        "completed_result_id": child,
        "status": "completed",
        "parent_request_id": orchestration.id(),
        "parent_context": { "parent_context": 7 },
        "additional_completions": [{ "trigger": "timer", "name": "tick" }],
    });
    assert_eq!(output["raw"], raw);
}

#[test]
fn a_bad_run_leaves_nothing_and_is_tried_again_with_the_same_triggers() {
    let mut orchestration = orchestration(json!({ "do": "three", "then": "retry" }));
    for attempt in 1..3 {
        let run = orchestration.start();
        assert_eq!((run.attempt(), run.code()), (attempt, Some("failed")));
        assert!(run.created().is_empty() && orchestration.children().is_empty());
        assert_eq!(orchestration.status(), Status::Scheduled);
    }
    assert!(orchestration.start().is_waiting());
    let children = orchestration.children();

    orchestration.complete(&children[0], &json!(1));
    let bound = orchestration.wake().triggers().to_vec();
    // What arrives between two attempts is for the next wake-up.
    orchestration.complete(&children[1], &json!(2));
    for _ in 0..2 {
        assert_eq!(orchestration.status(), Status::Waiting);
        assert_eq!(orchestration.wake().triggers(), bound);
    }
    let last = orchestration.wake();
    assert_eq!(last.triggers().len(), 1);
    assert_ne!(last.triggers(), bound);
}

#[test]
fn a_trap_is_a_failure_that_is_tried_again() {
    let mut orchestration = orchestration(json!({ "then": "panic" })).max_attempts(2);
    for status in [Status::Scheduled, Status::Failed] {
        let run = orchestration.start();
        assert_eq!((run.code(), run.failure().message()), (Some("trapped"), "panicked: as told"));
        assert_eq!(orchestration.status(), status);
    }
    assert!(orchestration.children().is_empty());
    let id = orchestration.id().clone();
    assert_eq!(orchestration.problem_of(&id).map(|p| p.code), Some("trapped".into()));
}

#[test]
fn waiting_for_nothing_fails() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        if request.trigger() == Trigger::Initial {
            queue::request("general").reply_to_me().create()?;
            queue::request("general").create()?;
        }
        Ok(Outcome::waiting())
    }
    let mut orchestration = Orchestration::new(skill);
    orchestration.start();
    let children = orchestration.children();
    let run = orchestration.complete(&children[0], &json!(1)).wake();
    assert_eq!(run.code(), Some("nothing_to_wait_for"));
    assert_eq!(orchestration.status(), Status::Failed);
    assert_eq!(orchestration.status_of(&children[1]), Status::Cancelled);
    assert_eq!(
        orchestration.problem_of(&children[1]).map(|problem| problem.code),
        Some("orchestration_ended".into())
    );
}

#[test]
fn blocked_children_wait_and_edges_have_policies() {
    for (policy, second) in
        [("cancel", Status::Cancelled), ("run", Status::Pending), ("hold", Status::Blocked)]
    {
        let mut chain = orchestration(json!({ "do": "chain", "policy": policy }));
        chain.start();
        let children = chain.children();
        let said = refused(|| {
            chain.complete(&children[1], &json!(1));
        });
        assert!(said.contains("blocked by"), "{said}");
        chain.fail(&children[0], "failed", "x");
        assert_eq!(chain.status_of(&children[1]), second, "{policy}");
    }
    let mut chain = orchestration(json!({ "do": "chain" }));
    chain.start();
    let children = chain.children();
    chain.complete(&children[0], &json!(1));
    assert_eq!(chain.status_of(&children[1]), Status::Pending);
    let said = refused(|| {
        chain.cancel(&children[0]);
    });
    assert!(said.contains("has ended"), "{said}");
}

#[test]
fn an_orchestration_that_ends_takes_what_it_started_with_it() {
    let mut completing = orchestration(json!({ "do": "detach", "then": "complete" }));
    completing.start();
    let statuses =
        |o: &Orchestration| o.children().iter().map(|c| o.status_of(c)).collect::<Vec<_>>();
    // Nobody creates a request in order to cancel it.
    assert_eq!(statuses(&completing), [Status::Pending, Status::Pending]);

    fn late(request: Request) -> Result<Outcome, Failure> {
        if request.trigger() == Trigger::Initial {
            first(&request, &json!({ "do": "detach" }))?;
            queue::ask("?").create()?;
            queue::wake_after(Duration::from_secs(60), "wake")?;
            return Ok(Outcome::waiting());
        }
        queue::request("general").prompt("afterwards").create()?;
        Ok(Outcome::completed("enough"))
    }
    let mut completed = Orchestration::new(late);
    completed.start();
    completed.fire("wake").wake();
    assert_eq!(statuses(&completed), [Status::Cancelled, Status::Pending, Status::Pending]);
    assert!(completed.questions().is_empty() && completed.timers().is_empty());

    let mut cancelled = Orchestration::new(late);
    cancelled.start();
    let id = cancelled.id().clone();
    cancelled.cancel(&id);
    assert_eq!(statuses(&cancelled), [Status::Cancelled, Status::Cancelled]);
    assert!(refused(|| drop(cancelled.wake())).contains("does not wait"));
}

#[test]
fn questions_take_only_their_answers_and_only_once() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        match request.trigger() {
            Trigger::HitlResponse(answer) if answer.is_expired() => Ok(Outcome::completed("late")),
            Trigger::HitlResponse(answer) => {
                Ok(Outcome::completed(answer.text().unwrap_or_default()))
            }
            _ => {
                queue::ask("Which?").option("a").options(["b", "c"]).create()?;
                Ok(Outcome::waiting())
            }
        }
    }
    let start = || {
        let mut orchestration = Orchestration::new(skill);
        let question = orchestration.start().questions()[0].id.clone();
        (orchestration, question)
    };
    let (mut chosen, question) = start();
    let said = refused(|| {
        chosen.answer(&question, "d");
    });
    assert!(said.contains("none of the answers"), "{said}");
    assert!(
        refused(|| {
            chosen.answer(&question, 1);
        })
        .contains("none of")
    );
    chosen.answer(&question, "c");
    assert!(
        refused(|| {
            chosen.expire(&question);
        })
        .contains("no open question")
    );
    assert_eq!(chosen.wake().summary(), "c");
    let (mut expired, question) = start();
    assert_eq!(expired.expire(&question).wake().summary(), "late");
}

#[test]
fn what_the_platform_refuses_is_refused() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        let asked = match request.context::<Value>()?["do"].as_str() {
            Some("twice") => queue::ask("?").options(["a", "a"]).create().map(drop),
            Some("empty") => queue::ask("").create().map(drop),
            Some("soon") => queue::wake_after(Duration::from_millis(999), "t"),
            Some("nameless") => queue::wake_after(Duration::from_secs(1), ""),
            Some("flood") => (0..101).try_for_each(|_| queue::ask("?").create().map(drop)),
            _ => queue::request("general")
                .reply_to_me()
                .blocked_by([request.id()])
                .create()
                .map(drop),
        };
        Ok(Outcome::completed(asked.err().map(|error| error.to_string()).unwrap_or_default()))
    }
    for (what, said) in [
        ("twice", "invalid: options: `a` stands there twice"),
        ("empty", "invalid: question: "),
        ("soon", "invalid: delay: 999 ms"),
        ("nameless", "invalid: name: "),
        ("flood", "limit reached: a run asks at most 100"),
        ("circle", "conflict: blocked_by: "),
    ] {
        let run = Orchestration::new(skill).context(json!({ "do": what })).start();
        assert!(run.summary().starts_with(said), "{what}: {}", run.summary());
    }
}

#[test]
fn a_timer_of_the_same_name_is_moved() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        let seconds = if request.trigger() == Trigger::Initial { 5 } else { 9 };
        queue::wake_after(Duration::from_secs(seconds), "again")?;
        queue::wake_after(Duration::from_secs(seconds), format!("after {seconds}"))?;
        Ok(Outcome::waiting())
    }
    let mut orchestration = Orchestration::new(skill);
    orchestration.start();
    orchestration.fire("after 5").wake();
    let nine = Duration::from_secs(9);
    assert_eq!(orchestration.timers(), [("again".into(), nine), ("after 9".into(), nine)]);
}

#[test]
fn keys_outlive_a_run_that_failed() {
    let mut orchestration = orchestration(json!({ "do": "key", "then": "retry" }));
    orchestration.start();
    orchestration.start();
    assert!(orchestration.start().is_waiting());
    assert_eq!(orchestration.children().len(), 1);
}

#[test]
fn children_that_orchestrate_are_run_too() {
    fn outer(request: Request) -> Result<Outcome, Failure> {
        if request.trigger() == Trigger::Initial {
            for n in 1..=3 {
                queue::request("general")
                    .skill("inner")
                    .context(&json!({ "n": n }))
                    .reply_to_me()
                    .create()?;
            }
            return Ok(Outcome::waiting());
        }
        let children = queue::children()?;
        if children.iter().any(|child| child.is_open()) {
            return Ok(Outcome::waiting());
        }
        let sum: u64 = children.iter().filter_map(|child| child.output::<u64>().ok()).sum();
        Ok(Outcome::completed("summed").data(&sum))
    }
    fn inner(request: Request) -> Result<Outcome, Failure> {
        let n = request.context::<Value>()?["n"].as_u64().unwrap_or(0);
        if request.trigger() == Trigger::Initial {
            for _ in 0..n {
                queue::request("general").skill("leaf").reply_to_me().create()?;
            }
            return Ok(Outcome::waiting());
        }
        let leaves = queue::children()?;
        match leaves.iter().all(|leaf| !leaf.is_open()) {
            true => Ok(Outcome::completed("").data(&(leaves.len() as u64 * 10))),
            false => Ok(Outcome::waiting()),
        }
    }
    fn leaf(request: Request) -> Result<Outcome, Failure> {
        match request.attempt() {
            1 => Err(Failure::retryable("not at once")),
            _ => Ok(Outcome::completed("")),
        }
    }
    let mut all = Orchestration::new(outer).skill("inner", inner).skill("leaf", leaf);
    assert_eq!(all.run_to_end().output::<u64>(), 60);

    let mut some = Orchestration::new(outer).skill("inner", inner);
    assert!(refused(|| drop(some.run_to_end())).contains("nothing goes on by itself"));
    assert_eq!(some.children().len(), 3);
}

#[test]
fn a_child_is_told_why_it_was_cancelled() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        match request.trigger() {
            Trigger::Initial => {
                for prompt in ["one", "two", "three"] {
                    queue::request("general").prompt(prompt).reply_to_me().create()?;
                }
                Ok(Outcome::waiting())
            }
            _ => {
                let children = queue::children()?;
                for (child, reason) in children.iter().skip(1).zip([Some("the race is won"), None])
                {
                    queue::cancel(child.id(), reason)?;
                }
                Ok(Outcome::waiting())
            }
        }
    }
    let mut orchestration = Orchestration::new(skill);
    orchestration.start();
    let [one, two, three] = orchestration.children().try_into().expect("three");
    let run = orchestration.complete(&one, &json!(1)).wake();
    assert_eq!((run.reason(&two), run.reason(&three)), (Some("the race is won"), None));
    let said = |id| orchestration.problem_of(id).map(|problem| problem.message);
    assert_eq!(said(&two).as_deref(), Some("the race is won"));
    assert_eq!(said(&three), Some(format!("cancelled by request {}", orchestration.id())));
}

#[test]
fn a_wait_can_run_out() {
    let mut started = orchestration(json!({}));
    started.start();
    let children = started.children();
    let said = refused(|| {
        started.complete(&children[0], &json!(1)).wait_out();
    });
    assert!(said.contains("something has happened"), "{said}");
    assert!(started.wake().is_waiting());
    started.wait_out();
    let id = started.id().clone();
    assert_eq!(started.problem_of(&id).map(|p| p.code), Some("wait_timed_out".into()));
    let ended = started.problem_of(&children[1]).map(|problem| problem.code);
    assert_eq!(ended, Some("orchestration_ended".into()));
    let said = refused(|| {
        started.wait_out();
    });
    assert!(said.contains("does not wait"), "{said}");
}

/// Asks, sets a timer, and completes with what comes first.
fn inner(request: Request) -> Result<Outcome, Failure> {
    match request.trigger() {
        Trigger::Initial => {
            queue::ask("Go on?").create()?;
            queue::wake_after(Duration::from_secs(60), "late")?;
            Ok(Outcome::waiting())
        }
        trigger => Ok(Outcome::completed(format!("{trigger:?}"))),
    }
}

/// Starts three of [`inner`], and says how they ended.
fn outer(request: Request) -> Result<Outcome, Failure> {
    if request.trigger() == Trigger::Initial {
        for _ in 0..3 {
            queue::request("general").skill("inner").reply_to_me().create()?;
        }
    }
    let children = queue::children()?;
    match children.iter().any(|child| child.is_open()) {
        true => Ok(Outcome::waiting()),
        false => {
            let completed = |child: &&queue::Child| child.request.status == Status::Completed;
            let completed = children.iter().filter(completed).count();
            Ok(Outcome::completed(format!("{completed} of {} completed", children.len())))
        }
    }
}

#[test]
fn nested_orchestrators_are_played_through_too() {
    let mut orchestration = Orchestration::new(outer).skill("inner", inner);
    orchestration.start();
    assert_eq!(orchestration.run_children(), 3);
    let [first, second, third] = orchestration.children().try_into().expect("three");
    let question = orchestration.questions_of(&first)[0].id.clone();
    assert_eq!(orchestration.timers_of(&second), [("late".into(), Duration::from_secs(60))]);
    let said = refused(|| drop(orchestration.clone().run_to_end()));
    assert!(said.contains("Go on?") && said.contains("late"), "{said}");
    orchestration.answer(&question, "yes").fire_of(&second, "late").wait_out_of(&third);
    assert_eq!(orchestration.run_children(), 2);
    let last = orchestration.run_to_end();
    assert_eq!(last.summary(), "2 of 3 completed");
}

#[test]
fn what_an_ended_child_has_left_running_ends_with_the_orchestration() {
    fn child(_: Request) -> Result<Outcome, Failure> {
        queue::request("general").detached().create()?;
        Ok(Outcome::completed(""))
    }
    fn parent(request: Request) -> Result<Outcome, Failure> {
        if request.trigger() == Trigger::Initial {
            queue::request("general").skill("child").create()?;
            queue::wake_after(Duration::from_secs(1), "on")?;
            return Ok(Outcome::waiting());
        }
        Ok(Outcome::completed(""))
    }
    let mut orchestration = Orchestration::new(parent).skill("child", child);
    orchestration.start();
    orchestration.run_children();
    let child = orchestration.children().remove(0);
    let left = orchestration.children_of(&child).remove(0);
    assert_eq!(orchestration.status_of(&left), Status::Pending);
    orchestration.fire("on").wake();
    assert_eq!(orchestration.status_of(&left), Status::Cancelled);
}

#[test]
fn a_key_of_an_earlier_attempt_stands_for_the_same_request_only() {
    /// A child, and one under a key that waits for it, or in the second attempt for something else.
    fn skill(request: Request) -> Result<Outcome, Failure> {
        let other = request.context::<Value>()?["other"] == true && request.attempt() == 2;
        let first = queue::request("general").reply_to_me().create()?;
        let second = queue::request("general").create()?;
        let keyed = queue::request("general").idempotency_key("once");
        let blocker = if other { second } else { first };
        match keyed.blocked_by([blocker]).create() {
            Ok(_) if request.attempt() == 1 => Err(Failure::retryable("later")),
            Ok(_) => Ok(Outcome::waiting()),
            Err(error) => Ok(Outcome::completed(error.to_string())),
        }
    }
    let mut same = Orchestration::new(skill);
    same.start();
    assert!(same.start().is_waiting());
    assert_eq!(same.children().len(), 3);
    let mut other = Orchestration::new(skill).context(json!({ "other": true }));
    other.start();
    let said = "conflict: the idempotency key `once` was used before, for a different body";
    assert_eq!(other.start().summary(), said);
}

#[test]
fn answers_are_checked() {
    let mut asked = Orchestration::new(inner);
    let question = asked.start().questions()[0].id.clone();
    for answer in [json!(null), json!("x".repeat(64 << 10)), json!(["\0"])] {
        refused(|| {
            asked.answer(&question, &answer);
        });
    }
    assert!(asked.answer(&question, "x").wake().summary().contains("HitlResponse"));
}
