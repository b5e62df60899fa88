//! Whether somebody may read a metric: the API server knows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::api::{GROUP, VERSION};
use super::front_proxy::Caller;
use crate::deployments::kubernetes::connection::patiently;
use crate::deployments::kubernetes::failure::Failure;

/// How long an answer holds.
const HOLDS: Duration = Duration::from_secs(10);
/// Answers that are kept at most. An autoscaler asks for a few metrics; who asks for many is asked about each time.
const MOST: usize = 1_000;

/// What is asked.
type Question = (Caller, String, String);

/// Answers of the API server. Cheap to clone.
#[derive(Clone)]
pub struct Reviews {
    client: Client,
    answers: Arc<Mutex<HashMap<Question, (bool, Instant)>>>,
}

impl Reviews {
    /// None yet.
    pub fn new(client: Client) -> Reviews {
        Reviews { client, answers: Arc::default() }
    }

    /// Whether somebody may read a metric of a namespace.
    pub async fn allows(
        &self,
        caller: &Caller,
        namespace: &str,
        metric: &str,
    ) -> Result<bool, Failure> {
        let question = (caller.clone(), namespace.to_owned(), metric.to_owned());
        if let Some(known) = self.known(&question) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.user.clone()),
                uid: caller.uid.clone(),
                groups: Some(caller.groups.clone()),
                extra: Some(caller.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    version: Some(VERSION.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    resource: Some(metric.to_owned()),
                    // What a GET without a name of an object is.
                    verb: Some("list".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let reviewed = patiently(api.create(&params, &review)).await?;
        let allowed = reviewed.status.is_some_and(|status| status.allowed);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, (_, since)| since.elapsed() < HOLDS);
        if answers.len() < MOST {
            answers.insert(question, (allowed, Instant::now()));
        }
        Ok(allowed)
    }

    fn known(&self, question: &Question) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (allowed, since) = answers.get(question)?;
        (since.elapsed() < HOLDS).then_some(*allowed)
    }
}
