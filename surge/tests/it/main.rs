//! The stand-ins, tried through the clients that the services use.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![expect(
    clippy::large_futures,
    reason = "the Stripe client's requests are large"
)]

mod mail;
mod simulate;
mod sms;
mod stripe;

/// An HTTP client as a browser or a stranger would use.
fn http() -> reqwest::Client {
    surge::tls::install();
    reqwest::Client::new()
}
