//! API tokens: what machines, and people on a command line, authenticate with.
//!
//! A token is `eve_`, 32 random bytes in base64url, and a checksum of six characters which tells a
//! mistyped or cut-off token from one that was never ours. Only its SHA-256 is stored: the token
//! has 256 bits of randomness, so a slow hash would protect nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::auth::Caller;
use super::{Actor, OrgRole, TenancyError, Tenant, audit};
use crate::db::{Db, Scope};
use crate::ids::{TokenId, UserId};

/// What every token begins with.
pub const PREFIX: &str = "eve_";
/// Characters of 32 bytes in base64url.
const BODY_LENGTH: usize = 43;
/// Characters of the checksum: four bytes in base64url.
const CHECKSUM_LENGTH: usize = 6;
/// How much of a token is shown in lists, to tell tokens apart: 48 of its 256 bits.
const SHOWN_LENGTH: usize = PREFIX.len() + 8;
/// Most live tokens of one organisation.
const MAX_TOKENS: i64 = 1_000;
/// Longest life that may be asked for.
const MAX_DAYS: u32 = 3_650;

/// A token's secret, as it is handed out once.
#[derive(Clone, Debug)]
pub struct TokenSecret(SecretString);

/// Why a text is not a token, before the database is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFormatError {
    /// It does not have the shape of one.
    #[error("this is not an API token: one is `eve_` and 49 characters")]
    Shape,
    /// It has the shape, and its checksum is wrong.
    #[error("the API token's checksum is wrong: it was mistyped or cut off")]
    Checksum,
}

impl TokenSecret {
    /// Makes a new one.
    pub fn generate() -> Self {
        let body = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self(format!("{PREFIX}{body}{}", checksum(&body)).into())
    }

    /// Reads one that somebody sent.
    pub fn parse(text: &str) -> Result<Self, TokenFormatError> {
        let rest = text.strip_prefix(PREFIX).ok_or(TokenFormatError::Shape)?;
        let shaped = rest.len() == BODY_LENGTH + CHECKSUM_LENGTH
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !shaped {
            return Err(TokenFormatError::Shape);
        }
        let (body, sum) = rest.split_at(BODY_LENGTH);
        if !bool::from(checksum(body).as_bytes().ct_eq(sum.as_bytes())) {
            return Err(TokenFormatError::Checksum);
        }
        Ok(Self(text.to_owned().into()))
    }

    /// The text to hand out, once.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What is stored and looked up.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.expose_secret()).into()
    }

    /// The first characters, for lists.
    pub fn shown(&self) -> &str {
        &self.0.expose_secret()[..SHOWN_LENGTH]
    }
}

fn checksum(body: &str) -> String {
    let digest: [u8; 32] =
        Sha256::new_with_prefix(b"eve token checksum").chain_update(body).finalize().into();
    URL_SAFE_NO_PAD.encode(&digest[..4])
}

/// What a token may be used for. No scopes at all means whatever its role may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum TokenScope {
    /// Read requests, results and logs.
    #[serde(rename = "requests:read")]
    RequestsRead,
    /// Create, cancel and retry requests; includes reading them.
    #[serde(rename = "requests:write")]
    RequestsWrite,
    /// Push, activate and delete skills.
    #[serde(rename = "skills:write")]
    SkillsWrite,
    /// Look at environments, apps and deployments, and read apps' logs.
    #[serde(rename = "deployments:read")]
    DeploymentsRead,
    /// Deploy apps; includes looking at them.
    #[serde(rename = "deployments:write")]
    DeploymentsWrite,
    /// Everything, management of members and tokens included.
    #[serde(rename = "admin")]
    Admin,
}

impl TokenScope {
    /// Every scope.
    pub const ALL: [TokenScope; 6] = [
        TokenScope::RequestsRead,
        TokenScope::RequestsWrite,
        TokenScope::SkillsWrite,
        TokenScope::DeploymentsRead,
        TokenScope::DeploymentsWrite,
        TokenScope::Admin,
    ];

    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenScope::RequestsRead => "requests:read",
            TokenScope::RequestsWrite => "requests:write",
            TokenScope::SkillsWrite => "skills:write",
            TokenScope::DeploymentsRead => "deployments:read",
            TokenScope::DeploymentsWrite => "deployments:write",
            TokenScope::Admin => "admin",
        }
    }

    /// The scope of a word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// The scopes of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scopes {
    /// Everything that the role allows: a person, or a token without scopes.
    Unrestricted,
    /// These only.
    Only(Vec<TokenScope>),
}

impl Scopes {
    /// From the column: no scopes mean no restriction, words that this version does not know allow
    /// nothing.
    pub(super) fn from_words(words: &[String]) -> Self {
        if words.is_empty() {
            Scopes::Unrestricted
        } else {
            Scopes::Only(words.iter().filter_map(|word| TokenScope::parse(word)).collect())
        }
    }

    /// Whether they cover `scope`.
    pub fn allow(&self, scope: TokenScope) -> bool {
        match self {
            Scopes::Unrestricted => true,
            Scopes::Only(scopes) => {
                scopes.contains(&scope)
                    || scopes.contains(&TokenScope::Admin)
                    || (scope == TokenScope::RequestsRead
                        && scopes.contains(&TokenScope::RequestsWrite))
                    || (scope == TokenScope::DeploymentsRead
                        && scopes.contains(&TokenScope::DeploymentsWrite))
            }
        }
    }
}

/// A token as members of its organisation see it; never its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    /// What it may do; never more than the person behind it may at the time.
    pub role: OrgRole,
    /// What it may be used for; none means whatever its role may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working; none means when it is revoked.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A token to make.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for: 1 to 100 characters.
    pub name: String,
    /// `member` when absent; not above the caller's own.
    #[serde(default)]
    pub role: Option<OrgRole>,
    /// None for whatever the role may do.
    #[serde(default)]
    pub scopes: Vec<TokenScope>,
    /// 1 to 3,650; never expires when absent.
    #[serde(default)]
    pub expires_in_days: Option<u32>,
}

/// The organisation's tokens that are not revoked, newest first.
pub async fn list(db: &Db, tenant: Tenant) -> Result<Vec<Token>, TenancyError> {
    let failed = TenancyError::database("listing tokens");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    sqlx::query_as!(
        Token,
        r#"SELECT id AS "id: TokenId", name, prefix, role AS "role: OrgRole", scopes, created_at,
                  expires_at, last_used_at
             FROM eve.api_tokens
            WHERE org_id = $1
              AND revoked_at IS NULL
            ORDER BY id DESC
            LIMIT $2"#,
        tenant.org().0,
        MAX_TOKENS,
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}

/// Makes a token for the caller: it stands for the same person, and may do no more than they.
pub async fn create(
    db: &Db,
    caller: &Caller,
    new: &NewToken,
) -> Result<(Token, TokenSecret), TenancyError> {
    let role = new.role.unwrap_or(OrgRole::Member);
    if role > caller.role {
        return Err(TenancyError::Forbidden("a token cannot have a higher role than yours".into()));
    }
    check_scopes(caller, &new.scopes)?;
    if new.expires_in_days.is_some_and(|days| days == 0 || days > MAX_DAYS) {
        return Err(TenancyError::Invalid {
            field: "expires_in_days",
            message: format!("must be between 1 and {MAX_DAYS}"),
        });
    }
    issue(db, caller.tenant, &caller.actor, caller.user(), role, new).await
}

fn check_scopes(caller: &Caller, scopes: &[TokenScope]) -> Result<(), TenancyError> {
    let wider = match (&caller.scopes, scopes) {
        (Scopes::Unrestricted, _) => false,
        (Scopes::Only(_), []) => !caller.scopes.allow(TokenScope::Admin),
        (Scopes::Only(_), asked) => asked.iter().any(|scope| !caller.scopes.allow(*scope)),
    };
    if wider {
        return Err(TenancyError::Forbidden(
            "a token cannot have scopes that yours has not".into(),
        ));
    }
    Ok(())
}

/// Makes a token without a caller's limits: for [`create`], and for `eve dev`'s bootstrap.
pub(crate) async fn issue(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    user: Option<UserId>,
    role: OrgRole,
    new: &NewToken,
) -> Result<(Token, TokenSecret), TenancyError> {
    let failed = TenancyError::database("making a token");
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.contains(char::is_control) {
        return Err(TenancyError::Invalid {
            field: "name",
            message: "must be 1 to 100 printable characters".into(),
        });
    }
    let secret = TokenSecret::generate();
    let id = TokenId::generate();
    let scopes: Vec<String> = new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let live = sqlx::query_scalar!(
        r#"SELECT count(*) AS "live!" FROM eve.api_tokens WHERE org_id = $1 AND revoked_at IS NULL"#,
        tenant.org().0,
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    if live >= MAX_TOKENS {
        return Err(TenancyError::Conflict(format!(
            "the organisation has {MAX_TOKENS} tokens already: revoke some first"
        )));
    }
    let token = sqlx::query_as!(
        Token,
        r#"INSERT INTO eve.api_tokens (id, org_id, user_id, name, prefix, token_hash, role, scopes,
                                       created_by, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $3, now() + make_interval(days => $9))
           RETURNING id AS "id: TokenId", name, prefix, role AS "role: OrgRole", scopes, created_at,
                     expires_at, last_used_at"#,
        id.0,
        tenant.org().0,
        user.map(|user| user.0),
        name,
        secret.shown(),
        &secret.hash()[..],
        role as OrgRole,
        &scopes,
        new.expires_in_days.map(|days| days as i32),
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    let details =
        json!({ "name": name, "role": role, "scopes": scopes, "expires_at": token.expires_at });
    audit::record_details(&mut tx, tenant, actor, "token.create", &id.to_string(), details)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok((token, secret))
}

/// Revokes a token: it stops working at once here, within seconds on other replicas.
pub async fn revoke(
    db: &Db,
    tenant: Tenant,
    actor: &Actor,
    id: TokenId,
) -> Result<(), TenancyError> {
    let failed = TenancyError::database("revoking a token");
    let mut tx = db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
    let name = sqlx::query_scalar!(
        "UPDATE eve.api_tokens
            SET revoked_at = now()
          WHERE org_id = $1
            AND id = $2
            AND revoked_at IS NULL
        RETURNING name",
        tenant.org().0,
        id.0,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?
    .ok_or_else(|| TenancyError::NotFound { what: "token", name: id.to_string() })?;
    audit::record_details(
        &mut tx,
        tenant,
        actor,
        "token.revoke",
        &id.to_string(),
        json!({ "name": name }),
    )
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_token_is_read_back() {
        let secret = TokenSecret::generate();
        let again = TokenSecret::parse(secret.expose()).unwrap();
        assert_eq!(secret.hash(), again.hash());
        assert!(secret.expose().starts_with(secret.shown()));
        assert_ne!(secret.hash(), TokenSecret::generate().hash());
    }

    #[test]
    fn a_typo_is_told_from_something_else() {
        let text = TokenSecret::generate().expose().to_owned();
        let mut typo = text.clone().into_bytes();
        typo[10] = if typo[10] == b'A' { b'B' } else { b'A' };
        let typo = String::from_utf8(typo).unwrap();
        assert_eq!(TokenSecret::parse(&typo).unwrap_err(), TokenFormatError::Checksum);
        for shape in ["", "eve_", &text[..text.len() - 1], "eyJhbGciOi.J9.x", &format!("{text}x")] {
            assert_eq!(TokenSecret::parse(shape).unwrap_err(), TokenFormatError::Shape, "{shape}");
        }
        let unprintable = format!("eve_{}é", "a".repeat(47));
        assert_eq!(TokenSecret::parse(&unprintable).unwrap_err(), TokenFormatError::Shape);
    }

    #[test]
    fn a_debug_print_does_not_show_the_secret() {
        let secret = TokenSecret::generate();
        assert!(!format!("{secret:?}").contains(&secret.expose()[4..]));
    }

    #[test]
    fn scopes_of_a_later_version_allow_nothing() {
        let scopes = Scopes::from_words(&["moon:launch".to_owned()]);
        assert!(TokenScope::ALL.into_iter().all(|scope| !scopes.allow(scope)));
        assert!(Scopes::from_words(&[]).allow(TokenScope::Admin));
        let writer = Scopes::from_words(&["requests:write".to_owned()]);
        assert!(writer.allow(TokenScope::RequestsRead) && !writer.allow(TokenScope::SkillsWrite));
    }
}
