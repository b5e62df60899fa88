//! People who answer questions, or let them expire.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::prelude::*;
use serde_json::{Value, json};

use crate::client::Client;
use crate::progress::Tally;

/// How often somebody looks whether there is a question.
const LOOK: Duration = Duration::from_millis(500);

/// Answers the questions of an organisation, until it is aborted: orchestrations go on to ask while
/// everything settles.
pub async fn answer(seed: u64, number: usize, clients: Arc<Vec<Client>>, tally: Arc<Tally>) {
    let mut rng = StdRng::seed_from_u64(seed ^ (0xa5c << 20) ^ number as u64);
    let mut seen: HashSet<String> = HashSet::new();
    loop {
        if let Err(error) = round(&mut rng, &mut seen, &clients[number], &tally).await {
            tally.found(format!("a person could not answer: {error:?}"));
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn round(
    rng: &mut StdRng,
    seen: &mut HashSet<String>,
    client: &Client,
    tally: &Tally,
) -> anyhow::Result<()> {
    let open = client.get("/v1/hitl?status=open&limit=100").await?;
    anyhow::ensure!(open.is_success(), "listing questions: {}: {}", open.status, open.body);
    for question in open.body["items"].as_array().into_iter().flatten() {
        let Some(id) = question["id"].as_str() else { continue };
        // Each is decided once: what is left alone now is left to expire.
        if !seen.insert(id.to_owned()) || rng.random_bool(0.35) {
            continue;
        }
        let options: Vec<&Value> = question["options"].as_array().into_iter().flatten().collect();
        let response = options.choose(rng).map_or(json!("as you like"), |option| (*option).clone());
        let path = format!("/v1/hitl/{id}/respond");
        let answer = client.post(&path, &json!({ "response": response }), None).await?;
        match answer.status {
            200..300 => tally.answered(),
            // It expired meanwhile, its orchestration ended, or the first answer's answer was lost.
            409 => {}
            _ => anyhow::bail!("{path}: {}: {}", answer.status, answer.body),
        }
    }
    Ok(())
}
