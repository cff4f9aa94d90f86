use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports are taken from below the range from which systems give ports to outgoing connections, of
/// which other tests open thousands.
const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;

/// The next port: each is given once to the tests of a process, which may take a while to listen on
/// it. Random at first, for processes that run at the same time.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));

/// A port of 127.0.0.1 for a server of the test's own; nobody listens on it now.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
