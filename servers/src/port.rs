//! Free ports on the loopback interface.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

use crate::random;

/// Ports are taken from below the range from which systems give ports to outgoing connections.
/// Otherwise a client's own port could be the one that a server which is just down comes back to.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
const ATTEMPTS: usize = 200;

/// A port on 127.0.0.1 that nobody listens on now and that is not in `taken`.
pub(crate) fn free(taken: &[u16]) -> Result<u16> {
    for _ in 0..ATTEMPTS {
        let port = FIRST + random::below(COUNT)?;
        if !taken.contains(&port) && is_free(port) {
            return Ok(port);
        }
    }
    bail!(
        "found no free port on 127.0.0.1 between {FIRST} and {}",
        FIRST + COUNT
    )
}

/// Returns whether a server could listen on this port of 127.0.0.1 now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
