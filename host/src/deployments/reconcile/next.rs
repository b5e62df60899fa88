//! When a deployment is looked at again: a pure function of what the last look came to.

use std::time::Duration;

use super::judge::Verdict;
use crate::deployments::DeploymentStatus;
use crate::deployments::kubernetes::observe::SHAKY_SECONDS;

/// How soon it is looked at again when a container has just been started again.
const SHAKY: Duration = Duration::from_secs(SHAKY_SECONDS as u64 / 2);
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
            Next::In(left.clamp(LEAST, MOST))
        }
        Verdict::Running | Verdict::Failed(_) => Next::Idle,
    }
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
}
