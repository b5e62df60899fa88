//! Kubernetes's own API, of an environment's cluster, for the user's own kubectl.
//!
//! Whatever goes wrong is said as Kubernetes says it, so that its clients print it well.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use sha2::{Digest as _, Sha256};

use crate::deployments::kubernetes::proxy::{Again, Call, MOST_BODY};
use crate::http::extract::{BodyLimit, caller_in, read_body};
use crate::http::problem::{Kind, Problem, Verbatim};
use crate::http::{AppState, TIME_LIMIT};

/// Passes a call on: `/v1/envs/{env}/kube/…` for the organisation that `Eve-Org` names, and
/// `/v1/orgs/{org}/envs/{env}/kube/…` for clients that cannot send a header of their own.
pub async fn forward(State(state): State<AppState>, request: Request) -> Response {
    match pass_on(&state, request).await {
        Ok(mut response) => {
            response.extensions_mut().insert(Verbatim);
            response
        }
        Err(problem) => problem.for_kubernetes().into_response(),
    }
}

async fn pass_on(state: &AppState, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let connection = parts.extensions.remove::<OnUpgrade>();
    if parts.headers.contains_key(header::COOKIE) {
        return Err(Problem::new(
            Kind::Malformed,
            "cookies are not taken here: send a bearer token",
        ));
    }
    // As it was sent: what is decoded first is not what an API server would read.
    let whole = parts.uri.path();
    let (org, env, path) = place(whole)
        .ok_or_else(|| Problem::new(Kind::NotFound, "there is nothing at this path"))?;
    let (caller, named) = caller_in(&parts, state, org).await?;
    let (env, path) = (env.to_owned(), path.to_owned());
    let credential = parts.headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    let credential = credential.unwrap_or_default().to_owned();
    let body = match parts.method {
        Method::GET => Bytes::new(),
        _ => {
            let mut request = Request::new(body);
            request.extensions_mut().insert(BodyLimit(MOST_BODY));
            let read = tokio::time::timeout(TIME_LIMIT, read_body(request)).await;
            let slow = || Problem::new(Kind::Malformed, "the body took too long to come");
            read.map_err(|_| slow())??
        }
    };
    let call = Call {
        caller,
        credential: Sha256::digest(&credential).into(),
        again: again(state, credential, named),
        env,
        method: parts.method,
        path,
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
        body,
        connection,
        shutdown: state.shutdown.clone(),
    };
    Ok(state.deployments.forward(call).await?)
}

/// Whether the same credential still stands for the same caller.
fn again(state: &AppState, credential: String, org: Option<String>) -> Again {
    let auth = state.auth.clone();
    let asked = Arc::new((credential, org));
    Arc::new(move || {
        let (auth, asked) = (auth.clone(), asked.clone());
        Box::pin(async move { auth.identify(Some(&asked.0)).await?.in_org(asked.1.as_deref()) })
    })
}

/// The organisation, if it is named, the environment, and the path of the API server with its slash.
fn place(path: &str) -> Option<(Option<&str>, &str, &str)> {
    let below = path.strip_prefix("/v1/")?;
    let (org, below) = match below.strip_prefix("orgs/") {
        Some(below) => {
            let (org, below) = below.split_once('/')?;
            (Some(org), below)
        }
        None => (None, below),
    };
    let (env, below) = below.strip_prefix("envs/")?.split_once('/')?;
    let path = below.strip_prefix("kube")?;
    path.starts_with('/').then_some((org, env, path))
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_place_is_read_as_it_was_sent() {
        let of = |path| place(path);
        assert_eq!(of("/v1/envs/dev/kube/api/v1"), Some((None, "dev", "/api/v1")));
        assert_eq!(of("/v1/orgs/a/envs/dev/kube/api"), Some((Some("a"), "dev", "/api")));
        assert_eq!(of("/v1/envs/dev/kube//api"), Some((None, "dev", "//api")));
        assert_eq!(of("/v1/envs/dev/kube/kube/"), Some((None, "dev", "/kube/")));
        assert_eq!(of("/v1/envs/d%65v/kube/%2e%2e"), Some((None, "d%65v", "/%2e%2e")));
        for path in
            ["/v1/envs/dev/kube", "/v1/envs/dev/kubeapi", "/v1/envs//kub/x", "/v1/orgs/a/kube/x"]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
