//! The values that the pods of a deployment have: those of the moment at which its template was written.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use uuid::Uuid;

use super::{MAX_TOGETHER, SecretReference};
use crate::db::Tx;
use crate::deployments::environments::Locked;
use crate::deployments::{DeployError, Deployments};
use crate::sealing::{Envelope, SealingError};
use crate::tenancy::Tenant;

/// Where the secret of an environment is sealed for.
pub(super) fn secret_place(environment: Uuid, name: &str) -> String {
    format!("environment/{environment}/secret/{name}")
}

/// Where the values that a deployment has are sealed for.
fn held_place(deployment: Uuid) -> String {
    format!("deployment/{deployment}/secrets")
}

/// Values, by the names of their secrets.
#[derive(Clone, Debug, Default)]
pub struct Held(pub BTreeMap<String, SecretString>);

impl Held {
    /// In one piece, to be sealed.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let exposed: BTreeMap<&str, &str> =
            self.0.iter().map(|(name, value)| (&**name, value.expose_secret())).collect();
        Zeroizing::new(serde_json::to_vec(&exposed).expect("texts always serialise"))
    }
}

/// What references mean at a moment.
#[derive(Debug, Default)]
pub(in crate::deployments) struct Resolved {
    /// The values, sealed for the deployment; none without references, or where they are kept elsewhere.
    pub sealed: Option<Value>,
    /// Which version of each it is; of none that is kept elsewhere.
    pub versions: BTreeMap<String, i32>,
}

fn broken(source: SealingError) -> DeployError {
    DeployError::Sealed {
        what: "the secrets of the app cannot be opened; set them again".to_owned(),
        source,
    }
}

impl Deployments {
    /// The values that references mean in this transaction, which holds the environment. Of secrets that are
    /// no more the deployment keeps what it `had`, if anything.
    pub(in crate::deployments) async fn resolve(
        &self,
        tx: &mut Tx,
        tenant: Tenant,
        environment: &Locked,
        deployment: Uuid,
        references: &[SecretReference],
        had: Held,
    ) -> Result<Resolved, DeployError> {
        if references.is_empty() || environment.config.secret_store.is_some() {
            return Ok(Resolved::default());
        }
        let names: BTreeSet<&str> = references.iter().map(|reference| &*reference.name).collect();
        let wanted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let rows = sqlx::query!(
            "SELECT name, version, value
               FROM eve.environment_secrets
              WHERE org_id = $1 AND environment_id = $2 AND name = ANY ($3)",
            tenant.org().0,
            environment.id,
            &wanted,
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(DeployError::database("reading secrets"))?;
        let mut held = Held::default();
        let mut versions = BTreeMap::new();
        for row in rows {
            let value = self.open_secret(environment.id, &row.name, row.value)?;
            held.0.insert(row.name.clone(), value);
            versions.insert(row.name, row.version);
        }
        for (name, value) in had.0 {
            if names.contains(&*name) {
                held.0.entry(name).or_insert(value);
            }
        }
        let missing: Vec<&str> =
            names.into_iter().filter(|name| !held.0.contains_key(*name)).collect();
        if !missing.is_empty() {
            let env = &environment.name;
            return Err(DeployError::Invalid {
                field: "settings.secrets".into(),
                message: format!(
                    "there is no secret {} in `{env}`; `eve secret set {} --env {env}` makes it",
                    missing.join(", "),
                    missing[0],
                ),
            });
        }
        let bytes: usize = held.0.values().map(|value| value.expose_secret().len()).sum();
        if bytes > MAX_TOGETHER {
            return Err(DeployError::Invalid {
                field: "settings.secrets".into(),
                message: format!(
                    "the secrets of an app may have at most {MAX_TOGETHER} bytes together; these have {bytes}"
                ),
            });
        }
        let envelope = self.sealer()?.seal(&held_place(deployment), &held.to_bytes());
        let sealed = serde_json::to_value(envelope).expect("an envelope always serialises");
        Ok(Resolved { sealed: Some(sealed), versions })
    }

    /// The value of a secret.
    pub(super) fn open_secret(
        &self,
        environment: Uuid,
        name: &str,
        sealed: Value,
    ) -> Result<SecretString, DeployError> {
        let broken = |source| DeployError::Sealed {
            what: format!("the secret {name} cannot be opened; set it again"),
            source,
        };
        let envelope: Envelope =
            serde_json::from_value(sealed).map_err(|_| broken(SealingError::Broken))?;
        let place = secret_place(environment, name);
        let opened = self.sealer()?.open(&place, &envelope).map_err(broken)?;
        let text = std::str::from_utf8(opened.expose_secret());
        text.map(SecretString::from).map_err(|_| broken(SealingError::Broken))
    }

    /// The values that a deployment has, and a name for them that tells nobody what they are.
    pub(in crate::deployments) fn held(
        &self,
        deployment: Uuid,
        sealed: Option<&Value>,
    ) -> Result<(Held, String), DeployError> {
        let envelope = sealed.and_then(|sealed| serde_json::from_value(sealed.clone()).ok());
        let envelope: Envelope = envelope.ok_or_else(|| broken(SealingError::Broken))?;
        let sealer = self.sealer()?;
        let opened = sealer.open(&held_place(deployment), &envelope).map_err(broken)?;
        let opened = opened.expose_secret();
        let values = serde_json::from_slice(opened).map_err(|_| broken(SealingError::Broken))?;
        let fingerprint = sealer.fingerprint(&envelope, opened).map_err(broken)?;
        Ok((Held(values), fingerprint))
    }
}
