//! The operations, one file a noun.

#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod apps;
mod clusters;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod deployments;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod environments;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod hitl;
mod kube;
mod me;
mod members;
mod meta;
mod orgs;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod requests;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod schedules;
mod schemas;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod secrets;
#[allow(unused_qualifications, reason = "utoipa's macro qualifies the names of query parameters")]
mod skills;
mod tokens;
mod worker_types;

use axum::routing::any;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    AppState, BATCH_BODY_LIMIT, BATCH_TIME_LIMIT, BODY_LIMIT, STATEMENT_TIME_LIMIT, TIME_LIMIT,
    UPLOAD_BODY_LIMIT, UPLOAD_TIME_LIMIT, limited, openapi,
};

pub use apps::AppPage;
pub use deployments::{DeploymentPage, EventPage, History};
pub use hitl::{Answer, Ask, QuestionPage};
pub use me::Me;
pub use meta::Readiness;
pub(crate) use meta::exposition;
pub use requests::{Batch, CreatedBatch, Logs, RequestPage};
pub use schedules::SchedulePage;
pub use schemas::{SqlAnswer, SqlCall, SqlColumn};
pub use tokens::IssuedToken;

/// Everything there is, in one list. Lists that are not paged come whole.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    /// The things themselves.
    pub items: Vec<T>,
}

/// All operations with their paths and limits.
pub fn all() -> OpenApiRouter<AppState> {
    let usual = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::metrics))
        .routes(routes!(meta::openapi))
        .routes(routes!(me::get_me))
        .routes(routes!(requests::create_request, requests::list_requests))
        .routes(routes!(requests::get_request))
        .routes(routes!(requests::get_tree))
        .routes(routes!(requests::get_request_result))
        .routes(routes!(requests::get_result))
        .routes(routes!(requests::list_blockers))
        .routes(routes!(requests::get_logs))
        .routes(routes!(requests::watch_request))
        .routes(routes!(requests::cancel_request))
        .routes(routes!(requests::retry_request))
        .routes(routes!(hitl::ask, hitl::list_questions))
        .routes(routes!(hitl::get_question))
        .routes(routes!(hitl::respond))
        .routes(routes!(schedules::create_schedule, schedules::list_schedules))
        .routes(routes!(schedules::get_schedule, schedules::delete_schedule))
        .routes(routes!(schedules::pause_schedule))
        .routes(routes!(schedules::resume_schedule))
        .routes(routes!(schemas::list_schemas))
        .routes(routes!(schemas::list_migrations))
        .routes(routes!(skills::list_skills))
        .routes(routes!(skills::approve_schema, skills::withdraw_schema))
        .routes(routes!(skills::grant_capability, skills::revoke_capability))
        .routes(routes!(skills::get_skill, skills::delete_skill))
        .routes(routes!(skills::activate_version))
        .routes(routes!(worker_types::list_worker_types))
        .routes(routes!(
            worker_types::get_worker_type,
            worker_types::put_worker_type,
            worker_types::delete_worker_type
        ))
        .routes(routes!(clusters::list_clusters, clusters::add_cluster))
        .routes(routes!(clusters::get_cluster, clusters::update_cluster, clusters::remove_cluster))
        .routes(routes!(clusters::check_cluster))
        .routes(routes!(environments::list_envs, environments::create_env))
        .routes(routes!(environments::get_env, environments::delete_env))
        .routes(routes!(secrets::list_secrets))
        .routes(routes!(secrets::set_secret, secrets::delete_secret))
        .routes(routes!(apps::list_apps, apps::create_app))
        .routes(routes!(apps::get_app, apps::delete_app))
        .routes(routes!(deployments::list_deployments))
        .routes(routes!(deployments::create_deployment))
        .routes(routes!(deployments::get_deployment, deployments::delete_deployment))
        .routes(routes!(deployments::scale_deployment))
        .routes(routes!(deployments::roll_back_deployment))
        .routes(routes!(deployments::diff_deployment))
        .routes(routes!(deployments::get_history))
        .routes(routes!(deployments::list_events))
        .routes(routes!(deployments::get_logs))
        .routes(routes!(orgs::list_orgs, orgs::create_org))
        .routes(routes!(orgs::get_org))
        .routes(routes!(members::list_members))
        .routes(routes!(members::put_member, members::delete_member))
        .routes(routes!(tokens::list_tokens, tokens::create_token))
        .routes(routes!(tokens::revoke_token));
    let batches = OpenApiRouter::new().routes(routes!(requests::create_batch));
    let statements = OpenApiRouter::new()
        .routes(routes!(schemas::run_statement))
        .routes(routes!(schemas::open_shell));
    let uploads = OpenApiRouter::new().routes(routes!(skills::push_version, skills::list_versions));
    // Kubernetes's API, which is described by itself (`/openapi/v3` below it), with its own limits: what
    // is passed on streams for as long as it lasts.
    let passed_on = OpenApiRouter::new()
        .route("/v1/envs/{env}/kube/{*path}", any(kube::forward))
        .route("/v1/orgs/{org}/envs/{env}/kube/{*path}", any(kube::forward));
    limited(usual, BODY_LIMIT, TIME_LIMIT)
        .merge(limited(batches, BATCH_BODY_LIMIT, BATCH_TIME_LIMIT))
        .merge(limited(statements, BODY_LIMIT, STATEMENT_TIME_LIMIT))
        .merge(limited(uploads, UPLOAD_BODY_LIMIT, UPLOAD_TIME_LIMIT))
        .merge(passed_on)
}
