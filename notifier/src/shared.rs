//! State shared by the notifier's tasks and handlers.

use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::amqp::{Delivery, Verdict};
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::config::Config;
use crate::notice::Channel;

/// State shared by the notifier's tasks and handlers.
pub(crate) struct Shared {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    /// True if an SMS provider is configured.
    pub(crate) has_sms: bool,
    /// Delay of the mail about held seats.
    pub(crate) held_delay: Duration,
    /// Delay of news about a changed event.
    pub(crate) news_delay: Duration,
    /// Notified after announcements may have been inserted.
    pub(crate) announced: Notify,
    mail_written: Notify,
    sms_written: Notify,
}

impl Shared {
    pub(crate) fn new(ctx: &Context, config: &Config) -> Self {
        Self {
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
            has_sms: config.sms_url.is_some(),
            held_delay: Duration::from_secs(config.held_mail_delay_seconds.into()),
            news_delay: Duration::from_secs(config.news_delay_seconds.into()),
            announced: Notify::new(),
            mail_written: Notify::new(),
            sms_written: Notify::new(),
        }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Wakes both senders. To be called after a commit that may have inserted notifications.
    pub(crate) fn wake_senders(&self) {
        self.mail_written.notify_one();
        self.sms_written.notify_one();
    }

    /// Notified after notifications for this channel may have been inserted.
    pub(crate) fn written(&self, channel: Channel) -> &Notify {
        match channel {
            Channel::Email => &self.mail_written,
            Channel::Sms => &self.sms_written,
        }
    }
}

/// Retries a message that this version can't parse, so that a later version may take it during an
/// upgrade; it is dead-lettered once its retries are exhausted.
pub(crate) fn leave_to_newer(delivery: &Delivery, why: &impl Display) -> Verdict {
    tracing::error!(message = delivery.name, %why, "failed to parse message, retrying");
    Verdict::retry(delivery)
}
