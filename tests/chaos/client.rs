//! A user's client: calls whichever control plane answers, and calls again until it knows.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Result, bail};
use eve_tests::{Org, http_client};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::progress::Tally;

/// After so long without an answer something is wrong with the platform.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long one call may take before it is made again, with the same key.
const CALL: Duration = Duration::from_secs(20);

/// Where control planes listen; changes when one has to move.
pub type Addresses = Arc<RwLock<Vec<String>>>;

/// One organisation's access to the API.
pub struct Client {
    org: Org,
    addresses: Addresses,
    http: reqwest::Client,
    tally: Arc<Tally>,
}

/// What the platform said, for good.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Client {
    pub fn new(org: Org, addresses: Addresses, tally: Arc<Tally>) -> Result<Client> {
        Ok(Client { org, addresses, http: http_client()?, tally })
    }

    pub fn org(&self) -> &Org {
        &self.org
    }

    /// Sends JSON, with a key if the same call twice would otherwise do it twice.
    pub async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Answer> {
        self.call(Method::POST, path, Some(body), key).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, None, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(20);
        let mut last = String::new();
        for attempt in 0.. {
            if Instant::now() >= deadline {
                bail!("{method} {path} has no answer after {PATIENCE:?}; the last one was {last}");
            }
            if attempt > 0 {
                self.tally.repeated();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            let address = {
                let all = self.addresses.read().unwrap_or_else(|poisoned| poisoned.into_inner());
                all[attempt % all.len()].clone()
            };
            let mut call = self
                .http
                .request(method.clone(), format!("{address}{path}"))
                .timeout(CALL)
                .bearer_auth(&self.org.token);
            if let Some(body) = body {
                call = call.json(body);
            }
            if let Some(key) = key {
                call = call.header("idempotency-key", key);
            }
            let answer = match call.send().await {
                Ok(answer) => answer,
                Err(error) => {
                    last = format!("{error:?}");
                    continue;
                }
            };
            let status = answer.status().as_u16();
            let text = match answer.text().await {
                Ok(text) => text,
                Err(error) => {
                    last = format!("{error:?}");
                    continue;
                }
            };
            if status >= 500 || status == 429 || status == 408 {
                last = format!("{status}: {text}");
                continue;
            }
            let body = match text.is_empty() {
                true => Value::Null,
                false => serde_json::from_str(&text)?,
            };
            return Ok(Answer { status, body });
        }
        unreachable!("it returns or bails")
    }
}
