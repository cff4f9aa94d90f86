//! A private RabbitMQ node, with an Erlang port mapper of its own.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::connection::connect;
use crate::home::{Home, write_secret};
use crate::server::Kind;
use crate::{binaries, install, random};

/// RabbitMQ: virtual host `/`, user `onsale`, and nothing of the system's
/// own node: other name, cookie, ports, port mapper, configuration and plugins.
#[derive(Debug)]
pub struct RabbitMqKind;

impl Kind for RabbitMqKind {
    const NAME: &'static str = "RabbitMQ";
    /// For clients, for Erlang's distribution, and for the port mapper.
    const PORTS: usize = 3;
    const STOP_SIGNAL: Signal = Signal::SIGTERM;
    const START_PATIENCE: Duration = Duration::from_secs(120);

    fn prepare(home: &Home) -> Result<()> {
        let (port, password) = (home.port(), home.password());
        // Bounds the write-ahead log of quorum queues, which is also held in memory.
        let config = format!(
            "listeners.tcp.local = 127.0.0.1:{port}\n\
             default_user = onsale\n\
             default_pass = {password}\n\
             raft.wal_max_size_bytes = 67108864\n\
             disk_free_limit.absolute = 50MB\n"
        );
        write_secret(&home.dir().join("rabbitmq.conf"), &config)?;
        fs::write(home.dir().join("enabled_plugins"), "[].\n")?;
        fs::write(home.dir().join("rabbitmq-env.conf"), "")?;
        create_cookie(home.dir())
    }

    fn commands(home: &Home) -> Result<Vec<Command>> {
        Ok(vec![port_mapper(home)?, node(home)?])
    }

    /// Sends the protocol header and awaits the server's first method. The node opens its port
    /// last.
    fn answers(home: &Home) -> bool {
        const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];
        let mut frame = [0; 11];
        connect(home.port())
            .and_then(|mut stream| {
                stream.write_all(b"AMQP\x00\x00\x09\x01")?;
                stream.read_exact(&mut frame)
            })
            .is_ok_and(|()| frame.ends_with(&CONNECTION_START))
    }

    fn url(home: &Home) -> String {
        format!(
            "amqp://onsale:{}@127.0.0.1:{}/%2f",
            home.password(),
            home.port()
        )
    }
}

/// The cookie is the password of Erlang's distribution; Erlang refuses one that others can read.
fn create_cookie(dir: &Path) -> Result<()> {
    let cookie = dir.join(".erlang.cookie");
    if !cookie.exists() {
        write_secret(&cookie, &random::secret()?)?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
    }
    Ok(())
}

/// The node would start a port mapper by itself, but one that outlives it and that listens on
/// every interface.
fn port_mapper(home: &Home) -> Result<Command> {
    let mut command = Command::new(binaries::epmd().with_context(install::advice)?);
    command
        .args(["-address", "127.0.0.1", "-port"])
        .arg(home.extra_port(2).to_string());
    forget_other_nodes(&mut command);
    command.current_dir(home.dir());
    Ok(command)
}

fn node(home: &Home) -> Result<Command> {
    let dir = home.dir();
    let mut command = Command::new(binaries::rabbitmq().with_context(install::advice)?);
    command.current_dir(dir);
    forget_other_nodes(&mut command);
    command
        .env("HOME", dir)
        .env("LC_ALL", "C.UTF-8")
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", home.extra_port(2).to_string())
        .env("ERL_CRASH_DUMP", "/dev/null")
        .env("RABBITMQ_NODENAME", "onsale@localhost")
        .env("RABBITMQ_DIST_PORT", home.extra_port(1).to_string())
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", dir.join("generated"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"))
        .env("RABBITMQ_LOG_BASE", dir.join("logs"))
        .env("RABBITMQ_LOGS", "-")
        // "Allow input" makes the script become the node instead of its parent, so that a signal
        // to the process that was started reaches the node; `-noinput` then forbids input again.
        .env("RABBITMQ_ALLOW_INPUT", "1")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-noinput -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
        );
    Ok(command)
}

/// Drops what the environment may hold for another node.
fn forget_other_nodes(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if ["RABBITMQ_", "ERL_", "NOTIFY_SOCKET"]
            .iter()
            .any(|own| name.starts_with(own))
        {
            command.env_remove(&key);
        }
    }
}
