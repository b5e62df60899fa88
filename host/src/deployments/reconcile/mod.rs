//! Making clusters be as the database says, and writing down what they are.
//!
//! Flow: one control plane at a time leads ([`run`]). It looks after every environment in a task of its
//! own (`environment`): makes its namespace, watches what is in it, and reconciles one deployment after
//! another (`deployment`): apply what is asked for, look, judge (`judge`), write, and say when to look
//! again (`next`). Beside that it takes what skills want and tells them what became of it (`orders`).
//!
//! Invariants:
//! - Everything may be done again, and a process may die anywhere: what is to be is in the database, what
//!   is is in the cluster, and the next one who leads compares the two.
//! - Whoever writes what was found holds the leadership's row, and the deployment's, which must still be at
//!   the revision that was looked at. An end is told once a revision.
//! - A control plane that was left behind changes nothing: every object is applied over exactly the one that
//!   was looked at, and never over a later revision.
//! - An environment whose cluster does not answer waits, longer each time, and keeps nobody else waiting.

mod deployment;
mod environment;
mod judge;
mod next;
mod orders;

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Deployments;
use super::kubernetes::failure::Failure;
use crate::db::Scope;
use crate::notify::{self, DEPLOYMENTS};
use crate::scheduler::{Leadership, TERM, lead, report, resign};

/// The leadership's name.
const DUTY: &str = "reconcile";
/// How often leadership is renewed, or asked for.
const RENEWAL: Duration = Duration::from_secs(3);
/// How often environments are looked for without a bell.
const SCAN: Duration = Duration::from_secs(5);

/// Why something was not reconciled.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The cluster did not do it.
    #[error(transparent)]
    Cluster(#[from] Failure),
    /// Postgres did not: that says nothing of any cluster.
    #[error("the database cannot be asked")]
    Database(#[from] sqlx::Error),
}

/// What every task has.
#[derive(Clone, Debug)]
struct Context {
    deployments: Deployments,
    term: Leadership,
    /// Changes when something is to be different in a cluster.
    bell: watch::Receiver<u64>,
    /// Rings when a revision is settled.
    settled: orders::Settled,
}

/// Reconciles until `stop`, whenever this process leads.
pub async fn run(deployments: Deployments, stop: CancellationToken) {
    let (rings, bell) = watch::channel(0_u64);
    let listening =
        notify::listen(deployments.db.pool().clone(), &[DEPLOYMENTS], stop.clone(), |_, _| {
            rings.send_modify(|count| *count += 1)
        });
    tokio::join!(listening, leading(&deployments, &bell, &stop));
}

async fn leading(deployments: &Deployments, bell: &watch::Receiver<u64>, stop: &CancellationToken) {
    let holder = Uuid::now_v7();
    let db = &deployments.db;
    let mut led: Option<(Leadership, Instant, CancellationToken, tokio::task::JoinHandle<()>)> =
        None;
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let asked = Instant::now();
        let term = match tokio::time::timeout(RENEWAL, lead(db, DUTY, holder)).await {
            Ok(Ok(term)) => term,
            slow_or_failed => {
                if let Ok(Err(error)) = slow_or_failed {
                    report("leading the reconcilers", &error);
                }
                // Nobody knows: it lasts as long as it was last promised to.
                match &led {
                    Some((term, since, ..)) if since.elapsed().as_secs_f64() < TERM - 1.0 => {
                        Some(*term)
                    }
                    _ => None,
                }
            }
        };
        led = match (term, led.take()) {
            (Some(term), Some((before, _, over, task)))
                if term.epoch() == before.epoch() && !task.is_finished() =>
            {
                Some((term, asked, over, task))
            }
            (term, before) => {
                if let Some((_, _, over, task)) = before {
                    over.cancel();
                    finished(task).await;
                }
                term.map(|term| {
                    tracing::info!("this process reconciles deployments");
                    let over = stop.child_token();
                    let context = Context {
                        deployments: deployments.clone(),
                        term,
                        bell: bell.clone(),
                        settled: orders::Settled::default(),
                    };
                    let attending = orders::attend(context.clone(), over.clone());
                    let looking = look_after_all(context, over.clone());
                    let task = tokio::spawn(async {
                        tokio::join!(looking, attending);
                    });
                    (term, asked, over, task)
                })
            }
        };
    }
    if let Some((_, _, over, task)) = led {
        over.cancel();
        finished(task).await;
        if let Err(error) = resign(db, DUTY, holder).await {
            report("giving leadership up", &error);
        }
    }
}

async fn finished(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(error = &error as &dyn std::error::Error, "reconciling broke off");
    }
}

/// A task for every environment there is.
async fn look_after_all(context: Context, over: CancellationToken) {
    let mut bell = context.bell.clone();
    let mut tasks = JoinSet::new();
    let mut running: HashMap<tokio::task::Id, Uuid> = HashMap::new();
    loop {
        match environments(&context).await {
            Ok(all) => {
                for id in all {
                    if running.values().any(|of| *of == id) {
                        continue;
                    }
                    let task = tasks.spawn(environment::look_after(
                        context.clone(),
                        id,
                        over.child_token(),
                    ));
                    running.insert(task.id(), id);
                }
            }
            Err(error) => report("looking for environments", &error),
        }
        let again = tokio::time::sleep(SCAN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = over.cancelled() => {
                    while tasks.join_next().await.is_some() {}
                    return;
                }
                Some(ended) = tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "looking after an environment broke off; beginning anew"
                            );
                            error.id()
                        }
                    };
                    running.remove(&id);
                }
                changed = bell.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = &mut again => break,
            }
        }
    }
}

async fn environments(context: &Context) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    sqlx::query_scalar!("SELECT id FROM eve.environments ORDER BY id").fetch_all(&mut *tx).await
}

/// How long to wait before trying again, longer each time: 1 s to 30 s.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self) -> Duration {
        let seconds = f64::from(1_u32 << self.0.min(5)).min(30.0);
        self.0 += 1;
        // Not all environments of a cluster at the same moment.
        Duration::from_secs_f64(seconds * rand::random_range(0.7..1.0))
    }

    /// The same, beginning with a fraction of a second.
    fn soon(&mut self) -> Duration {
        match self.0 {
            0 => {
                self.0 = 1;
                Duration::from_millis(200)
            }
            _ => self.next(),
        }
    }

    /// How often in a row there was something to wait for.
    fn count(&self) -> u32 {
        self.0
    }

    fn reset(&mut self) {
        self.0 = 0;
    }
}
