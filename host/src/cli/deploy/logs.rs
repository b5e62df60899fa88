//! `eve deploy logs`.

use futures::StreamExt as _;

use super::super::Globals;
use super::super::error::{Error, Exit};
use super::super::output::{Format, Output, plain};
use super::Target;
use crate::deployments::kubernetes::logs::LogLine;

/// The largest line of the answer that is read.
const LARGEST: usize = 1 << 20;

/// Show what an app's pods have written
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve deploy logs --app api-service --env prod --tail 100
  eve deploy logs --app api-service --env prod -f
  eve deploy logs --app api-service --env prod --previous    before the last restart")]
pub struct Logs {
    #[command(flatten)]
    target: Target,
    /// The last lines of each pod: 0 to 100000
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: u32,
    /// And what comes next, until the pods end
    #[arg(long, short)]
    follow: bool,
    /// Of the containers before their last restart
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
}

impl Logs {
    /// Runs it.
    pub async fn run(self, globals: &Globals, out: &Output) -> Result<Exit, Error> {
        let client = globals.connect()?;
        let query = [
            ("tail", self.tail.to_string()),
            ("follow", self.follow.to_string()),
            ("previous", self.previous.to_string()),
        ];
        let response = client.stream(&self.target.path(&["logs"]), &query).await?;
        let mut chunks = response.bytes_stream();
        let mut kept: Vec<u8> = Vec::new();
        while let Some(chunk) = chunks.next().await {
            kept.extend(chunk.map_err(|error| client.interrupted(error.without_url()))?);
            while let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = kept.drain(..=end).collect();
                if let Ok(line) = serde_json::from_slice::<LogLine>(&line) {
                    show(&line, out)?;
                }
            }
            if kept.len() > LARGEST {
                kept.clear();
            }
        }
        Ok(Exit::Ok)
    }
}

fn show(line: &LogLine, out: &Output) -> Result<(), Error> {
    match out.format() {
        Format::Json => out.json_line(line),
        Format::Table => out.text(&format!("{}  {}", plain(&line.pod), plain(&line.line))),
    }
}
