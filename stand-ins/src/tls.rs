//! Installs the process's TLS provider.

/// Installs *ring* as the process's TLS provider, unless one is installed. An HTTP client can't be
/// built before, not even for plain HTTP.
pub fn install() {
    // An error means that another component was first, with the same choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
