//! The simulated buyer and the simulated sale.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod opening;
mod patience;
mod simulate;

/// An HTTP client like a browser's.
fn http() -> reqwest::Client {
    stand_ins::tls::install();
    reqwest::Client::new()
}
