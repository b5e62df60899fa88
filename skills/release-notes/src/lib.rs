//! Writes release notes from a git history.
//!
//! One skill, two roles. The orchestrator cuts the history into chunks, creates a child of this same
//! skill for each, waits, and writes the notes from what the children return. A child classifies the
//! commits of its chunk.

mod classify;
mod commit;
mod digest;
mod notes;
#[cfg(test)]
mod tests;

use commit::Commit;
use digest::Digest;
use eve_sdk::prelude::*;
use eve_sdk::queue::Child;
use notes::{Missing, Notes};

/// This skill, as children name it.
const SKILL: &str = "release-notes";
/// Commits of a chunk unless the context says otherwise.
const CHUNK: usize = 200;
/// Most commits of a chunk: what it returns has to fit into an output.
const LARGEST_CHUNK: usize = 1_000;
/// Text of a chunk's commits: half of what a context, and what an output, may hold.
const CHUNK_BYTES: usize = 512 << 10;

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    role: Role,
    title: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    #[default]
    Write,
    Classify,
}

/// What the orchestrator is given.
#[derive(Deserialize)]
struct History {
    commits: Vec<Commit>,
    chunk_size: Option<usize>,
}

/// What a child is given.
#[derive(Serialize, Deserialize)]
struct Chunk {
    role: String,
    /// Which commits of the history these are, counted from 1.
    first: usize,
    commits: Vec<Commit>,
}

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    let Context { role, title } = request.context()?;
    match (role, request.trigger()) {
        (Role::Classify, _) => {
            let Chunk { commits, .. } = request.context()?;
            let digest = Digest::of(&commits);
            Ok(Outcome::completed(format!("classified {} commits", commits.len())).data(&digest))
        }
        (Role::Write, Trigger::Initial | Trigger::Cron(_)) => fan_out(&request, title),
        (Role::Write, _) => fan_in(title),
    }
}

fn fan_out(request: &Request, title: Option<String>) -> Result<Outcome, Failure> {
    let History { commits, chunk_size } = request.context()?;
    if commits.is_empty() {
        return write(title, Digest::default(), &[]);
    }
    let size = chunk_size.unwrap_or(CHUNK).clamp(1, LARGEST_CHUNK);
    let total = commits.len();
    let mut batch = queue::Batch::new();
    let mut chunks = 0;
    for (first, commits) in cut(commits, size) {
        let chunk = Chunk { role: "classify".into(), first, commits };
        let child = queue::request(request.worker_type()).skill(SKILL).context(&chunk);
        batch.add(child.reply_to_me());
        chunks += 1;
    }
    batch.create()?;
    log::info!("cut the history into chunks"; commits = total, chunks = chunks);
    Ok(Outcome::waiting())
}

/// Chunks of at most `size` commits and [`CHUNK_BYTES`], each with the number of its first commit.
fn cut(commits: Vec<Commit>, size: usize) -> Vec<(usize, Vec<Commit>)> {
    let mut chunks: Vec<(usize, Vec<Commit>)> = Vec::new();
    let mut bytes = 0;
    for (index, commit) in commits.into_iter().enumerate() {
        let commit = commit.trimmed();
        bytes += commit.bytes();
        match chunks.last_mut() {
            Some((_, chunk)) if chunk.len() < size && bytes <= CHUNK_BYTES => chunk.push(commit),
            _ => {
                bytes = commit.bytes();
                chunks.push((index + 1, vec![commit]));
            }
        }
    }
    chunks
}

fn fan_in(title: Option<String>) -> Result<Outcome, Failure> {
    let children = queue::children()?;
    let open = children.iter().filter(|child| child.is_open()).count();
    if open > 0 {
        log::debug!("waiting for more chunks"; open = open);
        return Ok(Outcome::waiting());
    }
    let mut total = Digest::default();
    let mut missing = Vec::new();
    for child in &children {
        match child.output::<Digest>() {
            Ok(digest) => total.add(digest),
            Err(_) => missing.push(lost(child)?),
        }
    }
    if total.chunks == 0 {
        let reason = missing.first().map_or("", |missing| missing.reason.as_str());
        return Err(Failure::permanent(format_args!("no commit could be classified: {reason}")));
    }
    write(title, total, &missing)
}

/// What is missing because a child did not complete.
fn lost(child: &Child) -> Result<Missing, Failure> {
    let chunk: Chunk = child.request.context()?;
    let problem = child.ended.as_ref().and_then(|ended| ended.problem.as_ref());
    let hash = |commit: Option<&Commit>| commit.map(|c| c.hash.clone()).unwrap_or_default();
    Ok(Missing {
        first: chunk.first,
        commits: chunk.commits.len(),
        newest: hash(chunk.commits.first()),
        oldest: hash(chunk.commits.last()),
        reason: problem.map_or_else(
            || "it returned something else than was expected".into(),
            |problem| format!("{}: {}", problem.code, problem.message),
        ),
    })
}

fn write(
    title: Option<String>,
    mut digest: Digest,
    missing: &[Missing],
) -> Result<Outcome, Failure> {
    for lost in missing {
        log::warn!("left out a chunk"; first = lost.first, commits = lost.commits, reason = lost.reason);
    }
    digest.tidy();
    let notes = Notes::new(title.as_deref(), &digest, missing);
    let data = json!({ "markdown": notes.markdown(), "counts": notes.counts() });
    Ok(Outcome::completed(notes.summary()).data(&data))
}
