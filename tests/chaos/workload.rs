//! What users ask for: graphs of every shape, and orchestrations.
//!
//! `metadata.kind` says what should become of a request when nobody harms it; see [`verdict`].
//!
//! [`verdict`]: crate::verdict

use rand::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

/// A batch to create in one call.
#[derive(Debug)]
pub struct Batch {
    pub requests: Vec<Value>,
    /// It names an orchestration that may have ended by now: then it may be refused.
    pub joins: bool,
}

/// Draws a batch. `known` are requests of the organisation that exist, `orchestrations` those among
/// them that may still be open.
pub fn draw(rng: &mut StdRng, known: &[Uuid], orchestrations: &[Uuid]) -> Batch {
    let shape = rng.random_range(0..100);
    if shape >= 96
        && let Some(orchestration) = orchestrations.choose(rng)
    {
        return Batch { requests: vec![joining(rng, *orchestration)], joins: true };
    }
    let requests = match shape {
        0..25 => singles(rng),
        25..40 => pipeline(rng),
        40..52 => diamond(rng),
        52..62 => fan_out(rng),
        62..75 => tangle(rng, known),
        _ => orchestrators(rng),
    };
    Batch { requests, joins: false }
}

fn singles(rng: &mut StdRng) -> Vec<Value> {
    let count = rng.random_range(5..40);
    (0..count)
        .map(|_| {
            let mut request = single(rng);
            if rng.random_bool(0.1) {
                request["delay_ms"] = json!(rng.random_range(100..4_000));
            }
            if rng.random_bool(0.2) {
                request["priority"] = json!(rng.random_range(-100..=100));
            }
            request
        })
        .collect()
}

fn pipeline(rng: &mut StdRng) -> Vec<Value> {
    let length = rng.random_range(2..10);
    let mut steps: Vec<Value> = Vec::new();
    for step in 0..length {
        let mut request = single(rng);
        if step > 0 {
            request["blocked_by"] = json!([edge(rng, format!("#{}", step - 1))]);
        }
        steps.push(request);
    }
    steps
}

/// One, then many side by side, then one.
fn diamond(rng: &mut StdRng) -> Vec<Value> {
    let width = rng.random_range(2..30);
    let mut all = vec![single(rng)];
    for _ in 0..width {
        let mut request = single(rng);
        request["blocked_by"] = json!([edge(rng, "#0".to_owned())]);
        all.push(request);
    }
    let mut last = single(rng);
    last["blocked_by"] = (1..=width).map(|n| edge(rng, format!("#{n}"))).collect();
    all.push(last);
    all
}

/// Many side by side, and one that collects.
fn fan_out(rng: &mut StdRng) -> Vec<Value> {
    let width = rng.random_range(10..80);
    let mut all: Vec<Value> = (0..width).map(|_| single(rng)).collect();
    let mut last = single(rng);
    last["blocked_by"] = (0..width).map(|n| edge(rng, format!("#{n}"))).collect();
    all.push(last);
    all
}

/// Each waits for some that came before it, of this batch and of others.
fn tangle(rng: &mut StdRng, known: &[Uuid]) -> Vec<Value> {
    let count = rng.random_range(3..15);
    let mut all: Vec<Value> = Vec::new();
    for place in 0..count {
        let mut request = single(rng);
        let mut blockers: Vec<String> = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            let blocker = match rng.random_bool(0.5) {
                true if place > 0 => format!("#{}", rng.random_range(0..place)),
                _ => match known.choose(rng) {
                    Some(id) => id.to_string(),
                    None => continue,
                },
            };
            if !blockers.contains(&blocker) {
                blockers.push(blocker);
            }
        }
        request["blocked_by"] = blockers.into_iter().map(|blocker| edge(rng, blocker)).collect();
        all.push(request);
    }
    all
}

/// One child more for an orchestration that somebody else has started.
fn joining(rng: &mut StdRng, orchestration: Uuid) -> Value {
    json!({
        "worker_type": "general",
        "skill": "orchestrator",
        // No wave: the orchestration has no place for it in its plan, and only hears of its end.
        "context": { "role": "leaf", "wave": 0, "spin_ms": rng.random_range(0..3) },
        "reply_to": { "type": "orchestrator", "request_id": orchestration },
        "metadata": { "kind": "completes" },
    })
}

fn orchestrators(rng: &mut StdRng) -> Vec<Value> {
    let count = rng.random_range(1..4);
    let mut all: Vec<Value> = Vec::new();
    for place in 0..count {
        let mut request = json!({
            "worker_type": "general",
            "skill": "orchestrator",
            "context": plan(rng),
            "metadata": { "kind": "orchestrates" },
        });
        if place > 0 && rng.random_bool(0.3) {
            request["blocked_by"] = json!([edge(rng, format!("#{}", place - 1))]);
        }
        all.push(request);
    }
    all
}

/// A context of the guest `orchestrator`, whose SKILL.md says what it means.
fn plan(rng: &mut StdRng) -> Value {
    let mut plan = json!({
        "role": "orchestrator",
        "children": rng.random_range(0..12),
        "waves": rng.random_range(1..4),
        "depth": *[0, 0, 0, 1, 1, 2].choose(rng).unwrap_or(&0),
        "width": rng.random_range(1..3),
        "blocked": *["none", "none", "chain", "diamond"].choose(rng).unwrap_or(&"none"),
        "fail_percent": *[0, 0, 5, 20].choose(rng).unwrap_or(&0),
        "retry_percent": *[0, 0, 5, 20].choose(rng).unwrap_or(&0),
        "spin_ms": rng.random_range(0..4),
        "ask": rng.random_bool(0.25),
        "expires_ms": rng.random_range(2_000..8_000),
        "race": rng.random_bool(0.15),
        "detached": rng.random_bool(0.25),
        "seed": rng.random::<u32>(),
    });
    if rng.random_bool(0.2) {
        plan["timer_ms"] = json!(rng.random_range(1_000..4_000));
    }
    if rng.random_bool(0.6) {
        plan["on_failure"] = json!(policy(rng));
    }
    plan
}

fn edge(rng: &mut StdRng, blocker: String) -> Value {
    json!({ "id": blocker, "on_failure": policy(rng) })
}

fn policy(rng: &mut StdRng) -> &'static str {
    match rng.random_range(0..100) {
        0..50 => "cancel",
        50..88 => "run",
        _ => "hold",
    }
}

fn single(rng: &mut StdRng) -> Value {
    let spin = rng.random_range(0..6);
    let (kind, attempts, context) = match rng.random_range(0..100) {
        0..80 => ("completes", 3, json!({ "do": "spin", "spin_ms": spin })),
        80..84 => ("fails", 3, json!({ "do": "fail-permanent" })),
        84..86 => ("fails", 2, json!({ "do": "fail-retryable" })),
        86..90 => ("second-time", 4, json!({ "do": "fail-until", "attempt": 2 })),
        90..92 => ("traps", 2, json!({ "do": "create-then-trap", "create": 3, "skill": "noop" })),
        92..94 => ("fails", 3, json!({ "do": "create-then-fail", "create": 3, "skill": "noop" })),
        _ => {
            let create = rng.random_range(1..6);
            let context =
                json!({ "do": "create", "create": create, "skill": "noop", "spin_ms": spin });
            ("creates", 3, context)
        }
    };
    json!({
        "worker_type": "general",
        "skill": "hostile",
        "context": context,
        "max_attempts": attempts,
        "metadata": { "kind": kind },
    })
}
