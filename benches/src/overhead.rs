//! What a run costs beyond wasmtime: [`Runtime::run`], with its limits, metering and threads, beside a
//! bare loop over the same component with the same engine settings. SQL has no part in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eve_host::ids::RequestId;
use eve_host::runtime::capabilities::memory_queue::MemoryQueue;
use eve_host::runtime::{Grants, Job, Runtime, RuntimeConfig, Skill, engine};
use eve_host::skills::artifact::{ArtifactCache, Signer, Verifier};
use eve_host::skills::compile::Workshop;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Store};

const RUNS: usize = 100_000;
const SLOTS: u32 = 64;

/// Wall-clock time a run.
pub struct Overhead {
    pub threads: usize,
    pub bare: Duration,
    pub ours: Duration,
}

/// Measures both with as many threads.
pub async fn measure(eve: &Path, wasm: &Path, threads: usize) -> Result<Overhead> {
    let wasm = std::fs::read(wasm).with_context(|| format!("reading {}", wasm.display()))?;
    let bare = bare(&wasm, threads)?;
    let ours = ours(eve, wasm, threads).await?;
    Ok(Overhead { threads, bare, ours })
}

fn bare(wasm: &[u8], threads: usize) -> Result<Duration> {
    let engine = engine::pooling(SLOTS)?;
    engine::start_ticker(&engine)?;
    let component = Component::new(&engine, wasm)?;
    let mut linker: Linker<()> = Linker::new(&engine);
    linker.define_unknown_imports_as_traps(&component)?;
    let pre = Arc::new(linker.instantiate_pre(&component)?);
    bare_run(&engine, &pre)?;
    let started = Instant::now();
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let (engine, pre) = (engine.clone(), pre.clone());
            std::thread::spawn(move || {
                (0..RUNS / threads).try_for_each(|_| bare_run(&engine, &pre))
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the bare loop panicked"))??;
    }
    Ok(started.elapsed() / RUNS as u32)
}

fn bare_run(engine: &Engine, pre: &InstancePre<()>) -> Result<()> {
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1 << 40);
    futures::executor::block_on(async {
        let instance = pre.instantiate_async(&mut store).await?;
        let handler = instance
            .get_export_index(&mut store, None, "eve:skill/handler@0.1.0")
            .context("no handler")?;
        let run = instance.get_export_index(&mut store, Some(&handler), "run").context("no run")?;
        let run = instance.get_func(&mut store, run).context("run is no function")?;
        let mut results = [wasmtime::component::Val::Bool(false)];
        run.call_async(&mut store, &[], &mut results).await?;
        Ok(())
    })
}

async fn ours(eve: &Path, wasm: Vec<u8>, threads: usize) -> Result<Duration> {
    let runtime = Runtime::new(RuntimeConfig {
        max_concurrent: SLOTS,
        memory_budget: 1 << 30,
        threads,
        io: tokio::runtime::Handle::current(),
    })?;
    let skill = load(eve, &runtime, wasm).await?;
    runtime.run(&skill, job()).await;
    let started = Instant::now();
    // As many askers as keep the guest threads busy.
    let askers: Vec<_> = (0..32)
        .map(|_| {
            let (runtime, skill) = (runtime.clone(), skill.clone());
            tokio::spawn(async move {
                for _ in 0..RUNS / 32 {
                    runtime.run(&skill, job()).await;
                }
            })
        })
        .collect();
    for asker in askers {
        asker.await?;
    }
    Ok(started.elapsed() / RUNS as u32)
}

/// The way of every upload: compiled in a child, signed, verified, mapped.
async fn load(eve: &Path, runtime: &Runtime, wasm: Vec<u8>) -> Result<Skill> {
    let folder = tempfile::tempdir()?;
    let signer = Arc::new(Signer::generate());
    let open = || -> Result<ArtifactCache> {
        let verifier = Verifier::new([signer.public_key().as_str()])?;
        Ok(ArtifactCache::open(&folder.path().join("artifacts"), verifier)?)
    };
    let workshop = Workshop {
        exe: eve.to_owned(),
        signer: signer.clone(),
        cache: Arc::new(open()?),
        runtime: runtime.clone(),
    };
    let built = workshop.build(wasm.into()).await?;
    let artifact = open()?.get(runtime, &built.claim)?.context("the artifact is gone")?;
    Ok(runtime.load(&artifact, &Grants::all())?)
}

fn job() -> Job {
    Job::bare(RequestId::generate(), Arc::new(MemoryQueue::default()))
}
