//! Every limit of a run, once, with its reason; what counts a guest's memory; and the budget that
//! all guests of a process share.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use wasmtime::ResourceLimiter;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

// --- Per run, by default; a worker type may set others within the operator's ceiling ---

/// Wall clock of a run, waiting for the host included. A skill that needs longer than five minutes
/// wants to return `waiting`.
pub const WALL: Duration = Duration::from_secs(300);
/// CPU time of a run. A thousand times what a JSON-sized job takes.
pub const CPU: Duration = Duration::from_secs(10);
/// All linear memories and tables of a run together.
pub const MEMORY: usize = 256 * MIB;
/// The most that [`Limits::memory`] can be: the size of a slot in the pool, which is address space
/// only and free.
pub const MEMORY_CEILING: usize = 256 * MIB;

// --- Fixed: properties of the engine ---

/// Frames of a trapped guest that are looked at.
pub const BACKTRACE_FRAMES: usize = 256;
/// The guest's stack. Python's interpreter recurses to about 300 KiB.
pub const WASM_STACK: usize = 512 * KIB;
/// The fiber that a guest and the host functions that it calls run on: the difference to
/// [`WASM_STACK`] is the host's headroom.
pub const FIBER_STACK: usize = MIB;
/// Linear memories of one component: the guest's own, and its WASI adapter's.
pub const MEMORIES_PER_COMPONENT: u32 = 2;
/// Core instances of one component: Rust has 3-4, JavaScript 3-4, Python 14-38.
pub const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
/// Tables of one component.
pub const TABLES_PER_COMPONENT: u32 = 8;
/// Elements of one table; JavaScript needs 7,690.
pub const TABLE_ELEMENTS: usize = 20_000;
/// wasmtime's own data about one instance: JavaScript 215 KB, Python 411 KB.
pub const INSTANCE_SIZE: usize = MIB;

// --- Fixed: what crosses from guest to host ---

/// One string or list that a guest passes. Past it the call returns an error.
pub const STRING: usize = MIB;
/// Everything that a guest passes in one call. Past it the guest traps: the host must not allocate
/// it first in order to refuse it. Must exceed [`STRING`] and [`OUTPUT_DATA`].
pub const HOSTCALL_FUEL: usize = 4 * MIB;
/// Host resources (streams, pollables) of one run; past it the guest traps.
pub const RESOURCES: usize = 256;
/// Handles, which a guest can make without the host noticing; past it the guest traps.
pub const HANDLES: usize = 1_024;
/// Random bytes of one call. Seeds and keys are tens of bytes; wasmtime-wasi's own default would
/// let a guest allocate 64 MiB at a time in the host.
pub const RANDOM: u64 = 64 * KIB as u64;

/// Everything that a run asks for and that is kept until it commits.
pub const EFFECTS: usize = 8 * MIB;
/// Requests that one run may create: one commit must stay a commit.
pub const CREATES: usize = 10_000;
/// Questions that one run may put to people, who have to read them.
pub const QUESTIONS: usize = 100;
/// Timers that one run may set: one name stands for one thing that the skill waits for, and each
/// costs a row that a duty looks at.
pub const TIMERS: usize = 100;
/// The name of a timer, in characters.
pub const TIMER_NAME_CHARS: usize = 255;
/// Changes of deployments that one run may ask for: each is a revision, and somebody looks at it.
pub const DEPLOYS: usize = 100;
/// Deployments of one answer: as many as the control plane is made to look after.
pub const DEPLOYMENTS: usize = 1_000;
/// When a timer may go off: not before a second, because a skill that wakes itself faster than that
/// is a loop; and within 365 days, like a request's delay.
pub const TIMER: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3_600);
/// What the host returns to a guest in one call of the queue: as much as a run may ask for.
pub const QUEUE_ANSWER: usize = 8 * MIB;
/// Entries of a list that the host returns to a guest.
pub const LIST: usize = 100;
/// Steps of comparing a filter with the run's own requests, in one `list`: a filter and a context
/// of a megabyte each could otherwise keep the host busy for minutes.
pub const CONTAINMENT_STEPS: usize = 200_000;

/// Lines of a run's log.
pub const LOG_LINES: usize = 1_000;
/// Bytes of a run's log, fields included.
pub const LOG_BYTES: usize = 256 * KIB;
/// One line; longer ones are cut.
pub const LOG_LINE: usize = 16 * KIB;
/// Name-value pairs of one line; more are cut.
pub const LOG_FIELDS: usize = 64;

/// The output's text for people.
pub const OUTPUT_SUMMARY: usize = 64 * KIB;
/// The output's data for programs.
pub const OUTPUT_DATA: usize = MIB;
/// The message of a failure; longer ones are cut. It is written to several tables.
pub const MESSAGE: usize = 8 * KIB;

// --- Fixed: scheduling ---

/// CPU time after which a run moves to the threads of lowest priority. Measured: neighbours' p95
/// stays at 0.35 ms beside eight spinning guests; yielding among neighbours gave 27 to 590 ms.
pub const HOG_AFTER: Duration = Duration::from_millis(20);
/// Memory past which a finished run's store is torn down by the low-priority threads: 256 MiB of
/// dirty pages take 32 ms.
pub const HEAVY_TEARDOWN: usize = 8 * MIB;

/// What one run may use. What is not here is the same for every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall clock, waiting for the host included.
    pub wall: Duration,
    /// CPU time.
    pub cpu: Duration,
    /// Bytes of all linear memories and tables together; at most [`MEMORY_CEILING`] of any one
    /// memory can ever be had.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { wall: WALL, cpu: CPU, memory: MEMORY }
    }
}

/// Bytes that all guests of this process may have together, so that eight large guests never take
/// a pod down.
///
/// Half of it is shared out among the slots: whatever a run has of its share, no other can take. The
/// other half is for whoever comes first. So the greedy can keep each other, and never the modest,
/// from running.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    inner: Arc<Budget>,
}

#[derive(Debug)]
struct Budget {
    total: usize,
    /// What each account has to itself.
    share: usize,
    /// What all accounts have together, within and beyond their shares.
    used: AtomicUsize,
    /// What is left beyond the shares.
    common: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `total` bytes for as many accounts at a time as there are slots.
    pub fn new(total: usize, slots: usize) -> Self {
        let share = total / 2 / slots.max(1);
        let common = AtomicUsize::new(total - share * slots);
        Self { inner: Arc::new(Budget { total, share, used: AtomicUsize::new(0), common }) }
    }

    /// Bytes that guests have now.
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// Bytes that they may have.
    pub fn total(&self) -> usize {
        self.inner.total
    }

    /// Of `bytes` that an account holds, what is not its share.
    fn beyond(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.inner.share)
    }

    /// Makes an account that holds `held` one that holds `wanted`, if there is as much.
    fn take(&self, held: usize, wanted: usize) -> bool {
        let more = self.beyond(wanted) - self.beyond(held);
        let took = self
            .inner
            .common
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more));
        if took.is_err() {
            return false;
        }
        self.inner.used.fetch_add(wanted - held, Ordering::Relaxed);
        true
    }

    /// The opposite.
    fn give_back(&self, held: usize, left: usize) {
        let less = self.beyond(held) - self.beyond(left);
        self.inner.common.fetch_add(less, Ordering::Relaxed);
        self.inner.used.fetch_sub(held - left, Ordering::Relaxed);
    }
}

/// Who said no to a guest that wanted more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The run's own limit.
    Limit,
    /// The budget of the process: elsewhere, or later, the run would have had it.
    Budget,
}

/// What one run has of the budget. It outlives the store, and gives back when it is dropped.
#[derive(Debug)]
pub struct MemoryAccount {
    budget: MemoryBudget,
    limit: usize,
    held: AtomicUsize,
    peak: AtomicUsize,
    refusal: AtomicU8,
}

impl MemoryAccount {
    /// An empty account of a run that may have `limit` bytes.
    pub fn open(budget: &MemoryBudget, limit: usize) -> Self {
        Self {
            budget: budget.clone(),
            limit,
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            refusal: AtomicU8::new(0),
        }
    }

    /// The most that the run may have, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The most that the run had at one time, in bytes.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// The last refusal, if there was one.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.refusal.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Refusal::Limit),
            _ => Some(Refusal::Budget),
        }
    }

    // Only the run's own store writes, from one thread at a time: plain loads and stores do.
    fn take(&self, bytes: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        match held.checked_add(bytes) {
            Some(wanted) if wanted <= self.limit => {
                if !self.budget.take(held, wanted) {
                    self.refusal.store(2, Ordering::Relaxed);
                    return false;
                }
                self.held.store(wanted, Ordering::Relaxed);
                if wanted > self.peak.load(Ordering::Relaxed) {
                    self.peak.store(wanted, Ordering::Relaxed);
                }
                true
            }
            _ => {
                self.refuse();
                false
            }
        }
    }

    fn refuse(&self) {
        self.refusal.store(1, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed);
        let left = held.saturating_sub(bytes);
        self.held.store(left, Ordering::Relaxed);
        self.budget.give_back(held, left);
    }
}

impl Drop for MemoryAccount {
    fn drop(&mut self) {
        self.budget.give_back(*self.held.get_mut(), 0);
    }
}

/// Sums a store's memories and tables into a [`MemoryAccount`].
///
/// Synchronous on purpose: wasmtime's asynchronous limiter costs a fiber switch a growth.
pub struct StoreLimiter {
    account: Arc<MemoryAccount>,
    /// What was granted last, in case wasmtime cannot make it real.
    last: usize,
}

impl StoreLimiter {
    /// Counts into `account`.
    pub fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, last: 0 }
    }

    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        unit: usize,
    ) -> bool {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.account.refuse();
            return false;
        }
        let bytes = desired.saturating_sub(current).saturating_mul(unit);
        let granted = self.account.take(bytes);
        if granted {
            self.last = bytes;
        }
        granted
    }

    fn undo(&mut self) {
        self.account.give_back(std::mem::take(&mut self.last));
        self.account.refuse();
    }
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, 1))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, size_of::<usize>()))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(budget: &MemoryBudget, limit: usize) -> (Arc<MemoryAccount>, StoreLimiter) {
        let account = Arc::new(MemoryAccount::open(budget, limit));
        (account.clone(), StoreLimiter::new(account))
    }

    #[test]
    fn memories_and_tables_count_together() {
        let budget = MemoryBudget::new(1_000_000, 1);
        let (account, mut limiter) = account(&budget, 1_000);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.table_growing(0, 25, None).unwrap());
        assert!(!limiter.table_growing(25, 26, None).unwrap());
        assert_eq!(account.refusal(), Some(Refusal::Limit));
        assert_eq!(account.peak(), 1_000);
        assert_eq!(budget.used(), 1_000);
        drop((account, limiter));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_budget_refuses_in_its_own_name() {
        // A quarter for each of two, and half for whoever comes first.
        let budget = MemoryBudget::new(400, 2);
        let (first, mut a) = account(&budget, 1_000);
        let (second, mut b) = account(&budget, 1_000);
        assert!(a.memory_growing(0, 300, None).unwrap());
        assert!(!a.memory_growing(300, 301, None).unwrap());
        assert_eq!(first.refusal(), Some(Refusal::Budget));
        assert!(b.memory_growing(0, 100, None).unwrap());
        assert!(!b.memory_growing(100, 101, None).unwrap());
        assert_eq!(second.refusal(), Some(Refusal::Budget));
        assert_eq!(budget.used(), 400);
        drop((first, a));
        assert!(b.memory_growing(100, 300, None).unwrap());
        drop((second, b));
        assert_eq!(budget.used(), 0);
        let (_, mut c) = account(&budget, 1_000);
        assert!(c.memory_growing(0, 300, None).unwrap());
    }

    #[test]
    fn what_could_not_be_made_real_is_given_back() {
        let budget = MemoryBudget::new(1_000, 1);
        let (account, mut limiter) = account(&budget, 1_000);
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(budget.used(), 0);
        assert_eq!(account.refusal(), Some(Refusal::Limit));
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert_eq!(budget.used(), 0);
    }
}
