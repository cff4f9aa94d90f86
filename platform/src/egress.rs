//! Selection of the calls that leave the installation through a forward proxy.

use url::{Host, Url};

/// Returns true if calls to `url` go by `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`: it is https and
/// not this machine. All other calls are inside the installation, where a proxy would break them.
#[must_use]
pub fn may_use_proxy(url: &Url) -> bool {
    url.scheme() == "https" && !is_loopback(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_installation_may_use_a_proxy() {
        let may = |url: &str| may_use_proxy(&url.parse().unwrap());
        assert!(may("https://api.stripe.com") && may("https://10.0.0.5"));
        for inside in [
            "http://10.0.0.5:8081",
            "http://stand-ins:12111",
            "http://localhost:8081",
            "https://localhost",
            "https://127.0.0.2:8443",
            "https://[::1]",
        ] {
            assert!(!may(inside), "{inside}");
        }
    }
}
