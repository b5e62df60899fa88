//! When a deployment is looked at again: a pure function of what the last look came to.

use std::time::Duration;

use super::judge::Verdict;
use crate::deployments::DeploymentStatus;
use crate::deployments::kubernetes::observe::SHAKY_SECONDS;

/// How soon it is looked at again when a container has just been started again.
const SHAKY: Duration = Duration::from_secs(SHAKY_SECONDS as u64 / 2);
/// How often it is asked why secrets that others put there are not there.
const SYNCING: Duration = Duration::from_secs(5);
/// How long what is to be deleted waits until no requests of another app are led to it any more.
const PARTING: Duration = Duration::from_secs(30);
/// Least time between two looks at what is on its way.
pub const LEAST: Duration = Duration::from_millis(500);
/// Most time between two looks at what is on its way: a watch that has missed something delays what it would
/// have told by so much.
const MOST: Duration = Duration::from_secs(15);

/// When to look at it again, if nothing changes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Not at all.
    Idle,
    /// At once, and apply it.
    Again,
    /// In a while.
    In(Duration),
}

/// What a look came to.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// How it was judged.
    pub verdict: &'a Verdict,
    /// Where it stood before.
    pub before: DeploymentStatus,
    /// Whether a container has been started again so recently that it may end once more.
    pub shaky: bool,
    /// Whether its pods wait for secrets that somebody else puts there.
    pub syncing: bool,
    /// How long it has been on its way.
    pub underway: Duration,
    /// How long it may be.
    pub deadline: Duration,
}

/// When to look again.
pub fn next(look: Look<'_>) -> Next {
    match look.verdict {
        // Nothing in the cluster changes when a container has run long enough.
        Verdict::Deploying(_) | Verdict::Failed(_) if look.shaky => Next::In(SHAKY),
        Verdict::Deploying(_) => {
            let left = match look.before {
                // The clock has just begun again.
                DeploymentStatus::Running => look.deadline,
                _ => look.deadline.saturating_sub(look.underway),
            };
            // What makes a Secret tells only whoever asks why it does not.
            let most = if look.syncing { SYNCING } else { MOST };
            Next::In(left.clamp(LEAST, most))
        }
        Verdict::Running | Verdict::Failed(_) => Next::Idle,
    }
}

/// When to look again at what is to be deleted, if it does not go now: requests of another app are led
/// elsewhere before its pods go, but it does not wait for that for ever.
pub fn parting(led: bool, underway: Duration) -> Option<Next> {
    (led && underway < PARTING).then_some(Next::In(LEAST))
}

#[cfg(test)]
mod tests {
    use super::super::judge::Why;
    use super::*;

    fn look(verdict: &Verdict) -> Look<'_> {
        Look {
            verdict,
            before: DeploymentStatus::Deploying,
            shaky: false,
            syncing: false,
            underway: Duration::ZERO,
            deadline: Duration::from_secs(600),
        }
    }

    fn failed() -> Verdict {
        Verdict::Failed(Why::new("image_pull", "no such image"))
    }

    #[test]
    fn what_has_ended_is_looked_at_when_something_changes() {
        assert_eq!(next(look(&Verdict::Running)), Next::Idle);
        assert_eq!(next(look(&failed())), Next::Idle);
        assert_eq!(next(Look { shaky: true, ..look(&Verdict::Running) }), Next::Idle);
    }

    #[test]
    fn what_is_on_its_way_is_looked_at_by_its_deadline_and_every_so_often() {
        let on_its_way = Verdict::Deploying(None);
        assert_eq!(next(look(&on_its_way)), Next::In(MOST));
        let late = |seconds| Look { underway: Duration::from_secs(seconds), ..look(&on_its_way) };
        assert_eq!(next(late(590)), Next::In(Duration::from_secs(10)));
        assert_eq!(next(late(600)), Next::In(LEAST));
        assert_eq!(next(late(10_000)), Next::In(LEAST));
        // Its time begins anew when it no longer runs.
        let fallen = Look { before: DeploymentStatus::Running, ..late(10_000) };
        assert_eq!(next(fallen), Next::In(MOST));
        let short = Duration::from_secs(5);
        assert_eq!(next(Look { deadline: short, ..fallen }), Next::In(short));
    }

    #[test]
    fn what_was_just_started_again_is_looked_at_before_it_counts_as_steady() {
        for verdict in [Verdict::Deploying(None), failed()] {
            let shaky = Look { shaky: true, ..look(&verdict) };
            assert_eq!(next(shaky), Next::In(SHAKY), "{verdict:?}");
        }
    }

    #[test]
    fn whoever_waits_for_secrets_is_asked_why_more_often() {
        let on_its_way = Verdict::Deploying(None);
        let syncing = Look { syncing: true, ..look(&on_its_way) };
        assert_eq!(next(syncing), Next::In(SYNCING));
        let late = Look { underway: Duration::from_secs(598), ..syncing };
        assert_eq!(next(late), Next::In(Duration::from_secs(2)));
        assert_eq!(next(Look { shaky: true, ..syncing }), Next::In(SHAKY));
        assert_eq!(next(Look { verdict: &failed(), ..syncing }), Next::Idle);
    }

    #[test]
    fn what_takes_requests_of_another_parts_from_them_first_but_not_for_ever() {
        assert_eq!(parting(false, Duration::ZERO), None);
        assert_eq!(parting(true, Duration::ZERO), Some(Next::In(LEAST)));
        assert_eq!(parting(true, PARTING - LEAST), Some(Next::In(LEAST)));
        assert_eq!(parting(true, PARTING), None);
    }
}
