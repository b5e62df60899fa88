//! Deploys, scales, rolls back, deletes and looks at apps, as a sentence or a context asks.
//!
//! Flow: the prompt is read into what it says (`prompt`) and the context into its fields (`context`);
//! together they are what is [`understood`]; with the one deployment that is meant it is an [`order`].
//! `change` asks the platform for it and waits, and `ending` says what came of it when the deployment
//! has settled.
//!
//! Invariants:
//! - Nothing is guessed that is changed: what has two meanings, or none, fails and says what is missing.
//! - A run asks for one change, or for none. Run again, it asks for the same.
//! - Between two runs nothing is kept: a wake-up reads the same prompt and context again.

mod change;
mod context;
mod ending;
mod image;
mod order;
mod prompt;
#[cfg(test)]
mod tests;
mod understood;

use ending::News;
use eve_sdk::prelude::*;
use order::Order;
use prompt::Verb;
use understood::Understood;

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    match request.trigger() {
        Trigger::Initial | Trigger::Cron(_) => first(&request),
        _ => woken(&request),
    }
}

fn first(request: &Request) -> Result<Outcome, Failure> {
    let understood = Understood::of(request)?;
    match understood.verb {
        Verb::Status => ending::status(understood),
        _ => change::begin(Order::of(understood)?),
    }
}

fn woken(request: &Request) -> Result<Outcome, Failure> {
    let news = News::of(request)?;
    let order = Understood::of(request).and_then(Order::of);
    match (news, order) {
        (Some(news), Ok(order)) => ending::settled(order, &news),
        (Some(news), Err(Failure::Permanent(why))) => {
            log::warn!("what was asked for cannot be read any more"; why = why);
            ending::unknown(&news)
        }
        (_, Err(Failure::Retryable(why))) => Err(Failure::Retryable(why)),
        // Something else woke it. What it waits for goes on.
        (None, Ok(order)) => Ok(change::waiting(&order)),
        (None, Err(Failure::Permanent(_))) => Ok(Outcome::waiting()),
    }
}
