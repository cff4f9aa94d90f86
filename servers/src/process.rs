//! Server processes: started in their own process group, named so that a reused process id is
//! never mistaken for them, and ended together with their descendants.

mod table;

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::wait;

/// Timeout until processes vanish: after a SIGKILL, or after
/// their parent is gone.
const VANISH_PATIENCE: Duration = Duration::from_secs(10);

/// One run of one process: its id, and its start time, which distinguishes it from a later process
/// that was given the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    started: String,
}

impl ProcessId {
    /// The process that has this id now, if there is one.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        table::lookup(pid).map(|row| row.id)
    }

    /// The process that calls this.
    pub(crate) fn own() -> Self {
        Self::of(std::process::id()).expect("a running process is in the process table")
    }

    /// Returns whether the process is running; a zombie is not.
    pub(crate) fn is_alive(&self) -> bool {
        table::lookup(self.pid).is_some_and(|row| row.id == *self && !row.is_zombie)
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).context("process id out of range")?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
        }
    }

    /// Children, their children, and so on.
    fn descendants(&self) -> Vec<Self> {
        let rows = table::all();
        let mut found = vec![self.clone()];
        let mut next = 0;
        while let Some(parent) = found.get(next).map(|id| id.pid) {
            let children = rows.iter().filter(|row| row.parent == parent);
            found.extend(children.map(|row| row.id.clone()));
            next += 1;
        }
        found.split_off(1)
    }
}

/// A server process that this program started, now or in an earlier run.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    /// There only if this very process started it, and then it must be reaped.
    child: Option<Child>,
}

impl Process {
    /// Starts a command in its own process group, so that a Ctrl-C in the terminal does not reach
    /// it, without input and with its output appended to `log`.
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self::from(child))
    }

    /// A process that an earlier run of this program started.
    pub(crate) fn adopt(id: ProcessId) -> Self {
        Self { id, child: None }
    }

    pub(crate) fn id(&self) -> &ProcessId {
        &self.id
    }

    /// Returns whether it is running; reaps it if it has ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.id.is_alive(),
        }
    }

    /// Asks the process to end by `signal` and, if it has not after `patience`, kills it.
    /// Returns when it and all its descendants are gone.
    pub(crate) fn end(&mut self, signal: Signal, patience: Duration) -> Result<()> {
        let descendants = self.id.descendants();
        self.signal(signal)?;
        if wait::until(patience, || (!self.is_alive()).then_some(())).is_none() {
            return self.kill();
        }
        let gone = || descendants.iter().all(|id| !id.is_alive()).then_some(());
        match wait::until(VANISH_PATIENCE, gone) {
            Some(()) => Ok(()),
            None => kill_all(&descendants),
        }
    }

    /// Ends the process and its descendants by SIGKILL, as a crash of the machine would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        // A stopped parent starts no further children between the look and the kill.
        self.signal(Signal::SIGSTOP)?;
        let descendants = self.id.descendants();
        self.signal(Signal::SIGKILL)?;
        kill_all(&descendants)?;
        if wait::until(VANISH_PATIENCE, || (!self.is_alive()).then_some(())).is_none() {
            bail!("process {} does not end, even by SIGKILL", self.id.pid);
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_alive() {
            self.id.signal(signal)
        } else {
            Ok(())
        }
    }
}

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        let id = ProcessId::of(child.id()).expect("a child that was not reaped has an entry");
        Self {
            id,
            child: Some(child),
        }
    }
}

fn kill_all(ids: &[ProcessId]) -> Result<()> {
    for id in ids {
        id.signal(Signal::SIGKILL)?;
    }
    let gone = || ids.iter().all(|id| !id.is_alive()).then_some(());
    wait::until(VANISH_PATIENCE, gone).context("some processes do not end, even by SIGKILL")
}
