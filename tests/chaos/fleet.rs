//! The platform's processes: started, harmed, and started again, as an orchestrator of containers
//! would.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use eve_tests::{Eve, Process, free_address, http_client};
use tokio::time::Instant;

use crate::client::Addresses;
use crate::options::Options;
use crate::progress::{Blow, Tally};

/// How long a worker that is told to stop gives its runs.
const GRACE: u32 = 3;
/// How long after that it may take to end: it writes what it has, and Postgres may be away.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);
/// How long a control plane may take to be ready for the first time.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// SIGTERM's number, the same on every Unix.
const TERMINATED: i32 = 15;
/// How much of a process's log is shown.
const TAIL: usize = 4_000;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Worker,
}

/// A process that should always be there.
struct Member {
    role: Role,
    address: Option<String>,
    process: Process,
    /// Stopped by SIGSTOP, until then.
    paused: Option<Instant>,
}

/// All of them, and those that are on their way out.
pub struct Fleet {
    eve: Eve,
    slots: u32,
    workers: usize,
    members: Vec<Member>,
    leaving: Vec<(Process, Instant)>,
    addresses: Addresses,
    tally: Arc<Tally>,
}

impl Fleet {
    /// Starts the control planes, and waits until they are ready.
    pub async fn start(eve: Eve, options: &Options, tally: Arc<Tally>) -> Result<Fleet> {
        // Of the 100 connections that Postgres has, those of killed processes linger for a moment.
        let mut eve = eve.env("EVE_DATABASE_CONNECTIONS", "8");
        let mut addresses = Vec::new();
        for _ in 0..options.servers.max(1) {
            addresses.push(free_address()?);
        }
        eve = eve.env("EVE_URL", format!("http://{}", addresses[0]));
        let mut fleet = Fleet {
            eve,
            slots: options.slots,
            workers: options.workers,
            members: Vec::new(),
            leaving: Vec::new(),
            addresses: Arc::new(RwLock::new(Vec::new())),
            tally,
        };
        for address in addresses {
            let process = fleet.launch(Role::Server, Some(&address))?;
            let member =
                Member { role: Role::Server, address: Some(address), process, paused: None };
            fleet.members.push(member);
        }
        fleet.publish();
        fleet.ready().await?;
        Ok(fleet)
    }

    /// Starts the workers.
    pub fn start_workers(&mut self) -> Result<()> {
        for _ in 0..self.workers {
            let process = self.launch(Role::Worker, None)?;
            self.members.push(Member { role: Role::Worker, address: None, process, paused: None });
        }
        Ok(())
    }

    /// Has every organisation have a skill.
    pub async fn push(&self, folder: &Path) -> Result<()> {
        let folder = folder.to_string_lossy();
        let output = self.eve.run(["skill", "push", "--platform", &folder]).await?;
        ensure!(output.status.success(), "pushing {folder} failed: {output}");
        Ok(())
    }

    /// Where the control planes listen.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// The members of a role that are not stopped: their places.
    pub fn standing(&self, role: Role) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, member)| member.role == role && member.paused.is_none())
            .map(|(place, _)| place)
            .collect()
    }

    /// SIGKILL, and at once another in its place.
    pub fn kill(&mut self, place: usize) -> Result<()> {
        let role = self.members[place].role;
        self.examine(place);
        self.members[place].process.kill();
        self.tally.struck(match role {
            Role::Server => Blow::KillServer,
            Role::Worker => Blow::KillWorker,
        });
        self.replace(place).map(drop)
    }

    /// SIGSTOP for a while.
    pub fn pause(&mut self, place: usize, length: Duration) {
        let member = &mut self.members[place];
        member.process.pause();
        member.paused = Some(Instant::now() + length);
        self.tally.struck(match member.role {
            Role::Server => Blow::PauseServer,
            Role::Worker => Blow::PauseWorker,
        });
    }

    /// SIGTERM, and at once another in its place.
    pub fn drain(&mut self, place: usize) -> Result<()> {
        self.examine(place);
        self.members[place].process.terminate();
        self.tally.struck(Blow::Drain);
        let leaving = self.replace(place)?;
        self.leaving.push((leaving, Instant::now() + LEAVES_WITHIN));
        Ok(())
    }

    /// Lets those go on whose time has come, and sees to those that have ended.
    pub fn tend(&mut self) -> Result<()> {
        let now = Instant::now();
        for member in &mut self.members {
            if member.paused.is_some_and(|until| until <= now) {
                member.process.resume();
                member.paused = None;
            }
        }
        for place in 0..self.members.len() {
            if self.examine(place) {
                self.replace(place)?;
            }
        }
        let mut staying = Vec::new();
        for (mut process, deadline) in std::mem::take(&mut self.leaving) {
            match process.ended()? {
                // Told before it had got as far as to listen for it: it held nothing yet.
                Some(status) if status.success() || status.signal() == Some(TERMINATED) => {}
                Some(status) => self.tally.found(format!(
                    "a worker that drained ended badly: {status}\n{}",
                    tail(&process)
                )),
                None if now < deadline => staying.push((process, deadline)),
                None => self.tally.found(format!(
                    "a worker that was told to stop did not within {LEAVES_WITHIN:?}\n{}",
                    tail(&process)
                )),
            }
        }
        self.leaving = staying;
        Ok(())
    }

    /// Ends every stop, and waits for those that are on their way out.
    pub async fn recover(&mut self) -> Result<()> {
        for member in &mut self.members {
            if member.paused.take().is_some() {
                member.process.resume();
            }
        }
        while !self.leaving.is_empty() {
            self.tend()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.ready().await
    }

    /// Leaves the logs, for whoever looks into what happened.
    pub fn keep(&mut self) {
        println!("the logs stay in {}", self.eve.keep().display());
    }

    /// Whether a member has ended by itself, which is a finding.
    fn examine(&mut self, place: usize) -> bool {
        let member = &mut self.members[place];
        match member.process.ended() {
            Ok(None) => false,
            // Somebody else was given its port while it was away; it gets another.
            Ok(Some(_)) if member.process.log().contains("in use") => true,
            Ok(Some(status)) => {
                let (role, log) = (member.role, tail(&member.process));
                self.tally.found(format!("a {role:?} ended by itself: {status}\n{log}"));
                true
            }
            Err(error) => {
                self.tally.found(format!("a process cannot be looked at: {error}"));
                false
            }
        }
    }

    /// Another process in the place of one; returns the old one.
    fn replace(&mut self, place: usize) -> Result<Process> {
        if self.members[place].process.log().contains("in use") {
            self.members[place].address = Some(free_address()?);
            self.publish();
        }
        let (role, address) = (self.members[place].role, self.members[place].address.clone());
        let process = self.launch(role, address.as_deref())?;
        let member = &mut self.members[place];
        member.paused = None;
        Ok(std::mem::replace(&mut member.process, process))
    }

    fn launch(&self, role: Role, address: Option<&str>) -> Result<Process> {
        let (slots, grace) = (self.slots.to_string(), GRACE.to_string());
        match role {
            Role::Server => self.eve.start(["serve", "--listen", address.unwrap_or_default()]),
            Role::Worker => self
                .eve
                .start(["worker", "--type", "general", "--slots", &slots, "--grace", &grace]),
        }
    }

    fn publish(&self) {
        let urls = self.members.iter().filter_map(|member| member.address.as_ref());
        let urls = urls.map(|address| format!("http://{address}")).collect();
        *self.addresses.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = urls;
    }

    /// Waits until every control plane says that it is ready.
    async fn ready(&mut self) -> Result<()> {
        let http = http_client()?;
        let deadline = Instant::now() + READY_WITHIN;
        for place in 0..self.members.len() {
            while let Some(address) = self.members[place].address.clone() {
                let answer = http.get(format!("http://{address}/readyz")).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    break;
                }
                if self.examine(place) {
                    self.replace(place)?;
                }
                if Instant::now() >= deadline {
                    bail!("a control plane is not ready:\n{}", tail(&self.members[place].process));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}

/// The end of what a process has said.
fn tail(process: &Process) -> String {
    let log = process.log();
    let start = log.len().saturating_sub(TAIL);
    let start = (start..log.len()).find(|index| log.is_char_boundary(*index)).unwrap_or(start);
    log[start..].to_owned()
}
