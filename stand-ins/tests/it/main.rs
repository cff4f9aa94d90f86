//! The stand-ins, tested through the clients that the services use.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![expect(
    clippy::large_futures,
    reason = "the Stripe client's requests are large"
)]

mod mail;
mod sms;
mod stripe;

/// An HTTP client like a browser's.
fn http() -> reqwest::Client {
    stand_ins::tls::install();
    reqwest::Client::new()
}
