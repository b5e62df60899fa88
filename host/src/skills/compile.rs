//! Checks a component and compiles it, in a child process that cannot take more than its share.
//!
//! Flow: [`compile`] starts our own binary again with the hidden command `compile-skill`, which is
//! [`child_main`]: it limits itself, reads the component from standard input, checks it, compiles
//! it, and writes a report and the machine code to standard output. [`Workshop::build`] adds what
//! the parent does with that: vouch for it, and load it once to see that it fits.
//!
//! Invariants:
//! - No byte of an upload is parsed in the parent.
//! - The child has no environment, no files beyond its pipes, limits on CPU, memory and time, and no
//!   system calls but those that compiling needs (`compile/confine`).
//! - What a child says is as hostile as what it was given: it is bounded and made printable.
//! - What is wrong with an upload is said in words for the skill's author; what is wrong with us is not
//!   blamed on it.

mod confine;
mod exports;
mod instances;
pub(crate) mod interruptible;

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use wasmtime::Engine;
use wasmtime::component::Component;

use self::interruptible::interruptible;
use super::artifact::{self, ArtifactCache, ArtifactError, Claim, Signer, Statement};
use crate::requests::validate;
use crate::runtime::{
    self, Capability, Grants, Import, LoadError, RefusedImport, Runtime, SkillPre, engine,
};

/// The hidden command whose `main` is [`child_main`].
pub const COMMAND: &str = "compile-skill";
/// The largest component: JavaScript's are 12 MB, Python's 18 MB.
pub const MAX_COMPONENT: usize = 64 << 20;

/// Wall-clock time of the child: four times its CPU time, for a machine that is busy with others.
const WALL: Duration = Duration::from_secs(240);
/// What is kept of the child's standard error, for our own log.
const STDERR: usize = 16 << 10;
/// What the child says before the machine code: [`MAX_IMPORTS`] names, or a reason.
const ANSWER: usize = 64 << 10;
/// Text of a rejection.
const REASON: usize = 2 << 10;
/// Imports that bring functions: all of WASI's command world are 27, ours a handful. They are stored and
/// shown.
const MAX_IMPORTS: usize = 100;
/// Begins what the child writes, so that stray output is never taken for machine code.
const MAGIC: &[u8; 8] = b"EVECOMP1";
/// All that the child writes.
const MAX_WRITTEN: u64 = artifact::MAX_ARTIFACT + ANSWER as u64 + 64;

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It is no good; the text is for whoever uploaded it, and needs no context.
    #[error("{0}")]
    Rejected(String),
    /// The child could not be started, talked to or understood: our problem.
    #[error("the compiler process {0}")]
    Child(&'static str, #[source] Option<std::io::Error>),
    /// It was compiled, but could not be vouched for or loaded.
    #[error("keeping the compiled skill")]
    Artifact(#[from] ArtifactError),
}

/// A component that was checked and compiled.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code.
    pub artifact: Vec<u8>,
    /// Its imports that bring functions, as the component names them.
    pub imports: Vec<String>,
    /// What it must be granted to run.
    pub capabilities: Vec<Capability>,
    /// The engine that can load it.
    pub fingerprint: String,
}

/// What the child says before the machine code.
#[derive(Serialize, Deserialize)]
enum Answer {
    Compiled { imports: Vec<String>, capabilities: Vec<Capability>, fingerprint: String, len: u64 },
    Rejected(String),
}

/// What a compilation may take.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// CPU time, in seconds.
    pub cpu_seconds: u64,
    /// Wall-clock time.
    pub wall: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { cpu_seconds: confine::CPU_SECONDS, wall: WALL }
    }
}

/// Checks and compiles a component in a child process made of `exe`, our own binary.
pub async fn compile(wasm: &[u8], exe: &Path) -> Result<Compiled, CompileError> {
    compile_within(wasm, exe, Allowance::default()).await
}

/// The same with another allowance.
pub async fn compile_within(
    wasm: &[u8],
    exe: &Path,
    allowance: Allowance,
) -> Result<Compiled, CompileError> {
    if wasm.len() > MAX_COMPONENT {
        return Err(CompileError::Rejected(format!(
            "the component has {} bytes; at most {MAX_COMPONENT} are allowed",
            wasm.len()
        )));
    }
    let failed = |what| move |error| CompileError::Child(what, Some(error));
    let mut child = tokio::process::Command::new(exe)
        .arg(COMMAND)
        .arg(allowance.cpu_seconds.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("could not be started"))?;
    let (Some(mut stdin), Some(stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(CompileError::Child("has no pipes", None));
    };

    let feed = async move {
        // It may well say no before it has read everything.
        let _ = stdin.write_all(wasm).await;
        drop(stdin);
    };
    let mut written = Vec::new();
    let mut complaints = Vec::new();
    let work = async {
        let answer = async {
            let mut stdout = stdout.take(MAX_WRITTEN + 1);
            let read = stdout.read_to_end(&mut written).await;
            // Closed: whoever still writes is told that nobody listens.
            drop(stdout);
            read
        };
        let (_, read, _) = tokio::join!(feed, answer, hear(&mut stderr, &mut complaints));
        read?;
        child.wait().await
    };
    let status = match tokio::time::timeout(allowance.wall, work).await {
        Ok(status) => status.map_err(failed("could not be read from"))?,
        Err(_) => {
            let seconds = allowance.wall.as_secs();
            return Err(CompileError::Rejected(format!(
                "the component takes more than {seconds} s to compile"
            )));
        }
    };
    if written.len() as u64 > MAX_WRITTEN {
        let most = artifact::MAX_ARTIFACT >> 20;
        return Err(CompileError::Rejected(format!(
            "the component compiles to more than {most} MiB of machine code"
        )));
    }
    let complaints = String::from_utf8_lossy(&complaints);
    if !status.success() {
        tracing::warn!(%status, stderr = ?complaints, "a skill's compiler died");
        return Err(death(status, &complaints, allowance));
    }
    if complaints.contains(confine::UNFILTERED) {
        tracing::warn!(?complaints, "the compiler process is not as confined as it could be");
    }
    understand(&written)
}

/// Reads all of what the child complains about, so that it never waits for us, and keeps its beginning.
async fn hear(stderr: &mut (impl AsyncRead + Unpin), complaints: &mut Vec<u8>) {
    let mut buffer = [0; 4 << 10];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let room = STDERR.saturating_sub(complaints.len());
        complaints.extend_from_slice(&buffer[..read.min(room)]);
    }
}

/// What is said of a component that needs more than the child's address space.
const OUT_OF_MEMORY: &str = "the component takes more than 1 GiB of memory to compile";

/// What a dead child says about the upload, or about us. Its limits are generous, so past them it is the
/// upload; and a crash of the compiler is this upload's doing, because it had nothing else to do.
fn death(status: std::process::ExitStatus, complaints: &str, allowance: Allowance) -> CompileError {
    /// How Rust ends when a thread has panicked.
    const PANICKED: i32 = 101;
    let rejected = |reason: &str| CompileError::Rejected(reason.to_owned());
    match (status.signal(), status.code()) {
        (Some(libc::SIGXCPU), _) => CompileError::Rejected(format!(
            "the component takes more than {} s of CPU time to compile",
            allowance.cpu_seconds
        )),
        // How Rust ends when there is no memory.
        (Some(libc::SIGABRT), _) if complaints.contains("memory allocation of") => {
            rejected(OUT_OF_MEMORY)
        }
        (Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE), _)
        | (_, Some(PANICKED)) => rejected("the component makes the compiler fail"),
        // By the kernel, for want of memory of the machine's or the container's; by an operator, or by
        // Ctrl-C.
        (Some(_), _) => CompileError::Child("was killed", None),
        // It says why on standard error.
        _ => CompileError::Child("could not do its work", None),
    }
}

pub(crate) fn understand(written: &[u8]) -> Result<Compiled, CompileError> {
    let garbled = || CompileError::Child("wrote something else than an answer", None);
    let rest = written.strip_prefix(MAGIC).ok_or_else(garbled)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(garbled)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (answer, code) =
        rest.split_at_checked(length).filter(|_| length <= ANSWER).ok_or_else(garbled)?;
    match serde_json::from_slice(answer).map_err(|_| garbled())? {
        Answer::Rejected(reason) => Err(CompileError::Rejected(printable(&reason))),
        Answer::Compiled { imports, capabilities, fingerprint, len } => {
            if len != code.len() as u64 {
                return Err(garbled());
            }
            Ok(Compiled { artifact: code.to_vec(), imports, capabilities, fingerprint })
        }
    }
}

/// A reason as its reader may see it: names of the component's own stand in it, and may be anything.
fn printable(reason: &str) -> String {
    let mut text = String::new();
    for char in reason.chars() {
        if text.len() >= REASON {
            break;
        }
        match char {
            ' '..='~' => text.push(char),
            _ => text.extend(char.escape_default()),
        }
    }
    text
}

/// What the hidden command does, whose argument is the CPU time in seconds. Reads a component from
/// standard input, writes to standard output.
pub fn child_main() -> ExitCode {
    let cpu_seconds = std::env::args().nth(2).and_then(|seconds| seconds.parse().ok());
    if let Err(error) = confine::confine(cpu_seconds.unwrap_or(confine::CPU_SECONDS)) {
        eprintln!("limiting the compiler process: {error}");
        return ExitCode::FAILURE;
    }
    let mut wasm = Vec::new();
    let mut input = std::io::stdin().lock().take(MAX_COMPONENT as u64 + 1);
    if let Err(error) = input.read_to_end(&mut wasm) {
        eprintln!("reading the component: {error}");
        return ExitCode::FAILURE;
    }
    let compiled =
        engine::compiling().map_err(describe).and_then(|engine| check_and_compile(&engine, &wasm));
    let (answer, code) = match compiled {
        Ok(Compiled { artifact, imports, capabilities, fingerprint }) => {
            let len = artifact.len() as u64;
            (Answer::Compiled { imports, capabilities, fingerprint, len }, artifact)
        }
        Err(reason) => {
            // What mmap is refused, wasmtime tells as it tells everything else.
            let enomem = format!("(os error {})", libc::ENOMEM);
            let reason = if reason.contains(&enomem) { OUT_OF_MEMORY } else { &reason };
            (Answer::Rejected(presentable(reason)), Vec::new())
        }
    };
    match say(&answer, &code) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("writing the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A reason as its author is told it.
pub(crate) fn presentable(reason: &str) -> String {
    // Names in a component can have any characters.
    validate::shown(reason, REASON)
}

fn say(answer: &Answer, code: &[u8]) -> std::io::Result<()> {
    let answer = serde_json::to_vec(answer)?;
    let length = u32::try_from(answer.len()).map_err(std::io::Error::other)?;
    let mut out = std::io::stdout().lock();
    out.write_all(MAGIC)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&answer)?;
    out.write_all(code)?;
    out.flush()
}

/// Everything that can be wrong with an upload, in the order in which an author meets it.
pub(crate) fn check_and_compile(engine: &Engine, wasm: &[u8]) -> Result<Compiled, String> {
    check_kind(wasm)?;
    instances::check(wasm)?;
    // Names are read first, and told first: where an import is foreign, what the validator says
    // about its types helps nobody.
    let foreign = foreign_import(wasm);
    let component = compiled(engine, wasm).map_err(|error| match &foreign {
        Some(refused) => format!("the component {refused}"),
        None => format!("the component is not valid: {error}"),
    })?;
    let imports = runtime::functional_imports(engine, &component);
    if imports.len() > MAX_IMPORTS {
        let count = imports.len();
        return Err(format!(
            "the component has {count} imports; at most {MAX_IMPORTS} are allowed"
        ));
    }
    Grants::all()
        .check(imports.iter().map(String::as_str))
        .map_err(|refused| format!("the component {refused}"))?;
    exports::check(engine, &component)?;
    let linker = runtime::linker(engine, &Grants::all()).map_err(|error| innermost(&error))?;
    let pre = linker.instantiate_pre(&component).map_err(|error| {
        format!("the component's imports do not match this version of the host: {error:#}")
    })?;
    SkillPre::new(pre)
        .map_err(|error| format!("the component's exports do not match: {error:#}"))?;

    let mut capabilities: Vec<Capability> = imports
        .iter()
        .filter_map(|name| match Import::of(name) {
            Ok(Import::Capability(capability)) => Some(capability),
            _ => None,
        })
        .collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    let artifact = component.serialize().map_err(|error| innermost(&error))?;
    Ok(Compiled { artifact, imports, capabilities, fingerprint: engine::fingerprint(engine) })
}

/// Compiles what [`interruptible`] makes of the component. What is wrong with it is told of the
/// component as it was sent, whose offsets its author can look up.
fn compiled(engine: &Engine, wasm: &[u8]) -> Result<Component, String> {
    interruptible(wasm)
        .and_then(|rewritten| Component::new(engine, rewritten).map_err(|error| innermost(&error)))
        .map_err(|rewritten| match Component::new(engine, wasm) {
            Err(sent) => innermost(&sent),
            Ok(_) => rewritten,
        })
}

fn check_kind(wasm: &[u8]) -> Result<(), String> {
    if wasm.is_empty() {
        return Err("the file is empty".into());
    }
    if wasm.len() > MAX_COMPONENT {
        return Err(format!("the component has more than {MAX_COMPONENT} bytes"));
    }
    if wasmparser::Parser::is_component(wasm) {
        return Ok(());
    }
    if wasmparser::Parser::is_core_wasm(wasm) {
        return Err("the file is a core WebAssembly module, not a component: build it with \
                    `eve skill build`, or for a target that makes components, such as \
                    `wasm32-wasip2`"
            .into());
    }
    if wasm.starts_with(b"\0asm") {
        return Err("the file is WebAssembly of a version that is neither a module's nor a \
                    component's"
            .into());
    }
    let text = wasm.trim_ascii_start();
    if text.starts_with(b"(component") || text.starts_with(b"(module") || text.starts_with(b";;") {
        return Err(
            "the file is WebAssembly as text; skills are uploaded as binary components".into()
        );
    }
    Err("the file is not a WebAssembly component".into())
}

/// The first of the component's own imports that is not one of ours.
fn foreign_import(wasm: &[u8]) -> Option<RefusedImport> {
    let mut nesting = 0_usize;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            wasmparser::Payload::ComponentSection { .. }
            | wasmparser::Payload::ModuleSection { .. } => nesting += 1,
            wasmparser::Payload::End(_) => nesting = nesting.saturating_sub(1),
            wasmparser::Payload::ComponentImportSection(imports) if nesting == 0 => {
                for import in imports {
                    if let Err(refused) = Import::of(import.ok()?.name.name) {
                        return Some(refused);
                    }
                }
            }
            _ => {}
        }
    }
    None
}

fn innermost(error: &wasmtime::Error) -> String {
    error.root_cause().to_string()
}

fn describe(error: engine::EngineError) -> String {
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

/// Where uploads become something that a worker can run.
#[derive(Clone)]
pub struct Workshop {
    /// Our own binary.
    pub exe: PathBuf,
    /// Vouches for what was compiled.
    pub signer: Arc<Signer>,
    /// Where artifacts are kept and mapped from.
    pub cache: Arc<ArtifactCache>,
    /// The engine that an artifact must fit.
    pub runtime: Runtime,
}

/// A component ready to be stored: everything that goes into the database about its machine code.
#[derive(Clone, Debug)]
pub struct Built {
    /// What is vouched for.
    pub claim: Claim,
    /// The machine code, packed.
    pub packed: Vec<u8>,
    /// Its imports that bring functions.
    pub imports: Vec<String>,
    /// What it must be granted to run.
    pub capabilities: Vec<Capability>,
}

impl Workshop {
    /// Checks, compiles, signs and packs a component, and loads it once to see that it fits.
    pub async fn build(&self, wasm: Bytes) -> Result<Built, CompileError> {
        let compiled = compile(&wasm, &self.exe).await?;
        if compiled.fingerprint != self.runtime.fingerprint() {
            return Err(CompileError::Artifact(ArtifactError::Fingerprint {
                artifact: compiled.fingerprint,
                runtime: self.runtime.fingerprint().to_owned(),
            }));
        }
        let Self { signer, cache, runtime, .. } = self.clone();
        let fit = move || -> Result<Built, CompileError> {
            let Compiled { artifact, imports, capabilities, fingerprint } = compiled;
            let claim = signer.sign(Statement::about(&artifact, &wasm, &fingerprint));
            let packed = artifact::pack(&artifact)?;
            cache.put(&claim, &packed)?;
            let unfit = |error: &wasmtime::Error| {
                CompileError::Rejected(format!(
                    "the component does not fit into a worker: {}",
                    innermost(error)
                ))
            };
            let artifact = match cache.get(&runtime, &claim) {
                Ok(Some(artifact)) => artifact,
                Ok(None) => return Err(ArtifactError::Content("it was gone at once").into()),
                Err(ArtifactError::Load(error)) => return Err(unfit(&error)),
                Err(error) => return Err(error.into()),
            };
            match runtime.load(&artifact, &Grants::all()) {
                Ok(_) => Ok(Built { claim, packed, imports, capabilities }),
                Err(LoadError::Refused(refused)) => {
                    Err(CompileError::Rejected(format!("the component {refused}")))
                }
                Err(LoadError::Unfit(error)) => Err(unfit(&error)),
            }
        };
        // Packing and hashing take up to seconds.
        match tokio::task::spawn_blocking(fit).await {
            Ok(built) => built,
            Err(error) => {
                Err(CompileError::Child("has compiled what crashed us", Some(error.into())))
            }
        }
    }
}
