//! The address a request comes from.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use ipnet::IpNet;

use super::HttpState;
use crate::problem::Problem;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The caller's address: the peer's, or, when the peer is a trusted proxy, the rightmost address
/// in `X-Forwarded-For` that is not one. What stands left of it is the caller's own claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

impl<S: Sync> FromRequestParts<S> for ClientAddr {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

impl ClientAddr {
    pub(crate) fn of(parts: &Parts) -> Result<Self, Problem> {
        let trusted = &HttpState::of(parts)?.trusted_proxies;
        let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
            tracing::error!("a route is served without the peer's address");
            return Err(Problem::defect());
        };
        Ok(Self(client(peer.ip(), &parts.headers, trusted)))
    }
}

/// Warns once about `X-Forwarded-For` from an untrusted peer: behind a reverse proxy that is not
/// configured, all clients share the limits of one address.
pub(super) fn warn_of_untrusted(request: &Request, shared: &HttpState) {
    let said = &shared.has_untrusted_forwarder;
    if said.load(Ordering::Relaxed) || !request.headers().contains_key(FORWARDED_FOR) {
        return;
    }
    let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else {
        return;
    };
    let peer = peer.ip().to_canonical();
    if is_trusted(&shared.trusted_proxies, peer) {
        return;
    }
    said.store(true, Ordering::Relaxed);
    metrics::counter!("http_untrusted_forwarders_total").increment(1);
    let sentence = format!(
        "{peer} sends X-Forwarded-For and is not in ONSALE_TRUSTED_PROXIES: if it is a reverse \
         proxy, all its clients share the limits of one address"
    );
    tracing::warn!(%peer, "{sentence}");
    shared.health.set_warnings("forwarder", [sentence]);
}

/// Returns whether `address` is one of the trusted reverse proxies. IPv4-mapped addresses are IPv4.
pub(super) fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(trusted, client) {
        return client;
    }
    for hop in headers
        .get_all(FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|value| {
            value
                .to_str()
                .unwrap_or_default()
                .rsplit(',')
                .map(str::trim)
        })
    {
        let Some(address) = parse(hop) else { break };
        client = address;
        if !is_trusted(trusted, client) {
            break;
        }
    }
    client
}

/// An address, with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse().map(|address: SocketAddr| address.ip());
    hop.parse()
        .or_else(|_| with_port())
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded_for: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in forwarded_for {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn forwarded_for_is_not_believed_from_strangers() {
        assert_eq!(seen("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
    }

    #[test]
    fn behind_trusted_proxies_the_rightmost_stranger_is_the_client() {
        assert_eq!(seen("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            seen("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(
            seen("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(
            seen("::ffff:10.0.0.1", &["[2001:db8::1]:443"]),
            "2001:db8::1"
        );
    }

    #[test]
    fn rubbish_ends_the_chain_at_the_last_known_hop() {
        assert_eq!(
            seen("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"]),
            "10.0.0.2"
        );
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }
}
