//! A standby of the private PostgreSQL, by streaming replication.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use platform::testing::Proxy;
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use url::Url;

use super::signals::signal;
use crate::commands::until::until_right;

/// Time limit of the copy, and until it replicates.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running standby; dropping it kills its processes. Its files stay.
pub(super) struct Standby {
    pub(super) url: String,
    /// Between it and its primary.
    pub(super) replication: Proxy,
    child: Child,
}

impl Standby {
    /// Copies the server with process id `pid` at `primary` into `dir`, serves the copy at `port`,
    /// and waits until it replicates.
    pub(super) async fn start(
        pid: u32,
        primary: &str,
        dir: PathBuf,
        port: u16,
    ) -> anyhow::Result<Self> {
        let (replication, through) = Proxy::before(primary).await;
        let mut url = Url::parse(primary)?;
        ensure!(url.set_port(Some(port)).is_ok(), "{primary} has no host");
        // PostgreSQL does not run as root: as who runs the primary, by the same program.
        let process = Path::new("/proc").join(pid.to_string());
        let owner = fs::metadata(&process)?;
        let programs = fs::read_link(process.join("exe"))?;
        let programs = programs.parent().context("a program has a folder")?;
        let program = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.uid(owner.uid()).gid(owner.gid()).current_dir("/");
            command.stdin(Stdio::null()).kill_on_drop(true);
            command
        };
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        chown(&dir, Some(owner.uid()), Some(owner.gid()))?;
        let mut copy = program("pg_basebackup");
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--dbname"]);
        let copied = timeout(
            PATIENCE,
            copy.arg(through).arg("--pgdata").arg(&dir).output(),
        );
        let copied = copied.await.context("the copy does not end")??;
        let complaint = String::from_utf8_lossy(&copied.stderr);
        ensure!(copied.status.success(), "pg_basebackup: {complaint}");
        let mut serve = program("postgres");
        serve.arg("-D").arg(&dir).arg("-p").arg(port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
        ] {
            serve.arg("-c").arg(setting);
        }
        let child = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        wait_for(primary, "streaming").await?;
        Ok(Self {
            url: url.into(),
            replication,
            child,
        })
    }

    /// Makes it a primary.
    pub(super) async fn promote(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let is_promoted: bool = sqlx::query_scalar("select pg_promote()")
            .fetch_one(&mut connection)
            .await?;
        ensure!(is_promoted, "the standby does not become the primary");
        Ok(())
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // Errors can't be reported here.
        let _ = signal(self.child.id(), Signal::SIGSTOP);
        let _ = signal(self.child.id(), Signal::SIGKILL);
    }
}

/// Waits until `primary` has a standby in this state, which is `streaming`, or `sync` for one
/// that is waited for.
pub(super) async fn wait_for(primary: &str, state: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(primary).await?;
    until_right(PATIENCE, async || {
        let is_there: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_replication where $1 in (state, sync_state))",
        )
        .bind(state)
        .fetch_one(&mut connection)
        .await?;
        Ok((!is_there).then(|| format!("the standby is not {state}")))
    })
    .await
}
