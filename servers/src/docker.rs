//! The three servers in containers, by `compose.yaml`.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::postgres::PostgresKind;
use crate::process::Process;
use crate::rabbitmq::RabbitMqKind;
use crate::redis::RedisKind;
use crate::server::Kind;
use crate::urls::Urls;
use crate::{binaries, port, random, wait};

/// Timeout of the probe of the engine.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);
/// Timeout of the servers' start, including the download of their images.
const UP_PATIENCE: Duration = Duration::from_secs(600);

/// One group of containers, with names, ports and a password of its own, so that it meets neither
/// another group nor servers that are already there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Compose {
    project: String,
    /// Of PostgreSQL, Redis and RabbitMQ, on 127.0.0.1.
    ports: [u16; 3],
    password: String,
}

impl Compose {
    /// Chooses names and ports; starts nothing.
    pub(crate) fn new() -> Result<Self> {
        let mut ports = [0; 3];
        for index in 0..ports.len() {
            ports[index] = port::free(&ports)?;
        }
        let project = format!("onsale-{}", ports[0]);
        Ok(Self {
            project,
            ports,
            password: random::secret()?,
        })
    }

    /// Starts the containers and waits until they are healthy. What it made is removed again if
    /// that fails.
    ///
    /// # Errors
    /// If an image can't be pulled or a server does not start in time.
    pub(crate) fn up(&self, root: &Path) -> Result<()> {
        let mut command = self.command(root);
        command.args(["up", "--wait", "postgres", "redis", "rabbitmq"]);
        let outcome = finish_within(&mut command, UP_PATIENCE);
        if outcome.is_err() {
            self.remove(root)?;
        }
        outcome
    }

    /// Stops and removes the containers; their data stay. Returns whether there were any.
    pub(crate) fn down(&self, root: &Path) -> Result<bool> {
        let mut question = self.command(root);
        let list = question
            .args(["ps", "--all", "--quiet"])
            .stdin(Stdio::null())
            .output()?;
        finish_within(self.command(root).arg("down"), UP_PATIENCE)?;
        Ok(!list.stdout.is_empty())
    }

    /// Removes the containers and their data.
    pub(crate) fn remove(&self, root: &Path) -> Result<()> {
        finish_within(self.command(root).args(["down", "--volumes"]), UP_PATIENCE)
    }

    /// Returns whether all three servers answer by their protocols.
    pub(crate) fn answers(&self) -> bool {
        let [postgres, redis, rabbitmq] = self.homes();
        PostgresKind::answers(&postgres)
            && RedisKind::answers(&redis)
            && RabbitMqKind::answers(&rabbitmq)
    }

    pub(crate) fn urls(&self) -> Urls {
        let [postgres, redis, rabbitmq] = self.homes();
        Urls {
            database: PostgresKind::url(&postgres),
            redis: RedisKind::url(&redis),
            amqp: RabbitMqKind::url(&rabbitmq),
        }
    }

    fn homes(&self) -> [Home; 3] {
        self.ports.map(|port| Home::elsewhere(port, &self.password))
    }

    fn command(&self, root: &Path) -> Command {
        let mut command = Command::new("docker");
        command.args(["compose", "--project-name", &self.project, "--file"]);
        command.arg(root.join("compose.yaml"));
        // Progress is for the user, not for programs that parse the output.
        command.stdout(io::stderr());
        let [postgres, redis, rabbitmq] = self.ports.map(|port| port.to_string());
        command
            .env("ONSALE_POSTGRES_PORT", postgres)
            .env("ONSALE_REDIS_PORT", redis)
            .env("ONSALE_RABBITMQ_PORT", rabbitmq)
            .env("ONSALE_SERVERS_PASSWORD", &self.password);
        command
    }
}

/// A command was ended by a signal, such as Ctrl-C in the terminal: the user wants nothing more.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Exit codes of a shell, and of Docker Compose, after Ctrl-C and after SIGTERM.
const INTERRUPTED_CODES: [i32; 2] = [130, 143];

fn was_interrupted(status: std::process::ExitStatus) -> bool {
    status.signal().is_some()
        || status
            .code()
            .is_some_and(|code| INTERRUPTED_CODES.contains(&code))
}

/// Returns whether a Docker engine is running and usable by this user, with Docker Compose.
pub(crate) fn has_engine() -> bool {
    let answers = |arguments: &[&str]| {
        let mut question = Command::new("docker");
        question
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        finish_within(&mut question, ENGINE_PATIENCE).is_ok()
    };
    binaries::in_path("docker").is_some() && answers(&["info"]) && answers(&["compose", "version"])
}

/// Runs a command that must come to an end by itself.
fn finish_within(command: &mut Command, patience: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start docker")?;
    let status = wait::until(patience, || child.try_wait().transpose());
    match status {
        Some(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
        Some(status) => {
            let status = status?;
            if was_interrupted(status) {
                return Err(Interrupted.into());
            }
            bail!("docker ended with {status}")
        }
        None => {
            Process::from(child).end(Signal::SIGTERM, ENGINE_PATIENCE)?;
            bail!("docker did not finish within {} s", patience.as_secs())
        }
    }
}
