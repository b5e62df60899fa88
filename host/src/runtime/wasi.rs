//! Inert WASI 0.2: real guests import it (Rust's std, Python's sockets) and break without clocks
//! and random, so it is linked, but leads nowhere: no files, no environment, no arguments, no
//! network. What a guest prints goes to its run's log.

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, async_trait};

use super::capabilities::log::{SharedLog, Stream};
use super::limits;

/// Bytes that a stream offers to take at once; also the most that a guest can make the host
/// allocate by `write-zeroes`.
const PERMIT: usize = 64 << 10;

/// A WASI without anything behind it, for a run with this log.
pub fn inert(log: &SharedLog) -> WasiCtx {
    // The builder's defaults are no files, no environment, no arguments and an empty standard
    // input. What decides about the network is said aloud.
    WasiCtxBuilder::new()
        .stdout(LogStream { log: log.clone(), stream: Stream::Output })
        .stderr(LogStream { log: log.clone(), stream: Stream::Error })
        .max_random_size(limits::RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }))
        .build()
}

/// Standard output or error as lines of the log. Always accepts, never fails: a guest that prints
/// without end spends its own CPU time and nothing else.
#[derive(Clone)]
struct LogStream {
    log: SharedLog,
    stream: Stream,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // WASI 0.3 only, which is not linked.
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.lock().write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}
