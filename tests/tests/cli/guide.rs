//! docs/authoring.md: its code is the code of skills/anthology, and its commands are typed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use eve_tests::Shared;
use serde_json::json;

use super::authoring;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// The fenced blocks of a page: what stands behind the fence, and the text.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(head) => {
                open = true;
                found.push((head, String::new()));
            }
            None if open => {
                let (_, text) = found.last_mut().expect("one is open");
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    found
}

/// What the page says of each file, put together in the order of the page.
fn files(blocks: &[(&str, String)]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for (head, text) in blocks {
        if let Some((_, path)) = head.split_once(' ') {
            let file = files.entry(path.to_owned()).or_default();
            if !file.is_empty() {
                file.push('\n');
            }
            file.push_str(text);
        }
    }
    files
}

#[test]
fn the_code_of_the_guide_is_the_code_of_the_skill() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/authoring.md"))?;
    let files = files(&blocks(&page));
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["SKILL.md", "migrations/0001_anthologies.sql", "src/lib.rs"]);
    for (path, text) in &files {
        let real = std::fs::read_to_string(root().join("skills/anthology").join(path))?;
        assert_eq!(&real, text, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn the_commands_of_the_guide_lead_to_its_end() -> Result<()> {
    let member = Shared::platform().await?.org().await?;
    let page = std::fs::read_to_string(root().join("docs/authoring.md"))?;
    let blocks = blocks(&page);
    let commands: Vec<_> =
        blocks.iter().filter(|(head, _)| *head == "sh").map(|(_, text)| text.as_str()).collect();
    // The first block makes the skill, and the reader then writes its files.
    let (new, rest) = commands.split_first().context("there are commands")?;
    let mut script = format!("{new}\n");
    for (path, text) in files(&blocks) {
        let folder = Path::new(&path).parent().and_then(Path::to_str).unwrap_or(".");
        script.push_str(&format!("mkdir -p ./{folder}\ncat > {path} <<'THE_END'\n{text}THE_END\n"));
    }
    for block in rest {
        script.push_str(block);
    }
    let output = authoring::script(&member, &script).await?;
    assert!(output.status.success(), "{output}");
    let answers: Vec<serde_json::Value> = serde_json::Deserializer::from_str(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .with_context(|| output.to_string())?;
    let said = |what: &str, value: serde_json::Value| {
        let found = answers.iter().any(|answer| answer.pointer(what) == Some(&value));
        assert!(found, "{what} is nowhere {value}: {output}");
    };
    said("/summary", json!("3 words"));
    said("/effects/questions/0/question", json!("Does \"Sea\" go on the shelf? It has 2 words."));
    said("/data/shelf", json!({ "titles": 1, "words": 7 }));
    said("/rows/0", json!(["Sea", 7, "accepted"]));
    said("/items/0/name", json!("anthologies"));
    Ok(())
}
