//! The notifier: sends buyers mails and SMS about their bookings.
//!
//! ```text
//! notifier.directory ─► directory ─► announcements ─┐
//! notifier.notices ───► notices ────────────────────┴─► notifications (SQL) ─► sender ─► channels
//!                                                             store, render ─────┘    SMTP, SMS
//! ```
//!
//! Every notification is a row before it is sent, unique per booking, reader, kind, occasion and
//! channel, so that redelivered events add nothing. SMTP has no idempotency: a row is marked
//! `sending` right before its data goes to the server, and returns to `waiting` only if the server
//! certainly has not accepted it. Otherwise it becomes `uncertain` and is not resent automatically.

mod announcements;
mod channels;
mod config;
mod confirmations;
mod directory;
mod help;
mod metrics;
mod notice;
mod notices;
mod pruning;
mod recorder;
mod render;
mod sender;
mod staff;
mod state;
mod store;
mod unparsed;

use std::num::NonZeroU32;
use std::sync::Arc;

use chrono::TimeDelta;
use platform::amqp::{self, Handler, QueueSpec, Settings};
use platform::health::Dependency;
use platform::service::{Context, Routes};
use platform::{outbox, topology};

pub use config::Config;
pub use staff::{StuckState, send_again, stuck};
pub use store::mails::Stuck;

use channels::Channels;
use confirmations::Confirmations;
use directory::Directory;
use notice::Channel;
use notices::Notices;
use sender::Sender;
use sender::gate::{Bounds, Gate, Gates};
use state::AppState;

/// This service's owner name in the outbox.
const OWNER: &str = "notifier";

/// Batch sizes of the notices consumer.
const BATCHES: Settings = Settings {
    prefetch: 512,
    max_batch: 256,
    ..Settings::DEFAULT
};

/// Spawns the consumers, the announcement writer and the senders, and returns the staff routes.
///
/// # Errors
/// [`InvalidConfig`](platform::config::InvalidConfig) when a mail or SMS setting is missing or not
/// valid.
#[expect(clippy::unused_async, reason = "every service starts the same way")]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    // RabbitMQ is not listed: due notifications are sent without it.
    ctx.health.needs(&[Dependency::Postgres]);
    let channels = Arc::new(Channels::new(&config, &ctx.config.public_url)?);
    let state = Arc::new(AppState::new(&ctx, &config));
    let gates = gates(&config);
    let stop = ctx.shutdown.soft();

    consume(
        &ctx,
        "notifier directory",
        topology::notifier_directory(),
        Directory(state.clone()),
    );
    consume(
        &ctx,
        "notifier confirmations",
        topology::notifier_confirmations(),
        Confirmations {
            state: state.clone(),
            channels: channels.clone(),
            gates: gates.clone(),
            keys: ctx.keys.clone(),
        },
    );
    let (broker, soft) = (ctx.broker.clone(), stop.clone());
    let notices = Notices(state.clone());
    ctx.spawn("notifier notices", async move {
        let queue = topology::notifier_notices();
        let consuming = amqp::consume_batches(&broker, &soft, &queue, BATCHES, notices);
        Box::pin(consuming).await
    });
    ctx.spawn(
        "notifier announcements",
        announcements::run(state.clone(), stop.clone()),
    );
    ctx.spawn(
        "notifier leases",
        sender::watch_leases(state.clone(), stop.clone()),
    );
    ctx.spawn(
        "notifier backlog",
        metrics::watch_backlog(state.clone(), stop.clone()),
    );
    let keep = TimeDelta::days(config.notices_kept_days.into());
    ctx.spawn(
        "notifier pruning",
        pruning::run(state.clone(), keep, stop.clone()),
    );
    for (task, gate) in [
        ("notifier mail sender", &gates.mail),
        ("notifier SMS sender", &gates.sms),
    ] {
        let sender = Sender::new(&state, &channels, gate, stop.clone());
        ctx.spawn(task, sender.run());
    }
    ctx.spawn(
        "notifier outbox",
        outbox::relay(ctx.db.clone(), ctx.broker.clone(), stop.clone(), OWNER),
    );
    Ok(Routes {
        internal: staff::routes(state),
        consumes: vec![
            topology::notifier_notices(),
            topology::notifier_directory(),
            topology::notifier_confirmations(),
        ],
        ..Routes::default()
    })
}

fn gates(config: &Config) -> Gates {
    let gate = |channel, per_second: Option<NonZeroU32>| {
        let bounds = Bounds {
            concurrency: config.notifier_concurrency,
            per_second: per_second.map(NonZeroU32::get),
        };
        Gate::new(channel, &bounds)
    };
    Gates {
        mail: gate(Channel::Email, config.mails_per_second),
        sms: gate(Channel::Sms, None),
    }
}

fn consume(ctx: &Context, task: &'static str, queue: QueueSpec, handler: impl Handler) {
    let (broker, stop) = (ctx.broker.clone(), ctx.shutdown.soft().clone());
    ctx.spawn(task, async move {
        amqp::consume(&broker, &stop, &queue, Settings::default(), handler).await
    });
}
