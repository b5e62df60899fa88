//! What has happened so far, counted and shown.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::watch;

/// How often a line says how things stand.
const EVERY: Duration = Duration::from_secs(5);

/// What enemies do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    KillWorker,
    KillServer,
    PauseWorker,
    PauseServer,
    Drain,
    Cut,
    Crash,
}

impl Blow {
    pub const ALL: [(Blow, &str); 7] = [
        (Blow::KillWorker, "worker kills"),
        (Blow::KillServer, "control plane kills"),
        (Blow::PauseWorker, "worker stops"),
        (Blow::PauseServer, "control plane stops"),
        (Blow::Drain, "drains"),
        (Blow::Cut, "connections cut"),
        (Blow::Crash, "Postgres crashes"),
    ];
}

/// The counts of a run, and what was found to be wrong on the way.
pub struct Tally {
    began: Instant,
    blows: [AtomicU64; Blow::ALL.len()],
    /// Rows of `eve.requests`, as last seen.
    requests: AtomicU64,
    ended: AtomicU64,
    open: AtomicU64,
    repeats: AtomicU64,
    answers: AtomicU64,
    findings: Mutex<Vec<String>>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally {
            began: Instant::now(),
            blows: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            open: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            findings: Mutex::new(Vec::new()),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn struck(&self, blow: Blow) {
        self.struck_times(blow, 1);
    }

    pub fn struck_times(&self, blow: Blow, times: u64) {
        self.blows[blow as usize].fetch_add(times, Ordering::Relaxed);
    }

    fn blows(&self, blow: Blow) -> u64 {
        self.blows[blow as usize].load(Ordering::Relaxed)
    }

    /// Blows that should have fallen several times during an attack of this length, and never did:
    /// what holds then was not put to the proof.
    pub fn missed(&self, attack: Duration, every: [(Blow, f64); Blow::ALL.len()]) -> Vec<String> {
        let missed = every.into_iter().filter(|(blow, every)| {
            *every > 0.0 && attack.as_secs_f64() > 3.0 * every && self.blows(*blow) == 0
        });
        missed
            .map(|(blow, _)| format!("no {} in all the attack", Blow::ALL[blow as usize].1))
            .collect()
    }

    /// Processes that were killed by SIGKILL.
    pub fn kills(&self) -> u64 {
        self.blows(Blow::KillWorker) + self.blows(Blow::KillServer)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A call that had to be made again.
    pub fn repeated(&self) {
        self.repeats.fetch_add(1, Ordering::Relaxed);
    }

    /// A question that was answered.
    pub fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that somebody could work on, or that wait for such.
    pub fn open(&self) -> i64 {
        self.open.load(Ordering::Relaxed) as i64
    }

    /// Requests that have ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Something is wrong: said at once, and part of the verdict.
    pub fn found(&self, finding: String) {
        eprintln!("BROKEN: {finding}");
        let mut findings = self.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        findings.push(finding);
    }

    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// So much is wrong that going on would only bury it.
    pub fn hopeless(&self) -> bool {
        !self.findings().is_empty()
    }

    /// Looks at the database.
    pub async fn look(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        // What waits or is scheduled costs nobody anything.
        let (requests, queued, open): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM eve.requests), count(*),
                    count(*) FILTER (WHERE status NOT IN ('waiting', 'scheduled'))
               FROM eve.queue",
        )
        .fetch_one(pool)
        .await?;
        self.requests.store(requests as u64, Ordering::Relaxed);
        self.ended.store(requests.saturating_sub(queued) as u64, Ordering::Relaxed);
        self.open.store(open as u64, Ordering::Relaxed);
        Ok(())
    }

    fn line(&self) -> String {
        let blows: Vec<String> = Blow::ALL
            .iter()
            .filter(|(blow, _)| self.blows(*blow) > 0)
            .map(|(blow, name)| format!("{} {name}", self.blows(*blow)))
            .collect();
        format!(
            "{:>5} s: {} requests, {} ended, {} to do; {} calls repeated, {} questions answered; {}",
            self.elapsed().as_secs(),
            self.requests(),
            self.ended(),
            self.open(),
            self.repeats.load(Ordering::Relaxed),
            self.answers.load(Ordering::Relaxed),
            if blows.is_empty() { "no harm done".to_owned() } else { blows.join(", ") }
        )
    }

    /// The last word about the counts.
    pub async fn summary(&self, pool: &PgPool) -> Result<String, sqlx::Error> {
        self.look(pool).await?;
        let (runs, rescued, lost, wakeups, told): (i64, i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM eve.orchestration_results WHERE started_at IS NOT NULL)
                    + (SELECT count(*) FROM eve.attempts WHERE kind IN ('failed', 'waited', 'retried')
                                                           AND started_at IS NOT NULL),
                    (SELECT count(*) FROM eve.attempts WHERE kind = 'rescued'),
                    (SELECT count(*) FROM eve.orchestration_results WHERE error_code = 'worker_lost'),
                    (SELECT count(*) FROM eve.requests WHERE orchestration_id <> id),
                    (SELECT count(*) FROM eve.inbox WHERE wakeup_id IS NOT NULL)",
        )
        .fetch_one(pool)
        .await?;
        let seconds = self.elapsed().as_secs_f64().max(1.0);
        Ok(format!(
            "{}\n        {runs} runs ({:.0}/s), {rescued} rescued, {lost} given up as worker_lost, \
             {wakeups} wake-ups, {told} events delivered, {} SIGKILLs",
            self.line(),
            runs as f64 / seconds,
            self.kills()
        ))
    }
}

/// Says how things stand, until the end.
pub async fn report(tally: std::sync::Arc<Tally>, pool: PgPool, ends: watch::Receiver<bool>) {
    let mut last = Instant::now();
    while !*ends.borrow() {
        // While Postgres is away there is nothing to see.
        let seen = tally.look(&pool).await;
        if last.elapsed() >= EVERY {
            last = Instant::now();
            match seen {
                Ok(()) => println!("{}", tally.line()),
                Err(error) => {
                    println!("{:>5} s: nothing to see: {error}", tally.elapsed().as_secs())
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
