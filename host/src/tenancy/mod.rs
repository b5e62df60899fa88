//! Who asks, and for which organisation.
//!
//! Flow: a bearer token or JWT becomes an [`Identity`] (`auth`), the `Eve-Org` header and
//! `eve.org_members` turn that into a [`Caller`], and a caller's [`Tenant`] is the first argument of
//! every function that touches tenant data.
//!
//! Invariants:
//! - A [`Tenant`] is made in three places only: by authentication, from a row that a worker holds
//!   the lease of, and from a schedule that is due. No id that a client or a guest sends ever becomes
//!   one.
//! - Another organisation's row does not exist: functions answer "not found", never "forbidden".
//! - Whatever a person, a token or a guest changes is written to `eve.audit_log` in the same
//!   transaction (`audit`).

pub mod audit;
pub mod auth;
mod error;
pub mod jwt;
pub mod members;
pub mod orgs;
pub mod tokens;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{OrgId, RequestId, ScheduleId, TokenId, UserId};

pub use error::TenancyError;
pub use jwt::JwtConfig;

/// The platform's own organisation, which owns the skills that everybody may run.
pub const PLATFORM_ORG: OrgId = OrgId(uuid::Uuid::nil());

/// An organisation on whose behalf something is done, proven by authentication or by a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tenant {
    org: OrgId,
}

impl Tenant {
    /// Only for authentication, for leased rows, for schedules, and for `eve dev`'s own bootstrap.
    pub(crate) fn proven(org: OrgId) -> Self {
        Self { org }
    }

    /// The organisation.
    pub fn org(&self) -> OrgId {
        self.org
    }
}

/// What a member may do in an organisation. Ordered: an owner may do what an admin may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum OrgRole {
    /// Creates and reads requests and skills.
    Member,
    /// Also manages members, tokens, grants and skills' activation.
    Admin,
    /// Also manages owners and the organisation itself.
    Owner,
}

impl OrgRole {
    /// Every role, from the least.
    pub const ALL: [OrgRole; 3] = [OrgRole::Member, OrgRole::Admin, OrgRole::Owner];

    /// The word in the database, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            OrgRole::Member => "member",
            OrgRole::Admin => "admin",
            OrgRole::Owner => "owner",
        }
    }
}

impl std::fmt::Display for OrgRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Through what somebody acts. Written to the audit log, and to a request as its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "via", rename_all = "snake_case")]
pub enum Actor {
    /// A person with a JWT.
    User {
        /// Who.
        user: UserId,
    },
    /// An API token.
    Token {
        /// Which.
        token: TokenId,
        /// The person whom it stands for, if it stands for one.
        user: Option<UserId>,
    },
    /// A guest, through the request that it runs for.
    Run {
        /// The request.
        request: RequestId,
        /// The person on whose behalf the request runs.
        user: Option<UserId>,
    },
    /// A schedule.
    Schedule {
        /// Which.
        schedule: ScheduleId,
        /// The person who made it.
        user: Option<UserId>,
    },
    /// The platform itself: `eve dev`'s bootstrap.
    Platform,
}

impl Actor {
    /// As it is stored beside what it has done.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("an Actor always serialises")
    }

    /// The person behind it, if there is one.
    pub fn user(&self) -> Option<UserId> {
        match *self {
            Actor::User { user } => Some(user),
            Actor::Token { user, .. } | Actor::Run { user, .. } | Actor::Schedule { user, .. } => {
                user
            }
            Actor::Platform => None,
        }
    }
}
