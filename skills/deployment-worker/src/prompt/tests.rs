//! Many ways to say it.

use proptest::prelude::*;

use super::{LONGEST, Said, Verb, read};

fn envs() -> Vec<String> {
    ["dev", "prod", "staging"].map(str::to_owned).to_vec()
}

/// What was understood, in a line.
fn brief(said: &Said) -> String {
    let mut brief: Vec<String> = Vec::new();
    let verb = |verb: &Verb| format!("{verb:?}").to_lowercase();
    brief.extend(said.verbs.iter().map(verb));
    brief.extend(said.canary.then(|| "canary".to_owned()));
    let mut list = |name: &str, values: Vec<String>| {
        brief.extend(values.into_iter().map(|value| format!("{name}={value}")));
    };
    let texts = |values: &[String]| values.to_vec();
    list("env", texts(&said.envs));
    list("stray", texts(&said.strays));
    list("app", texts(&said.apps));
    let named = |expected: bool| {
        let some = said.candidates.iter().filter(|one| one.expected == expected);
        some.map(|one| one.name.clone()).collect()
    };
    list("app", named(true));
    list("word", named(false));
    list("image", said.images.iter().map(ToString::to_string).collect());
    list("repository", said.repositories.iter().map(ToString::to_string).collect());
    list("version", texts(&said.versions));
    list("revision", said.revisions.iter().map(ToString::to_string).collect());
    list("replicas", said.replicas.iter().map(ToString::to_string).collect());
    list("percent", said.percents.iter().map(ToString::to_string).collect());
    brief.extend((!said.doubts.is_empty()).then(|| "doubt".to_owned()));
    brief.join(" ")
}

/// Prompts, and what is understood of them where there are `dev`, `staging` and `prod`.
const TABLE: &[(&str, &str)] = &[
    // As they stand in the handbook.
    ("Deploy api-service:v1.2.3 to dev", "deploy env=dev image=api-service:v1.2.3"),
    ("Deploy to staging environment", "deploy env=staging"),
    ("Deploy to dev environment", "deploy env=dev"),
    (
        "Deploy canary: api-service:v1.2.3, 10% traffic",
        "deploy canary image=api-service:v1.2.3 percent=10",
    ),
    ("Scale api-service to 5 replicas in prod", "scale env=prod app=api-service replicas=5"),
    ("scale api-service in dev to 5", "scale env=dev app=api-service replicas=5"),
    ("Roll back api-service in prod", "rollback env=prod app=api-service"),
    ("Rollback api-service to v1.2.2 in prod", "rollback env=prod app=api-service version=v1.2.2"),
    ("Status of api-service in dev", "status env=dev app=api-service"),
    ("What is running in dev?", "status env=dev"),
    ("Delete api-service from dev", "delete env=dev app=api-service"),
    ("Undeploy api-service from prod", "delete env=prod app=api-service"),
    ("Promote canary of api-service in prod", "promote canary env=prod app=api-service"),
    ("Abort canary of api-service in prod", "abort canary env=prod app=api-service"),
    // Deploying.
    ("deploy acme/api:v1 to prod", "deploy env=prod image=acme/api:v1"),
    (
        "Please deploy \"registry.example.com:5000/acme/api:v1.2.3\" to the production environment.",
        "deploy env=prod image=registry.example.com:5000/acme/api:v1.2.3",
    ),
    ("DEPLOY API-SERVICE:v1.2.3 TO DEV!!!", "deploy env=dev image=api-service:v1.2.3"),
    ("Hey, could you please ship `web:v7` to staging, thanks", "deploy env=staging image=web:v7"),
    ("Roll out web:v7 in dev with 3 replicas", "deploy env=dev image=web:v7 replicas=3"),
    ("Rollout web:v7 on dev", "deploy env=dev image=web:v7"),
    ("Upgrade api-service to v1.2.4 in prod", "deploy env=prod app=api-service version=v1.2.4"),
    ("Update the app api to version main in dev", "deploy env=dev app=api version=main"),
    ("deploy version 2.0 of web into dev", "deploy env=dev app=web version=2.0"),
    ("Deploy acme/web v1.2 to dev", "deploy env=dev repository=acme/web version=v1.2"),
    ("deploy web:v1 → staging", "deploy env=staging image=web:v1"),
    ("deploy web:v1 -> staging", "deploy env=staging image=web:v1"),
    (
        "deploy --app api --env dev --image acme/api:v1 --replicas 2",
        "deploy env=dev app=api image=acme/api:v1 replicas=2",
    ),
    (
        "deploy app=api env=dev image=acme/api:v1 replicas=2",
        "deploy env=dev app=api image=acme/api:v1 replicas=2",
    ),
    ("Deploy app: api, env: dev, version: v3", "deploy env=dev app=api version=v3"),
    ("deploy service:v1 to dev", "deploy env=dev image=service:v1"),
    ("I want to deploy “api:v1” to ‘dev’ now", "deploy env=dev image=api:v1"),
    ("Deploy **api:v1** to _dev_", "deploy env=dev image=api:v1"),
    ("deploy api:v1 staging environment", "deploy env=staging image=api:v1"),
    ("deploy api:v1 in the environment staging", "deploy env=staging image=api:v1"),
    ("Deploy the api-service app to dev", "deploy env=dev app=api-service"),
    ("Deploy image v1.2.3 of api to dev", "deploy env=dev app=api version=v1.2.3"),
    ("do the deploy of api:v1 to dev", "deploy env=dev image=api:v1"),
    (
        "Deploy v1.2.3 to api-service in prod",
        "deploy env=prod stray=api-service word=api-service version=v1.2.3",
    ),
    ("deploy api:v1 to dev to fix the login", "deploy env=dev word=fix word=login image=api:v1"),
    // Scaling.
    ("Scale up api-service to eight replicas in prod", "scale env=prod app=api-service replicas=8"),
    ("scale api down to zero in dev", "scale env=dev app=api replicas=0"),
    ("Set replicas of api-service to 5 in prod", "scale env=prod app=api-service replicas=5"),
    ("set replicas to 5 for api-service in prod", "scale env=prod app=api-service replicas=5"),
    ("scale api back to 2 in dev", "scale env=dev app=api replicas=2"),
    ("increase web to 4 pods in staging", "scale env=staging word=web replicas=4"),
    ("Scale the canary of api to 3 in prod", "scale canary env=prod app=api replicas=3"),
    ("scale api by 2 in dev", "scale env=dev app=api doubt"),
    ("scale api to 2 more replicas in dev", "scale env=dev app=api doubt"),
    ("scale api to -5 in dev", "scale env=dev app=api doubt"),
    ("scale api by 50% in dev", "scale env=dev app=api percent=50 doubt"),
    ("scale api to 5 or 6 in dev", "scale env=dev app=api replicas=5 replicas=6"),
    ("scale api and web to 5 in dev", "scale env=dev app=api app=web replicas=5"),
    ("scale everything to 0 in prod", "scale env=prod replicas=0 doubt"),
    (
        "scale api to 99999999999999999999999 in dev",
        "scale env=dev app=api replicas=18446744073709551615",
    ),
    ("lower the replicas of web to 1 in dev", "scale env=dev app=web replicas=1"),
    ("check 3 replicas of api in prod", "status env=prod app=api replicas=3"),
    ("3 replicas of api in prod", "env=prod app=api replicas=3"),
    ("how many replicas has api in prod?", "status env=prod word=api"),
    // Going back.
    ("roll api-service back to v1.2.2 in prod", "rollback env=prod app=api-service version=v1.2.2"),
    ("Roll-back api in dev to the previous version", "rollback env=dev app=api"),
    ("revert api in dev", "rollback env=dev app=api"),
    ("undo the last deploy of api in dev", "rollback env=dev app=api"),
    ("rollback api in prod to revision 3", "rollback env=prod app=api revision=3"),
    ("rollback api in prod to revision #3", "rollback env=prod app=api revision=3"),
    ("rollback to api-service:v1.2.2 in prod", "rollback env=prod image=api-service:v1.2.2"),
    ("go back to v1.2.2 of api in prod", "rollback env=prod app=api version=v1.2.2"),
    ("rollback api to 3 in prod", "rollback env=prod app=api doubt"),
    ("roll back the canary of api in prod", "rollback canary env=prod app=api"),
    // Looking.
    ("status", "status"),
    ("how is api doing in prod?", "status env=prod app=api word=doing"),
    ("what's deployed in staging", "status env=staging"),
    ("Is api-service running in development?", "status env=dev app=api-service"),
    ("Which version of api is in prod?", "status env=prod app=api"),
    ("list deployments", "status"),
    ("is the rollback of api in prod done?", "status env=prod app=api word=done"),
    ("Was api-service deployed to prod?", "status env=prod word=api-service"),
    ("Why did the deploy of api:v1 to prod fail?", "status env=prod word=fail image=api:v1"),
    ("Please, how do I delete api in prod?", "status env=prod app=api"),
    ("We should roll back api in prod", "rollback env=prod app=api"),
    ("Should we roll back api in prod?", "status env=prod app=api"),
    ("What happens when I delete api in prod?", "status env=prod app=happens app=api doubt"),
    // Deleting.
    ("Remove web from staging please", "delete env=staging app=web"),
    ("take down web in staging", "delete env=staging app=web"),
    ("destroy web on prod", "delete env=prod app=web"),
    ("delete the canary of web in prod", "delete canary env=prod app=web"),
    // Spoken of, not asked for.
    ("stop the rollout of api:v2 in prod", "env=prod image=api:v2 doubt"),
    ("cancel the deploy of api:v2 in prod", "env=prod image=api:v2 doubt"),
    ("the deploy of api:v1 to prod failed", "env=prod word=failed image=api:v1"),
    ("we saw that rollback of api in prod", "env=prod app=api word=saw"),
    ("do a rollback of api in prod", "rollback env=prod app=api"),
    ("Rollback of api in prod", "rollback env=prod app=api"),
    (
        "start a canary of api:v2 with 10 percent of traffic in prod",
        "deploy canary env=prod image=api:v2 percent=10",
    ),
    // What has two meanings, or more.
    ("Deploy api:v1 to dev, then delete the canary", "deploy delete canary env=dev image=api:v1"),
    ("Delete api in dev, not in prod", "delete env=dev env=prod app=api doubt"),
    ("Deploy api:v1 from staging to prod", "deploy env=staging env=prod image=api:v1"),
    ("Scale api from 3 to 5 in prod", "scale env=prod app=api replicas=5"),
    ("Scale api to 5 in prod in 10 minutes", "scale env=prod app=api replicas=5 replicas=10 doubt"),
    ("Deploy api:v1 to dev with port 9000", "deploy env=dev image=api:v1 doubt"),
    (
        "Scale api to 5 replicas and web to 3 replicas in prod",
        "scale env=prod app=api word=web replicas=5 replicas=3",
    ),
    ("Delete the dev environment", "delete env=dev"),
    ("Deploy api:v1 to dev; delete prod", "deploy delete env=dev env=prod image=api:v1"),
    ("deploy api:v1 to dev and staging", "deploy env=dev env=staging image=api:v1"),
    ("deploy api:v1 and web:v2 to dev", "deploy env=dev image=api:v1 image=web:v2"),
    ("deploy api:v1 to dev && rm -rf /", "deploy env=dev word=rm image=api:v1"),
    ("deploy api:v1 to prodd and dev", "deploy env=dev stray=prodd word=prodd image=api:v1"),
    ("deploy api:v1 to prodd", "deploy env=prodd image=api:v1"),
    ("do not deploy api:v1 to dev", "deploy env=dev image=api:v1 doubt"),
    ("don't deploy api:v1 to dev", "deploy env=dev image=api:v1 doubt"),
    (
        "deploy api:v1 to dev if the tests pass",
        "deploy env=dev word=tests word=pass image=api:v1 doubt",
    ),
    ("deploy api:v1 to dev tomorrow at 10:30", "deploy env=dev image=api:v1 doubt"),
    ("Deploy api:v1 to every environment", "deploy image=api:v1 doubt"),
    // What says nothing.
    ("", ""),
    ("   \t\r\n", ""),
    ("hello", ""),
    ("Make it so", ""),
    ("restart api in dev", "env=dev word=restart word=api"),
    ("--", ""),
    ("--- -- - ;;; ,,, ... :: ==", ""),
    ("deploy", "deploy"),
    ("deploy deploy deploy", "deploy"),
    ("https://github.com/acme/api", ""),
    // Odd letters.
    ("deploy\u{0}api:v1\u{7}to\u{1b}dev", "deploy env=dev image=api:v1"),
    ("de\u{200b}ploy api:v1 to dev", "env=dev word=de word=ploy image=api:v1"),
    ("\u{202e}deploy api:v1 to dev", "deploy env=dev image=api:v1"),
    ("deploy аpi:v1 to dev", "deploy env=dev"),
    ("deploy api:v１ to dev", "deploy env=dev"),
    ("デプロイ api:v1 to dev 🚀", "env=dev image=api:v1"),
    ("deploy api:v1 to dév", "deploy image=api:v1"),
    ("deploy ../../etc/passwd to dev", "deploy env=dev"),
    ("deploy $(reboot):v1 to dev", "deploy env=dev word=reboot"),
];

#[test]
fn prompts_are_understood() {
    assert!(TABLE.len() >= 60);
    let wrong: Vec<String> = TABLE
        .iter()
        .filter_map(|(prompt, expected)| {
            let found = brief(&read(prompt, &envs()));
            (found != *expected).then(|| format!("{prompt:?}: {found:?}, not {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_too_long_is_not_read() {
    let long = format!("deploy api:v1 to dev {}", "x ".repeat(50_000));
    assert_eq!(read(&long, &envs()), Said { too_long: true, ..Said::default() });
    let most = format!("deploy api:v1 to dev{}", " ".repeat(LONGEST - 20));
    assert_eq!(brief(&read(&most, &envs())), "deploy env=dev image=api:v1");
    // Many candidates, and not for long.
    let many: String = (0..400).map(|n| format!("a{n} ")).collect();
    assert_eq!(read(&many, &envs()).candidates.len(), 400);
}

#[test]
fn environments_have_common_names() {
    let found = |word: &str, envs: &[&str]| {
        let envs: Vec<String> = envs.iter().map(|env| (*env).to_owned()).collect();
        super::environment(word, &envs)
    };
    assert_eq!(found("production", &["dev", "prod"]).as_deref(), Some("prod"));
    assert_eq!(found("prod", &["dev", "production"]).as_deref(), Some("production"));
    assert_eq!(found("prod", &["prod", "production"]).as_deref(), Some("prod"));
    // Which of the two is meant, nobody knows.
    assert_eq!(found("prd", &["prod", "production"]), None);
    assert_eq!(found("prod", &["dev"]), None);
}

/// Words that mean something, in any order, with anything between.
fn sentence() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "deploy",
        "scale",
        "roll",
        "back",
        "rollback",
        "delete",
        "promote",
        "abort",
        "status",
        "canary",
        "to",
        "in",
        "of",
        "and",
        ",",
        ";",
        "by",
        "env",
        "app",
        "image",
        "version",
        "revision",
        "replicas",
        "dev",
        "staging",
        "environment",
        "api",
        "web",
        "api:v1",
        "acme/api",
        "v1.2.3",
        "5",
        "-1",
        "10%",
        "percent",
        "not",
        "all",
        "the",
        "app:",
        "env=",
        "=dev",
        "'",
        "\"",
        "#3",
        "zero",
        "take",
        "down",
    ]);
    let word = prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn anything_can_be_read(prompt in any::<String>()) {
        read(&prompt, &envs());
        read(&prompt, &[]);
    }

    #[test]
    fn any_sentence_can_be_read(prompt in sentence()) {
        let said = read(&prompt, &envs());
        // What is found stands there, and nothing is found twice.
        let lower = prompt.to_lowercase().replace(['\'', '’'], "");
        for candidate in &said.candidates {
            prop_assert!(lower.contains(&candidate.name));
        }
        for env in &said.envs {
            prop_assert!(envs().contains(env) || lower.contains(env.as_str()));
        }
        let mut envs = said.envs.clone();
        envs.sort();
        envs.dedup();
        prop_assert_eq!(envs.len(), said.envs.len());
    }

    /// Case, quotes, courtesy and punctuation change nothing.
    #[test]
    fn manners_change_nothing(place in 0..TABLE.len()) {
        let (prompt, expected) = TABLE[place];
        let kind = format!("  Please, {prompt} , thanks!\n");
        prop_assert_eq!(brief(&read(&kind, &envs())), expected);
    }
}
