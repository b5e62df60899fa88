//! Whole orders, from the prompt to what comes out, against the fake platform.

use std::time::Duration;

use eve_sdk::deploy::Pod;
use eve_sdk::prelude::*;
use eve_sdk::testing::{
    Changed, Deployment, Environment, Host, Orchestration, Run, Settled, Target,
};
use proptest::prelude::*;

use super::run as worker;

/// An organisation with three environments, in which `api` runs in two and `web` in one.
fn acme() -> Orchestration {
    Orchestration::new(worker)
        .worker_type("deployment")
        .environment("dev")
        .environment("staging")
        .environment("prod")
        .app("fresh")
        .deployment(Deployment::running("dev", "api", "acme/api:v2").after("acme/api:v1"))
        .deployment(Deployment::running("prod", "api", "acme/api:v1").replicas(3))
        .deployment(Deployment::running("dev", "web", "web:v5"))
}

/// The only change that a run asked for.
fn change(run: &Run) -> (&str, &str, &Changed) {
    match run.deployed() {
        [change] => (&change.env, &change.app, &change.what),
        others => panic!("{} changes: {:?}", others.len(), run),
    }
}

/// What is deployed when this is asked for: environment, app, image.
fn deployed(prompt: &str, context: Value) -> (String, String, String) {
    let run = acme().prompt(prompt).context(context).start();
    assert!(run.is_waiting(), "{run:?}");
    match change(&run) {
        (env, app, Changed::Deploy { image, .. }) => (env.into(), app.into(), image.clone()),
        (.., other) => panic!("{other:?}"),
    }
}

/// What a run that changes nothing says.
fn unclear(prompt: &str, context: Value) -> String {
    let run = acme().prompt(prompt).context(context).start();
    assert!(run.deployed().is_empty());
    match run.failure() {
        Failure::Permanent(message) => message.clone(),
        Failure::Retryable(message) => panic!("retryable: {message}"),
    }
}

/// Asks, has it come to run, and returns what comes out.
fn done(prompt: &str, context: Value) -> Run {
    let mut orders = acme().prompt(prompt).context(context);
    let run = orders.start();
    let (.., what) = change(&run);
    let how = match what {
        Changed::Delete => Settled::stopped(),
        _ => Settled::running(),
    };
    let id = run.deployed()[0].id.clone();
    orders.settle(&id, how).wake()
}

#[test]
fn an_app_is_deployed() {
    let mut orders = acme().prompt("Deploy acme/api:v3 to dev with 2 replicas");
    let run = orders.start();
    assert_eq!(run.deadline(), Some(Duration::from_secs(3_600)));
    let (env, app, what) = change(&run);
    assert_eq!((env, app), ("dev", "api"));
    let Changed::Deploy { image, replicas, env_vars, register, settings } = what else { panic!() };
    assert_eq!(
        (image.as_str(), *replicas, env_vars, *register),
        ("acme/api:v3", Some(2), &None, false)
    );
    assert_eq!(*settings, json!({}));
    let id = run.deployed()[0].id.clone();
    let run = orders.settle(&id, Settled::running()).wake();
    assert_eq!(run.summary(), "api v3 runs in dev: 2 of 2 replicas are ready (revision 3)");
    assert_eq!(
        run.output::<Value>(),
        json!({
            "action": "deploy", "env": "dev", "app": "api", "image": "acme/api:v3", "version": "v3",
            "revision": 3, "deployment_id": id, "status": "running",
            "replicas": { "desired": 2, "ready": 2 }
        })
    );
}

#[test]
fn prompt_and_context_are_one_order() {
    let three = |env: &str, app: &str, image: &str| (env.into(), app.into(), image.into());
    for (prompt, context, expected) in [
        // A version of the context goes with the image of the prompt.
        (
            "Deploy api:v9 to dev",
            json!({ "app": "api", "env": "staging", "image": "v1.2.3" }),
            three("staging", "api", "api:v1.2.3"),
        ),
        // The same image as until now, in another version.
        (
            "Deploy to staging environment",
            json!({ "app": "api", "version": "v3" }),
            three("staging", "api", "acme/api:v3"),
        ),
        ("Upgrade web to v6 in dev", json!({}), three("dev", "web", "web:v6")),
        // Never deployed: the image is called as the app is.
        (
            "Deploy to staging environment",
            json!({ "app": "fresh", "version": "v1" }),
            three("staging", "fresh", "fresh:v1"),
        ),
        ("Deploy to prod", json!({ "image": "acme/api:v3" }), three("prod", "api", "acme/api:v3")),
        (
            "",
            json!({ "image": "r.io:5000/x/api:v3", "environment": "dev", "other": [1] }),
            three("dev", "api", "r.io:5000/x/api:v3"),
        ),
        (
            "Go!",
            json!({ "app": "api", "env": "production", "version": "v3" }),
            three("prod", "api", "acme/api:v3"),
        ),
        // The context's action, whatever the prompt says.
        (
            "Do not delete web from staging if it rains",
            json!({ "action": "deploy", "app": "api", "env": "dev", "image": "acme/api:v3" }),
            three("dev", "api", "acme/api:v3"),
        ),
        (
            "deploy api:v9 to dev and to prod",
            json!({ "env": "prod" }),
            three("prod", "api", "api:v9"),
        ),
        (
            &"Lorem ipsum. ".repeat(10_000),
            json!({ "app": "api", "env": "dev", "image": "acme/api:v3" }),
            three("dev", "api", "acme/api:v3"),
        ),
        ("Deploy v3 to api in prod", json!({}), three("prod", "api", "acme/api:v3")),
        (
            "Deploy fresh v1 to dev quickly, the frontend waits",
            json!({}),
            three("dev", "fresh", "fresh:v1"),
        ),
    ] {
        assert_eq!(deployed(prompt, context.clone()), expected, "{prompt} {context}");
    }
    let context = json!({
        "app": "fresh", "env": "dev", "image": "acme/fresh:v1", "register": true, "replicas": 4,
        "env_vars": { "A": "x", "B": 7, "C": true },
        "settings": { "port": 9000, "deadline_s": 120 }
    });
    let run = acme().context(context).start();
    assert_eq!(run.deadline(), Some(Duration::from_secs(3_720)));
    let (.., Changed::Deploy { replicas, env_vars, settings, register, .. }) = change(&run) else {
        panic!()
    };
    assert_eq!((*replicas, *register), (Some(4), true));
    assert_eq!(*settings, json!({ "port": 9000, "deadline_s": 120 }));
    let variables: Vec<(&str, &str)> =
        env_vars.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(variables, [("A", "x"), ("B", "7"), ("C", "true")]);
}

#[test]
fn the_only_thing_that_can_be_meant_is_taken_and_said() {
    let mut only = Orchestration::new(worker)
        .environment("live")
        .deployment(Deployment::running("live", "api", "acme/api:v1"))
        .prompt("Deploy v2");
    let run = only.start();
    let id = run.deployed()[0].id.clone();
    let run = only.settle(&id, Settled::running()).wake();
    assert_eq!(
        run.summary(),
        "api v2 runs in live: 1 of 1 replicas are ready (revision 2); `api` is the only app that is \
         deployed; `live` is the only environment"
    );
    // To take something away is another matter.
    let host = |prompt: &str| {
        Host::new().deployment(Deployment::running("live", "api", "acme/api:v1")).prompt(prompt)
    };
    for prompt in ["Delete from live", "Scale to 3", "Roll back"] {
        let failed = host(prompt).run(worker);
        assert!(failed.failure().message().starts_with("it is not said which app"), "{failed:?}");
    }
}

#[test]
fn scaling_rolling_back_and_deleting() {
    let run = done("Scale api to 5 replicas in prod", json!({}));
    assert_eq!(run.summary(), "api in prod is scaled: 5 of 5 replicas are ready (revision 2)");
    assert_eq!(run.output::<Value>()["replicas"], json!({ "desired": 5, "ready": 5 }));
    assert_eq!(run.output::<Value>()["action"], "scale");

    let run = done("Roll back api in dev", json!({}));
    assert_eq!(run.summary(), "api is back at v1 in dev: 1 of 1 replicas are ready (revision 3)");
    for (prompt, context, target) in [
        ("Roll back api in dev", json!({}), Target::Previous),
        ("Rollback api to v1 in dev", json!({}), Target::Version("v1".into())),
        ("Rollback api in dev", json!({ "version": "v1" }), Target::Version("v1".into())),
        ("Rollback to acme/api:v1 in dev", json!({}), Target::Version("v1".into())),
        ("Rollback api to revision 1 in dev", json!({}), Target::Revision(1)),
        (
            "",
            json!({ "action": "roll_back", "app": "api", "env": "dev", "revision": 1 }),
            Target::Revision(1),
        ),
    ] {
        let run = acme().prompt(prompt).context(context).start();
        assert_eq!(change(&run), ("dev", "api", &Changed::Rollback(target)), "{prompt}");
    }

    let run = done("Delete web from dev", json!({}));
    assert_eq!(run.summary(), "web is gone from dev");
    let data = run.output::<Value>();
    assert_eq!((&data["action"], &data["status"]), (&json!("delete"), &json!("stopped")));
}

#[test]
fn a_failure_says_why_and_what_to_do() {
    for (how, expected) in [
        (
            Settled::failed("image_pull", "acme/api:v3 does not exist"),
            &[
                "api in prod does not run acme/api:v3: image_pull: acme/api:v3 does not exist. See whether",
                "`Roll back api in prod` goes back to it",
            ][..],
        ),
        (Settled::failed("crash_loop", "exit code 1"), &["`eve deploy logs --app api --env prod`"]),
        (Settled::failed("quota", "pods"), &["fewer replicas"]),
        (
            Settled::failed("rejected", "by Ada: not today"),
            &["nothing was changed of api in prod: rejected: by Ada: not today"],
        ),
        (Settled::superseded(), &["api in prod: superseded: something else was asked for"]),
    ] {
        let mut orders = acme().prompt("Deploy acme/api:v3 to prod");
        let id = orders.start().deployed()[0].id.clone();
        let run = orders.settle(&id, how).wake();
        let Failure::Permanent(message) = run.failure() else { panic!("{run:?}") };
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn what_is_unclear_changes_nothing_and_is_explained() {
    for (prompt, context, parts) in [
        (
            "Deploy api-service:v1.2.3",
            json!({}),
            &[
                "it is not said in which environment; there are `dev`, `prod`, `staging`",
                "Understood: deploy, app `api-service`, image `api-service:v1.2.3`",
                "`Deploy api-service:v1.2.3 to dev`",
                r#"{"app":"api-service","env":"dev","image":"api-service:v1.2.3"}"#,
            ][..],
        ),
        ("Deploy api to dev", json!({}), &["it is not said which image of `api`"]),
        ("Deploy acme/api to dev", json!({}), &["which version of `acme/api`"]),
        (
            "Deploy to staging environment",
            json!({}),
            &["it is not said which app", "environment `staging`"],
        ),
        (
            "Deploy api:v1 to produktion",
            json!({}),
            &[
                "there is no environment `produktion`; there are",
                "Understood: deploy, app `api`, image `api:v1`",
            ],
        ),
        ("Deploy api:v1 to prodd and dev", json!({}), &["there is no environment `prodd`"]),
        ("Deploy api:v1 to dev; delete prod", json!({}), &["it asks for `deploy` and `delete`"]),
        ("deploy api:v1 to dev and staging", json!({}), &["two environments, `dev` and `staging`"]),
        ("deploy api:v1 and web:v2 to dev", json!({}), &["two images, `api:v1` and `web:v2`"]),
        ("deploy api:v1 to dev unless prod is down", json!({}), &["`unless`: conditions"]),
        (
            "deploy api:v1 to dev with 10% traffic",
            json!({}),
            &["a share of the traffic is a canary's"],
        ),
        ("Scale api in dev", json!({}), &["how many replicas", "`Scale api to 5 replicas in dev`"]),
        ("Scale api to 5", json!({}), &["in which environment", "replicas `5`"]),
        ("Scale to 5 in dev", json!({}), &["it is not said which app"]),
        ("Scale api and web to 5 in dev", json!({}), &["which app, `api` or `web`"]),
        ("Scale api and wob to 5 in dev", json!({}), &["which app, `api` or `wob`"]),
        ("Scale api to 1001 in dev", json!({}), &["1001 replicas are too many"]),
        ("Rollback api to 3 in dev", json!({}), &["`version 3` or `revision 3`"]),
        ("restart api in dev", json!({}), &["what is to be done", "Understood: environment `dev`"]),
        ("", json!({}), &["what is to be done", "Understood: nothing"]),
        (&"deploy ".repeat(20_000), json!({}), &["longer than 2000 characters"]),
        ("x", json!({ "action": "explode" }), &["`action`: `explode` is none of `deploy`"]),
        ("x", json!({ "app": "No\u{1b}" }), &["`app`: `No\\u{1b}` is no app's name"]),
        ("Deploy api:v1", json!({ "env": " " }), &["`env` is empty"]),
        ("Deploy", json!({ "env": "dev", "image": "a b" }), &["`image`: `a b` is no image"]),
        (
            "Deploy",
            json!({ "image": "a:v1", "version": "v2" }),
            &["the version `v1`, and `version` says `v2`"],
        ),
        ("Deploy", json!({ "strategy": "blue-green" }), &["`strategy`: `blue-green` is none of"]),
        ("Deploy", json!({ "env_vars": { "A": [] } }), &["`env_vars`: `A` must be a text"]),
        (
            "Deploy",
            json!({ "replicas": "five" }),
            &["`replicas` must be a whole number, not negative, not \"five\""],
        ),
        (
            "Deploy",
            json!({ "env": "dev", "image": "acme/My_App:v1" }),
            &["`my_app` is an image's name"],
        ),
        (
            "Deploy canary: api:v2 in prod",
            json!({}),
            &["which share of the traffic", "10% traffic in prod"],
        ),
        ("Deploy canary: api:v2, 0% in prod", json!({}), &["0 % is no share"]),
        (
            "Deploy canary: web:v2, 10% in prod",
            json!({}),
            &["`web` is not deployed there. Deploy it first"],
        ),
        ("Delete thing from dev for web", json!({}), &["which app, `thing` or `web`"]),
        ("Promote api in prod", json!({}), &["is a canary: say so"]),
        ("Abort the rollback of api in prod", json!({}), &["is a canary: say so"]),
        ("Promote canary of api in prod", json!({}), &["there is no canary of `api` in `prod`"]),
        ("Abort canary of api in prod", json!({}), &["there is no canary of `api` in `prod`"]),
        ("Delete ghost from dev", json!({}), &["could not delete, `ghost` in `dev`: not found"]),
        ("Rollback web in dev", json!({}), &["no other version of `web` ever ran in `dev`"]),
        ("Rollback api to v7 in dev", json!({}), &["these did: v2, v1"]),
        ("Deploy new-app:v1 to dev", json!({}), &["`eve app create --name new-app` registers it"]),
    ] {
        let message = unclear(prompt, context);
        let missing: Vec<_> = parts.iter().filter(|part| !message.contains(**part)).collect();
        assert!(missing.is_empty(), "{prompt:.80}: {message}; without {missing:?}");
        assert!(message.len() < 2_000 && !message.contains(char::is_control), "{message}");
    }
}

#[test]
fn where_it_may_not_deploy_it_says_so() {
    let host = || {
        Host::new()
            .worker_type("deployment")
            .environment(Environment::new("prod").closed())
            .environment(Environment::new("old").deleting())
            .app("api")
    };
    let run = host().prompt("Deploy api:v1 to prod").run(worker);
    let message = run.failure().message();
    assert!(message.contains("worker type `deployment` may not deploy to `prod`"), "{message}");
    assert!(message.contains("An admin"), "{message}");
    let run = host().prompt("Deploy api:v1 to old").run(worker);
    assert!(run.failure().message().contains("is being deleted"));
    let nowhere = Host::new().prompt("Deploy api:v1").run(worker);
    assert!(nowhere.failure().message().contains("eve env create"));
}

#[test]
fn approvals_and_environments_that_are_not_ready_are_waited_for() {
    let run = Host::new()
        .environment(Environment::new("prod").approval())
        .app("api")
        .prompt("Deploy api:v1 to prod")
        .run(worker);
    assert!(run.is_waiting());
    assert_eq!(run.deadline(), None);
    assert!(run.lines().iter().any(|line| line.message == "a person is asked first"));
    let run = Host::new()
        .environment(Environment::new("prod").provisioning())
        .app("api")
        .prompt("Deploy api:v1 to prod")
        .run(worker);
    assert!(run.is_waiting());
    assert!(run.lines().iter().any(|line| line.message.contains("is not ready")));
}

#[test]
fn something_else_wakes_it_and_it_waits_on() {
    let host = Host::new()
        .deployment(Deployment::deploying("dev", "api", "acme/api:v3").asked_for())
        .prompt("Deploy acme/api:v3 to dev")
        .trigger(Trigger::Timer("tick".into()));
    let run = host.run(worker);
    assert!(run.is_waiting() && run.deployed().is_empty());
    assert_eq!(run.deadline(), Some(Duration::from_secs(3_600)));
}

#[test]
fn what_cannot_be_read_any_more_is_told_nevertheless() {
    // There is a second environment by the time that it settles.
    let settled = |status: &str, reason: Option<&str>| {
        let settlement = eve_sdk::Settlement {
            deployment_id: "there".into(),
            status: status.into(),
            reason: reason.map(str::to_owned),
        };
        Host::new()
            .environment("other")
            .prompt("Deploy acme/api:v3")
            .trigger(Trigger::DeploymentSettled(settlement))
    };
    let there = |deployment: Deployment| deployment.id("there");
    let running = there(Deployment::running("dev", "api", "acme/api:v3"));
    let run = settled("running", None).deployment(running).run(worker);
    assert_eq!(run.summary(), "api in dev is running");
    let failed = there(Deployment::failed("dev", "api", "acme/api:v3", "quota", "too many pods"));
    let run = settled("failed", Some("quota")).deployment(failed).run(worker);
    assert!(run.failure().message().contains("quota: too many pods"));
    let run = settled("stopped", None).run(worker);
    assert_eq!(run.summary(), "the deployment is stopped");
    let run = settled("failed", Some("superseded")).run(worker);
    assert_eq!(run.failure().message(), "the deployment failed: superseded");
}

#[test]
fn status_answers_at_once() {
    let pod = |ready| Pod {
        name: "api-1".into(),
        status: "ImagePullBackOff".into(),
        ready,
        restarts: 2,
        version: "v3".into(),
    };
    let bad = Deployment::failed("staging", "api", "acme/api:v3", "image_pull", "no such image");
    let organisation = || acme().deployment(bad.clone().pod(pod(false)).ready(0));
    let run = organisation().prompt("Status of api in staging").start();
    assert_eq!(
        run.summary(),
        "api in staging is failed (image_pull: no such image), acme/api:v3: 0 of 1 replicas are ready \
         (revision 1)"
    );
    let data = run.output::<Value>();
    assert_eq!(data["action"], "status");
    assert_eq!(data["status"], "failed");
    assert_eq!(data["pods"][0]["status"], "ImagePullBackOff");

    let run = organisation().prompt("What is running in dev?").start();
    assert_eq!(run.summary(), "api v2 in dev (running), web v5 in dev (running)");
    assert_eq!(run.output::<Value>()["deployments"][1]["app"], "web");

    let run = organisation().prompt("Where stands api? status").start();
    let apps = run.output::<Value>()["deployments"].as_array().map(Vec::len);
    assert_eq!(apps, Some(3));
    let run = organisation().context(json!({ "action": "status" })).start();
    assert!(run.summary().starts_with("api v2 in dev (running), web v5"), "{}", run.summary());

    let run = organisation().prompt("status of web in prod").start();
    let message = run.failure().message();
    assert_eq!(message, "`web` is not deployed in `prod`; deployed there: api");
    let run = Host::new().environment("dev").prompt("What is running in dev?").run(worker);
    assert_eq!(run.summary(), "nothing is deployed in dev");
}

/// An organisation in which a canary of `api` runs in `prod`.
fn with_canary() -> Orchestration {
    let canary = Deployment::running("prod", "api-canary", "acme/api:v2")
        .settings(json!({ "canary": { "of": "api", "percent": 10 } }));
    acme().deployment(canary)
}

#[test]
fn a_canary_is_an_app_of_its_own() {
    let main = Deployment::running("prod", "api", "acme/api:v1").replicas(3).settings(
        json!({ "port": 9000, "hosts": ["api"], "autoscale": { "min": 1, "max": 5 }, "cpu": "1" }),
    );
    let mut orders = acme().deployment(main).prompt("Deploy canary: api:v2, 10% traffic in prod");
    let run = orders.start();
    let (env, app, what) = change(&run);
    assert_eq!((env, app), ("prod", "api-canary"));
    let Changed::Deploy { image, replicas, settings, register, .. } = what else { panic!() };
    assert_eq!((image.as_str(), *replicas, *register), ("api:v2", None, true));
    // The platform has it begin as its app is.
    assert_eq!(*settings, json!({ "canary": { "of": "api", "percent": 10 } }));
    let id = run.deployed()[0].id.clone();
    let run = orders.settle(&id, Settled::running()).wake();
    assert_eq!(
        run.summary(),
        "the canary of api runs v2 in prod and takes 10 % of its traffic: 1 of 1 replicas are ready \
         (revision 1). To go on: `Promote canary of api in prod` deploys api:v2 as api and deletes the \
         canary, `Abort canary of api in prod` deletes it"
    );
    let data = run.output::<Value>();
    assert_eq!(data["action"], "canary");
    assert_eq!(data["app"], "api-canary");
    assert_eq!(data["canary"], json!({ "of": "api", "percent": 10 }));

    // As fields; and in the only environment where its app runs, if none is said.
    for context in [
        json!({ "action": "canary", "app": "web", "version": "v6", "percent": 5, "replicas": 2 }),
        json!({ "app": "web", "image": "web:v6", "canary": { "percent": 5 }, "replicas": 2 }),
        json!({ "app": "web", "image": "web:v6", "strategy": "canary", "percent": 5, "replicas": 2 }),
        json!({ "app": "web", "image": "web:v6", "replicas": 2,
                "strategy": { "type": "canary", "percent": 5 } }),
        json!({ "app": "web", "image": "web:v6", "replicas": 2,
                "strategy": { "canary": { "percent": 5 } } }),
    ] {
        let run = acme().context(context).start();
        let (env, app, what) = change(&run);
        assert_eq!((env, app), ("dev", "web-canary"));
        let Changed::Deploy { image, replicas, settings, .. } = what else { panic!() };
        assert_eq!((image.as_str(), *replicas), ("web:v6", Some(2)));
        assert_eq!(settings["canary"], json!({ "of": "web", "percent": 5 }));
    }
}

#[test]
fn a_canary_gets_another_share() {
    let run = with_canary().prompt("Deploy canary of api, 50% traffic in prod").start();
    let (env, app, what) = change(&run);
    assert_eq!((env, app), ("prod", "api-canary"));
    let Changed::Deploy { image, settings, .. } = what else { panic!() };
    assert_eq!(image, "acme/api:v2");
    assert_eq!(*settings, json!({ "canary": { "of": "api", "percent": 50 } }));
}

#[test]
fn a_canary_needs_an_app_that_runs() {
    let ask = |main: Deployment, context: Value| {
        Host::new()
            .deployment(main)
            .prompt("Deploy canary: acme/api:v2, 10% traffic in prod")
            .context(context)
            .run(worker)
    };
    let bad = Deployment::failed("prod", "api", "acme/api:v1", "crash_loop", "exit code 1");
    let run = ask(bad, json!({}));
    assert!(run.failure().message().contains("it is failed (crash_loop: exit code 1)"), "{run:?}");
    let secretive = Deployment::running("prod", "api", "acme/api:v1").variables(["DATABASE_URL"]);
    assert!(ask(secretive, json!({})).is_waiting(), "the platform gives it what its app has");
    let long = "x".repeat(44);
    let run = Host::new()
        .deployment(Deployment::running("prod", &long, "x:v1"))
        .prompt(format!("Deploy canary: {long}:v2, 10% in prod"))
        .run(worker);
    assert!(run.failure().message().contains("more than 50 letters"), "{run:?}");
}

#[test]
fn a_canary_is_promoted() {
    let mut orders = with_canary().prompt("Promote canary of api in prod");
    let run = orders.start();
    let (env, app, what) = change(&run);
    assert_eq!((env, app), ("prod", "api"));
    assert!(matches!(what, Changed::Deploy { image, .. } if image == "acme/api:v2"));
    let main = run.deployed()[0].id.clone();

    let run = orders.settle(&main, Settled::running()).wake();
    assert!(run.is_waiting());
    assert_eq!(change(&run), ("prod", "api-canary", &Changed::Delete));
    let canary = run.deployed()[0].id.clone();

    let run = orders.settle(&canary, Settled::stopped()).wake();
    assert_eq!(
        run.summary(),
        "the canary is promoted and gone: api v2 runs in prod: 3 of 3 replicas are ready (revision 2)"
    );
    let data = run.output::<Value>();
    assert_eq!((&data["action"], &data["app"]), (&json!("promote"), &json!("api")));
    assert_eq!((&data["status"], &data["deployment_id"]), (&json!("running"), &json!(main)));
}

#[test]
fn a_promotion_that_fails_leaves_the_canary() {
    let mut orders = with_canary().prompt("promote the api canary in prod");
    let main = orders.start().deployed()[0].id.clone();
    let run = orders.settle(&main, Settled::failed("not_ready", "0 of 3")).wake();
    assert!(run.deployed().is_empty());
    let message = run.failure().message();
    assert!(message.starts_with("the canary was not promoted, and is still there: "), "{message}");
    assert!(message.contains("not_ready: 0 of 3"), "{message}");

    let mut orders =
        with_canary().context(json!({ "action": "promote", "app": "api", "env": "prod" }));
    let main = orders.start().deployed()[0].id.clone();
    let canary = orders.settle(&main, Settled::running()).wake().deployed()[0].id.clone();
    let run = orders.settle(&canary, Settled::failed("cluster", "does not answer")).wake();
    let message = run.failure().message();
    assert!(
        message.starts_with("api runs acme/api:v2, but the canary was not deleted"),
        "{message}"
    );
}

#[test]
fn a_canary_is_aborted() {
    for prompt in [
        "Abort canary of api in prod",
        "abort the canary of api in production, please",
        "delete the canary of api in prod",
        "roll back the canary of api in prod",
        "Abort api-canary in prod",
    ] {
        let mut orders = with_canary().prompt(prompt);
        let run = orders.start();
        assert_eq!(change(&run), ("prod", "api-canary", &Changed::Delete), "{prompt}");
        let id = run.deployed()[0].id.clone();
        let run = orders.settle(&id, Settled::stopped()).wake();
        assert_eq!(run.summary(), "the canary of api is gone from prod");
        assert_eq!(run.output::<Value>()["action"], "abort");
    }
}

#[test]
fn a_schedule_asks_as_a_person_does() {
    let mut orders = acme().schedule("nightly").prompt("Scale api to 0 in dev");
    let run = orders.start();
    assert_eq!(change(&run), ("dev", "api", &Changed::Scale(0)));
    let id = run.deployed()[0].id.clone();
    assert!(orders.settle(&id, Settled::running()).wake().summary().contains("0 of 0"));
}

#[test]
fn the_same_order_twice_asks_for_the_same() {
    let mut first = acme().prompt("Deploy acme/api:v3 to dev");
    let mut second = acme().prompt("Deploy acme/api:v3 to dev");
    assert_eq!(first.start().deployed(), second.start().deployed());
}

fn field() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec!["api", "dev", "acme/api:v1", "v2", "canary", "deploy", ""])
            .prop_map(Value::from),
        prop::sample::select(vec![json!(null), json!({}), json!([]), json!({ "percent": 1 })]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in, a run ends by itself: it waits for one change, completes, or fails.
    #[test]
    fn no_order_is_too_odd(
        prompt in any::<String>(),
        context in prop::collection::btree_map(
            prop::sample::select(vec![
                "app", "env", "image", "version", "revision", "replicas", "action", "env_vars",
                "settings", "strategy", "canary", "percent", "register",
            ]),
            field(),
            0..5,
        ),
    ) {
        let run = acme().prompt(prompt).context(context).start();
        prop_assert!(run.deployed().len() <= 1);
        prop_assert_eq!(run.is_waiting(), run.deployed().len() == 1);
    }
}
