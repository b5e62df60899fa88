//! The wasmtime engines: a pooling one that runs skills, and one of the same compile-relevant
//! settings for the child process that compiles them.
//!
//! Every setting was measured; the figures are microseconds for one no-op run on one and on two
//! threads of the reference machine, unless they say otherwise.

use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher};
use std::num::NonZeroUsize;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, ModuleVersionStrategy,
    OptLevel, PoolingAllocationConfig, WasmFeatures,
};

use super::limits;
use crate::skills::compile::interruptible;

/// The wasmtime that compiles and runs skills. A test compares it with `Cargo.lock`.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// What machine code is made for. A fixed baseline without the features of the machine at hand, so
/// that one artifact serves a mixed fleet (costs 272 us instead of 265 on 100 KB of JSON).
#[cfg(target_arch = "x86_64")]
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What machine code is made for; see the other architecture.
#[cfg(target_arch = "aarch64")]
pub const TARGET: &str = "aarch64-unknown-linux-gnu";

/// How often the epoch advances, and so how soon a spinning guest is looked at.
pub const TICK: Duration = Duration::from_millis(10);

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making the wasmtime engine")]
pub struct EngineError(#[source] wasmtime::Error);

/// What decides machine code: the two engines share it to the letter.
fn base() -> Result<Config, EngineError> {
    let mut config = Config::new();
    config.target(TARGET).map_err(EngineError)?;
    config.cranelift_opt_level(OptLevel::Speed);
    // Refuses an artifact of another wasmtime patch version or another build of ours. The
    // signature says the same; this holds even where somebody forgets to look at it.
    config.module_version(ModuleVersionStrategy::Custom(build())).map_err(EngineError)?;

    config.epoch_interruption(true);
    // 12.1/12.5 with it, 9.4/9.9 without; nothing that we link needs it.
    config.concurrency_support(false);
    config.max_wasm_stack(limits::WASM_STACK);
    // Deep enough to tell runaway recursion from a stray access; walked only when a guest traps.
    config.wasm_backtrace_max_frames(NonZeroUsize::new(limits::BACKTRACE_FRAMES));
    config.async_stack_size(limits::FIBER_STACK);
    // A guest's stack never shows the next guest what was on it.
    config.async_stack_zeroing(true);

    // What wasmtime turns on by default and no guest language needs is attack surface. Extended
    // const expressions and multi-value stay: Python needs them.
    for unused in [
        WasmFeatures::MEMORY64,
        WasmFeatures::MULTI_MEMORY,
        WasmFeatures::TAIL_CALL,
        WasmFeatures::RELAXED_SIMD,
        WasmFeatures::CM_ASYNC,
        WasmFeatures::THREADS,
        WasmFeatures::GC,
        WasmFeatures::FUNCTION_REFERENCES,
        WasmFeatures::EXCEPTIONS,
    ] {
        config.wasm_features(unused, false);
    }
    Ok(config)
}

/// The engine that runs skills: `slots` runs at a time.
///
/// Reserves terabytes of address space, so there is one per process, and none in a process with a
/// limited address space.
pub fn pooling(slots: u32) -> Result<Engine, EngineError> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        .max_memories_per_component(limits::MEMORIES_PER_COMPONENT)
        .total_memories(slots.saturating_mul(limits::MEMORIES_PER_COMPONENT))
        // Fewer warm slots than hot skills cost 33-132 us a run.
        .max_unused_warm_slots(slots.saturating_mul(limits::MEMORIES_PER_COMPONENT))
        .max_core_instances_per_component(limits::CORE_INSTANCES_PER_COMPONENT)
        .total_core_instances(slots.saturating_mul(limits::CORE_INSTANCES_PER_COMPONENT))
        .max_tables_per_component(limits::TABLES_PER_COMPONENT)
        .total_tables(slots.saturating_mul(limits::TABLES_PER_COMPONENT))
        .table_elements(limits::TABLE_ELEMENTS)
        .max_component_instance_size(limits::INSTANCE_SIZE)
        .max_core_instance_size(limits::INSTANCE_SIZE)
        .max_memory_size(limits::MEMORY_CEILING)
        // 100 KB of JSON: 457 -> 265 us. Costs up to 2 MiB of memory per slot that was ever used.
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(32 << 10)
        // Batches of 16 held 3.85 GiB of dead memory.
        .decommit_batch_size(1);

    // 35/100 without keeping pages, 28/100 with, 12/13 with the kernel telling which are dirty.
    let engine = |pool: &mut PoolingAllocationConfig, pagemap_scan| {
        let mut config = base()?;
        pool.pagemap_scan(pagemap_scan);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool.clone()));
        Engine::new(&config).map_err(EngineError)
    };
    // `Auto` would not say which it was.
    engine(&mut pool, Enabled::Yes).or_else(|_| {
        let engine = engine(&mut pool, Enabled::No)?;
        tracing::warn!(
            "this kernel has no PAGEMAP_SCAN (Linux 6.7 and later do): \
             short runs take two to eight times as long"
        );
        Ok(engine)
    })
}

/// The engine that compiles: same machine code, no pool, one thread (346 MB of address space
/// instead of 490).
pub fn compiling() -> Result<Engine, EngineError> {
    let mut config = base()?;
    config.parallel_compilation(false);
    Engine::new(&config).map_err(EngineError)
}

/// Which builds of ours and of wasmtime make and accept an artifact.
fn build() -> String {
    let (eve, revision) = (env!("CARGO_PKG_VERSION"), interruptible::REVISION);
    format!("wasmtime-{WASMTIME_VERSION}+eve-{eve}.{revision}")
}

/// Names everything that an artifact depends on: builds, target and wasmtime's compatibility hash.
/// Artifacts of one fingerprint load in every process of that fingerprint, and in no other.
pub fn fingerprint(engine: &Engine) -> String {
    let mut hasher = StableHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let digest = hasher.0.finalize();
    let mut text = format!("{}/{TARGET}/", build());
    for byte in &digest[..16] {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// std's hasher is free to change between compilers; a fingerprint must not.
struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Only `write` is of use here: the digest is taken from the inside.
        0
    }
}

/// Starts the thread that advances the epoch every [`TICK`] for as long as the engine lives.
///
/// A thread of its own: a timer on any executor would be late exactly when a guest hogs it.
pub fn start_ticker(engine: &Engine) -> std::io::Result<()> {
    let engine: EngineWeak = engine.weak();
    std::thread::Builder::new().name("eve-epoch".into()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_compiles_fits_what_the_worker_runs() {
        let pooling = pooling(2).unwrap();
        let compiling = compiling().unwrap();
        assert_eq!(fingerprint(&pooling), fingerprint(&compiling));
    }

    #[test]
    fn fingerprints_name_the_wasmtime_that_is_linked() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&entry), "Cargo.lock has another wasmtime than {WASMTIME_VERSION}");
    }
}
