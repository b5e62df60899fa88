//! Where guests run: threads of their own, with their CPU time metered.
//!
//! Flow: [`Executor::spawn`] takes a run's future to the guest threads. Its epoch callback makes it
//! yield once a tick, so [`Metered`] looks at every run at least every 10 ms: whoever has had 20 ms
//! of CPU time goes on on the threads of lowest priority, whoever has used up its CPU or wall-clock
//! time ends, and so does whoever is not wanted any more.
//!
//! Invariants:
//! - No guest runs on a thread that does I/O, heartbeats or database work.
//! - A hog shares threads with hogs only, so neighbours do not feel it.
//! - A run's future is dropped (its store with it) before its slot is free again.
//! - A panic in a host function ends its own run and nothing else.
//! - A guest thread that does not come back from a run is seen: [`Executor::longest_poll`].

use std::cell::OnceCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Sleep;

use super::engine::TICK;
use super::limits::HOG_AFTER;

/// Whatever a run owns besides its future, released after it: its slot, its share of memory.
pub(super) trait Keep: Send + 'static {
    /// Whether tearing down the future takes long enough to disturb neighbours.
    fn is_heavy(&self) -> bool;
}

/// The guest threads, and those of lowest priority.
pub(super) struct Executor {
    guests: Option<Runtime>,
    hogs: Option<Runtime>,
    watch: Arc<Watch>,
}

/// What each guest thread is at. Hogs are not watched: on a busy machine they wait for as long as others
/// have work.
struct Watch {
    began: Instant,
    threads: Mutex<Vec<Arc<AtomicU64>>>,
}

thread_local! {
    /// Where a guest thread notes since when it has been polling a run, in milliseconds after the
    /// executor's start; 0 while it does not. Other threads have no such place.
    static POLLING: OnceCell<(Instant, Arc<AtomicU64>)> = const { OnceCell::new() };
}

impl Watch {
    /// Makes the calling thread one that is watched.
    fn this_thread(&self) {
        let since = Arc::new(AtomicU64::new(0));
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(since.clone());
        // A thread starts once.
        let _ = POLLING.with(|polling| polling.set((self.began, since)));
    }

    fn now(began: Instant) -> u64 {
        // From 1, so that it is never taken for nothing.
        u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Notes that this thread takes a run up.
fn taken_up() {
    POLLING.with(|polling| {
        if let Some((began, since)) = polling.get() {
            since.store(Watch::now(*began), Ordering::Relaxed);
        }
    });
}

/// Notes that it has put it down again.
fn put_down() {
    POLLING.with(|polling| {
        if let Some((_, since)) = polling.get() {
            since.store(0, Ordering::Relaxed);
        }
    });
}

/// How a run's future ended.
#[derive(Debug)]
pub(super) enum Ended<T> {
    /// By itself.
    Finished(T),
    /// Its wall-clock time was used up.
    TimedOut,
    /// Its CPU time was used up.
    CpuExhausted,
    /// It panicked: a bug of ours, in a host function.
    Panicked,
}

/// How a run's future ended, and what it had used.
#[derive(Debug)]
pub(super) struct Outcome<T> {
    pub(super) ended: Ended<T>,
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
}

impl Executor {
    /// `threads` threads for guests, and one less for hogs, if there is more than one: with a spinning
    /// guest on every core whoever is woken waits for one of them to be put aside, and the p95 of a small
    /// request more than doubles, however low the priority; with a core to spare it does not.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let watch = Arc::new(Watch { began: Instant::now(), threads: Mutex::default() });
        let watched = watch.clone();
        let guests = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("eve-guest")
            .enable_time()
            .on_thread_start(move || watched.this_thread())
            .build()?;
        let hogs = Builder::new_multi_thread()
            .worker_threads(threads.saturating_sub(1).max(1))
            .thread_name("eve-hog")
            .enable_time()
            // Every task here runs for a whole tick: timers and newcomers are looked at each time.
            .event_interval(1)
            .global_queue_interval(1)
            .on_thread_start(|| {
                if let Err(error) = step_back() {
                    tracing::warn!(%error, "hogs run at normal priority and may delay others");
                }
            })
            .build()?;
        Ok(Self { guests: Some(guests), hogs: Some(hogs), watch })
    }

    /// For how long the guest thread that is slowest to come back has been at one poll. Guests are
    /// interrupted every tick, so what takes much longer is a host function that blocks, or an epoch
    /// that does not advance any more.
    pub(super) fn longest_poll(&self) -> Duration {
        let now = Watch::now(self.watch.began);
        let threads = self.watch.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let since = threads.iter().map(|since| since.load(Ordering::Relaxed));
        let oldest = since.filter(|since| *since > 0).min();
        Duration::from_millis(oldest.map_or(0, |since| now.saturating_sub(since)))
    }

    /// Runs `future` within the limits. Dropping the receiver cancels it.
    pub(super) fn spawn<F, K>(
        &self,
        future: F,
        keep: K,
        permit: OwnedSemaphorePermit,
        wall: Duration,
        cpu: Duration,
    ) -> oneshot::Receiver<Outcome<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        K: Keep,
    {
        let (reply, receiver) = oneshot::channel();
        let (Some(guests), Some(hogs)) = (&self.guests, &self.hogs) else {
            // Only while being dropped; the receiver sees the closed channel.
            return receiver;
        };
        let run = Metered {
            future: Some(Box::pin(future)),
            reply: Some(reply),
            meter: Meter::new(wall, cpu),
            alarm: None,
            hogs: hogs.handle().clone(),
            on_hogs: false,
            keep: Some((keep, permit)),
        };
        guests.spawn(run);
        receiver
    }
}

/// Has the calling thread run when no other wants to.
///
/// Niceness alone leaves it its time slice, which is milliseconds that whoever has just been woken waits
/// for; a thread of the idle class gives way at once (sched(7), `SCHED_IDLE`).
fn step_back() -> std::io::Result<()> {
    // On Linux this is the calling thread's priority alone.
    rustix::process::setpriority_process(None, 19)?;
    #[cfg(target_os = "linux")]
    {
        let priority = libc::sched_param { sched_priority: 0 };
        // SAFETY: it reads the structure and keeps no pointer to it; 0 is the calling thread.
        if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Dropping a runtime inside another one panics, and waiting for a spinning guest would take
        // until its next tick: leave the threads to end by themselves.
        for runtime in [self.guests.take(), self.hogs.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// What a run has used, and what it may use.
struct Meter {
    wall_limit: Duration,
    cpu_limit: Duration,
    started: Option<Instant>,
    cpu: Duration,
    /// Whether the thread's CPU clock is asked: two system calls a poll, so not before the run has
    /// lived through a tick.
    precise: bool,
}

/// Where a clock stood when a poll began.
enum Mark {
    Wall(Instant),
    Cpu(Duration),
}

impl Meter {
    fn new(wall_limit: Duration, cpu_limit: Duration) -> Self {
        Self { wall_limit, cpu_limit, started: None, cpu: Duration::ZERO, precise: false }
    }

    fn begin(&mut self) -> Mark {
        let now = Instant::now();
        self.started.get_or_insert(now);
        if self.precise { Mark::Cpu(thread_cpu()) } else { Mark::Wall(now) }
    }

    fn end(&mut self, mark: Mark) -> Instant {
        let now = Instant::now();
        match mark {
            Mark::Cpu(before) => self.cpu += thread_cpu().saturating_sub(before),
            Mark::Wall(before) => {
                let wall = now - before;
                // An upper bound: the thread may have been preempted, but a guest is interrupted
                // at the next tick of its own.
                self.cpu += wall.min(TICK);
                if self.cpu >= TICK / 2 {
                    self.precise = true;
                }
            }
        }
        now
    }

    fn wall(&self, now: Instant) -> Duration {
        self.started.map_or(Duration::ZERO, |started| now - started)
    }
}

fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// A run's future with everything that watches over it.
struct Metered<F, K>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    K: Keep,
{
    future: Option<Pin<Box<F>>>,
    reply: Option<oneshot::Sender<Outcome<F::Output>>>,
    meter: Meter,
    /// Wakes the run when its wall-clock time is used up. Set only when it first waits.
    alarm: Option<Pin<Box<Sleep>>>,
    hogs: Handle,
    on_hogs: bool,
    keep: Option<(K, OwnedSemaphorePermit)>,
}

// Nothing in it is pinned in place: future and alarm have boxes of their own.
impl<F, K> Unpin for Metered<F, K>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    K: Keep,
{
}

impl<F, K> Future for Metered<F, K>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    K: Keep,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let run = self.get_mut();
        let (Some(future), Some(reply)) = (&mut run.future, &mut run.reply) else {
            return Poll::Ready(());
        };
        if reply.poll_closed(cx).is_ready() {
            // Nobody waits for it any more; `Drop` does the rest.
            return Poll::Ready(());
        }

        let mark = run.meter.begin();
        taken_up();
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        put_down();
        let now = run.meter.end(mark);
        let wall = run.meter.wall(now);

        let ended = match polled {
            Err(_panic) => Ended::Panicked,
            Ok(Poll::Ready(output)) => Ended::Finished(output),
            Ok(Poll::Pending) if run.meter.cpu >= run.meter.cpu_limit => Ended::CpuExhausted,
            Ok(Poll::Pending) if wall >= run.meter.wall_limit => Ended::TimedOut,
            Ok(Poll::Pending) if !run.on_hogs && run.meter.cpu >= HOG_AFTER => {
                run.move_to_hogs();
                return Poll::Ready(());
            }
            Ok(Poll::Pending) => {
                let left = run.meter.wall_limit - wall;
                let alarm = run.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                Ended::TimedOut
            }
        };
        let outcome = Outcome { ended, wall, cpu: run.meter.cpu };
        if let Some(reply) = run.reply.take() {
            // Whoever asked may have gone meanwhile, which is fine.
            let _ = reply.send(outcome);
        }
        Poll::Ready(())
    }
}

impl<F, K> Metered<F, K>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    K: Keep,
{
    fn move_to_hogs(&mut self) {
        let moved = Metered {
            future: self.future.take(),
            reply: self.reply.take(),
            meter: std::mem::replace(&mut self.meter, Meter::new(Duration::ZERO, Duration::ZERO)),
            // Timers belong to the threads they were made on.
            alarm: None,
            hogs: self.hogs.clone(),
            on_hogs: true,
            keep: self.keep.take(),
        };
        self.hogs.spawn(moved);
    }
}

impl<F, K> Drop for Metered<F, K>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    K: Keep,
{
    fn drop(&mut self) {
        let (Some(future), Some((keep, permit))) = (self.future.take(), self.keep.take()) else {
            return;
        };
        let heavy = keep.is_heavy();
        // The order matters: the store goes first, its slot is free last.
        let tear_down = move || {
            drop(future);
            drop(keep);
            drop(permit);
        };
        if heavy && !self.on_hogs {
            self.hogs.spawn(async move { tear_down() });
        } else {
            tear_down();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Keep for Nothing {
        fn is_heavy(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_thread_that_does_not_come_back_is_seen() {
        let executor = Executor::start(2).unwrap();
        let slots = Arc::new(tokio::sync::Semaphore::new(1));
        let permit = slots.acquire_owned().await.unwrap();
        assert_eq!(executor.longest_poll(), Duration::ZERO);
        let (release, released) = std::sync::mpsc::channel::<()>();
        // As a host function would that waits for a lock which nobody gives back.
        let blocking = async move { released.recv().is_ok() };
        let hour = Duration::from_secs(3600);
        let ended = executor.spawn(blocking, Nothing, permit, hour, hour);
        while executor.longest_poll() < Duration::from_millis(50) {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        assert!(matches!(ended.await.unwrap().ended, Ended::Finished(true)));
        while executor.longest_poll() > Duration::ZERO {
            tokio::task::yield_now().await;
        }
    }
}
