//! Stores a command's session for the next one, in a file that only its user can read; one per
//! staff API and address.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

#[derive(Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    /// Expiry of the access token.
    pub(super) expires_at: DateTime<Utc>,
}

impl Session {
    /// The session in an answer that arrived at `now`.
    pub(super) fn of(answer: &Value, now: DateTime<Utc>) -> anyhow::Result<Self> {
        let text = |field: &str| {
            let value = answer[field].as_str().map(str::to_owned);
            value.with_context(|| format!("the answer has no {field}"))
        };
        let seconds = answer["expires_in"].as_i64().unwrap_or_default();
        Ok(Self {
            access_token: text("access_token")?,
            refresh_token: text("refresh_token")?,
            expires_at: now + TimeDelta::seconds(seconds),
        })
    }
}

pub(super) struct SessionFile(PathBuf);

impl SessionFile {
    /// The file for `email` at the staff API `url`, in `$XDG_STATE_HOME` or `~/.local/state`;
    /// `None` without a home.
    pub(super) fn of(url: &Url, email: &str) -> Option<Self> {
        let set = |key| std::env::var_os(key).map(PathBuf::from);
        let state = set("XDG_STATE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
        let whose = format!("{url} {}", email.to_lowercase());
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, whose.as_bytes()).simple();
        Some(Self(state.join("onsale").join(format!("session-{name}"))))
    }

    /// Reads the session of an earlier command; `None` when there is none or it can't be read.
    pub(super) fn read(&self) -> Option<Session> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }

    /// Replaces the file atomically, since another command may be reading it.
    pub(super) fn write(&self, session: &Session) -> anyhow::Result<()> {
        let folder = self.0.parent().context("it is in a folder")?;
        private_folder(folder).with_context(|| folder.display().to_string())?;
        let draft = folder.join(format!(".{}", Uuid::new_v4().simple()));
        let written = private_file(&draft)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(session)?))
            .and_then(|()| fs::rename(&draft, &self.0));
        if written.is_err() {
            // It may not even exist.
            let _left = fs::remove_file(&draft);
        }
        written.with_context(|| self.0.display().to_string())
    }
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
