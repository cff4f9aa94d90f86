//! Admission control of connections, per client and in total: file descriptors remain for the
//! dependencies and the operations listener, and no client can exhaust those of the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use ipnet::IpNet;
use metrics::Gauge;

use super::address::is_trusted;
use crate::limits::subscriber;
use crate::sync::MutexExt as _;

static OPEN: LazyLock<Gauge> = LazyLock::new(|| metrics::gauge!("http_connections"));

/// Limits on the open connections of a process.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// From one IPv4 address or IPv6 /64. Trusted proxies are not counted.
    pub per_address: usize,
    /// Reverse proxies, behind which there are many.
    pub trusted: Vec<IpNet>,
}

/// The open connections, shared by the listeners of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: ConnectionLimits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The limit that refuses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The total limit.
    Total,
    /// The limit of one client.
    Address,
}

/// The slot of one connection, released on drop.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    /// `None` for a trusted proxy.
    address: Option<IpAddr>,
}

impl Connections {
    /// Creates a counter without open connections.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Inner {
            limits,
            open: Mutex::default(),
        }))
    }

    /// Creates a counter that refuses nothing.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(ConnectionLimits {
            total: usize::MAX,
            per_address: usize::MAX,
            trusted: Vec::new(),
        })
    }

    /// Reserves a slot for a connection from `peer`.
    pub(super) fn admit(&self, peer: IpAddr) -> Result<Place, Full> {
        let ConnectionLimits {
            total,
            per_address,
            trusted,
        } = &self.0.limits;
        let address = (!is_trusted(trusted, peer)).then(|| subscriber(peer));
        let mut open = self.lock();
        if open.total >= *total {
            return Err(Full::Total);
        }
        if let Some(address) = address {
            let count = open.by_address.entry(address).or_default();
            if *count >= *per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        open.total += 1;
        drop(open);
        OPEN.increment(1.0);
        Ok(Place {
            connections: self.clone(),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock_unpoisoned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.total -= 1;
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
        drop(open);
        OPEN.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Connections {
        Connections::new(ConnectionLimits {
            total: 4,
            per_address: 2,
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
        })
    }

    fn admit(connections: &Connections, peer: &str) -> Result<Place, Full> {
        connections.admit(peer.parse().unwrap())
    }

    #[test]
    fn one_client_cannot_take_the_connections_of_the_others() {
        let connections = connections();
        let first = admit(&connections, "2001:db8::1").unwrap();
        let _second = admit(&connections, "2001:db8::2").unwrap();
        assert_eq!(
            admit(&connections, "2001:db8::ffff").unwrap_err(),
            Full::Address,
            "the same /64"
        );
        assert!(admit(&connections, "192.0.2.1").is_ok());
        drop(first);
        assert!(admit(&connections, "2001:db8::3").is_ok());
    }

    #[test]
    fn a_trusted_proxy_has_as_many_as_there_are() {
        let connections = connections();
        let places: Vec<_> = (0..4)
            .map(|_| admit(&connections, "10.1.2.3").unwrap())
            .collect();
        assert_eq!(admit(&connections, "192.0.2.1").unwrap_err(), Full::Total);
        drop(places);
        assert!(admit(&connections, "192.0.2.1").is_ok());
        assert_eq!(connections.lock().total, 0);
        assert!(connections.lock().by_address.is_empty());
    }
}
