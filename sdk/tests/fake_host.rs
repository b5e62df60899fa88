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
        (json!([1]), "invalid: context: is not a JSON object"),
        (json!({ "a": ["\0"] }), "invalid: context: holds the character U+0000"),
        (json!({ "a": "x".repeat(1 << 20) }), "invalid: context: exceeds 1048576 bytes"),
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
        assert!(matches!(queue::get(&"nobody".into()), Err(Error::NotFound(_))));
        Ok(Outcome::completed(format!("{} older", older.len())))
    }
    let run = Host::new().other(Other::pending()).child(Other::cancelled()).run(skill);
    assert_eq!(run.summary(), "2 older");
    assert_eq!(run.cancelled().len(), 1);
}
