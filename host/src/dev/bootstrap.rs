//! What `eve dev` finds or makes in its database: an organisation, a user who owns it and administers
//! the platform, and a token for this machine's command line.

use uuid::Uuid;

use crate::db::{Db, Scope};
use crate::ids::{OrgId, UserId};
use crate::tenancy::tokens::{self, NewToken, TokenSecret};
use crate::tenancy::{Actor, OrgRole, TenancyError, Tenant};

/// The organisation's short name.
pub const ORG_SLUG: &str = "dev";
/// The pools that `eve dev` runs: the brief's three.
pub const POOLS: [&str; 3] = ["general", "deployment", "devops-orchestrator"];

const USER_EMAIL: &str = "dev@localhost";
const USER: Uuid = Uuid::from_u128(0xde5e_0000_0000_4000_8000_0000_0000_0001);
const TOKEN_NAME: &str = "eve dev";

/// Why it could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Postgres did not do it.
    #[error("writing to the database failed")]
    Database(#[from] sqlx::Error),
    /// The token could not be made.
    #[error(transparent)]
    Tenancy(#[from] TenancyError),
}

/// Makes the organisation with its owner, as far as they are missing.
pub async fn organisation(db: &Db) -> Result<Tenant, BootstrapError> {
    let mut tx = db.begin(Scope::Control).await?;
    sqlx::query!(
        "INSERT INTO auth.users (id, email) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        USER,
        USER_EMAIL
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "INSERT INTO eve.platform_admins (user_id) VALUES ($1) ON CONFLICT DO NOTHING",
        USER
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "INSERT INTO eve.organizations (slug, name) VALUES ($1, 'Development') ON CONFLICT DO NOTHING",
        ORG_SLUG
    )
    .execute(&mut *tx)
    .await?;
    let org = sqlx::query_scalar!("SELECT id FROM eve.organizations WHERE slug = $1", ORG_SLUG)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query!(
        "INSERT INTO eve.org_members (org_id, user_id, role) VALUES ($1, $2, 'owner')
         ON CONFLICT DO NOTHING",
        org,
        USER
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Tenant::proven(OrgId(org)))
}

/// Makes what is missing. Every start has a token of its own: the secret of an earlier one is not
/// stored anywhere, so the earlier one is revoked.
pub async fn run(db: &Db) -> Result<TokenSecret, BootstrapError> {
    let tenant = organisation(db).await?;
    let org = tenant.org().0;
    let mut tx = db.begin(Scope::Tenant(tenant)).await?;
    sqlx::query!(
        "UPDATE eve.api_tokens SET revoked_at = now()
          WHERE org_id = $1 AND name = $2 AND revoked_at IS NULL",
        org,
        TOKEN_NAME
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    let new = NewToken {
        name: TOKEN_NAME.to_owned(),
        role: Some(OrgRole::Owner),
        scopes: Vec::new(),
        expires_in_days: None,
    };
    let user = Some(UserId(USER));
    let (_, secret) =
        tokens::issue(db, tenant, &Actor::Platform, user, OrgRole::Owner, &new).await?;
    Ok(secret)
}
