//! The OpenAPI document: what `routes` declare, and what is true of every operation.

use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Header, HeaderBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder,
    OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder, schema::Type,
};
use utoipa::{PartialSchema, ToSchema};

use super::problem::ProblemDetails;

/// The name of the one security scheme.
const BEARER: &str = "bearer";

/// The document before routes are added.
pub fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Eve Horizon")
        .version("1")
        .description(Some(
            "Runs skills - WebAssembly components - on a queue of requests. Errors are problem details \
             (RFC 9457) with a stable `type`; every response carries `x-request-id`. A caller - an API \
             token, or a person - may call so often: `RateLimit-Policy` and `RateLimit` say how often, \
             and what is left of it.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let mut components = Components::new();
    components.schemas.insert(ProblemDetails::name().into_owned(), ProblemDetails::schema());
    components.add_security_scheme(
        BEARER,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("eve_… or JWT")
                .description(Some(
                    "An API token (`eve_…`) or a sign-in token (JWT) of Supabase Auth. Where an operation \
                     names a role, that is the least that may call it: `admin` of the organisation, or \
                     `platform-admin`.",
                ))
                .build(),
        ),
    );
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// Adds to every operation under `/v1` what holds for all: who may call it, the header that chooses
/// an organisation, and the problems that anything can end with.
pub fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1/") || path == "/v1/openapi.json" {
            continue;
        }
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            complete_operation(path, operation);
        }
    }
}

fn complete_operation(path: &str, operation: &mut Operation) {
    // A handler that takes more than any member says so itself.
    operation
        .security
        .get_or_insert_with(|| vec![SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, [])]);
    operation.parameters.get_or_insert_default().push(
        ParameterBuilder::new()
            .name("Eve-Org")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "The organisation, by slug or id; needed where the credential belongs to several.",
            ))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build()
            .into(),
    );
    let has_body = operation.request_body.is_some();
    let problems = [
        ("400", has_body, "The body is not well-formed (`malformed`)"),
        ("401", true, "No credential, or one that does not hold (`unauthenticated`)"),
        ("403", true, "Not with this role or token (`forbidden`)"),
        (
            "404",
            path.contains('{') || path != "/v1/me",
            "It, or the organisation, does not exist for this caller (`not-found`)",
        ),
        ("413", has_body, "The body is larger than `limit` (`too-large`)"),
        ("415", has_body, "The body's type is not understood here (`unsupported-media-type`)"),
        ("422", true, "Something in `field` is not acceptable (`invalid`)"),
        (
            "429",
            true,
            "Too many calls of this caller, or of this address with credentials that do not hold: try \
             again after `Retry-After` (`too-many-requests`)",
        ),
        ("500", true, "A bug or an outage of ours (`internal`)"),
        ("503", true, "Not just now: try again after `Retry-After` (`unavailable`)"),
    ];
    for (status, applies, description) in problems {
        if applies {
            let responses = &mut operation.responses.responses;
            responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
        }
    }
    // A handler's own problems name no schema.
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && response.content.is_empty()
        {
            *response = problem(&response.description);
        }
        if let RefOr::T(response) = response
            && ["429", "503"].contains(&status.as_str())
        {
            response.headers.insert("Retry-After".to_owned(), RefOr::T(retry_after()));
        }
    }
}

fn retry_after() -> Header {
    HeaderBuilder::new()
        .description(Some("Seconds after which the same call may succeed"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)))
        .build()
}

fn problem(description: &str) -> Response {
    let reference = Ref::from_schema_name(ProblemDetails::name().into_owned());
    let content = ContentBuilder::new().schema(Some(reference)).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
}
