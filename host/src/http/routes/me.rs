//! Who is calling.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::extract::{Json, SomebodySomewhere};
use crate::ids::{OrgId, TokenId, UserId};
use crate::tenancy::orgs::Org;
use crate::tenancy::{Actor, OrgRole};

/// The caller.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The person; none for a token that stands for nobody.
    pub user_id: Option<UserId>,
    /// Their address, where it is known.
    pub email: Option<String>,
    /// The token that they came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<TokenId>,
    /// Whether they administer the platform, with this credential.
    pub platform_admin: bool,
    /// The organisation that calls like this one are for; null if it must be named.
    pub org: Option<ChosenOrg>,
    /// The organisations that they may act for with this credential.
    pub orgs: Vec<Org>,
}

/// The organisation that is acted for.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct ChosenOrg {
    /// Its id.
    pub id: OrgId,
    /// Its short name.
    pub slug: String,
    /// The caller's role in it.
    pub role: OrgRole,
}

/// Shows who is calling, and for which organisation.
#[utoipa::path(
    get, path = "/v1/me", tag = "me",
    responses((status = 200, description = "The caller", body = Me))
)]
pub async fn get_me(SomebodySomewhere(identity, caller): SomebodySomewhere) -> Json<Me> {
    let token_id = match identity.actor {
        Actor::Token { token, .. } => Some(token),
        _ => None,
    };
    Json(Me {
        user_id: identity.actor.user(),
        email: identity.email.clone(),
        token_id,
        platform_admin: identity.platform_admin,
        org: caller.map(|caller| ChosenOrg {
            id: caller.org.id,
            slug: caller.org.slug,
            role: caller.role,
        }),
        orgs: identity.orgs.clone(),
    })
}
