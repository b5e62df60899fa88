//! Skills written from nothing: `eve skill new`, `test`, `build`, `run`, `dev`, `push`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eve_tests::{Eve, Output, Process, Shared, skill};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A first build compiles the SDK and what it needs, on a machine that runs other tests too.
const BUILD: Duration = Duration::from_secs(900);

/// What cargo builds for these tests, kept from one to the next: they share nearly all of it.
const TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/authoring");

/// Builds offline: what a skill needs is here, since this repository needs it too.
const SURROUNDINGS: [(&str, &str); 2] =
    [("CARGO_NET_OFFLINE", "true"), ("CARGO_TARGET_DIR", TARGET)];

/// Calls the command line in a folder, and waits as long as a build may take.
async fn call(eve: &Eve, at: &Path, args: &[&str]) -> Result<Output> {
    let mut command = eve.command(args)?;
    command.current_dir(at);
    finish(command).await
}

/// Types commands in a folder of their own.
pub async fn script(eve: &Eve, text: &str) -> Result<Output> {
    let at = TempDir::new()?;
    let mut command = eve.bash_command(text)?;
    command.current_dir(at.path());
    finish(command).await
}

async fn finish(mut command: std::process::Command) -> Result<Output> {
    command.envs(SURROUNDINGS);
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(BUILD, command.output())
        .await
        .with_context(|| format!("{shown} does not end"))??;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A new skill in a folder of its own, far from this repository.
async fn fresh(eve: &Eve, name: &str) -> Result<(TempDir, PathBuf)> {
    let at = TempDir::new()?;
    let made = call(eve, at.path(), &["skill", "new", name]).await?.json()?;
    ensure!(made["skill"] == name && made["language"] == "rust", "{made}");
    let folder = at.path().join(name);
    Ok((at, folder))
}

const TEXT: &str = r#"{"text": "One fish. Two fish! Red fish"}"#;

#[tokio::test]
async fn from_nothing_to_a_result() -> Result<()> {
    let member = Shared::platform().await?.org().await?;
    let (_at, folder) = fresh(&member, "word-count").await?;

    let tested = call(&member, &folder, &["skill", "test"]).await?;
    let findings = tested.json()?;
    assert_eq!(findings["passed"], true, "{tested}");
    let checks: Vec<_> = findings["checks"].as_array().expect("checks").iter().collect();
    assert_eq!(checks.len(), 4, "{tested}");
    assert!(checks.iter().all(|check| check["result"] == "ok"), "{tested}");

    // The lock file that came with it is the one that cargo would have made.
    let built = call(&member, &folder, &["skill", "build", "--locked"]).await?.json()?;
    assert_eq!(built["imports"], json!(["eve:skill/request@0.1.0", "eve:skill/log@0.1.0"]));
    assert_eq!(built["capabilities"], json!([]));
    assert!(folder.join("target/eve/word-count.wasm").is_file());
    assert!(folder.join("target/eve/SKILL.md").is_file());

    let ran = call(&member, &folder, &["skill", "run", "--context", TEXT]).await?.json()?;
    assert_eq!(ran["summary"], "6 words, most often \"fish\"");
    assert_eq!(ran["data"], json!({ "words": 6, "most_frequent": "fish" }));
    assert_eq!(ran["log"][0]["message"], "counted");
    assert!(ran["memory_peak_bytes"].as_u64() > Some(0) && ran["cpu_us"].as_u64() > Some(0));

    let pushed = call(&member, &folder, &["skill", "push"]).await?;
    assert!(!pushed.stderr.contains("newer"), "{pushed}");
    let version = pushed.json()?;
    assert_eq!(version["sha256"], built["sha256"]);
    assert!(version["granted_on"].as_array().expect("a list").contains(&json!("general")));
    let create = ["request", "create", "--worker-type", "general", "--skill", "word-count"];
    let create = [&create[..], &["--wait", "--context", TEXT]].concat();
    assert_eq!(call(&member, &folder, &create).await?.json()?["data"]["words"], 6);

    let shown = call(&member, &folder, &["skill", "show", "word-count"]).await?.json()?;
    assert_eq!(shown["manifest"]["worker_types"], json!(["general"]));

    // An older component is pushed as it is, and that is said.
    let source = std::fs::File::options().append(true).open(folder.join("src/lib.rs"))?;
    source.set_modified(std::time::SystemTime::now() + Duration::from_secs(60))?;
    let again = call(&member, &folder, &["skill", "push"]).await?;
    assert!(again.stderr.contains("src/lib.rs is newer than the component"), "{again}");
    assert_eq!(again.json()?["id"], version["id"]);
    Ok(())
}

#[tokio::test]
async fn the_same_sources_give_the_same_bytes_anywhere() -> Result<()> {
    let eve = Eve::without_database()?;
    let mut sums = Vec::new();
    for _ in 0..2 {
        let (_at, folder) = fresh(&eve, "same").await?;
        let mut command = eve.command(["skill", "build"])?;
        // Flags for the host have no business in a component.
        command.current_dir(&folder).env("RUSTFLAGS", "-C debuginfo=2");
        sums.push(finish(command).await?.json()?["sha256"].clone());
        let wasm = std::fs::read(folder.join("target/eve/same.wasm"))?;
        let text = String::from_utf8_lossy(&wasm);
        let home = std::env::var("HOME").unwrap_or("/nowhere".into());
        assert!(!text.contains(&home) && !text.contains("/tmp/"), "it says where it was built");
    }
    assert!(sums[0].is_string());
    assert_eq!(sums[0], sums[1]);
    Ok(())
}

/// As much of a checkout of this repository as a skill needs.
fn checkout() -> Result<TempDir> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let at = TempDir::new()?;
    for folder in ["sdk", "wit"] {
        copy(&root.join(folder), &at.path().join(folder))?;
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let members = |line: &str| match line.split_once(" = ").map(|(name, _)| name) {
        Some("members") => r#"members = ["sdk", "sdk/macros", "skills/*"]"#.to_owned(),
        Some("default-members") => String::new(),
        _ => line.to_owned(),
    };
    let manifest: Vec<_> = manifest.lines().map(members).collect();
    std::fs::write(at.path().join("Cargo.toml"), manifest.join("\n"))?;
    std::fs::copy(root.join("Cargo.lock"), at.path().join("Cargo.lock"))?;
    Ok(at)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (path, to) = (entry.as_ref().expect("an entry").path(), to.join(entry?.file_name()));
        match path.is_dir() {
            true => copy(&path, &to)?,
            false => drop(std::fs::copy(&path, &to)?),
        }
    }
    Ok(())
}

#[tokio::test]
async fn inside_a_checkout_its_sdk_is_used() -> Result<()> {
    let eve = Eve::without_database()?;
    let at = checkout()?;
    for (path, depends) in
        [("skills/inner", "eve-sdk.workspace = true"), ("examples/a/inner", "\"../../../sdk\"")]
    {
        let new = call(&eve, at.path(), &["skill", "new", "inner", "--path", path]).await?;
        assert!(new.status.success(), "{new}");
        let folder = at.path().join(path);
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))?;
        assert!(manifest.contains(depends), "{manifest}");
        assert!(!folder.join(".eve").exists());
        let run = call(&eve, at.path(), &["skill", "run", path, "--context", TEXT]).await?;
        assert_eq!(run.json()?["data"]["words"], 6, "{run}");
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_made_is_refused() -> Result<()> {
    let eve = Eve::without_database()?;
    let at = TempDir::new()?;
    for (args, said) in [
        (&["My Skill"][..], "such as `eve skill new my-skill`"),
        (&["../up"], "is not a name"),
        (&[""], "must not be empty"),
        (&["x", "--lang", "cobol"], "invalid value 'cobol'"),
    ] {
        let output = call(&eve, at.path(), &[&["skill", "new"], args].concat()).await?;
        assert_eq!(output.status.code(), Some(2), "{output}");
        assert!(output.stderr.contains(said), "{said}: {output}");
    }
    assert_eq!(std::fs::read_dir(at.path())?.count(), 0, "nothing was made");

    std::fs::create_dir(at.path().join("taken"))?;
    std::fs::write(at.path().join("taken/notes.txt"), "mine")?;
    let output = call(&eve, at.path(), &["skill", "new", "taken"]).await?;
    assert_eq!(output.status.code(), Some(2), "{output}");
    assert!(output.stderr.contains("taken exists, and is not empty"), "{output}");
    assert_eq!(std::fs::read_dir(at.path().join("taken"))?.count(), 1);

    let line = format!("skill new fine --path {}/fine", at.path().display());
    let shown = eve.on_terminal(100, &line).await?;
    assert!(shown.stdout.contains("eve skill test"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_built_is_explained() -> Result<()> {
    let eve = Eve::without_database()?;
    let (at, folder) = fresh(&eve, "broken").await?;
    let manifest = folder.join("SKILL.md");
    let good = std::fs::read_to_string(&manifest)?;
    for (bad, said) in [
        (good.replace("[log]", "[log, magic]"), "SKILL.md:5: capabilities: `magic` is not"),
        (good.replace("name: broken", "name: [broken"), "SKILL.md:"),
        (good.replace("description:", "descriptoin:"), "SKILL.md:3: "),
        ("# Only text\n".to_owned(), "must begin with front matter"),
    ] {
        std::fs::write(&manifest, &bad)?;
        for verb in ["build", "test", "run", "dev"] {
            let output = call(&eve, &folder, &["skill", verb]).await?;
            assert_eq!(output.status.code(), Some(2), "{verb}: {output}");
            assert!(output.stderr.contains(said), "{verb}: {said}: {output}");
        }
    }
    std::fs::write(&manifest, &good)?;

    let nothing = call(&eve, at.path(), &["skill", "build"]).await?;
    assert_eq!(nothing.status.code(), Some(2), "{nothing}");
    assert!(nothing.stderr.contains("holds no SKILL.md"), "{nothing}");

    let mut command = eve.command(["skill", "build"])?;
    command.current_dir(&folder).env("PATH", at.path());
    let output = finish(command).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert!(output.stderr.contains("there is no `cargo` on the PATH"), "{output}");
    assert!(output.stderr.contains("https://rustup.rs"), "{output}");

    let source = std::fs::read_to_string(folder.join("src/lib.rs"))?;
    std::fs::write(folder.join("src/lib.rs"), source.replace("text, least }", "text, lest }"))?;
    let output = call(&eve, &folder, &["skill", "build"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert!(output.stderr.contains("src/lib.rs") && output.stderr.contains("lest"), "{output}");
    assert!(output.stderr.contains("cargo build in . failed"), "{output}");
    assert!(!folder.join("target/eve/broken.wasm").exists());

    let cargo = std::fs::read_to_string(folder.join("Cargo.toml"))?;
    std::fs::write(folder.join("Cargo.toml"), cargo.replace("cdylib", "rlib"))?;
    let output = call(&eve, &folder, &["skill", "build"]).await?;
    assert_eq!(output.status.code(), Some(2), "{output}");
    assert!(output.stderr.contains("crate-type"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_test_finds_what_the_platform_would_refuse() -> Result<()> {
    let eve = Eve::without_database()?;
    let (_at, folder) = fresh(&eve, "faulty").await?;
    std::fs::write(
        folder.join("src/lib.rs"),
        r#"use eve_sdk::prelude::*;

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    let children = queue::children()?.len();
    assert!(!request.prompt().is_empty(), "there is no prompt, and {children} children");
    Ok(Outcome::completed("fine"))
}

#[test]
fn is_false() {
    assert_eq!(eve_sdk::testing::Host::new().prompt("x").run(run).summary(), "good");
}
"#,
    )?;
    let output = call(&eve, &folder, &["skill", "test"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    let findings: Value = serde_json::from_str(&output.stdout)?;
    let check = |index: usize, word: &str| {
        let check = &findings["checks"][index];
        let detail = check["detail"].as_str().unwrap_or_default();
        assert!(check["result"] == "failed" && detail.contains(word), "{word}: {output}");
    };
    check(0, "see above");
    check(2, "the component needs queue");
    check(3, "there is no prompt, and 0 children");
    assert!(output.stderr.contains("is_false"), "{output}");

    // What SKILL.md does not name is not granted.
    let output = call(&eve, &folder, &["skill", "run", "--prompt", "hello"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert!(output.stderr.contains("capability `queue` is not granted"), "{output}");
    let manifest = std::fs::read_to_string(folder.join("SKILL.md"))?;
    std::fs::write(folder.join("SKILL.md"), manifest.replace("[log]", "[log, queue]"))?;
    let ran = call(&eve, &folder, &["skill", "run", "--prompt", "hello"]).await?;
    assert_eq!(ran.json()?["summary"], "fine");
    Ok(())
}

#[tokio::test]
async fn a_run_shows_what_it_would_do() -> Result<()> {
    let eve = Eve::without_database()?;
    let at = TempDir::new()?;
    let hostile = skill("hostile")?.join("hostile.wasm").to_string_lossy().into_owned();
    let run = async |context: Value, more: &[&str]| {
        let context = context.to_string();
        let args = [&["skill", "run", &hostile, "--context", &context], more].concat();
        call(&eve, at.path(), &args).await
    };

    let waiting = run(json!({ "do": "waiting", "create": 2 }), &[]).await?;
    let shown = waiting.json()?;
    assert_eq!(shown["status"], "waiting", "{waiting}");
    assert_eq!(shown["effects"]["requests"].as_array().map(Vec::len), Some(2), "{waiting}");

    for (order, code) in [
        ("trap", "trapped"),
        ("recurse", "stack_overflow"),
        ("big-output", "output_too_large"),
        ("fail-permanent", "failed"),
    ] {
        let output = run(json!({ "do": order }), &[]).await?;
        assert_eq!(output.status.code(), Some(1), "{output}");
        let shown: Value = serde_json::from_str(&output.stdout)?;
        assert_eq!((&shown["status"], &shown["error"]["code"]), (&json!("failed"), &json!(code)));
    }

    // The context of a wake-up is an envelope, as on the platform.
    let child = "01990000-0000-7000-8000-000000000001";
    let trigger = format!("child:{child}=failed");
    let echo = skill("echo")?.join("echo.wasm").to_string_lossy().into_owned();
    let args = ["skill", "run", &echo, "--prompt", "hi", "--context", "{\"a\": 1}"];
    let args = [&args[..], &["--trigger", &trigger, "--trigger", "timer:late"]].concat();
    let woken = call(&eve, at.path(), &args).await?.json()?;
    assert_eq!(woken["data"], json!({ "prompt": "hi", "context": { "a": 1 } }));
    let hostile = skill("hostile")?.join("hostile.wasm").to_string_lossy().into_owned();
    let args = ["skill", "run", &hostile, "--context", "{\"do\": \"describe\"}", "--attempt", "2"];
    let args = [&args[..], &["--worker-type", "reports"]].concat();
    let described = call(&eve, at.path(), &args).await?.json()?["data"].to_string();
    assert!(described.contains("reports") && described.contains("\"attempt\":2"), "{described}");

    for (args, said) in [
        (&["--trigger", "birthday"][..], "is no trigger"),
        (&["--context", "[1]"], "must be a JSON object"),
        (&["--context", "{\"a\": }"], "--context:1:7"),
        (&["--attempt", "0"], "0 is not in 1..=25"),
    ] {
        let args = [&["skill", "run", &hostile], args].concat();
        let output = call(&eve, at.path(), &args).await?;
        assert_eq!(output.status.code(), Some(2), "{output}");
        assert!(output.stderr.contains(said), "{said}: {output}");
    }
    let module = at.path().join("module.wasm");
    std::fs::write(&module, wat::parse_str("(component)")?)?;
    let output = call(&eve, at.path(), &["skill", "run", "module.wasm"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert!(
        output.stderr.contains("module.wasm is no skill: the component exports nothing"),
        "{output}"
    );
    Ok(())
}

#[tokio::test]
async fn dev_pushes_what_is_saved() -> Result<()> {
    let member = Shared::platform().await?.org().await?;
    let (_at, folder) = fresh(&member, "lively").await?;
    // A label in SKILL.md stands for one content: `dev` does without it.
    let manifest = std::fs::read_to_string(folder.join("SKILL.md"))?;
    let labelled = manifest.replace("worker_types:", "version: 1.0.0\nworker_types:");
    std::fs::write(folder.join("SKILL.md"), labelled)?;
    let args = ["skill", "dev", folder.to_str().context("a path")?];
    let mut dev = member.start_with(args, SURROUNDINGS)?;
    let cycles = |log: &str| -> Vec<Value> {
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let nth = async |dev: &Process, n: usize, status: &str| -> Value {
        let what = format!("cycle {n} of eve skill dev");
        let cycle = wait_for_build(&what, async || cycles(&dev.log()).get(n).cloned()).await;
        assert_eq!(cycle["status"], status, "{cycle}");
        cycle
    };
    let first = nth(&dev, 0, "pushed").await;
    let source = std::fs::read_to_string(folder.join("src/lib.rs"))?;
    std::fs::write(folder.join("src/lib.rs"), source.replace("most often", "mostly"))?;
    let second = nth(&dev, 1, "pushed").await;
    assert_ne!(first["version"]["sha256"], second["version"]["sha256"]);
    std::fs::write(folder.join("src/lib.rs"), "nonsense")?;
    let third = nth(&dev, 2, "failed").await;
    assert!(third["error"].as_str().is_some_and(|error| error.contains("cargo build")), "{third}");
    std::fs::write(folder.join("SKILL.md"), "no front matter")?;
    nth(&dev, 3, "failed").await;
    std::fs::write(folder.join("SKILL.md"), &manifest)?;
    std::fs::write(folder.join("src/lib.rs"), &source)?;
    let last = wait_for_build("a push of the first sources", async || {
        cycles(&dev.log()).pop().filter(|cycle| cycle["status"] == "pushed")
    });
    assert_eq!(last.await["version"]["sha256"], first["version"]["sha256"]);

    dev.interrupt();
    assert_eq!(dev.wait().await.code(), Some(0));
    Ok(())
}

/// Waits for what takes a build.
async fn wait_for_build<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + BUILD;
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {BUILD:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
