//! Creating requests: one or many, all or none, with their edges. What is asked for is checked here;
//! `insert` writes it.

use std::collections::{BTreeSet, HashMap, HashSet};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::graph::{Graph, Reach, Ripple};
use super::insert::{Parent, Prepared, external_blockers, insert, no_blocker};
use super::read::Reader;
use super::{
    BlockerRef, Created, NewRequest, Origin, ReplyTo, RequestError, Requests, orchestration,
};
use crate::db::{Scope, is_deadlock, is_duplicate};
use crate::ids::RequestId;
use crate::tenancy::Tenant;

/// Most requests in one call.
pub const MAX_BATCH: usize = 10_000;

impl Requests {
    /// Creates all of `new` or none. With an idempotency key, the same call again returns what the
    /// first one made; the same key with another body is a conflict.
    pub async fn create(
        &self,
        tenant: Tenant,
        origin: &Origin,
        new: Vec<NewRequest>,
        key: Option<&str>,
    ) -> Result<Created, RequestError> {
        if new.is_empty() || new.len() > MAX_BATCH {
            return Err(RequestError::Invalid {
                field: "requests".into(),
                message: format!("must hold 1 to {MAX_BATCH} requests, not {}", new.len()),
            });
        }
        for (index, request) in new.iter().enumerate() {
            let path = |field: &str| match new.len() {
                1 => field.to_owned(),
                _ => format!("requests[{index}].{field}"),
            };
            request.validate(index).map_err(|invalid| RequestError::Invalid {
                field: path(&invalid.field),
                message: invalid.message,
            })?;
            if matches!(request.reply_to, Some(ReplyTo::Orchestrator { request_id: None })) {
                return Err(RequestError::Invalid {
                    field: path("reply_to"),
                    message: "without a `request_id`, `orchestrator` only has a meaning inside a \
                              run: name the open request that is to be woken"
                        .into(),
                });
            }
            if new.len() > 1 && request.idempotency_key.is_some() {
                return Err(RequestError::Invalid {
                    field: path("idempotency_key"),
                    message: "a batch is created as a whole: send the Idempotency-Key header \
                              instead"
                        .into(),
                });
            }
        }
        self.known(Reader::Member, tenant, &new).await?;
        let parents = self.parents(tenant, &new).await?;

        let key = key.or(new[0].idempotency_key.as_deref()).map(str::to_owned);
        let mut ids: Vec<RequestId> = new.iter().map(|_| RequestId::generate()).collect();
        if let Some(key) = &key {
            // A refusal later on would leave the key to a body that has made nothing.
            self.blockers_exist(tenant, &new).await?;
            let reserved =
                self.reserve(Reader::Member, tenant, key, &body_hash(&new), &ids).await?;
            ids = reserved;
            // A replay answers with what exists. If the first call died between the reservation and
            // the creation, this one creates, with the reserved ids.
            let existing = self.snapshot(tenant, &ids).await?;
            if existing.len() == ids.len() {
                return Ok(Created { requests: existing, replayed: true });
            }
        }
        let prepared: Vec<Prepared> = ids
            .iter()
            .zip(new)
            .map(|(id, new)| {
                let parent = named(&new).and_then(|named| parents.get(&named.0)).copied();
                Prepared { id: *id, new, parent }
            })
            .collect();

        let mut tries = 0;
        let outcome = loop {
            match self.insert_all(tenant, origin, &prepared).await {
                Err(RequestError::Database { source, .. }) if is_deadlock(&source) && tries < 5 => {
                    tries += 1;
                }
                other => break other,
            }
        };
        match outcome {
            Ok(ripple) => self.bell.ripple(&ripple),
            // The same key at the same time: the other call has just inserted the reserved ids.
            Err(RequestError::Database { source, .. })
                if key.is_some() && is_duplicate(&source) =>
            {
                let requests = self.snapshot(tenant, &ids).await?;
                return Ok(Created { requests, replayed: true });
            }
            Err(error) => return Err(error),
        }
        Ok(Created { requests: self.snapshot(tenant, &ids).await?, replayed: false })
    }

    /// The orchestrations that are named to be told, by the ids that name them: a wake-up's id means
    /// its orchestration. They are looked at again under locks.
    async fn parents(
        &self,
        tenant: Tenant,
        new: &[NewRequest],
    ) -> Result<HashMap<Uuid, Parent>, RequestError> {
        let wanted: Vec<Uuid> = new.iter().filter_map(named).map(|id| id.0).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let failed = RequestError::database("looking orchestrations up");
        let found: HashMap<Uuid, Parent> = async {
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await?;
            sqlx::query!(
                r#"
                SELECT id, orchestration_id, root_request_id
                  FROM eve.requests
                 WHERE id = ANY ($1) AND org_id = $2
                "#,
                &wanted,
                tenant.org().0
            )
            .fetch_all(&mut *tx)
            .await
        }
        .await
        .map_err(failed)?
        .into_iter()
        .map(|row| {
            let root = row.root_request_id;
            (row.id, Parent { id: row.orchestration_id, root, generation: 1 })
        })
        .collect();
        match wanted.into_iter().find(|id| !found.contains_key(id)) {
            Some(absent) => Err(RequestError::Invalid {
                field: "reply_to".into(),
                message: format!("there is no request {absent} to reply to"),
            }),
            None => Ok(found),
        }
    }

    /// Whether the requests that are waited for exist. They are looked at again under locks.
    async fn blockers_exist(&self, tenant: Tenant, new: &[NewRequest]) -> Result<(), RequestError> {
        let named = |new: &NewRequest| -> Vec<Uuid> {
            let ids = new.blocked_by.iter().filter_map(|blocker| match blocker.on {
                BlockerRef::Id(id) => Some(id.0),
                BlockerRef::Entry(_) => None,
            });
            ids.collect()
        };
        let wanted: BTreeSet<Uuid> = new.iter().flat_map(named).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted: Vec<Uuid> = wanted.into_iter().collect();
        let failed = RequestError::database("looking blockers up");
        let found: HashSet<Uuid> = async {
            let mut tx = self.db.begin(Scope::Tenant(tenant)).await?;
            sqlx::query_scalar!(
                "SELECT id FROM eve.requests WHERE id = ANY ($1) AND org_id = $2",
                &wanted,
                tenant.org().0
            )
            .fetch_all(&mut *tx)
            .await
        }
        .await
        .map_err(failed)?
        .into_iter()
        .collect();
        for (index, request) in new.iter().enumerate() {
            if let Some(absent) = named(request).into_iter().find(|id| !found.contains(id)) {
                return Err(no_blocker(index, new.len(), RequestId(absent)));
            }
        }
        Ok(())
    }

    async fn insert_all(
        &self,
        tenant: Tenant,
        origin: &Origin,
        prepared: &[Prepared],
    ) -> Result<Ripple, RequestError> {
        let mut tx = self
            .db
            .begin(Scope::Tenant(tenant))
            .await
            .map_err(RequestError::database("creating requests"))?;
        let told: BTreeSet<Uuid> =
            prepared.iter().filter_map(|request| request.parent).map(|parent| parent.id).collect();
        let mut reach = Reach { rows: external_blockers(prepared), ..Reach::default() };
        reach.rows.extend(&told);
        let mut graph = match reach.rows.is_empty() {
            true => Graph::default(),
            false => Graph::lock(&mut tx, &reach)
                .await
                .map_err(RequestError::database("locking blockers"))?,
        };
        let mut prepared = prepared.to_vec();
        for parent in prepared.iter_mut().filter_map(|request| request.parent.as_mut()) {
            let live = graph.live.get(&parent.id).ok_or_else(|| {
                RequestError::Conflict(format!(
                    "request {} has ended: there is nobody to reply to",
                    parent.id
                ))
            })?;
            parent.generation = live.generation;
        }
        orchestration::adopt(&mut tx, told)
            .await
            .map_err(RequestError::database("adding to an orchestration"))?;
        let ripple = insert(&mut tx, tenant, origin, &prepared, &mut graph).await?;
        tx.commit().await.map_err(RequestError::database("creating requests"))?;
        Ok(ripple)
    }

    /// Whether the worker types and skills that are named exist.
    pub(crate) async fn known(
        &self,
        reader: Reader,
        tenant: Tenant,
        new: &[NewRequest],
    ) -> Result<(), RequestError> {
        let types: BTreeSet<&str> =
            new.iter().map(|request| request.worker_type.as_str()).collect();
        let skills: BTreeSet<&str> =
            new.iter().filter_map(|request| request.skill.as_deref()).collect();
        let types: Vec<&str> = types.into_iter().collect();
        let skills: Vec<&str> = skills.into_iter().collect();
        let mut tx = self
            .db
            .begin(reader.scope(tenant))
            .await
            .map_err(RequestError::database("looking worker types up"))?;
        let defaults: HashMap<String, Option<String>> =
            sqlx::query!("SELECT id, default_skill FROM eve.worker_types")
                .fetch_all(&mut *tx)
                .await
                .map_err(RequestError::database("looking worker types up"))?
                .into_iter()
                .map(|row| (row.id, row.default_skill))
                .collect();
        let mut wanted: BTreeSet<&str> = skills.into_iter().collect();
        for name in &types {
            let Some(default) = defaults.get(*name) else {
                let mut known: Vec<&str> = defaults.keys().map(String::as_str).collect();
                known.sort_unstable();
                return Err(RequestError::Invalid {
                    field: "worker_type".into(),
                    message: format!(
                        "there is no worker type `{name}`; there are {}",
                        known.join(", ")
                    ),
                });
            };
            let needs_default =
                new.iter().any(|request| request.worker_type == *name && request.skill.is_none());
            match default {
                Some(skill) if needs_default => {
                    wanted.insert(skill);
                }
                None if needs_default => {
                    return Err(RequestError::Invalid {
                        field: "skill".into(),
                        message: format!("worker type `{name}` has no default skill: name one"),
                    });
                }
                _ => {}
            }
        }
        let wanted: Vec<&str> = wanted.into_iter().collect();
        let found: HashSet<String> = sqlx::query_scalar!(
            "SELECT name FROM eve.skills WHERE name = ANY ($1) AND active_version IS NOT NULL",
            &wanted as &[&str]
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(RequestError::database("looking skills up"))?
        .into_iter()
        .collect();
        match wanted.iter().find(|name| !found.contains(**name)) {
            Some(missing) => Err(RequestError::Invalid {
                field: "skill".into(),
                message: format!(
                    "there is no skill `{missing}` with an active version; push it first: \
                     eve skill push"
                ),
            }),
            None => Ok(()),
        }
    }

    /// Reserves ids under a key, in a small commit of its own. Returns the ids that the key stands
    /// for: the proposed ones, or those of the first call.
    pub(crate) async fn reserve(
        &self,
        reader: Reader,
        tenant: Tenant,
        key: &str,
        body_hash: &[u8],
        proposed: &[RequestId],
    ) -> Result<Vec<RequestId>, RequestError> {
        if key.is_empty() || key.chars().count() > 255 || key.contains('\0') {
            return Err(RequestError::Invalid {
                field: "idempotency_key".into(),
                message: "must have 1 to 255 characters, none of them U+0000".into(),
            });
        }
        let proposed: Vec<Uuid> = proposed.iter().map(|id| id.0).collect();
        let failed = RequestError::database("reserving an idempotency key");
        let stored = async {
            let mut tx = self.db.begin(reader.scope(tenant)).await?;
            sqlx::query!(
                "INSERT INTO eve.idempotency_keys (org_id, key, body_hash, request_ids)
                 VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
                tenant.org().0,
                key,
                body_hash,
                &proposed
            )
            .execute(&mut *tx)
            .await?;
            let row = sqlx::query!(
                "SELECT body_hash, request_ids FROM eve.idempotency_keys WHERE org_id = $1 AND key = $2",
                tenant.org().0,
                key
            )
            .fetch_one(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(row)
        }
        .await
        .map_err(failed)?;
        if stored.body_hash != body_hash {
            return Err(RequestError::Conflict(format!(
                "the idempotency key `{key}` was used before, for a different body"
            )));
        }
        Ok(stored.request_ids.into_iter().map(RequestId).collect())
    }
}

/// The orchestration that a new request names.
fn named(new: &NewRequest) -> Option<RequestId> {
    new.reply_to.as_ref().and_then(|ReplyTo::Orchestrator { request_id }| *request_id)
}

/// What a body is compared by.
pub(crate) fn body_hash(new: &[NewRequest]) -> Vec<u8> {
    // Serialising what was parsed makes equal bodies equal, however they were spaced.
    let canonical = serde_json::to_vec(new).expect("a NewRequest always serialises");
    Sha256::digest(canonical).to_vec()
}
