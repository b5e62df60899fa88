//! `eve-chaos`: users at work on a whole platform, and enemies who take it apart meanwhile.
//!
//! Flow: [`Ground`] is a Postgres of our own, [`Fleet`] the control planes and workers on it.
//! [`authors`] create a seeded workload through the API, cancel, retry, and answer questions, as
//! users with an idempotency key would; [`enemies`] kill, stop, drain and cut off whatever runs.
//! When the goals are reached the enemies stop, everything settles, and [`verdict`] checks the
//! whole database against what was asked for.
//!
//! Invariants:
//! - Whatever is decided here is decided by the seed: what users ask for, and what enemies do, in
//!   which order and after which pauses. What it meets is decided by the machine.
//! - Nobody but enemies harms anything: a process that ends by itself is a finding.
//! - It ends with exit code 0 if every rule holds, with 1 and the seed if not.
//!
//! `just chaos --seed N --minutes M`, or `--kills N --requests N`; `--scale` instead runs few very
//! large graphs, without enemies.

mod authors;
mod client;
mod enemies;
mod fleet;
mod ground;
mod options;
mod people;
mod progress;
mod scale;
mod settling;
mod verdict;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use eve_host::db::{Db, DbConfig};
use eve_host::dev::bootstrap;
use eve_tests::{Eve, Org, skill};
use tokio::sync::watch;

use client::Client;
use fleet::Fleet;
use ground::Ground;
use options::Options;
use progress::Tally;

/// What the workload's requests run.
const SKILLS: [&str; 3] = ["hostile", "noop", "orchestrator"];

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    println!("seed {}", options.seed);
    let outcome = match options.scale {
        true => scale::run(&options).await,
        false => run(&options).await,
    };
    match outcome {
        Ok(findings) if findings.is_empty() => {
            println!("seed {}: every rule holds", options.seed);
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            eprintln!("seed {}: FAILED", options.seed);
            for finding in findings {
                eprintln!("  {finding}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("seed {}: FAILED: {error:#}", options.seed);
            ExitCode::FAILURE
        }
    }
}

/// A platform that nobody has harmed yet.
struct Stage {
    // Before the ground: nobody is connected any more when Postgres is told to stop.
    fleet: Fleet,
    clients: Vec<Client>,
    ground: Ground,
}

impl Stage {
    async fn set(options: &Options, tally: &Arc<Tally>) -> Result<Stage> {
        let ground = Ground::start().await?;
        let eve = Eve::on_url(ground.url())?.env("EVE_LOG", "warn");
        eve.migrate().await?;
        let token = {
            let db = Db::connect(&DbConfig {
                url: ground.url().to_owned(),
                max_connections: 1,
                application_name: "chaos bootstrap".to_owned(),
            })?;
            let token = bootstrap::run(&db).await?.expose().to_owned();
            db.pool().close().await;
            token
        };
        let eve = eve.env("EVE_TOKEN", token);
        let mut fleet = Fleet::start(eve, options, tally.clone()).await?;
        for name in SKILLS {
            fleet.push(&skill(name)?).await?;
        }
        let mut clients = Vec::new();
        for index in 0..options.organisations {
            let org = Org::create_in(ground.pool(), &format!("org-{index}")).await?;
            clients.push(Client::new(org, fleet.addresses(), tally.clone())?);
        }
        fleet.start_workers()?;
        Ok(Stage { fleet, clients, ground })
    }
}

async fn run(options: &Options) -> Result<Vec<String>> {
    let tally = Arc::new(Tally::new());
    let Stage { fleet, clients, ground } =
        Stage::set(options, &tally).await.context("setting the stage")?;
    let pool = ground.pool().clone();
    let clients = Arc::new(clients);
    let (over, ends) = watch::channel(false);

    let reporting = tokio::spawn(progress::report(tally.clone(), pool.clone(), ends.clone()));
    let watching = tokio::spawn(verdict::watch(tally.clone(), pool.clone(), ends.clone()));
    let authors: Vec<_> = (0..options.authors)
        .map(|number| {
            let author = authors::Author::new(options, number, clients.clone(), tally.clone());
            tokio::spawn(author.work(ends.clone()))
        })
        .collect();
    let people: Vec<_> = (0..clients.len())
        .map(|number| {
            tokio::spawn(people::answer(options.seed, number, clients.clone(), tally.clone()))
        })
        .collect();
    let enemies =
        tokio::spawn(enemies::attack(options.clone(), fleet, ground, tally.clone(), ends.clone()));

    reached(options, &tally).await;
    let attack = tally.elapsed();
    over.send_replace(true);
    println!("enough: the enemies stop, everything has to settle");
    let mut works = Vec::new();
    for author in authors {
        works.push(author.await?.context("an author could not work")?);
    }
    let (mut fleet, mut ground) = enemies.await?.context("the enemies could not attack")?;
    watching.await??;
    reporting.await?;
    let given_up = settling::settle(options, &clients, &mut fleet, &pool, &tally).await?;
    for person in people {
        person.abort();
    }

    let mut findings = verdict::check(&pool, &works, &given_up, &tally).await?;
    findings.extend(tally.missed(attack, options.blows()));
    println!("{}", tally.summary(&pool).await?);
    if !findings.is_empty() && options.keep {
        ground.keep();
        fleet.keep();
    }
    drop(fleet);
    ground.stop().await?;
    Ok(findings)
}

/// Returns when the goals are reached, the minutes are over, or there is no point in going on.
async fn reached(options: &Options, tally: &Tally) {
    loop {
        let targets = [(options.kills, tally.kills()), (options.requests, tally.requests())];
        let given = targets.iter().any(|(target, _)| target.is_some());
        let all = targets.iter().all(|(target, have)| target.is_none_or(|target| *have >= target));
        let late = options.limit().is_some_and(|limit| tally.elapsed() >= limit);
        if late || (given && all) || tally.hopeless() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
