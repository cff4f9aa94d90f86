//! The booking worker: seats, holds and tickets.
//!
//! Decides booking requests in micro-batches, one transaction each, applies the payment worker's
//! messages, expires holds, and follows box-office's events. It keeps no state in memory, so any
//! number of workers may run.

mod cancel;
mod cancel_events;
mod choose;
mod code;
mod confirm;
mod door;
mod end;
mod error;
mod expire;
mod help;
mod hold;
mod inventory;
mod market;
mod metrics;
mod outcome;
mod payments;
mod republish;
mod requests;
mod run;
mod store;
mod transfer;

use std::time::Duration;

use platform::amqp::{BatchHandler, Settings, consume, consume_batches};
use platform::health::Dependency;
use platform::outbox;
use platform::service::{Context, Routes};
use platform::topology;

/// Owner of this worker's messages in the outbox.
const OWNER: &str = "booking-worker";

/// Attempts of a message about an unknown booking: about a day.
const MAX_ATTEMPTS: u32 = 300;
/// Time limit of a batch, an outage of the database included.
const BATCH_LIMIT: Duration = Duration::from_secs(60);

/// Settings of the booking worker.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Booking worker")]
#[group(skip)]
pub struct Config {
    /// Most booking requests, or messages about payments, that one transaction takes
    #[arg(
        id = "booking_max_batch",
        long = "booking-max-batch",
        env = "ONSALE_BOOKING_MAX_BATCH",
        default_value_t = 256,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub max_batch: u16,
}

/// Spawns consumers and loops, and returns the routes of tickets.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    ctx.health
        .needs(&[Dependency::Postgres, Dependency::RabbitMq]);
    for partition in 0..topology::BOOKING_PARTITIONS {
        let queue = topology::booking_requests(partition);
        spawn_batches(
            &ctx,
            "booking.requests",
            queue,
            &config,
            requests::RequestHandler::new(ctx.clone()),
        );
    }
    let payments = payments::PaymentHandler::new(ctx.clone());
    spawn_batches(
        &ctx,
        "booking.payments",
        topology::booking_payments(),
        &config,
        payments,
    );
    spawn_inventory(&ctx);
    ctx.spawn("booking.expiry", expire::expire_holds(ctx.clone()));
    ctx.spawn(
        "booking.cancelled-events",
        cancel_events::cancel_bookings(ctx.clone()),
    );
    ctx.spawn(
        "booking.republishing",
        republish::republish_lost(ctx.clone()),
    );
    ctx.spawn("booking.stock", metrics::watch_stock(ctx.clone()));
    let stop = ctx.shutdown.soft().clone();
    ctx.spawn(
        "booking.outbox",
        outbox::relay(ctx.db.clone(), ctx.broker.clone(), stop, OWNER),
    );
    Ok(Routes {
        internal: door::routes(&ctx),
        public: transfer::routes(&ctx),
        consumes: (0..topology::BOOKING_PARTITIONS)
            .map(topology::booking_requests)
            .chain([topology::booking_payments(), topology::booking_events()])
            .collect(),
        ..Routes::default()
    })
}

fn spawn_batches(
    ctx: &Context,
    name: &'static str,
    queue: platform::amqp::QueueSpec,
    config: &Config,
    handler: impl BatchHandler,
) {
    let settings = Settings {
        prefetch: config.max_batch.saturating_mul(2),
        max_batch: config.max_batch.into(),
        max_attempts: MAX_ATTEMPTS,
        time_limit: BATCH_LIMIT,
        ..Settings::default()
    };
    let (broker, stop) = (ctx.broker.clone(), ctx.shutdown.soft().clone());
    ctx.spawn(name, async move {
        consume_batches(&broker, &stop, &queue, settings, handler).await
    });
}

fn spawn_inventory(ctx: &Context) {
    // One at a time: changes of one event would wait for each other's locks.
    let settings = Settings {
        concurrency: 1,
        max_attempts: MAX_ATTEMPTS,
        ..Settings::default()
    };
    let (broker, stop) = (ctx.broker.clone(), ctx.shutdown.soft().clone());
    let handler = inventory::InventoryHandler::new(ctx.db.clone());
    ctx.spawn("booking.events", async move {
        consume(
            &broker,
            &stop,
            &topology::booking_events(),
            settings,
            handler,
        )
        .await
    });
}

/// Converts a number of rows or seats for the database.
fn count(number: usize) -> i32 {
    i32::try_from(number).expect("batches and bookings are bounded far below")
}
