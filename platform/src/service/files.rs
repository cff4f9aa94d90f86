//! How many files, which sockets are, the process may have open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lifts the limit of this process as far as it is allowed to, and returns it. The usual soft
/// limit of 1,024 would refuse the thousand-and-first listener.
///
/// # Errors
/// When the system does not tell or refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many files the process may have open now; many when the system does not tell.
pub(crate) fn max_open() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}
