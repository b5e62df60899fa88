//! The fake host says what the platform says: the table of [`refusals`](super::refusals), of which
//! `host/src/runtime/capabilities/queue_parity_tests.rs` runs the other half.

use serde_json::Value;

use super::refusals::{self, Call, ENDED, OPEN, Platform, RUN, conversions};
use super::state::State;
use super::{Other, validate};
use crate::bindings::eve::skill::{queue as contract, types};

conversions!();

/// A run that has just begun.
fn begun() -> State {
    let mut state = State::new();
    state.me.id = RUN.into();
    state.add(Other::pending().id(OPEN).known);
    state.add(Other::completed(&1).id(ENDED).known);
    state
}

impl Platform for State {
    fn call(&mut self, call: &Call) -> Result<Vec<String>, String> {
        let ids = |ids: Vec<crate::RequestId>| ids.iter().map(ToString::to_string).collect();
        let none = |()| Vec::new();
        match call {
            Call::Create(request) => self.create(&[new_request(request)]).map(ids),
            Call::CreateMany(requests) => {
                let requests: Vec<_> = requests.iter().map(new_request).collect();
                self.create(&requests).map(ids)
            }
            Call::Cancel(id, reason) => self.cancel(id, reason.as_deref()).map(none),
            Call::Ask(asked) => self.ask(&question(asked)).map(|id| vec![id.to_string()]),
            Call::WakeAfter(delay, name) => State::wake_after(self, *delay, name).map(none),
            Call::Get(id) => self.get(id).map(|_| Vec::new()),
            Call::List(wanted) => self.list(&filter(wanted)).map(|_| Vec::new()),
        }
        .map_err(said)
    }
}

#[test]
fn the_fake_host_refuses_what_the_platform_refuses() {
    let wrong: Vec<String> = refusals::rows()
        .iter()
        .filter_map(|row| refusals::check(row, &mut begun()).err())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_fake_host_judges_ends_as_the_platform_does() {
    for ending in refusals::endings() {
        let (summary, data) = (ending.summary, ending.data);
        let (tokens_used, cost) = (ending.tokens_used, ending.cost);
        let output = types::Output { summary, data, tokens_used, cost };
        let judged = validate::outcome(Ok(types::Outcome::Completed(output)));
        let failed = judged.err().map(|(failure, code)| (code, failure.message().to_owned()));
        match (&failed, ending.failed) {
            (None, None) => {}
            (Some((code, message)), Some((wanted, begins)))
                if *code == wanted && message.starts_with(begins) => {}
            (failed, wanted) => panic!("{failed:?}, not {wanted:?}"),
        }
    }
}
