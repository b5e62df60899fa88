//! Room for what lasts: how much of a kind is open in this process, and how much of it is one
//! organisation's. It takes four of them to keep all others out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::OrgId;

/// An organisation's share is one in so many.
const SHARES: usize = 4;

/// Room for so many of a kind. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Room {
    what: &'static str,
    most: usize,
    taken: Arc<Mutex<HashMap<OrgId, usize>>>,
}

/// A seat; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    room: Room,
    org: OrgId,
}

/// There is none left; why, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Full(pub String);

impl Room {
    /// For `most` of something, which is called `what`.
    pub fn new(what: &'static str, most: usize) -> Room {
        Room { what, most, taken: Arc::default() }
    }

    /// One more for an organisation.
    pub fn take(&self, org: OrgId) -> Result<Seat, Full> {
        let mut taken = self.lock();
        let share = self.most / SHARES;
        if taken.get(&org).is_some_and(|own| *own >= share) {
            return Err(Full(format!(
                "this organisation has {share} {} open here, and may have no more: end some of them",
                self.what
            )));
        }
        if taken.values().sum::<usize>() >= self.most {
            return Err(Full(format!(
                "{} {} are open here, and no more may be",
                self.most, self.what
            )));
        }
        *taken.entry(org).or_default() += 1;
        drop(taken);
        Ok(Seat { room: self.clone(), org })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrgId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        if let Some(own) = taken.get_mut(&self.org) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_has_its_share_and_all_have_what_there_is() {
        let room = Room::new("logs", 8);
        let orgs: Vec<OrgId> = (1..=5).map(|n| OrgId(Uuid::from_u128(n))).collect();
        let mut seats = vec![room.take(orgs[0]).expect("one"), room.take(orgs[0]).expect("two")];
        let full = room.take(orgs[0]).expect_err("a third");
        assert!(full.0.contains("has 2 logs open"), "{full:?}");
        for org in &orgs[1..4] {
            seats.extend([room.take(*org).expect("one"), room.take(*org).expect("two")]);
        }
        let full = room.take(orgs[4]).expect_err("there is no room left");
        assert!(full.0.starts_with("8 logs are open"), "{full:?}");
        seats.remove(0);
        room.take(orgs[4]).expect("what is given back can be taken");
        drop(seats);
        assert!(room.lock().is_empty(), "nothing is remembered of whoever has nothing open");
    }
}
