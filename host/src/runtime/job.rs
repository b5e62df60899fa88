//! What goes into a run and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::capabilities::db::{DbHost, NoDb};
use super::capabilities::deploy::{DeployHost, NoDeployments};
use super::capabilities::queue::{Effects, QueueHost};
use super::limits::Limits;
use crate::ids::{RequestId, UserId};
use crate::requests::{FailureCode, LogLine, Status};

/// One run to do: a claimed request as its guest sees it. JSON stays text, as it came from the
/// database: most guests look at a part of it, and some at none.
#[derive(Clone)]
pub struct Job {
    /// The request. For a wake-up this is what the guest should call itself: the orchestration.
    pub id: RequestId,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// 1, and one more for every retry of the finished request.
    pub generation: i32,
    /// What is wanted, in words.
    pub prompt: String,
    /// A JSON object.
    pub context: String,
    /// The repository that the request is about.
    pub repo_url: Option<String>,
    /// The branch that the request is about.
    pub branch: Option<String>,
    /// A JSON object.
    pub config: String,
    /// A JSON object.
    pub metadata: String,
    /// Why the run takes place.
    pub trigger: Trigger,
    /// What else came in meanwhile, oldest first.
    pub additional_triggers: Vec<Trigger>,
    /// The request that created this one.
    pub parent_id: Option<RequestId>,
    /// The pool that runs it.
    pub worker_type: String,
    /// For display to the guest only.
    pub org_slug: String,
    /// For display to the guest only.
    pub user_id: Option<UserId>,
    /// What the guest is told about [`Limits::wall`]; the limit itself counts from the start.
    pub deadline: DateTime<Utc>,
    /// What the run may use.
    pub limits: Limits,
    /// Where its queue calls go, bound to its organisation.
    pub queue: Arc<dyn QueueHost>,
    /// Where its database calls go, likewise.
    pub db: Arc<dyn DbHost>,
    /// Where its calls about deployments go, likewise.
    pub deployments: Arc<dyn DeployHost>,
}

impl Job {
    /// A first run that was asked for nothing, for no organisation: what is run apart from the platform,
    /// by a test or a bench, begins with this.
    pub fn bare(id: RequestId, queue: Arc<dyn QueueHost>) -> Job {
        let limits = Limits::default();
        Job {
            id,
            attempt: 1,
            generation: 1,
            prompt: String::new(),
            context: "{}".into(),
            repo_url: None,
            branch: None,
            config: "{}".into(),
            metadata: "{}".into(),
            trigger: Trigger::Initial,
            additional_triggers: Vec::new(),
            parent_id: None,
            worker_type: "general".into(),
            org_slug: "local".into(),
            user_id: None,
            deadline: Utc::now() + limits.wall,
            limits,
            queue,
            db: Arc::new(NoDb),
            deployments: Arc::new(NoDeployments),
        }
    }
}

/// Why a run takes place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Trigger {
    /// The request's first run, or another attempt at it.
    Initial,
    /// A child that replies to this orchestrator ended.
    ChildComplete {
        /// The child.
        request_id: RequestId,
        /// How it ended.
        status: Status,
    },
    /// A question was answered, or expired.
    HitlResponse {
        /// The question.
        question_id: String,
        /// The answer as JSON; none when it expired.
        response: Option<String>,
        /// Who answered, for display.
        answered_by: Option<String>,
    },
    /// A deployment came to rest.
    DeploymentSettled {
        /// The deployment.
        deployment_id: String,
        /// `running`, `failed` or `stopped`.
        status: String,
        /// Why, when it failed.
        reason: Option<String>,
    },
    /// A timer went off.
    Timer {
        /// Its name.
        name: String,
    },
    /// A schedule created the request.
    Cron {
        /// The schedule's name.
        name: String,
    },
    /// Something that `eve:skill@0.1` has no case for.
    Other {
        /// What.
        kind: String,
    },
}

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// What it asked for. Empty unless the verdict is `Completed` or `Waiting`.
    pub effects: Effects,
    /// Its log, oldest line first.
    pub log: Vec<LogLine>,
    /// Lines that were dropped because there were too many.
    pub log_dropped: u64,
    /// What it used.
    pub usage: Usage,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// With an output, checked and storable as it is.
    Completed(Output),
    /// It waits for what it has started.
    Waiting {
        /// For how long at most; none means the platform's default.
        deadline: Option<Duration>,
    },
    /// It failed, or was made to.
    Failed {
        /// In a word.
        code: FailureCode,
        /// In a sentence: storable, at most 8 KiB.
        message: String,
        /// Whether another attempt may end better.
        retryable: bool,
    },
}

/// What a completed run hands back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// For people.
    pub summary: String,
    /// For programs: valid JSON text that `jsonb` accepts.
    pub data: Option<String>,
    /// Language-model tokens used.
    pub tokens_used: Option<i64>,
    /// US dollars, finite and not negative.
    pub cost: Option<f64>,
}

/// What a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the start of its work (not of its wait for a slot) to its end.
    pub wall: Duration,
    /// CPU time, host calls included. Exact for what runs longer than a tick of 10 ms, an upper
    /// bound for what does not.
    pub cpu: Duration,
    /// Most bytes of memories and tables at one time.
    pub memory_peak: usize,
}
