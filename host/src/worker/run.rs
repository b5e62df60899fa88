//! One run: from a claimed request to what is to be written about it.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use chrono::Utc;
use serde::Deserialize;

use super::why::Why;
use super::{RETRY, WorkerParts};
use crate::db::{Db, Scope, is_connection_loss};
use crate::delivery::claim::Claimed;
use crate::delivery::finish::{Finished, Outcome};
use crate::delivery::guest::GuestQueue;
use crate::delivery::guest_db::GuestDb;
use crate::delivery::guest_deploy::GuestDeployments;
use crate::ids::{VersionId, WorkerId};
use crate::requests::FailureCode;
use crate::runtime::{Grants, Job, Limits, LoadError, RefusedImport, Skill, Verdict};
use crate::schemas;
use crate::skills::capabilities::Denial;
use crate::skills::loader::LoaderError;
use crate::tenancy::Tenant;

/// What a worker type grants and allows, read again with every heartbeat.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    current: Arc<RwLock<Current>>,
}

#[derive(Clone, Debug, Default)]
struct Current {
    grants: Grants,
    limits: Limits,
}

/// `eve.worker_types.limits`: what a worker type sets apart from the defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StoredLimits {
    wall_ms: Option<u64>,
    cpu_ms: Option<u64>,
    memory_bytes: Option<usize>,
}

impl Settings {
    pub(super) async fn refresh(&self, db: &Db, worker_type: &str) -> Result<(), sqlx::Error> {
        let mut tx = db.begin(Scope::Engine).await?;
        let row = sqlx::query!(
            r#"
            SELECT coalesce(grants, '{}') AS "grants!", limits AS "limits: sqlx::types::Json<StoredLimits>"
              FROM eve.worker_types WHERE id = $1
            "#,
            worker_type
        )
        .fetch_optional(&mut *tx)
        .await?;
        let current = match row {
            Some(row) => Current {
                // Grants that this version does not know grant nothing.
                grants: row.grants.iter().filter_map(|grant| grant.parse().ok()).collect(),
                limits: row.limits.0.within_ceiling(),
            },
            None => {
                tracing::warn!(worker_type, "there is no such worker type (any more)");
                Current::default()
            }
        };
        *self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = current;
        Ok(())
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl StoredLimits {
    fn within_ceiling(self) -> Limits {
        let default = Limits::default();
        Limits {
            wall: self.wall_ms.map_or(default.wall, Duration::from_millis),
            cpu: self.cpu_ms.map_or(default.cpu, Duration::from_millis),
            memory: self
                .memory_bytes
                .unwrap_or(default.memory)
                .min(crate::runtime::limits::MEMORY_CEILING),
        }
    }
}

/// Loads a skill. Waits for Postgres if that is away: the run has not begun, and it is not its fault.
async fn load(
    parts: &WorkerParts,
    version: VersionId,
    grants: &Grants,
) -> Result<Skill, LoaderError> {
    let mut wait = RETRY.0;
    loop {
        match parts.loader.get(version, grants).await {
            Err(LoaderError::Database(error)) if is_connection_loss(&error) => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
            other => return other,
        }
    }
}

/// Who denies the skill what it imports, and who can change that, if this is why it was not loaded.
fn denial(error: &LoaderError, run: &Claimed, grants: &Grants) -> Option<String> {
    let LoaderError::Load(LoadError::Refused(RefusedImport::NotGranted { import, capability })) =
        error
    else {
        return None;
    };
    let skill = run.skill.as_deref().unwrap_or_default();
    let denial = Denial::of(*capability, skill, &run.worker_type, grants, &run.revoked)?;
    Some(format!("the skill imports `{import}`, but {denial}"))
}

/// Runs a claimed request. Dropping the future cancels the run.
pub(super) async fn execute(
    parts: WorkerParts,
    settings: Settings,
    worker: WorkerId,
    run: Claimed,
) -> Finished {
    let Current { grants, limits } = settings.current();
    let Some(version) = run.version else {
        let message = match &run.skill {
            Some(skill) => format!(
                "there is no skill `{skill}` with an active version, neither of the organisation \
                 nor of the platform"
            ),
            None => "the request names no skill, and its worker type has no default".to_owned(),
        };
        return Finished::unstarted(run, FailureCode::SkillNotFound, message, false);
    };
    let skill = match load(&parts, version, &grants.without(&run.revoked)).await {
        Ok(skill) => skill,
        Err(error) => {
            let (code, retryable) = error.failure();
            let message = denial(&error, &run, &grants).unwrap_or_else(|| error.to_string());
            tracing::warn!(
                request = %run.id,
                %version,
                error = &error as &dyn std::error::Error,
                "a skill could not be loaded"
            );
            return Finished::unstarted(run, code, message, retryable);
        }
    };
    let wall = run.timeout_ms.map_or(limits.wall, |ms| Duration::from_millis(ms as u64));
    let limits = Limits { wall, ..limits };
    // The organisation is the leased row's.
    let tenant = Tenant::proven(run.org_id);
    // A wake-up runs as its orchestration.
    let id = run.wake.as_ref().map_or(run.id, |wake| wake.orchestration);
    let why = Why::of(&run);
    let job = Job {
        id,
        attempt: run.attempt.unsigned_abs().into(),
        generation: run.wake.as_ref().map_or(run.generation, |wake| wake.generation),
        prompt: run.prompt.clone(),
        context: why.context,
        repo_url: run.repo_url.clone(),
        branch: run.branch.clone(),
        config: run.config.clone(),
        metadata: run.metadata.clone(),
        trigger: why.trigger,
        additional_triggers: why.additional,
        parent_id: run.parent_request_id,
        worker_type: run.worker_type.clone(),
        org_slug: run.org_slug.clone(),
        user_id: run.user_id,
        deadline: Utc::now() + wall,
        limits,
        queue: Arc::new(GuestQueue::new(parts.requests.clone(), tenant, id)),
        deployments: Arc::new(GuestDeployments::new(
            parts.deployments.clone(),
            tenant,
            run.worker_type.clone(),
        )),
        db: Arc::new(GuestDb::new(
            parts.schemas.clone(),
            tenant,
            schemas::Run {
                request: run.id,
                worker,
                lease: run.lease,
                version,
                skill: run.skill.clone().unwrap_or_default(),
                worker_type: run.worker_type.clone(),
            },
        )),
    };
    let report = parts.runtime.run(&skill, job).await;
    let outcome = match report.verdict {
        Verdict::Completed(output) => Outcome::Completed {
            summary: output.summary,
            data: output.data,
            tokens_used: output.tokens_used,
            cost: output.cost,
        },
        Verdict::Waiting { deadline } => Outcome::Waiting { deadline },
        Verdict::Failed { code, message, retryable } => {
            Outcome::Failed { code, message, retryable }
        }
    };
    Finished {
        run,
        outcome,
        // Empty unless the run ended well.
        effects: report.effects,
        log: report.log,
        log_dropped: report.log_dropped,
        wall: report.usage.wall,
        cpu: report.usage.cpu,
        memory_peak: report.usage.memory_peak,
    }
}
