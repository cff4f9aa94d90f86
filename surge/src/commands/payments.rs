//! `surge payments`: payments a second at Stripe's rate limits, the share refused with 429, and the
//! rate without limits.
//!
//! Booking worker and payment worker run as separate processes against the stand-in, which limits
//! requests as Stripe does; the tool acts as admission and the buyers.

mod shop;

use std::time::Duration;

use anyhow::ensure;
use domain::payment::STRIPE_EVENTS;
use secrecy::SecretString;
use stand_ins::stripe::{self, RateLimits, StandIn};

use super::{machine, say};
use shop::Shop;

/// Allowed deviation of the rate from the limit.
const TOLERANCE: f64 = 0.05;
/// Allowed refusals with 429 per thousand requests.
const STORM_PER_THOUSAND: u64 = 10;
/// Limits too high to matter.
const RAISED: RateLimits = RateLimits {
    all: 1_000_000,
    each: 1_000_000,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    servers: shop::Servers,
    /// Bookings made and paid at once
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(50..=20_000))]
    bookings: u32,
    /// Stripe's limit of requests per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Stripe's limit of requests per second and endpoint
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    endpoint_rate: u32,
}

/// Result of one run.
pub(super) struct Outcome {
    /// Seats held a second, from the first request to the last hold.
    pub(super) holds: f64,
    /// PaymentIntents created a second, between the first and the last.
    pub(super) created: f64,
    /// Bookings captured a second, from the first request to the last capture.
    pub(super) captured: f64,
    /// The longest backlog of the payment worker.
    pub(super) backlog: i64,
    /// Requests that the stand-in counted.
    pub(super) requests: stripe::Requests,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the tool, the workers and the servers share them",
        machine::class()
    ));
    let limits = RateLimits {
        all: args.rate,
        each: args.endpoint_rate,
    };
    let limited = measure(&args, limits).await?;
    say(format_args!(
        "limits {}/s and {}/s an endpoint: {:.2} PaymentIntents/s, {:.1} % of the limit; {} requests, {} refused with 429; backlog up to {}",
        limits.all,
        limits.each,
        limited.created,
        limited.created * 100.0 / f64::from(limits.each),
        limited.requests.accepted,
        limited.requests.limited,
        limited.backlog
    ));
    let raised = measure(&args, RAISED).await?;
    say(format_args!(
        "limits raised: {:.0} holds/s, {:.0} PaymentIntents/s, {:.0} bookings/s up to the capture; backlog up to {}",
        raised.holds, raised.created, raised.captured, raised.backlog
    ));
    let share = limited.created / f64::from(limits.each);
    ensure!(
        (share - 1.0).abs() <= TOLERANCE,
        "the rate is {:.1} % of the limit, not within {:.0} % of it",
        share * 100.0,
        TOLERANCE * 100.0
    );
    let requests = limited.requests;
    ensure!(
        requests.limited * 1_000 <= requests.accepted * STORM_PER_THOUSAND,
        "Stripe refused {} of {} requests with 429",
        requests.limited,
        requests.accepted + requests.limited
    );
    Ok(())
}

async fn measure(args: &Args, limits: RateLimits) -> anyhow::Result<Outcome> {
    let stripe = StandIn::start(stripe::Config {
        secret_key: Some(String::from("sk_test_surge")),
        webhook_events: STRIPE_EVENTS.map(str::to_owned).into(),
        ..stripe::Config::default()
    })
    .await?;
    stripe.set_rate_limits(Some(limits));
    let shop = Shop::open(&args.servers, &stripe, limits, args.bookings).await?;
    let outcome = shop.sell(&stripe, args.bookings).await;
    shop.close().await?;
    outcome
}

/// Returns a server's address, or an error naming its variable.
fn required(url: Option<&SecretString>, key: &str) -> anyhow::Result<SecretString> {
    url.cloned()
        .ok_or_else(|| anyhow::anyhow!("{key} is not set"))
}

/// Time limit of a run: twice the time that the rate limit takes.
fn patience(bookings: u32) -> Duration {
    Duration::from_secs(120 + u64::from(bookings) / 4)
}
