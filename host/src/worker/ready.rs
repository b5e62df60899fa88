//! What a worker has claimed and not started, organisation by organisation.
//!
//! Flow: claims go in; [`Ready::start`] takes out the oldest of the organisation whose turn it is;
//! [`Ready::ended`] frees its slot.
//!
//! Invariants:
//! - An organisation runs in at most three quarters of the slots, and never in the last one: claiming
//!   looks at what is in hand, prefetched runs included, and those would otherwise become long runs
//!   in every slot, with the next organisation waiting for minutes.
//! - Finding the next run does not depend on how much waits.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use crate::delivery::claim::Claimed;
use crate::ids::OrgId;

pub(super) struct Ready {
    /// Slots that one organisation may have.
    share: usize,
    /// Organisations with something waiting.
    turns: VecDeque<OrgId>,
    waiting: HashMap<OrgId, VecDeque<Claimed>>,
    running: HashMap<OrgId, usize>,
}

impl Ready {
    /// Nothing, for a worker with so many slots.
    pub(super) fn new(slots: usize) -> Ready {
        Ready {
            share: (slots * 3).div_ceil(4).min(slots.saturating_sub(1)).max(1),
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            running: HashMap::new(),
        }
    }

    /// A suspect is never prefetched: its turn is the next one.
    pub(super) fn push(&mut self, run: Claimed) {
        let org = run.org_id;
        let suspect = run.rescues > 0;
        let waiting = self.waiting.entry(org).or_default();
        if waiting.is_empty() {
            self.turns.push_back(org);
        }
        if suspect {
            waiting.push_front(run);
            self.turns.retain(|other| *other != org);
            self.turns.push_front(org);
        } else {
            waiting.push_back(run);
        }
    }

    /// The next run, which has a slot from now on.
    pub(super) fn start(&mut self) -> Option<Claimed> {
        for _ in 0..self.turns.len() {
            let org = self.turns.pop_front()?;
            if self.running.get(&org).is_some_and(|running| *running >= self.share) {
                self.turns.push_back(org);
                continue;
            }
            let waiting = self.waiting.get_mut(&org)?;
            let run = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&org);
            } else {
                self.turns.push_back(org);
            }
            *self.running.entry(org).or_default() += 1;
            return run;
        }
        None
    }

    /// A run of this organisation has left its slot.
    pub(super) fn ended(&mut self, org: OrgId) {
        if let Some(running) = self.running.get_mut(&org) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&org);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Everything that waits.
    pub(super) fn leases(&self) -> Vec<(Uuid, i64)> {
        self.waiting.values().flatten().map(|run| (run.id.0, run.lease)).collect()
    }

    /// Drops everything that waits.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
        self.waiting.clear();
    }

    /// Drops one request of an organisation, if it waits.
    pub(super) fn remove(&mut self, org: OrgId, id: Uuid) {
        let Some(waiting) = self.waiting.get_mut(&org) else { return };
        waiting.retain(|run| run.id.0 != id);
        if waiting.is_empty() {
            self.waiting.remove(&org);
            self.turns.retain(|other| *other != org);
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::ids::RequestId;

    fn run(org: OrgId, rescues: i16) -> Claimed {
        let id = RequestId::generate();
        Claimed {
            id,
            org_id: org,
            lease: 1,
            attempt: 1,
            generation: 1,
            rescues,
            worker_type: "general".into(),
            org_slug: "org".into(),
            user_id: None,
            prompt: String::new(),
            context: "{}".into(),
            repo_url: None,
            branch: None,
            config: "{}".into(),
            metadata: "{}".into(),
            max_attempts: 3,
            timeout_ms: None,
            root_request_id: id,
            parent_request_id: None,
            skill: None,
            version: None,
            revoked: Vec::new(),
            claimed_at: Utc::now(),
            schedule: None,
            wake: None,
        }
    }

    #[test]
    fn an_organisation_leaves_a_slot_to_others() {
        let (greedy, late) = (OrgId::generate(), OrgId::generate());
        for (slots, share) in [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (32, 24)] {
            let mut ready = Ready::new(slots);
            for _ in 0..100 {
                ready.push(run(greedy, 0));
            }
            assert_eq!(std::iter::from_fn(|| ready.start()).count(), share);
            ready.push(run(late, 0));
            assert_eq!(ready.start().map(|run| run.org_id), Some(late));
            ready.ended(greedy);
            assert_eq!(ready.start().map(|run| run.org_id), Some(greedy));
            assert!(ready.start().is_none());
        }
    }

    #[test]
    fn organisations_take_turns_and_suspects_go_first() {
        let (one, two) = (OrgId::generate(), OrgId::generate());
        let mut ready = Ready::new(8);
        for org in [one, one, one, two, two] {
            ready.push(run(org, 0));
        }
        let suspect = run(two, 1);
        ready.push(suspect.clone());
        let order: Vec<Claimed> = std::iter::from_fn(|| ready.start()).collect();
        assert_eq!(order[0].id, suspect.id);
        let orgs: Vec<OrgId> = order.iter().map(|run| run.org_id).collect();
        assert_eq!(orgs, [two, one, two, one, two, one]);
        assert!(ready.is_empty());
    }

    #[test]
    fn what_is_removed_never_starts() {
        let org = OrgId::generate();
        let mut ready = Ready::new(2);
        let gone = run(org, 0);
        ready.push(gone.clone());
        ready.remove(org, gone.id.0);
        assert!(ready.is_empty() && ready.leases().is_empty());
        assert!(ready.start().is_none());
        ready.push(run(org, 0));
        assert!(ready.start().is_some());
    }
}
