//! Keeps machine code beside every active version: for this process's engine, whole, and signed with its
//! key. A duty of every control plane, each for its own engine.
//!
//! Flow: a round looks for active versions without machine code (a new engine, an old version that was
//! activated) and for those that a worker has refused; the first looks at everybody's signature too, in
//! case the key was changed. What is missing, or does not hold here either, is compiled again from the
//! component that was uploaded. What does hold is not: then it is the worker that is set up wrongly.
//!
//! Every version is stored as it is done, so dying half-way loses one at most. Two that do it at once do
//! some of the work twice, and no harm.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{SkillError, UploadError, Uploads, blocking};
use crate::db::Scope;
use crate::ids::{OrgId, VersionId};
use crate::skills::store::{self, Suspect, Suspicion};

/// What is found of machine code that a worker has refused: the worker is wrong, or the code is.
const HOLDS: &str = "holds";
const DOES_NOT_HOLD: &str = "does_not_hold";
/// How often it looks: a run that meets refused machine code is tried again after a second, and two.
const ROUND: Duration = Duration::from_secs(2);
/// How long a version is left alone after it could not be compiled: a try may take a minute of CPU.
const PAUSE: Duration = Duration::from_secs(600);

/// Why a version is compiled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// There is nothing for this engine.
    Missing,
    /// It is signed with another key.
    Key,
    /// A worker has refused it, and rightly.
    Refused,
}

impl Reason {
    /// The word in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Key => "key",
            Reason::Refused => "refused",
        }
    }
}

/// What a control plane remembers from one round to the next.
#[derive(Default)]
struct Memory {
    /// Whether everybody's signature was looked at.
    signatures_seen: bool,
    /// What could not be compiled, and when that was.
    failed: HashMap<VersionId, Instant>,
}

impl Uploads {
    /// Looks until `stop`.
    pub async fn keep_compiled(&self, stop: &CancellationToken) {
        // From 0: the first refusal is an increase too.
        for verdict in [HOLDS, DOES_NOT_HOLD] {
            metrics::counter!("eve_artifacts_refused_total", "verdict" => verdict).increment(0);
        }
        let mut memory = Memory::default();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            let round = tokio::select! {
                () = stop.cancelled() => return,
                round = self.round(&mut memory) => round,
            };
            match round {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "compiled stored skills for this engine"),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "looking after stored machine code failed; trying again");
                }
            }
        }
    }

    /// Compiles what is due; how many versions that were.
    async fn round(&self, memory: &mut Memory) -> Result<usize, UploadError> {
        let mut compiled = 0;
        for (org, version, reason) in self.due(memory).await? {
            if memory.failed.get(&version).is_some_and(|at| at.elapsed() < PAUSE) {
                continue;
            }
            match self.compile_stored(org, version).await {
                Ok(()) => {
                    memory.failed.remove(&version);
                    metrics::counter!("eve_artifacts_compiled_total", "reason" => reason.as_str())
                        .increment(1);
                    compiled += 1;
                }
                // Nothing that another version would fare better with.
                Err(UploadError::Store(error @ SkillError::Database { .. })) => {
                    return Err(error.into());
                }
                // One that cannot be compiled any more must not hold up the others.
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        %org,
                        %version,
                        "compiling a stored version for this engine failed"
                    );
                    memory.failed.insert(version, Instant::now());
                }
            }
        }
        memory.signatures_seen = true;
        Ok(compiled)
    }

    /// What is to be compiled, and why.
    async fn due(&self, memory: &Memory) -> Result<Vec<(OrgId, VersionId, Reason)>, UploadError> {
        let (db, workshop) = (&self.inner.db, &self.inner.workshop);
        let fingerprint = workshop.runtime.fingerprint();
        let missing = store::missing_artifacts(db, fingerprint).await?.into_iter();
        let mut due: Vec<_> = missing.map(|(org, id)| (org, id, Reason::Missing)).collect();
        let suspicion = match memory.signatures_seen {
            true => Suspicion::Refused,
            false => Suspicion::Everything,
        };
        for suspect in store::suspects(db, fingerprint, suspicion).await? {
            let claim = suspect.stored.claim(fingerprint);
            let reason = match &suspect.refused {
                Some(why) if self.acquitted(&suspect, why).await? => continue,
                Some(_) => Reason::Refused,
                None if claim.is_some_and(|claim| workshop.cache.accepts(&claim)) => continue,
                None => Reason::Key,
            };
            due.push((suspect.org, suspect.version, reason));
        }
        Ok(due)
    }

    /// Whether machine code that a worker has refused is what was signed, after all.
    async fn acquitted(&self, suspect: &Suspect, why: &str) -> Result<bool, UploadError> {
        let failed = SkillError::database("looking at refused machine code");
        let Suspect { version, ref stored, .. } = *suspect;
        let fingerprint = self.inner.workshop.runtime.fingerprint();
        let mut tx = self.inner.db.begin(Scope::Control).await.map_err(failed)?;
        let packed = store::artifact_bytes(&mut tx, version, fingerprint).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        let (Some(packed), Some(claim)) = (packed, stored.claim(fingerprint)) else {
            return Ok(false);
        };
        let cache = self.inner.workshop.cache.clone();
        let checked = blocking("checking machine code", move || Ok(cache.check(&claim, &packed)));
        let holds = match checked.await? {
            Ok(()) => {
                tracing::error!(
                    %version,
                    why,
                    "a worker refuses machine code that holds here: does its EVE_VERIFY_KEYS have this \
                     control plane's key?"
                );
                let mut tx = self.inner.db.begin(Scope::Control).await.map_err(failed)?;
                store::acquit(&mut tx, version, fingerprint, stored.stored_at)
                    .await
                    .map_err(failed)?;
                tx.commit().await.map_err(failed)?;
                true
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    %version,
                    "stored machine code is not what was signed: compiling it again"
                );
                false
            }
        };
        let verdict = if holds { HOLDS } else { DOES_NOT_HOLD };
        metrics::counter!("eve_artifacts_refused_total", "verdict" => verdict).increment(1);
        Ok(holds)
    }

    async fn compile_stored(&self, org: OrgId, version: VersionId) -> Result<(), UploadError> {
        let failed = SkillError::database("compiling a stored version");
        let mut tx = self.inner.db.begin(Scope::Control).await.map_err(failed)?;
        let stored = store::wasm(&mut tx, version).await?;
        tx.commit().await.map_err(failed)?;
        // Deleted in the meantime.
        let Some(stored) = stored else { return Ok(()) };
        let unpacked = blocking("unpacking a component", move || Ok(stored.unpack()));
        let built = self.build(unpacked.await??.into()).await?;
        let mut tx = self.inner.db.begin(Scope::Control).await.map_err(failed)?;
        store::replace_artifact(&mut tx, org, version, &built.artifact).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(())
    }
}
