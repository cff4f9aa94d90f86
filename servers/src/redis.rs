//! A private Redis.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::connection::connect;
use crate::home::{Home, write_secret};
use crate::server::Kind;
use crate::{binaries, install};

/// Redis: append-only file synced every second, nothing evicted, password.
#[derive(Debug)]
pub struct RedisKind;

impl Kind for RedisKind {
    const NAME: &'static str = "Redis";
    const PORTS: usize = 1;
    const STOP_SIGNAL: Signal = Signal::SIGTERM;
    const START_PATIENCE: Duration = Duration::from_secs(30);

    fn prepare(home: &Home) -> Result<()> {
        let (port, password) = (home.port(), home.password());
        let config = format!(
            "bind 127.0.0.1\n\
             port {port}\n\
             requirepass {password}\n\
             daemonize no\n\
             appendonly yes\n\
             appendfsync everysec\n\
             save \"\"\n\
             maxmemory-policy noeviction\n\
             tcp-backlog 128\n"
        );
        write_secret(&home.dir().join("redis.conf"), &config)
    }

    fn commands(home: &Home) -> Result<Vec<Command>> {
        let mut command = Command::new(binaries::redis().with_context(install::advice)?);
        command
            .arg(home.dir().join("redis.conf"))
            .current_dir(home.dir());
        Ok(vec![command])
    }

    /// A server that still loads its file answers with an error instead of `PONG`.
    fn answers(home: &Home) -> bool {
        const EXPECTED: &[u8] = b"+OK\r\n+PONG\r\n";
        let mut reply = [0; EXPECTED.len()];
        connect(home.port())
            .and_then(|mut stream| {
                stream.write_all(format!("AUTH {}\r\nPING\r\n", home.password()).as_bytes())?;
                stream.read_exact(&mut reply)
            })
            .is_ok_and(|()| reply == EXPECTED)
    }

    fn url(home: &Home) -> String {
        format!(
            "redis://default:{}@127.0.0.1:{}/",
            home.password(),
            home.port()
        )
    }
}
