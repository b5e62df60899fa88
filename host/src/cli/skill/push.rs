//! `eve skill push`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::multipart::{Form, Part};
use serde::Serialize;

use super::super::Globals;
use super::super::client::Client;
use super::super::error::Error;
use super::super::output::{Output, Render, View, optional, size};
use super::{find, project};
use crate::http::Items;
use crate::skills::manifest::Manifest;
use crate::skills::store::{SkillDetail, Version};
use crate::skills::upload::MAX_COMPONENT_BYTES;
use crate::worker_types::WorkerType;

/// The same limit refuses on the server.
const LARGEST: u64 = MAX_COMPONENT_BYTES as u64;

/// How much is handed to the connection at a time: what the progress bar moves by.
const CHUNK: usize = 64 * 1024;

/// Upload a skill
///
/// PATH is a WebAssembly component, or a folder with a SKILL.md: its front matter names the skill,
/// and the component is found beside it, in target/eve/ where `eve skill build` leaves it, or where
/// cargo builds it ($CARGO_TARGET_DIR, or `target` here or above). Nothing is built. The server checks
/// and compiles the component; if it refuses it, nothing changes. Pushing the same component again
/// makes no new version.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve skill build && eve skill push
  eve skill push target/wasm32-wasip2/release/echo.wasm --name echo
  eve skill push skills/echo --no-activate && eve skill activate echo 4")]
pub struct Push {
    /// The component, or the skill's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The skill's name [default: as SKILL.md says, or as the file is called]
    #[arg(long)]
    name: Option<String>,
    /// Keep the version that runs now active
    #[arg(long)]
    no_activate: bool,
    /// Push it for every organisation; for platform administrators
    #[arg(long)]
    platform: bool,
}

/// A version that was pushed, and where it can run.
#[derive(Serialize)]
struct Pushed {
    #[serde(flatten)]
    version: Version,
    /// Worker types of this skill that grant all it needs.
    granted_on: Vec<String>,
    /// Worker types of this skill that do not, or where it was revoked, and what is missing.
    not_granted_on: BTreeMap<String, Vec<String>>,
}

impl Render for Pushed {
    fn render(&self, view: &View) -> String {
        let list = |items: &[String]| optional((!items.is_empty()).then(|| items.join(", ")));
        let version = self.version.render(view);
        let lacking = self.not_granted_on.iter();
        let lacking = lacking.map(|(name, what)| format!("{name} (lacks {})", what.join(", ")));
        let mut pairs = vec![("granted on", list(&self.granted_on))];
        if !self.not_granted_on.is_empty() {
            pairs.push(("not on", list(&lacking.collect::<Vec<_>>())));
        }
        format!("{version}\n{}", view.details(pairs))
    }
}

/// Finds, checks and uploads the skill.
pub async fn run(command: Push, globals: &Globals, out: &Output) -> Result<(), Error> {
    let target_dir = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let found = find::find(&command.path, command.name.as_deref(), target_dir.as_deref())?;
    let component = read_component(&found.component)?;
    let newer = command.path.is_dir().then(|| project::newer_than(&found.component, &command.path));
    if let Some(source) = newer.flatten() {
        out.note(&format!(
            "note: {} is newer than the component; `eve skill build` builds it again",
            source.display()
        ));
    }
    let client = globals.connect()?;
    let about = format!("{} ({})", found.component.display(), size(component.len() as u64));
    out.note(&format!("pushing {about} as skill `{}`", found.name));
    let query = [
        ("activate", (!command.no_activate).to_string()),
        ("platform", command.platform.to_string()),
    ];
    let manifest = found.manifest.clone();
    let version = upload(&client, &found.name, component, found.manifest, &query, out).await?;
    let types: Vec<WorkerType> = client.get::<Items<WorkerType>>(&["worker-types"]).await?.items;
    let wanted = manifest.and_then(|text| Manifest::parse(&text).ok());
    let wanted = wanted.map(|manifest| manifest.worker_types).unwrap_or_default();
    let revoked = match command.platform {
        // Every organisation decides for itself.
        true => Vec::new(),
        false => revoked(&client.get::<SkillDetail>(&["skills", &found.name]).await?),
    };
    out.show(&granted(version, types, &wanted, &revoked))
}

/// What the organisation has revoked from a skill.
fn revoked(skill: &SkillDetail) -> Vec<String> {
    let revoked = skill.capabilities.iter().filter(|grant| grant.revoked.is_some());
    revoked.map(|grant| grant.capability.clone()).collect()
}

/// Which of the worker types that a skill is for grant what it needs; all are when it names none. What
/// was revoked from it is granted nowhere.
fn granted(
    version: Version,
    types: Vec<WorkerType>,
    wanted: &[String],
    revoked: &[String],
) -> Pushed {
    let mut granted_on = Vec::new();
    let mut not_granted_on = BTreeMap::new();
    for kind in types.into_iter().filter(|kind| wanted.is_empty() || wanted.contains(&kind.id)) {
        let needed = version.capabilities.iter();
        let has = |word: &String| kind.grants.contains(word) && !revoked.contains(word);
        let lacking: Vec<_> = needed.filter(|word| !has(word)).cloned().collect();
        match lacking.is_empty() {
            true => granted_on.push(kind.id),
            false => {
                not_granted_on.insert(kind.id, lacking);
            }
        }
    }
    Pushed { version, granted_on, not_granted_on }
}

/// Uploads a component, with a progress bar where one can be drawn.
pub async fn upload(
    client: &Client,
    name: &str,
    component: Bytes,
    manifest: Option<String>,
    query: &[(&str, String)],
    out: &Output,
) -> Result<Version, Error> {
    let bytes = component.len() as u64;
    let bar = progress(bytes, out);
    let part = Part::stream_with_length(body(component, &bar), bytes)
        .file_name(format!("{name}.wasm"))
        .mime_str("application/wasm")
        .map_err(Error::Client)?;
    let mut form = Form::new().part("component", part);
    if let Some(manifest) = manifest {
        form = form.text("manifest", manifest);
    }
    let version = client.upload(&["skills", name, "versions"], query, form).await;
    bar.finish_and_clear();
    version
}

/// Reads the component. What is none by its first bytes, or too large, is not worth sending.
pub fn read_component(path: &Path) -> Result<Bytes, Error> {
    let failed = |source| Error::File { doing: "read", path: path.into(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    // The length is read twice on purpose: a file may grow, and a device has none.
    if length <= LARGEST {
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if length > LARGEST || bytes.len() as u64 > LARGEST {
        return Err(Error::usage_hint(
            format!(
                "{} has {}; a skill may have {}",
                path.display(),
                size(length.max(bytes.len() as u64)),
                size(LARGEST)
            ),
            "build it optimised for size and stripped (opt-level = \"s\", lto = true, strip = true)",
        ));
    }
    // Bytes 0-3 are the magic, 4-5 the version, 6-7 the layer: 0 a core module, 1 a component.
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => Err(Error::usage_hint(
            format!("{} is a core WebAssembly module, not a component", path.display()),
            "build it with `eve skill build`, or link it with wasm-component-ld",
        )),
        Some([0, b'a', b's', b'm', ..]) => Ok(Bytes::from(bytes)),
        _ => Err(Error::usage_hint(
            format!("{} is not WebAssembly: it does not begin with `\\0asm`", path.display()),
            "give the path of a .wasm component, or of a skill's folder",
        )),
    }
}

fn progress(bytes: u64, out: &Output) -> ProgressBar {
    if !out.is_live() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_message("uploading");
    bar
}

fn body(component: Bytes, bar: &ProgressBar) -> reqwest::Body {
    let bar = bar.clone();
    let chunks = stream::unfold(component, move |mut rest| {
        let bar = bar.clone();
        async move {
            if rest.is_empty() {
                // All is sent; what takes time now is the server's compiler.
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                    bar.set_style(style);
                }
                bar.set_message("checking and compiling");
                bar.enable_steady_tick(std::time::Duration::from_millis(100));
                return None;
            }
            let chunk = rest.split_to(rest.len().min(CHUNK));
            bar.inc(chunk.len() as u64);
            Some((Ok::<_, std::io::Error>(chunk), rest))
        }
    });
    reqwest::Body::wrap_stream(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Bytes, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.wasm");
        std::fs::write(&path, bytes).expect("written");
        read_component(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn only_components_are_sent() {
        assert!(read(b"\0asm\x0d\0\x01\0rest").is_ok());
        assert!(read(b"\0asm\x01\0\0\0").is_err_and(|said| said.contains("core WebAssembly")));
        for bytes in [&b""[..], b"\0as", b"(component)", b"#!/bin/sh\n"] {
            assert!(read(bytes).is_err_and(|said| said.contains("not WebAssembly")));
        }
    }

    #[test]
    fn where_it_can_run_is_told() {
        let version = serde_json::from_value(serde_json::json!({
            "id": "01990000-0000-7000-8000-000000000001", "version": "1", "sha256": "ab",
            "size_bytes": 1, "imports": ["eve:skill/queue@0.1.0"], "capabilities": ["queue"],
            "active": true, "created_at": "2026-03-01T12:00:00Z", "created_by": {},
        }));
        let version: Version = version.expect("a version");
        let kind = |id: &str, grants: &[&str]| -> WorkerType {
            let value = serde_json::json!({
                "id": id, "name": id, "docker_image": null, "capabilities": [], "grants": grants,
                "default_skill": null, "config": {}, "limits": {}, "schema_name": null,
            });
            serde_json::from_value(value).expect("a worker type")
        };
        let types = || vec![kind("general", &["queue", "db"]), kind("bare", &[])];
        let pushed = granted(version.clone(), types(), &[], &["db".into()]);
        assert_eq!(pushed.granted_on, ["general"]);
        assert_eq!(pushed.not_granted_on["bare"], ["queue"]);
        let pushed = granted(version.clone(), types(), &["general".into()], &[]);
        assert!(pushed.not_granted_on.is_empty());
        let pushed = granted(version, types(), &[], &["queue".into()]);
        assert_eq!((pushed.granted_on.len(), pushed.not_granted_on.len()), (0, 2));
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.wasm");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(200 * 1024 * 1024).expect("a sparse file");
        let error = read_component(&path).expect_err("refused").to_string();
        assert!(error.contains("has 200.0 MiB; a skill may have 64.0 MiB"), "{error}");
    }
}
