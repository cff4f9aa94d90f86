//! The life of one private server, whichever it is.

use std::fs;
use std::marker::PhantomData;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::home::{Home, Record};
use crate::process::Process;
use crate::{port, random, wait};

/// Most attempts of a start on other ports, after another process took one.
const START_ATTEMPTS: usize = 3;

/// The differences between the servers.
pub trait Kind: Send {
    /// The server's own name, for messages.
    const NAME: &'static str;
    /// Number of ports it needs.
    const PORTS: usize;
    /// The signal that asks it to end in good order.
    const STOP_SIGNAL: Signal;
    /// Timeout until it answers after its start.
    const START_PATIENCE: Duration;

    /// Creates data and configuration where they are missing.
    ///
    /// # Errors
    /// If the server is not installed or its files cannot be written.
    fn prepare(home: &Home) -> Result<()>;

    /// The processes to start, in this order. The last one is the server itself.
    ///
    /// # Errors
    /// If the server is not installed.
    fn commands(home: &Home) -> Result<Vec<Command>>;

    /// Returns whether the server answers by its protocol.
    fn answers(home: &Home) -> bool;

    /// Where clients find it, credentials included.
    fn url(home: &Home) -> String;
}

/// A private server on the loopback interface. Dropping it stops it; its data stay.
///
/// All functions block, for seconds at worst: call them through `spawn_blocking` from async code.
#[derive(Debug)]
pub struct Server<K: Kind> {
    home: Home,
    /// In the order of their start; empty while the server is down.
    processes: Vec<Process>,
    kind: PhantomData<K>,
}

impl<K: Kind> Server<K> {
    /// Starts a server whose files all lie in `dir`, which is made if missing, and waits until it
    /// answers. Data and credentials from an earlier start are used again, and so are its ports if
    /// they are still free. What still runs of an earlier start is ended first.
    ///
    /// # Errors
    /// If the server is not installed, or does not answer in time; the message then shows the end
    /// of its log.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let (ports, password) = match Self::recorded(&dir)? {
            Some(mut earlier) => {
                earlier.stop()?;
                (
                    std::mem::take(&mut earlier.home.ports),
                    earlier.home.password.clone(),
                )
            }
            None => (Vec::new(), random::secret()?),
        };
        let home = Home {
            dir,
            ports,
            password,
        };
        let mut server = Self {
            home,
            processes: Vec::new(),
            kind: PhantomData,
        };
        server.start_on_free_ports()?;
        Ok(server)
    }

    /// The server that an earlier run left running in `dir`, if there is one.
    ///
    /// # Errors
    /// If the folder's record cannot be read.
    pub fn attach(dir: &Path) -> Result<Option<Self>> {
        let Some(mut server) = Self::recorded(dir)? else {
            return Ok(None);
        };
        let is_up = server.processes.iter_mut().any(Process::is_alive);
        Ok(is_up.then_some(server))
    }

    /// Where clients find the server, credentials included.
    #[must_use]
    pub fn url(&self) -> String {
        K::url(&self.home)
    }

    /// The process id of the server itself, or `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.processes.last().map(|process| process.id().pid)
    }

    /// Returns whether all its processes are running and it answers by its protocol.
    #[must_use]
    pub fn answers(&mut self) -> bool {
        !self.processes.is_empty()
            && self.processes.iter_mut().all(Process::is_alive)
            && K::answers(&self.home)
    }

    /// Ends the server in good order, by force if it takes longer than 30 seconds. Nothing happens
    /// if it is down.
    ///
    /// # Errors
    /// If a process cannot be ended.
    pub fn stop(&mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(30);
        self.end_each(|process| process.end(K::STOP_SIGNAL, PATIENCE))
    }

    /// Ends every process of the server by SIGKILL, as a crash would.
    ///
    /// # Errors
    /// If a process cannot be ended.
    pub fn kill(&mut self) -> Result<()> {
        self.end_each(Process::kill)
    }

    /// Starts the server again, on the same ports and data; one that runs is stopped first.
    ///
    /// # Errors
    /// As `start`, and if a port was taken by somebody else in the meantime.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Leaves the server running after this program. A later run finds it by `attach`.
    pub fn leave_running(mut self) {
        self.processes.clear();
    }

    fn recorded(dir: &Path) -> Result<Option<Self>> {
        let Some(Record {
            ports,
            password,
            processes,
        }) = Record::read(dir)?
        else {
            return Ok(None);
        };
        let home = Home {
            dir: dir.canonicalize()?,
            ports,
            password,
        };
        let processes = processes.into_iter().map(Process::adopt).collect();
        Ok(Some(Self {
            home,
            processes,
            kind: PhantomData,
        }))
    }

    fn start_on_free_ports(&mut self) -> Result<()> {
        let mut attempt = 1;
        loop {
            self.choose_ports()?;
            let Err(error) = self.launch() else {
                return Ok(());
            };
            let was_overtaken = !self.home.ports.iter().all(|port| port::is_free(*port));
            if attempt == START_ATTEMPTS || !was_overtaken {
                return Err(error);
            }
            attempt += 1;
        }
    }

    fn choose_ports(&mut self) -> Result<()> {
        let ports = &mut self.home.ports;
        if ports.len() != K::PORTS || !ports.iter().all(|port| port::is_free(*port)) {
            ports.clear();
            for _ in 0..K::PORTS {
                ports.push(port::free(ports)?);
            }
        }
        Ok(())
    }

    /// Starts the processes and waits for the server; ends them again if it does not come up.
    fn launch(&mut self) -> Result<()> {
        self.record()?;
        let launched = self.spawn().and_then(|()| self.await_answer());
        if launched.is_err() {
            self.kill()?;
        }
        launched
    }

    fn spawn(&mut self) -> Result<()> {
        K::prepare(&self.home).with_context(|| format!("cannot set up {}", K::NAME))?;
        for command in K::commands(&self.home)? {
            self.processes
                .push(Process::spawn(command, &self.home.log())?);
            self.record()?;
        }
        Ok(())
    }

    fn await_answer(&mut self) -> Result<()> {
        let answer = wait::until(K::START_PATIENCE, || {
            if !self.processes.iter_mut().all(Process::is_alive) {
                return Some(Err("ended while it started"));
            }
            K::answers(&self.home).then_some(Ok(()))
        });
        let complaint = match answer {
            Some(Ok(())) => return Ok(()),
            Some(Err(complaint)) => complaint.to_owned(),
            None => format!("did not answer within {} s", K::START_PATIENCE.as_secs()),
        };
        let log = self.home.log();
        bail!(
            "{} {complaint}; the end of {}:\n{}",
            K::NAME,
            log.display(),
            self.home.log_tail()
        )
    }

    /// Ends the processes, last started first, and records that none is left.
    fn end_each(&mut self, end: impl Fn(&mut Process) -> Result<()>) -> Result<()> {
        if self.processes.is_empty() {
            return Ok(());
        }
        while let Some(process) = self.processes.last_mut() {
            end(process).with_context(|| format!("cannot end {}", K::NAME))?;
            self.processes.pop();
        }
        // The folder may have been deleted by its owner; then there is nothing to keep true.
        if self.home.dir.exists() {
            self.record()
        } else {
            Ok(())
        }
    }

    fn record(&self) -> Result<()> {
        let processes = self
            .processes
            .iter()
            .map(|process| process.id().clone())
            .collect();
        let Home {
            dir,
            ports,
            password,
        } = &self.home;
        Record {
            ports: ports.clone(),
            password: password.clone(),
            processes,
        }
        .write(dir)
    }
}

impl<K: Kind> Drop for Server<K> {
    fn drop(&mut self) {
        // Errors can't be reported here; what is left is on record and stopped by the next start.
        let _ = self.stop();
    }
}
