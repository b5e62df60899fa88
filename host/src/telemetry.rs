//! What a process says about itself: its log on standard error, its metrics for Prometheus.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// How often what was observed is summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts both. `EVE_LOG` chooses what is logged (`info` by default; `eve_host=debug`, …),
/// `EVE_LOG_FORMAT=json` one JSON object a line.
pub fn start() -> anyhow::Result<PrometheusHandle> {
    let filter = EnvFilter::builder()
        .with_env_var("EVE_LOG")
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env()
        .context("EVE_LOG is not a filter such as `info` or `eve_host=debug`")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // Nobody reads it any more: saying so there would be a panic, and signals would go unheard.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match std::env::var("EVE_LOG_FORMAT").as_deref() {
        Ok("json") => log.json().init(),
        _ => log.with_target(false).init(),
    }
    let metrics =
        PrometheusBuilder::new().install_recorder().context("starting the metrics recorder")?;
    let upkeep = metrics.clone();
    // Every observation is kept until somebody asks or tidies up, and where there is no Prometheus,
    // nobody asks.
    std::thread::Builder::new().name("eve-metrics".into()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            upkeep.run_upkeep();
        }
    })?;
    Ok(metrics)
}
