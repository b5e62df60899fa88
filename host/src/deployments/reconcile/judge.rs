//! Where a deployment stands: a pure function of what is seen and of what was asked for.

use std::time::Duration;

use crate::deployments::kubernetes::failure::{is_admission, shown};
use crate::deployments::kubernetes::observe::{Seen, TroubleKind};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The generation that our apply returned.
    pub generation: i64,
    /// The revision that its pods are of.
    pub template: i32,
    /// How long it has been on its way.
    pub underway: Duration,
    /// How long it may be.
    pub deadline: Duration,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On its way.
    Deploying(Option<Why>),
    /// There.
    Running,
    /// Not there, and no use in waiting.
    Failed(Why),
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// In a word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

impl Why {
    /// In a word, and in a sentence.
    pub fn new(reason: &str, message: impl Into<String>) -> Why {
        let message: String = message.into();
        Why { reason: reason.to_owned(), message: shown(&message, 1_000) }
    }
}

/// Judges.
pub fn judge(seen: &Seen, asked: &Asked) -> Verdict {
    let late = asked.underway >= asked.deadline;
    if seen.observed < asked.generation || seen.generation < asked.generation {
        let why = Why::new("not_observed", "the cluster has not looked at the change yet");
        return if late { Verdict::Failed(why) } else { Verdict::Deploying(None) };
    }
    let latest = || seen.pods.iter().filter(|pod| pod.template == asked.template);
    // Exactly the pods that there shall be, all of the latest template, all ready. The pods are looked at after
    // the Deployment: where they contradict it, it has not heard of it yet.
    let whole = seen.updated == seen.desired
        && seen.total == seen.updated
        && seen.available >= seen.desired
        && latest().all(|pod| pod.trouble.is_none());
    let shaky = latest().find(|pod| pod.shaky_since.is_some());
    if whole && seen.failure.is_none() {
        let Some(shaky) = shaky else { return Verdict::Running };
        let (name, restarts) = (&shaky.pod.name, shaky.pod.restarts);
        let message = format!(
            "pod {name}: its container has just been started again, {restarts} times by now"
        );
        let why = Why::new(TroubleKind::CrashLoop.as_str(), message);
        return if late { Verdict::Failed(why) } else { Verdict::Deploying(Some(why)) };
    }
    let why = why(seen, asked);
    let hopeless = match &why {
        Some((_, hopeless)) => *hopeless,
        None => false,
    };
    let why = why.map(|(why, _)| why);
    if hopeless || late {
        let late = || {
            Why::new(
                "not_ready",
                format!(
                    "{} of {} replicas were ready within {} s",
                    ready(seen, asked.template),
                    seen.desired,
                    asked.deadline.as_secs()
                ),
            )
        };
        return Verdict::Failed(why.unwrap_or_else(late));
    }
    Verdict::Deploying(why)
}

/// Replicas of the latest template that are ready.
pub fn ready(seen: &Seen, template: i32) -> i32 {
    let of_it = seen.pods.iter().filter(|pod| pod.template == template && pod.pod.ready).count();
    // Of more pods than are looked at the Deployment knows best.
    let of_it = i32::try_from(of_it).unwrap_or(i32::MAX);
    match seen.total == seen.updated {
        true => seen.available.min(seen.desired),
        false => of_it.min(seen.desired),
    }
}

/// The most telling reason, and whether there is no use in waiting.
fn why(seen: &Seen, asked: &Asked) -> Option<(Why, bool)> {
    if let Some(failure) = &seen.failure {
        return Some(match () {
            () if failure.is_empty() => {
                (Why::new("replica_failure", "the cluster cannot make its pods"), false)
            }
            () if failure.contains("exceeded quota") => (Why::new("quota", failure), false),
            () if is_admission(failure) => (Why::new("admission", failure), true),
            () => (Why::new("replica_failure", failure), false),
        });
    }
    let pods = seen.pods.iter().filter(|pod| pod.template == asked.template && !pod.ending);
    let (trouble, name) =
        pods.filter_map(|pod| Some((pod.trouble.as_ref()?, &pod.pod.name))).max()?;
    // That a Secret is not there says less than why.
    if trouble.kind == TroubleKind::Config
        && let Some(message) = &seen.secrets
    {
        return Some((Why::new("secret_missing", message), false));
    }
    let why = Why::new(trouble.kind.as_str(), format!("pod {name}: {}", trouble.message));
    Some((why, trouble.kind == TroubleKind::Hopeless))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::deployments::Pod;
    use crate::deployments::kubernetes::observe::{SeenPod, Trouble};

    fn pod(template: i32, ready: bool, trouble: Option<TroubleKind>) -> SeenPod {
        SeenPod {
            pod: Pod {
                name: "p".into(),
                status: String::new(),
                ready,
                restarts: 0,
                version: String::new(),
                started_at: None,
            },
            template,
            shaky_since: None,
            ending: false,
            trouble: trouble.map(|kind| Trouble { kind, message: "why".into() }),
            digest: None,
        }
    }

    fn seen() -> Seen {
        Seen {
            generation: 2,
            observed: 2,
            revision: 2,
            desired: 2,
            total: 2,
            updated: 2,
            available: 2,
            failure: None,
            secrets: None,
            pods: vec![pod(2, true, None), pod(2, true, None)],
        }
    }

    fn asked(seconds: u64) -> Asked {
        Asked {
            generation: 2,
            template: 2,
            underway: Duration::from_secs(seconds),
            deadline: Duration::from_secs(60),
        }
    }

    fn reason(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Deploying(Some(why)) | Verdict::Failed(why) => &why.reason,
            _ => "",
        }
    }

    #[test]
    fn it_runs_when_exactly_the_latest_pods_are_ready() {
        assert_eq!(judge(&seen(), &asked(0)), Verdict::Running);
        assert_eq!(judge(&seen(), &asked(1_000)), Verdict::Running, "late, but there");
        for not_yet in [
            Seen { observed: 1, ..seen() },
            Seen { total: 3, ..seen() },
            Seen { updated: 1, ..seen() },
            Seen { available: 1, ..seen() },
            Seen { updated: 1, total: 1, available: 1, ..seen() },
        ] {
            assert!(matches!(judge(&not_yet, &asked(0)), Verdict::Deploying(_)), "{not_yet:?}");
            assert!(matches!(judge(&not_yet, &asked(60)), Verdict::Failed(_)), "{not_yet:?}");
        }
        let mut shaky = seen();
        shaky.pods[0].shaky_since = Some(chrono::Utc::now());
        assert_eq!(reason(&judge(&shaky, &asked(0))), "crash_loop", "it may end once more");
        let mut fallen = seen();
        fallen.pods[1] = pod(2, false, Some(TroubleKind::CrashLoop));
        let fallen = judge(&fallen, &asked(0));
        assert!(matches!(fallen, Verdict::Deploying(_)), "the Deployment has not heard of it yet");
        assert_eq!(reason(&fallen), "crash_loop");
        let none = Seen { desired: 0, total: 0, updated: 0, available: 0, pods: vec![], ..seen() };
        assert_eq!(judge(&none, &asked(0)), Verdict::Running, "nothing was asked for");
    }

    #[test]
    fn failures_say_why_and_back_offs_wait_for_the_deadline() {
        let with = |kind| Seen {
            available: 1,
            pods: vec![
                pod(1, true, None),
                pod(2, false, Some(TroubleKind::NotReady)),
                pod(2, false, Some(kind)),
            ],
            ..seen()
        };
        for (kind, word) in [
            (TroubleKind::ImagePull, "image_pull"),
            (TroubleKind::CrashLoop, "crash_loop"),
            (TroubleKind::Unschedulable, "unschedulable"),
            (TroubleKind::Config, "container_config"),
            (TroubleKind::NotReady, "not_ready"),
        ] {
            let early = judge(&with(kind), &asked(59));
            assert!(matches!(early, Verdict::Deploying(_)), "{early:?}");
            assert_eq!(reason(&early), word);
            let late = judge(&with(kind), &asked(60));
            assert!(matches!(late, Verdict::Failed(_)), "{late:?}");
            assert_eq!(reason(&late), word);
        }
        let missing = |kind| Seen { secrets: Some("no such key".into()), ..with(kind) };
        let waiting = judge(&missing(TroubleKind::Config), &asked(59));
        assert_eq!(waiting, Verdict::Deploying(Some(Why::new("secret_missing", "no such key"))));
        assert!(matches!(judge(&missing(TroubleKind::Config), &asked(60)), Verdict::Failed(_)));
        assert_eq!(reason(&judge(&missing(TroubleKind::CrashLoop), &asked(0))), "crash_loop");
        let hopeless = judge(&with(TroubleKind::Hopeless), &asked(0));
        assert!(matches!(hopeless, Verdict::Failed(_)));
        // What troubles pods of an older template is no reason.
        let older = Seen {
            available: 1,
            pods: vec![pod(1, false, Some(TroubleKind::CrashLoop))],
            ..seen()
        };
        assert_eq!(judge(&older, &asked(0)), Verdict::Deploying(None));
        let quota = Seen {
            available: 1,
            failure: Some("pods is forbidden: exceeded quota: eve-quota".into()),
            ..seen()
        };
        assert_eq!(reason(&judge(&quota, &asked(0))), "quota");
        let policy = Seen { failure: Some("violates PodSecurity".into()), available: 1, ..seen() };
        assert!(matches!(judge(&policy, &asked(0)), Verdict::Failed(_)));
    }

    proptest! {
        /// Whatever is seen: it never runs with fewer ready than asked for, or with older pods; and nothing
        /// is on its way beyond its deadline.
        #[test]
        fn no_verdict_without_its_reason(
            generation in 0..4i64, observed in 0..4i64, desired in 0..5, total in 0..6, updated in 0..6,
            available in 0..6, underway in 0..120u64, failure in proptest::option::of("[a-z ]{0,20}"),
        ) {
            let seen = Seen { generation, observed, desired, total, updated, available, failure, ..seen() };
            match judge(&seen, &asked(underway)) {
                Verdict::Running => {
                    prop_assert!(observed >= 2 && total == desired && updated == desired);
                    prop_assert!(available >= desired);
                }
                Verdict::Deploying(_) => prop_assert!(underway < 60),
                Verdict::Failed(why) => {
                    prop_assert!(underway >= 60 || why.reason == "admission");
                    prop_assert!(!why.message.is_empty());
                }
            }
        }
    }
}
