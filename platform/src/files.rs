//! The limit of open files, sockets included.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lifts the limit of this process as far as it is allowed to, and returns it. The usual soft
/// limit of 1,024 would refuse the thousand-and-first listener.
///
/// # Errors
/// When the limit can't be read or raised.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Returns the limit of open files; the maximum when it is unknown.
pub(crate) fn max_open() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}
