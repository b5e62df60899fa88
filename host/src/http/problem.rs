//! Problem details ([RFC 9457]): the one shape of every error that a client sees.
//!
//! A handler returns a [`Problem`]; the outermost layer (`layers::frame`) adds the request's id,
//! logs what is ours to mend, and writes the body. What went wrong inside is logged, never sent.
//!
//! [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::rates;
use crate::db;
use crate::deployments::DeployError;
use crate::deployments::kubernetes::proxy::ProxyError;
use crate::hitl::HitlError;
use crate::requests::RequestError;
use crate::schedules::ScheduleError;
use crate::schemas::{InvalidSchemaName, SchemaError};
use crate::skills::store::SkillError;
use crate::skills::upload::UploadError;
use crate::tenancy::TenancyError;
use crate::tenancy::auth::AuthError;
use crate::worker_types::WorkerTypeError;

/// What `type`s begin with.
const TYPE_BASE: &str = "https://eve-horizon.dev/problems/";
/// Longest text of a problem: what a client has sent stands in it, and may be megabytes.
const LONGEST_TEXT: usize = 4 << 10;
/// How long a client should wait before it tries again when we are not able to serve it.
const RETRY_AFTER_SECONDS: u64 = 2;

/// The kinds of problem. Their words are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No credential, or one that does not hold.
    Unauthenticated,
    /// Not with the caller's role in their own organisation.
    Forbidden,
    /// It does not exist, for this caller.
    NotFound,
    /// The request is still open.
    ResultNotReady,
    /// The path is there; the method is not.
    MethodNotAllowed,
    /// Well-formed, and not acceptable.
    Invalid,
    /// Not even well-formed.
    Malformed,
    /// It contradicts the state that things are in.
    Conflict,
    /// The body is larger than is read.
    TooLarge,
    /// The body is of a type that is not understood here.
    UnsupportedMediaType,
    /// Too often in too short a time.
    TooManyRequests,
    /// Not now.
    Unavailable,
    /// A bug or an outage of ours.
    Internal,
}

impl Kind {
    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "Not signed in"),
            Kind::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "Not allowed"),
            Kind::NotFound => ("not-found", StatusCode::NOT_FOUND, "Not found"),
            Kind::ResultNotReady => ("result-not-ready", StatusCode::NOT_FOUND, "No result yet"),
            Kind::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
            }
            Kind::Invalid => {
                ("invalid", StatusCode::UNPROCESSABLE_ENTITY, "Not acceptable as it is")
            }
            Kind::Malformed => ("malformed", StatusCode::BAD_REQUEST, "Malformed"),
            Kind::Conflict => {
                ("conflict", StatusCode::CONFLICT, "In conflict with the state of things")
            }
            Kind::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
            Kind::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
            ),
            Kind::TooManyRequests => {
                ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "Too many requests")
            }
            Kind::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Not available just now")
            }
            Kind::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        }
    }

    /// Its status.
    pub fn status(self) -> StatusCode {
        self.parts().1
    }

    /// The kind of a response that carries no problem of ours: axum's and hyper's own.
    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
            StatusCode::FORBIDDEN => Kind::Forbidden,
            StatusCode::NOT_FOUND => Kind::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Kind::MethodNotAllowed,
            StatusCode::CONFLICT => Kind::Conflict,
            StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::UnsupportedMediaType,
            StatusCode::UNPROCESSABLE_ENTITY => Kind::Invalid,
            StatusCode::TOO_MANY_REQUESTS => Kind::TooManyRequests,
            StatusCode::SERVICE_UNAVAILABLE => Kind::Unavailable,
            status if status.is_client_error() => Kind::Malformed,
            _ => Kind::Internal,
        }
    }
}

/// Something that went wrong, on its way to a client.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    extras: Map<String, Value>,
    /// In how many seconds the same may succeed.
    retry_after: Option<u64>,
    shape: Shape,
    /// For the log only.
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// How a problem is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Problem details.
    Details,
    /// A `Status` of Kubernetes, which its clients print.
    Status,
}

/// On a response that is somebody else's: whatever its status, its body stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct Verbatim;

/// Problem details as they are sent. `type` tells programs what happened; `detail` tells people.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemDetails {
    /// `https://eve-horizon.dev/problems/` and a word such as `not-found`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The same for all problems of the type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, and what to do about it.
    pub detail: String,
    /// The request's id, as in the header `x-request-id`.
    pub instance: String,
    /// Where the type has more to say: `field`, `line`, `column`, `limit`.
    #[serde(flatten)]
    pub extras: Map<String, Value>,
}

impl Problem {
    /// A problem of a kind; `detail` is for people.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let retry_after = (kind == Kind::Unavailable).then_some(RETRY_AFTER_SECONDS);
        Self {
            kind,
            detail: detail.into(),
            extras: Map::new(),
            retry_after,
            shape: Shape::Details,
            source: None,
        }
    }

    /// Too often; the same may succeed after `wait`.
    pub fn too_many(why: &str, wait: Duration) -> Self {
        let seconds = rates::seconds(wait).max(1);
        let detail = format!("{why}: try again in {seconds} s");
        Self { retry_after: Some(seconds), ..Self::new(Kind::TooManyRequests, detail) }
    }

    /// The same for a client of Kubernetes.
    pub fn for_kubernetes(mut self) -> Self {
        self.shape = Shape::Status;
        // kubectl would come back ten times without a word; only a rate is worth waiting for.
        self.retry_after = self.retry_after.filter(|_| self.kind == Kind::TooManyRequests);
        self
    }

    /// Of which kind it is.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What was sent is not acceptable, and where.
    pub fn invalid(field: &str, message: impl std::fmt::Display) -> Self {
        Self::new(Kind::Invalid, format!("{field}: {message}")).with("field", field)
    }

    /// Adds a member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extras.insert(name.to_owned(), value.into());
        self
    }

    /// A failure that is ours: the client learns that it happened, the log what it was.
    pub fn internal(source: impl Into<Arc<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "something went wrong here; the request's id leads us to what it was";
        Self { source: Some(source.into()), ..Self::new(Kind::Internal, detail) }
    }

    fn from_status(status: StatusCode) -> Self {
        let kind = Kind::of(status);
        let detail = match kind {
            Kind::NotFound => "there is nothing at this path",
            Kind::MethodNotAllowed => "this path does not answer to this method",
            Kind::TooLarge => "the body is too large",
            _ => status.canonical_reason().unwrap_or("the request could not be served"),
        };
        Self::new(kind, detail)
    }

    /// A failure with Postgres at its root: gone or overloaded is not a bug.
    fn of_failure(outage: bool, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let error: Arc<dyn std::error::Error + Send + Sync> = Arc::new(error);
        if !outage {
            return Self::internal(error);
        }
        let detail = "the database cannot be reached or is overloaded: try again shortly";
        Self { source: Some(error), ..Self::new(Kind::Unavailable, detail) }
    }

    /// Logs what is ours to mend, once.
    pub(super) fn log(&self, request_id: &str) {
        let source = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        match self.kind {
            Kind::Internal => tracing::error!(error = source, request_id, "a request failed"),
            Kind::Unavailable => tracing::warn!(
                error = source,
                request_id,
                detail = self.detail,
                "a request was turned away"
            ),
            _ => {}
        }
    }

    /// The response with its body.
    pub(super) fn render(self, request_id: &str, mut from: Response) -> Response {
        let (slug, status, title) = self.kind.parts();
        if self.shape == Shape::Status {
            return self.render_status(request_id, from);
        }
        let details = ProblemDetails {
            type_uri: format!("{TYPE_BASE}{slug}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: printable(&self.detail),
            instance: request_id.to_owned(),
            extras: self.extras.into_iter().map(|(name, value)| (name, shown(value))).collect(),
        };
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let headers = from.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        let (mut parts, _) = from.into_parts();
        parts.status = status;
        Response::from_parts(parts, body.into())
    }

    /// The response with a `Status` as Kubernetes writes it. Its words for the same thing are other ones.
    fn render_status(self, request_id: &str, from: Response) -> Response {
        let (reason, code) = match self.kind {
            Kind::Unauthenticated => ("Unauthorized", StatusCode::UNAUTHORIZED),
            Kind::Forbidden => ("Forbidden", StatusCode::FORBIDDEN),
            Kind::NotFound | Kind::ResultNotReady => ("NotFound", StatusCode::NOT_FOUND),
            Kind::MethodNotAllowed => ("MethodNotAllowed", StatusCode::METHOD_NOT_ALLOWED),
            Kind::Invalid | Kind::Malformed | Kind::UnsupportedMediaType => {
                ("BadRequest", StatusCode::BAD_REQUEST)
            }
            Kind::Conflict => ("Conflict", StatusCode::CONFLICT),
            Kind::TooLarge => ("RequestEntityTooLarge", StatusCode::PAYLOAD_TOO_LARGE),
            Kind::TooManyRequests => ("TooManyRequests", StatusCode::TOO_MANY_REQUESTS),
            Kind::Unavailable => ("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE),
            Kind::Internal => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
        };
        let mut message = printable(&self.detail);
        if code.is_server_error() {
            // kubectl shows no headers.
            message.push_str(&format!(" (request {request_id})"));
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        });
        let (mut parts, _) = from.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        parts.status = code;
        Response::from_parts(parts, status.to_string().into())
    }

    /// The problem that a response carries, or that its bare status stands for; none if it is fine.
    pub(super) fn of(response: &mut Response) -> Option<Self> {
        if response.extensions().get::<Verbatim>().is_some() {
            return None;
        }
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            return Some(problem);
        }
        let status = response.status();
        (status.is_client_error() || status.is_server_error()).then(|| Self::from_status(status))
    }
}

/// A text that does no harm wherever it is shown: what a client has sent stands in it. It is cut, and
/// control characters and marks that reorder or hide what is around them are written as escapes.
fn printable(text: &str) -> String {
    let mut printable = String::new();
    for char in text.chars() {
        if printable.len() > LONGEST_TEXT {
            printable.push('…');
            break;
        }
        match char {
            '\n' | '"' | '\'' | '\\' => printable.push(char),
            _ => printable.extend(char.escape_debug()),
        }
    }
    printable
}

fn shown(value: Value) -> Value {
    match value {
        Value::String(text) => printable(&text).into(),
        value => value,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether Postgres is gone or overloaded, rather than asked for something wrong.
pub(super) fn is_outage(error: &sqlx::Error) -> bool {
    /// SQLSTATEs: statement timeout, and too many connections.
    const BUSY: [&str; 2] = ["57014", "53300"];
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| BUSY.contains(&code.as_ref()))
        || matches!(error, sqlx::Error::PoolClosed)
        || db::is_connection_loss(error)
        || db::is_deadlock(error)
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let kind = match &error {
            AuthError::Database(source) => return Problem::of_failure(is_outage(source), error),
            AuthError::WhichOrg => {
                return Problem::new(Kind::Invalid, error.to_string()).with("field", "Eve-Org");
            }
            AuthError::NoSuchOrg(_) => Kind::NotFound,
            AuthError::NoOrg => Kind::Forbidden,
            AuthError::KeysUnavailable => Kind::Unavailable,
            _ => Kind::Unauthenticated,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::NotFound(_) => Problem::new(Kind::NotFound, error.to_string()),
            RequestError::Open(_) => Problem::new(Kind::ResultNotReady, error.to_string()),
            RequestError::Invalid { field, message } => Problem::invalid(field, message),
            RequestError::Conflict(message) => Problem::new(Kind::Conflict, message),
            RequestError::NothingToWaitFor => Problem::new(Kind::Conflict, error.to_string()),
            RequestError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<HitlError> for Problem {
    fn from(error: HitlError) -> Self {
        match &error {
            HitlError::NotFound(_) => Problem::new(Kind::NotFound, error.to_string()),
            HitlError::Invalid { field, message } => Problem::invalid(field, message),
            HitlError::Conflict(message) => Problem::new(Kind::Conflict, message),
            HitlError::Forbidden(message) => Problem::new(Kind::Forbidden, message),
            HitlError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<ScheduleError> for Problem {
    fn from(error: ScheduleError) -> Self {
        match &error {
            ScheduleError::NotFound(_) => Problem::new(Kind::NotFound, error.to_string()),
            ScheduleError::Invalid { field, message } => Problem::invalid(field, message),
            ScheduleError::Conflict(message) => Problem::new(Kind::Conflict, message),
            ScheduleError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Self {
        match &error {
            DeployError::NotFound { .. } => Problem::new(Kind::NotFound, error.to_string()),
            DeployError::Invalid { field, message } => Problem::invalid(field, message),
            DeployError::Conflict(message) => Problem::new(Kind::Conflict, message),
            DeployError::TooMany(message) => Problem::new(Kind::TooManyRequests, message),
            DeployError::Forbidden(message) => Problem::new(Kind::Forbidden, message),
            DeployError::Unconfigured(message) => Problem::new(Kind::Conflict, *message),
            DeployError::Sealed { source, .. } => {
                Problem::new(Kind::Conflict, format!("{error}: {source}"))
            }
            DeployError::Cluster { .. } => Problem::new(Kind::Conflict, error.to_string()),
            DeployError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<ProxyError> for Problem {
    fn from(error: ProxyError) -> Self {
        let kind = match &error {
            ProxyError::Malformed(_) => Kind::Malformed,
            ProxyError::Forbidden(_) | ProxyError::Cut(_) => Kind::Forbidden,
            ProxyError::Method(_) => Kind::MethodNotAllowed,
            ProxyError::TooMany(_) => Kind::TooManyRequests,
            ProxyError::Away { .. } => Kind::Unavailable,
            ProxyError::Deploy(_) => {
                let ProxyError::Deploy(error) = error else { unreachable!("it was one just now") };
                return match error {
                    // A cluster that cannot be entered is away, whatever the reason.
                    DeployError::Cluster { .. } => {
                        Problem::new(Kind::Unavailable, error.to_string())
                    }
                    error => error.into(),
                };
            }
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<SchemaError> for Problem {
    fn from(error: SchemaError) -> Self {
        match &error {
            SchemaError::NotFound(_) => Problem::new(Kind::NotFound, error.to_string()),
            SchemaError::Denied(_) => Problem::new(Kind::Forbidden, error.to_string()),
            SchemaError::Invalid(message) => Problem::invalid("sql", message),
            SchemaError::Limit(message) => Problem::new(Kind::Invalid, message),
            SchemaError::RowCount(_) | SchemaError::Migration(_) | SchemaError::LeaseLost => {
                Problem::new(Kind::Conflict, error.to_string())
            }
            SchemaError::Sql(said) => {
                let problem = Problem::invalid("sql", error.to_string());
                let problem = problem.with("sqlstate", said.code.as_str());
                match said.position {
                    Some(position) => problem.with("position", position),
                    None => problem,
                }
            }
            SchemaError::Unavailable { .. } => Problem::of_failure(true, error),
            SchemaError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<InvalidSchemaName> for Problem {
    fn from(invalid: InvalidSchemaName) -> Self {
        Problem::invalid("schema", invalid.to_string())
    }
}

impl From<TenancyError> for Problem {
    fn from(error: TenancyError) -> Self {
        match &error {
            TenancyError::NotFound { .. } => Problem::new(Kind::NotFound, error.to_string()),
            TenancyError::Forbidden(message) => Problem::new(Kind::Forbidden, message),
            TenancyError::Invalid { field, message } => Problem::invalid(field, message),
            TenancyError::Conflict(message) => Problem::new(Kind::Conflict, message),
            TenancyError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<SkillError> for Problem {
    fn from(error: SkillError) -> Self {
        match &error {
            SkillError::NotFound { .. } => Problem::new(Kind::NotFound, error.to_string()),
            SkillError::Invalid { field, message } => Problem::invalid(field, message),
            SkillError::Conflict(message) => Problem::new(Kind::Conflict, message),
            SkillError::Corrupt(_) => Problem::of_failure(false, error),
            SkillError::Database { source, .. } => Problem::of_failure(is_outage(source), error),
        }
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Busy => Problem::new(Kind::Unavailable, error.to_string()),
            UploadError::Refused { field, message } => Problem::invalid(field, message),
            UploadError::Store(error) => error.into(),
            UploadError::Internal { .. } => Problem::of_failure(false, error),
        }
    }
}

impl From<WorkerTypeError> for Problem {
    fn from(error: WorkerTypeError) -> Self {
        match &error {
            WorkerTypeError::NotFound(_) => Problem::new(Kind::NotFound, error.to_string()),
            WorkerTypeError::Invalid { field, message } => Problem::invalid(field, message),
            WorkerTypeError::InUse(_) => Problem::new(Kind::Conflict, error.to_string()),
            WorkerTypeError::Database { source, .. } => {
                Problem::of_failure(is_outage(source), error)
            }
        }
    }
}
