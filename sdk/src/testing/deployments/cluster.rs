//! What the fake cluster says: the lines of pods, and what the test answers of the Kubernetes API.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::fleet::not_found;
use super::{Deployment, Fleet};
use crate::Error;
use crate::bindings::eve::skill::deploy as contract;
use crate::bindings::eve::skill::types;
use crate::testing::{limits, validate};

type Answers = dyn FnMut(&str, &str) -> Result<Value, Error> + Send;

/// What answers reads of the Kubernetes API.
#[derive(Clone, Default)]
pub(in crate::testing) struct Api(Option<Arc<Mutex<Answers>>>);

impl Api {
    pub fn answering(
        answers: impl FnMut(&str, &str) -> Result<Value, Error> + Send + 'static,
    ) -> Self {
        Self(Some(Arc::new(Mutex::new(answers))))
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Fleet {
    /// The last lines of each pod.
    pub fn logs(
        &self,
        env: &str,
        app: &str,
        tail: u32,
        worker_type: &str,
    ) -> Result<Vec<contract::LogLine>, types::Error> {
        validate::deploy::tail(tail)?;
        self.open(env, worker_type)?;
        let Deployment { lines, .. } = self.seen(env, app)?;
        let mut left: HashMap<&str, u32> = HashMap::new();
        let last = lines.iter().rev().filter(|(pod, _)| {
            let seen = left.entry(pod).or_default();
            *seen += 1;
            *seen <= tail
        });
        let line = |(pod, line): &(String, String)| contract::LogLine {
            pod: pod.clone(),
            line: validate::cut(line, limits::LOG_LINE).to_owned(),
        };
        let mut last: Vec<_> = last.map(line).collect();
        last.reverse();
        Ok(last)
    }

    /// What the test answers of the Kubernetes API.
    pub fn kubernetes(
        &self,
        env: &str,
        path: &str,
        worker_type: &str,
    ) -> Result<String, types::Error> {
        validate::deploy::path(path)?;
        self.open(env, worker_type)?;
        let Some(answers) = &self.api.0 else { return Err(not_found("object", path)) };
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        match answers(env, path) {
            Ok(answer) => Ok(answer.to_string()),
            Err(error) => Err(match error {
                Error::Invalid(text) => types::Error::Invalid(text),
                Error::NotFound(text) => types::Error::NotFound(text),
                Error::Conflict(text) => types::Error::Conflict(text),
                Error::Limit(text) => types::Error::Limit(text),
                Error::Denied(text) => types::Error::Denied(text),
                Error::Unavailable(text) => types::Error::Unavailable(text),
                Error::Other(text) => types::Error::Other(text),
            }),
        }
    }
}
