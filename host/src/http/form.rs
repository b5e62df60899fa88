//! The parts of an upload, read as they come.
//!
//! Invariants:
//! - No part is kept beyond its limit. What is too much, or not expected, is read and thrown away within
//!   reason, so that the client hears of it instead of a broken pipe.
//! - What is no content of a part, such as its head, is short: the parser keeps all of it, and looks at it
//!   from the beginning whenever more has come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream};
use axum::extract::multipart::{Field, Multipart, MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use super::AppState;
use super::extract::too_large;
use super::problem::{Kind, Problem};
use crate::skills::upload::{MAX_COMPONENT_BYTES, MAX_MANIFEST_BYTES, Upload};

/// How much may come without anything coming of it: more than a server reads at once, which is 400 KiB.
const WITHOUT_PROGRESS: usize = 1 << 20;
/// How many parts that are not expected are read to their ends.
const UNEXPECTED: usize = 100;

/// Reads an upload of the skill `name`.
pub async fn read(name: String, request: Request, state: &AppState) -> Result<Upload, Problem> {
    let idle = Arc::new(AtomicUsize::new(0));
    let metered = |body: Body| Metered {
        body: body.into_data_stream(),
        idle: idle.clone(),
        handed_out: false,
    };
    let request = request.map(|body| Body::from_stream(metered(body)));
    let mut parts = Multipart::from_request(request, state).await.map_err(|error| match error {
        MultipartRejection::InvalidBoundary(_) => Problem::new(
            Kind::UnsupportedMediaType,
            "send `multipart/form-data` with the parts `component` and, optionally, `manifest`",
        ),
        _ => Problem::new(Kind::Malformed, "the body is not multipart/form-data"),
    })?;
    let (mut component, mut manifest) = (None, None);
    let (mut refused, mut unexpected) = (None, 0);
    while let Some(field) = parts.next_field().await.map_err(unreadable)? {
        idle.store(0, Ordering::Relaxed);
        match field.name() {
            Some("component") if component.is_none() => {
                component = Some(part(field, "component", MAX_COMPONENT_BYTES, &idle).await?);
            }
            Some("manifest") if manifest.is_none() => {
                let bytes = part(field, "manifest", MAX_MANIFEST_BYTES, &idle).await?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| Problem::invalid("manifest", "SKILL.md must be UTF-8"))?;
                manifest = Some(text);
            }
            other => {
                let name: String = other.unwrap_or_default().chars().take(50).collect();
                let message = format!("the part `{name}` is not expected, or comes twice");
                refused.get_or_insert_with(|| Problem::invalid("parts", message));
                unexpected += 1;
                let read = part(field, "parts", MAX_COMPONENT_BYTES, &idle).await;
                if read.is_err() || unexpected == UNEXPECTED {
                    break;
                }
            }
        }
    }
    if let Some(problem) = refused {
        return Err(problem);
    }
    let component = component.filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
        Problem::invalid("component", "the part with the WebAssembly component is missing")
    })?;
    Ok(Upload { name, component: component.into(), manifest })
}

/// One part. What goes beyond the limit is read and thrown away, so that the client hears of it.
async fn part(
    mut field: Field<'_>,
    name: &str,
    limit: usize,
    idle: &AtomicUsize,
) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut exceeded = false;
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        idle.store(0, Ordering::Relaxed);
        exceeded |= bytes.len() + chunk.len() > limit;
        if exceeded {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if exceeded { Err(too_large(name, limit)) } else { Ok(bytes) }
}

fn unreadable(error: MultipartError) -> Problem {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large("the upload", MAX_COMPONENT_BYTES),
        _ => Problem::new(Kind::Malformed, "the body breaks off, or is not multipart/form-data"),
    }
}

/// A body that is handed out a chunk at a time, because the parser takes all that it can get before it
/// looks at any of it; and that fails when nothing comes of it.
struct Metered {
    body: BodyDataStream,
    /// Bytes since something came of them.
    idle: Arc<AtomicUsize>,
    handed_out: bool,
}

impl Stream for Metered {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.handed_out) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.idle.load(Ordering::Relaxed) > WITHOUT_PROGRESS {
            return Poll::Ready(Some(Err(io::Error::other("too much that is in no part"))));
        }
        self.body.poll_next_unpin(cx).map(|next| {
            let chunk = next?.map_err(io::Error::other);
            if let Ok(bytes) = &chunk {
                self.idle.fetch_add(bytes.len(), Ordering::Relaxed);
                self.handed_out = true;
            }
            Some(chunk)
        })
    }
}
