//! A connection that speaks another protocol: bytes go through as they are.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::streams::{Over, Ticket};

/// How long both sides may take to begin.
const BEGIN: Duration = Duration::from_secs(10);

/// Passes bytes on until one side ends or it is over; how it ended, in a word.
pub async fn run(client: OnUpgrade, cluster: OnUpgrade, ticket: &Ticket) -> &'static str {
    let through = async {
        let both = async { tokio::try_join!(client, cluster) };
        let Ok(Ok((client, cluster))) = tokio::time::timeout(BEGIN, both).await else {
            return "broken";
        };
        let (mut client, mut cluster) = (TokioIo::new(client), TokioIo::new(cluster));
        // Most clients just hang up: an error here is an end like any other.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut cluster).await;
        "closed"
    };
    tokio::select! {
        biased;
        over = ticket.over() => match over {
            Over::Revoked => "revoked",
            Over::Time => "time",
            Over::Shutdown => "shutdown",
        },
        how = through => how,
    }
}
