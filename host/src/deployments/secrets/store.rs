//! Setting, listing and deleting secrets. Whoever changes one has the environment for themselves.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::held::{Held, secret_place};
use super::{
    EnvironmentSecret, MAX_ROLLED, MAX_SECRETS, NewSecret, SecretList, SecretSet, SecretStore,
    SecretUse, check_name, is_name,
};
use crate::db::{Scope, Tx};
use crate::deployments::desired::{self, Hold, permitted};
use crate::deployments::environments::{EnvironmentConfig, Locked};
use crate::deployments::{DeployError, Deployer, Deployments, names};
use crate::tenancy::{Tenant, audit};

/// A deployment that refers to a secret.
struct Referrer {
    id: Uuid,
    app_id: Uuid,
    app: String,
}

/// What there is of a secret.
struct Stored {
    version: i32,
    value: Value,
}

impl Deployments {
    /// Sets a secret: makes it, or gives it another value. Every deployment that refers to it and has
    /// another value gets a revision, unless it is not to be restarted.
    pub async fn set_secret(
        &self,
        deployer: &Deployer,
        env: &str,
        name: &str,
        new: &NewSecret,
    ) -> Result<SecretSet, DeployError> {
        check_name("name", name)?;
        new.check()?;
        let failed = DeployError::database("setting a secret");
        let mut tx = self.db.begin(Scope::Tenant(deployer.tenant)).await.map_err(failed)?;
        let environment = permitted(&mut tx, deployer, env, Hold::Alone).await?;
        kept_here(&environment, name)?;
        let (version, changed) =
            self.write_secret(&mut tx, deployer, &environment, name, new).await?;
        let mut set = SecretSet {
            name: name.to_owned(),
            version,
            changed,
            restarted: Vec::new(),
            left: Vec::new(),
        };
        for referrer in referrers(&mut tx, deployer.tenant, environment.id, name).await? {
            let had = self.had(&mut tx, referrer.id).await?;
            let has = had.0.get(name);
            if has.is_some_and(|has| has.expose_secret() == new.value.expose_secret()) {
                continue;
            }
            if !new.restart {
                set.left.push(referrer.app);
                continue;
            }
            if set.restarted.len() == MAX_ROLLED {
                return Err(DeployError::Conflict(format!(
                    "more than {MAX_ROLLED} deployments refer to {name} in `{env}`: set it with --no-restart, \
                     and deploy them again in parts"
                )));
            }
            let cause = format!("secret {name}, version {version}");
            self.roll(&mut tx, deployer, &environment, &referrer, had, cause).await?;
            set.restarted.push(referrer.app);
        }
        let details = json!({
            "version": version, "changed": changed, "restarted": set.restarted, "left": set.left,
        });
        let target = format!("{env}/{name}");
        let (tenant, actor) = (deployer.tenant, &deployer.actor);
        audit::record_details(&mut tx, tenant, actor, "secret.set", &target, details)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        Ok(set)
    }

    /// The secrets of an environment, without their values.
    pub async fn secrets(&self, tenant: Tenant, env: &str) -> Result<SecretList, DeployError> {
        let environment = self.environment(tenant, env).await?;
        let failed = DeployError::database("listing secrets");
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        let mut uses = uses(&mut tx, tenant, environment.id).await?;
        if let Some(store) = environment.config.0.secret_store {
            let elsewhere = |(name, apps): (String, Vec<SecretUse>)| EnvironmentSecret {
                key: Some(store.key(&name)),
                name,
                version: None,
                apps,
                created_at: None,
                updated_at: None,
            };
            let items = uses.into_iter().map(elsewhere).collect();
            return Ok(SecretList { items, store: Some(store) });
        }
        let rows = sqlx::query!(
            "SELECT name, version, created_at, updated_at
               FROM eve.environment_secrets
              WHERE org_id = $1 AND environment_id = $2
              ORDER BY name
              LIMIT $3",
            tenant.org().0,
            environment.id,
            MAX_SECRETS,
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        let items = rows.into_iter().map(|row| EnvironmentSecret {
            apps: uses.remove(&row.name).unwrap_or_default(),
            name: row.name,
            version: Some(row.version),
            key: None,
            created_at: Some(row.created_at),
            updated_at: Some(row.updated_at),
        });
        Ok(SecretList { items: items.collect(), store: None })
    }

    /// Deletes a secret: only with `force` while deployments refer to it. They keep the value that they have
    /// until something makes their pods anew; then they must do without.
    pub async fn delete_secret(
        &self,
        deployer: &Deployer,
        env: &str,
        name: &str,
        force: bool,
    ) -> Result<(), DeployError> {
        let unknown = || DeployError::not_found("secret", &format!("{name} in {env}"));
        let failed = DeployError::database("deleting a secret");
        names::label("env", env, names::MAX_ENVIRONMENT)
            .map_err(|_| DeployError::not_found("environment", env))?;
        let mut tx = self.db.begin(Scope::Tenant(deployer.tenant)).await.map_err(failed)?;
        let environment = permitted(&mut tx, deployer, env, Hold::Alone).await?;
        if !is_name(name) {
            return Err(unknown());
        }
        kept_here(&environment, name)?;
        let deleted = sqlx::query!(
            "DELETE FROM eve.environment_secrets
              WHERE org_id = $1 AND environment_id = $2 AND name = $3",
            deployer.tenant.org().0,
            environment.id,
            name,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        if deleted.rows_affected() == 0 {
            return Err(unknown());
        }
        let referrers = referrers(&mut tx, deployer.tenant, environment.id, name).await?;
        let apps: Vec<&str> = referrers.iter().take(20).map(|referrer| &*referrer.app).collect();
        if !apps.is_empty() && !force {
            return Err(DeployError::Conflict(format!(
                "{} refer to {name} in `{env}`: deploy them without it first, or delete it with --force, and \
                 they keep its value until they are deployed again, which then must be without it",
                apps.join(", ")
            )));
        }
        let (tenant, actor) = (deployer.tenant, &deployer.actor);
        let details = json!({ "force": force, "apps": apps });
        let ids: Vec<Uuid> = referrers.iter().map(|_| Uuid::now_v7()).collect();
        let deployments: Vec<Uuid> = referrers.iter().map(|referrer| referrer.id).collect();
        sqlx::query!(
            "INSERT INTO eve.deployment_events
                    (id, deployment_id, org_id, event_type, revision, details, actor)
             SELECT told.id, d.id, d.org_id, 'secret_deleted', d.revision, $3, $4
               FROM unnest($1::uuid[], $2::uuid[]) AS told (id, deployment_id)
               JOIN eve.deployments d ON d.id = told.deployment_id",
            &ids,
            &deployments,
            json!({ "secret": name }),
            actor.to_json(),
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        let target = format!("{env}/{name}");
        audit::record_details(&mut tx, tenant, actor, "secret.delete", &target, details)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Seals a value into its row: which version it is, and whether it is another than before. The same value
    /// is sealed anew, with the key of now, and stays the same version.
    async fn write_secret(
        &self,
        tx: &mut Tx,
        deployer: &Deployer,
        environment: &Locked,
        name: &str,
        new: &NewSecret,
    ) -> Result<(i32, bool), DeployError> {
        let failed = DeployError::database("setting a secret");
        let value = new.value.expose_secret();
        let org = deployer.tenant.org().0;
        let before = sqlx::query_as!(
            Stored,
            "SELECT version, value FROM eve.environment_secrets
              WHERE org_id = $1 AND environment_id = $2 AND name = $3",
            org,
            environment.id,
            name,
        )
        .fetch_optional(&mut **tx)
        .await
        .map_err(failed)?;
        let (version, changed) = match before {
            None => (1, true),
            Some(before) => {
                // One that does not open any more is another.
                let same =
                    self.open_secret(environment.id, name, before.value).is_ok_and(|before| {
                        Sha256::digest(before.expose_secret()) == Sha256::digest(value)
                    });
                (if same { before.version } else { before.version.saturating_add(1) }, !same)
            }
        };
        let envelope = self.sealer()?.seal(&secret_place(environment.id, name), value.as_bytes());
        let sealed = serde_json::to_value(envelope).expect("an envelope always serialises");
        let actor = deployer.actor.to_json();
        let written = sqlx::query!(
            "INSERT INTO eve.environment_secrets AS s
                    (org_id, environment_id, name, value, version, created_by, updated_by)
             SELECT $1, $2, $3, $4, $5, $6, $6
              WHERE EXISTS (SELECT FROM eve.environment_secrets
                             WHERE environment_id = $2 AND name = $3)
                 OR (SELECT count(*) FROM eve.environment_secrets WHERE environment_id = $2) < $7
             ON CONFLICT (environment_id, name) DO UPDATE
                SET value = $4, version = $5,
                    updated_by = CASE WHEN $8 THEN $6 ELSE s.updated_by END,
                    updated_at = CASE WHEN $8 THEN now() ELSE s.updated_at END",
            org,
            environment.id,
            name,
            sealed,
            version,
            actor,
            MAX_SECRETS,
            changed,
        )
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
        if written.rows_affected() == 0 {
            return Err(DeployError::Conflict(format!(
                "`{}` has {MAX_SECRETS} secrets, and may have no more: `eve secret delete` makes room",
                environment.name
            )));
        }
        Ok((version, changed))
    }

    /// The values that a deployment has. Those that do not open any more it does not have.
    async fn had(&self, tx: &mut Tx, deployment: Uuid) -> Result<Held, DeployError> {
        let sealed =
            sqlx::query_scalar!("SELECT secrets FROM eve.deployments WHERE id = $1", deployment)
                .fetch_one(&mut **tx)
                .await
                .map_err(DeployError::database("reading a deployment"))?;
        match sealed {
            None => Ok(Held::default()),
            Some(sealed) => match self.held(deployment, Some(&sealed)) {
                Ok((held, _)) => Ok(held),
                Err(DeployError::Sealed { .. }) => Ok(Held::default()),
                Err(error) => Err(error),
            },
        }
    }

    /// Writes a revision of a deployment that differs in nothing but the values of its secrets.
    async fn roll(
        &self,
        tx: &mut Tx,
        deployer: &Deployer,
        environment: &Locked,
        referrer: &Referrer,
        had: Held,
        cause: String,
    ) -> Result<(), DeployError> {
        let app = &referrer.app;
        let unknown = || DeployError::not_found("deployment", app);
        let row = desired::lock(tx, deployer, environment.id, referrer.app_id).await?;
        let row = row.ok_or_else(unknown)?;
        let before = desired::stored(tx, row.id, row.revision)
            .await
            .map_err(DeployError::database("reading a revision"))?
            .ok_or_else(unknown)?;
        let settings = desired::whole(&before.config)?;
        let references = settings.secrets.clone().unwrap_or_default();
        let resolved = self
            .resolve(tx, deployer.tenant, environment, row.id, &references, had)
            .await
            .map_err(|error| match error {
                DeployError::Invalid { message, .. } => {
                    DeployError::Conflict(format!("`{app}` refers to it: {message}"))
                }
                error => error,
            })?;
        let asked = desired::Asked::again(before, &settings, resolved, cause);
        self.write(tx, deployer, &environment.name, app, &row, asked).await
    }
}

/// Those that refer to a secret and are there, or shall be; by app.
async fn referrers(
    tx: &mut Tx,
    tenant: Tenant,
    environment: Uuid,
    name: &str,
) -> Result<Vec<Referrer>, DeployError> {
    // Nobody else changes which they are: that takes the environment.
    sqlx::query_as!(
        Referrer,
        "SELECT d.id, d.app_id, a.name AS app
           FROM eve.deployments d
           JOIN eve.apps a ON a.id = d.app_id
          WHERE d.org_id = $1 AND d.environment_id = $2
            AND d.status <> 'stopped' AND NOT d.stopping
            AND d.config -> 'secrets' @> jsonb_build_array(jsonb_build_object('name', $3::text))
          ORDER BY a.name",
        tenant.org().0,
        environment,
        name,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(DeployError::database("looking for what refers to a secret"))
}

/// What refers to which secret.
async fn uses(
    tx: &mut Tx,
    tenant: Tenant,
    environment: Uuid,
) -> Result<BTreeMap<String, Vec<SecretUse>>, DeployError> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT r.reference ->> 'name' AS "name!", a.name AS app,
                  (d.config -> 'secret_versions' ->> (r.reference ->> 'name'))::int AS version
             FROM eve.deployments d
             JOIN eve.apps a ON a.id = d.app_id
            CROSS JOIN LATERAL jsonb_array_elements(d.config -> 'secrets') AS r (reference)
            WHERE d.org_id = $1 AND d.environment_id = $2
              AND d.status <> 'stopped' AND NOT d.stopping
            ORDER BY 1, 2
            LIMIT 10000"#,
        tenant.org().0,
        environment,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(DeployError::database("looking for what refers to secrets"))?;
    let mut uses: BTreeMap<String, Vec<SecretUse>> = BTreeMap::new();
    for row in rows {
        uses.entry(row.name).or_default().push(SecretUse { app: row.app, version: row.version });
    }
    Ok(uses)
}

/// Refuses to change what is kept elsewhere, and says where.
fn kept_here(environment: &Locked, name: &str) -> Result<(), DeployError> {
    let Some(store) = &environment.config.secret_store else { return Ok(()) };
    Err(DeployError::Conflict(format!(
        "the secrets of `{}` are kept in the store `{}`: change it there, under the key {}; apps get what is \
         there when they are deployed",
        environment.name,
        store.name,
        store.key(name),
    )))
}

/// The config of an environment to make, with all that follows from it. Where secrets are kept says what may
/// be read with the platform's rights: that is for its administrators.
pub(in crate::deployments) fn settled(
    config: &EnvironmentConfig,
    org: &str,
    env: &str,
    platform_admin: bool,
) -> Result<EnvironmentConfig, DeployError> {
    let Some(store) = &config.secret_store else { return Ok(config.clone()) };
    if !platform_admin {
        return Err(DeployError::Forbidden(
            "config.secret_store: where secrets are kept is said by administrators of the platform"
                .into(),
        ));
    }
    let store: SecretStore = store.of(org, env)?;
    Ok(EnvironmentConfig { secret_store: Some(store), ..config.clone() })
}
