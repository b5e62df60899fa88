//! Deployments of the fake host: what runs see, what becomes of what they ask for, who is woken.

use std::time::Duration;

use eve_sdk::deploy::{Pod, State};
use eve_sdk::prelude::*;
use eve_sdk::testing::{
    Changed, Deployment, Environment, Host, Orchestration, Run, Settled, Target,
};

/// `api` in `dev`, which runs the second image, and three replicas of it.
fn api() -> Deployment {
    Deployment::running("dev", "api", "acme/api:v2").after("acme/api:v1").replicas(3)
}

fn ran(skill: fn(Request) -> Result<Outcome, Failure>) -> Run {
    let run = Host::new().deployment(api()).app("web").run(skill);
    if let Some(code) = run.code() {
        panic!("{code}: {}", run.failure());
    }
    run
}

#[test]
fn a_builder_sets_what_its_methods_say() {
    let run = ran(|_| {
        deploy::app("web")
            .env("dev")
            .image("acme/web:v1")
            .register()
            .replicas(0)
            .env_var("A", "1")
            .env_vars([("B", "2"), ("A", "3")])
            .settings(&json!({ "port": 1, "cpu": "1" }))
            .port(2)
            .health_path("/healthz")
            .cpu("250m")
            .memory("1Gi")
            .command(["/app", "--flag"])
            .autoscale(1, 5)
            .run_as_user(7)
            .deadline(Duration::from_millis(5_001))
            .canary_of("api", 10)
            .create()?;
        deploy::app("web").env("dev").image("acme/web:v2").create()?;
        deploy::app("web")
            .env("dev")
            .image("acme/web:v2")
            .env_vars::<String, String>([])
            .create()?;
        Ok(Outcome::waiting())
    });
    let [first, second, third] = run.deployed() else { panic!("{run:?}") };
    let variables = [("A", "3"), ("B", "2")];
    assert_eq!(
        first.what,
        Changed::Deploy {
            image: "acme/web:v1".into(),
            replicas: Some(0),
            env_vars: Some(variables.map(|(name, value)| (name.into(), value.into())).into()),
            settings: json!({
                "port": 2, "health_path": "/healthz", "cpu": "250m", "memory": "1Gi",
                "command": ["/app", "--flag"], "autoscale": { "min": 1, "max": 5 },
                "run_as_user": 7, "deadline_s": 6, "canary": { "of": "api", "percent": 10 }
            }),
            register: true,
        }
    );
    let bare = |env_vars: Option<_>| Changed::Deploy {
        image: "acme/web:v2".into(),
        replicas: None,
        env_vars,
        settings: json!({}),
        register: false,
    };
    assert_eq!((&second.what, &third.what), (&bare(None), &bare(Some(Default::default()))));
}

#[test]
fn a_builders_mistakes_are_reported_at_its_end() {
    let run = ran(|_| {
        let new = || deploy::app("api").env("dev").image("acme/api:v3");
        let odd = std::collections::BTreeMap::from([((), 1)]);
        let mistakes = [
            new().settings(&[1]).create(),
            new().settings(&odd).settings(&[1]).create(),
            deploy::app("api").env("dev").create(),
            deploy::app("api").image("acme/api:v3").create(),
        ];
        let said = mistakes.map(|mistake| mistake.map(drop).unwrap_err().to_string());
        Ok(Outcome::completed("").data(&said))
    });
    let said: Vec<String> = run.output();
    assert_eq!(said[0], "invalid: settings: must be a JSON object");
    assert!(said[1].starts_with("invalid: settings: cannot be written as JSON: "), "{}", said[1]);
    assert_eq!(said[2], "invalid: image: must not be empty");
    assert_eq!(said[3], "not found: there is no environment ``");
    assert!(run.deployed().is_empty());
}

#[test]
fn a_run_sees_what_is_deployed() {
    fn skill(_: Request) -> Result<Outcome, Failure> {
        let api = deploy::status("dev", "api")?;
        assert_eq!((api.app.as_str(), api.env.as_str(), api.state), ("api", "dev", State::Running));
        assert_eq!((api.image.as_str(), api.version.as_str()), ("acme/api:v2", "v2"));
        assert_eq!((api.revision, api.replicas.desired, api.replicas.ready), (2, 3, 3));
        assert!(api.is_running() && api.state.is_settled());
        assert_eq!(api.variables()?, ["TOKEN"]);
        assert_eq!(api.config::<Value>()?["port"], 9_000);
        let pods: Vec<&str> = api.pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(pods, ["bad", "good"]);

        let all = deploy::list()?;
        let names: Vec<_> = all.iter().map(|one| (one.env.as_str(), one.app.as_str())).collect();
        assert_eq!(names, [("dev", "api"), ("prod", "api")]);
        assert!(all.iter().all(|one| one.pods.is_empty()));
        assert_eq!(deploy::list_in("prod")?.len(), 1);
        assert_eq!(deploy::status("dev", "old")?.state, State::Stopped);
        let failed = deploy::status("prod", "api")?;
        assert_eq!(failed.reason.as_deref(), Some("crash_loop"));
        assert_eq!((failed.state.as_str(), failed.replicas.ready), ("failed", 1));

        let history = deploy::history("dev", "api", 100)?;
        let told: Vec<_> = history
            .iter()
            .map(|one| (one.revision, one.kind.as_str(), one.outcome.as_deref()))
            .collect();
        assert_eq!(told, [(2, "updated", Some("running")), (1, "created", Some("running"))]);
        assert_eq!(deploy::history("dev", "api", 1)?, history[..1]);

        let envs = deploy::environments()?;
        let told: Vec<_> = envs
            .iter()
            .map(|env| (env.name.as_str(), env.is_ready(), env.allowed, env.approval))
            .collect();
        assert_eq!(
            told,
            [
                ("dev", true, true, false),
                ("new", false, true, false),
                ("prod", true, true, true),
                ("sealed", true, false, false),
            ]
        );
        Ok(Outcome::completed("looked"))
    }
    let pod = |name: &str, ready| Pod {
        name: name.into(),
        status: "Running".into(),
        ready,
        restarts: 0,
        version: "v2".into(),
    };
    let api = api()
        .settings(json!({ "port": 9_000 }))
        .variables(["TOKEN"])
        .pod(pod("good", true))
        .pod(pod("bad", false));
    let run = Host::new()
        .environment(Environment::new("prod").approval())
        .environment(Environment::new("new").provisioning())
        .environment(Environment::new("sealed").closed())
        .deployment(api)
        .deployment(Deployment::stopped("dev", "old", "old:v1"))
        .deployment(
            Deployment::failed("prod", "api", "acme/api:v1", "crash_loop", "exit code 1").ready(1),
        )
        .run(skill);
    assert_eq!(run.summary(), "looked");
}

#[test]
fn a_run_sees_what_it_asks_for_as_pending() {
    ran(|_| {
        let id = deploy::scale("dev", "api", 7)?;
        let api = deploy::status("dev", "api")?;
        assert_eq!(
            (api.id, api.state, api.revision, api.replicas.desired),
            (id, State::Pending, 2, 7)
        );
        let id = deploy::app("web").env("dev").image("acme/web:v1").create()?;
        let web = deploy::status("dev", "web")?;
        assert_eq!(
            (web.id, web.state, web.revision, web.version.as_str()),
            (id, State::Pending, 0, "v1")
        );
        assert!(deploy::history("dev", "web", 5)?.is_empty());
        deploy::delete("dev", "api")?;
        let api = deploy::status("dev", "api")?;
        assert_eq!((api.state, api.reason.as_deref()), (State::Pending, Some("stopping")));
        assert_eq!(deploy::list()?.len(), 2);
        Ok(Outcome::completed(""))
    });
}

#[test]
fn what_is_not_said_stays_as_it_is() {
    let main = api()
        .variables(["TOKEN"])
        .settings(json!({ "port": 1, "command": ["x"], "autoscale": { "min": 2, "max": 4 } }));
    let run = Host::new().deployment(main).run(|_| {
        let new = || deploy::app("api").env("dev").image("acme/api:v3");
        new().settings(&json!({ "cpu": "1" })).create()?;
        let api = deploy::status("dev", "api")?;
        assert_eq!(api.replicas.desired, 3);
        assert_eq!(
            api.config::<Value>()?,
            json!({ "port": 1, "cpu": "1", "command": ["x"], "autoscale": { "min": 2, "max": 4 },
                    "variables": ["TOKEN"] })
        );
        // Whoever says how many replicas there shall be does not want the load to say so.
        new().replicas(9).env_var("LOG", "debug").create()?;
        let api = deploy::status("dev", "api")?;
        assert_eq!((api.replicas.desired, api.variables()?), (9, vec!["LOG".to_owned()]));
        assert!(api.config::<Value>()?.get("autoscale").is_none());
        // What was deleted is no reason to be so again.
        deploy::delete("dev", "api")?;
        new().create()?;
        let api = deploy::status("dev", "api")?;
        assert_eq!((api.replicas.desired, api.config::<Value>()?), (1, json!({ "variables": [] })));
        Ok(Outcome::completed("ok"))
    });
    assert_eq!(run.summary(), "ok");
}

#[test]
fn clusters_are_asked() {
    let run = Host::new()
        .environment(Environment::new("sealed").closed())
        .deployment(api().log("a", "1").log("b", "2").log("a", "3").log("a", "4"))
        .kubernetes(|env, path| match path {
            "api/v1/pods" => Ok(json!({ "env": env })),
            _ => Err(Error::Denied("a viewer may not read that".into())),
        })
        .run(|_| {
            let lines = deploy::logs("dev", "api", 2)?;
            let lines: Vec<_> =
                lines.iter().map(|line| (line.pod.as_str(), line.line.as_str())).collect();
            assert_eq!(lines, [("b", "2"), ("a", "3"), ("a", "4")]);
            assert_eq!(deploy::kubernetes("dev", "api/v1/pods")?, json!({ "env": "dev" }));
            let said = |said: Result<Value, Error>| said.unwrap_err().to_string();
            let long = format!("api/v1/{}", "x".repeat(4 << 10));
            let told = [
                said(deploy::logs("dev", "api", 0).map(|_| json!(0))),
                said(deploy::logs("dev", "api", 1_001).map(|_| json!(0))),
                said(deploy::logs("dev", "web", 1).map(|_| json!(0))),
                said(deploy::logs("sealed", "api", 1).map(|_| json!(0))),
                said(deploy::kubernetes("moon", "api/v1/pods")),
                said(deploy::kubernetes("dev", "api/v1/secrets")),
                said(deploy::kubernetes("dev", "pods")),
                said(deploy::kubernetes("dev", "api/v1/namespaces/kube-system/pods")),
                said(deploy::kubernetes("dev", long)),
            ];
            Ok(Outcome::completed("").data(&told))
        });
    let told: Vec<String> = run.output();
    for (told, begins) in told.iter().zip([
        "invalid: tail: 0 is not between 1 and 1000",
        "invalid: tail: 1001 is not between 1 and 1000",
        "not found: there is no deployment `web in dev`",
        "denied: skills of the worker type `general` may not deploy to `sealed`",
        "not found: there is no environment `moon`",
        "denied: a viewer may not read that",
        "invalid: path: begins with neither api/v1/",
        "invalid: path: names nothing in the namespace",
        "invalid: path: at most 4096 bytes",
    ]) {
        assert!(told.starts_with(begins), "{told}");
    }
}

#[test]
fn a_wake_up_says_where_and_why() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        if request.trigger() == Trigger::Initial {
            deploy::scale("dev", "api", 5)?;
            return Ok(Outcome::waiting());
        }
        Ok(Outcome::completed("").data(&request.raw_context::<Value>()?))
    }
    let mut scaling = Orchestration::new(skill).deployment(api());
    let id = scaling.start().deployed()[0].id.clone();
    let run = scaling.settle(&id, Settled::failed("quota", "too many pods")).wake();
    let told: Value = run.output();
    assert_eq!(
        told,
        json!({
            "trigger": "deployment_settled", "deployment_id": id, "status": "failed",
            "reason": "quota", "message": "too many pods", "env": "dev", "app": "api", "revision": 3,
            "parent_request_id": scaling.id(), "parent_context": {}, "additional_completions": []
        })
    );
}

#[test]
fn a_failed_run_asks_for_nothing() {
    let run = Host::new().deployment(api()).run(|_| {
        deploy::scale("dev", "api", 1)?;
        Err(Failure::permanent("no"))
    });
    assert!(run.deployed().is_empty());
    // The next attempt sees what was there before, and gets the same id.
    let mut scaling = Orchestration::new(|request| {
        assert_eq!(deploy::status("dev", "api")?.replicas.desired, 3);
        deploy::scale("dev", "api", 5)?;
        match request.attempt() {
            1 => Err(Failure::retryable("later")),
            _ => Ok(Outcome::waiting()),
        }
    })
    .deployment(api());
    assert!(scaling.start().deployed().is_empty());
    assert!(scaling.unsettled().is_empty());
    let run = scaling.start();
    assert_eq!(run.deployed()[0].what, Changed::Scale(5));
    assert_eq!(scaling.unsettled(), [run.deployed()[0].id.clone()]);
}

/// Scales, and says how it settled.
fn scaler(request: Request) -> Result<Outcome, Failure> {
    if request.trigger() == Trigger::Initial {
        deploy::scale("dev", "api", 5)?;
        return Ok(Outcome::waiting());
    }
    let settled = request.triggers().into_iter().find_map(|trigger| match trigger {
        Trigger::DeploymentSettled(settled) => Some(settled),
        _ => None,
    });
    let Some(settled) = settled else { return Ok(Outcome::waiting()) };
    let api = deploy::status("dev", "api")?;
    assert_eq!(settled.id(), api.id);
    let told = (settled.is_running(), settled.is_failed(), settled.is_superseded());
    let data = (settled.status, settled.reason, told, api.state, api.message, api.replicas.ready);
    Ok(Outcome::completed("settled").data(&data))
}

#[test]
fn settling_wakes_whoever_asked() {
    for (how, expected) in [
        (Settled::running(), json!(["running", null, [true, false, false], "running", null, 5])),
        (
            Settled::failed("quota", "too many pods"),
            json!(["failed", "quota", [false, true, false], "failed", "too many pods", 3]),
        ),
        (
            Settled::superseded(),
            json!(["failed", "superseded", [false, true, true], "deploying", null, 3]),
        ),
    ] {
        let mut scaling = Orchestration::new(scaler).deployment(api());
        let id = scaling.start().deployed()[0].id.clone();
        let run = scaling.settle(&id, how).wake();
        assert_eq!(run.output::<Value>(), expected);
        assert!(scaling.unsettled().is_empty());
    }
}

#[test]
fn waiting_for_nothing_fails_and_for_a_deployment_does_not() {
    fn waits(_: Request) -> Result<Outcome, Failure> {
        Ok(Outcome::waiting())
    }
    let host = || Host::new().deployment(Deployment::deploying("dev", "web", "web:v1"));
    assert_eq!(host().run(waits).code(), Some("nothing_to_wait_for"));
    let asked = Deployment::deploying("dev", "api", "acme/api:v2").asked_for();
    assert!(host().deployment(asked.clone()).run(waits).is_waiting());
    let mut waiting = Orchestration::new(waits).deployment(asked.id("mine"));
    assert!(waiting.start().is_waiting());
    // It has settled, and nothing else is to come.
    let run = waiting.settle(&"mine".into(), Settled::running()).wake();
    assert_eq!(run.code(), Some("nothing_to_wait_for"));
    assert_eq!(waiting.status(), Status::Failed);
}

#[test]
fn another_change_supersedes_what_somebody_waits_for() {
    fn boss(request: Request) -> Result<Outcome, Failure> {
        match request.trigger() {
            Trigger::Initial => {
                queue::request("deployment").skill("scaler").reply_to_me().create()?;
                Ok(Outcome::waiting())
            }
            Trigger::ChildComplete(_) => {
                let child = queue::children()?.remove(0);
                Ok(Outcome::completed("told").data(&child.output::<Value>()?))
            }
            _ => {
                deploy::rollback("dev", "api").to_previous()?;
                Ok(Outcome::waiting())
            }
        }
    }
    let asked = Deployment::deploying("dev", "web", "web:v1").id("web").asked_for();
    let mut orchestration =
        Orchestration::new(boss).skill("scaler", scaler).deployment(api()).deployment(asked);
    orchestration.start();
    assert!(orchestration.run_child().is_some_and(|run| run.is_waiting()));
    let run = orchestration.settle(&"web".into(), Settled::running()).wake();
    assert_eq!(run.deployed()[0].what, Changed::Rollback(Target::Previous));
    // The child hears that its change will never be.
    orchestration.run_children();
    let run = orchestration.wake();
    assert_eq!(run.output::<Value>()[1], "superseded");
}

#[test]
fn an_end_takes_the_waiting_with_it() {
    let mut scaling = Orchestration::new(scaler).deployment(api());
    scaling.start();
    scaling.wait_out();
    assert!(scaling.unsettled().is_empty());
    assert_eq!(scaling.status(), Status::Failed);
}

#[test]
fn what_was_deleted_settles_as_stopped() {
    fn skill(request: Request) -> Result<Outcome, Failure> {
        if let Trigger::DeploymentSettled(settled) = request.trigger() {
            assert!(settled.is_stopped() && deploy::list()?.is_empty());
            return Ok(Outcome::completed(deploy::status("dev", "api")?.state.to_string()));
        }
        deploy::delete("dev", "api")?;
        Ok(Outcome::waiting())
    }
    let mut deleting = Orchestration::new(skill).deployment(api());
    let id = deleting.start().deployed()[0].id.clone();
    assert_eq!(deleting.settle(&id, Settled::stopped()).wake().summary(), "stopped");
}

#[test]
#[should_panic(expected = "is being deleted")]
fn what_is_being_deleted_does_not_come_to_run() {
    let mut deleting = Orchestration::new(|_| {
        deploy::delete("dev", "api")?;
        Ok(Outcome::waiting())
    })
    .deployment(api());
    let id = deleting.start().deployed()[0].id.clone();
    deleting.settle(&id, Settled::running());
}

#[test]
#[should_panic(expected = "nothing is under way of `api` in `dev`: it is running")]
fn what_stands_does_not_settle() {
    let mut orchestration =
        Orchestration::new(|_| Ok(Outcome::completed(""))).deployment(api().id("api"));
    orchestration.settle(&"api".into(), Settled::running());
}

#[test]
#[should_panic(expected = "`Dev` is no environment's name")]
fn no_environment_is_called_so() {
    drop(Host::new().environment("Dev"));
}
