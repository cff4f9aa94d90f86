//! The payment worker: authorises, captures, voids and refunds at Stripe, so that money and
//! tickets always agree.
//!
//! ```text
//! payment.bookings ──► bookings ─┐                                       ┌─► outbox ──► RabbitMQ
//! Stripe's webhooks ─► webhooks ─┼─► payments, refunds, operations (SQL) ┤
//! every minute ──────► reconcile ┘                 ▲                     └─► driver ──► Stripe
//!                                                  └─────── outcome ───────┘
//! ```
//!
//! Each transition is one transaction; only the driver, and reads without effect, call Stripe, and
//! they hold no connection meanwhile. Each call is a row with its idempotency key before it is
//! made. An unknown outcome is settled by repeating the key or reading the object, never by
//! guessing.

mod audit;
mod batch;
mod bookings;
mod cards;
mod config;
mod disputes;
mod driver;
mod help;
mod messages;
mod operation;
mod operations;
mod payments;
mod reconcile;
mod recorder;
mod refunds;
mod staff;
mod state;
mod store;
mod stripe;
mod sweep;
mod terms;
#[cfg(test)]
mod testing;
mod webhooks;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::SharedClock;

use platform::amqp::{self, Settings};
use platform::config::is_stripe;
use platform::health::Dependency;
use platform::service::{Context, Routes};
use platform::{outbox, topology};
use sqlx::PgPool;

pub use config::Config;
pub use reconcile::Reconciled;
pub use store::findings::Finding;
pub use store::timeline::{Entry, timeline};

use bookings::Bookings;
use operation::Kind;
use reconcile::Schedule;
use recorder::Recorder;
use state::AppState;
use webhooks::Secrets;

/// Owner of this worker's messages in the outbox.
const OWNER: &str = "payment-worker";

/// Batch sizes of the consumer of `payment.bookings`.
const BATCHES: Settings = Settings {
    prefetch: 512,
    max_batch: 256,
    ..Settings::DEFAULT
};

/// Spawns the consumer, the loops and the outbox relay, and returns the routes.
///
/// # Errors
/// [`InvalidConfig`](platform::config::InvalidConfig) when a key is missing or can't be used.
#[expect(clippy::unused_async, reason = "every service starts the same way")]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    // Webhooks are accepted without RabbitMQ.
    ctx.health.needs(&[Dependency::Postgres]);
    ctx.health
        .show_stand_in("stripe", !is_stripe(&config.stripe_url));
    let secrets = Secrets::new(config.webhook_secrets()?);
    let state = Arc::new(AppState::new(ctx.db.clone(), ctx.clock.clone(), &config)?);
    let stop = ctx.shutdown.soft();
    let schedule = Schedule {
        interval: config.reconcile_interval,
        after: config.reconcile_after,
        window_interval: config.reconcile_window_interval,
        window: TimeDelta::from_std(config.reconcile_window).expect("it is a number of days"),
    };

    let recorder = Arc::new(Recorder::new(ctx.clone(), Arc::clone(&state)));
    for kind in Kind::ALL {
        let (state, recorder) = (Arc::clone(&state), Arc::clone(&recorder));
        ctx.spawn(
            "payment operations",
            driver::run(state, recorder, kind, stop.clone()),
        );
    }
    ctx.spawn(
        "payment webhooks",
        webhooks::run(Arc::clone(&state), stop.clone()),
    );
    ctx.spawn(
        "payment reconciler",
        reconcile::run(Arc::clone(&state), schedule, stop.clone()),
    );
    ctx.spawn(
        "payment outbox",
        outbox::relay(ctx.db.clone(), ctx.broker.clone(), stop.clone(), OWNER),
    );
    let (broker, consumer, soft) = (
        ctx.broker.clone(),
        Bookings(Arc::clone(&state)),
        stop.clone(),
    );
    ctx.spawn("payment bookings", async move {
        let queue = topology::payment_bookings();
        let consuming = amqp::consume_batches(&broker, &soft, &queue, BATCHES, consumer);
        Box::pin(consuming).await
    });

    let staff = staff::routes(Arc::clone(&state));
    let cards = cards::routes(&ctx, Arc::clone(&state), recorder);
    let public = webhooks::routes(ctx, Arc::clone(&state), secrets);
    Ok(Routes {
        public: public
            .merge(cards)
            .merge(terms::routes(Arc::clone(&state)))
            .merge(staff::shown_to_buyers(state)),
        internal: staff,
        consumes: vec![topology::payment_bookings()],
        ..Routes::default()
    })
}

/// Reconciles once: every unsettled payment, and all that Stripe has since `since`. Repairs what
/// has one right answer; the messages that follow are published by the running workers.
///
/// # Errors
/// When a key is missing, or the database or Stripe does not answer. Repairs made until then stay;
/// run it again.
pub async fn reconcile(
    db: PgPool,
    clock: SharedClock,
    config: &Config,
    since: DateTime<Utc>,
) -> anyhow::Result<Reconciled> {
    let state = AppState::new(db, clock, config)?;
    Ok(reconcile::everything(&state, since).await?)
}
