//! Registering, listing and forgetting clusters.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::types::Json;

use super::credentials::ClusterConfig;
use super::{Cluster, ClusterCheck, ClusterStatus, Gateway, NewCluster, Provider};
use crate::db::{Scope, is_duplicate};
use crate::deployments::{DeployError, Deployments};
use crate::requests::Invalid;
use crate::sealing::Envelope;
use crate::tenancy::{Actor, PLATFORM_ORG, Tenant, audit};

/// Most clusters.
const MAX_CLUSTERS: i64 = 1_000;

/// What a cluster is reached by, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::deployments) struct Row {
    pub id: String,
    pub endpoint: Option<String>,
    pub credentials: Option<Value>,
    pub config: Value,
}

impl Row {
    pub(in crate::deployments) fn config(&self) -> ClusterConfig {
        serde_json::from_value(self.config.clone()).unwrap_or_default()
    }

    /// Where its credentials are sealed for.
    pub(in crate::deployments) fn place(id: &str) -> String {
        format!("cluster/{id}")
    }

    /// The envelope; none if there is nothing sealed in it.
    pub(in crate::deployments) fn envelope(&self) -> Option<Envelope> {
        serde_json::from_value(self.credentials.clone()?).ok()
    }
}

impl Deployments {
    /// Registers a cluster. Its credentials are sealed; nobody has looked at it yet.
    pub async fn add_cluster(
        &self,
        actor: &Actor,
        new: &NewCluster,
    ) -> Result<Cluster, DeployError> {
        new.check()?;
        let credentials = self.sealed(new)?;
        let failed = DeployError::database("registering a cluster");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        let config = serde_json::to_value(new.config()).expect("texts always serialise");
        let creator = actor.to_json();
        let made = sqlx::query!(
            "INSERT INTO eve.clusters (id, name, provider, endpoint, credentials, config, created_by)
             SELECT $1, $2, $3, $4, $5, $6, $7
              WHERE (SELECT count(*) FROM eve.clusters) < $8",
            new.id,
            new.name.as_deref().unwrap_or(&new.id),
            new.provider.as_str(),
            new.endpoint,
            credentials,
            config,
            creator,
            MAX_CLUSTERS,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => DeployError::Conflict(format!(
                "there is a cluster `{}` already: remove it first, or choose another id",
                new.id
            )),
            false => failed(error),
        })?;
        if made.rows_affected() == 0 {
            return Err(DeployError::Conflict(format!("there may be {MAX_CLUSTERS} clusters")));
        }
        let platform = Tenant::proven(PLATFORM_ORG);
        let details = json!({
            "provider": new.provider, "endpoint": new.endpoint, "domain": new.domain,
            "gateway": new.gateway, "ingress_class": new.ingress_class,
        });
        audit::record_details(&mut tx, platform, actor, "cluster.add", &new.id, details)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.cluster(&new.id).await
    }

    /// Puts another place or credential in a cluster's: a token that has expired, a server that has moved.
    /// Environments stay, and are looked for there.
    pub async fn update_cluster(
        &self,
        actor: &Actor,
        id: &str,
        new: &NewCluster,
    ) -> Result<Cluster, DeployError> {
        if new.id != id {
            return Err(
                Invalid::new("id", format_args!("must be `{id}`: an id never changes")).into()
            );
        }
        new.check()?;
        let credentials = self.sealed(new)?;
        let failed = DeployError::database("changing a cluster");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        let config = serde_json::to_value(new.config()).expect("texts always serialise");
        let changed = sqlx::query!(
            "UPDATE eve.clusters
                SET name = $2, provider = $3, endpoint = $4, credentials = $5, config = $6,
                    status = 'unchecked', message = NULL, checked_at = NULL
              WHERE id = $1",
            id,
            new.name.as_deref().unwrap_or(id),
            new.provider.as_str(),
            new.endpoint,
            credentials,
            config,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        if changed.rows_affected() == 0 {
            return Err(DeployError::not_found("cluster", id));
        }
        let platform = Tenant::proven(PLATFORM_ORG);
        let details = json!({
            "provider": new.provider, "endpoint": new.endpoint, "domain": new.domain,
            "gateway": new.gateway, "ingress_class": new.ingress_class,
        });
        audit::record_details(&mut tx, platform, actor, "cluster.update", id, details)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.bell.deployments();
        self.cluster(id).await
    }

    /// The credentials of a cluster, sealed for its row.
    fn sealed(&self, new: &NewCluster) -> Result<Option<Value>, DeployError> {
        let Some(secret) = new.secret() else { return Ok(None) };
        let place = Row::place(&new.id);
        let envelope = self.sealer()?.seal(&place, secret.expose_secret().as_bytes());
        Ok(Some(serde_json::to_value(envelope).expect("an envelope always serialises")))
    }

    /// All clusters, by id.
    pub async fn clusters(&self) -> Result<Vec<Cluster>, DeployError> {
        self.some_clusters(None).await
    }

    /// One cluster.
    pub async fn cluster(&self, id: &str) -> Result<Cluster, DeployError> {
        let found = self.some_clusters(Some(id)).await?.pop();
        found.ok_or_else(|| DeployError::not_found("cluster", id))
    }

    /// Clusters, by id; only that of an id.
    async fn some_clusters(&self, id: Option<&str>) -> Result<Vec<Cluster>, DeployError> {
        let failed = DeployError::database("reading clusters");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        sqlx::query_as!(
            Cluster,
            r#"SELECT id, name, provider AS "provider: Provider", endpoint,
                      credentials IS NOT NULL AS "has_credentials!", status AS "status: ClusterStatus",
                      message, version, checked_at, created_at, config ->> 'domain' AS domain,
                      config -> 'gateway' AS "gateway: Json<Gateway>",
                      config ->> 'ingress_class' AS ingress_class,
                      (SELECT count(*) FROM eve.environments e WHERE e.cluster_id = c.id)
                          AS "environments!"
                 FROM eve.clusters c
                WHERE $1::text IS NULL OR id = $1
                ORDER BY id
                LIMIT $2"#,
            id,
            MAX_CLUSTERS
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)
    }

    /// Looks at a cluster, and writes down what there is.
    pub async fn check_cluster(&self, id: &str) -> Result<ClusterCheck, DeployError> {
        let row = self.cluster_row(id).await?;
        let stores = self.secret_stores(id).await?;
        let check = match self.connect(&row) {
            Ok(cluster) => cluster.check(&stores).await,
            Err(error) => ClusterCheck::unreachable(error.to_string()),
        };
        let failed = DeployError::database("writing down what a cluster is like");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        sqlx::query!(
            "UPDATE eve.clusters
                SET status = $2, message = $3, version = coalesce($4, version), checked_at = now()
              WHERE id = $1",
            id,
            check.status.as_str(),
            check.message(),
            check.version,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(check)
    }

    /// The stores that environments in a cluster keep their secrets in.
    async fn secret_stores(&self, id: &str) -> Result<Vec<String>, DeployError> {
        let failed = DeployError::database("reading a cluster's environments");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        sqlx::query_scalar!(
            r#"SELECT DISTINCT config -> 'secret_store' ->> 'name' AS "name!"
                 FROM eve.environments
                WHERE cluster_id = $1 AND config ? 'secret_store'
                ORDER BY 1
                LIMIT 20"#,
            id
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)
    }

    /// Forgets a cluster in which there are no environments any more. Nothing in it is changed.
    pub async fn remove_cluster(&self, actor: &Actor, id: &str) -> Result<(), DeployError> {
        let failed = DeployError::database("removing a cluster");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        let names = sqlx::query_scalar!(
            "SELECT namespace FROM eve.environments WHERE cluster_id = $1 ORDER BY namespace LIMIT 5",
            id
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        if !names.is_empty() {
            return Err(in_use(id, &names.join(", ")));
        }
        let removed = sqlx::query!("DELETE FROM eve.clusters WHERE id = $1", id)
            .execute(&mut *tx)
            .await
            .map_err(|error| match &error {
                // One that was made meanwhile.
                sqlx::Error::Database(said) if said.is_foreign_key_violation() => in_use(id, "one"),
                _ => failed(error),
            })?;
        if removed.rows_affected() == 0 {
            return Err(DeployError::not_found("cluster", id));
        }
        let platform = Tenant::proven(PLATFORM_ORG);
        audit::record(&mut tx, platform, actor, "cluster.remove", id).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.connections.forget(id);
        Ok(())
    }

    /// What a cluster is reached by.
    pub(in crate::deployments) async fn cluster_row(&self, id: &str) -> Result<Row, DeployError> {
        let failed = DeployError::database("reading a cluster");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        sqlx::query_as!(
            Row,
            "SELECT id, endpoint, credentials, config FROM eve.clusters WHERE id = $1",
            id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?
        .ok_or_else(|| DeployError::not_found("cluster", id))
    }
}

fn in_use(id: &str, names: &str) -> DeployError {
    DeployError::Conflict(format!(
        "there are environments in the cluster `{id}` (namespaces {names}): delete them first; if the cluster \
         is gone for ever, their organisations forget them with `eve env delete NAME --abandon`"
    ))
}
