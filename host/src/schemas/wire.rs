//! The connection's bytes: counted, so that no answer fills this process's memory before anybody has
//! looked at it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::limits;

/// How many bytes may still be read. Shared between a session and its stream.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    left: AtomicU64,
    overdrawn: AtomicBool,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(Arc::new(Account {
            left: AtomicU64::new(limits::WIRE),
            overdrawn: AtomicBool::new(false),
        }))
    }

    /// For the next call.
    pub(super) fn renew(&self) {
        self.0.left.store(limits::WIRE, Ordering::Relaxed);
    }

    /// Whether the server has sent more than it may. The connection ended with that, and its client is
    /// told no more than that it is closed.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.0.overdrawn.load(Ordering::Acquire)
    }

    /// Takes so many bytes; whether they were there.
    fn take(&self, bytes: u64) -> bool {
        let fits = |left: u64| left.checked_sub(bytes);
        let taken = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if !taken {
            self.0.overdrawn.store(true, Ordering::Release);
        }
        taken
    }
}

/// The server sent more than a call may bring.
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {} MiB; ask for fewer rows or columns", limits::ANSWER >> 20)]
pub(super) struct OverBudget;

/// A connection to the server, over TCP or a socket.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    budget: Budget,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Connects to the first host of `config` that answers; with the host's name for TLS.
    pub(super) async fn dial(config: &Config, budget: Budget) -> io::Result<(Wire, String)> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
        let ports = config.get_ports();
        for (index, host) in config.get_hosts().iter().enumerate() {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            let (stream, name) = match host {
                Host::Tcp(name) => (
                    TcpStream::connect((name.as_str(), port)).await.and_then(|stream| {
                        stream.set_nodelay(true)?;
                        Ok(Stream::Tcp(stream))
                    }),
                    name.clone(),
                ),
                Host::Unix(folder) => {
                    let path = folder.join(format!(".s.PGSQL.{port}"));
                    (UnixStream::connect(path).await.map(Stream::Unix), "localhost".to_owned())
                }
            };
            match stream {
                Ok(stream) => return Ok((Wire { stream, budget }, name)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let read = (buffer.filled().len() - before) as u64;
        match self.budget.take(read) {
            true => polled,
            false => Poll::Ready(Err(io::Error::other(OverBudget))),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
