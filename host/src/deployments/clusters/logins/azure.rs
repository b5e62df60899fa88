//! Microsoft's: the secret of an application is exchanged for a token of the AKS server application
//! (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>,
//! <https://azure.github.io/kubelogin/concepts/aks.html>).

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{LoginError, Token, exchange, fits};
use crate::requests::Invalid;

/// The application that every AKS cluster with Entra ID is, for its clients.
const SCOPE: &str = "6dae42f8-4368-4678-94ff-3960e28e3630/.default";

/// The secret of an application that may enter an AKS cluster with Entra ID.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AzureLogin {
    /// The directory (tenant).
    pub tenant_id: Uuid,
    /// The application (client).
    pub client_id: Uuid,
    /// Its secret; not the secret's id.
    #[serde(serialize_with = "super::sealed")]
    #[schema(value_type = String, write_only)]
    pub client_secret: SecretString,
}

impl AzureLogin {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let graphic = |byte: u8| byte.is_ascii_graphic();
        if !fits(self.client_secret.expose_secret(), 512, graphic) {
            return Err(Invalid::new(
                "azure.client_secret",
                "must be visible characters without spaces, at most 512",
            ));
        }
        Ok(())
    }

    pub(super) async fn token(&self, host: &str) -> Result<Token, LoginError> {
        let path = format!("/{}/oauth2/v2.0/token", self.tenant_id);
        let client_id = self.client_id.to_string();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client_id.as_str()),
            ("client_secret", self.client_secret.expose_secret()),
            ("scope", SCOPE),
        ];
        exchange(host, &path, &form).await
    }
}
