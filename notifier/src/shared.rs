//! What the parts of the notifier share.

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

/// What the parts of the notifier share.
pub(crate) struct Shared {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    /// Whether SMS can be sent.
    pub(crate) has_sms: bool,
    /// How long the mail about held seats waits for the payment.
    pub(crate) held_delay: Duration,
    /// How long news of a changed event wait for further changes.
    pub(crate) news_delay: Duration,
    /// Told when announcements may have been written.
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

    /// After a commit that may have written notifications: they go out at once.
    pub(crate) fn wake_senders(&self) {
        self.mail_written.notify_one();
        self.sms_written.notify_one();
    }

    /// Told when notifications for this channel may have been written.
    pub(crate) fn written(&self, channel: Channel) -> &Notify {
        match channel {
            Channel::Email => &self.mail_written,
            Channel::Sms => &self.sms_written,
        }
    }
}

/// What becomes of a message that this version can't read: it goes round until a later version takes
/// it, and is dead-lettered when none does.
pub(crate) fn leave_to_newer(delivery: &Delivery, why: &impl Display) -> Verdict {
    tracing::error!(message = delivery.name, %why, "message can't be read; trying again");
    Verdict::retry(delivery)
}
