//! `eve:skill/log`: a run's lines, and what it writes to standard output and error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::Utc;

use crate::requests::LogLine;
use crate::runtime::bindings::eve::skill::log::{Host, Level};
use crate::runtime::context::Context;
use crate::runtime::limits;

/// The log of one run. Always accepts: what goes beyond the limits is dropped and counted.
#[derive(Debug, Default)]
pub struct RunLog {
    lines: Vec<LogLine>,
    bytes: usize,
    dropped: u64,
    partial: [Vec<u8>; 2],
}

/// The two streams of text that a guest may write besides calling `log`.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// Standard output, kept as `info`.
    Output,
    /// Standard error, kept as `warn`: panics arrive here.
    Error,
}

impl Stream {
    fn level(self) -> &'static str {
        match self {
            Stream::Output => "info",
            Stream::Error => "warn",
        }
    }
}

impl RunLog {
    /// Adds a line, or counts it as dropped.
    pub fn push(&mut self, level: &str, message: &str, fields: &[(String, String)]) {
        let bytes = message.len().min(limits::LOG_LINE)
            + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.is_full() || self.bytes + bytes > limits::LOG_BYTES {
            self.dropped += 1;
            return;
        }
        self.bytes += bytes;
        self.lines.push(LogLine {
            at: Utc::now(),
            level: level.to_owned(),
            message: storable(cut(message, limits::LOG_LINE)),
            fields: fields
                .iter()
                .take(limits::LOG_FIELDS)
                .map(|(name, value)| (storable(name), storable(value)))
                .collect(),
        });
    }

    /// Adds bytes of a stream; they become lines at `\n`, or when a line is as long as one may be.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        if self.is_full() {
            // A flood: count, and spend nothing else on it.
            self.dropped += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            return;
        }
        while !bytes.is_empty() {
            let partial = &mut self.partial[stream as usize];
            let room = limits::LOG_LINE - partial.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(room.min(bytes.len()));
            partial.extend_from_slice(&bytes[..taken]);
            let full = partial.len() == limits::LOG_LINE;
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || full {
                self.end_line(stream);
            }
        }
    }

    fn end_line(&mut self, stream: Stream) {
        let line = std::mem::take(&mut self.partial[stream as usize]);
        let text = String::from_utf8_lossy(&line);
        self.push(stream.level(), text.strip_suffix('\r').unwrap_or(&text), &[]);
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= limits::LOG_LINES || self.bytes >= limits::LOG_BYTES
    }

    /// The lines, a last one without an end included, and how many were dropped.
    pub fn take(&mut self) -> (Vec<LogLine>, u64) {
        for stream in [Stream::Output, Stream::Error] {
            if !self.partial[stream as usize].is_empty() {
                self.end_line(stream);
            }
        }
        (std::mem::take(&mut self.lines), self.dropped)
    }
}

/// A log that the run, its streams and whoever reports the run share.
#[derive(Clone, Debug, Default)]
pub struct SharedLog(Arc<Mutex<RunLog>>);

impl SharedLog {
    /// The log itself. A panic while it was held left at worst a line out.
    pub fn lock(&self) -> MutexGuard<'_, RunLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most `bytes` of `text`, cut between characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Text without U+0000, which Postgres cannot hold.
pub(crate) fn storable(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text.to_owned() }
}

impl Host for Context {
    fn log(
        &mut self,
        level: Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        self.log.lock().push(level, &message, &fields);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_become_lines() {
        let mut log = RunLog::default();
        log.write(Stream::Output, b"one\ntw");
        log.write(Stream::Error, b"oops\r\n");
        log.write(Stream::Output, b"o\n\xffthree");
        let (lines, dropped) = log.take();
        let seen: Vec<_> =
            lines.iter().map(|line| (line.level.as_str(), line.message.as_str())).collect();
        let expected =
            [("info", "one"), ("warn", "oops"), ("info", "two"), ("info", "\u{fffd}three")];
        assert_eq!(seen, expected);
        assert_eq!(dropped, 0);
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let mut log = RunLog::default();
        for _ in 0..limits::LOG_LINES + 5 {
            log.push("info", "x\0y", &[]);
        }
        log.write(Stream::Output, b"a\nb\n");
        let (lines, dropped) = log.take();
        assert_eq!(lines.len(), limits::LOG_LINES);
        assert_eq!(dropped, 7);
        assert_eq!(lines[0].message, "xy");
    }

    #[test]
    fn a_line_without_an_end_is_cut_into_lines() {
        let mut log = RunLog::default();
        log.write(Stream::Output, &vec![b'x'; limits::LOG_LINE * 2 + 3]);
        let (lines, _) = log.take();
        let lengths: Vec<_> = lines.iter().map(|line| line.message.len()).collect();
        assert_eq!(lengths, [limits::LOG_LINE, limits::LOG_LINE, 3]);
    }
}
