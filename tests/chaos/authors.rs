//! Users who create, cancel and retry, as their seeds say, and remember what they did.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::client::Client;
use crate::options::Options;
use crate::progress::Tally;
use crate::workload::{self, Batch};

/// How many of its requests an author has in mind.
const MEMORY: usize = 400;

/// What an author did, for the verdict.
#[derive(Debug, Default)]
pub struct Work {
    /// The key of every batch that was created, and how many requests it has.
    pub batches: Vec<(String, usize)>,
    /// Whatever it has asked to cancel.
    pub cancelled: HashSet<Uuid>,
}

/// One of the users.
pub struct Author {
    name: String,
    rng: StdRng,
    clients: Arc<Vec<Client>>,
    client: usize,
    tally: Arc<Tally>,
    backlog: i64,
    known: VecDeque<Uuid>,
    orchestrations: VecDeque<Uuid>,
    work: Work,
}

impl Author {
    pub fn new(
        options: &Options,
        number: usize,
        clients: Arc<Vec<Client>>,
        tally: Arc<Tally>,
    ) -> Author {
        Author {
            name: format!("chaos-{}-{number}", options.seed),
            rng: StdRng::seed_from_u64(
                options.seed.wrapping_mul(1_000).wrapping_add(number as u64),
            ),
            client: number % clients.len(),
            clients,
            tally,
            backlog: options.backlog,
            known: VecDeque::new(),
            orchestrations: VecDeque::new(),
            work: Work::default(),
        }
    }

    /// Works until the end.
    pub async fn work(mut self, ends: watch::Receiver<bool>) -> Result<Work> {
        while !*ends.borrow() {
            if self.tally.open() >= self.backlog {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            self.create().await?;
            if self.rng.random_bool(0.4) {
                self.cancel().await?;
            }
            for _ in 0..self.rng.random_range(0..4) {
                self.retry().await?;
            }
        }
        Ok(self.work)
    }

    async fn create(&mut self) -> Result<()> {
        let known: Vec<Uuid> = self.known.iter().copied().collect();
        let orchestrations: Vec<Uuid> = self.orchestrations.iter().copied().collect();
        let Batch { mut requests, joins } = workload::draw(&mut self.rng, &known, &orchestrations);
        let key = format!("{}-{}", self.name, self.work.batches.len());
        for (index, request) in requests.iter_mut().enumerate() {
            request["metadata"]["batch"] = json!(key);
            request["metadata"]["index"] = json!(index);
        }
        let count = requests.len();
        let body = json!({ "requests": requests });
        let answer =
            self.clients[self.client].post("/v1/requests/batch", &body, Some(&key)).await?;
        if joins && answer.status == 409 {
            // The key stays used; the next batch has another one.
            self.work.batches.push((key, 0));
            return Ok(());
        }
        ensure!(answer.is_success(), "creating {key} was refused, {}: {body}", {
            format!("{}: {}", answer.status, answer.body)
        });
        let created = answer.body["requests"].as_array().context("no requests came back")?;
        ensure!(created.len() == count, "{count} were asked for, {} created", created.len());
        for request in created {
            let id = id_of(request)?;
            remember(&mut self.known, id);
            if request["metadata"]["kind"] == "orchestrates" {
                remember(&mut self.orchestrations, id);
            }
        }
        self.work.batches.push((key, count));
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        let Some(id) = self.any().await? else { return Ok(()) };
        // Before the call: it may be done, and its answer lost.
        self.work.cancelled.insert(id);
        self.change(id, "cancel").await?;
        // Those that are held come back with it, and those that were cancelled with it too.
        if self.rng.random_bool(0.5) {
            self.change(id, "retry").await?;
        }
        Ok(())
    }

    async fn retry(&mut self) -> Result<()> {
        match self.any().await? {
            Some(id) => self.change(id, "retry").await,
            None => Ok(()),
        }
    }

    /// What has ended cannot be cancelled, what has completed cannot be retried: 409 is an answer.
    async fn change(&mut self, id: Uuid, verb: &str) -> Result<()> {
        let path = format!("/v1/requests/{id}/{verb}");
        let answer = self.clients[self.client].post(&path, &json!({}), None).await?;
        if !answer.is_success() && answer.status != 409 {
            bail!("{path}: {}: {}", answer.status, answer.body);
        }
        Ok(())
    }

    /// One of those in mind; now and then one of the latest of the organisation, whoever created it:
    /// a child, a wake-up.
    async fn any(&mut self) -> Result<Option<Uuid>> {
        if self.rng.random_bool(0.3) {
            let answer = self.clients[self.client].get("/v1/requests?limit=50").await?;
            ensure!(answer.is_success(), "listing: {}: {}", answer.status, answer.body);
            let ids: Vec<Uuid> = answer.body["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(id_of)
                .collect::<Result<_>>()?;
            return Ok(ids.choose(&mut self.rng).copied());
        }
        let place = self.rng.random_range(0..MEMORY);
        Ok(self.known.get(place % self.known.len().max(1)).copied())
    }
}

fn remember(memory: &mut VecDeque<Uuid>, id: Uuid) {
    if memory.len() >= MEMORY {
        memory.pop_front();
    }
    memory.push_back(id);
}

fn id_of(request: &Value) -> Result<Uuid> {
    Ok(request["id"].as_str().context("a request without an id")?.parse()?)
}
