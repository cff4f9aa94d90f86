//! Locations of the servers' programs.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Oldest PostgreSQL this works with.
const POSTGRES_MAJOR: u32 = 15;
/// Oldest Redis this works with.
const REDIS_MAJOR: u32 = 7;
/// Oldest RabbitMQ this works with.
const RABBITMQ_VERSION: (u32, u32) = (3, 10);

/// The folder with PostgreSQL's `initdb` and `postgres`, of the newest version that is installed.
pub(crate) fn postgres() -> Option<PathBuf> {
    let mut candidates: Vec<(u32, PathBuf)> = versioned_postgres().collect();
    candidates.sort();
    let newest = candidates.pop().map(|(_, folder)| folder);
    newest.or_else(|| {
        let program = in_path("postgres")?.canonicalize().ok()?;
        let folder = program.parent()?;
        let is_complete = is_program(&folder.join("initdb"));
        let is_recent = major_version(&program)? >= POSTGRES_MAJOR;
        (is_complete && is_recent).then(|| folder.to_owned())
    })
}

/// Debian keeps every major version in its own folder, out of `PATH`.
fn versioned_postgres() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let folder = entry.path().join("bin");
        let is_complete =
            is_program(&folder.join("initdb")) && is_program(&folder.join("postgres"));
        (major >= POSTGRES_MAJOR && is_complete).then_some((major, folder))
    })
}

/// `redis-server`.
pub(crate) fn redis() -> Option<PathBuf> {
    in_path("redis-server")
        .filter(|program| major_version(program).is_some_and(|major| major >= REDIS_MAJOR))
}

/// `rabbitmq-server`, as RabbitMQ itself ships it.
pub(crate) fn rabbitmq() -> Option<PathBuf> {
    // The one in Debian's /usr/sbin is another script, which changes to the system's own user and
    // folders; its original stands here.
    let original = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    let program = if is_program(&original) {
        original
    } else {
        in_path("rabbitmq-server")?
    };
    is_recent_rabbitmq(&program.canonicalize().ok()?).then_some(program)
}

/// Asking RabbitMQ for its version starts Erlang, so the version is read from its folder's name,
/// `rabbitmq_server-3.10.8`. A folder of another form is trusted.
fn is_recent_rabbitmq(program: &Path) -> bool {
    let version = program
        .iter()
        .find_map(|part| part.to_str()?.strip_prefix("rabbitmq_server-"));
    let Some(version) = version else { return true };
    let mut numbers = version
        .split('.')
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= RABBITMQ_VERSION,
        _ => true,
    }
}

/// Erlang's port mapper, which every RabbitMQ node needs.
pub(crate) fn epmd() -> Option<PathBuf> {
    let erlang = ["/usr/lib/erlang/bin/epmd", "/usr/lib64/erlang/bin/epmd"];
    in_path("epmd").or_else(|| {
        erlang
            .map(PathBuf::from)
            .into_iter()
            .find(|path| is_program(path))
    })
}

/// A program in `PATH`, or in the folders that a service manager or a plain user may lack there.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    const USUAL: [&str; 5] = [
        "/usr/local/bin",
        "/usr/local/sbin",
        "/usr/sbin",
        "/opt/homebrew/bin",
        "/opt/homebrew/sbin",
    ];
    // Homebrew keeps each version of PostgreSQL out of the PATH: on Apple silicon in the first
    // folder, on Intel in the second.
    let kegs = ["/opt/homebrew/opt", "/usr/local/opt"].into_iter();
    let kegs = kegs.flat_map(|opt| {
        [18, 17, 16, 15].map(|version| PathBuf::from(format!("{opt}/postgresql@{version}/bin")))
    });
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(USUAL.map(PathBuf::from));
    folders
        .chain(kegs)
        .map(|folder| folder.join(name))
        .find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first whole number in what `--version` prints: `postgres (PostgreSQL) 15.6`,
/// `Redis server v=7.0.15 sha=…`.
fn major_version(program: &Path) -> Option<u32> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
    numbers.find(|number| !number.is_empty())?.parse().ok()
}
