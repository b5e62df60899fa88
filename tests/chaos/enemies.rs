//! Enemies: what they do is decided by the seed, whom it hits by who is there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::prelude::*;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fleet::{Fleet, Role};
use crate::ground::Ground;
use crate::options::Options;
use crate::progress::{Blow, Tally};

/// How often the fleet is looked after between two blows.
const TEND: Duration = Duration::from_millis(50);
/// How long a worker is stopped: more than the silence after which it is given up (15 s).
const WORKER_PAUSE: std::ops::Range<f64> = 16.0..22.0;
/// How long a control plane is stopped: more than a leadership lasts (10 s).
const SERVER_PAUSE: std::ops::Range<f64> = 11.0..16.0;
/// How long Postgres is away after a crash, besides its own recovery.
const OUTAGE: std::ops::Range<f64> = 0.0..4.0;

/// One kind of blow, and when the next one falls.
struct Clock {
    blow: Blow,
    every: f64,
    next: Instant,
    rng: StdRng,
}

impl Clock {
    fn new(seed: u64, blow: Blow, every: f64) -> Clock {
        // A sequence of its own, so that one kind's rate does not change what the others do.
        let mut rng = StdRng::seed_from_u64(seed ^ (0xb10 + blow as u64).rotate_left(32));
        let first = Duration::from_secs_f64(every.max(0.001) * rng.random_range(0.3..0.6));
        Clock { blow, every, next: Instant::now() + first, rng }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if self.every <= 0.0 || now < self.next {
            return false;
        }
        let pause = self.every * self.rng.random_range(0.5..1.5);
        self.next = now + Duration::from_secs_f64(pause);
        true
    }
}

/// Attacks until the end, and gives back what there is.
pub async fn attack(
    options: Options,
    mut fleet: Fleet,
    mut ground: Ground,
    tally: Arc<Tally>,
    ends: watch::Receiver<bool>,
) -> Result<(Fleet, Ground)> {
    let mut clocks = options.blows().map(|(blow, every)| Clock::new(options.seed, blow, every));
    while !*ends.borrow() {
        fleet.tend()?;
        for clock in &mut clocks {
            if clock.is_due(Instant::now()) {
                strike(clock.blow, &mut clock.rng, &mut fleet, &mut ground, &tally).await?;
            }
        }
        tokio::time::sleep(TEND).await;
    }
    ground.recover().await?;
    Ok((fleet, ground))
}

async fn strike(
    blow: Blow,
    rng: &mut StdRng,
    fleet: &mut Fleet,
    ground: &mut Ground,
    tally: &Tally,
) -> Result<()> {
    let role = match blow {
        Blow::KillServer | Blow::PauseServer => Role::Server,
        _ => Role::Worker,
    };
    // The draws come first, so that who is there does not change the sequence.
    let (draw, length): (usize, f64) = (rng.random_range(0..1 << 20), rng.random_range(0.0..1.0));
    let within = |range: std::ops::Range<f64>| {
        Duration::from_secs_f64(range.start + length * (range.end - range.start))
    };
    let standing = fleet.standing(role);
    let victim = (!standing.is_empty()).then(|| standing[draw % standing.len()]);
    match (blow, victim) {
        (Blow::KillWorker | Blow::KillServer, Some(victim)) => fleet.kill(victim)?,
        // Somebody has to be left who works, and who listens.
        (Blow::PauseWorker, Some(victim)) if standing.len() > 1 => {
            fleet.pause(victim, within(WORKER_PAUSE));
        }
        (Blow::PauseServer, Some(victim)) if standing.len() > 1 => {
            fleet.pause(victim, within(SERVER_PAUSE));
        }
        (Blow::Drain, Some(victim)) => fleet.drain(victim)?,
        (Blow::Cut, _) => {
            let few = rng.random_range(1..=3);
            let cut = ground
                .cut(|backends| {
                    backends.shuffle(rng);
                    backends.truncate(few);
                })
                .await;
            match cut {
                Ok(count) => tally.struck_times(Blow::Cut, count as u64),
                Err(error) => println!("cutting connections failed: {error}"),
            }
        }
        (Blow::Crash, _) => {
            ground.crash().await?;
            tally.struck(Blow::Crash);
            // Whoever dies now starts without a Postgres to start on.
            if length > 0.5
                && let Some(victim) = victim
            {
                fleet.kill(victim)?;
            }
            tokio::time::sleep(within(OUTAGE)).await;
            ground.recover().await?;
        }
        _ => {}
    }
    Ok(())
}
