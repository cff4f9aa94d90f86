use std::net::{Ipv4Addr, TcpListener};

/// Ports are taken from below the range from which systems give ports to outgoing connections, of
/// which other tests open thousands.
const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;

/// A port of 127.0.0.1 for a server of the test's own; nobody listens on it now.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let port = FIRST + rand::random::<u16>() % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
