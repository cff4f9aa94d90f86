//! Grouping of addresses that probably have one owner.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The network that an address counts with in limits across nodes: /24 of IPv4, /48 of IPv6. A
/// person with many addresses mostly has them side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressGroup(IpAddr);

impl From<IpAddr> for AddressGroup {
    fn from(address: IpAddr) -> Self {
        const IPV6_PREFIX: u128 = !0 << 80;
        Self(match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                IpAddr::from([a, b, c, 0])
            }
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & IPV6_PREFIX)),
        })
    }
}

/// The network that counts as one client on a node: an IPv4 address, or the /64 that a provider
/// gives to one IPv6 subscriber. IPv4-mapped addresses are IPv4.
#[must_use]
pub fn subscriber(address: IpAddr) -> IpAddr {
    const IPV6_PREFIX: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & IPV6_PREFIX)),
        address @ IpAddr::V4(_) => address,
    }
}

impl fmt::Display for AddressGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(address: &str) -> String {
        AddressGroup::from(address.parse::<IpAddr>().unwrap()).to_string()
    }

    #[test]
    fn neighbours_are_one_group_and_others_are_not() {
        assert_eq!(group("192.0.2.1"), group("::ffff:192.0.2.250"));
        assert_ne!(group("192.0.2.1"), group("192.0.3.1"));
        assert_eq!(group("2001:db8:1:2::3"), "2001:db8:1::");
        assert_ne!(group("2001:db8:1::1"), group("2001:db8:2::1"));
    }

    #[test]
    fn a_subscriber_is_one_ipv4_address_or_one_ipv6_64() {
        let of = |address: &str| subscriber(address.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1:2::");
    }
}
