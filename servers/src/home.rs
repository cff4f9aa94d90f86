//! The folder of one server, and what is written down in it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// Lines of a server's log that an error shows.
const LOG_TAIL_LINES: usize = 20;

/// One server's folder and the settings that stay the same from start to start.
#[derive(Debug)]
pub struct Home {
    /// Absolute.
    pub(crate) dir: PathBuf,
    /// Of 127.0.0.1; clients connect to the first.
    pub(crate) ports: Vec<u16>,
    /// Of the user `onsale`.
    pub(crate) password: String,
}

impl Home {
    /// A server on 127.0.0.1 whose files are not ours.
    pub(crate) fn elsewhere(port: u16, password: &str) -> Self {
        Self {
            dir: PathBuf::new(),
            ports: vec![port],
            password: password.to_owned(),
        }
    }

    /// The folder of the server's files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port clients connect to, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    /// A port for the server's own needs; `number` counts from 1.
    pub(crate) fn extra_port(&self, number: usize) -> u16 {
        self.ports[number]
    }

    /// The password of the user `onsale`.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn record_file(dir: &Path) -> PathBuf {
        dir.join("server.json")
    }

    /// The end of the log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

/// The persistent record of a server, by which a later run finds and stops it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) ports: Vec<u16>,
    pub(crate) password: String,
    pub(crate) processes: Vec<ProcessId>,
}

impl Record {
    /// Reads the record of a folder; `None` if no server ever started there.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let file = Home::record_file(dir);
        match fs::read(&file) {
            Ok(json) => {
                let record = serde_json::from_slice(&json);
                Ok(Some(record.with_context(|| {
                    format!("cannot read {}", file.display())
                })?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Replaces the file as a whole, readable by its owner only.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_secret(&Home::record_file(dir), &serde_json::to_string(self)?)
    }
}

/// Writes a file that only its owner may read; it is never seen half written.
pub(crate) fn write_secret(file: &Path, text: &str) -> Result<()> {
    let fresh = file.with_extension("new");
    let written = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&fresh, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}
