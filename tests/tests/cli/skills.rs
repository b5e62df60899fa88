//! Skills: pushed, listed, activated, deleted.

use std::path::Path;

use eve_tests::{Shared, skill};
use serde_json::{Value, json};

/// A folder with a component of another skill, and a SKILL.md of its own.
fn folder(at: &Path, component: &str, version: &str) -> anyhow::Result<String> {
    let folder = at.join(format!("greeter-{version}"));
    std::fs::create_dir_all(&folder)?;
    let from = skill(component)?.join(format!("{component}.wasm"));
    std::fs::copy(from, folder.join("greeter.wasm"))?;
    let manifest = format!(
        "---\nname: greeter\ndescription: Greets.\nversion: \"{version}\"\ncapabilities: [queue]\n---\n# Greeter\n"
    );
    std::fs::write(folder.join("SKILL.md"), manifest)?;
    Ok(folder.to_string_lossy().into_owned())
}

#[tokio::test]
async fn versions_are_pushed_and_chosen() -> anyhow::Result<()> {
    let platform = Shared::platform().await?;
    let (acme, corp) = (platform.org().await?, platform.org().await?);
    let at = tempfile::tempdir()?;
    let first = folder(at.path(), "echo", "1.0.0")?;
    let second = folder(at.path(), "text-stats", "2.0.0")?;

    let pushed = acme.json(["skill", "push", &first]).await?;
    assert_eq!(
        (pushed["version"].as_str(), pushed["active"].as_bool()),
        (Some("1.0.0"), Some(true))
    );
    let again = acme.json(["skill", "push", &first]).await?;
    assert_eq!(again["id"], pushed["id"], "the same content makes no new version");
    let kept = acme.json(["skill", "push", &second, "--no-activate"]).await?;
    assert_eq!((kept["version"].as_str(), kept["active"].as_bool()), (Some("2.0.0"), Some(false)));

    let run = async || -> anyhow::Result<Value> {
        let context = r#"{"text": "one two"}"#;
        let create = [
            "request",
            "create",
            "--worker-type",
            "general",
            "--skill",
            "greeter",
            "--wait",
            "--context",
            context,
        ];
        Ok(acme.json(create).await?["data"].clone())
    };
    assert_eq!(run().await?["context"]["text"], "one two", "version 1 echoes");
    acme.json(["skill", "activate", "greeter", "2.0.0"]).await?;
    assert_eq!(run().await?["words"], 2, "version 2 counts");
    let digits = &pushed["sha256"].as_str().expect("a digest")[..8];
    acme.json(["skill", "activate", "greeter", digits]).await?;
    assert_eq!(run().await?["context"]["text"], "one two", "and back");

    let shown = acme.json(["skill", "show", "greeter"]).await?;
    let versions: Vec<&str> = shown["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .filter_map(|v| v["version"].as_str())
        .collect();
    assert_eq!(versions, ["2.0.0", "1.0.0"]);
    assert_eq!(
        (shown["active_version"].as_str(), shown["readme"].as_str()),
        (Some("1.0.0"), Some("# Greeter\n"))
    );
    let list = acme.json(["skill", "list"]).await?;
    let owners: Vec<(&str, &str)> = list["items"]
        .as_array()
        .expect("skills")
        .iter()
        .filter_map(|skill| Some((skill["name"].as_str()?, skill["owner"].as_str()?)))
        .collect();
    assert!(
        owners.contains(&("greeter", "org")) && owners.contains(&("echo", "platform")),
        "{list}"
    );

    // It is this organisation's only.
    assert_eq!(corp.run(["skill", "show", "greeter"]).await?.code(), Some(3));
    let theirs =
        corp.run(["request", "create", "--worker-type", "general", "--skill", "greeter"]).await?;
    assert_eq!(theirs.code(), Some(2), "{theirs}");
    let open = acme
        .create(json!({ "worker_type": "general", "skill": "greeter", "delay_ms": 3_600_000 }))
        .await?;
    assert!(acme.run(["skill", "delete", "greeter"]).await?.status.success());
    assert_eq!(acme.run(["skill", "show", "greeter"]).await?.code(), Some(3));
    assert_eq!(acme.status(open).await?, "scheduled");
    Ok(())
}

#[tokio::test]
async fn an_own_skill_goes_before_the_platforms() -> anyhow::Result<()> {
    let acme = Shared::platform().await?.org().await?;
    let wasm = skill("noop")?.join("noop.wasm").to_string_lossy().into_owned();
    // SKILL.md beside it says `noop`: without one, the flag names it.
    let at = tempfile::tempdir()?;
    let copy = at.path().join("copy.wasm").to_string_lossy().into_owned();
    std::fs::copy(wasm, &copy)?;
    let create = ["request", "create", "--worker-type", "general", "--prompt", "hello", "--wait"];
    assert_eq!(acme.json(create).await?["summary"], "hello");
    let pushed = acme.json(["skill", "push", &copy, "--name", "echo"]).await?;
    assert_eq!(
        pushed["version"].as_str().map(str::len),
        Some(12),
        "the label is of the digest: {pushed}"
    );
    assert_ne!(
        acme.json(create).await?["summary"],
        "hello",
        "the default skill is found by name too"
    );
    acme.run(["skill", "delete", "echo"]).await?;
    assert_eq!(acme.json(create).await?["summary"], "hello");
    Ok(())
}
