//! What handlers take out of a request. Every rejection is a [`Problem`].

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};
use super::rates::Told;
use super::{AppState, BODY_LIMIT};
use crate::tenancy::OrgRole;
use crate::tenancy::auth::{AuthError, Caller, Identity};
use crate::tenancy::tokens::TokenScope;

/// The header that chooses an organisation.
pub const ORG_HEADER: &str = "eve-org";

/// A JSON body, in either direction.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &AppState) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send the body as `Content-Type: application/json`";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        parse_json(&read_body(request).await?).map(Json)
    }
}

/// A JSON body that may be left out.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<AppState> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        if request.headers().contains_key(header::CONTENT_TYPE) {
            let Json(value) = Json::from_request(request, state).await?;
            return Ok(Self(value));
        }
        let bytes = read_body(request).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { parse_json(&bytes).map(Self) }
    }
}

/// How many bytes of body a route reads; kept with the request for the error that says so.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit(pub usize);

fn is_json(headers: &HeaderMap) -> bool {
    let value =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// How much of a body beyond its limit is read and thrown away: a client that is still sending when the
/// connection is closed sees a broken pipe and never hears why.
const THROWN_AWAY: usize = 32 << 20;

/// A body of at most as many bytes as the route reads.
pub(super) async fn read_body(request: Request) -> Result<Bytes, Problem> {
    let limit = request.extensions().get::<BodyLimit>().map_or(BODY_LIMIT, |limit| limit.0);
    let mut chunks = request.into_body().into_data_stream();
    let mut kept = BytesMut::new();
    let mut read = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|_| Problem::new(Kind::Malformed, "the body could not be read to its end"))?;
        read += chunk.len();
        match read {
            _ if read <= limit => kept.extend_from_slice(&chunk),
            _ if read <= limit + THROWN_AWAY => kept = BytesMut::new(),
            _ => break,
        }
    }
    if read > limit { Err(too_large("the body", limit)) } else { Ok(kept.freeze()) }
}

/// Larger than `limit` bytes.
pub fn too_large(what: &str, limit: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("{what} is larger than {limit} bytes"))
        .with("limit", limit)
}

/// Syntax errors with their place, errors of content with the path of the field.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() { data_problem(&path, &error) } else { syntax_problem(&error) }
    })?;
    deserializer.end().map_err(|error| syntax_problem(&error))?;
    Ok(value)
}

fn syntax_problem(error: &serde_json::Error) -> Problem {
    Problem::new(Kind::Malformed, format!("the body is not valid JSON: {error}"))
        .with("line", error.line())
        .with("column", error.column())
}

fn data_problem(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    // serde_json adds the place; the path says it better.
    let message = text.split(" at line ").next().unwrap_or(&text);
    if path == "." || path == "?" {
        return Problem::new(Kind::Invalid, message)
            .with("field", named_in(message).unwrap_or_default());
    }
    Problem::invalid(path, message)
}

/// The field that serde names in a message about a missing or unknown one.
fn named_in(message: &str) -> Option<&str> {
    let rest = message
        .strip_prefix("missing field `")
        .or_else(|| message.strip_prefix("unknown field `"))?;
    rest.split('`').next()
}

/// Parameters in the path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        use axum::extract::path::ErrorKind;
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(match error.kind() {
                ErrorKind::InvalidUtf8InPathParam { .. } => {
                    Problem::new(Kind::Malformed, "the path is not UTF-8")
                }
                ErrorKind::DeserializeError { key, value, message } => {
                    Problem::invalid(key, format!("`{value}`: {message}"))
                }
                ErrorKind::ParseErrorAtKey { key, value, .. } => {
                    Problem::invalid(key, format!("`{value}` is not a valid {key}"))
                }
                _ => Problem::new(Kind::Invalid, "the path's parameters are not valid")
                    .with("field", "path"),
            }),
            Err(_) => Err(Problem::new(Kind::Malformed, "the path's parameters are not valid")),
        }
    }
}

/// Parameters behind the question mark.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let parsed = axum::extract::Query::from_request_parts(parts, state).await;
        let axum::extract::Query(value) = parsed.map_err(|error| {
            let text = error.body_text();
            let message =
                text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let field = message.split(':').next().filter(|word| !word.contains(' '));
            let field = field.or_else(|| named_in(message)).unwrap_or("query").to_owned();
            Problem::new(Kind::Invalid, message).with("field", field)
        })?;
        Ok(Self(value))
    }
}

/// What an operation asks of its caller: the one place where roles and scopes are enforced.
pub trait Permission: Send + Sync {
    /// The scope that a restricted token needs.
    const SCOPE: Option<TokenScope>;
    /// The least role.
    const ROLE: OrgRole;
}

macro_rules! permission {
    ($(#[$doc:meta])* $name:ident: $scope:expr, $role:ident) => {
        $(#[$doc])*
        pub struct $name;

        impl Permission for $name {
            const SCOPE: Option<TokenScope> = $scope;
            const ROLE: OrgRole = OrgRole::$role;
        }
    };
}

permission!(
    /// Any member, any token.
    AnyMember: None, Member
);
permission!(
    /// Reading requests.
    ReadRequests: Some(TokenScope::RequestsRead), Member
);
permission!(
    /// Creating and changing requests.
    WriteRequests: Some(TokenScope::RequestsWrite), Member
);
permission!(
    /// Pushing skills.
    PushSkills: Some(TokenScope::SkillsWrite), Member
);
permission!(
    /// Activating and deleting skills.
    ManageSkills: Some(TokenScope::SkillsWrite), Admin
);
permission!(
    /// Looking at environments, apps and deployments.
    ReadDeployments: Some(TokenScope::DeploymentsRead), Member
);
permission!(
    /// Deploying; an environment may ask for more.
    WriteDeployments: Some(TokenScope::DeploymentsWrite), Member
);
permission!(
    /// Making and deleting environments.
    ManageEnvironments: Some(TokenScope::DeploymentsWrite), Admin
);
permission!(
    /// Managing members and tokens.
    ManageOrg: Some(TokenScope::Admin), Admin
);

/// A caller who may do what `P` stands for.
pub struct Allowed<P>(pub Caller, pub PhantomData<P>);

impl<P: Permission> FromRequestParts<AppState> for Allowed<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let named = org_header(parts)?;
        let identity = identify(parts, state).await?;
        let (_, caller) = in_org(parts, state, identity, named.as_deref()).await?;
        state.rates.admit_for(caller.tenant)?;
        if let Some(scope) = P::SCOPE
            && !caller.scopes.allow(scope)
        {
            let detail = format!("this token lacks the scope `{}`", scope.as_str());
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        if caller.role < P::ROLE {
            let detail = "your role in this organisation does not allow it: ask an admin or owner";
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        Ok(Self(caller, PhantomData))
    }
}

/// Somebody, for whatever organisations they belong to.
pub struct Somebody(pub Arc<Identity>);

impl FromRequestParts<AppState> for Somebody {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        Ok(Self(identify(parts, state).await?))
    }
}

/// Somebody with the organisation that they chose, or their only one; none if that is open.
pub struct SomebodySomewhere(pub Arc<Identity>, pub Option<Caller>);

impl FromRequestParts<AppState> for SomebodySomewhere {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let identity = identify(parts, state).await?;
        let Some(named) = org_header(parts)? else {
            let caller = identity.in_org(None).ok();
            return Ok(Self(identity, caller));
        };
        let (identity, caller) = in_org(parts, state, identity, Some(&named)).await?;
        Ok(Self(identity, Some(caller)))
    }
}

/// An administrator of the platform.
pub struct PlatformAdmin(pub Arc<Identity>);

impl FromRequestParts<AppState> for PlatformAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let identity = identify(parts, state).await?;
        require_platform_admin(identity.platform_admin)?;
        Ok(Self(identity))
    }
}

/// Somebody who acts for the organisation that the path names, else the header, with what they need to be
/// asked again later. What they may do is decided by whom they call.
pub async fn caller_in(
    parts: &Parts,
    state: &AppState,
    path: Option<&str>,
) -> Result<(Caller, Option<String>), Problem> {
    let identity = identify(parts, state).await?;
    let named = match (path, org_header(parts)?) {
        (Some(path), Some(header)) if path != header => {
            return Err(Problem::invalid("Eve-Org", "is not the organisation of the path"));
        }
        (Some(path), _) => Some(path.to_owned()),
        (None, header) => header,
    };
    let (_, caller) = in_org(parts, state, identity, named.as_deref()).await?;
    state.rates.admit_for(caller.tenant)?;
    Ok((caller, named))
}

/// Refuses whoever does not administer the platform.
pub fn require_platform_admin(is_admin: bool) -> Result<(), Problem> {
    if is_admin {
        return Ok(());
    }
    Err(Problem::new(Kind::Forbidden, "only administrators of the platform may do this"))
}

/// Who is calling, if they may at present: the one place where calls are counted.
async fn identify(parts: &Parts, state: &AppState) -> Result<Arc<Identity>, Problem> {
    let rates = &state.rates;
    let origin = rates.origin(parts);
    let credential = match credential(parts) {
        Ok(credential) => credential,
        Err(error) => return Err(rates.turn_away(origin, None, error.into())),
    };
    rates.hesitate(origin, credential).await?;
    match state.auth.identify(Some(credential)).await {
        Ok(identity) => {
            rates.admit(&identity.actor, credential, parts.extensions.get::<Told>())?;
            Ok(identity)
        }
        Err(error) => Err(rates.turn_away(origin, Some(credential), error.into())),
    }
}

/// For which organisation they call. Before one is denied to them it is looked whether it has become theirs since:
/// another control plane may have made it, or let them in.
async fn in_org(
    parts: &Parts,
    state: &AppState,
    identity: Arc<Identity>,
    named: Option<&str>,
) -> Result<(Arc<Identity>, Caller), Problem> {
    match identity.in_org(named) {
        Ok(caller) => Ok((identity, caller)),
        Err(AuthError::NoOrg | AuthError::NoSuchOrg(_)) => {
            let identity = state.auth.identify_anew(Some(credential(parts)?)).await?;
            let caller = identity.in_org(named)?;
            Ok((identity, caller))
        }
        Err(error) => Err(error.into()),
    }
}

/// The one `Authorization` header. Of two, a proxy may have looked at the other.
fn credential(parts: &Parts) -> Result<&str, AuthError> {
    let mut all = parts.headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Err(AuthError::Missing),
        (Some(one), None) => one.to_str().map_err(|_| AuthError::NotBearer),
        (Some(_), Some(_)) => Err(AuthError::NotBearer),
    }
}

fn org_header(parts: &Parts) -> Result<Option<String>, Problem> {
    let Some(value) = parts.headers.get(ORG_HEADER) else { return Ok(None) };
    let value =
        value.to_str().map_err(|_| Problem::invalid("Eve-Org", "is not a slug or an id"))?;
    Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()))
}
