//! The notifier: tells buyers what became of their bookings, by mail and SMS.
//!
//! ```text
//! notifier.directory ─► directory ─┐
//! notifier.notices ───► notices ───┼─► notifications (SQL) ─► sender ─► channels ─► SMTP, SMS
//! every second ───────► reminders ─┘                             ▲
//!                                            store, render ──────┘
//! ```
//!
//! Every message is a row before it is sent, one per booking, reader, kind, occasion and channel, so
//! that a repeated event adds nothing. SMTP can't say whether it has a message already: a row is marked
//! `sending` before the server hears of it, and goes back to `waiting` only when the server has
//! certainly not taken it. Otherwise it becomes `uncertain`, and is never sent again by itself.

mod causes;
mod channels;
mod config;
mod directory;
mod metrics;
mod notice;
mod notices;
mod recorder;
mod reminders;
mod render;
mod sender;
mod shared;
mod store;

use std::sync::Arc;

use platform::amqp::{self, Handler, QueueSpec, Settings};
use platform::health::Dependency;
use platform::service::{Context, Routes};
use platform::topology;

pub use config::Config;

use channels::Channels;
use directory::Directory;
use notice::Channel;
use notices::Notices;
use sender::Sender;
use shared::Shared;

/// How news of bookings is taken.
const BATCHES: Settings = Settings {
    prefetch: 512,
    max_batch: 256,
    ..Settings::DEFAULT
};

/// Starts the consumers, the reminders and the sender. There are no routes.
///
/// # Errors
/// [`InvalidConfig`](platform::config::InvalidConfig) when a mail or SMS setting is missing or
/// can't be used.
#[expect(clippy::unused_async, reason = "every service starts the same way")]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    // What is due is sent without RabbitMQ.
    ctx.health.needs(&[Dependency::Postgres]);
    let channels = Arc::new(Channels::new(&config, &ctx.config.public_url)?);
    let shared = Arc::new(Shared::new(&ctx, config.sms_url.is_some()));
    let stop = ctx.shutdown.soft();

    consume(
        &ctx,
        "notifier directory",
        topology::notifier_directory(),
        Directory(shared.clone()),
    );
    let (broker, soft) = (ctx.broker.clone(), stop.clone());
    let notices = Notices(shared.clone());
    ctx.spawn("notifier notices", async move {
        let queue = topology::notifier_notices();
        amqp::consume_batches(&broker, &soft, &queue, BATCHES, notices).await
    });
    ctx.spawn(
        "notifier reminders",
        reminders::run(shared.clone(), stop.clone()),
    );
    ctx.spawn(
        "notifier leases",
        sender::watch_leases(shared.clone(), stop.clone()),
    );
    ctx.spawn(
        "notifier backlog",
        metrics::watch_backlog(shared.clone(), stop.clone()),
    );
    for (task, channel) in [
        ("notifier mail sender", Channel::Email),
        ("notifier SMS sender", Channel::Sms),
    ] {
        let concurrency = config.notifier_concurrency;
        let sender = Sender::new(shared.clone(), channels.clone(), channel, concurrency);
        ctx.spawn(task, sender.run(stop.clone()));
    }
    Ok(Routes::default())
}

fn consume(ctx: &Context, task: &'static str, queue: QueueSpec, handler: impl Handler) {
    let (broker, stop) = (ctx.broker.clone(), ctx.shutdown.soft().clone());
    ctx.spawn(task, async move {
        amqp::consume(&broker, &stop, &queue, Settings::default(), handler).await
    });
}
