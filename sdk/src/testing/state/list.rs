//! Listing requests, those that are not committed yet among them.

use serde_json::Value;

use super::{Place, State, bounded};
use crate::RequestId;
use crate::bindings::eve::skill::queue as contract;
use crate::bindings::eve::skill::types::{Error, Status};
use crate::testing::validate::{self, Filter};
use crate::testing::{limits, weight};

impl State {
    pub fn list(&self, asked: &contract::Filter) -> Result<Vec<contract::Info>, Error> {
        let filter = Filter::read(asked)?;
        let before = match asked.before.as_deref() {
            Some(id) if self.is_known(id) => Some(RequestId::from(id)),
            Some(id) => Some(validate::id("before", id)?),
            None => None,
        };
        let behind = |place: &Place| {
            before.as_ref().is_some_and(|before| match self.is_known(before.as_str()) {
                true => self.asked(*place).id != *before,
                false => self.asked(*place).id >= *before,
            })
        };
        let mut steps = limits::CONTAINMENT_STEPS;
        let mut found = Vec::new();
        for place in self.all().rev().skip_while(behind) {
            let request = self.asked(place);
            let fits = before.as_ref() != Some(&request.id)
                && self.has_status(place, &asked.statuses)
                && asked.worker_type.as_ref().is_none_or(|wanted| *wanted == request.worker_type);
            if !fits {
                continue;
            }
            // The platform's database compares the others, for as long as that takes.
            let steps = match place {
                Place::Own(_) => &mut steps,
                Place::Known(_) | Place::Myself => &mut usize::MAX.clone(),
            };
            let part = filter.context.as_ref();
            if part.map_or(Ok(true), |part| contains(&request.context, part, steps))? {
                found.push(self.info(place));
                if found.len() == filter.limit {
                    break;
                }
            }
        }
        bounded(found.iter().map(weight::info).sum())?;
        Ok(found)
    }

    /// Whether a list of these statuses holds a request. The database knows nothing yet of what the
    /// run has cancelled.
    fn has_status(&self, place: Place, wanted: &[Status]) -> bool {
        let stored = match place {
            Place::Known(place) => self.known[place].status,
            Place::Own(_) | Place::Myself => self.status_at(place),
        };
        let gone = self.cancelled.contains(&self.asked(place).id) && stored != Status::Cancelled;
        wanted.is_empty()
            || wanted.contains(&stored) && (!gone || wanted.contains(&Status::Cancelled))
    }
}

/// Postgres' `@>`, in so many steps at most.
fn contains(whole: &Value, part: &Value, steps: &mut usize) -> Result<bool, Error> {
    *steps = steps.checked_sub(1).ok_or_else(|| {
        let problem = "the filter takes too long to compare with this run's own requests";
        Error::Limit(problem.into())
    })?;
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, part) in part {
                match whole.get(name) {
                    Some(whole) if contains(whole, part, steps)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Array(whole), Value::Array(part)) => {
            'part: for part in part {
                for whole in whole {
                    if contains(whole, part, steps)? {
                        continue 'part;
                    }
                }
                return Ok(false);
            }
            Ok(true)
        }
        (Value::Number(whole), Value::Number(part)) => {
            Ok(whole == part || whole.as_f64() == part.as_f64())
        }
        (whole, part) => Ok(whole == part),
    }
}
