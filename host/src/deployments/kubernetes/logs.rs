//! What the pods of a deployment have written.

use std::pin::Pin;

use futures::{AsyncBufReadExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connection::patiently;
use super::failure::{Failure, in_words};
use super::{APP_LABEL, MANAGED_BY};

/// Pods whose logs are shown at most.
const MOST_PODS: usize = 20;
/// Longest line; the rest of it is left out.
const MOST_BYTES: usize = 16 << 10;

/// What of the logs is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The last lines of each pod.
    pub tail: u32,
    /// And what comes next, until the pods end.
    pub follow: bool,
    /// Of the containers before the last restart.
    pub previous: bool,
}

/// A line that a pod has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// The pod.
    pub pod: String,
    /// The line, at most 16 KiB of it.
    pub line: String,
}

/// Lines, one pod's in order; why there are no more of it, if it broke off.
pub type Lines = Pin<Box<dyn Stream<Item = LogLine> + Send>>;

/// The lines of an app's pods, newest pods first.
pub async fn read(
    client: &Client,
    namespace: &str,
    app: &str,
    wanted: Wanted,
) -> Result<Lines, Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{APP_LABEL}={app},{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let list = ListParams::default().labels(&selector).limit(200);
    let mut found = patiently(pods.list(&list)).await?.items;
    found.sort_by_key(|pod| std::cmp::Reverse(pod.creation_timestamp()));
    found.truncate(MOST_PODS);
    let params = LogParams {
        container: Some("app".into()),
        follow: wanted.follow,
        previous: wanted.previous,
        tail_lines: Some(i64::from(wanted.tail)),
        ..LogParams::default()
    };
    let streams = found.into_iter().map(|pod| {
        let name = pod.name_any();
        let (pods, params) = (pods.clone(), params.clone());
        futures::stream::once(async move {
            let shown = name.clone();
            match patiently(pods.log_stream(&name, &params)).await {
                Ok(bytes) => lines(shown, bytes).left_stream(),
                // A container that has not begun has written nothing.
                Err(failure) => {
                    let line = format!("({failure})");
                    futures::stream::iter([LogLine { pod: shown, line }]).right_stream()
                }
            }
        })
        .flatten()
        .boxed()
    });
    Ok(match wanted.follow {
        true => futures::stream::select_all(streams).boxed(),
        false => futures::stream::iter(streams.collect::<Vec<_>>()).flatten().boxed(),
    })
}

/// The lines of a log. Of one that is too long its beginning is kept, and no more is held of it.
fn lines(
    pod: String,
    bytes: impl futures::AsyncBufRead + Send + 'static,
) -> impl Stream<Item = LogLine> + Send {
    async_stream::stream! {
        let mut bytes = Box::pin(bytes);
        let mut kept: Vec<u8> = Vec::new();
        loop {
            let (used, ended) = match bytes.as_mut().fill_buf().await {
                Ok([]) => break,
                Ok(chunk) => {
                    let end = chunk.iter().position(|byte| *byte == b'\n');
                    let line = &chunk[..end.unwrap_or(chunk.len())];
                    let room = (MOST_BYTES + 1).saturating_sub(kept.len());
                    kept.extend_from_slice(&line[..line.len().min(room)]);
                    (line.len() + usize::from(end.is_some()), end.is_some())
                }
                Err(error) => {
                    let line = format!("(the log broke off: {})", in_words(&error));
                    yield LogLine { pod: pod.clone(), line };
                    break;
                }
            };
            bytes.as_mut().consume(used);
            if ended {
                let line = bounded(String::from_utf8_lossy(&std::mem::take(&mut kept)).into_owned());
                yield LogLine { pod: pod.clone(), line };
            }
        }
        if !kept.is_empty() {
            yield LogLine { pod, line: bounded(String::from_utf8_lossy(&kept).into_owned()) };
        }
    }
}

fn bounded(mut line: String) -> String {
    if line.len() > MOST_BYTES {
        let end = line.floor_char_boundary(MOST_BYTES);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_whatever_is_written() {
        let long = "x".repeat(MOST_BYTES * 3);
        let text = format!("one\n{long}\n\ntwo\r\nrest");
        let reader = futures::io::BufReader::with_capacity(7, futures::io::Cursor::new(text));
        let lines: Vec<String> = lines("p".into(), reader).map(|line| line.line).collect().await;
        assert_eq!(lines.len(), 5);
        assert_eq!((lines[0].as_str(), lines[2].as_str(), lines[4].as_str()), ("one", "", "rest"));
        assert!(lines[1].len() <= MOST_BYTES + 4 && lines[1].ends_with('…'));
    }
}
