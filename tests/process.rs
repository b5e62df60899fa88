//! A running process of the platform.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

/// A process that a test has started. It is killed when this is dropped; if the test has failed by
/// then, what it wrote is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with standard output and standard error going to a file in `folder`.
    pub(crate) fn start(name: String, mut command: Command, folder: &Path) -> Result<Process> {
        let log = tempfile::Builder::new()
            .prefix(&format!("{}-", name.replace(['/', ' '], "-")))
            .suffix(".log")
            .tempfile_in(folder)?
            .into_temp_path()
            .keep()?;
        let file = File::options().append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Process { name, child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had resident at one time, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.context("no VmHWM")?.parse::<u64>()? << 10)
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        match std::fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(the log cannot be read: {error})"),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, async || self.child.try_wait().expect("a child can be waited for")).await
    }

    /// `kill -9`: it gets no chance to tidy up.
    pub fn kill(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM: asks it to end; [`Process::wait`] waits for that.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Stops it where it is, as a hanging machine would; [`Process::resume`] lets it go on.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Undoes [`Process::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // Until it has been waited for, which takes `&mut self`, the id cannot be anybody else's.
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            eprintln!("{} cannot be signalled: {error}", self.name);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- {} (process {}) said:\n{}", self.name, self.child.id(), self.log());
        }
    }
}
