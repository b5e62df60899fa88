//! Where connections come in: plain ones, or ones that begin with a TLS handshake.
//!
//! Flow: [`Listener::accept`] takes connections from the port and hands each that needs it to a task of its
//! own, which shakes hands; what has shaken hands goes to axum, in the order in which it is done.
//! [`Certificate`] is what they are shown, and follows its files.
//!
//! Invariants:
//! - Nobody waits for somebody else's handshake: each has a task, a deadline ([`HANDSHAKE_TIME`]), and a
//!   place ([`MOST_HANDSHAKES`]). When all places are taken, the handshake that has gone on for the longest
//!   gives up its own: an honest one takes two round trips, so whoever holds places loses them first.
//! - A connection keeps what was agreed when it began: another certificate changes nothing for it.
//! - HTTP/1.1 only, also by ALPN. Exec, port-forward and websockets upgrade it, and HTTP/2 would bring
//!   limits of its own to keep (streams, resets, headers in many frames) for clients who need it for nothing.
//!
//! How many connections there may be, and how long they may say nothing, is as without TLS: that is for
//! what stands in front of the server.

mod certificate;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use certificate::{Certificate, CertificateError, Files};

/// How long a handshake may take. Two round trips, with room for lines that lose packets.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Handshakes at one time. Each has a socket and a few KiB; a thousand a second are done by one core.
const MOST_HANDSHAKES: usize = 512;
/// What a TLS connection begins with: a record of the type `handshake` (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// What somebody who speaks HTTP on a port for TLS is told, as they understand it.
const NOT_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\
    Content-Length: 57\r\n\r\nThis port speaks TLS: write https:// instead of http://.\n";
/// Most of what they have sent that is read so that they get to see it.
const MOST_PLAIN: u64 = 64 << 10;

/// What becomes of a connection on a port with a certificate that does not begin with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It is told so, and closed.
    Refused,
    /// It is served as well: for a machine's own use.
    Served,
}

/// A port.
pub struct Listener {
    port: TcpListener,
    tls: Option<Tls>,
    handshakes: JoinSet<(io::Result<Stream>, SocketAddr)>,
    /// Those that go on, the oldest first; some have ended.
    places: VecDeque<AbortHandle>,
}

/// How hands are shaken.
#[derive(Clone)]
struct Tls {
    config: watch::Receiver<Arc<ServerConfig>>,
    plain: Plain,
    most: usize,
    time: Duration,
}

impl From<TcpListener> for Listener {
    fn from(port: TcpListener) -> Self {
        Listener { port, tls: None, handshakes: JoinSet::new(), places: VecDeque::new() }
    }
}

impl Listener {
    /// A port where TLS is spoken.
    pub fn tls(port: TcpListener, certificate: &Arc<Certificate>, plain: Plain) -> Listener {
        Self::following(port, watch::channel(certificate.config()).1, plain)
    }

    /// The same, where each handshake is by the settings of its moment.
    pub fn following(
        port: TcpListener,
        config: watch::Receiver<Arc<ServerConfig>>,
        plain: Plain,
    ) -> Listener {
        let tls = Tls { config, plain, most: MOST_HANDSHAKES, time: HANDSHAKE_TIME };
        Listener { tls: Some(tls), ..Listener::from(port) }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, tls: Tls) {
        self.places.retain(|place| !place.is_finished());
        if self.places.len() >= tls.most
            && let Some(oldest) = self.places.pop_front()
        {
            oldest.abort();
            count("crowded_out");
        }
        let shaking = async move {
            let done = tokio::time::timeout(tls.time, tls.shake(stream)).await;
            (done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())), peer)
        };
        self.places.push_back(self.handshakes.spawn(shaking));
    }
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        loop {
            tokio::select! {
                biased;
                // First, so that what is done does not pile up behind what begins.
                Some(done) = self.handshakes.join_next() => match done {
                    Ok((Ok(stream), peer)) => return (stream, peer),
                    Ok((Err(error), peer)) => {
                        count(if error.kind() == io::ErrorKind::TimedOut { "late" } else { "failed" });
                        tracing::debug!(%peer, %error, "no TLS");
                    }
                    // It has lost its place; or panicked, which is said where it happens.
                    Err(_) => {}
                },
                (stream, peer) = axum::serve::Listener::accept(&mut self.port) => {
                    match self.tls.clone() {
                        None => return (Stream::Plain(stream), peer),
                        Some(tls) => self.begin(stream, peer, tls),
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }
}

fn count(how: &'static str) {
    metrics::counter!("eve_tls_handshakes_failed_total", "how" => how).increment(1);
}

impl Tls {
    async fn shake(self, mut stream: TcpStream) -> io::Result<Stream> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (first[0] == HANDSHAKE, self.plain) {
            (true, _) => {
                let acceptor = TlsAcceptor::from(self.config.borrow().clone());
                Ok(Stream::Tls(Box::new(acceptor.accept(stream).await?)))
            }
            (false, Plain::Served) => Ok(Stream::Plain(stream)),
            (false, Plain::Refused) => {
                stream.write_all(NOT_TLS).await?;
                stream.shutdown().await?;
                // What is closed with something unread is reset, and the answer with it.
                tokio::io::copy(&mut stream.take(MOST_PLAIN), &mut tokio::io::sink()).await?;
                Err(io::Error::new(io::ErrorKind::InvalidData, "this is not TLS"))
            }
        }
    }
}

/// A connection.
pub enum Stream {
    /// As it comes.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The certificate that whoever is there has shown, where one is asked for.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// Sends what is small at once: keys that somebody presses in a terminal.
    pub fn without_delay(&mut self) {
        let stream = match self {
            Stream::Plain(stream) => &*stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        // Only a connection that is gone already refuses; whoever reads from it will hear of that.
        let _ = stream.set_nodelay(true);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
