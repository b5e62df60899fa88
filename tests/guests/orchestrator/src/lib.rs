//! Orchestrates as a plan in its context says: see SKILL.md, which is the whole interface.
//!
//! A request is an orchestrator, a leaf or a marker, as its context's `role` says. An orchestrator
//! keeps nothing in mind between its runs: where it stands it reads from its children.

mod plan;
mod seen;
#[cfg(test)]
mod tests;

use std::hint::black_box;
use std::time::Duration;

use eve_sdk::prelude::*;
use eve_sdk::queue::{Batch, Child, NewRequest};
use plan::{Blocked, Plan, Role};
use seen::Seen;

/// Requests of one call: what crosses to the host at once is limited.
const BATCH: usize = 1_000;

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    let plan: Plan = request.context()?;
    match plan.role {
        Role::Orchestrator => orchestrate(&request, &plan),
        Role::Leaf => work(&request, &plan),
        Role::Marker => Ok(Outcome::completed("seen").data(&json!({ "source": plan.source }))),
    }
}

/// A leaf: computes, then ends as chance has it.
fn work(request: &Request, plan: &Plan) -> Result<Outcome, Failure> {
    spin(plan.spin_ms);
    match plan.fate(&[request.id().as_str(), &request.attempt().to_string()]) {
        fate if fate < plan.fail_percent => Err(Failure::permanent("as planned")),
        fate if fate < plan.fail_percent + plan.retry_percent => {
            Err(Failure::retryable("as planned, for now"))
        }
        _ => Ok(Outcome::completed("worked").data(&json!({ "wave": plan.wave, "n": plan.n }))),
    }
}

fn orchestrate(request: &Request, plan: &Plan) -> Result<Outcome, Failure> {
    let seen = Seen::by(request);
    let outcome = advance(request, plan, &seen)?;
    let fate = plan.fate(&[request.id().as_str(), &seen.to_string()]);
    if request.trigger() != Trigger::Initial && request.attempt() == 1 && fate < plan.retry_percent
    {
        return Err(Failure::retryable("as planned: this wake-up is tried again"));
    }
    seen.log();
    Ok(outcome)
}

/// Does what is next: starts a wave, waits, or completes.
fn advance(request: &Request, plan: &Plan, seen: &Seen) -> Result<Outcome, Failure> {
    if request.trigger() == Trigger::Initial {
        first_run(request, plan)?;
        return wait_or_complete(plan, seen, &Progress::default());
    }
    for (of, sources) in [("answer", &seen.answers), ("timer", &seen.timers)] {
        for source in sources {
            let marker = json!({ "role": "marker", "of": of, "source": source });
            child(request, plan).context(&marker).detached().create()?;
        }
    }
    let mut progress = Progress::of(&queue::children()?)?;
    if plan.race && progress.completed_in_wave > 0 {
        for id in &progress.open {
            match queue::cancel(id, Some("the race is won")) {
                // It ended on its own meanwhile.
                Ok(()) | Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        progress = Progress::of(&queue::children()?)?;
    }
    if progress.open.is_empty() && plan.children > 0 && progress.wave < plan.waves {
        start_wave(request, plan, progress.wave + 1)?;
        return Ok(Outcome::waiting());
    }
    wait_or_complete(plan, seen, &progress)
}

fn first_run(request: &Request, plan: &Plan) -> Result<(), Failure> {
    if plan.ask {
        let mut question = queue::ask("Go on?").options(["yes", "no"]);
        if let Some(ms) = plan.expires_ms {
            question = question.expires_in(Duration::from_millis(ms));
        }
        question.create()?;
    }
    if let Some(ms) = plan.timer_ms {
        queue::wake_after(Duration::from_millis(ms.max(1_000)), "tick")?;
    }
    if plan.children > 0 && plan.waves > 0 {
        start_wave(request, plan, 1)?;
    }
    if plan.detached {
        child(request, plan).context(&plan.child(Role::Leaf, 0, 0)).detached().create()?;
    }
    Ok(())
}

fn wait_or_complete(plan: &Plan, seen: &Seen, progress: &Progress) -> Result<Outcome, Failure> {
    let waves = if plan.children > 0 { plan.waves } else { 0 };
    let over = progress.open.is_empty()
        && progress.wave >= waves
        && (!plan.ask || progress.answers > 0)
        && (plan.timer_ms.is_none() || progress.timers > 0);
    if !over {
        return Ok(Outcome::waiting());
    }
    Ok(Outcome::completed(format!("{} children ended", progress.children)).data(&json!({
        "children": progress.children,
        "completed": progress.completed,
        "failed": progress.failed,
        "cancelled": progress.cancelled,
        "waves": progress.wave,
        "answers": progress.answers,
        "timers": progress.timers,
        "seen": seen,
    })))
}

/// Where an orchestration stands, as its children show it.
#[derive(Default)]
struct Progress {
    /// The last wave that was started.
    wave: u32,
    open: Vec<RequestId>,
    children: u32,
    completed: u32,
    completed_in_wave: u32,
    failed: u32,
    cancelled: u32,
    answers: u32,
    timers: u32,
}

impl Progress {
    fn of(children: &[Child]) -> Result<Self, Failure> {
        let mut progress = Self::default();
        for child in children {
            let plan: Plan = child.request.context()?;
            if plan.role == Role::Marker {
                match plan.of.as_deref() {
                    Some("answer") => progress.answers += 1,
                    _ => progress.timers += 1,
                }
                continue;
            }
            if plan.wave == 0 {
                continue;
            }
            if plan.wave > progress.wave {
                progress.wave = plan.wave;
                progress.completed_in_wave = 0;
            }
            progress.children += 1;
            match child.ended.as_ref().map(|ended| ended.status) {
                None => progress.open.push(child.id().clone()),
                Some(Status::Completed) => {
                    progress.completed += 1;
                    progress.completed_in_wave += 1;
                }
                Some(Status::Cancelled) => progress.cancelled += 1,
                Some(_) => progress.failed += 1,
            }
        }
        Ok(progress)
    }
}

fn child(request: &Request, plan: &Plan) -> NewRequest {
    queue::request(request.worker_type()).skill(&plan.skill)
}

fn start_wave(request: &Request, plan: &Plan, wave: u32) -> Result<(), Failure> {
    let last = plan.children - 1;
    let mut created: Vec<RequestId> = Vec::with_capacity(plan.children);
    while created.len() < plan.children {
        let base = created.len();
        let mut batch = Batch::new();
        let mut entries = Vec::with_capacity(BATCH);
        for n in base..plan.children.min(base + BATCH) {
            let nested = plan.depth > 0 && n < plan.width;
            let role = if nested { Role::Orchestrator } else { Role::Leaf };
            let mut new = child(request, plan).context(&plan.child(role, wave, n)).reply_to_me();
            let blockers = match plan.blocked {
                Blocked::Chain if n > 0 => n - 1..n,
                Blocked::Diamond if n > 1 && n == last => 1..n,
                Blocked::Diamond if n > 0 => 0..1,
                _ => 0..0,
            };
            for blocker in blockers {
                new = match blocker.checked_sub(base) {
                    Some(entry) => new.blocked_by([entries[entry]]),
                    None => new.blocked_by([&created[blocker]]),
                };
                new = new.on_failure(plan.policy(wave, n, blocker));
            }
            entries.push(batch.add(new));
        }
        created.extend(batch.create()?);
    }
    Ok(())
}

/// Steps a millisecond on a machine of 2024, more or less: there is no clock here.
fn spin(milliseconds: u64) {
    let mut state = 1u64;
    for _ in 0..milliseconds.saturating_mul(1_000_000) {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}
