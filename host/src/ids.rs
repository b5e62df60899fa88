//! Ids, each a type of its own, so that a request's id cannot be passed for an organisation's.
//!
//! Requests and whatever hangs on them carry UUIDv7 ids made by us: their order is the order of
//! creation, and their tables are partitioned by them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
            utoipa::ToSchema,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, greater than every one that this process made before.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// An organisation.
    OrgId
);
id!(
    /// A person, as Supabase's `auth.users` knows them.
    UserId
);
id!(
    /// A request, and equally its result: a request has at most one.
    RequestId
);
id!(
    /// A question that was put to people.
    QuestionId
);
id!(
    /// A schedule.
    ScheduleId
);
id!(
    /// A worker process.
    WorkerId
);
id!(
    /// A skill of an organisation, or of the platform.
    SkillId
);
id!(
    /// One immutable version of a skill.
    VersionId
);
id!(
    /// An API token (its id, not its secret).
    TokenId
);
