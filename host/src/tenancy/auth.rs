//! Authentication: a bearer credential becomes an [`Identity`], and an organisation out of its
//! memberships makes it a [`Caller`].
//!
//! Flow: [`Authenticator::identify`] checks an API token by its hash, or a JWT by its signature,
//! and reads memberships; [`Identity::in_org`] picks the organisation that the client named, or the
//! only one there is. Nothing else makes a [`Tenant`] for a client.
//!
//! What is read of the database is remembered for [`REMEMBERED`]: a change made here is seen here
//! at once ([`Authenticator::forget`]), on other replicas within that time. An organisation is denied to nobody
//! by what is remembered ([`Authenticator::identify_anew`]): whoever has just been given one comes back at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use uuid::Uuid;

use super::jwt::{JwtConfig, JwtConfigError, JwtError, JwtVerifier};
use super::orgs::Org;
use super::tokens::{self, Scopes, TokenFormatError, TokenScope, TokenSecret};
use super::{Actor, OrgRole, Tenant, members};
use crate::db::{Db, Scope, Tx};
use crate::ids::{OrgId, TokenId, UserId};

/// How long memberships and tokens are remembered: this long a revoked token may still work on
/// another replica.
const REMEMBERED: Duration = Duration::from_secs(5);
/// How many credentials are remembered.
const REMEMBERED_MOST: usize = 10_000;
/// `last_used_at` is written at most this often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// Most memberships of one person that are looked at.
const MAX_MEMBERSHIPS: i64 = 1_000;

/// How clients prove who they are. API tokens always work.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// People's sign-in tokens; without it only API tokens are accepted.
    pub jwt: Option<JwtConfig>,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credential.
    #[error("send `Authorization: Bearer` with an API token or a sign-in token")]
    Missing,
    /// A header that is not of this form.
    #[error("the Authorization header is not `Bearer` and a token")]
    NotBearer,
    /// Not an API token.
    #[error(transparent)]
    Format(#[from] TokenFormatError),
    /// A well-formed token that is not ours.
    #[error("this API token is not known here")]
    Unknown,
    /// Past its time.
    #[error("the API token has expired")]
    Expired,
    /// Taken back.
    #[error("the API token was revoked")]
    Revoked,
    /// The person whom the token stands for has left the organisation.
    #[error("the person who made this API token is no longer a member of its organisation")]
    Orphaned,
    /// A JWT that does not hold.
    #[error("{0}")]
    Jwt(&'static str),
    /// JWTs are not accepted at all.
    #[error("sign-in tokens are not accepted here: use an API token (eve_…)")]
    NoJwt,
    /// The organisation does not exist, or is not the caller's.
    #[error("there is no organisation `{0}`, or you are not a member of it")]
    NoSuchOrg(String),
    /// Several organisations, none of them named.
    #[error("you belong to several organisations: name one in the header `Eve-Org`")]
    WhichOrg,
    /// None at all.
    #[error("you do not belong to any organisation")]
    NoOrg,
    /// Keys to check JWTs with cannot be had at present.
    #[error("sign-in tokens cannot be checked at present")]
    KeysUnavailable,
    /// Postgres could not be asked.
    #[error("looking up the credential failed")]
    Database(#[from] sqlx::Error),
}

/// Somebody who proved who they are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Through what they act.
    pub actor: Actor,
    /// Their address, for display.
    pub email: Option<String>,
    /// The organisations that they may act for with this credential. A token's own comes first, and
    /// is the only one unless it carries the administration of the platform: whoever makes an
    /// organisation with it must be able to act for what they have made.
    pub orgs: Vec<Org>,
    /// What the credential may be used for.
    pub scopes: Scopes,
    /// Whether they administer the platform, with this credential.
    pub platform_admin: bool,
}

/// Somebody who acts for one of their organisations.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The organisation, as proof.
    pub tenant: Tenant,
    /// The organisation, for display.
    pub org: Org,
    /// Their role in it.
    pub role: OrgRole,
    /// Through what they act.
    pub actor: Actor,
    /// What the credential may be used for.
    pub scopes: Scopes,
    /// Whether they administer the platform.
    pub platform_admin: bool,
}

impl Caller {
    /// The person behind the credential, if there is one.
    pub fn user(&self) -> Option<UserId> {
        self.actor.user()
    }
}

impl Identity {
    /// Acts for the organisation with this slug or id; when none is named, for the token's own or
    /// the only one.
    pub fn in_org(&self, named: Option<&str>) -> Result<Caller, AuthError> {
        let org = match named {
            Some(name) => self.org(name)?,
            None => match &self.orgs[..] {
                [org] => org,
                [own, ..] if matches!(self.actor, Actor::Token { .. }) => own,
                [] => return Err(AuthError::NoOrg),
                _ => return Err(AuthError::WhichOrg),
            },
        };
        Ok(Caller {
            tenant: Tenant::proven(org.id),
            org: org.clone(),
            role: org.role,
            actor: self.actor,
            scopes: self.scopes.clone(),
            platform_admin: self.platform_admin,
        })
    }

    /// One of theirs, by slug or id. Anybody else's does not exist.
    pub fn org(&self, name: &str) -> Result<&Org, AuthError> {
        let id = name.parse::<OrgId>().ok();
        self.orgs
            .iter()
            .find(|org| org.slug == name || Some(org.id) == id)
            .ok_or_else(|| AuthError::NoSuchOrg(name.chars().take(100).collect()))
    }
}

/// Checks credentials. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    jwt: Option<JwtVerifier>,
    remembered: Cache<Credential, (Instant, Arc<Identity>)>,
    touched: Cache<TokenId, Instant>,
}

/// What identities are remembered under. A JWT itself is checked every time.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Credential {
    TokenHash([u8; 32]),
    Person(UserId),
}

/// What of what is remembered will do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recall {
    /// What is not older than [`REMEMBERED`].
    Recent,
    Nothing,
}

impl Authenticator {
    /// Checks the configuration; connects to nothing yet.
    pub fn new(db: Db, config: &AuthConfig) -> Result<Self, JwtConfigError> {
        let jwt = config.jwt.as_ref().map(JwtVerifier::new).transpose()?;
        let remembered = Cache::new(REMEMBERED_MOST);
        let touched = Cache::new(REMEMBERED_MOST);
        Ok(Self { inner: Arc::new(Inner { db, jwt, remembered, touched }) })
    }

    /// Who sent this `Authorization` header.
    pub async fn identify(&self, header: Option<&str>) -> Result<Arc<Identity>, AuthError> {
        self.look_up(header, Recall::Recent).await
    }

    /// The same, whatever is remembered.
    pub async fn identify_anew(&self, header: Option<&str>) -> Result<Arc<Identity>, AuthError> {
        self.look_up(header, Recall::Nothing).await
    }

    async fn look_up(
        &self,
        header: Option<&str>,
        recall: Recall,
    ) -> Result<Arc<Identity>, AuthError> {
        let credential = bearer(header.ok_or(AuthError::Missing)?)?;
        if credential.starts_with(tokens::PREFIX) {
            return self.by_token(&TokenSecret::parse(credential)?, recall).await;
        }
        let verifier = self.inner.jwt.as_ref().ok_or(AuthError::NoJwt)?;
        match verifier.verify(credential).await {
            Ok(person) => self.by_person(person.user, person.email, recall).await,
            Err(JwtError::Refused(why)) => Err(AuthError::Jwt(why)),
            Err(JwtError::NoKeys) => Err(AuthError::KeysUnavailable),
        }
    }

    /// Forgets what is remembered, after a change to members, tokens or administrators.
    pub fn forget(&self) {
        self.inner.remembered.clear();
    }

    async fn by_person(
        &self,
        user: UserId,
        email: Option<String>,
        recall: Recall,
    ) -> Result<Arc<Identity>, AuthError> {
        let key = Credential::Person(user);
        if let Some(identity) = self.recall(&key, recall) {
            return Ok(identity);
        }
        let mut tx = self.inner.db.begin(Scope::Control).await?;
        let orgs = memberships(&mut tx, user).await?;
        let platform_admin = is_platform_admin(&mut tx, user).await?;
        tx.commit().await?;
        let actor = Actor::User { user };
        let identity =
            Identity { actor, email, orgs, scopes: Scopes::Unrestricted, platform_admin };
        Ok(self.remember(key, identity))
    }

    async fn by_token(
        &self,
        secret: &TokenSecret,
        recall: Recall,
    ) -> Result<Arc<Identity>, AuthError> {
        let key = Credential::TokenHash(secret.hash());
        if let Some(identity) = self.recall(&key, recall) {
            return Ok(identity);
        }
        let identity = self.look_up_token(secret).await?;
        if let Actor::Token { token, .. } = identity.actor {
            self.touch(token);
        }
        Ok(self.remember(key, identity))
    }

    async fn look_up_token(&self, secret: &TokenSecret) -> Result<Identity, AuthError> {
        let mut tx = self.inner.db.begin(Scope::Control).await?;
        // By its hash: what an attacker could learn from the time of an index look-up is about the
        // hash of what they sent.
        let row = sqlx::query!(
            r#"SELECT t.id AS "id: TokenId", t.user_id AS "user_id: UserId", t.role AS "role: OrgRole",
                      t.scopes, t.revoked_at IS NOT NULL AS "revoked!",
                      coalesce(t.expires_at <= now(), false) AS "expired!",
                      o.id AS "org_id: OrgId", o.slug, o.name, o.created_at,
                      m.role AS "member_role?: OrgRole"
                 FROM eve.api_tokens t
                 JOIN eve.organizations o ON o.id = t.org_id
                 LEFT JOIN eve.org_members m ON m.org_id = t.org_id AND m.user_id = t.user_id
                WHERE t.token_hash = $1"#,
            &secret.hash()[..],
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(AuthError::Unknown)?;
        if row.revoked {
            return Err(AuthError::Revoked);
        }
        if row.expired {
            return Err(AuthError::Expired);
        }
        // A token that stands for a person never does more than the person may now.
        let role = match (row.user_id, row.member_role) {
            (None, _) => row.role,
            (Some(_), Some(member)) => row.role.min(member),
            (Some(_), None) => return Err(AuthError::Orphaned),
        };
        let scopes = Scopes::from_words(&row.scopes);
        let platform_admin = match row.user_id {
            Some(user) if role >= OrgRole::Admin && scopes.allow(TokenScope::Admin) => {
                is_platform_admin(&mut tx, user).await?
            }
            _ => false,
        };
        let others = match row.user_id {
            Some(user) if platform_admin => memberships(&mut tx, user).await?,
            _ => Vec::new(),
        };
        tx.commit().await?;
        let email = match row.user_id {
            Some(user) => members::emails(&self.inner.db, &[user.0]).await?.remove(&user),
            None => None,
        };
        let org = Org {
            id: row.org_id,
            slug: row.slug,
            name: row.name,
            role,
            created_at: row.created_at,
        };
        let own = org.id;
        let others = others.into_iter().filter(|other| other.id != own);
        let others = others.map(|other| Org { role: other.role.min(row.role), ..other });
        Ok(Identity {
            actor: Actor::Token { token: row.id, user: row.user_id },
            email,
            orgs: std::iter::once(org).chain(others).collect(),
            scopes,
            platform_admin,
        })
    }

    fn recall(&self, key: &Credential, recall: Recall) -> Option<Arc<Identity>> {
        if recall == Recall::Nothing {
            return None;
        }
        let (at, identity) = self.inner.remembered.get(key)?;
        (at.elapsed() < REMEMBERED).then_some(identity)
    }

    fn remember(&self, key: Credential, identity: Identity) -> Arc<Identity> {
        let identity = Arc::new(identity);
        self.inner.remembered.insert(key, (Instant::now(), identity.clone()));
        identity
    }

    /// Notes that a token was used, beside the request and not in its way; losing one is harmless.
    fn touch(&self, token: TokenId) {
        if self.inner.touched.get(&token).is_some_and(|at| at.elapsed() < TOUCH_INTERVAL) {
            return;
        }
        self.inner.touched.insert(token, Instant::now());
        let db = self.inner.db.clone();
        tokio::spawn(async move {
            if let Err(error) = touch(&db, token).await {
                tracing::warn!(error = &error as &dyn std::error::Error, %token, "noting a token's use failed");
            }
        });
    }
}

async fn touch(db: &Db, token: TokenId) -> Result<(), sqlx::Error> {
    let mut tx = db.begin(Scope::Control).await?;
    sqlx::query!(
        "UPDATE eve.api_tokens
            SET last_used_at = now()
          WHERE id = $1
            AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        token.0,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

async fn memberships(tx: &mut Tx, user: UserId) -> Result<Vec<Org>, sqlx::Error> {
    sqlx::query_as!(
        Org,
        r#"SELECT o.id AS "id: OrgId", o.slug, o.name, m.role AS "role: OrgRole", o.created_at
             FROM eve.org_members m
             JOIN eve.organizations o ON o.id = m.org_id
            WHERE m.user_id = $1
            ORDER BY o.slug
            LIMIT $2"#,
        user.0,
        MAX_MEMBERSHIPS,
    )
    .fetch_all(&mut **tx)
    .await
}

async fn is_platform_admin(tx: &mut Tx, user: UserId) -> Result<bool, sqlx::Error> {
    let user: Uuid = user.0;
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM eve.platform_admins WHERE user_id = $1) AS "is_admin!""#,
        user,
    )
    .fetch_one(&mut **tx)
    .await
}

/// The credential in a header: the scheme's case does not matter (RFC 9110, 11.1).
pub(crate) fn bearer(header: &str) -> Result<&str, AuthError> {
    let (scheme, credential) = header.split_once(' ').ok_or(AuthError::NotBearer)?;
    let credential = credential.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || credential.is_empty() {
        return Err(AuthError::NotBearer);
    }
    Ok(credential)
}
