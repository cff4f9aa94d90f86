//! Running a command with servers: signals passed on, exit code returned, servers ended.

use std::io::{IsTerminal, stdin};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use servers::{Environment, say};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// An event that a run waits for.
enum Event {
    Signal(Signal),
    Ended(std::io::Result<ExitStatus>),
}

/// Gets servers, runs the command with their addresses in its environment, and ends the servers
/// that were started for it, however the command ends.
///
/// # Errors
/// If there are no servers or the command cannot be started.
pub(crate) fn run(environment: &Environment, command: &[String]) -> Result<ExitCode> {
    let (sender, events) = channel();
    watch_signals(sender.clone())?;
    let lease = environment.lease()?;
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).envs(lease.urls.variables());
    let outcome = supervise(process, sender, &events);
    lease.end()?;
    outcome.with_context(|| format!("cannot run {}", command[0]))
}

fn supervise(
    mut command: Command,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ExitCode> {
    if let Ok(Event::Signal(signal)) = events.try_recv() {
        say(&format!("{signal} came before the command was started"));
        return Ok(exit_code_of_signal(signal as i32));
    }
    let group = Group::of_new_command();
    if matches!(group, Group::Own) {
        command.process_group(0);
    }
    let child = command.spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    await_end(child, sender);
    loop {
        match events.recv()? {
            Event::Signal(signal) => group.pass_on(signal, pid),
            Event::Ended(status) => return Ok(exit_code(status?)),
        }
    }
}

/// Delivery of signals to the command.
enum Group {
    /// It shares our process group, to which the terminal sends Ctrl-C and hang-up itself:
    /// passing them on would double them, and a second one means "at once".
    Shared,
    /// It has its own process group, and gets every signal from us, once.
    Own,
}

impl Group {
    /// The command must be in the terminal's foreground group to read input and be suspended.
    fn of_new_command() -> Self {
        let input = stdin();
        let is_in_foreground =
            input.is_terminal() && tcgetpgrp(&input).is_ok_and(|group| group == getpgrp());
        if is_in_foreground {
            Self::Shared
        } else {
            Self::Own
        }
    }

    fn pass_on(&self, signal: Signal, pid: Pid) {
        // An error says that the command has ended, which is noticed anyway.
        let _ = match self {
            Self::Shared if signal == Signal::SIGTERM => kill(pid, signal),
            Self::Shared => Ok(()),
            Self::Own => killpg(pid, signal),
        };
    }
}

/// From here on these signals do not end this program; they arrive as events. Handlers, unlike
/// blocked signals, are not inherited by the commands that are started.
fn watch_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot watch signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let signal = Signal::try_from(signal).expect("one of the three above");
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn await_end(mut child: Child, events: Sender<Event>) {
    thread::spawn(move || {
        // The receiver is gone only when this program ends.
        let _ = events.send(Event::Ended(child.wait()));
    });
}

fn exit_code(status: ExitStatus) -> ExitCode {
    match status.code() {
        Some(code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        None => status
            .signal()
            .map_or(ExitCode::FAILURE, exit_code_of_signal),
    }
}

/// As shells report a command that a signal ended.
fn exit_code_of_signal(signal: i32) -> ExitCode {
    u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from)
}
