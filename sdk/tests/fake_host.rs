//! The fake host answers as the contract says.

use std::time::Duration;

use eve_sdk::prelude::*;
use eve_sdk::queue::Batch;
use eve_sdk::testing::{Host, Other};

#[test]
fn a_failed_run_leaves_nothing_behind() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        queue::request("general").create()?;
        log::warn("about to fail");
        Err(Failure::retryable("later"))
    }
    let run = Host::new().run(skill);
    assert_eq!(run.failure(), &Failure::Retryable("later".into()));
    assert!(run.created().is_empty());
    assert_eq!(run.lines().len(), 1);
}

#[test]
fn a_batch_is_created_whole_or_not_at_all() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let mut batch = Batch::new();
        let first = batch.add(queue::request("general"));
        batch.add(queue::request("general").blocked_by([first]).priority(101));
        let error = batch.create().map(drop);
        Ok(Outcome::completed(format!("{error:?}")))
    }
    let run = Host::new().run(skill);
    assert!(run.summary().contains("priority: 101"), "{}", run.summary());
    assert!(run.created().is_empty());
}

#[test]
fn a_builder_sets_what_its_methods_say() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let first = queue::request("general").create()?;
        let second = queue::request("general").create()?;
        queue::request("deployment")
            .skill("deploy")
            .prompt("p")
            .context(&json!({ "c": 1 }))
            .config(&json!({ "d": 2 }))
            .metadata(&json!({ "e": 3 }))
            .repo_url("https://example.com/r.git")
            .branch("main")
            .blocked_by([&first])
            .on_failure(OnFailure::Hold)
            .blocked_by([&second])
            .on_failure(OnFailure::Run)
            .reply_to_me()
            .detached()
            .delay(Duration::from_secs(2))
            .priority(-5)
            .max_attempts(7)
            .timeout(Duration::from_secs(9))
            .idempotency_key("k")
            .create()?;
        Ok(Outcome::waiting().deadline(Duration::from_secs(60)))
    }
    let run = Host::new().run(skill);
    assert!(run.is_waiting());
    let [first, second, third] = run.created() else { panic!("{:?}", run.created()) };
    assert_eq!(third.skill.as_deref(), Some("deploy"));
    assert_eq!((&third.context, &third.config), (&json!({ "c": 1 }), &json!({ "d": 2 })));
    assert_eq!(third.metadata, json!({ "e": 3 }));
    assert_eq!(
        third.blocked_by,
        [(first.id.clone(), OnFailure::Hold), (second.id.clone(), OnFailure::Run)]
    );
    assert!(third.reply_to_me && third.detached);
    assert_eq!(third.delay, Some(Duration::from_secs(2)));
    assert_eq!((third.priority, third.max_attempts), (-5, 7));
    assert_eq!(third.timeout, Some(Duration::from_secs(9)));
    assert_eq!(third.idempotency_key.as_deref(), Some("k"));
}

#[test]
fn a_key_creates_one_request() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let create = || queue::request("general").idempotency_key("once").create();
        Ok(Outcome::completed(if create()? == create()? { "same" } else { "two" }))
    }
    let run = Host::new().run(skill);
    assert_eq!((run.summary(), run.created().len()), ("same", 1));
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        let Some(context) = request.context::<Value>()?.get("wrong").cloned() else {
            return Ok(Outcome::completed(""));
        };
        queue::request("general").context(&context).create()?;
        Ok(Outcome::completed("created"))
    }
    for (wrong, message) in [
        (json!([1]), "invalid: context: must be a JSON object"),
        (json!({ "a": ["\0"] }), "invalid: context: contains the character U+0000"),
        (
            json!({ "a": "x".repeat(1 << 20) }),
            "invalid: context: 1048584 bytes; at most 1048576 are allowed",
        ),
    ] {
        let run = Host::new().context(json!({ "wrong": wrong })).run(skill);
        assert_eq!(run.failure(), &Failure::Permanent(message.into()));
    }
}

#[test]
fn a_wrong_outcome_fails_the_run_for_good() {
    fn unwritable(_: Request) -> Result<Outcome, Failure> {
        let data = std::collections::HashMap::from([((1, 2), 3)]);
        Ok(Outcome::completed("").data(&data))
    }
    fn costly(_: Request) -> Result<Outcome, Failure> {
        Ok(Outcome::completed("").cost(f64::NAN).tokens(3))
    }
    fn waiting_for_nothing(_: Request) -> Result<Outcome, Failure> {
        Ok(Outcome::waiting())
    }
    for skill in [unwritable, costly, waiting_for_nothing] {
        let run = Host::new().run(skill);
        assert!(matches!(run.failure(), Failure::Permanent(_)), "{:?}", run.failure());
    }
}

#[test]
fn requests_are_listed_newest_first_and_cancelled_once() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let created =
            queue::request("general").context(&json!({ "p": { "q": 1, "r": 2 } })).create()?;
        let found = queue::list().context(&json!({ "p": { "q": 1 } })).limit(1).fetch()?;
        assert_eq!(found[0].id, created);
        let older = queue::list().before(&created).fetch()?;
        queue::cancel(&created, Some("not needed"))?;
        let again = queue::cancel(&created, None);
        assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
        assert!(matches!(queue::get(&"nobody".into()), Err(Error::Invalid(_))));
        let missing = RequestId::from("019b7654-0000-7000-8000-ffffffffffff");
        assert!(matches!(queue::get(&missing), Err(Error::NotFound(_))));
        Ok(Outcome::completed(format!("{} older", older.len())))
    }
    let run = Host::new().other(Other::pending()).child(Other::cancelled()).run(skill);
    // The request that runs is one of them.
    assert_eq!(run.summary(), "3 older");
    assert_eq!(run.reason(&run.cancelled()[0]), Some("not needed"));
}

#[test]
fn the_request_that_runs_is_listed_between_its_elders_and_its_children() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        let mine = queue::request("general").create()?;
        let listed = queue::list().fetch()?;
        let place = |id: &RequestId| listed.iter().position(|info| info.id == *id);
        assert_eq!((listed.len(), place(&mine)), (4, Some(0)));
        assert_eq!(place(&request.id()), Some(2));
        assert_eq!((listed[2].status, listed[2].attempt), (Status::Processing, 2));
        let running = queue::list().statuses([Status::Processing]).fetch()?;
        assert_eq!(running.len(), 1);
        let older = queue::list().before(&request.id()).fetch()?;
        Ok(Outcome::completed(older[0].prompt.clone()))
    }
    let host = Host::new().child(Other::pending()).other(Other::pending().prompt("elder"));
    assert_eq!(host.attempt(2).run(skill).summary(), "elder");
}

#[test]
fn a_delay_of_nothing_is_none() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let status = |delay| {
            let id = queue::request("general").delay(delay).create()?;
            Ok::<Status, Error>(queue::get(&id)?.status)
        };
        assert_eq!(status(Duration::ZERO)?, Status::Pending);
        assert_eq!(status(Duration::from_millis(1))?, Status::Scheduled);
        Ok(Outcome::completed(""))
    }
    assert_eq!(Host::new().run(skill).code(), None);
}

#[test]
fn only_what_replies_can_be_waited_for() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        Ok(Outcome::waiting())
    }
    fn cancelling(_: Request) -> Result<Outcome, Failure> {
        queue::cancel(queue::children()?[0].id(), None)?;
        Ok(Outcome::waiting())
    }
    let with = |child| Host::new().child(child);
    assert_eq!(with(Other::pending()).run(skill).code(), Some("nothing_to_wait_for"));
    assert!(with(Other::pending().reply_to_me()).run(skill).is_waiting());
    // The end of what is cancelled is delivered.
    assert!(with(Other::pending().reply_to_me()).run(cancelling).is_waiting());
    let ended = Other::cancelled().reply_to_me();
    assert_eq!(with(ended).run(skill).code(), Some("nothing_to_wait_for"));
}

#[test]
fn what_a_run_is_told_is_bounded() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let said = queue::children().map(|children| children.len());
        Ok(Outcome::completed(format!("{said:?}")))
    }
    let large = || Other::completed(&"x".repeat(1_000_000));
    let host = |count: usize| (0..count).fold(Host::new(), |host, _| host.child(large()));
    assert_eq!(host(8).run(skill).summary(), "Ok(8)");
    let refused = host(9).run(skill);
    assert!(refused.summary().contains("Limit(\"the answer is larger than 8388608 bytes"));
}

#[test]
fn what_is_too_large_fails_the_run() {
    fn large(_: Request) -> Result<Outcome, Failure> {
        queue::request("general").create()?;
        Ok(Outcome::completed("").data(&"x".repeat(1 << 20)))
    }
    fn talkative(_: Request) -> Result<Outcome, Failure> {
        Ok(Outcome::completed("x".repeat((64 << 10) + 1)))
    }
    fn long(_: Request) -> Result<Outcome, Failure> {
        Err(Failure::permanent("ä".repeat(8 << 10)))
    }
    for skill in [large, talkative] {
        let run = Host::new().run(skill);
        assert_eq!(run.code(), Some("output_too_large"));
        assert!(run.created().is_empty());
    }
    assert_eq!(Host::new().run(long).failure().message().len(), 8 << 10);
}

#[test]
fn a_log_is_cut_where_the_platform_cuts_it() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        log::info("x".repeat(20 << 10));
        for _ in 0..2_000 {
            log::info("y".repeat(1 << 10));
        }
        Ok(Outcome::completed(""))
    }
    let run = Host::new().run(skill);
    let bytes: usize = run.lines().iter().map(|line| line.message.len()).sum();
    assert_eq!((run.lines()[0].message.len(), bytes), (16 << 10, 256 << 10));
}
