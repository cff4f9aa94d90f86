//! The process's TLS implementation.

/// Makes *ring* the process's TLS implementation, unless it has one already. An HTTP client cannot
/// be built before that, not even for plain HTTP.
pub fn install() {
    // An error means that another part was first, with the same choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
