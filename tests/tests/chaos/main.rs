//! What happens when things go wrong: processes die, Postgres goes away, guests misbehave, one
//! organisation floods the others. Every file is one kind of trouble; each test runs the real thing.

mod deaths;
mod dev;
mod drain;
mod effects;
mod fairness;
mod guests;
mod health;
mod invariants;
mod outage;
mod scale;
mod storm;
