//! Creating requests: all that a call asks for, or nothing.

use super::{Place, State};
use crate::RequestId;
use crate::bindings::eve::skill::queue as contract;
use crate::bindings::eve::skill::types::Error;
use crate::testing::validate::{Asked, On};
use crate::testing::{Created, limits, weight};

/// What an idempotency key stands for: a request, and what was asked for under the key.
pub(in crate::testing) type Key = (RequestId, Body);

/// What is compared when a key is used again. The run's own requests stand in the blockers by their
/// keys or places, because in another attempt they have other ids.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::testing) struct Body {
    asked: Created,
    max_attempts: Option<u16>,
}

impl State {
    /// Creates all of the requests or none.
    pub fn create(&mut self, requests: &[contract::NewRequest]) -> Result<Vec<RequestId>, Error> {
        let asked = requests
            .iter()
            .map(|request| Asked::read(request, |id| self.is_known(id)))
            .collect::<Result<Vec<Asked>, Error>>()?;
        if self.created.len() + asked.len() > limits::CREATES {
            let most = limits::CREATES;
            return Err(Error::Limit(format!("a run creates at most {most} requests")));
        }
        for (index, request) in asked.iter().enumerate() {
            request.check(index).map_err(|error| in_batch(&asked, index, error))?;
            self.not_in_a_circle(request)?;
        }
        let bytes = asked.iter().map(weight::request).sum();
        self.afford(bytes)?;
        self.blockers_exist(&asked)?;

        // Keys are given out last of all: what is refused above has used none.
        let before = self.created.len();
        let mut bodies = Vec::with_capacity(asked.len());
        for (index, request) in asked.iter().enumerate() {
            let body = self.body(request, &asked, before);
            bodies.push(self.identify(&asked[index], body)?);
        }
        let mut ids = Vec::with_capacity(asked.len());
        for (request, id) in asked.into_iter().zip(bodies) {
            if !self.places.contains_key(&id) {
                self.keep(id.clone(), request, &ids);
            }
            ids.push(id);
        }
        self.bytes += bytes;
        Ok(ids)
    }

    fn keep(&mut self, id: RequestId, request: Asked, batch: &[RequestId]) {
        let mut created = Created { id: id.clone(), ..request.created };
        created.blocked_by = request
            .blockers
            .into_iter()
            .map(|(on, policy)| match on {
                On::Id(id) => (id, policy),
                On::Entry(entry) => (batch[entry].clone(), policy),
            })
            .collect();
        self.places.insert(id, Place::Own(self.created.len()));
        self.statuses.push(self.standing(&created));
        self.created.push(created);
    }

    /// Refuses what could never start. Longer circles are found by the platform when a run commits,
    /// and not at all here.
    fn not_in_a_circle(&self, request: &Asked) -> Result<(), Error> {
        let run = &self.me.id;
        let waits = request.blockers.iter().any(|(on, _)| matches!(on, On::Id(id) if id == run));
        if request.created.reply_to_me && waits {
            return Err(Error::Conflict(format!(
                "blocked_by: a request that replies to {run} cannot wait for it: neither would ever go on"
            )));
        }
        Ok(())
    }

    fn blockers_exist(&self, asked: &[Asked]) -> Result<(), Error> {
        let mut missing: Vec<&RequestId> = asked
            .iter()
            .flat_map(|request| &request.blockers)
            .filter_map(|(on, _)| match on {
                On::Id(id) if !self.is_known(id.as_str()) => Some(id),
                _ => None,
            })
            .collect();
        missing.sort();
        match missing.first() {
            Some(id) => Err(Error::NotFound(format!("there is no request {id} to wait for"))),
            None => Ok(()),
        }
    }

    /// An id, after the idempotency key if there is one: a key that a failed run had used stands for
    /// the id that it gave out then.
    fn identify(&mut self, request: &Asked, body: Body) -> Result<RequestId, Error> {
        let Some(key) = &request.created.idempotency_key else { return Ok(self.next_id()) };
        let id = match self.keys.get(key) {
            Some((id, known)) if *known == body => id.clone(),
            Some((id, _)) => {
                return Err(Error::Conflict(match self.keyed.get(id) {
                    Some(_) => {
                        format!("idempotency_key: `{key}` was used for another request of this run")
                    }
                    None => {
                        format!("the idempotency key `{key}` was used before, for a different body")
                    }
                }));
            }
            None => {
                let id = self.next_id();
                self.keys.insert(key.clone(), (id.clone(), body));
                id
            }
        };
        self.keyed.insert(id.clone(), key.clone());
        Ok(id)
    }

    fn body(&self, request: &Asked, batch: &[Asked], before: usize) -> Body {
        let by_key = |key: &String| RequestId::from(format!("key {key}"));
        let by_place = |place: usize| RequestId::from(format!("#{place}"));
        let blocked_by = request.blockers.iter().map(|(on, policy)| {
            let stand_in = match on {
                On::Entry(entry) => match &batch[*entry].created.idempotency_key {
                    Some(key) => by_key(key),
                    None => by_place(before + entry),
                },
                On::Id(id) => match (self.keyed.get(id), self.places.get(id)) {
                    (Some(key), _) => by_key(key),
                    (None, Some(Place::Own(place))) => by_place(*place),
                    (None, _) => id.clone(),
                },
            };
            (stand_in, *policy)
        });
        let asked = Created {
            blocked_by: blocked_by.collect(),
            idempotency_key: None,
            ..request.created.clone()
        };
        Body { asked, max_attempts: request.max_attempts }
    }
}

/// Says which entry of a batch is meant, where there is more than one.
fn in_batch(asked: &[Asked], index: usize, error: Error) -> Error {
    match error {
        Error::Invalid(problem) if asked.len() > 1 => {
            Error::Invalid(format!("requests[{index}].{problem}"))
        }
        error => error,
    }
}
