//! State shared by the notifier's tasks and handlers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::config::Config;
use crate::notice::Channel;

pub(crate) struct AppState {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    /// True if an SMS provider is configured.
    pub(crate) has_sms: bool,
    pub(crate) held_mail_delay: Duration,
    pub(crate) news_delay: Duration,
    /// Notified after announcements may have been inserted.
    pub(crate) announced: Notify,
    mail_queued: Notify,
    sms_queued: Notify,
}

impl AppState {
    pub(crate) fn new(ctx: &Context, config: &Config) -> Self {
        Self {
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
            has_sms: config.sms_url.is_some(),
            held_mail_delay: config.held_mail_delay,
            news_delay: config.news_delay,
            announced: Notify::new(),
            mail_queued: Notify::new(),
            sms_queued: Notify::new(),
        }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Wakes both senders; called after a commit that may have inserted notifications.
    pub(crate) fn wake_senders(&self) {
        self.mail_queued.notify_one();
        self.sms_queued.notify_one();
    }

    /// Notified after notifications for this channel may have been inserted.
    pub(crate) fn queued(&self, channel: Channel) -> &Notify {
        match channel {
            Channel::Email => &self.mail_queued,
            Channel::Sms => &self.sms_queued,
        }
    }
}
