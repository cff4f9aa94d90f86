//! Signals to the servers' processes.

use std::fs;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Signals a process and its children, which PostgreSQL's sessions are. Suspended, it starts no
/// more of them meanwhile.
pub(super) fn signal(pid: Option<u32>, signal: Signal) -> anyhow::Result<()> {
    let pid = pid.context("it does not run")?;
    let children = format!("/proc/{pid}/task/{pid}/children");
    if signal == Signal::SIGSTOP {
        send(pid, signal)?;
    }
    for child in fs::read_to_string(children)?.split_whitespace() {
        send(child.parse()?, signal)?;
    }
    send(pid, signal)
}

fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    match kill(Pid::from_raw(i32::try_from(pid)?), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signalling process {pid}")),
    }
}
