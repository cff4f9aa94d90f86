//! Installing the servers, and what the tests drive, from the system's packages.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::binaries;
use crate::progress::say;

const SCRIPT: &str = include_str!("install.sh");
/// Lines of the package manager's output that an error shows.
const TAIL_LINES: usize = 15;

/// A program that tests drive, and Debian's package of it.
const TOOLS: [(&str, &str); 3] = [
    ("chromium", "chromium"),
    ("nginx", "nginx"),
    ("caddy", "caddy"),
];

/// Installs those of the three servers that are missing.
///
/// # Errors
/// If the system has no apt-get or this user may not install; the message then says what to
/// install by hand.
pub(crate) fn install_missing() -> Result<()> {
    install(missing_packages, &advice)
}

/// Installs those of the programs that are missing which only the tests need: a browser for the
/// pages, and the proxies whose example configurations are tested.
///
/// # Errors
/// If the system has no apt-get or this user may not install; the message then says what to
/// install by hand.
pub fn install_tools() -> Result<()> {
    install(missing_tools, &|| {
        let missing = missing_tools().join(" ");
        format!(
            "The tests drive a browser and two proxies. Missing: {missing}\n\n\
             Debian, Ubuntu   sudo apt-get install --no-install-recommends {missing}\n\
             macOS            brew install {missing}"
        )
    })
}

fn missing_tools() -> Vec<&'static str> {
    let missing = TOOLS
        .iter()
        .filter(|(program, _)| binaries::in_path(program).is_none());
    missing.map(|(_, package)| *package).collect()
}

fn install(find_missing: fn() -> Vec<&'static str>, advice: &dyn Fn() -> String) -> Result<()> {
    let missing = find_missing();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(mut shell) = root_shell() else {
        bail!(advice())
    };
    say(&format!(
        "installing {} (apt-get, about a minute)",
        missing.join(", ")
    ));
    shell
        .args(["sh", "-c", SCRIPT, "install"])
        .args(&missing)
        .stdin(Stdio::null());
    let output = shell.output().context("cannot start apt-get")?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        bail!("installing failed:\n{tail}\n\n{}", advice());
    }
    if !find_missing().is_empty() {
        bail!("the system's packages are too old\n\n{}", advice());
    }
    Ok(())
}

/// Instructions for a manual installation.
pub(crate) fn advice() -> String {
    let missing = missing_packages().join(" ");
    format!(
        "PostgreSQL 15, Redis 7 and RabbitMQ 3.10, or later versions, are needed. Missing: {missing}\n\
         \n\
         Debian, Ubuntu   sudo apt-get install --no-install-recommends {missing}\n\
         Fedora           sudo dnf install postgresql-server valkey-compat-redis rabbitmq-server\n\
         macOS            brew install postgresql@17 redis rabbitmq\n\
         \n\
         Or start a Docker engine, or name running servers in ONSALE_DATABASE_URL, \
         ONSALE_REDIS_URL and ONSALE_AMQP_URL."
    )
}

/// Debian's names of the servers that are not installed, or only in a version that is too old.
fn missing_packages() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if binaries::postgres().is_none() {
        missing.push("postgresql");
    }
    if binaries::redis().is_none() {
        missing.push("redis-server");
    }
    if binaries::rabbitmq().is_none() || binaries::epmd().is_none() {
        missing.push("rabbitmq-server");
    }
    missing
}

/// A command that runs its arguments as root, on a system with apt-get.
fn root_shell() -> Option<Command> {
    binaries::in_path("apt-get")?;
    if geteuid().is_root() {
        return Some(Command::new("env"));
    }
    let sudo = binaries::in_path("sudo")?;
    let mut question = Command::new(&sudo);
    question
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !question.status().ok()?.success() {
        return None;
    }
    let mut command = Command::new(sudo);
    command.arg("-n");
    Some(command)
}
