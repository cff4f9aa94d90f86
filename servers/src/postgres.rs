//! A private PostgreSQL.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::connection::connect;
use crate::home::Home;
use crate::server::Kind;
use crate::{binaries, install, random};

/// PostgreSQL: user and database `onsale`, password over TCP, durable
/// commits.
#[derive(Debug)]
pub struct PostgresKind;

impl Kind for PostgresKind {
    const NAME: &'static str = "PostgreSQL";
    const PORTS: usize = 1;
    /// Ends sessions instead of waiting for them, and then writes a checkpoint.
    const STOP_SIGNAL: Signal = Signal::SIGINT;
    const START_PATIENCE: Duration = Duration::from_secs(60);

    fn prepare(home: &Home) -> Result<()> {
        let created = home.dir().join("created");
        if created.exists() {
            return Ok(());
        }
        // Data without the marker is of an interrupted creation.
        erase_data(home.dir())?;
        let data = place_data(home.dir())?;
        create_cluster(&data, home.password())?;
        create_database(&data)?;
        fs::write(created, "")?;
        Ok(())
    }

    fn commands(home: &Home) -> Result<Vec<Command>> {
        let data = data_link(home.dir())
            .canonicalize()
            .context("the data folder is missing")?;
        let mut command = program("postgres")?;
        command
            .arg("-D")
            .arg(data)
            .arg("-p")
            .arg(home.port().to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
            "shared_buffers=128MB",
            "fsync=on",
            "synchronous_commit=on",
            "timezone=UTC",
        ] {
            command.arg("-c").arg(setting);
        }
        Ok(vec![command])
    }

    /// Opens a session as far as the question for the password: a server that starts, recovers or
    /// ends answers with an error instead.
    fn answers(home: &Home) -> bool {
        const PROTOCOL_3_0: u32 = 196_608;
        const AUTHENTICATION_REQUEST: u8 = b'R';
        let parameters = b"user\0onsale\0database\0onsale\0\0";
        let length = 8 + parameters.len();
        let mut message = u32::try_from(length)
            .expect("a short message")
            .to_be_bytes()
            .to_vec();
        message.extend(PROTOCOL_3_0.to_be_bytes());
        message.extend(parameters);
        let mut kind = [0];
        connect(home.port())
            .and_then(|mut stream| {
                stream.write_all(&message)?;
                stream.read_exact(&mut kind)
            })
            .is_ok_and(|()| kind[0] == AUTHENTICATION_REQUEST)
    }

    fn url(home: &Home) -> String {
        format!(
            "postgres://onsale:{}@127.0.0.1:{}/onsale",
            home.password(),
            home.port()
        )
    }
}

/// Deletes the folder of a server that is down, with its data, which may lie elsewhere.
///
/// # Errors
/// If something cannot be deleted.
pub fn erase(dir: &Path) -> Result<()> {
    erase_data(dir)?;
    remove_folder(dir)
}

fn erase_data(dir: &Path) -> Result<()> {
    let link = data_link(dir);
    if let Ok(elsewhere) = fs::read_link(&link) {
        remove_folder(&elsewhere)?;
        fs::remove_file(&link)?;
    }
    remove_folder(&link)
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The data folder, or the link to it if it lies elsewhere.
fn data_link(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Creates an empty data folder that the server's user owns and can reach, and returns its path.
///
/// Started by root, the server runs as another user, who may not be able to reach `dir`, for
/// example below /root. The data then lie in a temporary folder, and a link in `dir` remembers it.
fn place_data(dir: &Path) -> Result<PathBuf> {
    let link = data_link(dir);
    let data = match server_user()? {
        Some(user) if !can_reach(&user, dir) => {
            let elsewhere = folder_elsewhere(&user)?;
            symlink(&elsewhere, &link)?;
            elsewhere
        }
        _ => {
            fs::create_dir(&link)?;
            link
        }
    };
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    if let Some(user) = server_user()? {
        chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    Ok(data)
}

fn folder_elsewhere(user: &User) -> Result<PathBuf> {
    let roots = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    let Some(root) = roots.iter().find(|root| can_reach(user, root)) else {
        bail!(
            "PostgreSQL does not run as root, and its user {} reaches no folder",
            user.name
        );
    };
    let folder = root.join(format!("onsale-postgres-{}", random::secret()?));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn can_reach(user: &User, dir: &Path) -> bool {
    let mut look = Command::new("test");
    look.arg("-x")
        .arg(dir)
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw());
    look.current_dir("/")
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The user to run as, because PostgreSQL refuses to run as root; `None` stands for this
/// program's own user.
fn server_user() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
}

/// One of PostgreSQL's programs, to be run as the server's user and with none of the settings
/// that the environment may hold for another server.
fn program(name: &str) -> Result<Command> {
    let folder = binaries::postgres().with_context(install::advice)?;
    let mut command = Command::new(folder.join(name));
    command.current_dir("/").stdin(Stdio::null());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("PG") {
            command.env_remove(key);
        }
    }
    if let Some(user) = server_user()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

fn create_cluster(data: &Path, password: &str) -> Result<()> {
    // initdb takes the password from a file that its user can read, and wants an empty folder.
    let password_file = data.with_extension("password");
    fs::write(&password_file, "")?;
    fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600))?;
    if let Some(user) = server_user()? {
        chown(
            &password_file,
            Some(user.uid.as_raw()),
            Some(user.gid.as_raw()),
        )?;
    }
    fs::write(&password_file, password)?;
    let locale = if cfg!(target_os = "macos") {
        "en_US.UTF-8"
    } else {
        "C.UTF-8"
    };
    let mut initdb = program("initdb")?;
    initdb
        .arg("-D")
        .arg(data)
        .arg("--pwfile")
        .arg(&password_file)
        .arg("--locale")
        .arg(locale);
    initdb.args([
        "-U",
        "onsale",
        "-A",
        "scram-sha-256",
        "-E",
        "UTF8",
        "--no-sync",
    ]);
    let output = initdb.output();
    fs::remove_file(&password_file)?;
    succeed("initdb", &output.context("cannot start initdb")?)
}

/// Creates the database `onsale` without a running server.
fn create_database(data: &Path) -> Result<()> {
    let mut command = program("postgres")?;
    command
        .arg("--single")
        .arg("-D")
        .arg(data)
        .arg("postgres")
        .stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start postgres")?;
    let mut input = child.stdin.take().expect("its input is a pipe");
    input.write_all(b"CREATE DATABASE onsale;\n")?;
    drop(input);
    succeed("postgres --single", &child.wait_with_output()?)
}

fn succeed(program: &str, output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!(
            "{program} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
