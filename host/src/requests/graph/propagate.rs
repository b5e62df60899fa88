//! What follows from requests' ending: a pure function, apart from the locks that it is decided under.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use crate::requests::OnFailure;

/// An edge whose blocker has not ended yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Edge {
    /// Waited for.
    pub blocker: Uuid,
    /// Waiting.
    pub dependent: Uuid,
    /// What happens when the blocker fails or is cancelled.
    pub on_failure: OnFailure,
}

/// Something that an orchestration has started, or that something it has started has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// The creator. It may have ended long ago.
    pub parent: Uuid,
    /// What it created, a wake-up included. It may have ended too.
    pub child: Uuid,
    /// Whether it goes on when the parent completes: it is detached, or the completing run itself has
    /// just created it.
    pub spared: bool,
}

/// Why a request is cancelled along with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It waited for this one, which did not complete.
    Blocker(Uuid),
    /// This one had started it, and has ended.
    Orchestration(Uuid),
}

/// What follows from some requests' ending.
#[derive(Debug, Default, PartialEq)]
pub struct Propagation {
    /// Edges that hold nobody back any more.
    pub met: Vec<(Uuid, Uuid)>,
    /// Edges that hold on after a failure.
    pub held: Vec<(Uuid, Uuid)>,
    /// How many open blockers each dependent loses.
    pub released: BTreeMap<Uuid, i32>,
    /// Requests that are cancelled along, and why.
    pub cancelled: BTreeMap<Uuid, Cause>,
}

/// Decides what becomes of others when requests end: `completing` well, `failing` badly. `live` says
/// who is still open. Each edge counts once.
pub fn propagate(
    completing: &[Uuid],
    failing: &[Uuid],
    edges: &[Edge],
    links: &[Link],
    live: &HashSet<Uuid>,
) -> Propagation {
    let mut below: HashMap<Uuid, Vec<&Edge>> = HashMap::new();
    for edge in edges {
        below.entry(edge.blocker).or_default().push(edge);
    }
    let mut started: HashMap<Uuid, Vec<&Link>> = HashMap::new();
    for link in links {
        started.entry(link.parent).or_default().push(link);
    }
    let well: HashSet<Uuid> = completing.iter().copied().collect();
    let mut outcome = Propagation::default();
    let mut ended: HashSet<Uuid> = completing.iter().chain(failing).copied().collect();
    let mut bad: Vec<Uuid> = failing.to_vec();
    let mut loose = Vec::new();
    for blocker in completing {
        loose.extend(below.get(blocker).into_iter().flatten().copied());
    }
    // First the whole cascade, so that a dependent which is cancelled by one blocker is not released
    // by another. What an orchestration has started goes before what waits for it: a retry revives
    // only the latter.
    let mut ending: Vec<(Uuid, bool)> = ended.iter().map(|id| (*id, well.contains(id))).collect();
    let mut passed = HashSet::new();
    loop {
        if let Some((parent, spares)) = ending.pop() {
            for link in started.get(&parent).into_iter().flatten() {
                if link.spared && spares {
                    continue;
                }
                if !live.contains(&link.child) || well.contains(&link.child) {
                    // It has ended, or does so by itself, and what it started goes on for all that.
                    if passed.insert(link.child) {
                        ending.push((link.child, spares));
                    }
                } else if ended.insert(link.child) {
                    outcome.cancelled.insert(link.child, Cause::Orchestration(parent));
                    bad.push(link.child);
                    ending.push((link.child, false));
                }
            }
            continue;
        }
        let Some(blocker) = bad.pop() else { break };
        for edge in below.get(&blocker).into_iter().flatten().copied() {
            if edge.on_failure == OnFailure::Cancel
                && live.contains(&edge.dependent)
                && ended.insert(edge.dependent)
            {
                outcome.cancelled.insert(edge.dependent, Cause::Blocker(blocker));
                bad.push(edge.dependent);
                ending.push((edge.dependent, false));
            }
            match edge.on_failure {
                OnFailure::Cancel => {}
                OnFailure::Run => loose.push(edge),
                OnFailure::Hold => {
                    if live.contains(&edge.dependent) {
                        outcome.held.push((edge.blocker, edge.dependent));
                    }
                }
            }
        }
    }
    for edge in loose {
        if live.contains(&edge.dependent) && !ended.contains(&edge.dependent) {
            outcome.met.push((edge.blocker, edge.dependent));
            *outcome.released.entry(edge.dependent).or_default() += 1;
        }
    }
    outcome.held.retain(|(_, dependent)| !ended.contains(dependent));
    outcome
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn edge(blocker: u128, dependent: u128, on_failure: OnFailure) -> Edge {
        Edge { blocker: id(blocker), dependent: id(dependent), on_failure }
    }

    fn live(ids: impl IntoIterator<Item = u128>) -> HashSet<Uuid> {
        ids.into_iter().map(id).collect()
    }

    #[test]
    fn a_failure_cancels_down_the_chain_and_spares_run_edges() {
        let edges = [
            edge(1, 2, OnFailure::Cancel),
            edge(2, 3, OnFailure::Cancel),
            edge(3, 4, OnFailure::Run),
        ];
        let follows = propagate(&[], &[id(1)], &edges, &[], &live([2, 3, 4]));
        let causes = [(id(2), Cause::Blocker(id(1))), (id(3), Cause::Blocker(id(2)))];
        assert_eq!(follows.cancelled, BTreeMap::from(causes));
        assert_eq!(follows.released, BTreeMap::from([(id(4), 1)]));
    }

    #[test]
    fn a_dependent_cancelled_by_one_blocker_is_not_released_by_another() {
        let edges = [edge(1, 3, OnFailure::Cancel), edge(2, 3, OnFailure::Cancel)];
        let follows = propagate(&[id(1)], &[id(2)], &edges, &[], &live([3]));
        assert_eq!(follows.cancelled, BTreeMap::from([(id(3), Cause::Blocker(id(2)))]));
        assert!(follows.released.is_empty() && follows.met.is_empty());
    }

    fn link(parent: u128, child: u128, detached: bool) -> Link {
        Link { parent: id(parent), child: id(child), spared: detached }
    }

    #[test]
    fn what_an_orchestration_started_ends_with_it_unless_it_completes_and_that_is_detached() {
        // 1 started 2, 3 (detached) and 4, which has ended and had started 5. 6 waits for 2.
        let links = [link(1, 2, false), link(1, 3, true), link(1, 4, false), link(4, 5, false)];
        let edges = [edge(2, 6, OnFailure::Cancel)];
        let open = live([2, 3, 5, 6]);
        let cancelled = |follows: Propagation| follows.cancelled.into_keys().collect::<Vec<_>>();
        let follows = propagate(&[id(1)], &[], &edges, &links, &open);
        assert_eq!(cancelled(follows), [id(2), id(5), id(6)]);
        let follows = propagate(&[], &[id(1)], &edges, &links, &open);
        assert_eq!(cancelled(follows), [id(2), id(3), id(5), id(6)]);
    }

    #[test]
    fn what_is_detached_below_an_ended_child_goes_on_when_its_orchestration_completes() {
        // 1 started 2, which has ended and had started 3 (detached), and 4, which is open and has
        // started 5 (detached).
        let links = [link(1, 2, false), link(2, 3, true), link(1, 4, false), link(4, 5, true)];
        let open = live([3, 4, 5]);
        let cancelled = |follows: Propagation| follows.cancelled.into_keys().collect::<Vec<_>>();
        let follows = propagate(&[id(1)], &[], &[], &links, &open);
        assert_eq!(cancelled(follows), [id(4), id(5)]);
        let follows = propagate(&[], &[id(1)], &[], &links, &open);
        assert_eq!(cancelled(follows), [id(3), id(4), id(5)]);
    }

    #[test]
    fn a_child_that_waits_for_another_child_is_cancelled_by_their_orchestration() {
        let links = [link(1, 2, false), link(1, 3, false)];
        let edges = [edge(2, 3, OnFailure::Cancel)];
        let follows = propagate(&[], &[id(1)], &edges, &links, &live([2, 3]));
        assert_eq!(follows.cancelled[&id(3)], Cause::Orchestration(id(1)));
    }

    #[test]
    fn two_blockers_of_one_batch_count_twice() {
        let edges = [edge(1, 3, OnFailure::Cancel), edge(2, 3, OnFailure::Run)];
        let follows = propagate(&[id(1), id(2)], &[], &edges, &[], &live([3]));
        assert_eq!(follows.released, BTreeMap::from([(id(3), 2)]));
    }

    fn graphs() -> impl Strategy<Value = (Vec<Edge>, Vec<bool>, HashSet<Uuid>)> {
        let policy =
            prop_oneof![Just(OnFailure::Cancel), Just(OnFailure::Run), Just(OnFailure::Hold),];
        (
            prop::collection::btree_map((0u128..12, 12u128..40), policy.clone(), 0..40),
            prop::collection::btree_map((12u128..25, 25u128..40), policy, 0..30),
            prop::collection::vec(any::<bool>(), 12),
            prop::collection::hash_set(12u128..40, 0..28),
        )
            .prop_map(|(top, bottom, outcomes, open)| {
                let edges =
                    top.into_iter().chain(bottom).map(|((b, d), p)| edge(b, d, p)).collect();
                (edges, outcomes, live(open))
            })
    }

    proptest! {
        /// Against the definition, edge by edge, instead of the cascade's order.
        #[test]
        fn every_open_edge_below_an_ending_is_settled_exactly_once((edges, outcomes, live) in graphs()) {
            let (well, badly): (Vec<u128>, Vec<u128>) =
                (0..12u128).partition(|n| outcomes[*n as usize]);
            let well: Vec<Uuid> = well.into_iter().map(id).collect();
            let badly: Vec<Uuid> = badly.into_iter().map(id).collect();
            let follows = propagate(&well, &badly, &edges, &[], &live);

            let failed = |n: &Uuid| badly.contains(n) || follows.cancelled.contains_key(n);
            let mut released: BTreeMap<Uuid, i32> = BTreeMap::new();
            for edge in &edges {
                let dies = follows.cancelled.contains_key(&edge.dependent);
                let must_die = failed(&edge.blocker)
                    && edge.on_failure == OnFailure::Cancel
                    && live.contains(&edge.dependent);
                prop_assert!(!must_die || dies);
                if !live.contains(&edge.dependent) || dies {
                    prop_assert!(!follows.met.contains(&(edge.blocker, edge.dependent)));
                    continue;
                }
                let met = well.contains(&edge.blocker)
                    || (failed(&edge.blocker) && edge.on_failure == OnFailure::Run);
                prop_assert_eq!(follows.met.contains(&(edge.blocker, edge.dependent)), met);
                let held = failed(&edge.blocker) && edge.on_failure == OnFailure::Hold;
                prop_assert_eq!(follows.held.contains(&(edge.blocker, edge.dependent)), held);
                if met {
                    *released.entry(edge.dependent).or_default() += 1;
                }
            }
            prop_assert_eq!(&follows.released, &released);
            for (dependent, cause) in &follows.cancelled {
                let Cause::Blocker(blocker) = cause else {
                    return Err(TestCaseError::fail("nobody orchestrates here"));
                };
                prop_assert!(live.contains(dependent) && failed(blocker));
            }
        }
    }
}
