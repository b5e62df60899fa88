//! Figures of the whole queue: real components, real processes, a Postgres that syncs to disk. Each
//! figure stands beside its floor, measured in the same run, because ratios hold where times do not.
//!
//! `just bench`, or: `eve-bench PATH-TO-EVE PATH-TO-SKILLS [REQUESTS]`, both of a release build.

mod neighbours;
mod overhead;
mod processes;
mod queue;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use eve_host::db::{self, Db, DbConfig};
use eve_host::dev::bootstrap;
use eve_host::dev::postgres::PrivatePostgres;

use processes::{Eve, resident};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let eve = args.next().context("usage: eve-bench PATH-TO-EVE PATH-TO-SKILLS [REQUESTS]")?;
    let skills = args.next().context("where are the built skills?")?;
    let requests: usize = match args.next() {
        Some(count) => count.to_string_lossy().parse().context("REQUESTS is not a number")?,
        None => 100_000,
    };
    // rustls is linked twice over: somebody has to choose its provider.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let data = tempfile::tempdir()?;
    let postgres = PrivatePostgres::start(data.path()).await?;
    let url = postgres.url();
    let db = Db::connect(&DbConfig {
        url: url.clone(),
        max_connections: 8,
        application_name: "eve-bench".into(),
    })?;
    db::migrate(db.pool()).await?;
    let token = bootstrap::run(&db).await?;
    let org = queue::org(&db).await?;

    let eve = Eve::new(eve, data.path(), &url, token.expose())?;
    let server = eve.serve().await?;
    eve.push(&skills.join("noop")).await?;

    println!("machine: {}", processes::machine());

    for threads in [1, 2] {
        let noop = skills.join("noop/noop.wasm");
        let overhead::Overhead { threads, bare, ours } =
            overhead::measure(eve.binary(), &noop, threads).await?;
        println!(
            "a no-op run, {threads} guest thread(s): bare wasmtime {bare:.1?}, ours {ours:.1?} (ratio {:.2})",
            ours.as_secs_f64() / bare.as_secs_f64()
        );
    }

    let worker = eve.worker().await?;
    let ids = queue::create(&db, org, 1).await?;
    queue::finished(&db, &ids).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("idle worker, one run behind it: {} MiB resident", resident(worker.id())? >> 20);

    let picked = queue::pick_up(&eve.client(), &db, 300).await?;
    println!(
        "pick-up of a single request when idle: p50 {:.1} ms, p95 {:.1} ms",
        picked.p50, picked.p95
    );
    for skill in ["hostile", "hostile-wasi"] {
        eve.push(&skills.join(skill)).await?;
    }
    let client = eve.client();
    let alone = neighbours::latency(&client, &db, 300).await?;
    println!("a no-op request, alone: p50 {:.1} ms, p95 {:.1} ms", alone.p50, alone.p95);
    let floor = neighbours::beside_spinners(&client, &db, 300).await?;
    println!(
        "beside a foreign program that spins on every core: p50 {:.1} ms, p95 {:.1} ms (ratio {:.2})",
        floor.p50,
        floor.p95,
        floor.p95 / alone.p95
    );
    for attack in neighbours::ATTACKS {
        let beside = neighbours::beside(attack, &client, &db, 300).await?;
        println!(
            "beside 8 of {} that {}: p50 {:.1} ms, p95 {:.1} ms (ratio {:.2})",
            attack.0,
            attack.1,
            beside.p50,
            beside.p95,
            beside.p95 / alone.p95
        );
    }
    println!("that worker afterwards: {} MiB resident", resident(worker.id())? >> 20);
    worker.stop().await?;

    let ids = queue::create(&db, org, requests).await?;
    let worker = eve.worker().await?;
    queue::finished(&db, &ids).await?;
    let through = queue::rate(&db, &ids).await?;
    println!(
        "no-op runs through the whole queue: {through:.0}/s ({requests} requests, one worker)"
    );
    println!("that worker afterwards: {} MiB resident", resident(worker.id())? >> 20);
    worker.stop().await?;

    let ids = queue::create(&db, org, requests).await?;
    let floor = queue::floor(&db, &ids).await?;
    println!(
        "floor, the same SQL without running anything: {floor:.0}/s (ratio {:.2})",
        floor / through
    );
    server.stop().await?;
    postgres.stop().await?;

    let dev = eve.dev(&data.path().join("dev")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        "eve dev with its Postgres: {} MiB proportional",
        processes::proportional_tree(dev.id())? >> 20
    );
    dev.stop().await?;
    Ok(())
}
